"""Nearest neighbours on a GPU: twins of :mod:`mi_metrics.functional.neighbors.search`, for any
number of sets of points at once.

Up to 10 coordinates one program answers for the points of one leaf (:mod:`.leaves`): it looks at
its own leaf, then at those of its group, then at the others, the nearest first, as long as their
box is nearer than the largest k-th distance so far. With more coordinates boxes are of no use, and
all pairs are compared in tiles.

Bits are those of the reference: a distance is the largest of rounded differences, which leaves a
compiler nothing to contract, and the gap between two boxes is one too. A rounded difference is
monotone in both of its operands, so no point of a box is nearer than its gap.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mi_metrics.kernels import leaves

# The k nearest are kept in registers; a power of two holds them and the point itself.
MOST_NEIGHBORS = 63
# Coordinates that leaves are made of.
DIMENSIONS = 10
# The second dimension of a grid.
MOST_SETS = 65535
MOST_POINTS = 2**30
# Points of a leaf, leaves of a group, groups whose boxes are tested at once.
LEAF, FAN, TILE = 32, 64, 64
# Points compared at once where all are.
ROWS, COLUMNS = 64, 32

INFINITY: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def box_gaps(LOW, HIGH, boxes, box, OWN_LOW, OWN_HIGH, leaves, own, D: tl.constexpr):
    """Return the gaps between a leaf and some boxes in the max norm; infinity past the last box."""
    there = box < boxes
    gap = tl.zeros(box.shape, dtype=tl.float64)
    for d in tl.static_range(D):
        low = tl.load(LOW + d * boxes + box, mask=there, other=INFINITY)
        high = tl.load(HIGH + d * boxes + box, mask=there, other=-INFINITY)
        own_low = tl.load(OWN_LOW + d * leaves + own)
        own_high = tl.load(OWN_HIGH + d * leaves + own)
        gap = tl.maximum(gap, tl.maximum(low - own_high, own_low - high))
    return gap


@triton.jit
def distances(
    P,
    query,
    live,
    other,
    there,
    size,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """Return the distances in some coordinates; infinity from points that are not there."""
    gap = tl.zeros((query.shape[0], other.shape[0]), dtype=tl.float64)
    if UNROLL:
        for d in tl.static_range(FIRST, LAST):
            a = tl.load(P + d * size + query, mask=live, other=0.0)
            b = tl.load(P + d * size + other, mask=there, other=INFINITY)
            gap = tl.maximum(gap, tl.abs(a[:, None] - b[None, :]))
    else:
        for d in range(FIRST, LAST):
            a = tl.load(P + d * size + query, mask=live, other=0.0)
            b = tl.load(P + d * size + other, mask=there, other=INFINITY)
            gap = tl.maximum(gap, tl.abs(a[:, None] - b[None, :]))
    return gap


@triton.jit
def _inserted(distance, best, kth):
    """Put distances below the largest of the best into their place, least first."""
    column = tl.arange(0, distance.shape[1])[None, :]
    slot = tl.arange(0, best.shape[1])[None, :]
    least = tl.min(distance, 1)
    while tl.max((least < kth).to(tl.int32), 0) > 0:
        better = (least < kth)[:, None]
        taken = tl.argmin(distance, 1)[:, None]
        distance = tl.where((column == taken) & better, INFINITY, distance)
        worst = tl.argmax(best, 1)[:, None]
        best = tl.where((slot == worst) & better, least[:, None], best)
        kth = tl.max(best, 1)
        least = tl.min(distance, 1)
    return best, kth


@triton.jit
def _grown(x_reach, y_reach, x_gap, y_gap, radius):
    """Return the largest gaps in x and in y among points within the radius."""
    inside = tl.maximum(x_gap, y_gap) <= radius[:, None]
    x_reach = tl.maximum(x_reach, tl.max(tl.where(inside, x_gap, 0.0), 1))
    y_reach = tl.maximum(y_reach, tl.max(tl.where(inside, y_gap, 0.0), 1))
    return x_reach, y_reach


@triton.jit
def _worth_a_look(gap, top, X: tl.constexpr):
    """Say whether what is behind a gap can be nearer than the k-th neighbour, or as near as it."""
    if X > 0:
        return (gap <= top) & (gap < INFINITY)
    else:
        return gap < top


@triton.jit
def _none_found(wanted, SLOTS: tl.constexpr):
    """Return infinity for each neighbour that is wanted and the point itself; nothing is below
    minus infinity, where fewer are wanted.
    """
    slot = tl.arange(0, SLOTS)[None, :]
    some = tl.zeros((wanted.shape[0], SLOTS), dtype=tl.float64)
    return tl.where(slot <= wanted[:, None], some + INFINITY, some - INFINITY)


@triton.jit(do_not_specialize=["number", "leaves", "groups"])
def _search(
    P,
    PLACE,
    WANTED,
    LOW,
    HIGH,
    GROUP_LOW,
    GROUP_HIGH,
    RADIUS,
    X_REACH,
    Y_REACH,
    number,
    size,
    leaves,
    groups,
    D: tl.constexpr,
    X: tl.constexpr,
    SLOTS: tl.constexpr,
    LEAF: tl.constexpr,
    FAN: tl.constexpr,
    TILE: tl.constexpr,
):
    """Find the k-th distance of each point of a leaf (X = 0), or, when it is known, how far the
    points within it reach in the first X coordinates and in the others.
    """
    own = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1).to(tl.int64)
    P += row * D * size
    PLACE += row * size
    WANTED += row * number
    RADIUS += row * number
    LOW += row * D * leaves
    HIGH += row * D * leaves
    GROUP_LOW += row * D * groups
    GROUP_HIGH += row * D * groups
    member = tl.arange(0, LEAF)
    query = own * LEAF + member
    place = tl.load(PLACE + query, mask=query < size, other=number)
    live = place < number
    wanted = tl.load(WANTED + place, mask=live, other=-1)
    live = live & (wanted >= 0)
    best = _none_found(wanted, SLOTS)
    kth = tl.max(best, 1)
    if X > 0:
        kth = tl.load(RADIUS + place, mask=live, other=-INFINITY)
    x_reach = tl.zeros((LEAF,), dtype=tl.float64)
    y_reach = tl.zeros((LEAF,), dtype=tl.float64)
    top = tl.max(kth, 0)
    home = own // FAN
    tile = own * 0 - 1
    # Before the first tile comes the group of the leaf itself.
    while tile * TILE < groups:
        slot = tl.arange(0, TILE)
        group = tl.where(tile < 0, home, tile * TILE + slot)
        gap = box_gaps(GROUP_LOW, GROUP_HIGH, groups, group, LOW, HIGH, leaves, own, D)
        gap = tl.where(tl.where(tile < 0, slot > 0, group == home), INFINITY, gap)
        near = tl.min(gap, 0)
        while _worth_a_look(near, top, X):
            first = tl.argmin(gap, 0)
            leaf = tl.where(tile < 0, home, tile * TILE + first) * FAN + tl.arange(0, FAN)
            leaf_gap = box_gaps(LOW, HIGH, leaves, leaf, LOW, HIGH, leaves, own, D)
            leaf_gap = tl.where(leaf == own, -1.0, leaf_gap)
            leaf_near = tl.min(leaf_gap, 0)
            while _worth_a_look(leaf_near, top, X):
                chosen = tl.argmin(leaf_gap, 0)
                start = (tl.where(tile < 0, home, tile * TILE + first) * FAN + chosen) * LEAF
                other = start + member
                there = other < size
                if X > 0:
                    x_gap = distances(P, query, live, other, there, size, 0, X, True)
                    y_gap = distances(P, query, live, other, there, size, X, D, True)
                    x_reach, y_reach = _grown(x_reach, y_reach, x_gap, y_gap, kth)
                else:
                    distance = distances(P, query, live, other, there, size, 0, D, True)
                    best, kth = _inserted(distance, best, kth)
                    top = tl.max(kth, 0)
                leaf_gap = tl.where(tl.arange(0, FAN) == chosen, INFINITY, leaf_gap)
                leaf_near = tl.min(leaf_gap, 0)
            gap = tl.where(slot == first, INFINITY, gap)
            near = tl.min(gap, 0)
        tile += 1
    if X > 0:
        tl.store(X_REACH + row * number + place, x_reach, mask=live)
        tl.store(Y_REACH + row * number + place, y_reach, mask=live)
    else:
        tl.store(RADIUS + place, kth, mask=live)


@triton.jit(do_not_specialize=["number"])
def _compare(
    P,
    WANTED,
    RADIUS,
    X_REACH,
    Y_REACH,
    number,
    D: tl.constexpr,
    X: tl.constexpr,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Do what ``_search`` does by comparing all pairs."""
    row = tl.program_id(1).to(tl.int64)
    P += row * D * number
    WANTED += row * number
    RADIUS += row * number
    query = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    wanted = tl.load(WANTED + query, mask=query < number, other=-1)
    live = wanted >= 0
    best = _none_found(wanted, SLOTS)
    kth = tl.max(best, 1)
    if X > 0:
        kth = tl.load(RADIUS + query, mask=live, other=-INFINITY)
    x_reach = tl.zeros((ROWS,), dtype=tl.float64)
    y_reach = tl.zeros((ROWS,), dtype=tl.float64)
    start = row * 0
    # Where no point asks there is nothing to look at.
    stop = tl.where(tl.max(wanted, 0) < 0, 0, number)
    while start < stop:
        other = start + tl.arange(0, COLUMNS)
        there = other < number
        if X > 0:
            x_gap = distances(P, query, live, other, there, number, 0, X, False)
            y_gap = distances(P, query, live, other, there, number, X, D, False)
            x_reach, y_reach = _grown(x_reach, y_reach, x_gap, y_gap, kth)
        else:
            distance = distances(P, query, live, other, there, number, 0, D, False)
            best, kth = _inserted(distance, best, kth)
        start += COLUMNS
    if X > 0:
        tl.store(X_REACH + row * number + query, x_reach, mask=live)
        tl.store(Y_REACH + row * number + query, y_reach, mask=live)
    else:
        tl.store(RADIUS + query, kth, mask=live)


