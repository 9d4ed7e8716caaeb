"""B-splines of a sample's place on an axis: their values, slopes and cells."""

import torch
from torch import Tensor

from mi_metrics.functional.tables.axis import Axis

# Cells of an axis that a sample reaches. An axis of one bin has nothing to share out; "inner" is
# the cubic spline of samples that reach no cell outside of the bins.
SUPPORT = {"hard": 1, "single": 1, "linear": 2, "cubic": 4, "inner": 4}


def margin(kernel: str) -> int:
    """Return how many cells a kernel has outside of the bins."""
    return SUPPORT[kernel] if kernel in ("linear", "cubic") else 0


def along(kernel: str, bins: int) -> str:
    """Return the kernel along an axis of a number of bins."""
    return "single" if bins == 1 and kernel != "hard" else kernel


def locate(x: Tensor, axis: Axis, kernel: str) -> tuple[Tensor, Tensor]:
    """Return the first cell that samples reach, counted from the margin's start, and their place 0
    … 1 after it.
    """
    if kernel == "single":
        nothing = torch.zeros_like(x, dtype=torch.float64)
        return nothing, nothing
    if kernel == "hard":
        cell = axis.cell(x).double()
        return cell, torch.zeros_like(cell)
    return place(axis.position(x), axis, kernel)


def place(position: Tensor, axis: Axis, kernel: str) -> tuple[Tensor, Tensor]:
    """Return what :func:`locate` does, for positions in units of bins and a soft kernel."""
    if kernel == "single":
        nothing = torch.zeros_like(position)
        return nothing, nothing
    if kernel == "inner":
        u = position.clamp_min(1.5).minimum(axis.bins - 1.5 - 2.0**-20) - 1.5
    else:
        u = position.clamp_min(0).minimum(axis.bins) + 0.5
    first = u.detach().floor()
    # NaN is no index. It stays in the place, and so it comes to its own table.
    return first.nan_to_num(), u - first


def slope(axis: Axis, dtype: torch.dtype) -> Tensor:
    """Return dt/dx, bins per unit of x, for samples of a dtype, ``(R, 1)``."""
    bins_per_unit = axis.bins / axis.width
    if axis.scale is not None:
        bins_per_unit = bins_per_unit * axis.scale
    # In a range of 1e-38 the gradient is too large for the input's dtype; an infinite one would
    # stop the training.
    most = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).max * 2.0**-10
    return bins_per_unit.clamp_max(most)


def slope_inside(position: Tensor, axis: Axis, dtype: torch.dtype) -> Tensor:
    """Return the slope for samples within the range, and 0 for those outside."""
    # With a single bin the weights' slopes add up to 0, and this makes it an exact one.
    # The position (x - lo) B / width of the sample at the upper end may be rounded to more than B.
    below = position <= axis.bins * (1 + 2.0**-50)
    return slope(axis, dtype) * ((position >= 0) & below & (axis.bins > 1))


def weights(t: Tensor, kernel: str) -> list[Tensor]:
    """Return the B-spline's values at the cells that a sample reaches, in ascending order of the
    cells.
    """
    if SUPPORT[kernel] == 1:
        return [torch.ones_like(t)]
    s = 1 - t
    if kernel == "linear":
        return [s, t]
    s2, t2 = s * s, t * t
    s3, t3 = s2 * s, t2 * t
    return [
        s3 * (1 / 6),
        (t3 * 0.5).sub_(t2).add_(2 / 3),
        (s3 * 0.5).sub_(s2).add_(2 / 3),
        t3 * (1 / 6),
    ]


def slopes(t: Tensor, kernel: str) -> list[Tensor]:
    """Return the derivatives of the weights."""
    if SUPPORT[kernel] == 1:
        return [torch.zeros_like(t)]
    if kernel == "linear":
        one = torch.ones_like(t)
        return [-one, one]
    s = 1 - t
    s2, t2 = s * s, t * t
    return [s2 * -0.5, (1.5 * t2).sub_(t, alpha=2), (-1.5 * s2).add_(s, alpha=2), t2 * 0.5]


def dense(v: Tensor, cells: int, kernel: str) -> Tensor:
    """Return the weights ``(r, n, cells)`` of all cells, the margin included, for first cell plus
    place ``(r, n)``.
    """
    columns = torch.arange(cells, dtype=v.dtype, device=v.device)
    if SUPPORT[kernel] == 1:
        return (v.unsqueeze(-1) == columns).to(v.dtype)
    if kernel == "linear":
        return (1 - (v.unsqueeze(-1) - columns).abs_()).clamp_min_(0)
    distance = (v.unsqueeze(-1) - (columns - 1)).abs_()
    inner, outer = (1 - distance).clamp_min_(0), (2 - distance).clamp_min_(0)
    return (outer * outer * outer).sub_(inner * inner * inner, alpha=4).div_(6)


def spread(first: Tensor, values: list[Tensor], cells: int) -> Tensor:
    """Return a matrix ``(r, n, cells)`` of values in consecutive cells from the first one on."""
    offset = torch.arange(cells, dtype=first.dtype, device=first.device) - first.unsqueeze(-1)
    total = (offset == 0) * values[0].unsqueeze(-1)
    for k in range(1, len(values)):
        total = total + (offset == k) * values[k].unsqueeze(-1)
    return total


def folded(
    table: Tensor, axes: tuple[Axis, Axis], bins: tuple[int, int], kernels: tuple[str, str]
) -> Tensor:
    """Add the margins' cells of tables to the edge cells."""
    if margin(kernels[0]) > 0:
        table = fold(axes[0], bins[0], kernels[0]) @ table
    return table @ fold(axes[1], bins[1], kernels[1]).mT if margin(kernels[1]) > 0 else table


def unfolded(table: Tensor, axes: tuple[Axis, Axis], kernels: tuple[str, str]) -> Tensor:
    """Return tables with the margins' cells, as copies of the edge cells."""
    bins = table.shape[1:]
    if margin(kernels[0]) > 0:
        table = fold(axes[0], bins[0], kernels[0]).mT @ table
    return table @ fold(axes[1], bins[1], kernels[1]) if margin(kernels[1]) > 0 else table


def fold(axis: Axis, bins: int, kernel: str) -> Tensor:
    """Return the matrix ``(R, B, B + margin)`` of zeros and ones that adds the margin's cells to
    the edge cells.
    """
    columns = torch.arange(bins + margin(kernel), dtype=torch.float64, device=axis.bins.device)
    target = (columns - margin(kernel) // 2).clamp_min(0).minimum(axis.bins.double() - 1)
    return (target.unsqueeze(1) == torch.arange(bins, device=target.device).unsqueeze(1)).double()
