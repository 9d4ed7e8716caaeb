"""Twins of the searches for neighbours and of the counts within a distance (neighbors.cpp,
line.cpp), of all that an estimate of two numbers needs (pairs.cpp), and of what local permutations
change (permuted.cpp).

Memory beyond the arguments and the result, for N points of d coordinates, T threads and k
neighbours: at most 8 N (2.4 d + 3) + 8 T (k + 1) bytes, whatever the points are; on a line 24 N; of
samples of two numbers 120 N + 8 T (k + 1); of permuted ones 8 N (T d_x + d_y + d_z + 3) and
8 T (k + 1).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_metrics.kernels import native
from mi_metrics.kernels.native import INTEGER, POINTER

# The coordinates that a tree can have, as neighbors.cpp has it; counts are served on a line, too.
DIMENSIONS = range(2, 11)
# The coordinates of each variable that samples in other orders can have, as permuted.cpp has it.
PERMUTED_DIMENSIONS = range(1, 65)
# The samples that pairs.cpp has numbers for.
MOST_PAIRS = 2**32 - 1
# What pairs.cpp answers of a variable of one value.
CONSTANT = 2

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]


class PairTally(NamedTuple):
    """What enters the estimate of samples of two numbers.

    Attributes:
        tally: How often each count from 0 to N enters it, with its sign, int64 ``(N + 1,)``.
        searched: How many samples were searched for.
        doubtful: Whether something can be doubtful about it; where this is False, nothing is.
    """

    tally: Integers
    searched: int
    doubtful: bool


_nearest = native.function(
    "mi_metrics_nearest", POINTER, *[INTEGER] * 4, POINTER, *[INTEGER] * 2, *[POINTER] * 3
)
_counts = native.function(
    "mi_metrics_counts", POINTER, *[INTEGER] * 2, *[POINTER] * 2, *[INTEGER] * 2, POINTER
)
_line_counts = native.function(
    "mi_metrics_line_counts", *[POINTER] * 2, INTEGER, *[POINTER] * 2, *[INTEGER] * 2, POINTER
)
_pairs = native.function("mi_metrics_pairs", *[POINTER] * 2, *[INTEGER] * 6, *[POINTER] * 3)
_permuted = native.function(
    "mi_metrics_permuted", *[POINTER] * 5, *[INTEGER] * 5, POINTER, *[INTEGER] * 2, POINTER
)


def nearest(
    points: Reals, n_neighbors: int, queries: Integers | None = None, x_dim: int | None = None
) -> tuple[Reals, ...]:
    """Return the distance to the k-th neighbour of points and, with ``x_dim``, the largest distance
    in x and in y among the points at most so far away.

    Args:
        points: Coordinates ``(N, d)`` with finite differences, 2 to 10 of them.
        n_neighbors: k, from 1 to N - 1.
        queries: The places of the points to ask about, each once; None for all.
        x_dim: How many coordinates are x, from 1 to d - 1; None asks for the radius alone.
    """
    points = np.ascontiguousarray(points)
    size, dim = points.shape
    asked = _asked(size, queries)
    if dim not in DIMENSIONS or not 1 <= n_neighbors < size:
        raise ValueError(f"Can't find {n_neighbors} neighbors of points {points.shape}.")
    if x_dim is not None and not 1 <= x_dim < dim:
        raise ValueError(f"Can't cut {dim} coordinates at {x_dim}.")
    found = tuple(np.empty(asked) for _ in range(1 if x_dim is None else 3))
    addresses = [native.address(answer, np.float64, asked) for answer in found]
    failed = _nearest(
        native.address(points, np.float64, size * dim),
        size,
        dim,
        n_neighbors,
        x_dim or 0,
        *_query_arguments(queries),
        native.threads(),
        *addresses,
        *[None] * (3 - len(addresses)),
    )
    _check(failed)
    return found


def range_counts(points: Reals, radius: Reals, queries: Integers | None = None) -> Integers:
    """Return how many points are at most a radius away from each, itself included.

    Args:
        points: Coordinates ``(N, d)`` with finite differences, 1 to 10 of them.
        radius: The distance for each query.
        queries: The places of the points to ask about, each once; None for all.
    """
    size, dim = points.shape
    asked = _asked(size, queries)
    radius = np.ascontiguousarray(radius)
    counts = np.empty(asked, np.int64)
    last = (
        native.address(radius, np.float64, asked),
        *_query_arguments(queries),
        native.threads(),
        native.address(counts, np.int64, asked),
    )
    if dim == 1:
        order = np.argsort(points[:, 0])
        values = points[:, 0].take(order)
        start = native.address(values, np.float64, size), native.address(order, np.int64, size)
        _check(_line_counts(*start, size, *last))
        return counts
    if dim not in DIMENSIONS:
        raise ValueError(f"Can't count points {points.shape}.")
    points = np.ascontiguousarray(points)
    _check(_counts(native.address(points, np.float64, size * dim), size, dim, *last))
    return counts


def pair_tally(
    x: Reals, y: Reals, n_neighbors: int, *, scaling: int, rectangles: bool
) -> PairTally | None:
    """Return what enters the estimate of samples of two numbers; None where x or y is constant.

    Args:
        x: Finite values ``(N,)``, fewer than 2**32, by themselves or a column of a table.
        y: As x, with the same stride.
        n_neighbors: k, from 1 to N - 1.
        scaling: 0: values as they are, scores of ranks; 1: a common factor, which keeps differences
            finite; 2: deviations of 1.
        rectangles: Count in the rectangle around the neighbours, not in the square.
    """
    size = len(x)
    if not 1 <= n_neighbors < size <= MOST_PAIRS:
        raise ValueError(f"Can't find {n_neighbors} neighbors of {size} samples.")
    (start_x, stride), (start_y, other) = (native.column(v, np.float64, size) for v in (x, y))
    if stride != other:
        raise ValueError(f"Expected columns of one table, but strides are {stride} and {other}.")
    tally, found = np.zeros(size + 1, np.int64), np.zeros(2, np.int64)
    failed = _pairs(
        start_x,
        start_y,
        stride,
        size,
        n_neighbors,
        scaling,
        int(rectangles),
        native.threads(),
        native.address(tally, np.int64, size + 1),
        *[native.address(number, np.int64, 1) for number in (found[:1], found[1:])],
    )
    if failed == CONSTANT:
        return None
    _check(failed)
    return PairTally(tally, int(found[0]), bool(found[1]))


def permuted_tallies(x: Reals, y: Reals, z: Reals, orders: Integers, n_neighbors: int) -> Integers:
    """Return how often each count from 0 to N enters the conditional estimate of N samples, with
    its sign, for x in several other orders; no sample is taken for coincident.

    Time N^(2 - 1/d) for each, of d coordinates in all.

    Args:
        x: Coordinates ``(N, d_x)`` with finite differences, up to 64 of them.
        y: The same, ``(N, d_y)``.
        z: The same, ``(N, d_z)``.
        orders: Whose x each sample gets, ``(P, N)``, places from 0 to N - 1.
        n_neighbors: k, from 1 to N - 1.

    Returns:
        int64 ``(P, N + 1)``.
    """
    variables = [np.ascontiguousarray(v) for v in (x, y, z)]
    size, dims = len(x), [v.shape[1] for v in variables]
    if not 1 <= n_neighbors < size or not all(d in PERMUTED_DIMENSIONS for d in dims):
        shapes = ", ".join(str(v.shape) for v in variables)
        raise ValueError(f"Can't find {n_neighbors} neighbors of samples {shapes}.")
    if orders.size and not 0 <= int(orders.min()) <= int(orders.max()) < size:
        raise ValueError(f"Expected places from 0 to {size - 1}.")
    widest = variables[2][:, np.argmax(np.ptp(variables[2], axis=0))]
    place = np.argsort(widest)
    line = widest.take(place)
    tallies = np.zeros((len(orders), size + 1), np.int64)
    failed = _permuted(
        *[native.address(v, np.float64, size * d) for v, d in zip(variables, dims, strict=True)],
        native.address(line, np.float64, size),
        native.address(place, np.int64, size),
        size,
        *dims,
        n_neighbors,
        native.address(orders, np.int64, len(orders) * size),
        len(orders),
        native.threads(),
        native.address(tallies, np.int64, tallies.size),
    )
    _check(failed)
    return tallies


def _asked(size: int, queries: Integers | None) -> int:
    """Return how many points are asked about; refuse places that there are not."""
    if size == 0:
        raise ValueError("There are no points.")
    if queries is None:
        return size
    if len(queries) and not 0 <= int(queries.min()) <= int(queries.max()) < size:
        raise ValueError(f"Expected places from 0 to {size - 1}.")
    return len(queries)


def _query_arguments(queries: Integers | None) -> tuple[int | None, int]:
    if queries is None:
        return None, 0
    return native.address(queries, np.int64, len(queries)), len(queries)


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("The search for neighbors found too little memory.")