def nearest(
    points: Tensor,
    n_neighbors: int,
    wanted: Tensor | None = None,
    x_dim: int | None = None,
    *,
    shape: tuple[int, int, int] = (LEAF, FAN, TILE),
) -> tuple[Tensor, ...] | None:
    """Return the distances to the k-th neighbours in each of many sets of points and, with
    ``x_dim``, the largest distance in x and in y among the points at most so far away.

    Args:
        points: Coordinates with finite differences, float64 ``(B, N, d)``.
        n_neighbors: k, from 1 to N - 1.
        wanted: Another k for each point, from 0 to N - 1, and -1 for a point that is not asked
            about, int32 ``(B, N)``; none is larger than ``n_neighbors``.
        x_dim: How many coordinates are x, from 1 to d - 1; None asks for the radius alone.
        shape: Points of a leaf, leaves of a group, groups of a tile, powers of two.

    Returns:
        float64 ``(B, N)`` each, 0 where nothing was asked; None where k is too large for the
        kernels, or there are too many points.
    """
    _check(points, n_neighbors, wanted, x_dim)
    batch, number, dimensions = points.shape
    if n_neighbors > MOST_NEIGHBORS or number > MOST_POINTS:
        return None
    if batch > MOST_SETS:
        halves = zip(points.tensor_split(2), _halves(wanted), strict=True)
        parts = [nearest(p, n_neighbors, w, x_dim, shape=shape) for p, w in halves]
        return tuple(map(torch.cat, zip(*(p for p in parts if p is not None), strict=True)))
    if wanted is None:
        wanted = points.new_full((batch, number), n_neighbors, dtype=torch.int32)
    found = [points.new_zeros(batch, number) for _ in range(1 if x_dim is None else 3)]
    if points.numel() == 0:
        return tuple(found)
    radius, x_reach, y_reach = found if len(found) == 3 else found * 3
    answers = wanted.contiguous(), radius, x_reach, y_reach
    slots = triton.next_power_of_2(n_neighbors + 1)
    cuts = (0,) if x_dim is None else (0, x_dim)
    if dimensions > DIMENSIONS:
        columns = points.transpose(1, 2).contiguous()
        grid = (triton.cdiv(number, ROWS), batch)
        for cut in cuts:
            _compare[grid](columns, *answers, number, dimensions, cut, slots, ROWS, COLUMNS)
        return tuple(found)
    packed = leaves.pack(points, *shape[:2])
    boxes = [*packed.leaves[:2], *packed.groups[:2]]
    counts = [part.fill.shape[1] for part in packed[2:]]
    size = packed.place.shape[1]
    arguments = packed.coordinates, packed.place, answers[0], *boxes, *answers[1:]
    for cut in cuts:
        _search[counts[0], batch](*arguments, number, size, *counts, dimensions, cut, slots, *shape)
    return tuple(found)


def check_points(points: Tensor, *others: Tensor | None) -> None:
    """Refuse what a kernel could not read."""
    if points.ndim != 3 or points.dtype != torch.float64:
        raise ValueError(f"Expected float64 (B, N, d), but got {points.dtype} {points.shape}.")
    for other in others:
        if other is not None and (other.shape != points.shape[:2] or other.device != points.device):
            raise ValueError(f"Expected {points.shape[:2]} beside the points, got {other.shape}.")


def _check(points: Tensor, n_neighbors: int, wanted: Tensor | None, x_dim: int | None) -> None:
    check_points(points, wanted)
    if not 1 <= n_neighbors < points.shape[1] or points.shape[2] == 0:
        raise ValueError(f"Can't find {n_neighbors} neighbors of points {points.shape}.")
    if wanted is not None and wanted.dtype != torch.int32:
        raise ValueError(f"Expected int32 numbers of neighbors, but got {wanted.dtype}.")
    if x_dim is not None and not 1 <= x_dim < points.shape[2]:
        raise ValueError(f"Can't cut {points.shape[2]} coordinates at {x_dim}.")


def _halves(wanted: Tensor | None) -> tuple[Tensor | None, ...]:
    return (None, None) if wanted is None else tuple(wanted.tensor_split(2))
