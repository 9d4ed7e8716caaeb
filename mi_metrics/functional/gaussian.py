"""Mutual information of jointly Gaussian variables, from their covariance.

The information of a Gaussian pair is that of its canonical correlations. Four steps:

1. centred products of the samples, in units in which nothing overflows (:func:`moments`);
2. a whitening of each block, in units in which each coordinate has variance 1;
3. canonical correlations s, the singular values of the whitened cross block, and
   I = −½ Σ log(1 − s²);
4. the bias of these sums for N samples, which is known exactly and the same for every covariance.

The metric runs steps 2 to 4 on products that it has added up. The function has the samples, whitens
them and takes products again: rounding then grows with the condition of the samples and not with
that of their products, which is its square.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.cautions import Kind, caution
from mi_metrics.functional.options import (
    GAUSSIAN_CORRECTIONS,
    UNITS,
    GaussianCorrection,
    Unit,
    check_choice,
    check_flag,
    from_nats,
    hints_keywords,
)
from mi_metrics.functional.tensors import check_exact, check_finite, check_values, paired_vectors

# Below this share of the largest, an eigenvalue of a block of d correlations is that of a
# coordinate that repeats others: d · 2**-40, where rounding reaches about d · 2**-50.
LEAST_EIGENVALUE = 2.0**-40
SURELY_ROUNDING = 2.0**-44
# 1 − s² of a canonical correlation is at least this, which is 13.9 nats.
LEAST_REMAINDER = 2.0**-40
# A power of two as float64, and its inverse, within the normal numbers.
MOST_EXPONENT = 1000


class Moments(NamedTuple):
    """Number, mean and centred products of samples, each coordinate in its own unit 2**exponent.

    The mean is an unevaluated sum of two float64: products of samples far from 0 would otherwise
    lose in a merge what lies below the last bit of the mean.
    """

    number: Tensor  # (...), float64
    exponent: Tensor  # (..., d), int64
    mean: Tensor  # (..., d)
    mean_rest: Tensor  # (..., d)
    products: Tensor  # (..., d, d)


class Estimate(NamedTuple):
    """What canonical correlations tell, and how far the value can be trusted."""

    value: Tensor  # (...), nats
    deviation: Tensor  # (...), about its standard deviation for N Gaussian samples, nats
    determined: Tensor  # (...), bool: a direction of y is a function of x but for rounding
    dropped: Tensor  # (...), bool: a direction was left out that may not be rounding


@hints_keywords
def gaussian_mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    copula: bool = False,
    bias_correction: GaussianCorrection = "analytic",
    unit: Unit = "nats",
) -> Tensor:
    r"""Estimate the mutual information of jointly Gaussian variables, in nats or bits.

    The only estimator here for tens of dimensions and hundreds of samples, if the dependence is
    linear. With Σ the covariance of (x, y) and its blocks,

    .. math:: I = \tfrac12 \log \frac{\det\Sigma_x \, \det\Sigma_y}{\det\Sigma}
                = -\tfrac12 \sum_i \log (1 - s_i^2)

    where :math:`s_i` are the canonical correlations; for two numbers
    :math:`-\tfrac12 \log(1 - r^2)`. For data of any distribution it is the information that linear
    relations carry.

    Conventions:
        Sign and range: Raw estimates, not clamped: with ``bias_correction="analytic"`` those of
        independent variables scatter around 0; with ``"none"`` they are ≥ 0. Always finite.
        What it can't see: Dependence without correlation counts as 0: a circle, a spiral, :math:`y
        = x^2`, the common scale of a multivariate Student-t. Its value for other than Gaussian data
        may lie on either side of the truth. Heavy tails are worst, where one far sample makes the
        covariance: of a Student-t with 0.30 nats, 5 + 5 dimensions and N = 3000, four draws gave
        0.03, 0.03, 0.04 and 1.09; with ``copula=True`` all of them 0.00 or 0.01.
        Bias: ``"none"`` is too large by about d_x d_y / 2N, more for few samples: 2.79 nats for 50
        + 50 dimensions and N = 500. ``"analytic"`` subtracts the expectation of that, which is the
        same for every Σ and exact for Gaussian samples from N = d_x + d_y + 1 on: :math:`\tfrac12
        [\sum_{i \le d_x} \psi(\tfrac{N-i}{2}) + \sum_{i \le d_y} \psi(\tfrac{N-i}{2}) - \sum_{i \le
        d_x + d_y} \psi(\tfrac{N-i}{2})]`. There the estimate scatters by 1 to 2 nats, which
        ``MutualInformationWarning`` of kind ``"too few"`` says.
        Copula: ``copula=True`` replaces every coordinate by the normal scores
        :math:`\Phi^{-1}((\text{mid-rank} - \tfrac12)/N)` of its ranks, so that the margins don't
        matter. Right at independence; for strong dependence and few samples the estimate is too
        small: −0.09 of 0.83 nats at N = 30, −0.01 at 500, and −0.4 of 20.8 nats for 25 + 25
        dimensions at 250.
        Ties: No rule for values; with ``copula=True`` equal values have their mean rank.
        Constant input: A constant coordinate counts as absent; a constant variable: exactly 0.
        Repeated coordinates: Directions of x (of y) whose share of variance is below d · 2⁻⁴⁰ of
        the largest, in units in which each coordinate has variance 1, are left out, in the bias
        too: duplicated columns and the last column of one-hot labels change nothing. Where such a
        share is more than rounding leaves (d · 2⁻⁴⁴), a warning of kind ``"copies"``.
        Functions of each other: 1 − s² counts as at least 2⁻⁴⁰: where y determines x, or a
        direction of it, the value is large and finite, 13.9 nats per direction, with the same
        warning.
        Invariance: Under every invertible affine map of x and of y, to rounding times the condition
        of their correlations.
        Gradient: None; train with :class:`mi_metrics.GaussianMutualInformationLoss`.
        Arithmetic and memory: float64, in units of each coordinate; two copies of the samples and
        (d_x + d_y)² numbers per pair.
        Samples in parts: :class:`mi_metrics.GaussianMutualInformation` adds up over batches and
        ranks, to 1e-12 times the condition of the correlations.

    Args:
        x: Samples ``(..., N, d_x)``, N > d_x + d_y; ``(N,)`` is read as ``(N, 1)``. Real, finite.
        y: Samples ``(..., N, d_y)`` of the same leading dimensions; ``(N,)`` is read as ``(N, 1)``.
        copula: Take the normal scores of each coordinate's ranks.
        bias_correction: ``"analytic"`` or ``"none"``.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 tensor of the leading dimensions ``(...)``, on the device of ``x``.

    Raises:
        TypeError: If ``x`` or ``y`` is no real tensor, ``copula`` no bool, or the device MPS, which
            has no float64.
        ValueError: If shapes or devices differ, values are not finite, N ≤ d_x + d_y, or an option
            is unknown.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import gaussian_mutual_information
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 500, 25, generator=generator)
        >>> y = 0.6 * x + 0.8 * noise  # truth: 25 · 0.2231 = 5.58 nats
        >>> print(f"{gaussian_mutual_information(x, y):.2f}")
        5.57

    References:
        T. M. Cover, J. A. Thomas, Elements of Information Theory, 2nd edition (2006), section 8.5,
        doi:10.1002/047174882X.

        N. R. Goodman, The distribution of the determinant of a complex Wishart distributed matrix,
        Ann. Math. Stat. 34 (1963) 178, doi:10.1214/aoms/1177704251 (for real samples: the bias).

        R. A. A. Ince et al., A statistical framework for neuroimaging data analysis based on mutual
        information estimated via a Gaussian copula, Hum. Brain Mapp. 38 (2017) 1541,
        doi:10.1002/hbm.23471.
    """
    check_choice("bias_correction", bias_correction, GAUSSIAN_CORRECTIONS)
    check_choice("unit", unit, UNITS)
    check_flag("copula", copula)
    x, y = _check_samples(x, y)
    rows = torch.cat((x.double(), y.double()), -1)
    if copula:
        rows = normal_scores(rows)
    rows, found = centred(rows)
    whitening = _whiten(found.products, x.shape[-1])
    rows = rows @ whitening.map
    estimate = canonical_information(
        rows.mT @ rows, rows.shape[-2], x.shape[-1], bias_correction=bias_correction
    )
    estimate = estimate._replace(dropped=whitening.dropped)
    for kind, message in doubts(estimate):
        caution(kind, message)
    # Not -0.0 for a constant variable.
    return from_nats(estimate.value + 0.0, unit)


def moments(rows: Tensor) -> Moments:
    """Return the moments of samples ``(..., N, d)`` in float64, N ≥ 1."""
    return centred(rows)[1]


def centred(rows: Tensor) -> tuple[Tensor, Moments]:
    """Return samples less their mean in units of 2**exponent, and the samples' moments."""
    exponent = exponents(rows)
    rows = rows * power_of_two(-exponent).unsqueeze(-2)
    n = rows.shape[-2]

    # A constant coordinate is 0 after the first of these, to the bit.
    first = rows[..., :1, :].clone()
    rows -= first
    mean = rows.mean(-2, keepdim=True)
    rows -= mean
    rest = rows.mean(-2, keepdim=True)
    products = rows.mT @ rows - n * (rest.mT @ rest)

    mean, low_part = two_sum(first, mean)
    mean, rest = two_sum(mean, low_part + rest)
    number = torch.full(rows.shape[:-2], n, dtype=torch.float64, device=rows.device)
    return rows, Moments(number, exponent, mean.squeeze(-2), rest.squeeze(-2), products)


def canonical_information(
    products: Tensor, n: int, x_dim: int, *, bias_correction: str = "analytic"
) -> Estimate:
    """Estimate the mutual information from centred products ``(..., d_x + d_y, d_x + d_y)``.

    Args:
        products: Finite float64 products of n samples, in any unit of each coordinate.
        n: Number of samples, more than d_x + d_y.
        x_dim: d_x, the number of leading coordinates that are x.
        bias_correction: ``"analytic"`` or ``"none"``.
    """
    whitening = _whiten(products, x_dim)
    cross = (whitening.map.mT @ products @ whitening.map)[..., :x_dim, x_dim:]
    s = torch.linalg.svdvals(cross)
    square = s.square()
    value = -0.5 * torch.log1p(-square.clamp(max=1 - LEAST_REMAINDER)).sum(-1)

    ranks = whitening.x_rank, whitening.y_rank
    half = 0.5 * (n - torch.arange(1, products.shape[-1] + 1, device=products.device).double())
    bias = _of_ranks(torch.special.digamma(half), *ranks) / 2
    if bias_correction == "analytic":
        value = value - bias
    # For independent samples the variance is known exactly. What dependence adds is Σ s² / N, where
    # the sum over independent samples would be d_x d_y / (N − 1).
    scatter = -_of_ranks(torch.special.polygamma(1, half), *ranks) / 4
    dependence = square.sum(-1) - ranks[0] * ranks[1] / (n - 1)
    deviation = (scatter.clamp_min(0) + dependence.clamp_min(0) / n).sqrt()
    determined = (square > 1 - LEAST_REMAINDER).any(-1)
    return Estimate(value, deviation, determined, whitening.dropped)


def doubts(estimate: Estimate) -> list[tuple[Kind, str]]:
    """Return the kinds of doubt about an estimate, in nats, with a sentence each."""
    found: list[tuple[Kind, str]] = []
    bound = (estimate.value.abs() / 5).clamp_min(0.1)
    if bool((estimate.deviation > bound).any()):
        found.append(
            (
                "too few",
                "The Gaussian estimate of so few samples for so many coordinates scatters by "
                f"about {float(estimate.deviation.max()):.2g} nats around the truth. Use more "
                "samples, or fewer coordinates, for example the first principal components of "
                "each variable.",
            )
        )
    if bool(estimate.determined.any()):
        found.append(
            (
                "copies",
                "A direction of y is a linear function of x to 12 digits, which counts as 13.9 "
                "nats; the information of continuous variables would be infinite. If y was "
                "made from x, leave that coordinate out.",
            )
        )
    elif bool(estimate.dropped.any()):
        found.append(
            (
                "copies",
                "Coordinates repeat others to 12 digits but perhaps not exactly, and what "
                "distinguishes them was left out. If the difference matters, give it as a "
                "coordinate of its own.",
            )
        )
    return found


def normal_scores(rows: Tensor) -> Tensor:
    """Return Φ⁻¹((mid-rank − ½)/N) of each coordinate of samples ``(..., N, d)``, in float64."""
    columns = rows.mT.contiguous()
    ordered = columns.sort(-1)[0]
    below = torch.searchsorted(ordered, columns)
    up_to = torch.searchsorted(ordered, columns, right=True)
    # Ranks from 1: those of equal values are below + 1 … up_to, their mean less one half is this.
    scores: Tensor = torch.special.ndtri((below + up_to).double() / (2 * rows.shape[-2]))
    return scores.mT


def exponents(rows: Tensor) -> Tensor:
    """Return e of each coordinate of float64 samples ``(..., N, d)``, with all of them < 2**e."""
    # A third of the time of aminmax.
    magnitude = torch.maximum(rows.amax(-2), -rows.amin(-2))
    # Not -0.0, whose bits are not those of a small number.
    bits = magnitude.abs().view(torch.int64)
    return ((bits >> 52) - 1022).clamp(-MOST_EXPONENT, MOST_EXPONENT)


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2**exponent in float64, exactly, for int64 between -1022 and 1023."""
    return ((exponent + 1023) << 52).view(torch.float64)


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rounded sum of two tensors and what rounding lost (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


class _Whitening(NamedTuple):
    map: Tensor  # (..., d, d), block by block; columns of 0 for directions that are left out
    x_rank: Tensor  # (...), directions of x that are not
    y_rank: Tensor  # (...)
    dropped: Tensor  # (...), bool: whether what is left out may be more than rounding


def _whiten(products: Tensor, x_dim: int) -> _Whitening:
    """Return the map of x and of y, each on its own, to directions of variance 1 without
    correlation, from centred products in any units.
    """
    variance = products.diagonal(dim1=-2, dim2=-1)
    unit = torch.where(variance > 0, variance, 1).rsqrt() * (variance > 0)
    correlation = products * unit.unsqueeze(-1) * unit.unsqueeze(-2)
    whole, ranks, dropped = torch.zeros_like(products), [], []
    for block in (slice(None, x_dim), slice(x_dim, None)):
        values, vectors = torch.linalg.eigh(correlation[..., block, block])
        d = values.shape[-1]
        share = values / values[..., -1:].clamp_min(torch.finfo(values.dtype).tiny)
        kept = share > d * LEAST_EIGENVALUE
        scale = torch.where(kept, values, 1).rsqrt() * kept
        whole[..., block, block] = vectors * scale.unsqueeze(-2)
        ranks.append(kept.sum(-1))
        dropped.append(((share > d * SURELY_ROUNDING) & ~kept).any(-1))
    return _Whitening(unit.unsqueeze(-1) * whole, ranks[0], ranks[1], dropped[0] | dropped[1])


def _of_ranks(terms: Tensor, x_rank: Tensor, y_rank: Tensor) -> Tensor:
    """Return the sum of the first x_rank terms, plus that of y_rank, minus that of both."""
    sums = torch.cat((terms.new_zeros(1), terms.cumsum(0)))
    return sums[x_rank] + sums[y_rank] - sums[x_rank + y_rank]


def _check_samples(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Return x and y as ``(..., N, d)``, or say what is wrong with them."""
    x, y = paired_vectors(x, y)
    shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
    if x.shape[-2] <= x.shape[-1] + y.shape[-1]:
        raise ValueError(
            "Expected more samples than coordinates of `x` and `y` together, but got "
            f"N = {x.shape[-2]} samples of {x.shape[-1]} + {y.shape[-1]} coordinates in shapes "
            f"{shapes}. Pass more samples, or fewer coordinates; the samples are counted along the "
            "last dimension but one, so for a batch of scalars use x.unsqueeze(-1), "
            "y.unsqueeze(-1)."
        )
    check_values("x", x)
    if x.numel() and y.numel():
        check_finite(x, y)
        check_exact("x", x)
        check_exact("y", y)
    return x, y
