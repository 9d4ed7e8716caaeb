"""A grid read as a joint table in bins: what metrics and the command line show of it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.densities.counted import Cells as DensityCells
from mi_metrics.functional.information import information
from mi_metrics.functional.tables import views
from mi_metrics.functional.tables.automatic import Binned, choose, rebinned
from mi_metrics.functional.tables.axis import Axis, data_axis
from mi_metrics.functional.tables.bspline import kernel_matrix
from mi_metrics.functional.tables.conditions import LabelledCells, averaged
from mi_metrics.functional.tables.pairs import Cells
from mi_metrics.states import grid
from mi_metrics.states.by_condition import pooled

# Nats of entropy that a grid may cost both variables together without a word.
COARSE = 0.1
# A grid may cost this share of the value, as foreseen, without a word; and cells merged in pairs so
# many standard deviations of it.
FORESEEN, DEVIATIONS = 0.15, 3


class OutputView(NamedTuple):
    """The state of one output read as a joint table in bins; tables and axes have a leading
    dimension of 1.
    """

    table: views.Table
    cells: grid.Grid | None  # None: the range is given

    @property
    def counts(self) -> Tensor:
        """The table, ``(1, B_x, B_y)``, or ``(1, K, B_x, B_y)`` under K conditions."""
        return self.table.counts


def pairs_of(
    state: Tensor,
    wide: tuple[bool, bool],
    *,
    conditional: bool = False,
    soft: bool = False,
    clip_quantile: float = 0.0,
    margin: float = 0.0,
) -> tuple[Cells, grid.Grid]:
    """Return the cells of one output's grid as pairs to be put in bins: each cell goes where the
    value that stands for it lies.

    Args:
        state: The grid, ``(1, L)``.
        wide: Whether x and y had samples of other dtypes than float32 and shorter.
        conditional: Whether the state is a grid under K conditions, ``(K, L)``.
        soft: Whether the kernel is soft.
        clip_quantile: What bins of equal width leave out at each end.
        margin: What they add at each end.
    """
    cells = grid.view(pooled(state) if conditional else state)
    labelled = grid.view(state).joint.unsqueeze(0) if conditional else None
    pairs = as_pairs(cells, wide, labelled, soft=soft, clip_quantile=clip_quantile, margin=margin)
    return pairs, cells


def as_pairs(
    cells: grid.Grid,
    wide: tuple[bool, bool],
    labelled: Tensor | None = None,
    *,
    soft: bool = False,
    clip_quantile: float = 0.0,
    margin: float = 0.0,
) -> Cells:
    """:func:`pairs_of` grids that were read, of which all or none are lossless; ``labelled`` are
    the joint counts of an output under each condition.
    """

    def uniform(side: int, values: Tensor, bins: Tensor, weights: Tensor | None) -> Axis:
        return data_axis(values, bins, weights, "uniform", clip_quantile, margin)

    x, y = (
        _values(axis, hard=not soft, wide=w)
        for axis, w in zip((cells.x, cells.y), wide, strict=True)
    )
    kind, joint = (Cells, cells.joint) if labelled is None else (LabelledCells, labelled)
    sides = (cells.x, cells.y)
    wide_x, wide_y = (axis.upper > axis.lower for axis in sides)
    facts = [*(axis.size.amax() for axis in sides), *(axis.lossless.all() for axis in sides)]
    # Few samples leave most of the slots, which come last, without any.
    m_x, m_y, *points = torch.stack(facts).tolist()
    some_x, some_y = slice(max(m_x, 1)), slice(max(m_y, 1))
    return kind(
        (x[:, some_x], y[:, some_y]),
        joint[..., some_x, some_y],
        (bool(points[0]), bool(points[1])),
        (wide_x[:, some_x], wide_y[:, some_y]),
        uniform,
    )


def read(
    state: Tensor,
    options: views.Options,
    wide: tuple[bool, bool],
    *,
    conditional: bool = False,
) -> OutputView:
    """Return the cells of one output's grid in bins.

    The functional API does the rest, on the values that stand for the cells, with their counts as
    weights. So the two agree to the bit where the cells are the distinct values themselves.

    Args:
        state: The grid, ``(1, L)``.
        options: Checked options of a binned estimate, without ranges.
        wide: Whether x and y had samples of other dtypes than float32 and shorter.
        conditional: Whether the state is a grid under K conditions, ``(K, L)``.
    """
    pairs, cells = pairs_of(
        state,
        wide,
        conditional=conditional,
        soft=options.soft,
        clip_quantile=options.clip_quantile,
        margin=options.margin,
    )
    resolution = cells.joint.shape[-1]
    (binned,) = choose(pairs, options.choice(resolution))
    counts = binned.tables
    if options.soft:
        wx, wy = (
            kernel_matrix(v.double(), axis, b, options.kernel)
            for v, axis, b in zip(pairs.values, binned.axes, binned.shape, strict=True)
        )
        counts = wx.mT @ pairs.joint.double() @ wy
    return OutputView(views.Table(binned, counts, None), cells)


def bins_of(view: OutputView, side: int, values: Tensor) -> Tensor:
    """Return the bins of values ``(n,)``, int64: of those that were counted the bins that they are
    in, of others those of the nearest cell.
    """
    assert view.cells is not None
    binned, pairs = view.table.binned, view.table.binned.pairs
    assert isinstance(pairs, Cells)
    axis = binned.axes[side]
    stands, known = _standing_for(values.double(), (view.cells.x, view.cells.y)[side])
    found = axis.cell(pairs.values[side][:, stands])
    if axis.edges is None:
        # Bins of equal width hold values that no sample had, too.
        found = torch.where(known, found, axis.cell(values.unsqueeze(0)).to(found.dtype))
    return found[0].long()


def _standing_for(values: Tensor, axis: grid.Axis) -> tuple[Tensor, Tensor]:
    """Return the place of the cell that stands for each value, and whether it lies in that cell:
    else it is the nearest.
    """
    size = int(axis.size)
    if size == 0:
        nothing = torch.zeros_like(values, dtype=torch.int64)
        return nothing, nothing > 0
    lower, upper = axis.lower[0, :size].contiguous(), axis.upper[0, :size]
    below = torch.searchsorted(lower, values.contiguous(), right=True).sub_(1).clamp_min_(0)
    known = (values == lower[below]) | ((values > lower[below]) & (values < upper[below]))
    above = (below + 1).clamp_max(size - 1)
    middle = upper[below] / 2 + lower[above] / 2
    return torch.where(known | (values < middle), below, above), known


def density_table(cells: grid.Grid, output: int) -> tuple[Tensor, DensityCells, DensityCells]:
    """Return one output's counts and the cells of x and y, as kernel densities take them."""
    axes = []
    for axis in (cells.x, cells.y):
        size = int(axis.size[output])
        widths = axis.upper[output, :size] - axis.lower[output, :size]
        width = float(widths.max()) if size else 0.0
        axes.append(DensityCells(axis.centre[output, :size], width))
    counts = cells.joint[output, : len(axes[0].centres), : len(axes[1].centres)]
    return counts, axes[0], axes[1]


