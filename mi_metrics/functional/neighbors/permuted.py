"""The estimate of Frenzel and Pompe of samples in which only x trades places, many times.

y and z stay, and with them which samples are near in y and z, and in z. Two lists of these, found
once, hold what nearly every sample is compared with: the k-th neighbour in all three variables is
among those that are near in y and z, and whoever is near in x and z is among those near in z. A
sample whose list ends too early is compared with all. Counts are those of a search, to the bit.

The compiled twin keeps no lists: it looks at samples in the order of z, from each towards both ends
until they are too far.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from mi_metrics.functional.neighbors.digamma import mean_of_tally, mean_psi
from mi_metrics.functional.neighbors.ties import Triples
from mi_metrics.functional.tensors import on_cpu
from mi_metrics.kernels import native
from mi_metrics.kernels import neighbors as native_neighbors

# Entries of a table of all distances above which lists would be too long, and a compiled search
# with a tree is faster than looking at samples in order: some 3000 samples.
MOST_LISTED = 2**23
# Permutations whose tallies, int64 each, are there at once.
TALLIES = 2**20
# Lists are long enough for so many of the samples of the first permutation, and by so much longer.
ENOUGH, MORE = 0.98, 1.25
# Samples at once: what they are compared with stays in the cache.
ROWS = 128

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def permuted_values(samples: Triples, k: int, orders: Iterator[Tensor]) -> Iterator[float] | None:
    """Yield the estimate, in nats, for x in each of several orders; None where a search for each is
    faster.

    Args:
        samples: The samples, told apart, none of them coincident whatever x they get.
        k: The number of neighbours.
        orders: Whose x each sample gets, int64 ``(N,)`` each, on the CPU.
    """
    if len(samples.x) ** 2 > MOST_LISTED or not on_cpu(samples.x):
        return None
    if not native.serves():
        return _listed_values(samples, k, orders)
    dims = (v.shape[1] for v in (samples.x, samples.y, samples.z))
    if not all(d in native_neighbors.PERMUTED_DIMENSIONS for d in dims):
        return None
    return _compiled_values(samples, k, orders)


def _listed_values(samples: Triples, k: int, orders: Iterator[Tensor]) -> Iterator[float]:
    listed = None
    for order in orders:
        listed = listed or PermutedTriples(samples, k, order)
        yield listed.value(order)


def _compiled_values(samples: Triples, k: int, orders: Iterator[Tensor]) -> Iterator[float]:
    x, y, z = (v.numpy() for v in (samples.x, samples.y, samples.z))
    while some := list(islice(orders, max(1, TALLIES // len(x)))):
        tallies = native_neighbors.permuted_tallies(x, y, z, torch.stack(some).numpy(), k)
        yield from (mean_of_tally(len(x), tally) for tally in tallies)


class _List:
    """The nearest of each sample, itself included, and how far they are, ``(N, M)``."""

    def __init__(self, points: Floats, length: int) -> None:
        self.points, size = points, min(length, len(points))
        found = cKDTree(points).query(points, k=list(range(1, size + 1)), p=np.inf)
        self.gaps: Floats = found[0]
        self.places: Places = found[1]
        # How far a list is complete.
        self.reach = np.full(len(points), np.inf) if size == len(points) else self.gaps[:, -1]


class PermutedTriples:
    """Samples that are told apart, none of them coincident whatever x they get.

    Args:
        samples: The samples.
        k: The number of neighbours.
        order: A permutation of x, which says how long lists have to be.
    """

    def __init__(self, samples: Triples, k: int, order: Tensor) -> None:
        self.x, self.k = samples.x.numpy(), k
        z, yz = samples.z.numpy(), torch.cat((samples.y, samples.z), 1).numpy()
        points = np.hstack((self.x[order.numpy()], yz))
        radius = cKDTree(points).query(points, k=[k + 1], p=np.inf)[0][:, 0]
        near_yz, near_z = (
            cKDTree(v).query_ball_point(v, radius, p=np.inf, return_length=True) for v in (yz, z)
        )
        # Samples with as many near ones side by side: lists are cut to the longest of a few rows.
        self.rows = np.argsort(near_z, kind="stable")
        self.near_yz = _List(yz[self.rows], _length(near_yz, k))
        self.near_z = _List(z[self.rows], _length(near_z, k))

    def value(self, order: Tensor) -> float:
        """Return the estimate in nats of the samples with x in another order."""
        x = np.asfortranarray(self.x[order.numpy()[self.rows]])
        counts = np.empty((3, len(x)), dtype=np.int64)
        for start in range(0, len(x), ROWS):
            rows = np.arange(start, min(start + ROWS, len(x)))
            counts[:, rows] = self._counts(x, rows)
        k = torch.full((len(x),), self.k, dtype=torch.int64)
        terms = zip((-1, -1, 1), map(torch.from_numpy, counts), strict=True)
        return mean_psi(len(x), [(1, k), *terms])

    def _counts(self, x: Floats, rows: Places) -> Places:
        """Return how many are near some samples in x and z, in y and z, and in z, ``(3, R)``."""
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        listed = self.near_yz
        joint = _gaps_listed(x, part, listed.places[part])
        np.maximum(joint, listed.gaps[part], out=joint)
        joint.partition(self.k, axis=1)
        radius = joint[:, self.k].copy()
        (late,) = (radius > listed.reach[part]).nonzero()
        for i in late:
            gaps = np.maximum(_gaps(x[rows[i]], x), _gaps(listed.points[rows[i]], listed.points))
            radius[i] = np.partition(gaps, self.k)[self.k]
        # A distance below a number is one of at most the number before it.
        before = np.nextafter(radius, 0.0)
        near_yz = _leading(listed.gaps[part] <= before[:, None])
        for i in (before >= listed.reach[part]).nonzero()[0]:
            gaps = _gaps(listed.points[rows[i]], listed.points)
            near_yz[i] = np.count_nonzero(gaps <= before[i])

        listed = self.near_z
        inside = listed.gaps[part] <= before[:, None]
        near_z = _leading(inside)
        most = int(near_z.max())
        # The nearest come first, so what lies beyond is farther in z.
        inside = inside[:, :most]
        inside &= _gaps_listed(x, part, listed.places[part, :most]) <= before[:, None]
        near_xz = np.count_nonzero(inside, axis=1)
        for i in (before >= listed.reach[part]).nonzero()[0]:
            close = _gaps(listed.points[rows[i]], listed.points) <= before[i]
            near_z[i] = np.count_nonzero(close)
            near_xz[i] = np.count_nonzero(close & (_gaps(x[rows[i]], x) <= before[i]))
        return np.stack((near_xz, near_yz, near_z))


def _length(near: Places, k: int) -> int:
    """Return how long lists have to be for samples with about so many near ones."""
    # One more than the neighbours that are looked for, at least.
    return max(int(MORE * np.quantile(near, ENOUGH)), k) + 2


def _leading(inside: NDArray[np.bool_]) -> Places:
    """Return how many True each row begins with; of rows in which they are all that there are."""
    found: Places = np.where(inside[:, -1], inside.shape[1], inside.argmin(1))
    return found


def _gaps(a: Floats, b: Floats) -> Floats:
    """Return distances in the largest coordinate, of the broadcast leading dimensions."""
    gaps: Floats = np.abs(a[..., 0] - b[..., 0])
    for i in range(1, a.shape[-1]):
        np.maximum(gaps, np.abs(a[..., i] - b[..., i]), out=gaps)
    return gaps


def _gaps_listed(x: Floats, part: slice, places: Places) -> Floats:
    """Return the distances of some samples of x ``(N, d)`` from those at places ``(R, M)``."""
    gaps: Floats | None = None
    for column in x.T:
        found = column.take(places)
        found -= column[part, None]
        np.abs(found, out=found)
        gaps = found if gaps is None else np.maximum(gaps, found, out=gaps)
    assert gaps is not None
    return gaps
