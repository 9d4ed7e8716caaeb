r"""The loss of kernel densities of a few samples, from samples to gradients in one function.

What :mod:`.differentiable` computes, without normalisation, by dense matrices of weights: with U, Z
and V those of x, of :math:`z = y - s x` and of y at the grid's points, and M the samples' masses,

.. math::
    T = U^T M Z, \qquad S = K_x T K_z, \qquad
    \hat f(x_i, y_i) \propto (U S Z^T)_{ii}, \qquad
    \hat f(x_i) \propto (U K_x U^T M 1)_i,

and those of y. The kernels are symmetric, so a gradient g of the densities comes back to U by S
from its own sample, and by :math:`K_x (U^T g Z) K_z` from all others. All three variables, and all
four kernels, are one tensor each: on a GPU, and for few samples anywhere, time is the number of
operations.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.densities.differentiable import (
    ALONE,
    FREQUENCIES,
    LEAST_COUNT,
    LEAST_WIDTH,
    NARROWEST,
    OVERLAPS,
    ROOM,
    WIDE,
)
from mi_metrics.functional.densities.gaussian import LEAST_EXPONENT, RULES, SINGULAR, both_axes
from mi_metrics.functional.options import Ranges
from mi_metrics.functional.tables import direct
from mi_metrics.functional.tables.dense import cubic_weights
from mi_metrics.functional.tables.positions import (
    of_both,
    positions,
    steepest,
)
from mi_metrics.functional.tensors import kept_by_device, narrow, on_cpu

# The most numbers in a matrix of weights, on the CPU and elsewhere: about 200 bytes are held for
# each, and some 20 for each of kernels. On the CPU the soft tables of all samples take less time
# from about there on.
HELD, HELD_ELSEWHERE = 1 << 15, 1 << 21
# A variance of samples in units of their range that only a constant has.
NO_VARIANCE = 1e-60
# Beyond the residual of one sample: that of the least x is its y, in units of the range.
FAR = 2.0**20


class Options(NamedTuple):
    """What the loss is of, and what the information is multiplied by: the sign, and the unit."""

    ranges: Ranges | None
    bandwidth: Any
    size: int
    factor: float
    dtype: torch.dtype


def serves(x: Tensor, y: Tensor, options: Options) -> bool:
    """Say whether :func:`values` takes samples ``(R, n)``, and pays."""
    most = HELD if on_cpu(x) else HELD_ELSEWHERE
    size = options.size
    kernels = 4 * len(x) * (size * size + FREQUENCIES)
    if x.numel() * size > most or kernels > 8 * most:
        return False
    return direct.serves(x, y, options.ranges, (size, size))


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
    value: Tensor = function.apply(*direct.leaves(x, y), weights, options, reference)
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
    ) -> Tensor:
        samples = _samples(x, y, weights, options)
        value, slopes = _information(samples, options.size, ctx.needs_input_grad[:2])
        value = (value * options.factor).masked_fill_(samples.flat, 0).squeeze(1)
        # What changes no value has no gradient, of a value that is NaN either.
        idle = samples.flat if samples.left_out is None else samples.flat | samples.left_out
        ctx.save_for_backward(x, y, idle, *slopes)
        ctx.factor, ctx.reference = options.factor, reference
        return value.to(options.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, idle, *slopes = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        found: list[Tensor | None] = [None, None]
        if torch.is_grad_enabled():
            return *direct.through(ctx.reference, (x, y), wanted, grad), None, None, None
        factor = grad.unsqueeze(1) * ctx.factor
        for side, (slope, v) in enumerate(zip(slopes, (x, y), strict=True)):
            if slope is not None:
                found[side] = narrow(slope * factor, v.dtype).masked_fill(idle, 0)
        return *found, None, None, None


class _Samples(NamedTuple):
    """Samples x, y and z in units of the range ``(R, 3, n)``; their deviations and those of the
    kernels ``(R, 3, 1)`` and ``(R, 4, 1)``.

    ``shear`` is s; ``mass`` ``(R, 1, n)`` adds up to ``n`` ``(R, 1, 1)``, None and a number without
    weights; ``rate`` is what x and y grow by with the data, ``(R, 2, 1)``; ``inside`` tells which
    samples are within a given range, ``left_out`` ``(R, n)`` which weights exclude.
    """

    v: Tensor
    ends: tuple[Tensor, Tensor]
    widths: Tensor
    shear: Tensor
    mass: Tensor | None
    n: Any
    rate: Tensor
    inside: Tensor | None
    flat: Tensor
    left_out: Tensor | None


def _samples(x: Tensor, y: Tensor, weights: Tensor | None, options: Options) -> _Samples:
    most, inside = steepest(x.dtype), None
    if options.ranges is not None:
        # The grid spans the data, of a given range, too; infinity becomes NaN, and stays it.
        v = torch.stack([x, y], 1).double()
        v = torch.add(v, v, alpha=0)
        held = v.clamp(*(of_both(ends, v.device) for ends in zip(*options.ranges, strict=True)))
        inside, (x, y) = held == v, held.unbind(1)
    p = positions(x, y, weights, None, (1, 1), False)
    u = p.u
    assert isinstance(p.rate, Tensor)
    rate = p.rate if inside is None else p.rate.clamp_max(most)
    n: Any = float(x.shape[1])
    mass = None
    if p.mass is not None:
        # What lies beyond an own range has no mass, and may lie anywhere.
        u, share = u.clamp(0, 1), p.mass.unsqueeze(1)
        n = 1 / share.square().sum(2, keepdim=True)
        mass = share * n
    second, unexplained = _moments(u, mass, n)
    deviations = second.diagonal(dim1=1, dim2=2).clamp_min(NO_VARIANCE).sqrt().unsqueeze(2)
    sx, sy = deviations[:, :1], deviations[:, 1:]
    r = (second[:, :1, 1:] / (sx * sy)).clamp(-1, 1)
    pair, alone = _bandwidths(options.bandwidth, n, deviations, rate)
    hx, hy = pair[:, :1], pair[:, 1:]
    shear = r * hy / hx
    widths = torch.cat([pair, hy * unexplained.sqrt(), alone], 1)
    v = torch.cat([u, torch.addcmul(u[:, 1:], u[:, :1], shear, value=-1)], 1)
    if p.left_out is None:
        ends = v.amin(2, keepdim=True), v.amax(2, keepdim=True)
    else:
        left_out = p.left_out.unsqueeze(1)
        low, high = v.masked_fill(left_out, FAR), v.masked_fill(left_out, -FAR)
        ends = low.amin(2, keepdim=True), high.amax(2, keepdim=True)
    return _Samples(v, ends, widths, shear, mass, n, rate, inside, p.flat, p.left_out)


def _moments(u: Tensor, mass: Tensor | None, n: Any) -> tuple[Tensor, Tensor]:
    """Return the covariance ``(R, 2, 2)``, and 1 - r² ``(R, 1, 1)``."""
    if mass is None:
        d = u - u.mean(2, keepdim=True)
        scale = 1 / max(n - 1, 0.5)
        second = torch.baddbmm(d[:, :, :1], d, d.mT, beta=0, alpha=scale)
    else:
        d = u - (u * mass).sum(2, keepdim=True) / n
        scale = 1 / (n - 1).clamp_min(0.5)
        second = torch.bmm(d * mass, d.mT) * scale
    xx, yy, xy = second[:, :1, :1], second[:, 1:, 1:], second[:, :1, 1:]
    # 1 - r² of nearly equal variables is a difference of nearly equal numbers; the residuals' own
    # variance is not.
    slope = xy / xx.clamp_min(NO_VARIANCE)
    rest = torch.addcmul(d[:, 1:], d[:, :1], slope, value=-1)
    left = torch.bmm(rest if mass is None else rest * mass, rest.mT) * scale
    return second, (left / yy.clamp_min(NO_VARIANCE)).clamp(SINGULAR, 1)


def _bandwidths(bandwidth: Any, n: Any, deviations: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Return the deviations of the pair's kernel on x and y, and of the marginals', ``(R, 2, 1)``,
    in units of the range.
    """
    if isinstance(bandwidth, str):
        return deviations * n ** (-1 / 6), deviations * (RULES[bandwidth] * n ** (-1 / 5))
    given = of_both(tuple(map(float, both_axes(bandwidth))), rate.device)
    widths = (given * rate).clamp(2.0**-200, 2.0**200)
    return widths, widths


