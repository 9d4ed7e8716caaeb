r"""Kernel density information with a gradient: the estimate of :mod:`mi_metrics.functional.kde` on
soft tables.

Samples are shared out linearly among the four grid points around them, kernels are summed between
grid points by matrix products, and logarithms are read off at the grid points with the same shares.
So everything is a function of soft tables, whose backward costs little more than a forward:

.. math::
    \frac1N \sum_i \log \hat f(x_i, y_i)
    \approx \frac1N \sum_{ab} T_{ab} \, (\log \hat f_{ab})^*, \qquad
    \hat f \propto K_x T K_z

with T the table of x and of :math:`z = y - s x`, where the shear s makes the pair's kernel a
product. Three corrections take off what the grid, of spacing δ, does in first order:

- Linear shares add δ²/6 to the kernel's variance; the kernel is made narrower by it (Sheppard's
  correction).
- A sample's own kernel, read off at the points around it, is on average :math:`2/3 + K(\delta)/3`
  per axis and not 1; this is what leave-one-out subtracts.
- Linear interpolation adds :math:`(\delta^2 / 12) \, g''` to a function g; (…)* is g less a twelfth
  of its second differences.

What a sample sees of the others is not let below 1/128 of its own kernel: lonely samples are where
the value differs from that of the function, which goes on to 2**-40.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mi_metrics.functional.densities.gaussian import LEAST_EXPONENT, MARGIN, RULES, SINGULAR
from mi_metrics.functional.information import normalized_ratio
from mi_metrics.functional.options import from_nats
from mi_metrics.functional.ranks import Reduce
from mi_metrics.functional.tables.axis import Axis
from mi_metrics.functional.tables.bspline import slope, soft_counts
from mi_metrics.functional.tensors import cast

# What a sample sees of all others is taken to be at least this part of its own kernel. Of a sample
# that no sample is near, the grid does not know it better, and a logarithm close to 0 would push
# nothing but this sample around.
ALONE = 2.0**-7

# Room between the ends of the data and of the grid, in steps.
SLACK = 2.0**-10


class _Moments(NamedTuple):
    """Of R pairs, each ``(R, 1)`` float64: samples, deviations (1 for a constant), correlation,
    constancy.
    """

    n: Tensor
    x: Tensor
    y: Tensor
    r: Tensor
    constant: Tensor


class _Grid(NamedTuple):
    """The axis of a soft table whose cell centres are the grid points, their spacing ``(R, 1, 1)``
    and number.
    """

    axis: Axis
    step: Tensor
    size: int


def soft_kde_information(
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    axes: tuple[Axis, Axis],
    *,
    bandwidth: Any,
    grid_size: int,
    normalization: str,
    unit: str,
    reduce: Reduce,
) -> Tensor:
    r"""Compute the mutual information of R pairs of variables from kernel densities on a grid,
    float64 ``(R,)``.

    Without normalisation, as :func:`mi_metrics.functional.kde_mutual_information`: the mean over
    samples of :math:`\log \hat f(x, y) - \log \hat f(x) - \log \hat f(y)`, half of it with and half
    without the sample's own kernel; the pair's kernel has the sample's correlation and N^(-1/6)
    times its deviations, the marginals' 1.06 N^(-1/5) times (``"silverman"``), or all have the
    given deviations. The grid spans the data.

    Normalised: the entropies of the pair's smoothed density and its own marginals in cells of a
    grid that extends four kernel widths past the data. That of the pair is taken from the sheared
    table, for a shear preserves areas.

    Differentiable with respect to x and y; ranges, kernels and weights are constants. Reads nothing
    from the device.

    Args:
        x: Samples ``(R, N)``.
        y: Samples ``(R, N)``.
        weights: Weights ``(R, N)`` or None. N is then (Σw)² / Σw², and a sample's own kernel has
            the mean weight.
        axes: One bin over each pair's data (of all processes), float64.
        bandwidth: As :func:`mi_metrics.functional.kde_mutual_information`.
        grid_size: Grid points per axis.
        normalization: As there.
        unit: As there.
        reduce: How to add up over processes.
    """
    u, v = _in_units_of_the_range(x, axes[0]), _in_units_of_the_range(y, axes[1])
    moments, scale = _moments(u.detach(), v.detach(), weights, reduce)
    h_x, h_y, alone_x, alone_y = _bandwidths(bandwidth, moments, axes)
    shear = moments.r * h_y / h_x
    h_z = h_y * ((1 - moments.r) * (1 + moments.r)).clamp_min(SINGULAR).sqrt()
    z = v - shear * u

    zero, one = torch.zeros_like(shear), torch.ones_like(shear)
    z_ends = _ends(z.detach(), weights, reduce)
    if normalization == "none":
        grid_x, grid_y, grid_z = (
            _spanning(e, grid_size) for e in ((zero, one), (zero, one), z_ends)
        )
    else:
        ends = ((zero, one, h_x), (zero, one, h_y), (*z_ends, h_z))
        grid_x, grid_y, grid_z = (_covering(lo, hi, h, grid_size) for lo, hi, h in ends)
    bins = grid_size, grid_size
    joint = soft_counts(u, z, (grid_x.axis, grid_z.axis), bins, "linear", weights)
    single = Axis(zero, one, one)
    marginal = soft_counts(u.detach(), v, (single, grid_y.axis), (1, grid_size), "linear", weights)
    tables = reduce.sum(torch.cat([joint, marginal], 1)) * scale.unsqueeze(2)
    joint, marginal = tables[:, :grid_size], tables[:, grid_size:]
    alone_in_x, alone_in_y = joint.sum(2, keepdim=True), marginal.mT

    n = moments.n.unsqueeze(2)
    kernel_x, kernel_y, kernel_z = (
        _Kernel.of(g, h) for g, h in ((grid_x, h_x), (grid_y, h_y), (grid_z, h_z))
    )
    if normalization == "none":
        value = _log_density(joint, (kernel_x, kernel_z), n)
        value = value - _log_density(alone_in_x, (_Kernel.of(grid_x, alone_x),), n)
        value = value - _log_density(alone_in_y, (_Kernel.of(grid_y, alone_y),), n)
        return from_nats(torch.where(moments.constant, 0, value).squeeze(1), unit)
    hxy = _entropy(kernel_x.matrix @ joint @ kernel_z.matrix) + (
        grid_z.step / grid_y.step
    ).log().squeeze(2)
    hx, hy = _entropy(kernel_x.matrix @ alone_in_x), _entropy(kernel_y.matrix @ alone_in_y)
    numerator, denominator = normalized_ratio(normalization, hx + hy - hxy, hx, hy, hxy)
    undefined = moments.constant | (denominator <= 0)
    ratio = numerator / torch.where(undefined, 1, denominator)
    return torch.where(undefined, 1.0 if normalization == "studholme" else 0.0, ratio).squeeze(1)


def _in_units_of_the_range(x: Tensor, axis: Axis) -> Tensor:
    """Return samples as 0 … 1, where nothing overflows whatever the input, with a gradient that
    does not either.
    """
    return axis.position(x.detach()) + cast(x - x.detach(), torch.float64) * slope(axis, x.dtype)


class _Kernel(NamedTuple):
    """A Gaussian between grid points, 1 at distance 0."""

    matrix: Tensor  # (R, G, G)
    variance: Tensor  # (R, 1, 1), that of the matrix
    own: Tensor  # (R, 1, 1), that of a sample's own kernel, which no shares have widened
    self: Tensor  # (R, 1, 1), what a sample sees of itself at the points around it, on average

    @classmethod
    def of(cls, grid: _Grid, h: Tensor) -> "_Kernel":
        shares = grid.step.square() / 6
        # A grid does not resolve less than half a step.
        variance = (h.unsqueeze(2).square() - shares).clamp_min(grid.step.square() / 4)
        points = torch.arange(grid.size, dtype=torch.float64, device=h.device)
        distance = (points.unsqueeze(1) - points) * grid.step
        matrix = (distance.square() / (-2 * variance)).clamp_min(LEAST_EXPONENT).exp()
        return cls(matrix, variance, variance + shares, 2 / 3 + matrix[:, :1, 1:2] / 3)


def _log_density(table: Tensor, kernels: Sequence[_Kernel], n: Tensor) -> Tensor:
    r"""Return the mean log density of samples ``(R, 1)``, up to (d/2) log 2π, with and without
    their own kernel.
    """
    seen = kernels[0].matrix @ table
    own, narrow, wide = kernels[0].self, kernels[0].variance, kernels[0].own
    for kernel in kernels[1:]:
        seen = seen @ kernel.matrix
        own, narrow, wide = own * kernel.self, narrow * kernel.variance, wide * kernel.own
    others = (seen - own).clamp_min(ALONE)
    logs = others.log() + (others + (narrow / wide).sqrt()).log()
    for axis in range(len(kernels)):
        logs = _sharpened(logs.mT).mT if axis == 0 else _sharpened(logs)
    constant = (n - 1).clamp_min(1).log() + n.log() + narrow.log()
    return ((table * logs).sum((1, 2)).unsqueeze(1) / n.squeeze(2) - constant.squeeze(2)) / 2


def _sharpened(values: Tensor) -> Tensor:
    """Take off a twelfth of the second differences along the last dimension."""
    return values - pad(values[..., 2:] - 2 * values[..., 1:-1] + values[..., :-2], (1, 1)) / 12


def _entropy(density: Tensor) -> Tensor:
    p = density / density.sum((1, 2), keepdim=True)
    return -(p * torch.where(p > 0, p, 1).log()).sum((1, 2)).unsqueeze(1)


def _moments(
    u: Tensor, v: Tensor, weights: Tensor | None, reduce: Reduce
) -> tuple[_Moments, Tensor]:
    """Return the moments, and the factor that makes the weights' sum the effective number of
    samples.
    """
    w = torch.ones_like(u[:, :1]) if weights is None else weights.double()
    if weights is None:
        sums = torch.cat([torch.full_like(w, u.shape[1])] * 2 + [_sum(u), _sum(v)], 1)
    else:
        sums = torch.cat([_sum(w), _sum(w * w), _sum(w * u), _sum(w * v)], 1)
    total, squares, first_x, first_y = reduce.sum(sums).unsqueeze(2).unbind(1)
    du, dv = u - first_x / total, v - first_y / total
    second = torch.cat([_sum(w * du * du), _sum(w * dv * dv), _sum(w * du * dv)], 1)
    scale = total / squares
    n = total * scale
    xx, yy, xy = (reduce.sum(second) * scale / (n - 1).clamp_min(0.5)).unsqueeze(2).unbind(1)
    constant = (xx <= 0) | (yy <= 0)
    x, y = torch.where(xx > 0, xx, 1).sqrt(), torch.where(yy > 0, yy, 1).sqrt()
    return _Moments(n, x, y, (xy / (x * y)).clamp(-1, 1), constant), scale


def _sum(values: Tensor) -> Tensor:
    return values.sum(1, keepdim=True)


def _bandwidths(
    bandwidth: Any, m: _Moments, axes: tuple[Axis, Axis]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the deviations of the pair's kernel and of the marginals', in units of the data's
    range.
    """
    if isinstance(bandwidth, str):
        pair, alone = m.n ** (-1 / 6), RULES[bandwidth] * m.n ** (-1 / 5)
        return pair * m.x, pair * m.y, alone * m.x, alone * m.y
    given = bandwidth if isinstance(bandwidth, tuple) else (bandwidth, bandwidth)
    widths = []
    for h, axis in zip(given, axes, strict=True):
        unit = axis.width if axis.scale is None else axis.width / axis.scale
        widths.append((float(h) / unit).clamp(2.0**-200, 2.0**200))
    return widths[0], widths[1], widths[0], widths[1]


