"""Tables of the hard kernel on a GPU against their reference: the same bits, the same refusals."""

import pytest
import torch
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mi_metrics import BinnedConditionalMutualInformation, BinnedMutualInformation
from mi_metrics.functional import binned_joint
from mi_metrics.functional.tables.axis import Axis, fixed_axis
from mi_metrics.functional.tables.hard import Unchecked, hard_counts
from mi_metrics.functional.tables.outside import mass_outside
from mi_metrics.kernels import gpu, triton_hard
from mi_metrics.kernels.native_tables import Line
from tests.cautions import ignore_cautions
from tests.kernels.test_hard import tables

pytestmark = [
    ignore_cautions,
    # NumPy says what a GPU does not.
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]
several = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_these_kernels_are_interpreted():
    assert triton.knobs.runtime.interpret
    assert not isinstance(triton_hard._count, triton.JITFunction)


@several
@given(tables())
def test_counts_are_those_of_the_reference(card, case):
    arguments, ranges = case
    counted = hard_counts(*arguments)
    assert torch.equal(counted, card(hard_counts, *arguments))
    if ranges is not None and arguments[4] is None:
        unchecked = Unchecked(ranges)
        assert torch.equal(hard_counts(*arguments, unchecked=unchecked), counted)
        assert torch.equal(unchecked.outside, card(mass_outside, *arguments[:2], ranges))


@several
@given(tables(), st.integers(1, 5), st.integers(0, 2**32))
def test_labelled_counts_are_those_of_the_reference(card, case, conditions, seed):
    (x, y, axes, bins, valid), _ = case
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(conditions, (1, x.shape[1]), generator=generator)
    valid = None if valid is None else valid[:1]
    arguments = x[:1], y[:1], tuple(axis.rows(slice(0, 1)) for axis in axes), bins, valid
    options = {"labels": labels, "conditions": conditions}
    assert torch.equal(hard_counts(*arguments, **options), card(hard_counts, *arguments, **options))


def line(lo, bins, width, dtype=torch.float32, rows=1):
    """Return an axis of kernels."""
    return Line(*(torch.full((rows, 1), v, dtype=dtype) for v in (lo, bins, width)))


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.uint8, torch.float64),
        (torch.int8, torch.float64),
    ],
)
def test_short_dtypes_are_counted_without_a_copy(card, dtype, wide):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(-100, 200, (2, 5000), generator=generator).to(dtype) for _ in range(2))
    lines = (line(0.0, 256, 256, wide), line(-30.0, 7, 100, wide))
    ends = ((0.0, 256.0), (-30.0, 70.0))
    found = triton_hard.hard_counts(x, y, lines, (256, 7), None, None, 1, ends, True)
    axes = (fixed_axis(ends[0], 256, wide, x.device), fixed_axis(ends[1], 7, wide, x.device))
    wider = x.to(wide), y.to(wide)
    assert torch.equal(found.counts, card(hard_counts, *wider, axes, (256, 7), None))
    assert torch.equal(found.outside, card(mass_outside, *wider, ends))


