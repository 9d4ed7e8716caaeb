r"""Where a sample lies on an axis of bins: ranges, edges and numbers of bins.

The geometry of every joint table of this package. With :math:`B` bins over :math:`[lo, hi]`, a
sample lies at

.. math::
    t = (x - lo) \, B \, / \, (hi - lo),

in bin :math:`\lfloor t \rfloor`, clamped to 0 … B - 1: half-open bins, the last one closed, as
NumPy has them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.options import (
    BIN_KINDS,
    KERNELS,
    Interval,
    check_cells,
    check_choice,
    check_integer,
    check_number,
)
from mi_metrics.functional.tables.quantiles import ordered, quantile, quantile_edges
from mi_metrics.functional.tensors import on_cpu

MAX_MARGIN = 1000.0
# Above it, whole numbers are not exact in float32.
MAX_BINS_FLOAT32 = 2**24

# Samples are multiplied by it where (x - lo) * B would overflow; a power of two changes no other
# rounding.
SCALE = 2.0**-64


class Axis(NamedTuple):
    """One axis of B bins for R tables at once.

    Shapes: ``lo``, ``width``, ``bins`` are ``(R, 1)`` or ``(1, 1)``, in the dtype of the
    arithmetic; ``scale`` is a power of two that samples are multiplied by first, or None; ``edges``
    are the B - 1 inner edges ``(R, B - 1)`` of bins of unequal width, or None.
    """

    lo: Tensor
    width: Tensor
    bins: Tensor
    scale: Tensor | None = None
    edges: Tensor | None = None

    def position(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return :math:`t` of samples ``(R, n)``, in units of bins from the lower end, not
        clamped.
        """
        x = x.to(self.lo.dtype)
        if self.scale is not None:
            x = x * self.scale
        return torch.sub(x, self.lo, out=out).mul_(self.bins).div_(self.width)

    def cell(self, x: Tensor, most: int | None = None, out: Tensor | None = None) -> Tensor:
        """Return the bin of samples ``(R, n)`` as a whole number in the dtype of the arithmetic.

        ``most`` is the most bins of an axis, if the caller has it on the host: one pass less.
        ``out`` is memory for the result.
        """
        if self.edges is None:
            t = self.position(x, out)
            if most is not None and self.bins.shape[0] == 1:
                # A range of one point has one bin, also for samples beyond it.
                if on_cpu(self.bins):
                    return t.clamp_(0, min(most, int(self.bins)) - 1).floor_()
                return t.clamp_(self.bins.new_zeros(()), self.bins - 1).floor_()
            return t.clamp_min_(0).minimum(self.bins - 1).floor_()
        index = torch.searchsorted(self.edges, x.to(self.edges.dtype).contiguous(), right=True)
        return index.to(self.lo.dtype)

    def borders(self, count: int) -> Tensor:
        """Return the edges ``(count + 1,)`` of the only table's bins of equal width, float64."""
        steps = torch.arange(count + 1, dtype=torch.float64, device=self.lo.device)
        borders = self.lo.double() + self.width.double() * steps / self.bins.double()
        return (borders if self.scale is None else borders / self.scale)[0]

    def take(self, rows: Tensor) -> "Axis":
        """Return the axis of the tables at these places."""
        lo, width, bins, scale, edges = (
            p if p is None or p.shape[0] == 1 else p[rows] for p in self
        )
        return Axis(lo, width, bins, scale, edges)  # type: ignore[arg-type]

    def rows(self, r: slice) -> "Axis":
        """Return the axis of some of the R tables."""
        lo, width, bins, scale, edges = (p if p is None or p.shape[0] == 1 else p[r] for p in self)
        return Axis(lo, width, bins, scale, edges)  # type: ignore[arg-type]


class Binning(NamedTuple):
    """Checked options of a joint table: numbers of bins (None: automatic), ranges (None: unknown)
    and the kinds of bins on both axes.
    """

    bins: tuple[int, int] | None
    ranges: tuple[Interval, Interval] | None
    kinds: tuple[str, str]


def check_binning(
    num_bins: Any, value_range: Any, binning: Any, clip_quantile: Any, margin: Any, kernel: Any
) -> Binning:
    """Refuse options that are wrong or exclude each other."""
    bins = _parse_num_bins(num_bins)
    ranges = parse_value_range(value_range)
    kinds = _parse_kinds(binning)
    check_choice("kernel", kernel, KERNELS)
    if not 0 <= check_number("clip_quantile", clip_quantile) < 0.5:
        raise ValueError(
            f"Expected `clip_quantile` in [0, 0.5), but got {clip_quantile}. It is the fraction of "
            "samples at each end that goes to the edge bins."
        )
    if not 0 <= check_number("margin", margin) <= MAX_MARGIN:
        raise ValueError(
            f"Expected `margin` in [0, {MAX_MARGIN:g}], but got {margin}. It is a fraction of the "
            "range's width, added at both ends."
        )
    if ranges is not None:
        for name, value, default in (("clip_quantile", clip_quantile, 0), ("margin", margin, 0)):
            if value != default:
                raise ValueError(
                    f"`{name}={value}` adapts the range to the data and excludes a given "
                    f"`value_range`. Remove `{name}`, or pass value_range=None."
                )
    for kind in set(kinds) & {"quantile", "values"}:
        _check_kind(kind, bins, ranges, kernel, bool(clip_quantile or margin))
    return Binning(bins, ranges, kinds)


