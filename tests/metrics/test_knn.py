"""What is particular to the nearest-neighbour metric; what every metric promises is tested in
tests/contract.
"""

import math
import re

import pytest
import torch
from torchmetrics.wrappers import BootStrapper

from mi_metrics import KNNMutualInformation
from mi_metrics.functional import knn_mutual_information
from tests.cautions import warned
from tests.samples import gaussian


@pytest.mark.parametrize(
    "options", [{}, {"algorithm": "ksg2"}, {"standardize": False}, {"max_samples": 2000}]
)
def test_value_is_the_functional_one_to_the_bit(device, options):
    x, y = gaussian(1500, dtype=torch.float32, device=device)
    metric = KNNMutualInformation(**options).to(device)
    for a, b in zip(x.split(400), y.split(400), strict=True):
        metric.update(a, b)
    functional = {k: v for k, v in options.items() if k != "max_samples"}
    assert metric.compute().equal(knn_mutual_information(x, y, **functional))


def test_vectors_and_labels(device):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 3, generator=generator)
    y = x[:, :2] + torch.randn(600, 2, generator=generator)
    x, y = x.to(device), y.to(device)
    vectors = KNNMutualInformation(5, x_dim=3, y_dim=2).to(device)
    labels = KNNMutualInformation(x_dim=3, discrete_y=True).to(device)
    scalar = KNNMutualInformation(y_dim=2).to(device)
    for part in torch.arange(600, device=device).split(250):
        vectors.update(x[part], y[part])
        labels.update(x[part], (y[part, 0] > 0).long())
        scalar.update(x[part, 0], y[part])
    assert vectors.compute().equal(knn_mutual_information(x, y, 5))
    assert labels.compute().equal(knn_mutual_information(x, (y[:, 0] > 0).long(), discrete_y=True))
    assert scalar.compute().equal(knn_mutual_information(x[:, :1], y))


@pytest.mark.parametrize("discrete_y", [False, True])
def test_one_column_is_one_variable(device, discrete_y):
    x, y = gaussian(60, device=device)
    y = (y > 0).long() if discrete_y else y
    metric = KNNMutualInformation(discrete_y=discrete_y).to(device)
    metric.update(x.unsqueeze(1), y)
    assert metric.compute().equal(knn_mutual_information(x, y, discrete_y=discrete_y))


@pytest.mark.parametrize("max_samples", [None, 5000])
def test_outputs_are_evaluated_side_by_side_with_their_own_missing_pairs(device, max_samples):
    x, y = (v.view(100, 3, 7) for v in gaussian(2100, device=device))
    x[3, 1, 2] = torch.nan
    y[5, 2] = torch.inf
    metric = KNNMutualInformation(num_outputs=3, nan_strategy="ignore", max_samples=max_samples).to(
        device
    )
    metric.update(x[:40], y[:40])
    metric.update(x[40:], y[40:])
    for i in range(3):
        a, b = x[:, i].flatten(), y[:, i].flatten()
        keep = a.isfinite() & b.isfinite()
        assert metric.compute()[i].equal(knn_mutual_information(a[keep], b[keep]))


def test_a_bounded_sample_estimates_the_same(device):
    x, y = gaussian(40_000, 0.9, device=device)
    metric = KNNMutualInformation(max_samples=4000).to(device)
    for a, b in zip(x.split(5000), y.split(5000), strict=True):
        metric.update(a, b)
    assert metric.compute().item() == pytest.approx(-0.5 * math.log(1 - 0.81), abs=0.06)


def independent(kind, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, n, generator=generator, dtype=torch.float64)
    spread = {"20 levels": 3, "100 levels": 16, "1000 levels": 160}.get(kind)
    if spread:
        return (spread * x).round(), (spread * y).round()
    return {"ReLU": (x.relu(), y.relu()), "labels": (x > 0, y > 0.5)}[kind]


