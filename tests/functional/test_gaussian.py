"""Gaussian mutual information: closed forms, a slow formula, and what must not change it."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma
from scipy.stats import norm, rankdata

from mi_metrics import MutualInformationWarning
from mi_metrics.functional import gaussian_mutual_information
from mi_metrics.functional.gaussian import moments, power_of_two

CAP = -0.5 * math.log(2.0**-40)


def by_determinants(x, y):
    """The definition, by NumPy's determinants of covariances."""
    x, y = (np.asarray(v, dtype=np.float64).reshape(len(v), -1) for v in (x, y))
    covariances = [np.atleast_2d(np.cov(v, rowvar=False)) for v in (x, y, np.hstack((x, y)))]
    a, b, joint = (np.linalg.slogdet(c)[1] for c in covariances)
    return (a + b - joint) / 2


def bias(n, x_dim, y_dim):
    """The expectation of the plug-in value of independent Gaussian samples, term by term."""
    sums = [sum(digamma((n - i) / 2) for i in range(1, d + 1)) for d in (x_dim, y_dim)]
    return (sum(sums) - sum(digamma((n - i) / 2) for i in range(1, x_dim + y_dim + 1))) / 2


def pair(n, x_dim, y_dim, seed=0, dtype=torch.float64):
    """Dependent samples whose coordinates have different scales and places."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, x_dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, y_dim, generator=generator, dtype=torch.float64)
    mixing = torch.randn(x_dim, y_dim, generator=generator, dtype=torch.float64)
    y = 0.5 * x @ mixing + noise
    scale = torch.linspace(0.1, 30, y_dim, dtype=torch.float64)
    return (3 * x - 1).to(dtype), (scale * y + 20).to(dtype)


def plug_in(x, y, **options):
    return gaussian_mutual_information(x, y, bias_correction="none", **options)


@pytest.mark.parametrize(("x_dim", "y_dim"), [(1, 1), (1, 4), (3, 2), (10, 12)])
def test_value_is_that_of_the_determinants(x_dim, y_dim):
    x, y = pair(300, x_dim, y_dim)
    expected = by_determinants(x, y)
    assert plug_in(x, y).item() == pytest.approx(expected, abs=1e-12)
    corrected = gaussian_mutual_information(x, y)
    assert corrected.dtype == torch.float64
    assert corrected.shape == ()
    assert corrected.item() == pytest.approx(expected - bias(300, x_dim, y_dim), abs=1e-12)
    bits = gaussian_mutual_information(x, y, unit="bits")
    assert bits.item() == pytest.approx(corrected.item() / math.log(2), abs=1e-12)


@pytest.mark.parametrize("r", [0.0, 1e-8, -0.3, 0.9, 0.9999999])
def test_two_numbers_have_the_information_of_their_correlation(r):
    x, y = pair(200, 1, 1)
    x, y = x - x.mean(), y - y.mean()
    x = x / x.norm()
    y = y - x * (x * y).sum()
    y = y / y.norm()
    y = r * x + math.sqrt(1 - r * r) * y
    expected = -0.5 * math.log1p(-r * r)
    assert plug_in(x, y).item() == pytest.approx(expected, rel=1e-7, abs=1e-15)
    if r < 0.99:
        assert plug_in(x, y).item() == pytest.approx(expected, abs=1e-14)
    assert plug_in(x[:, 0], y[:, 0]).equal(plug_in(x, y))
    assert plug_in(x[:, 0], y).equal(plug_in(x, y))


def test_information_of_the_population_is_recovered_without_samples_noise():
    """Whitened noise gives the sample covariance any value, so closed forms hold to rounding."""
    d, n = 6, 200
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 2 * d, generator=generator, dtype=torch.float64)
    z = torch.linalg.qr(z - z.mean(0))[0]
    r = torch.linspace(0, 0.95, d, dtype=torch.float64)
    x, y = z[:, :d], r * z[:, :d] + (1 - r**2).sqrt() * z[:, d:]
    assert plug_in(x, y).item() == pytest.approx(-0.5 * (1 - r**2).log().sum().item(), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 5), st.integers(0, 60))
def test_value_depends_on_no_basis_and_no_order(seed, x_dim, y_dim, more):
    n = x_dim + y_dim + 2 + more
    x, y = pair(n, x_dim, y_dim, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    maps = []
    for d in (x_dim, y_dim):
        q, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
        p, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
        maps.append(q * torch.logspace(-1, 1, d, dtype=torch.float64) @ p)
    order = torch.randperm(n, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MutualInformationWarning)
        value = gaussian_mutual_information(x, y).item()
        moved = gaussian_mutual_information(x @ maps[0] - 7, y @ maps[1] + 3).item()
        assert moved == pytest.approx(value, abs=1e-10)
        turned = gaussian_mutual_information(x[order], y[order]).item()
        assert turned == pytest.approx(value, abs=1e-11)
        assert gaussian_mutual_information(y, x).item() == pytest.approx(value, abs=1e-11)
        assert plug_in(x, y).item() > -1e-12
        assert value == pytest.approx(plug_in(x, y).item() - bias(n, x_dim, y_dim), abs=1e-11)


@pytest.mark.parametrize("scale", [1e300, 1.7e308, 1e-300, 1e-307, 2.0**-1000])
def test_scale_and_place_change_nothing(scale):
    x, y = pair(300, 2, 3)
    value = plug_in(x, y).item()
    x = x / x.abs().max()
    assert plug_in(x * scale, y).item() == pytest.approx(
        value, abs=1e-6 if scale < 1e-306 else 1e-12
    )
    assert plug_in(y, x * scale).item() == pytest.approx(
        value, abs=1e-6 if scale < 1e-306 else 1e-12
    )
    assert plug_in(-scale * x, y).isfinite()


def test_samples_far_from_zero_lose_nothing_but_their_own_rounding():
    x, y = pair(300, 2, 3)
    # Kept to what 1e6 ± 1 can hold, so that the shift is exact.
    x, y = ((v * 2**20).round() / 2**20 for v in (x, y))
    value = plug_in(x, y).item()
    assert plug_in(x + 1e6, y - 1e6).item() == pytest.approx(value, abs=1e-12)
    assert plug_in((x + 1e6).float(), y).isfinite()


def test_batches_are_pairs_of_their_own():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 200, 2, generator=generator)
    y = torch.randn(2, 3, 200, 3, generator=generator) + x.sum(-1, keepdim=True)
    values = gaussian_mutual_information(x, y)
    assert values.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            one = gaussian_mutual_information(x[i, j], y[i, j]).item()
            assert values[i, j].item() == pytest.approx(one, abs=1e-13)
    assert gaussian_mutual_information(x[:0], y[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.int16, torch.uint8, torch.bool]
)
def test_narrow_numbers_are_read_as_they_are(dtype):
    x, y = (v.clamp(0, 200).to(dtype) for v in pair(300, 2, 1))
    x = torch.cat((x, y), 1)[:, :2]
    y = pair(300, 1, 1, seed=1)[1].abs().to(dtype)
    expected = gaussian_mutual_information(x.double(), y.double())
    assert gaussian_mutual_information(x, y).equal(expected)


@pytest.mark.parametrize("correction", ["none", "analytic"])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 + 0.1, -1e300, 1e-310])
def test_constant_variable_has_no_information(constant, correction):
    x, y = pair(100, 3, 2)
    still = torch.full_like(x, constant)
    for a, b in ((still, y), (y, still), (still, still), (still[:, 0], y)):
        value = gaussian_mutual_information(a, b, bias_correction=correction)
        assert value.item() == 0
        assert math.copysign(1, value.item()) == 1
        assert gaussian_mutual_information(a, b, copula=True).item() == 0
    # A constant coordinate is absent, in the bias too.
    value = gaussian_mutual_information(torch.cat((x, still[:, :1]), 1), y)
    assert value.item() == pytest.approx(gaussian_mutual_information(x, y).item(), abs=1e-12)


def test_coordinates_that_repeat_others_change_nothing():
    x, y = pair(300, 4, 3)
    value = gaussian_mutual_information(x, y).item()
    for more in (x[:, :1], 2 * x - 3, x[:, :2].sum(1, keepdim=True), (x @ x.T[:, :2])):
        assert gaussian_mutual_information(torch.cat((x, more), 1), y).item() == pytest.approx(
            value, abs=1e-9
        )
        assert gaussian_mutual_information(y, torch.cat((more, x), 1)).item() == pytest.approx(
            value, abs=1e-9
        )
    labels = (y[:, 0] > 20).long() + (y[:, 1] > 20).long()
    one_hot = torch.nn.functional.one_hot(labels, 5)
    assert gaussian_mutual_information(x, one_hot).item() == pytest.approx(
        gaussian_mutual_information(x, one_hot[:, :2]).item(), abs=1e-12
    )


def test_what_almost_repeats_is_left_out_with_a_warning():
    x, y = pair(300, 2, 2)
    near = x[:, :1] + 4e-6 * y[:, :1] / y[:, :1].std()
    with pytest.warns(MutualInformationWarning, match="repeat others to 12 digits") as caught:
        value = gaussian_mutual_information(torch.cat((x, near), 1), y)
    assert [w.message.kind for w in caught] == ["copies"]
    assert value.item() == pytest.approx(gaussian_mutual_information(x, y).item(), abs=1e-4)


@pytest.mark.parametrize("correction", ["none", "analytic"])
def test_functions_of_each_other_have_a_large_and_finite_value(correction):
    x, _ = pair(300, 3, 1)
    for y, directions in (
        (x, 3),
        (-2 * x + 5, 3),
        (x[:, :1], 1),
        (x @ torch.ones(3, 1).double(), 1),
    ):
        with pytest.warns(MutualInformationWarning, match=r"counts as 13\.9 nats") as caught:
            value = gaussian_mutual_information(x, y, bias_correction=correction).item()
        assert {w.message.kind for w in caught} == {"copies"}
        correct = bias(300, 3, y.shape[1]) if correction == "analytic" else 0
        assert value == pytest.approx(directions * CAP - correct, abs=1e-9)


def test_rank_scores_see_ranks_only():
    x, y = pair(200, 2, 2)
    x[:50] = x[:50].round()
    value = gaussian_mutual_information(x, y, copula=True)
    assert gaussian_mutual_information(x.exp(), y**3, copula=True).equal(value)
    scores = [norm.ppf((np.apply_along_axis(rankdata, 0, v.numpy()) - 0.5) / 200) for v in (x, y)]
    expected = gaussian_mutual_information(*(torch.from_numpy(v) for v in scores))
    assert value.item() == pytest.approx(expected.item(), abs=1e-12)


def test_few_samples_are_doubted_and_many_are_not():
    for n, dim, r, doubted in (
        (11, 5, 0, True),
        (51, 25, 0.5, True),
        (500, 50, 0, False),
        (500, 50, 0.5, False),
        (30, 1, 0, False),
    ):
        generator = torch.Generator().manual_seed(0)
        x, noise = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
        y = r * x + math.sqrt(1 - r * r) * noise
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gaussian_mutual_information(x, y)
        assert [w.message.kind for w in caught] == ["too few"] * doubted, (n, dim)
        assert all(w.filename == __file__ for w in caught)


REFUSED = {
    "as many samples as coordinates": (
        lambda x, y: (x[:5], y[:5]),
        ValueError,
        r"N = 5 samples of 3 \+ 2 coordinates",
    ),
    "a batch of scalars": (
        lambda x, y: (x.T, x.T),
        ValueError,
        r"for a batch of scalars use x\.unsqueeze\(-1\)",
    ),
    "different lengths": (lambda x, y: (x, y[1:]), ValueError, r"\(20, 3\) and \(19, 2\)"),
    "no coordinate": (lambda x, y: (x[:, :0], y), ValueError, "at least one coordinate"),
    "a number": (lambda x, y: (x[0, 0], y), ValueError, r"\(\) and \(20, 2\)"),
    "NaN": (lambda x, y: (x.log(), y), ValueError, "`x` to be finite"),
    "infinity": (lambda x, y: (x, y / 0), ValueError, "`y` to be finite"),
    "complex": (lambda x, y: (x + 1j, y), TypeError, "`x` to be real"),
    "a list": (lambda x, y: (x, [1.0]), TypeError, r"`y` to be a torch\.Tensor"),
    "devices": (lambda x, y: (x, y.to("meta")), ValueError, "same device"),
}


@pytest.mark.parametrize("bad", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_what_came_and_a_way_out(bad):
    spoil, error, message = bad
    with pytest.raises(error, match=message):
        gaussian_mutual_information(*spoil(*pair(20, 3, 2)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bias_correction": "miller_madow"}, ValueError, "'none', 'analytic'"),
        ({"unit": "dits"}, ValueError, "`unit`"),
        ({"copula": 1}, TypeError, "`copula` to be True or False"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        gaussian_mutual_information(*pair(20, 1, 1), **options)


def test_input_is_left_alone_and_no_gradient_is_promised():
    x, y = pair(100, 2, 1)
    before = x.clone()
    x.requires_grad_()
    assert not gaussian_mutual_information(x, y).requires_grad
    assert x.detach().equal(before)


def test_moments_are_those_of_the_samples():
    x, _ = pair(100, 3, 1)
    x[:, 2] = 1e-30 * x[:, 2]
    found = moments(x)
    unit = power_of_two(found.exponent)
    assert (found.mean.abs() <= 1).all()
    torch.testing.assert_close((found.mean + found.mean_rest) * unit, x.mean(0), rtol=1e-14, atol=0)
    centred = x - x.mean(0)
    torch.testing.assert_close(
        found.products * unit[:, None] * unit, centred.T @ centred, rtol=1e-12, atol=0
    )
    assert found.number == 100
