"""Pairs of columns: what is found of a column serves all pairs that it is in.

A matrix of C_x x C_y pairs of N samples has C_x C_y N pairs of values, but C_x + C_y columns: each
is sorted once, and put in each number of bins once.
"""

from functools import cached_property

import torch
from torch import Tensor

from mi_metrics.functional.options import MAX_CELLS
from mi_metrics.functional.tables.axis import Axis, interval_axis, is_wide
from mi_metrics.functional.tables.pairs import (
    Margin,
    bins_by_rank,
    number_of_values,
    places_in_order,
)
from mi_metrics.functional.tables.quantiles import ordered

# Bins of columns that are kept, as so many times the samples: int16 and int32 take less than these.
KEPT = 2

Key = tuple[int, bool, int]


class Columns:
    """Variables of N samples each, ``(C, N)`` float32 or float64."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.detach().contiguous()
        self._numbers: dict[int, Tensor] = {}
        self._cells: dict[Key, Tensor] = {}

    @cached_property
    def range(self) -> tuple[Tensor, Tensor]:
        """The least and the largest value of each, ``(C, 1)``."""
        return self.values.amin(1, keepdim=True), self.values.amax(1, keepdim=True)

    @cached_property
    def margin(self) -> Margin:
        """The values in ascending order."""
        return Margin(*ordered(self.values, None))

    @cached_property
    def ranks(self) -> Tensor:
        """The place of each sample in ascending order, ``(C, N)``."""
        order = places_in_order(self.values)
        places = torch.arange(order.shape[1], device=order.device)
        return torch.empty_like(order).scatter_(1, order, places.expand_as(order))

    def number(self, most: int) -> Tensor:
        """Return how many distinct values each has, ``(C,)``; more than ``most``: any larger
        number.
        """
        if most not in self._numbers:
            self._numbers[most] = number_of_values(self.values, most)
        return self._numbers[most]

    def wide(self, bins: int) -> Tensor:
        """Return whose bins of equal width can't be computed in the samples' own dtype, ``(C,)``
        bool.
        """
        lo, hi = self.range
        return is_wide(lo, hi, bins).squeeze(1)

    def cells(self, column: int, axis: Axis, row: int, bins: int) -> Tensor:
        """Return the bins ``(N,)`` of a column's samples on a row of an axis, which has so many, as
        whole numbers.
        """
        # A column's bins follow from their kind and number.
        key = (column, axis.edges is None, bins)
        if key not in self._cells:
            if sum(map(len, self._cells.values())) > KEPT * self.values.numel():
                self._cells.clear()
            one = axis.rows(slice(row, row + 1))
            dtype = torch.int16 if bins <= 2**15 else torch.int32
            values = self.values[column : column + 1]
            if one.edges is None:
                found = one.cell(values)[0]
            else:
                in_order = bins_by_rank(self.margin.values[column : column + 1], one)
                found = in_order[0].gather(0, self.ranks[column])
            self._cells[key] = found.to(dtype)
        return self._cells[key]


class ColumnMargin(Margin):
    """The margins of columns, one for each pair that they are in; not copied until it is asked
    for.
    """

    def __init__(self, whole: Margin, index: Tensor) -> None:
        self._whole, self._index = whole, index
        self.mass = self.wide = None

    @cached_property
    def values(self) -> Tensor:  # type: ignore[override]
        """The values in ascending order, ``(R, N)``."""
        return self._whole.values[self._index]

    @cached_property
    def number(self) -> Tensor:
        """How many distinct values there are, ``(R,)``."""
        return self._whole.number[self._index]

    def axis(self, bins: Tensor | None) -> Axis:
        """Return quantile bins, their numbers ``(R,)``, or a bin for each value."""
        number = (self.number if bins is None else bins).clamp_max(2**31)
        # Each column once with each number.
        keys, place = torch.unique(self._index * 2**32 + number, return_inverse=True)
        return self._whole.take(keys >> 32).axis(keys & (2**32 - 1)).take(place)

    def take(self, rows: Tensor) -> "ColumnMargin":
        """Return some of the rows."""
        return ColumnMargin(self._whole, self._index[rows])


class ColumnPairs:
    """Pairs of columns, as :class:`mi_metrics.functional.tables.pairs.Pairs` asks for them."""

    valued = True

    def __init__(self, columns: tuple[Columns, Columns], index: tuple[Tensor, Tensor]) -> None:
        self._columns, self._index = columns, index
        values = columns[0].values
        self.size = torch.full_like(index[0], values.shape[1], dtype=torch.float64)

    def margin(self, side: int) -> Margin:
        """See :class:`Pairs`."""
        return ColumnMargin(self._columns[side].margin, self._index[side])

    def number(self, side: int, most: int) -> Tensor:
        """See :class:`Pairs`."""
        return self._columns[side].number(most)[self._index[side]]

    def uniform(self, side: int, bins: Tensor) -> Axis:
        """See :class:`Pairs`."""
        lo, hi = (v[self._index[side]] for v in self._columns[side].range)
        return interval_axis(lo, hi, bins.to(lo.dtype), 0.0)

    def count(self, axes: tuple[Axis, Axis], shape: tuple[int, int]) -> Tensor:
        """See :class:`Pairs`."""
        cells, (x, y) = shape[0] * shape[1], self._columns
        rows = len(self.size)
        counts = torch.empty(rows, cells, dtype=torch.int64, device=x.values.device)
        dtype = torch.int32 if rows * cells < MAX_CELLS else torch.int64
        places = zip(*(self._places(side, axis) for side, axis in enumerate(axes)), strict=True)
        # Rows of one x in one number of bins are counted together.
        together: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
        for row, ((column, bins), (y_column, y_bins)) in enumerate(places):
            y_cells = y.cells(y_column, axes[1], row, y_bins)
            together.setdefault((column, bins), []).append((row, y_cells))
        for (column, bins), pairs in together.items():
            some = [row for row, _ in pairs]
            code = torch.stack([y_cells for _, y_cells in pairs]).to(dtype)
            code += x.cells(column, axes[0], some[0], bins).to(dtype).mul_(shape[1])
            code += torch.arange(len(some), dtype=dtype, device=code.device).mul_(cells)[:, None]
            found = torch.bincount(code.flatten(), minlength=len(some) * cells)
            counts[some] = found.view(len(some), cells)
        return counts.view(rows, *shape)

    def _places(self, side: int, axis: Axis) -> list[tuple[int, int]]:
        """Return the column of each pair, and its number of bins."""
        bins = axis.bins.expand(len(self.size), 1).flatten().tolist()
        return list(zip(self._index[side].tolist(), map(int, bins), strict=True))

    def take(self, rows: Tensor) -> "ColumnPairs":
        """See :class:`Pairs`."""
        return ColumnPairs(self._columns, (self._index[0][rows], self._index[1][rows]))
