"""Gaussian mutual information to differentiate: of any batch, with finite gradients.

Of few samples, or of coordinates that repeat each other, correlations have no inverse. Here every
correlation R between two coordinates of N samples is shrunk,

    R ← (1 − ρ) R + ρ 1,

which is what independent noise added to every coordinate would do, so that the information is
finite, and 0 for a constant variable. ρ is the larger of two numbers, both 0 for batches from which
a covariance can be told:

* (5 d − N) / (2 (5 d + N)) for N < 5 d, where d = d_x + d_y;
* 2⁻²⁷/d − 1 / tr R⁻¹, where 1 / tr R⁻¹ lies between the least eigenvalue and a d-th of it.

The first was chosen by how well the gradient of a batch points where that of the population does:
for 16 + 32 dimensions and 64 samples their cosine is 0.45 so, 0.28 without, 0.43 with twice the
shrinkage; from N = 4 d on all are the same.

Under K conditions each has correlations and a ρ of its own, by its own number of samples, and the
information of each counts by its share of them. A condition of one sample or none shows nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from mi_metrics.functional.ranks import Reduce
from mi_metrics.functional.tensors import cast

LEAST_EIGENVALUE = 2.0**-27
# In units of the range, rounding leaves a constant column less.
LEAST_VARIANCE = 2.0**-96
LEAST_RANGE = 2.0**-960


class Conditions(NamedTuple):
    """The condition of each sample, int64 ``(N,)``, and their number K. Another label than those
    from 0 to K - 1 makes the information NaN.
    """

    labels: Tensor
    number: int

    def members(self) -> Tensor:
        """Return which samples each condition has, float64 ``(K, N)``."""
        every = torch.arange(self.number, device=self.labels.device).unsqueeze(1)
        return (self.labels == every).double()


class _Products(NamedTuple):
    """Centred products of all ranks' samples, in units of each coordinate's range; with a leading
    dimension of K under conditions.
    """

    number: Tensor  # (), float64
    centred: Tensor  # (N, d), of this rank
    products: Tensor  # (d, d), divided by the number


def shrunk_information(
    x: Tensor, y: Tensor, reduce: Reduce, conditions: Conditions | None = None
) -> Tensor:
    """Return the mutual information of ``(N, d_x)`` and ``(N, d_y)`` in nats, float64."""
    samples = torch.cat((cast(x, torch.float64), cast(y, torch.float64)), 1)
    x_dim, dim = x.shape[1], samples.shape[1]
    number, _, products = _products(samples, reduce, conditions)
    unit, absent = _units(products)
    correlation = products * unit.unsqueeze(-1) * unit.unsqueeze(-2)
    shrinkage = _shrinkage(correlation + absent.diag_embed(), number, dim)
    joint = _shrink(correlation, absent, shrinkage)

    # The last factors of the joint matrix are those of y given x.
    given_x = _log_diagonal(joint)[..., x_dim:]
    return _averaged((_log_diagonal(joint[..., x_dim:, x_dim:]) - given_x).sum(-1), number)


def shrunk_information_of_labels(
    x: Tensor,
    codes: Tensor,
    num_classes: int,
    reduce: Reduce,
    conditions: Conditions | None = None,
) -> Tensor:
    """Return the mutual information of ``(N, d_x)`` and classes in nats, float64.

    It is that of x and one-hot labels: half the log ratio of the determinants of the covariance and
    of the covariance within classes. Noise is added to x alone.

    Args:
        x: Samples.
        codes: Numbers of their classes, int64 ``(N,)`` in 0 … ``num_classes`` − 1.
        num_classes: The most classes there may be.
        reduce: How to add up over processes.
        conditions: Under which conditions, or None without any.
    """
    number, centred, products = _products(cast(x, torch.float64), reduce, conditions)
    unit, absent = _units(products)
    total = products * unit.unsqueeze(-1) * unit.unsqueeze(-2)

    parts = 1
    if conditions is not None:
        parts = conditions.number
        codes = codes + num_classes * conditions.labels.clamp(0, parts - 1)
    sums = reduce.sum(
        _sums(torch.cat((torch.ones_like(centred[:, :1]), centred), 1), codes, parts * num_classes)
    )
    if conditions is not None:
        sums = sums.view(parts, num_classes, -1)
    counts = sums[..., 0].detach()
    size = (counts.clamp_min(1) * number.clamp_min(1).unsqueeze(-1)).rsqrt().unsqueeze(-1)
    means = sums[..., 1:] * unit.unsqueeze(-2) * size
    within = total - means.mT @ means

    dim = x.shape[1] + (counts > 0).sum(-1) - 1
    shrinkage = _shrinkage(within + absent.diag_embed(), number, dim)
    both = (_log_diagonal(_shrink(v, absent, shrinkage)) for v in (total, within))
    return _averaged(next(both).sum(-1) - next(both).sum(-1), number)


def class_codes(labels: Tensor) -> Tensor:
    """Return the labels' ranks among the distinct ones, int64 ``(N,)``: shapes known beforehand."""
    order = labels.argsort()
    ordered = labels[order]
    rank = torch.zeros_like(order)
    rank[1:] = (ordered[1:] != ordered[:-1]).cumsum(0)
    return torch.zeros_like(order).scatter(0, order, rank)


