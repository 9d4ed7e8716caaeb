"""What a GPU must not change, and what must not wait for it. All but the first tests need one."""

import multiprocessing
import pickle
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric

from mi_metrics import (
    BinnedMutualInformation,
    KDEMutualInformation,
    KDEMutualInformationLoss,
    KNNMutualInformation,
    MutualInformationLoss,
)
from mi_metrics.functional import (
    binned_joint,
    binned_mutual_information,
    kde_mutual_information,
    knn_mutual_information,
)
from mi_metrics.kernels import gpu
from tests.cautions import ignore_cautions
from tests.contract.cases import CASES, Case, batches_of
from tests.kernels import on_cards
from tests.waiting import no_waiting

pytestmark = ignore_cautions
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"
)

TIMEOUT = 30
RANGE: dict[str, Any] = {"value_range": ((-3.0, 3.0), (-10.0, 60.0)), "nan_strategy": "ignore"}
# Metrics whose update asks the device for nothing: where it has to know a value, it asks the host's
# arguments.
WAIT_FREE = {
    "hard": (BinnedMutualInformation, {"num_bins": (5, 8)}),
    "hard, many bins": (BinnedMutualInformation, {"num_bins": 5000}),
    "linear": (BinnedMutualInformation, {"num_bins": (5, 8), "kernel": "linear"}),
    "cubic": (BinnedMutualInformation, {"num_bins": (5, 8), "kernel": "cubic"}),
    "hard, 3 outputs": (BinnedMutualInformation, {"num_bins": 8, "num_outputs": 3}),
    "cubic, 3 outputs": (
        BinnedMutualInformation,
        {"num_bins": 8, "num_outputs": 3, "kernel": "cubic"},
    ),
    "densities": (KDEMutualInformation, {"grid_size": 64}),
}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def refuse_to_wait() -> Iterator[Callable[[], None]]:
    """Give a function after whose call waiting for the device is an error, until the test ends."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def samples(device: str, num_outputs: int) -> tuple[Tensor, Tensor]:
    shape = (1000,) if num_outputs == 1 else (1000, num_outputs, 2)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = 20 + 8 * x + 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x[7], y[9] = torch.nan, torch.inf
    return x.to(device), y.to(device)


# Without a card: what would wait for it is refused, and the code takes its way of other devices.


@pytest.fixture
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package take the CPU for another device."""
    for name, module in list(sys.modules.items()):
        if name.startswith("mi_metrics.") and hasattr(module, "on_cpu"):
            monkeypatch.setattr(module, "on_cpu", lambda where: False)


@pytest.mark.parametrize("name", WAIT_FREE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int32])
def test_an_update_over_a_known_range_asks_for_no_value(
    name: str, dtype: torch.dtype, request: pytest.FixtureRequest
):
    cls, options = WAIT_FREE[name]
    ours, theirs = (cls(**options, **RANGE) for _ in range(2))
    x, y = samples("cpu", ours.num_outputs)
    if not dtype.is_floating_point:
        x, y = (v.nan_to_num(0, 0, 0) for v in (x, y))
    x, y = x.to(dtype), y.to(dtype)
    for _ in range(2):
        theirs.update(x, y)
    request.getfixturevalue("as_on_a_card")
    with no_waiting():
        for _ in range(2):
            ours.update(x, y)
    assert torch.equal(ours.counters, theirs.counters)
    tolerance = 1e-12 if ours.table.is_floating_point() else 0
    torch.testing.assert_close(ours.table, theirs.table, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("cls", "options", "asked"),
    [
        (BinnedMutualInformation, {}, "_local_scalar_dense"),
        (BinnedMutualInformation, {"value_range": (-9.0, 99.0)}, "method 'cpu'"),
        (KDEMutualInformation, {"grid_size": 64}, "_local_scalar_dense"),
        (KNNMutualInformation, {}, "_local_scalar_dense"),
    ],
)
def test_what_other_updates_ask_for_is_seen(
    cls: type[Metric], options: dict[str, Any], asked: str, as_on_a_card: None
):
    metric, x = cls(**options), torch.arange(50.0)
    with no_waiting(), pytest.raises(AssertionError, match=asked):
        metric.update(x, x)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x[x > 1],
        lambda x: x.index_put((x > 1,), x.new_zeros(())),
        lambda x: float(x[0]),
        lambda x: bool(x.sum()),
        lambda x: x.tolist(),
        lambda x: torch.tensor([1.0]) + x,
        lambda x: x.unique(),
        lambda x: x.long().bincount(),
    ],
)
def test_what_would_wait_is_refused(call: Callable[[Tensor], Any]):
    x = torch.arange(3.0)
    call(x)
    with no_waiting(), pytest.raises(AssertionError):
        call(x)


@pytest.mark.parametrize("loss", [MutualInformationLoss(8), KDEMutualInformationLoss(grid_size=16)])
def test_a_loss_asks_for_no_value(loss: torch.nn.Module):
    x, y = (torch.empty(2, 1, 50, device="meta", requires_grad=True) for _ in range(2))
    loss(x, y).backward()
    assert x.grad.is_meta
    assert x.grad.shape == x.shape


