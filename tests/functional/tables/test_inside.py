"""Few samples inside known ranges: the counts are those of the table that takes any samples."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_metrics.functional.tables.axis import fixed_axis
from mi_metrics.functional.tables.ends import ends_of
from mi_metrics.functional.tables.hard import hard_counts
from mi_metrics.functional.tables.inside import added, frame
from mi_metrics.functional.tables.outside import all_inside

RANGES = [
    (0.0, 1.0),
    (-6.0, 6.0),
    (0.1, 0.7),
    (-1e-3, 1e3),
    (0.0, 255.0),
    (1e20, 3e20),
    (-0.1, 0.3),
]
DTYPES = [torch.float32, torch.float64]


def near(interval, dtype, generator, shape):
    """Return samples of a range: its ends, borders of bins, their neighbours, and any others."""
    lo, hi = (torch.tensor(end, dtype=torch.float64) for end in interval)
    share = torch.randint(0, 33, shape, generator=generator) / 32
    other = torch.rand(shape, generator=generator, dtype=torch.float64)
    share = torch.where(torch.rand(shape, generator=generator) < 0.5, share.double(), other)
    values = (lo + (hi - lo) * share).to(dtype)
    step = torch.randint(-1, 2, shape, generator=generator)
    ends = ends_of(interval, dtype)
    moved = torch.nextafter(values, torch.where(step > 0, math.inf, -math.inf).to(dtype))
    return torch.where(step == 0, values, moved).clamp(*ends)


@settings(max_examples=150)
@given(
    st.sampled_from(RANGES),
    st.sampled_from(RANGES),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(DTYPES),
    st.integers(1, 3),
    st.integers(0, 2**31),
)
def test_counts_are_those_of_the_table_that_takes_any_samples(
    x_range, y_range, bins, dtype, outputs, seed
):
    generator = torch.Generator().manual_seed(seed)
    ranges = (x_range, y_range)
    x, y = (near(r, dtype, generator, (outputs, 50)) for r in ranges)
    table = torch.randint(0, 9, (outputs, *bins), generator=generator)
    axes = tuple(fixed_axis(r, b, dtype, x.device) for r, b in zip(ranges, bins, strict=True))
    before = table.clone()
    found = added(table, x, y, ranges)
    assert found is not None
    assert torch.equal(found, table + hard_counts(x, y, axes, bins, None))
    assert torch.equal(table, before)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.5, -0.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_that_are_not_inside_are_left_to_others(value, dtype):
    inside = torch.full((1, 5), 0.5, dtype=dtype)
    other = inside.clone()
    other[0, 3] = value
    table, ranges = torch.zeros(1, 4, 4, dtype=torch.int64), ((0.0, 1.0), (0.0, 1.0))
    assert added(table, inside, inside, ranges) is not None
    assert added(table, other, inside, ranges) is None
    assert added(table, inside, other, ranges) is None
    assert all_inside(inside, inside, ranges)
    assert not all_inside(other, inside, ranges)
    assert not all_inside(inside, other, ranges)


def test_ranges_that_float32_does_not_hold_are_left_to_others():
    cpu = torch.device("cpu")
    assert frame(((0.0, 1e300), (0.0, 1.0)), (4, 4), torch.float32, cpu) is None
    assert frame(((0.0, 1e308), (0.0, 1.0)), (4, 4), torch.float64, cpu) is None
    assert frame(((0.0, 1.0), (0.0, 1.0)), (2**12, 2**13), torch.float32, cpu) is None
    x = torch.full((1, 5), 0.5)
    assert added(torch.zeros(1, 4, 4, dtype=torch.int64), x, x, ((0.0, 1e300), (0.0, 1.0))) is None
    assert added(torch.zeros(1, 4, 4).long(), x, x.double(), ((0.0, 1.0), (0.0, 1.0))) is None
