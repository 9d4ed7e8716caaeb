"""Columns that share their order give the states that pairs alone have."""

import pytest
import torch

from mi_metrics.states import grid
from mi_metrics.states.shared import Column, add

KINDS = ("plain", "missing", "few", "heavy", "nothing")


def column(kind, n=3000):
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    values = torch.randn(n, generator=generator, dtype=torch.float64)
    match kind:
        case "missing":
            values[torch.rand(n, generator=generator) < 0.3] = torch.nan
        case "few":
            values = values.round()
            values[::7] = torch.inf
        case "heavy":
            values = (3 * values).exp() * values.sign()
        case "nothing":
            values[:] = torch.nan
    return values


@pytest.mark.parametrize("x", KINDS)
@pytest.mark.parametrize("y", KINDS)
@pytest.mark.parametrize("size", [3000, 500])
def test_states_are_those_of_pairs_alone(x, y, size):
    m = 64
    a, b = column(x), column(y)
    valid = (a.isfinite() & b.isfinite()).unsqueeze(0)
    kept = (v.where(valid[0], 0).unsqueeze(0) for v in (a, b))
    expected = grid.update(grid.empty(1, m), *kept, valid)
    state = None
    for start in range(0, len(a), size):
        part = slice(start, start + size)
        state = add(state, Column(a[part], m), Column(b[part], m))
    assert torch.equal(state, expected)
