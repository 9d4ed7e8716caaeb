"""Which of many sets of samples may leave a doubt about their estimate, by steps that all of them
share: only those are worth the questions of :mod:`mi_metrics.functional.neighbors.doubts`.
"""

import math

import torch
from torch import Tensor

from mi_metrics.functional.cautions import ENOUGH
from mi_metrics.functional.neighbors.doubts import (
    LEAST_FOR_SPREAD,
    MOST_COPIES,
    MOST_LABELS,
    SAMPLES_PER_NEIGHBOR,
)
from mi_metrics.functional.neighbors.order import lexicographic_order, run_lengths, run_starts

# What is rounded otherwise there may not be missed here.
MARGIN = 1e-6
GLANCE = 1000


def doubtful(
    rows: Tensor, x_dim: int, n_neighbors: int, *, discrete_y: bool, compares_scales: bool
) -> list[int]:
    """Return the sets in doubt; every kind of doubt in any of them is found among these.

    Args:
        rows: Finite float64 samples ``(B, N, x_dim + y_dim)``.
        x_dim: Coordinates of x.
        n_neighbors: k.
        discrete_y: Whether the others are labels.
        compares_scales: Whether coordinates are scaled by their deviations.
    """
    sets, size, dim = rows.shape
    if not sets or size <= n_neighbors:
        return []
    number = torch.arange(sets, device=rows.device).repeat_interleave(size)
    columns = rows.flatten(0, 1).T.contiguous()
    parts = [columns[:x_dim]] if discrete_y else [columns[:x_dim], columns[x_dim:]]
    found = _copied(columns, parts, number, sets)
    scaled = rows[..., :x_dim] if discrete_y else rows
    if compares_scales and scaled.shape[2] > 1 and size >= LEAST_FOR_SPREAD:
        found |= _stretched(scaled.transpose(1, 2)).any(1)
    if not discrete_y:
        for column, width in ((0, x_dim), (x_dim, dim - x_dim)):
            if width == 1:
                found |= _whole(rows[:, :GLANCE, column])
    if size < (ENOUGH if discrete_y else max(ENOUGH, SAMPLES_PER_NEIGHBOR * n_neighbors)):
        # What is said of few samples is the same for all sets that vary.
        still = (rows == rows[:, :1]).all(1)
        varies = ~(still[:, :x_dim].all(1) | still[:, x_dim:].all(1))
        found |= varies & (varies.cumsum(0) == 1)
    return [place for place, doubt in enumerate(found.tolist()) if doubt]


def _copied(columns: Tensor, parts: list[Tensor], number: Tensor, sets: int) -> Tensor:
    """Say which sets may hold copies: rows that nearly all occur n times, or repeat as a whole."""
    same, distinct = _multiplicity([number, *columns], sets)
    size, total = same.shape[1], distinct.sum(1)
    found = torch.zeros(sets, dtype=torch.bool, device=columns.device)
    for factor in (7, 5, 3, 2):
        multiples = (distinct & (same % factor == 0)).sum(1)
        found |= multiples >= (0.95 - MARGIN) * total
    found &= (total >= 20) & (size <= MOST_COPIES * total)
    share = 1 - total.double() / size
    resampled = (share > 0.1 - MARGIN) & (total >= 50) & (size <= (3 + MARGIN) * total)
    if not bool(resampled.any()):
        return found
    in_order = same.sort(1).values
    for part in parts:
        resampled &= (_multiplicity([number, *part], sets)[0].sort(1).values == in_order).all(1)
    return found | resampled


def _multiplicity(table: list[Tensor], sets: int) -> tuple[Tensor, Tensor]:
    """Return how often each row of a set occurs in it, in sorted order, and which are the first of
    theirs, ``(B, N)`` both.
    """
    order = lexicographic_order(table)
    start = run_starts([column[order] for column in table])
    first = start == torch.arange(len(start), device=start.device)
    return run_lengths(start).view(sets, -1), first.view(sets, -1)


def _stretched(columns: Tensor) -> Tensor:
    """Say in which columns ``(B, d, N)`` far samples may set the deviation."""
    size = columns.shape[2]
    most = columns.abs().amax(2, keepdim=True).clamp_min(1e-300)
    ordered = (columns / most).sort(2).values
    half = size // 2
    shortest = (ordered[..., half:] - ordered[..., : size - half]).amin(2)
    return shortest * math.sqrt(size) <= (1 + MARGIN) * ordered.std(2, correction=0)


def _whole(values: Tensor) -> Tensor:
    """Say in which sets some values ``(B, n)`` are few whole numbers, as labels are."""
    ordered = values.sort(1).values
    distinct = (ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1
    return (values == values.round()).all(1) & (distinct <= MOST_LABELS)
