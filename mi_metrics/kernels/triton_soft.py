"""Soft joint tables and their gradients on a GPU, each by one pass over the samples.

Reference: ``functional/tables/sums.py``. Where a sample lies is found in float64 in the same steps.

**Tables** of float32 and half-precision samples. A program goes through its part of a row in short
blocks, and multiplies the weights of all cells along x with those along y: float32 within a block,
float64 from there on. Parts are added in a fixed order: no atomics, the same bits each time. A
cell's mass is right to some 1e-6 of itself. Float64 samples keep the reference.

**Gradients** of samples of any floating dtype, from the 4 or 16 entries of the table's gradient
that a sample reaches, in float64: as exact as the reference.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mi_metrics.kernels.native_soft import Side

_REACH = {"linear": 2, "cubic": 4}
_SHORT = (torch.float16, torch.bfloat16, torch.float32)
_WEIGHTS = (*_SHORT, torch.float64, torch.bool, torch.uint8, torch.int32, torch.int64)
_MOST_CELLS = 256
# Samples of a block, cells of a tile, samples of a program of gradients.
_BLOCK, _TILE, _READ = 32, 64, 256
# Programs that keep a card busy, the least samples that are worth one, and the most cells of all
# their tables: 64 MiB.
_PROGRAMS, _LEAST, _HELD = 4096, 1024, 2**23
# What kernels are not compiled anew for, as in ``triton_hard``.
_OF_ANY_KIND = ["parts", "blocks", "x_cells", "y_cells"]
_OF_ANY_KIND += [
    f"{side}_{part}" for side in "xy" for part in ("lo", "width", "bins", "scale", "step")
]


def soft_table(x: Side, y: Side, weights: Tensor | None) -> Tensor | None:
    """Return the tables ``(R, B_x, B_y)``, float64, of samples ``(R, n)``, or None where the
    reference has to serve. ``cells`` of a side are its bins.
    """
    (rows, n), cells = x.samples.shape, x.cells * y.cells
    short = all(side.samples.dtype in _SHORT for side in (x, y))
    if not (short and _is_served(x, y, weights)):
        return None
    tile_x, tile_y = (_power(side.cells, 16, _TILE) for side in (x, y))
    tiles = triton.cdiv(x.cells, tile_x) * triton.cdiv(y.cells, tile_y)
    most = max(1, min(_PROGRAMS // (rows * tiles), _HELD // (rows * cells)))
    long = _power(triton.cdiv(n, most), _LEAST, 2**30)
    parts = triton.cdiv(n, long)
    into = torch.empty(rows, parts, x.cells, y.cells, dtype=torch.float64, device=x.samples.device)
    _table[(rows * parts * tiles,)](
        *_arguments(x, y, weights),
        into,
        *(n, parts, x.cells, y.cells),
        X_REACH=_REACH[x.kernel],
        Y_REACH=_REACH[y.kernel],
        X_TILE=tile_x,
        Y_TILE=tile_y,
        BLOCK=_BLOCK,
        LONG=long,
        num_warps=_warps(tile_x, tile_y),
        enable_fp_fusion=True,
    )
    return into.sum(1)


def soft_gradients(
    table: Tensor, x: Side, y: Side, weights: Tensor | None, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None] | None:
    """Return the gradients of the samples that are wanted from that of the table, in their own
    dtypes, or None where the reference has to serve. ``cells`` of a side are its bins.
    """
    if not _is_served(x, y, weights):
        return None
    rows, n = x.samples.shape
    to_x, to_y = (
        side.samples.new_empty(rows, n) if want else None
        for side, want in zip((x, y), wanted, strict=True)
    )
    blocks = triton.cdiv(n, _READ)
    _gradients[(rows * blocks,)](
        *_arguments(x, y, weights),
        *(table.contiguous(), to_x, to_y),
        *(n, blocks, x.cells, y.cells),
        X_REACH=_REACH[x.kernel],
        Y_REACH=_REACH[y.kernel],
        X_STEEPEST=_steepest(x.samples.dtype),
        Y_STEEPEST=_steepest(y.samples.dtype),
        X_MOST=_most(x.samples.dtype),
        Y_MOST=_most(y.samples.dtype),
        BLOCK=_READ,
        enable_fp_fusion=True,
    )
    return to_x, to_y


def _is_served(x: Side, y: Side, weights: Tensor | None) -> bool:
    for side in (x, y):
        if side.kernel not in _REACH or side.cells > _MOST_CELLS or side.lo.dtype != torch.float64:
            return False
        if 0 in side.samples.shape or side.samples.dtype not in (*_SHORT, torch.float64):
            return False
    return weights is None or weights.dtype in _WEIGHTS


def _power(number: int, least: int, most: int) -> int:
    """Return the next power of two, within bounds."""
    return min(most, max(least, int(triton.next_power_of_2(number))))


def _warps(tile_x: int, tile_y: int) -> int:
    """Return how many warps hold a tile in registers, beside two blocks of weights."""
    return 4 if tile_x * tile_y <= 1024 else 8


def _arguments(x: Side, y: Side, weights: Tensor | None) -> list[Any]:
    """Return what both kernels take first: samples and axes of x and y, and weights."""
    found: list[Any] = []
    for side in (x, y):
        parts = [side.lo, side.width, side.bins] + ([] if side.scale is None else [side.scale])
        rows, steps = max(len(part) for part in parts), {part.stride(0) for part in parts}
        if any(len(part) != rows for part in parts) or len(steps) > 1:
            parts = [part.expand(rows, 1).contiguous() for part in parts]
        step = parts[0].stride(0) if rows > 1 else 0
        found += [side.samples.resolve_neg().contiguous(), *parts]
        found += [*([None] if side.scale is None else []), step]
    if weights is None:
        return [*found, None]
    weights = weights.resolve_neg().contiguous()
    return [*found, weights.view(torch.uint8) if weights.dtype == torch.bool else weights]


def _steepest(dtype: torch.dtype) -> float:
    """Return the most bins per unit, as ``splines.slope`` has it."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return float(torch.finfo(wide).max) * 2.0**-10