@pytest.mark.parametrize("kind", ["20 levels", "100 levels", "1000 levels", "ReLU", "labels"])
def test_a_bounded_sample_of_repeated_samples_invents_no_dependence(kind):
    """Keeping or dropping all copies of a row together gave 0.7 to 2 nats here."""
    x, y = (v.double() for v in independent(kind, 60_000))
    metric = KNNMutualInformation(max_samples=4000)
    for a, b in zip(x.split(7000), y.split(7000), strict=True):
        metric.update(a, b)
    assert abs(metric.compute().item()) < 0.04


def test_a_bounded_sample_of_labels_keeps_their_shares():
    x = torch.arange(30_000) % 3
    metric = KNNMutualInformation(max_samples=1000, discrete_y=True)
    metric.update(x[torch.randperm(30_000, generator=torch.Generator().manual_seed(0))], x * 0)
    assert metric.compute() == 0
    twin = KNNMutualInformation(max_samples=1000, discrete_y=True)
    twin.update(x, x)
    assert twin.compute().item() == pytest.approx(math.log(3), abs=0.01)


@pytest.mark.parametrize("size", [1, 37, 5000])
def test_a_bounded_sample_is_that_of_the_stream_whatever_its_batches(device, size):
    x, y = ((4 * v).round() for v in gaussian(5000, device=device))
    whole, parts, forward = (KNNMutualInformation(max_samples=300).to(device) for _ in range(3))
    whole.update(x, y)
    for a, b in zip(x.split(size), y.split(size), strict=True):
        parts.update(a, b)
    for a, b in zip(x.split(1250), y.split(1250), strict=True):
        forward(a, b)
    assert parts.samples.equal(whole.samples)
    assert forward.samples.equal(whole.samples)
    assert forward.counters.equal(whole.counters)


def test_a_bounded_sample_resumes_where_it_was():
    x, y = ((4 * v).round() for v in gaussian(5000))
    whole, first, second = (KNNMutualInformation(max_samples=300) for _ in range(3))
    for metric in (whole, first, second):
        metric.persistent(True)
    whole.update(x, y)
    first.update(x[:3100], y[:3100])
    second.load_state_dict(first.state_dict())
    second.update(x[3100:], y[3100:])
    assert second.samples.equal(whole.samples)


def test_what_is_merged_counts_on_from_all_samples():
    x, y = ((4 * v).round() for v in gaussian(5000))
    parts = [KNNMutualInformation(max_samples=300) for _ in range(2)]
    for metric, share in zip(parts, (slice(2000), slice(2000, 5000)), strict=True):
        metric.update(x[share], y[share])
    parts[0].merge_state(parts[1])
    assert parts[0].samples[0, 0, 0] == 5000
    assert parts[0].counters[0, 0] == 5000


def test_a_bounded_sample_of_the_first_version_is_refused():
    """That version kept or dropped all copies of a row together."""
    metric = KNNMutualInformation(max_samples=300)
    metric.persistent(True)
    state = metric.state_dict()
    state["samples"] = state["samples"][:, 1:]
    with pytest.raises(RuntimeError, match=r"bounded sample is of version 0\.1\.0, which kept or"):
        metric.load_state_dict(state)


def test_too_few_samples_are_nan_with_a_warning():
    metric = KNNMutualInformation(5)
    x, y = gaussian(5)
    metric.update(x, y)
    with warned("too few", match="needs more than n_neighbors=5 valid samples, but has 5"):
        assert metric.compute().isnan()
    metric.update(*gaussian(5, seed=1))
    assert metric.compute().isfinite()


def test_bootstrapping_warns_that_resampling_makes_copies():
    torch.manual_seed(0)
    x, y = gaussian(500)
    wrapper = BootStrapper(KNNMutualInformation(), num_bootstraps=2)
    wrapper.update(x, y)
    with warned("copies", "copies", match="copies of others, as resampling with replacement"):
        inflated = wrapper.compute()["mean"]
    plain = KNNMutualInformation()
    plain.update(x, y)
    assert inflated > plain.compute() + 0.5


def test_quantised_images_do_not_warn_of_copies():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (64, 64), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 256, (64, 64), generator=generator, dtype=torch.uint8)
    metric = KNNMutualInformation()
    metric.update(x, y)
    assert abs(metric.compute().item()) < 0.05


