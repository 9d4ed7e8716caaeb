"""The occupied-cell dyadic grid against exact arithmetic on integers, and its algebra, bit
for bit.
"""

import math
import pickle
import struct
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mi_metrics.states import grid
from mi_metrics.states.lookups import find, lookups_of

SHIFT = 1074  # every float64 is a whole multiple of 2^-1074

KINDS = {
    "gaussian": lambda z: z,
    "gaussian, mean 100": lambda z: 100 + z,
    "lognormal": lambda z: (3 * z).exp(),
    "cauchy": lambda z: z / z.roll(1),
    "integers": lambda z: (5 * z).round(),
    "halves around zero": lambda z: (2 * z).round() / 2,
    "zeros of both signs": lambda z: 0.0 * z,
    "subnormal": lambda z: (7 * z).round() * 5e-324,
    "least normal": lambda z: (7 * z).round() * 2.0**-1022 + z.sign() * 5e-324,
    "huge offset": lambda z: 1e6 + 1e-3 * z,
    "scale 1e-300": lambda z: 1e-300 * z,
    "scale 1e300": lambda z: 1e300 * z,
    "both ends": lambda z: z.sign() * (1.7e308 - 2e307 * z.abs()),
    "constant": lambda z: torch.full_like(z, 0.1),
    "8-bit image": lambda z: (128 + 50 * z).round().clamp(0, 255) / 255,
    "labels": lambda z: (3 * z).round().clamp(-2, 3),
    "zero background": lambda z: torch.where(z < 0, 0.0, 1000 + z),
    "tiny negatives": lambda z: torch.where(z < 0, -1e-300, 1e30 * z),
    "outlier 1e20": lambda z: torch.where(torch.arange(z.numel()) % 17 == 3, 1e20, z),
    "image with a fill value": lambda z: torch.where(
        torch.arange(z.numel()) % 17 == 3, 1e20, (20 * z).round() / 255
    ),
    "mostly 1e20": lambda z: torch.where(torch.arange(z.numel()) % 17 < 12, 1e20, z),
    "outlier -1e300": lambda z: torch.where(torch.arange(z.numel()) % 17 == 3, -1e300, z),
}


