"""Sums of a kernel with the full covariance over the cells of a table that is not sheared.

In Fourier space along y the shear is a phase: for each frequency, one product over x. Frequencies
above the kernel's own need not be visited, and empty stretches of y longer than the kernel are cut
out.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.densities.gaussian import (
    RESOLVED,
    SINGULAR,
    CountedTable,
    Kernel,
    gauss,
    line_kernel,
    line_log_sums,
    log_sums,
    mean_log_density,
    sheppard,
    times,
)

# Beyond this many standard deviations a kernel is nothing beside the rounding of the sum that it is
# added to.
REACH = 9.0
# Frequencies that are summed at once, and the most of them.
FREQUENCIES = 96
MOST_FREQUENCIES = 2**13


# Points of a cell, in cell widths from its centre, and their weight in the mean log density over
# the cell's samples. Of a smooth density the mean is log f - (δ²/24) (log f)'': twice the centre
# less Gauss's mean over the cell.
Stencil = tuple[tuple[tuple[float, ...], float], ...]
CENTRE: Stencil = (((0.0,), 1.0),)
CELL: Stencil = (((0.0,), 2.0), ((-1 / math.sqrt(12), 1 / math.sqrt(12)), -1.0))


class Smoother(NamedTuple):
    """The pair's kernel between cells: deviation on x, slope, deviation of the residual, own
    determinant, floored; each ``(R, 1)``.
    """

    x: Tensor
    slope: Tensor
    residual: Tensor
    own: Tensor
    coarse: Tensor


def smoother_of(
    kernel: Kernel,
    widths: tuple[Tensor, Tensor],
    least: tuple[Tensor, Tensor],
    resolved: float = 0.5,
) -> Smoother:
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
    return Smoother(vx.sqrt(), r * (vy / vx).sqrt(), residual.sqrt(), own, coarse)


def information_of_table(
    table: CountedTable, kernel: Kernel, stencil: Stencil | None = None
) -> tuple[Tensor, Tensor]:
    """Return the information of tables, and whether a kernel was narrower than half a cell; where
    in their cells densities are asked for follows from the cells of a single one, if it is not
    given.
    """
    n, x, y, _ = table
    total = x.n.sum(1, keepdim=True)
    base = smoother_of(kernel, (x.width, y.width), (x.width, y.width), RESOLVED)
    value, coarse = torch.zeros_like(total), base.coarse
    # Cells much smaller than the kernel, as few distinct values have them, are points.
    if stencil is None:
        small = (x.width / base.x) ** 2 + (y.width / base.residual) ** 2 < 1e-3
        stencil = CENTRE if bool(small) else CELL
    for points, weight in stencil:
        px, py = (torch.cat([a.centres + p * a.width for p in points], 1) for a in (x, y))
        circle, smoother = on_circle(y.centres, py, base)
        seen = smoothed(n, x.centres, px, circle, smoother)
        seen = seen.view(len(n), len(points), n.shape[1], len(points), n.shape[2])
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


def on_circle(
    y: Tensor, y_to: Tensor, kernel: Smoother
) -> tuple[tuple[Tensor, Tensor, Tensor], Smoother]:
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


def smoothed(
    n: Tensor, x: Tensor, x_to: Tensor, line: tuple[Tensor, Tensor, Tensor], kernel: Smoother
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
