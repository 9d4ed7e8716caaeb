"""Mutual information as a validation metric: how much of a scan survives an autoencoder?"""

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, Metric, MetricCollection

from mi_metrics.metrics.binned import BinnedMutualInformation
from mi_metrics.metrics.knn import KNNMutualInformation


class DigitsAutoencoder(pl.LightningModule):
    """Squeeze 8 by 8 scans through a few numbers, and log what a reconstructed pixel tells about
    the original one.

    The metrics see every pair (original pixel, reconstructed pixel) of a stage. Lightning computes,
    synchronises and resets them, because ``self.log`` is given the metrics themselves. That matters
    more here than elsewhere: the mean of the batches' mutual information is not the mutual
    information of the whole, and it is far too large.

    Unlike the mean squared error, mutual information does not ask for equal grey levels: a negative
    image scores as high as the original. It asks whether the original can be told from the
    reconstruction.

    Args:
        code_dim: Numbers that the code of a scan consists of.
        hidden_dim: Width of the hidden layers.
        learning_rate: Step size of Adam.
        metrics: What to log in validation and test, by name: ``mi`` is logged as ``val/mi`` and
            ``test/mi``. Each is updated with original and reconstructed pixels. By default ``mi``,
            in nats, and ``nmi``, between 0 and 1, with one bin per grey level; their states are
            equal, so that the two share one table.
        code_metrics: What to log of the codes and the labels of the scans, by name; each is updated
            with codes ``(N, code_dim)`` and labels ``(N,)``. By default ``code_mi``, from nearest
            neighbours, in nats: what the code, which has never seen a label, tells about the digit.
    """

    def __init__(
        self,
        code_dim: int = 16,
        hidden_dim: int = 128,
        learning_rate: float = 3e-3,
        metrics: dict[str, Metric] | None = None,
        code_metrics: dict[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["metrics", "code_metrics"])
        self.learning_rate = learning_rate
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(64, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, code_dim)
        )
        self.decoder = nn.Sequential(
            nn.Linear(code_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 64),
            nn.Sigmoid(),
            nn.Unflatten(1, (1, 8, 8)),
        )
        if metrics is None:
            metrics = {
                "mi": BinnedMutualInformation(17),
                "nmi": BinnedMutualInformation(17, normalization="arithmetic"),
            }
        if code_metrics is None:
            code_metrics = {"code_mi": KNNMutualInformation(x_dim=code_dim, discrete_y=True)}
        # One collection per stage: a validation inside a test, or a sanity check, must not add to
        # the other's table.
        collection = MetricCollection(dict(metrics))
        self.val_metrics = collection.clone(prefix="val/")
        self.test_metrics = collection.clone(prefix="test/")
        collection = MetricCollection(dict(code_metrics))
        self.val_code_metrics = collection.clone(prefix="val/")
        self.test_code_metrics = collection.clone(prefix="test/")
        # The loss is a metric too: for a tensor logged with `sync_dist`, Lightning averages sums
        # and sizes over the processes, the sizes as integers, and 180 and 179 scans give a mean
        # that is 0.3 % too large.
        self.val_loss = MeanSquaredError()
        self.test_loss = MeanSquaredError()

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstructions of images, both ``(N, 1, 8, 8)`` in [0, 1]."""
        reconstructions: Tensor = self.decoder(self.encoder(images))
        return reconstructions

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean squared error of a batch."""
        images = batch[0]
        loss = nn.functional.mse_loss(self(images), images)
        # Training batches are of equal size on all processes, so here the mean of means is the
        # mean.
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the validation metrics."""
        self._evaluate(batch, self.val_metrics, self.val_code_metrics, self.val_loss)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the test metrics."""
        self._evaluate(batch, self.test_metrics, self.test_code_metrics, self.test_loss)
        self.log("test/loss", self.test_loss, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all parameters."""
        return torch.optim.Adam(self.parameters(), self.learning_rate)

    def _evaluate(
        self,
        batch: tuple[Tensor, Tensor],
        metrics: MetricCollection,
        code_metrics: MetricCollection,
        loss: Metric,
    ) -> None:
        images, labels = batch
        codes = self.encoder(images)
        reconstructions = self.decoder(codes)
        # `update` is used, because a call would also compute a value for this batch alone.
        metrics.update(images, reconstructions)
        code_metrics.update(codes, labels)
        loss.update(reconstructions, images)
        self.log_dict(metrics, on_step=False, on_epoch=True, prog_bar=True)
        self.log_dict(code_metrics, on_step=False, on_epoch=True)
