r"""The loss of kernel densities from samples to gradients in one function.

What :mod:`.differentiable` computes. With U, Z and V the weights of x, of :math:`z = y - r x` and
of y at the grid's points, and M the samples' masses,

.. math::
    T = U^T M Z, \qquad S = K_x T K_z, \qquad
    \hat f(x_i, y_i) \propto (U S Z^T)_{ii}, \qquad
    \hat f(x_i) \propto (U K_x U^T M 1)_i,

and those of y. The kernels are symmetric, so a gradient g of the densities comes back to U by S
from its own sample, and by :math:`K_x (U^T g Z) K_z` from all others. Normalised forms are made of
the entropies of S and of the marginals, whose derivatives come back by the kernels alone.

The first derivative is the one that is needed a million times; whatever else is asked of it goes
the way of :mod:`.differentiable`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.densities.grids import (
    ALONE,
    Grids,
    covering,
    reading,
    smoothing,
    spanning,
)
from mi_metrics.functional.densities.placed import Options, Samples, placed
from mi_metrics.functional.densities.shares import Dense, Slopes, Sums, Tables
from mi_metrics.functional.densities.units import LEAST_COUNT
from mi_metrics.functional.information import ROUNDING, independent
from mi_metrics.functional.ranks import added, outermost
from mi_metrics.functional.tables import direct
from mi_metrics.functional.tables.measures import TINY, quotient, sums_of
from mi_metrics.functional.tensors import kept_by_device, narrow, on_cpu

# The most numbers in a matrix of weights, on the CPU and elsewhere: about 200 bytes are held for
# each, and some 20 for each of kernels. From about there on the sums of soft tables take less time.
HELD, HELD_ELSEWHERE = 1 << 15, 1 << 21


def serves(x: Tensor, options: Options) -> bool:
    """Say whether :func:`values` takes samples ``(R, n)``."""
    return len(x) > 0 and (x.shape[1] > 0 or options.shared) and direct.is_served(options.ranges)


def values(
    x: Tensor, y: Tensor, weights: Tensor | None, options: Options, reference: direct.Reference
) -> Tensor:
    """Return the losses of R pairs, ``(R,)``: what ``reference`` returns, but for rounding.

    Args:
        x: Floating-point samples ``(R, n)``.
        y: Samples paired with ``x`` by position.
        weights: Weights ``(R, n)`` of any real dtype, or None.
        options: What is computed.
        reference: What derivatives of derivatives are taken of.
    """
    function: Any = _Values
    # Others may wait for what a process adds to their gradients that needs none itself.
    asked = options.shared and torch.is_grad_enabled()
    value: Tensor = function.apply(*direct.leaves(x, y), weights, options, reference, asked)
    return value


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        weights: Tensor | None,
        options: Options,
        reference: direct.Reference,
        asked: bool,
    ) -> Tensor:
        samples = placed(x, y, weights, options)
        measure = _information if options.normalization == "none" else _normalized
        wanted = ctx.needs_input_grad[:2]
        if asked and not any(wanted):
            wanted = True, False
        value, idle, by_units = measure(samples, options, wanted)
        if by_units is not None:
            ctx.save_for_backward(x, y, _still(samples, idle), *_by_samples(samples, by_units))
            ctx.reference, ctx.reduce = reference, options.reduce
        return value.to(options.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, still, *slopes = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            return *direct.through(ctx.reference, (x, y), wanted, grad), None, None, None, None
        (grad,) = added(ctx.reduce, grad)
        grad = direct.incoming(grad)
        found: list[Tensor | None] = [None, None]
        for side, (slope, v) in enumerate(zip(slopes, (x, y), strict=True)):
            if slope is not None:
                # What changes no value has no gradient, of a value that is NaN either.
                slope = narrow(slope * grad, v.dtype)
                slope = slope.masked_fill(still[side % len(still)], 0)
                # A process without samples has one that does not count.
                found[side] = slope if v.shape[1] else slope[:, :0]
        return *found, None, None, None, None


def _ends(samples: Samples, options: Options) -> tuple[Tensor, Tensor]:
    """Return the least and the largest x, y and z, ``(3, R, 1)``."""
    low, high = samples.v.amin(2, keepdim=True), samples.v.amax(2, keepdim=True)
    return outermost(options.reduce, low, high)


def _shared(samples: Samples, grids: Grids, differentiate: bool) -> Dense | Sums:
    _, rows, n = samples.v.shape
    most = HELD if on_cpu(samples.v) else HELD_ELSEWHERE
    dense = rows * n * grids.size <= most
    return (Dense if dense else Sums)(samples.v, grids, differentiate)


@kept_by_device
def _signs(factor: float, device: torch.device) -> Tensor:
    """Return what the log densities of the pair, of x and of y count, ``(3, 1, 1)``."""
    one = torch.full((1, 1, 1), factor / 2, dtype=torch.float64, device=device)
    return torch.cat([one, -one, -one])


def _information(
    samples: Samples, options: Options, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Slopes | None]:
    """Return the information ``(R,)`` times the factor, which values are constants ``(R, 1)``, and
    where wanted the derivatives by samples in their units.
    """
    of = samples.units
    grids = spanning(*_ends(samples, options), of.residual, options.size)
    kernels = reading(grids, of.residual, of.alone)
    shared = _shared(samples, grids, any(wanted))

    def smoothed(tables: Sequence[Tensor]) -> Tables:
        joint, alone = tables
        pair = torch.bmm(torch.bmm(kernels.matrix[0], joint), kernels.matrix[1])
        return pair, (kernels.matrix[2:] * alone.unsqueeze(2)).sum(3)

    tables = smoothed(added(options.reduce, *shared.tables(of.mass)))
    beside = shared.values(tables)
    m = 1.0 if of.mass is None else of.mass
    beside = beside.sub_(m * kernels.own)
    others = beside.clamp_min(ALONE)
    whole = others + m
    product = others * whole
    share = _signs(options.factor, samples.v.device) / of.n
    if of.mass is None:
        counts = max(of.n - 1, LEAST_COUNT) * of.n
    else:
        counts, share = (of.n - m).clamp_min(LEAST_COUNT) * of.n, share * m
    (total,) = added(options.reduce, (product / counts).log_().mul_(share).sum((0, 2)))
    value = torch.sub(total, kernels.log_width.squeeze(1), alpha=options.factor)
    value = value.masked_fill_(of.flat.squeeze(1), 0)
    if not any(wanted):
        return value, of.flat, None
    # How the value changes with what is seen of the three densities.
    push = whole.add_(others).div_(product).mul_(beside >= ALONE).mul_(share)
    back = smoothed(added(options.reduce, *shared.tables(push)))
    # A sample moves its own densities, and what it adds to those of all others.
    return value, of.flat, shared.slopes([(tables, push), (back, of.mass)], *wanted)


@kept_by_device
def _parts(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which of three entropies cells are a part of: those of x, of y, of both, ``(3, 2 G +
    G²)``; and which the shear has a part in, ``(1, 3)``.
    """
    parts = torch.zeros(3, 2 * size + size * size, dtype=torch.float64, device=device)
    parts[0, :size].fill_(1)
    parts[1, size : 2 * size].fill_(1)
    parts[2, 2 * size :].fill_(1)
    sheared = torch.zeros(1, 3, dtype=torch.float64, device=device)
    sheared[:, 2:].fill_(1)
    return parts, sheared


