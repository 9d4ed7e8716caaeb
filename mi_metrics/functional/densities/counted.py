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

from mi_metrics.functional.densities.gaussian import (
    CELL,
    CENTRE,
    FREQUENCIES,
    MARGIN,
    MOST_FREQUENCIES,
    REACH,
    RESOLVED,
    SINGULAR,
    Cells,
    CountedAxis,
    CountedTable,
    Display,
    Estimate,
    Kernel,
    Moments,
    Ranges,
    gauss,
    kernel_of,
    marginal_density,
    mean_log_density,
    normalized_information,
    power_of_two,
    sheppard,
    too_wide,
    with_float64,
)
from mi_metrics.functional.options import Interval
from mi_metrics.functional.tables.axis import parse_value_range


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
    quarters of a cell wide on each axis, and the pair's half a cell along each principal axis
    (``coarse`` where one is narrower than half a cell). Between 256 × 256 cells of Gaussian samples
    the value is within 1e-3 nats of the samples' own for \|r\| ≤ .6, within 5e-3 at .99 and N =
    4900, within 1e-2 at .99 and N = 1000 (the rounding to cells is noise in 1 - r²). A function of
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
        Three scalars: the value in float64, and two flags for :func:`warn_about`.
    """
    table = _counted(counts, x, y)
    value, outliers, coarse = math.nan, False, False
    if table is not None:
        moments = _table_moments(table)
        constant = 1 in table.n.shape
        outliers = too_wide(moments, bandwidth, table.x, table.y)
        if normalization != "none":
            joint = _display(table, moments, bandwidth, grid_size, value_range).joint
            value = normalized_information(joint, constant, normalization)
        elif constant:
            value = 0.0
        else:
            value, coarse = _table_information(table, kernel_of(moments, bandwidth, table.scales))
    device = with_float64(counts).device
    return Estimate(
        torch.tensor(value, dtype=torch.float64, device=device),
        torch.tensor(outliers, device=device),
        torch.tensor(coarse, device=device),
    )


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
        The probabilities ``(G, G)``, the edges of the cells in the units of the data, and the
        outliers' flag.

    Raises:
        ValueError: If the table is empty.
    """
    table = _counted(counts, x, y)
    if table is None:
        raise ValueError(
            "Expected `counts` to hold samples, but they are all 0. Call `update` first."
        )
    return _display(table, _table_moments(table), bandwidth, grid_size, value_range)


def _counted(counts: Tensor, x: Cells, y: Cells) -> CountedTable | None:
    """Return a table of its occupied rows and columns, scaled to sane units; None if it holds no
    samples.
    """
    n = with_float64(counts).double()
    keep = n.sum(1) > 0, n.sum(0) > 0
    if not bool(keep[0].any()):
        return None
    n = n[keep[0]][:, keep[1]]
    axes, scales = [], []
    for cells, kept, mass in zip((x, y), keep, (n.sum(1), n.sum(0)), strict=True):
        centres = with_float64(cells.centres).double()[kept]
        scale = power_of_two(max(float(centres.abs().max()), float(cells.width)))
        axes.append(CountedAxis(centres * scale, float(cells.width) * scale, mass))
        scales.append(scale)
    return CountedTable(n, axes[0], axes[1], (scales[0], scales[1]))


def _table_moments(table: CountedTable) -> Moments:
    n, x, y, _ = table
    total = float(n.sum())
    free = max(total - 1, 1)
    dx, dy = (a.centres - float(a.n @ a.centres) / total for a in (x, y))
    vx, vy, vxy = (
        float(x.n @ dx.square()) / free,
        float(y.n @ dy.square()) / free,
        float(dx @ (n @ dy)) / free,
    )
    # Sheppard's correction supposes a smooth density; of a variable in two or three cells, half is
    # left.
    vx, vy = (
        max(v - a.width**2 / 12, v / 2) if len(a.n) > 1 else 0.0 for v, a in ((vx, x), (vy, y))
    )
    if not (vx > 0 and vy > 0):
        return Moments(total, vx, vy, 0.0, 1.0)
    r = min(max(vxy / math.sqrt(vx) / math.sqrt(vy), -1.0), 1.0)
    return Moments(total, vx, vy, r, max((1 - r) * (1 + r), SINGULAR))


class _Smoother(NamedTuple):
    """The pair's kernel between cells: deviation on x, slope, deviation of the residual, own
    determinant, floored.
    """

    x: float
    slope: float
    residual: float
    own: float
    coarse: bool


