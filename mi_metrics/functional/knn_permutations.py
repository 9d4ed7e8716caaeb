"""Whether nearest neighbours see any dependence, or any beyond what a third variable explains: the
estimate among those of permuted samples.
"""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.knn import checked_rows, rows_mutual_information
from mi_metrics.functional.knn_conditional import Dims, checked_triples, frenzel_pompe
from mi_metrics.functional.neighbors.local_permutations import local_permutations
from mi_metrics.functional.neighbors.order import lexicographic_order
from mi_metrics.functional.neighbors.permuted import permuted_values
from mi_metrics.functional.neighbors.ties import (
    Triples,
    groups,
    multiplicity,
    tell_triples_apart,
)
from mi_metrics.functional.options import (
    ALGORITHMS,
    Algorithm,
    Standardize,
    Unit,
    check_choice,
    check_flag,
    check_repetitions,
    check_seed,
    hints_keywords,
)


@hints_keywords
def knn_p_value(
    x: Tensor,
    y: Tensor,
    n_neighbors: int = 3,
    *,
    num_permutations: int = 199,
    seed: int = 0,
    z: Tensor | None = None,
    algorithm: Algorithm = "ksg1",
    discrete_y: bool = False,
    standardize: Standardize = True,
    unit: Unit = "nats",
) -> Tensor:
    r"""Compute the p-value of a permutation test of independence, or of conditional independence
    given z, whose statistic is the estimate from nearest neighbours (dimensionless).

    The value I of the samples is compared with those of P samples in which y is permuted:

    .. math:: p = \frac{1 + \#\{I_{null} \ge I\}}{1 + P}

    With ``z`` the statistic is :func:`knn_conditional_mutual_information`, and x is permuted among
    samples of the same z, or of about the same: one whose z no other has takes the x of one of the
    five that are nearest to it in z (Runge 2018), of those that are alone, too.

    Conventions:
        Range: 1 / (P + 1) … 1; 1 where a variable is constant.
        Validity: of independent samples at most a share a of p-values is ≤ a, for any N, k and
        margins. Given z this holds where each z repeats, and else as far as five neighbours have
        the same z: of x and y that depend on a common cause z alone, 2 to 6 % of p-values are
        ≤ 0.05 for N = 250 and up to 3 coordinates of z. Samples that depend on each other (pixels,
        time series) make p too small.
        Gradient: none. Memory: that of one estimate; with ``z`` up to 128 MiB of permutations, too,
        and a few times as much to draw them. Time: P estimates; 0.5 s for 1000 scalars.
        Exact under splits and ranks: a function of the set of samples and the seed.

    Args:
        x: Samples ``(..., N, d_x)``; ``(N,)`` is read as ``(N, 1)``. Real, finite.
        y: Samples ``(..., N, d_y)``, or labels, as in :func:`knn_mutual_information`.
        n_neighbors: k, at least 1 and less than N.
        num_permutations: P, from 1 to 10**8.
        seed: Seed of the permutations, at least 0.
        z: What is given, ``(..., N, d_z)``; ``(N,)`` is read as ``(N, 1)``. None: nothing.
        algorithm: ``"ksg1"`` or ``"ksg2"``, which excludes ``z``.
        discrete_y: Take ``y`` for class labels, which excludes ``z``.
        standardize: True, False, ``"rank"`` or ``"joint"``: how coordinates are scaled.
        unit: Of no effect.

    Returns:
        float64 of the leading dimensions ``(...)``.

    Raises:
        TypeError: If ``x`` or ``y`` is no real tensor, or an option has the wrong type.
        ValueError: If shapes or devices differ, values are not finite, or an option is unknown or
            out of its range.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import knn_p_value
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 200, generator=generator)
        >>> print(f"{knn_p_value(x, x**2 + noise):.3f}")
        0.005

    References:
        B. Phipson, G. K. Smyth, "Permutation p-values should never be zero" (2010),
        doi:10.2202/1544-6115.1585.
        T. B. Berrett, R. J. Samworth, "Nonparametric independence testing via mutual information"
        (2019), doi:10.1093/biomet/asz024.
        J. Runge, "Conditional independence testing based on a nearest-neighbor estimator of
        conditional mutual information" (2018), arXiv:1709.01447.
    """
    num_permutations = check_repetitions("num_permutations", num_permutations)
    seed = check_seed(seed)
    if z is not None:
        _check_with_condition(algorithm, discrete_y)
        triples, dims, leading = checked_triples(
            x, y, z, n_neighbors, standardize=standardize, unit=unit
        )
        found = [
            triples_p_value(
                rows,
                dims,
                int(n_neighbors),
                num_permutations=num_permutations,
                seed=seed,
                standardize=standardize,
            )
            for rows in triples
        ]
        return torch.tensor(found, dtype=torch.float64, device=triples.device).view(leading)
    options: dict[str, Any] = {
        "algorithm": algorithm,
        "discrete_y": discrete_y,
        "standardize": standardize,
    }
    pairs, x_dim, leading = checked_rows(x, y, n_neighbors, unit=unit, **options)
    n_neighbors = int(n_neighbors)
    found = [
        rows_p_value(
            rows, x_dim, n_neighbors, num_permutations=num_permutations, seed=seed, **options
        )
        for rows in pairs
    ]
    return torch.tensor(found, dtype=torch.float64, device=pairs.device).view(leading)


