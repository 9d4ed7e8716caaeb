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
from mi_metrics.kernels.gpu import ArgumentsError
from mi_metrics.kernels.leaves import MOST_NEIGHBORS, MOST_POINTS

# Coordinates that leaves are made of.
DIMENSIONS = 10
# The second dimension of a grid.
MOST_SETS = 65535
# Points of a leaf, leaves of a group, groups whose boxes are tested at once.
LEAF, FAN, TILE = 32, 64, 64
# Points compared at once where all are.
ROWS, COLUMNS = 64, 32

INFINITY: tl.constexpr = tl.constexpr(float("inf"))
# Coordinates whose loop is unrolled, here and in counts: more would overflow the registers.
UNROLLED: tl.constexpr = tl.constexpr(DIMENSIONS)
COUNTED: tl.constexpr = tl.constexpr(3)


@triton.jit
def box_gaps(BOXES, boxes, box, OWN, leaves, own, D: tl.constexpr):
    """Return the gaps between a leaf and some boxes in the max norm; infinity past the last box."""
    there = box < boxes
    gap = tl.zeros(box.shape, dtype=tl.float64)
    for d in tl.static_range(D):
        low = tl.load(BOXES + d * boxes + box, mask=there, other=INFINITY)
        high = tl.load(BOXES + (D + d) * boxes + box, mask=there, other=-INFINITY)
        own_low = tl.load(OWN + d * leaves + own)
        own_high = tl.load(OWN + (D + d) * leaves + own)
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
    # Several coordinates of so many points are more than int32 counts.
    size = tl.cast(size, tl.int64)
    if UNROLL:
        for d in tl.static_range(FIRST, LAST):
            gap = tl.maximum(gap, _differences(P + d * size, query, live, other, there))
    else:
        for d in range(FIRST, LAST):
            gap = tl.maximum(gap, _differences(P + d * size, query, live, other, there))
    return gap


@triton.jit
def _differences(P, query, live, other, there):
    a = tl.load(P + query, mask=live, other=0.0)
    b = tl.load(P + other, mask=there, other=INFINITY)
    return tl.abs(a[:, None] - b[None, :])


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
def _worth_a_look(gap, kth, X: tl.constexpr):
    """Say whether what is behind a gap can be nearer than the k-th neighbour, or as near as it."""
    top = tl.max(kth, 0)
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


@triton.jit
def _known(FOUND, place, live, best, X: tl.constexpr):
    """Return the k-th distances: those found before, or what there is to begin with."""
    if X > 0:
        return tl.load(FOUND + place, mask=live, other=-INFINITY)
    else:
        return tl.max(best, 1)


@triton.jit
def _look(
    P,
    query,
    live,
    other,
    there,
    size,
    best,
    kth,
    x_reach,
    y_reach,
    D: tl.constexpr,
    X: tl.constexpr,
):
    """Compare points with others."""
    if X > 0:
        x_gap = distances(P, query, live, other, there, size, 0, X, D <= UNROLLED)
        y_gap = distances(P, query, live, other, there, size, X, D, D <= UNROLLED)
        inside = tl.maximum(x_gap, y_gap) <= kth[:, None]
        x_reach = tl.maximum(x_reach, tl.max(tl.where(inside, x_gap, 0.0), 1))
        y_reach = tl.maximum(y_reach, tl.max(tl.where(inside, y_gap, 0.0), 1))
    else:
        gap = distances(P, query, live, other, there, size, 0, D, D <= UNROLLED)
        best, kth = _inserted(gap, best, kth)
    return best, kth, x_reach, y_reach


@triton.jit
def _store(FOUND, place, live, stride, kth, x_reach, y_reach, X: tl.constexpr):
    stride = tl.cast(stride, tl.int64)
    if X > 0:
        tl.store(FOUND + stride + place, x_reach, mask=live)
        tl.store(FOUND + 2 * stride + place, y_reach, mask=live)
    else:
        tl.store(FOUND + place, kth, mask=live)


@triton.jit
def _look_into(
    P,
    BOXES,
    query,
    live,
    own,
    leaf,
    size,
    leaves,
    best,
    kth,
    x_reach,
    y_reach,
    D: tl.constexpr,
    X: tl.constexpr,
):
    """Compare points with those of leaves, the nearest leaf first, as far as they can matter."""
    # The leaf of the points themselves comes before all others.
    gap = tl.where(leaf == own, -1.0, box_gaps(BOXES, leaves, leaf, BOXES, leaves, own, D))
    near = tl.min(gap, 0)
    while _worth_a_look(near, kth, X):
        chosen = tl.min(leaf, 0) + tl.argmin(gap, 0)
        other = chosen * query.shape[0] + tl.arange(0, query.shape[0])
        best, kth, x_reach, y_reach = _look(
            P, query, live, other, other < size, size, best, kth, x_reach, y_reach, D, X
        )
        gap = tl.where(leaf == chosen, INFINITY, gap)
        near = tl.min(gap, 0)
    return best, kth, x_reach, y_reach


