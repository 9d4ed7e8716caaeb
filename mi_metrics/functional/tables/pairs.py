"""R pairs of variables to be put in bins: as samples, or as the cells of a metric's grid.

Both answer the same questions, so that one implementation chooses the bins of functions and
metrics: what are the ordered values of a variable, has it few, where do bins of equal width lie,
and how many samples lie in each pair of bins.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from mi_metrics.functional.tables.axis import Axis
from mi_metrics.functional.tables.hard import Unchecked, hard_counts
from mi_metrics.functional.tables.quantiles import distinct, ordered, quantile_edges
from mi_metrics.functional.tensors import as_array

# How many samples of each row a first look at the values takes for every value that it may find,
# and by how much more it goes on.
LOOK, GROWTH = 4, 16

# From a variable's values, numbers of bins (R, 1) and weights to bins of equal width.
Uniform = Callable[[int, Tensor, Tensor, Tensor | None], Axis]
# From samples, weights, axes and the numbers of bins to weighted tables.
Weighted = Callable[[Tensor, Tensor, tuple[Axis, Axis], tuple[int, int], Tensor], Tensor]


class Margin:
    """The values of one variable in ascending order.

    ``values`` are ``(R, k)``, infinite and last where they have no mass; ``mass`` is cumulative, or
    None where each value counts once; ``wide`` tells the cells that may hold several values.
    """

    def __init__(self, values: Tensor, mass: Tensor | None, wide: Tensor | None = None) -> None:
        self.values, self.mass, self.wide = values, mass, wide

    @cached_property
    def number(self) -> Tensor:
        """How many distinct values there are, ``(R,)``."""
        return distinct(self.values)

    def axis(self, bins: Tensor | None) -> Axis:
        """Return quantile bins, their numbers ``(R,)``, or a bin for each value."""
        number = (self.number if bins is None else bins).unsqueeze(1)
        edges = quantile_edges(self.values, self.mass, number, self.number)
        lo = torch.zeros_like(self.values[:, :1])
        return Axis(lo, lo + 1, number.to(lo.dtype), None, edges)

    def weights(self) -> Tensor:
        """Return how many samples each entry stands for, float64."""
        if self.mass is None:
            return torch.ones_like(self.values, dtype=torch.float64)
        return self.mass.diff(dim=1, prepend=torch.zeros_like(self.mass[:, :1]))

    def take(self, rows: Tensor) -> "Margin":
        """Return some of the rows."""
        mass, wide = (v if v is None else v[rows] for v in (self.mass, self.wide))
        taken = Margin(self.values[rows], mass, wide)
        taken.number = self.number[rows]
        return taken


class Pairs(Protocol):
    """What the choice of bins asks of R pairs; side 0 is x, side 1 is y."""

    size: Tensor  # (R,) float64: the number of samples, of weighted ones the effective number
    valued: bool  # whether the values are known, not only the part of a given range they lie in

    def margin(self, side: int) -> Margin:
        """Return the ordered values of a variable."""

    def number(self, side: int, most: int) -> Tensor:
        """Return how many distinct values a variable has, ``(R,)``; more than ``most``: any larger
        number.
        """

    def uniform(self, side: int, bins: Tensor) -> Axis:
        """Return bins of equal width; their numbers are ``(R, 1)``."""

    def count(self, axes: tuple[Axis, Axis], shape: tuple[int, int]) -> Tensor:
        """Return the tables ``(R, B_x, B_y)`` of the hard kernel, or ``(R, K, B_x, B_y)`` under K
        conditions.
        """

    def take(self, rows: Tensor) -> Self:
        """Return some of the pairs."""


class Samples:
    """Pairs of samples ``(R, n)``, with weights or without; ``unchecked`` ones are refused when
    they are counted, if they are NaN or infinite.
    """

    valued = True

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        weights: Tensor | None,
        effective: Tensor | None,
        uniform: Uniform,
        weighted: Weighted,
        *,
        unchecked: Unchecked | None = None,
    ) -> None:
        self.values, self.weights = (x.detach(), y.detach()), weights
        n = torch.full((x.shape[0],), x.shape[1], dtype=torch.float64, device=x.device)
        self.size = n if effective is None else effective
        self._effective, self._uniform, self._weighted = effective, uniform, weighted
        self._unchecked = unchecked
        self._y_ranks: Tensor | None = None
        self._margins: dict[int, Margin] = {}

    def margin(self, side: int) -> Margin:
        """See :class:`Pairs`."""
        if side not in self._margins:
            self._margins[side] = Margin(*ordered(self.values[side], self.weights))
        return self._margins[side]

    def number(self, side: int, most: int) -> Tensor:
        """See :class:`Pairs`."""
        x = self.values[side]
        if self.weights is not None:
            x = x.masked_fill(self.weights == 0, torch.inf)
        return number_of_values(x, most)

    def uniform(self, side: int, bins: Tensor) -> Axis:
        """See :class:`Pairs`."""
        return self._uniform(side, self.values[side], bins, self.weights)

    def count(self, axes: tuple[Axis, Axis], shape: tuple[int, int]) -> Tensor:
        """See :class:`Pairs`."""
        x, y = self.values
        if self.weights is None and all(axis.edges is not None for axis in axes):
            return self._count_by_rank(axes, shape)
        if self.weights is None:
            return hard_counts(x, y, axes, shape, None, unchecked=self._unchecked)
        return self._weighted(x, y, axes, shape, self.weights)

    def _count_by_rank(self, axes: tuple[Axis, Axis], shape: tuple[int, int]) -> Tensor:
        """Count in bins between edges: the samples in x's order have x's bins one after the other,
        and y's are looked up by rank.

        Every number of bins that is tried costs a fifth of what a search of all edges does.
        """
        if self._y_ranks is None:
            order, y_order = (places_in_order(v) for v in self.values)
            ranks = torch.empty_like(y_order)
            places = torch.arange(ranks.shape[1], device=ranks.device)
            ranks.scatter_(1, y_order, places.expand_as(ranks))
            self._y_ranks = ranks.gather(1, order)
        x, y = (bins_by_rank(self.margin(side).values, axis) for side, axis in enumerate(axes))
        code = x.mul_(shape[1]).add_(y.gather(1, self._y_ranks))
        rows, cells = len(code), shape[0] * shape[1]
        code += cells * torch.arange(rows, device=code.device).unsqueeze(1)
        return torch.bincount(code.flatten(), minlength=rows * cells).view(rows, *shape)

    def take(self, rows: Tensor) -> "Samples":
        """See :class:`Pairs`."""
        if len(rows) == len(self.size):
            return self
        x, y, w, n = (
            v if v is None else v[rows] for v in (*self.values, self.weights, self._effective)
        )
        assert x is not None
        assert y is not None
        taken = Samples(x, y, w, n, self._uniform, self._weighted)
        taken._y_ranks = self._y_ranks if self._y_ranks is None else self._y_ranks[rows]
        taken._margins = {side: margin.take(rows) for side, margin in self._margins.items()}
        return taken


def number_of_values(x: Tensor, most: int) -> Tensor:
    """Return how many distinct finite values rows ``(R, n)`` hold, ``(R,)``; more than ``most``:
    any larger number.
    """
    found = torch.ones(x.shape[0], dtype=torch.int64, device=x.device)
    rows, looked = torch.arange(len(x), device=x.device), LOOK * most
    while True:
        # Every so many samples and not the first: sorted data begin with one value.
        part = x[rows, :: max(1, x.shape[1] // looked)]
        found[rows] = distinct(ordered(part, None)[0])
        rows = rows[found[rows] <= most]
        if looked >= x.shape[1] or not len(rows):
            return found
        looked *= GROWTH


def places_in_order(values: Tensor) -> Tensor:
    """Return the places of rows in ascending order, of equal values in any."""
    if (array := as_array(values)) is not None:
        # As in `ordered`.
        return torch.from_numpy(np.argsort(array, axis=1))
    return values.argsort(1)


def bins_by_rank(values: Tensor, axis: Axis) -> Tensor:
    """Return the bins of ordered values, int64: each is the number of edges that it reaches."""
    assert axis.edges is not None
    start = torch.searchsorted(values.contiguous(), axis.edges)
    steps = torch.zeros(len(values), values.shape[1] + 1, dtype=torch.int64, device=values.device)
    return steps.scatter_add_(1, start, torch.ones_like(start)).cumsum(1)[:, :-1]


class Cells:
    """Pairs that are known by the cells of a grid: a value for each and the joint counts
    ``(R, m_x, m_y)``.

    ``points`` says of both variables whether their cells are the distinct values themselves. Slots
    without samples may hold any value.
    """

    def __init__(
        self,
        values: tuple[Tensor, Tensor],
        joint: Tensor,
        points: tuple[bool, bool],
        wide: tuple[Tensor, Tensor],
        uniform: Uniform,
        effective: Tensor | None = None,
        *,
        valued: bool = True,
    ) -> None:
        self.valued = valued
        self.values, self.joint, self.points, self._wide = values, joint, points, wide
        self.marginals = joint.sum(2).double(), joint.sum(1).double()
        self.size = joint.sum((1, 2)).double() if effective is None else effective
        self._effective, self._uniform = effective, uniform

    def margin(self, side: int) -> Margin:
        """See :class:`Pairs`."""
        counts = self.marginals[side]
        held = counts > 0
        values, order = self.values[side].masked_fill(~held, torch.inf).sort(dim=1, stable=True)
        mass = counts.gather(1, order).cumsum(1)
        return Margin(values, mass, (self._wide[side] & held).gather(1, order))

    def number(self, side: int, most: int) -> Tensor:
        """See :class:`Pairs`."""
        held = (self.marginals[side] > 0).sum(1)
        return held if self.points[side] else torch.full_like(held, most + 1)

    def uniform(self, side: int, bins: Tensor) -> Axis:
        """See :class:`Pairs`."""
        # An empty table has no range; any will do.
        weights = torch.where(self.size.unsqueeze(1) > 0, self.marginals[side], 1)
        return self._uniform(side, self.values[side], bins, weights)

    def count(self, axes: tuple[Axis, Axis], shape: tuple[int, int]) -> Tensor:
        """See :class:`Pairs`."""
        rows, columns = (a.cell(v).long() for a, v in zip(axes, self.values, strict=True))
        if self.joint.is_floating_point():
            # Not scattered: of weights, the order in which a GPU adds them up would show.
            x, y = (
                torch.nn.functional.one_hot(cell, bins).to(self.joint.dtype)
                for cell, bins in zip((rows, columns), shape, strict=True)
            )
            return x.mT @ self.joint @ y
        code = rows.unsqueeze(2) * shape[1] + columns.unsqueeze(1)
        tables = self.joint.new_zeros(len(self.joint), shape[0] * shape[1])
        return tables.scatter_add_(1, code.flatten(1), self.joint.flatten(1)).view(-1, *shape)

    def take(self, rows: Tensor) -> "Cells":
        """See :class:`Pairs`."""
        if len(rows) == len(self.size):
            return self
        (x, y), (wide_x, wide_y) = self.values, self._wide
        effective = None if self._effective is None else self._effective[rows]
        return Cells(
            (x[rows], y[rows]),
            self.joint[rows],
            self.points,
            (wide_x[rows], wide_y[rows]),
            self._uniform,
            effective,
            valued=self.valued,
        )

    def having(self, values: tuple[Tensor, Tensor]) -> "Cells":
        """Return the same counts with other values of the cells."""
        return Cells(
            values,
            self.joint,
            self.points,
            self._wide,
            self._uniform,
            self._effective,
            valued=self.valued,
        )
