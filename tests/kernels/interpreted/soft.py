"""Soft tables and their gradients on a GPU against their reference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mi_metrics import MutualInformationLoss, MutualInformationPenalty
from mi_metrics.functional import binned_mutual_information
from mi_metrics.functional.tables import sums
from mi_metrics.functional.tables.axis import Axis, scaled_axis
from mi_metrics.functional.tables.bspline import soft_counts
from mi_metrics.kernels import gpu, triton_soft
from mi_metrics.kernels.native_soft import Side
from tests.cautions import ignore_cautions
from tests.kernels.test_soft import numbers

pytestmark = [
    ignore_cautions,
    # NumPy says what a GPU does not.
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]
several = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLOATS = [torch.float16, torch.bfloat16, torch.float32]


@pytest.fixture(autouse=True)
def short_programs(monkeypatch):
    """Let a program have few samples: the interpreter takes time."""
    monkeypatch.setattr(triton_soft, "_LEAST", 128)


@st.composite
def pairs(draw, dtypes=FLOATS):
    """Return samples, weights, axes, bins and a kernel."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows = draw(st.integers(1, 3))
    n = draw(st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 128, 129, 700])))
    bins = draw(st.sampled_from([2, 5, 32])), draw(st.sampled_from([3, 16, 40, 70]))
    kernel = draw(st.sampled_from(["linear", "cubic"]))
    sides, axes = [], []
    for b in bins:
        dtype = draw(st.sampled_from(dtypes))
        kind = draw(st.sampled_from(["continuous", "borders", "constant", "tiny"]))
        v = numbers(rows, n, dtype, kind, generator)
        factor = draw(st.sampled_from([1.0, 1.0, 1e-30, 1e30]))
        v = v if dtype.itemsize == 2 else v * factor
        factor = 1.0 if dtype.itemsize == 2 else factor
        own = draw(st.booleans())
        lo = v.amin(1, keepdim=True).double() if own else torch.zeros(1, 1, dtype=torch.float64)
        hi = v.amax(1, keepdim=True).double() if own else lo + 0.9 * factor
        number = torch.full_like(lo, b)
        if own and draw(st.booleans()):
            # Rows with numbers of bins of their own.
            number = torch.randint(1, b + 1, (rows, 1), generator=generator).double()
        axis = scaled_axis(lo, hi, number, b)
        axes.append(axis if draw(st.booleans()) else unscaled(axis))
        sides.append(v)
    return (*sides, draw(masses(rows, n, generator)), tuple(axes), bins, kernel)


@st.composite
def masses(draw, rows, n, generator):
    """Return weights of a dtype, or None."""
    dtype = draw(
        st.sampled_from(
            [None, torch.bool, torch.int32, torch.float16, torch.float32, torch.float64]
        )
    )
    if dtype is None:
        return None
    return (3 * torch.rand(rows, n, generator=generator, dtype=torch.float64) - 1).relu().to(dtype)


def unscaled(axis):
    """Return an axis without a scale, where that is 1."""
    return (
        axis if axis.scale is None or bool((axis.scale != 1).any()) else axis._replace(scale=None)
    )


@several
@given(pairs())
def test_tables_are_those_of_the_reference(card, case):
    x, y, weights, axes, bins, kernel = case
    arguments = x, y, axes, bins, kernel, weights
    table, expected = soft_counts(*arguments), card(soft_counts, *arguments)
    assert table.dtype == torch.float64
    # Each cell, but for products of weights that float32 does not hold.
    mass = x.shape[1] if weights is None else float(weights.double().sum(1).max())
    torch.testing.assert_close(table, expected, rtol=4e-6, atol=1e-35 * mass)
    assert torch.equal(table, soft_counts(*arguments))


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("short", [1e-5, 1e-3, 1e-2])
def test_a_cell_that_is_hardly_reached_is_right_to_its_own_size(card, kernel, short):
    # Just below and just above the middles of cells.
    x = ((5.5 + short * (1 + torch.arange(-7, 8)[:, None] / 4)) / 16).float()
    arguments = x, x, (unit(16), unit(16)), (16, 16), kernel, None
    table, expected = soft_counts(*arguments), card(soft_counts, *arguments)
    torch.testing.assert_close(table, expected, rtol=4e-6, atol=1e-35)


