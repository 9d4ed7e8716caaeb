r"""Kernel density information of a table that was counted before its covariance was known: the
state of a metric.

See :mod:`mi_metrics.functional.kde` for the estimate itself, and
:mod:`~mi_metrics.functional.densities.sheared` for its sums.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.densities.doubts import Doubts, Estimate, doubts_about
from mi_metrics.functional.densities.gaussian import (
    SINGULAR,
    CountedAxis,
    CountedTable,
    Display,
    Kernel,
    Moments,
    Ranges,
    covering,
    kernel_of,
    normalized_information,
    power_of_two,
)
from mi_metrics.functional.densities.oversmoothed import Blurred, blurred
from mi_metrics.functional.densities.sheared import (
    information_of_table,
    on_circle,
    smoothed,
    smoother_of,
)
from mi_metrics.functional.tables.axis import parse_value_range


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
        return Estimate(nothing, Doubts(*[nothing > 0] * len(Doubts._fields)))
    moments = _moments(table)
    kernel = kernel_of(moments, bandwidth, table.scales)
    value, narrow = torch.zeros_like(moments.n), torch.zeros_like(moments.constant)
    if normalization != "none":
        joint = _display(table, kernel, grid_size, value_range).joint
        value = normalized_information(joint, moments.constant, normalization)
    elif not bool(moments.constant):
        value, narrow = information_of_table(table, kernel)
    nats = value if normalization == "none" else None
    signs = Blurred(*[torch.zeros_like(moments.constant)] * 2)
    if not bool(moments.constant):
        signs = blurred(nats, table, kernel, int(moments.n))
    doubts = doubts_about(nats, moments, kernel, bandwidth, (table.x, table.y), signs, narrow)
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
    smoother = smoother_of(kernel, (table.x.width, table.y.width), (least[0], least[1]))
    x, y = (
        torch.minimum(torch.maximum(a.centres, g.centres[:, :1]), g.centres[:, -1:])
        for a, g in zip(axes, grids, strict=True)
    )
    to_x, to_y = (g.centres for g in grids)
    (line, line_to, period), smoother = on_circle(y, to_y, smoother)
    # The kernel is symmetric: what a cell's kernel has on the grid is what the grid's kernels have
    # at the cell.
    ones = n.new_ones(len(n), to_x.shape[1], to_y.shape[1])
    mass = smoothed(ones, to_x, x, (line_to, line, period), smoother)
    joint = smoothed(
        torch.where(n > 0, n / mass, 0), x, to_x, (line, line_to, period), smoother
    ).clamp_min(0)
    joint = joint / joint.sum(2).sum(1).view(-1, 1, 1)
    edges = [g.edges / scale for g, scale in zip(grids, table.scales, strict=True)]
    return Display(joint, edges[0], edges[1])