def rows_p_value(
    rows: Tensor,
    x_dim: int,
    n_neighbors: int,
    *,
    num_permutations: int = 199,
    seed: int = 0,
    algorithm: str = "ksg1",
    discrete_y: bool = False,
    standardize: Standardize = True,
) -> float:
    """Test checked samples: what the metric calls on its buffer.

    Args:
        rows: Finite float64 samples ``(N, d_x + d_y)``, in any order; with ``discrete_y`` the last
            column holds the labels.
        x_dim: d_x, the number of leading columns that are x.
        n_neighbors: k.
        num_permutations: P.
        seed: Seed of the permutations.
        algorithm: ``"ksg1"`` or ``"ksg2"``.
        discrete_y: Take the last column for class labels.
        standardize: How coordinates are scaled.

    Returns:
        The p-value; NaN where the samples have no value.
    """

    def estimate(some: Tensor) -> float:
        return float(
            rows_mutual_information(
                some,
                x_dim,
                n_neighbors,
                algorithm=algorithm,
                discrete_y=discrete_y,
                standardize=standardize,
            )
        )

    observed = estimate(rows)
    if observed != observed:
        return observed
    constant = (rows == rows[0]).all(0)
    if bool(constant[:x_dim].all()) or bool(constant[x_dim:].all()):
        return 1.0
    # The permutations don't depend on the order in which samples came.
    rows = rows[lexicographic_order(rows.unbind(1))]
    generator = torch.Generator().manual_seed(seed)
    reached = 0
    for _ in range(num_permutations):
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        permuted = torch.cat((rows[:, :x_dim], rows[order, x_dim:]), 1)
        # Equal counts of neighbours are equal to the bit: they are summed as a histogram.
        reached += estimate(permuted) >= observed
    return (1 + reached) / (1 + num_permutations)


def triples_p_value(
    rows: Tensor,
    dims: Dims,
    n_neighbors: int,
    *,
    num_permutations: int = 199,
    seed: int = 0,
    standardize: Standardize = True,
) -> float:
    """Test checked samples of three variables: what the metric calls on its buffer.

    Args:
        rows: Finite float64 samples ``(N, d_x + d_y + d_z)``, in any order.
        dims: d_x, d_y and d_z.
        n_neighbors: k.
        num_permutations: P.
        seed: Seed of the permutations.
        standardize: How coordinates are scaled.

    Returns:
        The p-value; NaN where the samples have no value.
    """
    if len(rows) <= n_neighbors:
        return float("nan")
    samples = tell_triples_apart(rows, dims, standardize)
    if samples is None:
        return 1.0
    observed = frenzel_pompe(samples, n_neighbors)
    x, y, z = (list(v) for v in samples.given)
    group = groups(z)
    same_z = torch.bincount(group)[group]
    # Where x, or y and z, repeat at most k times, no permutation makes samples coincident.
    apart = any(int(multiplicity(v).max()) <= n_neighbors for v in (x, [*y, *z]))
    orders = local_permutations(samples.z, same_z, group, num_permutations, seed)
    nulls = permuted_values(samples, n_neighbors, orders) if apart else None
    if nulls is None:
        nulls = (
            _permuted_value(samples, dims, n_neighbors, order, apart=apart, standardize=standardize)
            for order in orders
        )
    reached = sum(null >= observed for null in nulls)
    return (1 + reached) / (1 + num_permutations)


def _permuted_value(
    samples: Triples,
    dims: Dims,
    n_neighbors: int,
    order: Tensor,
    *,
    apart: bool,
    standardize: Standardize,
) -> float:
    """Return the estimate with x in another order; `apart` says that none can be coincident."""
    order = order.to(samples.x.device)
    if apart:
        permuted: Triples | None = samples._replace(x=samples.x[order])
    else:
        given = torch.cat((samples.given[0][:, order], *samples.given[1:]))
        permuted = tell_triples_apart(given.T, dims, standardize)
    return 0.0 if permuted is None else frenzel_pompe(permuted, n_neighbors)


def _check_with_condition(algorithm: Any, discrete_y: Any) -> None:
    """Refuse what the conditional estimate has no form of."""
    check_choice("algorithm", algorithm, ALGORITHMS)
    check_flag("discrete_y", discrete_y)
    if algorithm != "ksg1" or discrete_y:
        raise ValueError(
            "`z` makes this a test of conditional independence, whose estimate has one form and "
            f"excludes algorithm={algorithm!r} and discrete_y={discrete_y!r}. Leave both at their "
            "defaults; labels count as such where they repeat."
        )
