"""Large batches for the dyadic grid: by the compiled lookups, and bytes by the table of all pairs.

Both give the bits of :mod:`mi_metrics.states.grid`'s own way, in a fraction of the time.
"""

import torch
from torch import Tensor

from mi_metrics.functional.tables.axis import Axis
from mi_metrics.functional.tables.hard import Refuse, every_byte, hard_counts
from mi_metrics.functional.tensors import check_finite, kept, on_cpu
from mi_metrics.kernels import native, native_grid, native_tables
from mi_metrics.states import few
from mi_metrics.states.keys import _EMPTY, _floor, _key, resolution
from mi_metrics.states.lookups import lookups_of
from mi_metrics.states.memory import Memory

# Lookups that miss a larger share of the samples are made anew.
MOST_MISSED = 8
# A further lookup takes little time: it is made where the others miss a larger share than that.
RARE = 1 << 12


def found(
    state: Tensor,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
    memory: Memory,
) -> Tensor | None:
    """Return the state with the pairs (C, n) added, or None where no compiled function serves; a
    label that is none is left to others.
    """
    (C, n), start = x.shape, 0
    while start < n:
        memory.lookups = memory.lookups or lookups_of(state, C, RARE)
        memory.packed = memory.packed or native_grid.pack(memory.lookups, state)
        done = None
        if memory.packed is not None:
            state = state.clone()
            done = native_grid.counted(memory.packed, x, y, valid, labels, state, start)
        if done is None:
            if start > 0:
                # Others begin with the state as it was, of which these lookups are not.
                memory.forget()
            return None
        if lost := done.lost.numel():
            state, same = _inserted(state, x, y, valid, labels, done.lost)
            if not same or MOST_MISSED * lost > C * (done.next - start):
                memory.forget()
        start = done.next
    return state


def _inserted(
    state: Tensor,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
    lost: Tensor,
) -> tuple[Tensor, bool]:
    """Return what :func:`few.inserted` does of the samples that no lookup knows, given as row * n +
    column; refuse NaN and inf among them.
    """
    (C, n), columns = x.shape, lost
    if C > 1:
        columns = torch.unique(lost % n)
    a, b = x[:, columns], y[:, columns]
    miss = torch.ones_like(a, dtype=torch.bool)
    if C > 1:
        miss = torch.zeros_like(miss)
        miss[lost // n, torch.searchsorted(columns, lost % n)] = True
    finite = a.isfinite() & b.isfinite()
    if valid is None and not bool((finite | ~miss).all()):
        check_finite(x, y)
    return few.inserted(state, a, b, miss, None if labels is None else labels[:, columns])


def of_bytes(
    state: Tensor,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
    refuse: Refuse | None,
    memory: Memory,
) -> Tensor:
    """Return the state with pairs (C, n) of bytes added. ``refuse`` refuses labels that are
    none.
    """
    if (found := _of_known_bytes(state, x, y, valid, labels, memory)) is not None:
        return found
    values = torch.stack([_values(v.dtype) for v in (x, y)])
    axis_x, axis_y = (
        Axis(
            lo.view(1, 1), torch.full_like(lo, 256).view(1, 1), torch.full_like(lo, 256).view(1, 1)
        )
        for lo in values[:, 0]
    )
    conditions = 1 if labels is None else len(state)
    joint = hard_counts(
        *(x, y, (axis_x, axis_y), (256, 256), valid),
        labels=labels,
        conditions=conditions,
        refuse=refuse,
    )
    joint = joint.view(len(x), conditions, 256, 256)
    mass = joint.sum(1)
    held = torch.stack([mass.sum(2), mass.sum(1)], 1) > 0
    state, same = few.inserted_table(state, _key(values).where(held, _EMPTY), joint)
    if not same:
        memory.forget()
    return state


def _of_known_bytes(
    state: Tensor,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
    memory: Memory,
) -> Tensor | None:
    """Return the state with pairs of bytes added that all lie in its cells; None where one does
    not, or no compiled function serves.
    """
    if not on_cpu(x) or not native.serves():
        return None
    (C, _), m = x.shape, resolution(state)
    if memory.of_bytes is None:
        memory.of_bytes = _cells(state, C)
    cells = [side[:, _places(v.dtype)] for side, v in zip(memory.of_bytes, (x, y), strict=True)]
    conditions = 1 if labels is None else len(state)
    found = native_tables.byte_counts(
        x, y, (cells[0], cells[1]), None, (m, m), valid, labels, conditions
    )
    if found is None:
        return None
    state = state.clone()
    state[:, 2 + 2 * m :] += found.counts.view(len(state), -1)
    return state


def _cells(state: Tensor, outputs: int) -> Tensor:
    """Return where the whole numbers from -128 to 255 lie among the cells of a state, int32
    ``(2, C, 384)``; -1 for those in no cell.
    """
    m = resolution(state)
    borders = state[:outputs, 2 : 2 + 2 * m].reshape(2 * outputs, m)
    keys = _key(torch.arange(-128, 256, dtype=torch.float64)).expand(2 * outputs, -1)
    cells = _floor(keys, state[:outputs, :2].flatten())
    place = torch.searchsorted(borders, cells, right=True) - 1
    known = borders.gather(1, place.clamp(min=0)) == cells
    return place.where(known, -1).int().view(outputs, 2, -1).transpose(0, 1)


@kept
def _places(dtype: torch.dtype) -> Tensor:
    """Return the places of all values of a dtype of one byte from -128 on, in the order of their
    bits.
    """
    return every_byte(dtype).long() + 128


def _values(dtype: torch.dtype) -> Tensor:
    """Return the values of a dtype of one byte in ascending order, float64 ``(256,)``."""
    return torch.arange(256, dtype=torch.float64) - 128 * (dtype == torch.int8)
