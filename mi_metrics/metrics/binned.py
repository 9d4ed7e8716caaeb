"""Mutual information from a joint table of bins, as a metric."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mi_metrics.functional.binned import check_correction
from mi_metrics.functional.cautions import Kind
from mi_metrics.functional.inference import pointwise_mutual_information
from mi_metrics.functional.information import check_options
from mi_metrics.functional.options import (
    Binning,
    Kernel,
    NanStrategy,
    Normalization,
    NumBins,
    TableCorrection,
    Unit,
    ValueRange,
    check_integer,
)
from mi_metrics.functional.tables import views
from mi_metrics.functional.tables.automatic import MOST_BINS, Choice, choose
from mi_metrics.functional.tables.pairs import Cells
from mi_metrics.metrics.base import keywords
from mi_metrics.metrics.inference import IntervalMetric, stacked
from mi_metrics.metrics.table import JointTableMetric
from mi_metrics.states import reading
from mi_metrics.states.reading import OutputView


class BinnedMutualInformation(JointTableMetric, IntervalMetric):
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
        check_options(normalization, bias_correction, unit, whole=kernel == "hard")
        check_correction(bias_correction, kernel)
        resolution = check_integer("resolution", resolution, 2)
        bins, ranges = options.bins, options.ranges
        _check_known(options, kernel, resolution)
        super().__init__(
            None if ranges is None else bins or (resolution, resolution),
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

    @property
    def _options(self) -> views.Options:
        # Not an attribute: metrics that were pickled by version 0.1.0 have none.
        return views.parse(
            self.num_bins,
            self.value_range,
            self.binning,
            self.clip_quantile,
            self.margin,
            self.kernel,
            normalization=self.normalization,
            bias_correction=self.bias_correction,
            unit=self.unit,
        )

    def compute(self) -> Tensor:
        """Return the mutual information of all samples since the last reset, of all ranks."""
        found, options = self._views(), self._options
        self._warn_once("no samples", self._without_samples())
        self._warn_once("outside", self._outside_message())
        if not self._in_forward:
            for kind, message in self._doubts(found, options).items():
                self._warn_once(kind, message)
        return self._squeeze(torch.cat([view.table.value(options) for view in found]))

    def _doubts(self, found: list[OutputView], options: views.Options) -> dict[Kind, str]:
        doubts: dict[Kind, str] = {}
        for view in found:
            if message := reading.coarse_message(view, type(self).__name__, self.resolution):
                doubts.setdefault("coarse grid", message)
            for kind, message in view.table.doubts(options, self.resolution):
                doubts.setdefault(kind, message)
        return doubts

    def counts(self) -> Tensor:
        """Return the counts in bins, ``(B_x, B_y)``, or ``(C, B_x, B_y)`` for several outputs.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for the counts of all.
        int64 with the hard kernel, else float64.
        """
        return self._squeeze(self._tables_of_value().squeeze(1))

    def joint(self) -> Tensor:
        """Return the probability table, ``(B_x, B_y)``, or ``(C, B_x, B_y)`` for several outputs;
        it sums to 1.

        NaN without samples. Of this rank alone, as :meth:`counts`.
        """
        counts = self.counts().double()
        return counts / counts.sum((-2, -1), keepdim=True)

    def edges(self, output: int = 0) -> tuple[Tensor, Tensor]:
        """Return the edges of the bins of x and of y in data units, float64 ``(B + 1,)`` each.

        Between unequal bins they are the midpoints of neighbouring values; those of a single value
        v are v ± 0.5, and bins that no value reaches have no width.
        """
        self._check_output(output)
        view = self._views()[output]
        return self._edges(view, 0), self._edges(view, 1)

    def _views(self) -> list[OutputView]:
        """Return each output's state in bins."""
        return [self._view(output) for output in range(self.num_outputs)]

    def _view(self, output: int) -> OutputView:
        """Return the state of an output in bins; of given ranges each equal cell is one, or
        automatic bins pool them.
        """
        options, table = self._options, self.table[output : output + 1]
        if self._ranges is None:
            return reading.read(table, options, self._wide(output))
        (binned,) = choose(*self._pairs(output))
        return OutputView(views.Table(binned, table if options.soft else binned.counts, None), None)

    def _pairs(self, output: int) -> tuple[Cells, Choice]:
        options, table = self._options, self.table[output : output + 1]
        choice = options.choice(most=min(MOST_BINS, self.resolution), few=self.resolution)
        if self._ranges is not None:
            # The bins of the table itself, where their number was given.
            return views.cells_of_ranges(table), choice._replace(kinds=("uniform", "uniform"))
        pairs, _ = reading.pairs_of(
            table, self._wide(output), clip_quantile=self.clip_quantile, margin=self.margin
        )
        return pairs, choice

    def _check_whole_counts(self, method: str) -> None:
        if self._options.soft:
            raise ValueError(
                f"`{method}` needs whole counts, but kernel={self.kernel!r} spreads each sample "
                "over several cells, so that they are not samples that chance could have put "
                'elsewhere. Build the metric with kernel="hard".'
            )

    def _tables_of_value(self) -> Tensor:
        return stacked([view.counts for view in self._views()])

    def _pointwise(self, output: int, x: Tensor, y: Tensor) -> Tensor:
        view = self._view(output)
        values = pointwise_mutual_information(view.counts[0], unit=self.unit)
        if view.cells is not None:
            return values[reading.bins_of(view, 0, x), reading.bins_of(view, 1, y)]
        # The cells of the table, then the bins that these are in.
        cells = (
            fine.cell(v.unsqueeze(0)).double()
            for fine, v in zip(self._axes(x.dtype, y.dtype), (x, y), strict=True)
        )
        bins = [a.cell(v)[0].long() for a, v in zip(view.table.binned.axes, cells, strict=True)]
        return values[bins[0], bins[1]]

    def _edges(self, view: OutputView, side: int) -> Tensor:
        axis, bins = view.table.binned.axes[side], view.counts.shape[1 + side]
        if view.cells is None:
            assert self._ranges is not None
            lo, hi = self._ranges[side]
            # Bins of given ranges begin with the first cell that lies in them.
            most = self.table.shape[1 + side]
            first = -(-torch.arange(bins + 1, device=self.table.device) * most // bins)
            return lo + (hi - lo) * first.double() / most
        cells = (view.cells.x, view.cells.y)[side]
        lower, upper = (v[0, : int(cells.size)] for v in (cells.lower, cells.upper))
        if not len(lower) or lower[0] == upper[-1]:
            middle = float(lower[0]) if len(lower) else 0.0
            edges = torch.full((bins + 1,), middle + 0.5, dtype=torch.float64)
            edges[0] = middle - 0.5
            return edges.to(self.table.device)
        if axis.edges is None:
            return axis.borders(bins)
        values = view.table.binned.pairs.margin(side).values[0, : len(lower)].contiguous()
        place = torch.searchsorted(values, axis.edges[0, : bins - 1].contiguous())
        inner = upper[place - 1] / 2 + pad(lower, (0, 1))[place] / 2
        # Bins below the first value, or beyond the last, have no width.
        inner = torch.where(place < len(lower), inner, upper[-1])
        inner = torch.where(place > 0, inner, lower[0])
        return torch.cat([lower[:1], inner, upper[-1:]])


def _check_known(options: views.Options, kernel: str, resolution: int) -> None:
    """Refuse bins that a table can't be made of."""
    bins, ranges = options.bins, options.ranges
    if ranges is not None and bins is None and kernel != "hard":
        raise ValueError(
            f"Expected `num_bins` to be a number with a given `value_range` and "
            f"kernel={kernel!r}, but got 'auto': a soft table has to know its bins before the "
            "first sample. Give num_bins, for example 32, or pass value_range=None."
        )
    if ranges is None and bins is not None and max(bins) > resolution:
        raise ValueError(
            f"Expected `resolution` to be at least the number of bins {max(bins)}, but got "
            f"{resolution}. With an unknown range the bins are made of `resolution` cells at "
            "most: raise it."
        )
