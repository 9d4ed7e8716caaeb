"""Few samples inside known ranges: looked at once, and counted by as few operations as will do.

Small operations take the same time whatever they do, and a value that is read back to the host
makes it wait for the device. So both axes are one tensor here, and the extremes of the samples,
the one thing that is read back, say at once that all are finite and inside.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.options import Ranges
from mi_metrics.functional.tables.axis import fixed_axis
from mi_metrics.functional.tables.ends import ends_of
from mi_metrics.functional.tensors import chunk_size, on_cpu

# Up to so many samples are counted by one scatter into a copy of the table.
FEW = 2**11
# Whole numbers are exact in float32 up to here.
MOST_CELLS = 2**24


class Frame(NamedTuple):
    """Both axes of a table of equal bins, x first, in the dtype of the samples."""

    lo: Tensor  # (2, 1, 1)
    bins: Tensor
    width: Tensor
    last: Tensor  # the last bin
    ends: tuple[float, float, float, float]  # least x and y, largest x and y


def are_few(x: Tensor) -> bool:
    """Say whether samples are so few that :func:`added` counts them faster than others do."""
    return x.numel() <= (FEW if on_cpu(x) else chunk_size("bins", x.device))


@lru_cache(maxsize=64)
def frame(
    ranges: Ranges, bins: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Frame | None:
    """Return the axes of samples of a dtype; None where its arithmetic does not hold them.

    It is kept: to make it takes as long as to count a small batch.
    """
    axes = [fixed_axis(*pair, dtype, device) for pair in zip(ranges, bins, strict=True)]
    if bins[0] * bins[1] > MOST_CELLS or any(a.scale is not None for a in axes):
        return None
    if any(a.lo.dtype != dtype for a in axes):
        return None
    lo, width, numbers = (
        torch.stack([getattr(a, part) for a in axes]) for part in ("lo", "width", "bins")
    )
    (x_lo, x_hi), (y_lo, y_hi) = (ends_of(r, dtype) for r in ranges)
    return Frame(lo, numbers, width, numbers - 1, (x_lo, y_lo, x_hi, y_hi))


def added(
    table: Tensor, x: Tensor, y: Tensor, ranges: Ranges, labels: Tensor | None = None
) -> Tensor | None:
    """Return int64 tables ``(C, B_x, B_y)`` with the samples ``(C, n)`` added, to the bit what
    :func:`mi_metrics.functional.tables.hard.hard_counts` adds; None where one of them is not inside
    the ranges, or not finite. With ``labels`` (1, n), C is 1 and each of them has a table.
    """
    bins = (table.shape[1], table.shape[2])
    if x.dtype != y.dtype:
        return None
    pairs = torch.stack([x, y])
    least, largest = torch.aminmax(pairs.view(2, -1), dim=1)
    found = torch.cat([least, largest]).tolist()
    axes = frame(ranges, bins, x.dtype, x.device)
    # No comparison holds for NaN.
    if axes is None or not (
        found[0] >= axes.ends[0]
        and found[1] >= axes.ends[1]
        and found[2] <= axes.ends[2]
        and found[3] <= axes.ends[3]
    ):
        return None
    cell = pairs.sub_(axes.lo).mul_(axes.bins).div_(axes.width).minimum(axes.last).floor_()
    code = torch.add(cell[1], cell[0], alpha=bins[1]).long()
    if len(x) > 1:
        first = torch.arange(len(x), dtype=torch.int64, device=x.device).unsqueeze(1)
        code = code.add_(first, alpha=bins[0] * bins[1])
    if labels is not None:
        code = code.add_(labels, alpha=bins[0] * bins[1])
    code = code.view(-1)
    return table.reshape(-1).scatter_add(0, code, torch.ones_like(code)).view(table.shape)
