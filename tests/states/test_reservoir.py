"""The bounded sample: against a list of Python integers, under batches and merges, and uniform."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mi_metrics.states import reservoir
from tests.functional.knn_oracle import WORD, mix


def signed(word):
    return word - WORD if word >= WORD // 2 else word


def oracle(rows, size):
    """Follow the formula of the tags row by row; keep the rows of least (tag, bits)."""
    chain, table = 0, []
    for t, row in enumerate((rows + 0.0).view(torch.int64).tolist()):
        word = len(row)
        for value in row:
            word = mix((word + value) % WORD)
        chain = (chain + mix(word ^ mix(t))) % WORD
        tag = min(mix(chain ^ mix(t + reservoir.SALT)) >> 1, reservoir.EMPTY - 1)
        table.append([tag, *row])
    table = sorted(table)[:size]
    table += [[reservoir.EMPTY] * (1 + rows.shape[1])] * (size - len(table))
    head = [len(rows), signed(chain), *[0] * (rows.shape[1] - 1)]
    return torch.tensor([[head, *table]])


def kept_of(rows, size):
    state = reservoir.update(reservoir.empty(1, size, rows.shape[1]), rows[None])
    return reservoir.rows(state)[0]


def test_an_empty_reservoir_goes_on_with_a_stream():
    rows = torch.randn(1, 500, 2, generator=torch.Generator().manual_seed(0)).double()
    before = reservoir.update(reservoir.empty(1, 60, 2), rows[:, :300])
    part = reservoir.update(reservoir.empty(1, 60, 2), rows[:, 300:], None, before[:, 0])
    whole = reservoir.update(before, rows[:, 300:])
    assert reservoir.fold(torch.stack([before, part])).equal(whole)


values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-310, 1e300, 3.0, -2.5, 7.25])


@settings(max_examples=200)
@given(
    st.lists(st.tuples(values, values), min_size=1, max_size=40),
    st.integers(1, 25),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_batches_change_nothing(pairs, size, cuts):
    rows = torch.tensor(pairs, dtype=torch.float64)
    expected = oracle(rows, size)
    assert reservoir.update(reservoir.empty(1, size, 2), rows[None]).equal(expected)
    bounds = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    state = reservoir.empty(1, size, 2)
    for a, b in itertools.pairwise(bounds):
        if b > a:
            state = reservoir.update(state, rows[None, a:b])
    assert state.equal(expected)


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.tuples(values, values), max_size=20), min_size=1, max_size=5),
    st.integers(1, 25),
    st.randoms(use_true_random=False),
)
def test_merges_in_any_order_keep_the_least_of_all(streams, size, random):
    states, tables = [], []
    for stream in streams:
        state = reservoir.empty(1, size, 2)
        if stream:
            state = reservoir.update(state, torch.tensor([stream], dtype=torch.float64))
        states.append(state)
        tables += state[0, 1:].tolist()
    expected = torch.tensor(sorted(tables)[:size])
    merged = reservoir.fold(torch.stack([reservoir.empty(1, size, 2), *states]))
    assert merged[0, 1:].equal(expected)
    assert merged[0, 0].equal(torch.stack(states).sum(0)[0, 0])
    while len(states) > 1:
        a, b = (states.pop(random.randrange(len(states))) for _ in range(2))
        states.append(reservoir.fold(torch.stack([a, b])))
    assert states[0].equal(merged)


def test_rows_of_one_tag_are_ordered_by_their_bits(monkeypatch):
    def tags(bits, valid, head):
        return bits[..., 0].bitwise_and(1 << 52) >> 52, head

    monkeypatch.setattr(reservoir, "_tags", tags)
    rows = torch.randint(0, 9, (40, 2), generator=torch.Generator().manual_seed(0)).double()
    found = []
    for parts in (rows.split(7), rows.flip(0).split(3)):
        state = reservoir.empty(1, 25, 2)
        for part in parts:
            state = reservoir.update(state, part[None])
        found.append(state)
    assert found[0].equal(found[1])


def test_everything_is_kept_up_to_the_size():
    rows = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert sorted(map(tuple, kept_of(rows, 60).tolist())) == sorted(map(tuple, rows.tolist()))


def test_invalid_rows_are_left_out_and_outputs_do_not_mix():
    rows = torch.arange(24, dtype=torch.float64).view(2, 6, 2)
    valid = torch.tensor([[True, False, True, True, True, True], [False] * 5 + [True]])
    state = reservoir.update(reservoir.empty(2, 4, 2), rows, valid)
    for c in range(2):
        alone = reservoir.update(reservoir.empty(1, 4, 2), rows[c : c + 1, valid[c]])
        assert state[c : c + 1].equal(alone)


def streams(kind, seed, number=20_000):
    """A stream of two columns; its first row differs from seed to seed, as that of real ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number, generator=generator, dtype=torch.float64)
    y = torch.randn(number, generator=generator, dtype=torch.float64)
    x[0], y[0] = seed + 0.25, -seed
    return {
        "continuous": lambda: (x, y),
        "20 levels": lambda: ((x * 4).round(), (y * 4).round()),
        "labels": lambda: ((x > 0).double(), y.sign()),
        "ReLU": lambda: (x.relu(), (y - 1).relu()),
        "sorted labels": lambda: ((x > 0).double().sort().values, y.sign()),
    }[kind]()


@pytest.mark.parametrize("kind", ["continuous", "20 levels", "labels", "ReLU", "sorted labels"])
def test_every_position_is_kept_alike(kind):
    """Early and late rows, and those of every kind of stream, have the same chance."""
    counts = torch.zeros(20)
    for seed in range(20):
        rows = torch.stack(streams(kind, seed), 1) + 0.0
        start = torch.zeros(1, 3, dtype=torch.int64)
        kept = reservoir._tags(rows[None].view(torch.int64), None, start)[0][0].argsort()[:1000]
        assert kept_of(rows, 1000).equal(rows[kept])
        counts += torch.histc(kept.double(), bins=20, min=0, max=20_000)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.campaign
@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("kind", ["continuous", "20 levels", "labels", "ReLU", "sorted labels"])
def test_kept_means_scatter_as_those_of_a_uniform_sample(kind, ranks):
    """Equal rows on several ranks must not be kept or dropped in pairs."""
    scores = []
    for seed in range(200):
        x, y = streams(kind, seed)
        rows = torch.stack([x, y], 1)
        states = [
            reservoir.update(reservoir.empty(1, 1000, 2), rows[None, rank::ranks])
            for rank in range(ranks)
        ]
        kept = reservoir.rows(reservoir.fold(torch.stack(states)))[0]
        deviation = rows.std(0) * math.sqrt((1 - 1000 / len(rows)) / 1000)
        scores.append((kept.mean(0) - rows.mean(0)) / deviation)
    scores = torch.stack(scores)
    assert scores.mean(0).abs().max() < 4 / math.sqrt(200)
    assert (scores.std(0) - 1).abs().max() < 4 / math.sqrt(2 * 200)


def test_constants_are_kept_by_number_alone():
    state = reservoir.update(reservoir.empty(1, 100, 2), torch.ones(1, 5000, 2).double())
    (kept,) = reservoir.rows(state)
    assert kept.equal(torch.ones(100, 2).double())
    assert state[0, 0, 0] == 5000
