"""What kernels must answer wherever they run: on a card (``tests/test_cuda.py``), and by Triton's
interpreter on the CPU (``interpreted/cards.py``).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_metrics.functional.neighbors.search import nearest
from mi_metrics.functional.neighbors.within import range_counts
from mi_metrics.functional.tables import sums
from mi_metrics.functional.tables.axis import Axis, fixed_axis, scaled_axis
from mi_metrics.functional.tables.bspline import soft_counts
from mi_metrics.functional.tables.hard import Unchecked, hard_counts
from mi_metrics.kernels import gpu, switch

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
# What rounding in a dtype makes of a gradient.
ROUNDING = {8: 1e-12, 4: 1e-6, 2: 1e-2}
BINS = ((32, 32), (64, 64), (17, 256))

Check = Callable[[torch.device, int], None]


def assert_same(call: Callable[[], Any], rtol: float = 0, atol: float = 0) -> None:
    """Compare a call with and without kernels; with them twice, for the same bits."""
    first, second = call(), call()
    with switch.disabled():
        expected = call()
    for found, again, right in zip(*map(_tensors, (first, second, expected)), strict=True):
        assert torch.equal(found, again)
        torch.testing.assert_close(found, right, rtol=rtol, atol=atol)


def _tensors(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else [v for v in found if v is not None]


def _samples(device: torch.device, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return x.to(device), (0.6 * x + 0.8 * noise).to(device)


def _unit(bins: int, device: torch.device) -> Axis:
    one = torch.ones(1, 1, dtype=torch.float64, device=device)
    return scaled_axis(0 * one, one, bins * one, bins)


def hard_tables(device: torch.device, n: int) -> None:
    """Rows that are aligned nowhere, a table that is all in one cell, what lies outside."""
    for dtype in (torch.float32, torch.float64):
        for rows, bins in ((1, (64, 64)), (3, (5, 256))):
            x, y = (v.to(dtype)[:, 1:] for v in _samples(device, rows, n + 1))
            ends = (-2.0, 2.0), (0.0, 2.5)
            axes = tuple(fixed_axis(e, b, dtype, device) for e, b in zip(ends, bins, strict=True))
            for valid in (None, y > 0):
                assert_same(lambda v=valid, s=(x, y, axes, bins): hard_counts(*s, v))
            constant = torch.full_like(x, 0.3)
            assert_same(lambda s=(constant, constant, axes, bins): hard_counts(*s, None))
            unchecked = Unchecked(ends)
            hard_counts(x, y, axes, bins, None, unchecked=unchecked)
            outside = (x.abs() > 2) | (y < 0) | (y > 2.5)
            assert torch.equal(unchecked.outside.to(device), outside.sum(1))


def soft_tables(device: torch.device, n: int) -> None:
    """All short dtypes and the tiles of few and of many cells."""
    for dtype in FLOATS:
        x, y = (v.to(dtype).sigmoid() for v in _samples(device, 2, n))
        for bins in BINS:
            axes = _unit(bins[0], device), _unit(bins[1], device)
            for kernel, weights in (("linear", None), ("cubic", y.double())):
                arguments = x, y, axes, bins, kernel, weights
                assert_same(lambda a=arguments: soft_counts(*a), rtol=1e-5, atol=1e-6)


def soft_gradients(device: torch.device, n: int) -> None:
    """All dtypes of floats."""
    for dtype in (*FLOATS, torch.float64):
        x, y = (v.to(dtype).sigmoid() for v in _samples(device, 2, n))
        for bins in BINS:
            axes = _unit(bins[0], device), _unit(bins[1], device)
            table = _samples(device, 2, *bins)[0]
            for kernel in ("linear", "cubic"):
                arguments = table, x, y, None, axes, kernel, (True, True)
                rounding = ROUNDING[dtype.itemsize]
                assert_same(lambda a=arguments: sums.gradients(*a), rounding, 1e-12 * max(bins))


def neighbors(device: torch.device, n: int) -> None:
    """Boxes of few and of many coordinates, and all pairs."""
    for dim, k in ((2, 3), (2, 40), (3, 3), (6, 5), (10, 3), (13, 3)):
        points = _samples(device, n, dim)[0]
        assert_same(lambda a=(points, k): nearest(*a).radius)
        found = nearest(points, k, x_dim=dim // 2)
        assert_same(lambda a=(points, k), d=dim // 2: nearest(*a, x_dim=d).reach)
        for part, radius in (
            (points, found.radius),
            (points[:, : dim // 2], found.reach[0]),
            (points[:, :1], found.radius),
        ):
            assert_same(lambda a=(part, radius): range_counts(*a))


CHECKS: dict[str, Check] = {
    "hard tables": hard_tables,
    "soft tables": soft_tables,
    "soft gradients": soft_gradients,
    "neighbors": neighbors,
}


@contextmanager
def all_answered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """See that all that is asked for is answered by kernels."""
    attempt, asked = gpu.attempt, []

    def watched(family: str, *arguments: Any) -> Any:
        found = attempt(family, *arguments)
        if switch.enabled():
            asked.append((family, found is not None))
        return found

    monkeypatch.setattr(gpu, "attempt", watched)
    yield
    assert gpu.failures() == {}
    assert asked
    assert all(answered for _, answered in asked), asked
