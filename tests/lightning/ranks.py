"""What Lightning logs on one process or several: ``python -m tests.lightning.ranks FOLDER
PROCESSES``.

Run with several, Lightning starts the others with the same command line.
"""

import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset
from torchmetrics import MetricCollection

from mi_metrics import BinnedMutualInformation, UnpaddedDistributedSampler
from mi_metrics.lightning import JointDistributionLogger, log_interval
from tests.lightning.modules import LIGHTNING_WARNINGS, QUIET, estimators

# Odd: a sampler that pads would repeat an image.
ROWS = 41

Values = dict[str, Tensor]


def images() -> tuple[Tensor, Tensor]:
    """Return pairs of images."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(ROWS, 50, generator=generator) * 2 - 1
    return x, 4 * x + torch.randn(ROWS, 50, generator=generator)


class Stream(IterableDataset):
    """The first image of all, on the first rank."""

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        rank = dist.get_rank() if dist.is_initialized() else 0
        yield from TensorDataset(*(v[:1] for v in images())) if rank == 0 else ()


class Data(pl.LightningDataModule):
    """The images, each on one rank."""

    def train_dataloader(self) -> DataLoader:
        # Without the odd one: each rank has to take as many steps.
        return self._loader(DistributedSampler, *(v[:-1] for v in images()))

    def val_dataloader(self) -> DataLoader:
        return self._loader(UnpaddedDistributedSampler, *images())

    def _loader(self, sampler: type[DistributedSampler], *tensors: Tensor) -> DataLoader:
        dataset = TensorDataset(*tensors)
        return DataLoader(
            dataset, 4, sampler=sampler(dataset, self.trainer.world_size, self.trainer.global_rank)
        )


class Scaling(pl.LightningModule):
    """Multiplies each pixel by a trained number: what it makes of an image does not depend on the
    batch around it.
    """

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.factor = nn.Parameter(torch.tensor(0.9))
        self.train_metrics = MetricCollection(estimators(), prefix="train/")
        self.val_metrics = self.train_metrics.clone(prefix="val/")
        self.logged: list[Values] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        prediction = self.factor * x
        self.train_metrics.update(prediction, y)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return (prediction - y / 8).square().mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.val_metrics.update(self.factor * x, y)

    def on_validation_epoch_end(self) -> None:
        # Not in `validation_step`: a rank without a batch never gets there, and the others would
        # wait for it.
        self.log_dict(self.val_metrics)

    def on_train_epoch_end(self) -> None:
        self.logged.append(
            {key: value.clone() for key, value in self.trainer.callback_metrics.items()}
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.learning_rate)


class Bounded(Scaling):
    """Logs a value with the ends of its interval."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__(learning_rate)
        self.val_mi = BinnedMutualInformation(5)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.val_mi.update(self.factor * x, y)

    def on_validation_epoch_end(self) -> None:
        log_interval(self, "val/mi", self.val_mi, num_resamples=99, prog_bar=True)


def run(folder: Path, processes: int) -> dict[str, list[Values]]:
    """Return what is logged in each epoch, by name of the run."""

    def trainer(**options: Any) -> pl.Trainer:
        strategy = (
            DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=60))
            if processes > 1
            else "auto"
        )
        where = {
            "accelerator": "cpu",
            "devices": processes,
            "strategy": strategy,
            "use_distributed_sampler": False,
        }
        return pl.Trainer(default_root_dir=folder, **(QUIET | where | options))

    results = {
        "all": trainer().validate(Scaling(0.0), Data(), verbose=False),
        "one image": trainer().validate(Scaling(0.0), DataLoader(Stream(), 4), verbose=False),
    }

    interval = Bounded(0.0)
    results["interval"] = trainer().validate(interval, Data(), verbose=False)
    results["interval of one image"] = trainer().validate(
        Bounded(0.0), DataLoader(Stream(), 4), verbose=False
    )
    trainer(max_epochs=2).fit(interval, Data())
    results["intervals"] = interval.logged

    # The second epoch is not due to be drawn, but the fit stops after it, because it is no better
    # than the first.
    frozen = Scaling(0.0)
    stop = EarlyStopping("val/known", patience=1, mode="max")
    figures = JointDistributionLogger("val_metrics.found", every_n_epochs=10)
    trainer(max_epochs=10, callbacks=[stop, figures]).fit(frozen, Data())
    results["frozen"] = frozen.logged

    # A checkpoint after each epoch, from the first of which another trainer goes on.
    checkpoints = folder / "checkpoints"
    keep, idle = (ModelCheckpoint(checkpoints, filename="{epoch}", save_top_k=k) for k in (-1, 0))
    whole, resumed = Scaling(0.5), Scaling(0.5)
    trainer(max_epochs=3, callbacks=[keep], enable_checkpointing=True).fit(whole, Data())
    again = trainer(max_epochs=3, callbacks=[idle], enable_checkpointing=True)
    again.fit(resumed, Data(), ckpt_path=checkpoints / "epoch=0.ckpt")
    return results | {"whole": whole.logged, "resumed": resumed.logged}


def main() -> None:
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    for warning in LIGHTNING_WARNINGS:
        action, _, message = warning.partition(":")
        warnings.filterwarnings(action, message=message)
    results = run(folder, processes)
    # Every rank has a file: what is logged has to be the same on all.
    rank = dist.get_rank() if processes > 1 else 0
    torch.save(results, folder / f"{rank}.pt")


if __name__ == "__main__":
    main()
