"""Metrics keep to themselves in collections, or share what they may, and work inside torchmetrics'
wrappers.
"""

from typing import Any

import pytest
import torch
from torchmetrics import MetricCollection, MetricTracker
from torchmetrics.wrappers import MinMaxMetric, MultioutputWrapper, Running

from tests.cautions import ignore_cautions
from tests.contract.cases import CASES, Batch, Case, batches_of

pytestmark = ignore_cautions


def collection(case: Case, others: tuple[dict[str, Any], ...], **kwargs: Any) -> MetricCollection:
    return MetricCollection(
        {str(i): case.build(**o) for i, o in enumerate(({}, *others))}, **kwargs
    )


def assert_equal_to_each_alone(
    case: Case, others: tuple[dict[str, Any], ...], batches: list[Batch], groups: int
):
    together, apart = collection(case, others), collection(case, others, compute_groups=False)
    for part in batches:
        for c in (together, apart):
            c.update(*part)
    assert len(together.compute_groups) == groups
    for name, value in together.compute().items():
        assert torch.equal(value, apart.compute()[name])
    for metric, other in zip(together.values(), ({}, *others), strict=True):
        case.assert_same(metric.compute(), case.fed(batches, **other).compute())
    # A reset and a forward call go through the shared state as well.
    together.reset()
    for name, value in together(*batches[-1]).items():
        case.assert_same(value, case.value(batches[-1], **({}, *others)[int(name)]))
    together.update(*batches[-1])
    for name, value in together.compute().items():
        case.assert_same(value, case.fed([batches[-1]] * 2, **({}, *others)[int(name)]).compute())


def test_metrics_that_differ_in_compute_alone_share_one_state(case: Case):
    if not case.shares:
        pytest.skip("names no relatives")
    assert_equal_to_each_alone(case, case.shares, batches_of(case.samples(), (100, 150)), groups=1)
    together = collection(case, case.shares)
    together.update(*case.samples())
    first, *others = together.values(copy_state=False)
    assert all(
        m.metric_state[name] is state for m in others for name, state in first.metric_state.items()
    )


def test_metrics_that_differ_in_update_never_share_even_after_a_first_batch_of_zeros(case: Case):
    zeros = tuple(torch.zeros_like(v) for v in case.samples(20))
    others = (*case.differs, {"nan_strategy": "ignore"})
    assert_equal_to_each_alone(
        case, others, [zeros, *batches_of(case.samples(), (100,))], groups=1 + len(others)
    )


def test_estimators_of_different_classes_share_one_table(device: torch.device):
    bins, densities = (
        next(c for c in CASES if c.name == name).on(device) for name in ("found bins", "densities")
    )
    together = MetricCollection([bins.build(), densities.build()])
    for part in batches_of(bins.samples(), (100, 150)):
        together.update(*part)
    assert len(together.compute_groups) == 1
    first, second = together.values(copy_state=False)
    assert first.table is second.table
    bins.assert_same(first.compute(), bins.value(bins.samples()))
    densities.assert_same(second.compute(), densities.value(bins.samples()))


def test_collection_can_be_cloned_and_called_with_keywords(case: Case):
    together = collection(case, case.shares).clone(prefix="val_")
    x, y = case.samples()
    together.update(x=x, y=y)
    case.assert_same(together.compute()["val_0"], case.value((x, y)))


@pytest.mark.parametrize("call", ["update", "forward"])
def test_running_window_holds_the_last_batches(case: Case, call: str):
    batches = batches_of(case.samples(), (100, 150, 50))
    running = Running(case.build(), window=2)
    for i, part in enumerate(batches):
        result = getattr(running, call)(*part)
        if call == "forward":
            case.assert_same(result, case.value(part))
        case.assert_same(running.compute(), case.fed(batches[max(0, i - 1) : i + 1]).compute())
    running.reset()
    running.update(*batches[0])
    case.assert_same(running.compute(), case.value(batches[0]))


def test_tracker_keeps_every_epoch_and_knows_the_best(case: Case):
    x, y = case.samples()
    epochs = [(x, y.flip(0)), (x, y), (x, y.roll(1, 0))]
    tracker = MetricTracker(case.build())
    for epoch in epochs:
        tracker.increment()
        for part in batches_of(epoch, (150,)):
            tracker.update(*part)
        tracker.compute()
    expected = torch.stack([case.value(epoch) for epoch in epochs])
    case.assert_same(tracker.compute_all(), expected)
    if case.shape == ():
        best, step = tracker.best_metric(return_step=True)
        assert step == int(expected.argmax())
        case.assert_same(torch.tensor(best, dtype=torch.float64), expected[step].cpu())


def test_min_max_wrapper_follows_the_value(case: Case):
    if case.shape:
        pytest.skip("is not a scalar")
    x, y = case.samples()
    wrapper, values = MinMaxMetric(case.build()), []
    for part in batches_of((x, y), (100, 150)):
        wrapper.update(*part)
        result = wrapper.compute()
        values.append(result["raw"])
    case.assert_same(result["raw"], case.value((x, y)))
    # The wrapper keeps them in float32.
    assert float(result["min"]) == pytest.approx(min(map(float, values)))
    assert float(result["max"]) == pytest.approx(max(map(float, values)))


def test_multioutput_wrapper_equals_a_metric_per_column(case: Case):
    if case.num_outputs > 1 or case.vectors:
        pytest.skip("has several columns itself")
    columns = [case.samples(seed=seed) for seed in range(3)]
    x, y = (torch.stack(v, 1) for v in zip(*columns, strict=True))
    x[::9, 1] = torch.nan  # rows that the wrapper removes
    wrapper = MultioutputWrapper(case.build(), num_outputs=3).to(case.device)
    for part in batches_of((x, y), (150,)):
        wrapper.update(*part)
    keep = torch.arange(len(x), device=x.device) % 9 != 0
    columns[1] = tuple(v[keep] for v in columns[1])
    for value, column in zip(wrapper.compute(), columns, strict=True):
        case.assert_same(value, case.value(column))


def test_arithmetic_of_metrics_is_that_of_their_values(case: Case):
    first, second = batches_of(case.samples(), (150,))
    a, b = case.build(), case.build(nan_strategy="ignore")
    total, twice = a + b, 2.0 * case.build()
    for metric in (total, twice):
        case.assert_same(metric(*first), 2 * case.value(first))
        metric.update(*second)
        case.assert_same(metric.compute(), 2 * case.value(case.samples()))
        metric.reset()
        metric.update(*first)
        case.assert_same(metric.compute(), 2 * case.value(first))
