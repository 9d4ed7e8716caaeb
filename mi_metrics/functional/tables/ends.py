"""Which samples lie between the ends of given ranges.

NumPy compares on the CPU: PyTorch's bool results take longer than arithmetic does.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mi_metrics.functional.options import Interval
from mi_metrics.functional.tensors import arithmetic, as_array

# Ends of the ranges of x and y.
Ends = tuple[tuple[float, float], tuple[float, float]]


@lru_cache(maxsize=64)
def ends_of(interval: Interval, dtype: torch.dtype) -> tuple[float, float]:
    """Return the ends of a range as a dtype has them, which is how samples are compared to it."""
    lo, hi = torch.tensor(interval, dtype=torch.float64, device="cpu").to(dtype).tolist()
    return lo, hi


def beyond(x: Tensor, y: Tensor, ends: Ends) -> Tensor:
    """Say of each pair of samples whether one lies outside; on the CPU also where one is NaN."""
    (x_lo, x_hi), (y_lo, y_hi) = ends
    a, b = as_array(x), as_array(y)
    if a is None or b is None:
        x, y = x.to(arithmetic(x.dtype)), y.to(arithmetic(y.dtype))
        return (x < x_lo) | (x > x_hi) | (y < y_lo) | (y > y_hi)
    kept = np.greater_equal(a, x_lo)
    more = np.empty_like(kept)
    for compare, values, end in (
        (np.less_equal, a, x_hi),
        (np.greater_equal, b, y_lo),
        (np.less_equal, b, y_hi),
    ):
        kept &= compare(values, end, out=more)
    return torch.from_numpy(np.logical_not(kept, out=kept))


def number_of(flags: Tensor) -> Tensor:
    """Return how many of each row of bools ``(R, n)`` hold, ``(R,)`` int64."""
    if len(flags) == 1 and (array := as_array(flags)) is not None:
        return torch.tensor([np.count_nonzero(array)], dtype=torch.int64, device="cpu")
    return flags.sum(1)
