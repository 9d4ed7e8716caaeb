"""Grids of many pairs of columns, each column put in order once and not once per pair.

The state of a pair (:mod:`mi_metrics.states.grid`) is a function of its samples. Where every row of
a batch is valid in two columns, the cells of each axis are a function of the column alone: then
they are found once, and a pair costs the count of its table. Where rows are missing in one of them,
the cells are those of the rows that both have, found among the column's sorted numbers.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mi_metrics.states.grid import _pack, merge, view
from mi_metrics.states.keys import _EMPTY, LEAST, _floor, _key, _least, _occupied, regroup


class _Cells(NamedTuple):
    """The cells of some rows of a column."""

    level: Tensor  # (1,)
    borders: Tensor  # (1, m)
    slots: Tensor  # (n,) the cell of each row; of no meaning where it is missing


class Column:
    """A column of a batch of rows.

    Args:
        values: Numbers ``(n,)``; those that are not finite are missing.
        resolution: The most cells of an axis, m.
    """

    def __init__(self, values: Tensor, resolution: int) -> None:
        finite = values.isfinite()
        self.resolution = resolution
        self.valid = None if bool(finite.all()) else finite
        kept = values if self.valid is None else torch.where(finite, values, 0)
        self._keys = _key(kept)
        keys = self._keys if self.valid is None else self._keys[finite]
        self._sorted = torch.from_numpy(np.sort(keys.numpy()))
        self._order: Tensor | None = None
        self._own = self._cells(self._sorted)

    def cells(self, valid: Tensor | None) -> _Cells:
        """Return the cells of the rows ``valid`` (n,) bool, all of which the column has."""
        if valid is None or (self.valid is not None and bool((self.valid == valid).all())):
            return self._own
        if self._order is None:
            self._order = torch.from_numpy(np.argsort(self._keys.numpy(), kind="stable"))
        order = self._order[valid[self._order]]
        return self._cells(self._keys[order])

    def _cells(self, ordered: Tensor) -> _Cells:
        m, least = self.resolution, torch.full((1,), LEAST, dtype=torch.int64)
        if not len(ordered):
            borders = torch.full((1, m), _EMPTY, dtype=torch.int64)
            return _Cells(least, borders, torch.zeros_like(self._keys))
        level, borders = _least(ordered.unsqueeze(0), least, m)
        keys = _floor(self._keys.unsqueeze(0), level)
        slots = torch.searchsorted(borders[0], keys[0]).clamp_(max=m - 1)
        return _Cells(level, borders, slots)


def add(state: Tensor | None, x: Column, y: Column) -> Tensor:
    """Return a pair's state ``(1, L)`` with the rows of a batch added, to the bit what
    :func:`mi_metrics.states.grid.update` makes of it; None is the state of no samples.
    """
    m = x.resolution
    valid = x.valid if y.valid is None else y.valid if x.valid is None else x.valid & y.valid
    a, b = x.cells(valid), y.cells(valid)
    code = a.slots * m + b.slots
    if valid is not None:
        code = torch.where(valid, code, m * m)
    joint = torch.bincount(code, minlength=m * m + 1)[: m * m].view(1, m, m)
    batch = _pack([a.level, b.level], [a.borders, b.borders], joint)
    return batch if state is None else merge(state, batch)


def coarser(state: Tensor, resolution: int) -> Tensor:
    """Return a state ``(1, L)`` with at most ``resolution`` cells per axis."""
    found = view(state)
    m = found.joint.shape[-1]
    levels, borders, slots = [], [], []
    for axis in range(2):
        names = state[:, 2 + axis * m : 2 + (axis + 1) * m]
        level, table = _occupied(names, state[:, axis], resolution)
        levels.append(level)
        borders.append(table)
        slots.append(torch.searchsorted(table, _floor(names, level)).clamp_(max=resolution - 1))
    joint = regroup(found.joint, slots[0], slots[1], (resolution, resolution))
    return _pack(levels, borders, joint)