def _parse_kinds(binning: Any) -> tuple[str, str]:
    if isinstance(binning, Sequence) and not isinstance(binning, str):
        if len(binning) != 2:
            raise ValueError(
                f"Expected `binning` to be one of {', '.join(map(repr, BIN_KINDS))}, or a pair of "
                f"them for x and y, but got {len(binning)} values: {binning!r}."
            )
        kinds = binning[0], binning[1]
    else:
        kinds = binning, binning
    for kind in kinds:
        check_choice("binning", kind, BIN_KINDS)
    return kinds


def _check_kind(kind: str, bins: object, ranges: object, kernel: str, adapted: bool) -> None:
    """Refuse what excludes quantile bins, or a bin for each value."""
    if ranges is not None:
        raise ValueError(
            f'`binning="{kind}"` takes its bins from the data and excludes a given '
            '`value_range`. Use binning="uniform", or pass value_range=None.'
        )
    if kernel != "hard":
        raise ValueError(
            f'`binning="{kind}"` has bins of unequal width and needs kernel="hard", but got '
            f'{kernel!r}. Use binning="uniform" with soft kernels.'
        )
    if adapted:
        raise ValueError(
            f'`binning="{kind}"` has no range to clip or widen: its edge bins hold their '
            "share of samples, outliers included. Remove `clip_quantile` and `margin`."
        )
    if kind == "values" and bins is not None:
        raise ValueError(
            f'`binning="values"` has a bin for each distinct value, and no other number, but got '
            f'num_bins={bins}. Leave `num_bins` at its default, "auto".'
        )


def _parse_num_bins(num_bins: Any) -> tuple[int, int] | None:
    if isinstance(num_bins, str):
        if num_bins != "auto":
            raise ValueError(
                f"Expected `num_bins` to be an int, (B_x, B_y) or 'auto', but got {num_bins!r}."
            )
        return None
    if isinstance(num_bins, Sequence):
        if len(num_bins) != 2:
            raise ValueError(
                f"Expected `num_bins` to be an int, (B_x, B_y) or 'auto', but got {len(num_bins)} "
                f"values: {num_bins}."
            )
        bins = check_integer("num_bins", num_bins[0], 1), check_integer("num_bins", num_bins[1], 1)
    else:
        bins = (check_integer("num_bins", num_bins, 1),) * 2
    check_cells(f"num_bins={bins[0]} x {bins[1]}", bins[0] * bins[1])
    return bins


def parse_value_range(value_range: Any) -> tuple[Interval, Interval] | None:
    """Return one interval per axis from ``None``, ``(lo, hi)`` or ``((x_lo, x_hi), (y_lo,
    y_hi))``.
    """
    if value_range is None:
        return None
    if (
        not isinstance(value_range, Sequence)
        or isinstance(value_range, str)
        or len(value_range) != 2
    ):
        raise ValueError(
            f"Expected `value_range` to be None, (lo, hi) or ((x_lo, x_hi), (y_lo, y_hi)), but got "
            f"{value_range!r}."
        )
    nested = [isinstance(v, Sequence) and not isinstance(v, str) for v in value_range]
    if all(nested):
        x, y = value_range
        return _parse_interval("value_range[0]", x), _parse_interval("value_range[1]", y)
    interval = _parse_interval("value_range", value_range)
    return interval, interval


def _parse_interval(name: str, interval: Sequence[Any]) -> Interval:
    if len(interval) != 2:
        raise ValueError(
            f"Expected `{name}` to be a pair (lo, hi), but got {len(interval)} values: "
            f"{interval!r}."
        )
    if any(isinstance(bound, Sequence) and not isinstance(bound, str) for bound in interval):
        raise ValueError(
            f"Expected `{name}` to be None, (lo, hi) or ((x_lo, x_hi), (y_lo, y_hi)), but got "
            f"{interval!r}."
        )
    lo, hi = (check_number(name, bound) for bound in interval)
    if not lo < hi:
        raise ValueError(
            f"Expected `{name}` with lo < hi, but got ({lo}, {hi}). Swap the bounds, or pass "
            "value_range=None to take the data's own."
        )
    return lo, hi


