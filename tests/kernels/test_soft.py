"""Compiled sums of soft tables against their reference, to rounding."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mi_metrics import MutualInformationLoss
from mi_metrics.functional.tables import sums
from mi_metrics.functional.tables.axis import scaled_axis
from mi_metrics.functional.tables.bspline import soft_counts

several = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbers(rows, n, dtype, kind, generator):
    """Return samples in about 0 … 1: continuous, on the borders of cells, equal or tiny."""
    values = torch.rand(rows, n, generator=generator, dtype=torch.float64)
    if kind == "borders":
        values = (values * 44 - 2).round() / 40
    elif kind == "constant":
        values = torch.full_like(values, 0.3)
    elif kind == "tiny":
        values = (values - 0.5) * 2.0**-140
    return values.to(dtype)


@st.composite
def pairs(draw):
    """Return samples, weights, axes, bins and a kernel."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows = draw(st.integers(1, 3))
    n = draw(st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 3000, 30_000])))
    bins = draw(st.sampled_from([1, 2, 5, 32])), draw(st.sampled_from([1, 3, 4, 40]))
    kernel = draw(st.sampled_from(["linear", "cubic"]))
    sides, axes = [], []
    for b in bins:
        dtype = draw(st.sampled_from([torch.float32, torch.float64]))
        kind = draw(st.sampled_from(["continuous", "borders", "constant", "tiny"]))
        v = numbers(rows, n, dtype, kind, generator)
        factor = draw(st.sampled_from([1.0, 1.0, 1e-30, 1e30]))
        own = draw(st.booleans())
        v = v * factor
        lo = v.amin(1, keepdim=True).double() if own else torch.zeros(1, 1, dtype=torch.float64)
        hi = v.amax(1, keepdim=True).double() if own else lo + 0.9 * factor
        axes.append(scaled_axis(lo, hi, torch.full_like(lo, b), b))
        sides.append(v)
    kind, weights = draw(st.sampled_from([None, "float", "double", "bool", "int"])), None
    if kind is not None:
        weights = torch.rand(rows, n, generator=generator, dtype=torch.float64)
        weights = weights.float() if kind == "float" else weights
        weights = weights > 0.4 if kind == "bool" else weights
        weights = (weights * 3).to(torch.int32) if kind == "int" else weights
    return (*sides, weights, tuple(axes), bins, kernel)


def close(found, expected, scale):
    """Compare sums, whose rounding is relative to what was summed."""
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14 * float(scale))


@several
@given(pairs())
def test_tables_are_those_of_the_reference(reference, case):
    x, y, weights, axes, bins, kernel = case
    arguments = x, y, axes, bins, kernel, weights
    table = soft_counts(*arguments)
    mass = x.shape[1] if weights is None else float(weights.double().sum(1).max())
    close(table, reference(soft_counts, *arguments), mass)
    assert torch.equal(table, soft_counts(*arguments))


@several
@given(pairs(), st.integers(0, 2**32))
def test_values_and_gradients_are_those_of_the_reference(reference, case, seed):
    x, y, weights, axes, bins, kernel = case
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(len(x), *bins, generator=generator, dtype=torch.float64)
    close(
        sums.values(table, x, y, axes, kernel),
        reference(sums.values, table, x, y, axes, kernel),
        10,
    )
    for wanted in ((True, False), (False, True), (True, True)):
        arguments = table, x, y, weights, axes, kernel, wanted
        for found, expected, v, axis in zip(
            sums.gradients(*arguments),
            reference(sums.gradients, *arguments),
            (x, y),
            axes,
            strict=True,
        ):
            if expected is None:
                assert found is None
                continue
            assert found.dtype == expected.dtype == v.dtype
            # A gradient has the size of the table's entries times cells per unit.
            most, rounding = (1e35, 1e-6) if v.dtype == torch.float32 else (1e300, 1e-12)
            size = float((axis.bins / axis.width).max().clamp_max(most)) * 100
            torch.testing.assert_close(found, expected, rtol=rounding, atol=1e-14 * size)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32, torch.float64])
def test_samples_and_weights_lie_in_memory_as_they_like(reference, dtype):
    generator = torch.Generator().manual_seed(0)
    x, y, weights = torch.rand(3, 50, 4, generator=generator).unbind()
    weights = (weights * 3).to(dtype)
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    axis = scaled_axis(zero, one, 8 * one, 8)
    for view in (torch.t, lambda v: v.t()[:, ::2], lambda v: v[:1].expand(4, 4)):
        arguments = view(x), view(y), (axis, axis), (8, 8), "cubic", view(weights)
        table = soft_counts(*arguments)
        close(table, reference(soft_counts, *arguments), 200)
        sums_of = table, view(x), view(y), view(weights), (axis, axis), "cubic", (True, True)
        for found, expected in zip(
            sums.gradients(*sums_of), reference(sums.gradients, *sums_of), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_nan_comes_to_its_own_table(reference, kernel):
    x, y = torch.rand(2, 3, 500, generator=torch.Generator().manual_seed(0))
    x[1, 77] = torch.nan
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    axis = scaled_axis(zero, one, 8 * one, 8)
    table = soft_counts(x, y, (axis, axis), (8, 8), kernel, None)
    assert table.isnan().any((1, 2)).tolist() == [False, True, False]
    expected = reference(soft_counts, x, y, (axis, axis), (8, 8), kernel, None)
    torch.testing.assert_close(table, expected, equal_nan=True)


def test_any_number_of_threads_gives_the_same_bits(reference):
    x, y = torch.rand(2, 2, 200_000, generator=torch.Generator().manual_seed(0))
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    axis = scaled_axis(zero, one, 16 * one, 16)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            table = soft_counts(x, y, (axis, axis), (16, 16), "cubic", None)
            found.append((table, *sums.gradients(table, x, y, None, (axis, axis), "cubic", (1, 1))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_losses_and_their_gradients_are_those_of_the_reference(reference, dtype, masked):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2, 3, 20, 20, generator=generator).to(dtype)
    mask = torch.rand(x.shape, generator=generator) < 0.8 if masked else None
    loss, found = MutualInformationLoss(16), []
    for call in (lambda f: f(), reference):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        value = call(lambda a=a, b=b: loss(a, b, mask=mask))
        call(value.backward)
        found.append((value.detach(), a.grad, b.grad))
    rounding = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 1e-2)
    for twin, expected in zip(*found, strict=True):
        torch.testing.assert_close(twin, expected, rtol=rounding, atol=1e-9)
