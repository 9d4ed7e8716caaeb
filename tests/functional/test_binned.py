import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from mi_metrics.functional import (
    binned_joint,
    binned_mutual_information,
    mutual_information,
)
from mi_metrics.functional.tables import sums
from mi_metrics.functional.tensors import CHUNKS
from tests import oracles
from tests.cautions import ignore_cautions, warned

RANGES = ((-2.0, 3.0), (-1.5, 2.5))


def gaussian(*shape, r=0.6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, *shape, generator=generator, dtype=dtype)
    return x, r * x.square() + math.sqrt(1 - r * r) * noise


def table(x, y, bins, **options):
    n = (
        x.shape[-1]
        if options.get("weights") is None
        else options["weights"].sum(-1)[..., None, None]
    )
    return binned_joint(x, y, bins, **options) * n


# -- the hard table --------------------------------------------------------------------------------


@ignore_cautions
def test_hard_table_is_the_loops():
    x, y = gaussian(2000)
    expected = oracles.hard_table(x, y, RANGES, (7, 5))
    assert np.array_equal(table(x, y, (7, 5), value_range=RANGES).round().numpy(), expected)


def test_hard_table_is_numpys_inside_the_range():
    x, y = gaussian(5000)
    expected, _, _ = np.histogram2d(x, y, bins=(9, 6))
    np.testing.assert_allclose(table(x, y, (9, 6)).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@ignore_cautions
def test_bins_are_defined_by_the_formula_in_the_inputs_dtype(dtype):
    # Multiples of a tenth lie on edges that rounding moves: the formula decides, not real
    # arithmetic.
    x = (torch.arange(-10, 30, dtype=dtype) * 0.1).repeat(7)
    y = x.flip(0)
    expected = torch.zeros(10, 5, dtype=torch.int64)
    ix = ((x - 0.1) * 10 / (1.7 - 0.1)).floor().clamp(0, 9).long()
    iy = ((y - 0.3) * 5 / (0.9 - 0.3)).floor().clamp(0, 4).long()
    expected.index_put_((ix, iy), torch.ones_like(ix), accumulate=True)
    assert table(x, y, (10, 5), value_range=((0.1, 1.7), (0.3, 0.9))).round().long().equal(expected)


@ignore_cautions
@pytest.mark.parametrize("shape", [(10,), (3, 70), (2, 3, 4, 11), (70, 3), (1,)])
@pytest.mark.parametrize("kernel", ["hard", "linear", "cubic"])
def test_a_batch_is_its_pairs_one_by_one(shape, kernel, monkeypatch):
    x, y = gaussian(*shape)
    options = {"kernel": kernel, "bias_correction": "miller_madow"}
    for value_range in (None, RANGES):
        together = binned_mutual_information(x, y, (4, 3), value_range=value_range, **options)
        assert together.shape == shape[:-1]
        pairs = zip(x.reshape(-1, shape[-1]), y.reshape(-1, shape[-1]), strict=True)
        one_by_one = [
            binned_mutual_information(a, b, (4, 3), value_range=value_range, **options)
            for a, b in pairs
        ]
        tolerance = 0 if kernel == "hard" else 1e-13
        torch.testing.assert_close(
            together.flatten(), torch.stack(one_by_one), rtol=0, atol=tolerance
        )
        monkeypatch.setitem(CHUNKS, "bins", (7, 7))
        small_chunks = binned_mutual_information(x, y, (4, 3), value_range=value_range, **options)
        torch.testing.assert_close(small_chunks, together, rtol=0, atol=tolerance)
        monkeypatch.undo()


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=60),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_value_is_scikit_learns_on_the_bin_codes(pairs, bins):
    x, y = torch.tensor(pairs, dtype=torch.float64).T
    counts = oracles.hard_table(x, y, ((-9, 9), (-9, 9)), bins)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = binned_mutual_information(x, y, bins, value_range=(-9, 9))
    assert float(ours) == pytest.approx(mutual_info_score(*oracles.codes(counts)), abs=1e-12)


finite = st.floats(allow_nan=False, allow_infinity=False)


