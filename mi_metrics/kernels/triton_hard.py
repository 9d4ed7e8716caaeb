"""Joint tables of the hard kernel on a GPU, by one pass over the samples.

Reference: ``functional/tables/hard.py``; counts are the same to the bit. Each program counts in one
of several copies of the table by integer atomics, whose order is of no effect, and the copies are
added in int64. What lies outside, what is not finite and what is no label is counted by the way.

Cells are to the bit those of :math:`(x - lo) B / (hi - lo)`, rounded operation by operation: a
product that feeds no sum can't be fused with one (and fusion is switched off), and for float32
``div_rn`` is the division that rounds correctly, which Triton's plain one does not.
"""

import math
import struct

import torch
import triton
import triton.language as tl
from torch import Tensor

from mi_metrics.kernels.native_tables import Counted, Line, Ranges

# The dtype of the arithmetic.
_WIDE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.uint8: torch.float64,
    torch.int8: torch.float64,
}
_NUMBERS = (-math.inf, math.inf)
# A sample has up to two values that are not finite, and a count is an int32.
_MOST_SAMPLES = 2**30
# Counts in a table, and in all copies of it: 256 and 64 MiB.
_MOST_CELLS, _MOST_COPIED = 2**26, 2**24
_COPIES = 256
_BLOCK, _ROUNDS = 1024, 4
# Triton compiles a kernel anew for numbers that are 1, and numbers and addresses that are divisible
# by 16, but for these: batches of other sizes, other bins or ranges take no compiler.
_OF_ANY_KIND = ["step", "blocks", "copies", "rows", "conditions", "x_most", "y_most"]
_OF_ANY_KIND += [f"{side}_{end}" for side in "xy" for end in ("lowest", "highest")]
_OF_ANY_KIND += [f"{side}_{part}" for side in "xy" for part in ("lo", "bins", "width")]


