"""Conditional mutual information from nearest neighbours: the estimator of Frenzel and Pompe.

As :mod:`mi_metrics.functional.knn` does for two variables, it counts samples in boxes whose size
the sample itself sets: the box around sample i reaches to its k-th neighbour in the joint space of
x, y and z. Four counts over the same box stand for four densities, and their biases largely cancel:

    I = ⟨ψ(k) − ψ(n_xz) − ψ(n_yz) + ψ(n_z)⟩.

Ties are treated as there: samples come told apart, or as coincident, which count their copies.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.cautions import Kind, caution_each
from mi_metrics.functional.knn import check_standardize, doubtful_sets
from mi_metrics.functional.knn_sets import sets_information
from mi_metrics.functional.neighbors.candidates import nearest_apart
from mi_metrics.functional.neighbors.digamma import Term, mean_psi, of_coincident
from mi_metrics.functional.neighbors.doubts import doubts
from mi_metrics.functional.neighbors.search import nearest
from mi_metrics.functional.neighbors.ties import Triples, multiplicity, tell_triples_apart
from mi_metrics.functional.neighbors.within import strict_counts
from mi_metrics.functional.options import (
    UNITS,
    Standardize,
    Unit,
    check_choice,
    check_integer,
    from_nats,
    hints_keywords,
)
from mi_metrics.functional.tensors import (
    check_exact,
    check_finite,
    check_same_device,
    check_tensor,
    paired_vectors,
)

Dims = tuple[int, int, int]


@hints_keywords
def knn_conditional_mutual_information(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    n_neighbors: int = 3,
    *,
    standardize: Standardize = True,
    unit: Unit = "nats",
) -> Tensor:
    r"""Estimate the mutual information of x and y that z does not explain, from nearest neighbours,
    in nats or bits.

    Scalars or vectors in all three, continuous, discrete or mixed; no bins and no bandwidth. With
    :math:`\epsilon_i` the distance from sample i to its k-th neighbour in the joint space, in the
    max norm over all coordinates (Frenzel and Pompe 2007),

    .. math:: I(X; Y | Z) = \langle \psi(k) - \psi(n_{xz}) - \psi(n_{yz}) + \psi(n_z) \rangle

    where :math:`n_{xz}` is the number of samples nearer than :math:`\epsilon_i` in x and z, sample
    i included, and so on.

    Conditioning can lower the information, down to 0 where z is the common cause of x and y, and
    raise it, where z is a common effect: of two fair coins and z = x XOR y, I(X; Y) is 0 and
    I(X; Y | Z) is log 2. The chain rule I(X; Y, Z) = I(X; Z) + I(X; Y | Z) holds for the truth, and
    for estimates up to their errors.

    Conventions:
        Sign and range: raw estimates, not clamped. Where x and y are independent given z they
        scatter around 0, or a little below it. Always finite.
        Ties: a sample with at least k copies counts coincidences, all others are moved by 1e-10
        of a coordinate's spread, as :func:`knn_mutual_information` does it. So discrete and
        rounded data work, and of three discrete variables the value is about that of their table.
        Numbers of labels are compared as numbers: pass labels without an order as one-hot vectors,
        or, where z alone holds them, use :func:`binned_conditional_mutual_information`.
        Constant input: exactly 0 if x or y is constant. Constant z: the value of
        :func:`knn_mutual_information`, to the bit.
        Symmetry: I(x, y | z) = I(y, x | z) to the bit. Units: as :func:`knn_mutual_information`.
        Bias: towards 0, more with each coordinate of z: what z explains is seen only as far as the
        box is small in z, and more the stronger the dependence. Of 2 + 2 + 2 Gaussian coordinates
        at N = 5000: 0.02 nats of 0.45 (partial correlations of 0.6), 0.06 to 0.08 of 1.02 (0.8).
        For z of many coordinates pass a summary of them, or more samples.
        Gradient: none; for training see :class:`mi_metrics.MutualInformationPenalty`.
        Memory: O(N), pair by pair of a batch; with the kernels for GPUs some 2 million samples of a
        batch at once. Time: about N log N for few coordinates on the CPU and with these kernels,
        else N².
        Exact under splits and ranks: gather the samples first, their order changes no bit.
        :class:`mi_metrics.KNNConditionalMutualInformation` does so over batches and ranks.

    Args:
        x: Samples ``(..., N, d_x)``, one vector each; ``(N,)`` is read as ``(N, 1)``. Real, finite.
        y: Samples ``(..., N, d_y)`` of the same leading dimensions; ``(N,)`` is read as ``(N, 1)``.
        z: Samples ``(..., N, d_z)`` of what is known; ``(N,)`` is read as ``(N, 1)``.
        n_neighbors: k, at least 1 and less than N.
        standardize: True, False, ``"rank"`` or ``"joint"``: how coordinates are scaled, see
            :func:`knn_mutual_information`.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 tensor of the leading dimensions ``(...)``, on the device of ``x``.

    Raises:
        TypeError: If ``x``, ``y`` or ``z`` is no real tensor, an option has the wrong type, or the
            device is MPS, which has no float64.
        ValueError: If shapes or devices differ, values are not finite, an option is unknown, or
            ``n_neighbors`` is not in 1…N−1.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import knn_conditional_mutual_information
        >>> generator = torch.Generator().manual_seed(0)
        >>> z, a, b = torch.randn(3, 1000, generator=generator)
        >>> print(f"{knn_conditional_mutual_information(z + a, z + b, z):.2f}")  # truth: 0
        0.02
        >>> print(f"{knn_conditional_mutual_information(a, b, a + b + z / 2):.2f}")  # truth: 0.51
        0.46

    References:
        S. Frenzel, B. Pompe, "Partial mutual information for coupling analysis of multivariate time
        series" (2007), doi:10.1103/PhysRevLett.99.204101.
        O. C. Mesner, C. R. Shalizi, "Conditional mutual information estimation for mixed, discrete
        and continuous data" (2021), doi:10.1109/TIT.2020.3024886.
    """
    rows, dims, leading = checked_triples(x, y, z, n_neighbors, standardize=standardize, unit=unit)
    k = int(n_neighbors)
    values = sets_information(rows, dims, k, standardize=standardize)
    if values is None:
        each = [triples_information(some, dims, k, standardize=standardize) for some in rows]
        values = torch.stack(each) if each else rows.new_zeros(0)
    said: dict[Kind, str] = {}
    for place in doubtful_sets(rows, dims[0], k, discrete_y=False, standardize=standardize):
        found = triples_doubts(rows[place], dims, k, values[place], standardize=standardize)
        for kind, message in found.items():
            said.setdefault(kind, message)
    caution_each(said)
    return from_nats(values.view(leading), unit)


def checked_triples(
    x: Any, y: Any, z: Any, n_neighbors: Any, *, standardize: Any, unit: Any
) -> tuple[Tensor, Dims, torch.Size]:
    """Return x, y and z as float64 samples ``(triples, N, d_x + d_y + d_z)``, with their dimensions
    and the leading ones, or say what is wrong with them or with an option.
    """
    n_neighbors = check_integer("n_neighbors", n_neighbors, 1)
    check_choice("unit", unit, UNITS)
    check_standardize(standardize)
    x, y = paired_vectors(x, y)
    z = _check_condition(z, x)
    if x.shape[-2] <= n_neighbors:
        raise ValueError(
            f"Expected more samples than `n_neighbors`, but got N = {x.shape[-2]} samples in `x` "
            f"of shape {tuple(x.shape)} and n_neighbors={n_neighbors}. Pass more samples or a "
            "smaller `n_neighbors`; the samples are counted along the last dimension but one, so "
            "for a batch of scalars use x.unsqueeze(-1), y.unsqueeze(-1), z.unsqueeze(-1)."
        )
    if x.numel():
        check_finite(x, y, z)
        for name, values in (("x", x), ("y", y), ("z", z)):
            check_exact(name, values)
    rows = torch.cat((x.double(), y.double(), z.double()), -1)
    dims = (x.shape[-1], y.shape[-1], z.shape[-1])
    return rows.reshape(-1, *rows.shape[-2:]), dims, rows.shape[:-2]


def triples_information(
    rows: Tensor, dims: Dims, n_neighbors: int, *, standardize: Standardize = True
) -> Tensor:
    """Estimate the conditional mutual information of checked samples, in nats: what the metric
    calls on its buffer.

    Args:
        rows: Finite float64 samples ``(N, d_x + d_y + d_z)``, in any order.
        dims: d_x, d_y and d_z.
        n_neighbors: k.
        standardize: How coordinates are scaled.

    Returns:
        float64 scalar; NaN for N ≤ k.
    """
    found = sets_information(rows[None], dims, n_neighbors, standardize=standardize)
    if found is not None:
        return found[0]
    value = float("nan")
    if len(rows) > n_neighbors:
        samples = tell_triples_apart(rows, dims, standardize)
        value = 0.0 if samples is None else frenzel_pompe(samples, n_neighbors)
    return torch.full((), value, dtype=torch.float64, device=rows.device)


def triples_doubts(
    rows: Tensor, dims: Dims, n_neighbors: int, value: Tensor, *, standardize: Standardize
) -> dict[Kind, str]:
    """Return what is doubtful about a value of :func:`triples_information`, by kind.

    Args:
        rows: The samples.
        dims: d_x, d_y and d_z.
        n_neighbors: k.
        value: The value in nats.
        standardize: As it was for the value.
    """
    scales = standardize in (True, "joint")
    found = doubts(rows, dims[0], n_neighbors, discrete_y=False, compares_scales=scales)
    if bool(value == 0):
        # A constant has no information, whatever occurs more than once.
        found.pop("copies", None)
    return found


def frenzel_pompe(samples: Triples, k: int) -> float:
    """Return the estimate of samples that are told apart, in nats."""
    x, y, z = (_varying(v) for v in (samples.x, samples.y, samples.z))
    few = samples.same_row <= k
    apart = None if bool(few.all()) else few.nonzero().squeeze(1)
    points = torch.cat((x, y, z), 1)
    if apart is None:
        radius = nearest(points, k).radius
    else:
        radius = nearest_apart(points, samples.first, k, apart).radius
    terms: list[Term] = [(1, torch.full_like(radius, k, dtype=torch.int64))]
    for sign, parts in ((-1, (x, z)), (-1, (y, z)), (1, (z,))):
        space = torch.cat(parts, 1)
        # A constant z is no farther than any distance.
        counts = (
            strict_counts(space, radius, queries=apart)
            if space.shape[1]
            else torch.full_like(terms[0][1], len(x))
        )
        terms.append((sign, counts))
    if apart is not None:
        terms += of_coincident(_coincidences(samples), apart)
    return mean_psi(len(x), terms)


def _varying(variable: Tensor) -> Tensor:
    """Return the coordinates that are not constant: the others tell no two samples apart."""
    return variable[:, (variable != variable[:1]).any(0)]


def _coincidences(samples: Triples) -> Iterator[Term]:
    """Yield the numbers of samples that have the row, the x and z, … of each."""
    x, y, z = samples.given
    yield 1, samples.same_row
    yield -1, multiplicity([*x, *z])
    yield -1, multiplicity([*y, *z])
    yield 1, multiplicity([*z])


def _check_condition(condition: Any, x: Tensor) -> Tensor:
    """Return z as ``(..., N, d_z)``, detached, or say why it is not paired with x ``(..., N,
    d_x)``.
    """
    given = check_tensor("z", condition).detach()
    check_same_device({"x": x, "z": given})
    z: Tensor = given.unsqueeze(-1) if given.ndim == 1 else given
    if z.shape[:-1] != x.shape[:-1] or z.ndim == 0 or z.shape[-1] == 0:
        raise ValueError(
            f"Expected `z` of shape ({', '.join(map(str, x.shape[:-1]))}, d_z), one vector for "
            f"each sample of `x` of shape {tuple(x.shape)}, but got {tuple(given.shape)}. The last "
            "dimension is the variable's: for a batch of scalars use z.unsqueeze(-1)."
        )
    return z
