"""What a kernel density estimate can be doubtful about, seen from its counted cells."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.cautions import ENOUGH, TOO_FEW, Kind
from mi_metrics.functional.densities.gaussian import CountedAxis, Kernel, Moments
from mi_metrics.functional.densities.oversmoothed import Blurred

# A cell stands alone where it holds this part of the samples within so many kernel widths: kernels
# at two deviations from each other still add up to a density.
ALONE = 0.85
APART = 2.5
# A cell that has so much more of the samples than those beside it holds a value that repeats, too,
# as the zeros of zero-inflated numbers do; of more than so many only the heaviest are looked at.
HEAVY, MOST_HEAVY = 0.05, 32
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
        "A variable takes few values, as labels or rounded numbers do, or one value often, as "
        "numbers with many zeros do, and a density supposes a continuous one: the estimate is off "
        "by a tenth of a nat or a fifth of itself. Use bins (binned_mutual_information, "
        "BinnedMutualInformation)."
    ),
    "too few": TOO_FEW,
    "oversmoothed": (
        "The kernel is too wide for what ties the variables, as for a circle, a wave, clusters or "
        "heavy tails: it follows the covariance of all samples, and half of its width, or a few "
        "bins, give another value by more than a tenth of a nat and a fifth. Use neighbours "
        "(knn_mutual_information, KNNMutualInformation) or bins, or a narrower `bandwidth`."
    ),
}


Most = Callable[[], Tensor] | None


class Repeated(NamedTuple):
    """Values that repeat, at most one of each cell."""

    n: Tensor  # (R, m): how many samples of a cell have its repeated value, 0 where it has none
    alone: Tensor  # (R, m) bool: which cells the kernel tells apart from all others
    share: Tensor  # (R, 1): the part of all samples that have a repeated value


class Doubts(NamedTuple):
    """Which pairs are doubtful, and why, each bool ``(R, 1)``."""

    wide: Tensor
    narrow: Tensor
    few_values: Tensor
    too_few: Tensor
    oversmoothed: Tensor

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
    blurred: Blurred,
    narrow: Tensor | bool = False,
    most: tuple[Most, Most] = (None, None),
) -> Doubts:
    """Judge estimates by what is known about them.

    Args:
        value: The estimates in nats, or None of normalised ones and of densities.
        moments: Moments of the samples.
        kernel: The kernels.
        bandwidth: The option.
        axes: Counted cells of x and y.
        blurred: What shows that the kernels blur what ties the variables.
        narrow: Whether a kernel was narrower than half a cell.
        most: Functions of nothing that return how many samples of each cell have its most frequent
            value, if that is known.
    """
    repeated, to_points = zip(*map(_points, axes, (kernel.x, kernel.y), most), strict=True)
    few_values = torch.zeros_like(to_points[0])
    # A few samples that stand alone, such as the farthest ones, are of no effect.
    if value is not None and bool(torch.cat([r.share > HEAVY for r in repeated], 1).any()):
        error = _error_of_few_values(kernel, axes, repeated)
        few_values = error.abs() > (value - error).abs().div(5).clamp_min(0.1)
    # A given bandwidth follows no far samples. The correlation does, if they are far on both axes.
    if not isinstance(bandwidth, str):
        deviations = (v.sqrt() * moments.n ** (-1 / 6) for v in (moments.x, moments.y))
        follow = [_points(*each)[1] for each in zip(axes, deviations, most, strict=True)]
        to_points = (follow[0] & follow[1],) * 2
    wide, too_few = to_points[0] | to_points[1], moments.n < ENOUGH
    oversmoothed = blurred.lacks
    if bool(blurred.changes.any()):
        # Kernels of half the width may tell rounded numbers apart, which says nothing.
        halves = kernel.x / 2, kernel.y / 2
        apart = [_points(*each, None)[0].share > HEAVY for each in zip(axes, halves, strict=True)]
        apart.append(_tells_rounding(axes, halves, most, kernel))
        told = ~torch.cat(apart, 1).any(1, keepdim=True)
        oversmoothed = oversmoothed | (blurred.changes & told)
    # A fill value is one of few values, too, and both are blurred; one sentence says what to do.
    few_values &= ~wide
    oversmoothed = oversmoothed & ~(wide | few_values | too_few)
    doubts = wide, torch.zeros_like(wide) | narrow, few_values, too_few, oversmoothed
    return Doubts(*(doubt & ~moments.constant for doubt in doubts))


def _points(axis: CountedAxis, h: Tensor, most: Most) -> tuple[Repeated, Tensor]:
    """Return the values that repeat, which the kernel tells apart from all others or which stand
    out, and whether it blurs many of the others to points, ``(R, 1)``.
    """
    centres, mass = axis.centres.cummax(1).values, torch.nn.functional.pad(axis.n.cumsum(1), (1, 0))
    total = mass[:, -1:]

    def within(reach: Tensor) -> Tensor:
        first = torch.searchsorted(centres, centres - reach)
        last = torch.searchsorted(centres, centres + reach, right=True)
        return mass.gather(1, last) - mass.gather(1, first)

    def many(samples: Tensor) -> Tensor:
        return samples.sum(1, keepdim=True) / total > BLURRED

    around = ALONE * within(APART * h)
    alone = axis.n >= around
    beside = torch.nn.functional.pad(axis.n, (1, 1))
    excess = axis.n - torch.maximum(beside[:, :-2], beside[:, 2:])
    heavy = (HEAVY * total).clamp_min(ENOUGH)
    excess = excess.where(excess >= heavy, 0)
    repeated = axis.n.where(alone, excess)
    # Many samples in one cell are a value, or more than the cells tell apart.
    if most is not None and bool(many(repeated).any()):
        same = most()
        repeated = same.where((repeated > 0) & ((same >= axis.n) | (same >= heavy)), 0)
        alone &= same >= axis.n
    blurred = ~alone & (within(NEAR * h) >= around)
    share = repeated.sum(1, keepdim=True) / total
    return Repeated(repeated, alone, share), many(axis.n * blurred)


def _tells_rounding(
    axes: tuple[CountedAxis, CountedAxis],
    widths: tuple[Tensor, Tensor],
    most: tuple[Most, Most],
    kernel: Kernel,
) -> Tensor:
    """Say whether a pair's kernel of these widths is, across the line of correlated variables,
    narrower than half the steps that these are rounded to, bool ``(R, 1)``.
    """
    x, y = (
        (_step(axis, repeated) / h).square()
        for axis, h, repeated in zip(axes, widths, most, strict=True)
    )
    # In units of the kernel its least variance is 1 - |r|.
    return (x + y) / 8 > kernel.unexplained / (1 + kernel.r.abs())


def _step(axis: CountedAxis, most: Most) -> Tensor:
    """Return about how far values that repeat are from the next, 0 where few do, ``(R, 1)``."""
    same = axis.n if most is None else most()
    held = same.where(same > 1, 0)
    here, infinity = axis.n > 0, float("inf")
    below = axis.centres.where(here, -infinity).cummax(1).values
    above = axis.centres.where(here, infinity).flip(1).cummin(1).values.flip(1)
    below = torch.nn.functional.pad(below[:, :-1], (1, 0), value=-infinity)
    above = torch.nn.functional.pad(above[:, 1:], (0, 1), value=infinity)
    gap = torch.minimum(axis.centres - below, above - axis.centres)
    number = held.sum(1, keepdim=True)
    step = (held * gap.where(held > 0, 0)).sum(1, keepdim=True) / number.clamp_min(1)
    return step.where(number > BLURRED * axis.n.sum(1, keepdim=True), 0)


def _error_of_few_values(
    kernel: Kernel, axes: tuple[CountedAxis, CountedAxis], repeated: tuple[Repeated, Repeated]
) -> Tensor:
    """Return about how much too large the value is where values repeat.

    The density at such a value is its probability times the height of a kernel, and what lies
    around adds to it. Those of the pair and of the marginals cancel but for their bandwidths and,
    where both variables have such values, the correlation of the pair's kernel.
    """
    x, x_part = _height(axes[0], repeated[0], kernel.x, kernel.x_alone)
    y, y_part = _height(axes[1], repeated[1], kernel.y, kernel.y_alone)
    return x + y - x_part * y_part * kernel.unexplained.log() / 2


def _height(
    axis: CountedAxis, repeated: Repeated, pair: Tensor, alone: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean over all samples of the logarithm of how much higher the pair's kernel makes
    the density at values that repeat than the marginal's does, and the part of the samples that are
    such values, each by how much of the density there is its own; both ``(R, 1)``.
    """
    n, place = repeated.n.topk(min(MOST_HEAVY, repeated.n.shape[1]), 1)
    distance = axis.centres.gather(1, place).unsqueeze(2) - axis.centres.unsqueeze(1)
    densities = []
    for h in (pair, alone):
        near = torch.exp(-0.5 * (distance / h.unsqueeze(2)).square()) @ axis.n.unsqueeze(2)
        # What the kernel tells apart has nothing around.
        near = n.where(repeated.alone.gather(1, place), near.squeeze(2))
        densities.append(near.clamp_min(1e-300) / h)
    share = n / axis.n.sum(1, keepdim=True)
    higher = (densities[0] / densities[1]).log()
    own = n / pair / densities[0]
    return (share * higher).sum(1, keepdim=True), (share * own).sum(1, keepdim=True)
