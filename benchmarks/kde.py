"""The kernel density estimator against KDEpy and against direct evaluation."""

import math

import numpy as np
import torch
from torch import Tensor

from benchmarks import study
from benchmarks.timing import Row, at_most, missing, peer, ratio, seconds
from mi_metrics import KDEMutualInformation
from mi_metrics.functional import kde_joint, kde_mutual_information

N = 1_000_000


def rows() -> list[Row]:
    """Run the suite."""
    return [*_direct(), *_kdepy(), *_speed(), *_metric(), *_accuracy()]


def _gaussian(n: int, r: float = 0.6, seed: int = 0) -> tuple[Tensor, Tensor]:
    x, noise = torch.randn(2, n, generator=torch.Generator().manual_seed(seed))
    return x, r * x + math.sqrt(1 - r * r) * noise


def _direct() -> list[Row]:
    """Measure against a product kernel that every sample adds to the same grid, in chunks, in
    float32.
    """
    x, y = _gaussian(N)
    h = N ** (-1 / 6)
    centres = torch.linspace(-5, 5, 256)

    def direct() -> Tensor:
        total = torch.zeros(256, 256)
        for a, b in zip(x.split(2**15), y.split(2**15), strict=True):
            # Exp() is several times slower where its result is below the normal numbers.
            kx, ky = (
                ((v[:, None] - centres) / h).square_().mul_(-0.5).clamp_min_(-40).exp_()
                for v in (a, b)
            )
            total += kx.T @ ky
        return total / total.sum()

    times = seconds(lambda: kde_joint(x, y, value_range=(-5, 5)), direct, repeat=1)
    return [
        ratio("1e6 samples, smoothed joint of 256 x 256, against direct evaluation", *times, 20)
    ]


def _kdepy() -> list[Row]:
    if not (kdepy := peer("KDEpy")):
        return [missing("1e6 samples, against KDEpy", "KDEpy")]
    x, y = _gaussian(N)
    data = np.stack([x.numpy(), y.numpy()], 1).astype(np.float64)
    times = seconds(
        lambda: kde_mutual_information(x, y),
        lambda: kdepy.FFTKDE(kernel="gaussian", bw=N ** (-1 / 6)).fit(data).evaluate((256, 256)),
        repeat=3,
    )
    return [ratio("1e6 samples: MI, against KDEpy's density on 256 x 256", *times, 10)]


def _speed() -> list[Row]:
    x, y = (v.view(64, 4900) for v in _gaussian(64 * 4900))
    (batch,) = seconds(lambda: kde_mutual_information(x, y))
    a, b = _gaussian(N)
    coarse, fine = seconds(
        lambda: kde_mutual_information(a, b, grid_size=64), lambda: kde_mutual_information(a, b)
    )
    metric = KDEMutualInformation()
    for u, v in zip(a[:300_000].split(10_000), b[:300_000].split(10_000), strict=True):
        metric.update(u, v)

    def compute() -> Tensor:
        # The kept value of an earlier call is no work.
        metric._computed = None
        return metric.compute()

    (computed,) = seconds(compute)
    return [
        at_most("64 pairs of 4900 in one call, each", 1e3 * batch / 64, 1.5, " ms"),
        ratio("1e6 samples: MI with grid_size=64, against 256", coarse, fine, 1),
        at_most("metric, unknown range, N = 3e5: compute", 1e3 * computed, 8, " ms"),
    ]


def _metric() -> list[Row]:
    found = []
    for r, bound in ((0.0, 1e-3), (0.6, 1e-3), (0.99, 5e-3)):
        worst = 0.0
        for seed, n in ((1, 1000), (2, 4900)):
            x, y = _gaussian(n, r, seed)
            metric = KDEMutualInformation()
            metric.update(x, y)
            worst = max(worst, abs(float(metric.compute() - kde_mutual_information(x, y))))
        found.append(
            at_most(
                f"metric against the functional API at r = {r}, N = 1000 and 4900",
                worst,
                bound,
                " nats",
            )
        )
    return found


def _accuracy() -> list[Row]:
    error = study.errors(kde_mutual_information).abs()
    return [
        at_most(
            "35 points of the study, defaults: mean |error|", float(error.mean()), 0.022, " nats"
        ),
        at_most(
            "35 points of the study, defaults: worst |error|", float(error.max()), 0.05, " nats"
        ),
    ]
