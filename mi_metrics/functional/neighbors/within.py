"""How many samples lie within a distance of each, in the max norm, exact to the last bit.

The second question of the estimators that :mod:`mi_metrics.functional.neighbors.search` serves,
under the same predicate.

======  ========================================================  ================================
path    used for                                                  cost
======  ========================================================  ================================
native  CPU, compiled: 1 to 10 coordinates                        N log N, and what the balls cut
kernel  CUDA, with Triton                                         the same; N² from 11 on
line    1 coordinate                                              N log N, plain torch
plane   2 coordinates                                             N log N, plain torch
tree    CPU: 3 to 5 coordinates (SciPy's ``cKDTree``)             N log N, and what the balls hold
brute   the rest                                                  N² time, O(N) memory and a chunk
======  ========================================================  ================================

The balls hold a good part of all samples, and from some number of coordinates on comparing all is
faster (N = 5000 to 20 000).
"""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mi_metrics.functional.neighbors.rectangles import rectangle_counts
from mi_metrics.functional.neighbors.steps import (
    argsort,
    bisect,
    chunk_rows,
    gaps_to,
    in_tree_order,
    take,
)
from mi_metrics.functional.tensors import on_cpu
from mi_metrics.kernels import gpu, native
from mi_metrics.kernels import neighbors as native_neighbors

COUNT_DIMENSIONS = 5
# Two sorted lists are merged by one sort where the shorter has at least this share of the longer.
MERGE = 1 / 8


def range_counts(
    points: Tensor, radius: Tensor, *, queries: Tensor | None = None, path: str | None = None
) -> Tensor:
    """Return how many samples lie at most ``radius`` away from points, themselves included.

    Args:
        points: Finite float64 coordinates of one variable, ``(N, d)``.
        radius: Distance per query, ``(N,)`` or ``(Q,)``.
        queries: Indices of the points to ask about, ``(Q,)``, each once; all if ``None``.
        path: ``"native"``, ``"kernel"``, ``"line"``, ``"plane"``, ``"tree"`` or ``"brute"``; by
            default the fastest.

    Returns:
        int64 ``(N,)`` or ``(Q,)``.
    """
    path = path or _choose_path(points)
    if path == "kernel":
        found = _count_kernel(points, radius, queries)
        if found is not None:
            return found
        path = {1: "line", 2: "plane"}.get(points.shape[1], "brute")
    count = {
        "native": _count_native,
        "line": _count_line,
        "plane": _count_plane,
        "tree": _count_tree,
        "brute": _count_brute,
    }[path]
    return count(points, radius, queries)


def _choose_path(points: Tensor) -> str:
    dimensions = points.shape[1]
    if on_cpu(points):
        if (dimensions == 1 or dimensions in native_neighbors.DIMENSIONS) and native.serves():
            return "native"
        if 2 < dimensions <= COUNT_DIMENSIONS:
            return "tree"
    elif gpu.serves(points):
        return "kernel"
    return {1: "line", 2: "plane"}.get(dimensions, "brute")


def strict_counts(
    points: Tensor, radius: Tensor, *, queries: Tensor | None = None, path: str | None = None
) -> Tensor:
    """Return how many samples lie nearer than ``radius``, the point itself included.

    A distance below a number is one of at most the number before it. Of a radius of 0 the count is
    that of the samples at distance 0, so that no count is ever empty. Arguments as for
    :func:`range_counts`.
    """
    before = torch.nextafter(radius, torch.zeros_like(radius))
    return range_counts(points, before, queries=queries, path=path)


def _count_native(points: Tensor, radius: Tensor, queries: Tensor | None) -> Tensor:
    asked = None if queries is None else queries.numpy()
    return torch.from_numpy(native_neighbors.range_counts(points.numpy(), radius.numpy(), asked))


def _count_kernel(points: Tensor, radius: Tensor, queries: Tensor | None) -> Tensor | None:
    asked = radius
    if queries is not None:
        asked = torch.full_like(points[:, 0], -1.0)
        asked[queries] = radius
    counts: Tensor | None = gpu.attempt(
        "counts",
        (points, asked),
        lambda kernels: kernels.range_counts(points[None], asked[None]),
    )
    if counts is None:
        return None
    return counts[0] if queries is None else counts[0, queries]


def _count_brute(points: Tensor, radius: Tensor, queries: Tensor | None) -> Tensor:
    size, candidates = chunk_rows(points, len(points)), list(points.T[:, None])
    asked = points if queries is None else points[queries]
    counts = torch.empty(len(asked), dtype=torch.int64, device=points.device)
    for start in range(0, len(asked), size):
        chunk = slice(start, start + size)
        (gap,) = gaps_to(asked[chunk], candidates, None)
        counts[chunk] = (gap <= radius[chunk, None]).sum(1)
    return counts


