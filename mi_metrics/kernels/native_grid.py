"""The compiled twin of counting samples in the cells of a grid through its lookups.

Reference: ``states/grid.py``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_metrics.kernels import native
from mi_metrics.kernels.native import INTEGER, POINTER, address

_grid_counts = native.function(
    "mi_grid_counts",
    *(POINTER, INTEGER) * 2,
    *(POINTER, POINTER),
    *(INTEGER, INTEGER),
    *(POINTER, INTEGER) * 2,
    *(INTEGER, INTEGER),
    *(POINTER, POINTER),
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


def pack(lookups: tuple[Sequence[Lookup], Sequence[Lookup]]) -> Lookups | None:
    """Return lookups for the library, or None where the reference has to serve."""
    if not native.serves():
        return None
    held: list[NDArray[Any]] = []
    sides = []
    rows = len(lookups[0][0].code)

    def place(tensor: Tensor | None, dtype: Any, size: int) -> int:
        if tensor is None:
            return 0
        array = native.array_of(tensor.contiguous())
        if array is None:
            raise LookupError
        held.append(array)
        return address(array, dtype, size)

    try:
        for side in lookups:
            packed = []
            for one in side:
                size = one.code.shape[1]
                packed += [
                    place(one.enlarge, np.float64, rows),
                    place(one.shrink, np.float64, rows),
                    place(one.start, np.float64, rows),
                    int(one.far),
                    place(one.code, np.int64, rows * size),
                    place(one.lower, np.float64, rows * size),
                    place(one.upper, np.float64, rows * size),
                    size,
                ]
            sides.append(np.array(packed, dtype=np.int64))
    except LookupError:
        return None
    return Lookups((sides[0], sides[1]), rows, held)


def counted(
    lookups: Lookups,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    labels: Tensor | None,
    cells: int,
    counts: Tensor,
    memory: Tensor,
) -> tuple[Tensor, int] | None:
    """Add samples ``(C, n)`` to ``counts`` ``(C, missed + 2)``; return their codes, in ``memory``
    of at least their number, and how many have been missed in all, or None where the reference has
    to serve.

    ``cells`` are those of a label's table.
    """
    (rows, n), missed = x.shape, counts.shape[1] - 2
    marks = None if valid is None else native.array_of(valid.contiguous().view(torch.uint8))
    numbers = None if labels is None else native.array_of(labels.contiguous())
    a, b, into = (native.array_of(v) for v in (x.contiguous(), y.contiguous(), counts))
    unread = (marks is None) != (valid is None) or (numbers is None) != (labels is None)
    if a is None or b is None or into is None or unread or rows != lookups.rows:
        return None
    if {x.dtype, y.dtype} - {torch.float32, torch.float64}:
        return None
    codes = memory[: rows * n].view(rows, n)
    on_x, on_y = lookups.sides
    lost = _grid_counts(
        *(address(a, a.dtype, rows * n), int(a.dtype == np.float64)),
        *(address(b, b.dtype, rows * n), int(b.dtype == np.float64)),
        None if marks is None else address(marks, np.uint8, rows * n),
        None if numbers is None else address(numbers, np.int64, n),
        *(rows, n),
        *(address(on_x, np.int64, len(on_x)), len(on_x) // 8),
        *(address(on_y, np.int64, len(on_y)), len(on_y) // 8),
        *(cells, missed),
        address(codes.numpy(), np.int64, rows * n),
        address(into, np.int64, rows * (missed + 2)),
    )
    return codes, lost
