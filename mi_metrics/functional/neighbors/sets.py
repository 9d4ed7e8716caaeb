"""Many sets of as many samples each, told apart all at once: for devices on which a step costs the
same for one set and for a hundred.

What :mod:`mi_metrics.functional.neighbors.ties` and :mod:`mi_metrics.functional.neighbors.scaling`
do for one set, with the same bits for each: sets follow each other in one long table, whose first
column is the number of the set.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.neighbors.hashing import centred_uniform, mix, mixed
from mi_metrics.functional.neighbors.order import lexicographic_order, run_lengths, run_starts
from mi_metrics.functional.neighbors.ties import AMPLITUDE, in_order_of_classes
from mi_metrics.functional.options import Standardize


class Sets(NamedTuple):
    """B sets of N samples, each in lexicographic order and told apart.

    Attributes:
        points: Scaled and moved coordinates of each variable, float64 ``(B, N, d)``.
        given: The coordinates of each as they were given, ``(d, B N)``.
        same: How many samples of a set have the row of each, itself included, int64 ``(B, N)``.
        constant: Whether a set has a constant x or y, bool ``(B,)``.
    """

    points: tuple[Tensor, ...]
    given: tuple[Tensor, ...]
    same: Tensor
    constant: Tensor

    @property
    def number(self) -> Tensor:
        """The number of the set of each sample, int64 ``(B N,)``."""
        sets, size = self.same.shape
        return torch.arange(sets, device=self.same.device).repeat_interleave(size)

    def alike(self, *variables: int) -> Tensor:
        """Return how many samples of a set have the same values of variables, int64 ``(B, N)``."""
        table = [self.number, *(column for v in variables for column in self.given[v])]
        order = lexicographic_order(table)
        found = torch.empty_like(order)
        found[order] = run_lengths(run_starts([column[order] for column in table]))
        return found.view(self.same.shape)


def tell_sets_apart(
    rows: Tensor, dims: tuple[int, ...], standardize: Standardize, *, discrete_y: bool = False
) -> Sets:
    """Sort, scale and move samples.

    Args:
        rows: Finite float64 samples ``(B, N, d)``, in any order.
        dims: The coordinates of x and y, or of x, y and z.
        standardize: How coordinates are scaled, see :func:`scaling.scaled`.
        discrete_y: y is a class label, which has no scale and stays where it is.
    """
    sets, size, _ = rows.shape
    number = torch.arange(sets, device=rows.device).repeat_interleave(size)
    # -0.0 and 0 are one value.
    columns = (rows + 0.0).flatten(0, 1).T.contiguous()
    columns = columns[:, lexicographic_order([number, *columns])]
    if discrete_y:
        columns = in_order_of_classes(columns, run_starts([number, *columns[:-1]]), number)
    given = torch.split(columns, list(dims))
    here = torch.arange(len(number), device=rows.device)
    start = run_starts([number, *columns])
    same = run_lengths(start)
    # The place within a row's copies, counted backwards: an order that is its own inverse.
    backwards = 2 * start + same - 1 - here
    x, y, *z = given
    by_y = lexicographic_order(
        [number, *y, *(column for v in ((x, *z) if z else ()) for column in v)], backwards
    )
    places = [here % size, torch.empty_like(here)]
    places[1][by_y] = places[0]
    if z:
        # A sum that wraps around: x and y may trade places.
        places.append(mix(mix(places[0]) + mix(places[1])))
    scaled = 1 if discrete_y else len(dims)
    moved = [
        _moved(*pair)
        for pair in zip(
            _scaled([v.view(-1, sets, size) for v in given[:scaled]], standardize),
            places[:scaled],
            strict=True,
        )
    ]
    constant = torch.zeros(sets, dtype=torch.bool, device=rows.device)
    for v in (x, y):
        v = v.view(-1, sets, size)
        constant |= (v == v[..., :1]).all(2).all(0)
    points = (*moved, *(v.view(-1, sets, size).permute(1, 2, 0) for v in given[scaled:]))
    return Sets(points, given, same.view(sets, size), constant)


def _moved(coordinates: tuple[Tensor, Tensor], place: Tensor) -> Tensor:
    """Return coordinates ``(B, N, d)`` moved by up to half of 1e-10 of their spread, by a hash of
    the place.
    """
    values, spread = coordinates
    shift = torch.stack([centred_uniform(mix(place + mixed(c))) for c in range(len(values))])
    shift = shift.view(values.shape)
    return (values + (AMPLITUDE * spread)[..., None] * shift).permute(1, 2, 0)


def _scaled(variables: list[Tensor], standardize: Standardize) -> list[tuple[Tensor, Tensor]]:
    """Return scaled coordinates ``(d, B, N)`` and their spreads ``(d, B)`` of each variable."""
    if standardize == "rank":
        columns = [_Columns(_normal_scores(v)) for v in variables]
    else:
        columns = [_Columns(v) for v in variables]
        most = [c.most() for c in columns]
        if standardize == "joint":
            most = [m.amax(0, keepdim=True) for m in most]
        elif standardize is False:
            most = [torch.cat(most).amax(0, keepdim=True)] * len(most)
        for c, m in zip(columns, most, strict=True):
            c.divide_by_power(m)
            c.centre()
            if standardize is True:
                c.divide_by(_deviations(c.variance(), len(c.values)))
            elif standardize == "joint":
                c.divide_by(_deviations(c.variance(), 1))
    return [(c.values, c.spread()) for c in columns]


class _Columns:
    """Values ``(d, B, N)`` in the order of the samples, and once more sorted."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.ordered = values.sort(-1).values
        new = torch.ones_like(self.ordered, dtype=torch.bool)
        new[..., 1:] = self.ordered[..., 1:] != self.ordered[..., :-1]
        # How many distinct values there are up to each.
        self.ranks = new.cumsum(-1)

    def most(self) -> Tensor:
        return torch.maximum(-self.ordered[..., 0], self.ordered[..., -1]).clamp_min(0.0)

    def at_distinct(self, place: Tensor) -> Tensor:
        """Return the distinct values at places among them, ``(d, B)``."""
        index = torch.searchsorted(self.ranks, (place + 1)[..., None].contiguous())
        return self.ordered.gather(-1, index)[..., 0]

    def divide_by_power(self, most: Tensor) -> None:
        exponent = torch.frexp(most).exponent.long()[..., None]
        half = torch.div(-exponent, 2, rounding_mode="floor")
        for power in (_power_of_two(half), _power_of_two(-exponent - half)):
            self.values, self.ordered = self.values * power, self.ordered * power

    def centre(self) -> None:
        middle = self.at_distinct(self.ranks[..., -1] // 2)[..., None]
        self.values, self.ordered = self.values - middle, self.ordered - middle

    def variance(self) -> Tensor:
        # A tensor: on a GPU division by a number is multiplication by its rounded inverse.
        n = torch.full((), self.ordered.shape[-1], dtype=torch.float64, device=self.ordered.device)
        mean = (_sum(self.ordered) / n)[..., None]
        return _sum((self.ordered - mean).square_()) / n

    def divide_by(self, factor: Tensor) -> None:
        factor = torch.where(factor > 0, factor, 1.0)[..., None]
        self.values, self.ordered = self.values / factor, self.ordered / factor

    def spread(self) -> Tensor:
        last = self.ranks[..., -1] - 1
        return self.at_distinct((3 * last + 3) // 4) - self.at_distinct(last // 4)


def _power_of_two(exponent: Tensor) -> Tensor:
    """Return normal powers of two, exactly on every device."""
    return ((exponent + 1023) << 52).view(torch.float64)


def _sum(values: Tensor) -> Tensor:
    """Return sums over the last dimension in the order of :func:`scaling.scaled`."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        pairs = values[..., :half] + values[..., half : 2 * half]
        if values.shape[-1] % 2:
            pairs[..., 0] += values[..., -1]
        values = pairs
    return values[..., 0]


def _deviations(variances: Tensor, groups: int) -> Tensor:
    """Return the roots of variances ``(d, B)``, or of their mean over the coordinates of each set.

    Roots and sums of few numbers are those of Python: others may round them otherwise.
    """
    parts = variances.view(groups, -1, variances.shape[1]).transpose(1, 2).sort(2).values.tolist()
    found = [[math.sqrt(sum(each) / len(each)) for each in part] for part in parts]
    return torch.tensor(found, dtype=torch.float64, device=variances.device)


def _normal_scores(values: Tensor) -> Tensor:
    """Return the normal quantiles at the middle ranks, the same for equal values."""
    size = values.shape[-1]
    order = values.argsort(-1).flatten(0, -2)
    ordered = values.flatten(0, -2).gather(1, order)
    row = torch.arange(len(order), device=values.device).repeat_interleave(size)
    starts = run_starts([row, ordered.flatten()])
    middles = (starts % size).double() + 0.5 * run_lengths(starts).double()
    number = torch.full_like(middles, size)
    scores = torch.empty_like(ordered)
    scores.scatter_(1, order, torch.special.ndtri(middles / number).view(ordered.shape))
    return scores.view(values.shape)
