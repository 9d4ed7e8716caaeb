"""Mutual information from a joint table of bins, as a metric."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mi_metrics.functional.binned import check_correction, kernel_matrix
from mi_metrics.functional.information import check_options, information, undersampled
from mi_metrics.functional.options import (
    BiasCorrection,
    Binning,
    Interval,
    Kernel,
    NanStrategy,
    Normalization,
    NumBins,
    Unit,
    ValueRange,
    check_integer,
)
from mi_metrics.functional.tables.axis import (
    MAX_AUTO_BINS,
    Axis,
    auto_num_bins,
    check_binning,
    data_axis,
    table_correlation,
)
from mi_metrics.metrics.base import WIDE_X, WIDE_Y, keywords
from mi_metrics.metrics.table import JointTableMetric
from mi_metrics.states import grid


class OutputView(NamedTuple):
    """The state of one output read as a joint table in bins; tables, axes and ends have a leading
    dimension of 1.
    """

    counts: Tensor
    axes: tuple[Axis, Axis]
    ends: tuple[Interval, Interval]  # of the data or the given range
    coarse: bool  # whether cells of the grid were wider than bins


class BinnedMutualInformation(JointTableMetric):
    r"""Compute the mutual information of paired samples from a joint table of bins, in nats or
    bits.

    What is computed, the formula and its conventions:
    :func:`mi_metrics.functional.binned_mutual_information`. Here the table is the state: it adds up
    over batches, devices and hosts, and everything statistical (bias correction, normalisation,
    unit, and with an unknown range the bins too) happens in ``compute``.

    Conventions:
        Exact under splits and ranks: bit for bit with the hard kernel, to 1e-12 with soft kernels.
        With a given range the value is that of the functional call on all samples. With
        ``value_range=None`` it is a function of all samples, whatever their order, and equal to the
        functional call where each axis has at most ``resolution`` distinct values; otherwise values
        are known up to a cell of an adaptive grid with ``resolution`` / 2 to ``resolution`` cells
        over the data, and bin edges snap to cells: 1e-2 nats apart for Gaussian samples with 32
        bins, less with a finer grid. One far outlier costs one cell. Heavy tails (Cauchy) use cells
        up: raise ``resolution``, or transform both variables monotonically, which leaves mutual
        information as it is.
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
            number of samples and their correlation, at most 256 and at most ``resolution``.
            ``"auto"`` needs ``value_range=None``: a table of a known range has to know its bins
            before the first sample.
        value_range: ``None`` (unknown, found from the data), ``(lo, hi)`` for both axes, or
            ``((x_lo, x_hi), (y_lo, y_hi))``. Samples outside are counted in the edge bins, and
            ``compute`` warns once if they are more than 1 %.
        binning: ``"uniform"`` or ``"quantile"``.
        clip_quantile: Fraction of samples in [0, 0.5) at each end of each axis that the range
            leaves out.
        margin: Fraction of the range's width that is added at both ends.
        kernel: ``"hard"``, ``"linear"`` or ``"cubic"``. With an unknown range the kernel spreads
            each cell's count from the cell's centre.
        normalization: ``"none"``, ``"arithmetic"``, ``"geometric"``, ``"min"``, ``"max"``,
            ``"joint"`` or ``"studholme"``.
        bias_correction: ``"none"``, ``"miller_madow"`` or ``"grassberger"`` (hard kernel).
        unit: ``"nats"`` or ``"bits"``.
        num_outputs: Number of pairs of variables that are evaluated side by side.
        nan_strategy: What to do with NaN and infinite samples: ``"error"``, or ``"ignore"``: the
            pair is dropped and counted.
        resolution: With an unknown range, the most cells per axis, at least 2.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown, out of its range or excludes another.

    Example:
        >>> import torch
        >>> from mi_metrics import BinnedMutualInformation
        >>> generator = torch.Generator().manual_seed(0)
        >>> metric = BinnedMutualInformation("auto", bias_correction="grassberger")
        >>> for _ in range(10):
        ...     x = torch.randn(1_000, generator=generator)
        ...     y = 0.6 * x + 0.8 * torch.randn(1_000, generator=generator)  # truth: 0.2231 nats
        ...     metric.update(x, y)
        >>> print(f"{metric.compute():.4f}")
        0.2228

    References:
        C. O. Daub et al., "Estimating mutual information using B-spline functions" (2004),
        doi:10.1186/1471-2105-5-118.
    """

    @keywords
    def __init__(
        self,
        num_bins: NumBins = 32,
        *,
        value_range: ValueRange = None,
        binning: Binning = "uniform",
        clip_quantile: float = 0.0,
        margin: float = 0.0,
        kernel: Kernel = "hard",
        normalization: Normalization = "none",
        bias_correction: BiasCorrection = "none",
        unit: Unit = "nats",
        num_outputs: int = 1,
        nan_strategy: NanStrategy = "error",
        resolution: int = 256,
        **kwargs: Any,
    ) -> None:
        bins, ranges = check_binning(num_bins, value_range, binning, clip_quantile, margin, kernel)
        check_options(normalization, bias_correction, unit)
        check_correction(bias_correction, kernel)
        resolution = check_integer("resolution", resolution, 2)
        if ranges is not None and bins is None:
            raise ValueError(
                '`num_bins="auto"` is chosen from the data and excludes a given `value_range`, '
                "whose table has to know its bins before the first sample. Give the number of "
                "bins, or pass value_range=None."
            )
        if ranges is None and bins is not None and max(bins) > resolution:
            raise ValueError(
                f"Expected `resolution` to be at least the number of bins {max(bins)}, but got "
                f"{resolution}. With an unknown range the bins are made of `resolution` cells at "
                "most: raise it."
            )
        super().__init__(
            None if ranges is None else bins,
            ranges,
            kernel=kernel,
            resolution=resolution,
            num_outputs=num_outputs,
            nan_strategy=nan_strategy,
            **kwargs,
        )
        self.num_bins, self.value_range, self.binning = bins or "auto", ranges, binning
        self.clip_quantile, self.margin, self.kernel = float(clip_quantile), float(margin), kernel
        self.normalization, self.bias_correction, self.unit = normalization, bias_correction, unit
        self.resolution = resolution

    def compute(self) -> Tensor:
        """Return the mutual information of all samples since the last reset, of all ranks."""
        views = self._views()
        counts = _stack([view.counts for view in views])
        self._warn_once("no samples", self._without_samples())
        self._warn_once("outside", self._outside_message())
        if any(view.coarse for view in views):
            self._warn_once(
                "coarse grid",
                f"The grid of {self.resolution} cells per axis is coarser than the bins of "
                f"{type(self).__name__}, as heavy tails or far outliers make it, so some bins "
                "can't be told apart. Raise `resolution`, use fewer bins, or transform both "
                "variables monotonically first (ranks, logarithms): mutual information does not "
                "change.",
            )
        if self.bias_correction == "none" and self.kernel == "hard":
            self._warn_once("undersampled", undersampled(counts))
        value = information(
            counts,
            normalization=self.normalization,
            bias_correction=self.bias_correction,
            unit=self.unit,
        )
        return self._squeeze(value)

    def counts(self) -> Tensor:
        """Return the counts in bins, ``(B_x, B_y)``, or ``(C, B_x, B_y)`` for several outputs.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for the counts of all.
        int64 with the hard kernel, else float64.
        """
        return self._squeeze(_stack([view.counts for view in self._views()]))

    def joint(self) -> Tensor:
        """Return the probability table, ``(B_x, B_y)``, or ``(C, B_x, B_y)`` for several outputs;
        it sums to 1.

        NaN without samples. Of this rank alone, as :meth:`counts`.
        """
        counts = self.counts().double()
        return counts / counts.sum((-2, -1), keepdim=True)

    def edges(self, output: int = 0) -> tuple[Tensor, Tensor]:
        """Return the edges of the bins of x and of y in data units, float64 ``(B + 1,)`` each."""
        self._check_output(output)
        view = self._views()[output]
        x_edges, y_edges = (
            axis.borders(bins, *ends)
            for axis, bins, ends in zip(view.axes, view.counts.shape[1:], view.ends, strict=True)
        )
        return x_edges, y_edges

    def _views(self) -> list[OutputView]:
        """Return each output's state in bins."""
        if self._ranges is None:
            return [self._grid_view(c) for c in range(self.num_outputs)]
        axes = self._axes(torch.float64, torch.float64)
        return [OutputView(table.unsqueeze(0), axes, self._ranges, False) for table in self.table]

    def _grid_view(self, output: int) -> OutputView:
        """Return the cells of an output's grid in bins: each cell goes where the value that stands
        for it lies.

        The functional API does the rest, on these values with their counts as weights. So the two
        agree to the bit where the cells are the distinct values themselves.
        """
        cells = grid.view(self.table[output : output + 1])
        wide = self.counters[[WIDE_X, WIDE_Y], output].tolist()
        values = [
            self._values(axis, bool(w)) for axis, w in zip((cells.x, cells.y), wide, strict=True)
        ]
        n = cells.joint.sum((1, 2))
        if isinstance(self.num_bins, tuple):
            bins = self.num_bins
        else:
            r = table_correlation(values[0], values[1], cells.joint)
            bins = (int(auto_num_bins(n.double(), r, min(MAX_AUTO_BINS, self.resolution))),) * 2
        axes, ends, coarse = [], [], False
        for axis, value, b in zip((cells.x, cells.y), values, bins, strict=True):
            # An empty table has no range; any will do.
            weights = torch.where(n > 0, axis.counts, 1).double()
            number = torch.full_like(n, b).unsqueeze(1)
            axes.append(
                data_axis(value, number, weights, self.binning, self.clip_quantile, self.margin)
            )
            ends.append((float(axis.lower.min()), float(axis.upper.max())))
            coarse |= _is_coarse(axis, axes[-1])
        if self.kernel == "hard":
            rows, columns = (a.cell(v).long() for a, v in zip(axes, values, strict=True))
            counts = grid.regroup(cells.joint, rows, columns, bins)
        else:
            wx, wy = (
                kernel_matrix(v.double(), a, b, self.kernel)
                for v, a, b in zip(values, axes, bins, strict=True)
            )
            counts = wx.mT @ cells.joint.double() @ wy
        return OutputView(counts, (axes[0], axes[1]), (ends[0], ends[1]), coarse)

    def _values(self, axis: grid.Axis, wide: bool) -> Tensor:
        # The functional API evaluates float32 samples in float32; where the cells are the samples,
        # so does this.
        return (
            axis.centre.float()
            if axis.lossless and not wide and self.kernel == "hard"
            else axis.centre
        )


def _is_coarse(cells: grid.Axis, axis: Axis) -> bool:
    width = cells.upper - cells.lower
    if axis.edges is None:
        bin_width = axis.width.double() / axis.bins.double()
        too_wide = width > (bin_width if axis.scale is None else bin_width / axis.scale)
    else:
        too_wide = (width > 0) & (cells.counts * axis.bins > cells.counts.sum())
    return bool((too_wide & (cells.counts > 0)).any())


def _stack(tables: list[Tensor]) -> Tensor:
    """Stack tables ``(1, B_x, B_y)``; automatic bins differ between outputs, and the smaller tables
    are padded.
    """
    bx, by = (max(table.shape[i] for table in tables) for i in (1, 2))
    return torch.cat(
        [pad(table, (0, by - table.shape[2], 0, bx - table.shape[1])) for table in tables]
    )
