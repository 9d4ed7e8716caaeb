"""A call that is refused says why and costs no sample; samples that are not numbers are refused or
dropped.
"""

import contextlib
import copy
import math
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from mi_metrics import MutualInformationGap, MutualInformationWarning
from mi_metrics.metrics.base import IGNORED, SEEN
from tests.cautions import ignore_cautions, warned
from tests.contract.cases import SIZES, Batch, Case, batches_of

pytestmark = ignore_cautions


def with_value(v: Tensor, value: float) -> Tensor:
    v = v.clone()
    v.view(-1)[3] = value
    return v


def both_infinities(v: Tensor) -> Tensor:
    return with_value(with_value(v, math.inf).flip(0), -math.inf)


SHAPE, DEVICE = "to have the same shape|as many samples", "on the metric's device"
INVALID = r"to be finite, but (it holds )?{} .*NaN or inf"
REFUSED: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Any, ...]], type[Exception], str]] = {
    "different lengths": (lambda x, y: (x, y[:-1]), ValueError, SHAPE),
    "no sample": (lambda x, y: (x[:0], y[:0]), ValueError, "at least one"),
    "complex x": (lambda x, y: (x + 1j, y), TypeError, "`x` to be real, but got torch.complex64"),
    "complex y": (lambda x, y: (x, y + 1j), TypeError, "`y` to be real, but got torch.complex64"),
    "NaN": (lambda x, y: (with_value(x, math.nan), y), ValueError, INVALID.format(1)),
    "infinity": (lambda x, y: (x, with_value(y, -math.inf)), ValueError, INVALID.format(1)),
    "both infinities": (lambda x, y: (x, both_infinities(y)), ValueError, INVALID.format(2)),
    "x on another device": (
        lambda x, y: (x.to("meta"), y),
        ValueError,
        f"same device, but got meta and|{DEVICE}",
    ),
    "both on another device": (lambda x, y: (x.to("meta"), y.to("meta")), ValueError, DEVICE),
    "a list": (lambda x, y: (x.tolist(), y), TypeError, "`x` to be a torch.Tensor, but got list"),
    "None": (lambda x, y: (x, None), TypeError, "`y` to be a torch.Tensor, but got NoneType"),
    "no y": (lambda x, y: (x,), TypeError, "missing 1 required positional argument: 'y'"),
}


def attributes(metric: torch.nn.Module) -> dict[str, Any]:
    """Return all that a metric holds but its states, its warnings and its methods."""
    wrapped = ("update", "compute", "_update_signature", "_warned")
    return {k: v for k, v in vars(metric).items() if k not in wrapped and k not in metric._defaults}


def assert_as_before(
    case: Case, metric: torch.nn.Module, states: dict[str, Any], before: dict[str, Any]
) -> None:
    for name, state in metric.metric_state.items():
        if isinstance(state, Tensor):
            assert torch.equal(state, states[name])
        else:
            assert len(state) == len(states[name])
    after = attributes(metric)
    assert after.keys() == before.keys()
    for name, value in before.items():
        if isinstance(value, Tensor):
            assert after[name] is value, name
        elif not isinstance(value, dict):
            assert after[name] == value, name


@pytest.mark.parametrize("call", ["update", "forward"])
@pytest.mark.parametrize("bad", REFUSED.values(), ids=REFUSED)
def test_refused_batch_leaves_the_metric_as_it_was(case: Case, bad: tuple, call: str):
    spoil, error, message = bad
    first, second = batches_of(case.samples(), (250,))
    metric = case.build()
    metric(*first)
    value = metric.compute()
    states, before = copy.deepcopy(metric.metric_state), attributes(metric)
    with pytest.raises(error, match=message):
        getattr(metric, call)(*spoil(*case.samples(20)))
    assert_as_before(case, metric, states, before)
    assert metric.compute() is value
    metric.update(*second)
    case.assert_same(metric.compute(), case.value(case.samples()))
    assert metric.update_count == 2


@pytest.mark.parametrize("call", ["update", "forward"])
def test_refused_first_batch_leaves_an_empty_metric(case: Case, call: str):
    metric = case.build()
    with pytest.raises(ValueError, match=SHAPE):
        getattr(metric, call)(case.samples()[0], case.samples()[1][1:])
    assert metric.update_count == 0
    case.assert_same_state(metric, case.build())
    case.assert_same(metric(*case.samples()), case.value(case.samples()))


def test_wrong_number_of_outputs_is_refused(case: Case):
    if case.num_outputs == 1:
        pytest.skip("pools whatever comes")
    x, y = case.samples()
    for a, b in ((x[:, :2], y[:, :2]), (x.flatten(), y.flatten())):
        with pytest.raises(
            ValueError,
            match=rf"\(N, {case.num_outputs}, \.\.\.\) for num_outputs={case.num_outputs}",
        ):
            case.build().update(a, b)


