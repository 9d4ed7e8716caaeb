"""The compiled search and counts give the bits of the comparison of all pairs, and of the other
paths.
"""

import threading
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mi_metrics import MutualInformationWarning
from mi_metrics.functional import knn_conditional_mutual_information, knn_mutual_information
from mi_metrics.functional.neighbors.search import nearest
from mi_metrics.functional.neighbors.within import range_counts, strict_counts
from mi_metrics.kernels import native, neighbors, switch

pytestmark = pytest.mark.skipif(not native.serves(), reason="there is no compiled library")


def distances(points):
    """All distances, pair by pair: the definition."""
    gap = np.zeros((len(points), len(points)))
    for column in points.T:
        np.maximum(gap, np.abs(column[:, None] - column), out=gap)
    return gap


def oracle(points, k, x_dim):
    """Radius and reach of each point."""
    x, y = distances(points[:, :x_dim]), distances(points[:, x_dim:])
    joint = np.maximum(x, y)
    radius = np.sort(joint, axis=1)[:, k]
    inside = joint <= radius[:, None]
    return radius, np.where(inside, x, 0).max(1), np.where(inside, y, 0).max(1)


def assert_same(found, expected):
    for got, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, right)


KINDS = {
    "continuous": lambda z: z,
    "dependent": lambda z: z[:, :1] + 1e-6 * z,
    "grid": lambda z: np.round(2 * z),
    "8 bits": lambda z: np.round(32 * z + 128) / 255,
    "labels": lambda z: np.where(np.arange(z.shape[1]) % 2, z, np.sign(z)),
    "constant coordinate": lambda z: np.where(np.arange(z.shape[1]) == 0, 1.0, z),
    "all equal": lambda z: np.full_like(z, 0.1),
    "zero-inflated": lambda z: np.maximum(z, 0),
    "heavy tails": lambda z: np.exp(30 * z),
    "subnormal": lambda z: np.round(20 * z) * 5e-324,
    "huge": lambda z: z * 1e307,
    "far from 0": lambda z: 1e9 + z,
    "two clusters": lambda z: z + 1e9 * (z[:, -1:] > 0),
    "one far": lambda z: np.where(z == z.max(), 1e9, z),
}


def make(kind, size, dim):
    rng = np.random.default_rng(size * 100 + dim)
    return np.ascontiguousarray(KINDS[kind](rng.standard_normal((size, dim))))


@pytest.mark.parametrize("dim", range(2, 11))
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_comparison_of_all_pairs(kind, dim):
    points = make(kind, 180, dim)
    x_dim = 1 + dim // 3
    for k in (1, 3, 5, 23, 24, 179):
        right = oracle(points, k, x_dim)
        assert_same(neighbors.nearest(points, k, x_dim=x_dim), right)
        assert_same(neighbors.nearest(points, k), right[:1])
    joint = distances(points)
    for radius in (right[0], oracle(points, 3, 1)[0], np.zeros(180), np.full(180, np.inf)):
        counts = (joint <= radius[:, None]).sum(1)
        assert_same([neighbors.range_counts(points, radius)], [counts])
        line = (distances(points[:, -1:]) <= radius[:, None]).sum(1)
        assert_same([neighbors.range_counts(points[:, -1:], radius)], [line])