def _most(dtype: torch.dtype) -> float | None:
    """Return the largest gradient, as ``tensors.narrow`` has it; None in half precision, where it
    is infinite.
    """
    return None if dtype == torch.float16 else float(torch.finfo(dtype).max)


@triton.jit
def _position(samples, ok, lo, width, bins, scale, row):
    """Return positions in units of bins, and the number of bins."""
    values = tl.load(samples, mask=ok, other=0.0).to(tl.float64)
    # A product with a power of two is exact, so that it may be fused.
    if scale is not None:
        values = values * tl.load(scale + row)
    number = tl.load(bins + row)
    return (values - tl.load(lo + row)) * number / tl.load(width + row), number


@triton.jit
def _place(position, bins):
    """Return the first cell and the place after it; NaN stays in the place."""
    place = tl.where(position < 0, 0.0, position)
    place = tl.where(place > bins, bins, place) + 0.5
    first = tl.floor(place)
    return tl.where(first == first, first, 0.0).to(tl.int32), place - first


@triton.jit
def _cell(first, k, bins, REACH: tl.constexpr):
    """Return the k-th cell that samples reach; what lies outside is the edge cell."""
    last = bins.to(tl.int32) - 1
    return tl.minimum(tl.maximum(first + (k - REACH // 2), 0), last)


@triton.jit
def _number(value: tl.constexpr, like):
    """Return a number in a dtype: up to Triton 3.1 a plain one is rounded to float32."""
    return tl.full((), value, like.dtype)


@triton.jit
def _weight(t, s, K: tl.constexpr, REACH: tl.constexpr):
    """Return the weight of a cell at the distances from the cells below and above, t + s = 1."""
    if REACH == 2:
        found = s if K == 0 else t
    elif K == 0:
        found = s * s * s * _number(1 / 6, s)
    elif K == 1:
        found = t * t * t * 0.5 - t * t + _number(2 / 3, t)
    elif K == 2:
        found = s * s * s * 0.5 - s * s + _number(2 / 3, s)
    else:
        found = t * t * t * _number(1 / 6, t)
    return found


@triton.jit
def _slope(t, K: tl.constexpr, REACH: tl.constexpr):
    s = 1 - t
    if REACH == 2:
        found = t * 0 + (2 * K - 1)
    elif K == 0:
        found = s * s * -0.5
    elif K == 1:
        found = t * t * 1.5 - t * 2
    elif K == 2:
        found = s * 2 - s * s * 1.5
    else:
        found = t * t * 0.5
    return found


@triton.jit
def _dense(position, bins, columns, REACH: tl.constexpr):
    """Return the weights of cells: a block of samples by columns."""
    first, place = _place(position, bins)
    t = place.to(tl.float32)
    # Taken before it is rounded: the difference of rounded numbers is nearly nothing but rounding.
    s = (1 - place).to(tl.float32)
    found = t[:, None] * 0 + tl.zeros_like(columns)[None, :].to(tl.float32)
    for k in tl.static_range(REACH):
        here = _cell(first, k, bins, REACH)[:, None] == columns[None, :]
        found += tl.where(here, _weight(t, s, k, REACH)[:, None], 0.0)
    return found


@triton.jit(do_not_specialize=["n", *_OF_ANY_KIND])
def _table(
    x,
    x_lo,
    x_width,
    x_bins,
    x_scale,
    x_step,
    y,
    y_lo,
    y_width,
    y_bins,
    y_scale,
    y_step,
    weights,
    into,
    n,
    parts,
    x_cells,
    y_cells,
    X_REACH: tl.constexpr,
    Y_REACH: tl.constexpr,
    X_TILE: tl.constexpr,
    Y_TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    LONG: tl.constexpr,
):
    across = tl.cdiv(y_cells, Y_TILE)
    tiles = across * tl.cdiv(x_cells, X_TILE)
    place, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    row, part = place // parts, place % parts
    columns_x = tile // across * X_TILE + tl.arange(0, X_TILE)
    columns_y = tile % across * Y_TILE + tl.arange(0, Y_TILE)
    start = row.to(tl.int64) * n
    total = tl.zeros((X_TILE, Y_TILE), dtype=tl.float64)
    for s in range(0, LONG, BLOCK):
        i = part.to(tl.int64) * LONG + s + tl.arange(0, BLOCK)
        ok = i < n
        u, bins_x = _position(x + start + i, ok, x_lo, x_width, x_bins, x_scale, row * x_step)
        v, bins_y = _position(y + start + i, ok, y_lo, y_width, y_bins, y_scale, row * y_step)
        mass = ok.to(tl.float32)
        if weights is not None:
            mass = tl.load(weights + start + i, mask=ok, other=0).to(tl.float32)
        along_x = _dense(u, bins_x, columns_x, X_REACH) * mass[:, None]
        along_y = _dense(v, bins_y, columns_y, Y_REACH)
        total += tl.dot(tl.trans(along_x), along_y, input_precision="ieee").to(tl.float64)
    cells = columns_x[:, None] * y_cells + columns_y[None, :]
    there = (columns_x[:, None] < x_cells) & (columns_y[None, :] < y_cells)
    tl.store(into + place.to(tl.int64) * x_cells * y_cells + cells, total, mask=there)


@triton.jit
def _narrow(
    values,
    position,
    bins,
    width,
    scale,
    row,
    mass,
    STEEPEST: tl.constexpr,
    MOST: tl.constexpr,
):
    """Return gradients of samples from those of positions."""
    slope = bins / tl.load(width + row)
    if scale is not None:
        slope = slope * tl.load(scale + row)
    slope = tl.where(bins > 1, tl.minimum(slope, STEEPEST), 0.0)
    inside = (position >= 0) & (position <= bins + bins * 2.0**-50)
    # A product, so that NaN stays.
    found = values * (slope * inside.to(tl.float64)) * mass
    if MOST is not None:
        found = tl.where(found > MOST, MOST, found)
        found = tl.where(found < -MOST, -MOST, found)
    return found


@triton.jit
def _store(place, values, ok):
    if place.dtype.element_ty != tl.float64:
        values = values.to(tl.float32)
    tl.store(place, values.to(place.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=_OF_ANY_KIND)
def _gradients(
    x,
    x_lo,
    x_width,
    x_bins,
    x_scale,
    x_step,
    y,
    y_lo,
    y_width,
    y_bins,
    y_scale,
    y_step,
    weights,
    table,
    to_x,
    to_y,
    n,
    blocks,
    x_cells,
    y_cells,
    X_REACH: tl.constexpr,
    Y_REACH: tl.constexpr,
    X_STEEPEST: tl.constexpr,
    Y_STEEPEST: tl.constexpr,
    X_MOST: tl.constexpr,
    Y_MOST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    i = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok, i = i < n, i + row.to(tl.int64) * n
    u, bins_x = _position(x + i, ok, x_lo, x_width, x_bins, x_scale, row * x_step)
    v, bins_y = _position(y + i, ok, y_lo, y_width, y_bins, y_scale, row * y_step)
    mass = ok.to(tl.float64)
    if weights is not None:
        mass = tl.load(weights + i, mask=ok, other=0).to(tl.float64)
    table += row.to(tl.int64) * x_cells * y_cells
    by_u, by_v = _read(table, u, bins_x, v, bins_y, ok, y_cells, X_REACH, Y_REACH)
    if to_x is not None:
        by_u = _narrow(by_u, u, bins_x, x_width, x_scale, row * x_step, mass, X_STEEPEST, X_MOST)
        _store(to_x + i, by_u, ok)
    if to_y is not None:
        by_v = _narrow(by_v, v, bins_y, y_width, y_scale, row * y_step, mass, Y_STEEPEST, Y_MOST)
        _store(to_y + i, by_v, ok)


@triton.jit
def _read(table, u, bins_x, v, bins_y, ok, y_cells, X_REACH: tl.constexpr, Y_REACH: tl.constexpr):
    """Return the derivatives, by both positions, of what tables of coefficients are worth there."""
    first_x, s = _place(u, bins_x)
    first_y, t = _place(v, bins_y)
    by_u, by_v = s * 0, t * 0
    for k in tl.static_range(X_REACH):
        a = _cell(first_x, k, bins_x, X_REACH)
        along, across = s * 0, s * 0
        for l in tl.static_range(Y_REACH):
            b = _cell(first_y, l, bins_y, Y_REACH)
            entry = tl.load(table + a * y_cells + b, mask=ok, other=0.0)
            along += entry * _weight(t, 1 - t, l, Y_REACH)
            across += entry * _slope(t, l, Y_REACH)
        by_u += along * _slope(s, k, X_REACH)
        by_v += across * _weight(s, 1 - s, k, X_REACH)
    return by_u, by_v