# With a card


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The last card, not the current one where there are several; kernels have to serve there."""
    if (reason := gpu.load()) is not None:
        pytest.skip(reason)
    with on_cards.all_answered(monkeypatch):
        yield torch.device("cuda", torch.cuda.device_count() - 1)


@needs_cuda
@pytest.mark.parametrize("name", on_cards.CHECKS)
@pytest.mark.parametrize("stream", ["the stream of all", "another stream"])
def test_kernels_answer_as_plain_pytorch(name: str, stream: str, card: torch.device):
    torch.cuda.set_device(0)
    if stream == "another stream":
        with torch.cuda.device(card), torch.cuda.stream(torch.cuda.Stream()):
            on_cards.CHECKS[name](card, 3000)
    else:
        on_cards.CHECKS[name](card, 20_000)


@needs_cuda
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_kernels_of_a_loss_are_captured_by_a_graph(kernel: str, card: torch.device):
    loss = MutualInformationLoss(32, kernel=kernel)
    x, y = torch.rand(2, 1, 1, 50_000, device=card)
    other = torch.rand_like(x)
    with torch.cuda.device(card):
        graph, x = torch.cuda.CUDAGraph(), x.requires_grad_()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # compiles, which a capture forbids
            torch.autograd.grad(loss(x, y), x)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            value = loss(x, y)
            (slope,) = torch.autograd.grad(value, x)
        with torch.no_grad():
            x.copy_(other)
        graph.replay()
        expected = loss(x, y)
        assert torch.equal(value, expected)
        assert torch.equal(slope, *torch.autograd.grad(expected, x))


@needs_cuda
@pytest.mark.parametrize("name", WAIT_FREE)
def test_an_update_over_a_known_range_does_not_wait(name: str, refuse_to_wait: Callable[[], None]):
    cls, options = WAIT_FREE[name]
    metric = cls(**options, **RANGE).to("cuda")
    x, y = samples("cuda", metric.num_outputs)
    metric.update(x, y)  # what is set up once may wait
    refuse_to_wait()
    metric.update(x, y)
    torch.cuda.set_sync_debug_mode("default")
    once = cls(**options, **RANGE)
    once.update(*samples("cpu", metric.num_outputs))
    assert (metric.counters.cpu() == 2 * once.counters).all()


@needs_cuda
@pytest.mark.parametrize("loss", [MutualInformationLoss(8), KDEMutualInformationLoss(grid_size=16)])
def test_a_loss_does_not_wait(loss: torch.nn.Module, refuse_to_wait: Callable[[], None]):
    x, y = (torch.randn(2, 1, 500, device="cuda", requires_grad=True) for _ in range(2))
    loss(x, y).backward()
    refuse_to_wait()
    loss(x, y).backward()


@needs_cuda
def test_a_metric_has_the_value_and_the_state_of_the_cpu(case: Case):
    parts = batches_of(case.samples(4000), (1500, 700))
    host, card = (
        case.fed(parts),
        case.on(torch.device("cuda")).fed([(x.cuda(), y.cuda()) for x, y in parts]),
    )
    for name, default in host._defaults.items():
        ours, theirs = getattr(card, name), getattr(host, name)
        ours, theirs = (torch.cat(v) if isinstance(v, list) else v for v in (ours, theirs))
        assert ours.is_cuda
        if isinstance(default, Tensor) and default.is_floating_point():
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-12, atol=1e-12)
        else:  # counts, cells and samples: to the last bit
            assert torch.equal(ours.cpu(), theirs)
    # Sums over tables and of digammas are taken in another order.
    value = card.compute()
    assert value.is_cuda
    torch.testing.assert_close(value.cpu(), host.compute(), rtol=1e-9, atol=1e-9)


@needs_cuda
def test_the_functions_have_the_values_of_the_cpu():
    x = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    y = 0.6 * x + 0.8 * torch.randn(3, 5000, generator=torch.Generator().manual_seed(1))
    a, b = x.cuda(), y.cuda()
    assert torch.equal(
        binned_joint(a, b, 20, value_range=(-4, 4)).cpu(),
        binned_joint(x, y, 20, value_range=(-4, 4)),
    )
    assert torch.equal(binned_joint(a, b, 20).cpu(), binned_joint(x, y, 20))
    for call, options in (
        (binned_mutual_information, {"num_bins": "auto", "binning": "quantile"}),
        (binned_mutual_information, {"num_bins": 16, "kernel": "cubic"}),
        (kde_mutual_information, {}),
    ):
        torch.testing.assert_close(
            call(a, b, **options).cpu(), call(x, y, **options), rtol=1e-9, atol=1e-9
        )
    pairs = [v.unsqueeze(-1) for v in (x, y, a, b)]
    for algorithm in ("ksg1", "ksg2"):
        ours = knn_mutual_information(*pairs[2:], algorithm=algorithm)
        expected = knn_mutual_information(*pairs[:2], algorithm=algorithm)
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-9, atol=1e-9)


@needs_cuda
@pytest.mark.parametrize("loss", [MutualInformationLoss(8), KDEMutualInformationLoss(grid_size=32)])
def test_losses_and_gradients_are_those_of_the_cpu(loss: torch.nn.Module):
    found = []
    for device in ("cpu", "cuda"):
        x, y = (v[:960].view(2, 3, 160).double().to(device) for v in samples("cpu", 1))
        x, y = x.nan_to_num(0, 0, 0).requires_grad_(), y.nan_to_num(0, 0, 0)
        value = loss(x, y)
        value.backward()
        found.append((value.detach().cpu(), x.grad.cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


@needs_cuda
def test_deterministic_mode_is_all_it_needs_and_gives_the_same_bits(
    case: Case, monkeypatch: pytest.MonkeyPatch
):
    # Without it cuBLAS, which multiplies the soft kernels' matrices, is refused in this mode.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    case = case.on(torch.device("cuda"))
    parts = batches_of(case.samples(4000), (1500, 700))
    torch.use_deterministic_algorithms(True)
    try:
        first, second = case.fed(parts), case.fed(parts)
        assert torch.equal(first.compute(), second.compute())
        for name in first._defaults:
            ours, theirs = (getattr(m, name) for m in (first, second))
            pairs = zip(ours, theirs, strict=True) if isinstance(ours, list) else [(ours, theirs)]
            assert all(torch.equal(a, b) for a, b in pairs)
    finally:
        torch.use_deterministic_algorithms(False)


@needs_cuda
def test_a_metric_moves_between_devices_and_keeps_its_bits(case: Case):
    first, second, third = batches_of(case.samples(), (150, 150))
    metric = case.fed([first])
    metric.compute()
    metric.cuda()
    metric.update(*(v.cuda() for v in second))
    assert metric.compute().is_cuda
    merged = case.build()
    merged.merge_state(metric)
    with pytest.raises(ValueError, match="on the metric's device cuda:0"):
        metric.update(*third)
    metric.cpu()
    for m in (metric, merged):
        m.update(*third)
        case.assert_same_state(m, case.fed([case.samples()]))
        case.assert_same(m.compute(), case.value(case.samples()))


@needs_cuda
def test_samples_can_be_kept_off_the_card():
    x, y = (v.nan_to_num(0, 0, 0) for v in samples("cuda", 1))
    metric = KNNMutualInformation(compute_on_cpu=True).to("cuda")
    for part in zip(x.split(300), y.split(300), strict=True):
        metric.update(*part)
    assert not any(v.is_cuda for v in metric.samples)
    expected = knn_mutual_information(x.cpu().view(-1, 1), y.cpu().view(-1, 1))
    torch.testing.assert_close(metric.compute().cpu(), expected, rtol=1e-9, atol=1e-9)


def process(rank: int, world_size: int, backend: str, store: Path, end: Connection) -> None:
    try:
        warnings.simplefilter("ignore")
        torch.cuda.set_device(0)
        dist.init_process_group(
            backend, f"file://{store}", timedelta(seconds=TIMEOUT), world_size, rank
        )
        values = []
        for case in CASES:
            own = [
                p
                for i, p in enumerate(batches_of(case.samples(), (150, 100)))
                if i % world_size == rank
            ]
            options: list[dict[str, Any]] = [{}]
            if case.metric is KNNMutualInformation and case.kwargs.get("max_samples") is None:
                options.append({"compute_on_cpu": True})
            for more in options:
                metric = case.on(torch.device("cuda")).fed(
                    [(x.cuda(), y.cuda()) for x, y in own], **more
                )
                values.append((case.name, metric.compute().cpu()))
        dist.destroy_process_group()
        end.send_bytes(pickle.dumps(values))
    except Exception:
        end.send_bytes(pickle.dumps(traceback.format_exc()))


@needs_cuda
@pytest.mark.distributed
@pytest.mark.parametrize(("backend", "world_size"), [("gloo", 2), ("nccl", 1)])
def test_processes_that_share_a_card_have_the_value_of_one(backend: str, world_size: int):
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes, ends = [], []
        for rank in range(world_size):
            ours, theirs = context.Pipe(duplex=False)
            arguments = (rank, world_size, backend, Path(folder) / "store", theirs)
            processes.append(context.Process(target=process, args=arguments, daemon=True))
            processes[-1].start()
            theirs.close()
            ends.append(ours)
        try:
            for end in ends:
                assert end.poll(4 * TIMEOUT), "no answer in time"
                values = pickle.loads(end.recv_bytes())
                assert isinstance(values, list), values
                expected = {case.name: case.value(case.samples()) for case in CASES}
                for name, value in values:
                    torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9)
        finally:
            for p in processes:
                p.kill()
                p.join()
