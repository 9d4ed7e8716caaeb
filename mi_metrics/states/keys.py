"""Numbers as integers in their order, and the cells of the dyadic grid that they lie in: the
arithmetic of :mod:`mi_metrics.states.grid`.
"""

import math

import torch
from torch import Tensor

from mi_metrics.functional.tensors import sort_rows

# Every float64 is a multiple of 2^LEAST; at that level nothing is cleared.
LEAST = -1074
# The order-preserving bits of +inf: no finite sample has this border, and clearing bits leaves it
# as it is.
_EMPTY = 2047 << 52
_INT64_MIN = -(2**63)
# Neighbours of different sign: above every level.
_NEVER = 1025


def _key(x: Tensor) -> Tensor:
    """Return the float64 bits of x as integers in the order of the numbers, both zeros 0."""
    # Adding zero flushes subnormals where the processor does, so that this and the lookup see the
    # same number.
    return _flip((x.double() + 0.0).view(torch.int64))


def _number(key: Tensor) -> Tensor:
    """Return the float64 of a key."""
    return _flip(key).view(torch.float64)


def _flip(bits: Tensor) -> Tensor:
    """Turn sign and magnitude into two's complement, or back."""
    return torch.where(bits < 0, _INT64_MIN - bits, bits)


def _floor(key: Tensor, level: Tensor) -> Tensor:
    """Return the keys (C, n) of the borders at the levels (C,)."""
    level = level.unsqueeze(1)
    sign = key >> 63
    # A negative number lies in the cell that ends above it: its size is that of the next number
    # towards zero.
    bits = (level + (1 - LEAST)) - ((key ^ sign) >> 52).clamp_(min=1)
    some = bits.clamp(0, 52)
    # Past the mantissa nothing remains but 0, and the cell below it, from -2^level.
    below = (sign << 52) * (level + 1023)
    return torch.where(bits > 52, below, (key >> some) << some)


def _meet(a: Tensor, b: Tensor) -> Tensor:
    """Return the least level at which the keys a < b lie in one cell."""
    negative = b < 0
    size_a, size_b = torch.where(negative, ~a, a), torch.where(negative, ~b, b)
    exponent = (torch.maximum(size_a, size_b) >> 52).clamp_(min=1)
    # One above the highest bit in which they differ; the leading bit where the exponents do.
    differ = torch.frexp((size_a ^ size_b).double()).exponent.clamp_(max=53)
    return torch.where((a < 0) & (b >= 0), _NEVER, exponent + differ + (LEAST - 1))


def _occupied(keys: Tensor, level: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Return the least level from ``level`` (C,) up at which the keys (C, n) occupy at most m
    cells, and these.
    """
    return _least(sort_rows(_floor(keys, level)), level, m)


def _least(keys: Tensor, level: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Return the least level from ``level`` up for keys (C, n) of that level in ascending order,
    and the cells.
    """
    a, b = keys[:, :-1], keys[:, 1:]
    if a.shape[1] >= m:
        meet = torch.where((a == b) | (b == _EMPTY), LEAST, _meet(a, b))
        level = torch.maximum(level, meet.topk(m, 1).values[:, -1])
        keys = _floor(keys, level)
    return level, _distinct(keys, m)[0][:, :m].contiguous()


def _distinct(keys: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Return the distinct ones of keys (C, n) in ascending order, (C, m + 1), and the place of all
    but the first key among them: where they are more than m, only the latter is right.
    """
    place = (keys[:, 1:] != keys[:, :-1]).cumsum(1)
    found = torch.full((len(keys), m + 1), _EMPTY, dtype=torch.int64, device=keys.device)
    found[:, :1] = keys[:, :1]
    found.scatter_(1, place.clamp(max=m), keys[:, 1:])
    return found, place


def _power(exponent: Tensor) -> Tensor:
    """Return 2^exponent as float64, exactly."""
    return ((exponent + 1023) << 52).view(torch.float64)


def resolution(state: Tensor) -> int:
    """Return m of a state, from 2 + 2m + m^2 = (m + 1)^2 + 1."""
    return math.isqrt(state.shape[-1] - 1) - 1


def regroup(joint: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Add up joint counts (C, ..., m, m) into tables (C, *shape), given the new row and column of
    each old one.

    ``rows`` and ``columns`` are (C, ..., m) int64. This is how a view goes from cells to bins.
    """
    code = rows.unsqueeze(-1) * shape[1] + columns.unsqueeze(-2)
    result = torch.zeros(
        joint.shape[0], shape[0] * shape[1], dtype=joint.dtype, device=joint.device
    )
    return result.scatter_add_(1, code.flatten(1), joint.flatten(1)).view(-1, *shape)
