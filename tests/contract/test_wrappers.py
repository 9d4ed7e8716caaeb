"""Copies of torchmetrics' wrappers are wrappers, collections pass their own keywords."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics import MeanSquaredError, MetricCollection, MetricTracker
from torchmetrics.wrappers import (
    BootStrapper,
    ClasswiseWrapper,
    MinMaxMetric,
    MultioutputWrapper,
    MultitaskWrapper,
    Running,
)

from mi_metrics import BinnedMutualInformation
from tests.cautions import ignore_cautions
from tests.contract.cases import Batch, Case

pytestmark = ignore_cautions


class Group:
    """Stands for a process group: it can be neither copied nor pickled."""

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        raise TypeError("cannot be copied")

    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "ClasswiseWrapper": ClasswiseWrapper,
    "MinMaxMetric": MinMaxMetric,
    "MultioutputWrapper": lambda metric: MultioutputWrapper(metric, num_outputs=2),
    "Running": lambda metric: Running(metric, window=2),
    "BootStrapper": lambda metric: BootStrapper(metric, num_bootstraps=2),
    "MultitaskWrapper": lambda metric: MultitaskWrapper({"a": metric}),
    "MetricTracker": MetricTracker,
    "MetricCollection": lambda metric: MetricCollection({"mi": metric}),
    "collection of wrappers": lambda metric: MetricCollection({"mi": ClasswiseWrapper(metric)}),
    "tracker of wrappers": lambda metric: MetricTracker(
        MetricCollection([MinMaxMetric(metric)]), maximize=True
    ),
    "arithmetic": lambda metric: 2.0 * metric,
}
COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "clone": lambda wrapper: wrapper.clone() if hasattr(wrapper, "clone") else wrapper,
    "in a collection": lambda wrapper: copy.deepcopy(nn.ModuleDict({"w": wrapper}))["w"],
}


def kinds(module: nn.Module) -> list[type]:
    return [type(m) for m in module.modules()]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", WRAPPERS)
def test_copies_of_wrappers_keep_their_kind_and_share_the_process_group(
    case: Case, name: str, how: str
):
    group = Group()
    wrapper = WRAPPERS[name](case.build(process_group=group))
    if isinstance(wrapper, MetricTracker):
        wrapper.increment()
    twin = COPIES[how](wrapper)
    assert kinds(twin) == kinds(wrapper)
    ours = [m for m in twin.modules() if type(m) is case.metric]
    assert ours
    assert all(m.process_group is group for m in ours)
    assert repr(twin) == repr(wrapper)


@pytest.mark.parametrize("name", WRAPPERS)
def test_pickled_wrappers_keep_their_kind(case: Case, name: str):
    wrapper = WRAPPERS[name](case.build())
    assert kinds(pickle.loads(pickle.dumps(wrapper))) == kinds(wrapper)


def test_tracked_and_cloned_wrappers_give_labelled_values(case: Case):
    if case.num_outputs == 1:
        pytest.skip("has no values to label")
    labels = [f"c{i}" for i in range(case.num_outputs)]
    wrapper = ClasswiseWrapper(case.build(), labels=labels, prefix="mi_")
    expected = dict(
        zip([f"mi_{label}" for label in labels], case.value(case.samples()), strict=True)
    )
    collection = MetricCollection([wrapper]).clone(prefix="val_")
    collection.update(*case.samples())
    for key, value in collection.compute().items():
        case.assert_same(value, expected[key.removeprefix("val_")])
    tracker = MetricTracker(wrapper)
    tracker.increment()
    tracker.update(*case.samples())
    for key, value in tracker.compute().items():
        case.assert_same(value, expected[key])


# -- keywords of a collection ----------------------------------------------------------------------


def named(batch: Batch, *names: str) -> dict[str, Any]:
    """Return a batch as keywords; what comes after x and y has its own name."""
    return dict(zip((*names, "z"), batch, strict=False))


@pytest.mark.parametrize("call", ["update", "forward"])
def test_preds_and_target_of_a_collection_are_x_and_y(case: Case, call: str):
    batch = case.samples()
    others = {"mse": MeanSquaredError()} if batch[0].shape == batch[1].shape else {}
    together = MetricCollection(others | {"mi": case.build(), "top": MinMaxMetric(case.build())})
    if case.shape:
        together = MetricCollection(others | {"mi": case.build()})
    together = together.to(case.device)
    result = getattr(together, call)(**named(batch, "preds", "target"))
    for values in (result or {}, together.compute()):
        if "mi" in values:
            case.assert_same(values["mi"], case.value(batch))
    if "mse" in others:
        mse = MeanSquaredError().to(case.device)
        assert torch.equal(together.compute()["mse"], mse(*batch[:2]))


def test_x_and_y_beside_the_preds_and_target_of_other_metrics_are_taken(case: Case):
    batch = case.samples()
    together = MetricCollection({"mse": MeanSquaredError(), "mi": case.build()}).to(case.device)
    zeros = torch.zeros(3, device=case.device)
    together.update(preds=zeros, target=zeros + 2, **named(batch, "x", "y"))
    case.assert_same(together.compute()["mi"], case.value(batch))
    assert together.compute()["mse"] == 4


@pytest.mark.parametrize("pair", [("x", "preds", "target"), ("preds", "target", "y")])
def test_one_of_x_and_y_in_two_names_is_refused(case: Case, pair: tuple[str, ...]):
    batch = case.samples()
    names = dict.fromkeys(pair, batch[0]) | {"target": batch[1]}
    for metric in (case.build(), MetricCollection({"mi": case.build()})):
        with pytest.raises(ValueError, match=r"Expected `[xy]` or `(preds|target)`, but got both"):
            metric.update(**names)


def test_y_of_one_output_is_paired_with_every_output_of_x(case: Case):
    if case.num_outputs == 1:
        pytest.skip("has one output")
    x, y = case.samples()
    y = y[:, :1]
    case.assert_same(case.value((x, y)), case.value((x, y.expand_as(x))))
    with pytest.raises(ValueError, match="shape"):
        case.value((x, y[:, :, :1]))


def test_quantiles_of_a_bootstrap_are_asked_for_in_the_dtype_of_the_values():
    wrapper = BootStrapper(
        BinnedMutualInformation(4, value_range=(0, 1)),
        num_bootstraps=3,
        quantile=torch.tensor([0.1, 0.9], dtype=torch.float64),
    )
    x = torch.linspace(0, 1, 100)
    wrapper.update(x, x)
    assert wrapper.compute()["quantile"].shape == (2,)
