"""Compiled tables of the hard kernel against their reference: the same bits, the same refusals."""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from mi_metrics.functional import binned_joint, binned_mutual_information
from mi_metrics.functional.tables.axis import Axis, fixed_axis
from mi_metrics.functional.tables.hard import Unchecked, hard_counts, hard_counts_within
from mi_metrics.functional.tables.outside import mass_outside
from mi_metrics.functional.tensors import BYTES
from mi_metrics.kernels import native_tables

several = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = (torch.float32, torch.float64)


def samples(kind, rows, n, dtype, interval, bins, generator):
    """Return samples of a kind, many of them on edges or beyond the range."""
    lo, hi = interval
    values = torch.rand(rows, n, generator=generator, dtype=torch.float64)
    if kind == "uniform":
        found = lo + (hi - lo) * (1.4 * values - 0.2)
    elif kind == "edges":
        steps = (values * (bins + 4)).floor() - 2
        found = (lo + (hi - lo) * steps / bins).to(dtype)
        step = torch.randint(-1, 2, (rows, n), generator=generator)
        away = torch.where(step > 0, torch.inf, -torch.inf).to(dtype)
        found = torch.where(step == 0, found, torch.nextafter(found, away))
    elif kind == "constant":
        found = torch.full((rows, n), lo + 0.3 * (hi - lo), dtype=torch.float64)
    elif kind == "few":
        found = lo + (hi - lo) * (values * 4).round() / 4
    elif kind == "tiny":
        found = (values - 0.5) * 2.0 ** (-140 if dtype == torch.float32 else -1060)
    else:
        found = torch.where(values < 0.2, torch.finfo(dtype).max * (4 * values - 0.4), lo)
    return found.to(dtype)


