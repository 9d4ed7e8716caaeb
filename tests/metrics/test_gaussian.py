"""The Gaussian metric beyond its contract: against the function, few samples, extreme data."""

import math

import pytest
import torch

from mi_metrics import GaussianMutualInformation, MutualInformationWarning
from mi_metrics.functional import gaussian_mutual_information


def pair(n, x_dim, y_dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, x_dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, y_dim, generator=generator, dtype=torch.float64)
    return x, x[:, :1] + x.sum(1, keepdim=True) * torch.linspace(0, 1, y_dim) + noise


def fed(x, y, size=7, **options):
    metric = GaussianMutualInformation(x_dim=x.shape[1], y_dim=y.shape[1], **options)
    for a, b in zip(x.split(size), y.split(size), strict=True):
        metric.update(a, b)
    return metric


@pytest.mark.parametrize("options", [{}, {"bias_correction": "none"}, {"unit": "bits"}])
@pytest.mark.parametrize("size", [1, 7, 400])
def test_batches_give_the_value_of_the_function(options, size):
    x, y = pair(400, 3, 4)
    value = fed(x, y, size, **options).compute()
    assert value.item() == pytest.approx(
        gaussian_mutual_information(x, y, **options).item(), abs=1e-12
    )


@pytest.mark.parametrize(
    ("place", "scale"), [(1e6, 1.0), (-1e6, 1e-3), (0.0, 1e300), (0.0, 1e-300), (1e12, 1.0)]
)
def test_values_do_not_depend_on_where_the_data_lie(place, scale):
    x, y = pair(300, 2, 3)
    x, y = x / x.abs().max(), y / y.abs().max()
    x, y = place + scale * x, place - scale * y
    value = fed(x, y).compute().item()
    # The truth is that of the samples after rounding.
    assert value == pytest.approx(gaussian_mutual_information(x, y).item(), abs=1e-11)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    assert fed(x[order], y[order], 31).compute().item() == pytest.approx(value, abs=1e-11)


def test_numbers_without_a_second_dimension_are_scalars():
    x, y = pair(50, 1, 1)
    metric = GaussianMutualInformation()
    metric.update(x.squeeze(1), y)
    metric.update(x, y.squeeze(1))
    metric.update(x.squeeze(1), y.squeeze(1))
    expected = gaussian_mutual_information(torch.cat([x] * 3), torch.cat([y] * 3))
    assert metric.compute().item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_as_many_samples_as_coordinates_have_no_value(n):
    x, y = pair(n, 2, 3)
    metric = fed(x, y)
    with pytest.warns(MutualInformationWarning, match=rf"x_dim \+ y_dim = 5 .* has {n}") as caught:
        assert metric.compute().isnan()
    assert [w.message.kind for w in caught] == ["too few"]
    metric.update(*pair(500, 2, 3, seed=1))
    assert metric.compute().isfinite()


def test_so_few_samples_that_the_value_scatters_are_doubted_once():
    metric = fed(*pair(6, 2, 3))
    with pytest.warns(MutualInformationWarning, match="scatters by about") as caught:
        assert metric.compute().isfinite()
    metric.update(*pair(1, 2, 3, seed=1))
    assert metric.compute().isfinite()
    assert [w.message.kind for w in caught] == ["too few"]


def test_functions_of_each_other_have_a_large_and_finite_value():
    x, _ = pair(300, 2, 1)
    metric = fed(x, 2 * x - 1, bias_correction="none")
    with pytest.warns(MutualInformationWarning, match=r"counts as 13\.9 nats") as caught:
        value = metric.compute()
    assert [w.message.kind for w in caught] == ["copies"]
    assert value.item() == pytest.approx(2 * 20 * math.log(2), abs=1e-9)


def test_one_hot_labels_count_as_one_coordinate_less():
    x, y = pair(400, 2, 1)
    labels = torch.nn.functional.one_hot((y[:, 0] > 0).long() + (y[:, 0] > 1).long(), 4)
    value = fed(x, labels).compute().item()
    assert value == pytest.approx(fed(x, labels[:, :2]).compute().item(), abs=1e-11)


def test_state_is_three_tensors_of_the_dimensions_alone():
    metric = fed(*pair(300, 2, 3))
    assert list(metric.metric_state) == ["header", "counters", "moments"]
    assert metric.moments.shape == (9, 5)
    assert metric.moments[0].tolist() == [300.0] * 5


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((20, 3), (20, 3), r"`x` of shape \(N, 2\) for x_dim=2, but got \(20, 3\)"),
        ((20, 2), (20,), r"`y` of shape \(N, 3\) for y_dim=3, but got \(20,\)"),
        ((20, 2), (19, 3), "as many samples in `x` as in `y`"),
        ((5, 20, 2), (5, 20, 3), r"but got \(5, 20, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x, y, message):
    metric = GaussianMutualInformation(x_dim=2, y_dim=3)
    with pytest.raises(ValueError, match=message):
        metric.update(torch.zeros(x), torch.zeros(y))
    assert metric.update_count == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x_dim": 0}, ValueError, "`x_dim` to be at least 1"),
        ({"y_dim": 2.0}, TypeError, "`y_dim` to be an int"),
        ({"x_dim": 100_000}, ValueError, "x_dim=100000"),
        ({"bias_correction": "miller_madow"}, ValueError, "'none', 'analytic'"),
        ({"unit": "dits"}, ValueError, "`unit`"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        GaussianMutualInformation(**options)