@pytest.mark.parametrize("strange", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_and_infinity_are_refused_in_the_same_words(card, strange, dtype):
    x = torch.linspace(-1, 2, 5000, dtype=dtype)
    y = x.clone()
    y[4321] = x[7] = strange
    said = []
    for call in (lambda f, *a, **o: f(*a, **o), card):
        with pytest.raises(ValueError, match="finite") as raised:
            call(binned_joint, x, y, 8, value_range=(0, 1))
        said.append(str(raised.value))
    assert said[0] == said[1]


def test_what_is_not_finite_is_counted_value_by_value(card):
    x = torch.tensor([[0.5, torch.nan, torch.inf, 0.5], [torch.nan, 0.1, 0.2, -3.0]])
    y = torch.tensor([[0.5, torch.nan, 0.5, 0.5], [0.3, 0.1, 0.2, 0.3]])
    valid = torch.tensor([[True] * 4, [False, True, True, True]])
    ends = ((0.0, 1.0), (0.0, 1.0))
    lines = (line(0.0, 2, 1), line(0.0, 2, 1))
    found = triton_hard.hard_counts(x, y, lines, (2, 2), valid, None, 1, ends, True)
    assert found.not_finite == 3
    assert found.outside.tolist() == [1, 1]


def test_masked_nan_is_counted_nowhere(card):
    x = torch.tensor([[0.1, torch.nan, 0.9, torch.inf]])
    axis = fixed_axis((0, 1), 2, torch.float32, torch.device("cpu"))
    counts = hard_counts(x, x, (axis, axis), (2, 2), x.isfinite())
    assert counts.tolist() == [[[1, 0], [0, 1]]]


def test_samples_in_any_layout(card):
    x = torch.rand(3000, 2, generator=torch.Generator().manual_seed(0)).T
    y = x[:1].expand(2, -1)
    axis = fixed_axis((0, 1), 8, torch.float32, torch.device("cpu"))
    arguments = x, y, (axis, axis), (8, 8), (x > 0.1)[:, :1].expand(2, 3000)
    assert torch.equal(hard_counts(*arguments), card(hard_counts, *arguments))


def test_samples_that_memory_holds_with_the_other_sign(card):
    x = torch.complex(torch.rand(1, 500), -torch.rand(1, 500)).conj().imag
    assert x.is_neg()
    axis = fixed_axis((0, 1), 8, torch.float32, torch.device("cpu"))
    arguments = x, x, (axis, axis), (8, 8), None
    assert torch.equal(hard_counts(*arguments), card(hard_counts, *arguments))


def test_ranges_as_small_as_the_smallest_numbers(card):
    x = torch.arange(-3.0, 40).mul_(2.0**-149)[None]
    for width in (1, 7, 2**20, 2**60):
        sides = torch.zeros(1, 1), torch.tensor([[width * 2.0**-149]]), torch.full((1, 1), 7.0)
        for v in (x, x * width, x * 2.0**100):
            arguments = v, v, (Axis(*sides), Axis(*sides)), (7, 7), None
            assert torch.equal(hard_counts(*arguments), card(hard_counts, *arguments))


def test_a_label_that_is_none_is_not_counted_beyond_the_tables(card):
    x = torch.rand(1, 100, generator=torch.Generator().manual_seed(0))
    lines = (line(0.0, 4, 1), line(0.0, 4, 1))
    for stray in (-1, 3, 2**40, -(2**63)):
        labels = torch.zeros(1, 100, dtype=torch.int64)
        labels[0, 50] = stray
        found = triton_hard.hard_counts(x, x, lines, (4, 4), None, labels, 3, None, False)
        assert found.counts.sum((1, 2)).tolist() == [99, 0, 0]


def test_what_kernels_do_not_hold_is_left_to_the_reference(card, monkeypatch):
    x, lines = torch.rand(1, 100), (line(0.0, 4, 1), line(0.0, 4, 1))
    bins, rest = (4, 4), (None, None, 1, None, False)
    assert triton_hard.hard_counts(x, x, lines, bins, *rest) is not None
    assert triton_hard.hard_counts(x.double(), x, lines, bins, *rest) is None
    assert triton_hard.hard_counts(x.long(), x, lines, bins, *rest) is None
    assert triton_hard.hard_counts(x[:, :0], x[:, :0], lines, bins, *rest) is None
    assert triton_hard.hard_counts(x, x, lines, (10_000, 10_000), *rest) is None
    monkeypatch.setattr(triton_hard, "_MOST_SAMPLES", 99)
    assert triton_hard.hard_counts(x, x, lines, bins, *rest) is None


def test_any_number_of_copies_counts_the_same(card, monkeypatch):
    x, y = torch.rand(2, 2, 30_000, generator=torch.Generator().manual_seed(0))
    lines = (line(0.0, 60, 0.9), line(0.0, 50, 0.9))
    found = []
    for copies in (1, 3, 256):
        monkeypatch.setattr(triton_hard, "_COPIES", copies)
        found.append(
            triton_hard.hard_counts(x, y, lines, (60, 50), None, None, 1, None, False).counts
        )
    assert all(torch.equal(counts, found[0]) for counts in found)
    assert found[0].sum((1, 2)).tolist() == [30_000, 30_000]


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("nan_strategy", ["error", "ignore"])
def test_a_metric_has_the_state_of_the_reference(card, outputs, nan_strategy, request):
    shape = (3000,) if outputs == 1 else (3000, outputs)
    x, y = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    if nan_strategy == "ignore":
        x[7], y[9] = torch.nan, torch.inf
    options = {"num_bins": (5, 256), "value_range": (-3, 3), "num_outputs": outputs}
    ours, theirs = (BinnedMutualInformation(**options, nan_strategy=nan_strategy) for _ in range(2))
    ours.update(x, y)
    card(theirs.update, x, y)
    assert torch.equal(ours.table, theirs.table)
    assert torch.equal(ours.counters, theirs.counters)


def test_a_metric_of_conditions_has_the_state_of_the_reference(card):
    x, y = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    condition = torch.randint(4, (3000,), generator=torch.Generator().manual_seed(1))
    ours, theirs = (
        BinnedConditionalMutualInformation(num_bins=8, value_range=(-3, 3), num_conditions=4)
        for _ in range(2)
    )
    ours.update(x, y, condition)
    card(theirs.update, x, y, condition)
    assert torch.equal(ours.table, theirs.table)


def test_a_kernel_that_fails_leaves_the_call_to_the_reference(card, monkeypatch):
    x = torch.rand(1, 50, generator=torch.Generator().manual_seed(0))
    axis = fixed_axis((0, 1), 4, torch.float32, torch.device("cpu"))
    monkeypatch.setattr(triton_hard, "_count", None)
    arguments = x, x, (axis, axis), (4, 4), None
    assert torch.equal(hard_counts(*arguments), card(hard_counts, *arguments))
    assert list(gpu.failures()) == ["hard"]
    gpu._failed.clear()
