r"""Mutual information from kernel density estimates.

The densities of the pair and of each variable are sums of Gaussian kernels at the samples, and the
information is the mean of their log ratio at the samples themselves (resubstitution):

.. math::
    I = \frac1N \sum_i \log \frac{\hat f(x_i, y_i)}{\hat f(x_i) \, \hat f(y_i)}, \qquad
    \hat f(z) = \frac1N \sum_j K_H(z - z_j).

The kernel of the pair has the full sample covariance, :math:`H = N^{-1/3} S`: a product kernel as
wide as the data would blur a strong dependence away. Each sample sees its own kernel, which makes
every density too large; without it (leave-one-out) they are too small. The two errors of I nearly
cancel, so their mean is returned.

**Not N² kernels.** Samples are counted in a fine table, and kernels are summed between the occupied
cells. A sample stands for its cell's centre, which adds the variance :math:`\delta^2/12` of a
uniform law to the kernel; Sheppard's correction takes it off again. With :math:`y' = y - (H_{xy} /
H_{xx}) x` the kernel is a product, :math:`K_H(x, y) = K(x) K(y')`, so a table of :math:`(x, y')`
needs two matrix products and no more.

A table that was counted before the covariance is known (the state of a metric) cannot be sheared.
There the kernel is summed in Fourier space along y, where the shear is a phase: for each frequency,
one product over x. Frequencies above the kernel's own need not be visited, and empty stretches of y
longer than the kernel are cut out.

When to use: continuous variables, smooth densities, samples from a hundred to millions. When not:
far outliers or heavy tails (the covariance follows them; a warning says so), discrete values, many
variables.

References:
    Y.-I. Moon, B. Rajagopalan, U. Lall, "Estimation of mutual information using kernel density
    estimators" (1995), doi:10.1103/PhysRevE.52.2318. B. W. Silverman, "Density Estimation for
    Statistics and Data Analysis" (1986), doi:10.1201/9781315140919. W. F. Sheppard, "On the
    calculation of the most probable values of frequency-constants" (1897),
    doi:10.1112/plms/s1-29.1.353.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.cautions import caution
from mi_metrics.functional.densities.counted import display_grids, smoothed_display
from mi_metrics.functional.densities.gaussian import (
    CENTRE,
    CHUNK,
    FEW,
    NOTHING,
    OUTLIERS,
    RESOLVED,
    SINGULAR,
    CountedAxis,
    CountedTable,
    Display,
    Estimate,
    Moments,
    Ranges,
    Values,
    check_kde_options,
    gauss,
    kernel_of,
    marginal_density,
    mean_log_density,
    normalized_information,
    power_of_two,
    sheppard,
    too_wide,
    warn_about,
)
from mi_metrics.functional.options import (
    Bandwidth,
    Interval,
    Normalization,
    Unit,
    ValueRange,
    from_nats,
    hints_keywords,
)
from mi_metrics.functional.tables.axis import parse_value_range
from mi_metrics.functional.tensors import paired_rows


@hints_keywords
def kde_mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    bandwidth: Bandwidth = "silverman",
    grid_size: int = 256,
    value_range: ValueRange = None,
    normalization: Normalization = "none",
    unit: Unit = "nats",
) -> Tensor:
    r"""Compute the mutual information of paired samples from kernel density estimates, in nats or
    bits.

    .. math::
        I = \frac{I_{in} + I_{out}}{2}, \qquad
        I_{in} = \frac1N \sum_i \log \frac{\hat f(x_i, y_i)}{\hat f(x_i) \, \hat f(y_i)}, \qquad
        \hat f(z) = \frac1N \sum_j K_H(z - z_j)

    with K Gaussian, and :math:`I_{out}` the same with :math:`j \neq i` and N - 1 (leave-one-out).
    With S the sample covariance and σ a variable's standard deviation:

    ===============  =================================  ==================================
    ``bandwidth``    kernel of the pair, covariance     kernel of a variable, deviation
    ===============  =================================  ==================================
    ``"silverman"``  :math:`N^{-1/3} S`                 :math:`1.06 \, \sigma N^{-1/5}`
    ``"scott"``      :math:`N^{-1/3} S`                 :math:`\sigma N^{-1/5}`
    h, or (hx, hy)   hx², hy², the correlation of S     hx, hy
    ===============  =================================  ==================================

    Conventions:
        Sign and range: not clamped; about half of the estimates of independent variables are
        negative. A perfect linear dependence, whose information is infinite, gives about 15 nats: 1
        - r² is taken to be at least 2**-40. Normalised forms are ratios of the entropies of
        :func:`kde_joint` and its own marginals, so they depend on ``grid_size`` (and on the room
        around the data), and I in them is that table's, not the value above.
        Constant input, a single sample: exactly 0 (``"studholme"``: 1).
        Ties: allowed, but a density supposes continuous variables; prefer bins for labels and other
        few values.
        Bias: the two means err in opposite directions. On correlated Gaussians of 100 to 4900
        samples and 0 to 2 nats the mean error is .011 nats, at most .04 (at N = 100).
        Outliers: the covariance follows them. If N^(-1/6) σ is wider than a variable's
        interquartile range, a UserWarning says so and names what to do. A given ``bandwidth``
        ignores far samples on one axis, but the correlation does not ignore those on both; a
        ``value_range`` cures both.
        Discretisation: kernels are summed between the cells of a table, to within 5e-4 nats of the
        sums over all pairs of samples (N ≥ 1000, ``grid_size=256``). A kernel narrower than three
        quarters of a cell is taken that wide, with a UserWarning below half a cell. Swapping x and
        y changes the value by as little; shifts and scales of the axes do not matter.
        Gradient: none; :class:`KDEMutualInformationLoss` has one.
        Memory: a few tables of ``grid_size`` squared and a bounded chunk, for one pair at a time.
        Time: linear in N.
        Exact under splits and ranks: no, the kernel depends on all samples
        (:class:`KDEMutualInformation` is). The order of the samples does not matter, to the last
        bit.

    Args:
        x: Samples of any real dtype, shape ``(..., N)``.
        y: Samples paired with ``x`` by position, shape ``(..., N)``.
        bandwidth: A rule of the table, or the kernel's standard deviation in the units of the data:
            one positive number for both axes or ``(h_x, h_y)``.
        grid_size: Cells per axis of the table, at least 2.
        value_range: ``None``, ``(lo, hi)`` for both axes, or ``((x_lo, x_hi), (y_lo, y_hi))``.
            Samples outside are moved to its ends first.
        normalization: ``"none"``, ``"arithmetic"``, ``"geometric"``, ``"min"``, ``"max"``,
            ``"joint"`` or ``"studholme"``.
        unit: ``"nats"`` or ``"bits"``. A normalised form has no unit.

    Returns:
        float64 of shape ``(...)``.

    Raises:
        TypeError: If x or y is not a real tensor, or ``grid_size`` not an int.
        ValueError: If shapes or devices differ, there is no sample, a sample is NaN or infinite,
            ``bandwidth`` is not a rule or one or two positive numbers, or another option is unknown
            or out of its range.

    Example:
        >>> import torch
        >>> from mi_metrics.functional.kde import kde_mutual_information
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(10_000, generator=generator)
        >>> y = 0.6 * x + 0.8 * torch.randn(10_000, generator=generator)  # truth: 0.2231 nats
        >>> print(f"{kde_mutual_information(x, y):.4f}")
        0.2327

    References:
        Y.-I. Moon, B. Rajagopalan, U. Lall, "Estimation of mutual information using kernel density
        estimators" (1995), doi:10.1103/PhysRevE.52.2318. B. W. Silverman, "Density Estimation for
        Statistics and Data Analysis" (1986), doi:10.1201/9781315140919.
    """
    check_kde_options(bandwidth, grid_size, value_range, normalization, unit)
    estimate = kde_from_samples(x, y, bandwidth, grid_size, value_range, normalization)
    warn_about(estimate)
    return from_nats(estimate.value, unit) if normalization == "none" else estimate.value


@hints_keywords
def kde_joint(
    x: Tensor,
    y: Tensor,
    *,
    bandwidth: Bandwidth = "silverman",
    grid_size: int = 256,
    value_range: ValueRange = None,
) -> Tensor:
    r"""Compute the joint probability table of a kernel density estimate (dimensionless, sums to 1).

    .. math::
        p_{ab} = \frac1N \sum_i \frac{K_H(c_{ab} - z_i)}{\sum_{a'b'} K_H(c_{a'b'} - z_i)}

    with :math:`c_{ab}` the centres of G × G cells and H the pair's kernel of
    :func:`kde_mutual_information`.

    Conventions:
        Axis order: the rows are the cells of x, the columns those of y.
        Range: probabilities, ≥ 0. With ``value_range=None`` the cells extend 4 kernel widths past
        the data on all sides; a given range is covered exactly, and samples outside of it are moved
        to its ends. Either way a sample whose kernel reaches past the cells has its mass within
        them: nothing is lost at the ends.
        Resolution: samples are counted in the same cells first, with Sheppard's correction, and
        along each principal axis the kernel is at least half a cell wide, without a warning.
        Constant input: a narrow bump across one axis.
        Outliers: as :func:`kde_mutual_information`, with its warning.
        Ties: allowed. Bias: the density is smoother than the truth.
        Gradient: none. Memory: a few tables of ``grid_size`` squared and a bounded chunk, for one
        pair at a time.
        Exact under splits and ranks: no; the order of the samples does not matter, to the last bit.

    Args:
        x: Samples of any real dtype, shape ``(..., N)``.
        y: Samples paired with ``x`` by position, shape ``(..., N)``.
        bandwidth: As in :func:`kde_mutual_information`, and so are all that follow.
        grid_size: Cells G per axis, at least 2.
        value_range: ``None``, ``(lo, hi)`` or ``((x_lo, x_hi), (y_lo, y_hi))``.

    Returns:
        float64 of shape ``(..., G, G)``; each table sums to 1.

    Raises:
        TypeError: As :func:`kde_mutual_information`.
        ValueError: As :func:`kde_mutual_information`.

    Example:
        >>> import torch
        >>> from mi_metrics.functional.kde import kde_joint
        >>> x, y = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0])
        >>> joint = kde_joint(x, y, bandwidth=0.25, grid_size=2, value_range=(0, 1))
        >>> [[round(p, 4) for p in row] for row in joint.tolist()]
        [[0.2317, 0.2771], [0.1029, 0.3884]]

    References:
        Y.-I. Moon, B. Rajagopalan, U. Lall, "Estimation of mutual information using kernel density
        estimators" (1995), doi:10.1103/PhysRevE.52.2318.
    """
    check_kde_options(bandwidth, grid_size, value_range)
    displays = [
        _display_samples(pair, bandwidth, grid_size)[0] for pair in _pairs(x, y, value_range)
    ]
    if any(d.outliers for d in displays):
        caution("wide kernel", OUTLIERS)
    return torch.stack([d.joint for d in displays]).reshape(*x.shape[:-1], grid_size, grid_size)


def kde_from_samples(
    x: Tensor, y: Tensor, bandwidth: Any, grid_size: int, value_range: Any, normalization: str
) -> Estimate:
    """Compute :func:`kde_mutual_information` in nats, without its warnings and the check of its
    options.
    """
    results = []
    for pair in _pairs(x, y, value_range):
        if normalization == "none":
            results.append(_resubstitution(pair, bandwidth, grid_size))
        else:
            display, constant = _display_samples(pair, bandwidth, grid_size)
            results.append(
                (
                    normalized_information(display.joint, constant, normalization),
                    display.outliers,
                    False,
                )
            )
    value, outliers, coarse = zip(*results, strict=True)
    dtypes = (torch.float64, torch.bool, torch.bool)
    return Estimate(
        *(
            torch.tensor(v, dtype=d, device=x.device).reshape(x.shape[:-1])
            for v, d in zip((value, outliers, coarse), dtypes, strict=True)
        )
    )


class _Pair(NamedTuple):
    """Samples ``(N,)`` as they came, their range, their extremes and the powers of two that take
    these off the ends.
    """

    x: Tensor
    y: Tensor
    ranges: Ranges
    x_ends: Interval
    y_ends: Interval
    scales: tuple[float, float]

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the scaled samples in float64, in pieces that stay in a core's cache."""
        size = _chunk(self.x.device)
        for x, y in zip(torch.split(self.x, size), torch.split(self.y, size), strict=True):
            yield self._scaled(x, 0), self._scaled(y, 1)

    def _scaled(self, v: Tensor, axis: int) -> Tensor:
        v = v.double()
        if self.ranges is not None:
            v = v.clamp(*self.ranges[axis])
        return v if self.scales[axis] == 1 else v * self.scales[axis]


