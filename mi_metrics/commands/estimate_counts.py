"""The counts behind a line of `mi-metrics estimate`: the table of its value, that of its p-value,
what notes are about.

All of them are read from one occupied-cell grid (:mod:`mi_metrics.states.grid`), so they do not
depend on chunks.
"""

import math

import torch
from torch import Tensor

from mi_metrics.functional import independence_p_value
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


def few_values(axis: grid.Axis) -> int | None:
    """Return the number of distinct values of a column that has few of them, None for a continuous
    one.

    Args:
        axis: One axis of the grid of one pair.
    """
    size = int(axis.size[0])
    return size if bool(axis.lossless[0]) and FEW * size < int(axis.counts[0].sum()) else None


def tabulate(counts: Tensor, cells: grid.Grid) -> tuple[Tensor, tuple[bool, bool]]:
    """Return the table that an estimate is read from, and of each axis whether every value has a
    row of its own.

    It has where the values are few, and the table then has no more cells than the bins that the
    samples support: bins of equal width or frequency could pool categories, whose numbers and
    frequencies mean nothing.

    Args:
        counts: The table of the bins, ``(B_x, B_y)``.
        cells: The grid of that pair.
    """
    bins = counts.shape
    few = [few_values(axis) or math.inf for axis in (cells.x, cells.y)]
    own = (
        (True, True)
        if math.prod(few) <= math.prod(bins)
        else (few[0] <= bins[0], few[1] <= bins[1])
    )
    if not any(own):
        return counts, own
    rows, columns = (
        torch.arange(axis.size.item()).expand(1, -1) if alone else _binned(axis, marginal)
        for axis, marginal, alone in zip(
            (cells.x, cells.y), (counts.sum(1), counts.sum(0)), own, strict=True
        )
    )
    shape = [int(f) if alone else b for f, alone, b in zip(few, own, bins, strict=True)]
    joint = cells.joint[:, : rows.shape[1], : columns.shape[1]]
    return grid.regroup(joint, rows, columns, (shape[0], shape[1]))[0], own


def p_value(cells: grid.Grid) -> float | None:
    """Return the p-value of the G-test of independence, or None where it could not be relied on.

    The tables that estimates come from have so many cells that the law of G does not hold. This one
    has at most (0.4 N)^(1/3) groups of about equal frequency per axis, equal values in one of them,
    and fewer (down to 3) where that is what it takes to expect 5 rows in every cell. Groups depend
    on the marginals only, so that the test keeps its level.

    Args:
        cells: The grid of one pair.
    """
    n = int(cells.joint.sum())
    # A millionth more, so that the root of a cube is not less.
    for groups in range(
        max(LEAST_GROUPS, int((CELLS * n) ** (1 / 3) + 1e-6)), LEAST_GROUPS - 1, -1
    ):
        rows, columns = (_groups(axis, groups) for axis in (cells.x, cells.y))
        counts = grid.regroup(cells.joint, rows, columns, (groups, groups))[0]
        x, y = counts.sum(1), counts.sum(0)
        if int(x[x > 0].min()) * int(y[y > 0].min()) >= EXPECTED * n:
            return float(independence_p_value(counts))
    return None


def crowded(counts: Tensor, cells: grid.Grid) -> tuple[bool, bool]:
    """Say of each axis whether a bin holds most of the samples though they differ: then bins see
    the tails only.

    Args:
        counts: The table of bins of equal width, ``(B_x, B_y)``.
        cells: The grid of that pair.
    """
    found = []
    for axis, marginal in zip((cells.x, cells.y), (counts.sum(1), counts.sum(0)), strict=True):
        fullest = int(marginal.argmax())
        # A cell that is wider than a point can hold many values.
        differ = int((_binned(axis, marginal) == fullest).sum()) > 1 or not bool(axis.lossless[0])
        found.append(
            len(marginal) > 1 and differ and 2 * int(marginal[fullest]) > int(marginal.sum())
        )
    return found[0], found[1]


def _binned(axis: grid.Axis, marginal: Tensor) -> Tensor:
    """Return the bin of each cell, (1, size), given the counts of the bins: both are in order."""
    size = int(axis.size[0])
    before = axis.counts.cumsum(1) - axis.counts
    return torch.searchsorted(marginal.cumsum(0), before[:, :size].contiguous(), right=True)


def _groups(axis: grid.Axis, groups: int) -> Tensor:
    """Return the group of each cell by the rank of its middle sample, (1, m); empty slots count
    nothing.
    """
    upto = axis.counts.cumsum(1)
    return ((2 * upto - axis.counts) * groups // (2 * upto[:, -1:])).clamp_(max=groups - 1)
