r"""Information measures of a table of counts.

Every estimator of this package that bins or smooths ends here: a joint table :math:`n_{ab}` of N
samples, rows for x and columns for y, gives probabilities :math:`p_{ab} = n_{ab} / N`, and these
give

.. math::
    H_x = -\sum_a p_a \log p_a, \qquad H_y = -\sum_b p_b \log p_b, \qquad
    H_{xy} = -\sum_{ab} p_{ab} \log p_{ab},
    \qquad I = H_x + H_y - H_{xy}.

The marginals are sums of the joint and nothing else, so the three entropies always belong to the
same samples.

A finite sample makes each plug-in entropy too small and I too large, by about
:math:`(K_{xy} - K_x - K_y + 1) / 2N` nats with K the numbers of occupied cells. Two corrections are
offered; each is applied to all three entropies alike. They cannot repair a table with fewer samples
than cells: a warning says so.

The same counts give the error bar of I (delta method) and the p-value of independence (G-test) for
nothing.

References:
    G. A. Miller, "Note on the bias of information estimates" (1955), in: Information Theory in
    Psychology. P. Grassberger, "Entropy estimates from insufficient samplings" (2003),
    arXiv:physics/0307138. L. Paninski, "Estimation of entropy and mutual information" (2003),
    doi:10.1162/089976603321780272. M. S. Roulston, "Estimating the errors on measured entropy and
    mutual information" (1999), doi:10.1016/S0167-2789(98)00269-3. C. Studholme, D. L. G. Hill, D.
    J. Hawkes, "An overlap invariant entropy measure of 3D medical image alignment" (1999),
    doi:10.1016/S0031-3203(98)00091-0.
"""

import torch
from torch import Tensor

from mi_metrics.functional.cautions import caution
from mi_metrics.functional.options import (
    BIAS_CORRECTIONS,
    NORMALIZATIONS,
    UNITS,
    BiasCorrection,
    Normalization,
    Unit,
    check_choice,
    from_nats,
    hints_keywords,
)
from mi_metrics.functional.tables.chance import expected_information
from mi_metrics.functional.tables.entropies import plug_in, plug_in_entropies, probabilities
from mi_metrics.functional.tables.sampling import occupied, undersampled
from mi_metrics.functional.tensors import check_device, check_tensor, check_values

# Below it an entropy in nats is what rounding leaves of 0.
ROUNDING = 1e-12


