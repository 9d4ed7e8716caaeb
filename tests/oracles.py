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


def number_of_bins(n, q, most):
    """Return Hacine-Gharbi and Ravier's number for a squared correlation q times 1 + 0.75 q."""
    b = min(math.sqrt((1 + math.sqrt(1 + 24 * n / max(1 - q, 1e-300))) / 2), 256)
    return min(min(max(round((1 + 0.75 * q) * round(b)), 2), 256), most)


def contingency(a, b):
    """Return the table of two lists of whole numbers from 0."""
    table = np.zeros((max(a) + 1, max(b) + 1), dtype=np.int64)
    np.add.at(table, (a, b), 1)
    return table


def mutual_information(table, correction="none"):
    hx, hy, hxy = information(table, correction)
    return hx + hy - hxy if min((table.sum(1) > 0).sum(), (table.sum(0) > 0).sum()) > 1 else 0.0


def automatic_bins(x, y, own=(False, False)):
    """Return rule A's number; a variable may keep a bin for each of its values."""
    n = len(x)
    top = min(256, max(2, n // 5))
    b = number_of_bins(n, 0, top)
    for again in (False, True):
        table = contingency(*(_codes(v, b, each) for v, each in zip((x, y), own, strict=True)))
        q = 1 - math.exp(-2 * max(mutual_information(table, "miller_madow"), 0))
        found = number_of_bins(n, q, top)
        if again and found <= b:
            break
        b = found
    return b


def automatic_table(x, y, normalized=False):
    """Return the table that a call without options reads, and its bias correction."""
    x, y, n = [float(v) for v in x], [float(v) for v in y], len(x)
    few = tuple(len(set(v)) <= 256 and 2 * len(set(v)) <= n for v in (x, y))
    if any(few):
        b = automatic_bins(x, y, few)
        each = contingency(*(_codes(v, b, own) for v, own in zip((x, y), few, strict=True)))
        value, alone = mutual_information(each), (each == 1).sum() / n
        k, kx, ky = ((each > 0).sum(), (each.sum(1) > 0).sum(), (each.sum(0) > 0).sum())
        sampled = (k - kx - ky + 1) / (2 * n) <= max(0.01, 0.1 * value) and alone <= 0.15
        sampled = sampled and told_by_single_samples(each) <= max(0.01, 0.6 * value)
        if all(few):
            q = 1 - math.exp(-2 * max(mutual_information(each, "miller_madow"), 0))
            sampled = sampled or normalized or kx * ky <= number_of_bins(n, q, 256) ** 2
        else:
            sampled = sampled or (kx if few[0] else ky) <= b
        if sampled:
            return each, "none" if all(few) or normalized else "miller_madow"
    b = automatic_bins(x, y)
    table = contingency(quantile_bins(x, b), quantile_bins(y, b))
    return table, "none" if normalized else "miller_madow"


def told_by_single_samples(table):
    """Return what the cells of one sample tell that are fuller than independence lets expect."""
    n = table.sum()
    logs = [math.log(n / (table[i].sum() * table[:, j].sum())) for i, j in np.argwhere(table == 1)]
    return sum(max(log, 0) for log in logs) / n


def _codes(values, bins, each):
    distinct = sorted(set(values))
    return [distinct.index(v) for v in values] if each else quantile_bins(values, bins)
