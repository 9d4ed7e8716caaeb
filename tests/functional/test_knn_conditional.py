"""Conditional mutual information from neighbours: against all distances, closed forms and bad
input.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mi_metrics import MutualInformationWarning
from mi_metrics.functional import (
    binned_conditional_mutual_information,
    knn_conditional_mutual_information,
    knn_mutual_information,
)
from mi_metrics.functional.neighbors.local_permutations import local_permutations
from mi_metrics.functional.tables import way
from tests.functional.conditional_oracle import frenzel_pompe


def draws(kind: str, n: int, seed: int, dims: tuple[int, int, int] = (1, 1, 1)) -> list[np.ndarray]:
    """x and y that depend on z and on each other, continuous or not."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, dims[2]))
    shared = z[:, :1] + rng.standard_normal((n, 1))
    x, y = (3 * shared + rng.standard_normal((n, d)) for d in dims[:2])
    if kind == "rounded":
        x, y, z = (np.round(v, 1) for v in (x, y, z))
    if kind == "labels":
        x, y, z = (np.clip(np.round(v), -1, 1) for v in (x, y, z))
    if kind == "labels beside numbers":
        x, z = np.clip(np.round(x / 4), -1, 1), (z > 0).astype(float)
    if kind == "zeros":
        x, z = x * (x > 0), z * (z > 0.5)
    if kind == "far":
        x, z = 1e9 + x, 1e-9 * z
    return [x, y, z]


KINDS = ["numbers", "rounded", "labels", "labels beside numbers", "zeros", "far"]


def estimate(*variables: np.ndarray, **options: object) -> float:
    value = knn_conditional_mutual_information(*map(torch.as_tensor, variables), **options)  # type: ignore[arg-type]
    assert value.dtype == torch.float64
    return value.item()


