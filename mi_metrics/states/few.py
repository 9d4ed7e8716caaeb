"""Small batches for the dyadic grid: searched for among the borders of its cells, not by lookups.

A small operation takes the same time whatever it does, so what counts is how many there are, and
how often a value is read back to the host. Samples like those seen before lie in cells that the
state has: two searches tell that, and nothing of the state changes but counts. Others are sorted
with the borders, and the joint table is laid out anew.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.tensors import check_finite, sort_rows
from mi_metrics.states.keys import (
    _EMPTY,
    _distinct,
    _floor,
    _key,
    _least,
    _number,
    regroup,
    resolution,
)

# The first samples of all are sorted, not looked up, up to so many.
FIRST = 1 << 14


class Index(NamedTuple):
    """Where the cells of a state begin and end, of C outputs x first and then y."""

    lower: Tensor  # (2C, m) float64: ascending, empty slots at the end are inf
    # (2C, 1 + m) float64: of what lies below the first cell, then of each cell; -inf where there is
    # none.
    upper: Tensor


def index_of(state: Tensor, outputs: int) -> Index:
    """Return the index of a state (R, L) whose first rows are those of the outputs."""
    level, borders = _head(state, outputs)
    # An infinite border, the lowest of all, holds no number that could be told from -inf.
    none = borders.abs() == _EMPTY
    upper = _number(-_floor(-(borders + 1), level)).masked_fill_(none, -torch.inf)
    return Index(_number(borders), torch.nn.functional.pad(upper, (1, 0), value=-torch.inf))


def found(
    state: Tensor,
    index: Index,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
) -> Tensor | None:
    """Return the state with the pairs (C, n) added, or None where one of them lies in no cell of
    the state, or is not finite.
    """
    C, n = x.shape
    samples = torch.stack([x, y], 1).double()
    place = torch.searchsorted(index.lower, samples.view(2 * C, n), right=True)
    known = (samples.view(2 * C, n) < index.upper.gather(1, place)).view(C, 2, n)
    if valid is not None:
        known.logical_or_(~valid.unsqueeze(1))
    if not bool(known.all()):
        return None
    return _counted(state.clone(), place.view(C, 2, n), valid, labels)


def inserted(
    state: Tensor,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
) -> tuple[Tensor, bool]:
    """Return the state with the pairs (C, n) added, and whether it has the cells that it had."""
    C, n = x.shape
    keys = _key(torch.stack([x, y], 1))
    if valid is not None:
        keys = keys.where(valid.unsqueeze(1), _EMPTY)
    united, place, same, finite = _united(state, keys.view(2 * C, n))
    if valid is None and not finite:
        check_finite(x, y)
    return _counted(united, place.view(C, 2, n), valid, labels), same


def begun(
    state: Tensor,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return a state without cells, which lookups could find, with the first of pairs (C, n) added,
    and the others.
    """
    kept, own = (v if v is None else v[:, :FIRST] for v in (valid, labels))
    state, _ = inserted(state, x[:, :FIRST], y[:, :FIRST], kept, own)
    valid, labels = (v if v is None else v[:, FIRST:] for v in (valid, labels))
    return state, x[:, FIRST:], y[:, FIRST:], valid, labels


def inserted_table(state: Tensor, keys: Tensor, joint: Tensor) -> tuple[Tensor, bool]:
    """Return the state (R, L) with pairs of values added that occur ``joint`` (C, R / C, k, k)
    times, and whether it has the cells that it had.

    ``keys`` (C, 2, k) are those of the values of x and y, +inf's where one does not occur.
    """
    C, k = len(keys), keys.shape[2]
    m, stride = resolution(state), state.shape[1]
    united, place, same, _ = _united(state, keys.view(2 * C, k))
    row, column = place.view(C, 2, k).unbind(1)
    code = row.mul(m).unsqueeze(2) + column.unsqueeze(1)
    first = stride * torch.arange(joint.shape[1], dtype=torch.int64, device=joint.device)
    codes = code.unsqueeze(1) + first.view(-1, 1, 1)
    # As in `_counted`.
    united.view(C, -1)[:, m + 1 :].scatter_add_(1, codes.view(C, -1), joint.reshape(C, -1))
    return united, same


