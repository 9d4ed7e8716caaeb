r"""Samples in units of their pair's kernel, for densities with a gradient.

With the deviations of the pair's kernel as units, its slope is the correlation r, and what is left
of y, :math:`z = y - r x`, is independent of x to it: the kernel is a product. Ranges, covariance,
bandwidths and weights are constants to gradients, so samples here carry none.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.densities.gaussian import RULES, SINGULAR
from mi_metrics.functional.ranks import Reduce, added
from mi_metrics.functional.tables.positions import LEAST

# The least variance that is divided by.
NO_VARIANCE = 1e-200
# What is left of the samples' number without one that has nearly all the weight.
LEAST_COUNT = torch.finfo(torch.float64).tiny


class Units(NamedTuple):
    """Of R pairs: the means of x and y and the deviations of the pair's kernel on them,
    ``(2, R, 1)``; its slope, the deviation of its residual and those of the marginals' kernels in
    these units, ``(R, 1)`` or a number; how many samples there are.

    ``mass`` ``(R, n)`` adds up to their number; None: each is 1. ``flat`` tells where a variable is
    constant, or there is no sample.
    """

    centre: Tensor
    scale: Tensor
    shear: Tensor
    residual: Tensor
    alone: Tensor | float
    n: Any
    mass: Tensor | None
    flat: Tensor


def units(
    v: Tensor,
    weights: Tensor | None,
    left_out: Tensor | None,
    bandwidth: Any,
    given: Tensor | None,
    reduce: Reduce,
) -> tuple[Units, Tensor]:
    """Return the units of R pairs, and x, y and z in them ``(3, R, n)``, float64, without a graph.

    Args:
        v: Finite x and y ``(2, R, n)``, those of a constant 0, of any finite value where left out.
        weights: Weights ``(R, n)`` whose squares are numbers, or None.
        left_out: Which samples have no weight ``(R, n)``, or None.
        bandwidth: A rule, or anything where the kernel is ``given``.
        given: Deviations of the kernel on both axes, in the units of v, ``(2, R or 1, 1)``.
        reduce: How to add up over processes. In several, samples have weights.
    """
    n, mass, centre = _numbers(v, weights, reduce)
    d = v - centre
    # The mean lies within every range of the others.
    d = d if left_out is None else d.masked_fill(left_out, 0)
    held = d if mass is None else d * mass
    free = max(n - 1, 0.5) if mass is None else (n - 1).clamp_min(0.5)
    (second,) = added(reduce, torch.bmm(held.transpose(0, 1), d.permute(1, 2, 0)))
    second = second / (free if mass is None else free.unsqueeze(2))
    variances = second.diagonal(dim1=1, dim2=2).mT.unsqueeze(2)
    flat = variances.amin(0) <= 0
    variances = variances.clamp_min(NO_VARIANCE)
    deviations = variances.sqrt()
    r = (second[:, :1, 1] / deviations.prod(0)).clamp(-1, 1)
    alone: Tensor | float = 1.0
    if given is None:
        pair = n ** (-1 / 6)
        scale, alone = deviations * pair, RULES[bandwidth] * n ** (1 / 6 - 1 / 5)
    else:
        scale = given.expand_as(deviations)
    e = d / scale
    z = torch.addcmul(e[1], e[0], r, value=-1)
    # 1 - r² of nearly equal variables is a difference of nearly equal numbers; the residuals' own
    # variance is not.
    if given is None:
        rest, whole = z, free * pair**-2
    else:
        rest = torch.addcmul(d[1], d[0], second[:, :1, 1] / variances[0], value=-1)
        whole = free * variances[1]
    of_rest = rest if mass is None else rest * mass
    (left,) = added(reduce, torch.bmm(of_rest.unsqueeze(1), rest.unsqueeze(2)).squeeze(2))
    residual = (left / whole).clamp(SINGULAR, 1).sqrt()
    found = Units(centre, scale, r, residual, alone, n, mass, flat)
    return found, torch.cat([e, z.unsqueeze(0)])


def _numbers(
    v: Tensor, weights: Tensor | None, reduce: Reduce
) -> tuple[Any, Tensor | None, Tensor]:
    """Return the number of samples, weights that add up to it, and the means ``(2, R, 1)``."""
    if weights is None:
        return float(v.shape[2]), None, v.mean(2, keepdim=True)
    first = torch.bmm(v.transpose(0, 1), weights.unsqueeze(2)).squeeze(2)
    total, squares = weights.sum(1, keepdim=True), weights.square().sum(1, keepdim=True)
    first, total, squares = added(reduce, first, total, squares)
    # Where there is no sample at all, nothing is divided by 0.
    total = total.clamp_min(LEAST)
    ratio = total / squares.clamp_min(LEAST)
    return total * ratio, weights * ratio, (first / total).mT.unsqueeze(2)
