"""Gaussian kernels between counted cells: what the density estimates of samples, of tables and of
losses have in common.

Everything here is for R pairs of variables at once: a quantity of a pair is float64 ``(R, 1)``, an
axis ``(R, m)``, a table ``(R, m_x, m_y)``. How the sums over kernels are formed is the matter of
:mod:`~mi_metrics.functional.densities.sampled`,
:mod:`~mi_metrics.functional.densities.counted` and
:mod:`~mi_metrics.functional.densities.differentiable`.
"""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.information import check_options, independent, information
from mi_metrics.functional.options import Interval, check_cells, check_integer
from mi_metrics.functional.tables.axis import parse_value_range
from mi_metrics.functional.tensors import on_cpu

Ranges = tuple[Interval, Interval] | None

# Factors of the marginals' bandwidth; the pair's is 1 for two dimensions in both rules.
RULES = {"silverman": 1.06, "scott": 1.0}
# 1 - r² is taken to be at least this: rounding of the samples leaves as much of a perfect
# dependence in float32.
SINGULAR = 2.0**-40
# Residuals of scaled samples that differ by less than this do not differ; 1 / δ must be a number.
NOTHING = 2.0**-500
# What a sample sees of all others is at least this part of what it sees of itself. A few far
# samples of heavy tails would otherwise set the leave-one-out mean: without it the error of
# Student's t with three degrees of freedom grows from 0.03 to 0.2 nats.
ALONE = 2.0**-40
# exp() is ten times slower where its result is below the normal numbers.
LEAST_EXPONENT = -100.0
# A sum of kernels between the centres of cells is off by 2 exp(-2 π² (h/δ)²), and log densities are
# means of it: with half a cell, 1.4 % and 0.03 nats for each marginal; with three quarters, 3e-5.
# In cells.
RESOLVED = 0.75
# A display extends past the data by this many kernel widths.
MARGIN = 4.0


class Display(NamedTuple):
    """Smoothed joints ``(R, G, G)``, and the edges ``(R, G + 1)`` of their cells in data units."""

    joint: Tensor
    x_edges: Tensor
    y_edges: Tensor


class Moments(NamedTuple):
    """Number of samples, sample variances (0 for a constant), correlation and 1 - r², each
    ``(R, 1)``.
    """

    n: Tensor
    x: Tensor
    y: Tensor
    r: Tensor
    unexplained: Tensor

    @property
    def constant(self) -> Tensor:
        """Whether a variable of the pair is constant."""
        return (self.x <= 0) | (self.y <= 0)


class Kernel(NamedTuple):
    """Standard deviations of the pair's kernel and of the marginals', and the pair's r and 1 - r²,
    each ``(R, 1)``.
    """

    x: Tensor
    y: Tensor
    r: Tensor
    unexplained: Tensor
    x_alone: Tensor
    y_alone: Tensor

    @property
    def slope(self) -> Tensor:
        """How y follows x within the pair's kernel."""
        return self.r * self.y / self.x

    @property
    def residual(self) -> Tensor:
        """Standard deviation of y given x."""
        return self.y * self.unexplained.sqrt()


class CountedAxis(NamedTuple):
    """Counted cells: where they stand ``(R, m)``, their width ``(R, 1)``, their counts
    ``(R, m)``.
    """

    centres: Tensor
    width: Tensor
    n: Tensor


class CountedTable(NamedTuple):
    """A joint table ``(R, m_x, m_y)`` in float64, its axes, and the powers of two ``(R, 1)`` that
    their units were scaled by.
    """

    n: Tensor
    x: CountedAxis
    y: CountedAxis
    scales: tuple[Tensor, Tensor]


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


def both_axes(bandwidth: Any) -> Any:
    """Return a pair of deviations from one or two."""
    sequence = isinstance(bandwidth, Sequence) and not isinstance(bandwidth, str)
    return bandwidth if sequence else (bandwidth, bandwidth)


