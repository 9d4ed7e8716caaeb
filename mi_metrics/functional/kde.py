r"""Mutual information from kernel density estimates.

The densities of the pair and of each variable are sums of Gaussian kernels at the samples, and the
information is the mean of their log ratio at the samples themselves (resubstitution):

.. math::
    I = \frac1N \sum_i \log \frac{\hat f(x_i, y_i)}{\hat f(x_i) \, \hat f(y_i)}, \qquad
    \hat f(z) = \frac1N \sum_j K_H(z - z_j).

The kernel of the pair has the full sample covariance, :math:`H = N^{-1/3} S`: a product kernel as
wide as the data would blur a strong dependence away. Each sample sees its own kernel, which makes
every density too large; without it (leave-one-out) they are too small. The two errors of I nearly
cancel, so their mean is returned.

**Not N² kernels.** Samples are counted in a fine table, and kernels are summed between the occupied
cells. A sample stands for its cell's centre, which adds the variance :math:`\delta^2/12` of a
uniform law to the kernel; Sheppard's correction takes it off again. With :math:`y' = y - (H_{xy} /
H_{xx}) x` the kernel is a product, :math:`K_H(x, y) = K(x) K(y')`, so a table of :math:`(x, y')`
needs two matrix products and no more.

A table that was counted before the covariance is known (the state of a metric) cannot be sheared.
There the kernel is summed in Fourier space along y, where the shear is a phase: for each frequency,
one product over x. Frequencies above the kernel's own need not be visited, and empty stretches of y
longer than the kernel are cut out.

When to use: continuous variables, smooth densities, samples from a hundred to millions. When not:
far outliers or heavy tails, because the covariance follows them (caution ``"wide kernel"``); waves,
circles and clusters, because it is wider than they are (caution ``"oversmoothed"``); discrete
values, or one value that many samples share (caution ``"few values"`` where the kernel tells them
apart, ``"wide kernel"`` where they set its width); many variables.

References:
    Y.-I. Moon, B. Rajagopalan, U. Lall, "Estimation of mutual information using kernel density
    estimators" (1995), doi:10.1103/PhysRevE.52.2318. B. W. Silverman, "Density Estimation for
    Statistics and Data Analysis" (1986), doi:10.1201/9781315140919. W. F. Sheppard, "On the
    calculation of the most probable values of frequency-constants" (1897),
    doi:10.1112/plms/s1-29.1.353.
"""

import torch
from torch import Tensor

from mi_metrics.functional.cautions import caution_each
from mi_metrics.functional.densities.gaussian import check_kde_options
from mi_metrics.functional.densities.sampled import kde_from_samples, kde_joint_from_samples
from mi_metrics.functional.options import (
    Bandwidth,
    Normalization,
    Unit,
    ValueRange,
    from_nats,
    hints_keywords,
)
from mi_metrics.functional.tables.axis import parse_value_range
from mi_metrics.functional.tables.outside import outside_doubt
from mi_metrics.functional.tensors import of_no_pairs, paired_rows


