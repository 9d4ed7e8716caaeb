"""A metric answers for itself: how many samples it has seen, how it was built, what it holds."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mi_metrics
from tests.cautions import ignore_cautions
from tests.contract.cases import Case

pytestmark = ignore_cautions


def test_metric_says_how_many_samples_it_has_seen_and_ignored(case: Case):
    batch = case.samples()
    spoilt = tuple(v.clone() for v in batch)
    spoilt[0][:7] = math.nan
    spoilt[-1][7:10] = math.inf
    metric = case.build(nan_strategy="ignore")
    shape = case.counted
    for counter in (metric.seen, metric.ignored, metric.outside):
        assert counter.dtype == torch.int64
        assert counter.shape == shape
        assert not counter.any()
    metric.update(*batch)
    metric.update(*spoilt)
    each = case.per_row
    assert (metric.seen == 800 * each).all()
    assert (metric.ignored == 10 * each).all()
    held = metric.seen
    held.zero_()
    assert (metric.seen == 800 * each).all()
    metric.reset()
    assert not metric.seen.any()


def test_metric_says_how_many_samples_lay_outside_its_range(case: Case):
    metric = case.fed([case.samples()])
    if case.kwargs.get("value_range") is None:
        assert not metric.outside.any()
        return
    before = metric.outside
    x, y = case.samples(5)
    metric.update(x + 1000, y)
    assert (metric.outside == before + 5 * case.per_row).all()


def test_counters_inside_a_sync_are_those_of_all_ranks(case: Case):
    metric = case.fed(
        [case.samples()], distributed_available_fn=lambda: True, dist_sync_fn=gather_three
    )
    own = metric.seen
    with metric.sync_context():
        assert torch.equal(metric.seen, 3 * own)
        case.assert_same(metric.compute(), case.fed([case.samples()] * 3).compute())
        # And again, from what is held.
        case.assert_same(metric.compute(), case.fed([case.samples()] * 3).compute())
    assert torch.equal(metric.seen, own)


def gather_three(tensor: Tensor, group: Any = None) -> list[Tensor]:
    return [tensor] * 3


def test_value_inside_a_sync_is_not_kept_for_outside(case: Case):
    metric = case.fed(
        [case.samples()],
        sync_on_compute=False,
        distributed_available_fn=lambda: True,
        dist_sync_fn=lambda tensor, group=None: [tensor, tensor],
    )
    alone = metric.compute()
    with metric.sync_context():
        case.assert_same(metric.compute(), case.fed([case.samples()] * 2).compute())
    case.assert_same(metric.compute(), alone)


def test_representation_builds_an_equal_metric(case: Case):
    overrides = ({}, {"nan_strategy": "ignore"}, {"sync_on_compute": False}, *case.shares)
    for override in overrides:
        metric = case.build(**override)
        again = eval(repr(metric), vars(mi_metrics) | {case.metric.__name__: case.metric})
        assert repr(again) == repr(metric)
        assert torch.equal(again.header, metric.header.cpu())
        for name in case.kwargs | override:
            assert getattr(again, name) == getattr(metric, name), name
        again.to(case.device).update(*case.samples())
        case.assert_same(again.compute(), case.fed([case.samples()], **override).compute())


def test_representation_shows_what_differs_from_the_defaults_in_the_order_of_the_signature():
    metric = mi_metrics.BinnedMutualInformation(
        8, unit="bits", value_range=(0, 1), compute_with_cache=False
    )
    assert repr(metric) == (
        "BinnedMutualInformation(num_bins=8, value_range=(0.0, 1.0), unit='bits', "
        "compute_with_cache=False)"
    )
    assert repr(mi_metrics.KNNMutualInformation()) == "KNNMutualInformation()"
    assert repr(mi_metrics.KDEMutualInformation(bandwidth=(0.5, 0.25))) == (
        "KDEMutualInformation(bandwidth=(0.5, 0.25))"
    )


class Holds(nn.Module):
    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        self.linear, self.metric = nn.Linear(1, 2), metric

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_module_that_holds_a_metric_can_be_compiled_by_torchscript(case: Case):
    for metric in (case.build(), case.fed([case.samples()])):
        module = Holds(metric).to(case.device)
        x = torch.ones(3, 1, device=case.device)
        assert torch.equal(torch.jit.script(module)(x), module(x))


class Answering(mi_metrics.BinnedMutualInformation):
    """A metric of a user's with a property that TorchScript has no words for."""

    @property
    def spread(self) -> dict[str, Any]:
        return {**{"edges": self.edges()}}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_properties_of_a_subclass_are_not_compiled_by_torchscript():
    module, x = Holds(Answering(4)), torch.ones(3, 1)
    assert torch.equal(torch.jit.script(module)(x), module(x))
