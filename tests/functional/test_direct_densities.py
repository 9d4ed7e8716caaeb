"""The loss of densities in one function, against the soft tables of the reference."""

import math

import pytest
import torch

from mi_metrics import KDEMutualInformationLoss
from mi_metrics.functional.densities import direct
from tests.test_losses_derivatives import direct_sums

OPTIONS = [
    {},
    {"bandwidth": "scott", "unit": "bits"},
    {"bandwidth": (0.3, 0.5)},
    {"value_range": ((-1, 2), (-0.5, 1)), "grid_size": 32},
    {"value_range": (-1, 1), "bandwidth": 0.4},
    {"value_range": (-1e6, 1e3)},
    {"clip_quantile": 0.1},
    {"clip_quantile": 0.01, "bandwidth": 0.4, "normalization": "arithmetic"},
    {"value_range": ((-1e20, 1e12), (-1e12, 1e20)), "bandwidth": "scott"},
]


def images(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, *shape, generator=generator, dtype=dtype)
    return x, 0.6 * x + 0.8 * noise


def of(loss, x, y, **options):
    """Return values and gradients."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = loss(x, y, **options)
    value.nansum().backward()
    return value.detach(), x.grad, y.grad


def both(loss, x, y, monkeypatch, **options):
    calls, values = [], direct.values
    with monkeypatch.context() as patch:
        patch.setattr(direct, "values", lambda *a: calls.append(1) or values(*a))
        found = of(loss, x, y, **options)
    assert calls
    with monkeypatch.context() as patch:
        patch.setattr(direct, "serves", lambda *_: False)
        return found, of(loss, x, y, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_any_samples(options, dtype, monkeypatch):
    x, y = images(4, 1, 9, 9, dtype=dtype if dtype == torch.float64 else torch.float32)
    x, y = x.to(dtype), y.to(dtype)
    x[0, 0, 0, 0], y[1, 0, 2, 2], x[2] = math.nan, -math.inf, 0.25
    weights = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    mask = weights > 0.3
    loss = KDEMutualInformationLoss(reduction="none", **options)
    for given in ({}, {"mask": mask}, {"weights": 1e-30 * weights}, {"weights": weights * mask}):
        spoilt = x.clone()
        if given:
            spoilt[3][~mask[3]] = math.nan if "weights" not in given else 3.0
            mask[0, 0, 0, 0] = mask[1, 0, 2, 2] = True
        found, expected = both(loss, spoilt, y, monkeypatch, **given)
        assert found[0].flatten().isnan().tolist() == [True, True, False, False]
        assert found[0][2] == 0
        assert (found[1][2] == 0).all()
        exact = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {}
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a[2:], b[2:], **exact)
        assert found[1][0].isnan().any()


def test_a_table_without_samples_counts_as_zero(monkeypatch):
    x, y = images(2, 1, 40)
    mask = torch.ones(2, 1, 40, dtype=torch.bool)
    mask[1] = False
    for value_range in (None, (-1, 1)):
        loss = KDEMutualInformationLoss(reduction="none", value_range=value_range)
        found, expected = both(loss, x, y, monkeypatch, mask=mask)
        assert found[0][1] == 0
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_units_of_the_data_do_not_matter(monkeypatch):
    x, y = images(1, 1, 40)
    loss = KDEMutualInformationLoss()
    for a, b in ((1e307 * x, 1e-300 * y), (1e-309 * x, y)):
        found, expected = both(loss, a, b, monkeypatch)
        assert all(v.isfinite().all() for v in found)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def test_gradients_are_those_of_direct_sums():
    x, y = (v.requires_grad_() for v in images(300))
    loss = KDEMutualInformationLoss(pool="batch")
    value, exact = loss(x, y), -direct_sums(x, y)
    assert value.item() == pytest.approx(exact.item(), abs=1e-3)
    ours = torch.autograd.grad(value, (x, y))
    theirs = torch.autograd.grad(exact, (x, y))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() < 0.03 * b.norm()


def test_second_derivatives_are_those_of_any_samples(monkeypatch):
    x, y = images(1, 1, 30)
    direction, found = y.cos(), []
    loss = KDEMutualInformationLoss(grid_size=16)
    for serves in (direct.serves, lambda *_: False):
        monkeypatch.setattr(direct, "serves", serves)
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(2 * a, b), a, create_graph=True)
        found.append(torch.autograd.grad((slope * direction).sum(), (a, b)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("normalization", ["none", "joint"])
@pytest.mark.parametrize("spoiler", [math.nan, math.inf])
def test_a_constant_beside_what_is_not_finite_is_not_0(normalization, spoiler, monkeypatch):
    x, y = images(1, 1, 40)
    x[:], y[0, 0, 3] = 0.25, spoiler
    loss = KDEMutualInformationLoss(normalization=normalization)
    for found in both(loss, x, y, monkeypatch):
        assert found[0].isnan()


@pytest.mark.parametrize("normalization", ["none", "joint"])
def test_samples_outside_have_no_gradient_of_a_table_that_is_nan(normalization):
    x, y = torch.randn(2, 1, 1, 60, generator=torch.Generator().manual_seed(0))
    y[..., 0] = torch.nan
    x.requires_grad_()
    loss = KDEMutualInformationLoss(value_range=(-1, 1), normalization=normalization)(x, y)
    assert loss.isnan()
    (gradient,) = torch.autograd.grad(loss, x)
    outside = x.abs() > 1
    assert outside.any()
    assert (gradient[outside] == 0).all()


def ratio_of_smoothed_entropies(x, y, bandwidth, size):
    """The information over the joint entropy, from the definition: shares in cells that end four
    kernel widths past the data, what is beyond them in those at the ends.
    """
    cov = torch.cov(torch.stack([x, y]))
    r = cov[0, 1] / (cov[0, 0] * cov[1, 1]).sqrt()
    h = bandwidth[0], bandwidth[1], bandwidth[1] * float(1 - r * r) ** 0.5
    steps, smoothed = [], []
    for v, width in zip((x, y, y - r * bandwidth[1] / bandwidth[0] * x), h, strict=True):
        step = (v.max() - v.min() + 8 * width) / size
        place = (v - v.min() + 4 * width) / step - 0.5
        distance = (place[:, None] - torch.arange(-4, size + 4)).abs()
        weights = torch.where(
            distance < 1,
            2 / 3 - distance**2 + distance**3 / 2,
            (2 - distance).clamp_min(0) ** 3 / 6,
        )
        shares = weights[:, 4:-4].clone()
        shares[:, 0] += weights[:, :4].sum(1)
        shares[:, -1] += weights[:, -4:].sum(1)
        lags = torch.arange(size)[:, None] - torch.arange(size)
        variance = ((width / step) ** 2 - 1 / 3).clamp_min(1 / 4)
        smoothed.append(shares @ (lags**2 / (-2 * variance)).exp())
        steps.append(step)

    def entropy(cells):
        p = cells / cells.sum()
        return torch.special.entr(p).sum()

    hx, hy = entropy(smoothed[0].sum(0)), entropy(smoothed[1].sum(0))
    hxy = entropy(smoothed[0].T @ smoothed[2]) + (steps[2] / steps[1]).log()
    return (hx + hy - hxy) / hxy


@pytest.mark.parametrize("width", [1e-3, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("n", [3, 100])
def test_kernels_narrower_than_a_cell_are_those_of_the_definition(n, width, monkeypatch):
    x, y = images(1, 1, n)
    loss = KDEMutualInformationLoss(
        bandwidth=(width, 2 * width), normalization="joint", grid_size=16
    )
    found, expected = both(loss, x, y, monkeypatch)
    exact = ratio_of_smoothed_entropies(x.flatten(), y.flatten(), (width, 2 * width), 16)
    assert found[0].item() == pytest.approx(-exact.item(), rel=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
