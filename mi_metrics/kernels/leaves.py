"""Points in leaves with tight boxes, by sorting alone: what the kernels of neighbours walk through.

Points are sorted by their first coordinate and cut into slabs, each slab by the second, and so on;
what is left in the end are leaves of as many points each. Leaves that follow each other make a
group, which has a box too: a program looks at the boxes of groups, and at those of the leaves in
the groups that are near. Places that no point fills hold points infinitely far away.

References:
    S. T. Leutenegger, M. A. López, J. Edgington, "STR: a simple and efficient algorithm for R-tree
    packing" (1997), doi:10.1109/ICDE.1997.582015.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

INFINITY = float("inf")
# The most that kernels serve: the k nearest are kept in registers, where a power of two holds them
# and the point itself.
MOST_NEIGHBORS, MOST_POINTS = 63, 2**30


class Boxes(NamedTuple):
    """Boxes of leaves, or of groups of leaves.

    Attributes:
        ends: Least and largest coordinates, ``(B, 2, d, boxes)``; infinity and minus infinity where
            a box is empty.
        fill: How many points each holds, int32 ``(B, boxes)``.
    """

    ends: Tensor
    fill: Tensor


class Leaves(NamedTuple):
    """Points of B sets in the order of their leaves.

    Attributes:
        coordinates: float64 ``(B, d, S)``, S places in whole leaves; infinity where no point is.
        place: Which point each place holds, int64 ``(B, S)``; N where none is.
        leaves: The boxes of the leaves.
        groups: The boxes of groups of leaves.
    """

    coordinates: Tensor
    place: Tensor
    leaves: Boxes
    groups: Boxes


def pack(points: Tensor, leaf: int, fan: int) -> Leaves:
    """Return points in leaves.

    Args:
        points: Finite coordinates, float64 ``(B, N, d)``.
        leaf: Points of a leaf.
        fan: Leaves of a group.
    """
    batch, number, dimensions = points.shape
    cuts = _cuts(-(-number // leaf), dimensions)
    size = math.prod(cuts) * leaf
    # One more point, infinitely far away, stands at all places that are left over.
    columns = torch.nn.functional.pad(points.transpose(1, 2), (0, 1), value=INFINITY)
    place = torch.arange(size, device=points.device).clamp_(max=number).expand(batch, size)
    slabs = 1
    for coordinate, cut in enumerate(cuts):
        if cut > 1:
            keys = columns[:, coordinate].gather(1, place).view(batch * slabs, -1)
            rows = place.reshape(batch * slabs, -1)
            place = rows.gather(1, keys.argsort(1)).view(batch, size)
        slabs *= cut
    index = place[:, None].expand(batch, dimensions, size)
    coordinates = columns.gather(2, index)
    leaves = _boxes(coordinates, place < number, leaf)
    return Leaves(coordinates, place.contiguous(), leaves, _grouped(leaves, fan))


def _cuts(leaves: int, dimensions: int) -> list[int]:
    """Return into how many parts each coordinate is cut, at least so many leaves in all."""
    cuts = []
    for left in range(dimensions, 0, -1):
        cuts.append(max(1, round(leaves ** (1 / left))))
        leaves = -(-leaves // cuts[-1])
    return cuts


def _boxes(coordinates: Tensor, there: Tensor, leaf: int) -> Boxes:
    last = torch.where(there[:, None], coordinates, -INFINITY)
    low, high = _in_parts(coordinates, leaf).amin(-1), _in_parts(last, leaf).amax(-1)
    return Boxes(torch.stack((low, high), 1), _in_parts(there, leaf).sum(-1, dtype=torch.int32))


def _grouped(boxes: Boxes, fan: int) -> Boxes:
    low, high, fill = (
        _in_parts(torch.nn.functional.pad(part, (0, -part.shape[-1] % fan), value=filler), fan)
        for part, filler in (
            (boxes.ends[:, 0], INFINITY),
            (boxes.ends[:, 1], -INFINITY),
            (boxes.fill, 0),
        )
    )
    ends = torch.stack((low.amin(-1), high.amax(-1)), 1)
    return Boxes(ends, fill.sum(-1, dtype=torch.int32))


def _in_parts(values: Tensor, size: int) -> Tensor:
    return values.reshape(*values.shape[:-1], -1, size)