def coarse_message(view: OutputView, name: str, resolution: int) -> str | None:
    """Say that cells of the grid are wider than bins, or hold several of the values that should
    have a bin each.
    """
    if view.cells is None:
        return None
    if message := merged_message(view, name, resolution):
        return message
    if bool(_is_coarse(view).any()):
        return (
            f"The grid of resolution={resolution} cells per axis is coarser than the bins "
            f"of {name}, as heavy tails, far outliers, nearly equal variables "
            f"or more than {resolution} labels make it, so some bins can't be told apart. Raise "
            "`resolution` (for labels to their number), use fewer bins, or transform both "
            "variables monotonically first (ranks, logarithms): mutual information does not "
            "change."
        )
    return None


def merged_message(view: OutputView, name: str, resolution: int) -> str | None:
    """Say that cells of the grid hold several of the values that should have a bin each."""
    if view.cells is None:
        return None
    cells, binned = (view.cells.x, view.cells.y), view.table.binned
    if any(
        kind == "values" and not bool(axis.lossless.all())
        for kind, axis in zip(binned.kinds, cells, strict=True)
    ):
        return (
            f"There are more than resolution={resolution} distinct values, so some of "
            'them share a bin in spite of binning="values", and the value may be too small. '
            "Raise `resolution` to the number of values or more."
        )
    return None


