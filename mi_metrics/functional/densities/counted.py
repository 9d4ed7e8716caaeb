r"""Kernel density information of a table that was counted before its covariance was known: the
state of a metric.

Such a table cannot be sheared. The kernel, which has the full covariance, is summed in Fourier
space along y, where the shear is a phase: for each frequency, one product over x. Frequencies above
the kernel's own need not be visited, and empty stretches of y longer than the kernel are cut out.
See :mod:`mi_metrics.functional.kde` for the estimate itself.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.densities.doubts import Doubts, Estimate, doubts_about
from mi_metrics.functional.densities.gaussian import (
    RESOLVED,
    SINGULAR,
    CountedAxis,
    CountedTable,
    Display,
    Kernel,
    Moments,
    Ranges,
    covering,
    gauss,
    kernel_of,
    line_kernel,
    line_log_sums,
    log_sums,
    mean_log_density,
    normalized_information,
    power_of_two,
    sheppard,
    times,
)
from mi_metrics.functional.tables.axis import parse_value_range

# Beyond this many standard deviations a kernel is nothing beside the rounding of the sum that it is
# added to.
REACH = 9.0
# Frequencies that are summed at once, and the most of them.
FREQUENCIES = 96
MOST_FREQUENCIES = 2**13


# Points of a cell, in cell widths from its centre, and their weight in the mean log density over
# the cell's samples. Of a smooth density the mean is log f - (δ²/24) (log f)'': twice the centre
# less Gauss's mean over the cell.
CENTRE = (((0.0,), 1.0),)
CELL = (((0.0,), 2.0), ((-1 / math.sqrt(12), 1 / math.sqrt(12)), -1.0))


class Cells(NamedTuple):
    """The cells of one axis: their centres ``(m,)`` in ascending order, gaps allowed, and their
    common width.
    """

    centres: Tensor
    width: float


def kde_from_table(
    counts: Tensor,
    x: Cells,
    y: Cells,
    bandwidth: Any = "silverman",
    grid_size: int = 256,
    value_range: Any = None,
    normalization: str = "none",
) -> Estimate:
    r"""Compute :func:`kde_mutual_information` from a table of counts, without warnings: in nats, or
    normalised.

    For tables that were counted before the covariance was known. The sums run between the occupied
    cells. Moments come from the table, with Sheppard's correction; the mean log density over a cell
    is :math:`\log f - (\delta^2 / 24) (\log f)''`, by differences; kernels are at least three
    quarters of a cell wide on each axis, and the pair's half a cell along each principal axis.
    Between 256 × 256 cells of Gaussian samples the value is within 1e-3 nats of the samples' own
    for \|r\| ≤ 0.6, within 5e-3 at 0.99 and N = 4900, within 1e-2 at 0.99 and N = 1000 (the
    rounding to cells is noise in 1 - r²). A function of
    the counts alone: the same bits for any order in which they were added. No counts: NaN. One
    occupied row or column: 0.

    Args:
        counts: Counts of any real dtype, shape ``(m_x, m_y)``; x has the rows. Empty rows and
            columns do not matter.
        x: The cells of the rows: finite centres ``(m_x,)`` in ascending order, and one width ≥ 0.
        y: The cells of the columns, likewise.
        bandwidth: As in :func:`kde_mutual_information`, and so are all that follow.
        grid_size: Cells per axis of the display that a normalised value is taken from.
        value_range: The display's range.
        normalization: ``"none"``, or a form of :func:`mutual_information`.

    Returns:
        The value, a float64 scalar, and the doubts about it.
    """
    table = _counted(counts, x, y)
    if table is None:
        nothing = torch.full((), math.nan, dtype=torch.float64, device=counts.device)
        return Estimate(nothing, Doubts(*[nothing > 0] * 4))
    moments = _moments(table)
    kernel = kernel_of(moments, bandwidth, table.scales)
    value, narrow = torch.zeros_like(moments.n), torch.zeros_like(moments.constant)
    if normalization != "none":
        joint = _display(table, kernel, grid_size, value_range).joint
        value = normalized_information(joint, moments.constant, normalization)
    elif not bool(moments.constant):
        value, narrow = _information(table, kernel)
    nats = value if normalization == "none" else None
    doubts = doubts_about(nats, moments, kernel, bandwidth, (table.x, table.y), narrow)
    return Estimate(value.squeeze(), doubts)


def kde_joint_from_table(
    counts: Tensor,
    x: Cells,
    y: Cells,
    bandwidth: Any = "silverman",
    grid_size: int = 256,
    value_range: Any = None,
) -> Display:
    """Compute :func:`kde_joint` from a table of counts as :func:`kde_from_table` takes them,
    without warnings.

    Returns:
        The probabilities ``(G, G)``, and the edges of the cells in the units of the data.

    Raises:
        ValueError: If the table is empty.
    """
    table = _counted(counts, x, y)
    if table is None:
        raise ValueError(
            "Expected `counts` to hold samples, but they are all 0. Call `update` first."
        )
    kernel = kernel_of(_moments(table), bandwidth, table.scales)
    display = _display(table, kernel, grid_size, value_range)
    return Display(*(part.squeeze(0) for part in display))


def _counted(counts: Tensor, x: Cells, y: Cells) -> CountedTable | None:
    """Return a table of its occupied rows and columns, scaled to sane units; None if it holds no
    samples.
    """
    n = counts.double()
    kept = [n.sum(axis).nonzero().squeeze(1) for axis in (1, 0)]
    if len(kept[0]) == 0:
        return None
    n = n[kept[0]][:, kept[1]].unsqueeze(0)
    axes, scales = [], []
    for cells, places, mass in zip((x, y), kept, (n.sum(2), n.sum(1)), strict=True):
        centres = cells.centres.double()[places].unsqueeze(0)
        width = torch.full_like(centres[:, :1], float(cells.width))
        scale = power_of_two(torch.maximum(centres.abs().amax(1, keepdim=True), width))
        axes.append(CountedAxis(centres * scale, width * scale, mass))
        scales.append(scale)
    return CountedTable(n, axes[0], axes[1], (scales[0], scales[1]))


def _moments(table: CountedTable) -> Moments:
    n, x, y, _ = table
    total = x.n.sum(1, keepdim=True)
    free = (total - 1).clamp_min(1)
    dx, dy = (a.centres - (a.n * a.centres).sum(1, keepdim=True) / total for a in (x, y))
    vxy = (dx * (n * dy.unsqueeze(1)).sum(2)).sum(1, keepdim=True) / free
    variances = []
    for d, a in ((dx, x), (dy, y)):
        v = (a.n * d.square()).sum(1, keepdim=True) / free
        # Sheppard's correction supposes a smooth density; of a variable in two or three cells, half
        # is left.
        v = torch.maximum(v - a.width.square() / 12, v / 2)
        variances.append(v if a.n.shape[1] > 1 else torch.zeros_like(v))
    vx, vy = variances
    varies = (vx > 0) & (vy > 0)
    r = torch.where(varies, (vxy / vx.sqrt() / vy.sqrt()).clamp(-1, 1), 0.0)
    return Moments(total, vx, vy, r, ((1 - r) * (1 + r)).clamp_min(SINGULAR))


class _Smoother(NamedTuple):
    """The pair's kernel between cells: deviation on x, slope, deviation of the residual, own
    determinant, floored; each ``(R, 1)``.
    """

    x: Tensor
    slope: Tensor
    residual: Tensor
    own: Tensor
    coarse: Tensor


def _smoother(
    kernel: Kernel,
    widths: tuple[Tensor, Tensor],
    least: tuple[Tensor, Tensor],
    resolved: float = 0.5,
) -> _Smoother:
    """Take the cells' variance off the pair's kernel.

    At least half a cell is left along each principal axis, and ``resolved`` cells on the axes of
    the table.
    """
    vx, coarse_x = sheppard(kernel.x, widths[0], least[0], resolved)
    vy, coarse_y = sheppard(kernel.y, widths[1], least[1], resolved)
    r = (kernel.r * (kernel.x / vx.sqrt()) * (kernel.y / vy.sqrt())).clamp(-1, 1)
    # In units of the kernel the principal axes are the diagonals, and their variances 1 + r and 1 -
    # r.
    floor = (least[0].square() / vx + least[1].square() / vy) / 8
    coarse = coarse_x | coarse_y | (1 - r.abs() < floor)
    up, down = torch.maximum(1 + r, floor), torch.maximum(1 - r, floor)
    vx, vy = vx * (up + down) / 2, vy * (up + down) / 2
    r = (up - down) / (up + down)
    residual = vy * (4 * up * down / (up + down).square()).clamp_min(SINGULAR)
    own = (
        vx * residual
        + (vx * widths[1].square() + vy * widths[0].square()) / 12
        + (widths[0] * widths[1] / 12).square()
    )
    return _Smoother(vx.sqrt(), r * (vy / vx).sqrt(), residual.sqrt(), own, coarse)


def _information(table: CountedTable, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Return the information of one table, and whether a kernel was narrower than half a cell."""
    n, x, y, _ = table
    total = x.n.sum(1, keepdim=True)
    base = _smoother(kernel, (x.width, y.width), (x.width, y.width), RESOLVED)
    value, coarse = torch.zeros_like(total), base.coarse
    # Cells much smaller than the kernel, as few distinct values have them, are points.
    stencil = (
        CENTRE if bool((x.width / base.x) ** 2 + (y.width / base.residual) ** 2 < 1e-3) else CELL
    )
    for points, weight in stencil:
        px, py = (torch.cat([a.centres + p * a.width for p in points], 1) for a in (x, y))
        circle, smoother = _line(y.centres, py, base)
        seen = _smooth(n, x.centres, px, circle, smoother)
        seen = seen.view(1, len(points), n.shape[1], len(points), n.shape[2])
        determinant = (smoother.x * smoother.residual).square()
        for i, p in enumerate(points):
            for j, q in enumerate(points):
                dx, dy = p * x.width, q * y.width
                distance = (dx / smoother.x).square() + (
                    (dy - smoother.slope * dx) / smoother.residual
                ).square()
                others = seen[:, i, :, j] - (-distance / 2).exp().unsqueeze(2)
                logs = log_sums(n, others, (determinant / smoother.own).sqrt())
                density = mean_log_density(logs, determinant, total)
                value = value + weight / len(points) ** 2 * density
        coarse = coarse | smoother.coarse
    for axis, h in ((x, kernel.x_alone), (y, kernel.y_alone)):
        line = line_kernel(axis, h)
        logs = torch.zeros_like(total)
        for points, weight in stencil:
            for p in points:
                logs = logs + weight / len(points) * line_log_sums(axis, line, p * axis.width)
        value = value - mean_log_density(logs, line.variance, total)
        coarse = coarse | line.coarse
    return value, coarse


