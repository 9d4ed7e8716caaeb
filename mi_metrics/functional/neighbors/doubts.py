"""What samples show of themselves that makes an estimate from their neighbours doubtful."""

import math

from torch import Tensor

from mi_metrics.functional.neighbors.order import lexicographic_order, run_lengths, run_starts
from mi_metrics.functional.neighbors.steps import argsort, take

LEAST_FOR_SPREAD = 30
# Coincident samples are counted whatever the scale: a doubt about it needs this share of others.
LEAST_APART = 0.05
FAR = (
    "Far samples set the standard deviation of a coordinate, beside which the spread of the others "
    "is less than the distance of neighbours: these see the others as one value, and the mutual "
    'information may be too small. Pass standardize="rank", which leaves the information as it is '
    "and knows no far samples; if they are fill values, remove them."
)


def far_samples(rows: Tensor, x_dim: int, n_neighbors: int, *, discrete_y: bool) -> bool:
    """Say whether far samples set the deviation of a coordinate, so that neighbours can't tell the
    others apart.

    Neighbours of N samples are about σ/√N from each other, and σ is compared with the width of the
    shortest half of the values, which up to half of them can't change.

    Args:
        rows: Finite float64 samples ``(N, x_dim + y_dim)``.
        x_dim: Coordinates of x.
        n_neighbors: k.
        discrete_y: Whether the others are labels.
    """
    n = len(rows)
    columns = rows[:, :x_dim] if discrete_y else rows
    # With one coordinate there is no other scale to compare with.
    if n < LEAST_FOR_SPREAD or columns.shape[1] == 1:
        return False
    if not any(_hides_the_rest(column.contiguous()) for column in columns.T):
        return False
    return float((copies(rows) <= n_neighbors).double().mean()) >= LEAST_APART


def copies(rows: Tensor) -> Tensor:
    """Return how often each row of a table occurs, in sorted order, int64 ``(N,)``."""
    columns = rows.T.contiguous()
    order = lexicographic_order(list(columns))
    return run_lengths(run_starts([take(column, order) for column in columns]))


def _hides_the_rest(column: Tensor) -> bool:
    # In units in which nothing overflows.
    values = column / column.abs().max().clamp_min(1e-300)
    ordered = take(values, argsort(values))
    deviation = float(ordered.std(correction=0))
    lengths = run_lengths(run_starts([ordered]))
    # Of a value that many samples have, the others are what there is to see.
    others = ordered[lengths < lengths.max()]
    spread = max(_shortest_half(v) for v in (ordered, others))
    return spread > 0 and spread * math.sqrt(len(column)) < deviation


def _shortest_half(ordered: Tensor) -> float:
    """Return the width of the narrowest interval that holds half of the sorted values."""
    half = len(ordered) // 2
    if half == 0:
        return 0.0
    return float((ordered[half:] - ordered[: len(ordered) - half]).min())
