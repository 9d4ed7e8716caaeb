"""The table of recommended estimators: its functions and metrics are the same estimators."""

import pytest
import torch

from mi_metrics.settings import ESTIMATORS
from tests.samples import gaussian


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_function_and_the_metric_give_the_same_value(name):
    x, y = gaussian(5000)
    metric = ESTIMATORS[name].metric()
    metric.update(x, y)
    # As documented for Gaussian samples of this size: the grid moves the bins by up to a cell.
    assert metric.compute().item() == pytest.approx(ESTIMATORS[name](x, y).item(), abs=0.01)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_batch_of_draws_has_an_estimate_for_each(name):
    draws = [gaussian(300, seed=seed) for seed in range(3)]
    x, y = (torch.stack(v) for v in zip(*draws, strict=True))
    estimates = ESTIMATORS[name](x, y)
    assert estimates.shape == (3,)
    assert estimates.tolist() == [ESTIMATORS[name](*draw).item() for draw in draws]


def test_options_of_a_metric_are_added_to_those_recommended():
    assert ESTIMATORS["bins"].metric(unit="bits").unit == "bits"


def test_titles_tell_the_estimators_apart():
    assert len({estimator.title for estimator in ESTIMATORS.values()}) == len(ESTIMATORS)