class _Grids(NamedTuple):
    """The middles and steps of the grids of x, y and z, ``(R, 3, 1)``."""

    middle: Tensor
    step: Tensor


def _grids(samples: _Samples, size: int) -> _Grids:
    """Return the grids that span the data, with room for the shares of the outermost samples."""
    low, high = samples.ends
    # Rounding of positions leaves as much of a constant far from 0.
    far = torch.maximum(low.abs(), high.abs()) * 2.0**-40
    least = torch.maximum(samples.widths[:, :3] * LEAST_WIDTH, far)
    width = torch.maximum(high - low, least)
    return _Grids((low + high) / 2, width / (size - 1 - 2 * ROOM))


class _Constants(NamedTuple):
    """Grid points and their centres' distances from the middle; squares of lags; minus half the
    squares of frequencies; cosines over the shares' transform; a sample's own share; lags of all
    pairs of points; the signs of the three densities and of the four kernels.
    """

    centres: Tensor
    squares: Tensor
    decay: Tensor
    cosines: Tensor
    overlaps: Tensor
    lags: Tensor
    signs: Tensor
    kernel_signs: Tensor


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
    one = torch.ones(1, 1, dtype=torch.float64, device=device)
    return _Constants(
        points - (size - 1) / 2,
        points.square() / -2,
        w.square() / -2,
        cosines * (math.sqrt(2 * math.pi) / FREQUENCIES),
        overlaps,
        (points.unsqueeze(1) - points).abs().long().flatten(),
        torch.cat([one, -one, -one]),
        torch.cat([one, one, -one, -one]),
    )


