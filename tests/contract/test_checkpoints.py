"""A metric survives being copied, pickled, saved and loaded, and refuses what is not its own."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mi_metrics.states import header as headers
from tests.cautions import ignore_cautions
from tests.contract.cases import Case, batches_of

pytestmark = ignore_cautions


def saved(case: Case, *batches: Any) -> dict[str, Any]:
    metric = case.fed(batches)
    metric.persistent(True)
    return metric.state_dict()


COPIES = {
    "clone": lambda metric: metric.clone(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda metric: pickle.loads(pickle.dumps(metric)),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_go_their_own_way(case: Case, how: str):
    first, second = batches_of(case.samples(), (250,))
    metric = case.fed([first])
    value = metric.compute()
    other = COPIES[how](metric)
    case.assert_same(other.compute(), value)
    other.update(*second)
    case.assert_same(other.compute(), case.value(case.samples()))
    case.assert_same(other(*first), value)
    assert metric.compute() is value
    case.assert_same_state(metric, case.fed([first]))
    assert metric.update_count == 1
    assert hash(metric) != hash(other)


def test_empty_metric_can_be_copied(case: Case):
    for metric in (case.build().clone(), pickle.loads(pickle.dumps(case.build()))):
        case.assert_same(metric(*case.samples()), case.value(case.samples()))


def test_state_dict_is_empty_unless_asked(case: Case):
    metric = case.fed([case.samples()])
    assert metric.state_dict() == {}
    metric.persistent(True)
    assert list(metric.state_dict()) == list(metric._defaults)
    assert len(metric.state_dict()) <= 3
    case.fed([]).load_state_dict({}, strict=True)


def test_loaded_metric_continues_as_if_uninterrupted(case: Case, tmp_path):
    first, second = batches_of(case.samples(), (250,))
    torch.save(saved(case, first), tmp_path / "metric.pt")
    metric = case.build()
    metric.load_state_dict(torch.load(tmp_path / "metric.pt", weights_only=True))
    # Warnings are errors, that of a compute before any update too.
    case.assert_same(metric.compute(), case.value(first))
    assert metric.update_called
    metric.update(*second)
    case.assert_same(metric.compute(), case.value(case.samples()))
    case.assert_same_state(metric, case.fed([case.samples()]))
    metric.reset()
    case.assert_same_state(metric, case.build())


def test_loading_replaces_what_was_there(case: Case):
    metric = case.fed([case.samples(seed=1)])
    metric.compute()
    metric.load_state_dict(saved(case, case.samples()))
    case.assert_same(metric.compute(), case.value(case.samples()))


def test_module_saves_and_loads_its_metric_under_its_prefix(case: Case):
    def module(metric: nn.Module) -> nn.Module:
        m = nn.Module()
        m.linear, m.val = nn.Linear(2, 1, device=case.device), nn.ModuleDict({"mi": metric})
        return m

    own = {"linear.weight", "linear.bias"}
    source = module(case.fed([case.samples()]))
    assert set(source.state_dict()) == own
    module(case.build()).load_state_dict(source.state_dict())
    source.val["mi"].persistent(True)
    states = source.state_dict()
    assert set(states) == own | {f"val.mi.{name}" for name in source.val["mi"]._defaults}
    target = module(case.build())
    target.val["mi"].persistent(True)
    target.load_state_dict(states)
    case.assert_same(target.val["mi"].compute(), case.value(case.samples()))
    with pytest.raises(RuntimeError, match=r"Missing key.*val\.mi\.header"):
        target.load_state_dict({k: v for k, v in states.items() if k in own})
    with pytest.raises(RuntimeError, match=r"val\.mi\."):
        module(case.build(nan_strategy="ignore")).load_state_dict(states)


def test_loaded_states_are_not_shared_with_the_checkpoint(case: Case):
    states = saved(case, case.samples())
    metric = case.build()
    metric.load_state_dict(states)
    assert set(states) == set(metric._defaults)
    for value in states.values():
        for tensor in value if isinstance(value, list) else [value]:
            tensor.zero_()
    case.assert_same_state(metric, case.fed([case.samples()]))
    metric.persistent(True)
    later = metric.state_dict()
    metric.update(*case.samples(seed=1))
    other = case.build()
    other.load_state_dict(later)
    case.assert_same(other.compute(), case.value(case.samples()))


def assert_refused(case: Case, states: dict[str, Any], message: str, strict: bool = True) -> None:
    """Check that states are refused, by a metric that keeps those it has."""
    metric = case.fed([case.samples(seed=1)])
    value = metric.compute()
    with pytest.raises(RuntimeError, match=message):
        metric.load_state_dict(states, strict=strict)
    assert metric.compute() is value
    assert metric.update_count == 1
    case.assert_same_state(metric, case.fed([case.samples(seed=1)]))


def test_a_checkpoint_that_lacks_a_state_is_refused(case: Case):
    states = saved(case, case.samples())
    for name in states:
        assert_refused(
            case, {k: v for k, v in states.items() if k != name}, rf"Missing key.*\"{name}\""
        )
    # Not strict: nothing is loaded rather than half of it.
    metric = case.fed([case.samples(seed=1)])
    metric.load_state_dict({k: v for k, v in states.items() if k != "header"}, strict=False)
    case.assert_same_state(metric, case.fed([case.samples(seed=1)]))


def test_an_empty_checkpoint_is_refused_where_states_are_expected(case: Case):
    metric = case.build()
    metric.persistent(True)
    with pytest.raises(RuntimeError, match="Missing key"):
        metric.load_state_dict({})


@pytest.mark.parametrize("strict", [True, False])
def test_a_checkpoint_of_another_configuration_is_refused_with_both_named(case: Case, strict: bool):
    for other in case.strangers:
        metric = case.build(**other)
        metric.persistent(True)
        message = r"(?s)While loading \w+: it belongs to a metric with .*, but this metric has .*"
        assert_refused(case, metric.state_dict(), message, strict)


def first_and_last(state: Tensor) -> tuple[Tensor, Tensor]:
    places = torch.tensor([0, state.numel() - 1], device=state.device)
    return places, torch.ones_like(places, dtype=state.dtype)


DAMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "negative": lambda state: -1 - state.abs(),
    "not a number": lambda state: torch.full_like(
        state, torch.nan if state.is_floating_point() else 2**63 - 1
    ),
    "one more": lambda state: (
        state.flatten().index_add(0, *first_and_last(state)).view(state.shape)
    ),
    "moved": lambda state: (state.flatten().roll(1) - 1).view(state.shape),
}


def damaged(state: Any, damage: str) -> Any:
    """Return a state of the right shapes and dtypes that no samples give."""
    if isinstance(state, Tensor):
        return DAMAGES[damage](state)
    # Any finite numbers may be samples; their number may not.
    (rows,) = state
    return {
        "negative": [],
        "not a number": [rows.index_fill(0, torch.tensor(3, device=rows.device), torch.inf)],
        "one more": [rows, rows[:1]],
        "moved": [rows[1:]],
    }[damage]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_impossible_values_are_refused_and_cost_nothing(case: Case, damage: str, strict: bool):
    """A checkpoint that was edited, cut off, or written by something else."""
    states = saved(case, case.samples())
    for name in states:
        if name == "header":
            continue
        wrong = states | {name: damaged(states[name], damage)}
        assert_refused(case, wrong, "impossible values", strict)
        metric = case.fed([case.samples(seed=1)])
        for _ in range(2):
            with pytest.raises(ValueError, match="impossible values"):
                metric.merge_state(wrong)
        case.assert_same_state(metric, case.fed([case.samples(seed=1)]))
        with pytest.raises(RuntimeError, match="impossible values"):
            metric.load_state_dict(wrong, assign=True)


def test_values_that_samples_give_are_taken(case: Case):
    """What the check of impossible values must let pass: few, many, ignored, constant samples."""
    x, y = case.samples()
    spoilt = x.clone()
    spoilt[::3] = torch.nan
    lives = (
        [(x[:1], y[:1])],
        [(x * 0, y)] * 3,
        [(spoilt, y), (spoilt * torch.nan, y)],
        [(x.double() * 1e30, y * 1e-30)],
        [(x, y), (x[:5].round(), y[:5].round())],
    )
    for batches in lives:
        source = case.fed(batches, nan_strategy="ignore")
        source.persistent(True)
        target = case.build(nan_strategy="ignore")
        target.load_state_dict(source.state_dict())
        case.assert_same_state(target, source)
        target.merge_state(source)
        case.assert_same(
            target.compute(), case.fed([*batches] * 2, nan_strategy="ignore").compute()
        )


def test_shorter_header_of_an_earlier_version_loads_with_its_missing_fields_absent(
    case: Case, monkeypatch: pytest.MonkeyPatch
):
    states = saved(case, case.samples())
    monkeypatch.setattr(headers, "FIELDS", (*headers.FIELDS, "a_later_field"))
    later = case.build()
    assert len(later.header) == len(states["header"]) + 4
    later.load_state_dict(states)
    case.assert_same(later.compute(), case.value(case.samples()))
    later.merge_state(states)
    case.assert_same(later.compute(), case.fed([case.samples()] * 2).compute())


def test_states_of_another_shape_or_dtype_are_refused(case: Case):
    states = saved(case, case.samples())
    for name, state in states.items():
        if isinstance(state, Tensor):
            for other in (state[..., :-1], state.unsqueeze(0), state.to(torch.float32)):
                assert_refused(case, states | {name: other}, f"size mismatch for {name}: expected")
            assert_refused(
                case, states | {name: [state]}, f"expected `{name}` as a Tensor, but got a list"
            )
        else:
            assert_refused(
                case,
                states | {name: torch.zeros(3)},
                f"expected `{name}` as a list, but got a Tensor",
            )
