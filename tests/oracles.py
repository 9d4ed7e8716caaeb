"""Slow and obviously right: what the fast code is tested against."""

import math

import numpy as np
from scipy.interpolate import BSpline
from scipy.special import digamma


def hard_table(x, y, ranges, bins):
    """Count samples one at a time by the formula that defines the bins, in float64."""
    table = np.zeros(bins, dtype=np.int64)
    for sample in zip(np.asarray(x).tolist(), np.asarray(y).tolist(), strict=True):
        cell = []
        for value, (lo, hi), count in zip(sample, ranges, bins, strict=True):
            cell.append(min(max(math.floor((value - lo) * count / (hi - lo)), 0), count - 1))
        table[tuple(cell)] += 1
    return table


def soft_table(x, y, ranges, bins, order, weights=None):
    """Add up SciPy's B-splines of an order at every bin, far outside too, and fold the ends in."""
    spline = BSpline.basis_element(np.arange(order + 2) - (order + 1) / 2, extrapolate=False)
    kernels = []
    for values, (lo, hi), count in zip((x, y), ranges, bins, strict=True):
        u = (np.clip(values, lo, hi) - lo) * count / (hi - lo) - 0.5
        wide = np.nan_to_num(spline(u[:, None] - np.arange(-3, count + 3)[None, :]))
        kernel = wide[:, 3:-3].copy()
        kernel[:, 0] += wide[:, :3].sum(1)
        kernel[:, -1] += wide[:, -3:].sum(1)
        kernels.append(kernel)
    return np.einsum("n,na,nb->ab", np.ones(len(x)) if weights is None else weights, *kernels)


def entropy(counts, correction="none", effective=None):
    """Return the entropy of counts in nats, cell by cell."""
    counts = [c for c in np.asarray(counts, dtype=float).ravel().tolist() if c > 0]
    n = sum(counts)
    if correction == "grassberger":
        g = [digamma(c) + 0.5 * (-1) ** c * (digamma((c + 1) / 2) - digamma(c / 2)) for c in counts]
        return digamma(n) - sum(c * v for c, v in zip(counts, g, strict=True)) / n
    plug_in = -sum(c / n * math.log(c / n) for c in counts)
    return plug_in + (
        (len(counts) - 1) / (2 * (effective or n)) if correction == "miller_madow" else 0
    )


def information(table, correction="none", effective=None):
    """Return Hx, Hy, Hxy of a table, x in the rows."""
    table = np.asarray(table)
    return tuple(entropy(t, correction, effective) for t in (table.sum(1), table.sum(0), table))


def codes(table):
    """Return class labels with exactly these counts, for reference implementations that take
    labels.
    """
    a, b = np.nonzero(table)
    counts = np.asarray(table)[a, b]
    return np.repeat(a, counts), np.repeat(b, counts)


def quantile_bins(values, bins, counts=None):
    """Return the quantile bin of each value, by the rule of the module `quantiles`, in whole
    numbers.
    """
    values = [float(v) for v in values]
    counts = [1] * len(values) if counts is None else [int(c) for c in counts]
    number = {}
    for v, c in zip(values, counts, strict=True):
        number[v] = number.get(v, 0) + c
    distinct, n = sorted(v for v in number if number[v] > 0), sum(counts)
    if len(distinct) <= bins:
        return [distinct.index(v) if v in distinct else None for v in values]
    place, below, between = {}, 0, None
    for v in distinct:
        m = 2 * below + number[v]
        place[v], rest = divmod(m * bins, 2 * n)
        if rest == 0 and m > n:
            place[v] -= 1
        if rest == 0 and m == n:
            between = v
        below += number[v]
    if between is not None:
        low, high = (
            sum(number[v] for v in distinct if v != between and place[v] == b)
            for b in (bins // 2 - 1, bins // 2)
        )
        place[between] = bins // 2 - 1 if low <= high else bins // 2
    return [place.get(v) for v in values]