@several
@given(pairs([*FLOATS, torch.float64]), st.integers(0, 2**32))
def test_gradients_are_those_of_the_reference(card, case, seed):
    x, y, weights, axes, bins, kernel = case
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(len(x), *bins, generator=generator, dtype=torch.float64)
    for wanted in ((True, False), (False, True), (True, True)):
        arguments = table, x, y, weights, axes, kernel, wanted
        for found, expected, v, axis in zip(
            sums.gradients(*arguments), card(sums.gradients, *arguments), (x, y), axes, strict=True
        ):
            if expected is None:
                assert found is None
                continue
            assert found.dtype == expected.dtype == v.dtype
            most, rounding = {8: (1e300, 1e-12), 4: (1e35, 1e-6), 2: (1e4, 1e-2)}[v.dtype.itemsize]
            size = float((axis.bins / axis.width).max().clamp_max(most)) * 100
            torch.testing.assert_close(found, expected, rtol=rounding, atol=1e-14 * size)


def unit(bins):
    """Return an axis over 0 … 1."""
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    return scaled_axis(zero, one, bins * one, bins)


@pytest.mark.parametrize("bins", [(2, 2), (17, 256), (256, 200), (64, 65)])
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_any_number_of_bins(card, bins, kernel):
    x, y = torch.rand(2, 1, 130, generator=torch.Generator().manual_seed(0))
    axes = unit(bins[0]), unit(bins[1])
    arguments = x, y, axes, bins, kernel, None
    table, expected = soft_counts(*arguments), card(soft_counts, *arguments)
    torch.testing.assert_close(table, expected, rtol=1e-5, atol=1e-6)
    assert float(table.sum()) == pytest.approx(130, rel=1e-6)


def test_many_equal_samples_keep_their_mass(card, monkeypatch):
    # One program: in float32 alone a sum of so many equal numbers is off by 1e-5 and more.
    monkeypatch.setattr(triton_soft, "_PROGRAMS", 1)
    x = torch.full((1, 12_000), 0.3)
    arguments = x, x, (unit(16), unit(16)), (16, 16), "cubic", None
    table, expected = soft_counts(*arguments), card(soft_counts, *arguments)
    torch.testing.assert_close(table, expected, rtol=3e-6, atol=1e-3)


def test_any_number_of_programs_gives_the_table(card, monkeypatch):
    x, y = torch.rand(2, 2, 2000, generator=torch.Generator().manual_seed(0))
    arguments = x, y, (unit(8), unit(8)), (8, 8), "cubic", None
    expected = card(soft_counts, *arguments)
    for programs, least in ((1, 64), (7, 64), (4096, 512)):
        monkeypatch.setattr(triton_soft, "_PROGRAMS", programs)
        monkeypatch.setattr(triton_soft, "_LEAST", least)
        torch.testing.assert_close(soft_counts(*arguments), expected, rtol=4e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32, torch.float64])
