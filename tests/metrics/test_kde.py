"""What is particular to the kernel density metric; what every metric promises is tested in
tests/contract.
"""

import math
import warnings

import pytest
import torch
from torchmetrics import MetricCollection

from mi_metrics import BinnedMutualInformation, KDEMutualInformation, MutualInformationWarning
from mi_metrics.functional import kde_joint, kde_mutual_information
from tests.cautions import warned
from tests.samples import gaussian


def metric_of(x, y, **options):
    metric = KDEMutualInformation(**options).to(x.device)
    metric.update(x, y)
    return metric


@pytest.mark.parametrize("value_range", [None, (-5.0, 5.0)])
@pytest.mark.parametrize("bandwidth", ["silverman", "scott", 0.3, (0.25, 0.4)])
@pytest.mark.parametrize(("r", "bound"), [(0.0, 1e-3), (0.6, 1e-3), (0.99, 6e-3)])
def test_value_is_the_functional_one_within_the_documented_bound(
    device, value_range, bandwidth, r, bound
):
    for seed, n in enumerate((300, 1000, 4900)):
        x, y = gaussian(n, r, seed, device)
        ours = metric_of(x, y, bandwidth=bandwidth, value_range=value_range).compute().item()
        theirs = kde_mutual_information(x, y, bandwidth=bandwidth).item()
        # The rules' kernels are wide enough for 5e-3; few samples feel their cells more.
        at_most = (
            2.5 * bound if n < 1000 else 5e-3 if r > 0.9 and isinstance(bandwidth, str) else bound
        )
        assert ours == pytest.approx(theirs, abs=at_most), n


def test_a_variable_against_itself_is_finite_and_says_that_the_table_limits_it():
    x, _ = gaussian(2000)
    metric = metric_of(x, x)
    with warned("narrow kernel"):
        value = metric.compute()
    assert value.isfinite()
    assert value > 3
    metric.compute()  # once


def test_constants_are_exactly_zero_and_two_samples_finite(device):
    x, _ = gaussian(100, device=device)
    for value_range in (None, (-4.0, 4.0)):
        for pair in ((x, torch.ones_like(x)), (torch.ones_like(x), x), (torch.ones_like(x),) * 2):
            for normalization in ("none", "max"):
                metric = metric_of(*pair, value_range=value_range, normalization=normalization)
                assert metric.compute() == 0
    two = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    # On a line, so that no table is fine enough; it says so.
    with warned("narrow kernel", "too few"):
        assert metric_of(two, two.flip(0), bandwidth=1.0).compute().isfinite()


def test_a_far_outlier_warns_and_names_the_remedies(device):
    x, y = gaussian(1000, device=device)
    x[0] = y[0] = 1e6
    metric = metric_of(x, y)
    with warned("wide kernel", "narrow kernel") as caught:
        metric.compute()
    message = str(caught[0].message)
    assert "BinnedMutualInformation" in message
    assert "`bandwidth`" in message


def test_one_state_serves_bins_and_kernels():
    x, y = gaussian(3000)
    unknown = MetricCollection(
        {
            "kde": KDEMutualInformation(),
            "wide": KDEMutualInformation(bandwidth=0.5, normalization="max"),
            "bins": BinnedMutualInformation(16),
            "quantiles": BinnedMutualInformation(
                "auto", binning="quantile", bias_correction="miller_madow"
            ),
        }
    )
    known = MetricCollection(
        {
            "kde": KDEMutualInformation(grid_size=64, value_range=(-5, 5)),
            "bins": BinnedMutualInformation(64, value_range=(-5, 5), bias_correction="grassberger"),
        }
    )
    for collection in (unknown, known):
        for a, b in zip(x.split(1000), y.split(1000), strict=True):
            collection.update(a, b)
        assert len(collection.compute_groups) == 1
        together = collection.compute()
        for name, metric in collection.items():
            alone = metric.clone()
            alone.reset()
            alone.update(x, y)
            assert together[name].equal(alone.compute()), name


@pytest.mark.parametrize("value_range", [None, ((-4.0, 5.0), (-6.0, 3.0))])
def test_joint_is_the_functional_one_in_data_units(device, value_range):
    x, y = gaussian(4000, device=device)
    metric = metric_of(x, y, value_range=value_range, grid_size=64)
    joint = metric.joint()
    assert joint.shape == (64, 64)
    assert joint.sum().item() == pytest.approx(1, abs=1e-12)
    x_edges, y_edges = metric.edges()
    # The mean of the table is the mean of the data: axes are not swapped, and in data units.
    assert float(joint.sum(1) @ (x_edges[1:] + x_edges[:-1]) / 2) == pytest.approx(
        x.mean().item(), abs=0.01
    )
    assert float(joint.sum(0) @ (y_edges[1:] + y_edges[:-1]) / 2) == pytest.approx(
        y.mean().item(), abs=0.01
    )
    if value_range is not None:
        expected = kde_joint(x, y, grid_size=64, value_range=value_range)
        # The metric knows samples up to a cell.
        assert (joint - expected).abs().sum() < 0.05
    assert metric.counts().sum() == 4000


