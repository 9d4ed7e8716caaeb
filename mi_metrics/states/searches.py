"""Large batches for the dyadic grid on the CPU without a compiled function: lookups by NumPy.

They give the bits of the lookups of :mod:`mi_metrics.states.grid`, in short integers, in the
samples' own dtype where that loses nothing, and further lookups only for what the first ones miss.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_metrics.functional.tensors import as_array, on_cpu
from mi_metrics.states.lookups import Lookup

Array = NDArray[Any]

# Codes of so many samples are counted at once: a count goes through the whole table.
HELD = 2**19
# Outputs are searched one after the other; of more the chunks of each are too short for that.
MOST_OUTPUTS = 8
# Whole numbers, and so their differences, are exact in float32 up to here.
EXACT = 2.0**24


class _Search(NamedTuple):
    """A lookup of one output, for one dtype of samples."""

    dtype: Any
    enlarge: Any
    shrink: Any
    start: Any
    far: bool
    code: Tensor  # (T + 2,) int32
    lower: Tensor | None  # (T + 2,) in the dtype
    upper: Tensor | None

    def __call__(self, x: Array) -> tuple[Array, Array | None]:
        """Return the codes of samples (n,), and which of them do not hold (None: all do)."""
        x = x.astype(self.dtype, copy=False)
        t = np.multiply(x, self.enlarge)
        np.floor(t, out=t)
        if self.shrink is not None:
            np.multiply(t, self.shrink, out=t)
            np.floor(t, out=t)
        np.subtract(t, self.start, out=t)
        if self.far:
            np.add(t, self.dtype(1), out=t)
        place = torch.from_numpy(t).clamp_(0, len(self.code) - 1)
        slot = torch.empty(len(x), dtype=torch.int32, device="cpu").copy_(place)
        code = self.code.index_select(0, slot).numpy()
        if self.lower is None:
            return code, None
        lower = self.lower.index_select(0, slot).numpy()
        if self.upper is None:
            return code, x != lower
        right = x >= lower
        right &= x < self.upper.index_select(0, slot).numpy()
        return code, np.logical_not(right, out=right)


class Held:
    """Codes (C, n) that wait to be counted."""

    def __init__(self, missed: int) -> None:
        self._missed, self._codes, self._number = missed, list[Tensor](), 0

    def add(self, code: Tensor, counts: Tensor) -> int:
        """Add codes, all counted in ``counts`` when they are many; return how many are
        ``missed``.
        """
        self._codes.append(code)
        self._number += code.numel()
        if self._number >= HELD:
            self.count(counts)
        return int(np.count_nonzero(code.numpy() == self._missed))

    def count(self, counts: Tensor) -> None:
        """Count what waits."""
        for c, row in enumerate(counts if self._codes else ()):
            code = torch.cat([code[c] for code in self._codes])
            row += torch.bincount(code, minlength=len(row))
        self._codes, self._number = [], 0


class Searches:
    """The lookups of a state for pairs of samples of one dtype each, kept between chunks."""

    def __init__(
        self, lookups: tuple[list[Lookup], list[Lookup]], dtypes: tuple[Any, Any], conditions: int
    ) -> None:
        self._conditions = conditions
        outputs = len(lookups[0][0].code)
        self.dtypes = dtypes
        self._sides = [
            [[_search(lookup, c, dtype) for lookup in side] for c in range(outputs)]
            for side, dtype in zip(lookups, dtypes, strict=True)
        ]

    def codes(self, x: Tensor, y: Tensor, labels: Tensor | None, missed: int) -> Tensor:
        """Return the numbers of the cells of finite samples (C, n) in the joint table, int32, or
        ``missed`` where they are not found.
        """
        found = torch.empty(x.shape, dtype=torch.int32, device="cpu")
        with np.errstate(all="ignore"):
            for c, code in enumerate(found.numpy()):
                a, b = (
                    _found(side[c], v[c].numpy(), missed)
                    for side, v in zip(self._sides, (x, y), strict=True)
                )
                np.add(a, b, out=code)
        if labels is not None:
            found.add_(labels.int(), alpha=missed // self._conditions)
        return found.clamp_(max=missed)


def made(
    lookups: tuple[list[Lookup], list[Lookup]],
    before: Searches | None,
    x: Tensor,
    y: Tensor,
    missed: int,
    conditions: int,
) -> Searches | None:
    """Return what searches for samples: that of ``before``, if it was made for the same dtypes; or
    None where NumPy can't read them, outputs are many or numbers too large.
    """
    dtypes = x.dtype, y.dtype
    if (
        len(x) > MOST_OUTPUTS
        or not on_cpu(x)
        or as_array(x[:, :0]) is None
        or as_array(y[:, :0]) is None
    ):
        return None
    if missed >= 2**29 or not all(d in (torch.float32, torch.float64) for d in dtypes):
        return None
    if before is not None and before.dtypes == dtypes:
        return before
    return Searches(lookups, dtypes, conditions)


def _found(side: list[_Search], x: Array, missed: int) -> Array:
    """Ask the first lookup, and the others about what it does not find."""
    code, wrong = side[0](x)
    if wrong is not None and np.count_nonzero(wrong):
        code[wrong] = missed
    for search in side[1:]:
        rest = np.flatnonzero(code >= missed)
        if not len(rest):
            break
        more, wrong = search(x[rest])
        if wrong is not None:
            more[wrong] = missed
        code[rest] = more
    return code


def _search(lookup: Lookup, c: int, dtype: torch.dtype) -> _Search:
    """Return a lookup of one output: in float32 where that has all of its numbers."""
    parts = [
        None if part is None else part[c].numpy()
        for part in (lookup.enlarge, lookup.shrink, lookup.start, lookup.lower, lookup.upper)
    ]
    kind: Any = np.float64
    if dtype == torch.float32 and all(p is None or _fits(p) for p in parts):
        kind = np.float32 if abs(float(parts[2][0])) < EXACT else kind  # type: ignore[index]
    enlarge, shrink, start = (None if p is None else p.astype(kind)[0] for p in parts[:3])
    lower, upper = (None if p is None else torch.from_numpy(p.astype(kind)) for p in parts[3:])
    return _Search(kind, enlarge, shrink, start, lookup.far, lookup.code[c].int(), lower, upper)


def _fits(values: Array) -> bool:
    """Say whether float32 has all of these numbers, as normal ones."""
    values = values[~np.isnan(values)]
    with np.errstate(all="ignore"):
        short = values.astype(np.float32)
    least = np.abs(short[short != 0]).min(initial=1)
    return bool((short == values).all() and least >= np.finfo(np.float32).tiny)
