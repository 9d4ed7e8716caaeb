"""Whether an estimate from nearest neighbours can be trusted, judged from the samples alone.

Two signs of an error are looked for:

- *Drift*: the value of all samples differs from that of smaller parts of them, so it would change
  again with more samples (Holmes and Nemenman 2019).
- *Reference*: a lower bound of the same information, estimated otherwise, lies above the value. It
  finds what parts can't show: an error that all of them have in common.

What information functions of x and of y have in common is such a bound. Three are taken, and the
sum over pairs of coordinates, on normal scores of ranks, in which equal values are put in an order
of chance, each coordinate in one of its own: so the scores of a variable are functions of it and of
noise, whatever its ties.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mi_metrics.functional.gaussian import canonical_information, moments
from mi_metrics.functional.information import information
from mi_metrics.functional.knn import checked_rows, rows_mutual_information
from mi_metrics.functional.neighbors.order import lexicographic_order
from mi_metrics.functional.options import (
    Algorithm,
    Standardize,
    Unit,
    check_integer,
    check_seed,
    from_nats,
    hints_keywords,
)

# The drift that is too large: in nats, as a share of the value, and in standard errors.
DRIFT, DRIFT_SHARE, DRIFT_ERRORS = 0.12, 0.1, 4.0
# The excess of the reference that is too large, in nats beyond a standard error.
EXCESS = 0.05
# For independent samples the error is so many times what the scatter of parts shows.
UNDERSTATED = 1.4
RADIUS_NEIGHBORS = 5
# The bound from pairs of coordinates: bins by which pairs are chosen, information from which on it
# is estimated from neighbours, how many neighbours, and the fewest samples.
BINS, NOTABLE, PAIR_NEIGHBORS, PAIRED = 5, 0.05, 10, 200
# Its standard error for independent coordinates, times sqrt(N / pairs), and a half more.
PAIR_ERROR = 0.75


class Reliability(NamedTuple):
    """An estimate from nearest neighbours and its verdict; tensors of one shape.

    Attributes:
        value: The mutual information of all samples.
        standard_error: Its standard error, from the scatter among parts of the samples.
        drift: The value minus the mean over the finest parts.
        reference: The largest of the lower bounds that were estimated otherwise.
        reliable: bool: whether the value is neither drifting nor below the reference.
    """

    value: Tensor
    standard_error: Tensor
    drift: Tensor
    reference: Tensor
    reliable: Tensor


@hints_keywords
def knn_reliability(
    x: Tensor,
    y: Tensor,
    n_neighbors: int = 3,
    *,
    parts: int = 8,
    seed: int = 0,
    algorithm: Algorithm = "ksg1",
    discrete_y: bool = False,
    standardize: Standardize = True,
    unit: Unit = "nats",
) -> Reliability:
    r"""Estimate mutual information from nearest neighbours and judge the estimate, in nats or bits.

    The samples are divided at random into m = 2, 4, … ``parts`` disjoint parts of equal size. With
    :math:`v_m` the mean and :math:`s_m^2` the variance of the m values,

    .. math:: \sigma^2 = \frac{\sum_m (m - 1) \, s_m^2 / m}{\sum_m (m - 1)}, \qquad
              \text{drift} = v_1 - v_{parts}

    and the reference is the largest of four estimates: neighbours of ranks, the Gaussian
    information of normal scores, that of the two variables' distances from their middle, and, from
    200 samples on, the sum over pairs of a coordinate of x with one of y, less what the coordinates
    of one variable have in common and the standard error. The value is reliable unless

    .. math:: |\text{drift}| > \max(0.12, |v_1| / 10) \text{ and } |\text{drift}| > 4 \sigma, \quad
              \text{or reference} - v_1 > 0.05 + \sigma \quad \text{(nats)}.

    Conventions:
        What it finds: of errors of 0.1 nats and more, at N = 1000 and 2000 and up to 10 + 10
        dimensions, 92 % in fresh draws of families that did not set the thresholds: 90 to 100 % of
        most, 81 % of uniform variables with bounded noise. Of values that are right within 0.03
        nats, 4 to 6 % are called unreliable.
        An error that both the parts and the references share is not found. Coordinates of one
        variable that depend on each other in threes and not in pairs, such as a, b and a xor b,
        raise the reference.
        Standard error: 1.4 σ, which is about right at independence. It is that of N independent
        samples; pixels and time series are not independent.
        Sign and range: value and drift may be negative. ``reliable`` is False where a part has
        no value.
        Ties and constant input: as :func:`knn_mutual_information`; a constant variable is reliably
        0.
        Gradient: none. Memory: that of one estimate. Time: about 6 estimates, 12 of scalars.
        Exact under splits and ranks: a function of the set of samples and the seed.

    Args:
        x: Samples ``(..., N, d_x)``; ``(N,)`` is read as ``(N, 1)``. Real, finite.
        y: Samples ``(..., N, d_y)``, or labels, as in :func:`knn_mutual_information`.
        n_neighbors: k, at least 1 and less than the size of the finest parts, N / ``parts`` rounded
            down.
        parts: Number of the finest parts, a power of 2.
        seed: Seed of the random parts, at least 0.
        algorithm: ``"ksg1"`` or ``"ksg2"``.
        discrete_y: Take ``y`` for class labels.
        standardize: True, False, ``"rank"`` or ``"joint"``: how coordinates are scaled.
        unit: ``"nats"`` or ``"bits"``, of the four numbers.

    Returns:
        Tensors of the leading dimensions: ``value``, ``standard_error``, ``drift``, ``reference``
        in float64, ``reliable`` in bool.

    Raises:
        TypeError: If ``x`` or ``y`` is no real tensor, or an option has the wrong type.
        ValueError: If shapes or devices differ, values are not finite, an option is unknown or out
            of its range, or there are too few samples for so many parts.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import knn_reliability
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 1000, 8, generator=generator)
        >>> found = knn_reliability(x, 0.8 * x + 0.6 * noise)  # truth: 4.09 nats
        >>> print(f"{found.value:.2f}, at least {found.reference:.2f}: {bool(found.reliable)}")
        1.87, at least 4.02: False

    References:
        C. M. Holmes, I. Nemenman, "Estimation of mutual information for real-valued data with error
        bars and controlled bias" (2019), doi:10.1103/PhysRevE.100.022404.
        R. A. A. Ince et al., "A statistical framework for neuroimaging data analysis based on
        mutual information estimated via a Gaussian copula" (2017), doi:10.1002/hbm.23471.
    """
    parts, seed = check_parts(parts), check_seed(seed)
    options: dict[str, Any] = {
        "algorithm": algorithm,
        "discrete_y": discrete_y,
        "standardize": standardize,
    }
    pairs, x_dim, leading = checked_rows(x, y, n_neighbors, unit=unit, **options)
    n_neighbors = int(n_neighbors)
    if pairs.shape[1] // parts <= n_neighbors:
        raise ValueError(
            f"Expected more than `n_neighbors` samples in each of {parts} parts, but got "
            f"N = {pairs.shape[1]} and n_neighbors={n_neighbors}. Pass more samples, or smaller "
            "`parts` or `n_neighbors`."
        )
    found = [
        rows_reliability(rows, x_dim, n_neighbors, parts=parts, seed=seed, **options)
        for rows in pairs
    ]
    return collected(found, leading, unit, pairs.device)


def rows_reliability(
    rows: Tensor,
    x_dim: int,
    n_neighbors: int,
    *,
    parts: int = 8,
    seed: int = 0,
    algorithm: str = "ksg1",
    discrete_y: bool = False,
    standardize: Standardize = True,
    value: Tensor | None = None,
) -> Reliability:
    """Judge the estimate of checked samples, in nats: what the metric calls on its buffer.

    Args:
        rows: Finite float64 samples ``(N, d_x + d_y)``, in any order; with ``discrete_y`` the last
            column holds the labels.
        x_dim: d_x, the number of leading columns that are x.
        n_neighbors: k.
        parts: Number of the finest parts, a power of 2.
        seed: Seed of the random parts.
        algorithm: ``"ksg1"`` or ``"ksg2"``.
        discrete_y: Take the last column for class labels.
        standardize: How coordinates are scaled.
        value: The estimate, where it is known.
    """
    options: dict[str, Any] = {"algorithm": algorithm, "discrete_y": discrete_y}

    def estimate(some: Tensor, scaling: Standardize) -> float:
        return float(
            rows_mutual_information(some, x_dim, n_neighbors, standardize=scaling, **options)
        )

    whole = estimate(rows, standardize) if value is None else float(value)
    if len(rows) // parts <= n_neighbors:
        first, unknown = rows.new_tensor([whole, math.nan])
        return Reliability(first, unknown, unknown, unknown, unknown > 0)
    generator = torch.Generator().manual_seed(seed)
    rows = rows[lexicographic_order(rows.unbind(1))]
    rows = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
    squares, weights, mean = 0.0, 0, whole
    m = 2
    while m <= parts:
        some = torch.tensor([estimate(part, standardize) for part in rows.tensor_split(m)])
        mean = float(some.mean())
        squares += (m - 1) * float(some.var()) / m
        weights += m - 1
        m *= 2
    sigma = math.sqrt(squares / weights)
    lower = [bound for bound in _lower_bounds(rows, x_dim, generator) if bound == bound]
    if standardize != "rank":
        lower.append(estimate(rows, "rank"))
    reference, drift = max([whole, *lower]), whole - mean
    steady = abs(drift) <= max(DRIFT, DRIFT_SHARE * abs(whole), DRIFT_ERRORS * sigma)
    # No comparison holds for NaN.
    reliable = steady and reference - whole <= EXCESS + sigma
    bound = max(lower, default=whole)
    first, error, change, best = rows.new_tensor([whole, UNDERSTATED * sigma, drift, bound])
    verdict = torch.tensor(reliable, device=rows.device)
    return Reliability(first, error, change, best, verdict)


def collected(
    found: list[Reliability], leading: torch.Size, unit: Unit, device: torch.device
) -> Reliability:
    """Return verdicts as one of the given shape and unit."""
    values, errors, drifts, references, verdicts = (
        torch.stack([each[i] for each in found]).view(leading)
        if found
        else torch.empty(leading, device=device)
        for i in range(len(Reliability._fields))
    )
    return Reliability(
        from_nats(values.double(), unit),
        from_nats(errors.double(), unit),
        from_nats(drifts.double(), unit),
        from_nats(references.double(), unit),
        verdicts.bool(),
    )


def doubt(verdict: Reliability, name: str) -> str | None:
    """Return why the value of ``name`` is unreliable, in nats; None where it is reliable.

    Args:
        verdict: The verdict on one estimate, in nats.
        name: What was estimated, or by whom.
    """
    if bool(verdict.reliable):
        return None
    value, _, drift, reference, _ = (float(v) for v in verdict)
    remedy = (
        'Use more samples, fewer dimensions or standardize="rank"; for jointly Gaussian vectors '
        "GaussianMutualInformation."
    )
    if drift != drift:
        return (
            f"The value {value:.3g} nats of {name} can't be judged: some parts of the samples are "
            "too few for a value of their own. Use more samples."
        )
    if reference > value + EXCESS:
        return (
            f"The value {value:.3g} nats of {name} is unreliable: estimated otherwise, the same "
            f"samples have at least {reference:.3g} nats in common. {remedy}"
        )
    return (
        f"The value {value:.3g} nats of {name} is unreliable: it is {abs(drift):.2g} nats "
        f"{'above' if drift > 0 else 'below'} that of smaller parts of the samples, so that more "
        f"samples would change it again. {remedy}"
    )


def check_parts(parts: int) -> int:
    """Refuse what is no power of 2 above 1."""
    parts = check_integer("parts", parts, 2)
    if parts & (parts - 1):
        raise ValueError(
            f"Expected `parts` to be a power of 2, but got {parts}. Halves, quarters and so on are "
            "compared: pass 4, 8 or 16."
        )
    return parts


def _lower_bounds(rows: Tensor, x_dim: int, generator: torch.Generator) -> list[float]:
    """Return the Gaussian information of normal scores, that of the variables' radii, and that of
    pairs of coordinates.
    """
    n, d = rows.shape
    constant = (rows == rows[0]).all(0)
    scores = torch.empty_like(rows)
    levels = (torch.arange(n, dtype=torch.float64, device=rows.device) + 0.5) / n
    for column in range(d):
        order = torch.randperm(n, generator=generator).to(rows.device)
        order = order[rows[order, column].argsort(stable=True)]
        scores[order, column] = torch.special.ndtri(levels)
    scores[:, constant] = 0
    bounds = []
    if n > d:
        bounds.append(float(canonical_information(moments(scores).products, n, x_dim).value))
    radii = [part.square().sum(1) for part in (scores[:, :x_dim], scores[:, x_dim:])]
    if n > RADIUS_NEIGHBORS:
        both = torch.stack(radii, 1)
        bounds.append(float(rows_mutual_information(both, 1, RADIUS_NEIGHBORS)))
    if n >= PAIRED:
        bounds.append(_paired_bound(scores, x_dim))
    return bounds


def _paired_bound(scores: Tensor, x_dim: int) -> float:
    r"""Return the sum of the information of pairs of coordinates, less what the coordinates of one
    variable have in common, in nats.

    With the total correlation :math:`T = \sum_i H(x_i) - H(x)`, for any pairing
    :math:`I(x; y) \ge \sum_i I(x_i; y_{\pi(i)}) - T`; and likewise of y. T is taken to be the sum
    over pairs, which is more where they repeat each other. Each half of the samples is paired up
    by the other, so that none is chosen for its own chance.
    """
    ranks = scores.argsort(dim=0, stable=True).argsort(dim=0)
    cells = (ranks * BINS).div_(len(ranks), rounding_mode="floor")
    coarse = [_pair_information(half) for half in (cells[::2], cells[1::2])]
    sums = []
    for half, (chosen, judged) in enumerate((coarse, coarse[::-1])):
        own = scores[1 - half :: 2]
        x, y = linear_sum_assignment(chosen[:x_dim, x_dim:], maximize=True)
        y = y + x_dim
        found = sum(_of_pair(own, i, j) for i, j in zip(x, y, strict=True))
        common = [
            sum(
                _of_pair(own, i, j) if judged[i, j] > NOTABLE else judged[i, j]
                for i, j in itertools.combinations(places, 2)
            )
            for places in (x, y)
        ]
        sums.append(found - max(0.0, min(common)))
    return float(np.mean(sums)) - PAIR_ERROR * math.sqrt(len(x) / len(scores))


def _of_pair(scores: Tensor, i: int, j: int) -> float:
    """Return the information of two coordinates from neighbours, in nats."""
    both = scores[:, [int(i), int(j)]].contiguous()
    return float(rows_mutual_information(both, 1, PAIR_NEIGHBORS, standardize=False))


def _pair_information(cells: Tensor) -> NDArray[np.float64]:
    """Return the corrected information of all pairs of columns of bins."""
    d = cells.shape[1]
    code = cells.unsqueeze(2) * BINS + cells.unsqueeze(1)
    places = BINS * BINS * torch.arange(d * d, device=cells.device)
    code = code.flatten(1) + places
    tables = torch.bincount(code.flatten(), minlength=d * d * BINS * BINS)
    found = information(tables.view(d, d, BINS, BINS), bias_correction="miller_madow")
    return found.cpu().numpy()
