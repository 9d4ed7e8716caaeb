"""Which epochs the joint distribution is drawn for, where the figures go, and what they show."""

import contextlib
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import distributed as dist
from torch.utils.data import DataLoader

from mi_metrics.lightning import JointDistributionLogger
from mi_metrics.plotting import plot_joint
from tests.lightning.modules import LIGHTNING_WARNINGS, QUIET, Regression, offline, samples

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_WARNINGS)


@pytest.fixture
def drawn(monkeypatch):
    """Collect the tables that are drawn."""
    tables = []

    def keep(joint, *args, **kwargs):
        tables.append(joint.clone())
        return plot_joint(joint, *args, **kwargs)

    monkeypatch.setattr("mi_metrics.plotting.plot_joint", keep)
    return tables


def fit(folder, *callbacks, every_n_epochs=3, module=None, **options):
    """Fit with 10 batches an epoch, and return the module, the callback and the names of its
    figures.
    """
    pl.seed_everything(0)
    module = Regression() if module is None else module
    figures = JointDistributionLogger("val_metrics.found", every_n_epochs=every_n_epochs)
    options = QUIET | {"accelerator": "cpu", "default_root_dir": folder} | options
    trainer = pl.Trainer(callbacks=[figures, *callbacks], **options)
    trainer.fit(module, DataLoader(samples(640, 0), 64), DataLoader(samples(640, 1), 64))
    return module, figures, sorted(path.stem for path in Path(folder or ".").rglob("*.png"))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"max_epochs": 1}, ["epoch_000"]),
        ({"max_epochs": 4}, ["epoch_000", "epoch_003"]),
        ({"max_epochs": 5}, ["epoch_000", "epoch_003", "epoch_004"]),
        # In the middle of epoch 2, after which there is no validation: epoch 1 is the last one.
        ({"max_steps": 25}, ["epoch_000", "epoch_001"]),
        ({"max_steps": 20}, ["epoch_000", "epoch_001"]),
        # Validations after epochs 1, 3, 5, 7 and 9: none that is a multiple of 4.
        (
            {
                "max_epochs": 10,
                "check_val_every_n_epoch": 2,
                "every_n_epochs": 4,
                "limit_train_batches": 2,
            },
            ["epoch_001", "epoch_005", "epoch_009"],
        ),
        ({"max_epochs": 6, "check_val_every_n_epoch": 2}, ["epoch_001", "epoch_005"]),
        ({"max_epochs": 4, "check_val_every_n_epoch": 2}, ["epoch_001", "epoch_003"]),
    ],
)
def test_due_epochs_and_the_last_validated_one_are_drawn(options, names, tmp_path):
    _, figures, found = fit(tmp_path, **options)
    assert found == names
    assert figures.last_figure.stem == names[-1]


def test_the_last_epoch_before_an_early_stop_is_drawn(tmp_path, drawn):
    stop = EarlyStopping("val/found", min_delta=100.0, patience=1, mode="max")
    module, _, names = fit(tmp_path, stop, max_epochs=50)
    assert list(module.logged)[-1] == "train 1"
    assert names == ["epoch_000", "epoch_001"]
    # Each with its own epoch's samples, although Lightning has reset the metric since.
    for epoch, table in enumerate(drawn):
        metric = Regression().val_metrics["found"]
        metric.update(*(torch.cat(part) for part in zip(*module.seen[f"val {epoch}"], strict=True)))
        assert torch.equal(table, metric.joint())
    assert not torch.equal(*drawn)


def test_an_epoch_that_is_due_is_drawn_at_each_of_its_validations(tmp_path, drawn):
    _, _, names = fit(tmp_path, max_epochs=3, val_check_interval=5, every_n_epochs=2)
    assert names == ["epoch_000", "epoch_002"]
    assert len(drawn) == 4


def test_a_metric_of_a_process_group_is_drawn_after_it_was_reset(tmp_path, drawn):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        module = Regression()
        module.val_metrics["found"].process_group = dist.new_group()
        # Epoch 1 is drawn when fitting ends, of a copy.
        _, _, names = fit(tmp_path, max_epochs=2, module=module)
    finally:
        dist.destroy_process_group()
    assert names == ["epoch_000", "epoch_001"]
    metric = Regression().val_metrics["found"]
    metric.update(*(torch.cat(part) for part in zip(*module.seen["val 1"], strict=True)))
    assert torch.equal(drawn[1], metric.joint())


def test_drawing_changes_no_value(tmp_path):
    module, _, _ = fit(tmp_path, max_epochs=3)
    for epoch in range(3):
        expected = offline(module.seen[f"val {epoch}"], "val/")
        assert all(
            torch.equal(module.logged[f"val {epoch}"][name], value)
            for name, value in expected.items()
        )


def test_an_interrupted_fit_leaves_nothing_to_the_next(tmp_path):
    class Interrupt(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 1:
                raise ArithmeticError("stop here")

    figures = JointDistributionLogger("val_metrics.found", every_n_epochs=3)
    loaders = DataLoader(samples(640, 0), 64), DataLoader(samples(640, 1), 64)
    options = QUIET | {"accelerator": "cpu", "default_root_dir": tmp_path}
    with pytest.raises(ArithmeticError, match="stop here"):
        pl.Trainer(max_epochs=5, callbacks=[figures, Interrupt()], **options).fit(
            Regression(), *loaders
        )
    trainer = pl.Trainer(max_epochs=1, callbacks=[figures], **options, limit_val_batches=0)
    trainer.fit(Regression(), *loaders)
    assert [path.stem for path in tmp_path.rglob("*.png")] == ["epoch_000"]


class TestFolder:
    """Where the figures are written."""

    where = Path("figures", "val_metrics.found", "epoch_000.png")

    def test_without_a_logger_the_current_folder(self, tmp_path):
        with contextlib.chdir(tmp_path):
            _, figures, _ = fit(None, max_epochs=1)
        assert [path.name for path in tmp_path.iterdir()] == ["figures"]
        assert tmp_path / figures.last_figure == tmp_path / self.where
        assert (tmp_path / self.where).is_file()

    def test_without_a_logger_the_trainer_s_folder(self, tmp_path):
        _, figures, _ = fit(tmp_path / "run", max_epochs=1)
        assert figures.last_figure == tmp_path / "run" / self.where

    @pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
    def test_with_a_logger_its_folder(self, logger, tmp_path):
        if logger is TensorBoardLogger:
            pytest.importorskip("tensorboard")
        logger = logger(tmp_path, name="mine", version=7)
        _, figures, _ = fit(tmp_path, max_epochs=1, logger=logger, log_every_n_steps=1)
        assert figures.last_figure == tmp_path / "mine" / "version_7" / self.where

    def test_a_logger_without_a_folder(self, tmp_path):
        class Silent(pl.loggers.logger.DummyLogger):
            save_dir = None

        with contextlib.chdir(tmp_path):
            _, figures, _ = fit(None, max_epochs=1, logger=Silent(), log_every_n_steps=1)
        assert figures.last_figure == self.where
        assert (tmp_path / self.where).is_file()

    def test_tensorboard_has_the_figures_at_the_steps_of_their_epochs(self, tmp_path):
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        logger = TensorBoardLogger(tmp_path, name="mine", version=7)
        fit(tmp_path, max_steps=25, logger=logger, log_every_n_steps=1)
        events = accumulator.EventAccumulator(logger.log_dir).Reload()
        assert [image.step for image in events.Images("val_metrics.found")] == [10, 20]
