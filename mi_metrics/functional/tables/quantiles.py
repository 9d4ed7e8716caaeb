r"""Order statistics of weighted rows, and bins of equal frequency that keep ties together.

**Quantile bins.** Let :math:`u_1 < \dots < u_K` be the distinct values of a row,
:math:`c_i` their numbers, N their sum and :math:`m_i = 2 (c_1 + \dots + c_{i-1}) + c_i` twice the
middle rank of a value. Of B bins the value :math:`u_i` is in

- its own, number i - 1, where K ≤ B;
- else :math:`\lfloor m_i B / 2N \rfloor`; where that division leaves no remainder, a value above
  the median is in the bin below, so that a border goes toward the middle; and a value whose middle
  rank is the median itself, between two bins, is in the one that the others fill less, the lower
  one where they fill both alike.

Whole numbers decide, so equal values share a bin, and the bins of -x are those of x in reverse, but
for a value in the last case: with an even number of bins, the middle one of an odd number of
samples, or a run of ties around the median, between two equally full bins.
"""

import torch
from torch import Tensor

from mi_metrics.functional.tensors import sort_rows


def ordered(x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return rows in ascending order and, with weights, the mass up to and including each sample.

    Samples of weight 0 are infinite and last.
    """
    if weights is None:
        return sort_rows(x), None
    values, order = x.masked_fill(weights == 0, torch.inf).sort(dim=1, stable=True)
    # Whole weights are frequencies. Others are shares of as many samples as they are worth.
    whole = (weights == weights.round()).all(1, keepdim=True)
    worth = weights.sum(1, keepdim=True) / weights.square().sum(1, keepdim=True)
    return values, (weights * torch.where(whole, 1, worth)).gather(1, order).cumsum(1)


def quantile(values: Tensor, mass: Tensor | None, q: float | Tensor) -> Tensor:
    """Return the quantile of ordered rows, ``(R, 1)``, or k of them ``(1, k)``, interpolated
    between order statistics as NumPy does by default.
    """
    total = _total(values, mass)
    rank = q * (total - 1).clamp_min(0)
    below, fraction = rank.floor(), rank - rank.floor()
    low, high = _order_statistic(values, mass, below), _order_statistic(values, mass, below + 1)
    # Not low + f * (high - low): the difference of two large numbers of either sign overflows.
    fraction = fraction.to(values.dtype)
    between = low * (1 - fraction) + high * fraction
    # Between equal values nothing else lies, whatever rounding says.
    return torch.minimum(torch.maximum(between, low), high)


def distinct(values: Tensor) -> Tensor:
    """Return how many distinct finite values each ordered row holds, ``(R,)``."""
    return _changes(values).sum(1) + 1


def quantile_edges(
    values: Tensor, mass: Tensor | None, bins: Tensor, number: Tensor | None = None
) -> Tensor:
    """Return the least value of each quantile bin but the first, ``(R, B - 1)``.

    Args:
        values: Ordered rows ``(R, k)``; zeros of mass are infinite and last.
        mass: The mass up to and including each of them, or None where each has 1.
        bins: Numbers of bins ``(R, 1)``; B is the largest of them.
        number: How many distinct values each row holds, ``(R,)``, where the caller knows it.

    Returns:
        Edges such that a value's bin is the number of edges that it reaches; infinite where no
        value lies beyond.
    """
    values, end = values.contiguous(), values.shape[1]
    start = _starts_by_middle_rank(values, mass, bins.double())
    number = distinct(values) if number is None else number
    few = (number <= bins.squeeze(1)).nonzero().squeeze(1)
    if few.numel():
        changes = torch.nn.functional.pad(_changes(values[few]).cumsum(1), (1, 0))
        j = torch.arange(1, start.shape[1] + 1, device=values.device)
        start[few] = torch.searchsorted(changes, j.expand(len(few), -1).contiguous())
    edges = values.gather(1, start.clamp_max(end - 1))
    return torch.where(start < end, edges, torch.inf).contiguous()


def _starts_by_middle_rank(values: Tensor, mass: Tensor | None, bins: Tensor) -> Tensor:
    """Return where each quantile bin but the first begins in the ordered rows, ``(R, B - 1)``."""
    (rows, end), total = values.shape, _total(values, mass)
    j = torch.arange(1, int(bins.max()), dtype=torch.float64, device=values.device)
    j = j.expand(rows, -1)
    # The run of equal values that holds this rank begins bin j, or the next one does: the middles
    # of those before lie below.
    rank = j * total / bins
    within = rank if mass is None else torch.searchsorted(mass, rank.contiguous(), right=True)
    run = values.gather(1, within.long().clamp_max(end - 1))
    first, last = (torch.searchsorted(values, run, right=right) for right in (False, True))
    below, upto = _mass_before(mass, first), _mass_before(mass, last)
    # Whole where masses are, and float64 holds whole numbers below 2**53 exactly.
    excess = (below + upto) * bins - 2 * total * j
    rounding = (1e-9 * total * bins).clamp_max(0.25)
    on_border, middle = excess.abs() <= rounding, 2 * j == bins
    begins = (excess > rounding) | (on_border & (2 * j < bins))
    start = torch.where(begins, first, last)
    start = torch.where(j < bins, start, end)
    # The two bins beside the median, without the run between them.
    edges = torch.nn.functional.pad(_mass_before(mass, start), (1, 1))
    edges[:, -1:] = total
    emptier = edges[:, 2:] - upto < below - edges[:, :-2] - rounding
    return torch.where(on_border & middle & emptier & (j < bins), first, start)


def _changes(values: Tensor) -> Tensor:
    changes = values[:, 1:] != values[:, :-1]
    # What has no mass is infinite, and last.
    return changes & (values[:, 1:] < torch.inf) if bool(values[:, -1].isinf().any()) else changes


def _mass_before(mass: Tensor | None, place: Tensor) -> Tensor:
    """Return the mass of what lies before places 0 … k of ordered rows."""
    if mass is None:
        return place.double()
    return torch.nn.functional.pad(mass, (1, 0)).gather(1, place)


def _order_statistic(values: Tensor, mass: Tensor | None, rank: Tensor) -> Tensor:
    """Return the values ``(R, k)`` of ranks ``(R, k)``, counted from 0 with weights as
    frequencies.
    """
    if mass is None:
        return values.gather(1, rank.clamp(0, values.shape[1] - 1).long())
    # The last sample that has mass ends the list, whatever rounding did to the sum.
    # Ranks are whole and so are sums of frequencies; of shares they are so up to rounding.
    index = torch.searchsorted(mass, rank + 0.5, right=True)
    last = (mass < mass[:, -1:]).sum(1, keepdim=True)
    return values.gather(1, torch.minimum(index, last))


def _total(values: Tensor, mass: Tensor | None) -> Tensor:
    if mass is None:
        return torch.full(
            (values.shape[0], 1), values.shape[1], dtype=torch.float64, device=values.device
        )
    total = mass[:, -1:]
    return torch.where((total - total.round()).abs() < 1e-9 * total, total.round(), total)
