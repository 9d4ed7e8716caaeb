r"""The confidence interval of the information of a table, by inversion between independence and the
table itself.

A table is given by strata, ``(K, R, C)``: K = 1 for :math:`I(X; Y)`, the table of each class for
:math:`I(X; Y | Z) = \sum_k p_k I_k`. With :math:`\hat p_{kab}` its shares, the tables on the way
are

.. math:: p_{kab}(\lambda) = (1 - \lambda) \, \hat p_{ka} \hat p_{kb} / \hat p_k
          + \lambda \, \hat p_{kab}, \qquad 0 \le \lambda \le 1,

and the plug-in value of N draws from p(λ) has an expectation f(λ), known exactly, and quantiles
q(λ) around it, which are drawn. Both ends are where the observed value is a quantile:
:math:`f(\lambda) + q(\lambda) = I`. Quantiles are drawn at a few λ and taken to be linear between
them, which holds where many cells add up; tables of few cells have :mod:`.tails`.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.special import xlogy
from scipy.stats import binom

from mi_metrics.functional.tables.way import Array, Way

# Below this mean, E[n log n] is summed; above, its expansion is right to 1e-6.
SUMMED = 400.0
LEAST_MEAN = 1e-4
STEPS = 30


class Inversion(Way):
    """The interval of tables ``(K, R, C)``: no stratum is empty, and one of them has at least two
    occupied rows and columns.
    """

    def __init__(self, tables: Array, level: float, num_resamples: int, seed: int) -> None:
        super().__init__(tables)
        self.expected = _expected_n_log_n(self.number)
        # A single stratum holds all samples, whatever is drawn.
        whole = float(xlogy(self.number, self.number))
        n_log_n = whole if len(tables) == 1 else float(self.expected(self.strata).sum())
        self.constant = sum(float(self.expected(m).sum()) for m in self.margins) - n_log_n
        self.tails = (1 - level) / 2, (1 + level) / 2
        self.num_resamples, self.rng = num_resamples, np.random.default_rng(seed)

    def interval(self) -> tuple[float, float]:
        """Return both ends in nats."""
        observed = self.observed
        # The table on the way whose samples have the observed value on average.
        matched = _root(self.mean, observed, 0.0, 1.0)
        value = self.information(matched) if matched > 0 else observed - self.mean(0.0)
        at_zero = self.spread(0.0)
        here = self.spread(matched) if matched > 0 else at_zero
        lower = self._lower(observed, value, matched, at_zero[1], here[1])
        if self.perfect() and self.mean(1.0) <= observed:
            lower = min(lower, self.least_without_misses(self.tails[0]))
        # The scatter of a handful of samples is so skewed that the ends could change places.
        upper = max(lower, self._upper(observed, value, matched, here[0]))
        return min(lower, self.most), min(upper, self.most)

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

    def mean(self, share: float) -> float:
        """Return f(λ), the expectation of the plug-in value of N draws from p(λ)."""
        return float(self.expected(self.mixture(share)).sum() - self.constant) / self.number

    def spread(self, share: float) -> tuple[float, float]:
        """Return the two quantiles of the plug-in value of draws from p(λ), less its mean."""
        values = self.drawn(self.mixture(share), self.num_resamples, self.rng)
        low, high = np.quantile(values, self.tails) - self.mean(share)
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
