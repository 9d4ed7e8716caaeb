r"""Mutual information from a joint table of bins.

A sample adds its mass to the joint table. With the hard kernel the whole of it goes to one cell:
:math:`\lfloor (x - lo) B / (hi - lo) \rfloor`, clamped to 0 … B - 1. The soft kernels are B-splines
of order 1 (linear) and 3 (cubic): a sample at :math:`u = (x - lo) B / (hi - lo) - 1/2`, in units of
bins from the first bin's centre, gives the cell at integer :math:`a` the weight :math:`\beta(u -
a)`; what would fall outside 0 … B - 1 is added to the edge cell. B-splines sum to 1 at every u, so
every sample counts once and the table's sum is N, always.

The table is all that the estimate needs and it adds up, over batches, devices and hosts. See
:mod:`mi_metrics.functional.information` for what is computed from it.

When to use: large samples, images, discrete values, anything that must be accumulated. When not:
small samples of strongly dependent continuous variables, where the bins' own width limits what can
be seen.

References:
    C. O. Daub, R. Steuer, J. Selbig, S. Kloska, "Estimating mutual information using B-spline
    functions" (2004), doi:10.1186/1471-2105-5-118. P. Thévenaz, M. Unser, "Optimization of mutual
    information for multiresolution image registration" (2000), doi:10.1109/83.887976.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.cautions import caution
from mi_metrics.functional.information import check_options, information, undersampled
from mi_metrics.functional.options import (
    KERNELS,
    BiasCorrection,
    Binning,
    Kernel,
    Normalization,
    NumBins,
    Unit,
    ValueRange,
    check_choice,
    hints_keywords,
)
from mi_metrics.functional.tables.axis import (
    Axis,
    auto_num_bins,
    check_binning,
    correlation,
    data_axis,
    fixed_axis,
)
from mi_metrics.functional.tables.bspline import CHUNK as CHUNK
from mi_metrics.functional.tables.bspline import chunk_size
from mi_metrics.functional.tables.bspline import chunks as chunks
from mi_metrics.functional.tables.bspline import kernel_matrix as kernel_matrix
from mi_metrics.functional.tables.bspline import soft_counts as soft_counts
from mi_metrics.functional.tensors import (
    cast,
    check_finite,
    paired_rows,
)

# Up to here a chunk is counted in a table of its own and added.
SMALL_TABLE = 2**14


class Table(NamedTuple):
    """A joint table ``(R, B_x, B_y)`` and, where samples have weights, the effective number of
    samples ``(R,)``.
    """

    counts: Tensor
    effective_samples: Tensor | None


@hints_keywords
def binned_mutual_information(
    x: Tensor,
    y: Tensor,
    num_bins: NumBins = 32,
    *,
    value_range: ValueRange = None,
    binning: Binning = "uniform",
    clip_quantile: float = 0.0,
    margin: float = 0.0,
    kernel: Kernel = "hard",
    normalization: Normalization = "none",
    bias_correction: BiasCorrection = "none",
    weights: Tensor | None = None,
    unit: Unit = "nats",
) -> Tensor:
    r"""Compute the mutual information of paired samples from a joint table of bins, in nats or
    bits.

    .. math::
        I = \sum_{ab} p_{ab} \log \frac{p_{ab}}{p_a \, p_b}, \qquad
        p_{ab} = \frac1N \sum_i \beta(u_i - a) \, \beta(v_i - b)

    with β the kernel and u, v the positions of x and y in units of bins.

    Conventions:
        Sign and range: not clamped; 0 … min(log B_x, log B_y) without a bias correction, and below
        0 now and then with one. ``normalization`` and ``bias_correction``: see
        :func:`mutual_information`.
        Symmetric: swapping x and y (and their options) gives the same value.
        Bins: half-open, the last one closed. Samples outside a given range go to the edge bins. The
        formula is evaluated in the input's dtype (half precision in float32, integers and bool in
        float64).
        Ties: equal values share a bin. With ``binning="quantile"`` this makes bins uneven where
        values repeat.
        Constant input: exactly 0; with a soft kernel and a given range up to rounding, and only
        without a correction.
        Bias: too large by about (K_xy - K_x - K_y + 1) / 2N for K occupied cells (with the hard
        kernel a warning says so above 0.1 nats), against the information of the *binned* variables,
        which is itself too small for continuous ones. Of the settings measured on correlated
        Gaussians, ``num_bins="auto", bias_correction="grassberger"`` has a mean error of .05 nats
        and ``num_bins="auto", binning="quantile", bias_correction="miller_madow"`` one of .035.
        With soft kernels ``"miller_madow"`` overcorrects: they occupy cells without samples.
        Gradient: with ``kernel="linear"`` or ``"cubic"``, with respect to x and y; finite
        everywhere, 0 outside the range. Ranges taken from the data are constants to it.
        Memory: B_x · B_y cells per pair and a bounded chunk, for the gradient too; never N · B.
        Exact under splits and ranks: with a given range, the tables of
        :class:`BinnedMutualInformation` add up.

    Args:
        x: Samples of any real dtype, shape ``(..., N)``.
        y: Samples paired with ``x`` by position, shape ``(..., N)``.
        num_bins: Bins of both axes, ``(B_x, B_y)``, or ``"auto"``: 1.5 times Hacine-Gharbi and
            Ravier's number for N and the pair's own correlation, at most 256; each pair of a batch
            has its own.
        value_range: ``None`` (each pair's own minimum and maximum, per axis), ``(lo, hi)`` for both
            axes, or ``((x_lo, x_hi), (y_lo, y_hi))``.
        binning: ``"uniform"`` (equal width) or ``"quantile"`` (equal frequency; hard kernel, no
            ``value_range``).
        clip_quantile: Fraction of samples in [0, 0.5) at each end of each axis that the range
            leaves out; they go to the edge bins. Needs ``value_range=None``.
        margin: Fraction of the range's width that is added at both ends. Needs
            ``value_range=None``.
        kernel: ``"hard"``, ``"linear"`` or ``"cubic"``.
        normalization: ``"none"``, ``"arithmetic"``, ``"geometric"``, ``"min"``, ``"max"``,
            ``"joint"`` or ``"studholme"``.
        bias_correction: ``"none"``, ``"miller_madow"`` (with weights N is (Σw)² / Σw²) or
            ``"grassberger"`` (hard kernel, whole weights).
        weights: Weights ≥ 0 of the samples, shape ``(..., N)``. A weight of 0 excludes a sample,
            from the range too and even if it is NaN.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 of shape ``(...)``.

    Raises:
        TypeError: If x, y or weights are not real tensors, or an option has the wrong type.
        ValueError: If shapes or devices differ, there is no sample, a sample is NaN or infinite,
            weights are negative, not finite or all 0, or an option is unknown, out of its range or
            excludes another.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import binned_mutual_information
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(10_000, generator=generator)
        >>> y = 0.6 * x + 0.8 * torch.randn(10_000, generator=generator)  # truth: 0.2231 nats
        >>> value = binned_mutual_information(x, y, "auto", bias_correction="grassberger")
        >>> print(f"{value:.4f}")
        0.2266

    References:
        C. O. Daub et al., "Estimating mutual information using B-spline functions" (2004),
        doi:10.1186/1471-2105-5-118.
        A. Hacine-Gharbi, P. Ravier, "A binning formula of bi-histogram for joint entropy estimation
        using mean square error minimization" (2018), doi:10.1016/j.patrec.2017.11.007.
    """
    check_options(normalization, bias_correction, unit)
    check_correction(bias_correction, kernel)
    table = _table(x, y, num_bins, value_range, binning, clip_quantile, margin, kernel, weights)
    if kernel == "hard" and bias_correction == "none":
        # Soft kernels occupy cells without samples, and the formula would see a bias that is not
        # there.
        message = undersampled(table.counts, table.effective_samples)
        if message:
            caution("undersampled", message)
    value = information(
        table.counts,
        normalization=normalization,
        bias_correction=bias_correction,
        unit=unit,
        effective_samples=table.effective_samples,
    )
    return value.reshape(x.shape[:-1])


@hints_keywords
def binned_joint(
    x: Tensor,
    y: Tensor,
    num_bins: NumBins = 32,
    *,
    value_range: ValueRange = None,
    binning: Binning = "uniform",
    clip_quantile: float = 0.0,
    margin: float = 0.0,
    kernel: Kernel = "hard",
    weights: Tensor | None = None,
) -> Tensor:
    r"""Compute the joint probability table of paired samples in bins (dimensionless, sums to 1).

    .. math::
        p_{ab} = \frac1N \sum_i \beta(u_i - a) \, \beta(v_i - b)

    Conventions:
        Axis order: the rows are the bins of x, the columns those of y.
        Bins, ties, constant input, gradient, memory and splits: as
        :func:`binned_mutual_information`. A constant variable fills one row (or column). With
        ``num_bins="auto"`` in a batch the smaller tables are padded with empty cells.

    Args:
        x: Samples, shape ``(..., N)``.
        y: Samples paired with ``x`` by position, shape ``(..., N)``.
        num_bins: As in :func:`binned_mutual_information`, and so are all that follow.
        value_range: ``None``, ``(lo, hi)`` or ``((x_lo, x_hi), (y_lo, y_hi))``.
        binning: ``"uniform"`` or ``"quantile"``.
        clip_quantile: Fraction of samples at each end that the range leaves out.
        margin: Fraction of the width that is added at both ends.
        kernel: ``"hard"``, ``"linear"`` or ``"cubic"``.
        weights: Weights ≥ 0, shape ``(..., N)``.

    Returns:
        float64 of shape ``(..., B_x, B_y)``; each table sums to 1.

    Raises:
        TypeError: As :func:`binned_mutual_information`.
        ValueError: As :func:`binned_mutual_information`.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import binned_joint
        >>> x = torch.tensor([0.0, 0.2, 0.7, 1.0])
        >>> y = torch.tensor([0.0, 1.0, 1.0, 1.0])
        >>> binned_joint(x, y, (2, 2)).tolist()
        [[0.25, 0.25], [0.0, 0.5]]

    References:
        C. O. Daub et al., "Estimating mutual information using B-spline functions" (2004),
        doi:10.1186/1471-2105-5-118.
    """
    counts = _table(
        x, y, num_bins, value_range, binning, clip_quantile, margin, kernel, weights
    ).counts.double()
    joint = counts / counts.sum((-2, -1), keepdim=True)
    return joint.reshape(*x.shape[:-1], *joint.shape[-2:])


def check_correction(bias_correction: str, kernel: str) -> None:
    """Refuse Grassberger's correction, which needs whole counts, with a soft kernel."""
    check_choice("kernel", kernel, KERNELS)
    if bias_correction == "grassberger" and kernel != "hard":
        raise ValueError(
            f'`bias_correction="grassberger"` needs whole counts, but kernel={kernel!r} makes '
            f"fractional ones. "
            'Use kernel="hard", or bias_correction="miller_madow".'
        )


def hard_counts(
    x: Tensor,
    y: Tensor,
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    valid: Tensor | None,
    *,
    unchecked: bool = False,
) -> Tensor:
    """Count samples ``(R, N)`` in int64 tables ``(R, B_x, B_y)``; those that are not ``valid``
    count nowhere.

    ``unchecked`` samples are refused if they are NaN or infinite.
    """
    (rows, n), (bx, by) = x.shape, bins
    cells = bx * by
    on_cpu = x.device.type == "cpu"
    if unchecked and not on_cpu:
        check_finite(x, y)
    # The last entry takes the invalid samples: to drop them by a mask would need their number on
    # the host.
    counts = torch.zeros(rows * cells + 1, dtype=torch.int64, device=x.device)
    # Memory that is asked for in every chunk and given back may come with a page fault for each 4
    # kB.
    size = min(rows * n, chunk_size(x.device))
    memory = [torch.empty(size, dtype=axis.lo.dtype, device=x.device) for axis in axes]
    small = on_cpu and counts.numel() <= SMALL_TABLE
    indices = torch.empty(size, dtype=torch.int32 if small else torch.int64, device=x.device)
    # Not expanded from a single one: the scatter reads these 1.7 times faster.
    ones = torch.ones(0 if small else size, dtype=torch.int64, device=x.device)
    for r, c in chunks(rows, n, x.device):
        x_part, y_part = x[r, c], y[r, c]
        # Here, where the chunk is read anyway; a pass of its own over all samples takes a sixth of
        # the whole.
        if unchecked and on_cpu and not bool((x_part.sum() + y_part.sum()).isfinite()):
            check_finite(x, y)
        x_out, y_out, index = (m[: x_part.numel()].view(x_part.shape) for m in (*memory, indices))
        x_cell, y_cell = (
            axes[0].rows(r).cell(x_part, bx, x_out),
            axes[1].rows(r).cell(y_part, by, y_out),
        )
        if cells <= 2**24 and x_cell.dtype == y_cell.dtype:
            # Whole numbers are exact in float32 up to there, and its arithmetic is faster.
            index.copy_(x_cell.mul_(by).add_(y_cell))
        else:
            index = x_cell.long().mul_(by).add_(y_cell.long())
        if rows > 1:
            first = torch.arange(
                r.start, r.start + index.shape[0], dtype=index.dtype, device=x.device
            )
            index = index.add_(first.unsqueeze(1), alpha=cells)
        if valid is not None:
            index = torch.where(valid[r, c], index, rows * cells)
        # Of a mask in another layout `where` takes the layout over.
        flat = index.reshape(-1)
        if small:
            # A quarter faster than to scatter; on other devices it would read its bounds back to
            # the host.
            counts += torch.bincount(flat, minlength=counts.numel())
        else:
            counts.scatter_add_(0, flat, ones[: flat.shape[0]])
    return counts[:-1].view(rows, bx, by)


def _table(
    x: Tensor,
    y: Tensor,
    num_bins: object,
    value_range: object,
    binning: object,
    clip_quantile: float,
    margin: float,
    kernel: str,
    weights: Tensor | None,
) -> Table:
    bins, ranges = check_binning(num_bins, value_range, binning, clip_quantile, margin, kernel)
    hard = kernel == "hard" and weights is None
    # Ranges and bins from the data need to know first; else the counting finds out.
    unchecked = hard and ranges is not None and bins is not None
    x, y, weights = paired_rows(x, y, weights, finite=not unchecked)
    effective = None if weights is None else weights.sum(1).square() / weights.square().sum(1)
    if kernel != "hard":
        x, y = cast(x, torch.float64), cast(y, torch.float64)

    bx, by = _bins_per_row(bins, x, y, weights, effective)
    if ranges is None:
        options = (weights, binning, clip_quantile, margin)
        axes = data_axis(x, bx, *options), data_axis(y, by, *options)
    else:
        axes = (
            fixed_axis(ranges[0], int(bx.max()), x.dtype, x.device)._replace(bins=bx),
            fixed_axis(ranges[1], int(by.max()), y.dtype, y.device)._replace(bins=by),
        )
    shape = int(bx.max()), int(by.max())
    if hard:
        return Table(
            hard_counts(x.detach(), y.detach(), axes, shape, None, unchecked=unchecked), None
        )
    return Table(soft_counts(x, y, axes, shape, kernel, weights), effective)


def _bins_per_row(
    bins: tuple[int, int] | None,
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    effective: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if bins is None:
        n = torch.full((x.shape[0],), x.shape[1], dtype=torch.float64, device=x.device)
        number = auto_num_bins(
            n if effective is None else effective, correlation(x, y, weights)
        ).unsqueeze(1)
        return number.to(x.dtype), number.to(y.dtype)
    bx, by = bins
    return torch.full_like(x[:1, :1], bx), torch.full_like(y[:1, :1], by)
