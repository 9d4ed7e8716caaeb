"""Lightning on two processes logs the values of one, draws the samples of both, and goes on from a
checkpoint.
"""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

from mi_metrics import BinnedMutualInformation
from tests.lightning.modules import estimators, offline
from tests.lightning.ranks import Scaling, images
from tests.processes import run

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of a run on one process and of one on two, and what each of their ranks has
    logged.
    """
    folders, logged = {}, {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp(f"on_{processes}")
        command = [
            sys.executable,
            "-m",
            "tests.lightning.ranks",
            str(folders[processes]),
            str(processes),
        ]
        # A rank that waits for another in vain fails here.
        result = run(command, ROOT)
        assert result.returncode == 0, result.stderr
        logged[processes] = [
            torch.load(folders[processes] / f"{rank}.pt") for rank in range(processes)
        ]
    return folders, logged


@pytest.fixture(scope="module")
def one(runs):
    return runs[1][1][0]


@pytest.fixture(scope="module", params=[0, 1])
def of_two(runs, request):
    return runs[1][2][request.param]


def test_one_process_logs_what_all_samples_give(one):
    x, y = images()
    factor = Scaling(0.0).factor.detach()
    for name, rows in (("all", slice(None)), ("one image", slice(1))):
        expected = offline([(factor * x[rows], y[rows])], "val/")
        assert one[name] == [{key: value.item() for key, value in expected.items()}]


def test_intervals_are_those_of_all_samples_on_every_rank_and_in_every_epoch(one, of_two):
    x, y = images()
    factor = Scaling(0.0).factor.detach()
    for name, rows in (("interval", slice(None)), ("interval of one image", slice(1))):
        metric = BinnedMutualInformation(5)
        metric.update(factor * x[rows], y[rows])
        lower, upper = metric.interval(num_resamples=99).tolist()
        expected = {"val/mi": metric.compute().item()}
        assert one[name] == [expected | {"val/mi_lower": lower, "val/mi_upper": upper}]
        assert of_two[name] == one[name]
    for logged in (one["intervals"], of_two["intervals"]):
        assert len(logged) == 2
        for epoch in logged:
            found = {k: v.item() for k, v in epoch.items() if k.startswith("val/mi")}
            assert found == one["interval"][0]


def exact(epochs):
    """Return what is logged but for bounded samples, which depend on the ranks."""
    return [
        {key: value for key, value in epoch.items() if not key.endswith("/bounded")}
        for epoch in epochs
    ]


def test_two_processes_log_what_one_does(one, of_two):
    assert set(one["all"][0]) == {"val/known", "val/found", "val/kde", "val/knn", "val/bounded"}
    assert exact(of_two["all"]) == exact(one["all"])
    # Also in training, and in the validations of a fit.
    assert set(one["frozen"][1]) == set(one["all"][0]) | {
        "train" + name[3:] for name in one["all"][0]
    }
    assert exact(of_two["frozen"]) == exact(one["frozen"])


def test_ranks_log_the_bounded_sample_of_their_shares_merged(runs):
    first, second = runs[1][2]
    for name in ("all", "frozen", "whole"):
        assert first[name] == second[name]
    factor, merged = Scaling(0.0).factor.detach(), estimators()["bounded"]
    for rank in range(2):
        share = estimators()["bounded"]
        x, y = (v[rank::2] for v in images())
        share.update(factor * x, y)
        merged.merge_state(share)
    assert first["all"][0]["val/bounded"] == merged.compute()


def test_a_rank_without_a_batch_takes_part(one, of_two):
    assert of_two["one image"] == one["one image"] != one["all"]


def test_both_stop_early_and_draw_the_last_epoch_with_the_samples_of_both(runs, one):
    assert len(one["frozen"]) == 2
    folders, _ = runs
    figures = [folders[n] / "figures" / "val_metrics.found" for n in (1, 2)]
    for name in ("epoch_000.png", "epoch_001.png"):
        first, second = (folder / name for folder in figures)
        assert first.read_bytes() == second.read_bytes()
    assert all(len(list(folder.iterdir())) == 2 for folder in figures)


def test_a_fit_goes_on_from_a_checkpoint_after_an_epoch(one, of_two):
    for logged in (one, of_two):
        assert len(logged["whole"]) == 3
        assert logged["resumed"] == logged["whole"][1:]
        assert logged["whole"][1] != logged["whole"][2]


def test_a_checkpoint_holds_no_state_unless_it_is_asked_to(runs):
    for folder in runs[0].values():
        checkpoint = torch.load(folder / "checkpoints" / "epoch=0.ckpt", weights_only=True)
        assert list(checkpoint["state_dict"]) == ["factor"]
