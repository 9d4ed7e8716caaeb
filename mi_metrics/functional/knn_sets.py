"""Estimates from nearest neighbours of many sets of samples at once, where the kernels for GPUs
serve: what :mod:`mi_metrics.functional.knn` and :mod:`mi_metrics.functional.knn_conditional` do for
one set after the other, with the same bits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mi_metrics.functional.neighbors.digamma import Term, mean_psi_each
from mi_metrics.functional.neighbors.sets import Sets, tell_sets_apart
from mi_metrics.functional.options import Standardize
from mi_metrics.kernels import gpu, leaves

# Samples told apart at a time, in some thirty columns.
CHUNK = 2**21


def sets_information(
    rows: Tensor,
    dims: tuple[int, ...],
    n_neighbors: int,
    *,
    algorithm: str = "ksg1",
    discrete_y: bool = False,
    standardize: Standardize = True,
) -> Tensor | None:
    """Estimate the mutual information of each of many sets, in nats.

    Args:
        rows: Finite float64 samples ``(B, N, d)``, in any order.
        dims: The coordinates of x and y; of x, y and z for what z does not explain.
        n_neighbors: k.
        algorithm: ``"ksg1"`` or ``"ksg2"``.
        discrete_y: Take y for class labels.
        standardize: How coordinates are scaled.

    Returns:
        float64 ``(B,)``; None where sets have to be estimated one after the other: without kernels,
        with more neighbours than they serve, or with a label that occurs once.
    """
    sets, size, _ = rows.shape
    if not sets or size <= n_neighbors or not _served(rows, n_neighbors):
        return None
    values: list[float] = []
    for some in torch.split(rows, max(1, CHUNK // size)):
        samples = tell_sets_apart(some, dims, standardize, discrete_y=discrete_y)
        if len(dims) == 3:
            found = _frenzel_pompe(samples, n_neighbors)
        elif discrete_y:
            found = _ross(samples, n_neighbors)
        else:
            found = _kraskov(samples, n_neighbors, algorithm)
        if found is None:
            return None
        constant = samples.constant.tolist()
        values += [0.0 if c else value for c, value in zip(constant, found, strict=True)]
    return torch.tensor(values, dtype=torch.float64, device=rows.device)


def _served(rows: Tensor, n_neighbors: int) -> bool:
    """Say whether kernels answer, before anything is done that would be done once more without."""
    if n_neighbors > leaves.MOST_NEIGHBORS or rows.shape[1] > leaves.MOST_POINTS:
        return False
    return gpu.serves(rows) and not {"neighbors", "counts"} & gpu.failures().keys()


def _kraskov(samples: Sets, k: int, algorithm: str) -> list[float] | None:
    """Equations 8 and 9 of Kraskov, Stögbauer and Grassberger."""
    x, y = samples.points
    apart = samples.same <= k
    x_dim = x.shape[2] if algorithm == "ksg2" else None
    found = _nearest(torch.cat((x, y), 2), torch.where(apart, k, -1), k, x_dim)
    if found is None:
        return None
    sides = [_before(found[0])] * 2 if x_dim is None else found[1:]
    counts = [_counts(v, side, apart) for v, side in zip((x, y), sides, strict=True)]
    given = [n if x_dim is None or n is None else n - 1 for n in counts]
    values = _mean_psi(samples, apart, torch.full_like(samples.same, k), given, [(0,), (1,)])
    if values is None or x_dim is None:
        return values
    size = samples.same.shape[1]
    used = apart.sum(1).tolist()
    return [value - n / (k * size) for value, n in zip(values, used, strict=True)]


def _ross(samples: Sets, k: int) -> list[float] | None:
    """The estimator of Ross: neighbours within the class, counts among all classes."""
    x, y = samples.points
    members = samples.alike(1)
    if bool((members == 1).any()):
        return None
    joint = (members - 1).clamp_max(k)
    apart = samples.same <= joint
    # Farther from each other class than samples of one class can be.
    distance = 2 * (x.amax() - x.amin()) + 1
    found = _nearest(torch.cat((x, distance * y), 2), torch.where(apart, joint, -1), k, None)
    if found is None:
        return None
    given = [_counts(x, _before(found[0]), apart), members]
    return _mean_psi(samples, apart, joint, given, [(0,), (1,)])


def _frenzel_pompe(samples: Sets, k: int) -> list[float] | None:
    x, y, z = samples.points
    apart = samples.same <= k
    found = _nearest(torch.cat((x, y, z), 2), torch.where(apart, k, -1), k, None)
    if found is None:
        return None
    radius = _before(found[0])
    given = [_counts(torch.cat(v, 2), radius, apart) for v in ((x, z), (y, z), (z,))]
    joint = torch.full_like(samples.same, k)
    return _mean_psi(samples, apart, joint, given, [(0, 2), (1, 2), (2,)], (-1, -1, 1))


def _nearest(
    points: Tensor, wanted: Tensor, k: int, x_dim: int | None
) -> tuple[Tensor, ...] | None:
    found: tuple[Tensor, ...] | None = gpu.attempt(
        "neighbors",
        (points, wanted),
        lambda kernels: kernels.nearest(points, k, wanted.int(), x_dim),
    )
    return found


def _counts(points: Tensor, radius: Tensor, apart: Tensor) -> Tensor | None:
    asked = torch.where(apart, radius, -1.0)
    found: Tensor | None = gpu.attempt(
        "counts", (points, asked), lambda kernels: kernels.range_counts(points, asked)
    )
    return found


def _before(radius: Tensor) -> Tensor:
    """Return the largest numbers below radii: what is nearer is no farther than they are."""
    return torch.nextafter(radius, torch.zeros_like(radius))


def _mean_psi(
    samples: Sets,
    apart: Tensor,
    joint: Tensor,
    given: Sequence[Tensor | None],
    spaces: Sequence[tuple[int, ...]],
    signs: tuple[int, ...] = (-1, -1),
) -> list[float] | None:
    """Return ⟨ψ(joint) ± ψ(n) …⟩ of each set, with ψ(N) for two variables: the counts given for
    samples that are apart, those of coincidences in each space for the others.
    """
    size = samples.same.shape[1]
    everyone = bool(apart.all())
    terms: list[Term] = [(1, torch.where(apart, joint, samples.same))]
    for sign, counts, space in zip(signs, given, spaces, strict=True):
        if counts is None:
            return None
        terms.append(
            (sign, counts if everyone else torch.where(apart, counts, samples.alike(*space)))
        )
    if len(samples.points) == 2:
        terms.append((1, torch.full_like(samples.same, size)))
    return mean_psi_each(size, terms)
