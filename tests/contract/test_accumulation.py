"""The state adds up: batches, orders, merges and the forward call change nothing, and nothing
grows.
"""

import weakref

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mi_metrics import BinnedMutualInformation, MutualInformationGap
from mi_metrics.metrics.base import SEEN
from tests.cautions import ignore_cautions
from tests.contract.cases import Case, batches_of

pytestmark = ignore_cautions

SIZES = (1, 150, 2, 90)


def test_one_call_equals_the_functional(case: Case):
    if case.functional is None:
        pytest.skip("has no functional form")
    batch = case.lattice() if case.on_lattice else case.samples()
    value = case.value(batch)
    assert value.dtype == torch.float64
    assert value.shape == case.shape
    tolerance = case.functional_tolerance
    torch.testing.assert_close(value, case.call_functional(batch), rtol=tolerance, atol=tolerance)


def test_value_tells_x_from_y(case: Case):
    """The samples of this harness would show an exchange of the axes, where the estimator is not
    symmetric itself.
    """
    x, y = case.samples()
    assert x.mean() < 1 < 15 < y.mean()
    bins = case.kwargs.get("num_bins")
    if isinstance(bins, tuple) and bins[0] != bins[1]:
        x, y = (v[:, :2] if case.vectors else v for v in (x, y))
        alike = dict.fromkeys(case.sizes, 2) if case.vectors else {}
        values = case.value((x, y), **alike), case.value((y, x), **alike)
        assert not torch.allclose(*values, rtol=1e-3)


def test_batches_give_the_value_and_the_state_of_one_call(case: Case):
    batch = case.samples()
    whole, parts = case.fed([batch]), case.fed(batches_of(batch, SIZES))
    case.assert_same(parts.compute(), whole.compute())
    case.assert_same_state(parts, whole)


def test_forward_returns_the_value_of_its_batch_and_leaves_what_update_does(case: Case):
    batch = case.samples()
    metric, batches = case.build(), batches_of(batch, SIZES)
    for part in batches:
        case.assert_same(metric(*part), case.value(part))
    assert metric.update_count == len(batches)
    case.assert_same(metric.compute(), case.value(batch))
    case.assert_same_state(metric, case.fed([batch]))


def test_forward_equals_the_functional_on_its_batch(case: Case):
    if case.functional is None:
        pytest.skip("has no functional form")
    metric = case.fed([case.samples(50, seed=1)])
    batch = case.lattice() if case.on_lattice else case.samples()
    tolerance = case.functional_tolerance
    torch.testing.assert_close(
        metric(*batch), case.call_functional(batch), rtol=tolerance, atol=tolerance
    )


def test_compute_can_be_asked_at_any_time(case: Case):
    batch = case.samples()
    metric = case.build()
    for part in batches_of(batch, SIZES):
        metric.update(*part)
        case.assert_same(metric.compute(), metric.compute())
    case.assert_same(metric.compute(), case.value(batch))


def test_reset_forgets_everything(case: Case):
    metric = case.fed([case.samples(seed=1)])
    metric.compute()
    metric.reset()
    case.assert_same_state(metric, case.build())
    metric.update(*case.samples())
    case.assert_same(metric.compute(), case.value(case.samples()))


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=15, deadline=None)
def test_any_order_split_and_merge_tree_gives_the_same_bits(case: Case, data: st.DataObject):
    n = data.draw(st.integers(60, 90), label="samples")
    batch = case.samples(n)
    whole = case.fed([batch])
    order = torch.randperm(
        n, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 2**31), label="order"))
    )
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=6), label="cuts"))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    metrics = [case.build() for _ in range(data.draw(st.integers(1, 4), label="metrics"))]
    for part in batches_of(tuple(v[order.to(v.device)] for v in batch), sizes):
        metric = metrics[data.draw(st.integers(0, len(metrics) - 1), label="metric")]
        (metric.forward if data.draw(st.booleans(), label="forward") else metric.update)(*part)
    while len(metrics) > 1:
        other = metrics.pop(data.draw(st.integers(0, len(metrics) - 1), label="merged"))
        metrics[data.draw(st.integers(0, len(metrics) - 1), label="into")].merge_state(other)
    case.assert_same_state(metrics[0], whole)
    case.assert_same(metrics[0].compute(), whole.compute())


def test_merged_metric_equals_one_that_saw_everything(case: Case):
    batch = case.samples()
    a, b, c = (case.fed([part]) for part in batches_of(batch, (100, 250)))
    values, states = [m.compute() for m in (b, c)], [b.metric_state, c.metric_state]
    a.compute()
    a.merge_state(b)
    a.merge_state(c)
    assert a.update_count == 3
    case.assert_same(a.compute(), case.value(batch))
    case.assert_same_state(a, case.fed([batch]))
    for other, value, state in zip((b, c), values, states, strict=True):
        assert all(other.metric_state[name] is state[name] for name in state)
        case.assert_same(other.compute(), value)
        other.update(*case.samples(seed=1))
    case.assert_same(a.compute(), case.value(batch))


def test_metric_can_be_updated_after_a_merge(case: Case):
    first, second, third = batches_of(case.samples(), (100, 250))
    metric = case.fed([first])
    metric.merge_state(case.fed([second]))
    metric.update(*third)
    case.assert_same(metric.compute(), case.value(case.samples()))


