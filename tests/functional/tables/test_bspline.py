import pytest
import torch

from mi_metrics.functional.tables import sums
from mi_metrics.functional.tables.axis import fixed_axis, interval_axis
from mi_metrics.functional.tables.bspline import kernel_matrix, soft_counts
from mi_metrics.functional.tensors import CHUNKS
from tests import oracles

RANGES = ((-2.0, 3.0), (-1.5, 2.5))
ORDERS = {"linear": 1, "cubic": 3}
KERNELS = list(ORDERS)


def samples(*shape, seed=0, dtype=torch.float64):
    x, y = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return x, 0.6 * x + 0.8 * y


def given(bins, ranges=RANGES):
    return tuple(
        fixed_axis(r, b, torch.float64, torch.device("cpu"))
        for r, b in zip(ranges, bins, strict=True)
    )


def dense(x, y, axes, bins, kernel):
    """The table by autograd's own means: every weight of every bin."""
    return kernel_matrix(x.double(), axes[0], bins[0], kernel).mT @ kernel_matrix(
        y.double(), axes[1], bins[1], kernel
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bins", [(7, 5), (1, 2), (2, 3), (40, 1)])
def test_table_is_scipys_splines(kernel, bins):
    x, y = samples(3, 200)
    weights = torch.rand(3, 200, generator=torch.Generator().manual_seed(1))
    tables = soft_counts(x, y, given(bins), bins, kernel, weights)
    for row in range(3):
        expected = oracles.soft_table(
            x[row].numpy(), y[row].numpy(), RANGES, bins, ORDERS[kernel], weights[row]
        )
        torch.testing.assert_close(tables[row], torch.from_numpy(expected), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernel", ["hard", *KERNELS])
@pytest.mark.parametrize("weighted", [False, True])
def test_scattered_and_multiplied_tables_agree(kernel, weighted, monkeypatch):
    # The second is what other devices than the CPU do.
    x, y = samples(3, 500)
    weights = torch.rand(3, 500) if weighted else None
    scattered = soft_counts(x, y, given((6, 5)), (6, 5), kernel, weights)
    monkeypatch.setattr(sums, "_scatter", sums._multiply)
    multiplied = soft_counts(x, y, given((6, 5)), (6, 5), kernel, weights)
    torch.testing.assert_close(multiplied, scattered, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(1, 100), (5, 7), (70, 3)])
def test_gradient_is_autograds_whatever_the_chunks(kernel, shape, monkeypatch):
    x, y = (v.requires_grad_() for v in samples(*shape))
    bins = (6, 4)
    upstream = torch.rand(shape[0], *bins, dtype=torch.float64)
    expected = torch.autograd.grad(dense(x, y, given(bins), bins, kernel), (x, y), upstream)
    for chunk in (2**16, 64, 1):
        monkeypatch.setitem(CHUNKS, "bins", (chunk, chunk))
        ours = torch.autograd.grad(
            soft_counts(x, y, given(bins), bins, kernel, None), (x, y), upstream
        )
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradcheck_with_empty_cells_samples_outside_and_weights(kernel):
    x, y = samples(2, 9)
    x[0, 0], y[1, 3] = 7.0, -9.0
    x, y = x.requires_grad_(), y.requires_grad_()
    weights = torch.tensor([[0, 1, 2.5, 1, 0, 1, 1, 0.5, 1]]).expand(2, -1)
    assert torch.autograd.gradcheck(
        lambda a, b: soft_counts(a, b, given((8, 6)), (8, 6), kernel, weights), (x, y)
    )


def test_double_backward_is_right():
    x, y = (v.requires_grad_() for v in samples(2, 6))
    assert torch.autograd.gradgradcheck(
        lambda a, b: soft_counts(a, b, given((8, 6)), (8, 6), "cubic", None).square(), (x, y)
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_of_one_input_alone(kernel):
    x, y = samples(2, 50)
    upstream = torch.rand(2, 6, 4, dtype=torch.float64)
    both = torch.autograd.grad(
        soft_counts(x.requires_grad_(), y.requires_grad_(), given((6, 4)), (6, 4), kernel, None),
        (x, y),
        upstream,
    )
    for i in range(2):
        pair = [v.detach().requires_grad_(i == j) for j, v in enumerate((x, y))]
        (alone,) = torch.autograd.grad(
            soft_counts(*pair, given((6, 4)), (6, 4), kernel, None), pair[i], upstream
        )
        assert alone.equal(both[i])


def test_rows_with_fewer_bins_leave_the_rest_of_the_table_empty():
    x, y = samples(2, 100)
    x[1] = 3.0
    lo, hi = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    axis = interval_axis(lo, hi, torch.tensor([[6.0], [6.0]], dtype=torch.float64), 0.0)
    table = soft_counts(x.requires_grad_(), y, (axis, given((4, 4))[1]), (6, 4), "cubic", None)
    assert table[1, 1:].abs().max() == 0
    assert table[1, 0].sum().item() == pytest.approx(100)
    (gradient,) = torch.autograd.grad(table, x, torch.rand_like(table))
    assert gradient[1].abs().max() == 0
    assert gradient[0].abs().max() > 0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("path", ["_scatter", "_multiply"])
def test_nan_reaches_its_own_table_only(kernel, path, monkeypatch):
    monkeypatch.setattr(sums, "_scatter", getattr(sums, path))
    x, y = samples(3, 20)
    expected = soft_counts(x, y, given((6, 4)), (6, 4), kernel, None)
    x[1, 4] = torch.nan
    x.requires_grad_()
    table = soft_counts(x, y, given((6, 4)), (6, 4), kernel, None)
    assert table[1].isnan().any()
    assert table[::2].equal(expected[::2])
    (gradient,) = torch.autograd.grad(table[::2].square().sum(), x)
    assert gradient[::2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_arithmetic_is_float64_whatever_the_input(dtype):
    x, y = (v.to(dtype).requires_grad_() for v in samples(2, 300))
    x64, y64 = (v.detach().double().requires_grad_() for v in (x, y))
    table = soft_counts(x, y, given((6, 4)), (6, 4), "cubic", None)
    reference = soft_counts(x64, y64, given((6, 4)), (6, 4), "cubic", None)
    assert table.equal(reference)
    upstream = torch.rand_like(table)
    for a, b in zip(
        torch.autograd.grad(table, (x, y), upstream),
        torch.autograd.grad(reference, (x64, y64), upstream),
        strict=True,
    ):
        assert a.equal(b.to(dtype))


def test_strides_do_not_matter():
    x, y = samples(3, 40)
    expected = soft_counts(x, y, given((6, 4)), (6, 4), "cubic", None)
    assert soft_counts(x.T.contiguous().T, y[:, :], given((6, 4)), (6, 4), "cubic", None).equal(
        expected
    )
    one = y[:1].expand(3, -1).requires_grad_()
    table = soft_counts(
        x.T.contiguous().T.requires_grad_(), one, given((6, 4)), (6, 4), "cubic", None
    )
    assert torch.autograd.grad(table.square().sum(), one)[0].shape == (3, 40)


@pytest.mark.parametrize("kernel", KERNELS)
def test_mass_and_sign(kernel):
    x, y = samples(1, 5000)
    table = soft_counts(x * 3, y * 3, given((9, 8)), (9, 8), kernel, None)
    assert float(table.sum()) == pytest.approx(5000, abs=1e-9)
    assert table.min() >= 0


@pytest.mark.slow
def test_more_samples_than_float32_can_count():
    n = 2**24 + 2**20
    x = torch.zeros(1, 1).expand(1, n)
    table = soft_counts(x, x, given((2, 2), ((-1, 1), (-1, 1))), (2, 2), "linear", None)
    assert table.sum() == n


def test_memory_is_a_chunk_and_the_gradients():
    n = 1_000_000
    x, y = (v.requires_grad_() for v in samples(1, n, dtype=torch.float32))
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        soft_counts(x, y, given((32, 32)), (32, 32), "cubic", None).square().sum().backward()
    held, peak = 0, 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    gradients = 2 * 4 * n
    assert gradients <= peak < gradients + 10e6
