"""Samples of R pairs as they are read for a kernel density: in pieces, scaled to sane units, with
moments that no order of the samples changes.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mi_metrics.functional.densities.gaussian import (
    NOTHING,
    SINGULAR,
    Moments,
    Ranges,
    power_of_two,
)
from mi_metrics.functional.tensors import chunk_size


class Samples:
    """Samples ``(R, N)`` as they came, their range, their extremes and the powers of two that take
    these off the ends.
    """

    def __init__(self, x: Tensor, y: Tensor, ranges: Ranges) -> None:
        self.pair, self.ranges = (x, y), ranges
        ends, scales = [], []
        for axis, v in enumerate(self.pair):
            lo, hi = (e.double() for e in (v.amin(1, keepdim=True), v.amax(1, keepdim=True)))
            if ranges is not None:
                lo, hi = lo.clamp(*ranges[axis]), hi.clamp(*ranges[axis])
            scales.append(power_of_two(torch.maximum(lo.abs(), hi.abs())))
            ends.append((lo * scales[axis], hi * scales[axis]))
        self.x_ends, self.y_ends = ends
        self.scales = scales[0], scales[1]
        self.n = x.shape[1]
        self.scaled = [bool((s != 1).any()) for s in scales]
        self.whole = next(self._pieces()) if self.n <= chunk_size("densities", x.device) else None

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the scaled samples in float64, in pieces that stay in a core's cache."""
        return self._pieces() if self.whole is None else iter([self.whole])

    def _pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        step = chunk_size("densities", self.pair[0].device)
        for x, y in zip(*(torch.split(v, step, 1) for v in self.pair), strict=True):
            yield self._scale(x, 0), self._scale(y, 1)

    def _scale(self, v: Tensor, axis: int) -> Tensor:
        v = v.double()
        if self.ranges is not None:
            v = v.clamp(*self.ranges[axis])
        return v * self.scales[axis] if self.scaled[axis] else v


def groups(x: Tensor, y: Tensor, size: int, ranges: Ranges) -> Iterator[Samples]:
    """Yield pairs in groups that stay in a core's cache."""
    samples, cells = chunk_size("densities", x.device), chunk_size("density tables", x.device)
    step = min(samples // x.shape[1], cells // size**2)
    for pair in zip(torch.split(x, max(step, 1)), torch.split(y, max(step, 1)), strict=True):
        yield Samples(*pair, ranges)


class _Sums:
    """Second moments of variables, the same to the last bit in any order of the samples.

    Samples are rounded to so few bits that their sums and sums of products are whole numbers below
    2**53: no addition rounds. A million samples are rounded to 2**-16 of half their range, and a
    sum of them less than each.
    """

    def __init__(self, n: int, *ends: tuple[Tensor, Tensor]) -> None:
        self.n = n
        lo, hi = (torch.cat(e, 1).unsqueeze(2) for e in zip(*ends, strict=True))
        self.first, self.second = torch.zeros_like(lo), torch.zeros_like(lo * lo.mT)
        bits = (52 - math.ceil(math.log2(n))) // 2
        self.middle = lo + (hi - lo) / 2
        self.unit = torch.where(hi - lo > NOTHING, (hi - lo) / 2 / 2**bits, 1.0)

    def add(self, *values: Tensor) -> None:
        whole = torch.stack(values, 1).sub_(self.middle).mul_(1 / self.unit).round_()
        self.first = self.first + whole.sum(2, keepdim=True)
        self.second = self.second + whole @ whole.mT

    def covariances(self) -> Tensor:
        """Return the unbiased sample covariances, a matrix for each pair."""
        centred = self.second - self.first * self.first.mT / self.n
        return centred / max(self.n - 1, 1) * self.unit * self.unit.mT


def sheared(x: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """Return what of y does not follow x along the slope ``(R, 1)``."""
    # Two roundings, not the one of a fused operation, which would depend on a sample's place in the
    # vector.
    return torch.mul(x, -slope).add_(y)


def sheared_ends(rows: Samples, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest of the sheared samples, each ``(R, 1)``."""
    ends = []
    for x, y in rows.chunks():
        z = sheared(x, y, slope)
        ends.append((z.amin(1), z.amax(1)))
    lo, hi = (torch.stack(e, 1) for e in zip(*ends, strict=True))
    return lo.amin(1, keepdim=True), hi.amax(1, keepdim=True)


def moments_of(rows: Samples) -> tuple[Moments, Tensor]:
    """Return also the slope of y over x."""
    sums = _Sums(rows.n, rows.x_ends, rows.y_ends)
    for x, y in rows.chunks():
        sums.add(x, y)
    covariances = sums.covariances()
    vx, vy = (
        torch.where(hi > lo, covariances[:, i : i + 1, i], 0.0)
        for i, (lo, hi) in enumerate((rows.x_ends, rows.y_ends))
    )
    vxy, varies = covariances[:, 1:, 0], (vx > 0) & (vy > 0)
    slope = torch.where(varies, vxy / vx, 0.0)
    unexplained = torch.where(varies, 1 - slope * (vxy / vy), 1.0)
    # 1 - r² of nearly equal variables is a difference of nearly equal numbers; the residuals' own
    # variance is not.
    close = unexplained < 2.0**-10
    if bool(close.any()):
        residuals = _Sums(rows.n, sheared_ends(rows, slope))
        for x, y in rows.chunks():
            residuals.add(sheared(x, y, slope))
        direct = (residuals.covariances()[:, 0] / vy).clamp_min(SINGULAR)
        unexplained = torch.where(close, direct, unexplained)
    r = torch.where(varies, torch.copysign((1 - unexplained).sqrt(), vxy), 0.0)
    return Moments(torch.full_like(vx, rows.n), vx, vy, r, unexplained), slope
