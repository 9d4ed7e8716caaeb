"""The hard table on the CPU without a compiled function, by NumPy.

Small operations decide: where samples are cut in chunks that stay in the cache, PyTorch's way to an
operation takes longer than the operation, and its bool results take longer than arithmetic. Short
integers are converted, added and counted in a fraction of the time that int64 takes.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_metrics.functional.options import Ranges
from mi_metrics.functional.tables.axis import Axis
from mi_metrics.functional.tables.ends import Ends, beyond, ends_of
from mi_metrics.functional.tables.sums import chunks
from mi_metrics.functional.tensors import arithmetic, check_finite

Array = NDArray[Any]
Bins = tuple[int, int]

# So many samples at a time.
CHUNK = 2**16
# Up to here a chunk is counted in a table of its own and added.
SMALL_TABLE = 2**14
# Numbers of cells that wait for larger tables.
HELD = 2**19
# The table of all pairs of bytes takes as long as so many samples.
BYTES_PAY = 2**14
# Whole numbers by size, and what they stay below.
INTEGERS = (np.int16, 2**15), (np.int32, 2**31), (np.int64, 2**63)


class Counted(NamedTuple):
    """Tables ``(T, B_x, B_y)``, and how many samples of each row lie outside ``(R,)``, where ranges
    were given.
    """

    counts: Tensor
    outside: Tensor | None


class Groups(NamedTuple):
    """What samples ``(R, N)`` count for: all of each row for its table, or some, or each for that
    of its label.
    """

    valid: Array | None  # bool (R, N)
    labels: Array | None  # (1, N), below the number of conditions; then R is 1
    conditions: int


class _Codes:
    """Numbers of cells, counted when they are many: a count goes through the whole table."""

    def __init__(self, groups: Groups, rows: int, n: int, cells: int) -> None:
        self._groups, self._cells = groups, cells
        # The last entry takes samples that count nowhere.
        self._nowhere = rows * groups.conditions * cells
        self.counts = torch.zeros(self._nowhere + 1, dtype=torch.int64, device="cpu")
        size = min(rows * n, CHUNK if self._nowhere < SMALL_TABLE else HELD)
        dtype = next(d for d, most in INTEGERS if self._nowhere < most)
        self._held = np.empty(size, dtype)
        self._other = np.empty(min(size, CHUNK), dtype)
        self._used = 0

    def take(self, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Return memory for the numbers of a chunk, and for the cells on the other axis."""
        number = math.prod(shape)
        if self._used + number > len(self._held):
            self.count()
        start, self._used = self._used, self._used + number
        return self._held[start : self._used].reshape(shape), self._other[:number].reshape(shape)

    def finish(self, code: Array, other: Array, stride: int, r: slice, c: slice) -> None:
        """Number the cells of a chunk, given those of both axes, over all tables; and send away
        what counts nowhere.
        """
        np.multiply(code, stride, out=code)
        np.add(code, other, out=code)
        if r.start + len(code) > 1:
            tables = np.arange(r.start, r.start + len(code), dtype=code.dtype)
            np.add(code, (tables * self._cells)[:, None], out=code)
        if self._groups.labels is not None:
            np.copyto(other, self._groups.labels[:, c], casting="unsafe")
            np.multiply(other, self._cells, out=other)
            np.add(code, other, out=code)
        if self._groups.valid is not None:
            np.copyto(code, self._nowhere, where=~self._groups.valid[r, c])

    def count(self) -> None:
        """Count the numbers that were written."""
        held, self._used = torch.from_numpy(self._held[: self._used]), 0
        if self._nowhere < max(SMALL_TABLE, len(held)):
            self.counts += torch.bincount(held, minlength=self._nowhere + 1)
            return
        for part in held.split(CHUNK):  # type: ignore[no-untyped-call]
            # Not expanded from a single one: the scatter reads these 1.7 times faster.
            ones = torch.ones(len(part), dtype=torch.int64, device="cpu")
            self.counts.scatter_add_(0, part.long(), ones)