def test_normalised_values_are_those_of_the_joint(device):
    x, y = gaussian(2000, device=device)
    metric = metric_of(x, y, normalization="joint")
    joint = metric.joint()
    hx, hy, hxy = (torch.special.entr(p).sum() for p in (joint.sum(1), joint.sum(0), joint))
    assert metric.compute().item() == pytest.approx(((hx + hy - hxy) / hxy).item(), abs=1e-12)


def test_a_range_as_wide_as_float64_is_finite(device):
    x, y = gaussian(500, device=device)
    metric = metric_of(1e307 * x, 1e307 * y, value_range=(-1.7e308, 1.7e308))
    assert metric.compute().item() == pytest.approx(kde_mutual_information(x, y).item(), abs=0.02)
    assert metric.joint().sum().item() == pytest.approx(1)


def test_the_default_dtype_changes_nothing():
    x, y = gaussian(500)
    expected = kde_mutual_information(x, y)
    try:
        torch.set_default_dtype(torch.float16)
        assert kde_mutual_information(x, y).equal(expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_no_samples_is_nan_everywhere():
    metric = KDEMutualInformation(num_outputs=2, nan_strategy="ignore")
    nan = torch.full((4, 2), torch.nan)
    metric.update(nan, nan)
    with warned("no samples", match="no valid samples"):
        assert metric.compute().isnan().all()
    assert metric.joint().shape == (2, 256, 256)
    assert metric.joint().isnan().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bandwidth": 0}, ValueError, "`bandwidth` to be .* positive numbers, but got 0"),
        ({"bandwidth": -1.0}, ValueError, "`bandwidth`"),
        ({"bandwidth": (1, 2, 3)}, ValueError, r"`bandwidth` .* but got \(1, 2, 3\)"),
        ({"bandwidth": "scot"}, ValueError, "`bandwidth` .* but got 'scot'"),
        ({"bandwidth": math.nan}, ValueError, "`bandwidth`"),
        ({"grid_size": 1}, ValueError, "`grid_size` to be at least 2"),
        ({"resolution": 1}, ValueError, "`resolution` to be at least 2, but got 1"),
        ({"value_range": (2, 1)}, ValueError, "lo < hi"),
        ({"normalization": "sum"}, ValueError, "`normalization` to be one of"),
        ({"unit": "bit"}, ValueError, "`unit` to be one of"),
    ],
)
def test_bad_options_are_refused_with_a_message(options, error, message):
    with pytest.raises(error, match=message):
        KDEMutualInformation(**options)


def test_merging_another_configuration_is_refused_with_both_named():
    ours, theirs = (
        KDEMutualInformation(value_range=(0, 1)),
        KDEMutualInformation(value_range=(0, 2)),
    )
    with pytest.raises(ValueError, match=r"(?s)x_hi=2.*x_hi=1"):
        ours.merge_state(theirs)


@pytest.mark.parametrize(("r", "bound"), [(0.0, 0.005), (0.6, 0.005), (0.99, 0.015)])
@pytest.mark.parametrize("value_range", [None, (-6.0, 6.0)])
def test_with_ever_more_samples_the_kernel_stays_as_wide_as_the_cells_need(r, bound, value_range):
    # At half a cell the marginals would be .03 nats off, each.
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 1_000_000, generator=generator)
    metric = KDEMutualInformation(value_range=value_range, grid_size=170)
    metric.update(x, r * x + math.sqrt(1 - r * r) * noise)
    for _ in range(11):  # up to 2e9 samples
        metric.merge_state(metric)
        metric._warned.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MutualInformationWarning)
            assert metric.compute().item() == pytest.approx(-0.5 * math.log(1 - r * r), abs=bound)


@pytest.mark.parametrize("r", [0.0, 0.6, 0.95])
def test_a_coarse_table_is_no_more_wrong_than_its_cells(r):
    # A million samples have kernels of half a cell of 64, and with that the value was .025 nats
    # off.
    x, y = gaussian(1_000_000, r)
    fine = kde_mutual_information(x, y, grid_size=512)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MutualInformationWarning)
        for grid_size in (32, 64, 96, 128):
            coarse = kde_mutual_information(x, y, grid_size=grid_size)
            assert coarse.item() == pytest.approx(fine.item(), abs=2e-3)
