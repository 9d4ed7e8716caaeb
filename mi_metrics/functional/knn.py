"""Mutual information from nearest neighbours: Kraskov-Stögbauer-Grassberger 1 and 2, and Ross for
class labels.

All three estimate the local log-ratio of joint to product density by counting samples in boxes
whose size the sample itself sets: the box around sample i reaches to its k-th neighbour in the
joint space, in the max norm. Where n samples lie in a box, ψ(n) is the unbiased counterpart of log
n, and the biases of the joint and of the marginal terms largely cancel because they are taken over
the same box:

    I = ψ(N) + ⟨ψ(k̃) − ψ(n_x) − ψ(n_y)⟩,

with k̃ the samples of the box, n_x and n_y those of the strips that it casts over each variable.
The papers derive this for continuous data, in which no two distances are equal, k̃ = k, and exactly
one neighbour sits on the border of the box. Measured data is quantised, and then many do. The rule
used here (per sample):

* radius 0, at least k others coincide with it: k̃, n_x and n_y are the numbers of coinciding
  samples, the sample itself included (Gao, Kannan, Oh and Viswanath 2017), which makes I the
  plug-in estimate of discrete data;
* else k̃ is the number of other samples within the closed box, and n_v the larger of the number
  strictly nearer than the radius, the sample included, and the number of others at most that far
  (Mesner and Shalizi 2020).

Without ties this is KSG 1 to the last digit, and a constant variable gives exactly 0. Noise is
never added. KSG 2 replaces the box by a rectangle with one neighbour on each pair of sides; its
correction 1/k is for these two. A sample whose rectangle has no or more than two samples on a
border is therefore evaluated as in KSG 1. (With the 1/k, independent 8-bit data would give −0.2
nats, without it 12-bit data +0.3.)

Everything is computed so that the order of the samples cannot change a single bit: the rows are
sorted before anything else, and ⟨ψ⟩ is read from integer histograms of the counts, whose sum has an
order of its own.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import psi
from torch import Tensor

from mi_metrics.functional.cautions import caution
from mi_metrics.functional.information import Unit
from mi_metrics.functional.neighbors.search import nearest
from mi_metrics.functional.neighbors.steps import on_cpu
from mi_metrics.functional.neighbors.within import range_counts
from mi_metrics.functional.options import (
    UNITS,
    check_choice,
    check_finite,
    check_integer,
    check_tensor,
    from_nats,
)

Algorithm = Literal["ksg1", "ksg2"]
ALGORITHMS = ("ksg1", "ksg2")
SCALE_BITS = 29
LEAST_FOR_QUARTILES = 30
HIDDEN = (
    "Far samples set the standard deviation of a coordinate, beside which the spread of the others "
    "is less than the distance of neighbours: these see the others as one value, and the mutual "
    "information may be too small. Replace the variables by their ranks, v.argsort().argsort(), "
    "which leaves the information as it is, or scale them yourself and pass standardize=False."
)


def knn_mutual_information(
    x: Tensor,
    y: Tensor,
    n_neighbors: int = 3,
    *,
    algorithm: Algorithm = "ksg1",
    discrete_y: bool = False,
    standardize: bool = True,
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

    * **Sign and range.** Raw estimates, not clamped: for independent variables they scatter around
      0, so about half of them are negative. Always finite.
    * **Ties.** No noise is added. Where several samples are equally far, k becomes the number of
      samples that are at most that far, and the marginal counts become those of Mesner and Shalizi
      (2020); where k others coincide with a sample, all three counts are of the coinciding samples
      (Gao et al. 2017). Class labels follow the same rule within the class; ``"ksg2"`` takes it
      over from ``"ksg1"`` for every sample that has no or more than two others on a border. Without
      ties these are the formulas above. Coarsely quantised data is told apart less well: 8 bits of
      a Gaussian pair of N = 4900 give 0.03 nats too little at r = 0 and 0.6, nothing at 0.9, in the
      mean; single estimates are up to 0.06 off.
    * **Constant input.** Exactly 0 if ``x`` or ``y`` is constant.
    * **Scale.** The max norm compares the units of x with those of y. ``standardize`` divides every
      coordinate by its own standard deviation (a constant one is left alone), rounded to 29 bits,
      so that values on a grid stay on a grid and equal distances stay equal; rounding changes the
      relative scale by 1e-9. A far outlier sets the deviation and hides the rest, with a
      UserWarning from 30 samples on: replace heavy-tailed variables by their ranks first, which
      leaves the information as it is.
    * **Bias.** For Gaussian scalars at most .03 nats from N = 169 on, up to 2 nats. Towards 0 for
      strong dependence (N must grow as exp(I); −.13 of 1.96 nats at N = 100) and for many
      dimensions. Larger ``n_neighbors`` trades variance for bias; 3 to 5 is usual.
    * **Gradient.** None: counts have no derivative. Use the loss modules for training.
    * **Arithmetic and memory.** float64 throughout, whatever the input; integers above 2**53 are
      rounded. O(N) memory beyond the input, pair by pair of a batch. Time about N log N for few
      coordinates on the CPU and for two on CUDA, else N².
    * **Samples in parts.** Neighbours do not add up, so parts must be gathered first, but their
      order does not matter: any permutation of the samples gives the same bits.
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
        standardize: Divide every coordinate by its standard deviation.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 tensor of the leading dimensions ``(...)``, on the device of ``x``.

    Raises:
        TypeError: If ``x`` or ``y`` is no real tensor, ``n_neighbors`` no int, an option no bool,
            ``y`` not integer or bool with ``discrete_y=True``, or the device MPS, which has no
            float64.
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

        O. C. Mesner, C. R. Shalizi, Conditional mutual information estimation for mixed, discrete
        and continuous data, IEEE Trans. Inf. Theory (2020), doi:10.1109/TIT.2019.2945464.

        W. Gao, S. Kannan, S. Oh, P. Viswanath, Estimating mutual information for
        discrete-continuous mixtures, NeurIPS (2017), arXiv:1709.06212.
    """
    n_neighbors = check_integer("n_neighbors", n_neighbors, 1)
    check_choice("algorithm", algorithm, ALGORITHMS)
    check_choice("unit", unit, UNITS)
    for name, value in (("discrete_y", discrete_y), ("standardize", standardize)):
        if not isinstance(value, bool):
            raise TypeError(
                f"Expected `{name}` to be True or False, but got {value!r}. Pass a bool."
            )
    x, y = _check_samples(x, y, n_neighbors, discrete_y)
    if discrete_y:
        # The labels' ranks, which float64 holds exactly.
        y = torch.unique(y, return_inverse=True)[1]
    rows = torch.cat((x.double(), y.double()), -1)
    leading = rows.shape[:-2]
    pairs = rows.reshape(-1, *rows.shape[-2:])
    values = [
        rows_mutual_information(
            pair,
            x.shape[-1],
            n_neighbors,
            algorithm=algorithm,
            discrete_y=discrete_y,
            standardize=standardize,
        )
        for pair in pairs
    ]
    result = torch.stack(values) if values else rows.new_zeros(0)
    if standardize and any(
        hides_the_rest(pair, x.shape[-1], discrete_y=discrete_y) for pair in pairs
    ):
        caution("far samples", HIDDEN)
    if torch.isnan(result).any():
        raise ValueError(
            "Expected at least one class of two or more members in `y`, but every label occurs "
            "once. If `y` holds numbers and not classes, pass discrete_y=False."
        )
    return from_nats(result.view(leading), unit)