class _Line:
    """An axis for NumPy: the cells of :meth:`Axis.cell`, to the bit."""

    def __init__(self, axis: Axis, most: int, size: int) -> None:
        self._axis = axis
        lo, width, bins = (v.numpy() for v in axis[:3])
        self.memory = np.empty(size, lo.dtype)
        # A range of one point has one bin, also for samples beyond it.
        self._lo, self._last = lo, np.minimum(bins, lo.dtype.type(most)) - 1
        self._factor, self._divisor = _steps(bins, width)

    def write(self, x: Array, r: slice, t: Array, into: Array, *, cut: bool) -> None:
        """Write the cells of samples of some rows into whole numbers; ``t`` is memory, and may be
        that of ``x``. Where the samples were ``cut`` at both ends, the upper end lies in a cell of
        its own.
        """
        if self._axis.edges is not None:
            into[...] = self._axis.rows(r).cell(torch.from_numpy(x)).numpy()
            return
        if self._axis.scale is not None:
            x = np.multiply(x, self._of(self._axis.scale.numpy(), r), out=t)
        np.subtract(x, self._of(self._lo, r), out=t)
        if self._factor is not None:
            np.multiply(t, self._of(self._factor, r), out=t)
        if self._divisor is not None:
            np.divide(t, self._of(self._divisor, r), out=t)
        if not cut:
            t.clip(0, self._of(self._last, r), out=t)
        # To convert is to round down: there is nothing below 0.
        np.copyto(into, t, casting="unsafe")

    def cuts(self, lo: float, hi: float) -> bool:
        """Say whether samples may be cut at the ends of a range: their cells stay what they are,
        but for the upper end, which may have one of its own.
        """
        if self._axis.edges is not None or len(self._lo) > 1:
            return False
        ends, cells = np.array([[lo, hi]], self._lo.dtype), np.zeros((1, 2), np.int64)
        every = slice(0, 1)
        with np.errstate(all="ignore"):
            t = np.empty_like(ends)
            self.write(ends, every, t, cells, cut=True)
        last = int(self._last.max())
        return bool(np.isfinite(t).all()) and cells[0, 0] == 0 and 0 <= cells[0, 1] - last <= 1

    def _of(self, values: Array, r: slice) -> Any:
        """Return what belongs to some rows."""
        return values[0, 0] if len(values) == 1 else values[r]


def _steps(bins: Array, width: Array) -> tuple[Array | None, Array | None]:
    """Return what (x - lo) is multiplied by, and then divided by.

    A power of two rounds nothing: where B or the width is one, a single step does both. A division
    takes up to four times as long as a product.
    """
    kind = np.finfo(width.dtype)
    if len(bins) > 1 or len(width) > 1:
        return bins, width
    b, w = float(bins[0, 0]), float(width[0, 0])
    if math.frexp(w)[0] == 0.5 and kind.tiny <= b / w <= kind.max:
        return bins / width, None
    if math.frexp(b)[0] == 0.5 and w / b >= kind.tiny:
        return None, width / bins
    return bins, width


def counts_of_numbers(
    x: Array,
    y: Array,
    axes: tuple[Axis, Axis],
    bins: Bins,
    groups: Groups,
    *,
    check: bool,
    ranges: Ranges | None,
) -> Counted:
    """Count samples ``(R, N)``; ``check`` says whether to refuse NaN and infinity."""
    (rows, n), size = x.shape, min(x.size, CHUNK)
    lines = [_Line(axis, most, size) for axis, most in zip(axes, bins, strict=True)]
    look = _Look(x, y, ranges, check, groups.valid)
    cut = look.ends is not None and all(
        line.cuts(*ends) for line, ends in zip(lines, look.ends, strict=True)
    )
    stride = bins[1] + cut
    codes = _Codes(groups, rows, n, (bins[0] + cut) * stride)
    with np.errstate(all="ignore"):
        for r, c in chunks(rows, n, torch.device("cpu"), CHUNK):
            a, b = x[r, c], y[r, c]
            s, t = (line.memory[: a.size].reshape(a.shape) for line in lines)
            a, b = (look.cut if cut else look.at)(a, b, s, t, r, c)
            code, other = codes.take(a.shape)
            lines[0].write(a, r, s, code, cut=cut)
            lines[1].write(b, r, t, other, cut=cut)
            codes.finish(code, other, stride, r, c)
    codes.count()
    counts = codes.counts[:-1].view(-1, bins[0] + cut, stride)
    return Counted(_without_ends(counts) if cut else counts, look.outside)


