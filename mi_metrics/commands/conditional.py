"""What bins and neighbours say of a pair of columns given a third one, from rows that were kept.

A condition of few values, or of categories, divides the rows: bins take a table for each, and
neighbours the mean of the estimates within each. Given a continuous condition bins have no tables,
and neighbours take the estimate of Frenzel and Pompe.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor

from mi_metrics.commands.estimators import (
    LEAST_DIVIDED,
    LEAST_RESAMPLES,
    LEVEL,
    MOST_DRAWN,
    NEIGHBORS,
    PARTS,
    QUANTILE,
    ROWS_TESTED,
    Options,
    Value,
    p_value,
    p_value_of,
)
from mi_metrics.functional.knn import rows_doubts, rows_mutual_information
from mi_metrics.functional.knn_conditional import triples_doubts, triples_information
from mi_metrics.functional.knn_permutations import triples_p_value
from mi_metrics.functional.reliability import UNDERSTATED
from mi_metrics.functional.stratified import (
    stratified_interval,
    stratified_standard_error,
)
from mi_metrics.functional.tables import classes, views
from mi_metrics.functional.tables.automatic import MOST_BINS

# A column with fewer distinct values than one in so many samples does not count as continuous.
FEW = 10
# Neighbours leave out classes of few rows, as long as these are no more than this share of all.
MOST_LEFT_OUT = 0.1
# Beyond so many coordinates neighbours are found by comparing all rows: half a minute of that.
FEW_COORDINATES, MOST_WORK = 10, 4e9
# Parts that show how far a value scatters have so many rows, and so many of each class.
LEAST_IN_A_PART, LEAST_IN_A_CLASS = 50, 20

Discrete = tuple[bool, bool, bool]


def conditional(name: str, rows: Tensor, discrete: Discrete, given: Options) -> Value:
    """Estimate the information of two columns given a third.

    Args:
        name: The estimator.
        rows: Rows ``(n, 3)`` of x, y and the condition, in an order of chance.
        discrete: Whether each column holds categories.
        given: How it is estimated.
    """
    if name == "kde":
        return Value(len(rows), math.nan, reason="densities are not conditioned: see bins and knn")
    values, labels = torch.unique(rows[:, 2], return_inverse=True)
    divides = discrete[2] or FEW * len(values) <= len(rows)
    if name == "bins":
        if not divides:
            reason = "the condition has too many values for a table each: see knn"
            return Value(len(rows), math.nan, reason=reason)
        return _bins(rows, labels, values, discrete, given)
    if len(rows) <= NEIGHBORS:
        return Value(len(rows), math.nan, doubts=(("too few", ""),))
    if divides:
        if discrete[0] and discrete[1]:
            return Value(len(rows), math.nan, reason="both columns hold categories: see bins")
        return _within(rows, labels, discrete, given)
    return _triples(rows, discrete, given)


def _bins(
    rows: Tensor, labels: Tensor, values: Tensor, discrete: Discrete, given: Options
) -> Value:
    kinds = tuple("values" if d else "auto" for d in discrete[:2])
    options = views.parse("auto", None, kinds, 0.0, 0.0, "hard")
    x, y = (rows[:, i].unsqueeze(0) for i in (0, 1))
    conditions = views.Conditions(labels.unsqueeze(0), len(values))
    if classes.have_bins_of_their_own(options):
        found = list(classes.class_tables(x, y, options, conditions))
        size, names = classes.sizes(conditions), values.tolist()
        told = classes.class_doubts(found, size, options, 2 * MOST_BINS, names)
        mi, doubts = float(classes.class_values(found, size, options)), tuple(told.items())
        counts = classes.stacked_counts(found, len(values))
        tested = classes.tables_to_test(found, options, law=not given.permutations)
        p = p_value_of(tested, given.permutations)
    else:
        (table,) = views.tables(x, y, None, options, conditions=conditions)
        doubts = tuple(table.doubts(options, 2 * MOST_BINS))
        mi, counts = float(table.value(options)), table.counts[0]
        p = p_value(table, options.choice(), given.permutations)
    error = float(stratified_standard_error(counts))
    interval = (mi - QUANTILE * error, mi + QUANTILE * error)
    if given.permutations and counts.numel() <= MOST_DRAWN:
        resamples = max(given.permutations, LEAST_RESAMPLES)
        low, high = stratified_interval(counts, LEVEL, num_resamples=resamples).tolist()
        interval = (low, high)
    return Value(len(rows), mi, error, interval, p, doubts)


def _within(rows: Tensor, labels: Tensor, discrete: Discrete, given: Options) -> Value:
    """Return the mean of the estimates within the classes of the condition."""
    small = torch.bincount(labels)[labels] <= NEIGHBORS
    if float(small.double().mean()) > MOST_LEFT_OUT:
        reason = f"{int(small.sum())} rows share the condition with fewer than {NEIGHBORS} others"
        return Value(len(rows), math.nan, doubts=(("too few", ""),), reason=reason)
    pairs = rows[:, :2].flip(1) if discrete[0] else rows[:, :2]
    options: dict[str, Any] = {
        "discrete_y": discrete[0] or discrete[1],
        "standardize": given.standardize,
    }

    def estimate(some: Tensor, classes: Tensor) -> float:
        total = used = 0.0
        for each in torch.unique(classes):
            members = some[classes == each]
            if len(members) > NEIGHBORS:
                value = float(
                    rows_mutual_information(members, 1, NEIGHBORS, algorithm="ksg1", **options)
                )
                if not math.isnan(value):
                    total += len(members) * value
                    used += len(members)
        return total / used if used else math.nan

    mi = estimate(pairs, labels)
    doubts: dict[Any, str] = {}
    if math.isnan(mi):
        return Value(len(rows), mi, doubts=(("too few", ""),))
    for each in torch.unique(labels):
        members = pairs[labels == each]
        if len(members) > NEIGHBORS:
            value = rows_mutual_information(members, 1, NEIGHBORS, algorithm="ksg1", **options)
            doubts |= rows_doubts(members, 1, NEIGHBORS, value, **options)
    if not given.permutations:
        return Value(len(rows), mi, doubts=tuple(doubts.items()))
    some, classes = pairs[:ROWS_TESTED], labels[:ROWS_TESTED]
    observed, generator = estimate(some, classes), torch.Generator().manual_seed(0)
    reached = 0
    by_class = torch.argsort(classes, stable=True)
    for _ in range(given.permutations):
        mixed = torch.randperm(len(some), generator=generator)
        # Rows in an order of chance, put together by class: a permutation within each.
        mixed = mixed[torch.argsort(classes[mixed], stable=True)]
        permuted = some.clone()
        permuted[by_class, 1] = some[mixed, 1]
        reached += estimate(permuted, classes) >= observed
    p = (1 + reached) / (1 + given.permutations)
    least = max(LEAST_IN_A_PART, LEAST_IN_A_CLASS * len(torch.unique(labels)))
    scatter = _scatter(rows, lambda part: estimate(pairs[part], labels[part]), least)
    return _value(rows, mi, scatter, p, doubts)


def _triples(rows: Tensor, discrete: Discrete, given: Options) -> Value:
    """Return the estimate given a continuous condition; categories are apart by as much each."""
    columns = []
    for i in range(3):
        column = rows[:, i : i + 1]
        if discrete[i]:
            column = (column == torch.unique(rows[:, i])).double()
        columns.append(column)
    dims = (columns[0].shape[1], columns[1].shape[1], columns[2].shape[1])
    samples = torch.cat(columns, 1)
    scaling = given.standardize
    most = int(math.sqrt(MOST_WORK / sum(dims)))
    if sum(dims) > FEW_COORDINATES and len(rows) > most:
        reason = (
            f"so many categories beside a continuous condition take too long with {len(rows)} "
            f"rows: pass --max-samples {most}"
        )
        return Value(len(rows), math.nan, reason=reason)

    def estimate(some: Tensor) -> Tensor:
        return triples_information(some, dims, NEIGHBORS, standardize=scaling)

    value = estimate(samples)
    doubts: dict[Any, str] = dict(
        triples_doubts(samples, dims, NEIGHBORS, value, standardize=scaling)
    )
    mi = float(value)
    if not given.permutations or math.isnan(mi):
        return Value(len(rows), mi, doubts=tuple(doubts.items()))
    p = triples_p_value(
        samples[:ROWS_TESTED],
        dims,
        NEIGHBORS,
        num_permutations=given.permutations,
        standardize=scaling,
    )
    scatter = _scatter(rows, lambda part: float(estimate(samples[part])), LEAST_IN_A_PART)
    return _value(rows, mi, scatter, p, doubts)


def _scatter(
    rows: Tensor, estimate: Callable[[Tensor], float], least: int
) -> tuple[float, float] | None:
    """Return a standard error from the scatter among halves, quarters and eighths of the rows, and
    the quantile that makes an interval of it.

    Parts scatter less than their number says, as in
    :func:`mi_metrics.functional.reliability.rows_reliability`, and those of few rows still less:
    halves may be divided into parts of ``least`` rows.
    """
    if len(rows) < LEAST_DIVIDED:
        return None
    squares, freedom, parts = 0.0, 0, 2
    while parts <= PARTS and (parts == 2 or len(rows) >= parts * least):
        places = torch.arange(len(rows)).tensor_split(parts)
        found = torch.tensor([estimate(part) for part in places], dtype=torch.float64)
        squares += (parts - 1) * float(found.var()) / parts
        freedom += parts - 1
        parts *= 2
    error = UNDERSTATED * math.sqrt(squares / freedom)
    # The scatter of few parts is itself uncertain.
    return None if math.isnan(error) else (error, float(stdtrit(freedom, (1 + LEVEL) / 2)))


def _value(
    rows: Tensor, mi: float, scatter: tuple[float, float] | None, p: float, doubts: dict[Any, str]
) -> Value:
    error = ends = None
    if scatter is not None:
        error, quantile = scatter
        ends = (mi - quantile * error, mi + quantile * error)
    return Value(len(rows), mi, error, ends, p, tuple(doubts.items()))
