"""Samples outside a given range: how many there are, and when that is a doubt."""

import math

import torch
from torch import Tensor

from mi_metrics.functional.cautions import Kind
from mi_metrics.functional.options import Ranges
from mi_metrics.functional.tables.ends import beyond, ends_of, number_of
from mi_metrics.functional.tables.hard import Unchecked
from mi_metrics.functional.tables.sums import chunks
from mi_metrics.functional.tensors import Rows, arithmetic, on_cpu
from mi_metrics.kernels import native_tables

# A larger share of the samples is a doubt.
MOST_OUTSIDE = 0.01


def outside_doubt(
    rows: Rows, ranges: Ranges | None, unchecked: Unchecked | None = None
) -> dict[Kind, str]:
    """Return the doubt about samples of which too many lie outside a given range, if they do.

    Args:
        rows: Finite samples ``(R, n)``; weights count as so many samples.
        ranges: The ranges of x and y, or None.
        unchecked: What the counting of these rows has found out.
    """
    if unchecked is not None and unchecked.outside is not None:
        found = unchecked.outside.tolist()
        if not any(found):
            return {}
        message = outside_message(max(found) / rows.x.shape[1])
        return {} if message is None else {"outside": message}
    if ranges is None or rows.x.numel() == 0 or all_inside(rows.x, rows.y, ranges):
        return {}
    total = rows.x.shape[1] if rows.weights is None else rows.weights.sum(1)
    shares = mass_outside(rows.x, rows.y, ranges, rows.weights) / total
    message = outside_message(float(shares.max()))
    return {} if message is None else {"outside": message}


def outside_message(share: float) -> str | None:
    """Say that too large a share of the samples of a pair lies outside, the largest of several."""
    if share <= MOST_OUTSIDE:
        return None
    return (
        f"{100 * share:.3g} % of the samples lie outside `value_range` and count as if they were "
        "at its ends. Widen the range, or pass value_range=None."
    )


def all_inside(x: Tensor, y: Tensor, ranges: Ranges) -> bool:
    """Say whether all samples are finite and none lies outside, in a tenth of the time that it
    takes to count those that do.
    """
    ends = torch.stack([*torch.aminmax(x.detach()), *torch.aminmax(y.detach())]).cpu()
    # Inside of transforms PyTorch up to 2.7 has no list of several values.
    found = [v.item() for v in ends]
    (x_lo, x_hi), (y_lo, y_hi) = (
        ends_of(r, arithmetic(v.dtype)) for r, v in zip(ranges, (x, y), strict=True)
    )
    # No comparison holds for NaN. Where the range is wider than the dtype, its ends are infinite.
    if not all(map(math.isfinite, found)):
        return False
    return bool(found[0] >= x_lo and found[1] <= x_hi and found[2] >= y_lo and found[3] <= y_hi)


def mass_outside(x: Tensor, y: Tensor, ranges: Ranges, weights: Tensor | None = None) -> Tensor:
    """Return how many samples of each row lie outside on either axis, ``(R,)``.

    Args:
        x: Samples ``(R, n)``.
        y: Samples paired with ``x``.
        ranges: The ranges of x and y.
        weights: How much each sample counts, bool or float64; None: once.
    """
    if on_cpu(x) and (weights is None or weights.dtype == torch.bool):
        found = native_tables.mass_outside(x, y, ranges, weights)
        if found is not None:
            return found
    ends = ends_of(ranges[0], arithmetic(x.dtype)), ends_of(ranges[1], arithmetic(y.dtype))
    dtype = torch.float64 if weights is not None and weights.is_floating_point() else torch.int64
    total = torch.zeros(len(x), dtype=dtype, device=x.device)
    for r, c in chunks(x.shape[0], x.shape[1], x.device):
        outside = beyond(x[r, c], y[r, c], ends)
        mass = outside if weights is None else weights[r, c] * outside
        total[r] += number_of(mass) if mass.dtype == torch.bool else mass.sum(1)
    return total
