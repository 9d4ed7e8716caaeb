"""The occupied-cell dyadic grid: a joint table for data of unknown range, which merges
exactly.

**Cells.** Level e cuts the real line into the cells [j 2^e, (j+1) 2^e), j an integer. A cell is
named by its lower border, a float64: the border of x is x with the bits below 2^e cleared towards
-inf, floor(x / 2^e) 2^e. It has no more significant bits than x, so it is a float64 itself, where
-2^1024 reads -inf. Levels run from -1074, where every float64 is its own cell, to 1024, where two
cells hold everything. -0.0 is +0.0; a negative number, however small, lies below 0.

**State.** Per output and axis the occupied cells, at most m (the resolution), at the least level e
at which they are that few; and a dense m x m table of the exact number of samples in each pair of
cells. All of it is one int64 tensor of shape (C, 2 + 2m + m^2): the two levels, the borders of x
and of y, ascending, as the bits of their float64 (negative numbers negated, so that integers and
numbers have one order; empty slots hold +inf), the table.

**Why the order of the data does not matter.** Let S be a multiset of samples, n_e(S) the number of
cells that it occupies at level e, and e*(S) the least e with n_e(S) <= m. (1) Cells nest:
floor(floor(x / 2^e) / 2^k) = floor(x / 2^(e+k)), so the border at a level follows from the border
at any lower level, and n_e does not grow with e. (2) A subset occupies a subset of the cells:
n_e(A) <= n_e(A + B), hence e*(A + B) >= max(e*(A), e*(B)).
The state of S is a function of S: its level e*(S), the borders at that level, the counts. Merging
the states of A and B takes both to the level max(e*(A), e*(B)), unites the cells and coarsens while
more than m remain. By (1) the borders and counts found are those of the samples themselves, by (2)
no level below was possible: the result is the state of A + B. So merging is commutative and
associative, the empty state is neutral, and every order, split and merge tree of the same samples
ends in the same bits. The same holds for `update`, which encodes a batch at the level of the state:
a level that some of the samples have forced is a valid start.

**The level in one pass.** Sort the borders and let g_i be the level at which neighbours i and i+1
fall into one cell. Then n_e = 1 + #{i: g_i > e}, and the least level that fits is the m-th largest
of the g_i. Neighbours of different sign never meet, which is why m must be at least 2.

**What is exact.** Every count is the number of samples in a known box, so the total is the number
of samples. At most m distinct values on an axis (8-bit images, class labels) stay at level -1074:
the borders are the values, bit for bit. A far outlier costs one cell, not the range. Otherwise a
value is known to within its cell.

Counts must stay below 2^63. Inputs must be finite where they are valid; integers are exact up to
2^53.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.options import check_integer
from mi_metrics.functional.tables.hard import Refuse
from mi_metrics.functional.tensors import BYTES, check_finite, chunk_size, on_cpu
from mi_metrics.kernels import native
from mi_metrics.states import few, lookups, many, searches
from mi_metrics.states.keys import (
    _EMPTY,
    LEAST,
    _floor,
    _number,
    _occupied,
    regroup,
    resolution,
)
from mi_metrics.states.memory import Memory

# Up to so many samples are searched for among the borders: on the CPU, and on other devices, where
# operations take as long for many.
SMALL, SMALL_ELSEWHERE = 1 << 11, 1 << 20


class Axis(NamedTuple):
    """The occupied cells of one axis, ascending; slots past the last repeat it with count 0.

    A cell that can hold one float64 only (every cell at the least level) is a point: ``lower``,
    ``centre`` and ``upper`` are that number, its width is 0. All are finite: a border at -2^1024 or
    2^1024 reads as the largest float64. Empty outputs hold zeros.
    """

    level: Tensor  # (C,) int64
    size: Tensor  # (C,) int64: how many cells are occupied
    lower: Tensor  # (C, m) float64
    centre: Tensor  # (C, m) float64: stands for the samples of the cell; exact for points
    upper: Tensor  # (C, m) float64
    counts: Tensor  # (C, m) int64

    @property
    def lossless(self) -> Tensor:
        """Whether ``centre`` and ``counts`` are the sorted distinct values and their numbers, (C,)
        bool.
        """
        return self.level == LEAST


class Grid(NamedTuple):
    """The state, read: both axes and the joint counts (C, m, m), x first."""

    x: Axis
    y: Axis
    joint: Tensor


def empty(num_outputs: int, resolution: int, device: torch.device | str | None = None) -> Tensor:
    """Return the state (C, 2 + 2m + m^2) of no samples, m the resolution: the neutral element of
    `merge`.
    """
    m = check_integer("resolution", resolution, 2)
    state = torch.zeros(num_outputs, 2 + 2 * m + m * m, dtype=torch.int64, device=device)
    state[:, :2] = LEAST
    state[:, 2 : 2 + 2 * m] = _EMPTY
    return state


def update(
    state: Tensor,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None = None,
    labels: Tensor | None = None,
    memory: Memory | None = None,
    refuse: Refuse | None = None,
) -> Tensor:
    """Return the state with the pairs x, y (C, n) added, those apart where ``valid`` (C, n) is
    False: what `merge` makes of it and theirs, bit for bit, for a few lookups per sample.

    With ``labels`` (1, n) below K, C is 1 and the K rows of the state share their cells
    (:mod:`mi_metrics.states.by_condition`).

    Samples in cells that the state knows are counted through the lookup. The others, few once the
    state has seen similar data, are gathered and sorted. Takes a few times the memory of the state
    and of a chunk.

    Samples without ``valid`` may hold NaN and inf, which are refused; others may not. So may
    ``labels`` hold such as are none, if ``refuse`` refuses them. A ``memory`` of the updates before
    saves time and changes nothing.
    """
    if x.numel() == 0:
        return state
    memory = Memory() if memory is None else memory
    memory.recall(state)
    if are_few(x):
        if labels is not None and refuse is not None:
            refuse(labels)
        result = _add_few(state, x, y, valid, labels, memory)
    elif x.dtype in BYTES and y.dtype in BYTES:
        result = many.of_bytes(state, x, y, valid, labels, refuse, memory)
    elif on_cpu(x) and memory.lookups is None and not memory.settled and x.numel() <= few.FIRST:
        # To make lookups takes longer; they are worth it once a batch has brought no new cell.
        if labels is not None and refuse is not None:
            refuse(labels)
        memory.forget()
        result, memory.settled = few.inserted(state, x, y, valid, labels)
    else:
        result = _add_many(state, x, y, valid, labels, memory, refuse)
    memory.keep(result)
    return result


def are_few(x: Tensor) -> bool:
    """Say whether samples (C, n) are so few that they are searched for, without lookups."""
    return x.numel() <= (SMALL if on_cpu(x) else SMALL_ELSEWHERE)


def _add_few(
    state: Tensor,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
    memory: Memory,
) -> Tensor:
    if memory.index is not None:
        result = few.found(state, memory.index, x, y, valid, labels)
        if result is not None:
            return result
    result, same = few.inserted(state, x, y, valid, labels)
    # Worth making once a batch has brought no new cell.
    if not same:
        memory.forget()
    elif memory.index is None:
        memory.index = few.index_of(result, len(x))
    return result


def _add_many(
    state: Tensor,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
    memory: Memory,
    refuse: Refuse | None,
) -> Tensor:
    if on_cpu(x) and native.serves():
        found = many.found(state, x, y, valid, labels, memory)
        if found is not None:
            return found
    if labels is not None and refuse is not None:
        refuse(labels)
    if valid is None:
        check_finite(x, y)
    return _by_lookups(state, x, y, valid, labels, memory)


def _by_lookups(
    state: Tensor,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
    memory: Memory,
) -> Tensor:
    if memory.lookups is None and on_cpu(x) and int(state[0, 2]) == _EMPTY:
        memory.forget()
        state, x, y, valid, labels = few.begun(state, x, y, valid, labels)
        if x.numel() == 0:
            return state
    (C, n), m = x.shape, resolution(state)
    chunk = max(1, chunk_size("cells", x.device) // max(C, 1))
    missed = len(state) // C * m * m
    counts = torch.zeros(C, missed + 2, dtype=torch.int64, device=x.device)
    # A further lookup takes little time where it is asked for the samples that others miss alone.
    rare = many.RARE if on_cpu(x) else lookups.RARE
    memory.lookups = memory.lookups or lookups.lookups_of(state, C, rare)
    codes = searches.Held(missed)
    held: list[tuple[Tensor, ...]] = []
    waiting = 0
    for start in range(0, n, chunk):
        part = slice(start, start + chunk)
        keep = None if valid is None else valid[:, part]
        # NaN has no index.
        a, b = (v[:, part] if keep is None else v[:, part].where(keep, 0) for v in (x, y))
        own = None if labels is None else labels[:, part]
        code, lost = _chunk(memory, a, b, keep, own, counts, codes, m)
        if lost:
            miss = code == missed
            some = miss.any(0).nonzero().squeeze(1)
            parts = (a, b, miss) if own is None else (a, b, miss, own)
            held.append(tuple(part[:, some] for part in parts))
            waiting += some.numel()
        if waiting and (16 * waiting >= chunk or start + chunk >= n):
            a, b, miss, *own_ones = (torch.cat(parts, 1) for parts in zip(*held, strict=True))
            own = own_ones[0] if own_ones else None
            codes.count(counts)
            state, same = few.inserted(_add(state, counts), a, b, miss, own)
            if not same or many.MOST_MISSED * waiting > chunk:
                memory.forget()
            if start + chunk >= n:
                return state
            memory.lookups = memory.lookups or lookups.lookups_of(state, C, rare)
            held, waiting = [], 0
            counts.zero_()
    codes.count(counts)
    return _add(state, counts)


def _chunk(
    memory: Memory,
    x: Tensor,
    y: Tensor,
    keep: Tensor | None,
    labels: Tensor | None,
    counts: Tensor,
    codes: searches.Held,
    m: int,
) -> tuple[Tensor, int]:
    """Count finite samples by the lookups; return their codes, and how many are missed."""
    assert memory.lookups is not None
    missed = counts.shape[1] - 2
    tables = missed // (m * m)
    memory.searches = searches.made(memory.lookups, memory.searches, x, y, missed, tables)
    if memory.searches is not None:
        code = memory.searches.codes(x, y, labels, missed)
        code = code if keep is None else code.where(keep, missed + 1)
        return code, codes.add(code, counts)
    code = lookups.codes(memory.lookups, x.double(), y.double(), labels, m, missed)
    if keep is not None:
        code = code.where(keep, missed + 1)
    counts.scatter_add_(1, code, torch.ones((), dtype=torch.int64, device=x.device).expand_as(code))
    return code, int((code == missed).sum())


def merge(a: Tensor, b: Tensor) -> Tensor:
    """Return the state of the samples of both states (C, L)."""
    return fold(torch.stack([a, b]))


def fold(stacked: Tensor) -> Tensor:
    """Merge the states (K, C, L) over the first dimension: the ``dist_reduce_fx`` of the state."""
    K, C, _ = stacked.shape
    m = resolution(stacked)
    level = stacked[..., :2].amax(0)
    levels, tables, slots = [], [], []
    for axis in range(2):
        names = stacked[..., 2 + axis * m : 2 + (axis + 1) * m].transpose(0, 1).reshape(C, K * m)
        least, table = _occupied(names, level[:, axis], m)
        levels.append(least)
        tables.append(table)
        # Empty slots count nothing, wherever they go.
        slots.append(
            torch.searchsorted(table, _floor(names, least)).clamp_(max=m - 1).view(C, K, m)
        )
    joint = stacked[..., 2 + 2 * m :].transpose(0, 1).reshape(C, K, m, m)
    return _pack(levels, tables, regroup(joint, slots[0], slots[1], (m, m)))


def view(state: Tensor) -> Grid:
    """Read a state (C, L)."""
    m = resolution(state)
    joint = state[:, 2 + 2 * m :].reshape(-1, m, m)
    x, y = (
        _axis(state[:, i], state[:, 2 + i * m : 2 + (i + 1) * m], joint.sum(2 - i))
        for i in range(2)
    )
    return Grid(x, y, joint)


def _pack(levels: list[Tensor], borders: list[Tensor], joint: Tensor) -> Tensor:
    return torch.cat([torch.stack(levels, 1), *borders, joint.flatten(1)], 1)


def _add(state: Tensor, counts: Tensor) -> Tensor:
    """Return the state with all but the last two columns of ``counts`` added to its tables."""
    m = resolution(state)
    result = state.clone()
    # In place: a second allocation of many tables takes longer than the sum.
    result[:, 2 + 2 * m :] += counts[:, :-2].reshape(len(state), -1)
    return result


def _axis(level: Tensor, borders: Tensor, count: Tensor) -> Axis:
    size = (borders != _EMPTY).sum(1)
    last = (size - 1).clamp_(min=0).unsqueeze(1)
    slot = torch.arange(borders.shape[1], dtype=torch.int64, device=borders.device).minimum(last)
    key = borders.gather(1, slot)
    key = torch.where(key == _EMPTY, 0, key)
    # The cell ends where the next number's cell begins, at the earliest one number on.
    end = -_floor(-(key + 1), level)
    lower, upper = _number(key), _number(end)
    half = 2.0**1023
    centre = (lower / 2).clamp_(min=-half) + (upper / 2).clamp_(max=half)
    point = end - key == 1
    most = torch.finfo(torch.float64).max
    lower, upper = lower.clamp_(min=-most), upper.clamp_(max=most)
    return Axis(level, size, lower, centre.where(~point, lower), upper.where(~point, lower), count)
