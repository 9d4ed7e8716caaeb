"""Does a latent of its own stand for each factor? A β-VAE of moved, scaled and turned scans."""

import math

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchmetrics import Metric, MetricCollection

from mi_metrics.examples import parts
from mi_metrics.examples.digits import SIZES, DigitsDataModule
from mi_metrics.functional.options import require
from mi_metrics.metrics.gap import MutualInformationGap

# The values of each factor: shifts as shares of half the canvas, a size, and an angle in degrees.
SHIFTS = (-0.5, -0.25, 0.0, 0.25, 0.5)
SCALES = (0.6, 0.75, 0.9, 1.05)
ANGLES = (-60.0, -30.0, 0.0, 30.0, 60.0)
FACTORS = ("shift_x", "shift_y", "scale", "angle")
SIDE = 16


class MovedDigitsDataModule(DigitsDataModule):
    """Serve scans of one handwritten digit, each moved, scaled and turned at random, with the four
    factors that did it.

    A batch is ``(images, factors)``: float32 in [0, 1] of shape ``(N, 1, 16, 16)``, and int64 of
    shape ``(N, 4)``, the number of the value of each of ``FACTORS``. The draws are the same in
    every run.

    Args:
        batch_size: Scans per batch and process.
        digit: Whose scans are served.
        copies: How often each scan is served, with other factors.
        num_workers: Processes that load batches.
    """

    def __init__(
        self, batch_size: int = 128, digit: int = 7, copies: int = 40, num_workers: int = 0
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.digit, self.copies = digit, copies

    def setup(self, stage: str | None = None) -> None:
        """Load, split and move the scans.

        Args:
            stage: What is about to run; all parts are loaded for each.
        """
        digits = require("sklearn.datasets", "demo", "The digits").load_digits()
        scans = torch.as_tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.as_tensor(digits.target)
        for seed, (part, rows) in enumerate(parts.rows(SIZES).items()):
            own = rows[labels[rows] == self.digit]
            generator = torch.Generator().manual_seed(seed)
            images, factors = moved(scans[own].repeat(self.copies, 1, 1, 1), generator)
            self._parts[part] = TensorDataset(images, factors)


def moved(scans: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return scans on a larger canvas, moved, scaled and turned, and the numbers of the factors'
    values.
    """
    values = [torch.tensor(v) for v in (SHIFTS, SHIFTS, SCALES, ANGLES)]
    factors = torch.stack(
        [torch.randint(len(v), (len(scans),), generator=generator) for v in values], 1
    )
    x, y, scale, angle = (v[f] for v, f in zip(values, factors.T, strict=True))
    angle = angle * (math.pi / 180)
    # From the canvas to the scan, which has half its side.
    cos, sin = 2 * angle.cos() / scale, 2 * angle.sin() / scale
    matrix = torch.stack(
        [
            torch.stack([cos, sin, -cos * x - sin * y], 1),
            torch.stack([-sin, cos, sin * x - cos * y], 1),
        ],
        1,
    )
    grid = nn.functional.affine_grid(matrix, [len(scans), 1, SIDE, SIDE], align_corners=False)
    images = nn.functional.grid_sample(scans, grid, align_corners=False)
    return images.clamp(0, 1), factors


class BetaVAE(pl.LightningModule):
    """Encode scans in latents whose posterior is held near independent normal ones, and log whether
    each factor has a latent of its own.

    Args:
        num_latents: Latents of a scan.
        beta: Weight of the divergence from the prior; 1 is the plain VAE.
        hidden_dim: Width of the hidden layers.
        learning_rate: Step size of Adam.
        metrics: What to log in validation and test, by name; each is updated with the posteriors'
            means ``(N, num_latents)`` and the factors ``(N, 4)``. By default ``mig``, ``mig_sup``
            and ``modularity``, which share one state.
    """

    def __init__(
        self,
        num_latents: int = 6,
        beta: float = 4.0,
        hidden_dim: int = 256,
        learning_rate: float = 1e-3,
        metrics: dict[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["metrics"])
        self.beta, self.learning_rate = beta, learning_rate
        self.encoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(SIDE**2, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 2 * num_latents),
        )
        self.decoder = nn.Sequential(
            nn.Linear(num_latents, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, SIDE**2),
            nn.Unflatten(1, (1, SIDE, SIDE)),
        )
        if metrics is None:
            sizes = num_latents, len(FACTORS)
            metrics = {
                "mig": MutualInformationGap(*sizes),
                "mig_sup": MutualInformationGap(*sizes, kind="mig_sup"),
                "modularity": MutualInformationGap(*sizes, kind="modularity"),
            }
        collection = MetricCollection(dict(metrics))
        self.val_metrics = collection.clone(prefix="val/")
        self.test_metrics = collection.clone(prefix="test/")

    def forward(self, images: Tensor) -> Tensor:
        """Return the means of the posteriors, ``(N, num_latents)``."""
        means, _ = self.encoder(images).chunk(2, 1)
        return means  # type: ignore[no-any-return]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the negative evidence bound per scan, with β times the divergence."""
        images = batch[0]
        means, log_variances = self.encoder(images).chunk(2, 1)
        latents = means + (log_variances / 2).exp() * torch.randn_like(means)
        error = nn.functional.binary_cross_entropy_with_logits(
            self.decoder(latents), images, reduction="sum"
        )
        divergence = (means.square() + log_variances.exp() - 1 - log_variances).sum() / 2
        loss: Tensor = (error + self.beta * divergence) / len(images)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the validation metrics."""
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the test metrics."""
        self._evaluate(batch, self.test_metrics)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all parameters."""
        return torch.optim.Adam(self.parameters(), self.learning_rate)

    def _evaluate(self, batch: tuple[Tensor, Tensor], metrics: MetricCollection) -> None:
        images, factors = batch
        metrics.update(self(images), factors)
        self.log_dict(metrics, on_step=False, on_epoch=True, prog_bar=True)
