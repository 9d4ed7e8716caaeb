r"""Soft tables of a few samples on the CPU, sample by cell: the four or sixteen cells that each one
reaches, all at once.

The weights along an axis are polynomials in a sample's place t between two cells: one product of
matrices gives them and their slopes from the powers of t.
"""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.tables.positions import Positions
from mi_metrics.functional.tables.splines import SUPPORT, margin
from mi_metrics.functional.tensors import kept_by_device

# By cells in ascending order: the numbers of 1, t, t², t³ in the weight.
_POLYNOMIALS = {
    "linear": ((1, -1), (0, 1)),
    "cubic": (
        (1 / 6, -1 / 2, 1 / 2, -1 / 6),
        (2 / 3, 0, -1, 1 / 2),
        (1 / 6, 1 / 2, 1 / 2, -1 / 2),
        (0, 0, 0, 1 / 6),
    ),
}


def count(
    p: Positions, bins: tuple[int, int], kernel: str, differentiate: bool
) -> tuple[Tensor, float, list[Tensor | None]]:
    """Return tables ``(R, cells_x, cells_y)`` of samples, margins included; how many times too
    large their sums are; and what :func:`pull_back` takes.
    """
    rows, _, n = p.u.shape
    cells = [b + margin(kernel) for b in bins]
    constants = _constants(kernel, cells[1], p.u.device)
    # What lies beyond an own range has no mass, and may lie anywhere.
    place = p.u + 0.5 if p.mass is None else p.u.clamp(0, max(bins)).add_(0.5)
    first = place.floor()
    t = place.sub_(first)
    powers = torch.stack(_powers(t, kernel)).view(SUPPORT[kernel], -1)
    both = (constants[0] if differentiate else constants[0][: SUPPORT[kernel]]) @ powers
    both = both.view(-1, rows, 2, n)
    # Rounding leaves less than nothing where a kernel ends.
    weights = both[: SUPPORT[kernel]].clamp_min_(0)
    of_x, of_y = weights[:, :, 0].unsqueeze(1), weights[:, :, 1].unsqueeze(0)
    if p.mass is not None:
        of_y = of_y * p.mass
    index = _index(first, bins, cells) + constants[1]
    table = torch.zeros(rows * cells[0] * cells[1], dtype=torch.float64, device=p.u.device)
    table.scatter_add_(0, index.view(-1), (of_x * of_y).view(-1))
    saved = [index, both[SUPPORT[kernel] :], of_x, of_y, p.mass, p.inside]
    return table.view(rows, *cells), 1.0, saved


def pull_back(
    push: Tensor, saved: Any, kernel: str, rates: tuple[float, float], wanted: Any
) -> list[Tensor | None]:
    """Return the gradients of x and y, float64 ``(R, n)``, from that of their tables."""
    index, slopes, of_x, of_y, mass, inside = saved
    cells = push.reshape(-1).index_select(0, index.view(-1)).view(index.shape)
    found: list[Tensor | None] = [None, None]
    for side, other in enumerate((of_y, of_x)):
        if not wanted[side]:
            continue
        slope = ((cells * other).sum(1 - side) * slopes[:, :, side]).sum(0)
        slope = slope if rates[side] == 1 else slope.mul_(rates[side])
        if inside is not None:
            slope = slope.mul_(inside[:, side])
        found[side] = slope.mul_(mass) if side and mass is not None else slope
    return found


def _index(first: Tensor, bins: tuple[int, int], cells: list[int]) -> Tensor:
    """Return the number of the first cell of each sample, all tables in a row, ``(R, n)``."""
    # NaN is no index.
    first = first.nan_to_num_(0)
    a, b = first[:, 0].clamp_(0, bins[0]), first[:, 1].clamp_(0, bins[1])
    index = torch.add(b, a, alpha=cells[1])
    if len(index) > 1:
        index += torch.arange(len(index), device=index.device).unsqueeze(1) * (cells[0] * cells[1])
    return index.long()


def _powers(t: Tensor, kernel: str) -> list[Tensor]:
    if kernel == "linear":
        return [torch.ones_like(t), t]
    squares = t * t
    return [torch.ones_like(t), t, squares, squares * t]


@kept_by_device
def _constants(kernel: str, across: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what weights and slopes are of powers, and how far cells are from the first one."""
    numbers, size = _POLYNOMIALS[kernel], SUPPORT[kernel]
    filled = [
        torch.full((1,), v, dtype=torch.float64, device=device) for row in numbers for v in row
    ]
    weights = torch.cat(filled).view(size, size)
    degrees = torch.arange(1, size, dtype=torch.float64, device=device)
    slopes = torch.nn.functional.pad(weights[:, 1:] * degrees, (0, 1))
    steps = torch.arange(size, device=device)
    return torch.cat([weights, slopes]), (steps[:, None] * across + steps)[:, :, None, None]
