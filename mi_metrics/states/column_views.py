"""The state of all pairs of columns read as joint tables in bins: see
:mod:`mi_metrics.states.columns`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mi_metrics.functional.tables import views
from mi_metrics.functional.tables.automatic import MOST_BINS, Choice, choose, choose_alone
from mi_metrics.functional.tables.axis import is_wide
from mi_metrics.functional.tables.pairs import Cells
from mi_metrics.states import columns, grid, reading
from mi_metrics.states.columns import Layout, Sides

# Cells of tables that are read at a time.
CELLS = 2**24
# Beside the kinds of a pair: it is one column twice.
APART = 8


def pair_views(
    state: Tensor, layout: Layout, options: views.Options, wide: Sides
) -> Iterator[tuple[Tensor, reading.OutputView, bool]]:
    """Yield all pairs in bins: their numbers, counted along the rows of the matrix, their tables,
    and whether they are pairs of a column with itself, as far as cells can tell.

    Args:
        state: The state.
        layout: Its layout.
        options: Checked options of a binned estimate.
        wide: Which columns had samples of other dtypes than float32 and shorter, bool.
    """
    parts, number = columns.read(state, layout), layout.columns[1]
    pairs = torch.arange(layout.columns[0] * number, device=state.device)
    choice, itself = _choice(options, layout), _itself(parts, layout)
    if layout.ranges is not None:
        for some, _ in _alike((APART * itself, torch.zeros_like(pairs)), _at_once(layout)):
            same = bool(itself[some[0]])
            joint = parts.joint.flatten(0, 1)[some]
            for binned in choose(views.cells_of_ranges(joint), choice):
                table = views.Table(binned, binned.counts, None)
                yield some[binned.rows], reading.OutputView(table, None), same
        return
    axes = columns.axes(parts, layout)
    kinds = [_kinds(axis, w) for axis, w in zip(axes, wide, strict=True)]
    index = pairs // number, pairs % number
    pair_kinds = kinds[0][index[0]] + APART * itself, kinds[1][index[1]]
    for some, floats in _alike(pair_kinds, _at_once(layout)):
        same = bool(itself[some[0]])
        i, j = (side[some] for side in index)
        joint = parts.joint[i, j]
        x, y = _rows(axes[0], i, joint.sum(2)), _rows(axes[1], j, joint.sum(1))
        cells = grid.Grid(x, y, joint)
        for binned in choose(reading.as_pairs(cells, floats), choice):
            rows = binned.rows
            held = grid.Grid(_rows(x, rows), _rows(y, rows), joint[rows])
            table = views.Table(binned, binned.counts, None)
            yield pairs[some[rows]], reading.OutputView(table, held), same


def column_tables(
    state: Tensor, layout: Layout, side: int, options: views.Options, wide: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all columns of one side in bins of their own: their numbers, and tables of each with
    itself.
    """
    parts, choice = columns.read(state, layout), _choice(options, layout)
    counts = (parts.x, parts.y)[side]
    bins = None if choice.bins is None else (choice.bins[side],) * 2
    choice = choice._replace(bins=bins, kinds=(choice.kinds[side],) * 2)
    rows, most = torch.arange(len(counts), device=state.device), _at_once(layout)
    if layout.ranges is not None:
        for some in rows.split(most):  # type: ignore[no-untyped-call]
            for binned in choose_alone(views.cells_of_ranges(counts[some].diag_embed()), choice):
                yield some[binned.rows], binned.counts
        return
    axis = columns.axes(parts, layout)[side]
    kinds = _kinds(axis, wide)
    for some, floats in _alike((kinds, kinds), most):
        own = _rows(axis, some, counts[some])
        pairs: Cells = reading.as_pairs(grid.Grid(own, own, own.counts.diag_embed()), floats)
        for binned in choose_alone(pairs, choice):
            yield some[binned.rows], binned.counts


def _itself(parts: columns.Parts, layout: Layout) -> Tensor:
    """Return which pairs are one column twice, ``(C_x C_y,)`` bool: both have the same cells, and
    each sample lies in the same one.
    """
    joint, (cx, _) = parts.joint, layout.columns
    if layout.cells[0] != layout.cells[1]:
        return torch.zeros(joint.shape[:2], dtype=torch.bool, device=joint.device).flatten()
    found = joint.diagonal(dim1=2, dim2=3).sum(2) == joint.sum((2, 3))
    if layout.ranges is not None:
        return (found & (layout.ranges[0] == layout.ranges[1])).flatten()
    found &= parts.level[:cx].unsqueeze(1) == parts.level[cx:]
    return (found & (parts.borders[:cx].unsqueeze(1) == parts.borders[cx:]).all(2)).flatten()


def _choice(options: views.Options, layout: Layout) -> Choice:
    resolution = max(layout.cells)
    choice = options.choice(resolution)
    # The bins of given ranges are those of the table itself, where their number was given.
    return choice if layout.ranges is None else choice._replace(kinds=("uniform", "uniform"))


def _at_once(layout: Layout) -> int:
    return max(1, min(views.PAIRS, CELLS // (layout.cells[0] * layout.cells[1])))


def _kinds(axis: grid.Axis, wide: Tensor) -> Tensor:
    """Return numbers of columns whose cells are read by the same arithmetic: bits for "lossless",
    for "in float64", and for numbers that few are as large as.
    """
    # The counters know of samples of pairs alone; where the partners of a column are all missing,
    # its numbers show that float32 would merge or lose them.
    wide = wide | (axis.centre.float().double() != axis.centre).any(1)
    lo, hi = axis.centre.amin(1, keepdim=True), axis.centre.amax(1, keepdim=True)
    in_float32 = is_wide(lo.float(), hi.float(), 2 * MOST_BINS).squeeze(1)
    in_float64 = is_wide(lo, hi, 2 * MOST_BINS).squeeze(1)
    huge = torch.where(axis.lossless & ~wide, in_float32, in_float64)
    return axis.lossless.long() + 2 * wide.long() + 4 * huge.long()


def _alike(kinds: Sides, most: int) -> Iterator[tuple[Tensor, tuple[bool, bool]]]:
    """Yield the places of pairs of the same kinds, and which sides are in float64; of huge numbers
    one at a time, as the arithmetic of all pairs of a block changes for one of them.
    """
    code = 8 * kinds[0] + kinds[1]
    for value in sorted(set(code.tolist())):
        places = (code == value).nonzero().flatten()
        size = 1 if value & (4 + 32) else most
        for start in range(0, len(places), size):
            yield places[start : start + size], (bool(value & 16), bool(value & 2))


def _rows(axis: grid.Axis, rows: Tensor, counts: Tensor | None = None) -> grid.Axis:
    """Return the cells of some columns, with counts of their own."""
    taken = grid.Axis(*(part[rows] for part in axis))
    return taken if counts is None else taken._replace(counts=counts)
