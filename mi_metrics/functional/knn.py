"""Mutual information from nearest neighbours: Kraskov-Stögbauer-Grassberger 1 and 2, and Ross for
class labels.

All three estimate the local log-ratio of joint to product density by counting samples in boxes
whose size the sample itself sets: the box around sample i reaches to its k-th neighbour in the
joint space, in the max norm. Where n samples lie in a box, ψ(n) is the unbiased counterpart of log
n, and the biases of the joint and of the marginal terms largely cancel because they are taken over
the same box:

    I = ψ(N) + ⟨ψ(k) − ψ(n_x) − ψ(n_y)⟩,

with n_x and n_y the samples in the strips that the box casts over each variable. The papers derive
this for data in which no two distances are equal. What is done about rounded data and labels, in
which many are: :mod:`mi_metrics.functional.neighbors.ties`. Here samples come told apart, or as
coincident, which count their copies.

The order of the samples cannot change a single bit: they are sorted before anything else, and ⟨ψ⟩
is read from integer histograms of the counts, whose sum has an order of its own.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.cautions import Kind, caution_each
from mi_metrics.functional.knn_sets import CHUNK, sets_information
from mi_metrics.functional.neighbors import pairs
from mi_metrics.functional.neighbors.candidates import nearest_apart
from mi_metrics.functional.neighbors.digamma import mean_psi, of_coincident
from mi_metrics.functional.neighbors.doubts import LABELS, doubts, few_labels
from mi_metrics.functional.neighbors.search import Neighborhood, nearest
from mi_metrics.functional.neighbors.sets_doubts import doubtful
from mi_metrics.functional.neighbors.steps import argsort
from mi_metrics.functional.neighbors.ties import Samples, tell_apart
from mi_metrics.functional.neighbors.within import range_counts, strict_counts
from mi_metrics.functional.options import (
    ALGORITHMS,
    SCALINGS,
    UNITS,
    Algorithm,
    Standardize,
    Unit,
    check_choice,
    check_flag,
    check_integer,
    from_nats,
    hints_keywords,
)
from mi_metrics.functional.tensors import (
    check_exact,
    check_finite,
    check_tensor,
    check_values,
    on_cpu,
    paired_vectors,
)


@hints_keywords
def knn_mutual_information(
    x: Tensor,
    y: Tensor,
    n_neighbors: int = 3,
    *,
    algorithm: Algorithm = "ksg1",
    discrete_y: bool = False,
    standardize: Standardize = True,
    unit: Unit = "nats",
) -> Tensor:
    r"""Estimate the mutual information of two continuous variables from nearest neighbours, in nats
    or bits.

    Scalars or vectors, no bins and no bandwidth: the resolution adapts to the local density. With
    ``discrete_y=True``, ``y`` holds class labels.

    With :math:`\epsilon_i` the distance from sample i to its k-th neighbour in the joint space, in
    the max norm over all coordinates, ``"ksg1"`` is (Kraskov, Stögbauer, Grassberger 2004, equation
    8)

    .. math:: I = \psi(N) + \psi(k) - \langle \psi(n_x) + \psi(n_y) \rangle

    where :math:`n_x` is the number of samples nearer than :math:`\epsilon_i` in x, sample i
    included; ``"ksg2"`` (equation 9) replaces the square box by the smallest rectangle around the k
    neighbours,

    .. math:: I = \psi(N) + \psi(k) - 1/k - \langle \psi(n_x) + \psi(n_y) \rangle

    with :math:`n_x` the number of other samples within the rectangle's own projection on x. For
    class labels (Ross 2014), k neighbours are sought within sample i's class of :math:`N_c`
    members, at most :math:`N_c - 1` of them, and :math:`n_x` counts the samples of all classes;
    labels have no distances, so both algorithms are the same:

    .. math:: I = \psi(N) + \langle \psi(k) - \psi(N_c) - \psi(n_x) \rangle

    Conventions:
        Sign and range: Raw estimates, not clamped: for independent variables they scatter around 0,
        so about half of them are negative. Always finite.
        Ties: A sample with at least k copies counts coincidences: :math:`\psi` of the number of
        samples that share its row replaces :math:`\psi(k)`, and :math:`n_x`, :math:`n_y` are the
        numbers that share its x and its y (Gao et al. 2017), which makes labels a matter of
        counting. All others are moved by 1e-10 of the interquartile range of a coordinate's
        distinct values times a hash of the sample's place in the sorted samples, not by random
        numbers. Gaussian pairs rounded to 0.02 to 0.25 deviations, and 8-bit ones, are as accurate
        as unrounded ones (within 0.02 nats), labels against themselves within 0.01 of their
        entropy. Vectors lose what rounding itself takes from them, coordinate by coordinate, and
        hardly more: 2 + 2 Gaussians of r = 0.6 lose 0.01 nats to steps of a quarter of the
        deviation, 0.02 to a half, 0.08 to a whole one. No caution speaks of it, since no sample
        shows it. Exact copies of whole samples, as resampling makes them, are no ties: they raise
        the value without limit.
        Constant input: Exactly 0 if ``x`` or ``y`` is constant.
        Symmetry and units: :math:`I(x, y) = I(y, x)` to the bit. With ``standardize`` other than
        False a change of unit or origin moves the value by at most 1e-4, and rarely at all, unless
        it rounds.
        Scale: The max norm compares the units of x with those of y. ``standardize=True`` divides
        every coordinate by its own standard deviation. A far outlier sets the deviation and hides
        the rest, with a warning from 30 samples on. ``"rank"`` replaces every coordinate by the
        normal scores :math:`\Phi^{-1}((\text{mid-rank} - \tfrac12)/N)`, which keeps the information
        and measures best on heavy tails. ``"joint"`` divides all coordinates of a variable by the
        root of their mean variance: for codes of PCA and embeddings, whose small coordinates are
        small because they matter little. False leaves the values as they are.
        Bias: For Gaussian scalars at most 0.03 nats from N = 169 on, up to 2 nats. Towards 0 for
        strong dependence (N must grow as exp(I); −0.13 of 1.96 nats at N = 100) and for many
        dimensions. Larger ``n_neighbors`` trades variance for bias; 3 to 5 is usual. Fewer than 8
        samples, or than three for each neighbour: the caution ``"too few"``.
        Gradient: None: counts have no derivative. Use the loss modules for training.
        Arithmetic and memory: float64 throughout, whatever the input; integers above 2**53 are
        rounded. O(N) memory beyond the input, pair by pair of a batch; with the kernels for GPUs
        some 2 million samples of a batch at once. Time about N log N for few coordinates on the CPU
        and, with these kernels or for two, on CUDA, else N².
        Samples in parts: Neighbours do not add up, so parts must be gathered first, but their order
        does not matter: any permutation of the samples gives the same bits.
        ``KNNMutualInformation`` gathers over batches and ranks and equals this call on the whole
        data.

    Args:
        x: Samples ``(..., N, d_x)``, one vector each; ``(N,)`` is read as ``(N, 1)``. Real, finite.
        y: Samples ``(..., N, d_y)`` of the same leading dimensions; ``(N,)`` is read as ``(N, 1)``.
            With ``discrete_y=True`` integer or bool labels, ``(..., N)`` or ``(..., N, 1)``.
        n_neighbors: k, at least 1 and less than N.
        algorithm: ``"ksg1"`` or ``"ksg2"``.
        discrete_y: Take ``y`` for class labels. Samples that are alone in their class are left out,
            as scikit-learn does.
        standardize: True, False, ``"rank"`` or ``"joint"``: how coordinates are scaled.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 tensor of the leading dimensions ``(...)``, on the device of ``x``.

    Raises:
        TypeError: If ``x`` or ``y`` is no real tensor, ``n_neighbors`` no int, ``discrete_y`` no
            bool, ``standardize`` none of its four values, ``y`` not integer or bool with
            ``discrete_y=True``, or the device MPS, which has no float64.
        ValueError: If shapes or devices differ, values are not finite, an option is unknown,
            ``n_neighbors`` is not in 1…N−1, or ``discrete_y=True`` finds no class of two members.

    Example:
        >>> import torch
        >>> from mi_metrics.functional.knn import knn_mutual_information
        >>> t = torch.arange(500, dtype=torch.float64)
        >>> x = torch.sin(t)
        >>> y = x + 0.5 * torch.sin(2**0.5 * t)
        >>> round(knn_mutual_information(x, y).item(), 4)
        0.8749

    References:
        A. Kraskov, H. Stögbauer, P. Grassberger, Estimating mutual information, Phys. Rev. E 69
        (2004) 066138, doi:10.1103/PhysRevE.69.066138.

        B. C. Ross, Mutual information between discrete and continuous data sets, PLoS ONE 9 (2014)
        e87357, doi:10.1371/journal.pone.0087357.

        W. Gao, S. Kannan, S. Oh, P. Viswanath, Estimating mutual information for
        discrete-continuous mixtures, NeurIPS (2017), arXiv:1709.06212.
    """
    how: Any = {"discrete_y": discrete_y, "standardize": standardize}
    pairs, x_dim, leading = checked_rows(x, y, n_neighbors, algorithm=algorithm, unit=unit, **how)
    n_neighbors = int(n_neighbors)
    values, doubted = sets_estimates(pairs, x_dim, n_neighbors, algorithm=algorithm, **how)
    said: dict[Kind, str] = {}
    for place in doubted:
        pair, value = pairs[place], values[place]
        for kind, message in rows_doubts(pair, x_dim, n_neighbors, value, **how).items():
            said.setdefault(kind, message)
    caution_each(said)
    return from_nats(values.view(leading), unit)


def checked_rows(
    x: Any,
    y: Any,
    n_neighbors: int,
    *,
    algorithm: Any,
    discrete_y: Any,
    standardize: Any,
    unit: Any,
) -> tuple[Tensor, int, torch.Size]:
    """Return x and y as float64 samples ``(pairs, N, d_x + d_y)``, with d_x and the leading
    dimensions, or say what is wrong with them or with an option.
    """
    n_neighbors = check_integer("n_neighbors", n_neighbors, 1)
    check_choice("algorithm", algorithm, ALGORITHMS)
    check_choice("unit", unit, UNITS)
    check_flag("discrete_y", discrete_y)
    check_standardize(standardize)
    x, y = _check_samples(x, y, n_neighbors, discrete_y)
    if discrete_y:
        # The labels' ranks, which float64 holds exactly.
        y = torch.unique(y, return_inverse=True)[1]
        ordered = y.sort(-2)[0]
        if not bool((ordered[..., 1:, :] == ordered[..., :-1, :]).any(-2).all()):
            raise ValueError(
                "Expected at least one class of two or more members in `y`, but every label "
                "occurs once. If `y` holds numbers and not classes, pass discrete_y=False."
            )
    rows = torch.cat((x.double(), y.double()), -1)
    return rows.reshape(-1, *rows.shape[-2:]), x.shape[-1], rows.shape[:-2]


class Estimate(NamedTuple):
    """A value in nats, and whether :func:`rows_doubts` can find something doubtful about it."""

    value: Tensor
    doubtful: bool = True


def sets_estimates(
    sets: Tensor,
    x_dim: int,
    n_neighbors: int,
    *,
    algorithm: str = "ksg1",
    discrete_y: bool = False,
    standardize: Standardize = True,
) -> tuple[Tensor, list[int]]:
    """Do what :func:`rows_estimate` does for many sets of samples ``(B, N, d)``, at once on a GPU;
    return the values, float64 ``(B,)``, and which of them are worth a call of :func:`rows_doubts`.
    """
    how: Any = {"discrete_y": discrete_y, "standardize": standardize}
    dims = x_dim, sets.shape[2] - x_dim
    found = sets_information(sets, dims, n_neighbors, algorithm=algorithm, **how)
    if found is None:
        each = [rows_estimate(r, x_dim, n_neighbors, algorithm=algorithm, **how) for r in sets]
        found = torch.stack([e.value for e in each]) if each else sets.new_zeros(0)
        if on_cpu(sets):  # steps that sets share save nothing there
            return found, [place for place, e in enumerate(each) if e.doubtful]
    return found, doubtful_sets(sets, x_dim, n_neighbors, **how)


def rows_mutual_information(
    rows: Tensor,
    x_dim: int,
    n_neighbors: int,
    *,
    algorithm: str = "ksg1",
    discrete_y: bool = False,
    standardize: Standardize = True,
) -> Tensor:
    """Estimate the mutual information of checked samples, in nats.

    Args:
        rows: Finite float64 samples ``(N, d_x + d_y)``, in any order; with ``discrete_y`` the last
            column alone is y and holds the labels.
        x_dim: d_x, the number of leading columns that are x.
        n_neighbors: k.
        algorithm: ``"ksg1"`` or ``"ksg2"``.
        discrete_y: Take the last column for class labels.
        standardize: How coordinates are scaled.

    Returns:
        float64 scalar; NaN where nothing can be said: N ≤ k, or no class of two members.
    """
    how: Any = {"algorithm": algorithm, "discrete_y": discrete_y, "standardize": standardize}
    return rows_estimate(rows, x_dim, n_neighbors, **how).value


def rows_estimate(
    rows: Tensor,
    x_dim: int,
    n_neighbors: int,
    *,
    algorithm: str = "ksg1",
    discrete_y: bool = False,
    standardize: Standardize = True,
) -> Estimate:
    """Do what :func:`rows_mutual_information` does, and say whether the value can be doubtful: what
    the metric calls on its buffer.
    """
    if len(rows) <= n_neighbors:
        return Estimate(rows.new_full((), math.nan))
    if discrete_y:
        members = torch.unique(rows[:, -1], return_inverse=True, return_counts=True)
        rows = rows[members[2][members[1]] > 1]
        if not len(rows):
            return Estimate(rows.new_full((), math.nan))
    how: Any = {"algorithm": algorithm, "standardize": standardize}
    dims = x_dim, rows.shape[1] - x_dim
    found = sets_information(rows[None], dims, n_neighbors, discrete_y=discrete_y, **how)
    if found is not None:
        return Estimate(found[0])
    if not discrete_y and pairs.serves(rows):
        pair = pairs.pair_information(rows, n_neighbors, **how)
        return Estimate(rows.new_full((), pair.value), pair.doubtful)
    samples = tell_apart(rows, x_dim, standardize, discrete_y=discrete_y)
    if samples is None:
        value = 0.0
    elif discrete_y:
        value = _ross(samples, n_neighbors)
    else:
        value = {"ksg1": _ksg1, "ksg2": _ksg2}[algorithm](samples, n_neighbors)
    return Estimate(rows.new_full((), value))


def doubtful_sets(
    sets: Tensor, x_dim: int, n_neighbors: int, *, discrete_y: bool, standardize: Standardize
) -> list[int]:
    """Return which of many sets ``(B, N, d)`` are worth a call of :func:`rows_doubts`."""
    # On the CPU steps that sets share save nothing.
    if len(sets) < 2 or on_cpu(sets):
        return list(range(len(sets)))
    how: Any = {"discrete_y": discrete_y, "compares_scales": standardize in (True, "joint")}
    found, start = [], 0
    for some in torch.split(sets, max(1, CHUNK // sets.shape[1])):
        found += [start + place for place in doubtful(some, x_dim, n_neighbors, **how)]
        start += len(some)
    return found


def rows_doubts(
    rows: Tensor,
    x_dim: int,
    n_neighbors: int,
    value: Tensor,
    *,
    discrete_y: bool,
    standardize: Standardize,
) -> dict[Kind, str]:
    """Return what is doubtful about a value of :func:`rows_mutual_information`, by kind.

    Args:
        rows: The samples.
        x_dim: Leading columns that are x.
        n_neighbors: k.
        value: The value in nats.
        discrete_y: As it was for the value.
        standardize: As it was for the value.
    """
    scales = standardize in (True, "joint")
    found = doubts(rows, x_dim, n_neighbors, discrete_y=discrete_y, compares_scales=scales)
    if bool(value == 0):
        # A constant has no information, whatever occurs more than once.
        found.pop("copies", None)
    candidates = (("y", x_dim, rows.shape[1] - x_dim), ("x", 0, x_dim))
    for name, column, dim in () if discrete_y or not bool(value.isfinite()) else candidates:
        if dim > 1 or not (number := few_labels(rows, column, n_neighbors)):
            continue
        turned = rows if name == "y" else rows.roll(-1, 1)
        labels = rows_mutual_information(
            turned, rows.shape[1] - 1, n_neighbors, discrete_y=True, standardize=standardize
        )
        if labels - value > max(0.1, 0.2 * float(labels)):
            found["labels"] = LABELS.format(
                name=name, number=number, value=float(value), labels=float(labels)
            )
    return found


def _ksg1(samples: Samples, k: int) -> float:
    """Equation 8 of Kraskov, Stögbauer and Grassberger: squares around the samples."""
    x, y, apart = samples.x, samples.y, _apart(samples.same_row, k)
    radius = _nearest(samples, k, apart, None).radius
    n_x, n_y = (strict_counts(v, radius, queries=apart) for v in (x, y))
    return _mean_psi(samples, apart, torch.full_like(n_x, k), n_x, n_y)


def _ksg2(samples: Samples, k: int) -> float:
    """Equation 9: rectangles around the samples."""
    x, y, apart = samples.x, samples.y, _apart(samples.same_row, k)
    side_x, side_y = _nearest(samples, k, apart, x.shape[1]).reach
    n_x, n_y = (range_counts(v, side, queries=apart) - 1 for v, side in ((x, side_x), (y, side_y)))
    value = _mean_psi(samples, apart, torch.full_like(n_x, k), n_x, n_y)
    return value - len(n_x) / (k * len(x))


def _nearest(samples: Samples, k: int, apart: Tensor | None, x_dim: int | None) -> Neighborhood:
    points = torch.cat((samples.x, samples.y), 1)
    if apart is None:
        return nearest(points, k, x_dim=x_dim)
    return nearest_apart(points, samples.first, k, apart, x_dim=x_dim)


def _ross(samples: Samples, k: int) -> float:
    """The estimator of Ross: neighbours within the class, counts among all classes."""
    x, (_, label, size) = (
        samples.x,
        torch.unique(samples.y, return_inverse=True, return_counts=True),
    )
    label = label.squeeze(1)
    joint = (size - 1).clamp_max(k)[label]
    apart = _apart(samples.same_row, joint)
    wanted = samples.same_row <= joint
    radius = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for members in torch.split(argsort(label), size.tolist()):
        (queries,) = wanted[members].nonzero(as_tuple=True)
        if len(queries):
            near = nearest(x[members], min(k, len(members) - 1), queries=queries)
            radius[members[queries]] = near.radius
    chosen = slice(None) if apart is None else apart
    n_x = strict_counts(x, radius[chosen], queries=apart)
    members_of_class = size[label]
    return _mean_psi(
        samples._replace(same_y=members_of_class),
        apart,
        joint[chosen],
        n_x,
        members_of_class[chosen],
    )


def _apart(same_row: Tensor, k: Tensor | int) -> Tensor | None:
    """Return which samples have at most k exact copies, itself included; None for all."""
    few = same_row <= k
    return None if bool(few.all()) else few.nonzero().squeeze(1)


def _mean_psi(
    samples: Samples, apart: Tensor | None, joint: Tensor, n_x: Tensor, n_y: Tensor
) -> float:
    """Return ψ(N) + ⟨ψ(joint) − ψ(n_x) − ψ(n_y)⟩: the counts given for the samples that are apart,
    those of coincidences for the others.
    """
    n = len(samples.x)
    given = [(1, joint), (-1, n_x), (-1, n_y)]
    if apart is not None:
        copies = samples.same_row, samples.same_x, samples.same_y
        given += of_coincident(zip((1, -1, -1), copies, strict=True), apart)
    return mean_psi(n, [*given, (1, torch.full_like(samples.same_row, n))])


def check_standardize(value: Any) -> None:
    """Refuse what is no way of scaling."""
    if not isinstance(value, bool) and not (isinstance(value, str) and value in SCALINGS):
        kinds = ", ".join(map(repr, (True, False, *SCALINGS)))
        raise TypeError(f"Expected `standardize` to be one of {kinds}, but got {value!r}.")


def _check_samples(x: Any, y: Any, n_neighbors: int, discrete_y: bool) -> tuple[Tensor, Tensor]:
    """Return x and y as (..., N, d), or say what is wrong with them."""
    x, y = check_tensor("x", x), check_tensor("y", y)
    if discrete_y and y.is_floating_point():
        raise TypeError(
            "Expected `y` to hold integer or bool class labels with discrete_y=True, but got "
            f"{y.dtype}. Convert labels with y.long(), or pass discrete_y=False for numbers."
        )
    shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
    if discrete_y and 1 < x.ndim == y.ndim + 1:
        y = y.unsqueeze(-1)
    x, y = paired_vectors(x, y)
    if discrete_y and y.shape[-1] != 1:
        raise ValueError(
            "Expected one class label per sample with discrete_y=True, `y` of shape (..., N) or "
            f"(..., N, 1), but got {shapes}. Number the combinations of several labels, for "
            "example with torch.unique(dim=0)."
        )
    if x.shape[-2] <= n_neighbors:
        raise ValueError(
            f"Expected more samples than `n_neighbors`, but got N = {x.shape[-2]} samples in "
            f"shapes {shapes} and n_neighbors={n_neighbors}. Pass more samples or a smaller "
            "`n_neighbors`; the samples are counted along the last dimension but one, so for a "
            "batch of scalars use x.unsqueeze(-1), y.unsqueeze(-1)."
        )
    check_values("x", x)
    if x.numel() and y.numel():
        check_finite(x, y)
        check_exact("x", x)
        if not discrete_y:  # labels are numbered, which is exact
            check_exact("y", y)
    return x, y