def _smoother(
    kernel: Kernel, widths: tuple[float, float], least: tuple[float, float], resolved: float = 0.5
) -> _Smoother:
    """Take the cells' variance off the pair's kernel.

    At least half a cell is left along each principal axis, and ``resolved`` cells on the axes of
    the table.
    """
    vx, coarse_x = sheppard(kernel.x, widths[0], least[0], resolved)
    vy, coarse_y = sheppard(kernel.y, widths[1], least[1], resolved)
    r = min(max(kernel.r * (kernel.x / math.sqrt(vx)) * (kernel.y / math.sqrt(vy)), -1.0), 1.0)
    # In units of the kernel the principal axes are the diagonals, and their variances 1 + r and 1 -
    # r.
    floor = (least[0] ** 2 / vx + least[1] ** 2 / vy) / 8
    coarse = coarse_x or coarse_y or 1 - abs(r) < floor
    up, down = max(1 + r, floor), max(1 - r, floor)
    vx, vy = vx * (up + down) / 2, vy * (up + down) / 2
    r = (up - down) / (up + down)
    residual = vy * max(4 * up * down / (up + down) ** 2, SINGULAR)
    own = (
        vx * residual
        + (vx * widths[1] ** 2 + vy * widths[0] ** 2) / 12
        + (widths[0] * widths[1] / 12) ** 2
    )
    return _Smoother(math.sqrt(vx), r * math.sqrt(vy / vx), math.sqrt(residual), own, coarse)


def _table_information(table: CountedTable, kernel: Kernel) -> tuple[float, bool]:
    n, x, y, _ = table
    total = float(n.sum())
    occupied = n > 0
    counts = n[occupied]
    base = _smoother(kernel, (x.width, y.width), (x.width, y.width), RESOLVED)
    value, coarse = 0.0, base.coarse
    # Cells much smaller than the kernel, as few distinct values have them, are points.
    fine = (x.width / base.x) ** 2 + (y.width / base.residual) ** 2 < 1e-3
    for points, weight in CENTRE if fine else CELL:
        px, py = (torch.cat([a.centres + p * a.width for p in points]) for a in (x, y))
        line, smoother = _line(y.centres, py, base)
        seen = _smooth(n, x.centres, px, line, smoother).view(
            len(points), len(x.n), len(points), len(y.n)
        )
        determinant = (smoother.x * smoother.residual) ** 2
        for i, p in enumerate(points):
            for j, q in enumerate(points):
                dx, dy = p * x.width, q * y.width
                distance = (dx / smoother.x) ** 2 + (
                    (dy - smoother.slope * dx) / smoother.residual
                ) ** 2
                others = seen[i, :, j][occupied] - math.exp(-distance / 2)
                density = mean_log_density(counts, others, determinant, smoother.own, total)
                value += weight / len(points) ** 2 * density
        coarse = coarse or smoother.coarse
    for axis, h in ((x, kernel.x_alone), (y, kernel.y_alone)):
        alone, coarse_alone = marginal_density(axis, h, total, CENTRE if fine else CELL)
        value, coarse = value - alone, coarse or coarse_alone
    return value, coarse


class _Grid(NamedTuple):
    """Regular cells of a display: edges ``(G + 1,)``, centres ``(G,)``, width."""

    edges: Tensor
    centres: Tensor
    width: float


def display_grids(
    ends: tuple[Interval, Interval],
    kernel: Kernel,
    ranges: Ranges,
    scales: tuple[float, float],
    size: int,
    device: torch.device,
) -> tuple[_Grid, _Grid]:
    """Return the cells of a display: of the given ranges, or of the data's with room for the
    kernels.
    """
    grids = []
    for axis, h in enumerate((kernel.x, kernel.y)):
        lo, hi = ends[axis]
        # A constant far from 0 would not see the room.
        room = MARGIN * max(h, 2.0**-40 * max(abs(lo), abs(hi)))
        lo, hi = lo - room, hi + room
        if ranges is not None:
            lo, hi = (min(max(e * scales[axis], -(2.0**200)), 2.0**200) for e in ranges[axis])
        width = (hi - lo) / size
        edges = lo + torch.arange(size + 1, dtype=torch.float64, device=device) * width
        grids.append(_Grid(edges, edges[:-1] + width / 2, width))
    return grids[0], grids[1]


def _display(
    table: CountedTable, moments: Moments, bandwidth: Any, size: int, value_range: Any
) -> Display:
    kernel = kernel_of(moments, bandwidth, table.scales)
    x_ends, y_ends = (
        (float(a.centres[0]) - a.width / 2, float(a.centres[-1]) + a.width / 2)
        for a in (table.x, table.y)
    )
    ranges = parse_value_range(value_range)
    grids = display_grids((x_ends, y_ends), kernel, ranges, table.scales, size, table.n.device)
    return smoothed_display(table, kernel, grids, too_wide(moments, bandwidth, table.x, table.y))