@pytest.mark.parametrize("method", ["compute", "reset", "_reduce_states"])
def test_forward_that_breaks_midway_leaves_the_metric_as_it_was(case: Case, method: str):
    """Whatever breaks it: an interrupt, no memory left, a collective that times out."""
    first, second = batches_of(case.samples(), (250,))
    metric = case.fed([first])
    value = metric.compute()
    if method == "_reduce_states" and getattr(metric, "_bins", ...) is None:
        pytest.skip("a batch is added to a grid and not merged with it; `reset` lies between")
    states, before = copy.deepcopy(metric.metric_state), attributes(metric)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    # Pytest's monkeypatch leaves an attribute of the instance behind up to version 8.
    with mock.patch.object(metric, method, broken), pytest.raises(KeyboardInterrupt):
        metric(*second)
    assert_as_before(case, metric, states, before)
    assert metric.compute() is value
    metric.update(*second)
    case.assert_same(metric.compute(), case.value(case.samples()))


def test_compute_that_breaks_leaves_the_metric_unsynced(
    case: Case, monkeypatch: pytest.MonkeyPatch
):
    """As it would with ranks: the state of all of them must not stay in place of this one's."""
    with monkeypatch.context() as patch:
        patch.setattr(case.metric, "compute", broken)
        metric = case.fed(
            [case.samples()], distributed_available_fn=always, dist_sync_fn=gather_twice
        )
    with pytest.raises(ZeroDivisionError):
        metric.compute()
    assert not metric._is_synced
    case.assert_same_state(metric, case.fed([case.samples()]))


def test_sync_that_breaks_leaves_the_metric_with_its_own_state(case: Case):
    for calls in range(len(case.build()._defaults)):
        gather = BreaksAfter(calls)
        metric = case.fed([case.samples()], distributed_available_fn=always, dist_sync_fn=gather)
        with pytest.raises(ZeroDivisionError):
            metric.compute()
        assert not metric._is_synced
        case.assert_same_state(metric, case.fed([case.samples()]))
        metric.update(*case.samples(seed=1))
        gather.calls = 99
        both = tuple(torch.cat(v) for v in zip(case.samples(), case.samples(seed=1), strict=True))
        case.assert_same(metric.compute(), case.value(tuple(torch.cat([v, v]) for v in both)))


def always() -> bool:
    return True


def gather_twice(tensor: Tensor, group: Any = None) -> list[Tensor]:
    return [tensor, tensor]


def broken(*args: Any) -> None:
    raise ZeroDivisionError


class BreaksAfter:
    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, tensor: Tensor, group: Any = None) -> list[Tensor]:
        self.calls -= 1
        if self.calls < 0:
            raise ZeroDivisionError
        return gather_twice(tensor)


def test_synced_metric_takes_no_samples_and_unsync_gives_its_own_state_back(case: Case):
    metric = case.fed([case.samples()], distributed_available_fn=always, dist_sync_fn=gather_twice)
    with metric.sync_context():
        assert torch.equal(metric.counters, 2 * case.fed([case.samples()]).counters)
        calls = (
            ("forward", case.samples()),
            ("update", case.samples()),
            ("merge_state", [case.build()]),
        )
        for method, arguments in calls:
            with pytest.raises(TorchMetricsUserError, match="unsync"):
                getattr(metric, method)(*arguments)
        assert metric._is_synced
    assert not metric._is_synced
    case.assert_same_state(metric, case.fed([case.samples()]))


