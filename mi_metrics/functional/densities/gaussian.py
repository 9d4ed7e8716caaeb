"""Gaussian kernels between counted cells: what the density estimates of samples and of tables have
in common.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.cautions import caution
from mi_metrics.functional.information import check_options, information
from mi_metrics.functional.options import Interval, check_cells, check_integer
from mi_metrics.functional.tables.axis import parse_value_range

Ranges = tuple[Interval, Interval] | None
Values = Callable[[], Iterator[Tensor]]
Stencil = tuple[tuple[tuple[float, ...], float], ...]

# Factors of the marginals' bandwidth; the pair's is 1 for two dimensions in both rules.
RULES = {"silverman": 1.06, "scott": 1.0}
# 1 - r² is taken to be at least this: rounding of the samples leaves as much of a perfect
# dependence in float32.
SINGULAR = 2.0**-40
# Beyond this many standard deviations a kernel is nothing beside the rounding of the sum that it is
# added to.
REACH = 9.0
# Residuals of scaled samples that differ by less than this do not differ; 1 / δ must be a number.
NOTHING = 2.0**-500
# What a sample sees of all others is at least this part of what it sees of itself: logarithms stay
# finite, and below it the sum is rounding.
ALONE = 2.0**-40
# exp() is ten times slower where its result is below the normal numbers.
LEAST_EXPONENT = -100.0
# A sum of kernels between the centres of cells is off by 2 exp(-2 π² (h/δ)²), and log densities are
# means of it: with half a cell, 1.4 % and .03 nats for each marginal; with three quarters, 3e-5. In
# cells.
RESOLVED = 0.75
# A display extends past the data by this many kernel widths.
MARGIN = 4.0
# Points of a cell, in cell widths from its centre, and their weight in the mean log density over
# the cell's samples. Of a smooth density the mean is log f - (δ²/24) (log f)'': twice the centre
# less Gauss's mean over the cell.
CENTRE = (((0.0,), 1.0),)
CELL = (((0.0,), 2.0), ((-1 / math.sqrt(12), 1 / math.sqrt(12)), -1.0))
# Up to this many samples a cell stands at their mean. Of more it does not matter, and takes time.
FEW = 2**16
# Samples that are in flight at once. A chunk and its temporaries stay in a core's cache; a GPU
# wants more work.
CHUNK = {"cpu": 2**16, "other": 2**20}
FREQUENCIES = 512
MOST_FREQUENCIES = 2**13

OUTLIERS = (
    "The kernel is wider than the bulk of the data (its interquartile range): a few far samples, "
    "or many equal ones, set the sample covariance and with it the kernel, so this estimate says "
    "little about the rest. Use bins (binned_mutual_information, BinnedMutualInformation), give "
    "`bandwidth` in data units, or move far samples to the ends of a `value_range`."
)
COARSE = (
    "The kernel is narrower than half a cell of the table and was widened: what is finer than a "
    "cell is smoothed away, and its mutual information is missing. Use more cells (`grid_size` of "
    "the function, `resolution` of the metric), a narrower `value_range`, or a larger `bandwidth`."
)


class Cells(NamedTuple):
    """The cells of one axis: their centres ``(m,)`` in ascending order, gaps allowed, and their
    common width.
    """

    centres: Tensor
    width: float


class Estimate(NamedTuple):
    """A value, and whether the kernel was wider than the bulk of the data or narrower than half a
    cell.
    """

    value: Tensor
    outliers: Tensor
    coarse: Tensor


class Display(NamedTuple):
    """A smoothed joint ``(G, G)``, the edges ``(G + 1,)`` of its cells in data units, and the
    outliers' flag.
    """

    joint: Tensor
    x_edges: Tensor
    y_edges: Tensor
    outliers: bool


class Moments(NamedTuple):
    """Number of samples, sample variances, correlation and 1 - r²; a constant has variance 0."""

    n: float
    x: float
    y: float
    r: float
    unexplained: float


class Kernel(NamedTuple):
    """Standard deviations of the pair's kernel and of the marginals', and the pair's r and 1
    - r².
    """

    x: float
    y: float
    r: float
    unexplained: float
    x_alone: float
    y_alone: float

    @property
    def slope(self) -> float:
        """How y follows x within the pair's kernel."""
        return self.r * self.y / self.x

    @property
    def residual(self) -> float:
        """Standard deviation of y given x."""
        return self.y * math.sqrt(self.unexplained)


class CountedAxis(NamedTuple):
    """Counted cells: where they stand ``(m,)``, their width, their counts ``(m,)`` in float64."""

    centres: Tensor
    width: float
    n: Tensor


class CountedTable(NamedTuple):
    """A joint table ``(m_x, m_y)`` in float64, its axes, and the powers of two that their units
    were scaled by.
    """

    n: Tensor
    x: CountedAxis
    y: CountedAxis
    scales: tuple[float, float]


def check_kde_options(
    bandwidth: Any,
    grid_size: Any,
    value_range: Any,
    normalization: Any = "none",
    unit: Any = "nats",
) -> None:
    """Refuse options that are wrong."""
    check_options(normalization, "none", unit)
    size = check_integer("grid_size", grid_size, 2)
    check_cells(f"grid_size={size}", size**2)
    parse_value_range(value_range)
    if isinstance(bandwidth, str) and bandwidth in RULES:
        return
    pair = both_axes(bandwidth)
    if len(pair) != 2 or not all(map(_is_width, pair)):
        raise ValueError(
            'Expected `bandwidth` to be "silverman", "scott", or one or two positive numbers, but '
            f"got {bandwidth!r}. A number is the kernel's standard deviation in the units of the "
            "data, one for both axes or (h_x, h_y)."
        )


