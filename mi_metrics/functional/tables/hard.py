"""The joint table of the hard kernel: every sample counts in one cell."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from mi_metrics.functional.options import Interval
from mi_metrics.functional.tables import counting
from mi_metrics.functional.tables.axis import Axis, fixed, fixed_axis
from mi_metrics.functional.tables.sums import chunks
from mi_metrics.functional.tensors import (
    BYTES,
    arithmetic,
    as_array,
    check_finite,
    chunk_size,
    kept,
    on_cpu,
)
from mi_metrics.kernels import gpu, native, native_tables

# Refuses labels that are none.
Refuse = Callable[[Tensor], object]


class Unchecked:
    """Samples that are looked at while they are counted: refused if they are NaN or infinite.

    ``ranges`` are those of x and y, if they are known; ``outside`` then is how many samples of each
    row lie beyond them, ``(R,)``, or None where that has not been seen in passing.
    """

    def __init__(self, ranges: tuple[Interval, Interval] | None) -> None:
        self.ranges = ranges
        self.outside: Tensor | None = None


def looks_on_the_way(x: Tensor) -> bool:
    """Say whether :func:`hard_counts` looks at unchecked samples where it reads them anyway."""
    return on_cpu(x)


def hard_counts(
    x: Tensor,
    y: Tensor,
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    valid: Tensor | None,
    *,
    unchecked: Unchecked | None = None,
    labels: Tensor | None = None,
    conditions: int = 1,
    refuse: Refuse | None = None,
) -> Tensor:
    """Count samples ``(R, N)``, bytes too, in int64 tables ``(R, B_x, B_y)``; those that are not
    ``valid`` count nowhere.

    ``unchecked`` ones are refused if they are NaN or infinite. With ``labels`` (1, N) below K,
    the number of ``conditions``, R is 1 and each label has a table, ``(K, B_x, B_y)``; ``refuse``
    is asked to refuse others, where no compiled function has looked at them.
    """
    found = _compiled(x, y, axes, bins, valid, unchecked, labels, conditions)
    if found is not None:
        return _looked_at(found, x, y, unchecked)
    if labels is not None and refuse is not None:
        refuse(labels)
    counted = _by_arrays(x, y, axes, bins, valid, unchecked, labels, conditions)
    if counted is not None:
        return counted
    if unchecked is not None:
        check_finite(x, y)
    return _without_arrays(x, y, axes, bins, valid, labels, conditions)


def hard_counts_within(
    x: Tensor,
    y: Tensor,
    ranges: tuple[Interval, Interval],
    bins: tuple[int, int],
    valid: Tensor | None,
    *,
    unchecked: Unchecked | None = None,
    labels: Tensor | None = None,
    conditions: int = 1,
    refuse: Refuse | None = None,
) -> Tensor:
    """Return what :func:`hard_counts` does, by axes of known ranges, of which no tensor is made
    where a compiled function serves.
    """
    if on_cpu(x) and native.serves():
        sides = zip((x, y), ranges, bins, strict=True)
        if x.dtype in BYTES and y.dtype in BYTES:
            on_x, on_y = (_known_cells(v.dtype, r, b) for v, r, b in sides)
            found = _compiled_bytes(x, y, (on_x, on_y), bins, valid, unchecked, labels, conditions)
        else:
            of_x, of_y = (_known_line(arithmetic(v.dtype), r, b) for v, r, b in sides)
            found, looked = None, None if unchecked is None else unchecked.ranges
            if of_x is not None and of_y is not None:
                found = native_tables.hard_counts(
                    x, y, (of_x, of_y), bins, valid, labels, conditions, looked
                )
        if found is not None:
            return _looked_at(found, x, y, unchecked)
    axis_x, axis_y = (
        fixed_axis(r, b, arithmetic(v.dtype), v.device)
        for v, r, b in zip((x, y), ranges, bins, strict=True)
    )
    return hard_counts(
        *(x, y, (axis_x, axis_y), bins, valid),
        unchecked=unchecked,
        labels=labels,
        conditions=conditions,
        refuse=refuse,
    )


def _by_arrays(
    x: Tensor,
    y: Tensor,
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    valid: Tensor | None,
    unchecked: Unchecked | None,
    labels: Tensor | None,
    conditions: int,
) -> Tensor | None:
    """Return what :func:`hard_counts` does, or None where NumPy can't read the samples."""
    a, b, kept, own = (None if v is None else as_array(v) for v in (x, y, valid, labels))
    if a is None or b is None or (kept is None) != (valid is None):
        return None
    groups = counting.Groups(kept, own, conditions)
    ranges = None if unchecked is None else unchecked.ranges
    if x.dtype in BYTES and y.dtype in BYTES and counting.pays_for_bytes(x, conditions):
        cells = _of_bytes(x.dtype, axes[0], bins[0]), _of_bytes(y.dtype, axes[1], bins[1])
        out = None
        if ranges is not None:
            out = bytes_outside(x.dtype, ranges[0]), bytes_outside(y.dtype, ranges[1])
        counted = counting.counts_of_bytes(a, b, cells, bins, groups, out=out)
    else:
        check = unchecked is not None
        counted = counting.counts_of_numbers(a, b, axes, bins, groups, check=check, ranges=ranges)
    if unchecked is not None:
        unchecked.outside = counted.outside
    return counted.counts


