"""What a kernel density estimate can be doubtful about, seen from its counted cells."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.cautions import ENOUGH, TOO_FEW, Kind
from mi_metrics.functional.densities.gaussian import CountedAxis, Kernel, Moments

# A cell stands alone where it holds this part of the samples within so many kernel widths: kernels
# at two deviations from each other still add up to a density.
ALONE = 0.85
APART = 2.5
# Samples are blurred to a point where as much lies within this many kernel widths.
NEAR = 0.5
# A kernel that blurs this part of the samples to points is too wide.
BLURRED = 0.1

MESSAGES: dict[Kind, str] = {
    "wide kernel": (
        "The kernel is wider than the bulk of the data: a few far samples, or many equal ones such "
        "as a fill value, set the sample covariance and with it the kernel, so this estimate says "
        "little about the rest. Use bins (binned_mutual_information, BinnedMutualInformation), "
        "give `bandwidth` in data units, leave fill values out, or move far samples to the ends of "
        "a `value_range`."
    ),
    "narrow kernel": (
        "The kernel is narrower than half a cell of the table and was widened: what is finer than "
        "a cell is smoothed away, and its mutual information is missing. Use more cells "
        "(`grid_size` of the function, `resolution` of the metric), a narrower `value_range`, or a "
        "larger `bandwidth`."
    ),
    "few values": (
        "A variable takes few values, as labels or rounded numbers do, and a density supposes a "
        "continuous one: the estimate is off by a tenth of a nat or a fifth of itself. Use "
        'bins with a bin for each value (binned_mutual_information with binning="values").'
    ),
    "too few": TOO_FEW,
}


Mixed = Callable[[], Tensor] | None


class Doubts(NamedTuple):
    """Which pairs are doubtful, and why, each bool ``(R, 1)``."""

    wide: Tensor
    narrow: Tensor
    few_values: Tensor
    too_few: Tensor

    def messages(self) -> dict[Kind, str]:
        """Return a sentence for each kind of doubt about any of the pairs."""
        return {
            kind: message
            for (kind, message), doubt in zip(MESSAGES.items(), self, strict=True)
            if bool(doubt.any())
        }


class Estimate(NamedTuple):
    """Values and the doubts about them."""

    value: Tensor
    doubts: Doubts


def doubts_about(
    value: Tensor | None,
    moments: Moments,
    kernel: Kernel,
    bandwidth: Any,
    axes: tuple[CountedAxis, CountedAxis],
    narrow: Tensor | bool = False,
    mixed: tuple[Mixed, Mixed] = (None, None),
) -> Doubts:
    """Judge estimates by what is known about them.

    Args:
        value: The estimates in nats, or None of normalised ones and of densities.
        moments: Moments of the samples.
        kernel: The kernels.
        bandwidth: The option.
        axes: Counted cells of x and y.
        narrow: Whether a kernel was narrower than half a cell.
        mixed: Functions of nothing that return which cells hold more than one value, if that is
            known.
    """
    alone, blurred = zip(*map(_points, axes, (kernel.x, kernel.y), mixed), strict=True)
    few_values = torch.zeros_like(blurred[0])
    if value is not None:
        error = _error_of_few_values(moments, kernel, *alone)
        few_values = error.abs() > (value - error).abs().div(5).clamp_min(0.1)
    # A given bandwidth follows no far samples. The correlation does, if they are far on both axes.
    if not isinstance(bandwidth, str):
        deviations = (v.sqrt() * moments.n ** (-1 / 6) for v in (moments.x, moments.y))
        follow = [_points(*each)[1] for each in zip(axes, deviations, mixed, strict=True)]
        blurred = (follow[0] & follow[1],) * 2
    wide, too_few = blurred[0] | blurred[1], moments.n < ENOUGH
    # A fill value is one of few values, too; one sentence says what to do.
    doubts = wide, torch.zeros_like(wide) | narrow, few_values & ~wide, too_few
    return Doubts(*(doubt & ~moments.constant for doubt in doubts))


def _points(axis: CountedAxis, h: Tensor, mixed: Mixed) -> tuple[Tensor, Tensor]:
    """Return the part of the samples in cells that the kernel tells apart from all others, and
    whether it blurs many of the others to points.
    """
    centres, mass = axis.centres.cummax(1).values, torch.nn.functional.pad(axis.n.cumsum(1), (1, 0))

    def within(reach: Tensor) -> Tensor:
        first = torch.searchsorted(centres, centres - reach)
        last = torch.searchsorted(centres, centres + reach, right=True)
        return mass.gather(1, last) - mass.gather(1, first)

    def part(cells: Tensor) -> Tensor:
        return (axis.n * cells).sum(1, keepdim=True) / mass[:, -1:]

    around = ALONE * within(APART * h)
    alone = axis.n >= around
    # Many samples in one cell are a value, or more than the cells tell apart.
    if mixed is not None and bool((part(alone) > BLURRED).any()):
        alone &= ~mixed()
    blurred = ~alone & (within(NEAR * h) >= around)
    return part(alone), part(blurred) > BLURRED


def _error_of_few_values(
    moments: Moments, kernel: Kernel, x_alone: Tensor, y_alone: Tensor
) -> Tensor:
    """Return about how much too large the value is where a kernel tells values apart.

    The density at such values is their probability times the height of a kernel. Those of the pair
    and of the marginals cancel but for their bandwidths and, where both variables have few values,
    the correlation of the pair's kernel.
    """
    height_x, height_y = (kernel.x_alone / kernel.x).log(), (kernel.y_alone / kernel.y).log()
    both = x_alone * y_alone * kernel.unexplained.log()
    return x_alone * height_x + y_alone * height_y - both / 2
