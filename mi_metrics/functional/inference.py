"""What a table of counts says about its mutual information: is it 0, and within what does it lie?

Three questions, answered from the table alone, which is what a metric of bins holds:

- :func:`independence_p_value`: could independent variables have given such a table?
- :func:`confidence_interval`: between what values does the information of the *binned* variables
  lie? Sampling is covered; what bins hide, and samples that depend on each other, are not.
- :func:`pointwise_mutual_information`: which cells carry it?

References:
    R. A. Fisher, "The Design of Experiments" (1935); J. H. Halton, "A rigorous derivation of the
    exact contingency formula" (1969), doi:10.1017/S0305004100045163 (tables of given margins).
    P. Hall, "The Bootstrap and Edgeworth Expansion" (1992), doi:10.1007/978-1-4612-4384-7.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import binom, random_table
from torch import Tensor

from mi_metrics.functional.information import (
    _check_counts,
    _check_whole,
    _float64,
    _log,
    _probabilities,
    information,
)
from mi_metrics.functional.options import (
    P_VALUE_METHODS,
    UNITS,
    PValueMethod,
    Unit,
    check_choice,
    check_number,
    check_repetitions,
    check_seed,
    from_nats,
    hints_keywords,
)

# SciPy's sampler of tables does not come back from some larger ones.
MOST_SAMPLES = 2**31
# Cells of random tables that are held at a time: 128 MiB.
CHUNK = 2**24
# Sums of n log n of one table in two orders differ by less than this share.
SAME = 1e-14
# Below this mean, E[n log n] is summed; above, its expansion is right to 1e-6.
SUMMED = 400.0
LEAST_MEAN = 1e-4
STEPS = 30

Array = NDArray[np.float64]


@hints_keywords
def independence_p_value(
    counts: Tensor, *, method: PValueMethod = "g", num_permutations: int = 999, seed: int = 0
) -> Tensor:
    r"""Compute the p-value of a test of independence from a table of counts (dimensionless).

    ``"permutation"`` compares the plug-in information I of the table with those of P random tables
    of the same margins, as permuting the samples of y gives them:

    .. math:: p = \frac{1 + \#\{I_{null} \ge I\}}{1 + P}

    ``"g"`` is the G-test: under independence :math:`G = 2 N I` (I in nats) follows for large N a
    χ² law with :math:`(K_x - 1)(K_y - 1)` degrees of freedom, K the occupied rows and columns; p is
    its upper tail at G.

    Conventions:
        Range: 0 … 1, at least 1 / (P + 1) for permutations; 1 when a single row or column is
        occupied. NaN without samples.
        Which one: permutations are exact for every table whose bins were chosen from each variable
        alone, however few its samples; of discrete data with few possible tables, fewer than 5 %
        of the p-values of independent samples are below 0.05. The χ² law needs expected counts of
        about 5 or more in every cell: for 16 quantile bins and 250 independent samples two thirds
        of its p-values are below 0.05. It takes no time, and holds for any number of samples.
        Bins that were chosen after a look at the dependence, as ``num_bins="auto"`` does, make
        either wrong: test a table with a number of bins of its own, such as that of
        ``BinnedMutualInformation(8, binning="quantile")``.
        Power: fewer bins see a smooth dependence better, more bins a wiggly one: for a correlation
        of 0.2 and 300 samples, 52 % of tests on 4 x 4 bins reject and 22 % on 8 x 8.
        Samples that depend on each other (pixels, time series) make p too small.
        Symmetric: relabelled and transposed tables have the same p-value, to the bit.
        Gradient: none. Memory: at most 128 MiB of random tables at a time.
        Exact under splits and ranks: add the tables first; a table's value depends on the table and
        the seed alone, on every device and in every batch.

    Args:
        counts: Whole counts ≥ 0, shape ``(..., B_x, B_y)``.
        method: ``"g"`` or ``"permutation"``.
        num_permutations: P, from 1 to 10**8; of no effect on ``"g"``.
        seed: Seed of the random tables, at least 0; of no effect on ``"g"``.

    Returns:
        float64 of shape ``(...)``.

    Raises:
        TypeError: If ``counts`` is not a real tensor, or a number is not whole.
        ValueError: If it has fewer than two dimensions, or negative, non-finite or fractional
            entries, or more than 2**31 samples for permutations; if an option is unknown or out of
            its range.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import independence_p_value
        >>> counts = torch.tensor([[12, 8], [7, 13]])
        >>> print(f"{independence_p_value(counts):.3f}")
        0.111
        >>> print(f"{independence_p_value(counts, method='permutation'):.3f}")
        0.198

    References:
        R. R. Sokal, F. J. Rohlf, "Biometry" (1981), chapter 17.
        W. M. Patefield, "An efficient method of generating random R x C tables with given row and
        column totals" (1981), doi:10.2307/2346669.
        B. Phipson, G. K. Smyth, "Permutation p-values should never be zero" (2010),
        doi:10.2202/1544-6115.1585.
    """
    check_choice("method", method, P_VALUE_METHODS)
    num_permutations = check_repetitions("num_permutations", num_permutations)
    seed = check_seed(seed)
    if method == "g":
        return _g_test(counts)

    def test(table: Array) -> list[float]:
        return [_permutation_test(table, num_permutations, seed)]

    _check_size(counts, 'use method="g", which holds for so many')
    return _of_each(counts, "The permutation test", test, 1).squeeze(-1)


@hints_keywords
def confidence_interval(
    counts: Tensor,
    level: float = 0.95,
    *,
    num_resamples: int = 999,
    seed: int = 0,
    unit: Unit = "nats",
) -> Tensor:
    r"""Compute a confidence interval of the mutual information of two binned variables, from a
    table of counts, in nats or bits.

    The interval holds the information of those tables between independence and the observed one
    whose samples could well have given the observed plug-in value. With :math:`\hat p_{ab}` the
    table's shares, :math:`\hat p_a, \hat p_b` its margins', and

    .. math:: p(\lambda) = (1 - \lambda) \, \hat p_a \hat p_b + \lambda \, \hat p_{ab}, \qquad
              0 \le \lambda \le 1,

    the plug-in value of N draws from p(λ) has an expectation f(λ), known exactly, and quantiles
    q(λ) around it, which are drawn. Both ends are where the observed value is a quantile:
    :math:`f(\lambda) + q(\lambda) = I`.

    Conventions:
        What is covered: the sampling error of the *binned* variables' information. Not what bins
        hide of continuous variables, nor that neighbouring pixels or times repeat each other
        (divide N by their number first).
        Coverage: intervals of 95 % hold the true value in 95 % of repetitions (92 to 98 % of single
        kinds of data) from two samples per cell, N ≥ 2 B_x B_y, on. At independence the lower end
        is 0 and errors lie on one side, 97.5 %. Below two samples per cell: no promise.
        Range: the lower end is 0 or less where a one-sided test of independence at (1 - level) / 2
        does not reject; the upper end is ≥ 0. One occupied row or column: 0, 0. No samples: NaN.
        A bootstrap of the samples is no substitute: a resampled table has the plug-in value's bias
        twice, and its percentiles hold the truth in 0 to 90 % of repetitions.
        The value beside it: a plug-in value, or one of Miller and Madow on few samples, can lie
        above the interval. That is its bias.
        Gradient: none. Memory: at most 128 MiB of resampled tables at a time. Time: in proportion
        to the cells and resamples; 0.1 s for 16 x 16 cells, seconds for 64 x 64.
        Exact under splits and ranks: add the tables first; a table's interval depends on the table,
        the options and the seed alone, on every device and in every batch.

    Args:
        counts: Whole counts ≥ 0, shape ``(..., B_x, B_y)``.
        level: The share of intervals that hold the truth, in (0, 1).
        num_resamples: Draws per quantile, from 2 / (1 - level) to 10**8.
        seed: Seed of the draws, at least 0.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 of shape ``(..., 2)``: the lower and the upper end.

    Raises:
        TypeError: If ``counts`` is not a real tensor, or an option has the wrong type.
        ValueError: If it has fewer than two dimensions, or negative, non-finite or fractional
            entries, or more than 2**31 samples; if an option is unknown or out of its range.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import confidence_interval
        >>> low, high = confidence_interval(torch.tensor([[40, 10], [10, 40]]))  # I = 0.1927
        >>> print(f"{low:.2f} to {high:.2f}")
        0.10 to 0.29

    References:
        J. Neyman, "Outline of a theory of statistical estimation based on the classical theory of
        probability" (1937), doi:10.1098/rsta.1937.0005 (inversion of tests).
        L. Paninski, "Estimation of entropy and mutual information" (2003),
        doi:10.1162/089976603321780272 (the bias of plug-in values).
    """
    level = check_number("level", level)
    if not 0 < level < 1:
        raise ValueError(
            f"Expected `level` in (0, 1), but got {level}. For an interval of 95 % pass 0.95."
        )
    num_resamples = check_repetitions("num_resamples", num_resamples, math.ceil(2 / (1 - level)))
    seed = check_seed(seed)
    check_choice("unit", unit, UNITS)

    def interval(table: Array) -> tuple[float, float]:
        return _Inversion(table, level, num_resamples, seed).interval()

    _check_size(counts, "use standard_error, which holds for so many")
    return from_nats(_of_each(counts, "A confidence interval", interval, 2), unit)


@hints_keywords
def pointwise_mutual_information(counts: Tensor, *, unit: Unit = "nats") -> Tensor:
    r"""Compute the pointwise mutual information of each cell of a table of counts, in nats or bits.

    .. math:: i_{ab} = \log \frac{p_{ab}}{p_a \, p_b}

    Positive where a and b occur together more often than independent variables would make them,
    negative where less. Its mean over the samples is the plug-in mutual information.

    Conventions:
        Range: any finite number; 0 in cells without samples, whose value would be -∞.
        Bias: large for rare cells: a cell of one sample is log N + ... by chance. No correction.
        Constant input: 0 everywhere. No samples: NaN.
        Ties, gradient: those of the counts; differentiable where they are positive.
        Exact under splits and ranks: add the tables first.

    Args:
        counts: Counts, weights or probabilities ≥ 0, shape ``(..., B_x, B_y)``.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 of shape ``(..., B_x, B_y)``.

    Raises:
        TypeError: If ``counts`` is not a real tensor.
        ValueError: If it has fewer than two dimensions, or negative or non-finite entries.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import pointwise_mutual_information
        >>> cells = pointwise_mutual_information(torch.tensor([[3, 1], [0, 4]]), unit="bits")
        >>> [[round(v, 3) for v in row] for row in cells.tolist()]
        [[1.0, -1.322], [0.0, 0.678]]

    References:
        K. W. Church, P. Hanks, "Word association norms, mutual information, and lexicography"
        (1990), https://aclanthology.org/J90-1003.
    """
    p = _probabilities(_check_counts(counts))
    ratio = _log(p) - _log(p.sum(-1, keepdim=True)) - _log(p.sum(-2, keepdim=True))
    # NaN without samples, though the logarithm of NaN is taken to be 0.
    return from_nats(torch.where(p == 0, 0, ratio + 0 * p), unit)


def _g_test(counts: Tensor) -> Tensor:
    _check_whole(_check_counts(counts), "The G-test")
    counts = _float64(counts).detach()
    total = counts.sum((-2, -1))
    rows, columns = ((counts.sum(axis) > 0).sum(-1, dtype=torch.float64) for axis in (-1, -2))
    freedom = (rows - 1) * (columns - 1)
    # Plug-in values of (nearly) independent tables can be -1e-17; the law starts at 0.
    statistic = (2 * total * information(counts)).clamp_min(0)
    tail = torch.special.gammaincc(freedom.clamp_min(1) / 2, statistic / 2)
    return torch.where(total > 0, torch.where(freedom > 0, tail, 1), torch.nan)


def _check_size(counts: Any, remedy: str) -> None:
    """Refuse tables of more samples than can be drawn again."""
    totals = _float64(_check_counts(counts)).detach().sum((-2, -1))
    largest = float(totals.max()) if totals.numel() else 0.0
    if largest > MOST_SAMPLES:
        raise ValueError(
            f"Expected `counts` of at most 2**31 samples, but got {largest:g}. Random tables of so "
            f"many can't be drawn in bounded time: {remedy}."
        )


def _of_each(counts: Tensor, what: str, answer: Callable[[Array], Any], numbers: int) -> Tensor:
    """Return what ``answer`` says of each table, float64 ``(..., numbers)``; NaN without samples.

    It is given tables without empty rows and columns, of at least two of each; a constant variable
    is answered here: 0 for ends of intervals, 1 for a p-value.
    """
    _check_whole(counts, what)
    tables = _float64(counts).detach().cpu().resolve_neg()
    found = []
    for table in tables.reshape(-1, *tables.shape[-2:]).numpy():
        kept = table[table.sum(1) > 0][:, table.sum(0) > 0]
        if kept.size == 0:
            found.append([math.nan] * numbers)
        elif min(kept.shape) == 1:
            found.append([1.0] if numbers == 1 else [0.0] * numbers)
        else:
            found.append(list(answer(kept)))
    result = torch.tensor(found, dtype=torch.float64, device=counts.device)
    return result.reshape(*counts.shape[:-2], numbers)


def _permutation_test(table: Array, number: int, seed: int) -> float:
    """Return the p-value of a table of at least two rows and columns.

    With margins fixed the information rises with Σ n log n, which knows nothing of labels. Margins
    in an order of their own make the random tables the same for every labelling and its transpose.
    """
    total = int(table.sum())
    margins = sorted(np.sort(table.sum(axis)).astype(np.int64).tolist() for axis in (0, 1))
    n_log_n = _lookup(total)
    observed = n_log_n(np.sort(table, axis=None)).sum()
    bound = observed - SAME * abs(observed)
    law, rng = random_table(*margins), np.random.default_rng(seed)
    reached = 0
    for size in _chunks(number, table.size):
        draws = law.rvs(size, random_state=rng).reshape(size, -1)
        reached += int((n_log_n(draws).sum(1) >= bound).sum())
    return (1 + reached) / (1 + number)


def _lookup(total: int) -> Callable[[NDArray[Any]], Array]:
    """Return n log n for counts up to a total: from a list, where that is short."""
    if total > 2**20:
        return lambda n: xlogy(n, n)
    n = np.arange(total + 1, dtype=np.float64)
    values: Array = xlogy(n, n)
    return lambda n: values[n.astype(np.int64, copy=False)]


def _chunks(number: int, cells: int) -> Iterator[int]:
    most = max(1, CHUNK // cells)
    while number > 0:
        yield min(number, most)
        number -= most


class _Inversion:
    """The interval of one table of at least two rows and columns, by inversion along p(λ)."""

    def __init__(self, table: Array, level: float, num_resamples: int, seed: int) -> None:
        self.number = int(table.sum())
        self.seen = table / self.number
        self.margins = self.seen.sum(1), self.seen.sum(0)
        self.independent = np.outer(*self.margins)
        self.expected = _expected_n_log_n(self.number)
        n_log_n = xlogy(self.number, self.number)
        self.constant = sum(float(self.expected(m).sum()) for m in self.margins) - n_log_n
        self.tails = (1 - level) / 2, (1 + level) / 2
        self.num_resamples, self.rng = num_resamples, np.random.default_rng(seed)

    def interval(self) -> tuple[float, float]:
        """Return both ends in nats."""
        observed = float(_plug_in_values(self.seen[None] * self.number)[0])
        # The table on the way whose samples have the observed value on average.
        matched = _root(self.mean, observed, 0.0, 1.0)
        value = self.information(matched) if matched > 0 else observed - self.mean(0.0)
        at_zero = self.spread(0.0)
        here = self.spread(matched) if matched > 0 else at_zero
        lower = self._lower(observed, value, matched, at_zero[1], here[1])
        # The scatter of a handful of samples is so skewed that the ends could change places.
        return lower, max(lower, self._upper(observed, value, matched, here[0]))

    def _lower(
        self, observed: float, value: float, matched: float, at_zero: float, here: float
    ) -> float:
        """Return where the observed value is an upper quantile, linear between 0 and the match."""
        if self.mean(0.0) + at_zero >= observed:
            return min(value - here, 0.0)
        slope = (here - at_zero) / matched
        return self.information(
            _root(lambda s: self.mean(s) + at_zero + slope * s, observed, 0.0, matched)
        )

    def _upper(self, observed: float, value: float, matched: float, here: float) -> float:
        """Return where the observed value is a lower quantile; scatter grows with λ, so a further
        batch is drawn above the match.
        """
        above = _root(self.mean, observed - here, matched, 1.0)
        there = self.spread(above)[0] if above > matched else here
        if self.mean(1.0) + there < observed:
            return max(value - min(there, here), 0.0)
        slope = (there - here) / (above - matched) if above > matched else 0.0
        end = _root(lambda s: self.mean(s) + here + slope * (s - matched), observed, matched, 1.0)
        return max(self.information(end), 0.0)

    def mixture(self, share: float) -> Array:
        """Return p(λ): whatever λ, the margins are those of the table."""
        mixture: Array = (1 - share) * self.independent + share * self.seen
        return mixture

    def mean(self, share: float) -> float:
        """Return f(λ), the expectation of the plug-in value of N draws from p(λ)."""
        return float(self.expected(self.mixture(share)).sum() - self.constant) / self.number

    def information(self, share: float) -> float:
        """Return the information of p(λ) itself."""
        p = self.mixture(share)
        return float(xlogy(p, p).sum() - sum(xlogy(m, m).sum() for m in self.margins))

    def spread(self, share: float) -> tuple[float, float]:
        """Return the two quantiles of the plug-in value of draws from p(λ), less its mean."""
        p = self.mixture(share).ravel()
        p /= p.sum()
        values = [
            _plug_in_values(
                self.rng.multinomial(self.number, p, size=size).reshape(size, *self.seen.shape)
            )
            for size in _chunks(self.num_resamples, p.size)
        ]
        low, high = np.quantile(np.concatenate(values), self.tails) - self.mean(share)
        return float(low), float(high)


def _root(function: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Return where a rising function reaches the target, or the end that is nearer to it."""
    if function(low) >= target:
        return low
    if function(high) <= target:
        return high
    for _ in range(STEPS):
        middle = (low + high) / 2
        if function(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _plug_in_values(tables: NDArray[Any]) -> Array:
    """Return the plug-in information of tables ``(R, K_x, K_y)`` of one total, in nats."""
    total = float(tables[0].sum())
    parts = xlogy(tables, tables).sum((1, 2))
    for axis in (1, 2):
        margin = tables.sum(axis)
        parts -= xlogy(margin, margin).sum(1)
    values: Array = (parts + xlogy(total, total)) / total
    return values


@lru_cache(maxsize=16)
def _expected_n_log_n(size: int) -> Callable[[Array], Array]:
    """Return p → E[n log n] for n binomial of ``size`` and p, from a spline in log(p size).

    What is interpolated, E[n log n] / μ - log(1 + μ), hardly changes with the mean μ.
    """
    # This takes as long to import as everything else here.
    from scipy.interpolate import CubicSpline

    mean = np.geomspace(LEAST_MEAN, size, 240)
    few = mean < SUMMED
    value = np.empty_like(mean)
    n = np.arange(min(size, int(SUMMED + 12 * math.sqrt(SUMMED) + 40)) + 1)
    p = np.minimum(mean / size, 1)
    value[few] = (binom.pmf(n, size, p[few, None]) * xlogy(n, n)).sum(1)
    # Moments of n about its mean, up to the order 1 / μ.
    q, m = 1 - p[~few], mean[~few]
    value[~few] = xlogy(m, m) + q / 2 + (3 * q**2 - 2 * q * (2 * q - 1)) / (12 * m)
    spline = CubicSpline(np.log(mean), value / mean - np.log1p(mean))

    def evaluate(share: Array) -> Array:
        m = share * size
        seen = m >= LEAST_MEAN
        return np.where(seen, m * (spline(np.log(np.where(seen, m, 1.0))) + np.log1p(m)), 0.0)

    return evaluate
