"""Means of ψ over counts, whose bits do not depend on the order of the samples."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import psi
from torch import Tensor

from mi_metrics.functional.neighbors.steps import take

# A sign and the count of each sample, ``(N,)``, or of each of some samples.
Term = tuple[int, Tensor]


def mean_psi(n: int, terms: Iterable[Term]) -> float:
    """Return the sum of ±ψ(counts) over all terms, divided by the number N of samples.

    Only how often each count occurs enters, as integers: the sum does not depend on the order of
    the samples, nor on how it is divided among threads, and what cancels cancels exactly.

    Args:
        n: N, the largest count.
        terms: Signs and counts.
    """
    tally = sum(sign * torch.bincount(counts, minlength=n + 1) for sign, counts in terms)
    assert isinstance(tally, Tensor)
    return mean_of_tally(n, tally.cpu().numpy())


def mean_of_tally(n: int, tally: NDArray[np.int64]) -> float:
    """Return the same of how often each count occurs, less how often it is subtracted."""
    (count,) = tally.nonzero()
    return float(np.sum(tally[count] * psi(count.astype(np.float64)))) / n


def mean_psi_each(n: int, terms: Iterable[Term]) -> list[float]:
    """Return :func:`mean_psi` of each of many sets, whose counts are rows ``(B, N)``."""
    tally: Tensor | int = 0
    for sign, counts in terms:
        sets = len(counts)
        codes = counts + (n + 1) * torch.arange(sets, device=counts.device)[:, None]
        tally = tally + sign * torch.bincount(codes.flatten(), minlength=sets * (n + 1))
    assert isinstance(tally, Tensor)
    return [mean_of_tally(n, each) for each in tally.view(sets, n + 1).cpu().numpy()]


def of_coincident(terms: Iterable[Term], apart: Tensor) -> list[Term]:
    """Return terms of all samples less those that are apart, which leaves the coincident ones."""
    found: list[Term] = []
    for sign, counts in terms:
        found += [(sign, counts), (-sign, take(counts, apart))]
    return found
