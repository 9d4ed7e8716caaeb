"""Elementary steps of the searches for neighbours: distances, and sorting where NumPy is the faster
one.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mi_metrics.functional.tensors import chunk_size, on_cpu


def gaps_to(queries: Tensor, candidates: Sequence[Tensor], x_dim: int | None) -> list[Tensor]:
    """Return the max-norm distances to the candidates in each variable, or in all coordinates at
    once.
    """
    cuts = [0, queries.shape[1]] if x_dim is None else [0, x_dim, queries.shape[1]]
    gaps = []
    for start, stop in pairwise(cuts):
        gap = (candidates[start] - queries[:, start, None]).abs_()
        for c in range(start + 1, stop):
            torch.maximum(gap, (candidates[c] - queries[:, c, None]).abs_(), out=gap)
        gaps.append(gap)
    return gaps


def chunk_rows(points: Tensor, width: int) -> int:
    """Return how many rows of ``width`` pairs make one chunk."""
    return max(1, chunk_size("distances", points.device) // width)


def bisect(low: Tensor, high: Tensor, holds: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the first index in low…high where a monotone predicate holds; it is taken to hold at
    ``high``.
    """
    for _ in range(int((high - low).max()).bit_length()):
        middle = (low + high) // 2
        true = holds(middle)
        low, high = (
            torch.where(true, low, torch.minimum(middle + 1, high)),
            torch.where(true, middle, high),
        )
    return high


def argsort(values: Tensor) -> Tensor:
    """Return the order that sorts the values."""
    if on_cpu(values):  # NumPy sorts with vector instructions, several times faster
        return torch.from_numpy(np.argsort(values.numpy()))
    return values.argsort()


def sort(values: Tensor) -> Tensor:
    """Return the values sorted."""
    if on_cpu(values):  # a third of the time that their order takes
        return torch.from_numpy(np.sort(values.numpy()))
    return values.sort().values


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return the values at the places of an index."""
    if on_cpu(values):  # three times faster than indexing in torch
        return torch.from_numpy(values.numpy().take(index.numpy()))
    return values[index]


def in_tree_order(tree: cKDTree, queries: Tensor | None) -> Tensor:
    """Return the points to ask about in the order of the tree's leaves, whose neighbours share the
    cache: 2.7 times faster for a million points in no order.
    """
    # A copy, as newer versions of SciPy forbid to write into theirs, which PyTorch warns of.
    order = torch.from_numpy(tree.indices.copy())
    if queries is None:
        return order
    wanted = torch.zeros(len(order), dtype=torch.bool)
    wanted[queries] = True
    return order[wanted[order]]