def _pairs(x: Any, y: Any, value_range: Any) -> Iterator[_Pair]:
    rows = paired_rows(*(v.detach() if isinstance(v, Tensor) else v for v in (x, y)))
    ranges = parse_value_range(value_range)
    for pair in zip(rows.x, rows.y, strict=True):
        ends, scales = [], []
        for axis, v in enumerate(pair):
            lo, hi = (float(e) for e in torch.aminmax(v))
            if ranges is not None:
                lo, hi = (min(max(e, ranges[axis][0]), ranges[axis][1]) for e in (lo, hi))
            scales.append(power_of_two(max(abs(lo), abs(hi))))
            ends.append((lo * scales[axis], hi * scales[axis]))
        yield _Pair(pair[0], pair[1], ranges, ends[0], ends[1], (scales[0], scales[1]))


def _chunk(device: torch.device) -> int:
    return CHUNK["cpu" if device.type == "cpu" else "other"]


class _Sums:
    """Second moments of variables, the same to the last bit in any order of the samples.

    Samples are rounded to so few bits that their sums and sums of products are whole numbers below
    2**53: no addition rounds. A million samples are rounded to 2**-16 of half their range, and a
    sum of them less than each.
    """

    def __init__(self, n: int, *ends: Interval) -> None:
        self.n = n
        bits = (52 - math.ceil(math.log2(n))) // 2
        self.middle = [lo + (hi - lo) / 2 for lo, hi in ends]
        self.unit = [(hi - lo) / 2 / 2**bits if hi - lo > NOTHING else 1.0 for lo, hi in ends]
        self.first = [0.0] * len(ends)
        self.second = {(i, j): 0.0 for i in range(len(ends)) for j in range(i + 1)}

    def add(self, *values: Tensor) -> None:
        whole = [
            (v - m).mul_(1 / u).round_()
            for v, m, u in zip(values, self.middle, self.unit, strict=True)
        ]
        for i, q in enumerate(whole):
            self.first[i] += float(q.sum())
        for i, j in self.second:
            self.second[i, j] += float(whole[i] @ whole[j])

    def covariance(self, i: int, j: int) -> float:
        """Return the unbiased sample covariance of two of the variables."""
        centred = self.second[i, j] - self.first[i] * self.first[j] / self.n
        return centred / max(self.n - 1, 1) * self.unit[i] * self.unit[j]


