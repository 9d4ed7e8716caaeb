"""Which bins a call without options takes, against a slow oracle and scikit-learn."""

import math
import warnings
from statistics import NormalDist

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    adjusted_mutual_info_score,
    mutual_info_score,
    normalized_mutual_info_score,
)

from mi_metrics import BinnedMutualInformation, MutualInformationWarning
from mi_metrics.functional import binned_joint, binned_mutual_information
from tests import oracles
from tests.cautions import ignore_cautions, warned
from tests.samples import gaussian


def draws(rng):
    """Yield pairs of every kind that the rules tell apart."""
    for n in (12, 40, 100, 700):
        z = rng.standard_normal(n)
        w = 0.8 * z + 0.6 * rng.standard_normal(n)
        yield z, w
        yield np.exp(3 * z), w**3
        yield z, z**2 + 0.1 * w
        yield np.round(z, 1), np.round(w, 1)
        yield np.round(z), np.round(w)
        yield np.maximum(z - 0.67, 0), w
        yield rng.integers(0, 3, n), w
        yield rng.integers(0, 60, n), rng.integers(0, 60, n)
        yield np.ones(n), w
        label = rng.integers(0, 30, n)
        yield label, np.where(rng.random(n) < 0.1, rng.integers(0, 30, n), label)


@ignore_cautions
@pytest.mark.parametrize("normalization", ["none", "arithmetic"])
def test_tables_and_values_are_the_oracles(normalization):
    for x, y in draws(np.random.default_rng(0)):
        expected, correction = oracles.automatic_table(x, y, normalization != "none")
        a, b = torch.as_tensor(x), torch.as_tensor(y)
        metric = BinnedMutualInformation(normalization=normalization, resolution=1024)
        metric.update(a, b)
        found = metric.counts().numpy()
        occupied = found[found.sum(1) > 0][:, found.sum(0) > 0]
        wanted = expected[expected.sum(1) > 0][:, expected.sum(0) > 0]
        assert np.array_equal(occupied, wanted)
        hx, hy, hxy = oracles.information(expected, correction)
        value = 0.0 if 1 in wanted.shape else hx + hy - hxy
        if normalization == "arithmetic" and value:
            value = 2 * value / (hx + hy)
        ours = binned_mutual_information(a, b, normalization=normalization)
        assert ours.item() == pytest.approx(value, abs=1e-12)


@ignore_cautions
def test_pairs_of_a_batch_are_chosen_one_by_one():
    pairs = [p for p in draws(np.random.default_rng(1)) if len(p[0]) == 100]
    x, y = (torch.stack([torch.as_tensor(p[i]).double() for p in pairs]) for i in range(2))
    together = binned_mutual_information(x, y)
    joint = binned_joint(x, y)
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        assert together[i].item() == pytest.approx(
            binned_mutual_information(a, b).item(), abs=1e-12
        )
        alone = binned_joint(a, b)
        assert joint[i, : alone.shape[0], : alone.shape[1]].equal(alone)
        assert joint[i].sum() == pytest.approx(1)
    metric = BinnedMutualInformation(num_outputs=len(pairs))
    metric.update(x.T, y.T)
    torch.testing.assert_close(metric.compute(), together, rtol=0, atol=1e-12)


def labels(rng):
    k, n = int(rng.integers(2, 61)), int(rng.integers(150, 3000))
    a = rng.integers(0, k, n)
    b = np.where(rng.random(n) < rng.random(), rng.integers(0, k, n), a)
    names = rng.permutation(1000 * k)[:k]
    return names[a], names[::-1][b], n


@ignore_cautions
@pytest.mark.slow
def test_normalised_values_of_labels_are_scikit_learns():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b, n = labels(rng)
        x, y = torch.as_tensor(a), torch.as_tensor(b)
        for normalization, reference in (
            ("arithmetic", normalized_mutual_info_score),
            ("adjusted", adjusted_mutual_info_score),
        ):
            ours = binned_mutual_information(x, y, normalization=normalization).item()
            assert ours == pytest.approx(reference(a, b), abs=1e-10), n
        plain = binned_mutual_information(x, y, binning="values", bias_correction="none").item()
        assert plain == pytest.approx(mutual_info_score(a, b), abs=1e-12)


