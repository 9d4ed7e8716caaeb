"""What is particular to the binned metric; what every metric promises is tested in
tests/contract.
"""

import math
import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_metrics import BinnedMutualInformation
from mi_metrics.functional import binned_joint, binned_mutual_information
from tests.cautions import ignore_cautions, warned
from tests.samples import gaussian

VIEWS = [
    {},
    {"clip_quantile": 0.02},
    {"margin": 0.2},
    {"binning": "quantile"},
    {"num_bins": "auto"},
    {"kernel": "linear"},
    {"kernel": "cubic", "clip_quantile": 0.02},
]


def cauchy(values):
    return torch.tan(math.pi * (torch.special.ndtr(values) - 0.5))


def metric_value(x, y, **options):
    metric = BinnedMutualInformation(bias_correction="miller_madow", **options).to(x.device)
    metric.update(x, y)
    return metric.compute().item()


def functional_value(x, y, **options):
    return binned_mutual_information(x, y, bias_correction="miller_madow", **options).item()


# -- known range -----------------------------------------------------------------------------------


def test_known_range_counts_what_lies_outside_and_warns_above_one_percent(device):
    x = torch.linspace(0, 1, 1000, device=device)
    metric = BinnedMutualInformation(4, value_range=(0, 1)).to(device)
    metric.update(x, x)
    metric.update(torch.tensor([2.0] * 10, device=device), torch.tensor([0.5] * 10, device=device))
    metric.compute()  # 10 of 1010: silent, and warnings are errors
    metric.update(
        torch.tensor([0.5, 0.5], device=device), torch.tensor([-1.0, -2.0], device=device)
    )
    assert metric.counters[2].item() == 12
    with warned("outside", match="1.19 % of the samples .* outside `value_range`") as caught:
        metric.compute()
    assert caught[0].filename == __file__
    metric.update(x, x)
    metric.compute()  # once


def test_nan_is_not_outside():
    metric = BinnedMutualInformation(
        4, value_range=(0, 1), nan_strategy="ignore", bias_correction="miller_madow"
    )
    metric.update(
        torch.tensor([0.1, torch.nan, 0.9, 5.0]), torch.tensor([0.1, 0.1, torch.inf, 0.5])
    )
    assert metric.counters[:3, 0].tolist() == [4, 2, 1]
    assert metric.counts().sum() == 2


def test_known_range_with_a_soft_kernel_refuses_automatic_bins():
    with pytest.raises(ValueError, match="Give num_bins, for example 32"):
        BinnedMutualInformation("auto", value_range=(0, 1), kernel="cubic")


def test_an_output_that_is_not_there_is_refused():
    metric = BinnedMutualInformation(4, value_range=(0, 1), num_outputs=2)
    for call in (metric.edges, metric.plot_joint):
        with pytest.raises(ValueError, match="`output` below num_outputs=2, but got 2"):
            call(output=2)


def test_edges_of_a_known_range():
    metric = BinnedMutualInformation((4, 2), value_range=((0, 1), (-1, 3)))
    x_edges, y_edges = metric.edges()
    assert x_edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert y_edges.tolist() == [-1, 1, 3]


# -- unknown range: exact where values repeat ------------------------------------------------------


@ignore_cautions
@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=80),
    st.sampled_from(VIEWS[:5]),
    st.sampled_from(
        [(torch.float32, 0.1), (torch.float64, 0.3), (torch.float64, 1e-300), (torch.float32, 1e30)]
    ),
    st.integers(0, 79),
)
def test_few_distinct_values_give_the_functional_value_to_the_bit(device, pairs, view, kind, cut):
    dtype, scale = kind
    x, y = (torch.tensor(pairs, dtype=dtype, device=device) * scale).T
    view = {"num_bins": (6, 4)} | view
    metric = BinnedMutualInformation(resolution=256, bias_correction="miller_madow", **view).to(
        device
    )
    for batch in ((x[:cut], y[:cut]), (x[cut:], y[cut:])):
        if batch[0].numel():
            metric.update(*batch)
    assert metric.compute().equal(
        binned_mutual_information(x, y, bias_correction="miller_madow", **view)
    )
    assert metric.joint().equal(binned_joint(x, y, **view))


