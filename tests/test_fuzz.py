"""Random calls of all that is public keep the promises of ``tests/fuzzing``, and so do those that
once broke one.
"""

import math
import warnings
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_metrics import (
    BinnedMutualInformation,
    KDEMutualInformation,
    KDEMutualInformationLoss,
    KNNConditionalMutualInformation,
    KNNMutualInformation,
    MutualInformationWarning,
)
from mi_metrics.functional import (
    binned_joint,
    binned_mutual_information,
    confidence_interval,
    entropies,
    independence_p_value,
    kde_joint,
    kde_mutual_information,
    knn_mutual_information,
    knn_p_value,
    knn_reliability,
    mutual_information,
    mutual_information_gap,
    standard_error,
)
from tests.cautions import ignore_cautions
from tests.fuzzing import KINDS

X = torch.arange(12.0)
Y = X.remainder(5)


@pytest.mark.parametrize("kind", KINDS)
@given(random=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_random_calls_keep_their_promises(kind: str, random: Random) -> None:
    KINDS[kind](random).run()


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
def test_many_seeded_calls_keep_their_promises(kind: str) -> None:
    for number in range(200):
        call = KINDS[kind](Random(f"0/{kind}/{number}"))
        call.run()


# What campaigns of campaigns/fuzz.py have found.

SPARSE, META, FLOAT8 = X.to_sparse(), X.to("meta"), X.to(torch.float8_e4m3fn)
FUNCTIONS = (binned_mutual_information, binned_joint, kde_mutual_information, kde_joint)


@pytest.mark.parametrize("function", [*FUNCTIONS, knn_mutual_information])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            SPARSE,
            TypeError,
            r"`x` to be a dense tensor, but got the layout torch.sparse_coo. Convert .* "
            r"x.to_dense\(\)",
        ),
        (
            FLOAT8,
            TypeError,
            r"`x` in a dtype that has arithmetic, but got torch.float8_e4m3fn.* x.float\(\)",
        ),
        (META, ValueError, "`x` to hold values, but it is on the device meta"),
    ],
)
def test_tensors_without_values_or_arithmetic_are_refused(function, x, error, message):
    with pytest.raises(error, match=message):
        function(x, X.to(x.device))


def test_values_are_missed_before_bins_are_asked_for():
    with pytest.raises(ValueError, match="`x` to hold values"):
        binned_joint(META, Y.to("meta", torch.int8), value_range=(0, 5))


@pytest.mark.parametrize(
    "measure", [entropies, mutual_information, standard_error, independence_p_value]
)
def test_tables_without_bins_or_values_are_refused(measure):
    for shape in ((0, 2), (3, 2, 0)):
        with pytest.raises(ValueError, match="at least one bin of x and one of y, but got shape"):
            measure(torch.zeros(shape))
    with pytest.raises(ValueError, match="`counts` to hold values, but it is on the device meta"):
        measure(torch.zeros(2, 2, device="meta"))


HUGE = 10**400


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: BinnedMutualInformation(5, resolution=2**30),
            "num_outputs=1 with 1073741824 x 1073741824 each",
        ),
        (
            lambda: BinnedMutualInformation(5, value_range=(0, 1), num_outputs=2**40),
            "num_outputs=1099511627776 with 5",
        ),
        (lambda: BinnedMutualInformation(HUGE), "num_bins=1000"),
        (lambda: KDEMutualInformation(resolution=2**30), "1073741824 x 1073741824 each"),
        (lambda: KDEMutualInformation(grid_size=HUGE), "grid_size=1000"),
        (lambda: KDEMutualInformationLoss(grid_size=2**30), "grid_size=1073741824"),
        (
            lambda: KNNMutualInformation(max_samples=2**50),
            "max_samples=1125899906842624 with x_dim=1, y_dim=1",
        ),
        (lambda: KNNMutualInformation(num_outputs=HUGE), "num_outputs=1000"),
        (lambda: kde_mutual_information(X, Y, grid_size=2**40), "grid_size=1099511627776"),
    ],
)
def test_tables_that_no_memory_holds_are_refused_before_it_is_asked_for(build, message):
    with pytest.raises(
        ValueError, match=rf"(?s)fits in \d+ GiB, .* but got .*{message}.*GiB. Use fewer"
    ):
        build()


@pytest.mark.parametrize("call", [kde_mutual_information, kde_joint])
def test_a_bandwidth_beyond_all_floats_is_refused(call):
    with pytest.raises(ValueError, match=r"`bandwidth` to be .* positive numbers, but got 1000"):
        call(X, Y, bandwidth=HUGE)


def test_a_bandwidth_of_numpy_is_a_number_like_others():
    x = 1e300 * X.double()
    for bandwidth in (np.float32(0.5), (np.float32(0.5), np.float32(0.25))):
        expected = (
            tuple(map(float, bandwidth)) if isinstance(bandwidth, tuple) else float(bandwidth)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MutualInformationWarning)
            value = kde_mutual_information(x, Y, bandwidth=bandwidth)
            assert value.equal(kde_mutual_information(x, Y, bandwidth=expected))


