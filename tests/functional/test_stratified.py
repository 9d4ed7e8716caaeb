"""Tables by class: p-values, intervals and error bars of the information within classes."""

import math

import numpy as np
import pytest
import torch

from mi_metrics.functional import (
    confidence_interval,
    independence_p_value,
    standard_error,
)
from mi_metrics.functional.information import information
from mi_metrics.functional.stratified import (
    stratified_interval,
    stratified_p_value,
    stratified_standard_error,
)
from mi_metrics.functional.tables.inversion import Inversion

# Dependent within classes, the third class is small, the fourth has one row.
STRATA = torch.tensor(
    [
        [[12, 4, 3], [5, 11, 2], [0, 3, 9]],
        [[4, 9, 1], [8, 2, 3], [1, 5, 6]],
        [[3, 1, 0], [0, 2, 0], [0, 0, 0]],
        [[4, 0, 6], [0, 0, 0], [0, 0, 0]],
    ]
)


def within(tables):
    """Return the plug-in information within classes of tables ``(..., K, R, C)``, by its
    definition.
    """
    tables = torch.as_tensor(tables).double()
    n = tables.sum((-2, -1))
    return ((n * information(tables).nan_to_num()).sum(-1) / n.sum(-1)).numpy()


def table_of(x, y, z):
    table = np.zeros(STRATA.shape, int)
    np.add.at(table, (z, x, y), 1)
    return table


def test_one_stratum_is_the_plain_table():
    plain = torch.stack([STRATA[0], STRATA[1].mT])
    strata = plain.unsqueeze(1)
    for method in ("g", "permutation"):
        found = stratified_p_value(strata, method=method, num_permutations=99)
        expected = independence_p_value(plain, method=method, num_permutations=99)
        assert torch.equal(found, expected)
    found = stratified_interval(strata, 0.9, num_resamples=99, unit="bits")
    assert torch.equal(found, confidence_interval(plain, 0.9, num_resamples=99, unit="bits"))
    assert torch.equal(stratified_standard_error(strata), standard_error(plain))


def test_p_value_is_that_of_samples_permuted_within_their_class():
    generator = np.random.default_rng(0)
    strata = torch.stack([STRATA[1] // 2 + 1, STRATA[0] // 3, STRATA[2], STRATA[3]])
    z, x, y = (np.repeat(i, strata.flatten()) for i in np.indices(STRATA.shape).reshape(3, -1))
    assert (table_of(x, y, z) == strata.numpy()).all()
    null = []
    for _ in range(4000):
        order = np.lexsort((generator.random(len(z)), z))
        null.append(table_of(x, y[order], z))
    share = (within(np.stack(null)) >= within(strata) - 1e-12).mean()
    p = stratified_p_value(strata, method="permutation", num_permutations=4000)
    assert 0.005 < share < 0.5
    assert p.item() == pytest.approx(share, abs=5 * math.sqrt(share / 4000))


def test_neither_names_nor_empty_strata_matter_to_p():
    few = STRATA // 2
    p = stratified_p_value(few, method="permutation", num_permutations=499)
    assert 1 / 500 < p < 1
    padded = torch.nn.functional.pad(few, (0, 1, 1, 0, 2, 1))
    for other in (few.flip(0), few.flip(1), few.mT, padded):
        assert torch.equal(stratified_p_value(other, method="permutation", num_permutations=499), p)


def test_g_and_its_degrees_of_freedom_add_up():
    n = STRATA.sum((-2, -1))
    statistic = 2 * (n * information(STRATA.double())).sum()
    # 4 + 4 + 1: the third class has two rows and two columns, the fourth one row.
    expected = torch.special.gammaincc(torch.tensor(4.5).double(), statistic / 2)
    torch.testing.assert_close(stratified_p_value(STRATA), expected)


def test_expected_information_of_mixtures_against_draws():
    tables = STRATA.double().numpy()
    inversion = Inversion(tables, 0.95, 100, 0)
    generator = np.random.default_rng(0)
    for share in (0.0, 0.6):
        p = inversion.mixture(share)
        assert p.sum() == pytest.approx(1)
        np.testing.assert_allclose(p.sum(2), tables.sum(2) / tables.sum(), atol=1e-12)
        drawn = generator.multinomial(inversion.number, p.ravel() / p.sum(), size=20_000)
        found = within(drawn.reshape(-1, *STRATA.shape))
        error = 4 * found.std() / 20_000**0.5
        assert inversion.mean(share) == pytest.approx(found.mean(), abs=error)
    assert inversion.information(0.0) == pytest.approx(0, abs=1e-12)
    assert inversion.information(1.0) == pytest.approx(within(STRATA), rel=1e-12)


def test_interval_around_the_value_of_many_samples():
    low, high = stratified_interval(STRATA * 200, unit="nats")
    assert low < float(within(STRATA)) < high
    error = stratified_standard_error(STRATA * 200)
    torch.testing.assert_close(high - low, 2 * 1.96 * error, rtol=0.15, atol=0)
    low, high = stratified_interval(torch.full((3, 4, 4), 9))
    assert low <= 0 <= high < 0.1


def test_classes_of_one_row_and_no_samples():
    lines = torch.zeros(2, 3, 3)
    lines[0, 1] = 4
    lines[1, :, 2] = 5
    assert stratified_p_value(lines, method="permutation") == 1
    assert stratified_p_value(lines) == 1
    assert stratified_interval(lines).tolist() == [0, 0]
    assert stratified_standard_error(lines) == 0
    nothing = torch.zeros(2, 3, 3)
    assert stratified_p_value(nothing, method="permutation").isnan()
    assert stratified_p_value(nothing).isnan()
    assert stratified_interval(nothing).isnan().all()
    assert stratified_standard_error(nothing).isnan()


def test_error_bar_is_that_of_the_mean_of_pointwise_values():
    p = STRATA.double() / STRATA.sum()
    p_z, p_x, p_y = p.sum((1, 2), keepdim=True), p.sum(2, keepdim=True), p.sum(1, keepdim=True)
    values = torch.where(p > 0, (p * p_z / (p_x * p_y)).log(), 0)
    mean = (p * values).sum()
    assert mean.item() == pytest.approx(within(STRATA))
    expected = ((p * (values - mean) ** 2).sum() / STRATA.sum()).sqrt()
    torch.testing.assert_close(stratified_standard_error(STRATA), expected)
    bits = stratified_standard_error(STRATA, unit="bits")
    torch.testing.assert_close(bits, expected / math.log(2))


@pytest.mark.campaign
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_intervals_cover_the_information_within_classes(share):
    p = Inversion((STRATA + 1).double().numpy(), 0.95, 100, 0).mixture(share)
    truth = float(within(p))
    drawn = np.random.default_rng(0).multinomial(300, p.ravel() / p.sum(), size=500)
    ends = stratified_interval(torch.as_tensor(drawn.reshape(-1, *p.shape)), num_resamples=300)
    covered = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).double().mean()
    assert 0.915 <= covered <= 0.989