class Grid(NamedTuple):
    """Regular cells of a display: edges ``(R, G + 1)``, centres ``(R, G)``, width ``(R, 1)``."""

    edges: Tensor
    centres: Tensor
    width: Tensor


def display_grids(
    ends: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
    kernel: Kernel,
    ranges: Ranges,
    scales: tuple[Tensor, Tensor],
    size: int,
) -> tuple[Grid, Grid]:
    """Return the cells of a display: of the given ranges, or of the data's with room for the
    kernels.
    """
    grids = []
    for axis, h in enumerate((kernel.x, kernel.y)):
        lo, hi = covering(ends[axis], h)
        if ranges is not None:
            lo, hi = ((scales[axis] * e).clamp(-(2.0**200), 2.0**200) for e in ranges[axis])
        width = (hi - lo) / size
        edges = lo + torch.arange(size + 1, dtype=torch.float64, device=h.device) * width
        grids.append(Grid(edges, edges[:, :-1] + width / 2, width))
    return grids[0], grids[1]


def _display(table: CountedTable, kernel: Kernel, size: int, value_range: Any) -> Display:
    x_ends, y_ends = (
        (a.centres[:, :1] - a.width / 2, a.centres[:, -1:] + a.width / 2)
        for a in (table.x, table.y)
    )
    grids = display_grids(
        (x_ends, y_ends), kernel, parse_value_range(value_range), table.scales, size
    )
    return smoothed_display(table, kernel, grids)


