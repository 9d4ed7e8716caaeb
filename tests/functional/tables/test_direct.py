"""Losses from samples to gradients in one function, against the tables that serve all others."""

import math

import pytest
import torch

from mi_metrics import MutualInformationLoss
from mi_metrics.functional.tables import direct
from mi_metrics.functional.tables.positions import positions
from mi_metrics.kernels import switch

NORMALIZATIONS = ["none", "arithmetic", "geometric", "min", "max", "joint", "studholme"]
# By cells on the CPU, and by matrices as on other devices.
WAYS = ["cells", "matrices"]


def pair(dtype, rows=(2, 3), n=(8, 8), seed=0):
    x, noise = torch.rand(2, *rows, *n, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return x, x**2 + 0.1 * noise


def of(loss, x, y, of_y=True, **options):
    """Return values and gradients."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_(of_y)
    value = loss(x, y, **options)
    value.nansum().backward()
    return value.detach(), x.grad, y.grad


def both(loss, x, y, monkeypatch, way="cells", **options):
    """Return what the function gives by a way, and what it replaces."""
    rows = (v.flatten(2)[0] for v in (x, y))
    assert direct.serves(*rows, loss.value_range, loss.num_bins)
    with monkeypatch.context() as patch:
        if way == "matrices":
            patch.setattr(direct, "on_cpu", lambda where: False)
        found = of(loss, x, y, **options)
    with monkeypatch.context() as patch:
        patch.setattr(direct, "FEW", 0)
        return found, of(loss, x, y, **options)


def check_equal(found, expected, dtype):
    exact = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {}
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, equal_nan=True, **exact)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("value_range", [None, (0, 1), ((0.1, 0.7), (-1, 0.8)), (-1e-3, 1e20)])
@pytest.mark.parametrize(("bins", "kernel"), [(2, "cubic"), ((3, 7), "linear"), (32, "cubic")])
def test_values_and_gradients_are_those_of_any_table(
    way, dtype, value_range, bins, kernel, monkeypatch
):
    x, y = pair(dtype)
    x[0, 0] = 0.25
    y[0, 1] = 0.5
    x[0, 2, 0, 0], x[1, 0, 3, 4], y[1, 1, 2, 2] = math.inf, -math.inf, math.nan
    loss = MutualInformationLoss(
        bins, value_range=value_range, kernel=kernel, unit="bits", reduction="none"
    )
    for of_y in (True, False):
        found, expected = both(loss, x, y, monkeypatch, way, of_y=of_y)
        # Constants, and NaN in the tables that have it.
        assert found[0].isnan().tolist() == [[False, False, True], [True, True, False]]
        assert (found[0][0, :2] == 0).all()
        assert (found[1][0, :2] == 0).all()
        check_equal(found, expected, dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("value_range", [None, (0.1, 0.7)])
def test_measures_and_weights_are_those_of_any_table(
    way, normalization, kernel, value_range, monkeypatch
):
    x, y = pair(torch.float64)
    loss = MutualInformationLoss(
        (5, 6),
        value_range=value_range,
        kernel=kernel,
        normalization=normalization,
        reduction="none",
    )
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(x.shape, generator=generator)
    mask = weights > 0.3
    x[0, 0][mask[0, 0]] = 0.25
    x[0, 1][~mask[0, 1]] = math.nan
    mask[0, 2] = False
    for options in (
        {"mask": mask},
        {"weights": weights * mask},
        {"weights": 1e-30 * weights, "mask": mask},
        {"weights": (9 * weights).to(torch.uint8), "mask": mask},
    ):
        found, expected = both(loss, x, y, monkeypatch, way, **options)
        assert found[0].isfinite().all()
        assert found[0][0, 2] == 0
        assert abs(found[0][0, 0]) == (normalization == "studholme")
        for gradient in found[1:]:
            assert (gradient[~mask] == 0).all()
            assert (gradient[0, 0] == 0).all()
            assert (gradient[1] != 0).any()
        check_equal(found, expected, torch.float64)


@pytest.mark.parametrize("bins", [3, 6, 7])
def test_the_sample_at_the_upper_end_is_inside(bins, monkeypatch):
    # Its position is rounded to more than the number of bins, or not.
    x, y = pair(torch.float64, (40, 1))
    loss = MutualInformationLoss(bins, reduction="none")
    found, expected = both(loss, x, y, monkeypatch)
    check_equal(found, expected, torch.float64)
    last = x.flatten(1).argmax(1, keepdim=True)
    for gradient in (found[1], expected[1]):
        assert (gradient.flatten(1).gather(1, last) != 0).all()
    with switch.disabled():
        check_equal(*both(loss, x, y, monkeypatch), torch.float64)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
def test_large_whole_weights_are_not_rounded(dtype):
    x, y = pair(torch.float16, (1, 1))
    most = min(torch.iinfo(dtype).max, 2**30)
    weights = most - torch.arange(64).view(1, 1, 8, 8) % 2
    weights[0, 0, 0] = 1
    rows = [v.flatten(2)[0] for v in (x, y, weights.to(dtype))]
    mass = positions(*rows, None, (8, 8), False).mass
    expected = rows[2].double() / rows[2].sum()
    torch.testing.assert_close(mass, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value_range", [None, (0, 1)])
def test_what_makes_no_sense_spoils_value_and_gradient_of_its_table(way, value_range, monkeypatch):
    x, y = pair(torch.float32, (5, 1))
    weights = torch.ones(x.shape)
    # Constants too.
    x[:3] = 0.25
    y[0, 0, 1, 1], weights[1, 0, 2, 2], weights[2, 0, 3, 3] = math.nan, -1, math.nan
    weights[3, 0, 4, 4] = math.inf
    for normalization in ("none", "joint"):
        loss = MutualInformationLoss(
            8, value_range=value_range, normalization=normalization, reduction="none"
        )
        found, expected = both(loss, x, y, monkeypatch, way, weights=weights)
        for values in (found, expected):
            assert values[0].flatten().isnan().tolist() == [True] * 4 + [False]
            for gradient in values[1:]:
                some = gradient.isnan().flatten(1)
                assert some.any(1).tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value_range", [None, (0, 1)])
def test_a_constant_beside_nan_has_no_gradient(way, value_range, monkeypatch):
    x, y = pair(torch.float32, (1, 1))
    x[:], y[0, 0, 0, 0] = 0.25, math.nan
    loss = MutualInformationLoss(8, value_range=value_range)
    for value, *gradients in both(loss, x, y, monkeypatch, way):
        assert value.isnan()
        assert all(gradient.isnan().all() for gradient in gradients)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [1e30, 3e38, -3e38])
def test_samples_far_outside_and_of_far_ends_are_finite(way, value, monkeypatch):
    for dtype, factor in ((torch.float32, 1.0), (torch.float64, 5e269)):
        x, y = pair(dtype)
        x[0, 0, 0, 0] = value * factor
        x[0, 1] *= value * factor
        for value_range in (None, (0, 1)):
            loss = MutualInformationLoss(8, value_range=value_range, reduction="none")
            found, expected = both(loss, x, y, monkeypatch, way)
            assert all(v.isfinite().all() for v in found)
            check_equal(found, expected, dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_the_smallest_ranges_are_those_of_any_table(way, dtype, monkeypatch):
    x, y = pair(dtype, (3, 1))
    for smallest in (torch.finfo(dtype).tiny, 64 * torch.finfo(dtype).smallest_normal * 2**-20):
        loss = MutualInformationLoss(8, reduction="none")
        found, expected = both(loss, smallest * x, y, monkeypatch, way)
        assert all(v.isfinite().all() for v in found)
        assert found[1].abs().max() > 1e30
        check_equal(found, expected, torch.float32)


@pytest.mark.parametrize("value_range", [None, (0, 1)])
def test_second_derivatives_are_those_of_any_table(value_range, monkeypatch):
    x, y = pair(torch.float32)
    direction = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    loss = MutualInformationLoss(8, value_range=value_range, normalization="joint")
    mask = direction > 0.2
    found = []
    for few in (direct.FEW, 0):
        monkeypatch.setattr(direct, "FEW", few)
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(2 * a, b, mask=mask), a, create_graph=True)
        found.append(torch.autograd.grad((slope * direction).sum(), (a, b)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradients_are_those_of_differences(way, kernel, normalization, monkeypatch):
    x, y = (v.requires_grad_() for v in pair(torch.float64, (2, 1), (5, 5)))
    if way == "matrices":
        monkeypatch.setattr(direct, "on_cpu", lambda where: False)
    loss = MutualInformationLoss(
        (4, 5), value_range=(-0.5, 1.5), kernel=kernel, normalization=normalization
    )
    weights = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y, weights), (x, y))


def test_second_derivatives_are_those_of_differences():
    x, y = (v.requires_grad_() for v in pair(torch.float64, (2, 1), (5, 5)))
    loss = MutualInformationLoss(4, value_range=(-0.5, 1.5))
    assert torch.autograd.gradgradcheck(loss, (x, y))


def test_batches_of_gradients_are_taken(monkeypatch):
    x, y = pair(torch.float32, (3, 1))
    loss = MutualInformationLoss(4, reduction="none")
    for way in (True, False):
        monkeypatch.setattr(direct, "on_cpu", lambda where, way=way: way)
        one, batch = (
            torch.autograd.functional.jacobian(lambda v: loss(v, y), x, vectorize=v)
            for v in (False, True)
        )
        torch.testing.assert_close(one, batch)


def test_what_it_does_not_take():
    x, y = (v.flatten(2)[0] for v in pair(torch.float32))
    ranges = ((0.0, 1.0), (0.0, 1.0))
    assert direct.serves(x, y, ranges, (8, 8))
    assert direct.serves(x.double(), y.double(), None, (8, 9))
    assert not direct.serves(x, y, ranges, (1, 8))
    assert not direct.serves(x, y, ((0.0, 1.0), (0.0, 1e300)), (8, 8))
    assert not direct.serves(x.double(), y, None, (8, 8))
    assert not direct.serves(x.repeat(1, 99), y.repeat(1, 99), ranges, (8, 8))
    assert not direct.serves(x[:, :0], y[:, :0], ranges, (8, 8))


def test_its_tables_are_of_bounded_size(monkeypatch):
    # Many bins of many samples, and many tables of few samples.
    for x, bins in ((torch.rand(1, 2000), 600), (torch.rand(500, 1), 30)):
        assert direct.serves(x, x, None, (8, 8))
        assert not direct.serves(x, x, None, (bins, bins))
        with monkeypatch.context() as patch:
            patch.setattr(direct, "HELD", direct.HELD_ELSEWHERE)
            assert direct.serves(x, x, None, (bins, bins))
    with monkeypatch.context() as patch:
        patch.setattr(direct, "on_cpu", lambda where: False)
        assert direct.serves(torch.rand(1, 30_000), torch.rand(1, 30_000), None, (64, 64))
        assert not direct.serves(torch.rand(1, 30_000), torch.rand(1, 30_000), None, (256, 256))
