"""P-values, intervals and pointwise values of tables, against enumeration and simulation."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, hypergeom, norm

from mi_metrics.functional import (
    confidence_interval,
    independence_p_value,
    mutual_information,
    pointwise_mutual_information,
)
from mi_metrics.functional.tables.inversion import Inversion

# Between them and independence lies little.
FAINT = torch.tensor([[15, 10, 9], [8, 14, 11]])
LABELS = torch.tensor([[30, 2, 5, 0], [3, 24, 1, 0], [4, 6, 20, 1]])


def draws(generator, p, n, number):
    return generator.multinomial(n, (p / p.sum()).ravel(), size=number).reshape(-1, *p.shape)


def plug_in(tables):
    return mutual_information(torch.as_tensor(tables)).numpy()


class TestPermutation:
    def test_a_table_of_two_by_two_against_all_its_tables(self):
        table = np.array([[9, 4], [3, 10]])
        rows, columns = table.sum(1), table.sum(0)
        law = hypergeom(table.sum(), rows[0], columns[0])
        reached = 0.0
        for a in range(min(rows[0], columns[0]) + 1):
            b, c = rows[0] - a, columns[0] - a
            other = np.array([[a, b], [c, rows[1] - c]])
            if other.min() >= 0 and plug_in(other) >= plug_in(table) - 1e-12:
                reached += law.pmf(a)
        p = independence_p_value(
            torch.as_tensor(table), method="permutation", num_permutations=20_000
        )
        # Four standard errors of a share.
        assert p.item() == pytest.approx(reached, abs=4 * math.sqrt(reached / 20_000))

    def test_the_same_as_permuting_samples(self):
        generator = np.random.default_rng(0)
        x = generator.integers(0, 5, 300)
        y = np.where(generator.random(300) < 0.12, x, generator.integers(0, 5, 300))
        table = np.zeros((5, 5), int)
        np.add.at(table, (x, y), 1)
        null = []
        for _ in range(4000):
            other = np.zeros((5, 5), int)
            np.add.at(other, (x, generator.permutation(y)), 1)
            null.append(other)
        share = (plug_in(np.stack(null)) >= plug_in(table) - 1e-12).mean()
        p = independence_p_value(
            torch.as_tensor(table), method="permutation", num_permutations=4000
        )
        assert 0.005 < share < 0.5
        assert p.item() == pytest.approx(share, abs=5 * math.sqrt(share / 4000))

    def test_neither_labels_nor_the_order_of_the_variables_matter_to_the_bit(self):
        p = independence_p_value(FAINT, method="permutation")
        assert 1 / 1000 < p < 1
        for other in (FAINT.flip(0)[:, [1, 2, 0]], FAINT.mT):
            assert torch.equal(independence_p_value(other, method="permutation"), p)

    def test_batches_and_empty_rows_change_nothing(self):
        batch = torch.stack([LABELS, LABELS + 9, LABELS.flip(0)])
        together = independence_p_value(batch, method="permutation", num_permutations=99)
        for table, p in zip(batch, together, strict=True):
            padded = torch.nn.functional.pad(table, (1, 2, 0, 1))
            single = independence_p_value(padded, method="permutation", num_permutations=99)
            assert torch.equal(single, p)

    def test_the_seed_decides(self):
        first, again, other = (
            independence_p_value(FAINT, method="permutation", seed=s) for s in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        torch.testing.assert_close(first, other, atol=0.06, rtol=0)

    def test_the_least_value(self):
        table = torch.eye(4) * 50
        assert independence_p_value(table, method="permutation") == 1 / 1000

    def test_tables_that_equal_the_observed_one_count_however_they_are_summed(self):
        # All six tables of these margins hold the counts 1, 1, 1 and 0s: p is 1.
        table = torch.eye(3)
        assert independence_p_value(table, method="permutation") == 1

    def test_one_row_none_and_no_table(self):
        assert independence_p_value(torch.tensor([[3, 4]]), method="permutation") == 1
        assert independence_p_value(torch.zeros(2, 2), method="permutation").isnan()
        assert independence_p_value(torch.tensor([[1, 0], [0, 0]]), method="permutation") == 1
        assert independence_p_value(torch.zeros(0, 2, 2), method="permutation").shape == (0,)

    def test_many_samples(self):
        table = torch.tensor([[2**28, 2**28], [2**28, 2**28 + 5]])
        assert independence_p_value(table, method="permutation", num_permutations=50) > 0.05

    @pytest.mark.campaign
    @pytest.mark.parametrize(("bins", "n"), [(16, 50), (16, 250), (4, 60)])
    def test_five_percent_of_independent_samples(self, bins, n):
        generator = np.random.default_rng(bins * n)
        tables = []
        for _ in range(1000):
            x, y = (generator.permutation(n) * bins // n for _ in range(2))
            table = np.zeros((bins, bins), int)
            np.add.at(table, (x, y), 1)
            tables.append(table)
        p = independence_p_value(
            torch.as_tensor(np.stack(tables)), method="permutation", num_permutations=199
        )
        assert 0.03 <= (p <= 0.05).double().mean() <= 0.07


class TestInterval:
    def test_the_expected_plug_in_value_against_all_binomial_counts(self):
        table = LABELS[:, :3].double().numpy()
        n = int(table.sum())
        inversion = Inversion(table[None], 0.95, 100, 0)
        for share in (0.0, 0.4, 1.0):
            (p,) = inversion.mixture(share)
            counts = np.arange(n + 1)

            def expectation(q, counts=counts, n=n):
                law = binom.pmf(counts, n, np.minimum(q, 1).reshape(-1, 1))
                return (law * np.where(counts > 0, counts * np.log(np.maximum(counts, 1)), 0)).sum()

            exact = expectation(p) - expectation(p.sum(0)) - expectation(p.sum(1))
            exact = (exact + n * math.log(n)) / n
            assert inversion.mean(share) == pytest.approx(exact, abs=1e-7)

    @pytest.mark.parametrize("n", [3_000, 1_000_000])
    def test_the_expected_value_of_large_tables_against_draws(self, n):
        p = np.add.outer(np.arange(1.0, 7), np.arange(1.0, 6)) ** 2
        inversion = Inversion(np.round(p / p.sum() * n)[None], 0.95, 100, 0)
        (mixture,) = inversion.mixture(0.5)
        found = plug_in(draws(np.random.default_rng(0), mixture, inversion.number, 4000))
        assert inversion.mean(0.5) == pytest.approx(found.mean(), abs=4 * found.std() / 4000**0.5)

    @pytest.mark.parametrize("scale", [1, 4])
    def test_the_observed_value_is_a_quantile_at_both_ends(self, scale):
        table = (LABELS * scale).double().numpy()
        table = table[:, table.sum(0) > 0]
        low, high = confidence_interval(LABELS * scale, num_resamples=4000).tolist()
        inversion = Inversion(table[None], 0.95, 100, 0)
        observed = plug_in(table)
        generator = np.random.default_rng(1)
        for end, tail in ((low, 1), (high, -1)):
            if end > inversion.information(1.0):
                continue
            shares = np.linspace(0, 1, 2001)
            values = np.array([inversion.information(s) for s in shares])
            share = float(np.interp(end, values, shares))
            found = plug_in(draws(generator, inversion.mixture(share)[0], inversion.number, 4000))
            beyond = (tail * found >= tail * observed).mean()
            assert 0.012 < beyond < 0.045

    def test_independent_samples_reach_0(self):
        table = torch.full((4, 4), 25)
        low, high = confidence_interval(table)
        assert low <= 0
        assert 0 <= high < 0.05

    def test_bits_batches_and_empty_rows(self):
        batch = torch.stack([LABELS, LABELS.flip(1), LABELS * 3])
        nats = confidence_interval(batch, num_resamples=99)
        assert nats.shape == (3, 2)
        assert nats.dtype == torch.float64
        bits = confidence_interval(batch, num_resamples=99, unit="bits")
        torch.testing.assert_close(bits, nats / math.log(2))
        padded = torch.nn.functional.pad(LABELS, (0, 2, 1, 0))
        assert torch.equal(confidence_interval(padded, num_resamples=99), nats[0])
        wide = confidence_interval(LABELS, 0.99, num_resamples=999)
        narrow = confidence_interval(LABELS, 0.5, num_resamples=999)
        assert wide[0] < narrow[0] < mutual_information(LABELS) < wide[1]
        assert narrow[1] < wide[1]

    def test_reaches_0_where_a_test_on_few_samples_does_not_reject(self):
        x, y = torch.randint(30, (2, 100), generator=torch.Generator().manual_seed(0))
        counts = torch.bincount(30 * x + y, minlength=900).view(30, 30)
        assert independence_p_value(counts, method="permutation") > 0.1
        low, high = confidence_interval(counts)
        assert low == 0 < high
        # Labels against themselves are no accident, however few they are.
        assert confidence_interval(torch.diag(torch.bincount(x)))[0] > 1

    @pytest.mark.parametrize("size", [2, 3])
    def test_no_end_is_above_the_entropy_of_as_many_values(self, size):
        for number in (1, 2, 5):
            ends = confidence_interval(number * torch.eye(size, dtype=torch.int64))
            assert ends.max().item() <= math.log(size) + 1e-12

    def test_as_few_draws_as_the_docstring_says(self):
        assert confidence_interval(LABELS, 0.9, num_resamples=20).isfinite().all()
        with pytest.raises(ValueError, match="`num_resamples` to be at least 20, but got 19"):
            confidence_interval(LABELS, 0.9, num_resamples=19)

    def test_transposed_to_the_error_of_the_draws(self):
        there, back = (confidence_interval(t, num_resamples=4000) for t in (LABELS, LABELS.mT))
        torch.testing.assert_close(there, back, atol=0.01, rtol=0)

    def test_one_row_none_and_one_sample(self):
        assert confidence_interval(torch.tensor([[3, 4]])).tolist() == [0, 0]
        assert confidence_interval(torch.tensor([[1, 0], [0, 0]])).tolist() == [0, 0]
        assert confidence_interval(torch.zeros(2, 2)).isnan().all()
        assert confidence_interval(torch.zeros(0, 2, 2)).shape == (0, 2)

    @pytest.mark.parametrize(
        ("p", "n"),
        [
            ([[0.3, 0.2], [0.2, 0.3]], 60),
            ([[0.48, 0.02], [0.02, 0.48]], 60),
            ([[0.9, 0.04], [0.03, 0.03]], 400),
            ([[0.25, 0.23, 0.01], [0.2, 0.29, 0.02]], 200),
        ],
    )
    def test_covers_the_information_of_few_labels(self, p, n):
        p = np.array(p)
        truth = (p * np.log(p / np.outer(p.sum(1), p.sum(0)))).sum()
        tables = draws(np.random.default_rng(n), p, n, 300)
        ends = confidence_interval(torch.as_tensor(tables), num_resamples=199)
        below, above = ((truth < ends[:, 0]).double().mean(), (truth > ends[:, 1]).double().mean())
        # 2.5 % each; a way that ended at the observed table left 9 to 29 % above it.
        assert max(below, above) <= 0.06

    def test_independence_to_the_last_sample_is_no_proof(self):
        low, high = confidence_interval(torch.full((2, 2), 5))
        assert low == 0
        assert 0.02 < high < 0.3

    @pytest.mark.campaign
    @pytest.mark.parametrize("n", [500, 5000])
    @pytest.mark.parametrize(("bins", "r"), [(8, 0.0), (8, 0.2), (8, 0.9), (16, 0.5)])
    def test_covers_the_information_of_the_binned_variables(self, bins, r, n):
        p = gaussian_table(bins, r)
        truth = (p * np.log(p / np.outer(p.sum(1), p.sum(0)))).sum()
        tables = draws(np.random.default_rng(bins + n), p, n, 500)
        ends = confidence_interval(torch.as_tensor(tables), num_resamples=300)
        covered = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).double().mean()
        # Bounds on 500 repetitions of a coverage between 0.94 and 0.975.
        assert 0.915 <= covered <= 0.989


def gaussian_table(bins, r):
    """Cells of equal-frequency bins of a Gaussian pair, by the midpoint rule in x."""
    edges = norm.ppf(np.arange(1, bins) / bins)
    fine = norm.ppf((np.arange(200 * bins) + 0.5) / (200 * bins))
    below = norm.cdf((edges - r * fine[:, None]) / math.sqrt(1 - r * r))
    cells = np.diff(below, axis=1, prepend=0, append=1)
    return cells.reshape(bins, 200, bins).mean(1) / bins


class TestBalancedByDesign:
    """Test sets with as many samples of each class, whose margins do not vary."""

    @pytest.mark.parametrize("classes", [2, 3, 10, 13])
    def test_no_error_bounds_errors_as_a_binomial_law_does(self, classes):
        size = 40
        low, high = confidence_interval(size * torch.eye(classes).long()).tolist()
        # None of N samples is wrong with a chance of 2.5 %.
        error = 1 - 0.025 ** (1 / (size * classes))
        p = np.full((classes, classes), error / classes / (classes - 1))
        np.fill_diagonal(p, (1 - error) / classes)
        assert low == pytest.approx((p * np.log(p * classes**2)).sum(), abs=1e-9)
        assert high == pytest.approx(math.log(classes), abs=1e-9)

    @pytest.mark.parametrize(("classes", "size"), [(2, 100), (3, 50), (10, 20)])
    @pytest.mark.parametrize("error", [0.002, 0.005])
    def test_coverage(self, classes, size, error):
        generator = np.random.default_rng(0)
        p = np.full((classes, classes), error / (classes - 1))
        np.fill_diagonal(p, 1 - error)
        truth = (p * np.log(p * classes)).sum() / classes
        tables = generator.multinomial(size, p, size=(60, classes))
        ends = confidence_interval(torch.as_tensor(tables), num_resamples=200).numpy()
        held = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        assert held.mean() >= 0.92


class TestPointwise:
    def test_its_mean_is_the_mutual_information(self):
        p = LABELS.double() / LABELS.sum()
        for unit in ("nats", "bits"):
            mean = (p * pointwise_mutual_information(LABELS, unit=unit)).sum()
            torch.testing.assert_close(mean, mutual_information(LABELS, unit=unit))

    def test_values(self):
        cells = pointwise_mutual_information(torch.tensor([[2, 1], [0, 1]]))
        expected = [[math.log(4 / 3), math.log(2 / 3)], [0, math.log(2)]]
        torch.testing.assert_close(cells, torch.tensor(expected, dtype=torch.float64))

    def test_constant_and_nothing(self):
        row = torch.tensor([[0] * 7, [87, 27, 19, 21, 21, 31, 94]])
        for counts in (row, row.T.contiguous(), row / 3):
            assert not pointwise_mutual_information(counts).any()
        assert pointwise_mutual_information(torch.zeros(2, 2)).isnan().all()

    def test_gradient(self):
        counts = LABELS[:, :3].double().requires_grad_()
        torch.autograd.gradcheck(pointwise_mutual_information, counts)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: independence_p_value(LABELS, method="chi"), ValueError, "'g', 'permutation'"),
        (
            lambda: independence_p_value(LABELS, method="permutation", num_permutations=0),
            ValueError,
            "`num_permutations` to be at least 1, but got 0",
        ),
        (lambda: independence_p_value(LABELS, seed=-1), ValueError, "`seed` to be at least 0"),
        (
            lambda: independence_p_value(LABELS / 3, method="permutation"),
            ValueError,
            "permutation test needs whole counts",
        ),
        (
            lambda: independence_p_value(LABELS * 2**40, method="permutation"),
            ValueError,
            r'at most 2\*\*31 samples.*use method="g"',
        ),
        (lambda: confidence_interval(LABELS, 1.0), ValueError, r"`level` in \(0, 1\), but got 1.0"),
        (lambda: confidence_interval(LABELS, "95"), TypeError, "`level` to be a number"),
        (
            lambda: confidence_interval(LABELS, num_resamples=39),
            ValueError,
            "`num_resamples` to be at least 40, but got 39",
        ),
        (
            lambda: confidence_interval(LABELS * 0.5),
            ValueError,
            "confidence interval needs whole counts",
        ),
        (lambda: confidence_interval(LABELS * 2**40), ValueError, "use standard_error"),
        (lambda: confidence_interval(LABELS, unit="hartleys"), ValueError, "'nats', 'bits'"),
        (lambda: pointwise_mutual_information(-LABELS), ValueError, "negative"),
        (lambda: pointwise_mutual_information(LABELS[0]), ValueError, r"\(\.\.\., B_x, B_y\)"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