@hints_keywords
def kde_mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    bandwidth: Bandwidth = "silverman",
    grid_size: int = 256,
    value_range: ValueRange = None,
    normalization: Normalization = "none",
    unit: Unit = "nats",
) -> Tensor:
    r"""Compute the mutual information of paired samples from kernel density estimates, in nats or
    bits.

    .. math::
        I = \frac{I_{in} + I_{out}}{2}, \qquad
        I_{in} = \frac1N \sum_i \log \frac{\hat f(x_i, y_i)}{\hat f(x_i) \, \hat f(y_i)}, \qquad
        \hat f(z) = \frac1N \sum_j K_H(z - z_j)

    with K Gaussian, and :math:`I_{out}` the same with :math:`j \neq i` and N - 1 (leave-one-out),
    where a sum over the others is at least :math:`2^{-40}` of a sample's own kernel: without that,
    single samples of heavy tails set the mean (the error of Student's t with three degrees of
    freedom grows from 0.03 to 0.2 nats).
    With S the sample covariance and σ a variable's standard deviation:

    ===============  =================================  ==================================
    ``bandwidth``    kernel of the pair, covariance     kernel of a variable, deviation
    ===============  =================================  ==================================
    ``"silverman"``  :math:`N^{-1/3} S`                 :math:`1.06 \, \sigma N^{-1/5}`
    ``"scott"``      :math:`N^{-1/3} S`                 :math:`\sigma N^{-1/5}`
    h, or (hx, hy)   hx², hy², the correlation of S     hx, hy
    ===============  =================================  ==================================

    Conventions:
        Sign and range: not clamped; about half of the estimates of independent variables are
        negative. A perfect linear dependence, whose information is infinite, gives about 15 nats: 1
        - r² is taken to be at least 2**-40. Normalised forms are ratios of the entropies of
        :func:`kde_joint` and its own marginals, so they depend on ``grid_size`` (and on the room
        around the data), and I in them is that table's, not the value above.
        Constant input, a single sample: exactly 0 (``"studholme"``: 1).
        Ties: allowed, but a density supposes continuous variables. Where the kernel tells a
        variable's values apart, the value is too small by log(h_pair / h_alone) for each such
        variable (0.2 nats for N = 3000), and nearly so where half of the samples are one value, as
        after ReLU; the caution ``"few values"`` says so, or ``"wide kernel"`` where such values set
        the kernel's width. Labels of many classes are smoothed over silently: use bins with a bin
        for each value.
        Bias: the two means err in opposite directions. On correlated Gaussians of 100 to 4900
        samples and 0 to 2 nats the mean error is 0.011 nats, at most 0.04 (at N = 100). Heavy tails
        make it too small: by 0.1 nats for lognormal variables of 0.22 nats. Fewer than 8 samples:
        the caution ``"too few"``; two lie on a line and give 15 nats.
        Waves, circles, clusters: the kernel, as wide as the covariance of all samples makes it,
        blurs them, and the value is mostly too small (0.1 for 1.7 nats of two waves, N = 1000).
        The caution ``"oversmoothed"`` says so where half the width (up to 8192 samples) changes the
        value by more than a fifth, 0.15 nats and 2 / √N, or where a few bins know for sure a tenth
        of a nat and a fifth more. Of heavy tails that takes samples: 0.47 for 0.83 nats of a
        lognormal pair (σ = 1.5) is told of from N = 8000 on, 0.54 of N = 1000 is silent.
        Outliers: the covariance follows them. If the kernel blurs a tenth of the samples or more to
        points, as far samples and fill values make it, the caution ``"wide kernel"`` names what to
        do. A given ``bandwidth`` ignores far samples on one axis, but the correlation does not
        ignore those on both; a ``value_range`` cures both.
        Discretisation: kernels are summed between the cells of a table. For N ≥ 1000 and
        ``grid_size=256`` the value is that of the sums over all pairs of samples to within 5e-4
        nats for Gaussian and uniform variables, 2e-3 for exponential and 4e-3 for lognormal ones. A
        kernel narrower than three quarters of a cell is taken that wide, with the caution
        ``"narrow kernel"`` below half a cell. Swapping x and y changes the value by as little;
        shifts and scales of the axes do not matter.
        Gradient: none; :class:`KDEMutualInformationLoss` has one.
        Memory: a few tables of ``grid_size`` squared and a bounded chunk, for a group of pairs at a
        time. The value of a pair is the same in any batch, to the last bit. Time: linear in N.
        Exact under splits and ranks: no, the kernel depends on all samples
        (:class:`KDEMutualInformation` is). The order of the samples does not matter, to the last
        bit.

    Args:
        x: Samples of any real dtype, shape ``(..., N)``.
        y: Samples paired with ``x`` by position, shape ``(..., N)``.
        bandwidth: A rule of the table, or the kernel's standard deviation in the units of the data:
            one positive number for both axes or ``(h_x, h_y)``.
        grid_size: Cells per axis of the table, at least 2.
        value_range: ``None``, ``(lo, hi)`` for both axes, or ``((x_lo, x_hi), (y_lo, y_hi))``.
            Samples outside are moved to its ends first; more than 1 % of them: the caution
            ``"outside"``.
        normalization: ``"none"``, ``"arithmetic"``, ``"geometric"``, ``"min"``, ``"max"``,
            ``"joint"`` or ``"studholme"``.
        unit: ``"nats"`` or ``"bits"``. A normalised form has no unit.

    Returns:
        float64 of shape ``(...)``.

    Raises:
        TypeError: If x or y is not a real tensor, or ``grid_size`` not an int.
        ValueError: If shapes or devices differ, there is no sample, a sample is NaN or infinite,
            ``bandwidth`` is not a rule or one or two positive numbers, or another option is unknown
            or out of its range.

    Example:
        >>> import torch
        >>> from mi_metrics.functional.kde import kde_mutual_information
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(10_000, generator=generator)
        >>> y = 0.6 * x + 0.8 * torch.randn(10_000, generator=generator)  # truth: 0.2231 nats
        >>> print(f"{kde_mutual_information(x, y):.4f}")
        0.2327

    References:
        Y.-I. Moon, B. Rajagopalan, U. Lall, "Estimation of mutual information using kernel density
        estimators" (1995), doi:10.1103/PhysRevE.52.2318. B. W. Silverman, "Density Estimation for
        Statistics and Data Analysis" (1986), doi:10.1201/9781315140919.
    """
    check_kde_options(bandwidth, grid_size, value_range, normalization, unit)
    grid_size = int(grid_size)
    ranges = parse_value_range(value_range)
    rows = paired_rows(x, y)
    if not len(rows.x):
        return of_no_pairs(rows.x, *x.shape[:-1])
    value, doubts = kde_from_samples(
        rows.x.detach(), rows.y.detach(), bandwidth, grid_size, ranges, normalization
    )
    caution_each(outside_doubt(rows, ranges) | doubts.messages())
    value = value.reshape(x.shape[:-1])
    return from_nats(value, unit) if normalization == "none" else value