class Fixed(NamedTuple):
    """The numbers of the axis of a range that is known, and the dtype of the arithmetic."""

    lo: float
    width: float
    bins: int
    scale: float | None
    dtype: torch.dtype


def fixed(interval: Interval, bins: int, dtype: torch.dtype) -> Fixed:
    """Return the numbers of the axis of a range that is known, of samples of a dtype."""
    lo, hi = interval
    largest, scale = max(abs(lo), abs(hi)), None
    if not (
        largest < _limit(dtype, bins)
        and hi - lo > torch.finfo(dtype).tiny
        and bins < MAX_BINS_FLOAT32
    ):
        dtype = torch.float64
        if not largest < _limit(dtype, bins):
            lo, hi, scale = lo * SCALE, hi * SCALE, SCALE
    return Fixed(lo, hi - lo, bins, scale, dtype)


def fixed_axis(interval: Interval, bins: int, dtype: torch.dtype, device: torch.device) -> Axis:
    """Return the axis of a range that is known, without reading anything back from the device."""
    lo, width, bins, scale, dtype = fixed(interval, bins, dtype)
    # Fills, not copies from the host: those would wait for the device.
    return Axis(
        _full(lo, dtype, device),
        _full(width, dtype, device),
        _full(bins, dtype, device),
        None if scale is None else _full(scale, dtype, device),
    )


def data_axis(
    x: Tensor,
    bins: Tensor,
    weights: Tensor | None,
    binning: object,
    clip_quantile: float,
    margin: float,
) -> Axis:
    """Return the axis of the data's own range or quantiles; ``x`` and ``weights`` ``(R, n)``,
    ``bins`` ``(R, 1)``.

    Whole weights count as frequencies: two samples of weight 1 and one of weight 2 give the same
    axis. Others count in proportion: only their ratios matter.
    """
    x = x.detach()
    if binning == "quantile" or clip_quantile > 0:
        values, mass = ordered(x, weights)
    if binning == "quantile":
        edges = quantile_edges(values, mass, bins)
        return Axis(
            torch.zeros_like(values[:, :1]),
            torch.ones_like(values[:, :1]),
            bins.to(x.dtype),
            None,
            edges,
        )
    if clip_quantile > 0:
        lo, hi = (quantile(values, mass, q) for q in (clip_quantile, 1 - clip_quantile))
    elif weights is None:
        # Two passes: aminmax along a dimension takes ten times as long as both.
        lo, hi = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    else:
        lo = x.masked_fill(weights == 0, torch.inf).amin(1, keepdim=True)
        hi = x.masked_fill(weights == 0, -torch.inf).amax(1, keepdim=True)
    return interval_axis(lo, hi, bins, margin)


def interval_axis(lo: Tensor, hi: Tensor, bins: Tensor, margin: float) -> Axis:
    """Return the axis of ranges ``(R, 1)`` that were taken from data."""
    most = int(bins.max())
    if not bool(is_wide(lo, hi, most).any()):
        return _axis(lo, hi, bins, margin, None)
    return scaled_axis(lo.double(), hi.double(), bins, most, margin)


def scaled_axis(lo: Tensor, hi: Tensor, bins: Tensor, most: int, margin: float = 0.0) -> Axis:
    """:func:`interval_axis` of float64 ranges and at most ``most`` bins, without reading anything
    from the device.
    """
    wide = is_wide(lo, hi, most)
    # `torch.where(cond, 1.0, 2.0)` returns the default dtype, and in half precision 2**-64 is 0.
    scale = torch.where(wide, lo.new_full((), SCALE), lo.new_full((), 1.0))
    return _axis(lo * scale, hi * scale, bins, margin, scale)


def is_wide(lo: Tensor, hi: Tensor, bins: int) -> Tensor:
    """Return which ranges have so large numbers that arithmetic in their dtype may overflow."""
    return ~(torch.maximum(lo.abs(), hi.abs()) < _limit(lo.dtype, bins))


def _axis(lo: Tensor, hi: Tensor, bins: Tensor, margin: float, scale: Tensor | None) -> Axis:
    width = hi - lo
    if margin > 0:
        lo, hi = lo - margin * width, hi + margin * width
        width = hi - lo
    # A range without width is one bin: a soft kernel would spread the constant over several.
    bins = torch.where(width > 0, bins, 1).to(lo.dtype)
    return Axis(lo, torch.where(width > 0, width, 1), bins, scale)


def _limit(dtype: torch.dtype, bins: int) -> float:
    """Return a magnitude below which (x - lo) * B can't overflow, whatever the margin."""
    return float(torch.finfo(dtype).max) / (8 * MAX_MARGIN * bins)


def _full(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((1, 1), value, dtype=dtype, device=device)
