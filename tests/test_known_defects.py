"""What went wrong in earlier histogram estimators of mutual information for PyTorch: each defect is
a test here.
"""

import warnings

import numpy as np
import pytest
import torch

from mi_metrics import BinnedMutualInformation
from mi_metrics.functional import binned_joint, binned_mutual_information
from tests import oracles
from tests.cautions import ignore_cautions
from tests.samples import gaussian

NORMALIZATIONS = ["none", "arithmetic", "geometric", "min", "max", "joint", "studholme"]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_every_normalisation_works(normalization):
    x, y = gaussian(2000)
    value = binned_mutual_information(x, y, 8, normalization=normalization)
    assert value.isfinite()
    metric = BinnedMutualInformation(8, value_range=(-4, 4), normalization=normalization)
    metric.update(x, y)
    assert metric.compute().isfinite()


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_soft_bins_have_a_gradient_for_nearly_every_sample_at_any_scale(kernel, scale):
    x, y = (scale * v for v in gaussian(1024))
    x.requires_grad_()
    value = binned_mutual_information(x, y, 20, kernel=kernel, bias_correction="miller_madow")
    (gradient,) = torch.autograd.grad(value, x)
    assert binned_joint(x, y, 20, kernel=kernel).eq(0).any(), "the test needs empty cells"
    assert gradient.isfinite().all()
    # The extremes of a range that is their own lie on its ends.
    assert (gradient != 0).double().mean() > 0.99
    # A soft table of scaled data is the same table.
    assert value.item() == pytest.approx(
        binned_mutual_information(
            x / scale, y / scale, 20, kernel=kernel, bias_correction="miller_madow"
        ).item(),
        abs=1e-9,
    )


def test_inner_edges_count_once():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 11, (4096,), generator=generator).double()
    counts = BinnedMutualInformation(10, value_range=(0, 10))
    counts.update(x, x)
    assert counts.counts().sum() == 4096
    histogram, _, _ = np.histogram2d(x, x, bins=10)
    hx, hy, hxy = oracles.information(histogram)
    value = binned_mutual_information(x, x, 10)
    assert value.item() == pytest.approx(hx + hy - hxy, abs=1e-12)
    assert value.item() == pytest.approx(2.27, abs=0.01)


@pytest.mark.parametrize("kernel", ["hard", "linear", "cubic"])
def test_the_minimum_and_the_maximum_count_fully(kernel):
    x = torch.tensor([0.0, 0.31, 0.55, 1.0])
    assert binned_joint(x, x, 4, kernel=kernel).sum().item() == pytest.approx(1, abs=1e-15)
    ends = torch.tensor([0.0, 1.0])
    # The lowest sample's whole mass lies in the lower half, the highest one's in the upper half.
    assert binned_joint(ends, ends, 8, kernel=kernel)[:4].sum().item() == pytest.approx(
        0.5, abs=1e-15
    )


def test_axis_order_is_x_then_y():
    x = torch.tensor([0.0, 0.0, 0.0, 1.0])
    y = torch.tensor([0.0, 0.5, 1.0, 1.0])
    expected = torch.tensor([[1, 1, 1], [0, 0, 1]]) / 4
    assert binned_joint(x, y, (2, 3)).equal(expected.double())
    metric = BinnedMutualInformation((2, 3))
    metric.update(x, y)
    assert metric.joint().equal(expected.double())


def test_the_margin_is_a_fraction_of_the_width_not_of_the_bound():
    x, y = gaussian(2000)
    x = x + 1000
    ranges = []
    for v in (x, y):
        width = (v.max() - v.min()).item()
        ranges.append((v.min().item() - 0.5 * width, v.max().item() + 0.5 * width))
    widened = binned_joint(x, y, 8, margin=0.5)
    assert widened.equal(binned_joint(x, y, 8, value_range=tuple(ranges)))
    assert (widened.sum(1) > 0).sum() <= 5 < (binned_joint(x, y, 8).sum(1) > 0).sum()


@pytest.mark.parametrize("quantile", [0.5, 0.7, 1.0])
def test_a_clip_quantile_that_inverts_the_range_is_refused(quantile):
    with pytest.raises(ValueError, match=r"in \[0, 0.5\)"):
        BinnedMutualInformation(clip_quantile=quantile)


@pytest.mark.parametrize("kernel", ["hard", "linear", "cubic"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_constant_input_is_zero(kernel, normalization):
    x = torch.full((50,), 3.7)
    y = torch.linspace(0, 1, 50)
    for pair in ((x, y), (y, x), (x, x)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = binned_mutual_information(*pair, 8, kernel=kernel, normalization=normalization)
        assert value.item() == float(normalization == "studholme")


@ignore_cautions
@pytest.mark.parametrize("shape", [(40,), (5, 8), (2, 4, 5), (1, 2, 4, 5), (1, 2, 2, 2, 5)])
def test_any_number_of_dimensions_works(shape):
    x, y = (v.view(shape) for v in gaussian(40))
    expected = binned_mutual_information(x.flatten(), y.flatten(), 3)
    metric = BinnedMutualInformation(3)
    metric.update(x, y)
    assert metric.compute().item() == pytest.approx(expected.item(), abs=1e-12)
    assert binned_mutual_information(x, y, 3, bias_correction="miller_madow").shape == shape[:-1]


def test_a_typo_is_an_error():
    with pytest.raises(
        ValueError, match="`kernel` to be one of 'hard', 'linear', 'cubic', but got 'discrete'"
    ):
        BinnedMutualInformation(kernel="discrete")


def test_batches_are_comparable_and_add_up():
    # Each batch has another range; together they are one sample.
    x, y = gaussian(4000)
    order = x.argsort()
    x, y = x[order], y[order]
    for value_range in (None, (-5, 5)):
        metric = BinnedMutualInformation(16, value_range=value_range)
        for batch in zip(x.split(500), y.split(500), strict=True):
            metric.update(*batch)
        once = BinnedMutualInformation(16, value_range=value_range)
        once.update(x, y)
        assert metric.compute().equal(once.compute())
        assert metric.compute().item() == pytest.approx(0.22, abs=0.05)


def test_values_below_zero_are_kept():
    values = [
        binned_mutual_information(
            *gaussian(400, r=0, seed=s), 6, bias_correction="grassberger"
        ).item()
        for s in range(40)
    ]
    assert min(values) < 0
    assert np.mean(values) == pytest.approx(0, abs=0.01)


def test_memory_does_not_grow_with_samples_times_bins():
    x, y = gaussian(500_000)
    metric = BinnedMutualInformation(256, value_range=(-5, 5), bias_correction="grassberger")
    metric.update(x[:1000], y[:1000])
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as recorded:
        metric.update(x, y)
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    # N * bins would be 1 GB.
    assert 0 < held.max() < 20_000_000
