"""Neighbours and counts of the kernels have the bits of the comparison of all pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_metrics.functional.neighbors.search import nearest
from mi_metrics.functional.neighbors.within import range_counts, strict_counts
from mi_metrics.kernels import gpu, leaves, triton_counts, triton_neighbors
from tests.kernels.test_neighbors import KINDS, VALUES, make

# Small leaves, groups of two, two groups at once: a few points fill several of each.
SMALL = (16, 2, 2)
INFINITY = float("inf")


def gaps(points):
    """All distances in sets of points, pair by pair: the definition."""
    return (points[:, :, None] - points[:, None]).abs().amax(3)


def oracle(points, k, x_dim):
    """Radius, and reach where it is asked for."""
    joint = gaps(points)
    radius = joint.sort(2).values.gather(2, k.long().clamp_min(0)[..., None])[..., 0]
    if x_dim is None:
        return [radius]
    inside = joint <= radius[..., None]
    parts = points[..., :x_dim], points[..., x_dim:]
    return [radius, *(torch.where(inside, gaps(part), 0.0).amax(2) for part in parts)]


def assert_nearest(points, k, x_dim=None, wanted=None, shape=SMALL):
    found = triton_neighbors.nearest(points, k, wanted, x_dim, shape=shape)
    each = torch.full(points.shape[:2], k) if wanted is None else wanted
    expected = oracle(points, each, x_dim)
    assert len(found) == len(expected)
    for got, right in zip(found, expected, strict=True):
        assert torch.equal(got, torch.where(each >= 0, right, 0.0))


def assert_counts(points, radius, shape=SMALL):
    found = triton_counts.range_counts(points, radius, shape=shape)
    assert torch.equal(found, (gaps(points) <= radius[..., None]).sum(2))


def sets(kind, number, dim):
    """Two sets of points, which have nothing in common but their number."""
    both = [make(kind, number, dim), 1e3 * make("grid", number, dim)]
    return torch.stack([torch.from_numpy(points) for points in both])


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds(kind, dim):
    points = sets(kind, 50, dim)
    assert_nearest(points, 3, 1)
    radius = oracle(points, torch.full((2, 50), 3), 1)
    assert_counts(points, radius[0])
    assert_counts(points[..., :1], radius[1])


@pytest.mark.parametrize("dim", range(1, 14))
def test_all_dimensions(dim):
    points = sets("dependent", 40, dim)
    assert_nearest(points, 2, dim // 2 or None)
    for quantile in (0.05, 0.5):
        assert_counts(points, gaps(points).quantile(quantile, 2, interpolation="nearest"))


@pytest.mark.parametrize("number", [2, 3, 15, 16, 17, 33, 64])
def test_leaves_that_are_not_full(number):
    points = sets("continuous", number, 2)
    for k in {1, min(number - 1, 2)}:
        assert_nearest(points, k, 1)
    assert_counts(points, gaps(points).quantile(0.3, 2, interpolation="nearest"))


@pytest.mark.parametrize("kind", ["continuous", "grid"])
@pytest.mark.parametrize("dim", [2, 11])
def test_any_number_of_neighbors(kind, dim):
    points = sets(kind, 40, dim)
    for k in (1, 8, 39):
        assert_nearest(points, k)
    assert_nearest(points, 39, 1)


def test_the_shape_that_serves():
    points = sets("two clusters", 90, 2)
    shape = triton_neighbors.LEAF, triton_neighbors.FAN, triton_neighbors.TILE
    assert_nearest(points, 3, 1, shape=shape)
    assert_counts(points, gaps(points).quantile(0.3, 2, interpolation="nearest"), shape=shape)


@pytest.mark.parametrize("dim", [2, 3, 11])
def test_points_that_want_other_numbers_or_are_not_asked_about(dim):
    points = sets("continuous", 40, dim)
    wanted = torch.arange(80, dtype=torch.int32).view(2, 40) % 9 - 1
    wanted[0, :20] = -1
    assert_nearest(points, 7, 1, wanted)
    assert_nearest(points, 7, 1, torch.full_like(wanted, -1))


@pytest.mark.parametrize("dim", [1, 2, 11])
def test_radii_of_zero_without_end_and_not_asked_about(dim):
    points = sets("grid", 40, dim)
    for number in (0.0, INFINITY, -1.0):
        assert_counts(points, torch.full((2, 40), number, dtype=torch.float64))
    some = torch.full((2, 40), -1.0, dtype=torch.float64)
    some[:, ::3], some[0, 1], some[1, 5] = 500.0, INFINITY, 0.0
    assert_counts(points, some)


@pytest.mark.parametrize("dim", [1, 2, 11])
def test_one_point_and_no_sets(dim):
    assert_counts(torch.ones(1, 1, dim).double(), torch.zeros(1, 1).double())
    none = torch.ones(0, 5, dim).double()
    assert triton_counts.range_counts(none, none[..., 0]).shape == (0, 5)
    assert [side.shape for side in triton_neighbors.nearest(none, 2)] == [(0, 5)]


@pytest.mark.parametrize("dim", [1, 2, 11])
def test_points_lie_in_memory_as_they_like(dim):
    points = sets("continuous", 40, dim)
    turned = points.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not turned.is_contiguous()
    assert_nearest(turned, 3)
    assert_counts(turned, gaps(points).quantile(0.3, 2, interpolation="nearest"))


@settings(max_examples=20, derandomize=True)
@given(data=st.data())
def test_any_numbers(data):
    number, dim = data.draw(st.integers(2, 36)), data.draw(st.integers(1, 4))
    cells = data.draw(st.lists(VALUES, min_size=number * dim, max_size=number * dim))
    points = torch.tensor(cells, dtype=torch.float64).view(1, number, dim)
    k = data.draw(st.integers(1, number - 1))
    assert_nearest(points, k, dim // 2 or None)
    radius = data.draw(st.lists(VALUES.map(abs), min_size=number, max_size=number))
    assert_counts(points, torch.tensor(radius, dtype=torch.float64).view(1, number))
    assert_counts(points[..., :1], oracle(points, torch.full((1, number), k), None)[0])


def test_leaves_hold_every_point_once():
    for number, dim in ((1, 1), (1, 3), (31, 2), (500, 1), (500, 2), (777, 3), (300, 10)):
        points = torch.from_numpy(make("grid", number, dim))[None].expand(2, -1, -1)
        packed = leaves.pack(points, 16, 4)
        places = packed.place.sort(1).values
        assert torch.equal(places[:, :number], torch.arange(number).expand(2, -1))
        assert (places[:, number:] == number).all()
        assert packed.place.shape[1] <= 2 * (number + 16 * dim)
        there = packed.place < number
        held = points[0][packed.place[there]]
        assert torch.equal(packed.coordinates.transpose(1, 2)[there], held)
        for boxes, size in ((packed.leaves, 16), (packed.groups, 64)):
            assert (boxes.fill.sum(1) == number).all()
            box = torch.arange(packed.place.shape[1]) // size
            low, high = boxes.ends[..., box].unbind(1)
            inside = (packed.coordinates >= low) & (packed.coordinates <= high)
            assert inside.all(1)[there].all()


def test_what_does_not_fit_is_refused():
    points = sets("continuous", 20, 3)
    for k in (0, 20, -1):
        with pytest.raises(ValueError, match="neighbors of points"):
            triton_neighbors.nearest(points, k)
    for x_dim in (0, 3):
        with pytest.raises(ValueError, match="cut 3 coordinates"):
            triton_neighbors.nearest(points, 3, None, x_dim)
    with pytest.raises(ValueError, match="int32 numbers"):
        triton_neighbors.nearest(points, 3, torch.ones(2, 20))
    for wrong in (points.float(), points[0]):
        with pytest.raises(ValueError, match="Expected float64"):
            triton_neighbors.nearest(wrong, 3)
        with pytest.raises(ValueError, match="Expected float64"):
            triton_counts.range_counts(wrong, points[..., 0])
    for short in (points[:, :7, 0], points[:1, :, 0]):
        with pytest.raises(ValueError, match="beside the points"):
            triton_counts.range_counts(points, short)
        with pytest.raises(ValueError, match="beside the points"):
            triton_neighbors.nearest(points, 3, short.int())
    with pytest.raises(ValueError, match="Can't count"):
        triton_counts.range_counts(points, points[..., 0].float())


def test_too_many_neighbors_or_points_are_for_the_reference(card, monkeypatch):
    points = torch.from_numpy(make("continuous", 90, 2))
    assert triton_neighbors.nearest(points[None], 64) is None
    found = nearest(points, 64, x_dim=1, path="kernel")
    right = nearest(points, 64, x_dim=1, path="brute")
    assert torch.equal(found.radius, right.radius)
    monkeypatch.setattr(triton_neighbors, "MOST_POINTS", 89)
    monkeypatch.setattr(triton_counts, "MOST_POINTS", 89)
    assert triton_neighbors.nearest(points[None], 3) is None
    assert triton_counts.range_counts(points[None], points[None, :, 0]) is None
    assert torch.equal(
        range_counts(points, right.radius, path="kernel"),
        range_counts(points, right.radius, path="brute"),
    )


def test_more_sets_than_a_grid_has_rows(monkeypatch):
    for module in (triton_neighbors, triton_counts):
        monkeypatch.setattr(module, "MOST_SETS", 2)
    points = torch.randn(5, 9, 2, generator=torch.Generator().manual_seed(0)).double()
    assert_nearest(points, 2, 1)
    assert_nearest(points, 2, None, torch.full((5, 9), 1, dtype=torch.int32))
    assert_counts(points, gaps(points).quantile(0.3, 2, interpolation="nearest"))


@pytest.mark.parametrize("dim", [1, 2, 3, 11])
def test_search_and_counts_take_the_kernels(card, dim, monkeypatch):
    points = torch.from_numpy(make("grid", 60, dim)) + 0.1 * torch.from_numpy(
        make("continuous", 60, dim)
    )
    called = []
    attempt = gpu.attempt

    def watched(family, tensors, call):
        called.append(family)
        return attempt(family, tensors, call)

    monkeypatch.setattr(gpu, "attempt", watched)
    some = torch.arange(59, 0, -3)
    for queries in (None, some):
        where = {"queries": queries, "path": "kernel"}
        chosen = slice(None) if queries is None else queries
        if dim > 1:
            found = nearest(points, 4, x_dim=1, **where)
            right = nearest(points, 4, x_dim=1, queries=queries, path="brute")
            assert torch.equal(found.radius, right.radius)
            assert all(map(torch.equal, found.reach, right.reach))
        radius = nearest(points, 4, path="brute").radius[chosen]
        for count in (range_counts, strict_counts):
            right = count(points, radius, queries=queries, path="brute")
            assert torch.equal(count(points, radius, **where), right)
    assert set(called) == ({"counts"} if dim == 1 else {"counts", "neighbors"})
    called.clear()
    nearest(points, 4)
    range_counts(points, radius, queries=some)
    assert called == (["counts"] if dim == 1 else ["neighbors", "counts"])
    called.clear()
    card(nearest, points, 4)
    card(range_counts, points, radius, queries=some)
    assert called == []
