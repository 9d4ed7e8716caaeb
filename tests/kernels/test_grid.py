"""Compiled counting in the cells of a grid against its reference: the same states."""

import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mi_metrics import BinnedConditionalMutualInformation
from mi_metrics.functional.tensors import BYTES
from mi_metrics.kernels import native_grid
from mi_metrics.states import grid
from mi_metrics.states.lookups import lookups_of

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
    "gaps": lambda v, u: 3 * (8 * v).floor() + u,
    "stamps": lambda v, u: 1.7e9 + (100 * v).floor(),
    "odd": lambda v, u: (40 * v).floor() / 3,
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


def marked(x, masked, conditions, generator):
    """Return samples with NaN where they are not valid, which of them are, and labels."""
    valid = labels = None
    if masked:
        valid = torch.rand(x.shape, generator=generator) < 0.8
        x = torch.where(valid, x, torch.nan)
    if conditions:
        labels = torch.randint(conditions, (1, x.shape[1]), generator=generator)
    return x, valid, labels


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
        x, valid, labels = marked(x, masked, conditions, generator)
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


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_many_samples_are_counted_by_entries_as_by_cells(reference, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    kinds = [data.draw(st.sampled_from(sorted(KINDS))) for _ in range(2)]
    dtypes = [data.draw(st.sampled_from([torch.float32, torch.float64])) for _ in range(2)]
    conditions = data.draw(st.sampled_from([0, 0, 3]))
    rows = 1 if conditions else data.draw(st.integers(1, 2))
    n = data.draw(st.sampled_from([20_000, 20_223, 20_224, 20_225]))
    masked, memory = data.draw(st.booleans()), grid.Memory()
    state = expected = grid.empty(conditions or rows, data.draw(st.sampled_from([4, 16, 24])))
    # The third batch may bring new cells, some or most of its samples lie in.
    for spread in (1, 1, data.draw(st.sampled_from([1, 1.5, 40])), 1):
        x, y = batch(kinds, rows, n, torch.float64, generator)
        sides = []
        for v, dtype in zip((x * spread, y), dtypes, strict=True):
            most = torch.finfo(dtype).max
            sides.append(v.clamp(-most, most).to(dtype))
        x, y = sides
        x, valid, labels = marked(x, masked, conditions, generator)
        state = grid.update(state, x, y, valid, labels, memory)
        expected = reference(grid.update, expected, x, y, valid, labels)
        assert torch.equal(state, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [-1e20, 1e20, 1e30, 1e38])
@pytest.mark.parametrize("step", [0, 0.25])
def test_new_cells_between_and_around_others_beside_outliers(reference, dtype, far, step):
    generator, memory = torch.Generator().manual_seed(0), grid.Memory()
    state = expected = grid.empty(1, 32)
    for new in (None, None, None, 2.3, None, -1e-45, None, 3.5e37, None):
        x, y = torch.rand(2, 1, 30_000, generator=generator, dtype=torch.float64)
        x = torch.where(x < 0.5, x, x + 4)
        x = x if step == 0 else (x / step).floor() * step
        x[:, ::1000] = far
        if new is not None:
            x[:, 7::100] = new
        state = grid.update(state, x.to(dtype), y.to(dtype), memory=memory)
        expected = reference(grid.update, expected, x.to(dtype), y.to(dtype))
        assert torch.equal(state, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_neighbour_of_a_known_value_is_seen_wherever_it_stands(reference, dtype, axis):
    generator, memory = torch.Generator().manual_seed(0), grid.Memory()
    sides = torch.randint(64, (2, 1, 30_000), generator=generator).to(dtype) / 63
    state = grid.update(grid.update(grid.empty(1, 128), *sides, memory=memory), *sides)
    for place in (0, 1, 14, 15, 16, 255, 256, 9000, 29_999):
        x, y = batch = sides.clone()
        batch[axis, 0, place] = torch.nextafter(batch[axis, 0, place], batch.new_tensor(0.51))
        memory = grid.Memory()
        known = grid.update(state, *sides, memory=memory)
        found = grid.update(known, x, y, memory=memory)
        assert torch.equal(found, reference(grid.update, known, x, y))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts in other units elsewhere")
def test_tables_of_many_rows_take_no_more_than_their_samples():
    script = """
import resource, torch
from mi_metrics.kernels import native_grid, switch
from mi_metrics.states import grid
from mi_metrics.states.lookups import lookups_of
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
x = torch.arange(40.0).remainder(2).expand(20_000, -1).contiguous()
with switch.disabled():
    state = grid.update(grid.empty(len(x), 2), x, x)
lookups = native_grid.pack(lookups_of(state), state)
before = peak()
assert native_grid.counted(lookups, x, x, None, None, state, 0) is not None
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 40


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_order_of_samples_does_not_matter(reference, kind):
    generator = torch.Generator().manual_seed(0)
    x, y = batch((kind, "gaussian"), 1, 20_000, torch.float64, generator)
    order = torch.randperm(20_000, generator=generator)
    found = grid.update(grid.update(grid.empty(1, 32), x, y), x, y)
    again = grid.update(grid.update(grid.empty(1, 32), x, y), x[:, order], y[:, order])
    assert torch.equal(found, again)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_bytes_give_the_state_of_their_floats(reference, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    m, rows = data.draw(st.sampled_from([2, 16, 256])), data.draw(st.integers(1, 2))
    conditions = data.draw(st.sampled_from([0, 3])) if rows == 1 else 0
    masked, dtypes = data.draw(st.booleans()), [data.draw(st.sampled_from(BYTES)) for _ in "xy"]
    state = expected = plain = grid.empty(conditions or rows, m)
    for n in (3000, 9000, 3000):
        sides = []
        for dtype in dtypes:
            spread = data.draw(st.sampled_from([1, 5, 256]))
            values = torch.randint(spread, (rows, n), generator=generator, dtype=torch.uint8)
            sides.append(values % 2 == 0 if dtype == torch.bool else values.view(dtype))
        valid = torch.rand(rows, n, generator=generator) < 0.8 if masked else None
        labels = None
        if conditions:
            labels = torch.randint(conditions, (1, n), generator=generator)
        wide = [v.double() for v in sides]
        state = grid.update(state, *sides, valid, labels)
        plain = reference(grid.update, plain, *sides, valid, labels)
        expected = reference(grid.update, expected, *wide, valid, labels)
        assert torch.equal(state, expected)
        assert torch.equal(plain, expected)


@pytest.mark.parametrize("resolution", [4, 64, 256])
def test_bytes_are_looked_for_among_the_cells_that_are_there(reference, resolution):
    generator, memory = torch.Generator().manual_seed(0), grid.Memory()
    state = expected = grid.empty(2, resolution)
    for dtype, spread in (("uint8", 5), ("uint8", 5), ("int8", 90), ("uint8", 200), ("int8", 256)):
        for _ in range(2):
            x, y = torch.randint(spread, (2, 2, 5000), generator=generator, dtype=torch.uint8)
            x = x.view(getattr(torch, dtype))
            state = grid.update(state, x, y, memory=memory)
            expected = reference(grid.update, expected, x.double(), y.double())
            assert torch.equal(state, expected)


@pytest.mark.parametrize("strange", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rows", [1, 2])
def test_nan_and_infinity_are_refused_in_the_same_words(reference, strange, rows):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, rows, 20_000, generator=generator)
    state = grid.update(grid.empty(rows, 16), x, y)
    x[-1, 12_345] = y[0, 7] = strange
    said = []
    for call in (lambda f, *a: f(*a), reference):
        for before in (state, grid.empty(rows, 16)):
            with pytest.raises(ValueError, match="finite") as raised:
                call(grid.update, before, x, y)
            said.append(str(raised.value))
    assert len(set(said)) == 1


@pytest.mark.parametrize("stray", [-1, 3, 2**40, -(2**63)])
@pytest.mark.parametrize("value_range", [None, (-6, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_labels_that_are_none_are_refused_in_the_same_words(reference, stray, value_range, dtype):
    generator = torch.Generator().manual_seed(0)
    x, y = (40 * torch.randn(2, 20_000, generator=generator)).clamp(0, 255).to(dtype)
    z = torch.zeros(20_000, dtype=torch.int64)
    metric = BinnedConditionalMutualInformation(8, num_conditions=3, value_range=value_range)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric.update(x, y, z)
    before, said = metric.table.clone(), []
    z[15_000] = stray
    for call in (lambda f, *a: f(*a), reference):
        with pytest.raises(ValueError, match="class labels from 0 to 2") as raised:
            call(metric.update, x, y, z)
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert torch.equal(metric.table, before)
    assert int(metric.seen) == 20_000
    # What a mask leaves out may have any label.
    metric.update(x, y, z, mask=z != stray)
    assert int(metric.seen) == 39_999


def test_labels_beyond_the_tables_are_written_nowhere(reference):
    x = torch.rand(1, 5000, generator=torch.Generator().manual_seed(0))
    state = grid.update(grid.empty(3, 16), x, x, labels=torch.zeros(1, 5000, dtype=torch.int64))
    lookups = native_grid.pack(lookups_of(state, 1), state)
    for stray in (-1, 3, 2**40, -(2**63)):
        labels = torch.zeros(1, 5000, dtype=torch.int64)
        labels[0, 50] = stray
        into = state.clone()
        assert native_grid.counted(lookups, x, x, None, labels, into, 0) is None
        assert torch.equal(into[1:], state[1:])


@pytest.mark.parametrize("spread", [1, 3, 10, 100])
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf, "label"])
def test_a_refused_batch_leaves_no_lookups_of_its_own(spread, bad):
    generator = torch.Generator().manual_seed(0)
    batches = torch.randn(5, 2, 20_000, generator=generator)
    zeros = torch.zeros(1, 20_000, dtype=torch.int64)
    labels, wrong = (zeros, zeros.clone()) if bad == "label" else (None, None)

    def refuse(z):
        if (z > 0).any():
            raise ValueError("no label")

    def fed(with_refused):
        memory, state = grid.Memory(), grid.empty(1, 32)
        for x, y in batches[:3, :, None]:
            state = grid.update(state, x, y, None, labels, memory, refuse)
        if with_refused:
            x, y = spread * batches[3, :, None]
            if wrong is None:
                x = x.index_fill(1, torch.tensor(19_999), bad)
            else:
                wrong[0, -1] = 5
            with pytest.raises(ValueError, match=r"finite|no label"):
                grid.update(state, x, y, None, wrong, memory, refuse)
        x, y = batches[4, :, None]
        return grid.update(state, x, 0.5 * (x + y), None, labels, memory, refuse)

    assert torch.equal(fed(True), fed(False))
