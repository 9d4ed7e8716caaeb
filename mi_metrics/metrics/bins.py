"""Metrics of joint tables in bins: what two variables, and two given a third, have in common."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mi_metrics.functional.binned import check_correction
from mi_metrics.functional.cautions import Kind
from mi_metrics.functional.inference import pointwise_mutual_information
from mi_metrics.functional.information import check_options
from mi_metrics.functional.options import Binning, check_integer
from mi_metrics.functional.tables import views
from mi_metrics.functional.tables.automatic import Choice, choose
from mi_metrics.functional.tables.pairs import Cells
from mi_metrics.metrics.inference import IntervalMetric, stacked
from mi_metrics.metrics.table import JointTableMetric
from mi_metrics.states import reading
from mi_metrics.states.reading import OutputView


class BinnedMetric(JointTableMetric, IntervalMetric):
    """A joint table in bins, chosen when it is read.

    Args:
        options: Checked options of a binned estimate.
        binning: What the user called the kinds of bins.
        resolution: The most cells per axis of an unknown range, or those of a given one under
            automatic bins.
        num_conditions: The number of classes of a third variable, or None without one.
        kwargs: Further arguments of :class:`JointTableMetric`.
    """

    # Whether the rows of the table are conditions, and not outputs.
    _conditional = False

    def __init__(
        self,
        options: views.Options,
        *,
        binning: Binning,
        resolution: int,
        num_conditions: int | None,
        **kwargs: Any,
    ) -> None:
        check_options(
            options.normalization,
            options.bias_correction,
            options.unit,
            whole=options.kernel == "hard",
        )
        check_correction(options.bias_correction, options.kernel)
        resolution = check_integer("resolution", resolution, 2)
        bins, ranges = options.bins, options.ranges
        _check_known(options, options.kernel, resolution)
        super().__init__(
            None if ranges is None else bins or (resolution, resolution),
            ranges,
            kernel=options.kernel,
            resolution=resolution,
            num_conditions=num_conditions,
            **kwargs,
        )
        self.num_bins, self.value_range, self.binning = bins or "auto", ranges, binning
        self.clip_quantile, self.margin = options.clip_quantile, options.margin
        self.kernel, self.normalization = options.kernel, options.normalization
        self.bias_correction = options.bias_correction
        self.unit = options.unit  # type: ignore[assignment]
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
        return self._squeeze(self._values(found, options))

    def _values(self, found: list[OutputView], options: views.Options) -> Tensor:
        return torch.cat([view.table.value(options) for view in found])

    def _doubts(self, found: list[OutputView], options: views.Options) -> dict[Kind, str]:
        doubts: dict[Kind, str] = {}
        for view in found:
            if message := reading.coarse_message(view, type(self).__name__, self.resolution):
                doubts.setdefault("coarse grid", message)
            for kind, message in view.table.doubts(options, self.resolution):
                doubts.setdefault(kind, message)
        return doubts

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
        options, table = self._options, self._table(output)
        if self._ranges is None:
            return reading.read(table, options, self._wide(output), conditional=self._conditional)
        (binned,) = choose(*self._pairs(output))
        return OutputView(views.Table(binned, table if options.soft else binned.tables, None), None)

    def _table(self, output: int) -> Tensor:
        """Return the state of an output; with conditions there is one output."""
        if not self._conditional:
            return self.table[output : output + 1]
        return self.table if self._ranges is None else self.table.unsqueeze(0)

    def _pairs(self, output: int) -> tuple[Cells, Choice]:
        options, table = self._options, self._table(output)
        choice = options.choice(self.resolution)
        if self._ranges is not None:
            # The bins of the table itself, where their number was given.
            return views.cells_of_ranges(table), choice._replace(kinds=("uniform", "uniform"))
        pairs, _ = reading.pairs_of(
            table,
            self._wide(output),
            conditional=self._conditional,
            clip_quantile=self.clip_quantile,
            margin=self.margin,
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
        return stacked([view.counts.flatten(0, -3) for view in self._views()])

    def _pointwise(self, output: int, x: Tensor, y: Tensor) -> Tensor:
        view = self._view(output)
        values = pointwise_mutual_information(view.counts[0], unit=self.unit)
        return values[self._bins_of(view, x, y)]

    def _bins_of(self, view: OutputView, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bins of finite samples ``(n,)``, int64."""
        if view.cells is not None:
            return reading.bins_of(view, 0, x), reading.bins_of(view, 1, y)
        # The cells of the table, then the bins that these are in.
        cells = (
            fine.cell(v.unsqueeze(0)).double()
            for fine, v in zip(self._axes(x.dtype, y.dtype), (x, y), strict=True)
        )
        bins = [a.cell(v)[0].long() for a, v in zip(view.table.binned.axes, cells, strict=True)]
        return bins[0], bins[1]

    def _edges(self, view: OutputView, side: int) -> Tensor:
        axis, bins = view.table.binned.axes[side], view.counts.shape[side - 2]
        if view.cells is None:
            assert self._ranges is not None
            lo, hi = self._ranges[side]
            # Bins of given ranges begin with the first cell that lies in them.
            most = self.table.shape[side - 2]
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
    if ranges is None:
        check_resolution(bins, resolution)


def check_resolution(bins: tuple[int, int] | None, resolution: int) -> None:
    """Refuse more bins than a grid has cells."""
    if bins is not None and max(bins) > resolution:
        raise ValueError(
            f"Expected `resolution` to be at least the number of bins {max(bins)}, but got "
            f"{resolution}. With an unknown range the bins are made of `resolution` cells at "
            "most: raise it."
        )