def _without_arrays(
    x: Tensor,
    y: Tensor,
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    valid: Tensor | None,
    labels: Tensor | None,
    conditions: int,
) -> Tensor:
    """Count finite samples where NumPy can't read them, without waiting for a device."""
    (rows, n), cells = x.shape, bins[0] * bins[1]
    tables = rows * conditions
    # The last entry takes the invalid samples: to drop them by a mask would need their number on
    # the host.
    counts = torch.zeros(tables * cells + 1, dtype=torch.int64, device=x.device)
    size = min(rows * n, chunk_size("bins", x.device))
    memory = _memory(size, axes)
    # Not expanded from a single one: the scatter reads these 1.7 times faster.
    ones = torch.ones(size, dtype=torch.int64, device=x.device)
    for r, c in chunks(rows, n, x.device):
        index = _cells((x[r, c], y[r, c]), (axes[0].rows(r), axes[1].rows(r)), bins, memory)
        if rows > 1:
            first = torch.arange(
                r.start, r.start + index.shape[0], dtype=index.dtype, device=x.device
            )
            index = index.add_(first.unsqueeze(1), alpha=cells)
        if labels is not None:
            index = index.add_(labels[:, c], alpha=cells)
        if valid is not None:
            index = torch.where(valid[r, c], index, tables * cells)
        # A mask in another layout gives `where` its own.
        flat = index.reshape(-1)
        counts.scatter_add_(0, flat, ones[: flat.shape[0]])
    return counts[:-1].view(tables, *bins)


def _compiled(
    x: Tensor,
    y: Tensor,
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    valid: Tensor | None,
    unchecked: Unchecked | None,
    labels: Tensor | None,
    conditions: int,
) -> native_tables.Counted | None:
    """Return what :func:`hard_counts` counts, or None where no compiled function serves."""
    ranges = None if unchecked is None else unchecked.ranges
    if x.dtype in BYTES and y.dtype in BYTES:
        cells = _of_bytes(x.dtype, axes[0], bins[0]), _of_bytes(y.dtype, axes[1], bins[1])
        return _compiled_bytes(x, y, cells, bins, valid, unchecked, labels, conditions)
    if any(axis.edges is not None or axis.scale is not None for axis in axes):
        return None
    on_x, on_y = (native_tables.Line(axis.lo, axis.bins, axis.width) for axis in axes)
    arguments = x, y, (on_x, on_y), bins, valid, labels, conditions, ranges
    if on_cpu(x):
        return native_tables.hard_counts(*arguments)
    look = unchecked is not None
    read = x, y, *on_x, *on_y, valid, labels
    return gpu.attempt("hard", read, lambda kernels: kernels.hard_counts(*arguments, look))