def class_codes_of_all_ranks(labels: Tensor) -> tuple[Tensor, int]:
    """Return this rank's labels as ranks among those of all processes, and how many there are."""
    world, device = dist.get_world_size(), labels.device
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(labels)], device=device))
    lengths = [int(size) for size in sizes]
    padded = torch.zeros(max(lengths), dtype=torch.int64, device=device)
    padded[: len(labels)] = labels
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    codes = class_codes(torch.cat([p[:n] for p, n in zip(parts, lengths, strict=True)]))
    start = sum(lengths[: dist.get_rank()])
    return codes[start : start + len(labels)], int(codes.max()) + 1


def _products(samples: Tensor, reduce: Reduce, conditions: Conditions | None) -> _Products:
    if conditions is None:
        return _centred_products(samples, reduce)
    return _products_by_condition(samples, reduce, conditions)


def _centred_products(samples: Tensor, reduce: Reduce) -> _Products:
    # Constants to the gradient: the information doesn't depend on them. Halves don't overflow.
    half = samples.detach() / 2
    ends = torch.cat((-half, half), 1)
    ends = torch.cat((ends, torch.full_like(ends.sum(0, keepdim=True), -torch.inf))).amax(0)
    low, high = reduce.max(ends).tensor_split(2)
    # Less the least of them, a constant is 0 to the bit, and what lies far from 0 keeps its digits.
    # The range is not so small that the gradient, its inverse, overflows.
    samples = (samples / 2 + low) / (high + low).clamp_min(LEAST_RANGE)
    sums = torch.cat((torch.full_like(samples[..., :1].sum(0), len(samples)), samples.sum(0)))
    sums = reduce.sum(sums)
    number = sums[0].detach()
    centred = samples - sums[1:] / number
    return _Products(number, centred, reduce.sum(centred.mT @ centred) / number)


def _products_by_condition(samples: Tensor, reduce: Reduce, conditions: Conditions) -> _Products:
    """:func:`_centred_products` of the samples of each condition, with their range and means."""
    members = conditions.members()
    own = conditions.labels.clamp(0, conditions.number - 1)
    half = samples.detach() / 2
    ends = torch.cat((-half, half), 1)
    ends = torch.where(members.unsqueeze(2) > 0, ends, -torch.inf)
    ends = torch.cat((ends, torch.full_like(ends.sum(1, keepdim=True), -torch.inf)), 1).amax(1)
    low, high = reduce.max(ends).tensor_split(2, 1)
    samples = (samples / 2 + low[own]) / (high + low).clamp_min(LEAST_RANGE)[own]
    # No condition takes part in the mean of another, but NaN reaches all.
    samples = torch.where((own == conditions.labels).unsqueeze(1), samples, torch.nan)
    sums = torch.cat((members.sum(1, keepdim=True), members @ samples), 1)
    sums = reduce.sum(sums)
    number = sums[:, 0].detach()
    size = number.clamp_min(1)
    centred = samples - (sums[:, 1:] / size.unsqueeze(1))[own]
    products = (members.unsqueeze(1) * centred.mT) @ centred
    return _Products(number, centred, reduce.sum(products) / size[:, None, None])


def _averaged(values: Tensor, number: Tensor) -> Tensor:
    """Return the mean over samples of the information of each condition, ``()``."""
    if values.ndim == 0:
        return values
    # A single condition has a share of exactly 1.
    return (values * (number / number.sum())).sum()


def _units(products: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverse deviation of each coordinate, 0 for constant ones, and 1 for these."""
    variance = _diagonal(products)
    # Not ">": NaN has to stay NaN.
    absent = variance <= LEAST_VARIANCE
    return torch.where(absent, 1, variance).rsqrt() * ~absent, absent.double()


def _shrinkage(correlation: Tensor, number: Tensor, dim: int | Tensor) -> Tensor:
    """Return ρ, a constant to the gradient."""
    d = correlation.shape[-1]
    floor = LEAST_EIGENVALUE / d
    identity = torch.eye(d, dtype=torch.float64, device=correlation.device)
    factor = torch.linalg.cholesky_ex(correlation.detach() + floor / 16 * identity)[0]
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    singular = floor - 1 / inverse.square().sum((-2, -1))
    few = (5 * dim - number) / (2 * (5 * dim + number))
    return torch.maximum(few, singular).clamp_min(0)


def _shrink(correlation: Tensor, absent: Tensor, shrinkage: Tensor) -> Tensor:
    """Return correlations with independent noise; constant coordinates become independent ones."""
    rho = shrinkage.unsqueeze(-1)
    kept = (1 - rho).unsqueeze(-1) * correlation
    return kept + (rho + (1 - rho) * absent).diag_embed()


def _log_diagonal(matrix: Tensor) -> Tensor:
    """Return the logarithms of the diagonal of the Cholesky factor."""
    factor: Tensor = torch.linalg.cholesky_ex(matrix)[0]
    return _diagonal(factor).log()


def _diagonal(matrix: Tensor) -> Tensor:
    # Inductor warns of its own code where it compiles `Tensor.diagonal`.
    return matrix.flatten(-2)[..., :: matrix.shape[-1] + 1]


def _sums(rows: Tensor, codes: Tensor, num_classes: int) -> Tensor:
    """Return the sums of the rows of each class, in an order that does not change."""
    sums = torch.zeros(num_classes, rows.shape[1], dtype=rows.dtype, device=rows.device)
    return sums.index_put((codes,), rows, accumulate=True)
