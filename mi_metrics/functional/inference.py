"""What a table of counts says about its mutual information: is it 0, and within what does it lie?

Three questions, answered from the table alone, which is what a metric of bins holds:

- :func:`independence_p_value`: could independent variables have given such a table?
- :func:`confidence_interval`: between what values does the information of the *binned* variables
  lie? Sampling is covered; what bins hide, and samples that depend on each other, are not.
- :func:`pointwise_mutual_information`: which cells carry it?

References:
    R. A. Fisher, "The Design of Experiments" (1935); J. H. Halton, "A rigorous derivation of the
    exact contingency formula" (1969), doi:10.1017/S0305004100045163 (tables of given margins).
    P. Hall, "The Bootstrap and Edgeworth Expansion" (1992), doi:10.1007/978-1-4612-4384-7.
"""

import torch
from torch import Tensor

from mi_metrics.functional.information import _check_counts, _log
from mi_metrics.functional.options import PValueMethod, Unit, from_nats, hints_keywords
from mi_metrics.functional.stratified import stratified_interval, stratified_p_value
from mi_metrics.functional.tables.entropies import probabilities


@hints_keywords
def independence_p_value(
    counts: Tensor, *, method: PValueMethod = "g", num_permutations: int = 999, seed: int = 0
) -> Tensor:
    r"""Compute the p-value of a test of independence from a table of counts (dimensionless).

    ``"permutation"`` compares the plug-in information I of the table with those of P random tables
    of the same margins, as permuting the samples of y gives them:

    .. math:: p = \frac{1 + \#\{I_{null} \ge I\}}{1 + P}

    ``"g"`` is the G-test: under independence :math:`G = 2 N I` (I in nats) follows for large N a
    χ² law with :math:`(K_x - 1)(K_y - 1)` degrees of freedom, K the occupied rows and columns; p is
    its upper tail at G.

    Conventions:
        Range: 0 … 1, at least 1 / (P + 1) for permutations; 1 when a single row or column is
        occupied. NaN without samples.
        Which one: permutations are exact for every table whose bins were chosen from each variable
        alone, however few its samples; of discrete data with few possible tables, fewer than 5 %
        of the p-values of independent samples are below 0.05. The χ² law needs expected counts of
        about 5 or more in every cell: for 16 quantile bins and 250 independent samples two thirds
        of its p-values are below 0.05. It takes no time, and holds for any number of samples.
        Bins that were chosen after a look at the dependence, as ``num_bins="auto"`` does, make
        either wrong, so don't test ``metric.counts()`` there: ``metric.p_value()`` takes bins whose
        number follows from N alone. Or test a table with a number of bins of its own, such as that
        of ``BinnedMutualInformation(8, binning="quantile")``.
        Power: fewer bins see a smooth dependence better, more bins a wiggly one: for a correlation
        of 0.2 and 300 samples, 52 % of tests on 4 x 4 bins reject and 22 % on 8 x 8.
        Samples that depend on each other (pixels, time series) make p too small.
        Symmetric: relabelled and transposed tables have the same p-value, to the bit.
        Gradient: none. Memory: at most 128 MiB of random tables at a time.
        Exact under splits and ranks: add the tables first; a table's value depends on the table and
        the seed alone, on every device and in every batch.

    Args:
        counts: Whole counts ≥ 0, shape ``(..., B_x, B_y)``.
        method: ``"g"`` or ``"permutation"``.
        num_permutations: P, from 1 to 10**8; of no effect on ``"g"``.
        seed: Seed of the random tables, at least 0; of no effect on ``"g"``.

    Returns:
        float64 of shape ``(...)``.

    Raises:
        TypeError: If ``counts`` is not a real tensor, or a number is not whole.
        ValueError: If it has fewer than two dimensions, or negative, non-finite or fractional
            entries, or more than 2**31 samples for permutations; if an option is unknown or out of
            its range.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import independence_p_value
        >>> counts = torch.tensor([[12, 8], [7, 13]])
        >>> print(f"{independence_p_value(counts):.3f}")
        0.111
        >>> print(f"{independence_p_value(counts, method='permutation'):.3f}")
        0.198

    References:
        R. R. Sokal, F. J. Rohlf, "Biometry" (1981), chapter 17.
        W. M. Patefield, "An efficient method of generating random R x C tables with given row and
        column totals" (1981), doi:10.2307/2346669.
        B. Phipson, G. K. Smyth, "Permutation p-values should never be zero" (2010),
        doi:10.2202/1544-6115.1585.
    """
    counts = _check_counts(counts).unsqueeze(-3)
    return stratified_p_value(counts, method=method, num_permutations=num_permutations, seed=seed)


