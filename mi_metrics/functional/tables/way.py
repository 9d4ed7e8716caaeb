r"""The tables on the way from independence through the observed one, and draws from them: what an
interval is sought among.

Tables are given by strata, ``(K, R, C)``, as in :mod:`mi_metrics.functional.tables.inversion`.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

# Cells of random tables that are held at a time: 128 MiB.
CHUNK = 2**24

Array = NDArray[np.float64]


class Way:
    """The way of tables ``(K, R, C)`` of which no stratum is empty."""

    def __init__(self, tables: Array) -> None:
        self.number = int(tables.sum())
        self.seen = tables / self.number
        self.strata = tables.sum((1, 2)) / self.number
        self.margins = self.seen.sum(2), self.seen.sum(1)
        rows, columns = self.margins
        self.independent = rows[:, :, None] * columns[:, None, :] / self.strata[:, None, None]
        self.observed = float(_plug_in_values(self.seen[None] * self.number)[0])
        # No more than the entropy of the variable of fewer values, were these equally frequent.
        fewer = np.minimum(*((margin > 0).sum(1) for margin in self.margins))
        self.most = float((self.strata * np.log(fewer)).sum())

    def mixture(self, share: float) -> Array:
        """Return p(λ): whatever λ, the margins are those of the tables."""
        mixture: Array = (1 - share) * self.independent + share * self.seen
        return mixture

    def information(self, share: float) -> float:
        """Return the information of p(λ) itself."""
        return _information(self.mixture(share))

    def perfect(self) -> bool:
        """Say whether one of the variables tells the other in each stratum."""
        occupied = self.seen > 0
        return bool((occupied.sum(2) <= 1).all() or (occupied.sum(1) <= 1).all())

    def least_without_misses(self, tail: float) -> float:
        """Return the information of the place on the way whose samples leave the empty cells empty
        with a chance of ``tail``.

        Where classes were made equally frequent, hardly any draw is as balanced, and so has a value
        as large; what one variable tells of the other is not known any better for that.
        """
        empty = float(self.independent[self.seen == 0].sum())
        missed = -math.expm1(math.log(tail) / self.number)
        return self.information(max(1 - missed / empty, 0.0))

    def drawn(self, p: Array, number: int, rng: np.random.Generator) -> Array:
        """Return the plug-in values of random tables of as many samples as were observed."""
        shares = p.ravel() / p.sum()
        values = [
            _plug_in_values(
                rng.multinomial(self.number, shares, size=size).reshape(size, *self.seen.shape)
            )
            for size in chunks(number, shares.size)
        ]
        return np.concatenate(values)


def chunks(number: int, cells: int) -> Iterator[int]:
    """Yield how many tables of so many cells to draw at a time, until there are enough."""
    most = max(1, CHUNK // cells)
    while number > 0:
        yield min(number, most)
        number -= most


def _information(p: Array) -> float:
    """Return the information within strata of shares ``(K, R, C)``, in nats."""
    margins = sum(float(xlogy(m, m).sum()) for m in (p.sum(2), p.sum(1)))
    strata = p.sum((1, 2))
    return float(xlogy(p, p).sum() - margins + xlogy(strata, strata).sum())


def _plug_in_values(tables: NDArray[Any]) -> Array:
    """Return the plug-in information of tables ``(S, K, R, C)`` of one total, in nats."""
    parts = xlogy(tables, tables).sum((1, 2, 3))
    for axis in (2, 3):
        margin = tables.sum(axis)
        parts -= xlogy(margin, margin).sum((1, 2))
    strata = tables.sum((2, 3))
    values: Array = (parts + xlogy(strata, strata).sum(1)) / float(tables[0].sum())
    return values
