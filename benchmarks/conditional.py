"""Conditional mutual information: tables against those without a condition, neighbours against the
plain formulation.
"""

import itertools

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import psi

from benchmarks.timing import Row, compiled, ratio, seconds
from mi_metrics import BinnedConditionalMutualInformation, BinnedMutualInformation
from mi_metrics.functional import knn_conditional_mutual_information, knn_p_value
from mi_metrics.kernels import switch

N, CLASSES, BINS = 1_000_000, 4, 32
PERMUTATIONS = 100


def rows() -> list[Row]:
    """Run the suite."""
    with switch.disabled():
        found = [*_updates(), *_neighbors()]
    return [*found, *compiled(lambda: [*_updates(), *_neighbors()])]


def _updates() -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, N, generator=generator)
    y = 0.6 * x + 0.8 * noise
    z = torch.randint(CLASSES, (N,), generator=generator)
    found = []
    for n, (name, value_range) in itertools.product(
        (10_000, N), (("known", (-6, 6)), ("unknown", None))
    ):
        given = BinnedConditionalMutualInformation(
            BINS, num_conditions=CLASSES, value_range=value_range
        )
        plain = BinnedMutualInformation(BINS, value_range=value_range)
        u, v, w = x[:n], y[:n], z[:n]
        ours, without = seconds(
            lambda m=given, u=u, v=v, w=w: m.update(u, v, w),
            lambda m=plain, u=u, v=v: m.update(u, v),
            repeat=7 if n == N else 50,
        )
        figure = f"{ours / without:.2f}x  ({1e3 * ours:.3g} against {1e3 * without:.3g} ms)"
        what = f"update of {n} samples of 4 classes against no classes, {name} range"
        found.append(Row(what, figure, "<= 1.2x", ours <= 1.2 * without))
    return found


def _neighbors() -> list[Row]:
    z, a, b = torch.randn(3, 10_000, generator=torch.Generator().manual_seed(0))
    x, y = z + a, z + b + 0.5 * a
    arrays = [v.double().numpy()[:, None] for v in (x, y, z)]
    times = seconds(
        lambda: knn_conditional_mutual_information(x, y, z), lambda: _plain(*arrays), repeat=2
    )
    what = "1 + 1 + 1 dimensions, N = 10000, against SciPy's cKDTree plainly"
    found = [ratio(what, *times, 5)]
    x, y, z = x[:1000], y[:1000], z[:1000]
    arrays = [v[:1000] for v in arrays]
    ours, theirs = seconds(
        lambda: knn_p_value(x, y, z=z, num_permutations=PERMUTATIONS),
        lambda: _plain(*arrays),
        repeat=2,
    )
    what = "N = 1000, 100 local permutations, against as many values by SciPy's cKDTree"
    found.append(ratio(what, ours, (1 + PERMUTATIONS) * theirs, 10))
    return found


def _plain(x: np.ndarray, y: np.ndarray, z: np.ndarray, k: int = 3) -> float:
    """The estimator as one would first write it with SciPy's trees; no ties are looked after."""
    x, y, z = (v / v.std(0) for v in (x, y, z))
    points = np.concatenate((x, y, z), 1)
    radius = cKDTree(points).query(points, k=[k + 1], p=np.inf)[0][:, 0]

    def counts(*parts: np.ndarray) -> np.ndarray:
        v = np.concatenate(parts, 1)
        return cKDTree(v).query_ball_point(v, np.nextafter(radius, 0), p=np.inf, return_length=True)

    terms = psi(counts(z)) - psi(counts(x, z)) - psi(counts(y, z))
    return float(psi(k) + terms.mean())
