import numpy as np
import pytest
import torch
from scipy import stats

from mi_metrics import BinnedMutualInformation
from mi_metrics.commands.estimate_counts import thin_table
from mi_metrics.functional import independence_p_value
from mi_metrics.states import grid

DOSES = np.array([0, 1, 10, 100, 1000.0])


def metric_of(x, y, **options):
    metric = BinnedMutualInformation("auto", **options)
    metric.update(torch.as_tensor(x), torch.as_tensor(y))
    return metric


def cells_of(x, y):
    return grid.view(metric_of(x, y).table)


def p_value(cells):
    """Return the p-value of the G-test where its law holds."""
    counts, holds = thin_table(cells)
    return independence_p_value(counts).item() if holds else None


def contingency(x, y):
    """Count pairs of distinct values."""
    table = np.zeros((len(np.unique(x)), len(np.unique(y))), int)
    np.add.at(
        table, (np.unique(x, return_inverse=True)[1], np.unique(y, return_inverse=True)[1]), 1
    )
    return torch.from_numpy(table)


def g_test(x, y, groups):
    """Return the p-value of SciPy's G-test on groups of ranks, equal values having their mean
    rank.
    """
    codes = [np.floor(groups * (stats.rankdata(v) - 0.5) / len(v) + 1e-9) for v in (x, y)]
    table = contingency(*codes)
    return stats.chi2_contingency(table.numpy(), correction=False, lambda_="log-likelihood").pvalue


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


class TestPValue:
    def test_is_scipys_of_groups_of_ranks(self):
        # 0.4 * 1000 = 7.37 ** 3
        x, noise = normal(2, 1000)
        x, y = x.round(1), (0.1 * x + noise).round(1)
        assert p_value(cells_of(x, y)) == pytest.approx(g_test(x, y, 7), rel=1e-9)

    def test_rare_values_are_met_with_fewer_groups(self):
        x, y = (np.arange(1000) % 50 == 0).astype(float), normal(1000).round(1)
        # 20 rows in 4 groups; rounded values do not divide evenly.
        assert p_value(cells_of(x, y)) == pytest.approx(g_test(x, y, 3), rel=1e-9)

    @pytest.mark.parametrize(
        ("x", "y"),
        [
            (np.arange(1000.0) == 7, normal(1000)),
            (normal(44), normal(44)),
            (np.arange(9) % 3, np.arange(9) // 3),
        ],
    )
    def test_is_none_where_fewer_than_five_rows_are_expected_in_a_cell(self, x, y):
        assert p_value(cells_of(x.astype(float), y.astype(float))) is None

    def test_of_a_constant_is_one(self):
        assert p_value(cells_of(np.full(100, 3.0), normal(100))) == 1

    @pytest.mark.parametrize("n", [45, 100, 1000])
    def test_keeps_its_level(self, n):
        draws = 600
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(2, draws, n, generator=generator).exp()
        states = grid.update(grid.empty(draws, 64), x, y)
        values = [p_value(grid.view(state.unsqueeze(0))) for state in states]
        rejected = sum(value < 0.05 for value in values) / draws
        # Three standard deviations of a proportion.
        assert rejected == pytest.approx(0.05, abs=0.027)


def test_categories_have_a_row_each():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 30, 3000), normal(3000)
    counts, holds = thin_table(cells_of(x.astype(float), y), (True, False))
    assert holds
    assert (counts.sum(1) > 0).sum() == 30
    assert torch.equal(counts.sum(1)[:30], torch.from_numpy(np.bincount(x)))
