"""Verdicts and p-values of nearest neighbours."""

import math

import pytest
import torch

from campaigns.reliability import several, tally
from mi_metrics.functional import (
    gaussian_mutual_information,
    knn_mutual_information,
    knn_p_value,
    knn_reliability,
)
from mi_metrics.functional.reliability import _paired_bound


def gaussian(seed, n, d, r):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return x, r * x + math.sqrt(1 - r * r) * noise


def test_value_is_that_of_the_estimate_in_either_unit():
    x, y = gaussian(0, 300, 2, 0.6)
    nats, bits = knn_reliability(x, y), knn_reliability(x, y, unit="bits")
    assert nats.value == knn_mutual_information(x, y)
    for name in ("value", "standard_error", "drift", "reference"):
        expected = getattr(nats, name) / math.log(2)
        torch.testing.assert_close(getattr(bits, name), expected, rtol=1e-12, atol=0)
    assert nats.reliable.dtype == torch.bool


def test_scalars_that_are_right_pass():
    for seed in range(5):
        assert knn_reliability(*gaussian(seed, 1000, 1, 0.6)).reliable


def test_many_dimensions_are_found_by_the_gaussian_reference():
    x, y = gaussian(0, 1000, 8, 0.8)
    found = knn_reliability(x, y)
    assert not found.reliable
    assert found.reference > found.value + 1
    assert abs(found.reference - gaussian_mutual_information(x, y, copula=True)) < 0.01


def test_labels_have_no_information_beyond_their_entropy():
    # Scores of tied values in one common order would have that of the order.
    labels = torch.arange(1000).remainder(2).double()
    found = knn_reliability(labels, labels)
    assert found.reliable
    assert found.reference <= math.log(2) + 0.05
    other = torch.arange(1000).div(2, rounding_mode="floor").remainder(2).double()
    assert knn_reliability(labels, other).reliable


def test_a_constant_is_reliably_zero_and_has_no_dependence():
    x, y = gaussian(0, 200, 1, 0.0)
    for pair in ((x * 0, y), (x, y * 0)):
        found = knn_reliability(*pair)
        assert found.value == 0
        assert found.reliable
        assert knn_p_value(*pair, num_permutations=3) == 1


def test_order_of_samples_changes_no_bit():
    x, y = gaussian(0, 200, 2, 0.3)
    x = x.round(decimals=1)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    assert knn_reliability(x, y) == knn_reliability(x[order], y[order])
    p = knn_p_value(x, y, num_permutations=19)
    assert p == knn_p_value(x[order], y[order], num_permutations=19)


def test_leading_dimensions_are_pairs():
    x, y = gaussian(0, 3 * 100, 1, 0.5)
    x, y = x.view(3, 100, 1), y.view(3, 100, 1)
    found, p = knn_reliability(x, y), knn_p_value(x, y, num_permutations=9)
    for i in range(3):
        one = knn_reliability(x[i], y[i])
        assert all(torch.equal(a[i], b) for a, b in zip(found, one, strict=True))
        assert p[i] == knn_p_value(x[i], y[i], num_permutations=9)
    assert knn_reliability(x[:0], y[:0]).reliable.shape == (0,)
    assert knn_p_value(x[:0], y[:0]).shape == (0,)


def test_p_value_counts_permuted_samples():
    x, _ = gaussian(0, 100, 1, 0.0)
    assert knn_p_value(x, x**2, num_permutations=19) == 1 / 20
    labels = (x[:, 0] > 0).long()
    assert knn_p_value(x, labels, discrete_y=True, num_permutations=19) == 1 / 20


class TestPairs:
    """The bound from pairs of coordinates."""

    def bound(self, x, y):
        return _paired_bound(torch.cat((x, y), 1), x.shape[1])

    def test_it_is_the_sum_over_independent_pairs_whatever_their_order(self):
        x, y = gaussian(0, 2000, 4, 0.8)
        truth = -2 * math.log1p(-0.64)
        for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
            assert truth - 0.2 < self.bound(x, y[:, order]) < truth + 0.1
        # Coordinates that are left over add nothing.
        assert self.bound(x, y[:, :2]) < truth / 2 + 0.1

    @pytest.mark.parametrize("d", [1, 3, 10])
    def test_independent_coordinates_have_nothing_in_common(self, d):
        for seed in range(5):
            assert self.bound(*gaussian(seed, 1000, d, 0.0)) < 0.05

    def test_what_coordinates_repeat_counts_once(self):
        x, y = gaussian(0, 2000, 1, 0.9)
        truth = -math.log1p(-0.81) / 2
        noise, other = (gaussian(s, 2000, 3, 0.0)[0] for s in (1, 2))
        assert self.bound(x + 0.3 * noise, y + 0.3 * other) < truth

    def test_it_finds_an_error_that_parts_and_other_bounds_share(self):
        generator = torch.Generator().manual_seed(5)
        x, y, truth = several("uniform-noise", 5, 0.1, 2000, generator)
        found = knn_reliability(x, y)
        assert found.value < truth - 0.3
        assert not found.reliable
        assert found.reference > found.value + 0.05


@pytest.mark.campaign
def test_p_values_of_independent_samples_are_uniform():
    p = torch.stack(
        [knn_p_value(*gaussian(seed, 60, 1, 0.0), num_permutations=19) for seed in range(400)]
    )
    # 5 % in 400 draws: a standard error of 1.1.
    assert 0.015 <= float((p <= 0.05).double().mean()) <= 0.085
    assert abs(float(p.mean()) - 0.525) < 0.05


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_parts_are_a_power_of_two(parts):
    with pytest.raises(ValueError, match="parts"):
        knn_reliability(*gaussian(0, 100, 1, 0.0), parts=parts)


def test_too_few_samples_for_the_parts():
    with pytest.raises(ValueError, match="N = 24"):
        knn_reliability(*gaussian(0, 24, 1, 0.0))


@pytest.mark.parametrize("name", ["num_permutations", "seed"])
def test_wrong_numbers_are_refused(name):
    with pytest.raises(ValueError, match=name):
        knn_p_value(*gaussian(0, 24, 1, 0.0), **{name: -1})


@pytest.mark.slow
@pytest.mark.campaign
def test_few_false_alarms_and_most_errors_found():
    # 3 of 112 and 136 of 144 in 3 draws; uniform noise is the family whose errors hide.
    found = tally(4)
    alarms, right, hits, wrong = found["all"]
    assert right > 100
    assert wrong > 100
    assert alarms <= 0.05 * right
    assert hits >= 0.9 * wrong
    for name in ("cubed", "gamma-exponential", "turned and bent"):
        assert found[name][2] >= 0.9 * found[name][3], name
