"""The table behind a p-value of bins in `mi-metrics estimate`.

All of them are read from one occupied-cell grid (:mod:`mi_metrics.states.grid`), so they do not
depend on chunks.
"""

import torch
from torch import Tensor

from mi_metrics.states import grid

# A column with fewer distinct values than one in so many samples does not count as continuous.
FEW = 10
# For b x b cells of equal frequency, the law of G is off by sqrt(b^2 / 2) / (6 N / b^2) of its
# standard deviations; b that grow as this times N, to the power 1/3, keep that at a twentieth.
CELLS = 0.4
# Cochran's rule: so many rows expected in a cell under independence.
EXPECTED = 5
# With two halves each, whose sizes are fixed, G takes so few values that a level of 0.05 can mean
# 0.023 or 0.115.
LEAST_GROUPS = 3


def thin_table(
    cells: grid.Grid, discrete: tuple[bool, bool] = (False, False)
) -> tuple[Tensor, bool]:
    """Return a table for a test of independence, and whether the law of G holds for it.

    The tables that estimates come from have too many cells for that law, and their number follows
    the dependence. This one has at most (0.4 N)^(1/3) groups of about equal frequency per axis,
    equal values in one of them, and fewer (down to 3) where that is what it takes to expect 5 rows
    in every cell. Groups depend on the marginals only, so that a test keeps its level. Categories
    have a row each.

    Args:
        cells: The grid of one pair.
        discrete: Whether each axis holds categories.
    """
    n = int(cells.joint.sum())
    finest = None
    for groups in range(most_groups(n), LEAST_GROUPS - 1, -1):
        axes = [
            (torch.arange(axis.counts.shape[1]).unsqueeze(0), axis.counts.shape[1])
            if labels
            else (groups_by_rank(axis.counts, groups), groups)
            for axis, labels in zip((cells.x, cells.y), discrete, strict=True)
        ]
        (rows, height), (columns, width) = axes
        counts = grid.regroup(cells.joint, rows, columns, (height, width))[0]
        x, y = counts.sum(1), counts.sum(0)
        if int(x[x > 0].min()) * int(y[y > 0].min()) >= EXPECTED * n:
            return counts, True
        finest = counts if finest is None else finest
        if all(discrete):
            break
    assert finest is not None
    return finest, False


def most_groups(n: int) -> int:
    """Return how many groups an axis of a table of so many rows has at most."""
    # A millionth more, so that the root of a cube is not less.
    return max(LEAST_GROUPS, int((CELLS * n) ** (1 / 3) + 1e-6))


def groups_by_rank(counts: Tensor, groups: int) -> Tensor:
    """Return the group of each cell by the rank of its middle sample, from the counts ``(R, m)`` of
    ascending cells; empty ones count nothing.
    """
    upto = counts.cumsum(1)
    return ((2 * upto - counts) * groups // (2 * upto[:, -1:])).clamp_(max=groups - 1)
