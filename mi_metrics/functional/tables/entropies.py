r"""The three plug-in entropies of a table, with their gradient in closed form.

With p = T / N, the derivative of H = -Σ p log p of a marginal or of the table itself is

.. math::
    \frac{\partial H}{\partial T_{ab}} = \frac{-\log p - H}{N},

p that of the cell or of its row or column. Every normalised form is a function of the three, so
one backward of a few operations serves all, where autograd would retrace every step of three sums.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mi_metrics.functional.tables.sampling import occupied
from mi_metrics.functional.tensors import signed

# Hx, Hy, Hxy, and the numbers of occupied rows and columns.
Entropies = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def plug_in_entropies(table: Tensor) -> Entropies:
    """Return Hx, Hy and Hxy of float64 tables ``(..., B_x, B_y)`` in nats, NaN without samples, and
    how many rows and columns are occupied.

    Differentiable twice and in forward mode. The gradient of an empty cell is what autograd makes
    of 0 log 0 = 0, and finite.
    """
    if not table.requires_grad:
        return _entropies(table)
    # torch.compile refuses functions with a forward mode, which it has no use for.
    function: Any = _Entropies if torch.compiler.is_compiling() else _EntropiesBothWays
    found: Entropies = function.apply(table)
    return found


def probabilities(table: Tensor) -> Tensor:
    """Return tables of any dtype divided by their sums, in float64."""
    table = table.to(torch.float64)
    # The sum of weights near 1e308 is not a number.
    table = table / _unit(table)
    return table / table.sum((-2, -1), keepdim=True)


def plug_in(p: Tensor, dims: int) -> Tensor:
    """Return the entropy of probabilities over the last dimensions."""
    # The 0 is replaced before the logarithm: behind it, autograd would multiply 0 by inf.
    return -(p * torch.where(p > 0, p, 1).log()).sum(tuple(range(-dims, 0)))


def _unit(table: Tensor) -> Tensor:
    largest = table.detach().amax((-2, -1), keepdim=True)
    return largest.clamp_min(torch.finfo(torch.float64).tiny)


def _entropies(table: Tensor) -> Entropies:
    p = probabilities(table)
    p_x, p_y = p.sum(-1), p.sum(-2)
    return plug_in(p_x, 1), plug_in(p_y, 1), plug_in(p, 2), occupied(p_x, 1), occupied(p_y, 1)


def _slopes(table: Tensor, *entropies: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return log p + H of rows, columns and cells, which broadcast, and the two factors of N: minus
    their quotients are the derivatives of the entropies by the cells.
    """
    unit = _unit(table)
    scaled = table / unit
    n = scaled.sum((-2, -1), keepdim=True)
    p = scaled / n
    found = []
    for q, h in zip((p.sum(-1, keepdim=True), p.sum(-2, keepdim=True), p), entropies, strict=True):
        log = torch.where(q > 0, q, torch.e**-1).log()
        found.append(log + h[..., None, None])
    return found, n, unit


@signed
class _Entropies(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(table: Tensor) -> Entropies:
        return _entropies(table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Entropies) -> None:
        ctx.mark_non_differentiable(*output[3:])
        ctx.save_for_backward(inputs[0], *output[:3])
        ctx.save_for_forward(inputs[0], *output[:3])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x, y, xy), n, unit = _slopes(*ctx.saved_tensors)
        of_x, of_y, of_xy = (grad[..., None, None] for grad in grads[:3])
        return (xy * of_xy + x * of_x + y * of_y) / -n / unit


@signed
class _EntropiesBothWays(_Entropies):
    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        # Levels of forward mode around this one are to follow the rule.
        with forward_ad._set_fwd_grad_enabled(True):
            unpack: Any = forward_ad.unpack_dual
            table = unpack(ctx.saved_tensors[0]).primal
            slopes, n, unit = _slopes(table, *_entropies(table)[:3])
            share = tangent / -n / unit
            return *((share * slope).sum((-2, -1)) for slope in slopes), None, None