def _is_width(h: Any) -> bool:
    if isinstance(h, bool) or not isinstance(h, Real):
        return False
    try:
        return 0 < float(h) < math.inf
    except OverflowError:  # an int can be larger than any float
        return False


def warn_about(estimate: Estimate) -> None:
    """Warn once for each doubt about an estimate."""
    if bool(estimate.outliers.any()):
        caution("wide kernel", OUTLIERS)
    if bool(estimate.coarse.any()):
        caution("narrow kernel", COARSE)


def both_axes(bandwidth: Any) -> Any:
    """Return a pair of deviations from one or two."""
    sequence = isinstance(bandwidth, Sequence) and not isinstance(bandwidth, str)
    return bandwidth if sequence else (bandwidth, bandwidth)


def kernel_of(moments: Moments, bandwidth: Any, scales: tuple[float, float]) -> Kernel:
    """Return the kernels of a rule or of given deviations, in scaled units."""
    # A constant has no width of its own; its information is 0 whatever is taken here.
    sx, sy = (math.sqrt(v) if v > 0 else 1 / 8 for v in (moments.x, moments.y))
    if isinstance(bandwidth, str):
        pair, alone = moments.n ** (-1 / 6), RULES[bandwidth] * moments.n ** (-1 / 5)
        return Kernel(pair * sx, pair * sy, moments.r, moments.unexplained, alone * sx, alone * sy)
    # Their squares must be numbers, too.
    hx, hy = (
        min(max(float(h) * s, 2.0**-200), 2.0**200)
        for h, s in zip(both_axes(bandwidth), scales, strict=True)
    )
    return Kernel(hx, hy, moments.r, moments.unexplained, hx, hy)


def sheppard(h: float, width: float, least: float, resolved: float = 0.5) -> tuple[float, bool]:
    """Take the cells' own variance off a kernel's; ``resolved`` cells of width ``least`` are left
    as its deviation.

    Return the variance, and whether the kernel was narrower than half a cell.
    """
    rest = h**2 - width**2 / 12
    return max(rest, (resolved * least) ** 2), rest < least**2 / 4


def gauss(a: Tensor, b: Tensor, variance: float) -> Tensor:
    """Return the Gaussian kernel, 1 at distance 0, between positions ``(m,)`` and ``(n,)``."""
    return (
        torch.sub(a.unsqueeze(1), b)
        .square_()
        .mul_(-0.5 / variance)
        .clamp_min_(LEAST_EXPONENT)
        .exp_()
    )


def mean_log_density(
    n: Tensor, others: Tensor, determinant: float, own: float, total: float
) -> float:
    r"""Return the mean over samples of the log density, with and without their own kernel, up to
    (d/2) log 2π.

    ``others`` is the sum of all other samples' kernels, 1 at distance 0, and ``n`` the count of
    samples that see it. ``determinant`` is that of the kernel's covariance in the table, ``own``
    that of a sample's own kernel, which no cell has widened.
    """
    others = others.clamp_min(ALONE)
    logs = others.log() + (others + math.sqrt(determinant / own)).log_()
    constant = math.log(max(total - 1, 1)) + math.log(total) + math.log(determinant)
    return (float((n * logs).sum()) / total - constant) / 2


def marginal_density(
    axis: CountedAxis, h: float, total: float, stencil: Stencil
) -> tuple[float, bool]:
    """Return the mean log density of one variable, and whether the least width acted."""
    variance, coarse = sheppard(h, axis.width, axis.width, RESOLVED)
    occupied = axis.n.nonzero().squeeze(1)
    axis = CountedAxis(axis.centres[occupied], axis.width, axis.n[occupied])
    mean = 0.0
    for points, weight in stencil:
        for point in points:
            offset = point * axis.width
            others = gauss(axis.centres + offset, axis.centres, variance) @ axis.n
            others -= math.exp(-(offset**2) / (2 * variance))
            density = mean_log_density(
                axis.n, others, variance, variance + axis.width**2 / 12, total
            )
            mean += weight / len(points) * density
    return mean, coarse


def too_wide(moments: Moments, bandwidth: Any, x: CountedAxis, y: CountedAxis) -> bool:
    """Return whether the kernel that follows the covariance is wider than the interquartile
    range.
    """
    wide = []
    for variance, axis in ((moments.x, x), (moments.y, y)):
        mass = axis.n.cumsum(0)
        low, high = (int((mass < q * moments.n).sum()) for q in (0.25, 0.75))
        bulk = float(axis.centres[high] - axis.centres[low])
        wide.append(moments.n ** (-1 / 6) * math.sqrt(variance) > bulk and variance > 0)
    # Of a given bandwidth only the correlation follows the covariance, and it takes far samples on
    # both axes for that.
    return any(wide) if isinstance(bandwidth, str) else all(wide)


def with_float64(v: Tensor) -> Tensor:
    """Return a tensor on a device that has float64."""
    # MPS has no float64.
    return v.cpu() if v.device.type == "mps" else v


def power_of_two(largest: float) -> float:
    """Return the power of two that takes a magnitude to about 1, or 1 where squares of squares are
    numbers anyway.
    """
    if largest == 0 or 2.0**-100 < largest < 2.0**100:
        return 1.0
    return math.ldexp(1.0, min(max(-math.frexp(largest)[1], -1022), 1023))


def normalized_information(joint: Tensor, constant: bool, normalization: str) -> float:
    """Return a normalised form of a density on a grid."""
    if constant:
        return 1.0 if normalization == "studholme" else 0.0
    return float(information(joint, normalization=normalization))