@hints_keywords
def entropies(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Compute the plug-in entropies of x, of y and of the pair from a table of counts, in nats.

    .. math::
        H_x = -\sum_a p_a \log p_a, \quad H_y = -\sum_b p_b \log p_b, \quad
        H_{xy} = -\sum_{ab} p_{ab} \log p_{ab}, \quad p = n / N

    Conventions:
        Unit and range: nats; 0 ≤ H ≤ log of the number of cells. NaN for a table without samples.
        Bias: too small by about (K - 1) / 2N with K occupied cells; no correction is applied here.
        Gradient: defined with respect to floating-point counts, and finite with empty cells (their
        own is 0).
        Exact under splits: the entropies of a sum of tables are those of all samples.

    Args:
        counts: Counts or weights ≥ 0 of any real dtype, shape ``(..., B_x, B_y)``.

    Returns:
        ``(Hx, Hy, Hxy)``, each float64 of shape ``(...)``.

    Raises:
        TypeError: If ``counts`` is not a real tensor.
        ValueError: If it has fewer than two dimensions, or negative or non-finite entries.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import entropies
        >>> Hx, Hy, Hxy = entropies(torch.tensor([[3, 1], [0, 4]]))
        >>> print(f"{Hx:.4f} {Hy:.4f} {Hxy:.4f}")
        0.6931 0.6616 0.9743

    References:
        C. E. Shannon, "A mathematical theory of communication" (1948),
        doi:10.1002/j.1538-7305.1948.tb01338.x.
    """
    p = probabilities(_check_counts(counts))
    return plug_in(p.sum(-1), 1), plug_in(p.sum(-2), 1), plug_in(p, 2)


@hints_keywords
def mutual_information(
    counts: Tensor,
    *,
    normalization: Normalization = "none",
    bias_correction: BiasCorrection = "none",
    unit: Unit = "nats",
) -> Tensor:
    r"""Compute the mutual information of a table of counts, in nats or bits, or one of its
    normalised forms.

    .. math::
        I = H_x + H_y - H_{xy} = \sum_{ab} p_{ab} \log \frac{p_{ab}}{p_a \, p_b}

    =================  =============================  ==========================
    ``normalization``  value                          range without a correction
    =================  =============================  ==========================
    ``"none"``         I, in ``unit``                 0 … min(Hx, Hy)
    ``"arithmetic"``   2 I / (Hx + Hy)                0 … 1
    ``"geometric"``    I / √(Hx Hy)                   0 … 1
    ``"min"``          I / min(Hx, Hy)                0 … 1
    ``"max"``          I / max(Hx, Hy)                0 … 1
    ``"joint"``        I / Hxy                        0 … 1
    ``"studholme"``    (Hx + Hy) / Hxy                1 … 2
    ``"adjusted"``     (I - E) / ((Hx + Hy)/2 - E)    ≤ 1; 0 on average by chance
    =================  =============================  ==========================

    E is the mean of I over all tables with the same margins (Vinh, Epps and Bailey 2010), so
    ``"adjusted"`` is scikit-learn's ``adjusted_mutual_info_score``.

    ===================  ==========================================================================
    ``bias_correction``  each entropy becomes
    ===================  ==========================================================================
    ``"none"``           the plug-in value H
    ``"miller_madow"``   H + (K - 1) / 2N, K its occupied cells
    ``"grassberger"``    ψ(N) - ⟨G(n)⟩ over samples, G(n) = ψ(n) + (-1)^n [ψ((n+1)/2) - ψ(n/2)] / 2
    ===================  ==========================================================================

    Conventions:
        Sign and range: never clamped. A corrected estimate of an information near 0 is negative in
        about half of the samples, which is what makes its mean right; a corrected normalised value
        may leave its range.
        Constant input: with one occupied row or column, I is exactly 0 under every correction and
        so is every normalised form (``"studholme"``: 1, its value for independence; ``"adjusted"``
        too is 0, where scikit-learn gives 1 for two constants). An entropy below 1e-12 nats counts
        as 0, and a denominator ≤ 0 gives the same.
        No samples: NaN.
        Bias: the plug-in value is too large by about (K_xy - K_x - K_y + 1) / 2N nats. Where that
        exceeds 0.1 without a correction, or where more than a fifth of the samples (with
        ``"grassberger"`` a quarter) are alone in their cell, which no correction mends, a
        :class:`mi_metrics.MutualInformationWarning` says so; not for ``"adjusted"``.
        Gradient: with respect to floating-point counts (not with ``"grassberger"`` or
        ``"adjusted"``); finite with empty cells.
        Exact under splits and ranks: add the tables, then call this once.

    Args:
        counts: Counts ≥ 0 of any real dtype, shape ``(..., B_x, B_y)``; x has the rows. Fractional
            counts (soft bins or weights) are allowed but for ``"grassberger"``; ``"miller_madow"``
            takes their sum as N.
        normalization: One of the names of the first table.
        bias_correction: One of the names of the second table.
        unit: ``"nats"`` or ``"bits"``. A normalised form has no unit.

    Returns:
        float64 of shape ``(...)``.

    Raises:
        TypeError: If ``counts`` is not a real tensor.
        ValueError: If an option is unknown, ``counts`` has fewer than two dimensions or negative or
            non-finite entries, ``"grassberger"`` or ``"adjusted"`` is asked of fractional counts,
            or ``"adjusted"`` of corrected ones.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import mutual_information
        >>> counts = torch.tensor([[30, 10], [0, 40]])
        >>> print(f"{mutual_information(counts):.6f}")
        0.380396
        >>> print(f"{mutual_information(counts, bias_correction='grassberger', unit='bits'):.6f}")
        0.539923

    References:
        G. A. Miller, "Note on the bias of information estimates" (1955), in: Information Theory in
        Psychology. P. Grassberger, "Entropy estimates from insufficient samplings" (2003),
        arXiv:physics/0307138. N. X. Vinh, J. Epps, J. Bailey, "Information theoretic measures for
        clusterings comparison: variants, properties, normalization and correction for chance"
        (2010), JMLR 11, 2837-2854.
    """
    check_choice("bias_correction", bias_correction, BIAS_CORRECTIONS)
    check_options(normalization, bias_correction, unit, whole=True)
    _check_counts(counts)
    if normalization != "adjusted" and (message := undersampled(counts, bias_correction)):
        caution("undersampled", message)
    return information(
        counts, normalization=normalization, bias_correction=bias_correction, unit=unit
    )


@hints_keywords
def standard_error(counts: Tensor, *, unit: Unit = "nats") -> Tensor:
    r"""Compute the analytic standard error of the plug-in mutual information of a table, in nats or
    bits.

    .. math::
        \sigma_I = \sqrt{\frac1N \Big(
        \sum_{ab} p_{ab} \log^2 \frac{p_{ab}}{p_a \, p_b} - I^2 \Big)}

    Conventions:
        Range: ≥ 0. It is the first-order (delta-method) error of independent samples: it says
        nothing about bias, and samples that depend on each other (neighbouring pixels, time series)
        make the true error larger.
        Constant input: 0. Independent variables: of order 1/N, where I itself is χ²-distributed;
        use :func:`independence_p_value` there.
        No samples: NaN.
        Gradient: finite with empty cells. Exact under splits and ranks: add the tables first.

    Args:
        counts: Counts ≥ 0, shape ``(..., B_x, B_y)``.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 of shape ``(...)``.

    Raises:
        TypeError: If ``counts`` is not a real tensor.
        ValueError: If ``unit`` is unknown, or ``counts`` has fewer than two dimensions or negative
            or non-finite entries.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import standard_error
        >>> print(f"{standard_error(torch.tensor([[30, 10], [0, 40]])):.4f}")
        0.0560

    References:
        M. S. Roulston, "Estimating the errors on measured entropy and mutual information" (1999),
        doi:10.1016/S0167-2789(98)00269-3.
    """
    _check_counts(counts)
    total = _float64(counts).sum((-2, -1))
    p = probabilities(counts)
    log_ratio = _log(p) - _log(p.sum(-1, keepdim=True)) - _log(p.sum(-2, keepdim=True))
    # Centred, not the difference of two moments: that cancels to ±1e-16 where every sample has the
    # same log ratio.
    mean = (p * log_ratio).sum((-2, -1), keepdim=True)
    variance = (p * (log_ratio - mean).square()).sum((-2, -1))
    # What rounding leaves of a constant is no error.
    occupied = torch.minimum(*((p.sum(dim) > 0).sum(-1) for dim in (-1, -2)))
    variance = torch.where(occupied > 1, variance, 0)
    # The root of an exact 0 has an infinite slope. Two roots: of weights near 1e-322 the ratio is
    # not a number.
    error = (
        torch.where(variance > 0, variance, 1).sqrt()
        * (variance > 0)
        / torch.where(total > 0, total, 1).sqrt()
    )
    return from_nats(torch.where(total > 0, error, torch.nan), unit)


def information(
    counts: Tensor,
    *,
    normalization: str = "none",
    bias_correction: str = "none",
    unit: str = "nats",
    effective_samples: Tensor | None = None,
    soft: bool = False,
) -> Tensor:
    """:func:`mutual_information` without its checks and warning; N of Miller and Madow may be
    given.

    In a ``soft`` table a constant fills several rows, and its information is what rounding leaves.
    """
    if bias_correction == "grassberger":
        _check_whole(counts, 'bias_correction="grassberger"')
    table = _float64(counts)
    if normalization == "adjusted":
        _check_whole(counts, 'normalization="adjusted"')
        # Chance is a sum over whole counts, which has no gradient.
        table = table.detach()
    hx, hy, hxy, kx, ky = plug_in_entropies(table)
    constant = (kx == 1) | (ky == 1) | (hx < ROUNDING) | (hy < ROUNDING)
    if soft:
        constant = constant | (hx + hy - hxy < ROUNDING)
    if bias_correction == "grassberger":
        hx, hy = _grassberger(table.sum(-1), 1), _grassberger(table.sum(-2), 1)
        hxy = _grassberger(table, 2)
    if bias_correction == "miller_madow":
        n = table.sum((-2, -1)) if effective_samples is None else effective_samples
        n = n.clamp_min(1e-290)  # of subnormal weights the inverse is not a number
        hx = hx + (kx - 1) / (2 * n)
        hy = hy + (ky - 1) / (2 * n)
        hxy = hxy + (occupied(probabilities(table.detach()), 2) - 1) / (2 * n)
    mi = torch.where(constant, 0, hx + hy - hxy)
    if normalization == "none":
        return from_nats(mi, unit)
    if normalization == "adjusted":
        chance = expected_information(table)
        numerator, denominator = mi - chance, (hx + hy) / 2 - chance
    else:
        numerator, denominator = normalized_ratio(normalization, mi, hx, hy, hxy)
    return ratio(normalization, numerator, denominator, constant)


def entropy(counts: Tensor) -> Tensor:
    """Return the plug-in entropy of counts ``(..., B)`` in nats; NaN without samples."""
    return plug_in(counts / counts.sum(-1, keepdim=True), 1)


def check_options(
    normalization: str, bias_correction: str, unit: str, *, whole: bool = False
) -> None:
    """Refuse unknown names; every estimator that ends in a table takes these three.

    ``whole`` says whether its counts are whole, as ``"adjusted"`` needs them.
    """
    check_choice("normalization", normalization, NORMALIZATIONS)
    check_choice("bias_correction", bias_correction, ("auto", *BIAS_CORRECTIONS))
    check_choice("unit", unit, UNITS)
    if normalization == "adjusted" and not whole:
        raise ValueError(
            '`normalization="adjusted"` compares with chance among tables of whole counts, but '
            "weights, soft kernels, densities and losses make fractional ones. Use the hard kernel "
            'without weights, or another normalisation, for example "arithmetic".'
        )
    if normalization == "adjusted" and bias_correction not in ("auto", "none"):
        raise ValueError(
            '`normalization="adjusted"` takes away what chance gives and excludes '
            f'bias_correction={bias_correction!r}. Use bias_correction="none".'
        )


def independent(normalization: str) -> float:
    """Return a normalised form of independent variables, its value where it is undefined too."""
    return 1.0 if normalization == "studholme" else 0.0


def ratio(normalization: str, numerator: Tensor, denominator: Tensor, constant: Tensor) -> Tensor:
    """Return a normalised form; of a constant, or where the denominator is what rounding leaves or
    less, the value for independence.
    """
    # ~(d >= 1e-12) would also catch NaN, and a table without samples must stay NaN.
    undefined = constant | (denominator < ROUNDING)
    value = numerator / torch.where(undefined, 1, denominator)
    return torch.where(undefined, independent(normalization), value)


def normalized_ratio(
    normalization: str, mi: Tensor, hx: Tensor, hy: Tensor, hxy: Tensor
) -> tuple[Tensor, Tensor]:
    """Return numerator and denominator of a normalised form."""
    match normalization:
        case "arithmetic":
            return 2 * mi, hx + hy
        case "geometric":
            product = hx.clamp_min(0) * hy.clamp_min(0)
            # The root of an exact 0 has an infinite slope.
            return mi, torch.where(product == 0, 1, product).sqrt() * (product != 0)
        case "min":
            return mi, torch.minimum(hx, hy)
        case "max":
            return mi, torch.maximum(hx, hy)
        case "joint":
            return mi, hxy
        case _:
            return hx + hy, hxy


def _float64(counts: Tensor) -> Tensor:
    return counts.to(torch.float64)


def _log(p: Tensor) -> Tensor:
    # The 0 is replaced before the logarithm: behind it, autograd would multiply 0 by inf.
    return torch.where(p > 0, p, 1).log()


def _grassberger(n: Tensor, dims: int) -> Tensor:
    """Grassberger's (2003) entropy with ψ(N), right for a sample of fixed size; the paper's log N
    adds 1/2N.
    """
    axes = tuple(range(-dims, 0))
    total = n.sum(axes)
    safe = torch.where(n > 0, n, 1)
    sign = 1 - 2 * torch.remainder(safe, 2)
    g = torch.digamma(safe) + sign * (torch.digamma((safe + 1) / 2) - torch.digamma(safe / 2)) / 2
    return torch.digamma(total) - (n * g).sum(axes) / total


def _check_counts(counts: Tensor) -> Tensor:
    check_device(check_tensor("counts", counts).device)
    if counts.ndim < 2:
        raise ValueError(
            f"Expected `counts` of shape (..., B_x, B_y), but got {tuple(counts.shape)}. "
            "Its last two dimensions are the bins of x and of y."
        )
    if 0 in counts.shape[-2:]:
        raise ValueError(
            "Expected `counts` with at least one bin of x and one of y, but got shape "
            f"{tuple(counts.shape)}. A table without samples has bins with count 0."
        )
    check_values("counts", counts)
    table = _float64(counts)
    if not bool(((table >= 0) & (table < torch.inf)).all()):
        raise ValueError(
            "Expected `counts` to be finite and not negative, but got values from "
            f"{table.min().item():g} to {table.max().item():g}. Pass counts or weights, not their "
            f"logarithms."
        )
    return counts


def _check_whole(counts: Tensor, who: str) -> None:
    table = _float64(counts).detach()
    corrects = who.startswith("bias_correction")
    if table.numel() and float(table.max()) > 2.0**53:
        remedy = 'Use bias_correction="none": so many samples have no bias.' if corrects else ""
        raise ValueError(
            f"{who} needs whole counts, but got {float(table.max()):g}, and above 2**53 float64 "
            f"does not tell whole numbers apart. {remedy or 'Count a part of the samples.'}"
        )
    if not bool((table == table.round()).all()):
        remedy = ', or bias_correction="miller_madow"' if corrects else ""
        raise ValueError(
            f"{who} needs whole counts, but got fractional ones, as weights and soft kernels make "
            f"them. Use the hard kernel without weights{remedy}."
        )
