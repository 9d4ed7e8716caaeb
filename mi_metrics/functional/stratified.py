"""What tables by stratum say of the information within strata: p-values, intervals, error bars.

A table comes as strata ``(..., K, B_x, B_y)``: a single one for :math:`I(X; Y)`, one for each class
z for :math:`I(X; Y | Z) = \\sum_k p_k I_k`. The functions of :mod:`mi_metrics.functional.inference`
ask these with K = 1, the metrics with the table that is their state.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_metrics.functional.information import (
    _check_counts,
    _check_whole,
    _float64,
    _log,
    information,
    standard_error,
)
from mi_metrics.functional.options import (
    P_VALUE_METHODS,
    UNITS,
    Unit,
    check_choice,
    check_number,
    check_repetitions,
    check_seed,
    from_nats,
)
from mi_metrics.functional.tables.inversion import Inversion
from mi_metrics.functional.tables.permutations import permutation_p_value
from mi_metrics.functional.tables.tails import Tails

# SciPy's sampler of tables does not come back from some larger ones.
MOST_SAMPLES = 2**31
# From so many samples per cell on an interval needs no other test of independence.
SAMPLES_PER_CELL = 2
# Tables of up to so many cells have an interval whose tails are drawn at every step.
FEW_CELLS = 144

Array = NDArray[np.float64]


def stratified_p_value(
    counts: Tensor, *, method: str = "g", num_permutations: int = 999, seed: int = 0
) -> Tensor:
    """Return the p-value of independence within strata, float64 ``(...)``.

    Permutations stay within their stratum. G is the sum of those of the strata, and so are its
    degrees of freedom.

    Args:
        counts: Whole counts ``(..., K, B_x, B_y)``.
        method: ``"g"`` or ``"permutation"``.
        num_permutations: How many random tables, from 1 to 10**8.
        seed: Their seed.
    """
    check_choice("method", method, P_VALUE_METHODS)
    num_permutations = check_repetitions("num_permutations", num_permutations)
    seed = check_seed(seed)
    if method == "g":
        return _g_test(counts)

    def test(strata: Array) -> list[float]:
        return [_permuted(strata, num_permutations, seed)]

    _check_size(counts, 'use method="g", which holds for so many')
    return _of_each(counts, "The permutation test", test, [1.0]).squeeze(-1)


def stratified_interval(
    counts: Tensor,
    level: float = 0.95,
    *,
    num_resamples: int = 999,
    seed: int = 0,
    unit: str = "nats",
) -> Tensor:
    """Return the confidence interval of the information within strata, float64 ``(..., 2)``: the
    lower and the upper end.

    Args:
        counts: Whole counts ``(..., K, B_x, B_y)``.
        level: The share of intervals that hold the truth, in (0, 1).
        num_resamples: Draws per quantile, from 2 / (1 - level) to 10**8.
        seed: Seed of the draws.
        unit: ``"nats"`` or ``"bits"``.
    """
    level = check_number("level", level)
    if not 0 < level < 1:
        raise ValueError(
            f"Expected `level` in (0, 1), but got {level}. For an interval of 95 % pass 0.95."
        )
    # Rounded up, but for what the subtraction has added.
    least = math.ceil(2 / (1 - level) - 1e-6)
    num_resamples = check_repetitions("num_resamples", num_resamples, least)
    seed = check_seed(seed)
    check_choice("unit", unit, UNITS)

    def interval(strata: Array) -> list[float]:
        method = Tails if strata.size <= FEW_CELLS else Inversion
        low, high = method(strata, level, num_resamples, seed).interval()
        # Draws of so few samples lose rows and columns, and with them the bias of the plug-in
        # value; permutations keep them.
        sparse = low > 0 and strata.sum() < SAMPLES_PER_CELL * strata.size
        if sparse and _permuted(strata, num_resamples, seed) > (1 - level) / 2:
            low = 0.0
        return [low, high]

    _check_size(counts, "use standard_error, which holds for so many")
    return from_nats(_of_each(counts, "A confidence interval", interval, [0.0, 0.0]), unit)


def stratified_standard_error(counts: Tensor, *, unit: Unit = "nats") -> Tensor:
    """Return the standard error of the plug-in information within strata, float64 ``(...)``: the
    root of the variance of the samples' pointwise values over N.

    Args:
        counts: Whole counts ``(..., K, B_x, B_y)``.
        unit: ``"nats"`` or ``"bits"``.
    """
    _check_whole(_check_counts(counts), "A standard error within strata")
    if counts.shape[-3] == 1:
        return standard_error(counts.squeeze(-3), unit=unit)
    table = _float64(counts)
    total = table.sum((-3, -2, -1))
    p = table / total.clamp_min(1)[..., None, None, None]
    ratio = _log(p) + _log(p.sum((-2, -1), keepdim=True))
    ratio = ratio - _log(p.sum(-1, keepdim=True)) - _log(p.sum(-2, keepdim=True))
    mean = (p * ratio).sum((-3, -2, -1), keepdim=True)
    variance = (p * (ratio - mean).square()).sum((-3, -2, -1))
    # What rounding leaves where each stratum has a constant is no error.
    occupied = torch.minimum(*((p.sum(dim) > 0).sum(-1) for dim in (-1, -2)))
    variance = torch.where((occupied > 1).any(-1), variance, 0)
    error = (variance / total.clamp_min(1)).sqrt()
    return from_nats(torch.where(total > 0, error, torch.nan), unit)


def _permuted(strata: Array, number: int, seed: int) -> float:
    kept = [table[table.sum(1) > 0][:, table.sum(0) > 0] for table in strata]
    return permutation_p_value([table for table in kept if min(table.shape) > 1], number, seed)


def _g_test(counts: Tensor) -> Tensor:
    _check_whole(_check_counts(counts), "The G-test")
    counts = _float64(counts).detach()
    total = counts.sum((-3, -2, -1))
    rows, columns = ((counts.sum(axis) > 0).sum(-1, dtype=torch.float64) for axis in (-1, -2))
    # An empty stratum has neither rows nor columns.
    freedom = ((rows - 1) * (columns - 1) * (rows > 0)).sum(-1)
    within = counts.sum((-2, -1)) * information(counts)
    # Plug-in values of (nearly) independent tables can be -1e-17; the law starts at 0.
    statistic = (2 * within.nan_to_num()).sum(-1).clamp_min(0)
    tail = torch.special.gammaincc(freedom.clamp_min(1) / 2, statistic / 2)
    return torch.where(total > 0, torch.where(freedom > 0, tail, 1), torch.nan)


def _check_size(counts: Any, remedy: str) -> None:
    """Refuse tables of more samples than can be drawn again."""
    totals = _float64(_check_counts(counts)).detach().sum((-3, -2, -1))
    largest = float(totals.max()) if totals.numel() else 0.0
    if largest > MOST_SAMPLES:
        raise ValueError(
            f"Expected `counts` of at most 2**31 samples, but got {largest:g}. Random tables of so "
            f"many can't be drawn in bounded time: {remedy}."
        )


def _of_each(
    counts: Tensor, what: str, answer: Callable[[Array], list[float]], constant: list[float]
) -> Tensor:
    """Return what ``answer`` says of each table, float64 ``(..., numbers)``; NaN without samples.

    It is given strata ``(K, R, C)`` without empty ones, nor rows and columns that all leave empty.
    Where within each stratum one of the variables is constant, the answer is ``constant``.
    """
    _check_whole(counts, what)
    tables = _float64(counts).detach().cpu().resolve_neg()
    found = []
    for strata in tables.reshape(-1, *tables.shape[-3:]).numpy():
        kept = strata[strata.sum((1, 2)) > 0]
        kept = kept[:, kept.sum((0, 2)) > 0][:, :, kept.sum((0, 1)) > 0]
        rows, columns = ((kept.sum(axis) > 0).sum(1) for axis in (2, 1))
        if kept.size == 0:
            found.append([math.nan] * len(constant))
        elif bool((np.minimum(rows, columns) == 1).all()):
            found.append(constant)
        else:
            found.append(answer(kept))
    result = torch.tensor(found, dtype=torch.float64, device=counts.device)
    return result.reshape(*counts.shape[:-3], len(constant))