def test_eight_bit_images_are_lossless_with_soft_kernels_too(device):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (4, 32, 32), generator=generator, dtype=torch.uint8)
    y = (x // 2 + torch.randint(0, 100, x.shape, generator=generator)).to(torch.uint8)
    x, y = x.to(device), y.to(device)
    for kernel in ("linear", "cubic"):
        metric = BinnedMutualInformation(32, kernel=kernel, bias_correction="miller_madow").to(
            device
        )
        for a, b in zip(x, y, strict=True):
            metric.update(a, b)
        expected = functional_value(x.flatten(), y.flatten(), num_bins=32, kernel=kernel)
        assert metric.compute().item() == pytest.approx(expected, abs=1e-12)


# -- unknown range: the bound elsewhere ------------------------------------------------------------


@ignore_cautions
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("r", "n", "bound"),
    [
        (0.0, 1000, 0.03),
        (0.6, 1000, 0.03),
        (0.99, 1000, 0.04),
        (0.0, 5000, 0.01),
        (0.6, 5000, 0.01),
        (0.99, 5000, 0.015),
        (0.0, 50000, 0.002),
        (0.6, 50000, 0.002),
        (0.99, 50000, 0.01),
    ],
)
def test_gaussian_samples_stay_within_the_documented_bound(device, view, r, n, bound):
    for seed in range(3):
        x, y = gaussian(n, r, seed, device=device)
        assert metric_value(x, y, **view) == pytest.approx(
            functional_value(x, y, **view), abs=bound
        )


@ignore_cautions
@pytest.mark.parametrize("n", [5_000, 100_000])
@pytest.mark.parametrize(
    ("options", "bound"),
    [({"clip_quantile": 0.01}, 0.006), ({"binning": "quantile"}, 0.006)],
)
def test_far_outliers_do_not_move_the_value(device, n, options, bound):
    # A fill value of 1e20 in 0.1 % of the samples: the grid keeps its resolution, and the bins stay
    # where the data are.
    x, y = gaussian(n, device=device)
    spoiled_x, spoiled_y = x.clone(), y.clone()
    spoiled_x[::1000] = 1e20
    spoiled_y[1::1000] = -1e20
    clean = metric_value(x, y, **options)
    assert metric_value(spoiled_x, spoiled_y, **options) == pytest.approx(clean, abs=bound)
    # Without clipping the range is the outliers' and everything else is one bin: what the options
    # are for.
    assert metric_value(spoiled_x, spoiled_y, binning="uniform") < 0.05


@ignore_cautions
@pytest.mark.parametrize(
    ("transform", "options", "bound"),
    [
        (lambda v: (2 * v).exp(), {"clip_quantile": 0.01}, 0.01),
        (cauchy, {"clip_quantile": 0.01}, 0.01),
        (lambda v: (2 * v).exp(), {"binning": "quantile", "resolution": 1024}, 0.02),
        (cauchy, {"binning": "quantile", "resolution": 1024}, 0.02),
        # Taken back to light tails, the default resolution is enough.
        (lambda v: (2 * v).exp().log(), {"binning": "quantile"}, 0.012),
        (lambda v: torch.asinh(cauchy(v)), {"binning": "quantile"}, 0.01),
    ],
)
def test_heavy_tails_stay_within_the_documented_bound(transform, options, bound):
    x, y = (transform(v) for v in gaussian(5_000))
    functional = {k: v for k, v in options.items() if k != "resolution"}
    ours = metric_value(x, y, **options)
    assert ours == pytest.approx(functional_value(x, y, **functional), abs=bound)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"binning": "quantile"}, ["coarse grid"]),
        # A cell that is wider than a bin also crowds it.
        ({"clip_quantile": 0.05}, ["coarse grid", "crowded"]),
    ],
)
def test_a_grid_coarser_than_the_bins_warns_with_the_remedies(options, kinds):
    x, y = (cauchy(v) for v in gaussian(100_000))
    metric = BinnedMutualInformation(64, **options)
    metric.update(x, y)
    with warned(*kinds) as caught:
        metric.compute()
    match = "grid of resolution=256 cells .* coarser .*`resolution`.*, use fewer bins, or transform"
    assert re.search(match, str(caught[0].message))
    # Silent (warnings are errors): wider cells would give the same value, though they hold bins.
    metric = BinnedMutualInformation()
    metric.update(*gaussian(100_000, 0.9))
    metric.compute()


