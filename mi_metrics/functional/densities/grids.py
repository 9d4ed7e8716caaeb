r"""Grids that samples are shared out on by cubic B-splines, and kernels between their points.

All is of R pairs, and of several variables: a quantity is ``(K, R, 1)``. The unit is the deviation
of the pair's kernel, and samples are centred.

Two corrections make sums over grid points those over samples. The shares widen the kernel: where it
is to be read at samples, both are divided out of its Fourier transform (where it is far wider than
a step: their variance, δ²/3 each, is taken off). And a sample's own kernel, which leave-one-out
subtracts, is what the shares make of it: its mean over all places between two grid points.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.densities.gaussian import LEAST_EXPONENT, MARGIN
from mi_metrics.functional.tensors import kept_by_device

# What a sample sees of all others is taken to be at least this part of its own kernel. Below it the
# grid's own error counts, and a logarithm close to 0 would push nothing but this sample around.
ALONE = 2.0**-7

# Room between the ends of the data and of the grid, in steps: a cubic share reaches one point
# further than its sample's own two.
ROOM = 1 + 2.0**-10
# Points beyond the ends of cells over the data: a kernel far narrower than a cell leaves no room,
# and shares reach as far from a sample at an end.
BEYOND = 2
# A grid is at least this part of the narrowest kernel wide, so that samples in one place are no
# division by 0.
LEAST_WIDTH = 2.0**-10
# The narrowest kernel that a grid resolves, in steps, and the least one of which the variance alone
# matters.
NARROWEST, WIDE = 0.7, 4.0
FREQUENCIES = 256
# The mean of β(t - a) β(t - b) over all places t, for b = a, a + 1, … (the spline of degree 7).
OVERLAPS = (2416 / 5040, 1191 / 5040, 120 / 5040, 1 / 5040)


class Grids(NamedTuple):
    """Grids of x, y and z: their first points and steps ``(3, R, 1)``, and how many points."""

    first: Tensor
    step: Tensor
    size: int


class Kernels(NamedTuple):
    """Gaussians between grid points ``(4, R, G, G)`` of x and z in the pair and of x and y alone;
    what a sample sees of itself in the pair, in x and in y ``(3, R, 1)``; the logarithm of what the
    pair's density is divided by, less those of x and y, ``(R, 1)``.
    """

    matrix: Tensor
    own: Tensor
    log_width: Tensor


def spanning(low: Tensor, high: Tensor, residual: Tensor, size: int) -> Grids:
    """Return the grids that span the data, with room for the shares of the outermost samples."""
    width = torch.maximum(high - low, residual * LEAST_WIDTH)
    return _around(low, high, width / (size - 1 - 2 * ROOM), size)


def covering(low: Tensor, high: Tensor, residual: Tensor, size: int) -> Grids:
    """Return the grids of the centres of equal cells over the data, with room for the kernels, and
    the points of :data:`BEYOND` on both sides.
    """
    one = torch.ones_like(residual)
    room = torch.stack([one, one, residual]) * (2 * MARGIN)
    return _around(low, high, (high - low + room) / size, size + 2 * BEYOND)


def _around(low: Tensor, high: Tensor, step: Tensor, size: int) -> Grids:
    return Grids(torch.sub(low + high, step, alpha=size - 1).div(2), step, size)


class _Constants(NamedTuple):
    """Minus half the squares of lags and of frequencies; cosines over the shares' transform; a
    sample's own share; lags of all pairs of points; the signs of the four kernels; lags between all
    points and those that are not beyond the ends, where what is beyond belongs to the ends.
    """

    squares: Tensor
    decay: Tensor
    cosines: Tensor
    overlaps: Tensor
    lags: Tensor
    signs: Tensor
    lags_within: Tensor


@kept_by_device
def _constants(size: int, device: torch.device) -> _Constants:
    points = torch.arange(size, dtype=torch.float64, device=device)
    frequencies = torch.arange(0.5, FREQUENCIES, dtype=torch.float64, device=device)
    w = frequencies * (math.pi / FREQUENCIES)
    shares = (torch.sin(w / 2) / (w / 2)) ** 8
    cosines = torch.cos(w.unsqueeze(1) * points) / shares.unsqueeze(1)
    overlaps = torch.zeros(size, 1, dtype=torch.float64, device=device)
    for k, overlap in enumerate(OVERLAPS):
        overlaps[k].fill_(overlap * (2 if k else 1))
    one = torch.ones(2, 1, 1, dtype=torch.float64, device=device)
    cells = points[BEYOND : size - BEYOND]
    ends = points.clamp(BEYOND, size - 1 - BEYOND)
    return _Constants(
        points.square() / -2,
        w.square() / -2,
        cosines * (math.sqrt(2 * math.pi) / FREQUENCIES),
        overlaps,
        (points.unsqueeze(1) - points).abs().long(),
        torch.cat([one, -one]),
        (cells.unsqueeze(1) - ends).abs().long(),
    )


def reading(grids: Grids, residual: Tensor, alone: Tensor | float) -> Kernels:
    """Return the kernels of what is shared out and read with the same shares, 1 at distance 0."""
    c, step = _constants(grids.size, residual.device), grids.step
    one = torch.ones_like(residual)
    both = (alone if isinstance(alone, Tensor) else one * alone).expand_as(one)
    step = torch.cat([step[::2], step[:2]])
    relative = (torch.stack([one, residual, both, both]) / step).clamp_min(NARROWEST)
    squares = relative.square()
    # Far wider than a step it is a Gaussian, less the variance of the shares. Of others this is
    # not looked at, and may be anything.
    variance = squares - 2 / 3
    wide = (c.squares / variance).exp() * variance.rsqrt()
    # Else the shares are divided out of its Fourier transform.
    narrow = torch.exp(squares * c.decay) @ c.cosines
    sequence = torch.where(squares > WIDE**2, wide, narrow) * relative
    own = sequence @ c.overlaps
    own = torch.cat([own[:1] * own[1:2], own[2:]])
    log_width = ((relative * step).log() * c.signs).sum(0)
    return Kernels(_between(sequence, c.lags), own, log_width)


def smoothing(grids: Grids, residual: Tensor) -> Tensor:
    """Return the kernels of x, y and z of what is shared out once, positive everywhere: from all
    points to those that are not beyond the ends, ``(3, R, G, G + 2 BEYOND)``.
    """
    c = _constants(grids.size, residual.device)
    one = torch.ones_like(residual)
    relative = torch.stack([one, one, residual]) / grids.step
    # A grid does not resolve less than half a step.
    variance = (relative.square() - 1 / 3).clamp_min(1 / 4)
    return _between((c.squares / variance).clamp_min(LEAST_EXPONENT).exp(), c.lags_within)


def _between(sequence: Tensor, lags: Tensor) -> Tensor:
    """Return matrices between points from kernels by lags ``(K, R, G)``."""
    found = sequence.index_select(2, lags.view(-1))
    return found.view(*sequence.shape[:2], *lags.shape)
