"""Kernel density information of samples: counted in a fine table that is sheared along the
regression, where the pair's kernel is a product.

See :mod:`mi_metrics.functional.kde` for the estimate itself. Pairs are evaluated in groups; a value
does not depend on the group, to the last bit.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.densities.cells import SampleCells, most_frequent
from mi_metrics.functional.densities.counted import Grid, display_grids, smoothed_display
from mi_metrics.functional.densities.doubts import Doubts, Estimate, doubts_about
from mi_metrics.functional.densities.gaussian import (
    CountedAxis,
    CountedTable,
    Display,
    Kernel,
    LineKernel,
    Moments,
    Ranges,
    gauss,
    kernel_of,
    line_kernel,
    line_log_sums,
    log_sums,
    mean_log_density,
    normalized_information,
    times,
)
from mi_metrics.functional.densities.oversmoothed import (
    CELLS,
    FEW_SAMPLES,
    Blurred,
    blurred,
    changes,
    coarse_factor,
    crowded_bins,
    halved,
    lacks,
    merged_axis,
    merged_table,
)
from mi_metrics.functional.densities.samples import (
    Samples,
    groups,
    moments_of,
    sheared,
    sheared_ends,
)
from mi_metrics.functional.tensors import chunk_size

# Up to this many samples a cell stands at their mean. With more it does not matter, and takes time.
FEW = 2**16
# Samples of heavy tails are sorted up to this many: more take longer than their value.
MOST_RANKED = 2**20
# Occupied rows and columns are rounded up to a multiple of this, so that pairs share a shape.
BLOCK = 16

# The counts ``(R, *blocks)`` of a run of pairs in the first cells of orders, and what makes it.
_Table = Callable[[slice, tuple[int, int]], Tensor]
_Joint = Callable[[tuple[Tensor, Tensor]], _Table]
_Axes = tuple[CountedAxis, CountedAxis, CountedAxis]
_LineKernels = tuple[LineKernel, LineKernel, LineKernel, LineKernel]


class _Coarse(NamedTuple):
    """Tables ``(R, m, m)`` of x with z and with y, several cells in one."""

    with_z: Tensor
    with_y: Tensor


def kde_from_samples(
    x: Tensor, y: Tensor, bandwidth: Any, size: int, ranges: Ranges, normalization: str
) -> Estimate:
    """Compute :func:`kde_mutual_information` of R pairs in nats, without its cautions, and the
    doubts about them.

    Args:
        x: Finite samples ``(R, N)``, floating.
        y: Samples paired with ``x``.
        bandwidth: A rule, or one or two deviations.
        size: Cells per axis.
        ranges: The ends that samples are moved to, or None.
        normalization: ``"none"``, or a form of :func:`mutual_information`.
    """
    found = [
        _information(rows, bandwidth, size)
        if normalization == "none"
        else _normalized(rows, bandwidth, size, normalization)
        for rows in groups(x, y, size, ranges)
    ]
    values, doubts = zip(*found, strict=True)
    return Estimate(
        torch.cat(values).squeeze(1), Doubts(*map(torch.cat, zip(*doubts, strict=True)))
    )


def kde_joint_from_samples(
    x: Tensor, y: Tensor, bandwidth: Any, size: int, ranges: Ranges
) -> tuple[Tensor, Doubts]:
    """Compute :func:`kde_joint` of R pairs, without its cautions, and the doubts about them."""
    found = [_display(rows, bandwidth, size) for rows in groups(x, y, size, ranges)]
    displays, doubts, _ = zip(*found, strict=True)
    joint = torch.cat([display.joint for display in displays])
    return joint, Doubts(*map(torch.cat, zip(*doubts, strict=True)))


def _information(rows: Samples, bandwidth: Any, size: int) -> Estimate:
    moments, slope = moments_of(rows)
    kernel = kernel_of(moments, bandwidth, rows.scales)
    if not isinstance(bandwidth, str):
        slope = kernel.slope
    few = rows.n <= FEW
    x = SampleCells(
        lambda: (u for u, _ in rows.chunks()),
        rows.x_ends,
        torch.minimum(kernel.x, kernel.x_alone),
        size,
        few,
    )
    y = SampleCells(lambda: (v for _, v in rows.chunks()), rows.y_ends, kernel.y_alone, size, few)
    z = SampleCells(
        lambda: (sheared(u, v, slope) for u, v in rows.chunks()),
        sheared_ends(rows, slope),
        kernel.residual,
        size,
        few,
    )
    counted = _counted_at_once if rows.whole is not None else _counted_by_chunks
    counts, joint, coarse = counted(rows, slope, (x, z, y))
    axes = x.axis(counts[0]), z.axis(counts[1]), y.axis(counts[2])
    kernels = _line_kernels(axes, kernel)
    value = _value(_sums(joint, axes, kernels), kernels, moments)
    narrow = _narrow(kernels)
    less = lacks(value, coarse.with_y, rows.n)
    crowded = (crowded_bins(coarse.with_y, rows.n) & ~less & ~moments.constant).squeeze(1)
    if rows.n <= MOST_RANKED and bool(crowded.any()):
        by_ranks = _table_of_ranks(rows, crowded)
        less[crowded] = lacks(value[crowded], by_ranks, rows.n)
    signs = Blurred(less, torch.zeros_like(less))
    if rows.n <= FEW_SAMPLES:
        of_half, told = _value_of_halved(coarse.with_z, axes, kernel, moments)
        told &= x.equal() & y.equal() & z.equal()
        signs = Blurred(less, changes(value, of_half, rows.n) & told)
    lines, most = (axes[0], axes[2]), (x.most, y.most)
    doubts = doubts_about(value, moments, kernel, bandwidth, lines, signs, narrow, most)
    return Estimate(value, doubts)


def _line_kernels(axes: _Axes, kernel: Kernel) -> _LineKernels:
    """Return the kernels between cells of the pair, along x and z, and of x and y alone."""
    x, z, y = axes
    return (
        line_kernel(x, kernel.x),
        line_kernel(z, kernel.residual),
        line_kernel(x, kernel.x_alone),
        line_kernel(y, kernel.y_alone),
    )


def _value(sums: Tensor, kernels: _LineKernels, moments: Moments) -> Tensor:
    """Return the information of pairs from their sums of logarithms ``(R, 3)``."""
    x, z, *alone = (k.variance for k in kernels)
    value = mean_log_density(sums[:, :1], x * z, moments.n)
    for i, variance in enumerate(alone, 1):
        value = value - mean_log_density(sums[:, i : i + 1], variance, moments.n)
    return torch.where(moments.constant, 0.0, value)


def _narrow(kernels: _LineKernels) -> Tensor:
    """Say whether a kernel of a pair is narrower than half a cell, bool ``(R, 1)``."""
    return torch.cat([k.coarse for k in kernels], 1).any(1, keepdim=True)


def _value_of_halved(
    n: Tensor, axes: _Axes, kernel: Kernel, moments: Moments
) -> tuple[Tensor, Tensor]:
    """Return the information by kernels of half the width, from a coarse table of x and z, and
    whether its cells tell.
    """
    factor = -(-axes[0].n.shape[1] // n.shape[1])
    x, z, y = (merged_axis(axis, factor) for axis in axes)
    kernels = _line_kernels((x, z, y), halved(kernel))
    return _value(_sums_of_logs(n, (x, z, y), kernels), kernels, moments), ~_narrow(kernels)


def _table_of_ranks(rows: Samples, chosen: Tensor) -> Tensor:
    """Return counts ``(R, CELLS, CELLS)`` of chosen pairs in cells of about equal counts; equal
    samples share a cell.
    """
    cells = []
    for pieces in zip(*rows.chunks(), strict=True):
        v = torch.cat([piece[chosen] for piece in pieces], 1)
        ordered = v.sort(1).values
        below, up_to = (torch.searchsorted(ordered, v, right=right) for right in (False, True))
        cells.append((below + up_to) * CELLS // (2 * rows.n + 1))
    code, one = cells[0] * CELLS + cells[1], torch.ones_like(cells[0], dtype=torch.float64)
    counts = one.new_zeros(len(code), CELLS**2)
    return counts.scatter_add_(1, code, one).view(-1, CELLS, CELLS)


def _counted_at_once(
    rows: Samples, slope: Tensor, cells: tuple[SampleCells, SampleCells, SampleCells]
) -> tuple[list[Tensor], _Joint, _Coarse]:
    """Return the counts of x, z and y, and the joint ones of x and z and, coarsely, of x and y, of
    pairs in one chunk.
    """
    (u, v), (x, z, y) = next(rows.chunks()), cells
    one = torch.ones_like(u)
    at = x.index(u), z.index(sheared(u, v, slope)), y.index(v)
    counts = [torch.zeros_like(x.numbers).scatter_add_(1, cell, one) for cell in at]

    def joint(orders: tuple[Tensor, Tensor]) -> _Table:
        # Samples are counted where their cell is to stand: a table of all cells is mostly empty.
        row, column = (_places(o).gather(1, cell) for o, cell in zip(orders, at, strict=False))

        def table(pairs: slice, blocks: tuple[int, int]) -> Tensor:
            cell = torch.add(column[pairs], row[pairs], alpha=blocks[1])
            found = one.new_zeros(len(cell), blocks[0] * blocks[1])
            return found.scatter_add_(1, cell, one[pairs]).view(-1, *blocks)

        return table

    factor = coarse_factor(x.size)
    m = -(-x.size // factor)
    row, column, beside = (torch.div(cell, factor, rounding_mode="floor") for cell in at)
    coarse = (
        one.new_zeros(len(u), m * m).scatter_add_(1, cell.add_(row, alpha=m), one).view(-1, m, m)
        for cell in (column, beside)
    )
    return counts, joint, _Coarse(*coarse)


def _counted_by_chunks(
    rows: Samples, slope: Tensor, cells: tuple[SampleCells, SampleCells, SampleCells]
) -> tuple[list[Tensor], _Joint, _Coarse]:
    """Return what :func:`_counted_at_once` returns, of any number of samples."""
    x, z, y = cells
    size = x.size
    whole, beside = (x.numbers.new_zeros(len(x.numbers), size * size) for _ in range(2))
    for u, v in rows.chunks():
        one, row, column = torch.ones_like(v), x.index(u).mul_(size), y.index(v)
        beside.scatter_add_(1, column.add_(row), one)
        whole.scatter_add_(1, row.add_(z.index(sheared(u, v, slope))), one)
    whole, beside = whole.view(-1, size, size), beside.view(-1, size, size)

    def joint(orders: tuple[Tensor, Tensor]) -> _Table:
        def table(pairs: slice, blocks: tuple[int, int]) -> Tensor:
            row, column = (o[pairs, :block] for o, block in zip(orders, blocks, strict=True))
            found = whole[pairs].gather(1, row.unsqueeze(2).expand(-1, -1, size))
            return found.gather(2, column.unsqueeze(1).expand(-1, blocks[0], -1))

        return table

    factor = coarse_factor(size)
    coarse = _Coarse(*(merged_table(n, factor) for n in (whole, beside)))
    return [whole.sum(2), whole.sum(1), beside.sum(1)], joint, coarse


def _places(order: Tensor) -> Tensor:
    """Return the inverse of permutations ``(R, m)``."""
    numbers = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, numbers)


def _sums(
    joint: _Joint,
    axes: _Axes,
    kernels: _LineKernels,
) -> Tensor:
    """Return the sums of logarithms ``(R, 3)`` of pairs: of the pair, x and y."""
    # Rows and columns without samples, many where N is small, come last and are a part of no sum.
    orders = [(axis.n == 0).sort(dim=1, stable=True).indices for axis in axes]
    axes_ = [
        CountedAxis(axis.centres.gather(1, order), axis.width, axis.n.gather(1, order))
        for axis, order in zip(axes, orders, strict=True)
    ]
    table = joint((orders[0], orders[1]))
    found = []
    for pairs, blocks in _alike(axes):
        x, z, y = (
            CountedAxis(a.centres[pairs, :block], a.width[pairs], a.n[pairs, :block])
            for a, block in zip(axes_, blocks, strict=True)
        )
        in_x, in_z, x_alone, y_alone = (LineKernel(*(part[pairs] for part in k)) for k in kernels)
        n = table(pairs, blocks[:2])
        found.append(_sums_of_logs(n, (x, z, y), (in_x, in_z, x_alone, y_alone)))
    return torch.cat(found)


def _sums_of_logs(n: Tensor, axes: _Axes, kernels: _LineKernels) -> Tensor:
    """Return :func:`_sums` of pairs that share a shape; ``n`` is overwritten."""
    x, z, y = axes
    in_x, in_z, x_alone, y_alone = kernels
    others = times(gauss(x.centres, x.centres, in_x.variance), n)
    others = times(others, gauss(z.centres, z.centres, in_z.variance)).sub_(1)
    logs = log_sums(n, others, in_x.own * in_z.own)
    return torch.cat([logs, line_log_sums(x, x_alone), line_log_sums(y, y_alone)], 1)


def _alike(
    axes: _Axes,
) -> Iterator[tuple[slice, tuple[int, int, int]]]:
    """Yield runs of pairs, and how many cells of each axis hold all of their samples, rounded
    up.
    """
    size = axes[0].n.shape[1]
    occupied = torch.stack([(axis.n > 0).sum(1) for axis in axes], 1)
    step = torch.where(occupied < size // 2, 2 * BLOCK, BLOCK)
    blocks = ((occupied + step - 1) // step * step).clamp_max(size).tolist()
    start, most = 0, chunk_size("density cells", occupied.device)
    for stop, block in enumerate([*blocks[1:], None], 1):
        if block != blocks[start] or (stop - start + 1) * max(block) ** 2 > most:
            yield slice(start, stop), blocks[start]
            start = stop


def _display(rows: Samples, bandwidth: Any, size: int) -> tuple[Display, Doubts, Tensor]:
    """Count samples on the display's own cells and smooth them; return also the doubts, and whether
    a variable is constant.
    """
    moments, _ = moments_of(rows)
    kernel = kernel_of(moments, bandwidth, rows.scales)
    grids = display_grids((rows.x_ends, rows.y_ends), kernel, rows.ranges, rows.scales, size)

    def cells(values: Tensor, grid: Grid) -> Tensor:
        place = (values - grid.centres[:, :1]) / grid.width
        return place.round_().clamp_(0, size - 1).long()

    def most(axis: int) -> Tensor:
        return most_frequent(
            lambda: ((cells(c[axis], grids[axis]), c[axis]) for c in rows.chunks()), size
        )

    counts = kernel.x.new_zeros(len(kernel.x), size * size)
    for u, v in rows.chunks():
        cell = cells(u, grids[0]).mul_(size).add_(cells(v, grids[1]))
        counts.scatter_add_(1, cell, torch.ones_like(u))
    n = counts.view(-1, size, size)
    axes = [
        CountedAxis(g.centres, g.width, m) for g, m in zip(grids, (n.sum(2), n.sum(1)), strict=True)
    ]
    table = CountedTable(n, axes[0], axes[1], rows.scales)
    display = smoothed_display(table, kernel, grids)
    signs = blurred(None, table, kernel, rows.n)
    doubts = doubts_about(
        *(None, moments, kernel, bandwidth, (axes[0], axes[1]), signs),
        most=(partial(most, 0), partial(most, 1)),
    )
    return display, doubts, moments.constant


def _normalized(rows: Samples, bandwidth: Any, size: int, normalization: str) -> Estimate:
    display, doubts, constant = _display(rows, bandwidth, size)
    return Estimate(normalized_information(display.joint, constant, normalization), doubts)
