"""A narrow classifier of scans, to be watched in the information plane."""

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy


class DigitsClassifier(pl.LightningModule):
    """Tell the digit of an 8 by 8 scan through layers of tanh units that become narrower.

    ``net.2``, ``net.4`` and ``net.6`` are the layers' outputs, in [-1, 1].

    Args:
        widths: Units of the three hidden layers.
        learning_rate: Step size of Adam.
    """

    def __init__(
        self, widths: tuple[int, int, int] = (16, 6, 3), learning_rate: float = 5e-3
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        first, second, third = widths
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, first),
            nn.Tanh(),
            nn.Linear(first, second),
            nn.Tanh(),
            nn.Linear(second, third),
            nn.Tanh(),
            nn.Linear(third, 10),
        )
        self.val_accuracy = MulticlassAccuracy(10, average="micro")
        self.test_accuracy = MulticlassAccuracy(10, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(N, 10)`` of images ``(N, 1, 8, 8)``."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy of a batch."""
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the validation accuracy."""
        self.val_accuracy.update(self(batch[0]), batch[1])
        self.log("val/accuracy", self.val_accuracy, on_step=False, on_epoch=True, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the test accuracy."""
        self.test_accuracy.update(self(batch[0]), batch[1])
        self.log("test/accuracy", self.test_accuracy, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all parameters."""
        return torch.optim.Adam(self.parameters(), self.learning_rate)