def _sheared(x: Tensor, y: Tensor, slope: float) -> Tensor:
    # Two roundings, not the one of a fused operation, which would depend on a sample's place in the
    # vector.
    return torch.mul(x, -slope).add_(y)


def _sheared_ends(pair: _Pair, slope: float) -> Interval:
    ends = [torch.aminmax(_sheared(x, y, slope)) for x, y in pair.chunks()]
    return min(float(e.min) for e in ends), max(float(e.max) for e in ends)


def _sample_moments(pair: _Pair) -> tuple[Moments, float, Interval]:
    """Return also the slope of y over x, and the extremes of the residuals."""
    n = pair.x.shape[0]
    sums = _Sums(n, pair.x_ends, pair.y_ends)
    for x, y in pair.chunks():
        sums.add(x, y)
    vx, vy, vxy = sums.covariance(0, 0), sums.covariance(1, 1), sums.covariance(1, 0)
    vx, vy = (v if ends[1] > ends[0] else 0.0 for v, ends in ((vx, pair.x_ends), (vy, pair.y_ends)))
    if not (vx > 0 and vy > 0):
        return Moments(float(n), vx, vy, 0.0, 1.0), 0.0, pair.y_ends
    slope = vxy / vx
    ends = _sheared_ends(pair, slope)
    unexplained = 1 - slope * (vxy / vy)
    # 1 - r² of nearly equal variables is a difference of nearly equal numbers; the residuals' own
    # variance is not.
    if unexplained < 2.0**-10:
        residuals = _Sums(n, ends)
        for x, y in pair.chunks():
            residuals.add(_sheared(x, y, slope))
        unexplained = max(residuals.covariance(0, 0) / vy, SINGULAR)
    return (
        Moments(float(n), vx, vy, math.copysign(math.sqrt(1 - unexplained), vxy), unexplained),
        slope,
        ends,
    )