def test_a_whole_bandwidth_beyond_all_ints_is_a_number_like_others():
    x = X.view(1, 1, 12)
    wide = KDEMutualInformationLoss(bandwidth=10**30)(x, Y.view(1, 1, 12))
    assert wide.equal(KDEMutualInformationLoss(bandwidth=1e30)(x, Y.view(1, 1, 12)))


def test_whole_counts_end_where_float64_does_not_tell_them_apart():
    counts = torch.tensor([[1e308, 1e308], [1e308, 1e308]], dtype=torch.float64, requires_grad=True)
    assert mutual_information(counts).item() == pytest.approx(0, abs=1e-15)
    for call, options in (
        (mutual_information, {"bias_correction": "grassberger"}),
        (independence_p_value, {}),
    ):
        with pytest.raises(
            ValueError, match=r"needs whole counts, but got 1e\+308, and above 2\*\*53"
        ):
            call(counts, **options)


def test_the_error_of_weights_near_nothing_is_a_number():
    counts = torch.tensor([[1e-323, 7e-323], [2.5e-323, 5e-324]], dtype=torch.float64)
    expected = standard_error(torch.tensor([[2, 14], [5, 1]])).item() / math.sqrt(5e-324)
    assert standard_error(counts).item() == pytest.approx(expected, rel=1e-12)


def test_the_correction_of_weights_near_nothing_is_a_number():
    counts = torch.full((2, 3), 5e-324, dtype=torch.float64)
    assert mutual_information(counts, bias_correction="miller_madow").isfinite()
    assert mutual_information(0 * counts, bias_correction="miller_madow").isnan()


def test_invalid_samples_of_a_batch_in_any_layout_are_dropped():
    # The mask took the layout of the samples over, and its view as one row was refused by torch.
    x = torch.arange(24.0).view(3, 2, 4)
    x[1, 1, 2] = torch.nan
    strided = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not strided.is_contiguous()
    values = []
    for batch in (x, strided):
        metric = BinnedMutualInformation(
            3, value_range=(0, 24), num_outputs=2, nan_strategy="ignore"
        )
        metric.update(batch, batch)
        values.append(metric.counts())
    assert values[0].equal(values[1])
    assert values[1].sum((1, 2)).tolist() == [12, 11]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("normalization", ["none", "arithmetic"])
def test_gradients_of_a_range_next_to_nothing_stay_within_their_dtype(dtype, normalization):
    # Slopes of 1 / range pass the largest number that float32 has.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 8, generator=generator, dtype=torch.float64)
    x = (x * 2.0**-130).to(dtype).requires_grad_()
    y = torch.randn(1, 1, 8, generator=generator)
    (65536 * KDEMutualInformationLoss(normalization=normalization)(x, y)).backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


def test_numpy_integers_are_integers():
    x, y = X.view(-1, 1), torch.stack([Y, X.remainder(3)], 1)
    expected = knn_mutual_information(x, y, 3, algorithm="ksg2")
    assert knn_mutual_information(x, y, np.int64(3), algorithm="ksg2").equal(expected)
    metric = KNNMutualInformation(
        np.int64(3), x_dim=np.int64(1), y_dim=np.int64(2), algorithm="ksg2"
    )
    metric.update(x, y)
    assert metric.compute().equal(expected)