def _ends(z: Tensor, weights: Tensor | None, reduce: Reduce) -> tuple[Tensor, Tensor]:
    low = z if weights is None else z.masked_fill(~(weights > 0), torch.inf)
    high = z if weights is None else z.masked_fill(~(weights > 0), -torch.inf)
    ends = reduce.max(torch.cat([-low.amin(1, keepdim=True), high.amax(1, keepdim=True)], 1))
    lo, hi = ends[:, :1], ends[:, 1:]
    return -lo, hi


def _spanning(ends: tuple[Tensor, Tensor], size: int) -> _Grid:
    """Return the grid whose first and last points are the ends."""
    lo, hi = ends
    # The grid is a little wider, so that rounding does not decide on which side of a grid line,
    # with which gradient, the ends lie.
    step = torch.where(hi > lo, hi - lo, 1) / (size - 1 - SLACK)
    return _Grid(
        Axis(lo - step * (0.5 + SLACK / 2), step * size, torch.full_like(step, size)),
        step.unsqueeze(2),
        size,
    )


def _covering(lo: Tensor, hi: Tensor, h: Tensor, size: int) -> _Grid:
    """Return the grid of the centres of equal cells over the data, with room for the kernels."""
    # A constant far from 0 would not see the room.
    room = MARGIN * torch.maximum(h, 2.0**-40 * torch.maximum(lo.abs(), hi.abs()))
    lo, hi = lo - room, hi + room
    return _Grid(
        Axis(lo, hi - lo, torch.full_like(lo, size)), ((hi - lo) / size).unsqueeze(2), size
    )