@st.composite
def tables(draw):
    """Return arguments of `hard_counts`, and the ranges."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows = draw(st.integers(1, 3))
    sizes = [255, 256, 257, 1000, 1024, 1025, 30_000]
    n = draw(st.one_of(st.integers(1, 40), st.sampled_from(sizes)))
    bins = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 7, 64, 300]))
    ranges, axes, sides = [], [], []
    for b in bins:
        interval = draw(
            st.sampled_from([(0, 1), (-4, 4), (-6, 6), (0, 255), (1e6, 1e6 + 1), (-1e-3, 2e9)])
        )
        dtype = draw(st.sampled_from(DTYPES))
        kind = draw(
            st.sampled_from(["uniform", "edges", "constant", "few", "tiny", "far"]),
        )
        sides.append(samples(kind, rows, n, dtype, interval, b, generator))
        axis = fixed_axis(interval, b, dtype, torch.device("cpu"))
        if draw(st.booleans()):
            # Rows with ranges and numbers of bins of their own.
            lo = axis.lo - torch.rand(rows, 1, generator=generator, dtype=axis.lo.dtype)
            fewer = torch.randint(1, b + 1, (rows, 1), generator=generator).to(lo.dtype)
            axis = Axis(lo, axis.width.expand(rows, 1), fewer)
            ranges.append(None)
        else:
            ranges.append(interval)
        axes.append(axis)
    valid = None
    if draw(st.booleans()):
        valid = torch.rand(rows, n, generator=generator) < 0.7
    return (*sides, tuple(axes), bins, valid), None if None in ranges else tuple(ranges)


@several
@given(tables())
def test_counts_are_those_of_the_reference(reference, case):
    arguments, ranges = case
    counted = hard_counts(*arguments)
    torch.testing.assert_close(counted, reference(hard_counts, *arguments), rtol=0, atol=0)
    if ranges is not None:
        x, y, _, bins, valid = arguments
        assert torch.equal(hard_counts_within(x, y, ranges, bins, valid), counted)
        assert torch.equal(reference(hard_counts_within, x, y, ranges, bins, valid), counted)
    if ranges is not None and arguments[4] is None:
        x, y = arguments[:2]
        unchecked = Unchecked(ranges)
        assert torch.equal(hard_counts(*arguments, unchecked=unchecked), counted)
        assert torch.equal(unchecked.outside, reference(mass_outside, x, y, ranges))


@several
@given(st.data())
def test_counts_of_bytes_are_those_of_the_reference_and_of_floats(reference, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    rows = data.draw(st.integers(1, 3))
    n = data.draw(st.one_of(st.integers(1, 40), st.sampled_from([255, 257, 30_000, 300_000])))
    bins = data.draw(st.integers(1, 300)), data.draw(st.sampled_from([1, 2, 7, 256, 300]))
    cut = st.sampled_from([(0, 255), (-128, 127), (0, 1), (3.0000000001, 200), (-1e300, 1e300)])
    ranges = data.draw(cut), data.draw(cut)
    sides = []
    for _ in range(2):
        spread = data.draw(st.sampled_from([1, 3, 256]))
        values = torch.randint(spread, (rows, n), generator=generator, dtype=torch.uint8)
        dtype = data.draw(st.sampled_from(BYTES))
        sides.append(values % 2 == 0 if dtype == torch.bool else values.view(dtype))
    if data.draw(st.booleans()):
        sides = [v.T.contiguous().T for v in sides]
    axes = [
        fixed_axis(r, b, torch.float64, torch.device("cpu"))
        for r, b in zip(ranges, bins, strict=True)
    ]
    if data.draw(st.booleans()):
        fewer = torch.randint(1, bins[0] + 1, (rows, 1), generator=generator)
        lo, width = (part.expand(rows, 1) for part in axes[0][:2])
        axes[0] = Axis(lo, width, fewer.double())
    valid = None
    if data.draw(st.booleans()):
        valid = torch.rand(rows, n, generator=generator) < 0.7
    arguments = *sides, tuple(axes), bins, valid
    unchecked = Unchecked(ranges)
    counted = hard_counts(*arguments, unchecked=unchecked)
    assert torch.equal(counted, reference(hard_counts, *arguments))
    if bool((axes[0].bins == bins[0]).all()):
        assert torch.equal(hard_counts_within(*sides, ranges, bins, valid), counted)
    wide = [v.double() for v in sides]
    assert torch.equal(counted, reference(hard_counts, *wide, *arguments[2:]))
    for pair in (sides, wide):
        assert torch.equal(unchecked.outside, reference(mass_outside, *pair, ranges, valid))


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("value_range", [(0, 255), (3, 77)])
def test_functions_of_bytes_give_what_floats_give(reference, dtype, value_range):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (2, 4000), generator=generator, dtype=torch.uint8)
    x = x > 99 if dtype == torch.bool else x.view(dtype)
    options = {"num_bins": 16, "value_range": value_range}
    for function in (binned_joint, binned_mutual_information):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = [
                function(x, x.flip(1), **options),
                reference(function, x, x.flip(1), **options),
                function(x.double(), x.double().flip(1), **options),
            ]
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
        assert len(caught) % 3 == 0


def test_cells_of_bytes_beyond_the_table_are_not_counted(reference):
    x = torch.arange(256, dtype=torch.uint8).unsqueeze(0)
    for stray in (-1, 4, 2**31 - 1):
        cells = torch.zeros(1, 256, dtype=torch.int32)
        cells[0, 7] = stray
        inside = torch.zeros_like(cells)
        for pair in ((cells, inside), (inside, cells)):
            assert native_tables.byte_counts(x, x, pair, None, (4, 4), None, None, 1) is None


def test_a_byte_without_a_cell_is_refused_where_it_occurs(reference):
    generator = torch.Generator().manual_seed(0)
    for n in (1000, 300_000):
        x, y = torch.randint(8, (2, 1, n), generator=generator, dtype=torch.uint8)
        cells = torch.arange(256, dtype=torch.int32).unsqueeze(0)
        lacking = torch.where(cells == 5, -1, cells)
        marks = x != 5
        for pair, kept in (((lacking, cells), x != 5), ((cells, lacking), y != 5)):
            arguments = pair, None, (8, 8)
            assert native_tables.byte_counts(x, y, *arguments, None, None, 1) is None
            found = native_tables.byte_counts(x, y, *arguments, kept, None, 1)
            assert found.counts.sum() == kept.sum()
        others = torch.where(marks, x, 4)
        found = native_tables.byte_counts(others, y, (lacking, cells), None, (8, 8), None, None, 1)
        assert found.counts.sum() == n


@pytest.mark.parametrize("interval", [(0, 1e308), (-1e300, 1e300), (0, 1e-300), (0, 1e39)])
def test_ranges_that_float32_does_not_hold(reference, interval):
    x = torch.tensor([[0.0, 1e-38, 0.5, 3e38, -3e38]])
    for dtype in DTYPES:
        arguments = x.to(dtype), x.to(dtype), (interval, (0.0, 1.0)), (8, 2), None
        counted = hard_counts_within(*arguments)
        assert torch.equal(counted, reference(hard_counts_within, *arguments))


@several
@given(tables())
def test_what_lies_outside_is_that_of_the_reference(reference, case):
    (x, y, _, _, valid), _ = case
    ranges = ((-1.0, 2.0), (0.0, 0.5))
    twin = native_tables.mass_outside(x, y, ranges, valid)
    assert torch.equal(twin, reference(mass_outside, x, y, ranges, valid))


@several
@given(tables(), st.integers(1, 5), st.integers(0, 2**32))
def test_labelled_counts_are_those_of_the_reference(reference, case, conditions, seed):
    (x, y, axes, bins, valid), _ = case
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(conditions, (1, x.shape[1]), generator=generator)
    valid = None if valid is None else valid[:1]
    axes = tuple(axis.rows(slice(0, 1)) for axis in axes)
    arguments = x[:1], y[:1], axes, bins, valid
    options = {"labels": labels, "conditions": conditions}
    expected = reference(hard_counts, *arguments, **options)
    assert torch.equal(hard_counts(*arguments, **options), expected)


@pytest.mark.parametrize("strange", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_are_refused_in_the_same_words(reference, strange, dtype):
    x = torch.linspace(-1, 2, 5000, dtype=dtype)
    y = x.clone()
    y[4321] = x[7] = strange
    said = []
    for call in (lambda f, *a, **o: f(*a, **o), reference):
        with pytest.raises(ValueError, match="finite") as raised:
            call(binned_joint, x, y, 8, value_range=(0, 1))
        said.append(str(raised.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("width", [5e-324, 1e-310, 5e-309, 2e-308, 1e300])
def test_a_width_whose_inverse_is_no_normal_number(reference, width):
    x = width * torch.rand(1, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axis = fixed_axis((0.0, width), 8, torch.float64, torch.device("cpu"))
    arguments = x, x, (axis, axis), (8, 8), None
    assert torch.equal(hard_counts(*arguments), reference(hard_counts, *arguments))


def test_masked_nan_is_counted_nowhere(reference):
    x = torch.tensor([[0.1, torch.nan, 0.9, torch.inf]])
    axis = fixed_axis((0, 1), 2, torch.float32, torch.device("cpu"))
    counts = hard_counts(x, x, (axis, axis), (2, 2), x.isfinite())
    assert counts.tolist() == [[[1, 0], [0, 1]]]


def test_samples_in_any_layout(reference):
    x = torch.rand(3000, 2, generator=torch.Generator().manual_seed(0)).T
    y = x[:1].expand(2, -1)
    axis = fixed_axis((0, 1), 8, torch.float32, torch.device("cpu"))
    arguments = x, y, (axis, axis), (8, 8), (x > 0.1)[:, :1].expand(2, 3000)
    assert torch.equal(hard_counts(*arguments), reference(hard_counts, *arguments))


def test_a_label_that_is_none_is_not_counted_beyond_the_tables(reference):
    x = torch.rand(1, 100, generator=torch.Generator().manual_seed(0))
    line = native_tables.Line(*(torch.full((1, 1), v) for v in (0.0, 4.0, 1.0)))
    for stray in (-1, 3, 2**40, -(2**63)):
        labels = torch.zeros(1, 100, dtype=torch.int64)
        labels[0, 50] = stray
        arguments = x, x, (line, line), (4, 4)
        assert native_tables.hard_counts(*arguments, None, labels, 3, None) is None
        found = native_tables.hard_counts(*arguments, labels == 0, labels, 3, None)
        assert found.counts.sum() == 99


def test_an_axis_of_another_number_of_rows_is_refused(reference):
    x = torch.rand(3, 10, generator=torch.Generator().manual_seed(0))
    line = native_tables.Line(*(torch.full((2, 1), v) for v in (0.0, 4.0, 1.0)))
    with pytest.raises(ValueError, match="an axis for each row"):
        native_tables.hard_counts(x, x, (line, line), (4, 4), None, None, 1, None)


@pytest.mark.parametrize("bins", [8, 300])
def test_any_number_of_threads_counts_the_same(reference, bins):
    x, y = torch.rand(2, 1, 400_000, generator=torch.Generator().manual_seed(0))
    axis = fixed_axis((0, 0.9), bins, torch.float32, torch.device("cpu"))
    arguments = x, y, (axis, axis), (bins, bins), None
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            unchecked = Unchecked(((0, 0.9), (0, 0.9)))
            found.append((hard_counts(*arguments, unchecked=unchecked), unchecked.outside))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, found[0][0]) and torch.equal(b, found[0][1]) for a, b in found)
    assert torch.equal(found[0][0], reference(hard_counts, *arguments))


@pytest.mark.parametrize("bins", [8, 256])
def test_any_number_of_threads_counts_the_same_bytes(reference, bins):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(256, (2, 1, 700_001), generator=generator, dtype=torch.uint8)
    ranges, before, found = ((0.0, 255.0), (9.0, 200.0)), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            unchecked = Unchecked(ranges)
            counts = hard_counts_within(x, y, ranges, (bins, bins), None, unchecked=unchecked)
            found.append((counts, unchecked.outside))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, found[0][0]) and torch.equal(b, found[0][1]) for a, b in found)
    expected = reference(hard_counts_within, x, y, ranges, (bins, bins), None)
    assert torch.equal(found[0][0], expected)
    assert torch.equal(found[0][1], reference(mass_outside, x, y, ranges))


def test_the_caution_about_samples_outside_is_the_same(reference):
    x = torch.linspace(-1, 2, 999)
    said = []
    for call in (lambda f, *a, **o: f(*a, **o), reference):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call(binned_joint, x, x, 8, value_range=(0, 1))
        said.append([str(w.message) for w in caught])
    assert len(said[0]) == 1
    assert said[0] == said[1]


def test_samples_without_values_leave_nothing_behind():
    x = torch.arange(9, dtype=torch.uint8)
    with FakeTensorMode() as mode, pytest.raises(RuntimeError):
        binned_joint(mode.from_tensor(x), mode.from_tensor(x), 8, value_range=(-0.5, 8.5))
    assert float(binned_joint(x, x, 8, value_range=(-0.5, 8.5)).sum()) > 0
