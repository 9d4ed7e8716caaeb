"""Accumulators keep their precision, every real input is read as it is, and grad modes leave no
trace.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from tests.cautions import ignore_cautions
from tests.contract.cases import Batch, Case, batches_of

pytestmark = ignore_cautions

CASTS: dict[str, Callable[[nn.Module], object]] = {
    "half()": lambda m: m.half(),
    "double()": lambda m: m.double(),
    "bfloat16()": lambda m: m.bfloat16(),
    "to(bfloat16)": lambda m: m.to(torch.bfloat16),
    "to(float16)": lambda m: m.to(torch.float16),
    "type(float16)": lambda m: m.type(torch.float16),
    "set_dtype(float16)": lambda m: m.set_dtype(torch.float16),
    "half() of its module": lambda m: nn.ModuleList([m, nn.Linear(1, 1)]).half(),
    "to(bfloat16) of its module": lambda m: nn.ModuleList([m, nn.Linear(1, 1)]).to(torch.bfloat16),
    "type(float16) of its module": lambda m: nn.ModuleList([m, nn.Linear(1, 1)]).type(
        torch.float16
    ),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_accumulators_keep_their_dtype_and_their_bits_under_a_cast(
    case: Case, cast: Callable[[nn.Module], object]
):
    first, second = batches_of(case.samples(), (250,))
    metric, untouched = case.fed([first]), case.fed([first])
    metric.compute()
    cast(metric)
    assert metric.compute().dtype == torch.float64
    case.assert_same_state(metric, untouched)
    metric.update(*second)
    case.assert_same(metric.compute(), case.value(case.samples()))
    assert metric.compute().dtype == torch.float64
    metric.reset()
    case.assert_same_state(metric, case.build())
    case.assert_same(metric(*first), case.value(first))


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_default_dtype_changes_nothing(case: Case, dtype: torch.dtype):
    """Lightning sets it to the precision of a true-half run while it calls the model."""
    first, second = batches_of(case.samples(), (250,))
    metric = case.fed([first])
    with default_dtype(dtype):
        built_inside = case.fed([first])
        for m in (metric, built_inside):
            case.assert_same(m(*second), case.value(second))
        merged = case.fed([first])
        merged.merge_state(case.fed([second]))
        value = metric.compute()
        assert value.dtype == torch.float64
    for m in (metric, built_inside, merged):
        case.assert_same(m.compute(), case.value(case.samples()))
        case.assert_same_state(m, case.fed([case.samples()]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_read_as_float32(case: Case, dtype: torch.dtype):
    x, y = (v.to(dtype) for v in case.samples())
    value = case.value((x, y))
    case.assert_same(value, case.value((x.float(), y.float())))
    if case.functional is not None and not case.on_lattice:
        tolerance = case.functional_tolerance
        torch.testing.assert_close(
            value, case.call_functional((x.float(), y.float())), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
)
def test_integers_are_read_as_numbers(case: Case, dtype: torch.dtype):
    x, y = case.samples()
    x, y = (
        ((x > 0).to(dtype), (y > 25).to(dtype))
        if dtype == torch.bool
        else (x.abs().to(dtype), y.abs().to(dtype))
    )
    value = case.value((x, y))
    case.assert_same(value, case.value((x.double(), y.double())))
    # Only an exact metric knows what few and equal values a wide cell holds.
    if case.functional is not None and case.functional_tolerance < 1e-6:
        tolerance = case.functional_tolerance
        torch.testing.assert_close(
            value, case.call_functional((x, y)), rtol=tolerance, atol=tolerance
        )


def test_x_and_y_may_have_different_dtypes(case: Case):
    x, y = case.lattice()
    value = case.value((x, y.to(torch.int32)))
    if case.functional is not None:
        tolerance = case.functional_tolerance
        expected = case.call_functional((x, y.to(torch.int32)))
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
    case.assert_same(case.value((x.double(), y)), case.value((x.double(), y.double())))


def test_memory_layout_of_the_input_changes_nothing(case: Case):
    def strided(v: torch.Tensor) -> torch.Tensor:
        return torch.stack([v, torch.full_like(v, 7.0)], -1)[..., 0]

    def reversed_dimensions(v: torch.Tensor) -> torch.Tensor:
        return v.permute(*range(v.ndim)[::-1]).contiguous().permute(*range(v.ndim)[::-1])

    x, y = case.samples()
    expected = case.value((x, y))
    assert not strided(x).is_contiguous()
    for batch in (
        (strided(x), y),
        (x, strided(y)),
        (reversed_dimensions(x), y),
        (strided(x), reversed_dimensions(y)),
    ):
        case.assert_same(case.value(batch), expected)


def images(case: Case) -> Batch:
    x, y = case.samples(420)
    return tuple(
        v.movedim(1, 0).reshape(case.num_outputs, -1, 5, 6).movedim(0, 1).contiguous()
        for v in (x, y)
    )


def test_images_are_paired_by_position_whatever_their_memory_format(case: Case):
    if case.vectors:
        pytest.skip("takes vectors")
    x, y = (
        (v.reshape(-1, 2, 5, 6) for v in case.samples(420))
        if case.num_outputs == 1
        else images(case)
    )
    expected = case.value((x, y))
    for formats in (
        (torch.channels_last, torch.contiguous_format),
        (torch.contiguous_format, torch.channels_last),
    ):
        a, b = (v.contiguous(memory_format=f) for v, f in zip((x, y), formats, strict=True))
        case.assert_same(case.value((a, b)), expected)


def test_a_batch_may_have_any_number_of_dimensions(case: Case):
    if case.vectors:
        pytest.skip("takes vectors")
    x, y = case.samples()
    shape = (-1, *x.shape[1:], 1, 1) if case.num_outputs > 1 else (2, 5, 1, -1)
    case.assert_same(case.value((x.reshape(shape), y.reshape(shape))), case.value((x, y)))


def test_input_with_a_graph_leaves_none_in_the_state(case: Case):
    x, y = case.samples()
    x, y = x.clone().requires_grad_() * 1, y.clone().requires_grad_() * 1
    metric = case.build()
    value = metric(x, y)
    metric.update(x, y)
    assert not value.requires_grad
    assert not metric.compute().requires_grad
    for state in metric.metric_state.values():
        for tensor in state if isinstance(state, list) else [state]:
            assert not tensor.requires_grad
            assert tensor.grad_fn is None
    twice = case.fed([case.samples()] * 2)
    for m in (metric, metric.clone(), pickle.loads(pickle.dumps(metric))):
        case.assert_same(m.compute(), twice.compute())


GRAD_MODES = {
    "inference mode, then not": (torch.inference_mode, contextlib.nullcontext),
    "no grad, then inference mode": (torch.no_grad, torch.inference_mode),
    "not, then inference mode": (contextlib.nullcontext, torch.inference_mode),
    "grad, then no grad": (torch.enable_grad, torch.no_grad),
}


@pytest.mark.parametrize("modes", GRAD_MODES.values(), ids=GRAD_MODES)
def test_grad_modes_can_follow_each_other(case: Case, modes: tuple[Callable, Callable]):
    first, second = modes
    batches = batches_of(case.samples(), (100, 150, 50))
    metric = case.fed([case.samples(seed=1)])
    with first():
        metric.reset()
        metric.update(*batches[0])
        metric.compute()
        metric(*batches[1])
    with second():
        metric.update(*batches[2])
        case.assert_same(metric(*batches[3]), case.value(batches[3]))
        case.assert_same(metric.compute(), case.value(case.samples()))
    copies = [metric, metric.clone(), pickle.loads(pickle.dumps(metric)), metric.to(case.device)]
    merged = case.build()
    merged.merge_state(metric)
    metric.persistent(True)
    loaded = case.build()
    loaded.load_state_dict(metric.state_dict())
    for m in (*copies, merged, loaded):
        m.update(*case.samples(seed=2))
        m.reset()
        m.update(*case.samples())
        case.assert_same(m.compute(), case.value(case.samples()))


def test_deterministic_algorithms_are_all_it_needs(case: Case):
    expected = case.value(case.samples())
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        metric = case.build()
        for part in batches_of(case.samples(), (100, 150)):
            metric(*part)
        value = metric.compute()
    finally:
        torch.use_deterministic_algorithms(before)
    case.assert_same(value, expected)


def test_global_random_state_is_left_alone(case: Case):
    batch = case.samples()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    metric = case.fed([batch])
    metric(*batch)
    metric.compute()
    assert torch.equal(torch.rand(1), expected)


def test_input_is_left_as_it_is(case: Case):
    batch: Batch = case.samples()
    copies = [v.clone() for v in batch]
    case.build(nan_strategy="ignore")(*batch)
    case.build()(*batch)
    assert all(torch.equal(v, copy) for v, copy in zip(batch, copies, strict=True))