def test_samples_and_weights_lie_in_memory_as_they_like(card, dtype):
    generator = torch.Generator().manual_seed(0)
    x, y, weights = torch.rand(3, 50, 4, generator=generator).unbind()
    weights = (weights * 3).to(dtype)
    axes = unit(8), unit(8)
    for view in (torch.t, lambda v: v.t()[:, ::2], lambda v: v[:1].expand(4, 4)):
        arguments = view(x), view(y), axes, (8, 8), "cubic", view(weights)
        table, expected = soft_counts(*arguments), card(soft_counts, *arguments)
        torch.testing.assert_close(table, expected, rtol=4e-6, atol=1e-5)
        of = table, view(x), view(y), view(weights), axes, "cubic", (True, True)
        for found, wanted in zip(sums.gradients(*of), card(sums.gradients, *of), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_nan_comes_to_its_own_table(card, kernel):
    x, y = torch.rand(2, 3, 500, generator=torch.Generator().manual_seed(0))
    x[1, 77] = torch.nan
    axes = unit(8), unit(8)
    table = soft_counts(x, y, axes, (8, 8), kernel, None)
    assert table.isnan().any((1, 2)).tolist() == [False, True, False]
    whole = torch.ones(3, 8, 8, dtype=torch.float64)
    to_x, to_y = sums.gradients(whole, x, y, None, axes, kernel, (True, True))
    assert to_x.isnan().nonzero().tolist() == [[1, 77]]
    assert to_y.isnan().nonzero().tolist() == [[1, 77]]


def test_infinite_samples_are_at_the_ends(card):
    x = torch.tensor([[torch.inf, -torch.inf, 0.5]])
    arguments = x, x, (unit(4), unit(4)), (4, 4), "cubic", None
    torch.testing.assert_close(soft_counts(*arguments), card(soft_counts, *arguments))


def test_gradients_are_finite_but_in_half_precision(card):
    generator = torch.Generator().manual_seed(0)
    x, table = torch.rand(1, 50, generator=generator), torch.randn(1, 4, 4, generator=generator)
    table = 1e37 * table
    steep = Axis(*(torch.full((1, 1), v, dtype=torch.float64) for v in (0.0, 1e-30, 4.0)))
    for dtype, most in ((torch.float32, 3.4e38), (torch.bfloat16, 3.38e38), (torch.float16, None)):
        v = (x * 1e-30).to(dtype)
        of = table.double(), v, v, None, (steep, steep), "cubic", (True, True)
        for found, wanted in zip(sums.gradients(*of), card(sums.gradients, *of), strict=True):
            torch.testing.assert_close(found, wanted)
            assert bool(found.isfinite().all()) == (most is not None)
            assert most is None or float(found.abs().max()) >= most


def test_what_kernels_do_not_hold_is_left_to_the_reference(card):
    def side(samples, kernel="cubic", cells=4):
        axis = unit(cells)
        return Side(samples, axis.lo, axis.width, axis.bins, axis.scale, kernel, cells)

    x = torch.rand(1, 50)
    assert triton_soft.soft_table(side(x), side(x), None) is not None
    assert triton_soft.soft_table(side(x.double()), side(x), None) is None
    for other in (side(x, "inner"), side(x, "single", 1), side(x, cells=257), side(x[:, :0])):
        assert triton_soft.soft_table(other, side(x), None) is None
        assert triton_soft.soft_gradients(torch.ones(1), side(x), other, None, (1, 1)) is None
    assert triton_soft.soft_table(side(x), side(x), x.to(torch.int16)) is None


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_losses_and_their_gradients_are_those_of_the_reference(card, dtype, masked, kernel):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2, 3, 20, 20, generator=generator).to(dtype)
    mask = torch.rand(x.shape, generator=generator) < 0.8 if masked else None
    loss, found = MutualInformationLoss(16, kernel=kernel), []
    for call in (lambda f: f(), card):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        value = call(lambda a=a, b=b: loss(a, b, mask=mask))
        call(value.backward)
        found.append((value.detach(), a.grad, b.grad))
    rounding = {torch.float64: 1e-12, torch.float32: 2e-5}.get(dtype, 1e-2)
    for twin, expected in zip(*found, strict=True):
        size = float(expected.abs().max())
        torch.testing.assert_close(twin, expected, rtol=rounding, atol=rounding * size)


@pytest.mark.parametrize("value_range", [None, (0.0, 1.0)])
def test_a_loss_of_a_batch_is_that_of_the_reference(card, value_range):
    x, y = torch.rand(2, 300, 2, generator=torch.Generator().manual_seed(0))
    loss = MutualInformationPenalty(8, pool="batch", value_range=value_range, reduction="none")
    torch.testing.assert_close(loss(x, y), card(loss, x, y), rtol=1e-5, atol=1e-6)


def test_second_derivatives_are_those_of_the_reference(card):
    x, y = torch.rand(2, 1, 1, 200, generator=torch.Generator().manual_seed(0))
    loss, found = MutualInformationLoss(8), []
    for call in (lambda f: f(), card):

        def second(a):
            (slope,) = torch.autograd.grad(loss(a, y), a, create_graph=True)
            return torch.autograd.grad(slope.square().sum(), a)[0]

        found.append(call(lambda second=second: second(x.clone().requires_grad_())))
    size = float(found[1].abs().max())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4 * size)


def test_transforms_of_torch_func_are_served(card):
    x, y = torch.rand(2, 3, 1, 1, 200, generator=torch.Generator().manual_seed(0))
    loss = MutualInformationLoss(8, value_range=(0.0, 1.0))
    batch = torch.vmap(torch.func.grad(loss))
    torch.testing.assert_close(batch(x, y), card(batch, x, y), rtol=1e-4, atol=1e-6)


def test_estimates_are_exact(card):
    x, y = torch.rand(2, 2, 500, generator=torch.Generator().manual_seed(0))
    options = {"num_bins": 16, "kernel": "cubic"}
    expected = card(binned_mutual_information, x, y, **options)
    found = binned_mutual_information(x, y, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_a_kernel_that_fails_leaves_the_call_to_the_reference(card, monkeypatch):
    x = torch.rand(1, 50, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(triton_soft, "_table", None)
    arguments = x, x, (unit(4), unit(4)), (4, 4), "cubic", None
    assert torch.equal(soft_counts(*arguments), card(soft_counts, *arguments))
    assert list(gpu.failures()) == ["soft"]
    gpu._failed.clear()
