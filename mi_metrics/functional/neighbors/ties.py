"""Samples told apart: what lets the formulas for continuous data be used on any data.

Kraskov, Stögbauer and Grassberger derive their estimators for data in which no two distances are
equal. Measured data are rounded, and then many are. Two rules take care of that:

* A sample with more than k - 1 exact copies is *coincident*. It is evaluated as discrete data are,
  by the numbers of samples that share its row, its x and its y (Gao, Kannan, Oh and Viswanath
  2017), and needs no search.
* Every other sample is evaluated by the plain formula, on points that are moved by a tiny amount,
  1e-10 of the spread of the coordinate. The amount is a hash of the place that the sample has among
  the sorted samples. So it is no random number: the value is a function of the set of samples.

Moving breaks ties without a preference; it is right for rounded data, whose distances tie by
accident, and would be noise for labels, which is why those are counted.

x is moved by the place among the rows sorted by (x, y), y by that among the rows sorted by (y, x),
where copies of one row are numbered backwards. The two are independent, also for y = x, and trade
places when x and y do: I(x, y) = I(y, x) to the bit. Among class labels "sorted" goes by what the
classes hold, so that it does not matter which numbers stand for them.

Of three variables, x is moved by the place among the rows sorted by (x, y, z), y by that among the
rows sorted by (y, x, z), and z by a hash of both that knows no order: I(x, y | z) = I(y, x | z) to
the bit.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.neighbors.hashing import centred_uniform, mix, mixed
from mi_metrics.functional.neighbors.order import lexicographic_order, run_lengths, run_starts
from mi_metrics.functional.neighbors.scaling import Coordinate, scaled
from mi_metrics.functional.neighbors.steps import take
from mi_metrics.functional.options import Standardize

AMPLITUDE = 1e-10


class Samples(NamedTuple):
    """Samples in lexicographic order, told apart.

    Attributes:
        x: Scaled and moved coordinates of x, float64 ``(N, d_x)``.
        y: The same of y, ``(N, d_y)``.
        same_row: How many samples have the x and y of each sample, itself included, int64 ``(N,)``.
        same_x: How many have its x.
        same_y: How many have its y.
        first: The place of the first sample that has the x and y of each, int64 ``(N,)``.
    """

    x: Tensor
    y: Tensor
    same_row: Tensor
    same_x: Tensor
    same_y: Tensor
    first: Tensor


def tell_apart(
    rows: Tensor, x_dim: int, standardize: Standardize, *, discrete_y: bool = False
) -> Samples | None:
    """Sort, scale and move samples.

    Args:
        rows: Finite float64 samples ``(N, d_x + d_y)``, in any order.
        x_dim: d_x, the number of leading columns that are x.
        standardize: How coordinates are scaled, see :func:`scaling.scaled`.
        discrete_y: y is a class label, which has no scale and stays where it is.

    Returns:
        The samples, or None if x or y is constant.
    """
    # -0.0 and 0 are one value.
    columns = (rows + 0.0).T.contiguous()
    order = lexicographic_order(list(columns))
    columns = torch.stack([take(column, order) for column in columns])
    if discrete_y:
        columns = in_order_of_classes(columns, run_starts(list(columns[:x_dim])))
    x, y = columns[:x_dim], columns[x_dim:]
    if any(bool((v == v[:, :1]).all()) for v in (x, y)):
        return None
    place_x = torch.arange(len(order), device=order.device)
    row_start, x_start = run_starts(list(columns)), run_starts(list(x))
    same_row, same_x = run_lengths(row_start), run_lengths(x_start)
    # The place within a row's copies, counted backwards: an order that is its own inverse.
    backwards = 2 * row_start + same_row - 1 - place_x
    by_y = lexicographic_order(list(y), backwards)
    place_y, same_y = torch.empty_like(place_x), torch.empty_like(place_x)
    place_y[by_y] = place_x
    same_y[by_y] = run_lengths(run_starts([take(column, by_y) for column in y]))
    places = [place_x] if discrete_y else [place_x, place_y]
    moved = [
        torch.stack([_moved(*pair, place) for pair in enumerate(variable)], 1)
        for variable, place in zip(scaled([x, y][: len(places)], standardize), places, strict=True)
    ]
    return Samples(moved[0], y.T if discrete_y else moved[1], same_row, same_x, same_y, row_start)


def in_order_of_classes(columns: Tensor, group: Tensor, number: Tensor | None = None) -> Tensor:
    """Return sorted samples with those of one x sorted by what their classes hold, not by labels.

    Args:
        columns: The samples ``(d_x + 1, N)``, labels last.
        group: The place of the first sample that has the x of each, int64 ``(N,)``.
        number: The set of each sample, whose places are counted from 0, int64 ``(N,)``, or None:
            all are of one.
    """
    size = len(group)
    if bool((group == torch.arange(size, device=group.device)).all()):
        return columns
    *x, label = columns
    sets = [] if number is None else [number]
    if number is not None:
        size //= int(number[-1]) + 1
    label_group = groups([*sets, label])
    # A sum that wraps around and knows no order: classes of one sum hold the same.
    held = torch.zeros_like(group).scatter_add_(0, label_group, mix(group % size))
    rank = torch.unique(held, return_inverse=True)[1][label_group]
    order = lexicographic_order([*sets, *x, rank.double(), label])
    return torch.stack([take(column, order) for column in columns])


class Triples(NamedTuple):
    """Samples of three variables in lexicographic order, told apart.

    Attributes:
        x: Scaled and moved coordinates of x, float64 ``(N, d_x)``.
        y: The same of y, ``(N, d_y)``.
        z: The same of z, ``(N, d_z)``.
        given: The coordinates of each as they were given, ``(d, N)``.
        same_row: How many samples have the x, y and z of each, itself included, int64 ``(N,)``.
        first: The place of the first of these, int64 ``(N,)``.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    given: tuple[Tensor, Tensor, Tensor]
    same_row: Tensor
    first: Tensor


