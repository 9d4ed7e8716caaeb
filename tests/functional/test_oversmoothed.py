"""When kernel densities say that their kernel is too wide for what ties the variables."""

import math
import warnings
from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from mi_metrics import KDEMutualInformation, MutualInformationWarning
from mi_metrics.distributions import DISTRIBUTIONS
from mi_metrics.functional import kde_joint, kde_mutual_information
from mi_metrics.functional.densities.gaussian import CountedAxis
from mi_metrics.functional.densities.oversmoothed import (
    least_information,
    merged_axis,
    merged_table,
)
from mi_metrics.functional.densities.sampled import kde_from_samples
from tests.cautions import warned
from tests.oracles import mutual_information

KIND = "oversmoothed"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy(curve: Callable[[Tensor], Tensor], sigma: float, n: int) -> tuple[Tensor, Tensor]:
    """x uniform in -1 … 1, y a curve of x and Gaussian noise."""
    g = generator(n)
    x = 2 * torch.rand(n, generator=g, dtype=torch.float64) - 1
    return x, curve(x) + sigma * torch.randn(n, generator=g, dtype=torch.float64)


@lru_cache
def information_of_noisy(curve: Callable[[Tensor], Tensor], sigma: float) -> float:
    """h(y) by numerical integration, less the entropy of the noise."""
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    y = torch.linspace(-2, 2, 1001, dtype=torch.float64)
    kernel = torch.exp(-(((y[:, None] - curve(x)) / sigma) ** 2) / 2)
    density = kernel.mean(1) / (sigma * math.sqrt(2 * math.pi))
    entropy = -torch.special.xlogy(density, density).sum() * (y[1] - y[0])
    return float(entropy) - 0.5 * math.log(2 * math.pi * math.e * sigma**2)


CURVES = {
    "parabola": (torch.square, 0.1),
    "sine": (lambda x: torch.sin(2 * math.pi * x), 0.1),
    "two sines": (lambda x: torch.sin(4 * math.pi * x), 0.1),
}


@pytest.mark.parametrize("n", [100, 1000, 8192, 8193, 70_000])
@pytest.mark.parametrize("name", CURVES)
def test_curves_that_the_kernel_blurs(name: str, n: int) -> None:
    curve, sigma = CURVES[name]
    x, y = noisy(curve, sigma, n)
    truth = information_of_noisy(curve, sigma)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        value = float(kde_mutual_information(x, y))
    if abs(value - truth) > 0.2 + truth / 5:
        assert [w.message.kind for w in seen] == [KIND]  # type: ignore[union-attr]
    elif abs(value - truth) <= 0.1:
        assert not seen
    if name != "parabola":
        assert value < truth / 1.5
        assert seen


@pytest.mark.parametrize("ranges", [None, ((-1.0, 1.0), (-1.5, 1.5))])
@pytest.mark.parametrize("n", [300, 5000])
def test_metrics_and_other_forms_say_it_too(n: int, ranges: object) -> None:
    x, y = noisy(*CURVES["two sines"], n)
    for normalization in ("none", "geometric"):
        metric = KDEMutualInformation(value_range=ranges, normalization=normalization)  # type: ignore[arg-type]
        for part in zip(x.split(100), y.split(100), strict=True):
            metric.update(*part)
        with warned(KIND, match="KNNMutualInformation"):
            metric.compute()
        with warned(KIND, match="knn_mutual_information"):
            kde_mutual_information(x, y, normalization=normalization)  # type: ignore[arg-type]
    with warned(KIND):
        kde_joint(x, y)
    with warned(KIND):
        kde_mutual_information(x, y, unit="bits", bandwidth="scott")


def test_a_narrow_bandwidth_cures_it() -> None:
    x, y = noisy(*CURVES["sine"], 5000)
    value = float(kde_mutual_information(x, y, bandwidth=(0.03, 0.02)))
    assert value == pytest.approx(information_of_noisy(*CURVES["sine"]), abs=0.25)


def test_clusters_and_rings() -> None:
    g = generator()
    u, v = torch.randn(2, 300, generator=g, dtype=torch.float64)
    side = torch.randint(2, (300,), generator=g).double()
    angle = 2 * math.pi * torch.rand(300, generator=g, dtype=torch.float64)
    with warned(KIND):  # a correlation of 0.8 in each of two clusters, 0.3 nats and log 2
        kde_mutual_information(u + 4 * side, 0.8 * u + 0.6 * v - 4 * side)
    with warned(KIND):
        kde_mutual_information(angle.cos() + 0.1 * u, angle.sin() + 0.1 * v)


def test_tails_of_independent_variables() -> None:
    # No information is below 0, which is what a single bin has.
    x, y = torch.randn(2, 20_000, generator=generator()).double() ** 3
    with warned(KIND):
        assert float(kde_mutual_information(x, y)) < -0.1


@pytest.mark.parametrize(
    ("name", "truth"),
    [(name, t) for name in ("gaussian", "gamma-exponential", "uniform-noise") for t in (0.2, 1.0)]
    + [("gaussian", 0.0), ("gaussian", 3.0)],
)
@pytest.mark.parametrize("n", [50, 200, 1000])
def test_values_that_are_right_are_not_doubted(name: str, truth: float, n: int) -> None:
    x, y = DISTRIBUTIONS[name].sample(truth, 200 if n < 1000 else 50, n, generator(n))
    found = kde_from_samples(x, y, "silverman", 256, None, "none")
    right = (found.value - truth).abs() <= max(0.1, truth / 5)
    doubted = found.doubts.oversmoothed.squeeze(1)
    assert float((right & doubted).double().mean()) <= 0.02


