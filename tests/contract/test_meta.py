"""A metric that was made where there are no values is empty and valid once it has some."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.cautions import ignore_cautions
from tests.contract.cases import Case

pytestmark = ignore_cautions


def on_meta(case: Case) -> nn.Module:
    with torch.device("meta"):
        module = nn.Module()
        module.linear, module.metric = nn.Linear(2, 2), case.metric(**case.kwargs)
    return module


def filled(module: nn.Module, device: torch.device) -> nn.Module:
    """Give a module memory that holds anything, as FSDP's recipe does."""
    junk = [torch.full((n,), 7, dtype=torch.int64) for n in (4, 5, 64, 4096) for _ in range(50)]
    del junk
    return module.to_empty(device=device)


@pytest.mark.parametrize("reset", [True, False])
def test_metric_of_a_module_that_was_made_on_meta_is_empty(case: Case, reset: bool):
    module = on_meta(case)
    assert module.metric.counters.is_meta
    metric = filled(module, case.device).metric
    if reset:
        metric.reset()
    case.assert_same_state(metric, case.build())
    assert torch.equal(metric.header, case.build().header)
    metric.update(*case.samples())
    case.assert_same(metric.compute(), case.value(case.samples()))
    metric.reset()
    case.assert_same_state(metric, case.build())


MOVES: dict[str, Callable[[nn.Module, torch.device], object]] = {
    "to": lambda metric, device: metric.to(device),
    "to_empty": lambda metric, device: metric.to_empty(device=device),
    "to_empty alone": lambda metric, device: metric.to_empty(device=device, recurse=False),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_metric_that_lost_its_values_starts_again(case: Case, move: Callable):
    metric = case.fed([case.samples(seed=1)])
    metric.compute()
    metric.to("meta")
    for call in (lambda: metric.update(*case.samples()), metric.compute, lambda: metric(1, 2)):
        with pytest.raises(ValueError, match=r"holds values, but it is on the device meta.*to_emp"):
            call()
    move(metric, case.device)
    assert metric.update_count == 0
    case.assert_same_state(metric, case.build())
    metric.update(*case.samples())
    case.assert_same(metric.compute(), case.value(case.samples()))


def test_memory_as_it_comes_in_place_of_a_state_is_an_empty_metric(case: Case):
    metric = case.fed([case.samples(seed=1)])
    metric.to_empty(device=case.device)
    case.assert_same_state(metric, case.build())
    metric.update(*case.samples())
    case.assert_same(metric.compute(), case.value(case.samples()))


@pytest.mark.parametrize("assign", [True, False])
def test_checkpoint_can_be_loaded_into_a_metric_on_meta(case: Case, assign: bool):
    source = case.fed([case.samples()])
    source.persistent(True)
    metric = on_meta(case).metric
    metric.load_state_dict(source.state_dict(), assign=assign)
    case.assert_same_state(metric, source)
    case.assert_same(metric.compute(), source.compute())
    metric.reset()
    case.assert_same_state(metric, case.build())


def test_merging_into_a_metric_on_meta_is_refused(case: Case):
    with pytest.raises(ValueError, match="on the device meta"):
        on_meta(case).metric.merge_state(case.fed([case.samples()]))
