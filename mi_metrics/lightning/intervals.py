"""The interval of a metric, logged beside its value."""

import lightning.pytorch as pl
import torch

from mi_metrics.functional.options import hints_keywords
from mi_metrics.metrics.inference import IntervalMetric


@hints_keywords
def log_interval(
    module: pl.LightningModule,
    name: str,
    metric: IntervalMetric,
    *,
    level: float = 0.95,
    num_resamples: int = 999,
    seed: int = 0,
    prog_bar: bool = False,
    logger: bool | None = None,
) -> None:
    """Log the value of a metric and both ends of its confidence interval, as ``name``,
    ``name_lower`` and ``name_upper``: those of the samples of all processes.

    To be called once per epoch and on every rank, in ``on_validation_epoch_end`` or
    ``on_test_epoch_end``::

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.val_mi.update(self(x), y)

        def on_validation_epoch_end(self):
            log_interval(self, "val/mi", self.val_mi)

    The metric itself is logged for the value, so that Lightning resets it after the epoch. The
    interval covers sampling, not what bins hide, nor that neighbouring pixels or times repeat each
    other; see :meth:`mi_metrics.BinnedMutualInformation.interval`.

    Args:
        module: The LightningModule that is evaluated and has the metric as an attribute.
        name: Name of the value.
        metric: A metric with an interval and a single output.
        level: The share of intervals that hold the truth, in (0, 1).
        num_resamples: Random tables per quantile, from 2 / (1 - level) to 10**8.
        seed: Seed of the random tables, the same on all ranks.
        prog_bar: Show the three numbers in the progress bar.
        logger: Give them to the loggers, by default if there are some.

    Raises:
        TypeError: If the metric has no interval, or an option has the wrong type.
        ValueError: If the metric has several outputs or a normalisation, or an option is out of its
            range.
    """
    if not isinstance(metric, IntervalMetric):
        raise TypeError(
            f"Expected a metric with an interval, such as BinnedMutualInformation, but got "
            f"{type(metric).__name__}. Log others as they are, with self.log."
        )
    if metric.num_outputs > 1:
        raise ValueError(
            f"Expected a metric of one output, but got num_outputs={metric.num_outputs}. Log one "
            "metric per output."
        )
    if (normalization := getattr(metric, "normalization", "none")) != "none":
        raise ValueError(
            "Expected a metric in nats or bits, of which the interval is one, but got "
            f'normalization={normalization!r}. Log a second metric with normalization="none".'
        )
    with metric.sync_context():
        ends = metric.interval(level, num_resamples=num_resamples, seed=seed)
    module.log(name, metric, prog_bar=prog_bar, logger=logger)
    for end, value in zip(("lower", "upper"), ends, strict=True):
        # All ranks have the same number, of which the largest is that number to the bit.
        module.log(
            f"{name}_{end}",
            value,
            prog_bar=prog_bar,
            logger=logger,
            sync_dist=True,
            reduce_fx=torch.max,
        )
