"""Tables of all pairs of columns of x and of y, over known ranges or over cells that the data
choose.

The state of C_x and C_y columns is one int64 tensor: for each column how many of its samples lie in
each of its cells, and for each pair of columns the joint counts ``(m_x, m_y)``. Over known ranges
the cells are given and states are added. Else each column has a dyadic grid of its own, as in
:mod:`mi_metrics.states.grid`: the level and the borders of at most m occupied cells come first, and
states are merged, in any order to the same bits, for the reasons given there.

A sample that a pair lacks, as its other value is NaN, counts for its column and not for the pair.
So the counts of a column are not sums of those of its pairs.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.options import Interval
from mi_metrics.functional.tables.axis import fixed_axis
from mi_metrics.functional.tensors import chunk_size
from mi_metrics.states import grid
from mi_metrics.states.grid import _axis
from mi_metrics.states.keys import _EMPTY, _NEVER, LEAST, _floor, _key, _occupied

Sides = tuple[Tensor, Tensor]


class Layout(NamedTuple):
    """How many columns x and y have, and into how many cells they are cut."""

    columns: tuple[int, int]
    cells: tuple[int, int]
    ranges: tuple[Interval, Interval] | None  # None: the cells are chosen, equally many on x and y

    @property
    def numbers(self) -> int:
        """How many numbers all joint counts are."""
        return self.columns[0] * self.columns[1] * self.cells[0] * self.cells[1]


class Parts(NamedTuple):
    """A state, or several, read: views of its tensor."""

    level: Tensor  # (..., C_x + C_y) int64; of known ranges empty, as the borders are
    borders: Tensor  # (..., C_x + C_y, m) int64
    x: Tensor  # (..., C_x, m_x) int64: the counts of the columns of x
    y: Tensor  # (..., C_y, m_y) int64
    joint: Tensor  # (..., C_x, C_y, m_x, m_y) int64


def empty(layout: Layout) -> Tensor:
    """Return the state of no samples."""
    (cx, cy), (mx, my) = layout.columns, layout.cells
    counts = torch.zeros(cx * mx + cy * my + layout.numbers, dtype=torch.int64, device="cpu")
    if layout.ranges is not None:
        return counts
    level = torch.full((cx + cy,), LEAST, dtype=torch.int64, device="cpu")
    borders = torch.full(((cx + cy) * mx,), _EMPTY, dtype=torch.int64, device="cpu")
    return torch.cat([level, borders, counts])


def read(state: Tensor, layout: Layout) -> Parts:
    """Return the parts of a state ``(..., L)``."""
    (cx, cy), (mx, my) = layout.columns, layout.cells
    found = 0 if layout.ranges is not None else cx + cy
    sizes = [found, found * mx, cx * mx, cy * my, layout.numbers]
    level, borders, x, y, joint = torch.split(state, sizes, -1)
    lead = state.shape[:-1]
    return Parts(
        level,
        borders.view(*lead, found, mx),
        x.view(*lead, cx, mx),
        y.view(*lead, cy, my),
        joint.view(*lead, cx, cy, mx, my),
    )


def update(state: Tensor, layout: Layout, values: Sides, valid: Sides | None) -> Tensor:
    """Return the state with a batch added.

    Args:
        state: The state before.
        layout: Its layout.
        values: Samples of the columns, ``(C_x, n)`` and ``(C_y, n)``.
        valid: Which of them count; the others are finite. None: all.
    """
    state, n = state.clone(), values[0].shape[1]
    size = max(1, chunk_size("cells", state.device) // sum(layout.columns))
    for start in range(0, n, size):
        part = slice(start, start + size)
        x, y = (v[:, part] for v in values)
        held = None if valid is None else (valid[0][:, part], valid[1][:, part])
        if layout.ranges is None:
            slots = _found(state, layout, x, y, held)
        else:
            slots = _given(layout, layout.ranges, x, y)
        _count(read(state, layout), layout, slots, held)
    return state


def reduction(layout: Layout) -> object:
    """Return the ``dist_reduce_fx`` of a state."""
    return "sum" if layout.ranges is not None else partial(fold, layout=layout)


def fold(stacked: Tensor, layout: Layout) -> Tensor:
    """Merge the states ``(K, L)`` of columns whose cells were chosen."""
    parts, m = read(stacked, layout), layout.cells[0]
    level = parts.level.amax(0)
    names = parts.borders.transpose(0, 1).flatten(1)
    level, borders = _occupied(names, level, m)
    result = stacked[0].clone()
    _widen(result, level, borders, layout)
    head = level.numel() + borders.numel()
    for other in stacked[1:].clone():
        _widen(other, level, borders, layout)
        result[head:] += other[head:]
    return result


def axes(parts: Parts, layout: Layout) -> tuple[grid.Axis, grid.Axis]:
    """Return the cells of the columns of x and of y, chosen by the data."""
    cx = layout.columns[0]
    return (
        _axis(parts.level[:cx], parts.borders[:cx], parts.x),
        _axis(parts.level[cx:], parts.borders[cx:], parts.y),
    )


def problems(state: Tensor, layout: Layout, kept: Tensor) -> list[str]:
    """Say what in a tensor can't be the state of pairs of ``kept`` ``(C_x, C_y)`` samples."""
    parts, found = read(state, layout), []
    if bool((parts.joint < 0).any() | (parts.joint.sum((2, 3)) != kept).any()):
        found.append("counts that are negative or do not sum to the samples of the counters")
    more = (parts.joint.sum(3).amax(1) > parts.x).any() | (
        parts.joint.sum(2).amax(0) > parts.y
    ).any()
    if bool((parts.x < 0).any() | (parts.y < 0).any() | more):
        found.append("columns with fewer samples in a cell than one of their pairs")
    if layout.ranges is None:
        borders, level = parts.borders, parts.level
        if bool(((level < LEAST) | (level >= _NEVER)).any()):
            return ["impossible values in table: levels that no cell has"]
        filled = borders != _EMPTY
        ascend = ~filled[:, 1:] | (borders[:, 1:] > borders[:, :-1])
        numbers = (borders >= -_EMPTY) & (borders <= _EMPTY)
        whole = ~filled | (_floor(borders, level) == borders)
        counts = torch.cat([parts.x, parts.y])
        if not bool(ascend.all() & numbers.all() & whole.all()):
            found.append("borders that are out of order or not of their level")
        elif bool(((counts > 0) != filled).any()):
            found.append("counts in empty cells, or cells without a count")
    return ["impossible values in table: " + ", ".join(found)] if found else []