def _values(axis: grid.Axis, *, hard: bool, wide: bool) -> Tensor:
    # The functional API evaluates float32 samples in float32; where the cells are the samples, so
    # does this.
    return axis.centre.float() if bool(axis.lossless.all()) and not wide and hard else axis.centre


def _lost_entropy(cells: grid.Axis, axis: Axis) -> Tensor:
    """Return how much entropy the bins of each row may lose, in nats, where a cell of the grid is
    wider than they are: mutual information loses no more. One value that repeats loses nothing, but
    a cell does not say that it holds a single one.
    """
    width = cells.upper - cells.lower
    share = cells.counts / cells.counts.sum(1, keepdim=True).clamp_min(1)
    if axis.edges is None:
        bin_width = axis.width.double() / axis.bins.double()
        bins = width / (bin_width if axis.scale is None else bin_width / axis.scale)
    else:
        bins = torch.where(width > 0, share * axis.bins, 1)
    return (share * bins.clamp_min(1).log()).sum(1)


def _is_coarse(view: OutputView) -> Tensor:
    """Say which values are too small for want of narrower cells, ``(1,)``.

    What each halving of cells would add is about what it costs to merge neighbours, and where cells
    are wider than bins by an entropy of log 2 they would have to be halved once.
    """
    assert view.cells is not None
    binned, cells = view.table.binned, (view.cells.x, view.cells.y)
    lost = [_lost_entropy(*each) for each in zip(cells, binned.axes, strict=True)]
    found = lost[0] + lost[1] > COARSE
    if not bool(found.any()):
        return found
    value = averaged(_corrected, binned.tables)
    # A cell that holds most samples may lose what it shares with either side.
    merged = [averaged(_corrected, _merged(binned, view.cells, start)) for start in (0, 1)]
    fall = value - torch.minimum(*merged)
    foreseen = fall * torch.maximum(*lost) / math.log(2)
    found &= fall > DEVIATIONS * _deviation(binned.tables)
    return found & (foreseen > FORESEEN * value)


def _merged(binned: Binned, cells: grid.Grid, start: int) -> Tensor:
    """Return the tables of as many bins where cells that touch are merged in pairs."""
    pairs, values = binned.pairs, []
    assert isinstance(pairs, Cells)
    for value, axis in zip(pairs.values, (cells.x, cells.y), strict=True):
        merged, m = value.clone(), value.shape[1]
        touch = (axis.upper[:, : m - 1] == axis.lower[:, 1:m])[:, start::2]
        first, second = value[:, start:-1:2], value[:, start + 1 :: 2]
        merged[:, start + 1 :: 2] = torch.where(touch, first, second)
        values.append(merged)
    return rebinned(binned._replace(pairs=pairs.having((values[0], values[1]))), 1).tables


def _deviation(tables: Tensor) -> Tensor:
    """Return the standard deviation of the values of independent variables, sqrt(2f) / 2N for f
    degrees of freedom.
    """
    rows, columns = ((tables.sum(dim) > 0).sum(-1) for dim in (-1, -2))
    freedom = ((rows - 1) * (columns - 1)).clamp_min(0).view(len(tables), -1).sum(1)
    number = tables.flatten(1).sum(1).double()
    return (2 * freedom.double().clamp_min(1)).sqrt() / (2 * number.clamp_min(1))


def _corrected(counts: Tensor) -> Tensor:
    return information(counts, bias_correction="miller_madow")
