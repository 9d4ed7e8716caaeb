"""Permutations that move every sample to a place where z is about the same: what a test of
conditional independence compares with.

A sample takes the place of one of its nearest neighbours in z, of those that are still free, in a
random order of samples; where none is free it shares a place. So the dependence of x on z stays,
and that of x on y beyond z goes. Samples with copies of their z, be it a single one, trade places
with these alone, in any way: others may have another x on average, however near their z is.

References:
    J. Runge, "Conditional independence testing based on a nearest-neighbor estimator of conditional
    mutual information" (2018), arXiv:1709.01447.
"""

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from mi_metrics.functional.tables.way import chunks

# Places that a sample can take, its own included.
NEIGHBORS = 5
# Samples whose chances are drawn at once.
STEPS = 64

Places = NDArray[np.int64]


def local_permutations(
    z: Tensor, same_z: Tensor, group: Tensor, number: int, seed: int
) -> Iterator[Tensor]:
    """Yield permutations of N samples that hardly change z.

    Args:
        z: Coordinates of z, told apart, float64 ``(N, d)``.
        same_z: How many samples had the z of each before they were told apart, int64 ``(N,)``.
        group: A number that samples of one z share, int64 ``(N,)``.
        number: How many permutations.
        seed: Seed of chance.

    Yields:
        int64 ``(N,)`` each, on the CPU: whose x each sample gets.
    """
    rng = np.random.default_rng(seed)
    repeated = same_z.cpu().numpy() > 1
    (together,), (scattered,) = repeated.nonzero(), (~repeated).nonzero()
    groups, points = group.cpu().numpy()[together], z.cpu().numpy()[scattered]
    for size in chunks(number, len(z)):
        result = np.empty((size, len(z)), dtype=np.int64)
        if len(together):
            result[:, together] = together[_within_groups(groups, size, rng)]
        if len(scattered):
            result[:, scattered] = scattered[_among_neighbors(points, size, rng)]
        yield from torch.from_numpy(result)


def _within_groups(groups: Places, number: int, rng: np.random.Generator) -> Places:
    """Return any permutations that leave samples in their group."""
    places = np.argsort(groups, kind="stable")
    result = np.empty((number, len(groups)), dtype=np.int64)
    for permutation in result:
        # By group, and in random order within each.
        permutation[places] = np.lexsort((rng.random(len(groups)), groups))
    return result


def _among_neighbors(points: NDArray[np.float64], number: int, rng: np.random.Generator) -> Places:
    """Return permutations among near points, for all of them one sample after the other."""
    size, near = len(points), min(NEIGHBORS, len(points))
    nearest = cKDTree(points).query(points, k=list(range(1, near + 1)), p=np.inf)[1]
    shuffles = np.array(list(permutations(range(near))))
    first, near_first = size * np.arange(number), near * np.arange(number)
    order = np.argsort(rng.random((number, size)), axis=1)
    result = np.empty(number * size, dtype=np.int64)
    taken = np.zeros(number * size, dtype=bool)
    for start in range(0, size, STEPS):
        # What chance decides, before the steps that follow each other.
        samples = order[:, start : start + STEPS].T
        shuffled = shuffles[rng.integers(len(shuffles), size=samples.shape)]
        places = nearest.take(samples[..., None] * near + shuffled) + first[:, None]
        for sample, some in zip(samples + first, places, strict=True):
            free = taken.take(some).argmin(1)
            chosen = some.take(near_first + free)
            taken[chosen] = True
            result[sample] = chosen
    return result.reshape(number, size) - first[:, None]