@hints_keywords
def confidence_interval(
    counts: Tensor,
    level: float = 0.95,
    *,
    num_resamples: int = 999,
    seed: int = 0,
    unit: Unit = "nats",
) -> Tensor:
    r"""Compute a confidence interval of the mutual information of two binned variables, from a
    table of counts, in nats or bits.

    The interval holds the information of those tables between independence and the observed one
    whose samples could well have given the observed plug-in value. With :math:`\hat p_{ab}` the
    table's shares, :math:`\hat p_a, \hat p_b` its margins', and

    .. math:: p(\lambda) = (1 - \lambda) \, \hat p_a \hat p_b + \lambda \, \hat p_{ab}, \qquad
              0 \le \lambda \le 1,

    the plug-in value of N draws from p(λ) has an expectation f(λ), known exactly, and quantiles
    q(λ) around it, which are drawn. Both ends are where the observed value is a quantile:
    :math:`f(\lambda) + q(\lambda) = I`.

    Conventions:
        What is covered: the sampling error of the *binned* variables' information. Not what bins
        hide of continuous variables, nor that neighbouring pixels or times repeat each other
        (divide N by their number first).
        Coverage: intervals of 95 % hold the true value in 95 % of repetitions (92 to 98 % of single
        kinds of data) from two samples per cell, N ≥ 2 B_x B_y, on. At independence the lower end
        is 0 and errors lie on one side, 97.5 %. Below two samples per cell: no promise. Nor where
        some value is so rare that samples may lack it: of a value of 3 %, 20 samples mostly tell
        nothing. Tables of up to 144 cells have the tails of each end drawn, and go beyond the
        observed table along its odds ratios; for larger ones quantiles are interpolated, and the
        lower end is a little high where most cells stay nearly empty, as where x nearly decides y.
        Margins that were made, as of a test set with as many samples of each class: where one
        variable tells the other without an error, the lower end is that of as many errors as leave
        none among N samples in 2.5 % of draws; with a few errors it is a little high.
        Range: the lower end is 0 or less where a one-sided test of independence at (1 - level) / 2
        does not reject; the upper end is ≥ 0. One occupied row or column: 0, 0. No samples: NaN.
        A bootstrap of the samples is no substitute: a resampled table has the plug-in value's bias
        twice, and its percentiles hold the truth in 0 to 90 % of repetitions.
        The value beside it: a plug-in value, or one of Miller and Madow on few samples, can lie
        above the interval. That is its bias.
        Gradient: none. Memory: at most 128 MiB of resampled tables at a time. Time: in proportion
        to the cells and resamples; 0.1 s for 8 x 8 and 16 x 16 cells, seconds for 64 x 64.
        Exact under splits and ranks: add the tables first; a table's interval depends on the table,
        the options and the seed alone, on every device and in every batch.

    Args:
        counts: Whole counts ≥ 0, shape ``(..., B_x, B_y)``.
        level: The share of intervals that hold the truth, in (0, 1).
        num_resamples: Draws per quantile, from 2 / (1 - level) to 10**8.
        seed: Seed of the draws, at least 0.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 of shape ``(..., 2)``: the lower and the upper end.

    Raises:
        TypeError: If ``counts`` is not a real tensor, or an option has the wrong type.
        ValueError: If it has fewer than two dimensions, or negative, non-finite or fractional
            entries, or more than 2**31 samples; if an option is unknown or out of its range.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import confidence_interval
        >>> low, high = confidence_interval(torch.tensor([[40, 10], [10, 40]]))  # I = 0.1927
        >>> print(f"{low:.2f} to {high:.2f}")
        0.10 to 0.31

    References:
        J. Neyman, "Outline of a theory of statistical estimation based on the classical theory of
        probability" (1937), doi:10.1098/rsta.1937.0005 (inversion of tests).
        L. Paninski, "Estimation of entropy and mutual information" (2003),
        doi:10.1162/089976603321780272 (the bias of plug-in values).
    """
    counts = _check_counts(counts).unsqueeze(-3)
    return stratified_interval(counts, level, num_resamples=num_resamples, seed=seed, unit=unit)


@hints_keywords
def pointwise_mutual_information(counts: Tensor, *, unit: Unit = "nats") -> Tensor:
    r"""Compute the pointwise mutual information of each cell of a table of counts, in nats or bits.

    .. math:: i_{ab} = \log \frac{p_{ab}}{p_a \, p_b}

    Positive where a and b occur together more often than independent variables would make them,
    negative where less. Its mean over the samples is the plug-in mutual information.

    Conventions:
        Range: any finite number; 0 in cells without samples, whose value would be -∞.
        Bias: large for rare cells: a cell of one sample is log N + ... by chance. No correction.
        Constant input: 0 everywhere. No samples: NaN.
        Ties, gradient: those of the counts; differentiable where they are positive.
        Exact under splits and ranks: add the tables first.

    Args:
        counts: Counts, weights or probabilities ≥ 0, shape ``(..., B_x, B_y)``.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 of shape ``(..., B_x, B_y)``.

    Raises:
        TypeError: If ``counts`` is not a real tensor.
        ValueError: If it has fewer than two dimensions, or negative or non-finite entries.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import pointwise_mutual_information
        >>> cells = pointwise_mutual_information(torch.tensor([[3, 1], [0, 4]]), unit="bits")
        >>> [[round(v, 3) for v in row] for row in cells.tolist()]
        [[1.0, -1.322], [0.0, 0.678]]

    References:
        K. W. Church, P. Hanks, "Word association norms, mutual information, and lexicography"
        (1990), https://aclanthology.org/J90-1003.
    """
    p = probabilities(_check_counts(counts))
    rows, columns = p.sum(-1, keepdim=True), p.sum(-2, keepdim=True)
    ratio = _log(p) - _log(rows) - _log(columns)
    # Shares that should sum to 1 miss it by a rounding.
    constant = ((rows > 0).sum(-2, keepdim=True) == 1) | ((columns > 0).sum(-1, keepdim=True) == 1)
    # NaN without samples, though the logarithm of NaN is taken to be 0.
    return from_nats(torch.where((p == 0) | constant, 0, ratio + 0 * p), unit)
