"""How many samples lie within a distance of each, in the max norm, exact to the last bit.

The second question of the estimators that :mod:`mi_metrics.functional.neighbors.search` serves,
under the same predicate.

=====  ========================================================  ================================
path   used for                                                  cost
=====  ========================================================  ================================
line   1 coordinate                                              N log N, plain torch
tree   CPU: 2 to 4 coordinates (SciPy's ``cKDTree``)    N log N  , and what the balls hold
brute  the rest                                                  N² time, O(N) memory and a chunk
=====  ========================================================  ================================

The balls hold a good part of all samples, and from 5 coordinates on comparing all is faster (N =
5000 to 20 000).
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mi_metrics.functional.neighbors.steps import argsort, bisect, chunk_rows, gaps_to, on_cpu, take

COUNT_DIMENSIONS = 4


def range_counts(
    points: Tensor, radius: Tensor, *, weights: Tensor | None = None, path: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return how many samples lie nearer than ``radius`` to each point, and how many at most that
    far.

    The point itself is included in both, whatever the radius; so a radius of 0 gives the number of
    samples that coincide with the point, twice.

    Args:
        points: Finite float64 coordinates of one variable, ``(N, d)``.
        radius: Distance per point, ``(N,)``.
        weights: How many samples each point stands for, int64 ``(N,)``; one each if ``None``.
        path: ``"line"``, ``"tree"`` or ``"brute"``; by default the fastest.
    """
    if path is None:
        dimensions = points.shape[1]
        tree = dimensions <= COUNT_DIMENSIONS and on_cpu(points)
        path = "line" if dimensions == 1 else "tree" if tree else "brute"
    count = {"line": _count_line, "tree": _count_tree, "brute": _count_brute}[path]
    return count(points, radius, weights)