def rows_mutual_information(
    rows: Tensor,
    x_dim: int,
    n_neighbors: int,
    *,
    algorithm: str = "ksg1",
    discrete_y: bool = False,
    standardize: bool = True,
) -> Tensor:
    """Estimate the mutual information of checked samples, in nats: what the metric calls on its
    buffer.

    Args:
        rows: Finite float64 samples ``(N, d_x + d_y)``, in any order; with ``discrete_y`` the last
            column alone is y and holds the labels.
        x_dim: d_x, the number of leading columns that are x.
        n_neighbors: k.
        algorithm: ``"ksg1"`` or ``"ksg2"``.
        discrete_y: Take the last column for class labels.
        standardize: Divide every coordinate by its standard deviation.

    Returns:
        float64 scalar; NaN where nothing can be said: N ≤ k, or no class of two members.
    """
    if len(rows) <= n_neighbors:
        return torch.full((), float("nan"), dtype=torch.float64, device=rows.device)
    if discrete_y:
        # Sorted by label first, every class is one run of rows.
        rows = _sorted_rows(rows.roll(1, dims=1))
        points = _scaled(rows[:, 1:], standardize)
        return _ross(*_distinct(torch.cat((rows[:, :1], points), 1)), n_neighbors)
    points, weights = _distinct(_scaled(_sorted_rows(rows), standardize))
    return _ksg(points, weights, x_dim, n_neighbors, algorithm)


