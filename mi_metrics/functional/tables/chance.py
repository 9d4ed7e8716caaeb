r"""The mutual information that chance alone gives a table of fixed margins.

Over all tables with the row sums a and column sums b of N samples, each of its orders as likely as
the other, a cell is hypergeometric, and

.. math::
    E[I] = \sum_{ab} \sum_n \frac nN \log \frac{n N}{a b} \, P(n \mid a, b, N).

P follows from its ratios :math:`P(n) / P(n - 1) = (a - n + 1)(b - n + 1) / n (N - a - b + n)`,
normalised to a sum of 1: logarithms of factorials would cancel at large N. Only n within twelve
deviations of the mean count, and each distinct pair of margins once. Where these would be too many,
:math:`n \log n` is expanded around the mean μ, with central moments v, m₃ and about 3 v²:

.. math::
    E[n \log \frac{n}{\mu}] = \frac{v}{2 \mu} - \frac{m_3}{6 \mu^2} + \frac{v^2}{4 \mu^3}
    + O(\mu^{-2}).

References:
    N. X. Vinh, J. Epps, J. Bailey, "Information theoretic measures for clusterings comparison:
    variants, properties, normalization and correction for chance" (2010), JMLR 11, 2837-2854.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import xlogy
from torch import Tensor

# The window of n, in standard deviations and in counts.
DEVIATIONS, COUNTS = 12.0, 40
# Above this variance the expansion is right to 1e-11.
BROAD = 1e5


def expected_information(counts: Tensor) -> Tensor:
    """Return the expectation of the plug-in mutual information of tables with the margins of these.

    Args:
        counts: Whole counts ``(..., B_x, B_y)``.

    Returns:
        Nats, float64 of shape ``(...)``; 0 for a table without samples.
    """
    rows, columns = (
        counts.sum(dim).reshape(-1, counts.shape[other]).cpu().double().numpy()
        for dim, other in ((-1, -2), (-2, -1))
    )
    found = [_expected(a[a > 0], b[b > 0]) for a, b in zip(rows, columns, strict=True)]
    result = torch.tensor(found, dtype=torch.float64, device=counts.device)
    return result.reshape(counts.shape[:-2])


def _expected(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> float:
    """Return the expectation of one pair of margins, all above 0."""
    size = rows.sum()
    column, repeats = np.unique(columns, return_counts=True)
    total = 0.0
    for row, times in zip(*np.unique(rows, return_counts=True), strict=True):
        broad = _variance(row, column, size) > BROAD
        each = np.empty_like(column)
        if broad.any():
            each[broad] = _expanded(row, column[broad], size)
        if not broad.all():
            n, p = _hypergeometric(row, column[~broad], size)
            terms = xlogy(n / size, np.maximum(n, 1) * (size / row) / column[~broad][:, None])
            each[~broad] = (terms * p).sum(1)
        total += times * (repeats * each).sum()
    return float(total)


def _variance(row: float, column: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    return row * (column / size) * (1 - row / size) * (1 - column / size)


def _expanded(row: float, column: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    """Return what cells of large variance add to the expectation, by its expansion."""
    mean = row * (column / size)
    variance = _variance(row, column, size) * (size / (size - 1))
    third = variance * (1 - 2 * row / size) * (1 - 2 * column / size)
    series = variance / (2 * mean) - third / (6 * mean**2) + variance**2 / (4 * mean**3)
    result: NDArray[np.float64] = series / size
    return result


def _hypergeometric(
    row: float, column: NDArray[np.float64], size: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return numbers n in a cell of a row and of each column, ``(columns, window)``, and their
    probabilities.
    """
    mode = np.floor((row + 1) * (column + 1) / (size + 2))
    variance = _variance(row, column, size)
    reach = DEVIATIONS * np.sqrt(np.maximum(variance, 0)) + COUNTS
    low = np.maximum(np.maximum(0, row + column - size), np.floor(mode - reach))
    high = np.minimum(np.minimum(row, column), np.ceil(mode + reach))
    n = low[:, None] + np.arange(int((high - low).max()) + 1)
    valid, c = n <= high[:, None], column[:, None]
    n = np.minimum(n, high[:, None]).astype(np.float64)
    with np.errstate(all="ignore"):
        ratio = np.log((row - n + 1) * (c - n + 1) / (n * (size - row - c + n)))
    ratio[:, 0] = 0
    log_p = np.cumsum(np.where(valid, ratio, 0), 1)
    p = np.where(valid, np.exp(log_p - log_p.max(1, keepdims=True)), 0)
    return n, p / p.sum(1, keepdims=True)


def poisson_information(counts: Tensor) -> Tensor:
    """Return :func:`expected_information` of tables ``(R, B_x, B_y)`` with Poisson cells in place
    of hypergeometric ones: one pass, a little too large.
    """
    table = counts.double()
    a, b, n = table.sum(2, keepdim=True), table.sum(1, keepdim=True), table.sum((1, 2))
    mean = a * b / n.view(-1, 1, 1).clamp_min(1)
    log, grid = mean.clamp_min(1e-300).log().cpu().numpy(), np.linspace(-14, 5, 400)
    # E[n log n] = mean E[log(n + 1)], and that is smooth in the logarithm of the mean.
    k = np.arange(500)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    weights = np.exp(grid[:, None] * k - np.exp(grid)[:, None] - log_factorial)
    inside = np.interp(log, grid, weights @ np.log1p(k))
    expected = np.where(log > grid[-1], log + 0.5 * np.exp(-log), inside)
    cells = (mean * torch.from_numpy(expected).to(mean.device)).sum((1, 2))
    rows, columns = (torch.xlogy(m, m).sum((1, 2)) for m in (a, b))
    return (cells - rows - columns) / n.clamp_min(1) + n.clamp_min(1).log()
