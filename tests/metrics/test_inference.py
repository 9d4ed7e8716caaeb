"""What a table metric says beside its value: error bar, interval, p-value, pointwise values."""

import math

import pytest
import torch

from mi_metrics import (
    BinnedConditionalMutualInformation,
    BinnedMutualInformation,
    KDEMutualInformation,
)
from mi_metrics.functional import (
    confidence_interval,
    independence_p_value,
    mutual_information,
    standard_error,
)
from tests.cautions import ignore_cautions, warned

pytestmark = ignore_cautions

RANGES = ((-3.0, 3.0), (-4.0, 4.0))
KINDS = {
    "bins found": {},
    "bins found in a range": {"value_range": RANGES},
    "given bins in a range": {"num_bins": (5, 8), "value_range": RANGES},
    "given bins": {"num_bins": 8},
    "coarse cells": {"num_bins": 8, "resolution": 16},
    "quantile bins": {"num_bins": (7, 5), "binning": "quantile", "unit": "bits"},
    "clipped": {"num_bins": 9, "clip_quantile": 0.05, "margin": 0.1},
    "normalised": {"num_bins": 6, "normalization": "geometric", "unit": "bits"},
}


def gaussian(n=2000, r=0.6, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, generator=generator, dtype=dtype)
    return x, r * x + math.sqrt(1 - r * r) * noise


def fed(x, y, **kwargs):
    metric = BinnedMutualInformation(**kwargs)
    metric.update(x, y)
    return metric


class TestTable:
    @pytest.mark.parametrize("kwargs", KINDS.values(), ids=KINDS)
    def test_the_functions_of_its_counts_to_the_bit(self, kwargs):
        metric = fed(*gaussian(500), **kwargs)
        counts, unit = metric.counts(), metric.unit
        assert torch.equal(metric.standard_error(), standard_error(counts, unit=unit))
        found = metric.interval(0.9, num_resamples=99, seed=3)
        expected = confidence_interval(counts, 0.9, num_resamples=99, seed=3, unit=unit)
        assert torch.equal(found, expected)
        if metric.num_bins != "auto":
            found = metric.p_value(num_permutations=99, seed=3)
            expected = independence_p_value(
                counts, method="permutation", num_permutations=99, seed=3
            )
            assert torch.equal(found, expected)
            assert torch.equal(metric.p_value(method="g"), independence_p_value(counts))

    def test_outputs_are_answered_one_by_one(self):
        x, y = (v.view(400, 3) for v in gaussian(1200, 0.3))
        for kwargs in ({}, {"num_bins": 6}, {"num_bins": 6, "value_range": (-5, 5)}):
            together = fed(x, y, num_outputs=3, **kwargs)
            alone = [fed(x[:, c], y[:, c], **kwargs) for c in range(3)]
            for call in (
                lambda m: m.standard_error(),
                lambda m: m.interval(num_resamples=99),
                lambda m: m.p_value(num_permutations=99),
            ):
                torch.testing.assert_close(
                    call(together), torch.stack([call(m) for m in alone]), rtol=1e-12, atol=0
                )
            expected = torch.stack([m.pointwise(x[:, c], y[:, c]) for c, m in enumerate(alone)], 1)
            assert torch.equal(together.pointwise(x, y), expected)

    def test_batches_and_merges_change_no_bit(self):
        x, y = gaussian(600)
        whole = fed(x, y)
        first, second = fed(x[:100], y[:100]), fed(x[100:], y[100:])
        first.merge_state(second)
        for call in (
            lambda m: m.standard_error(),
            lambda m: m.interval(num_resamples=99),
            lambda m: m.p_value(num_permutations=99),
            lambda m: m.pointwise(x, y),
        ):
            assert torch.equal(call(whole), call(first))

    @pytest.mark.parametrize("kwargs", KINDS.values(), ids=KINDS)
    def test_no_samples_are_nan(self, kwargs):
        metric = BinnedMutualInformation(**kwargs)
        assert metric.standard_error().isnan()
        assert metric.interval(num_resamples=99).isnan().all()
        assert metric.p_value(num_permutations=9).isnan()
        assert metric.p_value(method="g").isnan()
        assert metric.pointwise(torch.ones(2), torch.ones(2)).isnan().all()

    @pytest.mark.parametrize("kwargs", KINDS.values(), ids=KINDS)
    def test_a_constant_and_one_sample(self, kwargs):
        for n in (1, 50):
            metric = fed(torch.ones(n), torch.arange(float(n)), **kwargs)
            assert metric.standard_error().abs() < 1e-12
            assert metric.interval(num_resamples=99).tolist() == [0, 0]
            assert metric.p_value(num_permutations=9) == 1
            assert metric.pointwise(torch.ones(3), torch.arange(3.0)).abs().max() < 1e-12

    def test_the_state_and_its_value_are_left_alone(self):
        x, y = gaussian()
        metric = fed(x, y)
        value, table = metric.compute(), metric.table.clone()
        metric.interval(num_resamples=99), metric.p_value(num_permutations=9)
        metric.pointwise(x, y), metric.standard_error()
        assert torch.equal(metric.table, table)
        assert torch.equal(metric.compute(), value)


