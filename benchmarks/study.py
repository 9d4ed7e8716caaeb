"""Accuracy at 35 points of `mi-metrics study`: correlated Gaussians, 5 correlations, 7 sample
sizes, 64 draws each.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mi_metrics import MutualInformationWarning
from mi_metrics.commands.study import DRAWS, SIZES, draw, truths


def errors(estimator: Callable[[Tensor, Tensor], Tensor], seed: int = 0) -> Tensor:
    """Return the mean estimate minus the truth at each of the 35 points, in nats.

    The estimator takes x and y of shape ``(DRAWS, N)`` and returns ``(DRAWS,)``. The samples are
    those of the study.
    """
    found = []
    for truth in truths()[::6]:
        for n in SIZES:
            x, y = draw("gaussian", truth, n, DRAWS, seed)
            with warnings.catch_warnings():
                # The study shows what happens to small samples, so its warnings are silenced.
                warnings.simplefilter("ignore", MutualInformationWarning)
                found.append(estimator(x, y).mean() - truth)
    return torch.stack(found)