def smoothed_display(table: CountedTable, kernel: Kernel, grids: tuple[Grid, Grid]) -> Display:
    """Smooth tables onto regular grids; what a kernel has outside of the grid is given back to its
    inside.
    """
    n, axes = table.n, (table.x, table.y)
    least = [torch.maximum(a.width, g.width) for a, g in zip(axes, grids, strict=True)]
    smoother = _smoother(kernel, (table.x.width, table.y.width), (least[0], least[1]))
    x, y = (
        torch.minimum(torch.maximum(a.centres, g.centres[:, :1]), g.centres[:, -1:])
        for a, g in zip(axes, grids, strict=True)
    )
    to_x, to_y = (g.centres for g in grids)
    (line, line_to, period), smoother = _line(y, to_y, smoother)
    # The kernel is symmetric: what a cell's kernel has on the grid is what the grid's kernels have
    # at the cell.
    ones = n.new_ones(len(n), to_x.shape[1], to_y.shape[1])
    mass = _smooth(ones, to_x, x, (line_to, line, period), smoother)
    joint = _smooth(
        torch.where(n > 0, n / mass, 0), x, to_x, (line, line_to, period), smoother
    ).clamp_min(0)
    joint = joint / joint.sum(2).sum(1).view(-1, 1, 1)
    edges = [g.edges / scale for g, scale in zip(grids, table.scales, strict=True)]
    return Display(joint, edges[0], edges[1])