def half_zero(generator: torch.Generator, *variables: torch.Tensor) -> list[torch.Tensor]:
    """Put zeros in place of half of each of some variables, apart from each other."""
    return [torch.where(torch.rand(v.shape, generator=generator) < 0.5, 0.0, v) for v in variables]


@pytest.mark.parametrize(
    ("sigma", "zeros", "truth"),
    [
        # Three quarters of the samples lie in one cell.
        (3, False, 0.5 * math.log(1 / 0.36)),
        # Both are numbers in a quarter of the samples, and whether one is says nothing.
        (2, True, 0.125 * math.log(1 / 0.36)),
        (3, True, 0.125 * math.log(1 / 0.36)),
    ],
)
@pytest.mark.parametrize("n", [20_000, 100_000])
def test_tails_in_one_cell_are_no_repeated_value(sigma, zeros, truth, n):
    """Lognormal samples, with a cell that holds zeros besides: 0.03 nats of 0.128."""
    x, y = ((sigma * v).exp() for v in gaussian(n, 0.8))
    if zeros:
        x, y = half_zero(torch.Generator().manual_seed(0), x, y)
    with warned("coarse grid"):
        value = metric_value(x, y)
    assert value < truth / 2 < 0.85 * truth < functional_value(x, y) < 1.1 * truth


@pytest.mark.parametrize("change", [torch.nn.Identity(), torch.exp])
@pytest.mark.parametrize("together", [True, False])
def test_zeros_beside_light_tails_need_no_finer_grid(change, together):
    x, y = gaussian(3_000, 0.8)
    at_zero = x < 0.5
    pair = (
        [torch.where(at_zero, 0, change(v)) for v in (x, y)]
        if together
        else half_zero(torch.Generator().manual_seed(0), change(x), change(y))
    )
    assert metric_value(*pair) == pytest.approx(functional_value(*pair), rel=0.1)


@pytest.mark.parametrize("sigma", [1, 2, 3])
def test_independent_tails_need_no_finer_grid(sigma):
    x, y = ((sigma * v).exp() for v in gaussian(20_000, 0))
    assert metric_value(x, y) == pytest.approx(0, abs=0.002)


def test_a_finer_grid_is_closer():
    errors = []
    for resolution in (64, 256, 1024):
        error = 0.0
        for seed in range(6):
            x, y = gaussian(20_000, 0.9, seed)
            error += abs(
                metric_value(x, y, num_bins=32, resolution=resolution)
                - functional_value(x, y, num_bins=32)
            )
        errors.append(error / 6)
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


# -- unknown range: what it reads from the table ---------------------------------------------------


def test_automatic_bins_are_decided_in_compute_from_all_samples():
    x, y = gaussian(20_000, 0.9)
    metric = BinnedMutualInformation("auto")
    metric.update(x[:100], y[:100])
    few = metric.joint().shape
    metric.update(x[100:], y[100:])
    assert metric.joint().shape > few
    assert metric.joint().shape == binned_joint(x, y, "auto").shape


def test_automatic_bins_stay_within_the_resolution():
    x, _ = gaussian(1000)
    metric = BinnedMutualInformation("auto", resolution=16)
    metric.update(x, x)
    assert metric.joint().shape == (16, 16)


@pytest.mark.parametrize(
    "options", [{}, {"binning": "quantile"}, {"clip_quantile": 0.05}, {"margin": 0.1}]
)
def test_counts_are_those_between_the_edges(device, options):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 60, (2000,), generator=generator).double()
    y = x + torch.randint(0, 30, (2000,), generator=generator)
    x, y = x.to(device), y.to(device)
    metric = BinnedMutualInformation((6, 5), **options).to(device)
    metric.update(x, y)
    x_edges, y_edges = metric.edges()
    assert x_edges.shape == (7,)
    assert y_edges.shape == (6,)
    ix = torch.bucketize(x, x_edges[1:-1], right=True)
    iy = torch.bucketize(y, y_edges[1:-1], right=True)
    expected = torch.zeros(6, 5, dtype=torch.int64, device=device).index_put_(
        (ix, iy), torch.ones_like(ix), accumulate=True
    )
    assert metric.counts().equal(expected)
    assert metric.joint().sum().item() == pytest.approx(1, abs=1e-12)