def _count_brute(points: Tensor, radius: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    size, candidates = chunk_rows(points, len(points)), list(points.T[:, None])
    strict, closed = (
        torch.empty(len(points), dtype=torch.int64, device=points.device) for _ in range(2)
    )
    for start in range(0, len(points), size):
        chunk = slice(start, start + size)
        (gap,) = gaps_to(points[chunk], candidates, None)
        near = radius[chunk, None]
        for counts, chosen in ((strict, gap < near), (closed, gap <= near)):
            counts[chunk] = chosen.sum(1) if weights is None else (chosen * weights).sum(1)
    return _with_self(strict, closed, radius)


def _count_tree(points: Tensor, radius: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Count in balls; the strict count is that of the ball of the next smaller radius.

    It differs from the closed one only where a sample is at exactly the radius, hence at exactly
    the radius in some coordinate: which the sorted coordinates tell at a fraction of the cost of
    asking the tree again.
    """
    samples = points if weights is None else points.repeat_interleave(weights, 0)
    tree = cKDTree(samples.numpy(), leafsize=16)

    def ask(queries: Tensor, near: Tensor) -> Tensor:
        balls = tree.query_ball_point(queries.numpy(), near.numpy(), p=np.inf, return_length=True)
        return torch.from_numpy(np.asarray(balls, dtype=np.int64))

    closed = ask(points, radius)
    on_border = torch.zeros_like(radius, dtype=torch.bool)
    for column in points.T:
        nearer, near = _count_line(column[:, None], radius, None)
        on_border |= near > nearer
    strict = closed.clone()
    index = on_border.nonzero().squeeze(1)
    if len(index):
        inner = torch.from_numpy(np.nextafter(radius[index].numpy(), 0.0))
        strict[index] = ask(points[index], inner)
    return _with_self(strict, closed, radius)


def _count_line(points: Tensor, radius: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Find the first and the last of the sorted values within the radius of each, and within less
    than it.

    A search for ``value ± radius`` is only a guess: the rounding of the sum misplaces up to one
    value in a hundred, because the k-th neighbour sits exactly on the border. So the predicate is
    asked on both sides of the border.
    """
    size = len(points)
    order = argsort(points[:, 0])
    values, near = take(points[:, 0], order), take(radius, order)
    here = torch.arange(size, device=values.device)
    side = torch.tensor([[-1], [1]], device=values.device)
    ends = _settle(values, near, _guess_ends(values, near), here, side)
    # A step inside where the end is on the border; more than one only where several are.
    on_border = (values - take(values, ends)).abs_() == near
    inner = torch.where(on_border & (near > 0), ends - side, ends)
    index = ((values - take(values, inner)).abs_() >= near).flatten().nonzero().squeeze(1)
    index = index[near[index % size] > 0]
    if len(index):
        inner.view(-1)[index] = _outermost(values, near, index, torch.lt)
    if weights is None:
        nearer, within = inner[1] - inner[0] + 1, ends[1] - ends[0] + 1
    else:
        total = torch.nn.functional.pad(weights[order].cumsum(0), (1, 0))
        nearer, within = total[inner[1] + 1] - total[inner[0]], total[ends[1] + 1] - total[ends[0]]
    strict, closed = torch.empty_like(order), torch.empty_like(order)
    strict[order], closed[order] = nearer, within
    return _with_self(strict, closed, radius)


def _guess_ends(values: Tensor, radius: Tensor) -> Tensor:
    """Return about the first and the last index of the sorted values within the radius of each,
    ``(2, N)``.
    """
    low, high = values - radius, values + radius
    if not on_cpu(values):
        return torch.stack(
            (torch.searchsorted(values, low), torch.searchsorted(values, high, right=True) - 1)
        )
    # Sorting all three lists into one is three times faster than two binary searches, whose
    # branches cannot be predicted.
    size = len(values)
    order = argsort(torch.cat((values, low, high)))
    rank = torch.empty_like(order)
    rank[order] = (order < size).cumsum(0)
    ends = rank[size:].view(2, size)
    ends[1] -= 1
    return ends


def _settle(values: Tensor, radius: Tensor, guess: Tensor, here: Tensor, side: Tensor) -> Tensor:
    """Move each guess to the outermost index on its side whose distance is at most the radius."""
    last = len(values) - 1
    ends = torch.stack((torch.minimum(guess[0], here), torch.maximum(guess[1], here)))
    beyond = (ends + side).clamp_(0, last)
    inward = (values - take(values, ends)).abs_() > radius
    outward = ((values - take(values, beyond)).abs_() <= radius) & (beyond != ends)
    index = (inward | outward).flatten().nonzero().squeeze(1)
    if len(index):  # one step is nearly always enough
        ends += side * (outward.long() - inward.long())
        query = index % len(values)
        value, near, end = values[query], radius[query], ends.view(-1)[index]
        beyond = (end + torch.where(index > last, 1, -1)).clamp_(0, last)
        settled = (value - values[end]).abs_() <= near
        settled &= ((value - values[beyond]).abs_() > near) | (beyond == end)
        index = index[~settled]
        if len(index):
            ends.view(-1)[index] = _outermost(values, radius, index, torch.le)
    return ends


def _outermost(
    values: Tensor, radius: Tensor, index: Tensor, near: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Bisect for the outermost near value: to the left of the queries ``index < N``, to the right
    of ``index - N``.

    The query itself counts as near.
    """
    size = len(values)
    query, side = index % size, torch.where(index < size, -1, 1)
    value, distance, most = (
        values[query],
        radius[query],
        torch.where(index < size, query, size - 1 - query),
    )
    steps = bisect(
        torch.zeros_like(most),
        most,
        lambda less: near((value - values[query + side * (most - less)]).abs_(), distance),
    )
    return query + side * (most - steps)


def _with_self(strict: Tensor, closed: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Count the point and what coincides with it also where the radius is 0, and "nearer" is
    empty.
    """
    return torch.where(radius > 0, strict, closed), closed
