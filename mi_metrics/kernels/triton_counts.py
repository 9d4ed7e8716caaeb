"""How many points lie within a distance of each, on a GPU: twins of
:mod:`mi_metrics.functional.neighbors.within`, for any number of sets of points at once.

On a line the first and the last value within the radius are found by bisection on the predicate
itself, ``|a - b| <= radius``, which is monotone to either side of a value, rounding included. In 2
to 10 coordinates groups and leaves that lie within the radius as a whole are counted as such, and
only those on its border are looked into. With more coordinates all pairs are compared in tiles.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mi_metrics.kernels import leaves
from mi_metrics.kernels.gpu import ArgumentsError
from mi_metrics.kernels.leaves import MOST_POINTS
from mi_metrics.kernels.triton_neighbors import (
    COLUMNS,
    COUNTED,
    DIMENSIONS,
    FAN,
    INFINITY,
    LEAF,
    MOST_SETS,
    ROWS,
    TILE,
    check_points,
    distances,
)

Shape = tuple[int, int, int]

# Values on a line that one program answers for.
BLOCK = 128


@triton.jit(do_not_specialize=["number"])
def _line(VALUES, PLACE, RADIUS, COUNT, number, BLOCK: tl.constexpr):
    """Count the sorted values within the radius of each."""
    row = tl.program_id(1).to(tl.int64)
    VALUES += row * number
    PLACE += row * number
    RADIUS += row * number
    here = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = here < number
    place = tl.load(PLACE + here, mask=live, other=0)
    radius = tl.load(RADIUS + place, mask=live, other=-1.0)
    live = live & (radius >= 0)
    value = tl.load(VALUES + here, mask=live, other=0.0)
    # The first within the radius, and the first beyond it, are in low…high.
    first, first_high = here * 0, here
    last, last_high = here + 1, here * 0 + number
    going = live & ((first < first_high) | (last < last_high))
    while tl.max(going.to(tl.int32), 0) > 0:
        left = going & (first < first_high)
        middle = first + (first_high - first) // 2
        gap = value - tl.load(VALUES + middle, mask=left, other=0.0)
        first_high = tl.where(left & (gap <= radius), middle, first_high)
        first = tl.where(left & (gap > radius), middle + 1, first)
        right = going & (last < last_high)
        middle = last + (last_high - last) // 2
        gap = tl.load(VALUES + middle, mask=right, other=0.0) - value
        last_high = tl.where(right & (gap > radius), middle, last_high)
        last = tl.where(right & (gap <= radius), middle + 1, last)
        going = live & ((first < first_high) | (last < last_high))
    tl.store(COUNT + row * number + place, (last - first).to(tl.int64), mask=live)


@triton.jit
def _ends(P, query, live, size, BOXES, boxes, box, D: tl.constexpr):
    """Return the least and the largest distance of points from boxes."""
    there, size = box < boxes, tl.cast(size, tl.int64)
    near = tl.zeros((query.shape[0], box.shape[0]), dtype=tl.float64)
    far = tl.zeros((query.shape[0], box.shape[0]), dtype=tl.float64)
    if D <= COUNTED:
        for d in tl.static_range(D):
            below, beyond = _sides(P + d * size, query, live, BOXES, boxes, box, there, d, D)
            near = tl.maximum(near, tl.maximum(-below, -beyond))
            far = tl.maximum(far, tl.maximum(tl.abs(below), tl.abs(beyond)))
    else:
        for d in range(D):
            below, beyond = _sides(P + d * size, query, live, BOXES, boxes, box, there, d, D)
            near = tl.maximum(near, tl.maximum(-below, -beyond))
            far = tl.maximum(far, tl.maximum(tl.abs(below), tl.abs(beyond)))
    return near, far


@triton.jit
def _sides(P, query, live, BOXES, boxes, box, there, d, D: tl.constexpr):
    """Return how far points are inside the lower and the upper side of boxes in a coordinate."""
    low = tl.load(BOXES + d * boxes + box, mask=there, other=INFINITY)[None, :]
    high = tl.load(BOXES + (D + d) * boxes + box, mask=there, other=-INFINITY)[None, :]
    own = tl.load(P + query, mask=live, other=0.0)[:, None]
    return own - low, high - own


@triton.jit
def _boxed(near, far, radius, mine, FILL, boxes, box):
    """Return how many points are in boxes wholly within the radius of each, and which boxes are on
    its border.
    """
    fill = tl.load(FILL + box, mask=box < boxes, other=0)[None, :]
    whole = (far <= radius[:, None]) & mine[:, None]
    border = (near <= radius[:, None]) & (far > radius[:, None]) & mine[:, None]
    return tl.sum(tl.where(whole, fill, 0), 1), border.to(tl.int32)


@triton.jit
def _whose(border, chosen):
    """Say on whose border the chosen box is."""
    column = tl.arange(0, border.shape[1])[None, :]
    return tl.max(tl.where(column == chosen, border, 0), 1) > 0


@triton.jit
def _count_in(P, BOXES, FILL, query, live, radius, mine, leaf, size, leaves, D: tl.constexpr):
    """Count points in leaves: all at once where a leaf is wholly within the radius."""
    near, far = _ends(P, query, live, size, BOXES, leaves, leaf, D)
    count, border = _boxed(near, far, radius, mine, FILL, leaves, leaf)
    left = tl.max(border, 0)
    while tl.max(left, 0) > 0:
        opened = tl.argmax(left, 0)
        chosen = tl.min(leaf, 0) + opened
        other = chosen * query.shape[0] + tl.arange(0, query.shape[0])
        gap = distances(P, query, live, other, other < size, size, 0, D, D <= COUNTED)
        within = (gap <= radius[:, None]) & _whose(border, opened)[:, None]
        # A place that no point fills is not within infinity.
        count += tl.sum((within & (gap < INFINITY)).to(tl.int32), 1)
        left = tl.where(leaf == chosen, 0, left)
    return count


@triton.jit(do_not_specialize=["number", "leaves", "groups"])
def _count(
    P,
    PLACE,
    RADIUS,
    COUNT,
    BOXES,
    FILL,
    GROUPS,
    GROUP_FILL,
    number,
    size,
    leaves,
    groups,
    D: tl.constexpr,
    LEAF: tl.constexpr,
    FAN: tl.constexpr,
    TILE: tl.constexpr,
):
    """Count the points within the radius of each point of a leaf."""
    row = tl.program_id(1).to(tl.int64)
    P += row * D * size
    BOXES += row * 2 * D * leaves
    FILL += row * leaves
    GROUPS += row * 2 * D * groups
    GROUP_FILL += row * groups
    query = tl.program_id(0).to(tl.int64) * LEAF + tl.arange(0, LEAF)
    place = tl.load(PLACE + row * size + query, mask=query < size, other=number)
    radius = tl.load(RADIUS + row * number + place, mask=place < number, other=-1.0)
    live = radius >= 0
    count = tl.zeros((LEAF,), dtype=tl.int32)
    start = row * 0
    stop = tl.where(tl.max(live.to(tl.int32), 0) > 0, groups, 0)
    while start < stop:
        group = start + tl.arange(0, TILE)
        near, far = _ends(P, query, live, size, GROUPS, groups, group, D)
        more, border = _boxed(near, far, radius, live, GROUP_FILL, groups, group)
        count += more
        left = tl.max(border, 0)
        while tl.max(left, 0) > 0:
            chosen = tl.argmax(left, 0)
            leaf = (start + chosen) * FAN + tl.arange(0, FAN)
            mine = _whose(border, chosen)
            count += _count_in(P, BOXES, FILL, query, live, radius, mine, leaf, size, leaves, D)
            left = tl.where(tl.arange(0, TILE) == chosen, 0, left)
        start += TILE
    tl.store(COUNT + row * number + place, count.to(tl.int64), mask=live)


@triton.jit(do_not_specialize=["number"])
def _count_pairs(
    P, RADIUS, COUNT, number, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Count by comparing all pairs."""
    row = tl.program_id(1).to(tl.int64)
    P += row * D * number
    query = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    radius = tl.load(RADIUS + row * number + query, mask=query < number, other=-1.0)
    live = radius >= 0
    count = tl.zeros((ROWS,), dtype=tl.int32)
    start = row * 0
    stop = tl.where(tl.max(live.to(tl.int32), 0) > 0, number, 0)
    while start < stop:
        other = start + tl.arange(0, COLUMNS)
        there = other < number
        gap = distances(P, query, live, other, there, number, 0, D, False)
        within = (gap <= radius[:, None]) & there[None, :]
        count += tl.sum(within.to(tl.int32), 1)
        start += COLUMNS
    tl.store(COUNT + row * number + query, count.to(tl.int64), mask=live)


