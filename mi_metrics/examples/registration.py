"""Mutual information as a training loss: register two images that do not look alike."""

import inspect
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from mi_metrics.examples.affine import blur, compose, mean_displacement, pixel_grid, sample
from mi_metrics.losses import MutualInformationLoss
from mi_metrics.metrics.binned import BinnedMutualInformation
from mi_metrics.plotting import require_matplotlib

Pair = tuple[Tensor, Tensor, Tensor]


class AffineSearch(nn.Module):
    """Find an affine map by gradient descent on a loss, from several starts of which the better
    half goes on.

    A loss of images has many local minima, because cells look like their neighbours. So nine maps
    set out, the identity and eight translations around it, and :meth:`halve` drops those with the
    larger losses.

    Args:
        criterion: The loss of the fixed and the seen image. It is given the mask of valid pixels as
            ``weights`` if it takes them; others, as ``torch.nn.MSELoss``, get the valid pixels
            only.
        spacing: Pixels between neighbouring starts.
    """

    def __init__(self, criterion: nn.Module, spacing: float) -> None:
        super().__init__()
        self.criterion = criterion
        self.takes_weights = "weights" in inspect.signature(criterion.forward).parameters
        around = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0)]
        steps = torch.zeros(9, 2, 3)
        steps[:, :, 2] = spacing * torch.tensor([(0, 0), *around])
        # The six numbers are in pixels at the image's border, where a step of 1 in any of them
        # moves the image alike. Each is a parameter of its own, so that the optimiser leaves alone
        # what has no gradient.
        self.steps = nn.ParameterList(steps.unbind())
        self.losses: Tensor
        # The loss is infinite for the maps that have been dropped. The identity is the first, and
        # so the best of equals.
        self.register_buffer("losses", torch.zeros(len(steps)))

    def transform(self, index: int, size: int) -> Tensor:
        """Return a map for images of a size, ``(2, 3)`` in coordinates from -1 to 1."""
        step: Tensor = self.steps[index]
        return torch.eye(2, 3, device=step.device) + step / (size / 2)

    def best(self, size: int) -> Tensor:
        """Return the map of the least loss."""
        return self.transform(int(self.losses.argmin()), size).detach()

    def forward(self, fixed: Tensor, moving: Tensor, stride: int) -> Tensor:
        """Return the sum of the losses of all maps that are left, whose gradients do not mix.

        Args:
            fixed: The fixed image, ``(1, 1, H, H)``.
            moving: The moving image, ``(1, 1, H, H)``.
            stride: Take every so many-th pixel of the fixed image in each direction.
        """
        size = fixed.shape[-1]
        grid = pixel_grid(size, fixed.device)[::stride, ::stride]
        fixed = fixed[..., ::stride, ::stride]
        total = fixed.new_zeros(())
        for index in self.losses.isfinite().nonzero().flatten().tolist():
            seen, inside = sample(moving, self.transform(index, size), grid)
            if not inside.any():
                # Nothing brings back a map that has left the image.
                self.losses[index] = torch.inf
                continue
            if self.takes_weights:
                loss = self.criterion(fixed, seen, weights=inside)
            else:
                loss = self.criterion(fixed[inside], seen[inside])
            # A criterion of the user's may have no value for so few pixels.
            if loss.isfinite():
                total = total + loss
            self.losses[index] = loss.detach().nan_to_num(torch.inf)
        return total

    def halve(self) -> None:
        """Drop the worse half of the maps that are left, but never the last one."""
        left = int(self.losses.isfinite().sum())
        self.losses[self.losses.argsort()[max(1, left // 2) :]] = torch.inf


class AffineRegistration(pl.LightningModule):
    """Register an image to another of the same place by gradient descent on a loss, coarse to fine.

    What is trained is a map of six numbers (translation, rotation, scale and shear), by Adam. Each
    epoch sees the pair of images under its own Gaussian blur: a wide one first, which the gradient
    can see further through, a narrow one last, because blurred outlines of different things fit
    best somewhere else. After each epoch the better half of the maps goes on, see
    :class:`AffineSearch`.

    Logged in validation, at full resolution without blur: the normalised mutual information between
    the fixed and the registered image as ``val/nmi``, which needs no ground truth, and the distance
    of the map from the true one as ``val/residual_px``, in pixels, in the mean over the image.

    A residual of some tenths of a pixel need not be the search's: what is stained in the same place
    need not have the same outline, and descent from the true map then ends where descent from afar
    does.

    Batches are ``(fixed, moving, truth)`` as :class:`StainsDataModule` has them, the same pair in
    each.

    Args:
        criterion: The loss to minimise; by default minus the mutual information in 32 bins.
        baseline: A loss to compare with: it registers the same pair in the same steps with maps of
            its own. Its residual is logged as ``val/baseline_residual_px``.
        blurs: Standard deviation of the blur in pixels, one for each epoch; more epochs keep the
            last one.
        learning_rate: Step size of Adam in pixels, for each pixel of blur. It falls to a tenth in
            each epoch.
        spacing: Pixels between neighbouring starts of the search.
    """

    def __init__(
        self,
        criterion: nn.Module | None = None,
        baseline: nn.Module | None = None,
        blurs: list[float] | None = None,
        learning_rate: float = 0.2,
        spacing: float = 8.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["criterion", "baseline"])
        if criterion is None:
            criterion = MutualInformationLoss(32, value_range=(0.0, 1.0))
        self.search = AffineSearch(criterion, spacing)
        self.baseline = None if baseline is None else AffineSearch(baseline, spacing)
        self.blurs = [2.0, 2.0, 1.5, 1.0, 1.0] if blurs is None else list(blurs)
        if not self.blurs or min(self.blurs) <= 0:
            raise ValueError(
                f"Expected `blurs` to be positive numbers, one for each epoch, but got {blurs}."
            )
        self.learning_rate = learning_rate
        self.val_nmi = BinnedMutualInformation(
            32, value_range=(0.0, 1.0), normalization="arithmetic"
        )
        self._blurred: tuple[Tensor, Tensor] | None = None

    def forward(self, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Return a moving image ``(1, 1, H, H)`` as registered, and the mask of its valid
        pixels.
        """
        size = moving.shape[-1]
        return sample(moving, self.search.best(size), pixel_grid(size, moving.device))

    def residual(self, transform: Tensor, truth: Tensor, size: int) -> float:
        """Return the mean distance in pixels between where a map puts pixels and where they
        belong.
        """
        return mean_displacement(compose(truth, transform), pixel_grid(size, truth.device))

    def setup(self, stage: str) -> None:
        """Refuse several processes: there is one pair, and maps that are dropped have no gradient
        to share.
        """
        if self.trainer.world_size > 1:
            raise ValueError(
                "AffineRegistration finds one map for one pair and runs in one process, but the "
                f"trainer has {self.trainer.world_size}. Pass --trainer.devices=1."
            )

    def on_train_epoch_start(self) -> None:
        """Forget the blurred images of the epoch before."""
        self._blurred = None

    def on_train_batch_start(self, batch: Pair, batch_idx: int) -> None:
        """Set the step size: in proportion to the blur, and down to a tenth along a cosine."""
        done = batch_idx / float(self.trainer.num_training_batches)
        step_size = (
            self.learning_rate * self._sigma * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)
        )
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = step_size

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        """Return the loss of the pair under the blur of this epoch."""
        if self._blurred is None:
            fixed, moving, _ = batch
            self._blurred = blur(fixed, self._sigma), blur(moving, self._sigma)
        # An image blurred by two pixels has nothing new in every second one.
        stride = max(1, int(self._sigma))
        loss: Tensor = self.search(*self._blurred, stride)
        self.log(
            "train/loss", self.search.losses.min(), on_step=True, on_epoch=False, prog_bar=True
        )
        if self.baseline is not None:
            loss = loss + self.baseline(*self._blurred, stride)
        return loss

    def on_train_epoch_end(self) -> None:
        """Go on with the better half of the maps."""
        for search in (self.search, self.baseline):
            if search is not None:
                search.halve()

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        """Compare the registered with the fixed image, and the map with the true one."""
        fixed, moving, truth = batch
        seen, inside = self(moving)
        self.val_nmi.update(fixed[inside], seen[inside])
        self.log("val/nmi", self.val_nmi, on_step=False, on_epoch=True, prog_bar=True)
        searches = {"val/residual_px": self.search, "val/baseline_residual_px": self.baseline}
        for name, search in searches.items():
            if search is not None:
                size = fixed.shape[-1]
                residual = self.residual(search.best(size), truth[0], size)
                self.log(name, residual, on_step=False, on_epoch=True, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over the maps."""
        return torch.optim.Adam(self.parameters(), self.learning_rate, betas=(0.9, 0.99))

    @property
    def _sigma(self) -> float:
        return self.blurs[min(self.current_epoch, len(self.blurs) - 1)]


class _View(NamedTuple):
    """The moving image through a map, against the fixed one: what a row of the report's table and a
    column show.
    """

    name: str
    residual: float
    seen: Tensor
    metric: Any


class RegistrationReport(Callback):
    """Print how well a pair of images is registered when fitting ends, and draw it before and
    after.

    The table has a row for the start, one for the baseline if there is one, and one for the
    criterion: residual in pixels and normalised mutual information. The figure,
    ``registration.png`` in the run's folder and in TensorBoard, has a column for each: the two
    images in two colours, and their joint distribution. A ``fast_dev_run`` draws no figure.

    Args:
        fixed_label: Name of the fixed image.
        moving_label: Name of the moving image.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        TypeError: If the module is not an :class:`AffineRegistration`.
    """

    def __init__(self, *, fixed_label: str = "fixed", moving_label: str = "moving") -> None:
        require_matplotlib()
        self.fixed_label = fixed_label
        self.moving_label = moving_label
        self.rows: dict[str, tuple[float, float]] = {}
        self.figure: Path | None = None
        self._batch: Pair | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that there are maps to report, before any time is spent on training."""
        if not isinstance(pl_module, AffineRegistration):
            raise TypeError(
                f"Expected an AffineRegistration to report, but got a {type(pl_module).__name__}. "
                "Remove RegistrationReport from the trainer's callbacks."
            )

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        *_: Any,
    ) -> None:
        """Keep the pair."""
        self._batch = batch

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table and save the figure."""
        if self._batch is None or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, AffineRegistration)
        device = pl_module.device
        fixed, moving, truth = (value.to(device) for value in self._batch)
        views = list(self._views(pl_module, fixed, moving, truth[0]))
        self.rows = {view.name: (view.residual, float(view.metric.compute())) for view in views}
        lines = ["", f"{'':<24}{'residual (px)':>14}{'NMI':>10}"]
        lines += [
            f"{name:<24}{residual:>14.2f}{nmi:>10.4f}"
            for name, (residual, nmi) in self.rows.items()
        ]
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            figure = self._draw(fixed, views)
            self.figure = Path(trainer.log_dir or ".") / "registration.png"
            self.figure.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(self.figure, dpi=100)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure("registration", figure, trainer.global_step)
            lines += ["", f"figure: {os.path.relpath(self.figure)}"]
        print("\n".join(lines))

    def _views(
        self, module: AffineRegistration, fixed: Tensor, moving: Tensor, truth: Tensor
    ) -> Any:
        size = fixed.shape[-1]
        maps = {"start": torch.eye(2, 3, device=fixed.device)}
        for search in (module.baseline, module.search):
            if search is not None:
                maps[type(search.criterion).__name__] = search.best(size)
        for name, transform in maps.items():
            seen, inside = sample(moving, transform, pixel_grid(size, fixed.device))
            metric = module.val_nmi.clone()
            metric.reset()
            metric.update(fixed[inside], seen[inside])
            # Cells without samples are black.
            yield _View(
                name, module.residual(transform, truth, size), torch.where(inside, seen, 0), metric
            )

    def _draw(self, fixed: Tensor, views: list[_View]) -> Any:
        from matplotlib.figure import Figure

        # Lengths are in inches from the left, bottom: a column is 6 wide, its image 5.4 high and
        # its table 5.
        width, height = 6 * len(views), 12.0
        figure = Figure(figsize=(width, height))
        for column, view in enumerate(views):
            ax = figure.add_axes(
                ((6 * column + 0.3) / width, 5.6 / height, 5.4 / width, 5.4 / height)
            )
            red, green = fixed[0, 0].cpu(), view.seen[0, 0].cpu()
            ax.imshow(torch.stack((red, green, red), -1).numpy())
            ax.set_axis_off()
            residual, nmi = self.rows[view.name]
            ax.set_title(f"{view.name}: {residual:.2f} px off, NMI {nmi:.4f}", fontsize=14)
            ax = figure.add_axes(
                ((6 * column + 0.8) / width, 0.5 / height, 5.1 / width, 4.9 / height)
            )
            view.metric.plot_joint(ax=ax)
            ax.set(xlabel=self.fixed_label, ylabel=self.moving_label)
        figure.suptitle(
            f"{self.fixed_label} (magenta) and {self.moving_label} (green)", fontsize=16
        )
        return figure
