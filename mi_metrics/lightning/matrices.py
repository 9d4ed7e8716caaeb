"""The values of a matrix, logged one by one."""

from collections.abc import Sequence

import lightning.pytorch as pl
import torch

from mi_metrics.functional.options import hints_keywords
from mi_metrics.metrics.matrix import MutualInformationMatrix


@hints_keywords
def log_matrix(
    module: pl.LightningModule,
    name: str,
    metric: MutualInformationMatrix,
    *,
    x_names: Sequence[str] | None = None,
    y_names: Sequence[str] | None = None,
    prog_bar: bool = False,
    logger: bool | None = None,
) -> None:
    """Log each value of a matrix as ``name/x_y``, from the samples of all processes, and reset the
    metric.

    Lightning logs scalars only. For a metric with ``num_outputs`` torchmetrics'
    ``ClasswiseWrapper(metric, labels)`` makes them; it would give rows of a matrix. To be called
    once per epoch and on every rank, in ``on_validation_epoch_end`` or ``on_test_epoch_end``::

        def on_validation_epoch_end(self):
            log_matrix(self, "mi", self.val_matrix, x_names=["age", "dose"], y_names=["pain"])

    Args:
        module: The LightningModule that is evaluated.
        name: What the names begin with.
        metric: The matrix.
        x_names: Names of the columns of x, by default x0, x1, …
        y_names: Names of the columns of y.
        prog_bar: Show the values in the progress bar.
        logger: Give them to the loggers, by default if there are some.

    Raises:
        TypeError: If the metric is no matrix.
        ValueError: If there are not as many names as columns.
    """
    if not isinstance(metric, MutualInformationMatrix):
        raise TypeError(
            f"Expected a MutualInformationMatrix, but got {type(metric).__name__}. Log others with "
            "self.log, and those of several outputs in a ClasswiseWrapper."
        )
    names = []
    for side, size, given in (("x", metric.num_x, x_names), ("y", metric.num_y, y_names)):
        names.append([f"{side}{i}" for i in range(size)] if given is None else list(given))
        if len(names[-1]) != size:
            raise ValueError(
                f"Expected {size} `{side}_names`, one per column, but got {len(names[-1])}."
            )
    value = metric.compute()
    for x, row in zip(names[0], value, strict=True):
        for y, cell in zip(names[1], row, strict=True):
            # All ranks have the same number, of which the largest is that number to the bit.
            module.log(
                f"{name}/{x}_{y}",
                cell,
                prog_bar=prog_bar,
                logger=logger,
                sync_dist=True,
                reduce_fx=torch.max,
            )
    metric.reset()
