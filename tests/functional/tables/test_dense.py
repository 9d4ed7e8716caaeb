"""Few samples by dense matrices, against the tables that serve all others."""

import math

import pytest
import torch

from mi_metrics import MutualInformationLoss
from mi_metrics.functional.tables import dense


def pair(dtype, rows=(2, 3), n=(8, 8), seed=0):
    x, noise = torch.rand(2, *rows, *n, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return x, x**2 + 0.1 * noise


def of(loss, x, y, of_y=True):
    """Return values and gradients."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_(of_y)
    value = loss(x, y)
    value.nansum().backward()
    return value.detach(), x.grad, y.grad


def both(loss, x, y, monkeypatch, of_y=True):
    assert dense.serves(x.flatten(2)[0], y.flatten(2)[0], loss.value_range, loss.num_bins)
    found = of(loss, x, y, of_y)
    with monkeypatch.context() as patch:
        patch.setattr(dense, "FEW", 0)
        patch.setattr(dense, "FEW_ELSEWHERE", 0)
        return found, of(loss, x, y, of_y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("value_range", [None, (0, 1), (0.1, 0.7), (-1e-3, 1e20)])
@pytest.mark.parametrize("bins", [2, 3, 32])
@pytest.mark.parametrize("unit", ["nats", "bits"])
def test_values_and_gradients_are_those_of_any_table(dtype, value_range, bins, unit, monkeypatch):
    if dtype == torch.float64 and value_range is None:
        pytest.skip("the ends of float64 may be too far apart")
    x, y = pair(dtype)
    x[0, 0] = 0.25
    y[0, 1] = 0.5
    x[0, 2, 0, 0], x[1, 0, 3, 4], y[1, 1, 2, 2] = math.inf, -math.inf, math.nan
    loss = MutualInformationLoss(bins, value_range=value_range, unit=unit, reduction="none")
    for of_y in (True, False):
        found, expected = both(loss, x, y, monkeypatch, of_y)
        # Constants, and NaN in the tables that have it.
        assert found[0].isnan().tolist() == [[False, False, True], [True, True, False]]
        assert (found[0][0, :2] == 0).all()
        assert (found[1][0, :2] == 0).all()
        exact = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {}
        for a, b in zip(found[: 2 + of_y], expected[: 2 + of_y], strict=True):
            torch.testing.assert_close(a, b, equal_nan=True, **exact)
        assert of_y or found[2] is None


@pytest.mark.parametrize("value", [1e30, 3e38, -3e38])
def test_samples_far_outside_and_of_far_ends_are_finite(value, monkeypatch):
    x, y = pair(torch.float32)
    x[0, 0, 0, 0] = value
    for value_range in (None, (0, 1)):
        loss = MutualInformationLoss(8, value_range=value_range, reduction="none")
        found, expected = both(loss, x, y, monkeypatch)
        for a, b in zip(found, expected, strict=True):
            assert a.isfinite().all()
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("value_range", [None, (0, 1)])
def test_second_derivatives_are_those_of_any_table(value_range, monkeypatch):
    x, y = pair(torch.float32)
    direction = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    loss = MutualInformationLoss(8, value_range=value_range)
    found = []
    for few in (dense.FEW, 0):
        monkeypatch.setattr(dense, "FEW", few)
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(2 * a, b), a, create_graph=True)
        found.append(torch.autograd.grad((slope * direction).sum(), (a, b)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_are_those_of_differences():
    x, y = (v.requires_grad_() for v in pair(torch.float64, (2, 1), (5, 5)))
    loss = MutualInformationLoss(4, value_range=(-0.5, 1.5))
    assert torch.autograd.gradcheck(loss, (x, y))
    assert torch.autograd.gradgradcheck(loss, (x, y))


def test_what_it_does_not_take():
    x, y = (v.flatten(2)[0] for v in pair(torch.float32))
    ranges = ((0.0, 1.0), (0.0, 1.0))
    assert dense.serves(x, y, ranges, (8, 8))
    assert not dense.serves(x, y, ranges, (8, 9))
    assert not dense.serves(x, y, ranges, (1, 1))
    assert not dense.serves(x, y, ((0.0, 1.0), (0.0, 2.0)), (8, 8))
    assert not dense.serves(x, y, ((0.0, 1e300), (0.0, 1e300)), (8, 8))
    assert not dense.serves(x.double(), y, None, (8, 8))
    assert not dense.serves(x.repeat(1, 99), y.repeat(1, 99), ranges, (8, 8))
    assert not dense.serves(x[:, :0], y[:, :0], ranges, (8, 8))


def test_its_matrices_are_of_bounded_size(monkeypatch):
    # Many bins of many samples, and many tables of few samples.
    for x, bins in ((torch.rand(1, 2000), 600), (torch.rand(500, 1), 30)):
        assert dense.serves(x, x, None, (8, 8))
        assert not dense.serves(x, x, None, (bins, bins))
        with monkeypatch.context() as patch:
            patch.setattr(dense, "HELD", dense.HELD_ELSEWHERE)
            assert dense.serves(x, x, None, (bins, bins))
