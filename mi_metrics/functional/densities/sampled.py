"""Kernel density information of samples: counted in a fine table that is sheared along the
regression, where the pair's kernel is a product.

See :mod:`mi_metrics.functional.kde` for the estimate itself. Pairs are evaluated in groups; a value
does not depend on the group, to the last bit.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.densities.counted import Grid, display_grids, smoothed_display
from mi_metrics.functional.densities.doubts import Doubts, Estimate, doubts_about
from mi_metrics.functional.densities.gaussian import (
    NOTHING,
    SINGULAR,
    CountedAxis,
    CountedTable,
    Display,
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
    power_of_two,
    times,
    two_to,
)
from mi_metrics.functional.tensors import chunk_size

# Up to this many samples a cell stands at their mean. With more it does not matter, and takes time.
FEW = 2**16
# Occupied rows and columns are rounded up to a multiple of this, so that pairs share a shape.
BLOCK = 16

# The counts ``(R, *blocks)`` of a run of pairs in the first cells of orders, and what makes it.
_Table = Callable[[slice, tuple[int, int]], Tensor]
_Joint = Callable[[tuple[Tensor, Tensor]], _Table]


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
        for rows in _groups(x, y, size, ranges)
    ]
    values, doubts = zip(*found, strict=True)
    return Estimate(
        torch.cat(values).squeeze(1), Doubts(*map(torch.cat, zip(*doubts, strict=True)))
    )


def kde_joint_from_samples(
    x: Tensor, y: Tensor, bandwidth: Any, size: int, ranges: Ranges
) -> tuple[Tensor, Doubts]:
    """Compute :func:`kde_joint` of R pairs, without its cautions, and the doubts about them."""
    found = [_display(rows, bandwidth, size) for rows in _groups(x, y, size, ranges)]
    displays, doubts, _ = zip(*found, strict=True)
    joint = torch.cat([display.joint for display in displays])
    return joint, Doubts(*map(torch.cat, zip(*doubts, strict=True)))


class _Samples:
    """Samples ``(R, N)`` as they came, their range, their extremes and the powers of two that take
    these off the ends.
    """

    def __init__(self, x: Tensor, y: Tensor, ranges: Ranges) -> None:
        self.pair, self.ranges = (x, y), ranges
        ends, scales = [], []
        for axis, v in enumerate(self.pair):
            lo, hi = (e.double() for e in (v.amin(1, keepdim=True), v.amax(1, keepdim=True)))
            if ranges is not None:
                lo, hi = lo.clamp(*ranges[axis]), hi.clamp(*ranges[axis])
            scales.append(power_of_two(torch.maximum(lo.abs(), hi.abs())))
            ends.append((lo * scales[axis], hi * scales[axis]))
        self.x_ends, self.y_ends = ends
        self.scales = scales[0], scales[1]
        self.n = x.shape[1]
        self.scaled = [bool((s != 1).any()) for s in scales]
        self.whole = next(self._pieces()) if self.n <= chunk_size("densities", x.device) else None

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the scaled samples in float64, in pieces that stay in a core's cache."""
        return self._pieces() if self.whole is None else iter([self.whole])

    def _pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        step = chunk_size("densities", self.pair[0].device)
        for x, y in zip(*(torch.split(v, step, 1) for v in self.pair), strict=True):
            yield self._scale(x, 0), self._scale(y, 1)

    def _scale(self, v: Tensor, axis: int) -> Tensor:
        v = v.double()
        if self.ranges is not None:
            v = v.clamp(*self.ranges[axis])
        return v * self.scales[axis] if self.scaled[axis] else v


