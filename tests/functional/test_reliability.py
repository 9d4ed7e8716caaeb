"""Verdicts and p-values of nearest neighbours."""

import math

import pytest
import torch

from campaigns.reliability import tally
from mi_metrics.functional import (
    gaussian_mutual_information,
    knn_mutual_information,
    knn_p_value,
    knn_reliability,
)


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


@pytest.mark.slow
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
    # 7 of 286 and 344 of 388 in 8 draws; uniform noise is the family whose errors hide.
    found = tally(4)
    alarms, right, hits, wrong = found["all"]
    assert right > 100
    assert wrong > 100
    assert alarms <= 0.05 * right
    assert hits >= 0.85 * wrong
    for name in ("cubed", "gamma-exponential", "turned and bent"):
        assert found[name][2] >= 0.9 * found[name][3], name