def test_labels_on_another_device_are_refused_as_all_samples_are():
    metric = KNNMutualInformation(discrete_y=True)
    with pytest.raises(ValueError, match="samples on the metric's device cpu, but got meta"):
        metric.update(X.to("meta"), Y.long().to("meta"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@ignore_cautions
def test_gradients_of_the_function_stay_within_their_dtype(dtype, kernel):
    # A given range next to nothing, in which the samples lie.
    least = {torch.float32: 1e-44, torch.float64: 1e-323}[dtype]
    x = (
        (least * torch.tensor([0, 1, 1, 2, 3, 5, 4], dtype=torch.float64))
        .to(dtype)
        .requires_grad_()
    )
    y = torch.tensor([0.0, 0.1, 0.4, 0.8, 0.9, 0.7, 0.2])
    value_range = ((0, 5 * least), (0, 1))
    value = binned_mutual_information(
        x, y, 4, value_range=value_range, kernel=kernel, bias_correction="miller_madow"
    )
    (65536 * value).backward()
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("normalization", ["joint", "studholme"])
def test_a_normalised_loss_with_a_kernel_next_to_nothing_is_a_number(normalization):
    # The sheared difference of two opposites is a constant, whose grid had no width beside a kernel
    # of 1e-61.
    x = torch.randn(40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for y in (-x.detach(), x.detach() * 0 + 7):
        loss = KDEMutualInformationLoss(
            normalization=normalization, pool="batch", bandwidth=1e-300, grid_size=4
        )
        value = loss(x, y)
        assert value.isfinite()
        (gradient,) = torch.autograd.grad(value, [x])
        assert gradient.isfinite().all()


def test_every_sample_lies_in_a_cell_where_only_occupied_stretches_have_some():
    # Cells were found by a division and looked up by a product, which differ in the last bit.
    generator = torch.Generator().manual_seed(0)
    for seed in range(200):
        x = torch.randn(64, generator=generator.manual_seed(seed)) / 10
        y = -x.half()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MutualInformationWarning)
            assert kde_mutual_information(x, y, grid_size=64, bandwidth=1e-300).isfinite()


@pytest.mark.parametrize("kernel", ["gaussian", np.array([1.0, 2.0])], ids=["name", "array"])
def test_an_unknown_kernel_is_named_whatever_the_correction(kernel):
    for correction in ("none", "grassberger"):
        with pytest.raises(
            ValueError, match="Expected `kernel` to be one of 'hard', 'linear', 'cubic', but got"
        ):
            binned_mutual_information(X, Y, kernel=kernel, bias_correction=correction)


@pytest.mark.parametrize(
    "function",
    [confidence_interval, lambda counts: independence_p_value(counts, method="permutation")],
)
def test_counts_are_checked_before_tables_are_drawn(function):
    with pytest.raises(ValueError, match="at least one bin of x"):
        function(torch.zeros(0, 2))
    with pytest.raises(TypeError, match="`counts`"):
        function(10)
    # Counts with a gradient were turned into a number, of which torch warns.
    assert function(torch.tensor([[9.0, 1.0], [2.0, 8.0]], requires_grad=True)).isfinite().all()


def test_the_ends_of_an_interval_are_in_order_for_a_handful_of_samples():
    counts = torch.tensor([[0, 0, 2], [1, 1, 0]])
    low, high = confidence_interval(counts, 0.5, num_resamples=9)
    assert low <= high


def test_an_array_is_no_way_of_scaling():
    with pytest.raises(TypeError, match="`standardize`"):
        knn_mutual_information(X, Y, standardize=np.array([1.0, 2.0]))


@pytest.mark.parametrize("function", [knn_mutual_information, knn_p_value, knn_reliability])
def test_labels_that_occur_once_are_refused_alike(function):
    labels = torch.arange(36).view(3, 12)
    labels[0, :2] = 7
    with pytest.raises(ValueError, match="at least one class of two or more members in `y`"):
        function(X.expand(3, 12).unsqueeze(-1), labels, discrete_y=True)


@ignore_cautions
def test_a_grid_size_of_numpy_is_a_number_like_others():
    joint = kde_joint(X, Y, grid_size=np.int64(5))
    assert joint.equal(kde_joint(X, Y, grid_size=5))


@pytest.mark.parametrize(
    "call",
    [
        lambda seed: knn_p_value(X, Y, num_permutations=1, seed=seed),
        lambda seed: knn_reliability(X, Y, 1, parts=2, seed=seed),
        lambda seed: independence_p_value(torch.eye(3), method="permutation", seed=seed),
        lambda seed: confidence_interval(torch.eye(3), seed=seed),
    ],
)
@ignore_cautions
def test_a_seed_is_one_that_every_generator_takes(call):
    call(2**63 - 1)
    with pytest.raises(ValueError, match=r"Expected `seed` to be below 2\*\*63, but got 9223"):
        call(2**63)


@pytest.mark.parametrize(
    "call",
    [
        lambda counts: mutual_information(counts, normalization="adjusted"),
        confidence_interval,
        lambda counts: independence_p_value(counts, method="permutation"),
    ],
)
def test_counts_of_any_kind_can_go_to_numpy(call):
    counts = torch.tensor([[40.0, 10.0], [10.0, 40.0]], dtype=torch.float64)
    expected = call(counts)
    for kind in (torch._neg_view(-counts), counts.clone().requires_grad_()):
        value = call(kind)
        assert value.equal(expected)
        assert not value.requires_grad


def test_a_test_given_z_checks_its_options_as_others_do():
    with pytest.raises(ValueError, match="`algorithm` to be one of 'ksg1', 'ksg2'"):
        knn_p_value(X, Y, z=X, algorithm=np.array([1.0, 2.0]))
    with pytest.raises(TypeError, match="`discrete_y` to be True or False"):
        knn_p_value(X, Y, z=X, discrete_y=0)


def test_a_sparse_condition_is_refused_as_all_samples_are():
    with pytest.raises(TypeError, match="`z` to be a dense tensor"):
        KNNConditionalMutualInformation().update(X, Y, SPARSE)


def test_negative_entropies_with_a_gradient_are_refused_alike():
    with pytest.raises(ValueError, match="from -1 to 1"):
        mutual_information_gap(torch.eye(2), torch.tensor([-1.0, 1.0], requires_grad=True))


@ignore_cautions
def test_samples_beyond_a_clipped_range_of_one_point_count_in_its_only_bin():
    # Alone they had the last bin of the table, and in a batch the first.
    x, y = torch.arange(400.0), torch.zeros(400)
    y[::50] = 3.0
    alone = binned_mutual_information(x, y, 8, clip_quantile=0.05)
    both = binned_mutual_information(x.expand(2, -1), y.expand(2, -1), 8, clip_quantile=0.05)
    assert both.equal(alone.expand(2))
    assert alone == 0
    joint = binned_joint(x, y, 8, clip_quantile=0.05)
    assert joint[:, 0].sum() == 1
