"""Coordinates in units that the max norm can compare, with bits that depend on the values alone.

Means and deviations are summed over sorted values in pairs, pairs of pairs and so on: the same bits
in any order of the samples, with any number of threads and on any device.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.neighbors.order import run_lengths, run_starts
from mi_metrics.functional.neighbors.steps import argsort, sort, take
from mi_metrics.functional.options import Standardize
from mi_metrics.functional.tensors import on_cpu


class Coordinate(NamedTuple):
    """One coordinate of all samples in the units of the search.

    Attributes:
        values: Scaled values, float64 ``(N,)``, in the order of the samples.
        spread: The interquartile range of their distinct values; 0 for a constant.
    """

    values: Tensor
    spread: float


def scaled(variables: Sequence[Tensor], standardize: Standardize) -> list[list[Coordinate]]:
    """Scale the coordinates of variables, and take the middle distinct value from each.

    Args:
        variables: Finite float64 coordinates ``(d, N)`` of each variable.
        standardize: True: each coordinate divided by its deviation. ``"joint"``: each variable by
            the root of the mean variance of its coordinates. ``"rank"``: normal scores of the
            ranks. False: as they are.

    Returns:
        The coordinates of each variable.
    """
    if standardize == "rank":
        return [
            [_Column(normal_scores(column)).coordinate() for column in variable]
            for variable in variables
        ]
    parts = [[_Column(column) for column in variable] for variable in variables]
    columns = [column for part in parts for column in part]
    # Powers of two change no digit: neither overflow nor underflow depends on the user's unit.
    if standardize is True:
        for column in columns:
            column.divide_by_power(column.most())
    for group in {"joint": parts, False: [columns]}.get(standardize, []):
        most = max(column.most() for column in group)
        for column in group:
            column.divide_by_power(most)
    for column in columns:
        column.centre()
    if standardize is True:
        for column in columns:
            column.divide_by(math.sqrt(column.variance()))
    if standardize == "joint":
        for part in parts:
            variances = sorted(column.variance() for column in part)
            for column in part:
                column.divide_by(math.sqrt(sum(variances) / len(variances)))
    return [[column.coordinate() for column in part] for part in parts]


class _Column:
    """Values in the order of the samples, and once more sorted."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.contiguous()
        self.ordered = sort(self.values)
        first = torch.ones_like(self.ordered, dtype=torch.bool)
        first[1:] = self.ordered[1:] != self.ordered[:-1]
        # Where each distinct value comes first; None where no value repeats.
        self.distinct = None if bool(first.all()) else first.nonzero().squeeze(1)

    def most(self) -> float:
        return max(-self.ordered[0].item(), self.ordered[-1].item(), 0.0)

    def at_distinct(self, numerator: int, denominator: int, *, up: bool = False) -> float:
        """Return the distinct value at a fraction of their number, rounded down or up."""
        number = len(self.ordered) if self.distinct is None else len(self.distinct)
        place = numerator * (number if denominator == 2 else number - 1)
        place = -(-place // denominator) if up else place // denominator
        if self.distinct is not None:
            place = int(self.distinct[place])
        return self.ordered[place].item()

    def divide_by_power(self, most: float) -> None:
        exponent = math.frexp(most)[1]
        # In two steps, since the power itself may overflow.
        half = -exponent // 2
        for power in (2.0**half, 2.0 ** (-exponent - half)):
            if power != 1:
                self.values, self.ordered = self.values * power, self.ordered * power

    def centre(self) -> None:
        """Subtract the middle distinct value, so that an offset does not eat digits later."""
        middle = self.at_distinct(1, 2)
        self.values, self.ordered = self.values - middle, self.ordered - middle

    def variance(self) -> float:
        n = len(self.ordered)
        return _sum((self.ordered - _sum(self.ordered) / n).square_()) / n

    def divide_by(self, factor: float) -> None:
        if factor > 0:
            self.values, self.ordered = self.values / factor, self.ordered / factor

    def coordinate(self) -> Coordinate:
        return Coordinate(self.values, self.at_distinct(3, 4, up=True) - self.at_distinct(1, 4))


def _sum(values: Tensor) -> float:
    """Return a sum whose order of additions depends on the number of values only."""
    # NumPy adds a few numbers in a fifth of the time that torch takes to begin.
    terms: Any = values.numpy() if on_cpu(values) else values
    while len(terms) > 1:
        half = len(terms) // 2
        pairs = terms[:half] + terms[half : 2 * half]
        if len(terms) % 2:
            pairs[0] += terms[-1]
        terms = pairs
    return float(terms[0])


def normal_scores(values: Tensor) -> Tensor:
    """Return the normal quantiles at the middle ranks, the same for equal values."""
    order = argsort(values)
    starts = run_starts([take(values, order)])
    # The mean of the ranks 1 … N of a run, less one half, is its middle.
    middles = starts.double() + 0.5 * run_lengths(starts).double()
    scores = torch.empty_like(middles)
    scores[order] = torch.special.ndtri(middles / len(values))
    return scores