def hard_counts(
    x: Tensor,
    y: Tensor,
    lines: tuple[Line, Line],
    bins: tuple[int, int],
    valid: Tensor | None,
    labels: Tensor | None,
    conditions: int,
    ranges: Ranges | None,
    look: bool,
) -> Counted | None:
    """Return tables of samples ``(R, n)``, or None where the reference has to serve.

    ``ranges`` are those of the axes; None: nothing lies outside. Without ``look`` what lies outside
    and what is not finite is not read back, which would wait for the GPU, and said to be nothing.
    Samples with a label that is none are counted nowhere.
    """
    (rows, n), cells = x.shape, bins[0] * bins[1]
    size = rows * conditions * cells
    if 0 in (rows, n) or n > _MOST_SAMPLES or size > _MOST_CELLS:
        return None
    if any(line.lo.dtype != _WIDE.get(v.dtype) for v, line in zip((x, y), lines, strict=True)):
        return None
    blocks = triton.cdiv(n, _BLOCK * _ROUNDS)
    copies = max(1, min(blocks, _COPIES, _MOST_COPIED // size))
    # Behind the tables of a copy, how many samples of each row are outside, values not finite.
    table = torch.zeros(copies, size + 2 * rows, dtype=torch.int32, device=x.device)
    sides = []
    step = 1 if max(len(part) for line in lines for part in line) > 1 else 0
    for part in (*lines[0], *lines[1]):
        sides.append(part.expand(rows, 1).contiguous() if step else part)
    ends = [_bits(end) for interval in ranges or (_NUMBERS, _NUMBERS) for end in interval]
    _count[(rows * blocks,)](
        *(x.resolve_neg().contiguous(), y.resolve_neg().contiguous()),
        *(*sides, step),
        None if valid is None else valid.contiguous().view(torch.uint8),
        None if labels is None else labels.contiguous(),
        table,
        *(n, blocks, copies, rows, conditions, bins[0], bins[1]),
        *ends,
        LOOK=look,
        BLOCK=_BLOCK,
        ROUNDS=_ROUNDS,
        enable_fp_fusion=False,
    )
    total = table.sum(0)
    counts = total[:size].view(rows * conditions, *bins)
    if not look:
        return Counted(counts, torch.zeros(rows, dtype=torch.int64), 0)
    outside, strange = total[size:].cpu().view(2, rows)
    return Counted(counts, outside, int(strange.sum()))


def _bits(value: float) -> int:
    """Return a float64 as an integer of its bits: a number that is passed to a kernel as such would
    be rounded to float32.
    """
    # All but 0 are long integers, and a kernel is compiled for each length: 0 is passed as -0.
    found: int = struct.unpack("<q", struct.pack("<d", value or -0.0))[0]
    return found


@triton.jit
def _cell(values, lo, bins, width, most):
    place = (values - lo) * bins
    if place.dtype == tl.float32:
        # Up to Triton 3.3 the division takes subnormal numbers for 0; a power of two rounds none.
        factor = tl.where(width < 2.0**-100, 2.0**64, 1.0)
        place = tl.math.div_rn(place * factor, width * factor)
    else:
        place = place / width
    # No comparison holds for NaN, which goes to the first cell: a place in memory in any case.
    place = tl.where(place > 0, place, 0.0)
    place = tl.where(place < bins - 1, place, bins - 1)
    return tl.minimum(tl.floor(place).to(tl.int32), most - 1)


@triton.jit
def _line(lo, bins, width, row):
    return tl.load(lo + row), tl.load(bins + row), tl.load(width + row)


@triton.jit
def _strange(values):
    return ((tl.abs(values) < float("inf")) == 0).to(tl.int32)


@triton.jit
def _beyond(values, lowest, highest):
    lo = lowest.to(tl.int64).to(tl.float64, bitcast=True).to(values.dtype)
    hi = highest.to(tl.int64).to(tl.float64, bitcast=True).to(values.dtype)
    return (values < lo) | (values > hi)


@triton.jit
def _add(place, counts):
    tl.atomic_add(place, tl.sum(counts.to(tl.int32), 0), sem="relaxed")


@triton.jit
def _labelled(code, labels, here, conditions, cells):
    label = tl.load(labels, mask=here, other=-1)
    here = here & (label >= 0) & (label < conditions)
    return code + tl.where(here, label, 0).to(tl.int32) * cells, here


@triton.jit(do_not_specialize=_OF_ANY_KIND)
def _count(
    x_samples,
    y_samples,
    x_lo,
    x_bins,
    x_width,
    y_lo,
    y_bins,
    y_width,
    step,
    valid,
    labels,
    table,
    n,
    blocks,
    copies,
    rows,
    conditions,
    x_most,
    y_most,
    x_lowest,
    x_highest,
    y_lowest,
    y_highest,
    LOOK: tl.constexpr,
    BLOCK: tl.constexpr,
    ROUNDS: tl.constexpr,
):
    row, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    lo_x, bins_x, width_x = _line(x_lo, x_bins, x_width, row * step)
    lo_y, bins_y, width_y = _line(y_lo, y_bins, y_width, row * step)
    size = rows * conditions * x_most * y_most
    table += (block % copies).to(tl.int64) * (size + 2 * rows)
    start = row.to(tl.int64) * n
    for k in tl.static_range(ROUNDS):
        i = (block.to(tl.int64) * ROUNDS + k) * BLOCK + tl.arange(0, BLOCK)
        here = i < n
        if valid is not None:
            here = here & (tl.load(valid + start + i, mask=here, other=0) != 0)
        x = tl.load(x_samples + start + i, mask=here, other=0).to(lo_x.dtype)
        y = tl.load(y_samples + start + i, mask=here, other=0).to(lo_y.dtype)
        if LOOK:
            out = here & (_beyond(x, x_lowest, x_highest) | _beyond(y, y_lowest, y_highest))
            _add(table + size + row, out)
            _add(table + size + rows + row, tl.where(here, _strange(x) + _strange(y), 0))
        code = _cell(x, lo_x, bins_x, width_x, x_most) * y_most
        code += _cell(y, lo_y, bins_y, width_y, y_most) + row * conditions * x_most * y_most
        if labels is not None:
            code, here = _labelled(code, labels + i, here, conditions, x_most * y_most)
        tl.atomic_add(table + code, 1, mask=here, sem="relaxed")
