"""Lookups of the dyadic grid: from numbers to the cells of a state, by equal steps.

The arithmetic is that of :mod:`mi_metrics.states.grid`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.tensors import sort_rows
from mi_metrics.states.keys import _EMPTY, _NEVER, LEAST, _floor, _meet, _number, _power, resolution

# A lookup table stays in cache up to about this size; cells beyond it are found by sorting.
_SPAN = 1 << 16
# A further lookup is made where the others miss a larger share than that.
RARE = 1 << 6


class Lookup(NamedTuple):
    """From a number to its code in the joint table, by way of its index among equal steps of the
    real line.
    """

    enlarge: Tensor  # (C, 1) float64: 2^-e for steps 2^e below 1, else 1
    shrink: Tensor | None  # (C, 1) float64: 2^-e for steps above 1, else 1; None where all are 1
    start: Tensor  # (C, 1) float64: the index before the first in the table
    far: bool  # or the first itself, where the one before is no float64
    code: Tensor  # (C, T + 2) int64; the first and the last entry stand for everything outside
    # (C, T + 2) float64: the border of the entry's cell, where the step is wider than it.
    lower: Tensor | None
    upper: Tensor | None  # the next border; None where cells are points

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the codes of x (C, n), and whether each holds (None: all do)."""
        index = _steps(x, self.enlarge, self.shrink).sub_(self.start)
        if self.far:
            index.add_(1)
        slot = index.clamp_(0, self.code.shape[1] - 1).long()
        code = self.code.gather(1, slot)
        if self.lower is None:
            return code, None
        lower = self.lower.gather(1, slot)
        if self.upper is None:
            return code, x == lower
        return code, (x >= lower).logical_and_(x < self.upper.gather(1, slot))


def lookups_of(
    state: Tensor, outputs: int | None = None, rare: int = RARE
) -> tuple[list[Lookup], list[Lookup]]:
    """Return for both axes of a state the lookups that find most of the samples like those counted,
    all but one of so many.

    One will do for most data. A second and a third serve what lies far off: a background, a fill
    value.
    """
    m = resolution(state)
    outputs = len(state) if outputs is None else outputs
    joint = state[:, 2 + 2 * m :].reshape(outputs, -1, m, m)
    missed = joint.shape[1] * m * m
    joint = joint.sum(1)
    state = state[:outputs]
    slots = torch.arange(m + 1, dtype=torch.int64, device=state.device)
    lookups: tuple[list[Lookup], list[Lookup]] = ([], [])
    # A code of all tables' cells or more, from either axis, says: not found.
    for axis, step in enumerate((m, 1)):
        codes = torch.where(slots == m, missed, slots * step)
        borders, counts = state[:, 2 + axis * m : 2 + (axis + 1) * m], joint.sum(2 - axis)
        few_of = counts.sum(1) // rare
        while not lookups[axis] or (
            len(lookups[axis]) < 3 and bool((counts.sum(1) > few_of).any())
        ):
            lookup, taken = _lookup(state[:, axis], borders, counts, codes)
            lookups[axis].append(lookup)
            counts = counts.masked_fill(taken, 0)
    return lookups


def _lookup(level: Tensor, borders: Tensor, counts: Tensor, codes: Tensor) -> tuple[Lookup, Tensor]:
    """Return a lookup and the cells (C, m) that it finds.

    The step is the widest that tells neighbouring cells apart, all but the closest sixteenth of
    them: the cell itself for a continuous variable; wider, and with a check of the borders, for
    values far apart by the measure of their cells (the values k / 255 of an image). The table
    begins where it covers most of the samples.
    """
    m = borders.shape[1]
    vacant = borders == _EMPTY
    meet = sort_rows(torch.where(vacant[:, 1:], _NEVER, _meet(borders[:, :-1], borders[:, 1:])))
    close = ((~vacant).sum(1, keepdim=True) - 1).clamp_(min=0) // 16
    # Its power and the inverse are normal numbers.
    step = (meet.gather(1, close) - 1).clamp_(-1000, 1000)
    enlarge, shrink = _power(-step.clamp(max=0)), _power(-step.clamp(min=0))
    lower = _number(borders)
    most = torch.finfo(torch.float64).max
    index = _steps(lower, enlarge, shrink).clamp_(-most, most)
    end = torch.searchsorted(index, index + (_SPAN - 1), right=True)
    upto = torch.nn.functional.pad(counts.cumsum(1), (1, 0))
    first = (upto.gather(1, end) - upto[:, :-1]).argmax(1, keepdim=True)
    start = index.gather(1, first)
    reach = index.gather(1, end.gather(1, first) - 1) - start
    far = start - (start - 1) != 1
    facts = [
        reach.amax(),
        step.amax(),
        (step > level.unsqueeze(1)).any(),
        level.amax() > LEAST,
        far.any(),
    ]
    span, large, wide, broad, far_off = torch.stack(facts).tolist()
    place = (index - start).clamp_(-1, span + 1).add_(1).long().masked_fill_(vacant, 0)
    slot = torch.full((len(borders), int(span) + 3), m, dtype=torch.int64, device=borders.device)
    slot.scatter_(
        1, place, torch.arange(m, dtype=torch.int64, device=borders.device).expand_as(place)
    )
    slot[:, 0] = slot[:, -1] = m
    border = beyond = None
    if wide:  # what is not found compares with NaN
        nan = torch.full_like(start, math.nan)
        border = torch.cat([lower, nan], 1).gather(1, slot)
        if broad:
            beyond = torch.cat([_number(-_floor(-(borders + 1), level)), nan], 1).gather(1, slot)
    before = start if far_off else start - 1
    lookup = Lookup(
        enlarge, shrink if large > 0 else None, before, bool(far_off), codes[slot], border, beyond
    )
    taken = torch.zeros(len(borders), m + 1, dtype=torch.bool, device=borders.device).scatter_(
        1, slot, True
    )[:, :m]
    return lookup, taken


def codes(
    lookups: tuple[list[Lookup], list[Lookup]],
    x: Tensor,
    y: Tensor,
    labels: Tensor | None,
    m: int,
    missed: int,
) -> Tensor:
    """Return the numbers of the cells of finite samples (C, n) in the joint table, or ``missed``
    where the lookups do not find them.
    """
    (code, right_x), (other, right_y) = (
        find(lookup, v, missed) for lookup, v in zip(lookups, (x, y), strict=True)
    )
    code = code.add_(other)
    code = code if labels is None else code.add_(labels, alpha=m * m)
    right = right_x if right_y is None else right_y if right_x is None else right_x & right_y
    # What is not found is not right either.
    code = code.clamp_(max=missed) if right_x is None or right_y is None else code
    return code if right is None else code.where(right, missed)


def find(lookups: list[Lookup], x: Tensor, missed: int) -> tuple[Tensor, Tensor | None]:
    """Ask the first lookup, and the others about what it does not find."""
    code, right = lookups[0](x)
    for lookup in lookups[1:]:
        code = code if right is None else code.where(right, missed)
        other, right = lookup(x)
        found = code < missed
        code, right = code.where(found, other), None if right is None else right | found
    return code, right


def _steps(x: Tensor, enlarge: Tensor, shrink: Tensor | None) -> Tensor:
    """Return floor(x / 2^e) as float64, exactly or infinite.

    Large steps take the floor twice: -1e-300 times 2^-100 is -0.0, and would end up above 0.
    """
    index = x.mul(enlarge).floor_()
    return index if shrink is None else index.mul_(shrink).floor_()
