"""Copies and forgotten labels: recognised, and not where samples merely repeat."""

import warnings

import numpy as np
import pytest
import torch

from mi_metrics import KNNMutualInformation
from mi_metrics.functional import knn_mutual_information
from tests.cautions import kind_of, warned
from tests.functional.knn_oracle import gaussian_pair


def both(x, y, *kinds, x_dim=1, y_dim=1, **options):
    """Check that the function and the metric give these cautions."""
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    with warned(*kinds):
        knn_mutual_information(x, y, **options)
    metric = KNNMutualInformation(x_dim=x_dim, y_dim=y_dim, **options)
    metric.update(x, y)
    with warned(*kinds):
        metric.compute()
    with warned():
        metric.compute()


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("step", [None, 0.1, 0.25])
def test_every_sample_several_times(factor, step):
    x, y = (v[:, 0] for v in gaussian_pair(400, 0.6))
    if step:
        x, y = np.round(x / step), np.round(y / step)
    both(np.tile(x, factor), np.tile(y, factor), "copies")


def test_resampling_with_replacement():
    x, y = (v[:, 0] for v in gaussian_pair(500, 0.6))
    chosen = np.random.default_rng(0).integers(0, 500, 500)
    both(x[chosen], y[chosen], "copies")


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_resampling_of_labelled_samples(share):
    rng = np.random.default_rng(0)
    x, label = rng.standard_normal(300), rng.random(300) < share
    chosen = rng.integers(0, 300, 300)
    both(x[chosen], label[chosen].astype(int), "copies", discrete_y=True)


def test_rounded_samples_of_one_label_each_are_no_copies():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(300).round(2)
    for label in (x > 0, x > -1.2, np.zeros(300), np.arange(300) < 3):
        both(x, label.astype(int), discrete_y=True)
    both(np.stack((x, x), 1), (x > 0).astype(int), x_dim=2, discrete_y=True)


def test_variables_that_determine_each_other_are_no_copies():
    bits = np.random.default_rng(0).integers(0, 2, (20_000, 9)).astype(float)
    both(bits, bits, x_dim=9, y_dim=9)
    labels = np.random.default_rng(0).integers(0, 100, 2000).astype(float)
    both(labels, labels)
    both(np.arange(2000) % 100, (np.arange(2000) % 100) ** 2)


def test_labels_without_discrete_y():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 10, 300)
    code = rng.standard_normal((300, 8)) + 3 * np.eye(10)[label][:, :8]
    both(code, label[:, None], "labels", x_dim=8)
    both(label[:, None], code, "labels", y_dim=8)
    both(code, label[:, None].astype(float), "labels", x_dim=8)
    both(code, label, x_dim=8, discrete_y=True)


@pytest.mark.parametrize("mean", [1, 3, 30])
def test_counts_are_no_labels(mean):
    rng = np.random.default_rng(0)
    x = rng.gamma(mean, size=1000)
    both(x, rng.poisson(x))
    both(rng.poisson(x), rng.poisson(x))


def test_a_fill_value():
    for share in (0.3, 0.5, 0.7):
        x, y = (v[:, 0] for v in gaussian_pair(5000, 0.6))
        y[np.random.default_rng(0).random(5000) < share] = -999
        both(x, y, "far samples")


def test_every_label_once():
    metric = KNNMutualInformation(discrete_y=True)
    metric.update(torch.randn(50, generator=torch.Generator().manual_seed(0)), torch.arange(50))
    with warned("too few", match="Every label of KNNMutualInformation occurs once"):
        assert metric.compute().isnan()


def test_a_narrow_matrix_is_pooled():
    x, y = torch.randn(2, 500, 2, generator=torch.Generator().manual_seed(0))
    metric = KNNMutualInformation()
    with warned("pooled", match=r"shape \(500, 2\) are pooled, 1000 pairs.* x_dim=2, y_dim=2"):
        metric.update(x, y)
    metric.update(x, y)
    for shape in ((64, 64), (1000,), (1000, 1), (4, 1, 16, 16)):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        KNNMutualInformation().update(image, image)
    KNNMutualInformation(x_dim=2, y_dim=2).update(x, y)
    KNNMutualInformation(num_outputs=2).update(x, y)


def innocent(seed):
    """A data set of 100 to 3000 samples that neighbours are right for, and its options."""
    rng = np.random.default_rng(seed)
    n, r = int(10 ** rng.uniform(2, 3.5)), rng.choice([0, 0.3, 0.6, 0.9])
    x, noise = rng.standard_normal((2, n))
    y = r * x + np.sqrt(1 - r * r) * noise
    kind = ["gauss", "lognormal", "uniform", "image", "labels", "rounded", "counts", "relu"][
        seed % 8
    ]
    if kind == "lognormal":
        return np.exp(x), np.exp(y), {}
    if kind == "uniform":
        return rng.random(n), rng.random(n), {}
    if kind == "image":
        image = np.clip(np.cumsum(rng.normal(0, 9, (64, 64)), 1) + 128, 0, 255).astype(np.uint8)
        other = np.clip(255.0 - image + rng.normal(0, 12, (64, 64)), 0, 255).astype(np.uint8)
        return image.ravel(), other.ravel(), {}
    if kind == "labels":
        return x, np.digitize(y, [-1, 0, 1]), {"discrete_y": True}
    if kind == "rounded":
        return np.round(x, 1), np.round(y, 1), {}
    if kind == "counts":
        return rng.poisson(np.exp(x)), rng.poisson(5, n), {}
    return (x, y, {}) if kind == "gauss" else (x.clip(0), y.clip(0), {})


@pytest.mark.campaign
def test_false_alarms_and_misses(capsys):
    """At most 2 % of right data sets, and at least 90 % of wrong ones, are warned of."""

    def kinds(x, y, options):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            knn_mutual_information(torch.as_tensor(x), torch.as_tensor(y), **options)
        return {kind_of(w) for w in caught}

    false = [seed for seed in range(500) if kinds(*innocent(seed))]
    missed = dict.fromkeys(("copies", "labels", "far samples"), 0)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x, y, options = innocent(8 * seed)
        times = int(rng.integers(2, 5))
        missed["copies"] += "copies" not in kinds(np.tile(x, times), np.tile(y, times), options)
        label = rng.integers(0, 10, 500)
        code = rng.standard_normal((500, 8)) + 3 * np.eye(10)[label][:, :8]
        missed["labels"] += "labels" not in kinds(code, label[:, None], {})
        y = np.where(rng.random(len(y)) < rng.uniform(0.1, 0.8), -999.0, y)
        missed["far samples"] += "far samples" not in kinds(x, y, {})
    with capsys.disabled():
        print(f"\nfalse alarms: {len(false)} of 500 {false}, missed of 100: {missed}")
    assert len(false) <= 10
    assert max(missed.values()) <= 10
