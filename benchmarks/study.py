"""The study of accuracy: correlated Gaussians, 5 correlations, 7 sample sizes, 64 draws each."""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

SIZES = (100, 169, 361, 676, 1296, 2601, 4900)
TRUTHS = [i / 24 * -0.5 * math.log(1 - 0.99**2) for i in (0, 6, 12, 18, 24)]
DRAWS = 64


def errors(estimator: Callable[[Tensor, Tensor], Tensor], seed: int = 0) -> Tensor:
    """Return the mean estimate minus the truth at each of the 35 points, in nats.

    The estimator takes x and y of shape ``(DRAWS, N)`` and returns ``(DRAWS,)``.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for truth in TRUTHS:
        r = math.sqrt(1 - math.exp(-2 * truth))
        for n in SIZES:
            x, noise = torch.randn(2, DRAWS, n, generator=generator, dtype=torch.float64)
            with warnings.catch_warnings():
                # The study shows what happens to small samples; it need not be told.
                warnings.filterwarnings("ignore", message=".*cells of the joint table")
                found.append(estimator(x, r * x + math.sqrt(1 - r * r) * noise).mean() - truth)
    return torch.stack(found)