@ignore_cautions
def test_renumbering_labels_changes_nothing():
    rng = np.random.default_rng(2)
    for _ in range(20):
        a, b, _ = labels(rng)
        names = rng.permutation(int(a.max()) + 1)
        x, y, z = (torch.as_tensor(v) for v in (a, b, names[a]))
        for options in ({"binning": "values"}, {"normalization": "max"}):
            one, other = (binned_mutual_information(v, y, **options).item() for v in (x, z))
            assert one == pytest.approx(other, abs=1e-12)


def test_labels_that_share_bins_by_default_say_so():
    rng = np.random.default_rng(0)
    a = torch.as_tensor(rng.integers(0, 100, 1000))
    noise, names = (torch.as_tensor(v) for v in (rng.integers(0, 100, 1000), rng.permutation(100)))
    b = torch.where(torch.as_tensor(rng.random(1000) < 0.5), noise, names[a])
    with warned("shared bins", match='binning="values"'):
        binned_mutual_information(a, b)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        binned_mutual_information(a, noise)
    assert not caught


@pytest.mark.parametrize("step", [0, 0.02])
@pytest.mark.parametrize(
    ("zeros", "r", "truth"),
    # Integrals over a Gaussian pair whose lower parts are one value each.
    [(0.75, 0, 0), (0.75, 0.8, 0.210), (0.9, 0, 0), (0.9, 0.8, 0.100), (0.95, 0.8, 0.055)],
)
def test_zero_inflated_numbers_are_not_few_values(zeros, r, truth, step):
    """All values but the zeros occur once or twice, and pairs of them tell nothing of each other:
    a bin for each showed 0.40 nats where the truth is 0.10.
    """
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 4, 2000, generator=generator, dtype=torch.float64)
    x, y = (
        (v - NormalDist().inv_cdf(zeros)).clamp_min(0)
        for v in (z, r * z + (1 - r * r) ** 0.5 * noise)
    )
    if step:
        x, y = ((v / step).ceil() for v in (x, y))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = binned_mutual_information(x, y)
        (value,) = values[:1]
        metric = BinnedMutualInformation(resolution=1024)
        metric.update(x[0], y[0])
        assert metric.compute() == value
    assert not caught
    assert values.mean() == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize(("zeros", "truth"), [(0.9, 0.146), (0.95, 0.089)])
def test_a_zero_inflated_number_beside_another(zeros, truth):
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 4, 2000, generator=generator, dtype=torch.float64)
    x = (z - NormalDist().inv_cdf(zeros)).clamp_min(0)
    values = binned_mutual_information(x, 0.8 * z + 0.6 * noise)
    assert values.mean() == pytest.approx(truth, abs=0.03)


def test_few_values_and_uniform_bins_that_were_asked_for():
    x = torch.tensor([0.0, 1.0, 255.0] * 40)
    for options in ({"binning": "uniform"}, {"value_range": (0, 256)}):
        with warned("shared bins", match="no more distinct values than its 32 bins"):
            binned_mutual_information(x, x, 32, **options)
    # Left to itself a bin each, in rows that the others leave empty.
    assert binned_mutual_information(x, x, 32).item() == pytest.approx(math.log(3), abs=1e-12)
    assert binned_joint(x, x, 32).shape == (32, 32)