def _groups(x: Tensor, y: Tensor, size: int, ranges: Ranges) -> Iterator[_Samples]:
    """Yield pairs in groups that stay in a core's cache."""
    samples, cells = chunk_size("densities", x.device), chunk_size("density tables", x.device)
    step = min(samples // x.shape[1], cells // size**2)
    for pair in zip(torch.split(x, max(step, 1)), torch.split(y, max(step, 1)), strict=True):
        yield _Samples(*pair, ranges)


class _Sums:
    """Second moments of variables, the same to the last bit in any order of the samples.

    Samples are rounded to so few bits that their sums and sums of products are whole numbers below
    2**53: no addition rounds. A million samples are rounded to 2**-16 of half their range, and a
    sum of them less than each.
    """

    def __init__(self, n: int, *ends: tuple[Tensor, Tensor]) -> None:
        self.n = n
        lo, hi = (torch.cat(e, 1).unsqueeze(2) for e in zip(*ends, strict=True))
        self.first, self.second = torch.zeros_like(lo), torch.zeros_like(lo * lo.mT)
        bits = (52 - math.ceil(math.log2(n))) // 2
        self.middle = lo + (hi - lo) / 2
        self.unit = torch.where(hi - lo > NOTHING, (hi - lo) / 2 / 2**bits, 1.0)

    def add(self, *values: Tensor) -> None:
        whole = torch.stack(values, 1).sub_(self.middle).mul_(1 / self.unit).round_()
        self.first = self.first + whole.sum(2, keepdim=True)
        self.second = self.second + whole @ whole.mT

    def covariances(self) -> Tensor:
        """Return the unbiased sample covariances, a matrix for each pair."""
        centred = self.second - self.first * self.first.mT / self.n
        return centred / max(self.n - 1, 1) * self.unit * self.unit.mT


def _sheared(x: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    # Two roundings, not the one of a fused operation, which would depend on a sample's place in the
    # vector.
    return torch.mul(x, -slope).add_(y)


def _sheared_ends(rows: _Samples, slope: Tensor) -> tuple[Tensor, Tensor]:
    ends = []
    for x, y in rows.chunks():
        z = _sheared(x, y, slope)
        ends.append((z.amin(1), z.amax(1)))
    lo, hi = (torch.stack(e, 1) for e in zip(*ends, strict=True))
    return lo.amin(1, keepdim=True), hi.amax(1, keepdim=True)


def _moments(rows: _Samples) -> tuple[Moments, Tensor]:
    """Return also the slope of y over x."""
    sums = _Sums(rows.n, rows.x_ends, rows.y_ends)
    for x, y in rows.chunks():
        sums.add(x, y)
    covariances = sums.covariances()
    vx, vy = (
        torch.where(hi > lo, covariances[:, i : i + 1, i], 0.0)
        for i, (lo, hi) in enumerate((rows.x_ends, rows.y_ends))
    )
    vxy, varies = covariances[:, 1:, 0], (vx > 0) & (vy > 0)
    slope = torch.where(varies, vxy / vx, 0.0)
    unexplained = torch.where(varies, 1 - slope * (vxy / vy), 1.0)
    # 1 - r² of nearly equal variables is a difference of nearly equal numbers; the residuals' own
    # variance is not.
    close = unexplained < 2.0**-10
    if bool(close.any()):
        residuals = _Sums(rows.n, _sheared_ends(rows, slope))
        for x, y in rows.chunks():
            residuals.add(_sheared(x, y, slope))
        direct = (residuals.covariances()[:, 0] / vy).clamp_min(SINGULAR)
        unexplained = torch.where(close, direct, unexplained)
    r = torch.where(varies, torch.copysign((1 - unexplained).sqrt(), vxy), 0.0)
    return Moments(torch.full_like(vx, rows.n), vx, vy, r, unexplained), slope


class _Cells:
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
        return _most(lambda: ((self._locate(v)[0], v) for v in self.values()), self.size)

    def axis(self, n: Tensor) -> CountedAxis:
        """Return the cells with their counts ``(R, size)``; a cell of few samples stands at their
        mean.
        """
        within: Any = 0.5
        if self.place is not None:
            within = torch.where(n > 0, self.place / 2.0**20 / n.clamp_min(1), 0.5)
        return CountedAxis((self.numbers + within) * self.width + self.origin, self.width, n)


def _most(samples: Callable[[], Iterable[tuple[Tensor, Tensor]]], size: int) -> Tensor:
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


def _information(rows: _Samples, bandwidth: Any, size: int) -> Estimate:
    moments, slope = _moments(rows)
    kernel = kernel_of(moments, bandwidth, rows.scales)
    if not isinstance(bandwidth, str):
        slope = kernel.slope
    few = rows.n <= FEW
    x = _Cells(
        lambda: (u for u, _ in rows.chunks()),
        rows.x_ends,
        torch.minimum(kernel.x, kernel.x_alone),
        size,
        few,
    )
    y = _Cells(lambda: (v for _, v in rows.chunks()), rows.y_ends, kernel.y_alone, size, few)
    z = _Cells(
        lambda: (_sheared(u, v, slope) for u, v in rows.chunks()),
        _sheared_ends(rows, slope),
        kernel.residual,
        size,
        few,
    )
    counted = _counted_at_once if rows.whole is not None else _counted_by_chunks
    counts, table = counted(rows, slope, (x, z, y))
    axes = x.axis(counts[0]), z.axis(counts[1]), y.axis(counts[2])

    kernels = (
        line_kernel(axes[0], kernel.x),
        line_kernel(axes[1], kernel.residual),
        line_kernel(axes[0], kernel.x_alone),
        line_kernel(axes[2], kernel.y_alone),
    )
    sums = _sums(table, axes, kernels)
    value = mean_log_density(sums[:, :1], kernels[0].variance * kernels[1].variance, moments.n)
    for i, alone in ((1, kernels[2]), (2, kernels[3])):
        value = value - mean_log_density(sums[:, i : i + 1], alone.variance, moments.n)
    value = torch.where(moments.constant, 0.0, value)
    narrow = torch.cat([k.coarse for k in kernels], 1).any(1, keepdim=True)
    lines = axes[0], axes[2]
    most = x.most, y.most
    doubts = doubts_about(value, moments, kernel, bandwidth, lines, narrow, most)
    return Estimate(value, doubts)


def _counted_at_once(
    rows: _Samples, slope: Tensor, cells: tuple[_Cells, _Cells, _Cells]
) -> tuple[list[Tensor], _Joint]:
    """Return the counts of x, z and y, and the joint one of x and z, of pairs in one chunk."""
    (u, v), (x, z, y) = next(rows.chunks()), cells
    one = torch.ones_like(u)
    at = x.index(u), z.index(_sheared(u, v, slope)), y.index(v)
    counts = [torch.zeros_like(x.numbers).scatter_add_(1, cell, one) for cell in at]

    def joint(orders: tuple[Tensor, Tensor]) -> _Table:
        # Samples are counted where their cell is to stand: a table of all cells is mostly empty.
        row, column = (_places(o).gather(1, cell) for o, cell in zip(orders, at, strict=False))

        def table(pairs: slice, blocks: tuple[int, int]) -> Tensor:
            cell = torch.add(column[pairs], row[pairs], alpha=blocks[1])
            found = one.new_zeros(len(cell), blocks[0] * blocks[1])
            return found.scatter_add_(1, cell, one[pairs]).view(-1, *blocks)

        return table

    return counts, joint


def _counted_by_chunks(
    rows: _Samples, slope: Tensor, cells: tuple[_Cells, _Cells, _Cells]
) -> tuple[list[Tensor], _Joint]:
    """Return what :func:`_counted_at_once` returns, of any number of samples."""
    x, z, y = cells
    size, n_y = x.size, torch.zeros_like(y.numbers)
    whole = n_y.new_zeros(len(n_y), size * size)
    for u, v in rows.chunks():
        cell = x.index(u).mul_(size).add_(z.index(_sheared(u, v, slope)))
        one = torch.ones_like(v)
        whole.scatter_add_(1, cell, one)
        n_y.scatter_add_(1, y.index(v), one)
    whole = whole.view(-1, size, size)

    def joint(orders: tuple[Tensor, Tensor]) -> _Table:
        def table(pairs: slice, blocks: tuple[int, int]) -> Tensor:
            row, column = (o[pairs, :block] for o, block in zip(orders, blocks, strict=True))
            found = whole[pairs].gather(1, row.unsqueeze(2).expand(-1, -1, size))
            found = found.gather(2, column.unsqueeze(1).expand(-1, blocks[0], -1))
            return found

        return table

    return [whole.sum(2), whole.sum(1), n_y], joint


def _places(order: Tensor) -> Tensor:
    """Return the inverse of permutations ``(R, m)``."""
    numbers = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, numbers)


def _sums(
    joint: _Joint,
    axes: tuple[CountedAxis, CountedAxis, CountedAxis],
    kernels: tuple[LineKernel, LineKernel, LineKernel, LineKernel],
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
        others = times(gauss(x.centres, x.centres, in_x.variance), n)
        others = times(others, gauss(z.centres, z.centres, in_z.variance)).sub_(1)
        logs = log_sums(n, others, in_x.own * in_z.own)
        found.append(torch.cat([logs, line_log_sums(x, x_alone), line_log_sums(y, y_alone)], 1))
    return torch.cat(found)


def _alike(
    axes: tuple[CountedAxis, CountedAxis, CountedAxis],
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


def _display(rows: _Samples, bandwidth: Any, size: int) -> tuple[Display, Doubts, Tensor]:
    """Count samples on the display's own cells and smooth them; return also the doubts, and whether
    a variable is constant.
    """
    moments, _ = _moments(rows)
    kernel = kernel_of(moments, bandwidth, rows.scales)
    grids = display_grids((rows.x_ends, rows.y_ends), kernel, rows.ranges, rows.scales, size)

    def cells(values: Tensor, grid: Grid) -> Tensor:
        place = (values - grid.centres[:, :1]) / grid.width
        return place.round_().clamp_(0, size - 1).long()

    def most(axis: int) -> Tensor:
        return _most(lambda: ((cells(c[axis], grids[axis]), c[axis]) for c in rows.chunks()), size)

    counts = kernel.x.new_zeros(len(kernel.x), size * size)
    for u, v in rows.chunks():
        cell = cells(u, grids[0]).mul_(size).add_(cells(v, grids[1]))
        counts.scatter_add_(1, cell, torch.ones_like(u))
    n = counts.view(-1, size, size)
    axes = [
        CountedAxis(g.centres, g.width, m) for g, m in zip(grids, (n.sum(2), n.sum(1)), strict=True)
    ]
    display = smoothed_display(CountedTable(n, axes[0], axes[1], rows.scales), kernel, grids)
    lines = axes[0], axes[1]
    doubts = doubts_about(
        None, moments, kernel, bandwidth, lines, most=(partial(most, 0), partial(most, 1))
    )
    return display, doubts, moments.constant


def _normalized(rows: _Samples, bandwidth: Any, size: int, normalization: str) -> Estimate:
    display, doubts, constant = _display(rows, bandwidth, size)
    return Estimate(normalized_information(display.joint, constant, normalization), doubts)
