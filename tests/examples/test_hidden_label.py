"""The Gaussian penalty on real scans: a held-out probe finds no more of the label than chance."""

import contextlib
import io
import math

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("sklearn")

from mi_metrics import GaussianMutualInformationPenalty
from mi_metrics.examples import LabelFreeAutoencoder
from mi_metrics.examples.hidden_label import CorrelationPenalty, PenaltyPerNumber, main, probe
from mi_metrics.lightning.cli import main as run
from tests.lightning.marks import lightning_cli

pytestmark = [
    lightning_cli,
    # Both warnings are Lightning's: the first two come on the command line too, the third is its
    # own use of PyTorch.
    pytest.mark.filterwarnings("ignore:.*does not have many workers which may be a bottleneck"),
    pytest.mark.filterwarnings(r"ignore:.*number of training batches \(2\)"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\).* is deprecated"),
]


@pytest.mark.slow
def test_a_held_out_probe_is_at_chance_under_the_penalty_and_right_without():
    error = math.sqrt(0.25 / 359)
    r2, linear, _ = probe("parity", GaussianMutualInformationPenalty())
    assert abs(linear - 0.5) < 3 * error
    assert r2 > 0.75
    assert probe("parity", None, max_epochs=50)[1] > 0.75


@pytest.mark.slow
def test_the_table_names_every_penalty_for_both_labels(capsys):
    main(["--epochs", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("Gaussian ") for line in lines) == 2
    assert sum(line.startswith("chance: 0.") for line in lines) == 2
    assert len(lines) == 14


@pytest.mark.slow
def test_the_bundled_configuration_runs(tmp_path):
    text = io.StringIO()
    with (
        contextlib.chdir(tmp_path),
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
    ):
        cli = run(["fit", "--config", "hidden_label", "--trainer.max_epochs=1"])
    assert {"val/r2", "val/information", "train/loss"} <= set(cli.trainer.callback_metrics)
    default = LabelFreeAutoencoder()
    assert dict(default.hparams).items() <= dict(cli.model.hparams).items()
    assert repr(cli.model.penalty) == repr(default.penalty)


def test_other_penalties_are_information_of_single_numbers():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (2000,), generator=generator)
    code = torch.randn(2000, 3, generator=generator)
    code[:, 0] += 0.4 * labels
    # Half the squared correlation is the information of a weak linear dependence, here twice: the
    # two one-hot numbers of a parity are one.
    gaussian = GaussianMutualInformationPenalty()(code, labels)
    assert CorrelationPenalty(2)(code, labels).item() == pytest.approx(2 * gaussian.item(), rel=0.1)
    assert PenaltyPerNumber(2)(code, labels).item() == pytest.approx(gaussian.item(), abs=0.02)
