"""The β-VAE logs its scores against known factors; the classifier is watched in the information
plane.
"""

import contextlib
import io
import math

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from mi_metrics.examples.disentanglement import MovedDigitsDataModule, moved
from mi_metrics.lightning.cli import main as run
from tests.cautions import ignore_cautions
from tests.lightning.marks import lightning_cli

pytestmark = [
    lightning_cli,
    ignore_cautions,
    pytest.mark.filterwarnings("ignore:.*does not have many workers which may be a bottleneck"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\).* is deprecated"),
]


def fitted(config, folder, *options):
    text = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
    ):
        return run(["fit", "--config", config, *options])


def test_factors_move_the_scans_as_they_say():
    scans = torch.ones(3000, 1, 8, 8)
    images, factors = moved(scans, torch.Generator().manual_seed(0))
    assert images.shape == (3000, 1, 16, 16)
    assert factors.min(0).values.tolist() == [0] * 4
    assert factors.max(0).values.tolist() == [4, 4, 3, 4]
    places = torch.linspace(-15 / 16, 15 / 16, 16)
    mass = images.sum((1, 2, 3))
    # Centres follow the shifts, areas the squares of scales.
    for k, centre in ((0, images.sum((1, 2)) @ places), (1, images.sum((1, 3)) @ places)):
        for value in range(5):
            # The smallest scans stay on the canvas, however they are turned.
            rows = (factors[:, k] == value) & (factors[:, 2] == 0)
            found = (centre / mass)[rows].mean()
            assert found == pytest.approx(value / 4 - 0.5, abs=0.02)
    for value, scale in enumerate((0.6, 0.75, 0.9)):
        rows = (factors[:, 2] == value) & (factors[:, :2] == 2).all(1)
        assert mass[rows].mean() == pytest.approx(64 * scale**2, rel=0.1)


def test_scans_of_a_part_are_in_no_other_and_the_same_in_every_run():
    first, second = MovedDigitsDataModule(copies=2), MovedDigitsDataModule(copies=2)
    for data in (first, second):
        data.setup()
    assert [len(loader.dataset) for loader in (first.train_dataloader(), first.val_dataloader())]
    for a, b in zip(first.val_dataloader(), second.val_dataloader(), strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


@pytest.mark.slow
def test_the_beta_vae_logs_its_scores(tmp_path):
    cli = fitted("disentanglement", tmp_path, "--trainer.max_epochs=2")
    logged = cli.trainer.callback_metrics
    for name in ("val/mig", "val/mig_sup", "val/modularity"):
        assert 0 <= float(logged[name]) <= 1
    assert len(cli.model.val_metrics.compute_groups) == 1


@pytest.mark.slow
def test_the_classifier_is_drawn_in_the_information_plane(tmp_path):
    cli = fitted("information_plane", tmp_path, "--trainer.max_epochs=2")
    logged = cli.trainer.callback_metrics
    assert 0 < float(logged["mi/narrow"]) <= math.log(10) + 1e-12
    assert float(logged["mi/narrow"]) <= float(logged["entropy/narrow"]) <= math.log(64)
    figures = tmp_path / "runs" / "information_plane" / "version_0" / "figures"
    assert (figures / "information_plane" / "epoch_001.png").is_file()