@hints_keywords
def kde_joint(
    x: Tensor,
    y: Tensor,
    *,
    bandwidth: Bandwidth = "silverman",
    grid_size: int = 256,
    value_range: ValueRange = None,
) -> Tensor:
    r"""Compute the joint probability table of a kernel density estimate (dimensionless, sums to 1).

    .. math::
        p_{ab} = \frac1N \sum_i \frac{K_H(c_{ab} - z_i)}{\sum_{a'b'} K_H(c_{a'b'} - z_i)}

    with :math:`c_{ab}` the centres of G × G cells and H the pair's kernel of
    :func:`kde_mutual_information`.

    Conventions:
        Axis order: the rows are the cells of x, the columns those of y.
        Range: probabilities, ≥ 0. With ``value_range=None`` the cells extend 4 kernel widths past
        the data on all sides; a given range is covered exactly, and samples outside of it are moved
        to its ends. Either way a sample whose kernel reaches past the cells has its mass within
        them: nothing is lost at the ends.
        Resolution: samples are counted in the same cells first, with Sheppard's correction, and
        along each principal axis the kernel is at least half a cell wide, without a warning.
        Constant input: a narrow bump across one axis.
        Outliers: as :func:`kde_mutual_information`, with its caution.
        Ties: allowed. Bias: the density is smoother than the truth.
        Gradient: none. Memory: a few tables of ``grid_size`` squared and a bounded chunk, for a
        group of pairs at a time.
        Exact under splits and ranks: no; the order of the samples does not matter, to the last bit.

    Args:
        x: Samples of any real dtype, shape ``(..., N)``.
        y: Samples paired with ``x`` by position, shape ``(..., N)``.
        bandwidth: As in :func:`kde_mutual_information`, and so are all that follow.
        grid_size: Cells G per axis, at least 2.
        value_range: ``None``, ``(lo, hi)`` or ``((x_lo, x_hi), (y_lo, y_hi))``.

    Returns:
        float64 of shape ``(..., G, G)``; each table sums to 1.

    Raises:
        TypeError: As :func:`kde_mutual_information`.
        ValueError: As :func:`kde_mutual_information`.

    Example:
        >>> import torch
        >>> from mi_metrics.functional.kde import kde_joint
        >>> x, y = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0])
        >>> joint = kde_joint(x, y, bandwidth=0.25, grid_size=2, value_range=(0, 1))
        >>> [[round(p, 4) for p in row] for row in joint.tolist()]
        [[0.2317, 0.2771], [0.1029, 0.3884]]

    References:
        Y.-I. Moon, B. Rajagopalan, U. Lall, "Estimation of mutual information using kernel density
        estimators" (1995), doi:10.1103/PhysRevE.52.2318.
    """
    check_kde_options(bandwidth, grid_size, value_range)
    grid_size = int(grid_size)
    ranges = parse_value_range(value_range)
    rows = paired_rows(x, y)
    if not len(rows.x):
        return of_no_pairs(rows.x, *x.shape[:-1], grid_size, grid_size)
    joint, doubts = kde_joint_from_samples(
        rows.x.detach(), rows.y.detach(), bandwidth, grid_size, ranges
    )
    # A density of few samples is what it says.
    doubts = doubts._replace(too_few=torch.zeros_like(doubts.too_few))
    caution_each(outside_doubt(rows, ranges) | doubts.messages())
    return joint.reshape(*x.shape[:-1], grid_size, grid_size)