@pytest.mark.parametrize("step", [0.1, 0.2])
@pytest.mark.parametrize("n", [1000, 8000])
def test_rounded_numbers_that_only_half_the_kernel_tells_apart(step: float, n: int) -> None:
    u, v = torch.randn(2, 10, n, generator=generator(), dtype=torch.float64)
    for r in (0.97, 0.99, -0.97):
        x, y = ((w / step).round() * step for w in (u, r * u + math.sqrt(1 - r * r) * v))
        found = kde_from_samples(x, y, "silverman", 256, None, "none")
        truth = -0.5 * math.log(1 - r * r)
        right = (found.value - truth).abs() <= truth / 5
        assert not (right & found.doubts.oversmoothed.squeeze(1)).any()


@pytest.mark.parametrize("n", [300, 8000])
def test_waves_of_rounded_numbers(n: int) -> None:
    x, y = ((20 * v).round() for v in noisy(*CURVES["two sines"], n))
    with warned(KIND):
        kde_mutual_information(x, y)


def test_a_pair_is_judged_as_it_is_alone() -> None:
    pairs = [noisy(*CURVES["sine"], 400), noisy(torch.clone, 0.3, 400)]
    x, y = (torch.stack(v) for v in zip(*pairs, strict=True))
    found = kde_from_samples(x, y, "silverman", 256, None, "none").doubts.oversmoothed
    assert found.squeeze(1).tolist() == [True, False]
    x[1] = 1.0
    found = kde_from_samples(x, y, "silverman", 256, None, "none").doubts.oversmoothed
    assert found.squeeze(1).tolist() == [True, False]


@pytest.mark.parametrize("n", [8000, 20_000, 100_000])
def test_heavy_tails_are_judged_by_ranks(n: int) -> None:
    # Strictly monotone maps leave the information as it is: 0.83 nats.
    u, v = torch.randn(2, n, generator=generator(n), dtype=torch.float64)
    v = 0.9 * u + math.sqrt(0.19) * v
    x, y = (1.5 * u).exp(), (1.5 * v).exp()
    order = torch.randperm(n, generator=generator())
    for a, b in ((x, y), (y, x), (x[order], y[order])):
        with warned(KIND):
            assert float(kde_mutual_information(a, b)) < 0.55
    metric = KDEMutualInformation()
    metric.update(x[:20_000], y[:20_000])
    with warned(KIND):
        metric.compute()
    kde_mutual_information(u, v)


def test_what_bins_know_is_no_more_than_there_is() -> None:
    # Tables of known information: a diagonal that is mixed with independence.
    p = 0.5 * torch.eye(40, dtype=torch.float64) / 40 + 0.5 / 1600
    truth = float(torch.special.xlogy(p, p * 1600).sum())
    draws = torch.multinomial(p.flatten(), 300 * 2000, True, generator=generator()).view(300, -1)
    n = torch.zeros(300, 1600, dtype=torch.float64)
    n = n.scatter_add_(1, draws, torch.ones_like(draws).double()).view(300, 40, 40)
    known = least_information(n, 2000)
    assert float((known > truth).double().mean()) <= 0.02
    assert float(known.mean()) > truth / 2
    even = n.sum(0, keepdim=True).fill_(2000 / 1600)
    assert float(least_information(even, 2000)) <= 0


def test_what_bins_know_is_the_information_of_their_table() -> None:
    # 40 samples are two bins on each axis, of two rows or columns.
    n = torch.tensor([[5.0, 3, 1, 1], [2, 6, 1, 1], [1, 2, 3, 4], [0, 1, 7, 2]]).double()[None]
    table = torch.tensor([[16.0, 4.0], [4.0, 16.0]], dtype=torch.float64)
    plain = mutual_information(table.numpy())
    variance = 0.8 * (math.log(1.6) - plain) ** 2 + 0.2 * (math.log(0.4) - plain) ** 2
    error = math.sqrt(variance / 40 + 1 / (2 * 40**2))
    expected = plain - 1 / 80 - 2 * error
    assert float(least_information(n, 40)) == pytest.approx(expected, abs=1e-9)


def test_cells_are_merged_as_counts() -> None:
    g = generator()
    n = torch.randint(5, (3, 10, 10), generator=g).double()
    found = merged_table(n, 4)
    assert found.shape == (3, 3, 3)
    assert torch.equal(found[:, 2, 0], n[:, 8:, :4].sum((1, 2)))
    centres = torch.arange(10.0, dtype=torch.float64).expand(3, -1)
    axis = merged_axis(CountedAxis(centres, torch.ones(3, 1), n.sum(2)), 4)
    assert torch.equal(axis.n, found.sum(2))
    mean = (n.sum(2) * centres)[:, 4:8].sum(1) / n[:, 4:8].sum((1, 2))
    torch.testing.assert_close(axis.centres[:, 1], mean)
    assert float(axis.width[0]) == 4


def test_no_caution_where_others_say_what_to_do() -> None:
    x, y = noisy(*CURVES["sine"], 1000)
    x[:300] = -1e3  # a fill value
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        kde_mutual_information(x, y)
    kinds = [w.message.kind for w in seen if isinstance(w.message, MutualInformationWarning)]
    assert kinds == ["wide kernel"]
