"""Where the samples of a pair lie on their axes, for both variables in one tensor."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.options import Ranges
from mi_metrics.functional.tensors import kept_by_device

HALF = torch.float16, torch.bfloat16
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


def gathered(
    x: Tensor, y: Tensor, weights: Tensor | None, scaled: bool = True
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return samples of x and y, ``(R, 2, n)`` in float64, infinite ones as NaN; weights ``(R, n)``
    in float64, whose squares are numbers where they are ``scaled``; and which of them are 0.

    A weight that makes no sense is NaN; without weights there are two times None.
    """
    if weights is not None and not (weights.is_floating_point() or weights.dtype.itemsize == 1):
        # Beside samples of float32 large whole numbers would be rounded.
        weights = weights.double()
    held = [x, y] if weights is None else [x, y, weights]
    # Autocast stacks no samples of the kind of half precision that is not its own.
    held = [v.float() if v.dtype in HALF else v for v in held]
    v = torch.stack(held, 1).double()
    samples = torch.add(v[:, :2], v[:, :2], alpha=0)
    if weights is None:
        return samples, None, None
    found = v[:, 2]
    if weights.dtype == torch.bool:
        return samples, found, ~weights
    left_out = found == 0
    if weights.is_floating_point() or weights.dtype.is_signed:
        found = found.masked_fill(found < 0, math.nan)
    if scaled and weights.dtype == torch.float64:
        found = found / found.amax(1, keepdim=True).clamp_min(LEAST)
    return samples, found, left_out


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
    v, mass, left_out = gathered(x, y, weights)
    total = None
    if mass is not None:
        total = mass.sum(1, keepdim=True)
        mass = mass / total.clamp_min(LEAST)
    inside: Tensor | None = None
    rate: Tensor | tuple[float, float]
    if ranges is not None:
        v = v if left_out is None else v.masked_fill(left_out.unsqueeze(1), 0)
        held, u = _held(v, ranges, bins)
        low, high = ends_of(held, left_out)
        slopes = [min(b / (hi - lo), most) for b, (lo, hi) in zip(bins, ranges, strict=True)]
        inside, rate = held == v, (slopes[0], slopes[1])
        width = high - low
    else:
        # In float64 the difference of the ends may overflow.
        u, low, scale = from_the_least(v, left_out, most > LARGE)
        width, both = u.amax(2, keepdim=True), of_both(bins, v.device)
        step = width.clamp_min(LEAST)
        u = u.mul_(both).div_(step)
        rate = both / step if scale is None else both / step * scale
        rate = rate.clamp_max(most)
    flat = _is_flat(width, total)
    empty = low[:, 0] == math.inf if find_empty and left_out is not None else None
    return Positions(u, inside, rate, flat, empty, mass, left_out)


def from_the_least(
    v: Tensor, left_out: Tensor | None, far: bool, ends: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return how far samples ``(R, 2, n)`` are from the least one that counts, 0 where left out;
    the least ones ``(R, 2, 1)``, infinite without samples; and, where differences may overflow
    since samples lie as ``far``, the powers of two that they were multiplied by.

    ``ends`` are the least and the largest sample where others than these count, too.
    """
    out = None if left_out is None else left_out.unsqueeze(1)
    if ends is not None:
        low, high = ends
    else:
        low = (v if out is None else v.masked_fill(out, math.inf)).amin(2, keepdim=True)
    scale, least = None, low
    if far:
        if ends is None:
            high = (v if out is None else v.masked_fill(out, -math.inf)).amax(2, keepdim=True)
        beyond = torch.maximum(low.abs(), high.abs()) > LARGE
        scale = torch.where(beyond, v.new_full((), SMALLER), v.new_ones(()))
        v, least = v * scale, low * scale
    u = v - least
    return u if out is None else u.masked_fill_(out, 0), low, scale


def ends_of(v: Tensor, left_out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the least and the largest of the samples that count, ``(R, 2, 1)``."""
    out = None if left_out is None else left_out.unsqueeze(1)
    low = v if out is None else v.masked_fill(out, math.inf)
    high = v if out is None else v.masked_fill(out, -math.inf)
    return low.amin(2, keepdim=True), high.amax(2, keepdim=True)


def _is_flat(width: Tensor, total: Tensor | None) -> Tensor:
    """Say which rows have a width of 0, or less without samples; not where one is NaN."""
    least = width.amin(1)
    return (least if total is None else torch.add(least, total, alpha=0)) <= 0


def _held(v: Tensor, ranges: Ranges, bins: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return samples moved to the ends of given ranges, and their positions."""
    held, (lo, hi) = held_by(v, ranges), ranges[0]
    if ranges[0] == ranges[1] and bins[0] == bins[1]:
        t = (held - lo).mul_(bins[0])
        return held, t if hi - lo == 1 else t.div_(hi - lo)
    lows, widths = [lo for lo, _ in ranges], [hi - lo for lo, hi in ranges]
    low, many, width = (of_both((a, b), v.device) for a, b in (lows, bins, widths))
    return held, (held - low).mul_(many).div_(width)


def held_by(v: Tensor, ranges: Ranges) -> Tensor:
    """Return samples ``(R, 2, n)`` moved to the ends of given ranges."""
    if ranges[0] == ranges[1]:
        return v.clamp(*ranges[0])
    return v.clamp(*(of_both(ends, v.device) for ends in zip(*ranges, strict=True)))


@kept_by_device
def of_both(numbers: tuple[float, float], device: torch.device) -> Tensor:
    """Return two numbers as ``(2, 1)``."""
    return torch.cat([torch.full((1, 1), v, dtype=torch.float64, device=device) for v in numbers])