def _count_tree(points: Tensor, radius: Tensor, queries: Tensor | None) -> Tensor:
    tree = cKDTree(points.numpy(), leafsize=16)
    order = in_tree_order(tree, queries)
    reach = radius
    if queries is not None:
        reach = torch.empty(len(points), dtype=torch.float64)
        reach[queries] = radius
    balls = tree.query_ball_point(
        points.numpy().take(order.numpy(), 0),
        take(reach, order).numpy(),
        p=np.inf,
        return_length=True,
    )
    counts = torch.empty(len(points), dtype=torch.int64)
    counts[order] = torch.from_numpy(np.asarray(balls, dtype=np.int64))
    return counts if queries is None else counts[queries]


def _count_line(points: Tensor, radius: Tensor, queries: Tensor | None) -> Tensor:
    asked, _, ends = _ranges(points[:, 0], radius, queries)
    counts = torch.empty_like(asked)
    counts[asked] = ends[1] - ends[0] + 1
    return counts


def _count_plane(points: Tensor, radius: Tensor, queries: Tensor | None) -> Tensor:
    """Count the samples whose ranks in both coordinates are within those of each."""
    asked, order, places = _ranges(points[:, 0], radius, queries)
    others, y_order, y_places = _ranges(points[:, 1], radius, queries)
    rank, bounds = torch.empty_like(y_order), torch.empty_like(y_places)
    rank[y_order] = torch.arange(len(rank), device=rank.device)
    bounds[:, others] = y_places
    # In the order of the places, which the cache likes.
    bounds = torch.stack([take(bound, asked) for bound in bounds])
    places[1] += 1
    bounds[1] += 1
    counts = torch.empty_like(asked)
    counts[asked] = rectangle_counts(take(rank, order), places, bounds)
    return counts


def _ranges(
    column: Tensor, radius: Tensor, queries: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the first and the last of the sorted values within the radius of each.

    A search for ``value ± radius`` is only a guess: the rounding of the sum misplaces up to one
    value in a hundred, because the k-th neighbour sits exactly on the border. So the predicate is
    asked on both sides of the border.

    Returns:
        The order in which queries are answered, ``(Q,)``; the order that sorts the values,
        ``(N,)``; the first and last rank of each query in that order, ``(2, Q)``.
    """
    order = argsort(column)
    values = take(column, order)
    here = asked = torch.arange(len(order), device=column.device)
    if queries is not None:
        rank = torch.empty_like(order)
        rank[order] = here
        asked = argsort(rank[queries])
        here = take(rank, take(queries, asked))
        near = take(radius, asked)
    else:
        asked, near = order, take(radius, order)
    return asked, order, _settle(values, near, _guess_ends(values, here, near), here)


def _guess_ends(values: Tensor, here: Tensor, radius: Tensor) -> Tensor:
    """Return about the first and the last index of the sorted values within the radius of each,
    ``(2, Q)``.
    """
    centre = take(values, here)
    low, high = centre - radius, centre + radius
    size, asked = len(values), len(here)
    if not on_cpu(values) or asked < MERGE * size:
        return torch.stack(
            (torch.searchsorted(values, low), torch.searchsorted(values, high, right=True) - 1)
        )
    # Sorting all three lists into one is three times faster than two binary searches, whose
    # branches cannot be predicted.
    order = argsort(torch.cat((values, low, high)))
    rank = torch.empty_like(order)
    rank[order] = (order < size).cumsum(0)
    ends = rank[size:].view(2, asked)
    ends[1] -= 1
    return ends


def _settle(values: Tensor, radius: Tensor, guess: Tensor, here: Tensor) -> Tensor:
    """Move each guess to the outermost index on its side whose distance is at most the radius."""
    side = torch.tensor([[-1], [1]], device=values.device)
    centre = take(values, here)
    ends = torch.stack((torch.minimum(guess[0], here), torch.maximum(guess[1], here)))
    beyond = (ends + side).clamp_(0, len(values) - 1)
    inward = (centre - take(values, ends)).abs_() > radius
    outward = ((centre - take(values, beyond)).abs_() <= radius) & (beyond != ends)
    index = (inward | outward).flatten().nonzero().squeeze(1)
    if not len(index):
        return ends
    # One step is nearly always enough.
    ends += side * (outward.long() - inward.long())
    query, outer = index % len(here), torch.where(index < len(here), -1, 1)
    value, near, end = centre[query], radius[query], ends.view(-1)[index]
    beyond = (end + outer).clamp_(0, len(values) - 1)
    settled = (value - values[end]).abs_() <= near
    settled &= ((value - values[beyond]).abs_() > near) | (beyond == end)
    left = (~settled).nonzero().squeeze(1)
    if len(left):
        query, outer = query[left], outer[left]
        ends.view(-1)[index[left]] = _outermost(values, radius[query], here[query], outer)
    return ends


def _outermost(values: Tensor, radius: Tensor, here: Tensor, side: Tensor) -> Tensor:
    """Bisect for the outermost value at most the radius away, to the left or right of each query.

    The query itself always is.
    """
    centre = values[here]
    most = torch.where(side < 0, here, len(values) - 1 - here)
    steps = bisect(
        torch.zeros_like(most),
        most,
        lambda less: (centre - values[here + side * (most - less)]).abs_() <= radius,
    )
    return here + side * (most - steps)
