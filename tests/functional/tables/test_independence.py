import math

import numpy as np
import pytest
import torch
from scipy import stats

from mi_metrics import BinnedConditionalMutualInformation, BinnedMutualInformation
from mi_metrics.functional import independence_p_value
from mi_metrics.functional.tables.independence import follows_law, number_to_test


def table_of(x, y, *, law=True, **options):
    """Return the table that a metric tests."""
    metric = BinnedMutualInformation(**options)
    metric.update(torch.as_tensor(x), torch.as_tensor(y))
    return metric._tables_to_test(law=law)[0]


def p_value(x, y):
    """Return the p-value of the G-test where its law holds."""
    table = table_of(x, y, resolution=1024)
    return independence_p_value(table[0]).item() if follows_law(table) else None


def contingency(x, y):
    """Count pairs of distinct values."""
    table = np.zeros((len(np.unique(x)), len(np.unique(y))), int)
    np.add.at(
        table, (np.unique(x, return_inverse=True)[1], np.unique(y, return_inverse=True)[1]), 1
    )
    return table


def g_test(x, y, groups):
    """Return the p-value of SciPy's G-test on groups of ranks, equal values having their mean
    rank.
    """
    codes = [np.floor(groups * (stats.rankdata(v) - 0.5) / len(v) + 1e-9) for v in (x, y)]
    table = contingency(*codes)
    return stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").pvalue


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize(
    ("n", "bins"), [(1, 3), (67, 3), (160, 4), (1000, 7), (2500, 10), (10**9, 256)]
)
def test_number_is_the_cube_root_of_two_fifths_of_the_samples(n, bins):
    assert number_to_test(n) == bins


class TestLaw:
    def test_p_value_is_scipys_of_groups_of_ranks(self):
        x, noise = normal(2, 1000)
        x, y = x.round(1), (0.1 * x + noise).round(1)
        assert p_value(x, y) == pytest.approx(g_test(x, y, 7), rel=1e-9)

    def test_rare_values_are_met_with_fewer_bins(self):
        x, y = (np.arange(1000) % 50 == 0).astype(float), normal(1000)
        # 20 samples in 4 bins are 5 each; permutations need no such number.
        assert table_of(x, y, resolution=1024).shape == (1, 2, 4)
        assert table_of(x, y, law=False).shape == (1, 2, 7)
        assert p_value(x, y) == pytest.approx(g_test(x, y, 4), rel=1e-9)

    def test_counts_with_rare_values_share_bins(self):
        x = np.random.default_rng(0).poisson(4, 1000)
        y = normal(1000)
        assert table_of(x, y, law=False).shape == (1, len(np.unique(x)), 7)
        table = table_of(x, y)
        assert follows_law(table)
        assert 3 <= table.shape[1] <= 7

    @pytest.mark.parametrize(
        ("x", "y"),
        [
            (np.arange(1000.0) == 7, normal(1000)),
            (normal(44), normal(44)),
            (np.arange(9) % 3, np.arange(9) // 3),
        ],
    )
    def test_is_not_met_where_fewer_than_five_samples_are_expected_in_a_cell(self, x, y):
        assert p_value(x.astype(float), y.astype(float)) is None

    def test_p_value_of_a_constant_is_one(self):
        assert p_value(np.full(100, 3.0), normal(100)) == 1

    def test_no_samples_break_no_law(self):
        assert follows_law(torch.zeros(2, 3, 3, dtype=torch.int64))

    @pytest.mark.campaign
    # What 20,000 random tables of equal margins have: the law of G is not quite met.
    @pytest.mark.parametrize(("n", "level"), [(45, 0.064), (100, 0.055), (1000, 0.055)])
    def test_keeps_the_level(self, n, level):
        draws = 600
        x, y = np.random.default_rng(0).standard_normal((2, draws, n))
        rejected = sum(p_value(np.exp(a), b) < 0.05 for a, b in zip(x, y, strict=True)) / draws
        # Three standard deviations of a proportion.
        assert rejected == pytest.approx(level, abs=0.03)


def test_values_that_are_asked_for_have_a_bin_each():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 30, 3000), normal(3000)
    table = table_of(x.astype(float), y, binning=("values", "auto"))[0]
    assert table.sum(1).tolist() == np.bincount(x).tolist()
    assert follows_law(table.unsqueeze(0))


@pytest.mark.parametrize("options", [{}, {"binning": "uniform"}, {"value_range": (-1e4, 1e6)}])
def test_bins_of_equal_width_are_no_part_of_a_test(options):
    """All but a few lognormal samples would lie in one of them."""
    x = np.exp(3 * normal(1000))
    table = table_of(x, x[::-1].copy(), resolution=1024, **options)[0]
    if not options.get("value_range"):
        assert table.sum(1).tolist() == pytest.approx([1000 / 7] * 7, abs=40)
    assert independence_p_value(table_of(x, x, resolution=1024, **options)[0]) < 1e-9


def test_each_condition_has_to_follow_the_law():
    x, y = (torch.as_tensor(v) for v in normal(2, 1000))
    z = (torch.arange(1000) % 5 == 0).long()
    metric = BinnedConditionalMutualInformation(num_conditions=2)
    metric.update(x, y, z)
    tables = metric._tables_to_test(law=True)[0]
    # (0.4 · 800)^(1/3) and (0.4 · 200)^(1/3) bins of its own for each condition.
    assert tables.shape == (2, 6, 6)
    assert [int((table.sum(1) > 0).sum()) for table in tables] == [6, 4]
    assert follows_law(tables)
    assert math.isfinite(metric.p_value(method="g"))