def test_a_bin_for_each_value():
    x = torch.tensor([7.0, 7.0, -1.0, 3.0])
    y = torch.tensor([1, 1, 0, 1])
    assert binned_joint(x, y, binning="values").tolist() == [[0.25, 0], [0, 0.25], [0, 0.5]]
    metric = BinnedMutualInformation(binning=("values", "quantile"))
    metric.update(x.repeat(10), y.repeat(10))
    assert metric.counts().sum(1).tolist() == [10, 10, 20]
    edges, _ = metric.edges()
    assert edges.tolist() == [-1, 1, 5, 7]
    constant = BinnedMutualInformation(binning="values")
    constant.update(torch.full((5,), 2.0), torch.arange(5.0))
    assert constant.compute() == 0
    assert constant.edges()[0].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_bins": 8}, "Leave `num_bins` at its default"),
        ({"value_range": (0, 1)}, "excludes a given `value_range`"),
        ({"kernel": "linear"}, 'needs kernel="hard"'),
        ({"clip_quantile": 0.1}, "no range to clip"),
        ({"margin": 0.1}, "no range to clip"),
    ],
)
def test_a_bin_for_each_value_excludes(options, message):
    x = torch.arange(10.0)
    for call in (
        lambda: binned_mutual_information(x, x, binning="values", **options),
        lambda: BinnedMutualInformation(binning=("quantile", "values"), **options),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_more_values_than_the_resolution_are_a_coarse_grid():
    x = torch.arange(300).repeat(30)
    metric = BinnedMutualInformation(binning="values")
    metric.update(x, x)
    with warned("coarse grid", match="resolution=256"):
        metric.compute()
    metric = BinnedMutualInformation(binning="values", resolution=300)
    metric.update(x, x)
    assert metric.compute().item() == pytest.approx(math.log(300), abs=1e-12)


@ignore_cautions
@pytest.mark.parametrize("resolution", [256, 64])
def test_automatic_bins_of_a_given_range_are_made_of_its_cells(resolution):
    x, y = gaussian(5000, 0.9)
    metric = BinnedMutualInformation(value_range=(-5, 5), resolution=resolution)
    for part in zip(x.split(1234), y.split(1234), strict=True):
        metric.update(*part)
    joint, edges = metric.joint(), metric.edges()
    expected, _, _ = np.histogram2d(x, y, bins=[e.numpy() for e in edges])
    # Edges in data units are rounded, samples on them are none.
    np.testing.assert_allclose(joint.numpy() * 5000, expected, atol=1e-9)
    if resolution == 256:
        assert metric.compute().equal(binned_mutual_information(x, y, value_range=(-5, 5)))
    assert metric.compute().item() == pytest.approx(0.8304, abs=0.05)


def test_adjusted_is_refused_where_counts_are_not_whole():
    x = torch.rand(50)
    for options in ({"kernel": "cubic", "num_bins": 4}, {"weights": torch.rand(50)}):
        with pytest.raises(ValueError, match="whole counts"):
            binned_mutual_information(x, x, normalization="adjusted", **options)
    with pytest.raises(ValueError, match="excludes bias_correction='miller_madow'"):
        BinnedMutualInformation(normalization="adjusted", bias_correction="miller_madow")


@pytest.mark.parametrize("kernel", ["hard", "linear", "cubic"])
@pytest.mark.parametrize("value", [0.1, 828.0227440672267, -1e300, 1e-300])
def test_a_constant_is_exactly_zero_under_every_option(kernel, value):
    generator = torch.Generator().manual_seed(0)
    x = torch.full((60,), value, dtype=torch.float64)
    y = torch.randn(60, generator=generator, dtype=torch.float64)
    views = [{}, {"clip_quantile": 0.125}, {"margin": 0.3}, {"value_range": (-3, 1000)}]
    for view in views:
        for normalization in ("none", "arithmetic", "joint", "min"):
            for correction in ("auto", "none", "miller_madow"):
                options = view | {"normalization": normalization, "bias_correction": correction}
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", MutualInformationWarning)
                    for a, b in ((x, y), (y, x), (x, x)):
                        found = binned_mutual_information(a, b, 8, kernel=kernel, **options)
                        assert found == 0
                        metric = BinnedMutualInformation(8, kernel=kernel, **options)
                        metric.update(a, b)
                        assert metric.compute() == 0
