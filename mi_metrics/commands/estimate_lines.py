"""A line of what `mi-metrics estimate` finds, and the order of lines."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """A line of the result; MI, its standard error and its interval are in the unit that was asked
    for, NaN without a value.
    """

    x: str
    y: str
    estimator: str
    n: int
    ignored: int
    mi: float
    standard_error: float | None = None
    lower: float | None = None
    upper: float | None = None
    p_value: float | None = None
    cautions: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()  # each with the column or the pair that it is about


def by_value(found: Sequence[Estimate], top: int | None = None) -> list[Estimate]:
    """Return the lines pair by pair, the largest first by its first estimator that has a value.

    Args:
        found: The lines.
        top: How many pairs are kept; by default all.
    """
    pairs: dict[tuple[str, str], list[Estimate]] = {}
    for e in found:
        pairs.setdefault((e.x, e.y), []).append(e)

    def size(lines: list[Estimate]) -> float:
        return next((-e.mi for e in lines if not math.isnan(e.mi)), math.inf)

    ordered = sorted(pairs.values(), key=size)
    return [e for lines in ordered[:top] for e in lines]
