r"""The confidence interval of the information of a table of few cells.

The ends are those tables on the way p(λ) of :mod:`mi_metrics.functional.tables.inversion` under
which the observed value I is just not too large, :math:`P(V \ge I) > \alpha`, or too small,
:math:`P(V \le I) > \alpha`, V the plug-in value of N draws: both tails are drawn anew at each step
of the search. Values of few cells scatter so skewly, and with so many ties, that quantiles from a
few places on the way do not tell those between them.

By chance the observed table may show less information than there is, so the way goes on beyond it,
:math:`\lambda = 1 + s`, along the odds ratios that it shows and with its margins:
:math:`p_{kab} \propto u_{ka} v_{kb} \, \hat p_{kab} e^{s t_{kab}}` with t the logarithm of
:math:`\hat p_{kab} \hat p_k / \hat p_{ka} \hat p_{kb}`, its largest scaled to 1.
"""

import numpy as np
from scipy.special import ndtri

from mi_metrics.functional.tables.way import Array, Way, _information

# How far beyond the observed table the way goes, step by step: odds are multiplied by up to e^64.
BEYOND = (1.0, 4.0, 16.0, 64.0)
# Fitting of the margins, and steps of the search, at most.
FITS, STEPS = 30, 14
# An end is found to this share of its distance from the observed value, which draws don't reach.
CLOSE = 0.02
# Logarithms of odds ratios that rounding leaves of independence.
ROUNDING = 1e-6

# A place on the way, λ, and a tail there.
Place = tuple[float, float]


class Tails(Way):
    """The interval of tables ``(K, R, C)``: no stratum is empty, and one of them has at least two
    occupied rows and columns.
    """

    def __init__(self, tables: Array, level: float, num_resamples: int, seed: int) -> None:
        super().__init__(tables)
        self.tail = (1 - level) / 2
        self.num_resamples, self.seed = num_resamples, seed
        seen = self.seen > 0
        tilt = np.zeros_like(self.seen)
        tilt[seen] = np.log(self.seen[seen] / self.independent[seen])
        if np.abs(tilt).max() < ROUNDING:
            # Independence shows no way to go, and the most frequent values stand for any.
            row, column = (margin.sum(0).argmax() for margin in self.margins)
            tilt[:, row, column] = 1
        self.tilt = tilt / np.abs(tilt).max()

    def interval(self) -> tuple[float, float]:
        """Return both ends in nats."""
        independent, here = self._chances(0.0), self._chances(1.0)
        low = high = 0.0
        if independent[0] <= self.tail:
            inside = (1.0, here[0]) if here[0] > self.tail else self._beyond(0)[1]
            low = self._end(0, (0.0, independent[0]), inside)
        if here[1] > self.tail:
            inside, outside = self._beyond(1)
            if outside[1] > self.tail:
                high = self._last(outside[0])
            else:
                high = self._end(1, outside, inside)
        elif independent[1] > self.tail:
            high = self._end(1, (1.0, here[1]), (0.0, independent[1]))
        if here[0] <= 0.5 and self.perfect():
            low = min(low, self.least_without_misses(self.tail))
        return min(low, self.most), min(max(low, high), self.most)

    def mixture(self, share: float) -> Array:
        """Return p(λ), also beyond λ = 1."""
        if share <= 1:
            return super().mixture(share)
        rows, columns = self.margins
        p: Array = self.seen * np.exp((share - 1) * self.tilt)
        least = np.finfo(np.float64).tiny
        for _ in range(FITS):
            p *= (rows / np.maximum(p.sum(2), least))[:, :, None]
            p *= (columns / np.maximum(p.sum(1), least))[:, None, :]
        return p

    def _values(self, share: float) -> Array:
        # The same chance at every step, so that the tails are smooth along the way.
        rng = np.random.default_rng(self.seed)
        return self.drawn(self.mixture(share), self.num_resamples, rng)

    def _chances(self, share: float) -> tuple[float, float]:
        """Return P(V ≥ I) and P(V ≤ I) under p(λ)."""
        values = self._values(share)
        tie = 1e-12 + 1e-9 * self.observed
        above, below = values >= self.observed - tie, values <= self.observed + tie
        return float(above.mean()), float(below.mean())

    def _beyond(self, side: int) -> tuple[Place, Place]:
        """Return two places beyond the observed table with their tails: the last before this tail
        has become larger (0) or smaller (1) than it may be, and the next; else the last two.
        """
        before = (1.0, self._chances(1.0)[side])
        for step in BEYOND:
            after = (1.0 + step, self._chances(1.0 + step)[side])
            if (after[1] > self.tail) == (side == 0):
                break
            if step < BEYOND[-1]:
                before = after
        return before, after

    def _end(self, side: int, outside: Place, inside: Place) -> float:
        """Return the information where a tail begins to exceed what it may be, between a place
        where it does not and one where it does.
        """
        goal = float(ndtri(self.tail))
        for _ in range(STEPS):
            ends = self.information(outside[0]), self.information(inside[0])
            if abs(ends[0] - ends[1]) <= CLOSE * abs(self.observed - sum(ends) / 2):
                break
            step = 0.5
            if outside[1] > 0 and inside[1] < 1:
                # Tails are about those of a normal law that moves along the way.
                known = [float(ndtri(chance)) for chance in (outside[1], inside[1])]
                step = min(max((goal - known[0]) / max(known[1] - known[0], 1e-9), 0.1), 0.9)
            share = outside[0] + step * (inside[0] - outside[0])
            found = share, self._chances(share)[side]
            if found[1] > self.tail:
                inside = found
            else:
                outside = found
        return (self.information(outside[0]) + self.information(inside[0])) / 2

    def _last(self, end: float) -> float:
        """Return the upper end where even the table at the end of the way has values as small: its
        margins are those of the samples, and may be others.
        """
        values = self._values(end)
        fall = float(np.quantile(values, self.tail) - values.mean())
        return _information(self.mixture(end)) - min(fall, 0.0)
