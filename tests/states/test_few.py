"""Small batches for the grid, and what is kept between updates: only the time changes."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_metrics import BinnedMutualInformation
from mi_metrics.states import few, grid
from tests.states.test_grid import KINDS, draw

SIZES = [1, 5, 32, 500, grid.SMALL + 1, 5000]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([*KINDS]), st.sampled_from(SIZES)), min_size=2, max_size=8),
    st.integers(2, 40),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_memory_of_the_updates_before_changes_nothing(batches, m, masked, labelled, seed):
    rows = 3 if labelled else 2
    outputs = 1 if labelled else 2
    kept, memory = grid.empty(rows, m), grid.Memory()
    anew = kept
    for i, (kind, n) in enumerate(batches):
        generator = torch.Generator().manual_seed(seed % 2**31 + i)
        x, y = (draw(kind, outputs * n, seed % 2**31 + 7 * i + k).view(outputs, n) for k in (1, 2))
        valid = torch.rand(outputs, n, generator=generator) < 0.9 if masked else None
        labels = torch.randint(0, 3, (1, n), generator=generator) if labelled else None
        anew = grid.update(anew, x, y, valid, labels)
        kept = grid.update(kept, x, y, valid, labels, memory)
        assert torch.equal(kept, anew)


@pytest.mark.parametrize("kind", ["gaussian", "labels", "outlier -1e300", "both ends"])
def test_what_lies_in_cells_of_the_state_is_found_at_their_ends(kind):
    x, y = draw(kind, 3000, 1).view(1, -1), draw(kind, 3000, 2).view(1, -1)
    state = grid.update(grid.empty(1, 64), x, y)
    index, cells = few.index_of(state, 1), grid.view(state).x
    ends = torch.cat([cells.lower, torch.nextafter(cells.upper, cells.lower)], 1)
    inside = torch.where(
        cells.upper.repeat(1, 2) > cells.lower.repeat(1, 2), ends, cells.lower[:, :1]
    )
    other = y[:, : inside.shape[1]]
    found = few.found(state, index, inside, other, None, None)
    assert found is not None
    assert torch.equal(found, grid.update(state, inside, other))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("scale", [1.0, 1e308])
@pytest.mark.parametrize("seen", [0, 2])
def test_samples_that_are_not_finite_are_refused(value, scale, seen):
    metric = BinnedMutualInformation(4, resolution=4)
    x = scale * torch.linspace(-1, 1, 9, dtype=torch.float64)
    for _ in range(seen):
        metric.update(x, x)
    before = metric.table
    other = x.clone()
    other[3] = value
    for pair in ((x, other), (other, x)):
        with pytest.raises(ValueError, match="to be finite, but it holds 1 NaN or infinite"):
            metric.update(*pair)
        assert metric.table is before


def test_memory_is_of_one_state_and_no_part_of_the_metric():
    metric = BinnedMutualInformation(4)
    x = torch.arange(40.0)
    for _ in range(3):
        metric.update(x, x)
        # What waits is counted when it is read.
        assert int(metric.table[0, 514:].sum()) == int(metric.seen)
    assert metric._memory.index is not None
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert other._memory.index is None
        other.update(x, x)
        assert int(other.seen) == 160
    metric.reset()
    metric.update(x + 0.5, x)
    assert float(metric.edges()[0][0]) == 0.5


def test_forward_remembers_anew_what_follows_a_reset_or_a_copy():
    metric = BinnedMutualInformation(4)
    x = torch.arange(40.0)
    for _ in range(2):
        metric(x, x)
    metric.reset()
    for other in (metric, copy.deepcopy(metric)):
        for _ in range(2):
            other(x, x)
        assert other._memory.is_of(other.table)
        assert other._memory.index is not None