def _head(state: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """Return the levels (2C,) and borders (2C, m) of the outputs, x and y in turn."""
    m = resolution(state)
    level = state[:outputs, :2].flatten()
    return level, state[:outputs, 2 : 2 + 2 * m].reshape(2 * outputs, m)


def _united(state: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, bool, bool]:
    """Return a copy of a state (R, L) with cells for keys (2C, n), too; the place of each key among
    them, counted from 1; whether the cells are those of the state; and whether keys are finite.
    """
    m, C = resolution(state), len(keys) // 2
    level, borders = _head(state, C)
    cells = _floor(keys, level)
    ordered = sort_rows(torch.cat([borders, cells], 1))
    table, count = _distinct(ordered, m)
    table, more = table[:, :m].contiguous(), count[:, -1] + (ordered[:, -1] != _EMPTY)
    # All that is asked for at once.
    facts = torch.stack([*torch.aminmax(keys), more.amax(), (table != borders).any()]).tolist()
    finite = facts[0] > -_EMPTY and facts[1] < _EMPTY
    if facts[2] <= m and not facts[3]:
        return state.clone(), torch.searchsorted(borders, cells, right=True), True, finite
    joint = state[:, 2 + 2 * m :].view(-1, m, m)
    result = torch.empty_like(state)
    into = result[:, 2 + 2 * m :].view(-1, m, m)
    if facts[2] <= m:
        # Every old cell is a new one. The last slot was empty where there are others: it stands for
        # what was not there.
        old = torch.searchsorted(borders, table).clamp_(max=m - 1)
        old.masked_fill_(borders.gather(1, old) != table, m - 1)
        rows, columns = old.view(C, 2, m).unbind(1)
        _arranged(joint, rows.expand(len(joint), m), columns.expand(len(joint), m), into)
    else:
        level, table = _least(ordered, level, m)
        cells = _floor(cells, level)
        # Empty slots count nothing, wherever they go.
        slots = torch.searchsorted(table, _floor(borders, level)).clamp_(max=m - 1)
        rows, columns = slots.view(C, 2, m).unbind(1)
        shape = len(joint), m
        into.copy_(regroup(joint, rows.expand(shape), columns.expand(shape), (m, m)))
    head = torch.cat([level.view(C, 2), table.reshape(C, 2 * m)], 1)
    result[:, : 2 + 2 * m] = head
    return result, torch.searchsorted(table, cells, right=True), False, finite


def _arranged(joint: Tensor, rows: Tensor, columns: Tensor, into: Tensor) -> None:
    """Write joint counts (R, m, m) with rows and columns (R, m) taken from old places."""
    R, m = rows.shape
    # Whole rows are copied faster than they are gathered.
    if R > 1:
        rows = rows + m * torch.arange(R, dtype=torch.int64, device=rows.device).unsqueeze(1)
    taken = joint.reshape(R * m, m).index_select(0, rows.reshape(-1)).view(R, m, m)
    torch.gather(taken, 2, columns.unsqueeze(1).expand(R, m, m), out=into)


def _counted(state: Tensor, place: Tensor, valid: Tensor | None, labels: Tensor | None) -> Tensor:
    """Count samples in a state, in place, given their places (C, 2, n) among the cells from 1."""
    m = resolution(state)
    row, column = place.unbind(1)
    code = torch.add(column, row, alpha=m)
    if labels is not None:
        code.add_(labels, alpha=state.shape[1])
    one = torch.ones_like(code) if valid is None else valid.to(torch.int64)
    # The place (1, 1) is the first of the joint table. What counts nothing may be anywhere.
    state.view(len(place), -1)[:, m + 1 :].scatter_add_(1, code, one)
    return state