def test_constants_are_exactly_zero(device):
    x, _ = gaussian(100, device=device)
    for pair in ((x, torch.ones_like(x)), (torch.ones_like(x), x)):
        metric = KNNMutualInformation().to(device)
        metric.update(*pair)
        assert metric.compute() == 0


X = torch.linspace(0, 1, 20)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_neighbors": 0}, ValueError, "`n_neighbors` to be at least 1, but got 0"),
        ({"n_neighbors": 2.0}, TypeError, "`n_neighbors` to be an int"),
        ({"x_dim": 0}, ValueError, "`x_dim` to be at least 1"),
        (
            {"algorithm": "ksg3"},
            ValueError,
            "`algorithm` to be one of 'ksg1', 'ksg2', but got 'ksg3'",
        ),
        ({"discrete_y": 1}, TypeError, "`discrete_y` to be True or False, but got 1"),
        ({"discrete_y": True, "y_dim": 2}, ValueError, "needs y_dim=1"),
        ({"num_outputs": 2, "x_dim": 3}, ValueError, "pairs of scalars and excludes vectors"),
        ({"max_samples": 3}, ValueError, "`max_samples` to be at least 4, but got 3"),
        ({"unit": "bans"}, ValueError, "`unit` to be one of"),
    ],
)
def test_bad_options_are_refused_with_a_message(options, error, message):
    with pytest.raises(error, match=message):
        KNNMutualInformation(**options)


@pytest.mark.parametrize(
    ("options", "x", "y", "error", "message"),
    [
        (
            {"discrete_y": True},
            X,
            X,
            TypeError,
            r"class labels in `y` .* but got torch.float32.*y.long\(\)",
        ),
        (
            {"discrete_y": True},
            X,
            X.long() + 2**60,
            ValueError,
            r"numbers in `y` of at most 2\*\*53.*torch.unique",
        ),
        ({"x_dim": 2}, X, X, ValueError, r"`x` of shape \(N, 2\) for x_dim=2, but got \(20,\)"),
        ({"x_dim": 2}, X.view(10, 2), X, ValueError, "as many samples .* 10 and 20"),
        ({"x_dim": 2}, X.view(10, 2) / 0, X[:10], ValueError, "10 of 10 samples hold NaN or inf"),
        ({"num_outputs": 3}, X.view(10, 2), X.view(10, 2), ValueError, r"shape \(N, 3, ...\)"),
    ],
)
def test_bad_samples_are_refused_with_a_message(options, x, y, error, message):
    metric = KNNMutualInformation(**options)
    with pytest.raises(error, match=message):
        metric.update(x, y)
    assert metric.update_count == 0
    assert metric.counters.sum() == 0


def test_far_samples_that_hide_the_rest_are_named_once():
    x, y = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    x[3] = 1e8
    metric = KNNMutualInformation()
    metric.update(x, y)
    with warned("far samples"):
        metric.compute()
    metric.update(x, y + 1)
    metric.compute()
    alone = KNNMutualInformation(standardize=False)
    alone.update(x, y)
    alone.compute()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            ((30, 16), (30,)),
            "got (30, 16) and (30,). If `x` holds vectors, build the metric with x_dim=16.",
        ),
        (
            ((30,), (30, 4)),
            "got (30,) and (30, 4). If `y` holds vectors, build the metric with y_dim=4.",
        ),
        (
            ((30, 8), (30, 4)),
            "got (30, 8) and (30, 4). If `x` holds vectors, build the metric with x_dim=8.",
        ),
    ],
)
def test_vectors_given_as_scalars_are_told_of_the_dimension(shapes, message):
    x, y = (torch.zeros(shape) for shape in shapes)
    for metric in (KNNMutualInformation(), KNNMutualInformation(discrete_y=True)):
        with pytest.raises(ValueError, match=re.escape(message)):
            metric.update(x, y.long() if metric.discrete_y else y)


def test_several_outputs_are_not_told_of_vectors():
    with pytest.raises(ValueError, match="same shape") as caught:
        KNNMutualInformation(num_outputs=3).update(torch.zeros(30, 3), torch.zeros(30))
    assert "x_dim" not in str(caught.value)