@pytest.mark.parametrize("size", [2, 3, 7, 8, 9, 16, 17, 63, 64, 65, 72, 511, 513])
@pytest.mark.parametrize("kind", ["continuous", "grid", "two clusters"])
def test_groups_that_are_not_full(kind, size):
    points = make(kind, size, 2)
    for k in sorted({1, min(3, size - 1), size // 2, size - 1}):
        assert_same(neighbors.nearest(points, k, x_dim=1), oracle(points, k, 1))
    radius = oracle(points, size // 2, 1)[0]
    right = (distances(points) <= radius[:, None]).sum(1)
    assert_same([neighbors.range_counts(points, radius)], [right])


VALUES = st.one_of(
    st.integers(-4, 4).map(float),
    st.floats(-1e300, 1e300, allow_nan=False, allow_subnormal=True),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 0.1, 0.2, 0.30000000000000004, 1e16, 1e16 + 2]),
)


@settings(max_examples=100, derandomize=True)
@given(
    points=hnp.arrays(
        np.float64, st.tuples(st.integers(2, 90), st.integers(2, 10)), elements=VALUES
    ),
    data=st.data(),
)
def test_any_numbers(points, data):
    size, dim = points.shape
    k, x_dim = data.draw(st.integers(1, size - 1)), data.draw(st.integers(1, dim - 1))
    queries = np.array(data.draw(st.lists(st.integers(0, size - 1), unique=True)), dtype=np.int64)
    right = oracle(points, k, x_dim)
    assert_same(neighbors.nearest(points, k, x_dim=x_dim), right)
    assert_same(neighbors.nearest(points, k, queries, x_dim), [answer[queries] for answer in right])
    radius = np.array(
        data.draw(st.lists(VALUES.map(abs), min_size=size, max_size=size)), dtype=np.float64
    )
    for some in (points, points[:, :1]):
        counts = (distances(some) <= radius[:, None]).sum(1)
        assert_same([neighbors.range_counts(some, radius)], [counts])
        part = neighbors.range_counts(some, radius[queries], queries)
        assert_same([part], [counts[queries]])


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_other_paths_for_many_points(kind):
    points = torch.from_numpy(make(kind, 3000, 3))
    some = torch.from_numpy(np.random.default_rng(0).permutation(3000)[:900])
    found = nearest(points, 4, x_dim=1, path="native")
    for queries in (None, some):
        one = nearest(points, 4, x_dim=1, queries=queries, path="native")
        for other in ("tree", "brute"):
            right = nearest(points, 4, x_dim=1, queries=queries, path=other)
            assert torch.equal(one.radius, right.radius)
            assert_same(one.reach, right.reach)
    for dim, other in ((1, "line"), (2, "plane"), (3, "tree")):
        for count in (range_counts, strict_counts):
            v = points[:, :dim].contiguous()
            whole = count(v, found.radius, path="native")
            assert torch.equal(whole, count(v, found.radius, path=other))
            part = count(v, found.radius[some], queries=some, path="native")
            assert torch.equal(part, whole[some])


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_tree_for_thirty_thousand_points(kind, dim):
    points = torch.from_numpy(make(kind, 30_000, dim))
    some = torch.from_numpy(np.random.default_rng(0).permutation(30_000)[:300])
    found = nearest(points, 3, x_dim=1, path="native")
    right = nearest(points, 3, x_dim=1, queries=some, path="brute")
    assert torch.equal(found.radius[some], right.radius)
    assert_same([side[some] for side in found.reach], right.reach)
    for v in (points[:, :1], points[:, 1:].contiguous()) if dim > 2 else (points[:, :1],):
        counts = strict_counts(v, found.radius, path="native")
        right = strict_counts(v, found.radius[some], queries=some, path="brute")
        assert torch.equal(counts[some], right)


@pytest.mark.parametrize("threads", [2, 3, 40])
def test_the_number_of_threads_does_not_show(threads):
    points = make("grid", 3000, 3) + 0.25 * make("continuous", 3000, 3)
    before = torch.get_num_threads()
    found = []
    for number in (1, threads):
        torch.set_num_threads(number)
        try:
            near = neighbors.nearest(points, 30, x_dim=1)
            counts = [neighbors.range_counts(v, near[0]) for v in (points, points[:, :1])]
        finally:
            torch.set_num_threads(before)
        found.append([*near, *counts])
    assert_same(*found)


def test_calls_from_threads_of_python_do_not_meet():
    points = [make("continuous", 2000 + i, 3) for i in range(6)]
    right = [neighbors.nearest(p, 3)[0] for p in points]
    found = [None] * 6

    def work(i):
        found[i] = neighbors.nearest(points[i], 3)[0]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert_same(found, right)


def test_what_does_not_fit_is_refused():
    points = make("continuous", 20, 3)
    radius = np.ones(20)
    for k in (0, 20, -1):
        with pytest.raises(ValueError, match="neighbors of points"):
            neighbors.nearest(points, k)
    for x_dim in (0, 3):
        with pytest.raises(ValueError, match="cut 3 coordinates"):
            neighbors.nearest(points, 3, x_dim=x_dim)
    for dim in (1, 11):
        with pytest.raises(ValueError, match="neighbors of points"):
            neighbors.nearest(np.zeros((20, dim)), 3)
    with pytest.raises(ValueError, match="count points"):
        neighbors.range_counts(np.zeros((20, 11)), radius)
    for queries in ([20], [-1]):
        with pytest.raises(ValueError, match="places from 0 to 19"):
            neighbors.range_counts(points, np.ones(1), np.array(queries))
    with pytest.raises(ValueError, match="no points"):
        neighbors.nearest(points[:0], 1)
    with pytest.raises(ValueError, match="Expected 20 contiguous values"):
        neighbors.range_counts(points, radius[:7])
    with pytest.raises(ValueError, match="Expected 60 contiguous values of float64"):
        neighbors.nearest(points.astype(np.float32), 3)
    with pytest.raises(ValueError, match="Expected 2 contiguous values of int64"):
        neighbors.nearest(points, 3, np.array([1, 2], dtype=np.int32))


@pytest.mark.parametrize("standardize", [True, False, "rank"])
@pytest.mark.parametrize("kind", KINDS)
def test_estimates_are_the_same_to_the_bit(kind, standardize):
    rows = torch.from_numpy(make(kind, 800, 4))
    x, y, z = rows[:, :1], rows[:, 1:2], rows[:, 2:]
    labels = (rows[:, 2] * 2).clamp(-3, 3).long()

    def values():
        how = {"standardize": standardize}
        yield knn_mutual_information(x, y, **how)
        yield knn_mutual_information(x, y, 7, algorithm="ksg2", **how)
        yield knn_mutual_information(rows[:, :2], z, **how)
        yield knn_conditional_mutual_information(x, y, z, **how)
        if len(labels.unique()) < 100:
            yield knn_mutual_information(z, labels, discrete_y=True, **how)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MutualInformationWarning)
        found = list(values())
        with switch.disabled():
            right = list(values())
    assert found == right
