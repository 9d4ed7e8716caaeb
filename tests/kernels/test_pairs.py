"""Samples of two numbers: one compiled call gives the bits of sorting, telling apart, scaling,
searching and counting one after the other.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mi_metrics.functional.knn import rows_doubts, rows_estimate, rows_mutual_information
from mi_metrics.functional.neighbors.doubts import few_labels
from mi_metrics.functional.neighbors.pairs import pair_information, serves
from mi_metrics.kernels import native, neighbors, switch
from tests.kernels.test_neighbors import VALUES, make

pytestmark = pytest.mark.skipif(not native.serves(), reason="there is no compiled library")

OPTIONS = [
    {"algorithm": algorithm, "standardize": scaling}
    for algorithm in ("ksg1", "ksg2")
    for scaling in (True, False, "rank", "joint")
]

KINDS = {
    "continuous": lambda x, y: (x, 0.6 * x + 0.8 * y),
    "single": lambda x, y: (np.float32(x), np.float32(0.6 * x + 0.8 * y)),
    "single x": lambda x, y: (np.float32(x) + 0.0 * y, 0.6 * x + 0.8 * y),
    "half": lambda x, y: (np.float16(x), np.float16(0.6 * x + 0.8 * y)),
    "equal": lambda x, y: (x, x),
    "opposite": lambda x, y: (x, -x),
    "labels": lambda x, y: (np.sign(x), np.round(y)),
    "labels against themselves": lambda x, y: (np.round(x), np.round(x)),
    "labels and numbers": lambda x, y: (np.round(2 * x), x + y),
    "rounded": lambda x, y: (np.round(8 * x) / 8, np.round(8 * (x + y)) / 8),
    "8 bits": lambda x, y: (np.round(32 * x + 128) / 255, np.round(32 * (x + y) + 128) / 255),
    "zero-inflated": lambda x, y: (np.maximum(x, 0), np.maximum(x + y, 0.0)),
    "copies": lambda x, y: (np.repeat(x[::4], 4)[: len(x)], np.repeat(y[::4], 4)[: len(x)]),
    "few copies": lambda x, y: (np.repeat(x, 2)[: len(x)], np.repeat(y, 2)[: len(x)]),
    "signs of zero": lambda x, y: (np.round(x) * 0.0 + np.maximum(y, 0), -np.maximum(x, 0)),
    "heavy tails": lambda x, y: (np.exp(9 * x), np.tan(3 * y)),
    "subnormal": lambda x, y: (np.round(20 * x) * 5e-324, y),
    "least spread": lambda x, y: (1 + np.round(x) * 2.0**-52, y),
    "huge": lambda x, y: (x * 1e307, np.round(y) * 1e307),
    "huge and tiny": lambda x, y: (x * 1e300, y * 1e-300),
    "two clusters": lambda x, y: (x + 1e9 * (x > 0), y + 1e-9 * x),
    "dense beside far": lambda x, y: (np.where(x > 2, -1e300, 1 + 1e-12 * x), y),
    "one far": lambda x, y: (np.where(x == x.max(), 1e12, x), y),
    "one other": lambda x, y: (np.where(x == x.max(), 1.0, 0.0), y),
    "constant": lambda x, y: (np.full_like(x, 0.1), y),
    "constant y": lambda x, y: (x, np.full_like(x, 0.1)),
}


def samples(kind, size):
    z = np.random.default_rng(size).standard_normal((2, size))
    return torch.from_numpy(np.stack(KINDS[kind](*z), 1)).double()


# Samples that leave a doubt, with the kinds of it.
DOUBTFUL = {
    "every sample twice": (lambda x, y: (np.repeat(x, 2), np.repeat(y, 2)), {"copies"}),
    "nearly all three times": (
        lambda x, y: (np.r_[x, x, x, x[:9]], np.r_[y, y, y, x[:9]]),
        {"copies"},
    ),
    "drawn with replacement": (
        lambda x, y: (resampled(x), resampled(x + y)),
        {"copies"},
    ),
    "far": (lambda x, y: (np.where(x == x.max(), 1e5, x), y), {"far samples"}),
    "far and zero": (
        lambda x, y: (np.where(x == x.max(), 1e7, np.maximum(x, 0)), y),
        {"far samples"},
    ),
    "far beside what underflows": (
        lambda x, y: (x * np.repeat([1e-310, 1e300, 1e296], [520, 2, 478]), y),
        {"far samples"},
    ),
    "fill value": (lambda x, y: (x, np.where(y > 2, -1e9, y)), {"far samples"}),
    "far beside an offset": (
        lambda x, y: (np.where(x == x.max(), 2e9, 1e9 + x), y),
        {"far samples"},
    ),
}


def resampled(values):
    return values[np.random.default_rng(0).integers(0, len(values), len(values))]


def doubts_of_the_reference(rows, k, value, standardize):
    options = {"discrete_y": False, "standardize": standardize}
    with switch.disabled():
        return rows_doubts(rows, 1, k, torch.tensor(value), **options).keys()


def assert_equals_the_reference(rows, k, **options):
    assert serves(rows)
    with switch.disabled():
        assert not serves(rows)
        right = float(rows_mutual_information(rows, 1, k, **options))
    found = pair_information(rows, k, **options)
    assert found.value == right
    if not found.doubtful:
        assert not doubts_of_the_reference(rows, k, right, options["standardize"])
    assert float(rows_mutual_information(rows, 1, k, **options)) == right


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference(kind, options):
    for size, k in ((700, 3), (433, 10), (64, 63)):
        assert_equals_the_reference(samples(kind, size), k, **options)


@pytest.mark.parametrize("kind", ["continuous", "labels", "rounded", "copies", "one other"])
def test_few_samples(kind):
    for size in range(2, 22):
        for k in range(1, size):
            for options in OPTIONS[:: 1 if size < 10 else 3]:
                assert_equals_the_reference(samples(kind, size), k, **options)


@settings(max_examples=100, derandomize=True)
@given(
    rows=hnp.arrays(np.float64, st.tuples(st.integers(2, 60), st.just(2)), elements=VALUES),
    data=st.data(),
)
def test_any_numbers(rows, data):
    k = data.draw(st.integers(1, len(rows) - 1))
    options = data.draw(st.sampled_from(OPTIONS))
    assert_equals_the_reference(torch.from_numpy(rows), k, **options)


@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
@pytest.mark.parametrize("kind", DOUBTFUL)
def test_no_doubt_is_missed(kind, options):
    make_samples, kinds = DOUBTFUL[kind]
    z = np.random.default_rng(1).standard_normal((2, 1000))
    rows = torch.from_numpy(np.stack(make_samples(*z), 1))
    if options["standardize"] in (False, "rank"):
        kinds = kinds - {"far samples"}
    value, doubtful = rows_estimate(rows, 1, 3, **options)
    found = doubts_of_the_reference(rows, 3, float(value), options["standardize"])
    assert found >= kinds
    assert doubtful or not found


@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
@pytest.mark.parametrize("kind", ["labels", "labels and numbers", "huge"])
def test_what_can_be_labels_is_looked_at(kind, options):
    rows = samples(kind, 5000)
    assert few_labels(rows, 0, 3) or few_labels(rows, 1, 3) or kind == "labels"
    assert rows_estimate(rows, 1, 3, **options).doubtful == (kind != "labels")


@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
@pytest.mark.parametrize(
    "kind",
    [
        *["continuous", "equal", "opposite", "labels against themselves", "rounded", "8 bits"],
        *["zero-inflated", "subnormal", "huge and tiny"],
    ],
)
def test_what_is_not_doubtful_is_not_looked_at_twice(kind, options):
    rows = samples(kind, 5000)
    value, doubtful = rows_estimate(rows, 1, 3, **options)
    assert not doubts_of_the_reference(rows, 3, float(value), options["standardize"])
    assert not doubtful


@pytest.mark.parametrize("kind", KINDS)
def test_no_order_and_no_number_of_threads_shows(kind):
    rows = samples(kind, 5000)
    right = pair_information(rows, 3, **OPTIONS[0])
    before = torch.get_num_threads()
    for threads, some in itertools.product((1, 2, 7), (rows, rows.flip(0), rows.flip(1))):
        torch.set_num_threads(threads)
        try:
            assert pair_information(some, 3, **OPTIONS[0]) == right
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["continuous", "single", "half", "dense beside far"])
def test_more_samples_than_are_sorted_in_the_cache(kind):
    assert_equals_the_reference(samples(kind, 140_000), 3, **OPTIONS[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference_for_many_samples(kind):
    for options in (OPTIONS[0], OPTIONS[5]):
        assert_equals_the_reference(samples(kind, 30_000), 3, **options)


@pytest.mark.parametrize("dim", [1, 3])
def test_other_samples_are_left_to_others(dim):
    assert not serves(torch.zeros(10, dim, dtype=torch.float64))


def test_what_does_not_fit_is_refused():
    x, y = make("continuous", 20, 2).T
    for k in (0, 20, -1):
        with pytest.raises(ValueError, match="neighbors of 20 samples"):
            neighbors.pair_tally(x, y, k, scaling=0, rectangles=False)
    with pytest.raises(ValueError, match="Expected 20 values"):
        neighbors.pair_tally(x, y[:10], 3, scaling=0, rectangles=False)
    with pytest.raises(ValueError, match="values of float64"):
        neighbors.pair_tally(x.astype(np.float32), y, 3, scaling=0, rectangles=False)
    with pytest.raises(ValueError, match="columns of one table"):
        neighbors.pair_tally(x.copy(), y, 3, scaling=0, rectangles=False)
