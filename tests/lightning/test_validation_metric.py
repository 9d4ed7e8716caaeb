"""The main job on real data: mutual information logged in validation, from the command line to the
figures.
"""

import contextlib
import csv
import io
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("sklearn")
pytest.importorskip("skimage")
pytest.importorskip("tensorboard")

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from mi_metrics import BinnedMutualInformation
from mi_metrics.examples import DigitsAutoencoder, DigitsDataModule
from mi_metrics.functional import binned_mutual_information
from mi_metrics.lightning import EpochTable, JointDistributionLogger
from mi_metrics.lightning.cli import configs_folder
from mi_metrics.lightning.cli import main as run
from tests import processes
from tests.lightning.marks import lightning_cli

pytestmark = [pytest.mark.slow, lightning_cli]

EPOCHS = 3

one_folder = pytest.mark.skipif(
    version("lightning").startswith("2.4."),
    reason="Lightning 2.4 gives every logger a folder of its own",
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A short fit with the bundled configuration: the command line's objects, its folder and what
    it printed.
    """
    folder = tmp_path_factory.mktemp("fit")
    text = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
    ):
        cli = run(["fit", "--config", "validation_metric", f"--trainer.max_epochs={EPOCHS}"])
    return SimpleNamespace(
        cli=cli,
        model=cli.model,
        folder=folder,
        run=folder / cli.trainer.log_dir,
        printed=text.getvalue(),
    )


@pytest.fixture(scope="module")
def logged(fitted):
    with (fitted.run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if v} for row in rows if row["val/mi"]]


@pytest.fixture(scope="module")
def pairs(fitted):
    """Original and reconstructed pixels of all validation scans, in one batch, after the last
    epoch.
    """
    x = torch.cat([images for images, _ in fitted.cli.datamodule.val_dataloader()]).double()
    with torch.inference_mode():
        return x, fitted.model.cpu()(x)


def test_the_logged_value_is_that_of_all_samples_at_once(logged, pairs):
    for name, normalization in (("val/mi", "none"), ("val/nmi", "arithmetic")):
        metric = BinnedMutualInformation(17, normalization=normalization)
        metric.update(*pairs)
        assert logged[-1][name] == metric.compute().item()


def test_the_logged_value_is_the_functional_one_within_the_grid_s_bound(logged, pairs):
    x, y = (v.flatten() for v in pairs)
    assert logged[-1]["val/mi"] == pytest.approx(
        binned_mutual_information(x, y, 17).item(), abs=1e-2
    )


def test_the_logged_loss_is_that_of_all_samples_at_once(logged, pairs):
    assert logged[-1]["val/loss"] == pytest.approx(
        torch.nn.functional.mse_loss(*pairs).item(), rel=1e-6
    )


def test_every_epoch_is_logged_and_the_value_rises(logged):
    assert [row["epoch"] for row in logged] == list(range(EPOCHS))
    values = [row["val/mi"] for row in logged]
    assert values == sorted(values)
    assert values[0] > 0.1
    assert all(0 < row["val/nmi"] < 1 for row in logged)


def test_the_best_checkpoint_is_that_of_the_largest_value(fitted, logged):
    checkpoint = fitted.cli.trainer.checkpoint_callback
    assert isinstance(checkpoint, ModelCheckpoint)
    assert (checkpoint.monitor, checkpoint.mode) == ("val/mi", "max")
    assert checkpoint.best_model_score.item() == max(row["val/mi"] for row in logged)
    assert fitted.folder / checkpoint.best_model_path == fitted.run / "checkpoints" / "best.ckpt"


def test_the_checkpoint_can_be_loaded_in_python(fitted, pairs):
    # With the weights as they are: no restriction lifted.
    model = DigitsAutoencoder.load_from_checkpoint(
        fitted.run / "checkpoints" / "best.ckpt", weights_only=True
    )
    with torch.inference_mode():
        torch.testing.assert_close(model(pairs[0].float()), pairs[1].float(), rtol=1e-4, atol=1e-5)


@one_folder
def test_all_files_of_a_run_are_in_one_folder(fitted):
    assert fitted.run == fitted.folder / "runs" / "validation_metric" / "version_0"
    assert [path.name for path in fitted.run.parent.iterdir()] == ["version_0"]
    assert {"metrics.csv", "config.yaml", "checkpoints", "figures"} < {
        path.name for path in fitted.run.iterdir()
    }
    assert [path.name for path in fitted.folder.iterdir()] == ["runs"]


def test_figures_of_the_first_and_last_epoch_are_saved(fitted):
    folder = fitted.run / "figures" / "val_metrics.mi"
    assert sorted(path.name for path in folder.iterdir()) == ["epoch_000.png", "epoch_002.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())


@one_folder
def test_tensorboard_has_the_values_and_the_figure(fitted, logged):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(fitted.run)).Reload()
    values = [event.value for event in events.Scalars("val/mi")]
    assert values == pytest.approx([row["val/mi"] for row in logged], rel=1e-6)
    assert len(events.Images("val_metrics.mi")) == 2


def test_the_table_names_values_and_files_relative_to_here(fitted, logged):
    lines = fitted.printed.splitlines()
    table = lines[
        next(
            i
            for i, l in enumerate(lines)
            if l.split() == ["epoch", "val/mi", "val/nmi", "val/code_mi", "val/loss"]
        ) :
    ]
    assert table[1].split()[:3] == ["first", "0", f"{logged[0]['val/mi']:.4f}"]
    assert table[2].split()[:3] == ["best", "2", f"{logged[2]['val/mi']:.4f}"]
    assert table[3].split()[:3] == ["last", "2", f"{logged[2]['val/mi']:.4f}"]
    assert "best checkpoint: runs/validation_metric/version_0/checkpoints/best.ckpt" in table
    assert "figure: runs/validation_metric/version_0/figures/val_metrics.mi/epoch_002.png" in table
    assert "site-packages" not in fitted.printed
    assert str(fitted.folder) not in fitted.printed


@one_folder
def test_a_second_run_gets_a_folder_of_its_own(fitted):
    with contextlib.chdir(fitted.folder), contextlib.redirect_stdout(io.StringIO()):
        command = [
            "validate",
            "--config",
            "validation_metric",
            "--ckpt_path",
            str(fitted.run / "checkpoints" / "best.ckpt"),
        ]
        for expected in ("version_1", "version_2"):
            cli = run([*command, "--trainer.enable_progress_bar=false"])
            assert Path(cli.trainer.log_dir).name == expected
            figures = Path(cli.trainer.log_dir, "figures").rglob("*.png")
            assert [path.parts[-2:] for path in figures] == [("val_metrics.mi", "validate.png")]


def test_both_metrics_share_one_table(pairs):
    model = DigitsAutoencoder()
    for _ in range(2):
        model.val_metrics.update(*pairs)
    assert len(model.val_metrics.compute_groups) == 1
    mi, nmi = (metric for _, metric in model.val_metrics.items(copy_state=False))
    assert mi.table.data_ptr() == nmi.table.data_ptr()
    assert mi.update_count == nmi.update_count == 2
    assert model.test_metrics["mi"].update_count == 0


def test_the_configuration_has_the_module_s_own_defaults(fitted):
    default = DigitsAutoencoder()
    assert fitted.model.hparams.code_dim == default.hparams.code_dim
    assert fitted.model.hparams.hidden_dim == default.hparams.hidden_dim
    for name, metric in default.val_metrics.items():
        configured = dict(fitted.model.val_metrics.items())[name]
        assert (configured.num_bins, configured.normalization) == (
            metric.num_bins,
            metric.normalization,
        )
        assert torch.equal(configured.header.cpu(), metric.header)


def test_metrics_can_be_swapped_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    metrics = (
        "{entropy: {class_path: mi_metrics.BinnedMutualInformation, init_args: {num_bins: 5, unit: "
        "bits}}}"
    )
    quiet = [
        "--trainer.callbacks=null",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
    ]
    cli = run(
        [
            "validate",
            "--config",
            "validation_metric",
            f"--model.init_args.metrics={metrics}",
            *quiet,
        ]
    )
    assert set(cli.trainer.callback_metrics) == {"val/entropy", "val/code_mi", "val/loss"}
    assert "val/entropy" in capsys.readouterr().out


@pytest.mark.distributed
def test_the_demo_finds_two_processes_equal_to_one(tmp_path):
    options = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    printed = processes.run([sys.executable, "-m", "mi_metrics.examples.demo", *options], tmp_path)
    assert printed.returncode == 0, printed.stderr
    lines = printed.stdout.splitlines()
    verdict = lines.index("equal, to the last bit")
    one, two = lines[verdict - 2 : verdict]
    assert one.split()[1:] == two.split()[1:]
    assert (one.split()[0], two.split()[0]) == ("1", "2")
    assert "figure: runs/registration/version_0/registration.png" in lines
    # Lightning prints a warning with the file that gives it.
    assert "site-packages" not in printed.stdout + printed.stderr
    # The figure shows the samples of both processes.
    folder = tmp_path / "runs" / "validation_metric" / "version_0"
    single, double = (
        (folder / f"test_on_{n}" / "figures" / "test_metrics.mi" / "test.png").read_bytes()
        for n in (1, 2)
    )
    assert single == double


@pytest.mark.distributed
def test_fitting_on_two_processes_prints_no_warning(tmp_path):
    options = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    command = ["fit", "--config", "validation_metric", "--config", "trainer/ddp_cpu", *options]
    result = processes.run([sys.executable, "-m", "mi_metrics.cli", *command], tmp_path)
    assert result.returncode == 0, result.stderr
    assert (
        "best checkpoint: runs/validation_metric/version_0/checkpoints/best.ckpt" in result.stdout
    )
    assert "site-packages" not in result.stderr, result.stderr


def test_every_bundled_configuration_is_run_here():
    # `fitted` runs the first, the demo the first two, tests/examples the others, and
    # test_trainer_overlays.py the overlays, as far as there is a GPU; whoever adds one adds the
    # test.
    folder = configs_folder()
    names = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")}
    jobs = {"validation_metric", "registration", "fair_representation", "equalised_odds"}
    jobs |= {"hidden_label", "disentanglement", "information_plane"}
    assert names == jobs | {"trainer/cpu", "trainer/ddp_cpu", "trainer/gpu", "trainer/ddp_gpu"}


class TestJointDistributionLogger:
    """What the fit above does not reach."""

    def test_a_name_that_is_no_metric_is_refused_with_those_that_are(self):
        logger = JointDistributionLogger("val_mi")
        with pytest.raises(
            ValueError,
            match=r"got 'val_mi'. It has: val_metrics.mi, val_metrics.nmi, test_metrics.mi",
        ):
            logger.setup(None, DigitsAutoencoder(), "fit")

    def test_a_metric_without_a_joint_is_refused(self):
        with pytest.raises(ValueError, match="with a method plot_joint, but got 'val_loss'"):
            JointDistributionLogger("val_loss").setup(None, DigitsAutoencoder(), "fit")

    def test_epochs_are_checked(self):
        with pytest.raises(ValueError, match="`every_n_epochs` to be at least 1, but got 0"):
            JointDistributionLogger("val_metrics.mi", every_n_epochs=0)

    def test_fast_dev_run_writes_no_file(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        run(["fit", "--config", "validation_metric", "--trainer.fast_dev_run=1"])
        assert list(tmp_path.iterdir()) == []


class TestEpochTable:
    """What the fit above does not reach."""

    def trainer(self, **values):
        return SimpleNamespace(
            state=SimpleNamespace(fn=TrainerFn.FITTING),
            sanity_checking=False,
            callback_metrics={k: torch.tensor(v) for k, v in values.items()},
            current_epoch=0,
            checkpoint_callback=None,
            callbacks=[],
        )

    def test_a_column_that_is_not_logged_is_refused_with_those_that_are(self):
        with pytest.raises(
            ValueError, match=r"nothing is logged as val/mi\. Logged by now: loss\."
        ):
            EpochTable(["val/mi", "loss"]).on_validation_end(self.trainer(loss=1.0), None)

    def test_without_checkpoints_there_is_no_best_epoch(self):
        table, trainer = EpochTable(["loss"]), self.trainer(loss=0.5)
        table.on_validation_end(trainer, None)
        lines = table.render(trainer).split("\n")
        assert [line.split() for line in lines if line] == [
            ["epoch", "loss"],
            ["first", "0", "0.5000"],
            ["last", "0", "0.5000"],
        ]


def test_data_and_module_work_without_the_command_line():
    data = DigitsDataModule()
    data.setup()
    images, _ = next(iter(data.test_dataloader()))
    reconstructions = DigitsAutoencoder(code_dim=2)(images)
    assert reconstructions.shape == images.shape
    assert 0 <= reconstructions.min() <= reconstructions.max() <= 1
