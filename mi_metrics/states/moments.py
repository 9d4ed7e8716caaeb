"""Moments of samples as a tensor that adds up: number, mean, centred products.

A state ``(d + 4, d)`` in float64 holds, row by row, the number of samples (in every column), the
exponent of each coordinate's unit, the mean as an unevaluated sum of two numbers, and the centred
products. Two states are merged by the formula of Chan, Golub and LeVeque (1983): with δ the
difference of the means,

    S = S_a + S_b + δ δᵀ n_a n_b / (n_a + n_b).

No state needs to know a shift that the others use, so ranks meet in the reduction only. The second
word of the mean is what makes it exact far from 0: of samples at 1e6 ± 1 one word would leave
relative errors of 5e-11 in the products.
"""

import torch
from torch import Tensor

from mi_metrics.functional.gaussian import (
    MOST_EXPONENT,
    Moments,
    exponents,
    power_of_two,
    two_sum,
)

HEAD = 4
# Up to so many samples one of them is as good a shift as their mean: its distance from the mean is
# at most √n deviations, which costs n · 2**-53 of the products.
ONE_SHIFT = 1024


def empty(dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the state of no samples of ``dim`` coordinates."""
    state = torch.zeros(HEAD + dim, dim, dtype=torch.float64, device=device)
    # The unit of the first sample, however small, is the larger one.
    state[1] = -MOST_EXPONENT
    return state


def pack(moments: Moments) -> Tensor:
    """Return moments of d coordinates as one tensor ``(d + 4, d)``."""
    number = moments.number.expand_as(moments.mean)
    head = (number, moments.exponent.double(), moments.mean, moments.mean_rest)
    return torch.cat((torch.stack(head), moments.products))


def unpack(state: Tensor) -> Moments:
    """Return the moments that :func:`pack` was given."""
    number, exponent, mean, rest = state[:HEAD].unbind(0)
    return Moments(number[0], exponent.long(), mean, rest, state[HEAD:])


def problems(state: Tensor, total: Tensor) -> list[str]:
    """Say what in a tensor ``(d + 4, d)`` can't be the state of ``total`` (1,) samples."""
    number, exponent, _, _ = state[:HEAD].unbind(0)
    products = state[HEAD:]
    spread = products.diagonal().clamp_min(0).sqrt()
    # In units of the largest sample the products are at most n, up to rounding.
    slack = 1e-12 * number
    most = spread.unsqueeze(1) * spread + slack
    right = (
        state.isfinite().all()
        & (number == total).all()
        & (exponent == exponent.round()).all()
        & (products.diagonal() >= -slack).all()
        & ((products - products.mT).abs() <= 1e-6 * most + slack).all()
        & (products.abs() <= (1 + 1e-6) * most).all()
    )
    if bool(right):
        return []
    return [
        f"impossible values in moments: expected those of {total.tolist()} samples, finite, with "
        "products that no correlation above 1 explains. The checkpoint was changed or damaged"
    ]


def add(state: Tensor, rows: Tensor) -> Tensor:
    """Return the state after further samples ``(n, d)`` in float64, n ≥ 1.

    What :func:`merge` would make of their moments, with fewer passes over them.
    """
    n = len(rows)
    exponent = torch.maximum(unpack(state).exponent, exponents(rows))
    old = _in_units(unpack(state), exponent)
    scale = power_of_two(-exponent)

    # A constant coordinate leaves nothing, to the bit.
    shift = rows[0] * scale
    rows = torch.addcmul(-shift, rows, scale)
    shift_rest, mean = torch.zeros_like(shift), rows.mean(0)
    if n > ONE_SHIFT:
        shift, shift_rest = two_sum(shift, mean)
        rows -= mean
        mean = rows.mean(0)
    new = Moments(torch.full_like(old.number, n), exponent, shift, shift_rest + mean, old.products)
    result = torch.empty_like(state)
    torch.addmm(old.products, rows.mT, rows, out=result[HEAD:])
    return _join(result, old, new, mean)


def merge(first: Tensor, second: Tensor) -> Tensor:
    """Return the state of the samples of two states."""
    a, b = unpack(first), unpack(second)
    exponent = torch.maximum(a.exponent, b.exponent)
    a, b = _in_units(a, exponent), _in_units(b, exponent)
    result = torch.empty_like(first)
    torch.add(a.products, b.products, out=result[HEAD:])
    return _join(result, a, b, torch.zeros_like(a.mean))


def _join(result: Tensor, a: Moments, b: Moments, offset: Tensor) -> Tensor:
    """Complete a new state that holds the products of two parts in the same units about two points:
    the mean of the first, and of the second the mean less an offset.
    """
    number = a.number + b.number
    weight = 1 / number.clamp_min(1)
    difference = (b.mean - a.mean) + (b.mean_rest - a.mean_rest)
    steps = torch.stack((difference, offset))
    factors = torch.stack((a.number * (b.number * weight), -b.number))
    result[HEAD:].addmm_((steps * factors.unsqueeze(1)).mT, steps)

    # From the mean of the larger part, which moves less; from an empty one nothing is taken.
    swap = b.number > a.number
    start = torch.where(swap, b.mean, a.mean)
    start_rest = torch.where(swap, b.mean_rest, a.mean_rest)
    step = difference * torch.where(swap, -a.number, b.number) * weight
    mean, lost = two_sum(start, step)
    mean, rest = two_sum(mean, start_rest + lost)
    torch.stack((number.expand_as(mean), a.exponent.double(), mean, rest), out=result[:HEAD])
    return result


def fold(states: Tensor) -> Tensor:
    """Reduce states ``(K, d + 4, d)`` of ranks or batches to one, in their order."""
    total = states[0]
    for state in states[1:]:
        total = merge(total, state)
    return total.clone()


def _in_units(moments: Moments, exponent: Tensor) -> Moments:
    """Return moments in larger units: powers of two, so that nothing is rounded."""
    # What is smaller than that by 2**1000 has no bit in common with it.
    scale = power_of_two((moments.exponent - exponent).clamp_min(-MOST_EXPONENT))
    products = moments.products * scale
    products *= scale.unsqueeze(1)
    return Moments(
        moments.number, exponent, moments.mean * scale, moments.mean_rest * scale, products
    )