def test_outputs_are_evaluated_side_by_side(device):
    x, y = gaussian(3000, device=device)
    batch_x = (
        torch.stack([x, 1e6 * x.round(decimals=1), torch.ones_like(x)], 1)
        .view(100, 30, 3)
        .movedim(2, 1)
    )
    batch_y = torch.stack([y, -y.round(decimals=1), y], 1).view(100, 30, 3).movedim(2, 1)
    for options in ({}, {"num_bins": "auto"}, {"binning": "quantile"}):
        together = BinnedMutualInformation(
            num_outputs=3, bias_correction="grassberger", **options
        ).to(device)
        together.update(batch_x, batch_y)
        values = together.compute()
        assert values.shape == (3,)
        assert values[2] == 0
        for i in range(3):
            alone = BinnedMutualInformation(bias_correction="grassberger", **options).to(device)
            alone.update(batch_x[:, i], batch_y[:, i])
            assert values[i].equal(alone.compute())
            for ours, theirs in zip(together.edges(i), alone.edges(), strict=True):
                assert ours.equal(theirs)


@ignore_cautions
def test_an_output_does_not_feel_what_lies_beside_it(device):
    # Grey levels in float32 are lossless and evaluated in float32, also next to a continuous
    # output.
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 200, (500,), generator=generator).float() / 199
    y = (x * 50 + torch.randint(0, 9, (500,), generator=generator)).round() / 7
    x, y, z = (v.to(device) for v in (x, y, torch.randn(500, generator=generator)))
    for bins in (19, 57):
        metric = BinnedMutualInformation(bins, num_outputs=2, bias_correction="grassberger").to(
            device
        )
        metric.update(torch.stack([x, z], 1), torch.stack([y, z], 1))
        assert metric.compute()[0].equal(
            binned_mutual_information(x, y, bins, bias_correction="grassberger")
        )


def test_undersampling_warns_once_per_metric():
    x, y = gaussian(200)
    metric = BinnedMutualInformation(32)
    metric.update(x, y)
    with warned("undersampled", match="nats or more"):
        metric.compute()
    metric.update(x, y)
    metric.compute()


def test_the_value_a_lightning_user_averages_over_batches_is_far_off():
    # Why the state is a table and not a mean: independent data, 16 bins, batches of 32.
    x, y = torch.rand(2, 100 * 32, generator=torch.Generator().manual_seed(0))
    metric = BinnedMutualInformation(16, value_range=(0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        averaged = torch.stack(
            [metric(a, b) for a, b in zip(x.split(32), y.split(32), strict=True)]
        ).mean()
    assert averaged > 1.5
    assert metric.compute() < 0.05


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resolution": 1}, ValueError, "`resolution` to be at least 2, but got 1"),
        (
            {"num_bins": 32, "resolution": 31},
            ValueError,
            "`resolution` to be at least the number of bins 32, but got 31",
        ),
        ({"resolution": 2.0}, TypeError, "`resolution` to be an int"),
        ({"num_bins": (300, 2)}, ValueError, "at least the number of bins 300"),
        ({"num_outputs": 0}, ValueError, "`num_outputs` to be at least 1"),
        ({"nan_strategy": "warn"}, ValueError, "`nan_strategy` to be one of 'error', 'ignore'"),
        ({"kernel": "soft"}, ValueError, "`kernel` to be one of"),
        ({"bias_correction": "grassberger", "kernel": "linear"}, ValueError, "needs whole counts"),
        ({"value_range": (0, 1), "margin": 0.1}, ValueError, "excludes a given `value_range`"),
        (
            {"binns": 3},
            TypeError,
            "BinnedMutualInformation has, but got `binns`. Did you mean `num_bins`",
        ),
    ],
)
def test_bad_options_are_refused_with_a_message(options, error, message):
    with pytest.raises(error, match=message):
        BinnedMutualInformation(**options)
