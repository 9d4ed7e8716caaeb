"""Samples of which x trades places: one compiled call gives the counts of comparing all pairs, and
the p-values of the reference.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mi_metrics.functional import knn_p_value
from mi_metrics.functional.neighbors.permuted import permuted_values
from mi_metrics.functional.neighbors.ties import tell_triples_apart
from mi_metrics.kernels import native, neighbors, switch
from tests.kernels.test_neighbors import KINDS, VALUES, distances, make

pytestmark = pytest.mark.skipif(not native.serves(), reason="there is no compiled library")


def oracle(x, y, z, orders, k):
    """The tally of counts for each order, from all distances."""
    n, tallies = len(x), []
    gap_y, gap_z = distances(y), distances(z)
    for order in orders:
        gap_x = distances(x[order])
        radius = np.sort(np.maximum(np.maximum(gap_x, gap_y), gap_z), axis=1)[:, k]
        before = np.nextafter(radius, 0)[:, None]
        tally = np.bincount([k] * n, minlength=n + 1)
        for sign, gaps in ((-1, (gap_x, gap_z)), (-1, (gap_y, gap_z)), (1, (gap_z,))):
            near = np.all([gap <= before for gap in gaps], axis=0).sum(1)
            tally += sign * np.bincount(near, minlength=n + 1)
        tallies.append(tally)
    return np.array(tallies, dtype=np.int64).reshape(-1, n + 1)


def permutations(size, number):
    rng = np.random.default_rng(size)
    # Local permutations may give one sample's x to several.
    return np.stack([rng.permutation(size), *rng.integers(size, size=(number - 1, size))])


def assert_counts(x, y, z, orders, k):
    found = neighbors.permuted_tallies(x, y, z, orders, k)
    np.testing.assert_array_equal(found, oracle(x, y, z, orders, k))


@pytest.mark.parametrize("dims", [(1, 1, 1), (2, 1, 3), (1, 3, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_comparison_of_all_pairs(kind, dims):
    points = make(kind, 150, sum(dims))
    parts = np.split(points, np.cumsum(dims)[:2], axis=1)
    for k in (1, 3, 5, 23, 24, 149):
        assert_counts(*parts, permutations(150, 3), k)


@pytest.mark.parametrize("kind", ["continuous", "grid", "two clusters", "all equal"])
@pytest.mark.parametrize("size", [2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65])
def test_blocks_that_are_not_full(kind, size):
    parts = np.split(make(kind, size, 3), 3, axis=1)
    for k in sorted({1, min(3, size - 1), size // 2, size - 1}):
        assert_counts(*parts, permutations(size, 2), k)


@settings(max_examples=100, derandomize=True)
@given(
    points=hnp.arrays(
        np.float64, st.tuples(st.integers(2, 70), st.integers(3, 6)), elements=VALUES
    ),
    data=st.data(),
)
def test_any_numbers(points, data):
    size, dim = points.shape
    k = data.draw(st.integers(1, size - 1))
    cuts = sorted(data.draw(st.lists(st.integers(1, dim - 1), min_size=2, max_size=2, unique=True)))
    parts = np.split(points, cuts, axis=1)
    assert_counts(*parts, permutations(size, 2), k)


def test_most_coordinates():
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((40, 64)) for _ in range(3)]
    assert_counts(*parts, permutations(40, 2), 3)


@pytest.mark.parametrize("threads", [2, 40])
def test_the_number_of_threads_does_not_show(threads):
    parts, orders = np.split(make("continuous", 400, 3), 3, axis=1), permutations(400, 25)
    before = torch.get_num_threads()
    found = []
    for number in (1, threads):
        torch.set_num_threads(number)
        try:
            found.append(neighbors.permuted_tallies(*parts, orders, 30))
        finally:
            torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_no_permutation():
    parts = np.split(make("continuous", 20, 3), 3, axis=1)
    found = neighbors.permuted_tallies(*parts, np.empty((0, 20), np.int64), 3)
    assert found.shape == (0, 21)


@pytest.mark.parametrize("kind", ["continuous", "grid", "labels", "zero-inflated", "8 bits"])
def test_p_values_are_those_of_the_reference(kind, reference):
    rows = torch.from_numpy(make(kind, 120, 4))
    for x, y, z in ((rows[:, 0], rows[:, 1], rows[:, 2]), (rows[:, :2], rows[:, 2], rows[:, 3])):
        options = {"z": z, "num_permutations": 40, "seed": 3}
        assert knn_p_value(x, y, **options) == reference(knn_p_value, x, y, **options)


def test_nulls_are_those_of_the_reference():

    samples = tell_triples_apart(torch.from_numpy(make("continuous", 500, 4)), (1, 1, 2), True)
    orders = [torch.from_numpy(order) for order in permutations(500, 5)]
    found = list(permuted_values(samples, 3, iter(orders)))
    with switch.disabled():
        assert list(permuted_values(samples, 3, iter(orders))) == found
    assert len(found) == 5


def test_what_does_not_fit_is_refused():
    x, y, z = np.split(make("continuous", 20, 3), 3, axis=1)
    orders = permutations(20, 2)
    for k in (0, 20):
        with pytest.raises(ValueError, match="neighbors of samples"):
            neighbors.permuted_tallies(x, y, z, orders, k)
    with pytest.raises(ValueError, match="neighbors of samples"):
        neighbors.permuted_tallies(np.zeros((20, 65)), y, z, orders, 3)
    for wrong in (20, -1):
        with pytest.raises(ValueError, match="places from 0 to 19"):
            neighbors.permuted_tallies(x, y, z, np.full((1, 20), wrong), 3)
    with pytest.raises(ValueError, match="Expected 40 contiguous values"):
        neighbors.permuted_tallies(x, y, z, orders[:, :19].copy(), 3)
    with pytest.raises(ValueError, match="Expected 20 contiguous values"):
        neighbors.permuted_tallies(x, y[:10], z, orders, 3)