def test_merging_what_does_not_add_up_is_refused_with_both_configurations(case: Case):
    metric = case.fed([case.samples()])
    value = metric.compute()
    states = copy.deepcopy(metric.metric_state)
    for other in case.strangers:
        stranger = case.build(**other)
        for incoming in (stranger, stranger.metric_state):
            with pytest.raises(
                ValueError, match=r"it belongs to a metric with .*, but this metric has .*"
            ):
                metric.merge_state(incoming)
    for incoming, message in (
        (torch.nn.Linear(1, 1), "Expected a metric, or a dict"),
        ({}, "Expected a metric, or a dict with the states"),
        ({"header": metric.header}, "Expected a metric, or a dict with the states"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.merge_state(incoming)
    assert metric.update_count == 1
    assert metric.compute() is value
    for name, state in metric.metric_state.items():
        assert len(state) == len(states[name])
    case.assert_same_state(metric, case.fed([case.samples()]))


def spoiled(
    batch: Batch, every: int = 7, *, everywhere: bool = False
) -> tuple[Batch, Batch, Tensor]:
    """Return a batch in which some rows of x or y are NaN or infinite (``everywhere``: of both),
    the batch without them, and which they are.
    """
    x, y = (v.clone() for v in batch)
    rows = torch.arange(len(x), device=x.device)
    bad = rows % every == 3
    x[bad & (rows % 2 == 0)] = math.nan
    y[bad & (rows % 3 == 0)] = math.inf
    y[bad & (rows % 3 == 1)] = -math.inf
    bad = ~torch.cat([v.reshape(len(v), -1) for v in (x, y)], 1).isfinite().all(1)
    if everywhere:
        x[bad] = y[bad] = math.nan
    return (x, y), (x[~bad], y[~bad]), bad


def test_invalid_samples_are_dropped_and_counted_on_request(case: Case):
    # A column of many keeps the samples that the other of a pair lacks.
    batch, clean, bad = spoiled(case.samples(), everywhere=case.metric in SIZES)
    assert 0 < bad.sum() < len(bad)
    metric = case.fed(batches_of(batch, (100, 4, 150)), nan_strategy="ignore")
    case.assert_same(metric.compute(), case.value(clean))
    per_row = 1 if case.vectors else batch[0][0].numel() // case.num_outputs
    assert metric.counters[IGNORED].tolist() == [int(bad.sum()) * per_row] * case.pairs
    assert metric.counters[SEEN].tolist() == [len(bad) * per_row] * case.pairs
    case.assert_same(case.build(nan_strategy="ignore")(*batch), case.value(clean))


def test_invalid_samples_in_half_precision_are_dropped_too(case: Case):
    batch, clean, _ = spoiled(case.samples(), everywhere=case.metric in SIZES)
    value = case.value(tuple(v.half() for v in batch), nan_strategy="ignore")
    case.assert_same(value, case.value(tuple(v.half() for v in clean)))


@pytest.mark.parametrize("when", ["never updated", "only NaN", "reset"])
def test_no_valid_sample_is_nan_and_one_warning(case: Case, when: str):
    metric = case.build(nan_strategy="ignore")
    if when == "only NaN":
        metric.update(*(torch.full_like(v, math.nan) for v in case.samples()))
    if when == "reset":
        metric.update(*case.samples())
        metric.compute()
        metric.reset()
    with warned("no samples", match="valid samples") as caught:
        values = [metric.compute()]
    metric.reset()
    values += [metric.compute(), metric(*(torch.full_like(v, math.nan) for v in case.samples()))]
    assert caught[0].filename == __file__
    for value in values:
        assert value.shape == case.shape
        assert value.isnan().all()
    # Samples that come later are not too late.
    metric.update(*case.samples())
    case.assert_same(metric.compute(), case.value(case.samples()))


def test_an_output_without_samples_is_nan_alone(case: Case):
    if case.num_outputs == 1:
        pytest.skip("has one output")
    x, y = case.samples()
    x[:, 1] = math.nan
    with warned("no samples", match="valid samples"):
        value = case.value((x, y), nan_strategy="ignore")
    assert value.isnan().tolist() == [i == 1 for i in range(case.num_outputs)]
    keep = [i for i in range(case.num_outputs) if i != 1]
    case.assert_same(value[keep], case.value(case.samples())[keep])


def test_constant_input_has_no_information(case: Case):
    x, y = case.samples()
    for batch in ((torch.full_like(x, 1.5), y), (x, torch.full_like(y, 21.0)), (x * 0, y * 0)):
        value = case.value(batch)
        # Scores are means over factors and latents that vary.
        undefined = value.isnan() if case.metric is MutualInformationGap else value != value
        assert (undefined | (value.abs() <= case.tolerance)).all()


def test_a_single_sample_is_a_value_and_no_error(case: Case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert case.build()(*case.samples(1)).shape == case.value(case.samples(1)).shape


def alone(case: Case) -> Batch:
    """Return a batch of which an error filter has something to say: it is too small for all."""
    return case.samples(2, seed=3)


def test_error_filter_costs_no_sample_and_no_value(case: Case):
    """Whatever is said of a value, by whichever call, the state is that of all batches."""
    metric, fed = case.build(), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MutualInformationWarning) as caught:
            metric.compute()
        assert caught.value.kind == "no samples"
        for batch in (alone(case), case.samples(30, seed=1), alone(case), case.samples()):
            for call in (metric.update, metric.forward, metric.forward):
                call(*batch)
                fed.append(batch)
                for _ in range(2):
                    with contextlib.suppress(MutualInformationWarning):
                        metric.compute()
                assert metric.update_count == len(fed)
                assert (metric.seen == sum(len(x) for x, *_ in fed) * case.per_row).all()
    case.assert_same_state(metric, case.fed(fed))
    case.assert_same(metric.compute(), case.fed(fed).compute())


def test_never_updated_metric_is_caught_by_a_filter_on_upstreams_words(case: Case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The ``compute`` method of metric .* was called before")
        assert case.build().compute().isnan().all()
