"""The compiled twin of counting samples in the cells of a grid through its lookups.

Reference: ``states/grid.py``.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_metrics.kernels import native
from mi_metrics.kernels.native import INTEGER, POINTER, address

# Samples that no lookup knows are given back when there may be so many.
ROOM = 1 << 13

_grid_counts = native.function(
    "mi_grid_counts",
    *(POINTER, INTEGER) * 2,
    *(POINTER, POINTER),
    *(INTEGER,) * 3,
    *(POINTER, POINTER),
    *(INTEGER, INTEGER),
    *(POINTER, INTEGER),
    *(POINTER, INTEGER, POINTER),
)


class Lookup(Protocol):
    """What the reference calls so."""

    @property
    def enlarge(self) -> Tensor: ...  # noqa: D102
    @property
    def shrink(self) -> Tensor | None: ...  # noqa: D102
    @property
    def start(self) -> Tensor: ...  # noqa: D102
    @property
    def far(self) -> bool: ...  # noqa: D102
    @property
    def code(self) -> Tensor: ...  # noqa: D102
    @property
    def lower(self) -> Tensor | None: ...  # noqa: D102
    @property
    def upper(self) -> Tensor | None: ...  # noqa: D102


class Lookups(NamedTuple):
    """Lookups of both axes as the library reads them, and the arrays that they point to."""

    sides: tuple[NDArray[Any], NDArray[Any]]
    rows: int
    held: list[NDArray[Any]]


class Counted(NamedTuple):
    """Where counting ended: the next column, and row * n + column of the samples that no lookup
    knows, int64.
    """

    next: int
    lost: Tensor


def pack(lookups: tuple[Sequence[Lookup], Sequence[Lookup]], state: Tensor) -> Lookups | None:
    """Return the lookups of states ``(R, L)`` for the library, or None where the reference has to
    serve.
    """
    rows, (tables, stride) = len(lookups[0][0].code), state.shape
    missed = tables // rows * stride
    if not native.serves() or missed >= 2**29 or native.array_of(state) is None:
        return None
    sides, held = [], []
    for side in lookups:
        side_, arrays = _pack(side, rows, missed, (math.isqrt(stride - 1) - 1) ** 2)
        sides.append(side_)
        held += arrays
    return Lookups((sides[0], sides[1]), rows, held)


def _pack(
    side: Sequence[Lookup], rows: int, missed: int, cells: int
) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Return the struct of the lookups of an axis, and the arrays that it points to."""
    one = torch.ones(rows, 1, dtype=torch.float64)
    steps = [torch.cat([getattr(lookup, name) for lookup in side]) for name in ("enlarge", "start")]
    shrink = torch.cat([one if lookup.shrink is None else lookup.shrink for lookup in side])
    sizes = [0, *(lookup.code.shape[1] for lookup in side)]
    code = torch.cat([lookup.code for lookup in side], 1)
    code = torch.where(code < cells, code, missed).int()
    borders: list[Tensor] = []
    if any(lookup.lower is not None for lookup in side):
        lower, upper = zip(*(_borders(lookup) for lookup in side), strict=True)
        borders = [torch.cat(lower, 1), torch.cat(upper, 1)]
    far = np.array([lookup.far for lookup in side], dtype=np.int64)
    offset = np.cumsum(sizes, dtype=np.int64)
    size = rows * int(offset[-1])
    held = [t.numpy() for t in (steps[0], shrink, steps[1])]
    places = [address(array, np.float64, rows * len(side)) for array in held]
    held += [far, offset, code.numpy(), *(border.numpy() for border in borders)]
    places += [address(far, np.int64, len(side)), address(offset, np.int64, len(side) + 1)]
    places += [address(held[5], np.int32, size)]
    places += [address(border, np.float64, size) for border in held[6:]] or [0, 0]
    twice = any(lookup.shrink is not None for lookup in side)
    return np.array([*places, len(side), twice], dtype=np.int64), held


def _borders(lookup: Lookup) -> tuple[Tensor, Tensor]:
    """Return where the cells of a lookup's entries begin and end."""
    if lookup.lower is None:
        whole = torch.full(lookup.code.shape, math.inf, dtype=torch.float64)
        return -whole, whole
    if lookup.upper is not None:
        return lookup.lower, lookup.upper
    return lookup.lower, torch.nextafter(lookup.lower, lookup.lower.new_full((), math.inf))


def counted(
    lookups: Lookups,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
    state: Tensor,
    first: int,
) -> Counted | None:
    """Add samples ``(C, n)`` from column ``first`` on to the tables of a state ``(R, L)``, in
    place, until too many are lost or all are counted; None where the reference has to serve, which
    leaves the state useless.
    """
    (rows, n), (tables, stride) = x.shape, state.shape
    cells = (math.isqrt(stride - 1) - 1) ** 2
    marks = None if valid is None else native.array_of(valid.contiguous().view(torch.uint8))
    numbers = None if labels is None else native.array_of(labels.contiguous())
    a, b, into = (native.array_of(v) for v in (x.contiguous(), y.contiguous(), state))
    unread = (marks is None) != (valid is None) or (numbers is None) != (labels is None)
    if a is None or b is None or into is None or unread or rows != lookups.rows:
        return None
    if {x.dtype, y.dtype} - {torch.float32, torch.float64}:
        return None
    conditions = 1 if labels is None else tables
    if tables != conditions * rows:
        raise ValueError(f"Expected a table for each row or label, but got {tables} for {rows}.")
    room = max(ROOM, rows)
    lost, found = np.empty(room, dtype=np.int64), np.zeros(2, dtype=np.int64)
    on_x, on_y = lookups.sides
    failed = _grid_counts(
        *(address(a, a.dtype, rows * n), int(a.dtype == np.float64)),
        *(address(b, b.dtype, rows * n), int(b.dtype == np.float64)),
        None if marks is None else address(marks, np.uint8, rows * n),
        None if numbers is None else address(numbers, np.int64, n),
        *(rows, n, first),
        *(address(on_x, np.int64, 10), address(on_y, np.int64, 10)),
        *(cells, conditions),
        *(address(into, np.int64, tables * stride) + 8 * (stride - cells), stride),
        *(address(lost, np.int64, room), room, address(found, np.int64, 2)),
    )
    if failed:  # no memory, or labels that are none: the reference says so
        return None
    return Counted(int(found[1]), torch.from_numpy(lost[: int(found[0])]))
