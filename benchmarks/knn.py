"""The nearest-neighbour estimator against scikit-learn and against the dense formulation."""

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import psi
from torch import Tensor

from benchmarks import study
from benchmarks.timing import Row, at_most, compiled, missing, peer, ratio, seconds
from mi_metrics.functional import knn_mutual_information
from mi_metrics.kernels import switch


def rows() -> list[Row]:
    """Run the suite."""
    with switch.disabled():
        found = [*_dense(), *_sklearn(2, 4), *_vectors(1), *_bytes(), *_batched()]
    return [*found, *compiled(_compiled), *_accuracy()]


def _compiled() -> list[Row]:
    return [*_sklearn(6, 15), *_vectors(5), *_batched(), *_many()]


def _gaussian(*shape: int) -> tuple[Tensor, Tensor]:
    x, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return x, 0.6 * x + 0.8 * noise


def _dense() -> list[Row]:
    """Measure against all pairs of distances in float32: O(N²) time and memory."""
    x, y = _gaussian(4900)

    def dense() -> Tensor:
        dx, dy = (torch.cdist(v[:, None], v[:, None], p=1) for v in (x, y))
        radius = torch.maximum(dx, dy).topk(4, largest=False).values[:, -1:]
        counts = [(d < radius).sum(1) for d in (dx, dy)]
        psi = torch.digamma(torch.stack(counts).float()).mean(1).sum()
        return torch.digamma(torch.tensor(3.0)) + torch.digamma(torch.tensor(4900.0)) - psi

    times = seconds(lambda: knn_mutual_information(x, y), dense, repeat=3)
    return [ratio("N = 4900, against dense distances in float32", *times, 60)]


def _sklearn(few: float, many: float) -> list[Row]:
    if not (selection := peer("sklearn.feature_selection")):
        return [missing("against scikit-learn", "scikit-learn")]
    found = []
    for n, repeat, required in ((4900, 5, few), (1_000_000, 1, many)):
        x, y = _gaussian(n)
        a, b = x[:, None].numpy(), y.numpy()
        times = seconds(
            lambda x=x, y=y: knn_mutual_information(x, y),
            lambda a=a, b=b: selection.mutual_info_regression(a, b, n_neighbors=3, random_state=0),
            repeat=repeat,
        )
        found.append(
            ratio(f"N = {n}, against scikit-learn's mutual_info_regression", *times, required)
        )
    return found


def _plain(x: Tensor, y: Tensor) -> float:
    """The estimator as one would first write it with SciPy's trees; no ties are looked after."""
    a, b = (v.double().numpy() / v.double().std(0, correction=0).numpy() for v in (x, y))
    points = np.concatenate((a, b), 1)
    radius = cKDTree(points).query(points, k=[4], p=np.inf)[0][:, 0]
    counts = [
        cKDTree(v).query_ball_point(v, np.nextafter(radius, 0), p=np.inf, return_length=True)
        for v in (a, b)
    ]
    return float(psi(len(a)) + psi(3) - sum(psi(n).mean() for n in counts))


def _vectors(required: float) -> list[Row]:
    found = []
    for dim in (2, 3, 5):
        x, y = _gaussian(10_000, dim)
        times = seconds(
            lambda x=x, y=y: knn_mutual_information(x, y),
            lambda x=x, y=y: _plain(x, y),
            repeat=2,
        )
        what = f"{dim} + {dim} dimensions, N = 10000, against SciPy's cKDTree plainly"
        found.append(ratio(what, *times, required))
    return found


def _bytes() -> list[Row]:
    x, y = _gaussian(1_000_000)
    a, b = ((32 * v + 128).clamp(0, 255).to(torch.uint8) for v in (x, y))
    eight, all_ = seconds(
        lambda: knn_mutual_information(a, b), lambda: knn_mutual_information(x, y), repeat=1
    )
    return [ratio("N = 1000000, Gaussian of 8 bits against float32", eight, all_, 2)]


def _batched() -> list[Row]:
    x, y = (v.unsqueeze(-1) for v in _gaussian(64, 4900))
    (time,) = seconds(lambda: knn_mutual_information(x, y), repeat=3)
    return [at_most("64 x 4900 batched, per pair", 1e3 * time / 64, 6, " ms")]


def _many() -> list[Row]:
    x, y = _gaussian(10_000_000)
    (time,) = seconds(lambda: knn_mutual_information(x, y), repeat=1)
    return [at_most("N = 10000000", time, 15, " s")]


def _accuracy() -> list[Row]:
    error = study.errors(
        lambda x, y: knn_mutual_information(x.unsqueeze(-1), y.unsqueeze(-1))
    ).abs()
    what = f"35 points of the study, defaults: mean |error| (worst {float(error.max()):.3f})"
    return [at_most(what, float(error.mean()), 0.0145, " nats")]