class _Look:
    """Looks at samples that are read anyway: refuses NaN and infinity, counts those outside."""

    def __init__(
        self, x: Array, y: Array, ranges: Ranges | None, check: bool, valid: Array | None
    ) -> None:
        self._all, self._check, self._valid = (x, y), check, valid
        self.ends: Ends | None = None
        self._outside = np.zeros(len(x), np.int64)
        if ranges is not None:
            dtypes = [arithmetic(torch.from_numpy(v[:0]).dtype) for v in (x, y)]
            self.ends = ends_of(ranges[0], dtypes[0]), ends_of(ranges[1], dtypes[1])
            # An end beyond the numbers of the dtype is infinite.
            self._finite = all(math.isfinite(end) for ends in self.ends for end in ends)
        self._flags = np.empty(0 if ranges is None else 2 * min(x.size, CHUNK), np.bool_)

    @property
    def outside(self) -> Tensor | None:
        """How many samples of each row lie outside ``(R,)``; None without ranges."""
        return None if self.ends is None else torch.from_numpy(self._outside)

    def cut(
        self, x: Array, y: Array, s: Array, t: Array, r: slice, c: slice
    ) -> tuple[Array, Array]:
        """Return samples in memory ``s`` and ``t``, those outside at the ends."""
        assert self.ends is not None
        p, q = self._flags[: 2 * x.size].reshape(2, *x.shape)
        x, y = x.astype(s.dtype, copy=False), y.astype(t.dtype, copy=False)
        for values, memory, ends, flags in zip((x, y), (s, t), self.ends, (p, q), strict=True):
            # Three times as fast as NumPy's.
            torch.clamp(torch.from_numpy(values), *ends, out=torch.from_numpy(memory))
            np.not_equal(values, memory, out=flags)
        self._add(x, y, np.logical_or(p, q, out=p), r, c)
        return s, t

    def at(self, x: Array, y: Array, s: Array, t: Array, r: slice, c: slice) -> tuple[Array, Array]:
        """Look at samples, and return them in the dtypes of memory."""
        if self.ends is not None:
            lost = beyond(torch.from_numpy(x), torch.from_numpy(y), self.ends)
            self._add(x, y, lost.numpy(), r, c)
        elif self._check:
            # The sum shows every NaN and infinity.
            total = torch.from_numpy(x).sum() + torch.from_numpy(y).sum()
            if not math.isfinite(float(total)):
                self._refuse()
        return x.astype(s.dtype, copy=False), y.astype(t.dtype, copy=False)

    def _add(self, x: Array, y: Array, flags: Array, r: slice, c: slice) -> None:
        """Count samples that are flagged, and refuse those of them that are not finite."""
        if self._valid is not None:
            np.logical_and(flags, self._valid[r, c], out=flags)
        lost = np.count_nonzero(flags)
        if lost:
            self._outside[r] += flags.sum(1) if len(flags) > 1 else lost
        if self._check and (lost or not self._finite):
            found = [v[flags] if self._finite else v for v in (x, y)]
            if not all(np.isfinite(v).all() for v in found):
                self._refuse()

    def _refuse(self) -> None:
        """Refuse samples some of which may not be finite."""
        x, y = self._all
        check_finite(torch.from_numpy(x), torch.from_numpy(y))


def _without_ends(counts: Tensor) -> Tensor:
    """Return tables ``(T, B_x + 1, B_y + 1)`` with the last cells added to those before."""
    counts[:, -2] += counts[:, -1]
    counts[:, :, -2] += counts[:, :, -1]
    return counts[:, :-1, :-1].contiguous()


def pays_for_bytes(x: Tensor, conditions: int) -> bool:
    """Say whether samples ``(R, N)`` are enough to count all pairs of bytes."""
    return x.shape[1] >= BYTES_PAY * conditions


def counts_of_bytes(
    x: Array,
    y: Array,
    cells: tuple[Tensor, Tensor],
    bins: Bins,
    groups: Groups,
    *,
    out: tuple[Tensor | None, Tensor | None] | None,
) -> Counted:
    """Count pairs of bytes by a table of all of them.

    ``cells`` ``(1 or R, 256)`` say into which bins the bytes fall, ``out`` ``(256,)`` which of them
    lie outside, None: none does.
    """
    rows, n = x.shape
    codes = _Codes(groups, rows, n, 2**16)
    x, y = x.view(np.uint8), y.view(np.uint8)
    for r, c in chunks(rows, n, torch.device("cpu"), CHUNK):
        a = x[r, c]
        code, other = codes.take(a.shape)
        np.copyto(code, a)
        np.copyto(other, y[r, c])
        codes.finish(code, other, 256, r, c)
    codes.count()
    joint = codes.counts[:-1].view(rows, groups.conditions, 256, 256)
    outside = None
    if out is not None:
        lost = torch.zeros(256, 256, dtype=torch.bool, device="cpu")
        for flags, view in zip(out, (lost.mT, lost), strict=True):
            if flags is not None:
                view |= flags
        outside = (joint * lost).sum((1, 2, 3))
    return Counted(_in_bins(joint, cells, bins), outside)


def _in_bins(joint: Tensor, cells: tuple[Tensor, Tensor], bins: Bins) -> Tensor:
    """Return the tables of bins ``(R K, B_x, B_y)`` from those of bytes ``(R, K, 256, 256)``."""
    every = torch.arange(256, dtype=cells[0].dtype, device="cpu")
    if bins == (256, 256) and all(bool((v == every).all()) for v in cells):
        return joint.flatten(0, 1)
    code = cells[0].long().unsqueeze(2) * bins[1] + cells[1].long().unsqueeze(1)
    tables = joint.shape[0] * joint.shape[1]
    code = code.unsqueeze(1).expand(joint.shape).reshape(tables, -1)
    counts = torch.zeros(tables, bins[0] * bins[1], dtype=torch.int64, device="cpu")
    return counts.scatter_add_(1, code, joint.view(tables, -1)).view(tables, *bins)
