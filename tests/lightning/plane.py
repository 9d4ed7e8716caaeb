"""An information plane on one process or several: ``python -m tests.lightning.plane FOLDER
PROCESSES``.
"""

import sys
import warnings
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from mi_metrics import MutualInformationMatrix, UnpaddedDistributedSampler
from mi_metrics.lightning import InformationPlane, log_matrix
from tests.lightning.modules import LIGHTNING_WARNINGS, QUIET


class Squash(pl.LightningModule):
    """Works on each number alone: what it makes of a sample does not depend on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.squash = nn.Tanh()
        self.factor = nn.Parameter(torch.ones(()))
        self.matrix = MutualInformationMatrix(2, 1, 6)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.matrix.update(self.squash(self.factor * x), y)

    def on_validation_epoch_end(self) -> None:
        log_matrix(self, "m", self.matrix)

    def val_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(301, 2, generator=generator)
        dataset = TensorDataset(x, (x[:, 0] + torch.randn(301, generator=generator) > 0).long())
        trainer = self.trainer
        sampler = UnpaddedDistributedSampler(dataset, trainer.world_size, trainer.global_rank)
        return DataLoader(dataset, 40, sampler=sampler)


def main() -> None:
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    for warning in LIGHTNING_WARNINGS:
        action, _, message = warning.partition(":")
        warnings.filterwarnings(action, message=message)
    several = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=60))
    planes = [
        InformationPlane({"codes": "squash"}, 1, num_bins=6),
        InformationPlane({"near": "squash"}, 1, num_bins=6, max_symbols=5),
    ]
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=processes,
        strategy=several if processes > 1 else "auto",
        use_distributed_sampler=False,
        callbacks=planes,
        **QUIET,
    )
    (logged,) = trainer.validate(Squash(), verbose=False)
    torch.save(logged, folder / f"{dist.get_rank() if processes > 1 else 0}.pt")


if __name__ == "__main__":
    main()