def _given(layout: Layout, ranges: tuple[Interval, Interval], x: Tensor, y: Tensor) -> Sides:
    """Return the cells of samples over known ranges."""
    a, b = (
        fixed_axis(r, m, v.dtype, v.device).cell(v, m).long()
        for r, m, v in zip(ranges, layout.cells, (x, y), strict=True)
    )
    return a, b


def _found(state: Tensor, layout: Layout, x: Tensor, y: Tensor, valid: Sides | None) -> Sides:
    """Return the cells of samples, after the state was given cells for all of them, in place."""
    keys, parts = _key(torch.cat([x.double(), y.double()])), read(state, layout)
    if valid is not None:
        keys = keys.where(torch.cat(valid), _EMPTY)
    slots, missed = _slots(parts, keys)
    # Most batches bring new cells to few columns.
    new = missed.nonzero().flatten()
    if len(new):
        both = torch.cat([parts.borders[new], keys[new]], 1)
        level, borders = parts.level.clone(), parts.borders.clone()
        level[new], borders[new] = _occupied(both, level[new], layout.cells[0])
        _widen(state, level, borders, layout)
        slots[new] = _slots(Parts(level[new], borders[new], *parts[2:]), keys[new])[0]
    cx = layout.columns[0]
    return slots[:cx], slots[cx:]


def _slots(parts: Parts, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of keys ``(C, n)`` among their column's cells, and which columns lack some.

    What does not count has any.
    """
    floored = _floor(keys, parts.level)
    slots = torch.searchsorted(parts.borders, floored)
    slots = slots.clamp_(max=parts.borders.shape[1] - 1)
    known = (parts.borders.gather(1, slots) == floored) | (keys == _EMPTY)
    return slots, ~known.all(1)


def _count(parts: Parts, layout: Layout, slots: Sides, valid: Sides | None) -> None:
    """Add samples to the counts of columns and pairs, in place."""
    for counts, place, held in zip((parts.x, parts.y), slots, valid or (None, None), strict=True):
        ones = torch.ones_like(place) if held is None else held.long()
        counts.scatter_add_(1, place, ones)
    (x, y), (_, cy), (mx, my) = slots, layout.columns, layout.cells
    joint, n = parts.joint.flatten(1), x.shape[1]
    y = y + mx * my * torch.arange(cy, device=y.device).unsqueeze(1)
    size = max(1, 2 * chunk_size("bins", x.device) // max(1, n * cy))
    for start in range(0, len(x), size):
        some = slice(start, start + size)
        code = ((my * x[some]).unsqueeze(1) + y).flatten(1)
        ones = (
            torch.ones_like(code)
            if valid is None
            else (valid[0][some].unsqueeze(1) & valid[1]).long().flatten(1)
        )
        joint[some].scatter_add_(1, code, ones)


def _widen(state: Tensor, level: Tensor, borders: Tensor, layout: Layout) -> None:
    """Give a state cells that hold its own, in place."""
    parts, cx = read(state, layout), layout.columns[0]
    # Empty slots count nothing, wherever they go.
    slots = torch.searchsorted(borders, _floor(parts.borders, level))
    slots = slots.clamp_(max=borders.shape[1] - 1)
    changed = (parts.borders != borders).any(1).nonzero().flatten()
    for counts, place in ((parts.x, slots[:cx]), (parts.y, slots[cx:])):
        counts.copy_(torch.zeros_like(counts).scatter_add_(1, place, counts))
    for column in changed.tolist():
        side, place = (0, column) if column < cx else (1, column - cx)
        part = parts.joint.select(side, place)
        part.copy_(torch.zeros_like(part).index_add_(side + 1, slots[column], part))
    parts.level.copy_(level)
    parts.borders.copy_(borders)
