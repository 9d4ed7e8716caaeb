"""Information of symbols: rows of bins, as of the units of a layer, and class labels."""

import torch
from torch import Tensor


def rows_of_bins(values: Tensor, bins: int, ranges: tuple[float, float] | None = None) -> Tensor:
    """Return the bins ``(N, d)`` of vectors, each coordinate cut into equal bins.

    Args:
        values: Finite samples ``(N, d)``.
        bins: Bins per coordinate.
        ranges: The range of all coordinates; None: each its own, from the samples.
    """
    values = values.double()
    if ranges is None:
        lo, hi = values.amin(0), values.amax(0)
    else:
        lo, hi = (torch.full_like(values[0], bound) for bound in ranges)
    width = torch.where(hi > lo, hi - lo, 1)
    return ((values - lo) / width * bins).floor().clamp(0, bins - 1).to(torch.int32)


def symbols(rows: Tensor) -> Tensor:
    """Return the number of each row ``(N, d)`` among the distinct ones, ``(N,)``."""
    return torch.unique(rows, dim=0, return_inverse=True)[1]  # type: ignore[no-any-return]


def counts(labels: Tensor) -> Tensor:
    """Return how often each label occurs."""
    return torch.unique(labels, return_counts=True)[1]  # type: ignore[no-any-return]


def entropy_of(labels: Tensor) -> Tensor:
    """Return the plug-in entropy of labels in nats, a float64 scalar."""
    p = counts(labels).double() / labels.numel()
    return -(p * p.log()).sum()


def shared_by(x: Tensor, y: Tensor) -> Tensor:
    """Return labels of the pairs of labels ``(N,)``."""
    return x * (int(y.max()) + 1) + y
