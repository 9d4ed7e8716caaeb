"""Callbacks that show what a metric has seen."""

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torchmetrics import Metric

from mi_metrics.plotting import require_matplotlib


class JointDistributionLogger(Callback):
    """Draw the joint distribution behind a metric after validation and test, as PNG and in
    TensorBoard.

    The figure shows the samples of all processes. It is drawn for the first epoch that is
    validated, then for each that comes ``every_n_epochs`` or more after the one drawn last, and
    when fitting ends for the last epoch that was validated, whatever ended it: ``max_epochs``,
    ``max_steps``, ``max_time`` or an early stop. The file is ``figures/<metric>/epoch_000.png``,
    outside of fitting ``validate.png`` or ``test.png``, in the folder of the first logger; without
    a logger in the trainer's ``default_root_dir``, by default the current folder. A
    ``fast_dev_run`` draws nothing.

    Args:
        metric: Where the metric is in the LightningModule, for example ``val_mi`` for
            ``self.val_mi`` and ``val_metrics.mi`` for the metric of that name in the collection
            ``self.val_metrics``. It needs a method ``plot_joint``, as the binned and kernel density
            metrics have it. It is drawn in each stage in which it was updated.
        every_n_epochs: Least number of epochs from one figure to the next while fitting.
        x_label: Name of the metric's first argument.
        y_label: Name of the metric's second argument.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If ``every_n_epochs`` is below 1.
    """

    def __init__(
        self, metric: str, *, every_n_epochs: int = 1, x_label: str = "x", y_label: str = "y"
    ) -> None:
        require_matplotlib()
        if every_n_epochs < 1:
            raise ValueError(
                f"Expected `every_n_epochs` to be at least 1, but got {every_n_epochs}. 1 draws "
                f"after every epoch."
            )
        self.metric = metric
        self.every_n_epochs = every_n_epochs
        self.x_label = x_label
        self.y_label = y_label
        self.last_figure: Path | None = None
        self._last_epoch: int | None = None
        # This rank's share of the latest validation until it is drawn: the metric, the epoch and
        # the step.
        self._undrawn: tuple[Any, int, int] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module has the metric, before any time is spent on training."""
        self._find(pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier fit."""
        self._last_epoch = self._undrawn = None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw what validation has added to the metric, or keep it until it is known whether it was
        the last.
        """
        if trainer.sanity_checking:
            return
        metric, epoch, step = self._find(pl_module), trainer.current_epoch, trainer.global_step
        if trainer.state.fn != TrainerFn.FITTING:
            # Lightning counts epochs from 0 again when it evaluates a checkpoint.
            self._draw(trainer, metric, "validate", "validate", step)
        elif self._last_epoch in (None, epoch) or epoch - self._last_epoch >= self.every_n_epochs:
            # The last figure is kept of an epoch that is validated several times.
            self._undrawn = None
            self._draw_epoch(trainer, metric, epoch, step)
        else:
            # The metric is copied, because Lightning is about to reset it.
            self._undrawn = metric.clone(), epoch, step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last validation, if it was not due."""
        if self._undrawn is not None:
            self._draw_epoch(trainer, *self._undrawn)
            self._undrawn = None

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw what the test has added to the metric."""
        self._draw(trainer, self._find(pl_module), "test", "test", trainer.global_step)

    def _find(self, pl_module: pl.LightningModule) -> Any:
        try:
            metric = pl_module.get_submodule(self.metric)
        except AttributeError:
            metric = None
        if isinstance(metric, Metric) and hasattr(metric, "plot_joint"):
            return metric
        drawable = [
            name for name, module in pl_module.named_modules() if hasattr(module, "plot_joint")
        ]
        raise ValueError(
            f"Expected `metric` to name a metric of {type(pl_module).__name__} with a method "
            f"plot_joint, but got {self.metric!r}. It has: {', '.join(drawable) or 'none'}."
        )

    def _draw_epoch(self, trainer: pl.Trainer, metric: Any, epoch: int, step: int) -> None:
        self._last_epoch = epoch
        self._draw(trainer, metric, f"epoch_{epoch:03d}", f"epoch {epoch}", step)

    def _draw(self, trainer: pl.Trainer, metric: Any, name: str, title: str, step: int) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # These two wait for all processes, so every rank has to come here, and to the same
        # decisions.
        folder = Path(trainer.log_dir or ".") / "figures" / self.metric
        with metric.sync_context():
            if not trainer.is_global_zero or bool(metric.joint().isnan().any()):
                return
            figure, ax = metric.plot_joint()
        ax.set(xlabel=self.x_label, ylabel=self.y_label)
        # One line above the figure: which metric, when, and its value.
        titled = [axes for axes in figure.axes if axes.get_title()]
        figure.suptitle(", ".join([self.metric, title, *(a.get_title() for a in titled)]), y=0.99)
        for axes in titled:
            axes.set_title("")
        folder.mkdir(parents=True, exist_ok=True)
        self.last_figure = folder / f"{name}.png"
        figure.savefig(self.last_figure, dpi=120)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(self.metric, figure, step)


class EpochTable(Callback):
    """Print a short table when fitting ends: logged values after the first, the best and the last
    epoch.

    Below the table stand the files to look at: the best checkpoint and the figures of
    :class:`JointDistributionLogger`. The best epoch is the one whose checkpoint ``ModelCheckpoint``
    has kept, by the value that it monitors.

    Args:
        metrics: Names of the logged values, one column each.
    """

    def __init__(self, metrics: list[str]) -> None:
        self.metrics = metrics
        self._rows: list[tuple[int, list[float]]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier fit."""
        self._rows = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the values of an epoch."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        logged = trainer.callback_metrics
        if missing := [name for name in self.metrics if name not in logged]:
            raise ValueError(
                "Expected EpochTable's `metrics` to be logged values, but nothing is logged as "
                f"{', '.join(missing)}. Logged by now: {', '.join(sorted(logged)) or 'nothing'}."
            )
        self._rows.append((trainer.current_epoch, [float(logged[name]) for name in self.metrics]))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table."""
        if trainer.is_global_zero and self._rows:
            print(self.render(trainer))

    def render(self, trainer: pl.Trainer) -> str:
        """Return the table and the names of the files as text."""
        rows = {"first": self._rows[0], "last": self._rows[-1]}
        files = []
        checkpoint = trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
            files.append(
                (
                    "best checkpoint" if checkpoint.monitor else "checkpoint",
                    checkpoint.best_model_path,
                )
            )
            if checkpoint.monitor in self.metrics:
                column, sign = (
                    self.metrics.index(checkpoint.monitor),
                    1 if checkpoint.mode == "max" else -1,
                )
                best = max(self._rows, key=lambda row: sign * row[1][column])
                rows = {"first": rows["first"], "best": best, "last": rows["last"]}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, JointDistributionLogger) and callback.last_figure is not None:
                files.append(("figure", str(callback.last_figure)))
        width = max(10, *map(len, self.metrics))
        lines = ["", "epoch".rjust(11) + "".join(name.rjust(width + 2) for name in self.metrics)]
        for label, (epoch, values) in rows.items():
            lines.append(
                f"{label:<6}{epoch:>5}" + "".join(f"{value:>{width + 2}.4f}" for value in values)
            )
        lines += ["", *(f"{what}: {os.path.relpath(path)}" for what, path in files)]
        return "\n".join(lines)
