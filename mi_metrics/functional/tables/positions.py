"""Where the samples of a pair lie on their axes, for both variables in one tensor."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.options import Ranges
from mi_metrics.functional.tensors import kept_by_device

# The least number above 0, and a magnitude from which on differences of float64 may overflow.
LEAST = 5e-324
LARGE, SMALLER = 1e290, 2.0**-64


class Positions(NamedTuple):
    """Samples of R pairs in units of bins from the lower ends of their ranges.

    ``u`` ``(R, 2, n)``, float64, is within the bins of a given range; ``inside`` tells which
    samples were, None: all. ``rate`` is what positions grow by with samples, a number for each
    variable or ``(R, 2, 1)``. ``flat`` ``(R, 1)`` tells which tables have a constant or no sample,
    ``empty`` which have no sample, where it was asked for. ``mass`` ``(R, n)`` adds up to 1, and
    ``left_out`` ``(R, n)`` tells which samples weights exclude; None: all alike.
    """

    u: Tensor
    inside: Tensor | None
    rate: Tensor | tuple[float, float]
    flat: Tensor
    empty: Tensor | None
    mass: Tensor | None
    left_out: Tensor | None


def steepest(dtype: torch.dtype) -> float:
    """Return the largest rate for samples of a dtype; an infinite one would stop a training."""
    wide = dtype if dtype == torch.float64 else torch.float32
    return float(torch.finfo(wide).max) * 2.0**-10


def masses(weights: Tensor, found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return which samples are left out, masses ``(R, n)``, and what these were divided by
    ``(R, 1)``, NaN where a weight makes no sense.

    Args:
        weights: Weights of any real dtype ``(R, n)``.
        found: The same in float64.
    """
    if weights.dtype == torch.bool:
        left_out = ~weights
    else:
        left_out = found == 0
        if weights.is_floating_point() or weights.dtype.is_signed:
            found = found.masked_fill(found < 0, math.nan)
        found = found / found.amax(1, keepdim=True).clamp_min(LEAST)
    # The largest is 1, or there is none.
    total = found.sum(1, keepdim=True).clamp_min(1)
    return left_out, found / total, total


def positions(
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    ranges: Ranges | None,
    bins: tuple[int, int],
    find_empty: bool,
) -> Positions:
    """Return the positions of samples ``(R, n)`` of one floating-point dtype in given ranges, or in
    each row's own. NaN, an infinity or a weight that makes no sense spoil their row's.
    """
    most = steepest(x.dtype)
    if weights is not None and not (weights.is_floating_point() or weights.dtype.itemsize == 1):
        # Beside samples of float32 large whole numbers would be rounded.
        weights = weights.double()
    v = torch.stack([x, y] if weights is None else [x, y, weights], 1).double()
    excluded = left_out = mass = total = None
    if weights is not None:
        excluded, mass, total = masses(weights, v[:, 2])
        left_out = excluded.unsqueeze(1)
        v = v[:, :2].masked_fill(left_out, 0)
    inside: Tensor | None = None
    rate: Tensor | tuple[float, float]
    if ranges is not None:
        # Infinity, too, becomes NaN, and stays it.
        v = torch.add(v, v, alpha=0)
        held, u = _held(v, ranges, bins)
        low, high = ends_of(held, left_out)
        slopes = [min(b / (hi - lo), most) for b, (lo, hi) in zip(bins, ranges, strict=True)]
        inside, rate = held == v, (slopes[0], slopes[1])
        flat = _is_flat(high - low, total)
    else:
        low, high = ends_of(v, left_out)
        u, rate, flat = in_own_range(v, low, high, total, bins, most)
    empty = low[:, 0] == math.inf if find_empty and left_out is not None else None
    return Positions(u, inside, rate, flat, empty, mass, excluded)


def ends_of(v: Tensor, left_out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the least and the largest of the samples that count, ``(R, 2, 1)``."""
    low = v if left_out is None else v.masked_fill(left_out, math.inf)
    high = v if left_out is None else v.masked_fill(left_out, -math.inf)
    return low.amin(2, keepdim=True), high.amax(2, keepdim=True)


def _is_flat(width: Tensor, total: Tensor | None) -> Tensor:
    """Say which rows have a width of 0, or less without samples; not where one is NaN."""
    least = width.amin(1)
    return (least if total is None else least * total) <= 0


def _held(v: Tensor, ranges: Ranges, bins: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return samples moved to the ends of given ranges, and their positions."""
    (lo, other_lo), (hi, other_hi) = zip(*ranges, strict=True)
    if ranges[0] == ranges[1] and bins[0] == bins[1]:
        held = v.clamp(lo, hi)
        t = (held - lo).mul_(bins[0])
        return held, t if hi - lo == 1 else t.div_(hi - lo)
    low, high, many, width = (
        of_both(pair, v.device)
        for pair in ((lo, other_lo), (hi, other_hi), bins, (hi - lo, other_hi - other_lo))
    )
    held = v.clamp(low, high)
    return held, (held - low).mul_(many).div_(width)


def in_own_range(
    v: Tensor, low: Tensor, high: Tensor, total: Tensor | None, bins: tuple[int, int], most: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return positions in the rows' own ranges, their rates, and which rows are flat."""
    scale = None
    if most > LARGE:
        # In float64 the difference of the ends may overflow.
        far = torch.maximum(low.abs(), high.abs()) > LARGE
        scale = torch.where(far, v.new_full((), SMALLER), v.new_ones(()))
        v, low, high = v * scale, low * scale, high * scale
    width, both = high - low, of_both(bins, v.device)
    step = width.clamp_min(LEAST)
    u = (v - low).mul_(both).div_(step)
    rate = (both / step if scale is None else both / step * scale).clamp_max(most)
    return u, rate, _is_flat(width, total)


@kept_by_device
def of_both(numbers: tuple[float, float], device: torch.device) -> Tensor:
    """Return two numbers as ``(2, 1)``."""
    return torch.cat([torch.full((1, 1), v, dtype=torch.float64, device=device) for v in numbers])