def hides_the_rest(rows: Tensor, x_dim: int, *, discrete_y: bool) -> bool:
    """Say whether far samples set the deviation of a coordinate, so that neighbours can't tell the
    others apart.

    Neighbours of N samples are about σ/√N from each other.

    Args:
        rows: Finite float64 samples ``(N, x_dim + y_dim)``.
        x_dim: Coordinates of x.
        discrete_y: Whether the others are labels.
    """
    n = len(rows)
    if discrete_y:
        rows = rows[:, :x_dim]
    # The scale of a single coordinate is none that another is compared with.
    if n < LEAST_FOR_QUARTILES or rows.shape[1] == 1:
        return False
    first, third = (n - 1) // 4, 3 * (n - 1) // 4
    for column in rows.T:
        # In units in which nothing overflows.
        values = column / column.abs().max()
        # On CUDA the search for single ranks is not deterministic.
        ordered = (
            torch.from_numpy(np.partition(values.numpy(), (first, third)))
            if on_cpu(rows)
            else values.sort()[0]
        )
        spread = ordered[third] - ordered[first]
        if spread == 0:
            # Of a value that most samples have, the others are what there is to see.
            distances = (values[values != ordered[first]] - ordered[first]).abs().sort()[0]
            spread = distances[len(distances) // 2] if len(distances) > 1 else spread
        if bool((spread > 0) & (spread * math.sqrt(n) < values.std(correction=0))):
            return True
    return False


def _ksg(points: Tensor, weights: Tensor | None, x_dim: int, k: int, algorithm: str) -> Tensor:
    """Evaluate KSG 1 or 2 under the tie rule of the module's first lines."""
    x, y = points[:, :x_dim], points[:, x_dim:]
    if algorithm == "ksg1":
        near = nearest(points, k, weights=weights, check_ties=False)
        counts = [range_counts(v, near.radius, weights=weights) for v in (x, y)]
        # A sample on the border of the box is on the border of a strip: only where there are two
        # can there be ties.
        on_border = sum(
            (closed - strict for strict, closed in counts), start=2 * (near.radius == 0).long()
        )
        tied = (on_border > 1).nonzero().squeeze(1)
        if len(tied) and weights is None:
            near.within[tied] = nearest(points, k, queries=tied).within
        joint = near.within - (near.radius > 0).long()
        return _mean_psi(joint, [_tie_counts(*pair, near.radius) for pair in counts], weights)
    near = nearest(points, k, weights=weights, x_dim=x_dim)
    joint = near.within - (near.radius > 0).long()
    borders = [
        range_counts(v, side, weights=weights) for v, side in zip((x, y), near.reach, strict=True)
    ]
    # Two: numbers of 24 bits meet on a border by accident, and the paper's formula takes that in
    # its stride.
    free = torch.stack(
        [(closed > strict) & (closed <= strict + 2) for strict, closed in borders]
    ).all(0)
    marginals = [closed - 1 for _, closed in borders]
    if not free.all():
        for i, v in enumerate((x, y)):
            square = _tie_counts(*range_counts(v, near.radius, weights=weights), near.radius)
            marginals[i] = torch.where(free, marginals[i], square)
    return _mean_psi(joint, marginals, weights, free)


def _ross(rows: Tensor, weights: Tensor | None, k: int) -> Tensor:
    """Evaluate the estimator of Ross for rows that are sorted by their first column, the class."""
    counts = (
        torch.ones(len(rows), dtype=torch.int64, device=rows.device) if weights is None else weights
    )
    runs = torch.unique_consecutive(rows[:, 0], return_counts=True)[1].tolist()
    kept, radius, within, members = [], [], [], []
    for one, copies in zip(torch.split(rows, runs), torch.split(counts, runs), strict=True):
        size = int(copies.sum())
        if size < 2:
            continue
        near = nearest(one[:, 1:], min(k, size - 1), weights=None if weights is None else copies)
        kept.append((one[:, 1:], copies))
        radius.append(near.radius)
        within.append(near.within)
        members.append(torch.full_like(near.within, size))
    if not kept:
        return torch.full((), float("nan"), dtype=torch.float64, device=rows.device)
    points, counts = (torch.cat(parts) for parts in zip(*kept, strict=True))
    near_radius = torch.cat(radius)
    weights = None if weights is None else counts
    n_x = _tie_counts(*range_counts(points, near_radius, weights=weights), near_radius)
    joint = torch.cat(within) - (near_radius > 0).long()
    return _mean_psi(joint, [torch.cat(members), n_x], weights)


def _tie_counts(strict: Tensor, closed: Tensor, radius: Tensor) -> Tensor:
    """Return n_v of the tie rule from the numbers of samples nearer than, and within, the
    radius.
    """
    return torch.where(radius > 0, torch.maximum(strict, closed - 1), closed)


def _mean_psi(
    joint: Tensor, marginals: list[Tensor], weights: Tensor | None, area: Tensor | None = None
) -> Tensor:
    """Return ψ(N) + ⟨ψ(joint) − Σ ψ(marginals)⟩, and −⟨1/joint⟩ over the samples marked in
    ``area``.

    Only how often each count occurs enters, as integers: the sum does not depend on the order of
    the samples, nor on how it is divided among threads, and what cancels (a constant variable)
    cancels exactly.
    """
    counts = torch.ones_like(joint) if weights is None else weights
    total = int(counts.sum())
    tally = torch.zeros(total + 1, dtype=torch.int64, device=joint.device)
    tally[total] = total
    tally.scatter_add_(0, joint, counts)
    for marginal in marginals:
        tally.scatter_add_(0, marginal, -counts)
    value = _weigh(tally, psi)
    if area is not None:
        tally = torch.zeros_like(tally).scatter_add_(0, joint, counts * area)
        value -= _weigh(tally, np.reciprocal)
    return torch.full((), value / total, dtype=torch.float64, device=joint.device)


def _weigh(tally: Tensor, function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return Σ tally(n) function(n), on the CPU: one summation order for every device."""
    occurrences = tally.cpu().numpy()
    (n,) = occurrences.nonzero()
    return float(np.sum(occurrences[n] * function(n.astype(np.float64))))


def _sorted_rows(rows: Tensor) -> Tensor:
    """Sort rows lexicographically."""
    if not on_cpu(rows):
        for c in reversed(range(rows.shape[1])):
            rows = rows[rows[:, c].argsort(stable=True)]
        return rows
    values = rows.numpy()
    order = values[:, 0].argsort()
    equal = values[order[1:], 0] == values[order[:-1], 0]
    tied = np.append(equal, False) | np.append(False, equal)
    # The other columns decide only here.
    order[tied] = order[tied][np.lexsort(values[order[tied]].T[::-1])]
    return torch.from_numpy(values[order])


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Merge repeated rows of a sorted table; return how often each occurs, or None if none is
    repeated.
    """
    new = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    new[1:] = torch.stack([column[1:] != column[:-1] for column in rows.T]).any(0)
    starts = new.nonzero().squeeze(1)
    if len(starts) == len(rows):
        return rows, None
    ends = torch.cat((starts[1:], starts.new_full((1,), len(rows))))
    return rows[starts], ends - starts


def _scaled(rows: Tensor, standardize: bool) -> Tensor:
    """Divide each column by its deviation, or make sure only that no difference can overflow."""
    if standardize:
        return torch.stack([_standardized(column.contiguous()) for column in rows.T], 1)
    return rows / 4 if len(rows) and float(rows.abs().max()) >= 2.0**1022 else rows


def _standardized(values: Tensor) -> Tensor:
    """Divide by the standard deviation such that values on a grid remain on a grid.

    Quantised data has equal distances, and the tie rule rests on their remaining equal. So all
    steps but the last are exact (a power of two against overflow, and the removal of an offset that
    would eat the bits of the product), and the factor is short: 29 bits times a grid of 24 bits
    fits float64.
    """
    low, high = (float(bound) for bound in torch.aminmax(values))
    if low == high:
        return values
    exponent = math.frexp(max(-low, high))[1]
    half = -exponent // 2  # in two steps, since 2**-exponent itself may overflow
    first, second = 2.0**half, 2.0 ** (-exponent - half)
    values, low, high = values * first * second, low * first * second, high * first * second
    # Then the differences from `low` are exact (Sterbenz).
    if 0 < high <= 2 * low or 2 * high <= low < 0:
        values = values - low
    mantissa, exponent = math.frexp(1 / _deviation(values))
    return values * math.ldexp(round(math.ldexp(mantissa, SCALE_BITS)), exponent - SCALE_BITS)


def _deviation(values: Tensor) -> float:
    if on_cpu(values):  # one thread, one order: torch's sum depends on the number of threads
        return float(np.std(values.numpy()))
    return float(values.std(correction=0))


def _check_samples(x: Any, y: Any, n_neighbors: int, discrete_y: bool) -> tuple[Tensor, Tensor]:
    """Return x and y as (..., N, d), or say what is wrong with them."""
    x, y = check_tensor("x", x).detach(), check_tensor("y", y).detach()
    if x.device != y.device:
        raise ValueError(
            f"Expected `x` and `y` on the same device, but got {x.device} and {y.device}. "
            "Move one of them with .to(device)."
        )
    if x.device.type == "mps":
        raise TypeError(
            "Expected a device with float64, but MPS has none. Move `x` and `y` to the CPU first."
        )
    if discrete_y and (y.is_floating_point()):
        raise TypeError(
            "Expected `y` to hold integer or bool class labels with discrete_y=True, but got "
            f"{y.dtype}. Convert labels with y.long(), or pass discrete_y=False for numbers."
        )
    shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError(
            f"Expected `x` and `y` of shape (..., N, d) or (N,), but got {shapes}. Pass more than "
            f"one sample."
        )
    x = x.unsqueeze(-1) if x.ndim == 1 else x
    y = y.unsqueeze(-1) if y.ndim == 1 or (discrete_y and y.ndim == x.ndim - 1) else y
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(
            "Expected `x` and `y` of shapes (..., N, d_x) and (..., N, d_y) that agree in all but "
            f"the last dimension, but got {shapes}. The last dimension is the variable's: for a "
            "batch of scalars use x.unsqueeze(-1), y.unsqueeze(-1)."
        )
    if discrete_y and y.shape[-1] != 1:
        raise ValueError(
            "Expected one class label per sample with discrete_y=True, `y` of shape (..., N) or "
            f"(..., N, 1), but got {shapes}. Number the combinations of several labels, for "
            "example with torch.unique(dim=0)."
        )
    if not (x.shape[-1] and y.shape[-1]):
        raise ValueError(
            f"Expected at least one coordinate in `x` and `y`, but got {shapes}. Pass (..., N, d) "
            f"with d ≥ 1."
        )
    if x.shape[-2] <= n_neighbors:
        raise ValueError(
            f"Expected more samples than `n_neighbors`, but got N = {x.shape[-2]} samples in "
            f"shapes {shapes} and n_neighbors={n_neighbors}. Pass more samples or a smaller "
            "`n_neighbors`; the samples are counted along the last dimension but one, so for a "
            "batch of scalars use x.unsqueeze(-1), y.unsqueeze(-1)."
        )
    if x.numel() and y.numel():
        check_finite(x, y)
    return x, y
