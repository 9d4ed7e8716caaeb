"""Moments that add up: against two passes in exact arithmetic, for any split, order and place."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_metrics.functional.gaussian import moments, power_of_two
from mi_metrics.states.moments import add, empty, fold, merge, pack, unpack


def exact_products(rows):
    """Centred products without any rounding but the last."""
    columns = [[Fraction(v) for v in column] for column in rows.T.tolist()]
    centred = [[v - sum(column) / len(column) for v in column] for column in columns]
    return torch.tensor(
        [[float(sum(p * q for p, q in zip(a, b, strict=True))) for b in centred] for a in centred],
        dtype=torch.float64,
    )


def in_data_units(state):
    """Return number, mean and products of a state as plain numbers."""
    found = unpack(state)
    unit = power_of_two(found.exponent)
    mean = (found.mean + found.mean_rest) * unit
    return found.number, mean, found.products * unit.unsqueeze(1) * unit


def assert_products(state, expected, tolerance=1e-12):
    _, _, products = in_data_units(state)
    scale = expected.diagonal().sqrt()
    scale = scale.unsqueeze(1) * scale
    assert ((products - expected).abs() <= tolerance * scale).all()


def samples(n, dim, seed, place=0.0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    return place + spread * (rows + rows.sum(1, keepdim=True))


PLACES = {
    "0 ± 1": (0.0, 1.0),
    "1e6 ± 1": (1e6, 1.0),
    "1e6 ± 1e-3": (1e6, 1e-3),
    "-1e12 ± 1": (-1e12, 1.0),
    "1e300": (1e300, 1e299),
    "1e-300": (1e-300, 1e-301),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_products_are_exact_wherever_the_data_lie(place):
    rows = samples(80, 3, 0, *place)
    expected = rows if place[1] < 1e100 and place[0] < 1e100 else None
    state = fold(torch.stack([pack(moments(part)) for part in rows.split([1, 30, 2, 47])]))
    unit = power_of_two(unpack(state).exponent)
    # In the state's units, in which nothing overflows.
    scaled = rows / unit
    assert_products(pack(unpack(state)._replace(exponent=0 * unit.long())), exact_products(scaled))
    if expected is not None and place[1] > 1e-100:
        number, mean, _ = in_data_units(state)
        assert number == 80
        torch.testing.assert_close(mean, rows.mean(0), rtol=1e-14, atol=0)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_order_split_and_tree_gives_the_same_moments(data):
    n = data.draw(st.integers(5, 60), label="samples")
    place = data.draw(st.sampled_from(list(PLACES.values())), label="place")
    rows = samples(n, 2, data.draw(st.integers(0, 2**31), label="seed"), *place)
    rows[:, 1] = rows[:, 1] * data.draw(st.sampled_from([1.0, 2.0**-60, -(2.0**40)]), label="unit")
    rows = rows.clamp(-1.7e308, 1.7e308)
    whole = pack(moments(rows))
    order = torch.randperm(
        n, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 2**31), label="order"))
    )
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=8), label="cuts"))
    parts = [pack(moments(part)) for part in rows[order].tensor_split(cuts)]
    parts += [empty(2)] * data.draw(st.integers(0, 2), label="empty")
    while len(parts) > 1:
        other = parts.pop(data.draw(st.integers(0, len(parts) - 1), label="merged"))
        into = data.draw(st.integers(0, len(parts) - 1), label="into")
        parts[into] = merge(parts[into], other)
    one, all_at_once = unpack(parts[0]), unpack(whole)
    assert one.number == all_at_once.number == n
    assert one.exponent.equal(all_at_once.exponent)
    scale = all_at_once.products.diagonal().sqrt()
    difference = (one.products - all_at_once.products).abs()
    assert (difference <= 1e-12 * scale.unsqueeze(1) * scale).all()
    mean_difference = (one.mean - all_at_once.mean) + (one.mean_rest - all_at_once.mean_rest)
    assert (mean_difference.abs() <= 1e-13 * scale).all()


def test_one_word_of_the_mean_would_not_do():
    """What the second word is for: without it the same merges lose four digits."""
    rows = samples(20_000, 2, 0, 1e6, 1.0)
    expected = moments(rows).products
    parts = [pack(moments(part)) for part in rows.split(7)]
    for kept, bound in ((1.0, 1e-12), (0.0, None)):
        total = empty(2)
        for part in parts:
            part, total = part.clone(), total.clone()
            part[3] *= kept
            total[3] *= kept
            total = merge(total, part)
        error = ((unpack(total).products - expected).abs() / expected.diagonal()[0]).max()
        assert error < bound if bound else error > 1e-12


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, -1e300, 5e-324])
def test_constant_coordinates_have_no_spread_to_the_bit(value):
    rows = samples(50, 2, 0)
    rows[:, 0] = value
    state = fold(torch.stack([pack(moments(part)) for part in rows.split([1, 20, 3, 26])]))
    added = empty(2)
    for part in rows.split([1, 20, 3, 26]):
        added = add(added, part)
    assert unpack(added).mean_rest[0] == 0
    assert unpack(added).mean[0] == unpack(state).mean[0]
    assert (unpack(added).products[0] == 0).all()
    found = unpack(state)
    assert (found.products[0] == 0).all()
    assert (found.products[:, 0] == 0).all()
    assert found.products[1, 1] > 0
    assert found.mean_rest[0] == 0
    # 2**-1074 in two factors, of which each is a normal number.
    assert found.mean[0] * power_of_two(found.exponent[0]) == value


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_samples_are_added_as_their_moments_are_merged(data):
    n = data.draw(st.sampled_from([1, 2, 30, 1500]), label="samples")
    place = data.draw(st.sampled_from(list(PLACES.values())), label="place")
    seed = data.draw(st.integers(0, 2**31), label="seed")
    rows = samples(n, 2, seed, *place)
    if data.draw(st.booleans(), label="far"):
        # The worst shift: the first sample alone lies far from all others.
        rows[0] += 1e4 * (rows.abs().amax(0) - place[0])
    state = data.draw(st.sampled_from([empty(2), pack(moments(samples(7, 2, 0, *place)))]))
    one, other = unpack(add(state, rows)), unpack(merge(state, pack(moments(rows))))
    assert one.number.equal(other.number)
    assert one.exponent.equal(other.exponent)
    scale = other.products.diagonal().sqrt()
    difference = (one.products - other.products).abs()
    assert (difference <= 1e-12 * scale.unsqueeze(1) * scale).all()
    means = (one.mean - other.mean) + (one.mean_rest - other.mean_rest)
    assert (means.abs() <= 1e-13 * scale + 1e-30).all()


def test_no_samples_change_nothing_to_the_bit():
    state = pack(moments(samples(10, 3, 0, 1e-300, 1e-301)))
    for pair in ((state, empty(3)), (empty(3), state)):
        assert merge(*pair).equal(state)
    assert merge(empty(3), empty(3)).equal(empty(3))
    assert fold(torch.stack([empty(3), state, empty(3)])).equal(state)


def test_merging_writes_into_neither_and_shares_no_memory():
    a, b = (pack(moments(samples(10, 2, seed))) for seed in (0, 1))
    before = a.clone(), b.clone()
    merged = merge(a, b)
    only = fold(a.unsqueeze(0))
    merged += 1
    only += 1
    assert a.equal(before[0])
    assert b.equal(before[1])
