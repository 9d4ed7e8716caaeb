"""Quantile bins: ties stay together, borders go toward the middle, few values have a bin each."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from mi_metrics.functional import binned_joint, binned_mutual_information
from mi_metrics.functional.tables.quantiles import ordered, quantile_edges
from tests import oracles


def cells(values, bins, weights=None):
    """Return the bin of each sample of rows (R, n), bins (R,)."""
    edges = quantile_edges(*ordered(values, weights), bins.unsqueeze(1))
    return torch.searchsorted(edges, values, right=True)


whole = st.integers(-6, 6)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(whole, whole, whole), min_size=1, max_size=40), st.integers(1, 9))
def test_bins_of_a_batch_are_the_oracles(rows, bins):
    values = torch.tensor(rows, dtype=torch.float64).T.contiguous()
    numbers = torch.tensor([bins, max(1, bins // 2), bins + 3])
    found = cells(values, numbers)
    for row, own, b in zip(values, found, numbers.tolist(), strict=True):
        assert own.tolist() == oracles.quantile_bins(row, b)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(whole, st.integers(0, 5)), min_size=1, max_size=40), st.integers(1, 9))
def test_whole_weights_are_frequencies_and_others_shares(samples, bins):
    values, weights = torch.tensor(samples, dtype=torch.float64).T.contiguous()
    if not weights.any():
        return
    expected = oracles.quantile_bins(values, bins, weights.long())
    held = weights > 0
    found = cells(values[None], torch.tensor([bins]), weights[None])[0]
    assert found[held].tolist() == [b for b, h in zip(expected, held, strict=True) if h]
    # With equal shares only the ratios count, up to rounding.
    ones = (0.3 * (weights > 0)).double()
    alone = cells(values[None], torch.tensor([bins]), ones[None])[0]
    assert alone[held].tolist() == oracles.quantile_bins(values[held], bins)


def test_bins_of_untied_samples_differ_by_one_sample_at_most():
    generator = torch.Generator().manual_seed(0)
    for n, b in ((10, 3), (100, 7), (1000, 13), (4000, 8), (17, 5), (4000, 256)):
        found = cells(torch.rand(1, n, generator=generator), torch.tensor([b]))
        sizes = found[0].bincount(minlength=b)
        assert set(sizes.tolist()) <= {n // b, -(-n // b)}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(whole, whole), min_size=1, max_size=40), st.sampled_from([3, 5, 7]))
def test_the_sign_of_a_variable_changes_nothing(pairs, bins):
    # With an even number of bins a run centred on the median has to lie on one side.
    x, y = torch.tensor(pairs, dtype=torch.float64).T
    joint = binned_joint(x, y, bins, binning="quantile")
    turned = binned_joint(-x, y, bins, binning="quantile")
    rows, flipped = (j[j.sum(1) > 0] for j in (joint, turned))
    assert rows.equal(flipped.flip(0))


def test_a_rare_label_keeps_its_information_under_either_sign():
    y = torch.from_numpy(np.random.default_rng(0).random(4000) < 0.05).double()
    entropy = mutual_info_score(y, y)
    for bins in (2, 8, 16):
        for label in (y, 1 - y, -y):
            value = binned_mutual_information(label, label, bins, binning="quantile")
            assert value.item() == pytest.approx(entropy, abs=1e-12)


def test_a_relu_tells_whether_it_is_on():
    x = np.maximum(np.random.default_rng(0).standard_normal(20_000) - 0.6745, 0)
    relu, on = torch.from_numpy(x), torch.from_numpy(x > 0).double()
    value = binned_mutual_information(relu, 1 - on, 8, binning="quantile")
    assert value.item() == pytest.approx(mutual_info_score(x > 0, x > 0), abs=1e-12)
    few = torch.tensor([0.0] * 13 + [1, 3], dtype=torch.float64)
    value = binned_mutual_information(few, few, 5, binning="quantile")
    assert value.item() == pytest.approx(mutual_info_score(few, few), abs=1e-12)