@pytest.mark.parametrize("empty", ["this", "other", "both"])
def test_merging_with_an_empty_metric_changes_nothing(case: Case, empty: str):
    batches = [case.samples()]
    metric = case.fed([] if empty in ("this", "both") else batches)
    metric.merge_state(case.fed([] if empty in ("other", "both") else batches))
    case.assert_same_state(metric, case.fed([] if empty == "both" else batches))
    if empty != "both":
        case.assert_same(metric.compute(), case.value(case.samples()))


def test_states_can_be_merged_as_a_dict(case: Case):
    first, second = batches_of(case.samples(), (100,))
    metric = case.fed([first])
    metric.compute()
    metric.merge_state(case.fed([second]).metric_state)
    case.assert_same(metric.compute(), case.value(case.samples()))


@pytest.mark.parametrize("count", [24, 31, 33])
def test_counts_stay_exact_past_what_narrow_numbers_hold(case: Case, count: int):
    if not case.constant_memory:
        pytest.skip("keeps every sample")
    x, y = (v[:1].expand(8, *v.shape[1:]) for v in case.samples())
    metric, doubled = case.fed([(x, y)]), case.fed([(x, y)])
    for _ in range(count):
        doubled.merge_state(doubled)
    seen = metric.counters[SEEN]
    assert torch.equal(doubled.counters[SEEN], seen << count)
    before = doubled.metric_state
    doubled.update(x[:1], y[:1])
    assert torch.equal(doubled.counters[SEEN], (seen << count) + seen // 8)
    if hasattr(metric, "counts"):
        total, expected = doubled.counts(), (seen << count) + seen // 8
        total = total.sum((-2, -1)) if metric.num_outputs > 1 else total.sum()
        assert torch.equal(
            total.round().long(), expected if metric.num_outputs > 1 else expected.squeeze(0)
        )
    # A score of factors that do not vary is none.
    assert doubled.compute().isfinite().all() or case.metric is MutualInformationGap
    doubled.merge_state(before)
    assert torch.equal(doubled.counters[SEEN], (seen << (count + 1)) + seen // 8)


def test_values_do_not_change_when_every_sample_is_counted_often(case: Case):
    if (
        case.metric is not BinnedMutualInformation
        or case.kwargs.get("bias_correction", "none") != "none"
    ):
        pytest.skip("depends on the number of samples")
    metric = case.fed([case.samples()])
    value = metric.compute()
    for _ in range(33):
        metric.merge_state(metric)
    torch.testing.assert_close(metric.compute(), value, rtol=1e-12, atol=0)


def state_bytes(metric: torch.nn.Module) -> int:
    tensors = [
        t
        for state in metric.metric_state.values()
        for t in (state if isinstance(state, list) else [state])
    ]
    return sum(t.untyped_storage().nbytes() for t in tensors)


@pytest.mark.parametrize("call", ["update", "forward"])
def test_state_is_as_large_after_many_batches_as_after_one(case: Case, call: str):
    if not case.constant_memory:
        pytest.skip("keeps every sample")
    metric = case.fed([case.samples(20)])
    size = state_bytes(metric)
    for seed in range(200 if call == "update" else 20):
        getattr(metric, call)(*case.samples(20, seed))
    assert state_bytes(metric) == size


def test_state_holds_on_to_no_batch(case: Case):
    """A state that is a view of its batch would keep the whole batch in memory."""
    if not case.constant_memory:
        pytest.skip("keeps every sample")
    small, large = case.fed([case.samples(4)]), case.fed([case.samples(4000)])
    assert state_bytes(large) == state_bytes(small)


def test_reset_frees_the_state(case: Case):
    metric = case.fed([case.samples()])
    metric(*case.samples())
    metric.compute()
    held = [
        t
        for state in metric.metric_state.values()
        for t in (state if isinstance(state, list) else [state])
    ]
    gone = [weakref.ref(t) for t in held]
    del held
    metric.reset()
    assert [ref() for ref in gone] == [None] * len(gone)
    assert state_bytes(metric) <= state_bytes(case.build())


class Copied(TorchDispatchMode):
    """Counts the elements that are copied."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (
            torch.ops.aten.clone,
            torch.ops.aten.copy_,
            torch.ops.aten._to_copy,
        ):
            self.elements += result.numel()
        return result


def test_forward_costs_as_much_after_many_batches_as_after_one(case: Case):
    """Upstream copies every element of every list state at each call, so that an epoch costs its
    square.
    """
    metric, batch, copied = case.build(), case.samples(20), []
    for _ in range(12):
        with Copied() as mode:
            metric(*batch)
        copied.append(mode.elements)
    assert copied[-1] <= copied[2]


def test_no_update_writes_into_a_tensor_that_others_may_hold(case: Case):
    metric = case.fed([case.samples()])
    held = {name: state for name, state in metric.metric_state.items() if isinstance(state, Tensor)}
    copies = {name: state.clone() for name, state in held.items()}
    metric.update(*case.samples(seed=1))
    metric(*case.samples(seed=2))
    metric.merge_state(metric)
    metric.compute()
    metric.reset()
    assert all(torch.equal(held[name], copies[name]) for name in held)