class TestPValue:
    def test_automatic_bins_follow_from_the_number_of_samples(self):
        x, y = gaussian(2000, 0.9)
        metric = fed(x, y)
        b = int((0.4 * 2000) ** (1 / 3))
        assert metric.counts().shape != (b, b)
        expected = fed(x, y, num_bins=b, binning="quantile").p_value(num_permutations=99)
        assert torch.equal(metric.p_value(num_permutations=99), expected)

    def test_the_table_of_dependent_samples_is_that_of_the_margins_alone(self):
        x, y = gaussian(1000, 0.95)
        permuted = y[torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
        for kwargs in ({}, {"value_range": RANGES}, {"binning": ("uniform", "auto")}):
            for a, b in ((x, y), (x.round(), y.round()), (x.round(), y)):
                shapes = [
                    fed(a, other, **kwargs)._tables_to_test(law=False).sum(i).sort().values.tolist()
                    for other in (b, b[permuted.argsort()])
                    for i in (2, 3)
                ]
                assert shapes[:2] == shapes[2:]

    def test_few_values_have_a_bin_each_from_two_samples_per_cell_on(self):
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randint(0, 12, (250,), generator=generator), torch.arange(250) % 9

        def shape(x, y):
            return fed(x, y)._tables_to_test(law=False).shape[2:]

        assert shape(x, y) == (12, 9)
        # 2 * 108 > 200 > 4 * 4 cells of bins.
        assert shape(x[:200], y[:200]) == (4, 4)
        # No more cells than bins have.
        assert shape(x[:16] % 3, y[:16] % 3) == (3, 3)
        # Labels beside numbers.
        assert shape(x % 5, torch.randn(250, generator=generator)) == (5, 4)

    def test_names_of_labels_play_no_part(self):
        x, y = torch.arange(300) % 7, (torch.arange(300) % 7 + torch.arange(300) % 3) % 5
        names = torch.tensor([4, 0, 6, 2, 5, 1, 3])
        p = fed(x, y).p_value(num_permutations=99)
        assert torch.equal(fed(names[x], y).p_value(num_permutations=99), p)

    @pytest.mark.campaign
    @pytest.mark.parametrize("n", [60, 250, 1000])
    def test_five_percent_of_independent_samples_under_automatic_bins(self, n):
        generator = torch.Generator().manual_seed(n)
        reached = 0
        for seed in range(1000):
            x, y = torch.randn(2, n, generator=generator)
            # Of one seed all tables of these margins have the same 99 random ones beside them.
            p = fed(x, y.exp()).p_value(num_permutations=99, seed=seed)
            reached += bool(p <= 0.05)
        assert 30 <= reached <= 70


class TestPointwise:
    @pytest.mark.parametrize("kwargs", KINDS.values(), ids=KINDS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
    def test_its_mean_is_the_plug_in_information(self, kwargs, dtype):
        x, y = gaussian(3000)
        if not dtype.is_floating_point:
            x, y = (40 + 10 * x).clamp(0, 80), (40 + 10 * y).clamp(0, 80)
            if kwargs.get("value_range"):
                kwargs = kwargs | {"value_range": ((20, 70), (0, 80))}
        x, y = x.to(dtype), y.to(dtype)
        metric = fed(x, y, **kwargs)
        expected = mutual_information(metric.counts(), unit=metric.unit)
        torch.testing.assert_close(metric.pointwise(x, y).mean(), expected, rtol=1e-12, atol=1e-14)

    def test_shapes_are_those_of_x(self):
        x, y = (v.view(10, 4, 5, 5) for v in gaussian(1000))
        metric = fed(x, y, num_bins=6)
        assert metric.pointwise(x, y).shape == x.shape
        assert metric.pointwise(x[0, 0], y[0, 0]).shape == (5, 5)
        assert metric.pointwise(x[0, 0, 0, 0], y[0, 0, 0, 0]).shape == ()
        outputs = fed(x, y, num_bins=6, num_outputs=4)
        found = outputs.pointwise(x, y[:, :1])
        assert found.shape == x.shape
        assert torch.equal(found[:, 2], outputs.pointwise(x, y[:, :1].expand_as(x))[:, 2])

    def test_values_of_labels(self):
        x, y = torch.tensor([0, 0, 0, 2]), torch.tensor([1, 1, 5, 5])
        metric = fed(x, y, binning="values", bias_correction="none")
        asked = torch.tensor([[0, 1], [0, 5], [2, 5], [2, 1]]).unbind(1)
        expected = [math.log(4 / 3), math.log(2 / 3), math.log(2), 0.0]
        torch.testing.assert_close(metric.pointwise(*asked).tolist(), expected)

    @pytest.mark.parametrize("kwargs", KINDS.values(), ids=KINDS)
    def test_samples_outside_count_in_the_edge(self, kwargs):
        x, y = gaussian(3000)
        metric = fed(x, y, **kwargs)
        ends = [(v.min(), v.max()) for v in (x, y)]
        for i, j in ((0, 0), (1, 1)):
            beyond = (2 * i - 1) * torch.full((1,), 1e6)
            inside = metric.pointwise(ends[0][i].view(1), ends[1][j].view(1))
            assert torch.equal(metric.pointwise(beyond, beyond), inside)

    @pytest.mark.parametrize("kwargs", KINDS.values(), ids=KINDS)
    def test_nan_gives_nan_and_changes_no_other(self, kwargs):
        x, y = gaussian()
        metric = fed(x, y, **kwargs)
        expected = metric.pointwise(x, y)
        x, y = x.clone(), y.clone()
        x[3], y[5], x[7] = math.nan, math.nan, math.inf
        found = metric.pointwise(x, y)
        assert found[[3, 5, 7]].isnan().all()
        kept = ~found.isnan()
        assert kept.sum() == 1997
        assert torch.equal(found[kept], expected[kept])

    def test_between_the_values_that_were_seen_the_nearest_decides(self):
        x = torch.arange(300.0) % 3
        metric = fed(x, x, binning="values")
        near = metric.pointwise(x + 0.4, x - 0.4)
        assert torch.equal(near, metric.pointwise(x, x))

    def test_cells_wider_than_samples(self):
        x, y = (v.double() for v in gaussian(3000))
        metric = fed(x, y, num_bins=8, binning="quantile", resolution=16)
        expected = mutual_information(metric.counts())
        torch.testing.assert_close(metric.pointwise(x, y).mean(), expected)
        # Values that no sample had lie in the cells of their neighbours.
        other = gaussian(3000, seed=1)
        assert abs(metric.pointwise(*other).mean() - expected) < 0.05


class TestDensities:
    def test_error_bar_test_and_map(self):
        x, y = gaussian(1000)
        for kwargs in ({}, {"value_range": (-5, 5)}):
            metric = KDEMutualInformation(**kwargs)
            metric.update(x, y)
            found = metric.pointwise(x, y)
            # The density without leaving the sample out is a little higher.
            assert 0 < found.mean() - metric.compute() < 0.05
            error = found.std(unbiased=False) / 1000**0.5
            torch.testing.assert_close(metric.standard_error(), error, rtol=0.02, atol=0)
            assert metric.p_value(num_permutations=99) == 0.01
            bits = KDEMutualInformation(unit="bits", **kwargs)
            bits.update(x, y)
            torch.testing.assert_close(bits.pointwise(x, y), found / math.log(2))
            assert metric.pointwise(torch.full((2,), 4.9), torch.tensor([-4.9, math.nan]))[
                1
            ].isnan()

    def test_its_test_is_that_of_quantile_bins(self):
        x, y = gaussian(300, 0.1)
        metric = KDEMutualInformation()
        metric.update(x, y)
        assert torch.equal(metric.p_value(), fed(x, y).p_value())

    def test_no_samples(self):
        metric = KDEMutualInformation()
        assert metric.standard_error().isnan()
        assert metric.p_value().isnan()
        assert metric.pointwise(torch.ones(2), torch.ones(2)).isnan().all()

    @pytest.mark.slow
    @pytest.mark.parametrize("r", [0.6, 0.9])
    def test_the_error_bar_is_the_scatter_of_values(self, r):
        values, errors = [], []
        for seed in range(100):
            metric = KDEMutualInformation(resolution=128)
            metric.update(*gaussian(500, r, seed))
            values.append(metric.compute())
            errors.append(metric.standard_error())
        ratio = torch.stack(errors).mean() / torch.stack(values).std()
        # The standard error of a deviation of 100 values is 7 %.
        assert 0.75 < ratio < 1.25


SOFT = BinnedMutualInformation(8, kernel="cubic", value_range=(-3, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: SOFT.interval(), ValueError, "`interval` needs whole counts.*'cubic'"),
        (lambda m: SOFT.p_value(), ValueError, '`p_value` needs whole counts.*kernel="hard"'),
        (lambda m: SOFT.standard_error(), ValueError, "`standard_error` needs whole counts"),
        (lambda m: SOFT.pointwise(torch.ones(2), torch.ones(2)), ValueError, "`pointwise` needs"),
        (
            lambda m: BinnedMutualInformation(8, kernel="linear").interval(),
            ValueError,
            "`interval` needs whole counts",
        ),
        (lambda m: m.interval(1.5), ValueError, r"`level` in \(0, 1\), but got 1.5"),
        (lambda m: m.interval(0), ValueError, r"`level` in \(0, 1\)"),
        (lambda m: m.interval(num_resamples=5), ValueError, "at least 40, but got 5"),
        (lambda m: m.interval(num_permutations=5), TypeError, "num_resamples"),
        (lambda m: m.p_value(method="chi"), ValueError, "'g', 'permutation'"),
        (lambda m: m.p_value(num_permutations=0), ValueError, "at least 1, but got 0"),
        (lambda m: m.p_value(seed=-1), ValueError, "`seed` to be at least 0"),
        (lambda m: m.pointwise(torch.ones(2), torch.ones(3)), ValueError, "the same shape"),
        (lambda m: m.pointwise(torch.ones(0), torch.ones(0)), ValueError, "at least one sample"),
        (lambda m: m.pointwise([1.0], torch.ones(1)), TypeError, "`x`"),
    ],
)
def test_errors(call, error, message):
    metric = fed(*gaussian(100))
    with pytest.raises(error, match=message):
        call(metric)


def test_too_many_samples_for_permutations():
    metric = fed(*gaussian(100), num_bins=3, value_range=(-3, 3))
    metric.table = metric.table * 2**31
    with pytest.raises(ValueError, match=r'at most 2\*\*31 samples.*use method="g"'):
        metric.p_value()
    with pytest.raises(ValueError, match="use standard_error"):
        metric.interval()
    assert metric.p_value(method="g") < 1e-9
    assert 0 < metric.standard_error() < 1e-4


def test_g_of_cells_that_expect_too_few_says_so():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 40, generator=generator)
    given = BinnedConditionalMutualInformation(num_conditions=3)
    given.update(x, y, torch.randint(3, (40,), generator=generator))
    wide = BinnedMutualInformation(16, value_range=(-4, 4))
    wide.update(x, y)
    for metric in (given, wide):
        with warned("undersampled", match="five samples or more are expected in every cell"):
            metric.p_value(method="g")
        metric.p_value()  # Silent: warnings are errors.
    x, y = torch.randn(2, 400, generator=generator)
    for metric in (BinnedMutualInformation(), BinnedMutualInformation(3, value_range=(-2, 2))):
        metric.update(x.clamp(-2, 2), y.clamp(-2, 2))
        metric.p_value(method="g")