class _Counter:
    """Cells of one axis, and where its samples lie in them.

    The range is divided in equal cells, or, where these would be wider than the kernel, only its
    occupied parts are.
    """

    def __init__(
        self, ends: Interval, h: float, size: int, n: int, device: torch.device, values: Values
    ) -> None:
        self.size = size
        # The last sample belongs to the last cell.
        self.origin, self.width = ends[0], (ends[1] - ends[0]) / size * (1 + 2.0**-40)
        if self.width < NOTHING:
            self.width = 0.0
        self.numbers = torch.arange(size, dtype=torch.float64, device=device)
        self.gaps = self.width > h and self._occupied(h / 2, values)
        self.n = torch.zeros(size, dtype=torch.int64, device=device)
        self.place = torch.zeros(size, dtype=torch.int64, device=device) if n <= FEW else None
        self.one = torch.ones(min(n, _chunk(device)), dtype=torch.int64, device=device)

    def _occupied(self, start: float, values: Values) -> bool:
        fine = (torch.cat(list(values())) / start).floor_().sort().values

        def cells(level: int) -> Tensor:
            numbers = (fine * 2.0**-level).floor()
            return numbers[
                torch.cat([numbers.new_ones(1, dtype=torch.bool), numbers[1:] != numbers[:-1]])
            ]

        low, high = 0, 512
        while low < high:
            level = (low + high) // 2
            low, high = (low, level) if cells(level).numel() <= self.size else (level + 1, high)
        if start * 2.0**low >= self.width:
            return False
        self.origin, self.width, self.numbers = 0.0, start * 2.0**low, cells(low)
        self.start, self.shrink = start, 2.0**-low
        return True

    def index(self, v: Tensor) -> Tensor:
        """Return the cells of samples as whole numbers in float64."""
        if self.gaps:
            # As the cells were found, to the last bit: a sample must lie in one of them.
            t = (v / self.start).mul_(self.shrink)
        else:
            t = (v - self.origin).mul_(1 / self.width if self.width > 0 else 0.0)
        number = t.floor() if self.place is not None else t.floor_()
        cell = torch.searchsorted(self.numbers, number).double() if self.gaps else number
        if self.place is not None:
            self.place.scatter_add_(0, cell.long(), (t - number).mul_(2.0**20).long())
        return cell

    def count(self, counts: Tensor, cell: Tensor) -> None:
        """Add samples to their cells."""
        counts.scatter_add_(0, cell.long(), self.one[: cell.numel()])

    def axis(self, n: Tensor) -> CountedAxis:
        """Return the cells with their counts ``(size,)``; a cell of few samples stands at their
        mean.
        """
        within = (
            0.5
            if self.place is None
            else torch.where(n > 0, self.place.double() / 2.0**20 / n.clamp_min(1), 0.5)
        )
        numbers = torch.nn.functional.pad(self.numbers, (0, self.size - self.numbers.numel()))
        return CountedAxis((numbers + within) * self.width + self.origin, self.width, n.double())


