"""A masked sample was never there: it is in no state, no counter, and may hold anything."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_metrics import BinnedMutualInformation, MutualInformationLoss
from tests.cautions import ignore_cautions
from tests.contract.cases import Batch, Case

pytestmark = ignore_cautions


def mask_of(case: Case, batch: Batch, seed: int = 0) -> Tensor:
    """Return a mask that keeps some two thirds, of each output as many but others."""
    generator = torch.Generator().manual_seed(seed)
    shape = batch[0].shape[:1] if case.vectors else batch[0].shape
    if case.num_outputs == 1:
        return (torch.rand(shape, generator=generator) < 0.7).to(case.device)
    order = torch.rand(shape, generator=generator).movedim(1, 0).flatten(1).argsort(1)
    kept = torch.zeros(order.shape, dtype=torch.bool).scatter_(
        1, order[:, : 2 * order.shape[1] // 3], True
    )
    return kept.view(case.num_outputs, len(batch[0]), -1).movedim(0, 1).to(case.device)


def without(case: Case, batch: Batch, mask: Tensor) -> Batch:
    """Return the samples that a mask keeps, as a batch without it."""
    if case.num_outputs == 1:
        return tuple(v[mask] for v in batch)
    rows = (v.movedim(1, 0)[mask.movedim(1, 0)].view(case.num_outputs, -1) for v in batch)
    return tuple(v.T for v in rows)


def spoilt(batch: Batch, mask: Tensor) -> Batch:
    """Return a batch whose masked samples hold NaN, infinities and what lies far outside."""
    bad = torch.tensor([math.nan, math.inf, -math.inf, 1e30], device=mask.device)
    return tuple(
        torch.where(
            mask.view(*mask.shape, *[1] * (v.ndim - mask.ndim)),
            v,
            bad.repeat(v.numel())[: v.numel()].view(v.shape),
        )
        for v in batch
    )


@pytest.mark.parametrize("nan_strategy", ["error", "ignore"])
@pytest.mark.parametrize("call", ["update", "forward"])
def test_masked_samples_leave_no_trace(case: Case, nan_strategy: str, call: str):
    metric, plain = (case.build(nan_strategy=nan_strategy) for _ in range(2))
    for seed in range(3):
        batch = case.samples(150, seed)
        mask = mask_of(case, batch, seed)
        value = getattr(metric, call)(*spoilt(batch, mask), mask=mask)
        expected = getattr(plain, call)(*without(case, batch, mask))
        if call == "forward":
            assert_equal(value, expected)
    for name in metric._defaults:
        held, wanted = getattr(metric, name), getattr(plain, name)
        if isinstance(held, Tensor):
            assert torch.equal(held, wanted), name
    assert_equal(metric.compute(), plain.compute())
    assert not metric.ignored.any()


def assert_equal(value: Tensor, expected: Tensor) -> None:
    assert torch.equal(value, expected)


def test_mask_of_nothing_but_true_changes_nothing(case: Case):
    batch = case.samples()
    metric = case.build()
    metric.update(*batch, mask=torch.ones_like(mask_of(case, batch)))
    case.assert_same_state(metric, case.fed([batch]))
    assert_equal(metric.compute(), case.value(batch))


def test_outputs_may_keep_different_numbers(case: Case):
    if case.num_outputs == 1:
        pytest.skip("has one output")
    batch = case.samples()
    mask = mask_of(case, batch)
    mask[:100, 0], mask[:, -1] = False, False
    metric = case.build()
    metric.update(*spoilt(batch, mask), mask=mask)
    assert torch.equal(metric.seen, mask.movedim(1, 0).flatten(1).sum(1))
    value = metric.compute()
    assert value[-1].isnan()
    one = case.build(num_outputs=1)
    for output in range(case.num_outputs - 1):
        keep = mask[:, output]
        one.reset()
        one.update(*(v[:, output][keep] for v in batch))
        case.assert_same(value[output], one.compute())


def test_mask_that_leaves_nothing_is_an_empty_update(case: Case):
    batch = case.samples()
    nothing = torch.zeros_like(mask_of(case, batch))
    metric = case.fed([batch])
    value = metric.compute()
    metric.update(*spoilt(batch, nothing), mask=nothing)
    case.assert_same_state(metric, case.fed([batch]))
    assert_equal(metric.compute(), value)
    assert metric(*spoilt(batch, nothing), mask=nothing).isnan().all()
    case.assert_same_state(metric, case.fed([batch]))
    # A batch without samples is a mistake all the same.
    with pytest.raises(ValueError, match="at least one"):
        metric.update(*(v[:0] for v in batch), mask=nothing[:0])


BAD: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "float": (lambda mask: mask.float(), TypeError, "`mask` to be a bool tensor.*torch.float32"),
    "list": (lambda mask: mask.tolist(), TypeError, "`mask` to be a bool tensor.*got list"),
    "short": (lambda mask: mask[:-1], ValueError, "`mask` of the samples' shape .*broadcasts"),
    "more dimensions": (
        lambda mask: mask.unsqueeze(-1),
        ValueError,
        "`mask` of the samples' shape",
    ),
    "device": (lambda mask: mask.to("meta"), ValueError, "`mask` on the same device.*meta"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_is_no_mask_is_refused_and_costs_no_sample(case: Case, bad: tuple):
    spoil, error, message = bad
    batch = case.samples()
    metric = case.fed([batch])
    with pytest.raises(error, match=message):
        metric.update(*batch, mask=spoil(mask_of(case, batch)))
    case.assert_same_state(metric, case.fed([batch]))
    assert metric.update_count == 1


@pytest.mark.parametrize("shape", [(4, 1, 5, 6), (1, 1, 5, 6), (5, 6), (4, 3, 1, 1)])
def test_a_mask_that_broadcasts_is_that_of_the_samples(shape):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 4, 3, 5, 6, generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) < 0.7
    metrics = [BinnedMutualInformation(4, num_outputs=n) for n in (1, 1, 3, 3)]
    for metric, m in zip(metrics, (mask, mask.expand(x.shape)) * 2, strict=True):
        metric.update(x, y, mask=m)
    for one, other in (metrics[:2], metrics[2:]):
        assert one.seen.equal(other.seen)
        assert one.counts().equal(other.counts())
    loss = MutualInformationLoss(4)
    assert loss(x, y, mask=mask) == loss(x, y, mask=mask.expand(x.shape))
