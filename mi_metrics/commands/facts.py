"""What the numbers of a column are like, found while they are read."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

# Distinct values that are told apart; a column of more counts as continuous.
MOST_DISTINCT = 1 << 14
# So many numbers, half of which differ, are not looked at further.
GLANCE = 1 << 12
# A value that marks missing ones has this share of the rows at least.
LEAST_SHARE = 0.001
# Among so few other values one that is far away need not be foreign: doses, for example.
FEW_OTHERS = 10


@dataclass
class Facts:
    """Counts of a column, over all rows read so far; they add up.

    Attributes:
        valid: Rows with a finite number.
        missing: Rows without one.
        distinct: The distinct values; None if they are more than are told apart.
        ends: How often the least and the greatest two values occur.
        spread: The distance between the 1st and the 99th percentile of a part of the rows, the
            least and the greatest value left out.
    """

    valid: int = 0
    missing: int = 0
    distinct: set[float] | None = field(default_factory=set)
    ends: dict[float, int] = field(default_factory=dict)
    spread: float | None = None

    def add(self, column: Tensor) -> None:
        """Add a batch of numbers ``(n,)``."""
        numbers = column.numpy()
        finite = np.isfinite(numbers)
        numbers = numbers if finite.all() else numbers[finite]
        self.valid += len(numbers)
        self.missing += len(finite) - len(numbers)
        if not len(numbers):
            return
        low, high = numbers.min(), numbers.max()
        inner = numbers[(numbers != low) & (numbers != high)]
        found = {float(v): int((numbers == v).sum()) for v in {low, high}}
        if len(inner):
            found |= {float(v): int((inner == v).sum()) for v in {inner.min(), inner.max()}}
            if self.spread is None:
                self.spread = float(np.subtract(*np.quantile(inner[: 1 << 16], (0.99, 0.01))))
        self._add_ends(found)
        if self.distinct is not None:
            self._add_distinct(numbers)

    def __add__(self, other: "Facts") -> "Facts":
        distinct = None
        if self.distinct is not None and other.distinct is not None:
            distinct = self.distinct | other.distinct
        result = Facts(self.valid + other.valid, self.missing + other.missing, distinct)
        result.ends, result.spread = dict(self.ends), self.spread
        if result.spread is None:
            result.spread = other.spread
        result._add_ends(other.ends)
        return result

    def fill_value(self) -> tuple[float, float] | None:
        """Return the value that looks as if it marked missing ones, and its share of the rows."""
        ordered = sorted(self.ends)
        if len(ordered) < 3:
            return None
        for value, beside in ((ordered[0], ordered[1]), (ordered[-1], ordered[-2])):
            share = self.ends[value] / self.valid
            far = abs(value - beside) > max(self.spread or 0.0, 0.0)
            known = self.distinct is not None and len(self.distinct) <= FEW_OTHERS
            if share >= LEAST_SHARE and self.ends[value] > 1 and far:
                if known and not _conventional(value):
                    continue
                return value, share
        return None

    def _add_ends(self, found: dict[float, int]) -> None:
        both = dict(self.ends)
        for value, number in found.items():
            both[value] = both.get(value, 0) + number
        ordered = sorted(both)
        # Two at each end, so that the distance to the next is known.
        self.ends = {value: both[value] for value in {*ordered[:2], *ordered[-2:]}}

    def _add_distinct(self, numbers: "np.ndarray") -> None:
        assert self.distinct is not None
        glance = numbers[:GLANCE]
        if len(numbers) > GLANCE and 2 * len(np.unique(glance)) > GLANCE:
            self.distinct = None
            return
        self.distinct.update(np.unique(numbers).tolist())
        if len(self.distinct) > MOST_DISTINCT:
            self.distinct = None


def _conventional(value: float) -> bool:
    """Whether a number is one that people write for a missing one: -1, 9, 99, -999 and the like."""
    digits = f"{abs(value):.10g}"
    return value == -1 or set(digits) == {"9"} or digits in ("32767", "32768", "88", "888")