def _compiled_bytes(
    x: Tensor,
    y: Tensor,
    cells: tuple[Tensor, Tensor],
    bins: tuple[int, int],
    valid: Tensor | None,
    unchecked: Unchecked | None,
    labels: Tensor | None,
    conditions: int,
) -> native_tables.Counted | None:
    out = None
    if unchecked is not None and unchecked.ranges is not None:
        range_x, range_y = unchecked.ranges
        out = bytes_outside(x.dtype, range_x), bytes_outside(y.dtype, range_y)
    return native_tables.byte_counts(x, y, cells, out, bins, valid, labels, conditions)


def _looked_at(
    found: native_tables.Counted, x: Tensor, y: Tensor, unchecked: Unchecked | None
) -> Tensor:
    """Return the tables of samples, and note or refuse what has been seen of them."""
    if unchecked is not None:
        if found.not_finite:
            check_finite(x, y)
        unchecked.outside = None if unchecked.ranges is None else found.outside
    return found.counts


@lru_cache(maxsize=64)
def _known_line(dtype: torch.dtype, interval: Interval, bins: int) -> native_tables.Numbers | None:
    """Return the axis of a range for the compiled functions, or None where they can't reckon with
    it.
    """
    lo, width, _, scale, kind = fixed(interval, bins, dtype)
    if kind != dtype or scale is not None:
        return None
    return native_tables.numbers(lo, bins, width, dtype)


@kept
def _known_cells(dtype: torch.dtype, interval: Interval, bins: int) -> Tensor:
    """Return the cells of all 256 values of a dtype of one byte, int32 ``(1, 256)``."""
    axis = fixed_axis(interval, bins, torch.float64, torch.device("cpu"))
    return _of_bytes(dtype, axis, bins)


def _of_bytes(dtype: torch.dtype, axis: Axis, bins: int) -> Tensor:
    """Return the cells of all 256 values of a dtype of one byte, int32 ``(1 or R, 256)``."""
    return axis.cell(every_byte(dtype).expand(len(axis.lo), -1), bins).int()


@kept
def bytes_outside(dtype: torch.dtype, interval: Interval) -> Tensor | None:
    """Return which of all 256 values of a dtype of one byte lie outside of a range, ``(256,)``;
    None where all lie inside.
    """
    values = every_byte(dtype)
    outside = (values < interval[0]) | (values > interval[1])
    return outside if bool(outside.any()) else None


@kept
def every_byte(dtype: torch.dtype) -> Tensor:
    """Return all 256 values of a dtype of one byte in the order of their bits, float64."""
    bits = torch.arange(256, dtype=torch.uint8, device="cpu")
    return (bits != 0 if dtype == torch.bool else bits.view(dtype)).double()


def _memory(size: int, axes: tuple[Axis, Axis]) -> list[Tensor]:
    """Return memory for the cells of x, of y and of the table."""
    dtypes = (axes[0].lo.dtype, axes[1].lo.dtype, torch.int64)
    return [torch.empty(size, dtype=dtype, device=axes[0].lo.device) for dtype in dtypes]


def _cells(
    parts: tuple[Tensor, Tensor],
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    memory: list[Tensor],
) -> Tensor:
    """Return the samples' cells, numbered row by row of a table; x, y and numbers have memory."""
    x_out, y_out, index = (m[: parts[0].numel()].view(parts[0].shape) for m in memory)
    x_cell, y_cell = axes[0].cell(parts[0], bins[0], x_out), axes[1].cell(parts[1], bins[1], y_out)
    if bins[0] * bins[1] <= 2**24 and x_cell.dtype == y_cell.dtype:
        # Whole numbers are exact in float32 up to there, and its arithmetic is faster.
        return index.copy_(x_cell.mul_(bins[1]).add_(y_cell))
    return x_cell.long().mul_(bins[1]).add_(y_cell.long())
