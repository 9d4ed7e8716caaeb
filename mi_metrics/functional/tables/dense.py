r"""Soft tables of a few samples as products of two dense matrices of weights.

With U and V the weights of all cells at all samples, the table is :math:`T = U^T V`, and with the
gradient G of the table that of sample i is :math:`\sum_{ab} U'_{ia} G_{ab} V_{ib}`.

So much arithmetic for a sample pays on a GPU, where there are few: some twenty operations for the
weights, and each takes as long for one sample as for a thousand.
"""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.tables.positions import Positions
from mi_metrics.functional.tables.splines import margin
from mi_metrics.functional.tensors import kept_by_device

# How many times too large sums of tables are, and what a slope has to be multiplied by.
_SCALES = {"linear": (1.0, 1.0), "cubic": (36.0, -3.0)}


def count(
    p: Positions, bins: tuple[int, int], kernel: str, differentiate: bool
) -> tuple[Tensor, float, list[Tensor | None]]:
    """Return tables ``(R, cells_x, cells_y)`` of samples, margins included; how many times too
    large their sums are; and what :func:`pull_back` takes.
    """
    extra = margin(kernel)
    distance = p.u.unsqueeze(3) - _centres(max(bins), extra // 2, p.u.device)
    weights, slopes = (cubic_weights if kernel == "cubic" else _linear)(distance, differentiate)
    of_x, of_y = weights[:, 0, :, : bins[0] + extra], weights[:, 1, :, : bins[1] + extra]
    if p.mass is not None:
        of_y = of_y * p.mass.unsqueeze(2)
    return torch.bmm(of_x.mT, of_y), _SCALES[kernel][0], [slopes, of_x, of_y, p.mass, p.inside]


def pull_back(
    push: Tensor, saved: Any, kernel: str, rates: tuple[float, float], wanted: Any
) -> list[Tensor | None]:
    """Return the gradients of x and y, float64 ``(R, n)``, from that of their tables."""
    slopes, of_x, of_y, mass, inside = saved
    found: list[Tensor | None] = [None, None]
    for side, (other, to) in enumerate(((of_y, push.mT), (of_x, push))):
        if not wanted[side]:
            continue
        factor = rates[side] * _SCALES[kernel][1]
        along = torch.baddbmm(other[:, :, :1], other, to, beta=0, alpha=factor)
        slope = (along * slopes[:, side, :, : to.shape[2]]).sum(2)
        if inside is not None:
            slope = slope * inside[:, side]
        found[side] = slope * mass if side and mass is not None else slope
    return found


@kept_by_device
def _centres(bins: int, beyond: int, device: torch.device) -> Tensor:
    return torch.arange(0.5 - beyond, bins + beyond, dtype=torch.float64, device=device)


def cubic_weights(distance: Tensor, differentiate: bool) -> tuple[Tensor, Tensor | None]:
    """Return six times the spline's weights, and minus twice the slopes of the spline."""
    outer = (2 - distance.abs()).clamp_min_(0)
    inner = (outer - 1).clamp_min_(0)
    outer2, inner2, slopes = outer.square(), inner.square(), None
    if differentiate:
        slopes = outer2.sub(inner2, alpha=4).copysign_(distance)
    return outer2.mul_(outer).addcmul_(inner2, inner, value=-4), slopes


def _linear(distance: Tensor, differentiate: bool) -> tuple[Tensor, Tensor | None]:
    """Return the weights, and the slopes of the branch to the right."""
    weights = (1 - distance.abs()).clamp_min_(0)
    if not differentiate:
        return weights, None
    first = distance.floor()
    return weights, (first == -1).double().sub_((first == 0).double())
