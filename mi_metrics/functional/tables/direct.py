r"""The measure of soft tables from samples to gradients as one function of autograd.

The gradient is in closed form: samples give a table, :mod:`.measures` its value and the derivatives
by its cells, and these go back to the samples. On the CPU by the cells that a few samples reach
(:mod:`.scattered`), on other devices by dense matrices (:mod:`.dense`): either takes as long for
one sample as for hundreds.

The first derivative is the one that is needed a million times; whatever else is asked of it goes
the way of all other tables.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mi_metrics.functional.options import Ranges
from mi_metrics.functional.tables import dense, scattered
from mi_metrics.functional.tables.measures import Form, measure
from mi_metrics.functional.tables.positions import positions
from mi_metrics.functional.tensors import narrow, on_cpu
from mi_metrics.kernels import gpu

# From samples (R, n) to the values of the rows, differentiable in every way.
Reference = Callable[[Tensor, Tensor], Tensor]

# The most samples, on the CPU and on other devices.
FEW, FEW_ELSEWHERE = 1 << 11, 1 << 15
# The most numbers in the tables, and in a matrix of weights, which holds about 100 bytes for each.
HELD, HELD_ELSEWHERE = 1 << 15, 1 << 22
# Widths and ends of ranges in whose unit neither samples nor slopes overflow.
LEAST, MOST = 1e-30, 1e30


def serves(x: Tensor, y: Tensor, ranges: Ranges | None, bins: tuple[int, int]) -> bool:
    """Say whether :func:`values` takes samples ``(R, n)``, and pays."""
    few, held = (FEW, HELD) if on_cpu(x) else (FEW_ELSEWHERE, HELD_ELSEWHERE)
    if not 0 < x.numel() <= few or min(bins) < 2:
        return False
    if (x.dtype == torch.float64) != (y.dtype == torch.float64):
        return False
    cells = 0 if on_cpu(x) else x.numel() * max(bins)
    if max(cells, len(x) * bins[0] * bins[1]) > held:
        return False
    return is_served(ranges)


def is_served(ranges: Ranges | None) -> bool:
    """Say whether a gradient in closed form is all that is asked for, and no number is too
    large.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if forward_ad._current_level >= 0 or gpu.is_recorded():
        return False
    return ranges is None or all(
        max(abs(lo), abs(hi)) < MOST and hi - lo > LEAST for lo, hi in ranges
    )


def values(
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    ranges: Ranges | None,
    form: Form,
    dtype: torch.dtype,
    reference: Reference,
) -> Tensor:
    """Return a measure of R pairs in a dtype, ``(R,)``: what ``reference`` returns, but for
    rounding.

    Args:
        x: Floating-point samples ``(R, n)``.
        y: Samples paired with ``x`` by position.
        weights: Weights ``(R, n)`` of any real dtype, or None.
        ranges: The ranges of x and y, or None: those of each row.
        form: What is measured.
        dtype: That of the result.
        reference: What derivatives of derivatives are taken of.
    """
    function: Any = _Values
    value: Tensor = function.apply(*leaves(x, y), weights, ranges, form, dtype, reference)
    return value


def leaves(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return samples that need no gradient where none is recorded: a function of autograd would
    still say that they do.
    """
    return (x, y) if torch.is_grad_enabled() else (x.detach(), y.detach())


def through(
    reference: Reference, samples: tuple[Tensor, Tensor], wanted: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """Return the gradients of x and y that are wanted by a backward pass with
    ``create_graph=True``.
    """
    some = [v for v, want in zip(samples, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(reference(*samples), some, grad, create_graph=True))
    return [next(found) if want else None for want in wanted]


def incoming(grad: Tensor) -> Tensor:
    """Return the gradients of the values of rows as ``(R, 1)``, infinite ones as NaN: a finite one
    would hide that they are.
    """
    return torch.add(grad, grad, alpha=0).unsqueeze(-1)


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        weights: Tensor | None,
        ranges: Ranges | None,
        form: Form,
        dtype: torch.dtype,
        reference: Reference,
    ) -> Tensor:
        differentiate = any(ctx.needs_input_grad)
        way = scattered if on_cpu(x) else dense
        p = positions(x, y, weights, ranges, form.bins, form.normalization == "studholme")
        table, too_large, saved = way.count(p, form.bins, form.kernel, differentiate)
        scale = 1 / too_large if p.mass is not None else 1 / (too_large * x.shape[1])
        value, push = measure(table, p.flat, p.empty, form, scale, differentiate)
        if push is not None:
            rates, ctx.rates = (
                (p.rate, (1.0, 1.0)) if isinstance(p.rate, Tensor) else (None, p.rate)
            )
            ctx.save_for_backward(x, y, push, rates, p.flat, p.left_out, *saved)
            ctx.way, ctx.kernel, ctx.reference = way, form.kernel, reference
        return value.to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, push, rates, flat, left_out, *saved = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            found = through(ctx.reference, (x, y), wanted, grad)
            return *found, None, None, None, None, None
        slopes = ctx.way.pull_back(push, saved, ctx.kernel, ctx.rates, wanted)
        found = [None, None]
        grad = incoming(grad).masked_fill(flat, 0)
        # The incoming gradient comes last: it may be a batch of them.
        for side, (slope, v) in enumerate(zip(slopes, (x, y), strict=True)):
            if slope is not None:
                slope = slope if rates is None else slope * rates[:, side]
                slope = narrow(slope * grad, v.dtype)
                # Samples that are left out get nothing, not even of a table that is NaN.
                found[side] = slope if left_out is None else slope.masked_fill(left_out, 0)
        return *found, None, None, None, None, None
