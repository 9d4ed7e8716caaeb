r"""The information of a few samples under cubic kernels, by two dense matrices of weights.

With U and V the weights of all bins at all samples, the table is :math:`T = U^T V`, and with the
gradient :math:`G_{ab} = \log (p_{ab} / p_a p_b) / N` of the information (what it is constant by
adds nothing, because a sample's weights add up to 1), that of sample i is
:math:`\sum_{ab} U'_{ia} G_{ab} V_{ib}`.

So much arithmetic for a sample pays where there are few: some sixty operations in all, forward and
backward, and each takes as long for one sample as for a thousand. The first derivative is the one
that is needed a million times; whatever else is asked of it goes the way of all other tables.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mi_metrics.functional.options import Interval, from_nats
from mi_metrics.functional.tensors import narrow, on_cpu

Ranges = tuple[Interval, Interval]
# From samples (R, n) to the information of each row, differentiable in every way.
Reference = Callable[[Tensor, Tensor], Tensor]

# The most samples, on the CPU and on other devices.
FEW, FEW_ELSEWHERE = 1 << 11, 1 << 15
# The most numbers in a matrix of weights, and in the tables: about 100 bytes are held for each. On
# the CPU, compiled tables take less time from about there on.
HELD, HELD_ELSEWHERE = 1 << 15, 1 << 22
# Cells outside of the bins that a cubic kernel reaches, at each end.
BEYOND = 2
# A mass so small that it changes no sum, and its square is no subnormal number.
TINY = 1e-150
# Widths and ends of ranges in whose unit neither samples nor slopes overflow.
LEAST, MOST = 1e-30, 1e30


def serves(x: Tensor, y: Tensor, ranges: Ranges | None, bins: tuple[int, int]) -> bool:
    """Say whether :func:`information` takes samples ``(R, n)``, and pays."""
    few, held = (FEW, HELD) if on_cpu(x) else (FEW_ELSEWHERE, HELD_ELSEWHERE)
    if not 0 < x.numel() <= few or not 1 < bins[0] == bins[1]:
        return False
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    too_large = max(x.numel(), len(x) * bins[0]) * bins[0] > held
    if too_large or forward_ad._current_level >= 0:
        return False
    if ranges is None:
        # In float64 the difference of the ends may overflow.
        return torch.float64 not in (x.dtype, y.dtype)
    return ranges[0] == ranges[1] and (
        max(map(abs, ranges[0])) < MOST and ranges[0][1] - ranges[0][0] > LEAST
    )


def information(
    x: Tensor, y: Tensor, ranges: Ranges | None, bins: int, unit: str, reference: Reference
) -> Tensor:
    """Return the information of samples ``(R, n)``, float64 ``(R,)``: what ``reference`` returns,
    but for rounding.

    Args:
        x: Floating-point samples.
        y: Samples paired with ``x`` by position.
        ranges: The range of both, or None: that of each row.
        bins: The number of bins, at least 2, on either axis.
        unit: ``"nats"`` or ``"bits"``.
        reference: What derivatives of derivatives are taken of.
    """
    function: Any = _Information
    value: Tensor = function.apply(x, y, ranges, bins, unit, reference)
    return value


class _Information(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        ranges: Ranges | None,
        bins: int,
        unit: str,
        reference: Reference,
    ) -> Tensor:
        u, inside, width, constant = _places(x, y, ranges, bins)
        cells = torch.arange(0.5 - BEYOND, bins + BEYOND, dtype=torch.float64, device=x.device)
        distance = u.unsqueeze(3) - cells
        outer = (2 - distance.abs()).clamp_min_(0)
        inner = (outer - 1).clamp_min_(0)
        outer2, inner2 = outer.square(), inner.square()
        slopes = None
        if any(ctx.needs_input_grad):  # minus twice the spline's
            slopes = outer2.sub(inner2, alpha=4).copysign_(distance)
        # Six times the spline; what is beyond the bins counts in those at the ends.
        weights = outer2.mul_(outer).sub_(inner2.mul_(inner), alpha=4)
        weights[..., BEYOND].add_(weights[..., :BEYOND].sum(3))
        weights[..., -1 - BEYOND].add_(weights[..., -BEYOND:].sum(3))
        of_x, of_y = weights[..., BEYOND:-BEYOND].unbind(1)
        p = (of_x.mT @ of_y).mul_(1 / (36 * x.shape[1])).add_(TINY)
        ratio = p / (p.sum(2, keepdim=True) * p.sum(1, keepdim=True))
        log = ratio.log_().masked_fill_(constant.view(-1, 1, 1), 0)
        if slopes is not None:
            ctx.save_for_backward(x, y, slopes, of_x, of_y, log, inside)
            ctx.width, ctx.bins, ctx.unit, ctx.reference = width, bins, unit, reference
        return from_nats((p * log).sum((1, 2)), unit)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, slopes, of_x, of_y, log, inside = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        found: list[Tensor | None] = [None, None]
        if torch.is_grad_enabled():
            # With create_graph=True.
            some = [v for v, want in zip((x, y), wanted, strict=True) if want]
            value = ctx.reference(x, y)
            of_some = iter(torch.autograd.grad(value, some, grad, create_graph=True))
            return *(next(of_some) if want else None for want in wanted), None, None, None, None
        given = ctx.width if isinstance(ctx.width, float) else 1.0
        factor = -3 * ctx.bins / (36 * x.shape[1] * given)
        push = log * from_nats(grad * factor, ctx.unit)[:, None, None]
        for side, (v, other) in enumerate(((x, of_y), (y, of_x))):
            if not wanted[side]:
                continue
            # As copies of the cells at the ends.
            to = torch.nn.functional.pad(
                push if side else push.mT, (BEYOND, BEYOND), mode="replicate"
            )
            slope = ((other @ to) * slopes[:, side]).sum(2) * inside[:, side]
            if given is not ctx.width:
                slope = slope / ctx.width[:, side]
            found[side] = narrow(slope, v.dtype)
        return *found, None, None, None, None


def _places(
    x: Tensor, y: Tensor, ranges: Ranges | None, bins: int
) -> tuple[Tensor, Tensor, Tensor | float, Tensor]:
    """Return where samples lie in units of bins, ``(R, 2, n)``, and whether they lie inside; the
    width of the range, and which rows have a constant, ``(R, 1)``.
    """
    v = torch.stack([x, y], 1).double()
    # Infinity, too, becomes NaN, and stays it.
    v = torch.add(v, v, alpha=0)
    if ranges is None:
        least, largest = v.amin(2, keepdim=True), v.amax(2, keepdim=True)
        flat = least == largest
        width = (largest - least).masked_fill(flat, 1)
        t = (v - least).mul_(bins).div_(width)
        u = t.clamp(0, bins)
        return u, u == t, width, flat.any(1)
    lo, hi = ranges[0]
    t = (v - lo).mul_(bins)
    t = t if hi - lo == 1 else t.div_(hi - lo)
    u = t.clamp(0, bins)
    return u, u == t, float(hi - lo), (u.amin(2) == u.amax(2)).any(1)