def _resubstitution(pair: _Pair, bandwidth: Any, size: int) -> tuple[float, bool, bool]:
    moments, slope, ends = _sample_moments(pair)
    kernel = kernel_of(moments, bandwidth, pair.scales)
    if not isinstance(bandwidth, str):
        slope = kernel.slope
        ends = _sheared_ends(pair, slope)
    n, device = pair.x.shape[0], pair.x.device
    x = _Counter(
        pair.x_ends,
        min(kernel.x, kernel.x_alone),
        size,
        n,
        device,
        lambda: (u for u, _ in pair.chunks()),
    )
    y = _Counter(
        pair.y_ends, kernel.y_alone, size, n, device, lambda: (v for _, v in pair.chunks())
    )
    z = _Counter(
        ends,
        kernel.residual,
        size,
        n,
        device,
        lambda: (_sheared(u, v, slope) for u, v in pair.chunks()),
    )
    counts = torch.zeros(size * size, dtype=torch.int64, device=device)
    for u, v in pair.chunks():
        z.count(counts, x.index(u).mul_(size).add_(z.index(_sheared(u, v, slope))))
        y.count(y.n, y.index(v))
    counts = counts.view(size, size)
    x_axis, y_axis, z_axis = x.axis(counts.sum(1)), y.axis(y.n), z.axis(counts.sum(0))
    outliers = too_wide(moments, bandwidth, x_axis, y_axis)
    if moments.x == 0 or moments.y == 0:
        return 0.0, outliers, False
    variance_x, coarse_x = sheppard(kernel.x, x.width, x.width, RESOLVED)
    variance_z, coarse_z = sheppard(kernel.residual, z.width, z.width, RESOLVED)
    # Rows and columns without samples, many where N is small, are a part of neither sum.
    rows, columns = (counts.sum(d).nonzero().squeeze(1) for d in (1, 0))
    table = counts[rows][:, columns].double()
    a, b = x_axis.centres[rows], z_axis.centres[columns]
    others = gauss(a, a, variance_x) @ table @ gauss(b, b, variance_z)
    occupied = table.flatten().nonzero().squeeze(1)
    own = (variance_x + x.width**2 / 12) * (variance_z + z.width**2 / 12)
    joint = mean_log_density(
        table.take(occupied), others.take(occupied) - 1, variance_x * variance_z, own, n
    )
    alone_x, coarse_x_alone = marginal_density(x_axis, kernel.x_alone, n, CENTRE)
    alone_y, coarse_y_alone = marginal_density(y_axis, kernel.y_alone, n, CENTRE)
    return (
        joint - alone_x - alone_y,
        outliers,
        coarse_x or coarse_z or coarse_x_alone or coarse_y_alone,
    )


def _display_samples(pair: _Pair, bandwidth: Any, size: int) -> tuple[Display, bool]:
    """Count samples on the display's own cells and smooth them; return also whether a variable is
    constant.
    """
    moments, _, _ = _sample_moments(pair)
    kernel = kernel_of(moments, bandwidth, pair.scales)
    grids = display_grids(
        (pair.x_ends, pair.y_ends), kernel, pair.ranges, pair.scales, size, pair.x.device
    )
    counts = torch.zeros(size * size, dtype=torch.int64, device=pair.x.device)
    for values in pair.chunks():
        x, y = (
            ((v - g.centres[0]) / g.width).round_().long().clamp_(0, size - 1)
            for v, g in zip(values, grids, strict=True)
        )
        counts.scatter_add_(0, x.mul_(size).add_(y), torch.ones_like(x))
    n = counts.view(size, size).double()
    axes = [
        CountedAxis(g.centres, g.width, m) for g, m in zip(grids, (n.sum(1), n.sum(0)), strict=True)
    ]
    outliers = too_wide(moments, bandwidth, axes[0], axes[1])
    display = smoothed_display(
        CountedTable(n, axes[0], axes[1], pair.scales), kernel, grids, outliers
    )
    return display, moments.x == 0 or moments.y == 0