@triton.jit(do_not_specialize=["number", "leaves", "groups", "stride"])
def _search(
    P,
    PLACE,
    WANTED,
    BOXES,
    GROUPS,
    FOUND,
    number,
    size,
    leaves,
    groups,
    stride,
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
    BOXES += row * 2 * D * leaves
    GROUPS += row * 2 * D * groups
    FOUND += row * number
    query = own * LEAF + tl.arange(0, LEAF)
    place = tl.load(PLACE + row * size + query, mask=query < size, other=number)
    wanted = tl.load(WANTED + row * number + place, mask=place < number, other=-1)
    live = wanted >= 0
    best = _none_found(wanted, SLOTS)
    kth = _known(FOUND, place, live, best, X)
    x_reach = tl.zeros((LEAF,), dtype=tl.float64)
    y_reach = tl.zeros((LEAF,), dtype=tl.float64)
    slot, home, tile = tl.arange(0, TILE), own // FAN, own * 0 - 1
    # Before the first tile comes the group of the leaf itself.
    while tile * TILE < groups:
        group = tl.where(tile < 0, home + slot, tile * TILE + slot)
        gap = box_gaps(GROUPS, groups, group, BOXES, leaves, own, D)
        gap = tl.where(tl.where(tile < 0, slot > 0, group == home), INFINITY, gap)
        near = tl.min(gap, 0)
        while _worth_a_look(near, kth, X):
            chosen = tl.min(group, 0) + tl.argmin(gap, 0)
            leaf = chosen * FAN + tl.arange(0, FAN)
            best, kth, x_reach, y_reach = _look_into(
                P, BOXES, query, live, own, leaf, size, leaves, best, kth, x_reach, y_reach, D, X
            )
            gap = tl.where(group == chosen, INFINITY, gap)
            near = tl.min(gap, 0)
        tile += 1
    _store(FOUND, place, live, stride, kth, x_reach, y_reach, X)


@triton.jit(do_not_specialize=["number", "stride"])
def _compare(
    P,
    WANTED,
    FOUND,
    number,
    stride,
    D: tl.constexpr,
    X: tl.constexpr,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Do what ``_search`` does by comparing all pairs."""
    row = tl.program_id(1).to(tl.int64)
    P += row * D * number
    FOUND += row * number
    query = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    wanted = tl.load(WANTED + row * number + query, mask=query < number, other=-1)
    live = wanted >= 0
    best = _none_found(wanted, SLOTS)
    kth = _known(FOUND, query, live, best, X)
    x_reach = tl.zeros((ROWS,), dtype=tl.float64)
    y_reach = tl.zeros((ROWS,), dtype=tl.float64)
    start = row * 0
    # Where no point asks there is nothing to look at.
    stop = tl.where(tl.max(wanted, 0) < 0, 0, number)
    while start < stop:
        other = start + tl.arange(0, COLUMNS)
        best, kth, x_reach, y_reach = _look(
            P, query, live, other, other < number, number, best, kth, x_reach, y_reach, D, X
        )
        start += COLUMNS
    _store(FOUND, query, live, stride, kth, x_reach, y_reach, X)


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
    if wanted is None:
        wanted = points.new_full((batch, number), n_neighbors, dtype=torch.int32)
    found = points.new_zeros(1 if x_dim is None else 3, batch, number)
    slots = triton.next_power_of_2(n_neighbors + 1)
    search = _by_leaves if dimensions <= DIMENSIONS else _by_pairs
    # A grid has so many rows.
    for start in range(0, batch if number else 0, MOST_SETS):
        some = slice(start, start + MOST_SETS)
        part = found[:, some].contiguous()
        search(points[some], wanted[some].contiguous(), part, x_dim, slots, shape)
        found[:, some] = part
    return tuple(found)


def _by_leaves(
    points: Tensor,
    wanted: Tensor,
    found: Tensor,
    x_dim: int | None,
    slots: int,
    shape: tuple[int, int, int],
) -> None:
    batch, number, dimensions = points.shape
    packed = leaves.pack(points, *shape[:2])
    boxes = [part.ends.shape[3] for part in packed[2:]]
    tensors = packed.coordinates, packed.place, wanted, packed.leaves.ends, packed.groups.ends
    sizes = number, packed.place.shape[1], *boxes, batch * number
    for cut in (0,) if x_dim is None else (0, x_dim):
        _search[boxes[0], batch](
            *tensors, found, *sizes, dimensions, cut, slots, *shape, enable_fp_fusion=False
        )


def _by_pairs(
    points: Tensor,
    wanted: Tensor,
    found: Tensor,
    x_dim: int | None,
    slots: int,
    shape: tuple[int, int, int],
) -> None:
    batch, number, dimensions = points.shape
    tensors = points.transpose(1, 2).contiguous(), wanted, found
    grid = triton.cdiv(number, ROWS), batch
    for cut in (0,) if x_dim is None else (0, x_dim):
        _compare[grid](
            *tensors,
            number,
            batch * number,
            dimensions,
            cut,
            slots,
            ROWS,
            COLUMNS,
            enable_fp_fusion=False,
        )


def check_points(points: Tensor, *others: Tensor | None) -> None:
    """Refuse what a kernel could not read."""
    if points.ndim != 3 or points.dtype != torch.float64:
        raise ArgumentsError(f"Expected float64 (B, N, d), but got {points.dtype} {points.shape}.")
    for other in others:
        if other is not None and (other.shape != points.shape[:2] or other.device != points.device):
            raise ArgumentsError(
                f"Expected {points.shape[:2]} beside the points, got {other.shape}."
            )


def _check(points: Tensor, n_neighbors: int, wanted: Tensor | None, x_dim: int | None) -> None:
    check_points(points, wanted)
    if not 1 <= n_neighbors < points.shape[1] or points.shape[2] == 0:
        raise ArgumentsError(f"Can't find {n_neighbors} neighbors of points {points.shape}.")
    if wanted is not None and wanted.dtype != torch.int32:
        raise ArgumentsError(f"Expected int32 numbers of neighbors, but got {wanted.dtype}.")
    if x_dim is not None and not 1 <= x_dim < points.shape[2]:
        raise ArgumentsError(f"Can't cut {points.shape[2]} coordinates at {x_dim}.")
