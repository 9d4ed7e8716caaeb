"""Rows of a file that are kept: all of them, or those whose numbers have the least hashes.

Which rows are kept depends on their place in the file alone, so it is the same for every way of
reading it, also by several processes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def hashes(start: int, number: int) -> NDArray[np.uint64]:
    """Return a hash of each row's number (splitmix64)."""
    with np.errstate(over="ignore"):
        x = np.arange(start, start + number, dtype=np.uint64) + np.uint64(1)
        x *= np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        return x ^ (x >> np.uint64(31))


class Sample:
    """Some rows of a table.

    Args:
        columns: How many columns it has.
        most: The most rows that are kept; None for all.
    """

    def __init__(self, columns: int, most: int | None) -> None:
        self._most = most
        self._hashes = [np.empty(0, np.uint64)]
        self._rows = [np.empty((0, columns))]
        self._held = 0

    def add(self, columns: list[Tensor], start: int) -> None:
        """Add rows of a table, the first of which has the number ``start``."""
        order = hashes(start, len(columns[0]))
        rows = np.stack([column.numpy() for column in columns], 1).astype(np.float64)
        self._append(order, rows)

    def merge(self, other: "Sample") -> None:
        """Add the rows of another part of the table."""
        for order, rows in zip(other._hashes, other._rows, strict=True):
            self._append(order, rows)

    def rows(self, places: list[int], most: int | None) -> Tensor:
        """Return the rows that are finite in some columns, at most so many, float64 ``(n, d)``."""
        self._settle()
        rows = self._rows[0][:, places]
        rows = rows[np.isfinite(rows).all(1)]
        return torch.from_numpy(np.ascontiguousarray(rows[:most]))

    def _append(self, order: NDArray[np.uint64], rows: NDArray[np.float64]) -> None:
        self._hashes.append(order)
        self._rows.append(rows)
        self._held += len(order)
        if self._most is not None and self._held > 2 * self._most:
            self._settle()

    def _settle(self) -> None:
        """Put the rows in the order of their hashes, and drop those that are too many."""
        if len(self._hashes) == 1:
            return
        order, rows = np.concatenate(self._hashes), np.concatenate(self._rows)
        first = np.argsort(order)[: self._most]
        self._hashes, self._rows, self._held = [order[first]], [rows[first]], len(first)
