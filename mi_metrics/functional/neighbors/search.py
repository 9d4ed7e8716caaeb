"""Nearest neighbours in the max norm, exact to the last bit.

The neighbour estimators of mutual information (Kraskov, Stögbauer and Grassberger 2004, Ross 2014)
ask two questions about a sample: how far away is its k-th neighbour in the joint space, and how
many samples lie within a given distance of it in the space of one variable? The second is that of
:mod:`mi_metrics.functional.neighbors.within`. The distance of two samples is the largest absolute
difference over all coordinates. Both answers have to agree about who sits exactly on the border,
because the k-th neighbour itself always does. So there are no tolerances in these modules: every
path evaluates the one predicate ``|a - b| <= radius`` in float64, and search structures only decide
which pairs need looking at. That is sound because a rounded subtraction is still monotone in both
of its operands. Whatever the path, the answers equal those of comparing all pairs.

Which path serves which points:

======  ========================================================  ================================
path    used for                                                  cost
======  ========================================================  ================================
line    1 coordinate                                              N (log N + k), plain torch
native  CPU, compiled: 2 to 10 coordinates                        N log N in few coordinates
kernel  CUDA, with Triton: from 2 coordinates on, k up to 63      N log N in few, N² from 11 on
tree    CPU: 2 to 24 coordinates (SciPy's ``cKDTree``)            N log N in few coordinates
strips  CUDA: 2 coordinates                                       about N, plain torch
brute   the rest, and the few points that the others leave        N² time, O(N) memory and a chunk
======  ========================================================  ================================

Where the tree ends was measured at N = 5000 to 20 000: up to 24 coordinates it wins by 1.3 to 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mi_metrics.functional.neighbors.steps import (
    argsort,
    chunk_rows,
    gaps_to,
    in_tree_order,
    take,
)
from mi_metrics.functional.tensors import on_cpu
from mi_metrics.kernels import gpu, native
from mi_metrics.kernels import neighbors as native_neighbors

TREE_DIMENSIONS = 24
FOLD = 32
STRIP_AREA = 0.75  # strips about as wide as high if cut into pieces of STRIP_AREA * k points
WINDOW = 4  # points looked at per strip and per neighbour wanted: half of them on either side


class Neighborhood(NamedTuple):
    """What the search finds around every point.

    Attributes:
        radius: Distance to the k-th neighbour, the point itself not counted.
        reach: Per variable, the largest distance among the samples at most ``radius`` away: half
            the sides of the smallest rectangle that holds them. Empty unless it was asked for.
    """

    radius: Tensor
    reach: tuple[Tensor, ...]


def nearest(
    points: Tensor,
    n_neighbors: int,
    *,
    x_dim: int | None = None,
    queries: Tensor | None = None,
    path: str | None = None,
) -> Neighborhood:
    """Return the distance to the k-th neighbour of points, and how far the neighbours reach.

    Args:
        points: Finite float64 coordinates, ``(N, d)``.
        n_neighbors: k, smaller than the number of points.
        x_dim: Where to cut the coordinates into two variables for ``reach``; ``None`` skips
            ``reach``.
        queries: Indices of the points to ask about; all if ``None``.
        path: ``"native"``, ``"kernel"``, ``"tree"``, ``"strips"``, ``"line"`` or ``"brute"``; by
            default the fastest for these points.
    """
    path = path or _choose_path(points, queries)
    if path == "kernel":
        found = _kernel(points, queries, n_neighbors, x_dim)
        if found is not None:
            return found
        path = "strips" if points.shape[1] == 2 else "brute"
    if path == "line":
        return _line(points, queries, n_neighbors, x_dim)
    if path == "native":
        return _native(points, queries, n_neighbors, x_dim)
    if path == "strips":
        return _strips(points, queries, n_neighbors, x_dim)
    if path == "brute":
        return _brute(points, queries, n_neighbors, x_dim)
    if x_dim is None:
        return _tree_radius(points, queries, n_neighbors)
    return _tree(points, queries, n_neighbors, x_dim)


def _choose_path(points: Tensor, queries: Tensor | None) -> str:
    dimensions = points.shape[1]
    if queries is not None and len(queries) * len(points) < 2**19:
        return "brute"  # sooner done than a tree is built
    if dimensions == 1:
        return "line"
    if on_cpu(points):
        if dimensions in native_neighbors.DIMENSIONS and native.serves():
            return "native"
        return "tree" if dimensions <= TREE_DIMENSIONS else "brute"
    if gpu.serves(points):
        return "kernel"
    return "strips" if dimensions == 2 else "brute"


# --------------------------------------------------------------------------------------------------
# Neighbours by comparing all pairs, and what every path has in common with it


def _brute(points: Tensor, queries: Tensor | None, k: int, x_dim: int | None) -> Neighborhood:
    if queries is None:
        queries = torch.arange(len(points), device=points.device)
    padded = _pad(points, -len(points) % FOLD)
    candidates, size = list(padded.T[:, None]), chunk_rows(points, len(padded))
    found = _empty(queries, x_dim)
    for start in range(0, len(queries), size):
        chunk = slice(start, start + size)
        _replace(found, chunk, _inspect(points[queries[chunk]], candidates, k, x_dim))
    return found


def _inspect(
    queries: Tensor, candidates: Sequence[Tensor], k: int, x_dim: int | None
) -> Neighborhood:
    """Find the neighbourhood of each query among its own row of candidates, itself included.

    ``candidates`` holds one matrix per coordinate, ``(Q or 1, C)``: there never is a (Q, C, d)
    block.
    """
    gaps = gaps_to(queries, candidates, x_dim)
    distance = gaps[0] if len(gaps) == 1 else torch.maximum(gaps[0], gaps[1])
    radius = _kth_smallest(distance, k + 1)
    return Neighborhood(radius, () if x_dim is None else _reach(gaps, distance, radius))


def _reach(gaps: Sequence[Tensor], distance: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
    """Return per variable the largest gap among the candidates within the radius."""
    inside = distance <= radius[:, None]
    return tuple(torch.where(inside, gap, 0.0).amax(1) for gap in gaps)


def _kth_smallest(distance: Tensor, k: int) -> Tensor:
    """Return the k-th smallest number of each row.

    ``topk`` over the whole row would be three quarters of all the work. So the row is first folded
    into blocks: the k blocks with the least minima hold k distances that no other block can
    undercut, and only these blocks are sorted out further.
    """
    rows, width = distance.shape
    blocks = width // FOLD
    if width % FOLD == 0 and k < blocks:
        folded = distance.view(rows, FOLD, blocks)
        best = folded.amin(1).topk(k, largest=False, sorted=False).indices
        distance = folded.gather(2, best[:, None, :].expand(rows, FOLD, k)).flatten(1)
    if on_cpu(distance) and distance.shape[1] <= 1024:
        # NumPy sorts a short row in a fifth of the time that torch takes to find its least
        # elements.
        return torch.from_numpy(np.sort(distance.numpy(), 1)[:, k - 1].copy())
    return distance.topk(k, largest=False).values[:, -1].clone()


def _replace(found: Neighborhood, index: Tensor | slice, better: Neighborhood) -> None:
    """Write what was found for some points into the result for all.

    Into memory that exists: small results kept between the large blocks of each chunk would
    fragment the heap, and comparing 20 000 points took 3 GB.
    """
    found.radius[index] = better.radius
    for whole, part in zip(found.reach, better.reach, strict=True):
        whole[index] = part


def _at(found: Neighborhood, index: Tensor | None) -> Neighborhood:
    if index is None:
        return found
    return Neighborhood(found.radius[index], tuple(side[index] for side in found.reach))


def _empty(queries: Tensor, x_dim: int | None) -> Neighborhood:
    radius = torch.empty(len(queries), dtype=torch.float64, device=queries.device)
    return Neighborhood(radius, () if x_dim is None else (radius.clone(), radius.clone()))


def _pad(points: Tensor, number: int) -> Tensor:
    """Append points that are infinitely far from every other."""
    return torch.nn.functional.pad(points, (0, 0, 0, number), value=float("inf"))


# --------------------------------------------------------------------------------------------------
# Neighbours by the twins, compiled or on a GPU


def _native(points: Tensor, queries: Tensor | None, k: int, x_dim: int | None) -> Neighborhood:
    asked = None if queries is None else queries.numpy()
    radius, *reach = native_neighbors.nearest(points.numpy(), k, asked, x_dim)
    return Neighborhood(torch.from_numpy(radius), tuple(map(torch.from_numpy, reach)))


def _kernel(
    points: Tensor, queries: Tensor | None, k: int, x_dim: int | None
) -> Neighborhood | None:
    wanted = None
    if queries is not None:
        wanted = torch.full((1, len(points)), -1, dtype=torch.int32, device=points.device)
        wanted[0, queries] = k
    found = gpu.attempt(
        "neighbors",
        (points, wanted),
        lambda kernels: kernels.nearest(points[None], k, wanted, x_dim),
    )
    if found is None:
        return None
    radius, *reach = (side[0] for side in found)
    return _at(Neighborhood(radius, tuple(reach)), queries)


# --------------------------------------------------------------------------------------------------
# Neighbours from the k-d tree


def _tree_radius(points: Tensor, queries: Tensor | None, k: int) -> Neighborhood:
    tree = cKDTree(points.numpy(), leafsize=16)
    found, todo = _empty(points, None), in_tree_order(tree, queries)
    answer = tree.query(points.numpy().take(todo.numpy(), 0), k=[k + 1], p=np.inf)
    found.radius[todo] = torch.from_numpy(answer[0][:, 0])
    return _at(found, queries)


def _tree(points: Tensor, queries: Tensor | None, k: int, x_dim: int) -> Neighborhood:
    """Ask for one neighbour more than needed: where it is farther than the k-th, nothing is tied
    with the k-th.

    Tied points ask again for more neighbours, and the few that are tied with very many compare all
    pairs.
    """
    tree = cKDTree(points.numpy(), leafsize=16)
    found, todo = _empty(points, x_dim), in_tree_order(tree, queries)
    number = k + 2
    while len(todo) and number <= max(64, 4 * (k + 2)):
        number = min(number, len(points))
        tied = []
        for chunk in torch.split(todo, max(1, 2**20 // number)):
            better, settled = _ask_tree(tree, points, chunk, number, k, x_dim)
            _replace(found, chunk, better)
            tied.append(chunk[~settled])
        todo = torch.cat(tied)
        number *= 4
    if len(todo):
        _replace(found, todo, _brute(points, todo, k, x_dim))
    return _at(found, queries)


def _ask_tree(
    tree: cKDTree, points: Tensor, queries: Tensor, number: int, k: int, x_dim: int
) -> tuple[Neighborhood, Tensor]:
    """Read the neighbourhoods off the nearest ``number`` points, and say which of them are surely
    whole.
    """
    rows = points.numpy().take(queries.numpy(), 0)
    answer = tree.query(rows, k=list(range(1, number + 1)), p=np.inf)
    distance, index = torch.from_numpy(answer[0]), torch.from_numpy(answer[1])
    radius = distance[:, k].clone()
    gaps = gaps_to(torch.from_numpy(rows), [column[index] for column in points.T], x_dim)
    settled = (
        torch.full_like(radius, True, dtype=torch.bool)
        if number == len(points)
        else distance[:, -1] > radius
    )
    return Neighborhood(radius, _reach(gaps, distance, radius)), settled


# --------------------------------------------------------------------------------------------------
# Neighbours on a line


def _line(points: Tensor, queries: Tensor | None, k: int, x_dim: int | None) -> Neighborhood:
    """The k nearest of a number and itself are k + 1 consecutive sorted values: take the tightest
    such run.
    """
    if x_dim is not None:
        raise ValueError(
            "A line has no rectangle: expected `x_dim` to be None for points of one coordinate."
        )
    order, size = argsort(points[:, 0]), len(points)
    values = _pad_line(take(points[:, 0], order), k)
    sorted_radius = torch.full((size,), float("inf"), dtype=torch.float64, device=points.device)
    here = values[k : k + size]
    for below in range(k + 1):
        first, last = (
            values[k - below : k - below + size],
            values[2 * k - below : 2 * k - below + size],
        )
        torch.minimum(sorted_radius, torch.maximum(here - first, last - here), out=sorted_radius)
    radius = torch.empty_like(sorted_radius)
    radius[order] = sorted_radius
    return _at(Neighborhood(radius, ()), queries)


def _pad_line(values: Tensor, number: int) -> Tensor:
    far = torch.full((number,), float("inf"), dtype=torch.float64, device=values.device)
    return torch.cat((-far, values, far))


# --------------------------------------------------------------------------------------------------
# Neighbours from strips: a cell list that adapts to the data, in plain torch


class _Strips(NamedTuple):
    """Points sorted by x, cut into strips of ``size`` places each, every strip sorted by y.

    One more strip holds nothing but padding, infinitely far away: it stands for the strips beside
    the outermost.
    """

    x: Tensor
    y: Tensor
    rank: Tensor
    key: Tensor
    first_x: Tensor
    last_x: Tensor
    size: int


def _strips(points: Tensor, queries: Tensor | None, k: int, x_dim: int | None) -> Neighborhood:
    """Look at the points around a query's rank in y, in its own strip of x and the strips beside
    it.

    The answer is certain if it is nearer than everything not looked at: the next points in y in
    each strip that was looked at, and the next strips in x. The few per cent of uncertain queries
    look farther, and what is left then compares all pairs.
    """
    size, window = max(int((STRIP_AREA * k * len(points)) ** 0.5), 1), WINDOW * (k + 1)
    if size < window:
        return _brute(points, queries, k, x_dim)
    strips, order = _cut(points, size)
    found = _empty(points, x_dim)
    wanted = torch.zeros(len(order), dtype=torch.bool, device=points.device)
    wanted[queries if queries is not None else slice(len(points))] = True
    todo, reach = wanted[order].nonzero().squeeze(1), 1
    for _ in range(3):
        uncertain = []
        for chunk in torch.split(todo, 2**20 // (2 * reach + 1)):
            start, unseen = _windows(strips, chunk, reach, window)
            better = _look(strips, chunk, start, window, k, x_dim)
            _replace(found, order[chunk], better)
            uncertain.append(chunk[better.radius >= unseen])
        todo = torch.cat(uncertain)
        if not len(todo):
            return _at(found, queries)
        reach, window = 2 * reach, min(4 * window, size)
    _replace(found, order[todo], _brute(points, order[todo], k, x_dim))
    return _at(found, queries)


def _cut(points: Tensor, size: int) -> tuple[_Strips, Tensor]:
    """Return the strips, and which point each of their places holds."""
    number = -(-len(points) // size)
    padding = (number + 1) * size - len(points)
    padded = _pad(points, padding)
    places = torch.arange(len(padded), device=points.device)
    by_x, rank = argsort(padded[:, 0]), torch.empty_like(places)
    rank[argsort(padded[:, 1])] = places
    key = places // size * len(padded) + rank[by_x]
    by_key = argsort(key)
    order = by_x[by_key]
    first_x, last_x = padded[by_x[::size], 0], padded[by_x[size - 1 :: size], 0]
    x, y = padded[order].unbind(1)
    return _Strips(
        x.contiguous(), y.contiguous(), rank[order], key[by_key], first_x, last_x, size
    ), order


def _windows(strips: _Strips, queries: Tensor, reach: int, window: int) -> tuple[Tensor, Tensor]:
    """Return where the window of each query begins in each strip, and how far away the rest is at
    least.
    """
    x, y, size, last = strips.x[queries], strips.y[queries], strips.size, len(strips.x) - 1
    number = len(strips.first_x) - 1
    own = queries // size
    before, after = own - reach - 1, own + reach + 1
    unseen = torch.minimum(
        torch.where(before >= 0, x - strips.last_x[before.clamp_min(0)], float("inf")),
        strips.first_x[after.clamp_max(number)] - x,
    )
    starts = []
    for step in range(-reach, reach + 1):
        strip = own + step
        strip = torch.where((strip >= 0) & (strip < number), strip, number)
        first = strip * size
        rank = (
            torch.searchsorted(strips.key, strip * len(strips.x) + strips.rank[queries])
            if step
            else queries
        )
        start = (rank - window // 2).maximum(first).minimum(first + (size - window))
        above = start + window
        gap = (y - strips.y[(start - 1).clamp_min(0)]).abs_()
        unseen = unseen.minimum(gap.masked_fill_(start == first, float("inf")))
        gap = strips.y[above.clamp_max(last)].sub_(y)
        unseen = unseen.minimum(gap.masked_fill_(above == first + size, float("inf")))
        starts.append(start)
    return torch.stack(starts, 1), unseen


def _look(
    strips: _Strips, queries: Tensor, start: Tensor, window: int, k: int, x_dim: int | None
) -> Neighborhood:
    """Read the neighbourhoods off the windows."""
    found = _empty(queries, x_dim)
    steps = torch.arange(window, device=queries.device)
    size = chunk_rows(strips.x[:, None], start.shape[1] * window)
    for first in range(0, len(queries), size):
        chunk = slice(first, first + size)
        place = (start[chunk, :, None] + steps).flatten(1)
        candidates = (take(strips.x, place), take(strips.y, place))
        points = torch.stack((strips.x[queries[chunk]], strips.y[queries[chunk]]), 1)
        _replace(found, chunk, _inspect(points, candidates, k, x_dim))
    return found
