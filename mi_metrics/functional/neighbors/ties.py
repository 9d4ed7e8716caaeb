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
places when x and y do: I(x, y) = I(y, x) to the bit.
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


def _moved(number: int, coordinate: Coordinate, place: Tensor) -> Tensor:
    """Return a coordinate moved by up to half of 1e-10 of its spread, by a hash of the place."""
    if coordinate.spread == 0:
        return coordinate.values
    shift = centred_uniform(mix(place + mixed(number)))
    return coordinate.values + AMPLITUDE * coordinate.spread * shift
