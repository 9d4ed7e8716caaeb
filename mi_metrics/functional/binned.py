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

from collections.abc import Iterator

import torch
from torch import Tensor

from mi_metrics.functional.cautions import caution_each
from mi_metrics.functional.information import check_options
from mi_metrics.functional.options import (
    KERNELS,
    Binning,
    Kernel,
    Normalization,
    NumBins,
    TableCorrection,
    Unit,
    ValueRange,
    check_choice,
    hints_keywords,
)
from mi_metrics.functional.tables import views
from mi_metrics.functional.tables.automatic import MOST_BINS
from mi_metrics.functional.tables.hard import Unchecked, hard_counts_within
from mi_metrics.functional.tables.outside import outside_doubt
from mi_metrics.functional.tensors import Rows, cast, of_no_pairs, paired_rows


@hints_keywords
def binned_mutual_information(
    x: Tensor,
    y: Tensor,
    num_bins: NumBins = "auto",
    *,
    value_range: ValueRange = None,
    binning: Binning = "auto",
    clip_quantile: float = 0.0,
    margin: float = 0.0,
    kernel: Kernel = "hard",
    normalization: Normalization = "none",
    bias_correction: TableCorrection = "auto",
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
        Ties: equal values share a bin. Quantile bins go by the middle rank of a value, so the sign
        of a variable changes nothing, but for one value: with an even number of bins, one whose
        middle rank is the median (the middle one of an odd number of samples) lies exactly on the
        border of two bins. It goes to the one that others fill less, and to the lower one where
        they fill both alike (see :mod:`mi_metrics.functional.tables.quantiles`).
        Constant input: exactly 0 under every option.
        Bias: without a correction too large by about (K_xy - K_x - K_y + 1) / 2N for K occupied
        cells, against the information of the *binned* variables, which is itself too small for
        continuous ones. With soft kernels ``"miller_madow"`` overcorrects: they occupy cells
        without samples.
        Automatic: the number of bins follows the dependence, not the linear correlation alone, and
        variables of few values have a bin for each where the table is well sampled (the rules:
        :mod:`mi_metrics.functional.tables.automatic`). What ``bias_correction="auto"`` is, the
        first line that fits:

        ==========================================================  ==================
        a normalisation, or a soft kernel                           ``"none"``
        ``weights`` and a range, ``clip_quantile`` or ``margin``    ``"none"``
        a number of bins                                            ``"none"``
        a bin per value on both axes                                ``"none"``
        else, with weights or without                               ``"miller_madow"``
        ==========================================================  ==================

        Class labels that are nearly independent get bins and about 0, where the plug-in value of
        their table is up to some nats too large; ``binning="values", bias_correction="none"`` gives
        that, as scikit-learn's ``mutual_info_score`` does. ``normalization="adjusted"`` takes
        chance away.
        Cautions: a :class:`mi_metrics.MutualInformationWarning` for each kind of doubt that the
        samples show: "undersampled", "too few" (less than 8), "shared bins", "crowded", "rising",
        and "outside" where more than 1 % of them (of the weight) lie outside a given range.
        Gradient: with ``kernel="linear"`` or ``"cubic"``, with respect to x and y; finite
        everywhere, 0 outside the range. Ranges taken from the data are constants to it.
        Memory: B_x · B_y cells per pair and a bounded chunk, for the gradient too; never N · B.
        Exact under splits and ranks: with a given range, the tables of
        :class:`BinnedMutualInformation` add up.

    Args:
        x: Samples of any real dtype, shape ``(..., N)``.
        y: Samples paired with ``x`` by position, shape ``(..., N)``.
        num_bins: Bins of both axes, ``(B_x, B_y)``, or ``"auto"``: chosen for each pair of a
            batch from N and the dependence, at most N / 5 and 256.
        value_range: ``None`` (each pair's own minimum and maximum, per axis), ``(lo, hi)`` for both
            axes, or ``((x_lo, x_hi), (y_lo, y_hi))``.
        binning: ``"auto"``, ``"uniform"`` (equal width), ``"quantile"`` (equal frequency) or
            ``"values"`` (a bin for each distinct value, ``num_bins`` left at its default), or a
            pair of them for x and y. ``"auto"``: equal width with a number of bins (but a bin for
            each value where values are no more than bins and two would share one), a
            ``value_range``, a soft kernel, ``clip_quantile`` or ``margin``, which the last two
            exclude; else quantile bins or, of few values, a bin for each.
        clip_quantile: Fraction of samples in [0, 0.5) at each end of each axis that the range
            leaves out; they go to the edge bins. Needs ``value_range=None``.
        margin: Fraction of the range's width that is added at both ends. Needs
            ``value_range=None``.
        kernel: ``"hard"``, ``"linear"`` or ``"cubic"``.
        normalization: ``"none"``, ``"arithmetic"``, ``"geometric"``, ``"min"``, ``"max"``,
            ``"joint"``, ``"studholme"`` or ``"adjusted"`` (hard kernel, no weights).
        bias_correction: ``"auto"``, ``"none"``, ``"miller_madow"`` (with weights N is (Σw)² / Σw²)
            or ``"grassberger"`` (hard kernel, whole weights).
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
        >>> print(f"{binned_mutual_information(x, y):.4f}")
        0.2232

    References:
        C. O. Daub et al., "Estimating mutual information using B-spline functions" (2004),
        doi:10.1186/1471-2105-5-118.
        A. Hacine-Gharbi, P. Ravier, "A binning formula of bi-histogram for joint entropy estimation
        using mean square error minimization" (2018), doi:10.1016/j.patrec.2017.11.007.
    """
    check_choice("kernel", kernel, KERNELS)
    whole = kernel == "hard" and weights is None
    check_options(normalization, bias_correction, unit, whole=whole)
    check_correction(bias_correction, kernel)
    options = views.parse(
        num_bins,
        value_range,
        binning,
        clip_quantile,
        margin,
        kernel,
        normalization=normalization,
        bias_correction=bias_correction,
        unit=unit,
    )
    unchecked = _unchecked(options, weights)
    known = unchecked is not None
    rows = paired_rows(x, y, weights, finite=not known, bytes_stay=known)
    if not len(rows.x):
        return of_no_pairs(rows.x, *x.shape[:-1])
    # Twice the bins can be told apart, but in the cells that a metric keeps of known ranges.
    most = MOST_BINS if options.ranges else 2 * MOST_BINS
    value, found = views.answers(_tables(rows, options, unchecked), options, x.shape[:-1], most)
    # Samples that are not finite have been refused by now.
    caution_each(outside_doubt(rows, options.ranges, unchecked) | found)
    return value


@hints_keywords
def binned_joint(
    x: Tensor,
    y: Tensor,
    num_bins: NumBins = "auto",
    *,
    value_range: ValueRange = None,
    binning: Binning = "auto",
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
        :func:`binned_mutual_information`; automatic bins are those of a value without a
        normalisation. A constant variable fills one row (or column). With
        ``num_bins="auto"`` in a batch the smaller tables are padded with empty cells, and in a
        batch of no pairs they are (0, 1, 1).
        Cautions: "outside".

    Args:
        x: Samples, shape ``(..., N)``.
        y: Samples paired with ``x`` by position, shape ``(..., N)``.
        num_bins: As in :func:`binned_mutual_information`, and so are all that follow.
        value_range: ``None``, ``(lo, hi)`` or ``((x_lo, x_hi), (y_lo, y_hi))``.
        binning: ``"auto"``, ``"uniform"``, ``"quantile"`` or ``"values"``, or a pair of them.
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
    options = views.parse(num_bins, value_range, binning, clip_quantile, margin, kernel)
    unchecked = _unchecked(options, weights)
    known = unchecked is not None
    rows = paired_rows(x, y, weights, finite=not known, bytes_stay=known)
    if not len(rows.x):
        return of_no_pairs(rows.x, *x.shape[:-1], *(options.bins or (1, 1)))
    if unchecked is not None and options.bins is not None:
        counts = _counts(rows, options, unchecked)
        caution_each(outside_doubt(rows, options.ranges, unchecked))
        # Every sample counts in one cell.
        return counts.double().div_(x.shape[-1]).view(*x.shape[:-1], *options.bins)
    parts = list(_tables(rows, options, unchecked))
    caution_each(outside_doubt(rows, options.ranges))
    bx, by = (max(part.counts.shape[i] for part in parts) for i in (1, 2))
    joint = parts[0].counts.new_zeros(x.shape[:-1].numel(), bx, by, dtype=torch.float64)
    for part in parts:
        counts = part.counts.double()
        table = counts / counts.sum((-2, -1), keepdim=True)
        padding = (0, by - table.shape[2], 0, bx - table.shape[1])
        joint = joint.index_copy(0, part.binned.rows, torch.nn.functional.pad(table, padding))
    return joint.reshape(*x.shape[:-1], bx, by)


def check_correction(bias_correction: str, kernel: str) -> None:
    """Refuse Grassberger's correction, which needs whole counts, with a soft kernel."""
    check_choice("kernel", kernel, KERNELS)
    if bias_correction == "grassberger" and kernel != "hard":
        raise ValueError(
            f'`bias_correction="grassberger"` needs whole counts, but kernel={kernel!r} makes '
            f"fractional ones. "
            'Use kernel="hard", or bias_correction="miller_madow".'
        )


def _tables(
    rows: Rows, options: views.Options, unchecked: Unchecked | None
) -> Iterator[views.Table]:
    """Yield the tables of rows, those with bins of the same kinds together."""
    x, y, weights = rows
    if options.soft:
        x, y = cast(x, torch.float64), cast(y, torch.float64)
    return views.tables(x, y, weights, options, unchecked=unchecked)


def _counts(rows: Rows, options: views.Options, unchecked: Unchecked) -> Tensor:
    """Return the hard tables of known ranges, ``(R, B_x, B_y)``."""
    assert options.ranges is not None
    assert options.bins is not None
    x, y = (v.detach() for v in rows[:2])
    return hard_counts_within(x, y, options.ranges, options.bins, None, unchecked=unchecked)


def _unchecked(options: views.Options, weights: Tensor | None) -> Unchecked | None:
    """Return what the counting finds out about samples, that they are not finite; None where ranges
    and bins come from the data, so that it would be too late.
    """
    known = options.ranges is not None and options.bins is not None
    return Unchecked(options.ranges) if known and not options.soft and weights is None else None
