"""Mutual information of all pairs of columns, as a metric."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.cautions import Kind
from mi_metrics.functional.information import check_options, entropies
from mi_metrics.functional.options import (
    Binning,
    NanStrategy,
    Normalization,
    NumBins,
    TableCorrection,
    Unit,
    ValueRange,
    check_cells,
    check_integer,
    from_nats,
)
from mi_metrics.functional.tables import views
from mi_metrics.functional.tensors import check_mask, check_same_device, check_tensor, lift
from mi_metrics.metrics.base import (
    IGNORED,
    SEEN,
    WIDE_X,
    WIDE_Y,
    MutualInformationMetric,
    keywords,
)
from mi_metrics.metrics.bins import check_resolution
from mi_metrics.states import column_views, columns, reading
from mi_metrics.states.columns import Layout
from mi_metrics.states.header import Value

Batch = tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]


class ColumnsMetric(MutualInformationMetric):
    """Tables of all pairs of columns of x and of y; matrices and scores are views of them.

    State: ``table``, the int64 tensor of :mod:`mi_metrics.states.columns`. Over a known range it is
    a sum; with an unknown range it has a merge of its own.
    """

    table: Tensor

    def __init__(
        self,
        sizes: dict[str, int],
        options: views.Options,
        binning: Binning,
        resolution: int,
        nan_strategy: str,
        **kwargs: Any,
    ) -> None:
        (x_name, cx), (y_name, cy) = (
            (name, check_integer(name, value, 1)) for name, value in sizes.items()
        )
        check_options(options.normalization, options.bias_correction, options.unit, whole=True)
        resolution, ranges = check_integer("resolution", resolution, 2), options.ranges
        cells = resolution, resolution
        configuration: dict[str, Value] = {"x_dim": cx, "y_dim": cy}
        if ranges is None:
            check_resolution(options.bins, resolution)
            configuration |= {"state": "grids of columns", "resolution": resolution}
        else:
            cells = options.bins or cells
            (x_lo, x_hi), (y_lo, y_hi) = ranges
            configuration |= {"state": "tables of columns"}
            configuration |= {"num_bins_x": cells[0], "num_bins_y": cells[1]}
            configuration |= {"x_lo": x_lo, "x_hi": x_hi, "y_lo": y_lo, "y_hi": y_hi}
        layout = Layout((cx, cy), cells, ranges)
        check_cells(
            f"{x_name}={cx} times {y_name}={cy} tables of {cells[0]} x {cells[1]} cells",
            layout.numbers,
        )
        super().__init__(configuration, num_outputs=cx * cy, nan_strategy=nan_strategy, **kwargs)
        self._layout, self._names = layout, (x_name, y_name)
        self.num_bins, self.value_range = options.bins or "auto", options.ranges
        self.binning, self.bias_correction = binning, options.bias_correction
        self.normalization, self.unit = options.normalization, options.unit
        self.resolution = resolution
        self.add_state("table", columns.empty(layout), columns.reduction(layout))

    @property
    def _options(self) -> views.Options:
        return views.parse(
            self.num_bins,
            self.value_range,
            self.binning,
            0.0,
            0.0,
            "hard",
            normalization=self.normalization,
            bias_correction=self.bias_correction,
            unit=self.unit,
        )

    def update(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch of samples, in rows.

        Args:
            x: Samples of any real dtype, ``(N, C_x)``.
            y: Samples paired with ``x`` by row, ``(N, C_y)``.
            mask: bool ``(N,)``; False leaves a row out, whatever it holds.

        Raises:
            TypeError: If x or y is not a real tensor, or the mask is not bool.
            ValueError: If shapes or devices differ, there is no sample, or with
                ``nan_strategy="error"`` a sample is NaN or infinite. The state is left as it was.
        """
        batch = self._batch(x, y, mask)
        if batch is None:
            return
        x, y, valid = batch
        table = columns.update(self.table, self._layout, (x.T, y.T), self._by_column(valid))
        self.counters = self._counted(x, y, valid)
        self.table = table

    def entropies(self) -> tuple[Tensor, Tensor]:
        """Return the entropies of the columns of x and of y, ``(C_x,)`` and ``(C_y,)``, in the
        metric's unit.

        Plug-in values, from all valid samples of a column, in the bins that the matrix has. Where
        these are automatic they follow from the column and N alone. NaN without samples. Of this
        rank alone; enter ``metric.sync_context()`` on every rank for those of all.
        """
        self._check_has_values()
        found = []
        for side, (number, wide) in enumerate(zip(self._layout.columns, self._wide(), strict=True)):
            value = torch.empty(number, dtype=torch.float64, device=self.table.device)
            for some, tables in column_views.column_tables(
                self.table, self._layout, side, self._options, wide
            ):
                value[some] = entropies(tables)[0]
            found.append(from_nats(value, self._options.unit))
        return found[0], found[1]

    def _matrix(self) -> Tensor:
        """Return the information of all pairs, and warn of what is doubtful."""
        options, layout = self._options, self._layout
        self._warn_once("no samples", self._without_samples())
        self._warn_once("outside", self._outside_message())
        value = torch.empty(self.num_outputs, dtype=torch.float64, device=self.table.device)
        doubts: dict[Kind, str] = {}
        found = column_views.pair_views(self.table, layout, options, self._wide())
        for pairs, view, itself in found:
            value[pairs] = view.table.value(options)
            if not self._in_forward:
                self._note_doubts(doubts, view, pairs, itself=itself)
        for kind, message in doubts.items():
            self._warn_once(kind, message)
        return value.view(layout.columns)

    def _note_doubts(
        self,
        doubts: dict[Kind, str],
        view: reading.OutputView,
        pairs: Tensor,
        *,
        itself: bool,
    ) -> None:
        resolution, number = max(self._layout.cells), self._layout.columns[1]
        # Bins of one column twice are as many as there may be.
        coarse = reading.coarse_message if not itself else reading.merged_message
        if message := coarse(view, type(self).__name__, resolution):
            doubts.setdefault("coarse grid", message)
        index = pairs // number, pairs % number
        views.note_doubts(doubts, view.table, self._options, index, resolution, itself=itself)

    def _counter(self, row: int) -> Tensor:
        return self.counters[row].clone().view(self._layout.columns)

    def _wide(self) -> tuple[Tensor, Tensor]:
        x, y = (self._counter(row) > 0 for row in (WIDE_X, WIDE_Y))
        return x.any(1), y.any(0)

    def _batch(self, x: Any, y: Any, mask: Any) -> Batch | None:
        """Return a batch in dtypes that have arithmetic, and which samples are valid (None: all);
        None where the mask leaves nothing.
        """
        x, y = (self._checked(name, v, side) for side, (name, v) in enumerate((("x", x), ("y", y))))
        check_same_device({"x": x, "y": y})
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(
                "Expected as many samples in `x` as in `y`, and at least one, but got "
                f"{len(x)} and {len(y)}. Samples are paired by row; skip empty batches."
            )
        if mask is not None:
            mask = check_mask(mask, x[:, 0])
            x, y = x[mask], y[mask]
            if len(x) == 0:
                return None
        x, y = lift(x, "x"), lift(y, "y")
        # The sum shows every NaN and infinity, in a fraction of the time.
        if bool((x.sum().double() + y.sum().double()).isfinite()):
            return x, y, None
        valid = x.isfinite(), y.isfinite()
        if bool(valid[0].all() & valid[1].all()):
            return x, y, None
        if self.nan_strategy == "error":
            self._refuse_nan(valid)
        zero = torch.zeros((), dtype=torch.int64, device=x.device)
        return torch.where(valid[0], x, zero), torch.where(valid[1], y, zero), valid

    def _checked(self, name: str, values: Any, side: int) -> Tensor:
        """Return the samples of one side as ``(N, C)``, or refuse them."""
        found, number = check_tensor(name, values), self._layout.columns[side]
        self._check_device(found)
        if found.ndim == 1 and number == 1:
            found = found.unsqueeze(1)
        if found.ndim != 2 or found.shape[1] != number:
            raise ValueError(
                f"Expected `{name}` of shape (N, {number}) for {self._names[side]}={number}, but "
                f"got {tuple(found.shape)}. Samples are in rows; flatten what is one variable, "
                "and pass what has samples in columns transposed."
            )
        return found.detach()

    def _refuse_nan(self, valid: tuple[Tensor, Tensor]) -> None:
        for name, held in zip("xy", valid, strict=True):
            if not bool(held.all()):
                column = int((~held).any(0).int().argmax())
                raise ValueError(
                    f"Expected `{name}` to be finite, but it holds {int((~held).sum())} NaN or "
                    f"infinite of {held.numel()} values, first in column {column}. Remove these "
                    'rows, or pass nan_strategy="ignore", which leaves a sample out of the pairs '
                    "that lack it."
                )

    @staticmethod
    def _by_column(valid: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
        return None if valid is None else (valid[0].T, valid[1].T)

    def _counted(self, x: Tensor, y: Tensor, valid: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the counters after a batch."""
        given = torch.full((self.num_outputs,), len(x), dtype=torch.int64, device=x.device)
        kept, none = given, torch.zeros_like(given)
        if valid is not None:
            kept = _together(*valid)
        outside = none
        if self._layout.ranges is not None:
            inside = [
                (v >= lo) & (v <= hi)
                for v, (lo, hi) in zip((x, y), self._layout.ranges, strict=True)
            ]
            if valid is not None:
                inside = [v & held for v, held in zip(inside, valid, strict=True)]
            outside = kept - _together(*inside)
        wide_x, wide_y = (kept if v.dtype == torch.float64 else none for v in (x, y))
        return self.counters + torch.stack([given, given - kept, outside, wide_x, wide_y])

    def _impossible(self, states: dict[str, Any]) -> list[str]:
        if problems := super()._impossible(states):
            return problems
        kept = (states["counters"][SEEN] - states["counters"][IGNORED]).view(self._layout.columns)
        return columns.problems(states["table"], self._layout, kept)


class MutualInformationMatrix(ColumnsMetric):
    r"""Compute the mutual information of each column of x with each column of y, in nats or bits.

    .. math:: M_{ij} = I(x_i; y_j)

    What is computed and its conventions: :func:`mi_metrics.functional.mutual_information_matrix`.
    Here the tables of all pairs are the state: they add up over batches, devices and hosts, and
    everything statistical happens in ``compute``.

    Conventions:
        Exact under splits and ranks: bit for bit. With a given range the value is that of a pair's
        own :class:`mi_metrics.BinnedMutualInformation`, and of the function of all samples. With
        ``value_range=None`` it is the function's where each column has at most ``resolution``
        distinct values; otherwise values are known up to a cell of a grid of ``resolution`` / 2 to
        ``resolution`` cells over a column's samples.
        NaN and infinite samples with ``nan_strategy="ignore"`` are left out of the pairs that lack
        them and of no others, so N differs between pairs: see :attr:`seen` and :attr:`ignored`.
        No samples: NaN, with a warning. ``compute`` never raises.
        Cautions: each kind once, with the first pair that it was found in. A column beside itself
        is known by its cells: its value is the entropy of its bins.
        State: ``table``, int64: for m cells (``resolution``, or the bins over a given range)
        :math:`C_x C_y m^2` joint counts, and m or 2 m + 1 numbers for each column; ``header`` and
        ``counters``. Above :math:`2^{27}` joint counts it is refused.
        Memory: the state, and a bounded chunk in ``update``.
        Gradient: none.

    As input to ``forward`` and ``update`` the metric accepts:
        x: Samples of any real dtype, ``(N, num_x)``.
        y: Samples paired with ``x`` by row, ``(N, num_y)``.

    As output of ``forward`` and ``compute`` the metric returns:
        float64 of shape ``(num_x, num_y)``; of a single pair torchmetrics makes a scalar.

    Args:
        num_x: Number of columns of x.
        num_y: Number of columns of y.
        num_bins: Bins of both axes, ``(B_x, B_y)``, or ``"auto"``: chosen in ``compute`` for each
            pair, at most ``resolution``.
        value_range: ``None`` (unknown, found from the data), ``(lo, hi)`` for all columns, or
            ``((x_lo, x_hi), (y_lo, y_hi))``.
        binning: ``"auto"``, ``"uniform"``, ``"quantile"`` or ``"values"``, or a pair of them for x
            and y.
        bias_correction: ``"auto"``, ``"none"``, ``"miller_madow"`` or ``"grassberger"``.
        normalization: ``"none"``, ``"arithmetic"``, ``"geometric"``, ``"min"``, ``"max"``,
            ``"joint"``, ``"studholme"`` or ``"adjusted"``.
        unit: ``"nats"`` or ``"bits"``.
        nan_strategy: ``"error"`` or ``"ignore"``.
        resolution: The most cells per column of an unknown range, or the cells of a given one under
            ``num_bins="auto"``, at least 2. 64 x 64 pairs take 128 MiB at 64.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown, out of its range or excludes another, or the state
            would be too large.

    Example:
        >>> import torch
        >>> from mi_metrics import MutualInformationMatrix
        >>> generator = torch.Generator().manual_seed(0)
        >>> metric = MutualInformationMatrix(num_x=2, num_y=1)
        >>> for _ in range(10):
        ...     x = torch.randn(1_000, 2, generator=generator)
        ...     metric.update(x, x[:, :1] + 2 * torch.randn(1_000, 1, generator=generator))
        >>> [[round(v, 3) for v in row] for row in metric.compute().tolist()]  # truths: 0.112, 0
        [[0.109], [-0.001]]

    References:
        C. O. Daub et al., "Estimating mutual information using B-spline functions" (2004),
        doi:10.1186/1471-2105-5-118.
    """

    @keywords
    def __init__(
        self,
        num_x: int,
        num_y: int,
        num_bins: NumBins = "auto",
        *,
        value_range: ValueRange = None,
        binning: Binning = "auto",
        bias_correction: TableCorrection = "auto",
        normalization: Normalization = "none",
        unit: Unit = "nats",
        nan_strategy: NanStrategy = "error",
        resolution: int = 64,
        **kwargs: Any,
    ) -> None:
        options = views.parse(
            num_bins,
            value_range,
            binning,
            0.0,
            0.0,
            "hard",
            normalization=normalization,
            bias_correction=bias_correction,
            unit=unit,
        )
        super().__init__(
            {"num_x": num_x, "num_y": num_y}, options, binning, resolution, nan_strategy, **kwargs
        )
        self.num_x, self.num_y = self._layout.columns

    def compute(self) -> Tensor:
        """Return the matrix of all samples since the last reset, of all ranks."""
        return self._matrix()

    def plot(
        self,
        val: Any = None,
        ax: Any = None,
        *,
        x_names: Sequence[str] | None = None,
        y_names: Sequence[str] | None = None,
    ) -> Any:
        """Draw the matrix as a heat map, columns of x downwards; needs matplotlib.

        Negative estimates, which mean none or hardly any information, go from the dark colour of 0
        to brown, by as much as they are below it.

        Args:
            val: A result of ``forward`` or ``compute``, or a list of them, of which the last is
                drawn; by default ``compute()``.
            ax: The axes to draw in; by default a new figure.
            x_names: Names of the columns of x, by default x0, x1, …
            y_names: Names of the columns of y.

        Returns:
            The figure and the axes.
        """
        from mi_metrics.plotting import plot_matrix

        value = self.compute() if val is None else val
        value = value[-1] if isinstance(value, Sequence) else value
        value = value.view(self._layout.columns)
        names = [
            [f"{name}{i}" for i in range(number)] if given is None else given
            for name, number, given in zip(
                "xy", self._layout.columns, (x_names, y_names), strict=True
            )
        ]
        normal = self.normalization == "none"
        label = f"mutual information ({self.unit})" if normal else f"{self.normalization} MI"
        return plot_matrix(value, names[0], names[1], label=label, ax=ax)


def _together(x: Tensor, y: Tensor) -> Tensor:
    """Return how many rows of bool ``(n, C_x)`` and ``(n, C_y)`` are both True, for each pair."""
    # Products of 0 and 1 in float64 are whole numbers.
    return (x.double().T @ y.double()).long().flatten()