@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("standardize", [True, False, "rank", "joint"])
def test_equal_to_all_distances(kind: str, standardize: object) -> None:
    for seed, (n, k, dims) in enumerate(
        [(150, 3, (1, 1, 1)), (60, 5, (2, 1, 3)), (9, 1, (1, 2, 1)), (4, 3, (1, 1, 1))]
    ):
        triple = draws(kind, n, seed, dims)
        value = estimate(*triple, n_neighbors=k, standardize=standardize)
        assert value == pytest.approx(frenzel_pompe(*triple, k, standardize), abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_of_the_set_of_samples_symmetric_to_the_bit(kind: str) -> None:
    x, y, z = draws(kind, 400, 7)
    value = estimate(x, y, z)
    assert estimate(y, x, z) == value
    order = np.random.default_rng(0).permutation(400)
    assert estimate(x[order], y[order], z[order]) == value
    assert estimate(-x, y, z) == pytest.approx(value, abs=0.02)
    batch = [torch.as_tensor(np.stack([v, v[order]])) for v in (x, y, z)]
    assert knn_conditional_mutual_information(*batch).tolist() == [value, value]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("standardize", [True, False, "rank", "joint"])
def test_a_constant_condition_is_none(kind: str, standardize: object) -> None:
    x, y, _ = draws(kind, 300, 3, (1, 2, 1))
    expected = knn_mutual_information(
        torch.as_tensor(x),
        torch.as_tensor(y),
        standardize=standardize,  # type: ignore[arg-type]
    )
    for z in (np.zeros(300), np.full((300, 2), 0.1)):
        assert estimate(x, y, z, standardize=standardize) == expected.item()


@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
def test_constants_share_nothing() -> None:
    x, y, z = draws("numbers", 97, 0)
    for constant in (0.0, 0.1, 1e300):
        assert estimate(np.full(97, constant), y, z) == 0
        assert estimate(x, np.full((97, 2), constant), z) == 0
    assert abs(estimate(x, y, x)) < 0.05  # x says nothing that z has not said
    assert estimate(np.arange(2), np.arange(2), np.arange(2), n_neighbors=1) == 0


# Mean errors of ten draws of 5000, whose standard errors are about 0.005.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "r", "bound"),
    [(1, 0, 0.02), (1, 0.6, 0.02), (1, 0.8, 0.02), (2, 0, 0.02), (2, 0.6, 0.04), (2, 0.8, 0.1)],
)
@pytest.mark.parametrize("common", [0, 1])
def test_gaussians(dim: int, r: float, bound: float, common: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(10):
        z, x, noise = torch.randn(3, 5000, dim, generator=generator)
        y = r * x + math.sqrt(1 - r * r) * noise
        values.append(knn_conditional_mutual_information(x + common * z, y + common * z, z).item())
    assert np.mean(values) == pytest.approx(-dim / 2 * math.log(1 - r * r), abs=bound)


def coins(n: int) -> tuple[Tensor, Tensor]:
    x, y = torch.randint(2, (2, n), generator=torch.Generator().manual_seed(0))
    return x, y


def test_exclusive_or() -> None:
    x, y = coins(4000)
    assert knn_conditional_mutual_information(x, y, x ^ y).item() == pytest.approx(
        math.log(2), abs=1e-3
    )
    assert knn_mutual_information(x, y).item() == pytest.approx(0, abs=1e-3)
    # Seen through noise: y + z mod 2 is x, as far as noise leaves whole numbers apart.
    noise = 0.05 * torch.randn(3, 4000, generator=torch.Generator().manual_seed(1))
    value = knn_conditional_mutual_information(x + noise[0], y + noise[1], (x ^ y) + noise[2])
    assert value.item() == pytest.approx(math.log(2), abs=0.02)


def test_a_condition_of_chance_changes_little() -> None:
    generator = torch.Generator().manual_seed(0)
    z, x, noise = torch.randn(3, 5000, generator=generator)
    y = 0.6 * x + 0.8 * noise
    for condition in (z, (z > 0).float()):
        value = knn_conditional_mutual_information(x, y, condition).item()
        assert value == pytest.approx(0.2231, abs=0.03)


def test_three_discrete_variables_have_about_the_value_of_their_table() -> None:
    x, y, z = (torch.as_tensor(v[:, 0]).long() for v in draws("labels", 3000, 0))
    table = binned_conditional_mutual_information(
        x, y, z, binning="values", bias_correction="miller_madow"
    )
    assert knn_conditional_mutual_information(x, y, z).item() == pytest.approx(
        table.item(), abs=0.01
    )


def test_labels_beside_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(4, (4000,), generator=generator)
    x, noise = torch.randn(2, 4000, generator=generator)
    y = 0.6 * x + 0.8 * noise + 3 * z
    value = knn_conditional_mutual_information(x + 3 * z, y, z).item()
    assert value == pytest.approx(0.2231, abs=0.03)


def test_bits() -> None:
    x, y, z = (torch.as_tensor(v) for v in draws("numbers", 100, 0))
    nats = knn_conditional_mutual_information(x, y, z)
    bits = knn_conditional_mutual_information(x, y, z, unit="bits")
    assert bits.item() == nats.item() / math.log(2)


def test_copies_are_said() -> None:
    x, y, z = (torch.as_tensor(np.tile(v, (2, 1))) for v in draws("numbers", 100, 0))
    with pytest.warns(MutualInformationWarning) as caught:
        knn_conditional_mutual_information(x, y, z)
    assert [w.message.kind for w in caught] == ["copies"]


GOOD = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("z", "error", "said"),
    [
        ([1.0] * 50, TypeError, "`z` to be a torch.Tensor"),
        (GOOD[2].to(torch.complex64), TypeError, "`z` to be real"),
        (torch.tensor(1.0), ValueError, "`z` of shape"),
        (GOOD[2, :49], ValueError, "`z` of shape"),
        (GOOD[2, None], ValueError, "z.unsqueeze"),
        (torch.zeros(50, 0), ValueError, "`z` of shape"),
        (GOOD[2].where(GOOD[2] < 1, math.nan), ValueError, "`z` to be finite"),
        (GOOD[2].where(GOOD[2] < 1, math.inf), ValueError, "`z` to be finite"),
        (torch.full((50,), 2**53 + 1), ValueError, "whole numbers in `z`"),
        (GOOD[2].to("meta"), ValueError, "same device"),
    ],
)
def test_conditions_that_are_none(z: Tensor, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        knn_conditional_mutual_information(GOOD[0], GOOD[1], z)


def test_other_refusals() -> None:
    x, y, z = GOOD
    for options, error in (
        ({"n_neighbors": 50}, ValueError),
        ({"n_neighbors": 0}, ValueError),
        ({"n_neighbors": 2.0}, TypeError),
        ({"standardize": "max"}, TypeError),
        ({"unit": "bans"}, ValueError),
        ({"k": 3}, TypeError),
    ):
        with pytest.raises(error):
            knn_conditional_mutual_information(x, y, z, **options)
    with pytest.raises(ValueError, match="`y` to be finite"):
        knn_conditional_mutual_information(x, y / 0, z)


def test_permutations_are_drawn_a_bounded_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "CHUNK", 1000)
    z = torch.tensor([0.0] * 50 + [1.0] * 50).unsqueeze(1)
    same, group = torch.full((100,), 50), z.squeeze(1).long()
    drawn = local_permutations(z, same, group, 10**8, 0)
    some = torch.stack([next(drawn) for _ in range(25)])
    assert torch.equal(group[some], group.expand(25, -1))
    assert torch.equal(some.sort(1).values, torch.arange(100).expand(25, -1))
    assert len(some.unique(dim=0)) == 25
    assert len(list(local_permutations(z, same, group, 25, 0))) == 25
