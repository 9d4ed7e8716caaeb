"""Compiled twins of the sums over the samples of a soft table.

Reference: ``functional/tables/sums.py``. Weights and slopes of a sample are the same to the bit; a
table's cells are summed in another order, by a fixed cut of each row, and differ by about 1e-15 of
the table's mass.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_metrics.kernels import native
from mi_metrics.kernels.native import INTEGER, POINTER, address

_KERNELS = {"linear": 1, "cubic": 2, "inner": 3}
# Cells that a sample reaches.
_REACH = {"linear": 2, "cubic": 4, "inner": 4}
_HALF = (torch.float16, torch.bfloat16)
_TYPES = {torch.float32: 0, torch.float64: 1, torch.bool: 2}

_SIDE = (POINTER, INTEGER, POINTER, INTEGER, INTEGER, INTEGER)
_soft_table = native.function(
    "mi_soft_table", *_SIDE * 2, POINTER, *(INTEGER,) * 3, POINTER, INTEGER
)
_soft_read = native.function(
    "mi_soft_read",
    *_SIDE * 2,
    POINTER,
    *(INTEGER,) * 3,
    *(POINTER, POINTER),
    *(POINTER, INTEGER) * 2,
    INTEGER,
)


class Side(NamedTuple):
    """Samples ``(R, n)`` of a variable, its axis and kernel, and the table's cells along it, the
    margin included; each part of the axis is ``(R, 1)`` or ``(1, 1)``, float64.
    """

    samples: Tensor
    lo: Tensor
    width: Tensor
    bins: Tensor
    scale: Tensor | None
    kernel: str
    cells: int


class _Arguments:
    """What both functions take first, and the arrays that it points to."""

    def __init__(self) -> None:
        self.values: list[int | None] = []
        self.arrays: list[NDArray[Any]] = []


def soft_table(x: Side, y: Side, weights: Tensor | None) -> Tensor | None:
    """Return the tables ``(R, cells_x, cells_y)`` of samples, with margins, or None where the
    reference has to serve.
    """
    if (arguments := _arguments(x, y, weights)) is None:
        return None
    rows, cells = len(x.samples), x.cells * y.cells
    table = np.zeros((rows, x.cells, y.cells))
    place = address(table, np.float64, rows * cells)
    if _soft_table(*arguments.values, place, native.threads()) < 0:
        return None
    return torch.from_numpy(table)


def soft_values(table: Tensor, x: Side, y: Side) -> Tensor | None:
    """Return what tables of coefficients with margins are worth at the samples, float64 ``(R, n)``,
    or None.
    """
    if not native.serves():
        return None
    found = torch.empty(x.samples.shape, dtype=torch.float64, device="cpu")
    return found if _read(table, x, y, None, (found, None, None)) else None


def soft_gradients(
    table: Tensor, x: Side, y: Side, weights: Tensor | None, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None] | None:
    """Return the gradients of the samples that are wanted from that of the table, or None.

    Those of half precision are float64, still to be narrowed.
    """
    if not native.serves():
        return None
    to_x, to_y = (
        torch.empty(
            v.shape,
            dtype=torch.float32 if v.dtype == torch.float32 else torch.float64,
            device="cpu",
        )
        if want
        else None
        for v, want in zip((x.samples, y.samples), wanted, strict=True)
    )
    return (to_x, to_y) if _read(table, x, y, weights, (None, to_x, to_y)) else None


def _read(
    table: Tensor,
    x: Side,
    y: Side,
    weights: Tensor | None,
    into: tuple[Tensor | None, Tensor | None, Tensor | None],
) -> bool:
    """Write values, gradients of x and of y, as wanted; say whether it could be done."""
    if (arguments := _arguments(x, y, weights)) is None:
        return False
    if (coefficients := native.array_of(table.contiguous())) is None:
        return False
    size = x.samples.numel()
    places: list[int | None] = []
    for tensor in into:
        array = None if tensor is None else tensor.numpy()
        wide = array is not None and array.dtype == np.float64
        places += [None if array is None else address(array, array.dtype, size), int(wide)]
    # Values are float64 always.
    del places[1]
    cells = len(x.samples) * x.cells * y.cells
    found = address(coefficients, np.float64, cells)
    return _soft_read(*arguments.values, found, *places, native.threads()) >= 0


def _arguments(x: Side, y: Side, weights: Tensor | None) -> _Arguments | None:
    if not (native.serves() and _is_served(x) and _is_served(y)) or 0 in x.samples.shape:
        return None
    (rows, n), arguments = x.samples.shape, _Arguments()
    for side in (x, y):
        samples = side.samples.float() if side.samples.dtype in _HALF else side.samples
        values, axis = native.array_of(samples.contiguous()), _axis(side)
        if values is None or axis is None:
            return None
        if len(axis) not in (1, rows):
            raise ValueError(f"Expected an axis for each of {rows} rows, but got {len(axis)}.")
        arguments.arrays.extend((values, axis))
        arguments.values += [
            *(address(values, values.dtype, rows * n), _TYPES[samples.dtype]),
            *(address(axis, np.float64, len(axis) * 4), len(axis)),
            *(_KERNELS[side.kernel], side.cells),
        ]
    mass = None
    if weights is not None:
        weights = (weights if weights.dtype in _TYPES else weights.double()).contiguous()
        if (mass := native.array_of(weights)) is None:
            return None
        arguments.arrays.append(mass)
    arguments.values += [
        None if mass is None else address(mass, mass.dtype, rows * n),
        0 if weights is None else _TYPES[weights.dtype],
        *(rows, n),
    ]
    return arguments


def _is_served(side: Side) -> bool:
    """Say whether the library knows the types and the kernel, and the table is wide enough."""
    return (
        side.samples.dtype in (*_HALF, torch.float32, torch.float64)
        and side.lo.dtype == torch.float64
        and side.cells >= _REACH.get(side.kernel, side.cells + 1)
    )


def _axis(side: Side) -> NDArray[Any] | None:
    """Return an axis as an array of lo, width, bins and scale, ``(R, 4)`` or ``(1, 4)``."""
    scale = torch.ones_like(side.lo) if side.scale is None else side.scale
    parts = [part.double() for part in (side.lo, side.width, side.bins, scale)]
    rows = max(len(part) for part in parts)
    return native.array_of(torch.cat([part.expand(rows, 1) for part in parts], 1))
