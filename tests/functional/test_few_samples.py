"""Few samples: the doubt about them in every estimator, function and metric alike; and no pairs."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_metrics import BinnedMutualInformation, KDEMutualInformation, KNNMutualInformation
from mi_metrics.functional import (
    binned_conditional_mutual_information,
    binned_joint,
    binned_mutual_information,
    gaussian_mutual_information,
    kde_joint,
    kde_mutual_information,
    knn_mutual_information,
)
from mi_metrics.functional.cautions import TOO_FEW
from mi_metrics.functional.tables import sampling
from tests.cautions import kind_of, warned

SOFT = ("linear", "cubic")
FUNCTIONS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "bins": (binned_mutual_information, BinnedMutualInformation, {}),
    "8 bins": (binned_mutual_information, BinnedMutualInformation, {"num_bins": 8}),
    "corrected": (
        binned_mutual_information,
        BinnedMutualInformation,
        {"num_bins": 2, "bias_correction": "grassberger"},
    ),
    "known range": (
        binned_mutual_information,
        BinnedMutualInformation,
        {"num_bins": 8, "value_range": (-3.0, 3.0)},
    ),
    "linear": (
        binned_mutual_information,
        BinnedMutualInformation,
        {"num_bins": 8, "value_range": (-9.0, 9.0), "kernel": "linear"},
    ),
    "cubic": (
        binned_mutual_information,
        BinnedMutualInformation,
        {"num_bins": 16, "kernel": "cubic"},
    ),
    "densities": (kde_mutual_information, KDEMutualInformation, {}),
    "neighbours": (knn_mutual_information, KNNMutualInformation, {"n_neighbors": 1}),
}


def normal(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, y


def said(call: Any, *args: Any, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args, **options)
    return sorted(kind_of(w) for w in caught)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_fewer_than_eight_samples_are_doubtful_to_function_and_metric(name, n):
    function, build, options = FUNCTIONS[name]
    for seed in range(5):
        x, y = normal(n, seed)
        kinds = said(function, x, y, **options)
        # In a bin of their own, or in one with nearly all others.
        doubts = {"too few", "undersampled", "crowded"}
        assert doubts & set(kinds), (seed, kinds)
        metric = build(**options)
        metric.update(x, y)
        # In a given range, all that is seen of samples in one bin is a constant.
        kinds = said(metric.compute)
        assert doubts & set(kinds) or (name == "known range" and metric.compute() == 0), seed


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_constant_has_no_information_however_few_samples_there_are(name):
    function, build, options = FUNCTIONS[name]
    x, _ = normal(5)
    constant = torch.ones_like(x)
    metric = build(**options)
    metric.update(constant, x)
    for value in (function(x, constant, **options), metric.compute()):  # warnings are errors
        assert value == 0


def test_the_sentence_is_one():
    x = torch.tensor([0.0, 0.0, 1.0, 1.0])
    for call in (
        lambda: binned_mutual_information(x, x, 2),
        lambda: knn_mutual_information(*normal(5), 2),
        lambda: kde_mutual_information(*normal(5)),
    ):
        with warned("too few") as seen:
            call()
        assert str(seen[0].message) == TOO_FEW


# -- soft kernels ----------------------------------------------------------------------------------


def excess(bins: int, kernel: str, n: int, r: float, draws: int = 20) -> tuple[float, int]:
    """Return by how much values are too large on average, and how many are doubted."""
    total, doubted = 0.0, 0
    many, options = normal(100_000, seed=99), {"num_bins": bins, "kernel": kernel}
    mixed = (many[0], r * many[0] + math.sqrt(1 - r * r) * many[1])
    for seed in range(draws):
        x, noise = normal(n, seed)
        y = r * x + math.sqrt(1 - r * r) * noise
        value_range = tuple((float(v.min()), float(v.max())) for v in (x, y))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = binned_mutual_information(x, y, value_range=value_range, **options)
            truth = binned_mutual_information(*mixed, value_range=value_range, **options)
        total += float(value - truth)
        doubted += any(kind_of(w) == "undersampled" for w in caught)
    return total / draws, doubted


@pytest.mark.parametrize(
    ("bins", "kernel", "n", "r", "about", "doubted"),
    [
        (8, "cubic", 16, 0.0, 0.36, 17),
        (8, "linear", 16, 0.6, 0.5, 20),
        (32, "cubic", 16, 0.0, 1.6, 20),
        (32, "cubic", 64, 0.0, 0.9, 20),
        (32, "cubic", 64, 0.95, 0.35, 10),
        (32, "linear", 128, 0.6, 0.7, 20),
        (32, "cubic", 256, 0.0, 0.3, 20),
        (2, "cubic", 16, 0.0, 0.02, 0),
        (8, "cubic", 128, 0.0, 0.04, 0),
        (8, "linear", 256, 0.6, 0.04, 0),
        (32, "cubic", 512, 0.95, 0.05, 0),
        (32, "linear", 2000, 0.6, 0.06, 0),
        (16, "cubic", 60, 0.0, 0.35, 18),
    ],
)
def test_soft_tables_are_doubted_where_their_values_are_too_large(
    bins, kernel, n, r, about, doubted
):
    # The excess is that over the value of so many samples that there is none.
    found, number = excess(bins, kernel, n, r, draws=20 if n < 1000 else 5)
    assert found == pytest.approx(about, rel=0.4, abs=0.03)
    assert number >= doubted if doubted else number == 0


@pytest.mark.parametrize("kernel", SOFT)
def test_what_is_a_samples_own_is_the_sum_of_its_squares(kernel):
    # Of evenly spread samples the bias is (D - 1)² / 2N, with D the integral of the kernel's square
    # for each bin; what hard bins have is (B - 1)² / 2N.
    x = torch.linspace(0, 1, 400, dtype=torch.float64)
    x, y = x.repeat(400), x.repeat_interleave(400)
    table = len(x) * binned_joint(x, y, 10, kernel=kernel, value_range=(0, 1))
    square = {"linear": 2 / 3, "cubic": 151 / 315}[kernel]
    found = float(sampling.soft_bias(table, kernel))
    assert found == pytest.approx((10 * square - 1) ** 2 / (2 * len(x)))


@pytest.mark.parametrize("kernel", SOFT)
def test_function_and_metric_doubt_a_soft_table_in_the_same_words(kernel):
    x, y = normal(60)
    options: dict[str, Any] = {"num_bins": 32, "kernel": kernel}
    for value_range in (None, (-4.0, 4.0)):
        metric = BinnedMutualInformation(value_range=value_range, **options)
        metric.update(x, y)
        for call in (
            metric.compute,
            lambda value_range=value_range: binned_mutual_information(
                x, y, value_range=value_range, **options
            ),
        ):
            with warned(
                "undersampled", match=rf"^60 samples are few for 32 x 32 bins of a {kernel}"
            ):
                call()


def test_weights_are_doubted_by_the_samples_that_they_are_worth():
    x, y = normal(2000)
    weights = torch.ones(2000, dtype=torch.float64)
    options: dict[str, Any] = {"num_bins": 32, "kernel": "cubic", "value_range": (-5, 5)}
    binned_mutual_information(x, y, weights=weights, **options)
    binned_mutual_information(x, y, weights=1e-9 * weights, **options)
    weights[60:] = 1e-6
    with warned("undersampled", match=r"^60\.0\d* samples"):
        binned_mutual_information(x, y, weights=weights, **options)


def test_conditions_share_the_samples_of_a_soft_table():
    x, y = normal(2000)
    options: dict[str, Any] = {"kernel": "cubic", "value_range": (-5, 5)}
    z = torch.arange(2000) % 2
    binned_conditional_mutual_information(x, y, z, 16, **options)
    with warned("undersampled"):
        binned_conditional_mutual_information(x, y, torch.arange(2000) % 100, 16, **options)


# -- neighbours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [3, 10])
def test_fewer_than_three_samples_for_each_neighbour_are_doubtful(k):
    few, enough = normal(3 * k - 1), normal(3 * k)
    knn_mutual_information(*enough, k)
    metric = KNNMutualInformation(k)
    metric.update(*few)
    with warned("too few", match=f"^{3 * k - 1} samples are few for n_neighbors={k}"):
        knn_mutual_information(*few, k)
    with warned("too few", match=f"^{3 * k - 1} samples are few for n_neighbors={k}"):
        metric.compute()


def test_neighbours_within_a_class_are_fewer_anyway():
    x, _ = normal(12)
    knn_mutual_information(x, torch.arange(12) % 2, 5, discrete_y=True)
    with warned("too few"):
        knn_mutual_information(x[:6], torch.arange(6) % 2, 2, discrete_y=True)


# -- values that share bins ------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [24, 32])
def test_values_that_clipping_puts_in_one_bin_share_it_as_was_asked(bins):
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.full((2000,), 5.0), generator=generator)
    y = x + torch.randint(0, 3, (2000,), generator=generator)
    binned_mutual_information(x, y, bins, clip_quantile=0.02)
    with warned("shared bins", "crowded"):
        # Beside 500 all other values share bins, and nothing is clipped.
        x[0] = 500
        binned_mutual_information(x, y, bins, margin=0.01)


# -- no pairs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
def test_a_batch_of_no_pairs_has_no_values(shape, device):
    x, leading = torch.rand(shape, device=device), shape[:-1]
    vectors = x.unsqueeze(-1)
    for options in ({}, {"num_bins": (4, 3)}, {"value_range": (0, 1)}, {"kernel": "cubic"}):
        values = binned_mutual_information(x, x, **options)
        assert (values.shape, values.dtype, values.device) == (leading, torch.float64, x.device)
        joint = binned_joint(x, x, **options)
        assert joint.shape == (*leading, *options.get("num_bins", (1, 1)))
    assert binned_mutual_information(x, x, weights=x).shape == leading
    assert binned_conditional_mutual_information(x, x, x.long()).shape == leading
    assert kde_mutual_information(x, x).shape == leading
    assert kde_joint(x, x, grid_size=6).shape == (*leading, 6, 6)
    assert knn_mutual_information(vectors, vectors).shape == leading
    assert gaussian_mutual_information(vectors, vectors).shape == leading


@pytest.mark.parametrize("function", [binned_mutual_information, binned_joint, kde_joint])
@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_pairs_without_samples_are_refused(function, shape):
    with pytest.raises(ValueError, match="Expected at least one sample"):
        function(torch.rand(shape), torch.rand(shape))


@pytest.mark.parametrize("function", [knn_mutual_information, gaussian_mutual_information])
def test_no_pairs_without_values_are_refused_as_pairs_are(function):
    x = torch.rand(0, 9, 1, device="meta")
    with pytest.raises(ValueError, match="Expected `x` to hold values, but it is on the device"):
        function(x, x)


@pytest.mark.parametrize("conditional", [False, True])
def test_an_automatic_number_of_bins_is_not_advised_where_there_is_one(conditional):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, generator=generator)
    z = torch.zeros(3, dtype=torch.int64)
    for num_bins, advised in ((8, True), ("auto", False)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if conditional:
                binned_conditional_mutual_information(x, y, z, num_bins)
            else:
                binned_mutual_information(x, y, num_bins)
        (message,) = (str(w.message) for w in caught if w.message.kind == "undersampled")
        assert ('num_bins="auto"' in message) == advised