def tell_triples_apart(
    rows: Tensor, dims: tuple[int, int, int], standardize: Standardize
) -> Triples | None:
    """Sort, scale and move samples of three variables.

    Args:
        rows: Finite float64 samples ``(N, d_x + d_y + d_z)``, in any order.
        dims: d_x, d_y and d_z.
        standardize: How coordinates are scaled, see :func:`scaling.scaled`.

    Returns:
        The samples, or None if x or y is constant.
    """
    columns = (rows + 0.0).T.contiguous()
    order = lexicographic_order(list(columns))
    columns = torch.stack([take(column, order) for column in columns])
    x, y, z = torch.split(columns, list(dims))
    if any(bool((v == v[:, :1]).all()) for v in (x, y)):
        return None
    place_x = torch.arange(len(order), device=order.device)
    row_start = run_starts(list(columns))
    same_row = run_lengths(row_start)
    by_y = lexicographic_order([*y, *x, *z], 2 * row_start + same_row - 1 - place_x)
    place_y = torch.empty_like(place_x)
    place_y[by_y] = place_x
    # A sum that wraps around: x and y may trade places.
    place_z = mix(mix(place_x) + mix(place_y))
    moved = [
        torch.stack([_moved(*pair, place) for pair in enumerate(variable)], 1)
        for variable, place in zip(
            scaled([x, y, z], standardize), (place_x, place_y, place_z), strict=True
        )
    ]
    return Triples(moved[0], moved[1], moved[2], (x, y, z), same_row, row_start)


def groups(columns: list[Tensor]) -> Tensor:
    """Return a number for each row of a table that equal rows share, int64 ``(N,)``."""
    order = lexicographic_order(columns)
    group = torch.empty_like(order)
    group[order] = run_starts([take(column, order) for column in columns])
    return group


def multiplicity(columns: list[Tensor]) -> Tensor:
    """Return how many rows of a table equal each, itself included, int64 ``(N,)``."""
    return run_lengths(groups(columns))


def _moved(number: int, coordinate: Coordinate, place: Tensor) -> Tensor:
    """Return a coordinate moved by up to half of 1e-10 of its spread, by a hash of the place."""
    if coordinate.spread == 0:
        return coordinate.values
    shift = centred_uniform(mix(place + mixed(number)))
    return coordinate.values + AMPLITUDE * coordinate.spread * shift