class _Kernels(NamedTuple):
    """Matrices between grid points ``(R, 4, G, G)`` of x and z in the pair and of x and y alone;
    what a sample sees of itself in the pair, in x and in y ``(R, 3, 1)``; the logarithm of what the
    three densities are divided by, added up with their signs, ``(R, 1, 1)``.
    """

    matrix: Tensor
    own: Tensor
    log_width: Tensor


def _kernels(samples: _Samples, grids: _Grids, size: int) -> _Kernels:
    """Return Gaussians between grid points of what is shared out and read with the same shares."""
    c = _constants(size, samples.v.device)
    h = samples.widths
    h = torch.cat([h[:, :1], h[:, 2:]], 1)
    step = torch.cat([grids.step[:, ::2], grids.step[:, :2]], 1)
    relative = (h / step).clamp_min(NARROWEST)
    squares = relative.square()
    # Far wider than a step it is a Gaussian, less the variance of the shares.
    variance = (squares - 2 / 3).clamp_min(1 / 4)
    wide = (c.squares / variance).clamp_min(LEAST_EXPONENT).exp() * (relative / variance.sqrt())
    # Else the shares are divided out of its Fourier transform.
    spectrum = torch.exp(squares * c.decay) * relative
    sequence = torch.where(relative > WIDE, wide, spectrum @ c.cosines)
    own = sequence @ c.overlaps
    matrix = sequence.index_select(2, c.lags).view(*sequence.shape, size)
    own = torch.cat([own[:, :1] * own[:, 1:2], own[:, 2:]], 1)
    log_width = ((relative * step).log() * c.kernel_signs).sum(1, keepdim=True)
    return _Kernels(matrix, own, log_width)


class _Densities(NamedTuple):
    """Weights and slopes at the grids' points ``(R, 3, n, G)``; what the densities of the pair
    ``(R, G, G)`` and of x and y alone ``(R, 2, G)`` are made of, by the weights; the kernels.
    """

    weights: Tensor
    slopes: Tensor | None
    pair: Tensor
    single: Tensor
    matrix: Tensor


