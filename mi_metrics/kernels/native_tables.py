"""Compiled twins of joint tables of the hard kernel.

References: ``functional/tables/hard.py`` and ``functional/tables/outside.py``.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_metrics.kernels import native
from mi_metrics.kernels.native import INTEGER, POINTER, REAL, address

Ranges = tuple[tuple[float, float], tuple[float, float]]

# A cell's number is an int32 there.
_MOST_CELLS = 2**31 - 1
_FLOATS = (torch.float32, torch.float64)
_NUMBERS = (-math.inf, math.inf)

_hard_counts = native.function(
    "mi_hard_counts",
    *(POINTER, INTEGER, POINTER, POINTER, POINTER, INTEGER) * 2,
    *(POINTER, POINTER),
    *(INTEGER,) * 5,
    *(REAL,) * 4,
    *(POINTER, POINTER),
    INTEGER,
)
_byte_counts = native.function(
    "mi_byte_counts",
    *(POINTER, POINTER, INTEGER, POINTER) * 2,
    *(POINTER, POINTER),
    *(INTEGER,) * 5,
    *(POINTER, POINTER),
    INTEGER,
)
_outside = native.function(
    "mi_outside",
    *(POINTER, INTEGER) * 2,
    POINTER,
    *(INTEGER, INTEGER),
    *(REAL,) * 4,
    POINTER,
)


class Line(NamedTuple):
    """An axis of equal bins, each part ``(R, 1)`` or ``(1, 1)``, in the dtype of the arithmetic."""

    lo: Tensor
    bins: Tensor
    width: Tensor


class Numbers(NamedTuple):
    """An axis that is the same for all rows: lo, bins and width, one after the other, and where
    they begin.
    """

    values: NDArray[Any]
    start: int


def numbers(lo: float, bins: int, width: float, dtype: torch.dtype) -> Numbers:
    """Return the numbers of an axis of equal bins in the dtype of the arithmetic."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    values = np.array([lo, bins, width], dtype=kind)
    return Numbers(values, address(values, kind, 3))


class _Side(NamedTuple):
    """What is passed of one axis, and the arrays that it points to."""

    passed: list[int]
    held: list[NDArray[Any] | None]


class Counted(NamedTuple):
    """Tables ``(R, B_x, B_y)`` or ``(K, B_x, B_y)``, how many samples of each row lie outside of
    the ranges, and how many values are NaN or infinite.
    """

    counts: Tensor
    outside: Tensor
    not_finite: int


def hard_counts(
    x: Tensor,
    y: Tensor,
    lines: tuple[Line | Numbers, Line | Numbers],
    bins: tuple[int, int],
    valid: Tensor | None,
    labels: Tensor | None,
    conditions: int,
    ranges: Ranges | None,
) -> Counted | None:
    """Return tables of samples ``(R, n)``, or None where the reference has to serve.

    ``ranges`` are those of the axes; None: nothing lies outside.
    """
    (rows, n), cells = x.shape, bins[0] * bins[1]
    if not native.serves() or cells * conditions > _MOST_CELLS or 0 in (rows, n):
        return None
    sides = _side(x, lines[0]), _side(y, lines[1])
    marks, numbers = _bytes(valid), None if labels is None else native.array_of(labels.contiguous())
    if (marks is None) != (valid is None) or (numbers is None) != (labels is None):
        return None
    if sides[0] is None or sides[1] is None:
        return None
    counts = np.zeros((rows * conditions, *bins), dtype=np.int64)
    outside = np.zeros(rows, dtype=np.int64)
    (x_lo, x_hi), (y_lo, y_hi) = ranges or (_NUMBERS, _NUMBERS)
    strange = _hard_counts(
        *sides[0].passed,
        *sides[1].passed,
        None if marks is None else address(marks, np.uint8, rows * n),
        None if numbers is None else address(numbers, np.int64, n),
        *(rows, n, conditions, *bins),
        *(x_lo, x_hi, y_lo, y_hi),
        address(counts, np.int64, rows * conditions * cells),
        address(outside, np.int64, rows),
        native.threads(),
    )
    if strange < 0:  # no memory, or labels that are none: the reference says so
        return None
    return Counted(torch.from_numpy(counts), torch.from_numpy(outside), strange)


