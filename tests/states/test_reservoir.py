import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_metrics.states import reservoir


def oracle(rows, size):
    """Keep the rows of least (key, bits), one list at a time."""
    bits = (rows + 0.0).view(torch.int64)
    keys = reservoir._hash(bits)
    table = sorted([int(k), *map(int, row)] for k, row in zip(keys, bits, strict=True))[:size]
    table += [[reservoir.EMPTY] * (1 + rows.shape[1])] * (size - len(table))
    return torch.tensor([table])


values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-310, 1e300, 3.0, -2.5, 7.25])


@settings(max_examples=200)
@given(
    st.lists(st.tuples(values, values), min_size=1, max_size=40),
    st.integers(1, 25),
    st.lists(st.integers(0, 40), max_size=5),
    st.randoms(use_true_random=False),
)
def test_the_kept_rows_are_a_function_of_the_multiset(pairs, size, cuts, random):
    rows = torch.tensor(pairs, dtype=torch.float64)
    expected = oracle(rows, size)
    assert reservoir.update(reservoir.empty(1, size, 2), rows[None]).equal(expected)
    shuffled = rows[torch.tensor(random.sample(range(len(rows)), len(rows)))]
    bounds = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    parts = [shuffled[a:b] for a, b in itertools.pairwise(bounds) if b > a]
    state = reservoir.empty(1, size, 2)
    for part in parts:
        state = reservoir.update(state, part[None])
    assert state.equal(expected)
    ranks = [reservoir.update(reservoir.empty(1, size, 2), part[None]) for part in parts]
    assert reservoir.fold(torch.stack([reservoir.empty(1, size, 2), *ranks])).equal(expected)


def test_rows_of_one_key_are_ordered_by_their_bits(monkeypatch):
    monkeypatch.setattr(reservoir, "_hash", lambda bits: bits[..., 0].bitwise_and(1 << 52) >> 52)
    rows = torch.randint(0, 9, (40, 2), generator=torch.Generator().manual_seed(0)).double()
    for parts in (rows.split(7), rows.flip(0).split(3)):
        state = reservoir.empty(1, 25, 2)
        for part in parts:
            state = reservoir.update(state, part[None])
        assert state.equal(oracle(rows, 25))


def test_everything_is_kept_up_to_the_size():
    rows = torch.randn(1, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (kept,) = reservoir.rows(reservoir.update(reservoir.empty(1, 60, 3), rows))
    assert sorted(map(tuple, kept.tolist())) == sorted(map(tuple, rows[0].tolist()))


def test_invalid_rows_are_left_out_and_outputs_do_not_mix():
    rows = torch.arange(24, dtype=torch.float64).view(2, 6, 2)
    valid = torch.tensor([[True, False, True, True, True, True], [False] * 5 + [True]])
    state = reservoir.update(reservoir.empty(2, 4, 2), rows, valid)
    for c in range(2):
        alone = reservoir.update(reservoir.empty(1, 4, 2), rows[c : c + 1, valid[c]])
        assert state[c : c + 1].equal(alone)


def test_distinct_rows_are_kept_uniformly():
    # The mean and spread of the kept rows are those of all, at every position in the stream.
    rows = torch.arange(100_000, dtype=torch.float64).view(1, -1, 1)
    (kept,) = reservoir.rows(reservoir.update(reservoir.empty(1, 4_000, 1), rows))
    histogram = torch.histc(kept, bins=10, min=0, max=100_000)
    assert histogram.sub(400).abs().max() < 5 * 20
    assert reservoir.is_representative(
        reservoir.update(reservoir.empty(1, 4_000, 1), rows), torch.tensor([100_000])
    ).all()


@pytest.mark.parametrize("columns", [1, 2])
def test_repeated_rows_are_found_unrepresentative(columns):
    rows = torch.randint(
        0, 2, (1, 10_000, columns), generator=torch.Generator().manual_seed(0)
    ).double()
    state = reservoir.update(reservoir.empty(1, 1_000, columns), rows)
    assert not reservoir.is_representative(state, torch.tensor([10_000])).any()