def smoothed_display(
    table: CountedTable, kernel: Kernel, grids: tuple[_Grid, _Grid], outliers: bool
) -> Display:
    """Smooth a table onto a regular grid; what a kernel has outside of the grid is given back to
    its inside.
    """
    n, axes = table.n, (table.x, table.y)
    least = [max(a.width, g.width) for a, g in zip(axes, grids, strict=True)]
    smoother = _smoother(kernel, (table.x.width, table.y.width), (least[0], least[1]))
    x, y = (a.centres.clamp(g.centres[0], g.centres[-1]) for a, g in zip(axes, grids, strict=True))
    to_x, to_y = (g.centres for g in grids)
    (line, line_to, period), smoother = _line(y, to_y, smoother)
    # The kernel is symmetric: what a cell's kernel has on the grid is what the grid's kernels have
    # at the cell.
    mass = _smooth(n.new_ones(len(to_x), len(to_y)), to_x, x, (line_to, line, period), smoother)
    joint = _smooth(
        torch.where(n > 0, n / mass, 0), x, to_x, (line, line_to, period), smoother
    ).clamp_min(0)
    edges = [g.edges / scale for g, scale in zip(grids, table.scales, strict=True)]
    return Display(joint / joint.sum(), edges[0], edges[1], outliers)


def _line(
    y: Tensor, y_to: Tensor, kernel: _Smoother
) -> tuple[tuple[Tensor, Tensor, float], _Smoother]:
    """Place two sets of positions on a circle on which no kernel reaches further than on the line.

    Returns the positions, the circumference, and the kernel: one narrower than the greatest number
    of frequencies can tell is taken at the width that it can.
    """
    reach = REACH * (abs(kernel.slope) * kernel.x + kernel.residual)
    ordered, order = torch.cat([y, y_to]).sort(stable=True)
    # Across an empty stretch longer than this nobody sees anybody, however long it is.
    steps = ordered.diff().clamp_max(reach)
    line = torch.empty_like(ordered)
    # On the CPU: a cumulative sum of floats is not deterministic on CUDA.
    line[order] = torch.nn.functional.pad(steps.cpu().cumsum(0), (1, 0)).to(y.device)
    period = float(line.max()) + reach
    least = REACH * period / (2 * math.pi * MOST_FREQUENCIES)
    if kernel.residual < least:
        own = kernel.own + (least**2 - kernel.residual**2) * kernel.x**2
        kernel = kernel._replace(residual=least, own=own, coarse=True)
    return (line[: len(y)], line[len(y) :], period), kernel


def _smooth(
    n: Tensor, x: Tensor, x_to: Tensor, line: tuple[Tensor, Tensor, float], kernel: _Smoother
) -> Tensor:
    r"""Sum the pair's kernels, 1 at distance 0, of counts at (x, y) over the points of a grid (x',
    y').

    .. math::
        \sum_{ij} n_{ij} \, K(x' - x_i) \, K_r(y' - y_j - s (x' - x_i))
        = \sum_k \hat K_r(k) \, e^{i k (y' - s x')}
        \sum_i K(x' - x_i) \, e^{i k s x_i} \sum_j n_{ij} \, e^{-i k y_j}
    """
    y, y_to, period = line
    distance = torch.sub(x_to.unsqueeze(1), x)
    # Beyond the reach the circle has no room for the shear.
    blur = gauss(x_to, x, kernel.x**2) * (distance.abs_() <= REACH * kernel.x)
    number = math.ceil(REACH * period / (2 * math.pi * kernel.residual))
    total = n.new_zeros(len(x_to), len(y_to))
    for first in range(0, number + 1, FREQUENCIES):
        m = torch.arange(
            first, min(first + FREQUENCIES, number + 1), dtype=n.dtype, device=n.device
        )
        k = m * (2 * math.pi / period)
        weight = torch.where(m > 0, 2.0, 1.0) * torch.exp(k.square() * (-(kernel.residual**2) / 2))
        spectrum = _times(n, _phase(-y, k)) * _phase(kernel.slope * x, k)
        spectrum = _times(blur, spectrum) * (_phase(-kernel.slope * x_to, k) * weight)
        total += (
            torch.view_as_real(spectrum).flatten(1)
            @ torch.view_as_real(_phase(-y_to, k)).flatten(1).mT
        )
    return total * (kernel.residual * math.sqrt(2 * math.pi) / period)


def _phase(position: Tensor, k: Tensor) -> Tensor:
    angle = torch.outer(position, k)
    return torch.polar(torch.ones_like(angle), angle)


def _times(real: Tensor, spectrum: Tensor) -> Tensor:
    product = real @ torch.view_as_real(spectrum).flatten(1)
    return torch.view_as_complex(product.view(len(real), -1, 2))
