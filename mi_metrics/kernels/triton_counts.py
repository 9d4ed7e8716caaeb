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
from mi_metrics.kernels.triton_neighbors import (
    COLUMNS,
    DIMENSIONS,
    FAN,
    INFINITY,
    LEAF,
    MOST_POINTS,
    MOST_SETS,
    ROWS,
    TILE,
    check_points,
    distances,
)

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
def _ends(P, query, live, size, LOW, HIGH, boxes, box, D: tl.constexpr):
    """Return the least and the largest distance of points from boxes."""
    there = box < boxes
    near = tl.zeros((query.shape[0], box.shape[0]), dtype=tl.float64)
    far = tl.zeros((query.shape[0], box.shape[0]), dtype=tl.float64)
    for d in tl.static_range(D):
        low = tl.load(LOW + d * boxes + box, mask=there, other=INFINITY)[None, :]
        high = tl.load(HIGH + d * boxes + box, mask=there, other=-INFINITY)[None, :]
        own = tl.load(P + d * size + query, mask=live, other=0.0)[:, None]
        near = tl.maximum(near, tl.maximum(low - own, own - high))
        far = tl.maximum(far, tl.maximum(tl.abs(low - own), tl.abs(own - high)))
    return near, far


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


@triton.jit(do_not_specialize=["number", "leaves", "groups"])
def _count(
    P,
    PLACE,
    RADIUS,
    COUNT,
    LOW,
    HIGH,
    FILL,
    GROUP_LOW,
    GROUP_HIGH,
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
    LOW += row * D * leaves
    HIGH += row * D * leaves
    FILL += row * leaves
    GROUP_LOW += row * D * groups
    GROUP_HIGH += row * D * groups
    GROUP_FILL += row * groups
    member = tl.arange(0, LEAF)
    query = tl.program_id(0).to(tl.int64) * LEAF + member
    place = tl.load(PLACE + row * size + query, mask=query < size, other=number)
    live = place < number
    radius = tl.load(RADIUS + row * number + place, mask=live, other=-1.0)
    live = live & (radius >= 0)
    count = tl.zeros((LEAF,), dtype=tl.int32)
    start = row * 0
    stop = tl.where(tl.max(live.to(tl.int32), 0) > 0, groups, 0)
    while start < stop:
        group = start + tl.arange(0, TILE)
        near, far = _ends(P, query, live, size, GROUP_LOW, GROUP_HIGH, groups, group, D)
        more, border = _boxed(near, far, radius, live, GROUP_FILL, groups, group)
        count += more
        groups_left = tl.max(border, 0)
        while tl.max(groups_left, 0) > 0:
            chosen = tl.argmax(groups_left, 0)
            leaf = (start + chosen) * FAN + tl.arange(0, FAN)
            near, far = _ends(P, query, live, size, LOW, HIGH, leaves, leaf, D)
            mine = _whose(border, chosen)
            more, leaf_border = _boxed(near, far, radius, mine, FILL, leaves, leaf)
            count += more
            leaves_left = tl.max(leaf_border, 0)
            while tl.max(leaves_left, 0) > 0:
                opened = tl.argmax(leaves_left, 0)
                other = ((start + chosen) * FAN + opened) * LEAF + member
                gap = distances(P, query, live, other, other < size, size, 0, D, True)
                within = (gap <= radius[:, None]) & _whose(leaf_border, opened)[:, None]
                # A place that no point fills is not within infinity.
                count += tl.sum((within & (gap < INFINITY)).to(tl.int32), 1)
                leaves_left = tl.where(tl.arange(0, FAN) == opened, 0, leaves_left)
            groups_left = tl.where(tl.arange(0, TILE) == chosen, 0, groups_left)
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
    points: Tensor, radius: Tensor, *, shape: tuple[int, int, int] = (LEAF, FAN, TILE)
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
        raise ValueError(f"Can't count points {points.shape} within {radius.dtype}.")
    if number > MOST_POINTS:
        return None
    if batch > MOST_SETS:
        halves = zip(points.tensor_split(2), radius.tensor_split(2), strict=True)
        parts = [range_counts(p, r, shape=shape) for p, r in halves]
        return torch.cat([part for part in parts if part is not None])
    counts = torch.zeros(batch, number, dtype=torch.int64, device=points.device)
    if points.numel() == 0:
        return counts
    radius = radius.contiguous()
    if dimensions == 1:
        values, place = points[..., 0].sort(1)
        _line[triton.cdiv(number, BLOCK), batch](values, place, radius, counts, number, BLOCK)
    elif dimensions > DIMENSIONS:
        columns = points.transpose(1, 2).contiguous()
        grid = (triton.cdiv(number, ROWS), batch)
        _count_pairs[grid](columns, radius, counts, number, dimensions, ROWS, COLUMNS)
    else:
        packed = leaves.pack(points, *shape[:2])
        boxes = [part.fill.shape[1] for part in packed[2:]]
        arguments = packed.coordinates, packed.place, radius, counts
        both = *packed.leaves, *packed.groups
        size = packed.place.shape[1]
        _count[boxes[0], batch](*arguments, *both, number, size, *boxes, dimensions, *shape)
    return counts
