"""Real scans that need no download: the handwritten digits that ship with scikit-learn."""

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from mi_metrics.examples import parts
from mi_metrics.examples.parts import Part
from mi_metrics.functional.options import require
from mi_metrics.sampler import UnpaddedDistributedSampler

# The sizes are odd on purpose: a sampler that pads would evaluate one scan twice on two processes.
SIZES: dict[Part, int] = {"train": 1079, "val": 359, "test": 359}


class DigitsDataModule(pl.LightningDataModule):
    """Serve 1797 scans of handwritten digits, 8 by 8 pixels with 17 grey levels, and their labels.

    A batch is ``(images, labels)``: float32 in [0, 1] of shape ``(N, 1, 8, 8)``, and int64 of shape
    ``(N,)``. The split into 1079, 359 and 359 scans is the same in every run and on every machine.

    On several processes each scan is trained on by one of them and evaluated exactly once; the
    samplers are the loaders' own, and Lightning leaves them alone.

    Args:
        batch_size: Scans per batch and process.
        num_workers: Processes that load batches. 0 is fastest here: the scans are in memory.
    """

    def __init__(self, batch_size: int = 64, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._parts: dict[Part, TensorDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Load and split the scans.

        Args:
            stage: What is about to run; all parts are loaded for each.
        """
        digits = require("sklearn.datasets", "demo", "The digits").load_digits()
        images = torch.as_tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.as_tensor(digits.target, dtype=torch.int64)
        self._parts = parts.datasets(parts.rows(SIZES), images, labels)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the batches to train on, shuffled."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the batches to validate on."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the batches to test on."""
        return self._loader("test")

    def _loader(self, part: Part) -> DataLoader[tuple[Tensor, ...]]:
        dataset = self._parts[part]
        world, rank = (
            (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        )
        sampler: Sampler[int]
        if part == "train":
            # Under DDP every rank has to take as many steps, so training is the place for a sampler
            # that pads.
            sampler = DistributedSampler(dataset, world, rank, shuffle=True)
        else:
            sampler = UnpaddedDistributedSampler(dataset, world, rank)
        return DataLoader(dataset, self.batch_size, sampler=sampler, num_workers=self.num_workers)
