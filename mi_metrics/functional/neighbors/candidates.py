"""Where most samples are coincident and need no search, the few others have few samples around
them: those alone are worth a tree.
"""

from itertools import chain

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mi_metrics.functional.neighbors.search import TREE_DIMENSIONS, Neighborhood, nearest
from mi_metrics.functional.neighbors.steps import take
from mi_metrics.functional.tensors import on_cpu

# So many samples have to be there for each row, and for each query.
LEAST_COPIES = 4
LEAST_SAMPLES = 2**14
CHUNK = 2**18  # neighbours looked for at a time


def nearest_apart(
    points: Tensor, first: Tensor, n_neighbors: int, queries: Tensor, *, x_dim: int | None = None
) -> Neighborhood:
    """Return what :func:`search.nearest` returns, to the bit, sooner where rows repeat often.

    Args:
        points: Coordinates ``(N, d)``, told apart, copies of one row side by side.
        first: The place of the first copy of each row, int64 ``(N,)``.
        n_neighbors: k.
        queries: Places of the points to ask about, ascending.
        x_dim: As in ``nearest``.
    """
    kept = _around(points, first, n_neighbors, queries)
    if kept is None:
        return nearest(points, n_neighbors, queries=queries, x_dim=x_dim)
    places = torch.searchsorted(kept, queries)
    return nearest(points[kept], n_neighbors, queries=places, x_dim=x_dim)


def _around(points: Tensor, first: Tensor, k: int, queries: Tensor) -> Tensor | None:
    """Return the places of all points that can be among the k nearest of a query; None where that
    is not worth while.

    One copy stands for each row. The k + 1 nearest of these are k + 1 points, so a query has its k
    neighbours no farther than the last of them, but for how far copies were moved apart: the
    query, the neighbour that bounds the distance and the one that is looked for, once each.
    """
    number, dimensions = points.shape
    if number < LEAST_SAMPLES or not on_cpu(points) or not 2 <= dimensions <= TREE_DIMENSIONS:
        return None
    if not 0 < len(queries) * LEAST_COPIES <= number:
        return None
    places = torch.arange(number)
    row = (first == places).cumsum(0) - 1
    rows = int(row[-1]) + 1
    if rows <= k or rows * LEAST_COPIES > number:
        return None
    standing = points[first == places]
    moved = max(float((take(c, first) - c).abs().max()) for c in points.T.contiguous())
    tree = cKDTree(standing.numpy(), leafsize=16)
    near = torch.zeros(rows, dtype=torch.bool)
    for asked in torch.split(torch.unique(row[queries]), max(1, CHUNK // (k + 1))):
        centres = standing[asked].numpy()
        bound = tree.query(centres, k=[k + 1], p=np.inf)[0][:, 0]
        # The last factor is more than what rounding can do to a distance.
        balls = tree.query_ball_point(centres, (bound + 3 * moved) * (1 + 1e-9), p=np.inf)
        near[torch.from_numpy(np.fromiter(chain.from_iterable(balls), np.int64))] = True
    return near[row].nonzero().squeeze(1)