@pytest.fixture(params=[0, grid.SMALL], ids=["by lookups", "few by searching"], scope="module")
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small batches are searched for by default; here they also take the way of large ones."""
    before, grid.SMALL = grid.SMALL, request.param
    yield
    grid.SMALL = before


pytestmark = pytest.mark.usefixtures("way")


def encode(x: Tensor, y: Tensor, m: int, valid: Tensor | None = None) -> Tensor:
    """The state of the pairs alone."""
    return grid.update(grid.empty(x.shape[0], m, x.device), x, y, valid)


def draw(kind: str, n: int, seed: int) -> Tensor:
    z = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return KINDS[kind](z)


@st.composite
def variables(draw_from: st.DrawFn, n: int) -> Tensor:
    """Either a named distribution or any float64 numbers."""
    kind = draw_from(st.sampled_from([*KINDS, "any"]))
    if kind == "any":
        numbers = st.floats(allow_nan=False, allow_infinity=False)
        return torch.tensor(
            draw_from(st.lists(numbers, min_size=n, max_size=n)), dtype=torch.float64
        )
    return draw(kind, n, draw_from(st.integers(0, 2**31)))


@st.composite
def pairs(draw_from: st.DrawFn, most: int = 40) -> tuple[Tensor, Tensor]:
    n = draw_from(st.integers(0, most))
    return draw_from(variables(n))[None], draw_from(variables(n))[None]


RESOLUTIONS = st.sampled_from([2, 3, 4, 5, 8, 16, 64])
thorough = settings(deadline=None, derandomize=True, max_examples=60)
brief = settings(deadline=None, derandomize=True, max_examples=25)


def whole(value: float) -> int:
    """Return value * 2^1074, exactly."""
    scaled = Fraction(value) * 2**SHIFT
    assert scaled.denominator == 1
    return scaled.numerator


def number(scaled: int) -> float:
    """Return scaled / 2^1074 as a float64, the border at -2^1024 as -inf."""
    return -math.inf if scaled == -(2 ** (1024 + SHIFT)) else float(Fraction(scaled, 2**SHIFT))


def oracle(x: list[float], y: list[float], m: int) -> tuple[list[int], list[list[float]], Counter]:
    """Levels, borders and joint counts by trying every level upwards in whole numbers."""
    levels, borders, cells = [], [], []
    for values in (x, y):
        numbers = [whole(v) for v in values]
        distinct = set(numbers)
        level = next(
            e for e in range(-SHIFT, 1025) if len({v >> (e + SHIFT) for v in distinct}) <= m
        )
        cells.append([number((v >> (level + SHIFT)) << (level + SHIFT)) for v in numbers])
        levels.append(level)
        borders.append(sorted(set(cells[-1])))
    return levels, borders, Counter(zip(*cells, strict=True))


def decode(row: Tensor, m: int) -> tuple[list[int], list[list[float]], Counter]:
    """The same, read from a packed state (L,) by its definition."""

    def border(key: int) -> float:
        return math.copysign(struct.unpack("<d", struct.pack("<q", abs(key)))[0], key)

    packed = row.tolist()
    borders = [[border(k) for k in packed[2 + a * m : 2 + (a + 1) * m]] for a in range(2)]
    joint = Counter()
    for i in range(m):
        for j in range(m):
            if count := packed[2 + 2 * m + i * m + j]:
                joint[borders[0][i], borders[1][j]] = count
    return packed[:2], [[b for b in axis if b != math.inf] for axis in borders], joint


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype == torch.int64 and torch.equal(a, b)


# The definition


@given(pairs(), RESOLUTIONS)
@thorough
def test_state_is_what_exact_arithmetic_gives(
    device: torch.device, pair: tuple[Tensor, Tensor], m: int
) -> None:
    x, y = (v.to(device) for v in pair)
    state = encode(x, y, m)
    assert state.shape == (1, 2 + 2 * m + m * m)
    assert decode(state[0], m) == oracle(x[0].tolist(), y[0].tolist(), m)


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_what_exact_arithmetic_gives_at_full_resolution(
    device: torch.device, kind: str
) -> None:
    x, y = draw(kind, 300, 0).to(device), draw(kind, 300, 1).to(device)
    for m in (7, 256):
        assert decode(encode(x[None], y[None], m)[0], m) == oracle(x.tolist(), y.tolist(), m)


def test_levels_reach_from_end_to_end() -> None:
    ends = torch.tensor([[-1.7e308, -1e308 / 3, 1e308 / 3, 1.7e308]], dtype=torch.float64)
    for m, level in ((2, 1024), (3, 1024), (4, -1074)):
        seen = grid.view(encode(ends, ends, m)).x
        assert seen.level.item() == level
        assert all(t.isfinite().all() for t in (seen.lower, seen.centre, seen.upper))
    five = torch.cat([ends, torch.tensor([[1.6e308]], dtype=torch.float64)], 1)
    seen = grid.view(encode(five, five, 4)).x
    # the lowest border is -2^1024 or a number near it; the centre is inside
    assert seen.level.item() > 960
    assert (seen.centre > seen.lower).any()
    assert ((seen.centre >= seen.lower) & (seen.centre <= seen.upper)).all()


def test_zeros_are_one_and_negatives_stay_below() -> None:
    tiny = 5e-324
    x = torch.tensor([[0.0, -0.0, -tiny, tiny, -1e-300, 1e300, -1e300]], dtype=torch.float64)
    for m, zeros in ((16, 2), (2, 4)):
        seen = grid.view(encode(x, x, m)).x
        at = seen.centre[0].abs().argmin() if m == 16 else 1
        assert seen.counts[0, at] == zeros
        assert seen.counts[0][seen.lower[0] < 0].sum() == 3


# The algebra


@given(pairs(), RESOLUTIONS, st.randoms(use_true_random=False))
@thorough
def test_orders_splits_and_merge_trees_do_not_matter(device, pair, m, random) -> None:
    x, y = (v.to(device) for v in pair)
    n = x.shape[1]
    expected = encode(x, y, m)
    order = torch.tensor(random.sample(range(n), n), dtype=torch.int64, device=device)
    cuts = sorted(random.randint(0, n) for _ in range(random.randint(0, 5)))
    parts = order.tensor_split(cuts)

    running = grid.empty(1, m, device)
    for part in parts:
        running = grid.update(running, x[:, part], y[:, part])
    assert same(running, expected)

    states = [encode(x[:, part], y[:, part], m) for part in parts]
    states.insert(random.randint(0, len(states)), grid.empty(1, m, device))
    assert same(grid.fold(torch.stack(states)), expected)
    while len(states) > 1:
        a = states.pop(random.randrange(len(states)))
        b = states.pop(random.randrange(len(states)))
        assert same(grid.merge(a, b), grid.merge(b, a))
        states.append(grid.merge(a, b))
    assert same(states[0], expected)


@given(pairs(), RESOLUTIONS)
@brief
def test_empty_is_neutral_and_fold_idempotent(pair: tuple[Tensor, Tensor], m: int) -> None:
    state, none = encode(*pair, m), grid.empty(1, m)
    assert same(grid.merge(state, none), state)
    assert same(grid.merge(none, state), state)
    assert same(grid.fold(state[None]), state)
    assert same(grid.fold(torch.stack([none, none, state, none])), state)
    assert same(grid.update(state, *(v[:, :0] for v in pair)), state)


@given(pairs(), pairs(), RESOLUTIONS)
@brief
def test_total_is_the_number_of_samples(device, first, second, m) -> None:
    first, second = ([v.to(device) for v in pair] for pair in (first, second))
    joint = grid.view(grid.update(encode(*first, m), *second)).joint
    assert joint.sum() == first[0].numel() + second[0].numel()
    assert (joint >= 0).all()


def test_counts_pass_two_to_the_31() -> None:
    state = encode(torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[0.0, 1.0, 1.0]]), 2)
    for _ in range(40):
        state = grid.merge(state, state)
    state = grid.update(state, torch.tensor([[1.0]]), torch.tensor([[0.0]]))
    assert grid.view(state).joint.tolist() == [[[2**40, 0], [1, 2**41]]]


# Update, which takes another way


@pytest.mark.parametrize("m", [16, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_update_equals_merging_small_parts(device: torch.device, kind: str, m: int) -> None:
    # states of a few samples are sorted; the second update finds nearly all in its tables
    x, y = draw(kind, 3000, 2)[None].to(device), draw(kind, 3000, 3)[None].to(device)
    seen = grid.update(encode(x[:, :1500], y[:, :1500], m), x[:, 1500:], y[:, 1500:])
    parts = [encode(a, b, m) for a, b in zip(x.split(500, 1), y.split(500, 1), strict=True)]
    assert same(seen, grid.fold(torch.stack(parts)))


@given(pairs(), pairs(), RESOLUTIONS)
@thorough
def test_update_equals_merge_of_encode(device, first, second, m) -> None:
    first, second = ([v.to(device) for v in pair] for pair in (first, second))
    state = encode(*first, m)
    expected = grid.merge(state, encode(*second, m))
    assert same(grid.update(state, *second), expected)
    # once more, into a state that knows every cell
    assert same(grid.update(expected, *second), grid.merge(expected, encode(*second, m)))


@pytest.mark.parametrize("ordered", [True, False])
def test_many_chunks_of_data_that_drift(
    device: torch.device, ordered: bool, rng: torch.Generator
) -> None:
    # new cells in every chunk, which push the level up on the way
    C, n = 8, 40_000
    x = torch.linspace(-3, 3, n) ** 3 * torch.arange(1, C + 1)[:, None]
    y = torch.linspace(5, 0, n).exp().expand(C, n)
    if not ordered:
        x, y = x * torch.randn(C, n, generator=rng), y * torch.randn(C, n, generator=rng)
    x, y = x.to(device), y.to(device)
    state = grid.update(encode(x[:, :99], y[:, :99], 64), x[:, 99:], y[:, 99:])
    order = torch.randperm(n, generator=rng).to(device)
    assert same(state, encode(x[:, order], y[:, order], 64))
    assert (grid.view(state).joint.sum((1, 2)) == n).all()


@pytest.mark.parametrize(
    "kind",
    [
        "gaussian",
        "8-bit image",
        "labels",
        "outlier 1e20",
        "lognormal",
        "cauchy",
        "zero background",
        "mostly 1e20",
        "image with a fill value",
    ],
)
def test_lookups_find_nearly_all_similar_data(kind: str) -> None:
    x, y = draw(kind, 40_000, 4)[None], draw(kind, 40_000, 5)[None]
    sides = lookups_of(encode(x, y, 256))
    for values, side in zip((x, y), sides, strict=True):
        code, right = find(side, values, 256 * 256)
        found = code < 256 * 256 if right is None else (code < 256 * 256) & right
        assert found.double().mean() >= 0.999


# Inputs


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]
)
@pytest.mark.parametrize(
    "kind", ["gaussian", "gaussian, mean 100", "8-bit image", "labels", "outlier 1e20"]
)
def test_dtype_of_the_batch_does_not_matter(
    device: torch.device, kind: str, dtype: torch.dtype
) -> None:
    x, y = draw(kind, 500, 6), draw(kind, 500, 7)
    if not dtype.is_floating_point:
        x, y = x.clamp(0, 255), y.clamp(0, 255)
    elif dtype is torch.float16:
        x, y = x.clamp(-6e4, 6e4), y.clamp(-6e4, 6e4)
    x, y = x[None].to(device, dtype), y[None].to(device, dtype)
    for m in (2, 20, 256):
        state = encode(x, y, m)
        assert same(state, encode(x.double(), y.double(), m))
        assert same(grid.update(state, x, y), grid.update(state, x.double(), y))


@given(pairs(), st.randoms(use_true_random=False), st.sampled_from([2, 8, 64]))
@brief
def test_invalid_samples_are_dropped(pair, random, m) -> None:
    x, y = pair
    valid = torch.tensor([[random.random() < 0.7 for _ in range(x.shape[1])]], dtype=torch.bool)
    junk = torch.tensor(
        [random.choice([math.nan, math.inf, -math.inf, 3.0]) for _ in range(x.shape[1])]
    )
    state = encode(x, y, m)
    for bad_x, bad_y in ((torch.where(valid, x, junk), y), (x, torch.where(valid, y, junk))):
        expected = encode(x[valid][None], y[valid][None], m)
        assert same(encode(bad_x, bad_y, m, valid), expected)
        assert same(grid.update(state, bad_x, bad_y, valid), grid.merge(state, expected))


@pytest.mark.parametrize("m", [2, 16, 256])
def test_outputs_do_not_touch_each_other(device: torch.device, m: int) -> None:
    x = torch.stack([draw(kind, 700, i) for i, kind in enumerate(KINDS)])
    y = torch.stack([draw(kind, 700, 50 + i) for i, kind in enumerate(reversed(KINDS))])
    valid = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.8
    valid[5] = False
    x, y, valid = x.to(device), y.to(device), valid.to(device)
    state = grid.update(encode(x, y, m), 1.1 * x.clamp(-1e300, 1e300), y, valid)
    for c in range(len(x)):
        one = slice(c, c + 1)
        alone = grid.update(
            encode(x[one], y[one], m), 1.1 * x[one].clamp(-1e300, 1e300), y[one], valid[one]
        )
        assert same(state[one], alone)


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor keeps subnormals")
@pytest.mark.parametrize("kind", ["subnormal", "least normal", "tiny negatives"])
def test_update_equals_merge_where_subnormals_are_flushed(kind: str) -> None:
    x, y = draw(kind, 300, 14)[None], draw(kind, 300, 15)[None]
    torch.set_flush_denormal(True)
    try:
        for m in (2, 8, 64):
            state = encode(x, y, m)
            assert same(grid.update(state, x, y), grid.merge(state, state))
    finally:
        torch.set_flush_denormal(False)


def test_default_dtype_inference_mode_and_arguments_left_alone() -> None:
    x, y = draw("gaussian", 300, 8)[None], draw("8-bit image", 300, 9)[None]
    expected = grid.update(encode(x, y, 32), x + 1, y)
    before = x.clone(), y.clone()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.inference_mode():
            state = encode(x, y, 32)
        copy = state.clone()
        assert same(grid.update(state, x + 1, y), expected)
        assert grid.view(state).x.centre.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(state, copy)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize(
    ("resolution", "error"), [(1, ValueError), (0, ValueError), (2.5, TypeError)]
)
def test_resolution_is_refused_with_a_sentence(resolution: float, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"`resolution` to be .* but got"):
        grid.empty(1, resolution)


def test_fold_pickles() -> None:
    assert pickle.loads(pickle.dumps(grid.fold)) is grid.fold


# The views


@given(pairs(), RESOLUTIONS)
@brief
def test_cells_hold_their_samples(pair: tuple[Tensor, Tensor], m: int) -> None:
    x, y = pair
    seen = grid.view(encode(x, y, m))
    for axis, values, dim in ((seen.x, x[0], 2), (seen.y, y[0], 1)):
        k = int(axis.size)
        lower, centre, upper, counts = (
            t[0] for t in (axis.lower, axis.centre, axis.upper, axis.counts)
        )
        assert torch.equal(counts, seen.joint.sum(dim)[0])
        assert (counts[:k] > 0).all()
        assert (counts[k:] == 0).all()
        assert (lower.diff()[: max(k - 1, 0)] > 0).all()
        for i in range(k):
            point = lower[i] == upper[i]
            inside = (values >= lower[i]) & (values <= upper[i] if point else values < upper[i])
            # the largest float64 stands for the border at 2^1024
            assert inside.sum() == counts[i] or upper[i] == torch.finfo(torch.float64).max
            assert point or lower[i] <= centre[i] < upper[i]
        for t in (lower, centre, upper):  # further slots repeat the last cell
            assert t.isfinite().all()
            assert (t[k:] == (t[k - 1] if k else 0.0)).all()


@given(pairs(), st.sampled_from([40, 64]))
@brief
def test_few_distinct_values_are_lossless(pair: tuple[Tensor, Tensor], m: int) -> None:
    seen = grid.view(encode(*pair, m))
    for axis, values in zip((seen.x, seen.y), pair, strict=True):
        distinct, counts = (values[0] + 0.0).unique(return_counts=True)
        assert axis.lossless
        assert torch.equal(axis.centre[0, : axis.size], distinct)
        assert torch.equal(axis.counts[0, : axis.size], counts)
        assert torch.equal(axis.lower, axis.upper)


def test_one_value_too_many_is_not_lossless() -> None:
    x = torch.arange(257.0)[None]
    seen = grid.view(encode(x, x.flip(1) / 2, 256))
    assert not seen.x.lossless
    assert seen.x.level.item() == 1
    assert seen.x.centre[0, :3].tolist() == [1.0, 3.0, 5.0]
    assert seen.x.counts[0, :129].tolist() == [2] * 128 + [1]
    assert seen.y.level.item() == 0


@pytest.mark.parametrize("outlier", [1e20, -1e20, 1e300, -1e300])
def test_an_outlier_costs_one_cell(outlier: float) -> None:
    x = draw("gaussian", 5000, 10)[None]
    plain, spoilt = (
        grid.view(encode(v, v, 256)).x
        for v in (x, torch.nn.functional.pad(x, (0, 1), value=outlier))
    )
    assert spoilt.level == plain.level
    assert spoilt.size == plain.size + 1
    bulk = slice(1, None) if outlier < 0 else slice(0, None)
    assert torch.equal(spoilt.counts[0, bulk][: plain.size], plain.counts[0, : plain.size])


def test_regroup_keeps_the_axes_apart() -> None:
    x, y = torch.tensor([[0.0, 1.0, 2.0, 2.0]]), torch.tensor([[5.0, 5.0, 5.0, 7.0]])
    seen = grid.view(encode(x, y, 8))
    rows, columns = (seen.x.centre >= 1).long(), (seen.y.centre - 5).clamp(min=0).long()
    assert grid.regroup(seen.joint, rows, columns, (2, 3)).tolist() == [[[1, 0, 0], [2, 0, 1]]]