@ignore_cautions
@settings(max_examples=300)
@given(
    st.lists(st.tuples(finite, finite), min_size=1, max_size=30),
    st.sampled_from(["hard", "linear", "cubic"]),
    st.sampled_from(
        [{}, {"clip_quantile": 0.2}, {"margin": 0.3}, {"binning": "quantile"}, {"num_bins": "auto"}]
    ),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_mass_is_conserved_and_values_finite_whatever_the_numbers(pairs, kernel, options, dtype):
    if options.get("binning") == "quantile":
        kernel = "hard"
    limit = torch.finfo(dtype).max
    x, y = torch.tensor(pairs, dtype=torch.float64).clamp(-limit, limit).to(dtype).T
    options = {"num_bins": (4, 3)} | options
    joint = binned_joint(x, y, kernel=kernel, **options)
    assert float(joint.sum()) == pytest.approx(1, abs=1e-12)
    assert joint.min() >= 0
    value = binned_mutual_information(
        x, y, kernel=kernel, bias_correction="miller_madow", **options
    )
    assert value.isfinite()
    if kernel == "hard" and ((x == x[0]).all() or (y == y[0]).all()):
        assert value == 0


@ignore_cautions
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
@pytest.mark.parametrize(
    "options", [{}, {"clip_quantile": 0.05}, {"margin": 0.5}, {"binning": "quantile"}]
)
def test_value_does_not_depend_on_the_scale(scale, options):
    x, y = gaussian(3000)
    # A power of two, so that not a single sample changes its bin.
    factor = 2.0 ** round(math.log2(scale))
    expected = binned_mutual_information(x, y, (9, 8), **options)
    assert binned_mutual_information(
        x * factor, -y * factor, (9, 8), **options
    ).item() == pytest.approx(binned_mutual_information(x, -y, (9, 8), **options).item(), abs=1e-12)
    assert expected > 0.05


@ignore_cautions
def test_extreme_ranges_are_evaluated_without_overflow():
    x = torch.tensor([-1.7e308, -1.0, 0.0, 1.0, 1.7e308], dtype=torch.float64)
    assert table(x, x, 4).diagonal().round().tolist() == [1, 0, 3, 1]
    assert table(x, x, 4, value_range=(-1.7e308, 1.7e308)).diagonal().round().tolist() == [
        1,
        0,
        3,
        1,
    ]
    small = torch.tensor([-3e38, -1.0, 0.0, 1.0, 3e38])
    assert table(small, small, 4).diagonal().round().tolist() == [1, 0, 3, 1]
    assert table(small, small, 4, value_range=(-1e300, 1e300)).diagonal().round().tolist() == [
        0,
        0,
        5,
        0,
    ]
    assert table(small, small, 4, value_range=(0, 1e-300)).diagonal().round().tolist() == [
        3,
        0,
        0,
        2,
    ]


def test_samples_outside_a_given_range_go_to_the_edge_bins():
    x = torch.tensor([-5.0, 0.1, 0.9, 7.0])
    with warned("outside"):
        assert table(x, x, 2, value_range=(0, 1)).tolist() == [[2, 0], [0, 2]]


def test_the_last_bin_is_closed_and_the_others_half_open():
    x = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    assert table(x, x, 4).diagonal().tolist() == [1, 1, 1, 2]


# -- ranges and edges from the data ----------------------------------------------------------------


@ignore_cautions
def test_clipping_takes_numpys_quantiles():
    x, y = gaussian(999)
    ranges = [tuple(np.quantile(v, [0.03, 0.97])) for v in (x, y)]
    clipped = binned_joint(x, y, (8, 6), clip_quantile=0.03)
    assert clipped.equal(binned_joint(x, y, (8, 6), value_range=tuple(map(tuple, ranges))))


def test_margin_is_a_fraction_of_the_width_at_both_ends():
    x, y = gaussian(500)
    x = x + 1000  # the width counts, not the bounds
    ranges = []
    for v in (x, y):
        lo, hi = v.min().item(), v.max().item()
        ranges.append((lo - 0.25 * (hi - lo), hi + 0.25 * (hi - lo)))
    widened = binned_joint(x, y, (8, 6), margin=0.25)
    torch.testing.assert_close(
        widened, binned_joint(x, y, (8, 6), value_range=tuple(ranges)), rtol=0, atol=0
    )


def test_quantile_bins_have_equal_frequency():
    x, y = gaussian(1000)
    joint = table(x, y, (8, 7), binning="quantile")
    assert joint.sum(1).round().tolist() == [125] * 8
    assert set(joint.sum(0).round().tolist()) == {142, 143}


def test_quantile_bins_keep_ties_together():
    x = torch.tensor([0.0] * 6 + [1.0, 2.0])
    assert table(x, x, 4, binning="quantile").diagonal().round().tolist() == [6, 1, 1, 0]
    assert table(x, x, 2, binning="quantile").diagonal().round().tolist() == [6, 2]
    constant = torch.ones(5)
    assert binned_mutual_information(constant, torch.arange(5.0), 3, binning="quantile") == 0


def test_quantile_binning_is_invariant_under_monotone_maps():
    x, y = gaussian(2000)
    expected = binned_mutual_information(x, y, 12, binning="quantile")
    assert binned_mutual_information(x.exp(), (3 * y).atan(), 12, binning="quantile").equal(
        expected
    )


def test_quantiles_work_beyond_the_limit_of_torch_quantile():
    # Of 2**24 samples up to PyTorch 2.14.
    n = 2**24 + 5
    x = torch.arange(n, dtype=torch.float32).remainder_(1000)
    joint = binned_joint(x, x, 10, clip_quantile=0.1)
    assert joint.trace().item() == pytest.approx(1, abs=1e-12)


# -- soft kernels and weights ----------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "order"), [("linear", 1), ("cubic", 3)])
@pytest.mark.parametrize("bins", [(7, 5), (1, 2), (2, 3)])
@ignore_cautions
def test_soft_table_is_scipys_splines(kernel, order, bins):
    x, y = gaussian(400)
    expected = oracles.soft_table(x.numpy(), y.numpy(), RANGES, bins, order)
    np.testing.assert_allclose(
        table(x, y, bins, value_range=RANGES, kernel=kernel).numpy(), expected, atol=1e-11
    )


@pytest.mark.parametrize("kernel", ["hard", "linear", "cubic"])
def test_scattered_and_expanded_tables_agree(kernel, monkeypatch):
    # The second is what other devices than the CPU use.
    x, y = gaussian(3, 500)
    weights = torch.rand(3, 500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scattered = binned_joint(x, y, (6, 5), kernel=kernel, weights=weights)
    monkeypatch.setattr(sums, "_scatter", sums._multiply)
    torch.testing.assert_close(
        binned_joint(x, y, (6, 5), kernel=kernel, weights=weights), scattered, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize(("kernel", "order"), [("linear", 1), ("cubic", 3)])
@ignore_cautions
def test_weighted_soft_table_is_the_oracles(kernel, order):
    x, y = gaussian(300)
    weights = torch.rand(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = oracles.soft_table(x.numpy(), y.numpy(), RANGES, (6, 5), order, weights.numpy())
    ours = table(x, y, (6, 5), value_range=RANGES, kernel=kernel, weights=weights)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [{}, {"clip_quantile": 0.1}, {"binning": "quantile"}, {"margin": 0.2}, {"num_bins": "auto"}],
)
def test_weights_are_frequencies(options):
    x, y = gaussian(60)
    weights = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(1))
    repeated = x.repeat_interleave(weights), y.repeat_interleave(weights)
    options = {"num_bins": (6, 5)} | options
    if options["num_bins"] == "auto":
        # The effective number of samples is below that of the repeated ones, which are not
        # independent.
        assert binned_joint(x, y, weights=torch.ones(60), **options).equal(
            binned_joint(x, y, **options)
        )
        return
    joint = binned_joint(x, y, weights=weights, **options)
    torch.testing.assert_close(joint, binned_joint(*repeated, **options), rtol=0, atol=1e-15)
    for correction in ("none", "grassberger"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours = binned_mutual_information(
                x, y, weights=weights, bias_correction=correction, **options
            )
            theirs = binned_mutual_information(*repeated, bias_correction=correction, **options)
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-13)


@ignore_cautions
@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1 / 700, 0.1, 1e6, 1e300])
@pytest.mark.parametrize(
    "options",
    [{}, {"clip_quantile": 0.03}, {"binning": "quantile"}, {"margin": 0.2}, {"num_bins": "auto"}],
)
def test_only_ratios_of_weights_matter(scale, options):
    x, y = gaussian(700)
    weights = torch.rand(700, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    options = {"num_bins": (9, 8), "bias_correction": "miller_madow"} | options
    expected = binned_mutual_information(x, y, weights=weights, **options).item()
    ours = binned_mutual_information(x, y, weights=scale * weights, **options).item()
    assert ours == pytest.approx(expected, abs=1e-12)
    if scale >= 1:
        return  # whole weights are frequencies: a sample of weight 1e6 stands for 1e6 samples
    equal = binned_mutual_information(x, y, weights=torch.full_like(x, scale), **options).item()
    assert equal == pytest.approx(binned_mutual_information(x, y, **options).item(), abs=1e-12)


def test_undersampling_of_weighted_samples_is_judged_by_their_effective_number():
    x, y = gaussian(10_000)
    # Silent, and warnings are errors.
    binned_mutual_information(x, y, 16, weights=torch.full_like(x, 1e-4))
    with warned("undersampled", match="300 samples occupy"):
        binned_mutual_information(x[:300], y[:300], 32, weights=torch.full((300,), 1e6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_default_dtype_changes_nothing(dtype):
    x, y = gaussian(500)
    calls = [
        lambda s=s, o=o: binned_mutual_information(s * x, s * y, 6, **o)
        for s in (1.0, 1e307)
        for o in (
            {},
            {"clip_quantile": 0.1},
            {"kernel": "cubic"},
            {"weights": torch.ones(500)},
            {"margin": 0.1},
        )
    ]
    expected = [call() for call in calls]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        assert all(call().equal(value) for call, value in zip(calls, expected, strict=True))
    finally:
        torch.set_default_dtype(before)


def test_views_of_memory_with_a_pending_sign():
    z = torch.complex(*gaussian(300)).conj()
    for options in ({}, {"binning": "quantile"}, {"clip_quantile": 0.1}):
        assert binned_mutual_information(z.imag, z.real, 5, **options).equal(
            binned_mutual_information(z.imag.clone(), z.real.clone(), 5, **options)
        )


def test_weight_zero_excludes_even_nan_and_does_not_stretch_the_range():
    x, y = gaussian(50)
    keep = torch.ones(50)
    keep[::7] = 0
    spoiled = torch.where(keep > 0, x, torch.nan), torch.where(keep > 0, y, 1e9)
    for options in ({}, {"binning": "quantile"}, {"kernel": "cubic"}, {"clip_quantile": 0.1}):
        expected = binned_joint(x[keep > 0], y[keep > 0], 4, **options)
        torch.testing.assert_close(
            binned_joint(*spoiled, 4, weights=keep, **options), expected, rtol=0, atol=1e-14
        )


def test_miller_madow_counts_effective_samples():
    x, y = gaussian(800)
    weights = torch.rand(800, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    counts = table(x, y, (5, 4), weights=weights)
    effective = float(weights.sum() ** 2 / weights.square().sum())
    hx, hy, hxy = oracles.information(counts.numpy(), "miller_madow", effective)
    ours = binned_mutual_information(x, y, (5, 4), weights=weights, bias_correction="miller_madow")
    assert float(ours) == pytest.approx(hx + hy - hxy, abs=1e-12)


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("normalization", ["none", "geometric", "studholme"])
def test_gradient_is_exact_away_from_kinks(kernel, normalization):
    x, y = gaussian(2, 12)
    x, y = x.requires_grad_(), y.requires_grad_()

    def value(a, b):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return binned_mutual_information(
                a, b, (5, 4), value_range=RANGES, kernel=kernel, normalization=normalization
            )

    assert torch.autograd.gradcheck(value, (x, y))


@ignore_cautions
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_gradient_is_finite_on_kinks_ties_constants_and_extremes(kernel):
    for x in (
        torch.zeros(6),
        torch.tensor([0.0, 0.5, 1.0, 0.5, 0.25, 1.0]),
        torch.tensor([-1e30, 1e30, 0.0, 0.0, 1.0, 2.0]),
        torch.linspace(0, 1, 6),
    ):
        x = x.clone().requires_grad_()
        for y in (x, x.detach().flip(0), torch.ones(6)):
            for value_range in (None, (0.0, 1.0)):
                value = binned_mutual_information(x, y, 4, kernel=kernel, value_range=value_range)
                (gradient,) = torch.autograd.grad(value, x)
                assert gradient.isfinite().all()


def test_range_from_the_data_is_a_constant_to_the_gradient():
    x, y = gaussian(40)
    x.requires_grad_()
    ranges = tuple((v.min().item(), v.max().item()) for v in (x, y))
    gradients = []
    for value_range in (None, ranges):
        value = binned_mutual_information(
            x, y, 4, kernel="cubic", value_range=value_range, bias_correction="miller_madow"
        )
        gradients.append(torch.autograd.grad(value, x)[0])
    assert gradients[0].equal(gradients[1])
    assert gradients[0].abs().max() > 1e-4


# -- semantics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["hard", "linear", "cubic"])
@ignore_cautions
def test_value_is_symmetric_and_the_joint_transposes(kernel):
    x, y = gaussian(500)
    forth = binned_joint(x, y, (7, 4), value_range=RANGES, kernel=kernel)
    back = binned_joint(y, x, (4, 7), value_range=RANGES[::-1], kernel=kernel)
    assert forth.shape == (7, 4)
    torch.testing.assert_close(forth, back.T, rtol=0, atol=1e-15)
    assert not torch.allclose(forth.sum(1)[:4], forth.sum(0))


@pytest.mark.parametrize(("r", "tolerance"), [(0.0, 0.01), (0.5, 0.02), (0.9, 0.02), (0.99, 0.05)])
def test_gaussian_closed_form(r, tolerance):
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 50_000, generator=generator)
    y = r * x + math.sqrt(1 - r * r) * noise
    truth = -0.5 * math.log1p(-r * r)
    value = binned_mutual_information(x, y, "auto", bias_correction="grassberger")
    assert value.item() == pytest.approx(truth, abs=tolerance)


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_quantised_images_are_evaluated_as_labels(levels):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, levels, (1, 64 * 64), generator=generator)
    other = (image + torch.randint(0, 2, image.shape, generator=generator)) % levels
    labels = image.flatten().tolist(), other.flatten().tolist()
    expected = mutual_info_score(*labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dtype in (torch.uint8, torch.int64, torch.float32, torch.float64):
            value = binned_mutual_information(image.to(dtype), other.to(dtype), levels)
            assert value.item() == pytest.approx(expected, abs=1e-12)


def test_dtypes():
    x, y = gaussian(300, dtype=torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        half = binned_mutual_information(x.to(dtype), y.to(dtype), 8)
        assert half.dtype == torch.float64
        assert half.equal(binned_mutual_information(x.to(dtype).float(), y.to(dtype).float(), 8))
    assert binned_mutual_information(x > 0, y > 0, 2).equal(
        binned_mutual_information((x > 0).long(), (y > 0).double(), 2)
    )
    mixed = binned_joint(x, y.double(), 8)
    assert mixed.sum().item() == pytest.approx(1)


def test_strides_do_not_matter(device):
    x, y = gaussian(4, 6, 50)
    x, y = x.to(device), y.to(device)
    expected = binned_mutual_information(x, y, 4, bias_correction="miller_madow")
    strided = (v.transpose(0, 2).contiguous().transpose(0, 2) for v in (x, y))
    assert binned_mutual_information(*strided, 4, bias_correction="miller_madow").equal(expected)


@ignore_cautions
def test_functional_of_the_table_is_the_value():
    x, y = gaussian(900)
    counts = table(x, y, (6, 5), value_range=RANGES).round().long()
    for correction in ("none", "miller_madow", "grassberger"):
        for normalization in ("none", "max", "joint"):
            options = {"bias_correction": correction, "normalization": normalization}
            value = binned_mutual_information(x, y, (6, 5), value_range=RANGES, **options)
            assert value.item() == pytest.approx(
                mutual_information(counts, **options).item(), abs=1e-14
            )


def test_nothing_random_is_drawn_and_inputs_are_left_alone():
    x, y = gaussian(100)
    before = torch.get_rng_state(), x.clone(), y.clone()
    binned_mutual_information(x, y, 4, binning="quantile")
    binned_mutual_information(x, y, 4, kernel="cubic", clip_quantile=0.1)
    assert torch.get_rng_state().equal(before[0])
    assert x.equal(before[1])
    assert y.equal(before[2])


# -- bad input -------------------------------------------------------------------------------------

X = torch.linspace(0, 1, 10)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, X[:5]), {}, ValueError, r"same shape, but got \(10,\) and \(5,\)"),
        ((X, X.tolist()), {}, TypeError, "`y` to be a torch.Tensor, but got list"),
        ((X, X.to("meta")), {}, ValueError, "same device, but got cpu and meta"),
        ((X[:0], X[:0]), {}, ValueError, r"at least one sample, but got shape \(0,\)"),
        ((X[0], X[0]), {}, ValueError, "but got scalars"),
        ((X + 0j, X), {}, TypeError, "`x` to be real, but got torch.complex64"),
        ((X, X / 0), {}, ValueError, "`y` to be finite, but it holds 10 NaN or infinite of 10"),
        ((X, X.index_fill(0, torch.tensor([3]), torch.nan)), {}, ValueError, "holds 1 NaN"),
        ((X, X), {"num_bins": 0}, ValueError, "`num_bins` to be at least 1, but got 0"),
        ((X, X), {"num_bins": True}, TypeError, "`num_bins` to be an int, but got True"),
        ((X, X), {"num_bins": 2.5}, TypeError, "`num_bins` to be an int, but got 2.5"),
        ((X, X), {"num_bins": (2, 3, 4)}, ValueError, "but got 3 values"),
        ((X, X), {"num_bins": "many"}, ValueError, "an int, .* or 'auto', but got 'many'"),
        ((X, X), {"value_range": (1, 0)}, ValueError, "lo < hi, but got"),
        ((X, X), {"value_range": (1, 1)}, ValueError, "lo < hi, but got"),
        ((X, X), {"value_range": (0, math.nan)}, ValueError, "finite, but got nan"),
        ((X, X), {"value_range": (0, "1")}, TypeError, "to be a number, but got '1'"),
        ((X, X), {"value_range": ((0, 1), (2, 1))}, ValueError, r"`value_range\[1\]` with lo < hi"),
        ((X, X), {"value_range": (0, 1, 2)}, ValueError, r"to be None, \(lo, hi\) or"),
        ((X, X), {"value_range": ((0, 1, 2), (0, 1))}, ValueError, "pair"),
        ((X, X), {"value_range": "minmax"}, ValueError, "to be None"),
        ((X, X), {"value_range": (0, (1, 2))}, ValueError, "to be None"),
        ((X, X), {"value_range": (0, 10**400)}, ValueError, "to be finite"),
        ((X, X), {"num_bins": 10**6}, ValueError, "fits in 1 GiB, .* which takes 7451 GiB"),
        (
            (X, X),
            {"binning": "quantiles"},
            ValueError,
            "`binning` to be one of 'auto', 'uniform', 'quantile', 'values'",
        ),
        ((X, X), {"kernel": "gaussian"}, ValueError, "`kernel` to be one of"),
        ((X, X), {"clip_quantile": 0.5}, ValueError, r"in \[0, 0.5\), but got 0.5"),
        ((X, X), {"clip_quantile": -0.1}, ValueError, r"in \[0, 0.5\)"),
        ((X, X), {"margin": -1}, ValueError, r"`margin` in \[0, 1000\], but got -1"),
        ((X, X), {"margin": "5%"}, TypeError, "`margin` to be a number"),
        (
            (X, X),
            {"value_range": (0, 1), "clip_quantile": 0.1},
            ValueError,
            "excludes a given `value_range`",
        ),
        (
            (X, X),
            {"value_range": (0, 1), "margin": 0.1},
            ValueError,
            "excludes a given `value_range`",
        ),
        (
            (X, X),
            {"value_range": (0, 1), "binning": "quantile"},
            ValueError,
            "excludes a given `value_range`",
        ),
        ((X, X), {"binning": "quantile", "kernel": "linear"}, ValueError, 'needs kernel="hard"'),
        ((X, X), {"binning": "quantile", "margin": 0.1}, ValueError, "no range to clip or widen"),
        ((X, X), {"normalization": "nmi"}, ValueError, "`normalization` to be one of"),
        ((X, X), {"bias_correction": "jackknife"}, ValueError, "`bias_correction` to be one of"),
        (
            (X, X),
            {"bias_correction": "grassberger", "kernel": "cubic"},
            ValueError,
            "needs whole counts",
        ),
        (
            (X, X),
            {"bias_correction": "grassberger", "weights": X},
            ValueError,
            "needs whole counts",
        ),
        ((X, X), {"unit": "bit"}, ValueError, "`unit` to be one of 'nats', 'bits', but got 'bit'"),
        ((X, X), {"weights": X[:5]}, ValueError, r"shape \(10,\), but got \(5,\)"),
        ((X, X), {"weights": -X}, ValueError, "not negative, but got values from -1"),
        ((X, X), {"weights": X / 0}, ValueError, "`weights` to be finite"),
        ((X, X), {"weights": 0 * X}, ValueError, "leave at least one sample"),
        ((X, X), {"weights": [1.0] * 10}, TypeError, "`weights` to be a torch.Tensor"),
        (
            (X, X),
            {"weights": X.to("meta")},
            ValueError,
            "`x` and `weights` on the same device, but got cpu and meta",
        ),
    ],
)
def test_bad_input_is_refused_with_a_message(arguments, options, error, message):
    with pytest.raises(error, match=message):
        binned_mutual_information(*arguments, **options)
