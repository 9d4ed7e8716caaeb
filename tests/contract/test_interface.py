"""What torchmetrics and its users read from a class: its attributes, its plots, its
representation.
"""

import inspect

import matplotlib as mpl
import pytest
from torchmetrics import Metric
from torchmetrics.utilities.checks import check_forward_full_state_property

import mi_metrics
from tests.cautions import ignore_cautions
from tests.contract.cases import CASES, Case

mpl.use("Agg")
from matplotlib import pyplot as plt

pytestmark = ignore_cautions


def test_every_metric_of_the_package_is_under_contract():
    exported = {getattr(mi_metrics, name) for name in mi_metrics.__all__}
    metrics = {v for v in exported if inspect.isclass(v) and issubclass(v, Metric)}
    # Some are under it as subclasses that make their third variable from the other two.
    assert metrics <= {c for case in CASES for c in case.metric.__mro__}
    assert len({case.name for case in CASES}) == len(CASES)


def test_class_attributes_are_typed_and_constant(case: Case):
    metric = case.build()
    for name, wanted in (
        ("is_differentiable", False),
        ("higher_is_better", True),
        ("full_state_update", False),
    ):
        assert getattr(case.metric, name) is wanted
        assert any(
            name in vars(c).get("__annotations__", {})
            for c in case.metric.__mro__
            if c is not Metric
        )
        with pytest.raises(RuntimeError, match="Can't change const"):
            setattr(metric, name, None)
    for name in metric._defaults:
        assert any(name in vars(c).get("__annotations__", {}) for c in case.metric.__mro__), name


def test_every_argument_is_kept_under_its_name_and_none_is_invented(case: Case):
    metric = case.build()
    for name, value in case.kwargs.items():
        assert getattr(metric, name) == value
    with pytest.raises(TypeError, match=f"{case.metric.__name__} has, but got `no_such_argument`"):
        case.build(no_such_argument=1)
    with pytest.raises(TypeError, match="num_outputs"):
        case.build(num_outputs=2.0)
    with pytest.raises(
        ValueError, match=r"`nan_strategy` to be one of 'error', 'ignore', but got 'drop'"
    ):
        case.build(nan_strategy="drop")


def test_forward_with_one_update_equals_forward_with_two(
    case: Case, capsys: pytest.CaptureFixture[str]
):
    """Upstream's own check of `full_state_update=False`; it times both where they agree."""
    x, y = case.samples(50)
    check_forward_full_state_property(
        case.metric, case.kwargs, {"x": x, "y": y}, num_update_to_compare=[3], reps=2
    )
    assert "Partial state for 3 steps took" in capsys.readouterr().out


def test_value_has_no_gradient_as_the_class_says(case: Case):
    x, y = case.samples()
    assert not case.build()(x.requires_grad_(), y.requires_grad_()).requires_grad


@pytest.mark.parametrize("argument", ["compute_with_cache", "compute_on_cpu", "sync_on_compute"])
def test_arguments_of_every_metric_are_taken(case: Case, argument: str):
    metric = case.build(**{argument: argument == "compute_on_cpu"})
    metric(*case.samples(50, seed=1))
    metric.update(*case.samples())
    case.assert_same(
        metric.compute(), case.fed([case.samples(50, seed=1), case.samples()]).compute()
    )
    assert (metric._computed is None) == (argument == "compute_with_cache")


def test_value_is_cached_until_the_next_update(case: Case):
    metric = case.fed([case.samples()])
    value = metric.compute()
    assert metric.compute() is value
    metric.update(*case.samples(seed=1))
    assert metric.compute() is not value


def test_value_can_be_changed_without_changing_the_state(case: Case):
    metric = case.fed([case.samples()], compute_with_cache=False)
    metric.compute().zero_()
    case.assert_same(metric.compute(), case.value(case.samples()))


def test_plot_returns_figure_and_axes(case: Case):
    metric = case.build()
    values = [metric(*case.samples(seed=seed)) for seed in range(2)]
    for given in (None, values[0], values):
        figure, axes = metric.plot(given)
        assert isinstance(figure, plt.Figure)
        assert isinstance(axes, plt.Axes)
    figure, axes = plt.subplots()
    assert metric.plot(values, ax=axes) == (figure, axes)
    plt.close("all")


def test_plot_of_the_joint_table_returns_figure_and_axes(case: Case):
    if not hasattr(case.metric, "plot_joint"):
        pytest.skip("has no joint table")
    metric = case.fed([case.samples()])
    for output in range(case.num_outputs):
        figure, axes = metric.plot_joint(output)
        assert isinstance(figure, plt.Figure)
        assert isinstance(axes, plt.Axes)
        # In data units, x along the first axis.
        assert axes.get_xlim()[1] < 10 < 40 < axes.get_ylim()[1]
    plt.close("all")
