"""Samples of the direct density loss in units of its kernels."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.densities.gaussian import both_axes
from mi_metrics.functional.densities.units import Units, units
from mi_metrics.functional.options import Ranges
from mi_metrics.functional.ranks import ALONE, Reduce
from mi_metrics.functional.tables.positions import (
    LEAST,
    ends_of,
    from_the_least,
    gathered,
    held_by,
    of_both,
    steepest,
)
from mi_metrics.functional.tables.quantiles import ordered, quantile


class Options(NamedTuple):
    """What the loss is of; what the information is multiplied by, the sign and the unit; the dtype
    of the result; and how to add up over processes.
    """

    ranges: Ranges | None
    clip_quantile: float
    bandwidth: Any
    size: int
    normalization: str
    factor: float
    dtype: torch.dtype
    reduce: Reduce

    @property
    def shared(self) -> bool:
        """Whether other processes have samples of the same pairs."""
        return self.reduce is not ALONE


class Samples(NamedTuple):
    """Samples x, y and z ``(3, R, n)`` in their units; the unit of these, where it is not that of
    the data ``(2, R, 1)``; which samples are within a range ``(2, R, n)``, which weights exclude
    ``(R, n)``, and which pairs have none ``(R, 1)``; None: all alike.
    """

    v: Tensor
    units: Units
    rate: Tensor | None
    inside: Tensor | None
    left_out: Tensor | None
    empty: Tensor | None


def placed(x: Tensor, y: Tensor, weights: Tensor | None, options: Options) -> Samples:
    """Return samples ``(R, n)`` in their units, without a graph. A process among others may have
    none: then one that weights exclude.
    """
    if options.shared:
        x, y, weights = _with_weights(x, y, weights)
    v, w, left_out = gathered(x, y, weights, scaled=not options.shared)
    inside = rate = given = ends = None
    if options.ranges is not None or options.clip_quantile:
        # The grid spans the data, of a range, too.
        held = _clipped(v, w, options)
        inside, v = (held == v).transpose(0, 1), held
    if w is not None and options.shared:
        ends, w = _among_all(v, w, left_out, options.reduce)
    dtype = torch.promote_types(x.dtype, y.dtype)
    wide = dtype == torch.float64
    u, low, scale = from_the_least(v, left_out, wide and options.ranges is None, ends)
    u = u.transpose(0, 1)
    if wide or options.shared:
        # Squares of differences are numbers in units of the range.
        width = u.amax(2, keepdim=True) if ends is None else _width(ends, scale)
        width = width.clamp_min(LEAST)
        u, rate = u / width, 1 / width
        rate = rate if scale is None else rate * scale.transpose(0, 1)
        rate = rate.clamp_max(steepest(dtype))
    if not isinstance(options.bandwidth, str):
        given = of_both(tuple(map(float, both_axes(options.bandwidth))), x.device).unsqueeze(1)
        given = (given if rate is None else given * rate).clamp(2.0**-200, 2.0**200)
    found, samples = units(u, w, left_out, options.bandwidth, given, options.reduce)
    empty = None if left_out is None else low[:, 0] == math.inf
    return Samples(samples, found, rate, inside, left_out, empty)


def _clipped(v: Tensor, weights: Tensor | None, options: Options) -> Tensor:
    """Return samples ``(R, 2, n)`` moved to the ends of the given ranges, or to their quantiles."""
    if options.ranges is not None:
        return held_by(v, options.ranges)
    # An end that is NaN would leave no sample within.
    whole, mass = v.nan_to_num(math.inf).flatten(0, 1), None
    if weights is not None:
        mass = weights.nan_to_num(0).unsqueeze(1).expand(v.shape).flatten(0, 1)
    q = of_both((options.clip_quantile, 1 - options.clip_quantile), v.device)
    low, high = quantile(*ordered(whole, mass), q.mT).view(-1, 2, 2).tensor_split(2, 2)
    return v.clamp(low, high)


def _with_weights(x: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return samples ``(R, n)`` with weights, at least one for each pair."""
    if x.shape[1] == 0:
        x, y = (v.new_zeros(len(v), 1) for v in (x, y))
        return x, y, torch.zeros_like(x)
    return x, y, torch.ones_like(x) if weights is None else weights


def _among_all(
    v: Tensor, weights: Tensor, left_out: Tensor | None, reduce: Reduce
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return the least and the largest samples of all processes, ``(R, 2, 1)``, and weights in
    units of the largest one.
    """
    low, high = ends_of(v, left_out)
    most = reduce.max(torch.cat([-low, high, weights.amax(1).view(-1, 1, 1)], 1))
    low, high, heaviest = most.tensor_split([2, 4], 1)
    return (-low, high), weights / heaviest.squeeze(2).clamp_min(LEAST)


def _width(ends: tuple[Tensor, Tensor], scale: Tensor | None) -> Tensor:
    low, high = ends if scale is None else (end * scale for end in ends)
    return (high - low).transpose(0, 1)
