"""What chance alone gives tables of many samples, against sums over all numbers in a cell."""

import numpy as np
import pytest
import torch

from mi_metrics.functional import mutual_information
from mi_metrics.functional.tables import chance
from tests.cautions import ignore_cautions


def of_cell(row: int, column: int, size: int) -> float:
    """Return the sum over the numbers n in a cell that are at all likely.

    n log(n / μ) is summed less n - μ, which is 0 on average and would cancel.
    """
    mean = row * column / size
    variance = mean * (1 - row / size) * (1 - column / size)
    reach = 14 * variance**0.5 + 40
    low, high = max(0, row + column - size, int(mean - reach)), min(row, column, int(mean + reach))
    n = np.arange(low, high + 1, dtype=np.float64)
    ratio = np.log((row - n + 1) * (column - n + 1) / (n * (size - row - column + n)))
    ratio[0] = 0
    log_p = np.cumsum(ratio)
    p = np.exp(log_p - log_p.max())
    beyond = n * np.log1p((n - mean) / mean) - (n - mean)
    return float((p * beyond).sum() / p.sum() / size)


# Variances from 1,500 to 1.1e6, on both sides of the border.
@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ((10_000, 20_000), (5_000, 25_000)),
        ((2_000_000, 8_000_000), (3_000_000, 7_000_000)),
        ((9_000_000, 1_000_000), (8_900_000, 1_100_000)),
        ((9_000_000, 9_000_000), (9_000_000, 9_000_000)),
    ],
)
def test_expectation_is_the_sum_over_its_cells(rows, columns):
    size = sum(rows)
    counts = np.outer(rows, columns) // size
    counts[1, 1] += size - counts.sum()
    counts[0, 1] += rows[0] - counts[0].sum()
    counts[1, 0] += columns[0] - counts[:, 0].sum()
    counts[1, 1] = rows[1] - counts[1, 0]
    assert counts.sum(1).tolist() == list(rows)
    assert counts.sum(0).tolist() == list(columns)
    expected = sum(of_cell(a, b, size) for a in rows for b in columns)
    found = float(chance.expected_information(torch.from_numpy(counts)))
    # Summed directly, the terms below the border still cancel.
    assert found == pytest.approx(expected, rel=1e-7)
    broad = [of_cell(a, b, size) for a in rows for b in columns]
    expanded = [chance._expanded(a, np.array([float(b)]), size)[0] for a in rows for b in columns]
    if size > 1e6:
        assert expanded == pytest.approx(broad, rel=1e-9)


@ignore_cautions
@pytest.mark.parametrize("size", [10**9, 10**12, 10**15])
def test_adjusted_information_of_any_number_of_samples_ends(size):
    # A window of n would hold up to 10**9 numbers for each of 120 cells.
    counts = torch.full((40, 3), size // 120)
    counts[0, 0] += 1
    value = float(mutual_information(counts, normalization="adjusted"))
    expected = float(chance.expected_information(counts))
    # (39 · 2) / 2 N, the leading term.
    assert expected == pytest.approx(39 / size, rel=1e-6)
    assert abs(value) < 1e-6


def test_a_single_sample_is_expected_to_tell_nothing():
    assert chance.expected_information(torch.ones(1, 1, dtype=torch.int64)) == 0
