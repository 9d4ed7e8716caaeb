"""Compiled counting in the cells of a grid against its reference: the same states."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mi_metrics.states import grid

KINDS = {
    "gaussian": lambda v, u: v,
    "lognormal": lambda v, u: (2 * v).exp(),
    "bytes": lambda v, u: (40 * v + 128).clamp(0, 255).floor(),
    "shares": lambda v, u: (40 * v + 128).clamp(0, 255).floor() / 255,
    "far": lambda v, u: torch.where(u < 0.01, 1e20, v),
    "clusters": lambda v, u: v + 1e4 * (u < 0.5),
    "constant": lambda v, u: torch.full_like(v, -0.3),
    "tiny": lambda v, u: v * 2.0**-1060,
    "huge": lambda v, u: v * 1e307,
    "zeros": lambda v, u: torch.where(u < 0.3, -0.0, torch.where(u < 0.6, 0.0, v)),
}


def batch(kinds, rows, n, dtype, generator):
    """Return x and y."""
    sides = []
    for kind in kinds:
        v = torch.randn(rows, n, generator=generator, dtype=torch.float64)
        u = torch.rand(rows, n, generator=generator, dtype=torch.float64)
        most = torch.finfo(dtype).max
        sides.append(KINDS[kind](v, u).clamp(-most, most).to(dtype))
    return sides


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_states_are_those_of_the_reference(reference, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    kinds = [data.draw(st.sampled_from(sorted(KINDS))) for _ in range(2)]
    m, dtype = (
        data.draw(st.sampled_from([2, 16, 64])),
        data.draw(st.sampled_from([torch.float32, torch.float64])),
    )
    conditions = data.draw(st.sampled_from([0, 0, 3]))
    rows = 1 if conditions else data.draw(st.integers(1, 2))
    masked = data.draw(st.booleans())
    state = expected = grid.empty(conditions or rows, m)
    for n in (3000, 30_000, 5000):
        x, y = batch(kinds, rows, n, dtype, generator)
        valid = labels = None
        if masked:
            valid = torch.rand(rows, n, generator=generator) < 0.8
            x = torch.where(valid, x, torch.nan)
        if conditions:
            labels = torch.randint(conditions, (1, n), generator=generator)
        state = grid.update(state, x, y, valid, labels)
        expected = reference(grid.update, expected, x, y, valid, labels)
        assert torch.equal(state, expected)


def test_lookups_are_read_as_they_are_kept(reference):
    generator, memory = torch.Generator().manual_seed(0), grid.Memory()
    state = expected = grid.empty(1, 64)
    for _ in range(4):
        x, y = batch(("gaussian", "shares"), 1, 20_000, torch.float32, generator)
        state = grid.update(state, x, y, memory=memory)
        expected = reference(grid.update, expected, x, y)
        assert torch.equal(state, expected)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_order_of_samples_does_not_matter(reference, kind):
    generator = torch.Generator().manual_seed(0)
    x, y = batch((kind, "gaussian"), 1, 20_000, torch.float64, generator)
    order = torch.randperm(20_000, generator=generator)
    found = grid.update(grid.update(grid.empty(1, 32), x, y), x, y)
    again = grid.update(grid.update(grid.empty(1, 32), x, y), x[:, order], y[:, order])
    assert torch.equal(found, again)
