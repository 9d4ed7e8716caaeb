"""Mutual information from a joint table of bins, as a metric."""

from typing import Any

from torch import Tensor

from mi_metrics.functional.options import (
    Binning,
    Kernel,
    NanStrategy,
    Normalization,
    NumBins,
    TableCorrection,
    Unit,
    ValueRange,
)
from mi_metrics.functional.tables import views
from mi_metrics.metrics.base import keywords
from mi_metrics.metrics.bins import BinnedMetric


class BinnedMutualInformation(BinnedMetric):
    r"""Compute the mutual information of paired samples from a joint table of bins, in nats or
    bits.

    What is computed, the formula and its conventions:
    :func:`mi_metrics.functional.binned_mutual_information`. Here the table is the state: it adds up
    over batches, devices and hosts, and everything statistical (bias correction, normalisation,
    unit, and with an unknown range the bins too) happens in ``compute``.

    Conventions:
        Exact under splits and ranks: bit for bit with the hard kernel, to 1e-12 with soft kernels.
        With a given range the value is that of the functional call on all samples
        (``num_bins="auto"``: where ``resolution`` is 256). With ``value_range=None`` it is a
        function of all samples, whatever their order, and equal to the functional call where each
        axis has at most ``resolution`` distinct values; otherwise values are known up to a cell of
        an adaptive grid with ``resolution`` / 2 to ``resolution`` cells over the data, and bin
        edges snap to cells: at most 2e-2 nats apart for Gaussian samples from N = 5000 on, less
        with a finer grid. One far outlier costs one cell. Heavy tails (Cauchy) use cells up: raise
        ``resolution``, or transform both variables monotonically, which leaves mutual information
        as it is.
        Not averaged over batches: the value of a batch is biased by its small N, and so is the mean
        of such values.
        No samples: NaN, with a warning. ``compute`` never raises.
        State: ``table``; with a known range int64 ``(C, B_x, B_y)`` (hard kernel) or float64 (soft
        kernels), with an unknown one int64 ``(C, 2 + 2 m + m²)`` for m = ``resolution``; ``header``
        and ``counters``.
        Memory: the state, and a bounded chunk in ``update``.
        Gradient: none through the metric; use :class:`mi_metrics.MutualInformationLoss` to train.

    As input to ``forward`` and ``update`` the metric accepts:
        x: Samples of any real dtype. With ``num_outputs=1`` of any shape, all elements pooled; else
            ``(N, num_outputs, ...)``, trailing dimensions pooled.
        y: Samples paired with ``x`` by position, of the same shape.

    As output of ``forward`` and ``compute`` the metric returns:
        float64, a scalar with ``num_outputs=1``, else of shape ``(num_outputs,)``.

    Args:
        num_bins: Bins of both axes, ``(B_x, B_y)``, or ``"auto"``: chosen in ``compute`` from the
            number of samples and their dependence, at most 256 and at most ``resolution``. With a
            given range they are made of ``resolution`` equal cells (hard kernel only).
        value_range: ``None`` (unknown, found from the data), ``(lo, hi)`` for both axes, or
            ``((x_lo, x_hi), (y_lo, y_hi))``. Samples outside are counted in the edge bins, and
            ``compute`` warns once if they are more than 1 %.
        binning: ``"auto"``, ``"uniform"``, ``"quantile"`` or ``"values"`` (a bin for each distinct
            value, of at most ``resolution``), or a pair of them for x and y.
        clip_quantile: Fraction of samples in [0, 0.5) at each end of each axis that the range
            leaves out.
        margin: Fraction of the range's width that is added at both ends.
        kernel: ``"hard"``, ``"linear"`` or ``"cubic"``. With an unknown range the kernel spreads
            each cell's count from the cell's centre.
        normalization: ``"none"``, ``"arithmetic"``, ``"geometric"``, ``"min"``, ``"max"``,
            ``"joint"``, ``"studholme"`` or ``"adjusted"`` (hard kernel).
        bias_correction: ``"auto"``, ``"none"``, ``"miller_madow"`` or ``"grassberger"`` (hard
            kernel).
        unit: ``"nats"`` or ``"bits"``.
        num_outputs: Number of pairs of variables that are evaluated side by side.
        nan_strategy: What to do with NaN and infinite samples: ``"error"``, or ``"ignore"``: the
            pair is dropped and counted.
        resolution: The most cells per axis of an unknown range, or the cells of a given one under
            ``num_bins="auto"``, at least 2.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown, out of its range or excludes another.

    Example:
        >>> import torch
        >>> from mi_metrics import BinnedMutualInformation
        >>> generator = torch.Generator().manual_seed(0)
        >>> metric = BinnedMutualInformation()
        >>> for _ in range(10):
        ...     x = torch.randn(1_000, generator=generator)
        ...     y = 0.6 * x + 0.8 * torch.randn(1_000, generator=generator)  # truth: 0.2231 nats
        ...     metric.update(x, y)
        >>> print(f"{metric.compute():.4f}")
        0.2211

    References:
        C. O. Daub et al., "Estimating mutual information using B-spline functions" (2004),
        doi:10.1186/1471-2105-5-118.
    """

    @keywords
    def __init__(
        self,
        num_bins: NumBins = "auto",
        *,
        value_range: ValueRange = None,
        binning: Binning = "auto",
        clip_quantile: float = 0.0,
        margin: float = 0.0,
        kernel: Kernel = "hard",
        normalization: Normalization = "none",
        bias_correction: TableCorrection = "auto",
        unit: Unit = "nats",
        num_outputs: int = 1,
        nan_strategy: NanStrategy = "error",
        resolution: int = 256,
        **kwargs: Any,
    ) -> None:
        options = views.parse(
            num_bins,
            value_range,
            binning,
            clip_quantile,
            margin,
            kernel,
            normalization=normalization,
            bias_correction=bias_correction,
            unit=unit,
        )
        super().__init__(
            options,
            binning=binning,
            resolution=resolution,
            num_outputs=num_outputs,
            nan_strategy=nan_strategy,
            num_conditions=None,
            **kwargs,
        )

    def counts(self) -> Tensor:
        """Return the counts in bins, ``(B_x, B_y)``, or ``(C, B_x, B_y)`` for several outputs.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for the counts of all.
        int64 with the hard kernel, else float64. Automatic bins were chosen after a look at the
        dependence: for a test of independence take :meth:`p_value`, not these counts.
        """
        return self._squeeze(self._tables_of_value().squeeze(1))

    def joint(self) -> Tensor:
        """Return the probability table, ``(B_x, B_y)``, or ``(C, B_x, B_y)`` for several outputs;
        it sums to 1.

        NaN without samples. Of this rank alone, as :meth:`counts`.
        """
        counts = self.counts().double()
        return counts / counts.sum((-2, -1), keepdim=True)
