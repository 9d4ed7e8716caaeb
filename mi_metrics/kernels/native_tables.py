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
    *(POINTER, POINTER, INTEGER, INTEGER) * 2,
    *(POINTER, POINTER),
    *(INTEGER,) * 5,
    *(POINTER, POINTER, POINTER),
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
    lines: tuple[Line, Line],
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
    sides, found = [_side(v, line) for v, line in zip((x, y), lines, strict=True)], []
    marks, numbers = _bytes(valid), None if labels is None else native.array_of(labels.contiguous())
    if (marks is None) != (valid is None) or (numbers is None) != (labels is None):
        return None
    for side in sides:
        if side is None:
            return None
        values, axis = side
        length = axis.size // 3
        found += [address(values, values.dtype, rows * n), address(axis, values.dtype, 3 * length)]
        found += [length if length in (1, rows) else _refuse(length), values.dtype == np.float64]
    counts = np.zeros((rows * conditions, *bins), dtype=np.int64)
    outside = np.zeros(rows, dtype=np.int64)
    ends = np.array(ranges or (_NUMBERS, _NUMBERS), dtype=np.float64)
    strange = _hard_counts(
        *found,
        None if marks is None else address(marks, np.uint8, rows * n),
        None if numbers is None else address(numbers, np.int64, n),
        *(rows, n, conditions, *bins),
        address(ends, np.float64, 4),
        address(counts, np.int64, rows * conditions * cells),
        address(outside, np.int64, rows),
        native.threads(),
    )
    if strange < 0:  # no memory, or labels that are none: the reference says so
        return None
    return Counted(torch.from_numpy(counts), torch.from_numpy(outside), strange)


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


def _side(x: Tensor, line: Line) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return samples and their axis as arrays, or None."""
    if x.dtype not in _FLOATS or line.lo.dtype != x.dtype:
        return None
    samples = native.array_of(x.contiguous())
    rows = max(len(part) for part in line)
    axis = native.array_of(torch.cat([part.expand(rows, 1) for part in line]))
    return None if samples is None or axis is None else (samples, axis)


def _bytes(valid: Tensor | None) -> NDArray[Any] | None:
    """Return a mask as bytes, or None."""
    if valid is None or valid.dtype != torch.bool:
        return None
    return native.array_of(valid.contiguous().view(torch.uint8))


def _refuse(length: int) -> int:
    raise ValueError(f"Expected an axis for each row, or one for all, but got {length}.")
