"""A fit that is killed: ``python -m tests.lightning.resumable FOLDER STEP`` dies of SIGKILL after a
training step.
"""

import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from tests.lightning.modules import QUIET, Pairs, estimators, samples

EPOCHS, BATCHES, EVERY = 3, 16, 5


class ResumableLoader:
    """Batches in an order of each epoch's own, and the position in it, which Lightning saves in its
    checkpoints.
    """

    def __init__(self) -> None:
        self.dataset = samples(1000, 0)
        self.position = 0
        # Lightning tells a loader's sampler the epoch; the position it gives back only within an
        # epoch.
        self.sampler = self
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = torch.randperm(1000, generator=torch.Generator().manual_seed(self.epoch))
        start = self.position % BATCHES
        for self.position, rows in enumerate(order.split(64)[start:], start + 1):
            yield self.dataset[rows]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Training(pl.LightningModule):
    """Logs metrics of the training steps, one by one and as a collection, and saves their states in
    checkpoints.

    ``logged`` has the values of each epoch, ``seen`` what they are of; of an epoch that was
    interrupted only what was logged and seen since.
    """

    def __init__(self, *, reset: bool = True, **known: Any) -> None:
        super().__init__()
        self.reset = reset
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Tanh())
        metrics = estimators()
        if known:
            metrics["known"] = type(metrics["known"])(**known)
        self.single = nn.ModuleDict(metrics)
        self.together = MetricCollection(estimators(), prefix="together/")
        for metric in (*self.single.values(), self.together):
            metric.persistent(True)
        # Not persistent: no checkpoint is saved within a validation.
        self.validation = MetricCollection(estimators(), prefix="val/")
        self.logged: dict[int, dict[str, Tensor]] = {}
        self.seen: dict[int, Pairs] = defaultdict(list)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.reset and batch_idx == 0:
            # A checkpoint from the end of an epoch has its samples.
            for metric in (*self.single.values(), self.together):
                metric.reset()
        x, y = batch
        prediction = self.net(x)
        for name, metric in self.single.items():
            metric.update(prediction, y)
            self.log(f"single/{name}", metric, on_step=False, on_epoch=True)
        self.together.update(prediction, y)
        self.log_dict(self.together, on_step=False, on_epoch=True)
        self.seen[self.current_epoch].append((prediction.detach(), y))
        return nn.functional.mse_loss(prediction, y / 6)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.validation.update(self.net(x), y)
        self.log_dict(self.validation, on_step=False, on_epoch=True)

    def on_train_epoch_end(self) -> None:
        self.logged[self.current_epoch] = {
            k: v.clone() for k, v in self.trainer.callback_metrics.items()
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Momentum is a state that has to be saved as well.
        return torch.optim.SGD(self.parameters(), 0.02, momentum=0.9)


class Kill(pl.Callback):
    """Ends the process as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(
    module: Training,
    folder: Path,
    ckpt_path: Path | None = None,
    *callbacks: pl.Callback,
    **when: Any,
) -> None:
    """Train for all epochs, with a checkpoint every 5 steps unless said otherwise."""
    pl.seed_everything(0)
    for layer in module.net.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    when = when or {"every_n_train_steps": EVERY}
    checkpoints = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **when)
    options = QUIET | {"enable_checkpointing": True, "callbacks": [checkpoints, *callbacks]}
    trainer = pl.Trainer(max_epochs=EPOCHS, accelerator="cpu", default_root_dir=folder, **options)
    trainer.fit(module, ResumableLoader(), DataLoader(samples(1000, 1), 64), ckpt_path=ckpt_path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(Training(), Path(sys.argv[1]), None, Kill(int(sys.argv[2])))