def _normalized(
    samples: Samples, options: Options, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Slopes | None]:
    """Return what :func:`_information` does, of a normalised form."""
    of, size = samples.units, options.size
    grids = covering(*_ends(samples, options), of.residual, size)
    kernels = smoothing(grids, of.residual)
    shared = _shared(samples, grids, any(wanted))
    joint, alone = added(options.reduce, *shared.tables(of.mass))
    joint = torch.bmm(torch.bmm(kernels[0], joint), kernels[2].mT)
    alone = (kernels[:2] * alone.unsqueeze(2)).sum(3)
    cells = torch.cat([*alone, joint.flatten(1)], 1)
    parts, sheared = _parts(size, cells.device)
    mass, log = cells @ parts.mT, cells.clamp_min(TINY).log()
    mean = (cells * log) @ parts.mT / mass
    # A shear preserves areas, and the table of x and z has cells of its own.
    h = torch.addcmul(mass.log() - mean, (grids.step[2] / grids.step[1]).log(), sheared)
    sums = sums_of(options.normalization, options.factor, cells.device)
    found, rates, denominator = quotient(h, options.normalization, sums)
    idle = of.flat | (denominator < ROUNDING)
    none = options.factor * independent(options.normalization)
    value = found.masked_fill(idle, none)
    if none and samples.empty is not None:
        value = value.masked_fill(samples.empty, 0)
    if not any(wanted):
        return value.squeeze(1), idle, None
    rates = rates / mass
    push = torch.stack([rates, rates * mean], 1) @ parts
    push = torch.addcmul(push[:, 1], push[:, 0], log, value=-1)
    of_x, of_y, of_pair = push.tensor_split([size, 2 * size], 1)
    back = torch.bmm(torch.bmm(kernels[0].mT, of_pair.view(joint.shape)), kernels[2])
    single = (kernels[:2] * torch.stack([of_x, of_y]).unsqueeze(3)).sum(2)
    return value.squeeze(1), idle, shared.slopes([((back, single), of.mass)], *wanted)


def _by_samples(samples: Samples, slopes: Slopes) -> list[Tensor | None]:
    """Return the derivatives by x and y ``(R, n)`` in units of the data, from those in the samples'
    own; None where not wanted.
    """
    to_x, to_y, to_z = slopes
    rate = samples.units.scale.reciprocal()
    rate = rate if samples.rate is None else rate * samples.rate
    if to_x is not None:
        to_x = torch.addcmul(to_x, to_z, samples.units.shear, value=-1)
    if to_y is not None:
        to_y = to_y + to_z
    found: list[Tensor | None] = []
    for side, slope in enumerate((to_x, to_y)):
        if slope is not None:
            slope = slope * rate[side]
        found.append(slope)
    return found


def _still(samples: Samples, idle: Tensor) -> Tensor:
    """Return which samples change no value, those of x and of y or all alike, ``(2 or 1, R, n)``,
    from which values are constants ``(R, 1)``.
    """
    if samples.left_out is not None:
        idle = idle | samples.left_out
    return idle.unsqueeze(0) if samples.inside is None else idle | ~samples.inside