def range_counts(
    points: Tensor, radius: Tensor, *, shape: Shape = (LEAF, FAN, TILE)
) -> Tensor | None:
    """Return how many points of the same set are at most a radius away from each, itself included.

    Args:
        points: Coordinates with finite differences, float64 ``(B, N, d)``.
        radius: The distance for each point, float64 ``(B, N)``; negative for a point that is not
            asked about.
        shape: Points of a leaf, leaves of a group, groups of a tile, powers of two.

    Returns:
        int64 ``(B, N)``, 0 where nothing was asked; None where there are too many points.
    """
    check_points(points, radius)
    batch, number, dimensions = points.shape
    if radius.dtype != torch.float64 or dimensions == 0:
        raise ArgumentsError(f"Can't count points {points.shape} within {radius.dtype}.")
    if number > MOST_POINTS:
        return None
    count = _on_lines if dimensions == 1 else _by_leaves if dimensions <= DIMENSIONS else _by_pairs
    counts = torch.zeros(batch, number, dtype=torch.int64, device=points.device)
    # A grid has so many rows.
    for start in range(0, batch if number else 0, MOST_SETS):
        some = slice(start, start + MOST_SETS)
        count(points[some], radius[some].contiguous(), counts[some], shape)
    return counts


def _on_lines(points: Tensor, radius: Tensor, counts: Tensor, shape: Shape) -> None:
    batch, number, _ = points.shape
    values, place = points[..., 0].contiguous().sort(1)
    _line[triton.cdiv(number, BLOCK), batch](
        values, place, radius, counts, number, BLOCK, enable_fp_fusion=False
    )


def _by_leaves(points: Tensor, radius: Tensor, counts: Tensor, shape: Shape) -> None:
    batch, number, dimensions = points.shape
    packed = leaves.pack(points, *shape[:2])
    boxes = [part.fill.shape[1] for part in packed[2:]]
    tensors = packed.coordinates, packed.place, radius, counts, *packed.leaves, *packed.groups
    sizes = number, packed.place.shape[1], *boxes
    _count[boxes[0], batch](*tensors, *sizes, dimensions, *shape, enable_fp_fusion=False)


def _by_pairs(points: Tensor, radius: Tensor, counts: Tensor, shape: Shape) -> None:
    batch, number, dimensions = points.shape
    columns = points.transpose(1, 2).contiguous()
    grid = triton.cdiv(number, ROWS), batch
    options = dimensions, ROWS, COLUMNS
    _count_pairs[grid](columns, radius, counts, number, *options, enable_fp_fusion=False)
