"""Cells that samples of a variable are counted in, for a kernel density."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.densities.gaussian import NOTHING, CountedAxis, two_to


class SampleCells:
    """Cells of one axis, and where the samples of R pairs lie in them.

    The range is divided in equal cells, or, where these would be wider than the kernel, only its
    occupied parts are.
    """

    def __init__(
        self,
        values: Callable[[], Iterator[Tensor]],
        ends: tuple[Tensor, Tensor],
        h: Tensor,
        size: int,
        few: bool,
    ) -> None:
        self.values, self.size = values, size
        self.origin, hi = ends[0].clone(), ends[1]
        # The last sample belongs to the last cell.
        width = (hi - self.origin) / size * (1 + 2.0**-40)
        self.width = torch.where(width < NOTHING, 0.0, width)
        self.inverse = torch.where(self.width > 0, 1 / self.width, 0.0)
        self.numbers = torch.arange(size, dtype=h.dtype, device=h.device).repeat(len(h), 1)
        self.place = torch.zeros_like(self.numbers) if few else None
        self.gapped = (self.width > h).squeeze(1).nonzero().squeeze(1)
        if len(self.gapped) > 0:
            self._leave_gaps_out(h / 2)

    def _leave_gaps_out(self, start: Tensor) -> None:
        """Divide only the occupied parts, in cells of the least ``start`` 2**level of which there
        are no more than ``size``, where that is finer.
        """
        width, start = self.width[self.gapped], start[self.gapped]
        level = torch.frexp(width / start).exponent.long() - 1
        filled = self._filled(start * two_to(level))
        self.gapped, start, level = self.gapped[~filled], start[~filled], level[~filled]
        if len(self.gapped) == 0:
            return
        fine = torch.cat([v[self.gapped] for v in self.values()], 1)
        fine = fine.mul_(1 / start).floor_().sort(1).values
        low, high = torch.zeros_like(level), level
        while bool((low < high).any()):
            middle = (low + high) // 2
            enough = _distinct(fine, middle)[1][:, -1:] < self.size
            low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
        finer = (start * two_to(low) < self.width[self.gapped]).squeeze(1)
        self.gapped, start, low, fine = (t[finer] for t in (self.gapped, start, low, fine))
        numbers, place = _distinct(fine, low)
        # The rest repeats the last cell: searches find the first of equals.
        self.numbers[self.gapped] = numbers[:, -1:].repeat(1, self.size).scatter_(1, place, numbers)
        self.origin[self.gapped], self.width[self.gapped] = 0.0, start * two_to(low)
        self.inverse[self.gapped] = two_to(-low) / start

    def _filled(self, width: Tensor) -> Tensor:
        """Return whether more than ``size`` cells of a width not much less than the equal cells'
        are occupied.
        """
        inverse = 1 / width
        first = (self.origin[self.gapped] * inverse).floor_()
        seen = torch.zeros(len(first), 2 * self.size + 3, dtype=torch.bool, device=first.device)
        for v in self.values():
            cell = (v[self.gapped] * inverse).floor_().sub_(first)
            seen.scatter_(1, cell.clamp_(0, 2 * self.size + 2).long(), True)
            filled = seen.sum(1) > self.size
            if bool(filled.all()):
                break
        return filled

    def equal(self) -> Tensor:
        """Say whether the cells of pairs divide all of their range, bool ``(R, 1)``."""
        equal = torch.ones_like(self.width, dtype=torch.bool)
        equal[self.gapped] = False
        return equal

    def index(self, v: Tensor) -> Tensor:
        """Return the cells of samples ``(R, n)``, and keep where in them the samples lie."""
        cell, within = self._locate(v)
        if self.place is not None:
            # Whole numbers, whose sums no order changes.
            self.place.scatter_add_(1, cell, within.mul_(2.0**20).floor_())
        return cell

    def _locate(self, v: Tensor) -> tuple[Tensor, Tensor]:
        place = (v - self.origin).mul_(self.inverse)
        number = place.floor()
        cell = number.long()
        if len(self.gapped) > 0:
            cell[self.gapped] = torch.searchsorted(self.numbers[self.gapped], number[self.gapped])
        return cell, place.sub_(number)

    def most(self) -> Tensor:
        """Return how many samples of each cell have its most frequent value, ``(R, size)``."""
        return most_frequent(lambda: ((self._locate(v)[0], v) for v in self.values()), self.size)

    def axis(self, n: Tensor) -> CountedAxis:
        """Return the cells with their counts ``(R, size)``; a cell of few samples stands at their
        mean.
        """
        within: Any = 0.5
        if self.place is not None:
            within = torch.where(n > 0, self.place / 2.0**20 / n.clamp_min(1), 0.5)
        return CountedAxis((self.numbers + within) * self.width + self.origin, self.width, n)


def most_frequent(samples: Callable[[], Iterable[tuple[Tensor, Tensor]]], size: int) -> Tensor:
    """Return how many of each cell's samples ``(R, n)`` have the most frequent value of a chunk."""
    _, first = next(iter(samples()))
    longest = first.new_zeros(len(first), size)
    value = torch.full_like(longest, -math.inf)
    for cell, v in samples():
        ordered, order = v.sort(1)
        cell = cell.gather(1, order)
        run = torch.nn.functional.pad((ordered[:, 1:] != ordered[:, :-1]).cumsum(1), (1, 0))
        length = torch.zeros_like(v).scatter_add_(1, run, torch.ones_like(v)).gather(1, run)
        here = torch.zeros_like(longest).scatter_reduce_(1, cell, length, "amax")
        candidate = ordered.where(length == here.gather(1, cell), -math.inf)
        found = torch.full_like(value, -math.inf).scatter_reduce_(1, cell, candidate, "amax")
        value, longest = torch.where(here > longest, found, value), here.maximum(longest)
    found = torch.zeros_like(longest)
    for cell, v in samples():
        found.scatter_add_(1, cell, (v == value.gather(1, cell)).to(found.dtype))
    return found


def _distinct(fine: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Return sorted cells ``(R, n)`` joined 2**level at a time, and which of the distinct ones each
    is.
    """
    numbers = (fine * two_to(-level)).floor_()
    new = numbers[:, 1:] != numbers[:, :-1]
    return numbers, torch.nn.functional.pad(new.cumsum(1), (1, 0))