def _information(samples: _Samples, size: int, wanted: Any) -> tuple[Tensor, list[Tensor | None]]:
    """Return the information in nats ``(R, 1)``, and its derivatives by x and y where wanted."""
    mass, n = samples.mass, samples.n
    grids, c = _grids(samples, size), _constants(size, samples.v.device)
    kernels = _kernels(samples, grids, size)
    distance = ((samples.v - grids.middle) / grids.step).unsqueeze(3) - c.centres
    # Six times the weights of the spline, and minus twice its slopes.
    weights, slopes = cubic_weights(distance, any(wanted))
    weights = weights.mul_(1 / 6)
    pair, single = _smoothed(weights, mass, kernels.matrix)
    seen = torch.cat(
        [
            (torch.bmm(weights[:, 0], pair) * weights[:, 2]).sum(2).unsqueeze(1),
            (weights[:, :2] * single.unsqueeze(2)).sum(3),
        ],
        1,
    )
    m = 1.0 if mass is None else mass
    beside = seen - m * kernels.own
    others = beside.clamp_min(ALONE)
    whole = others + m
    logs = (others * whole).log_().mul_(c.signs if mass is None else c.signs * mass)
    total = logs.sum((1, 2), keepdim=True) + _log_counts(n, mass)
    value = (total / (2 * n) - kernels.log_width).squeeze(2)
    if not any(wanted):
        return value, [None, None]
    # How the value changes with what is seen of the three densities, (R, 3, n).
    push = (1 / others + 1 / whole) * (beside >= ALONE) * (c.signs * (m / (2 * n)))
    densities = _Densities(weights, slopes, pair, single, kernels.matrix)
    return value, _slopes(samples, grids, densities, push, wanted)


def _smoothed(weights: Tensor, mass: Tensor | None, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums of kernels at the grids' points, of the pair and of x and y, by masses
    ``(R, s, n)``: one for all three or one for each.
    """
    held = weights[:, :2] if mass is None else weights[:, :2] * mass[:, -2:].unsqueeze(3)
    first = held[:, 0] if mass is None or mass.shape[1] == 1 else weights[:, 0] * mass[:, :1].mT
    joint = torch.bmm(first.mT, weights[:, 2])
    pair = torch.bmm(torch.bmm(matrix[:, 0], joint), matrix[:, 1])
    return pair, (matrix[:, 2:] * held.sum(2).unsqueeze(2)).sum(3)


def _log_counts(n: Any, mass: Tensor | None) -> Any:
    """Return the sum over samples of the logarithms of n and of n less their mass."""
    if mass is None:
        return n * (math.log(max(n - 1, LEAST_COUNT)) + math.log(n))
    return (((n - mass).clamp_min(LEAST_COUNT).log() + n.log()) * mass).sum(2, keepdim=True)


def _slopes(
    samples: _Samples, grids: _Grids, d: _Densities, push: Tensor, wanted: Any
) -> list[Tensor | None]:
    """Return the derivatives by x and y ``(R, n)`` from those by what is seen ``(R, 3, n)``."""
    assert d.slopes is not None
    slopes: Tensor = d.slopes
    others = _smoothed(d.weights, push, d.matrix)
    # A sample moves its own densities, and what it adds to those of all others.
    m = torch.ones_like(push[:, :1]) if samples.mass is None else samples.mass
    both = torch.stack([push, m.expand_as(push)], 3)
    rates = grids.step.reciprocal() * -0.5

    def of_pair(side: int) -> Tensor:
        parts = (d.pair.mT, others[0].mT) if side == 0 else (d.pair, others[0])
        seen = torch.bmm(d.weights[:, 2 - side], torch.cat(parts, 2))
        along = (seen.view(*seen.shape[:2], 2, -1) * slopes[:, side].unsqueeze(2)).sum(3)
        return (along * both[:, 0]).sum(2) * rates[:, side]

    def alone(side: int) -> Tensor:
        tables = torch.stack([d.single[:, side], others[1][:, side]], 2)
        along = torch.bmm(slopes[:, side], tables)
        return (along * both[:, 1 + side]).sum(2) * rates[:, side]

    of_z = of_pair(2)
    found: list[Tensor | None] = []
    for side, want in enumerate(wanted):
        if not want:
            found.append(None)
            continue
        if side == 0:
            slope = of_pair(0) + alone(0) - of_z * samples.shear.squeeze(2)
        else:
            slope = alone(1) + of_z
        slope = slope * samples.rate[:, side]
        found.append(slope if samples.inside is None else slope * samples.inside[:, side])
    return found
