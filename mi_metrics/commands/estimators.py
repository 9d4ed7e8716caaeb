"""What each estimator says of a pair of columns that were read."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import random_table
from torch import Tensor

from mi_metrics.functional.cautions import Kind
from mi_metrics.functional.densities.counted import kde_from_table
from mi_metrics.functional.inference import confidence_interval
from mi_metrics.functional.information import standard_error
from mi_metrics.functional.knn import rows_doubts, rows_estimate
from mi_metrics.functional.knn_permutations import rows_p_value
from mi_metrics.functional.options import Standardize
from mi_metrics.functional.reliability import rows_reliability
from mi_metrics.functional.stratified import MOST_SAMPLES, stratified_p_value
from mi_metrics.functional.tables import views
from mi_metrics.functional.tables.automatic import Choice
from mi_metrics.functional.tables.independence import follows_law, table_to_test
from mi_metrics.states import grid, reading, shared

LEVEL, QUANTILE = 0.95, 1.959964
NEIGHBORS = 3
# Rows of the neighbours' permutation test: with more it would take minutes.
ROWS_TESTED = 2000
# Cells per axis of the densities' permutation test and of their error bars.
COARSE = 64
# Parts of the rows whose values scatter; the fewest rows that are divided; cells of a table whose
# interval is drawn, beyond which the normal law is right and quick.
PARTS, LEAST_DIVIDED, MOST_DRAWN = 8, 100, 1024
LEAST_RESAMPLES = 199


class Value(NamedTuple):
    """An estimate in nats; NaN without one."""

    n: int
    mi: float
    error: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    doubts: tuple[tuple[Kind, str], ...] = ()
    reason: str | None = None  # why there is no value


class Options(NamedTuple):
    """How it is estimated."""

    permutations: int = 0  # 0: no resampling
    standardize: Standardize = True


def bins(
    state: Tensor, discrete: tuple[bool, bool], wide: tuple[bool, bool], given: Options
) -> Value:
    """Estimate from a table of bins; categories have a bin each."""
    kinds = tuple("values" if labels else "auto" for labels in discrete)
    options = views.parse("auto", None, kinds, 0.0, 0.0, "hard")
    view = reading.read(state, options, wide)
    resolution = view.cells.joint.shape[-1] if view.cells is not None else 0
    doubts: list[tuple[Kind, str]] = []
    if message := reading.coarse_message(view, "bins", resolution):
        doubts.append(("coarse grid", message))
    doubts += view.table.doubts(options, resolution)
    counts = view.counts[0]
    given = _drawn(given, int(counts.sum()))
    mi, error = float(view.table.value(options)), float(standard_error(counts))
    p = p_value(view.table, options.choice(resolution), given.permutations)
    interval = (mi - QUANTILE * error, mi + QUANTILE * error)
    constant = min(int((counts.sum(axis) > 0).sum()) for axis in (0, 1)) == 1
    if constant:
        interval = (0.0, 0.0)
    elif given.permutations and counts.numel() <= MOST_DRAWN:
        resamples = max(given.permutations, LEAST_RESAMPLES)
        low, high = confidence_interval(counts, LEVEL, num_resamples=resamples).tolist()
        interval = (low, high)
    return Value(int(counts.sum()), mi, error, interval, p, tuple(doubts))


def p_value(table: views.Table, choice: Choice, permutations: int) -> float | None:
    """Return the p-value of bins, which have a table of their own for it; None where G does not
    follow its law and there are no permutations.
    """
    tested = table_to_test(table.binned.pairs, choice, law=not permutations).flatten(0, -3)
    return p_value_of(tested, permutations)


def p_value_of(tested: Tensor, permutations: int) -> float | None:
    """Return the p-value of strata ``(K, B_x, B_y)`` as :func:`p_value` does."""
    if permutations:
        options: dict[str, Any] = {"method": "permutation", "num_permutations": permutations}
        return float(stratified_p_value(tested, **options))
    return float(stratified_p_value(tested)) if follows_law(tested) else None


def densities(state: Tensor, given: Options) -> Value:
    """Estimate from kernel densities."""
    view = grid.view(state)
    n = int(view.joint.sum())
    given = _drawn(given, n)
    estimate = kde_from_table(*reading.density_table(view, 0))
    mi = float(estimate.value)
    doubts = tuple(estimate.doubts.messages().items())
    if not given.permutations or math.isnan(mi):
        return Value(n, mi, doubts=doubts)
    if min(int((view.joint[0].sum(axis) > 0).sum()) for axis in (0, 1)) == 1:
        return Value(n, mi, 0.0, (0.0, 0.0), 1.0, doubts)
    counts, x, y = reading.density_table(grid.view(shared.coarser(state, COARSE)), 0)

    def value(table: Any) -> float:
        return float(kde_from_table(torch.as_tensor(table), x, y).value)

    rng = np.random.default_rng(0)
    table = counts.numpy()
    law = random_table(table.sum(1), table.sum(0))
    observed = value(table)
    drawn = (value(law.rvs(random_state=rng)) for _ in range(given.permutations))
    reached = sum(each >= observed for each in drawn)
    p = (1 + reached) / (1 + given.permutations)
    error = _error_of_parts(table, value, rng) if n >= LEAST_DIVIDED else None
    return Value(n, mi, error, _normal(mi, error), p, doubts)


def neighbours(rows: Tensor, discrete: tuple[bool, bool], given: Options) -> Value:
    """Estimate from nearest neighbours; categories beside numbers by Ross's estimator.

    Args:
        rows: Rows ``(n, 2)`` in an order of chance.
        discrete: Whether each column holds categories.
        given: How it is estimated.
    """
    n, labels = len(rows), any(discrete)
    if all(discrete):
        return Value(n, math.nan, reason="both columns hold categories: see bins")
    if n <= NEIGHBORS:
        return Value(n, math.nan, doubts=(("too few", ""),))
    if discrete[0]:
        rows = rows.flip(1)
    options: dict[str, Any] = {"discrete_y": labels, "standardize": given.standardize}
    value, doubtful = rows_estimate(rows, 1, NEIGHBORS, algorithm="ksg1", **options)
    mi = float(value)
    if math.isnan(mi):
        return Value(n, mi, doubts=(("too few", ""),))
    doubts = dict(rows_doubts(rows, 1, NEIGHBORS, value, **options)) if doubtful else {}
    if not given.permutations:
        return Value(n, mi, doubts=tuple(doubts.items()))
    if bool((rows == rows[0]).all(0).any()):
        return Value(n, mi, 0.0, (0.0, 0.0), 1.0, tuple(doubts.items()))
    p = rows_p_value(
        rows[:ROWS_TESTED], 1, NEIGHBORS, num_permutations=given.permutations, **options
    )
    error = None
    if n >= LEAST_DIVIDED:
        found = rows_reliability(rows, 1, NEIGHBORS, parts=PARTS, value=value, **options)
        error = float(found.standard_error)
        error = None if math.isnan(error) else error
        if error is not None and not bool(found.reliable):
            doubts["unreliable"] = ""
    return Value(n, mi, error, _normal(mi, error), p, tuple(doubts.items()))


def _drawn(given: Options, n: int) -> Options:
    """Return the options without resampling where there are more rows than can be drawn again."""
    return given if n <= MOST_SAMPLES else given._replace(permutations=0)


def _error_of_parts(table: Any, value: Callable[[Any], float], rng: Any) -> float:
    """Return a standard error from the scatter among disjoint parts of the rows."""
    left, found = table.astype(np.int64), []
    for remaining in range(PARTS, 0, -1):
        size = int(left.sum()) // remaining
        part = rng.multivariate_hypergeometric(left.ravel(), size, method="marginals")
        part = part.reshape(left.shape)
        left = left - part
        found.append(value(part))
    return float(np.std(found, ddof=1) / math.sqrt(PARTS))


def _normal(mi: float, error: float | None) -> tuple[float, float] | None:
    return None if error is None else (mi - QUANTILE * error, mi + QUANTILE * error)