def byte_counts(
    x: Tensor,
    y: Tensor,
    cells: tuple[Tensor, Tensor],
    out: tuple[Tensor | None, Tensor | None] | None,
    bins: tuple[int, int],
    valid: Tensor | None,
    labels: Tensor | None,
    conditions: int,
) -> Counted | None:
    """Return tables of samples ``(R, n)`` of one byte, or None where the reference has to serve.

    ``cells`` are the cells of all 256 values, int32 ``(1 or R, 256)``; ``out`` says which of them
    lie outside of the ranges, bool ``(256,)``; None: none of them.
    """
    (rows, n), size = x.shape, bins[0] * bins[1]
    if not native.serves() or size * conditions > _MOST_CELLS or 0 in (rows, n):
        return None
    marks, numbers = _bytes(valid), None if labels is None else native.array_of(labels.contiguous())
    if (marks is None) != (valid is None) or (numbers is None) != (labels is None):
        return None
    passed: list[int | None] = []
    held = []
    for side, v in enumerate((x, y)):
        values = native.array_of(v.contiguous().view(torch.uint8))
        places = native.array_of(cells[side].contiguous())
        if values is None or places is None:
            return None
        length = _length(len(places), rows)
        flags = None if out is None else _bytes(out[side])
        passed += [
            address(values, np.uint8, rows * n),
            address(places, np.int32, 256 * length),
            length,
            None if flags is None else address(flags, np.uint8, 256),
        ]
        held.append((values, places, flags))
    counts = np.zeros((rows * conditions, *bins), dtype=np.int64)
    outside = np.zeros(rows, dtype=np.int64)
    failed = _byte_counts(
        *passed,
        None if marks is None else address(marks, np.uint8, rows * n),
        None if numbers is None else address(numbers, np.int64, n),
        *(rows, n, conditions, *bins),
        address(counts, np.int64, rows * conditions * size),
        address(outside, np.int64, rows),
        native.threads(),
    )
    if failed:  # no memory, or labels or cells that are none: the reference says so
        return None
    return Counted(torch.from_numpy(counts), torch.from_numpy(outside), 0)


def mass_outside(x: Tensor, y: Tensor, ranges: Ranges, valid: Tensor | None) -> Tensor | None:
    """Return how many samples of each row ``(R, n)`` lie outside of the ranges, ``(R,)``, or None
    where the reference has to serve.
    """
    if not native.serves() or x.dtype not in _FLOATS or y.dtype not in _FLOATS:
        return None
    arrays = [native.array_of(v.contiguous()) for v in (x, y)]
    marks = _bytes(valid)
    if (marks is None) != (valid is None):
        return None
    found: list[int] = []
    for array in arrays:
        if array is None:
            return None
        found += [address(array, array.dtype, x.numel()), array.dtype == np.float64]
    outside = np.zeros(len(x), dtype=np.int64)
    _outside(
        *found,
        None if marks is None else address(marks, np.uint8, x.numel()),
        *(x.shape[0], x.shape[1], *ranges[0], *ranges[1]),
        address(outside, np.int64, len(x)),
    )
    return torch.from_numpy(outside)


def _side(x: Tensor, line: Line | Numbers) -> _Side | None:
    """Return what the library asks of samples ``(R, n)`` and their axis, or None."""
    if x.dtype not in _FLOATS:
        return None
    samples = native.array_of(x.contiguous())
    if isinstance(line, Numbers):
        values, start = line
        if samples is None or samples.dtype != values.dtype:
            return None
        size = values.itemsize
        passed = [address(samples, values.dtype, x.numel()), int(size == 8)]
        return _Side([*passed, start, start + size, start + 2 * size, 1], [samples, values])
    if line.lo.dtype != x.dtype:
        return None
    length = _length(max(map(len, line)), len(x))
    parts = [part if len(part) == length else part.expand(length, 1) for part in line]
    arrays = [native.array_of(part.contiguous()) for part in parts]
    if samples is None:
        return None
    passed = [address(samples, samples.dtype, x.numel()), int(x.dtype == torch.float64)]
    for array in arrays:
        if array is None:
            return None
        passed.append(address(array, samples.dtype, length))
    return _Side([*passed, length], [samples, *arrays])


def _bytes(valid: Tensor | None) -> NDArray[Any] | None:
    """Return a mask as bytes, or None."""
    if valid is None or valid.dtype != torch.bool:
        return None
    return native.array_of(valid.contiguous().view(torch.uint8))


def _length(length: int, rows: int) -> int:
    """Return of how many rows an axis is: of each, or of all."""
    if length not in (1, rows):
        raise ValueError(f"Expected an axis for each row, or one for all, but got {length}.")
    return length
