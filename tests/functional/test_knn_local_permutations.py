"""Tests of conditional independence from neighbours, and the permutations they compare with."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mi_metrics.functional import knn_p_value
from mi_metrics.functional.knn_conditional import frenzel_pompe
from mi_metrics.functional.neighbors.local_permutations import NEIGHBORS, local_permutations
from mi_metrics.functional.neighbors.permuted import PermutedTriples
from mi_metrics.functional.neighbors.rectangles import rectangle_counts
from mi_metrics.functional.neighbors.ties import tell_triples_apart
from mi_metrics.functional.neighbors.within import range_counts


def common_cause(n: int, seed: int, dim: int = 1) -> tuple[torch.Tensor, ...]:
    """X ← Z → Y."""
    generator = torch.Generator().manual_seed(seed)
    z, noise = torch.randn(n, dim, generator=generator), torch.randn(2, n, generator=generator)
    return z.sum(1) + noise[0], z.sum(1) + noise[1], z


def permutations(*args: Any) -> Tensor:
    return torch.stack(list(local_permutations(*args)))


def test_samples_take_places_near_their_own() -> None:
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = torch.ones(200, dtype=torch.int64)
    found = permutations(z, alone, torch.arange(200), 30, 0)
    gaps = (z[:, None] - z[None]).abs().amax(2)
    reach = gaps.sort(1).values[:, NEIGHBORS - 1]
    assert (gaps.gather(1, found.T) <= reach[:, None]).all()
    # Nearly every place is taken by one, most by another than its own.
    assert np.mean([len(set(order.tolist())) for order in found]) > 0.85 * 200
    assert (found != torch.arange(200)).double().mean() > 0.7
    again = permutations(z, alone, torch.arange(200), 30, 0)
    assert torch.equal(found, again)
    assert not torch.equal(found, permutations(z, alone, torch.arange(200), 30, 1))


def test_samples_of_one_z_trade_places_in_any_way() -> None:
    group = torch.arange(40) % 4
    scattered = torch.arange(10) + 4
    z = torch.cat([group, scattered]).double()[:, None]
    groups = torch.cat([group, scattered])
    same = torch.bincount(groups)[groups]
    found = permutations(z, same, groups, 500, 0)
    for order in found:
        assert torch.equal(groups[order[:40]], group)
        assert (order[40:] >= 40).all()
        assert torch.equal(order[:40].sort().values, torch.arange(40))
    # Each of the ten places of a group equally often: 50 expected, standard deviation 6.7.
    often = torch.bincount(found[:, 0], minlength=40)
    assert often[::4].sum() == 500
    assert 25 <= int(often[::4].min()) <= int(often[::4].max()) <= 75


@pytest.mark.parametrize(
    ("n", "dims", "k"),
    [(400, (1, 1, 1), 3), (150, (2, 1, 3), 5), (6, (1, 1, 1), 3), (5, (1, 1, 2), 4)],
)
@pytest.mark.parametrize("decimals", [1, 9])
def test_lists_give_the_value_of_a_search(
    n: int, dims: tuple[int, int, int], k: int, decimals: int
) -> None:
    generator = torch.Generator().manual_seed(n)
    rows = torch.randn(n, sum(dims), generator=generator, dtype=torch.float64)
    # A dependence that is gone makes distances longer than those of the first order.
    rows[:, 0] = 0.1 * rows[:, 0] + rows[:, -1] + 20 * (torch.arange(n) == 2)
    samples = tell_triples_apart(rows.round(decimals=decimals), dims, True)
    assert samples is not None
    samples = samples._replace(same_row=torch.ones_like(samples.same_row))
    listed = PermutedTriples(samples, k, torch.arange(n))
    for seed in range(6):
        order = torch.randperm(n, generator=generator)
        # Some share a place, as local permutations let them.
        order = torch.where(torch.arange(n) % 5 < seed % 2, order.roll(1), order)
        expected = frenzel_pompe(samples._replace(x=samples.x[order]), k)
        assert listed.value(order) == expected


@pytest.mark.parametrize("size", [2, 3, 5])
def test_classes_of_a_few_samples_are_what_x_is_permuted_in(size: int) -> None:
    # Neighbouring labels tell nothing of each other, as numbers of patients or of sites.
    found = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        z = torch.arange(120 // size).repeat_interleave(size)
        x, y = 3 * torch.randn(2, len(z), generator=generator)[:, z]
        x, y = torch.stack([x, y]) + 0.1 * torch.randn(2, len(z), generator=generator)
        found.append(knn_p_value(x, y, z=z.double(), num_permutations=19, seed=seed).item())
    # 2 expected of 40, standard deviation 1.4; all of them in pairs, when neighbours were taken.
    assert sum(p <= 0.05 for p in found) <= 6


@pytest.mark.parametrize("n", [2, 3, 5, 6, 20])
def test_few_samples(n: int) -> None:
    x, y, z = common_cause(n, 0)
    p = knn_p_value(x, y, 1, z=z, num_permutations=9).item()
    assert 0.1 <= p <= 1
    assert knn_p_value(torch.ones(n), y, 1, z=z, num_permutations=9) == 1


def test_dependence_beyond_the_common_cause_is_found() -> None:
    x, y, z = common_cause(600, 0)
    assert knn_p_value(x, y, num_permutations=39).item() == 0.025
    assert knn_p_value(x, y, z=z, num_permutations=39).item() > 0.05
    assert knn_p_value(x, y + 0.7 * x, z=z, num_permutations=39).item() == 0.025
    labels = (z > 0).float(), (x > 0).float(), (y + x > 0).float()
    assert knn_p_value(*labels[1:], z=labels[0], num_permutations=39).item() == 0.025


def test_a_function_of_the_set_of_samples_and_the_seed() -> None:
    x, y, z = (v.double().round(decimals=1) for v in common_cause(120, 1))
    options = {"z": z, "num_permutations": 49, "seed": 5}
    p = knn_p_value(x, y, **options)  # type: ignore[arg-type]
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    assert knn_p_value(x[order], y[order], **options | {"z": z[order]}) == p  # type: ignore[arg-type]
    batch = knn_p_value(
        *(torch.stack([v, v[order]])[..., None] for v in (x, y)),
        **options | {"z": torch.stack([z, z[order]])},  # type: ignore[arg-type]
    )
    assert batch.tolist() == [p.item()] * 2


def test_options_that_have_no_conditional_form_are_refused() -> None:
    x, y, z = common_cause(30, 0)
    for options in ({"algorithm": "ksg2"}, {"discrete_y": True}):
        with pytest.raises(ValueError, match="test of conditional independence"):
            knn_p_value(x, y, z=z, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`z` of shape"):
        knn_p_value(x, y, z=z[:-1])
    with pytest.raises(ValueError, match="`z` to be finite"):
        knn_p_value(x, y, z=z / 0)


@pytest.mark.campaign
@pytest.mark.parametrize(("dim", "rounded"), [(1, False), (3, False), (1, True)])
def test_five_percent_of_p_values_given_a_common_cause(dim: int, rounded: bool) -> None:
    reached = 0
    for seed in range(400):
        x, y, z = common_cause(250, seed, dim)
        if rounded:
            x, y, z = (v.round() for v in (x, y, z))
        reached += int(knn_p_value(x, y, z=z, num_permutations=39, seed=seed) <= 0.05)
    # 20 expected of 400, standard deviation 4.4.
    assert 7 <= reached <= 33


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 9, 100, 500])
def test_counts_in_the_plane_are_those_of_all_pairs(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    for digits in (1, 9):
        points = torch.randn(n, 2, generator=generator, dtype=torch.float64).round(decimals=digits)
        radius = torch.rand(n, generator=generator, dtype=torch.float64).round(decimals=digits)
        radius[::5] = 0
        expected = range_counts(points, radius, path="brute")
        assert torch.equal(range_counts(points, radius, path="plane"), expected)
        some = torch.randperm(n, generator=generator)[: n // 2 + 1]
        found = range_counts(points, radius[some], queries=some, path="plane")
        assert torch.equal(found, expected[some])


def test_rectangles_may_be_empty_or_hold_all() -> None:
    ranks = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[0, 0, 5, 64, 3], [64, 64, 5, 64, 60]])
    bounds = torch.tensor([[0, 64, 0, 0, 10], [64, 64, 64, 64, 11]])
    inside = ((ranks == 10).nonzero() >= 3).logical_and((ranks == 10).nonzero() < 60).sum()
    assert rectangle_counts(ranks, places, bounds).tolist() == [64, 0, 0, 0, int(inside)]