def _line(
    y: Tensor, y_to: Tensor, kernel: _Smoother
) -> tuple[tuple[Tensor, Tensor, Tensor], _Smoother]:
    """Place two sets of positions on a circle on which no kernel reaches further than on the line.

    Returns the positions, the circumference, and the kernel: one narrower than the greatest number
    of frequencies can tell is taken at the width that it can.
    """
    reach = REACH * (kernel.slope.abs() * kernel.x + kernel.residual)
    ordered, order = torch.cat([y, y_to], 1).sort(dim=1, stable=True)
    # Across an empty stretch longer than this no two kernels overlap, however long the gap.
    steps = torch.minimum(ordered.diff(dim=1), reach)
    # On the CPU: a cumulative sum of floats is not deterministic on CUDA.
    ordered = torch.nn.functional.pad(steps.cpu().cumsum(1), (1, 0)).to(y.device)
    line = torch.empty_like(ordered).scatter_(1, order, ordered)
    period = ordered[:, -1:] + reach
    least = REACH * period / (2 * math.pi * MOST_FREQUENCIES)
    wider = kernel.residual < least
    own = kernel.own + (least.square() - kernel.residual.square()) * kernel.x.square()
    kernel = kernel._replace(
        residual=torch.where(wider, least, kernel.residual),
        own=torch.where(wider, own, kernel.own),
        coarse=kernel.coarse | wider,
    )
    return (line[:, : y.shape[1]], line[:, y.shape[1] :], period), kernel


def _smooth(
    n: Tensor, x: Tensor, x_to: Tensor, line: tuple[Tensor, Tensor, Tensor], kernel: _Smoother
) -> Tensor:
    r"""Sum the pair's kernels, 1 at distance 0, of counts at (x, y) over the points of a grid (x',
    y').

    .. math::
        \sum_{ij} n_{ij} \, K(x' - x_i) \, K_r(y' - y_j - s (x' - x_i))
        = \sum_k \hat K_r(k) \, e^{i k (y' - s x')}
        \sum_i K(x' - x_i) \, e^{i k s x_i} \sum_j n_{ij} \, e^{-i k y_j}
    """
    y, y_to, period = line
    # The phase of positions far from 0 would be rounded.
    x, x_to = x - x[:, :1], x_to - x[:, :1]
    distance = torch.sub(x_to.unsqueeze(2), x.unsqueeze(1))
    # Beyond the reach the circle has no room for the shear.
    reach = (REACH * kernel.x).unsqueeze(2)
    blur = gauss(x_to, x, kernel.x.square()) * (distance.abs_() <= reach)
    number = (REACH * period / (2 * math.pi * kernel.residual)).ceil()
    total = n.new_zeros(len(n), x_to.shape[1], y_to.shape[1])
    for first in range(0, int(number.max()) + 1, FREQUENCIES):
        m = torch.arange(first, first + FREQUENCIES, dtype=n.dtype, device=n.device)
        k = m * (2 * math.pi / period)
        weight = (k * kernel.residual).square_().mul_(-0.5).clamp_min_(-100).exp_()
        weight = torch.where(m > number, 0.0, torch.where(m > 0, 2.0, 1.0) * weight).unsqueeze(1)
        spectrum = _transformed(n, _phase(-y, k)) * _phase(kernel.slope * x, k)
        spectrum = _transformed(blur, spectrum) * (_phase(-kernel.slope * x_to, k) * weight)
        total += times(
            torch.view_as_real(spectrum).flatten(2),
            torch.view_as_real(_phase(-y_to, k)).flatten(2).mT,
        )
    return total * (kernel.residual * math.sqrt(2 * math.pi) / period).unsqueeze(2)


def _phase(position: Tensor, k: Tensor) -> Tensor:
    angle = position.unsqueeze(2) * k.unsqueeze(1)
    # The polar form takes seven times as long.
    return torch.complex(angle.cos(), angle.sin())


def _transformed(real: Tensor, spectrum: Tensor) -> Tensor:
    product = times(real, torch.view_as_real(spectrum).flatten(2))
    return torch.view_as_complex(product.view(*product.shape[:2], -1, 2))