def bandwidths(
    bandwidth: Any, n: Tensor, deviations: tuple[Tensor, Tensor], scales: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the deviations of the pair's kernel on x and y and of the two marginals', by a rule or
    as they were given in the units of the data.

    Args:
        bandwidth: A rule, or one or two deviations.
        n: Numbers of samples ``(R, 1)``.
        deviations: Standard deviations of x and y, in scaled units.
        scales: Factors from the units of the data to the scaled ones.
    """
    if isinstance(bandwidth, str):
        pair, alone = n ** (-1 / 6), RULES[bandwidth] * n ** (-1 / 5)
        x, y = deviations
        return pair * x, pair * y, alone * x, alone * y
    # Their squares must be numbers, too.
    x, y = (
        (scale * float(h)).clamp(2.0**-200, 2.0**200)
        for h, scale in zip(both_axes(bandwidth), scales, strict=True)
    )
    return x, y, x, y


def kernel_of(moments: Moments, bandwidth: Any, scales: tuple[Tensor, Tensor]) -> Kernel:
    """Return the kernels of a rule or of given deviations, in scaled units."""
    # A constant has no width of its own; its information is 0 whatever is taken here.
    sx, sy = (torch.where(v > 0, v.sqrt(), 1 / 8) for v in (moments.x, moments.y))
    x, y, x_alone, y_alone = bandwidths(bandwidth, moments.n, (sx, sy), scales)
    return Kernel(x, y, moments.r, moments.unexplained, x_alone, y_alone)


def sheppard(
    h: Tensor, width: Tensor, least: Tensor, resolved: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Take the cells' own variance off a kernel's; ``resolved`` cells of width ``least`` are left
    as its deviation.

    Return the variance, and whether the kernel was narrower than half a cell.
    """
    rest = h.square() - width.square() / 12
    return torch.maximum(rest, (resolved * least).square()), rest < least.square() / 4


def gauss(a: Tensor, b: Tensor, variance: Tensor) -> Tensor:
    """Return the Gaussian kernel, 1 at distance 0, between positions ``(R, m)`` and ``(R, n)``."""
    return (
        torch.sub(a.unsqueeze(2), b.unsqueeze(1))
        .square_()
        .mul_((-0.5 / variance).unsqueeze(2))
        .clamp_min_(LEAST_EXPONENT)
        .exp_()
    )


def times(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices ``(R, m, k)`` and ``(R, k, n)``, each pair's to the same bits for any R."""
    if on_cpu(a):
        return torch.bmm(a, b)
    # A GPU's library chooses its algorithm by the number of matrices.
    return torch.stack([p @ q for p, q in zip(a, b, strict=True)])


def log_sums(n: Tensor, others: Tensor, own: Tensor) -> Tensor:
    """Return the sums over samples ``(R, 1)`` of the logarithms of what they see with and without
    their own kernel.

    Args:
        n: Counts of samples, ``(R, m_x, m_y)``.
        others: What each of them sees, overwritten: the sum of all other samples' kernels, 1 at
            distance 0.
        own: A sample's own kernel, which no cell has widened, in the same unit, ``(R, 1)``.
    """
    others = others.clamp_min_(ALONE)
    logs = (others + own.unsqueeze(2)).mul_(others).log_().mul_(n)
    # A row at a time: the order of a sum over two dimensions depends on the number of pairs.
    return logs.sum(2).sum(1, keepdim=True)


def mean_log_density(logs: Tensor, determinant: Tensor, total: Tensor) -> Tensor:
    """Return the mean over samples of the log density, with and without their own kernel, up to
    (d/2) log 2π.

    Args:
        logs: :func:`log_sums` of the samples.
        determinant: That of the kernel's covariance in the table.
        total: Numbers of samples.
    """
    constant = (total - 1).clamp_min(1).log() + total.log() + determinant.log()
    return (logs / total - constant) / 2


class LineKernel(NamedTuple):
    """The kernel of one variable between cells: its variance there, and a sample's own kernel."""

    variance: Tensor
    own: Tensor
    coarse: Tensor


def line_kernel(axis: CountedAxis, h: Tensor) -> LineKernel:
    """Return the kernel of deviation ``h`` between the cells of an axis."""
    variance, coarse = sheppard(h, axis.width, axis.width, RESOLVED)
    own = (variance / (variance + axis.width.square() / 12)).sqrt()
    return LineKernel(variance, own, coarse)


def line_log_sums(axis: CountedAxis, kernel: LineKernel, offset: Tensor | None = None) -> Tensor:
    """Return :func:`log_sums` of one variable, at its cells or at points beside their centres."""
    at = axis.centres if offset is None else axis.centres + offset
    # Not a product of matrices: that of a single column depends on the number of pairs.
    seen = gauss(at, axis.centres, kernel.variance).mul_(axis.n.unsqueeze(1)).sum(2)
    own = 1.0 if offset is None else torch.exp(-offset.square() / (2 * kernel.variance))
    return log_sums(axis.n.unsqueeze(1), (seen - own).unsqueeze(1), kernel.own)


def two_to(exponent: Tensor) -> Tensor:
    """Return the power of two of whole numbers in -1022 … 1023, exactly."""
    return (exponent + 1023).bitwise_left_shift(52).view(torch.float64)


def power_of_two(largest: Tensor) -> Tensor:
    """Return the power of two that takes a magnitude to about 1, or 1 where squares of squares are
    numbers anyway.
    """
    sane = (largest == 0) | ((largest > 2.0**-100) & (largest < 2.0**100))
    power = two_to(-torch.frexp(largest).exponent.long().clamp(-1023, 1022))
    return torch.where(sane, 1.0, power)


def covering(ends: tuple[Tensor, Tensor], h: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of a display: those of the data with room for the kernels."""
    lo, hi = ends
    # A constant far from 0 would not see the room.
    room = MARGIN * torch.maximum(h, 2.0**-40 * torch.maximum(lo.abs(), hi.abs()))
    return lo - room, hi + room


def normalized_information(joint: Tensor, constant: Tensor, normalization: str) -> Tensor:
    """Return a normalised form ``(R, 1)`` of densities ``(R, G, G)`` on a grid."""
    value = information(joint, normalization=normalization).unsqueeze(1)
    return torch.where(constant, independent(normalization), value)
