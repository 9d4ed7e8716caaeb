"""Samples outside a given range: the same doubt in every function and its metric."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_metrics import BinnedMutualInformation, KDEMutualInformation
from mi_metrics.functional import (
    binned_joint,
    binned_mutual_information,
    kde_joint,
    kde_mutual_information,
)
from mi_metrics.functional.tables.outside import mass_outside
from tests.cautions import warned

RANGE = ((-4.0, 4.0), (-5.0, 5.0))
BINNED: tuple[dict[str, Any], ...] = (
    {"num_bins": 8},
    {"num_bins": "auto"},
    {"num_bins": (8, 6), "kernel": "linear"},
    {"num_bins": 8, "kernel": "cubic"},
    {"num_bins": 8, "normalization": "geometric"},
)


def far(number: int, n: int = 1000) -> tuple[Tensor, Tensor]:
    """Return samples within the range but for some on either axis."""
    x, y = torch.rand(2, n, generator=torch.Generator().manual_seed(0)) * 6 - 3
    x[: number // 2] = -4.5
    y[number // 2 : number] = 6
    return x, y


def metric_of(build: Callable[[], Any]) -> Callable[[Tensor, Tensor], Any]:
    def call(x: Tensor, y: Tensor) -> Any:
        metric = build()
        metric.update(x, y)
        return metric.compute()

    return call


def calls() -> list[Any]:
    def with_range(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return lambda x, y: function(x, y, value_range=RANGE, **options)

    found = [
        pytest.param(with_range(kde_mutual_information), id="kde"),
        pytest.param(with_range(kde_joint), id="kde joint"),
        pytest.param(with_range(binned_joint), id="joint"),
        pytest.param(with_range(binned_joint, num_bins=9, kernel="cubic"), id="soft joint"),
        pytest.param(metric_of(partial(KDEMutualInformation, value_range=RANGE)), id="kde metric"),
    ]
    for options in BINNED:
        name = ", ".join(map(str, options.values()))
        metric = partial(BinnedMutualInformation, value_range=RANGE, **options)
        found += [
            pytest.param(with_range(binned_mutual_information, **options), id=f"bins {name}"),
            pytest.param(metric_of(metric), id=f"metric {name}"),
        ]
    return found


@pytest.mark.parametrize("call", calls())
def test_more_than_one_percent_outside_is_said_by_all_in_the_same_words(call):
    call(*far(0))
    call(*far(10))  # warnings are errors
    with warned("outside") as seen:
        call(*far(40))
    assert "value_range" in str(seen[0].message)


@pytest.mark.parametrize("kernel", ["hard", "linear"])
def test_function_and_metric_say_the_same(kernel):
    x, y = far(35)
    metric = BinnedMutualInformation(8, value_range=RANGE, kernel=kernel)
    metric.update(x, y)
    with warned("outside") as of_the_metric:
        metric.compute()
    with warned("outside") as of_the_function:
        binned_mutual_information(x, y, 8, value_range=RANGE, kernel=kernel)
    assert str(of_the_metric[0].message) == str(of_the_function[0].message)
    assert str(of_the_metric[0].message) == (
        "3.5 % of the samples lie outside `value_range` and count as if they were at its ends. "
        "Widen the range, or pass value_range=None."
    )


@pytest.mark.parametrize("kernel", ["hard", "cubic"])
def test_weights_count_as_so_many_samples(kernel):
    x, y = far(35)
    outside = torch.arange(1000) < 35
    for weight, share in ((0.0, None), (0.25, None), (1.0, "3.5 %"), (2.0, "6.76 %")):
        weights = torch.where(outside, weight, 1.0)
        kinds = () if share is None else ("outside",)
        with warned(*kinds, match=share or ""):
            binned_joint(x, y, 8, value_range=RANGE, kernel=kernel, weights=weights)


def test_one_pair_of_a_batch_is_enough_and_values_that_are_not_finite_come_first():
    pairs = [torch.stack(v) for v in zip(far(0), far(30), far(0), strict=True)]
    with warned("outside", match=r"^3 % of"):
        binned_mutual_information(*pairs, 8, value_range=RANGE)
    x, y = far(30)
    x[500] = torch.nan
    with warned(), pytest.raises(ValueError, match="Expected `x` to be finite"):
        binned_mutual_information(x, y, 8, value_range=RANGE)


def test_counts_are_the_loops(monkeypatch, device):
    from mi_metrics.functional import tensors

    monkeypatch.setitem(tensors.CHUNKS, "bins", (7, 7))
    x, y = (v.reshape(4, 25).to(device) for v in far(30, 100))
    valid = torch.rand(4, 25, generator=torch.Generator().manual_seed(1)).to(device) < 0.7
    (x_lo, x_hi), (y_lo, y_hi) = RANGE
    expected = [
        sum(
            v and not (x_lo <= a <= x_hi and y_lo <= b <= y_hi)
            for a, b, v in zip(*row, strict=True)
        )
        for row in zip(x.tolist(), y.tolist(), valid.tolist(), strict=True)
    ]
    assert mass_outside(x, y, RANGE, valid).tolist() == expected
    assert mass_outside(x, y, RANGE, valid.double()).tolist() == expected


@pytest.mark.parametrize("kernel", ["hard", "cubic"])
def test_the_end_of_a_range_is_inside_in_every_dtype(kernel):
    # 0.1 in float32 is more than 0.1 in float64.
    x = torch.linspace(0, 1, 100) * torch.tensor(0.1)
    assert x.max().double() > 0.1
    binned_joint(x, x, 4, value_range=(0, 0.1), kernel=kernel)
    kde_joint(x, x, grid_size=8, value_range=(0, 0.1), bandwidth=0.02)
    metric = BinnedMutualInformation(4, value_range=(0, 0.1), kernel=kernel)
    metric.update(x, x)
    assert metric.outside == 0
