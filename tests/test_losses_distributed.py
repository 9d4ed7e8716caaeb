"""Losses on several processes joined by gloo, against one process with the whole batch."""

import multiprocessing
import tempfile
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn

from mi_metrics.functional.densities import direct as densities
from mi_metrics.losses import (
    KDEMutualInformationLoss,
    MutualInformationLoss,
    MutualInformationPenalty,
)

pytestmark = pytest.mark.distributed


class ConditionalPenalty(MutualInformationPenalty):
    """The penalty of two variables whose condition is a function of the second."""

    def forward(self, x, y, weights=None, *, mask=None):
        return super().forward(x, y, weights, mask=mask, condition=y > 0.2)


TIMEOUT = 30
BATCH = 60
LOSSES = [
    (MutualInformationLoss, {"num_bins": (7, 6)}),
    (
        MutualInformationLoss,
        {"num_bins": 8, "value_range": (-2.0, 2.0), "kernel": "linear", "reduction": "sum"},
    ),
    (MutualInformationPenalty, {"num_bins": (6, 5), "normalization": "studholme"}),
    # Of the three classes one has no samples.
    (ConditionalPenalty, {"num_bins": (6, 5), "num_conditions": 3}),
    (KDEMutualInformationLoss, {"grid_size": 32}),
    (
        KDEMutualInformationLoss,
        {"grid_size": 32, "normalization": "joint", "value_range": (-1.5, 1.5)},
    ),
]

# Options, a scale of x, and dtypes.
DENSITIES = [
    ({}, 1.0, (torch.float64,) * 2),
    ({"bandwidth": (0.4, 0.3), "unit": "bits"}, 1.0, (torch.float32,) * 2),
    ({"normalization": "joint", "reduction": "sum"}, 1.0, (torch.float64, torch.float32)),
    ({"normalization": "studholme", "value_range": (-1, 1)}, 1.0, (torch.float64,) * 2),
    ({"bandwidth": "scott"}, 1e300, (torch.float64,) * 2),
]


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH, 3, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(BATCH, 2, 4, generator=generator, dtype=torch.float64)
    weights = (torch.rand(BATCH, 1, 4, generator=generator) > 0.3).double()
    # The first process of several is left nothing by its mask, the others are.
    weights[: BATCH // 10] = 0
    return inputs, inputs[:, :2] + 0.5 * noise, weights


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 5, 1), nn.Tanh(), nn.Conv1d(5, 2, 1)).double()


def share(rank, world_size):
    """Unequal parts of the batch; the first has a tenth."""
    bounds = [
        0,
        *(
            BATCH // 10 + (BATCH - BATCH // 10) * r * r // (world_size - 1) ** 2
            for r in range(world_size)
        ),
    ]
    return slice(bounds[rank], bounds[rank + 1])


def step(model, loss, part, weighted):
    """Return the loss and the parameters' gradients."""
    inputs, targets, weights = (v[part] for v in data())
    model.zero_grad()
    value = loss(model(inputs), targets, weights if weighted else None)
    value.backward()
    return [value.detach().numpy(), *(p.grad.numpy().copy() for p in model.parameters())]


def process(rank, world_size, store, pipe):
    try:
        warnings.simplefilter("error")
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo", f"file://{store}", timedelta(seconds=TIMEOUT), rank=rank, world_size=world_size
        )
        part = share(rank, world_size)
        model = nn.parallel.DistributedDataParallel(network())
        results = {}
        for i, (loss, options) in enumerate(LOSSES):
            for weighted in (False, True):
                gathered = loss(pool="batch", gather=True, **options)
                results["gathered", i, weighted] = step(model, gathered, part, weighted)
            results["apart", i] = step(model, loss(pool="batch", **options), part, False)
        results["empty"] = [
            step(model, loss(pool="batch", gather=True, **options), empty_share(rank), weighted)
            for loss, options in LOSSES
            for weighted in (False, True)
        ]
        results["nobody"] = [nobody(loss, options) for loss, options in LOSSES]
        results["forward mode"] = forward_mode()
        results["without a gradient"] = without_a_gradient(rank)
        results["ways"] = [ways(rank, world_size, i) for i in range(len(DENSITIES))]
        results["spoilt"] = [spoilt(rank, loss, options) for loss, options in LOSSES]
        dist.destroy_process_group()
        pipe.send(results)
    except Exception:
        pipe.send(traceback.format_exc())


def empty_share(rank, world_size=4):
    """Nothing for the first process and the fourth, unequal parts for the others."""
    return [slice(0), slice(0, 11 if world_size > 2 else None), slice(11, None), slice(0)][rank]


def nobody(loss, options):
    """Return loss and gradient where no process has a sample, and where masks leave none."""
    found = []
    for n in (0, 5):
        x = torch.ones(n, 2, dtype=torch.float64, requires_grad=True)
        mask = torch.zeros(n, 1, dtype=torch.bool)
        value = loss(pool="batch", gather=True, **options)(x, x.detach(), mask=mask)
        value.backward()
        found += [value.item(), x.grad.abs().sum().item()]
    return found


def ways(rank, world_size, i):
    """Return losses of densities, gradients and derivatives of these by the direct function, and by
    the operations that serve every derivative.
    """
    options, scale, dtypes = DENSITIES[i]
    inputs, targets, weights = (v[empty_share(rank, world_size)] for v in data())
    loss = KDEMutualInformationLoss(pool="batch", gather=True, grid_size=16, **options)
    kinds = None, weights[:, :, 0] > 0, weights[:, :, 0] * 0.3, weights[:, :, 0].float()
    found, serves = [], densities.serves
    for function in (serves, lambda *_: False):
        densities.serves = function
        x = (scale * inputs[:, :2, 0]).to(dtypes[rank % 2]).requires_grad_()
        y = targets[:, :, 0].to(dtypes[(rank + 1) // 2 % 2])
        value = loss(x, y, kinds[(rank + i) % 4] if i else None)
        (slope,) = torch.autograd.grad((1 + rank) * value, x, retain_graph=True)
        (graph,) = torch.autograd.grad(value, x, create_graph=True)
        second = torch.autograd.grad((graph * graph.detach().cos()).sum(), x)[0]
        found.append([v.detach().double().numpy() for v in (value, scale * slope, scale * graph)])
        found[-1].append(second.double().numpy())
    densities.serves = serves
    return found


def without_a_gradient(rank):
    """Return two densities where the second process asks for no gradient, and nobody runs
    backward.
    """
    inputs, targets, _ = (v[:40] for v in data())
    loss = KDEMutualInformationLoss(pool="batch", gather=True, grid_size=16)
    return [loss(inputs[:, :2].clone().requires_grad_(rank != 1), targets).item() for _ in "ab"]


def forward_mode():
    """Return what a process is told that asks for forward mode."""
    x = torch.rand(5, 1, dtype=torch.float64)
    loss = MutualInformationLoss(4, pool="batch", gather=True)
    try:
        with warnings.catch_warnings():
            # PyTorch's own, where it loads its forward mode.
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.func.jvp(lambda v: loss(v, x), (x,), (x,))
    except NotImplementedError as error:
        return str(error)
    return "nothing"


def spoilt(rank, loss, options):
    """Return the losses of two channels, one of which has a NaN on the first process."""
    inputs, targets, _ = (v[:10] for v in data())
    inputs = inputs[:, :2].clone()
    if rank == 0:
        inputs[3, 1, 2] = torch.nan
    return loss(pool="batch", gather=True, **options | {"reduction": "none"})(
        inputs, targets
    ).tolist()


def run(world_size):
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(["mi_metrics.losses"])
    with tempfile.TemporaryDirectory() as folder:
        store, pipes, processes = Path(folder) / "store", [], []
        for rank in range(world_size):
            ours, theirs = context.Pipe(duplex=False)
            processes.append(
                context.Process(target=process, args=(rank, world_size, store, theirs), daemon=True)
            )
            processes[-1].start()
            theirs.close()
            pipes.append(ours)
        try:
            return [
                pipe.recv() if pipe.poll(TIMEOUT + 15) else "no answer in time" for pipe in pipes
            ]
        finally:
            for p in processes:
                p.kill()
                p.join()


def largest_difference(a, b):
    return max(
        abs(torch.as_tensor(v) - torch.as_tensor(w)).max().item() for v, w in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_gathered_losses_are_those_of_one_process(world_size):
    reports = run(world_size)
    for report in reports:
        assert isinstance(report, dict), report
        assert "Forward-mode derivatives do not pass through gather=True" in report["forward mode"]
        first, again = report["without a gradient"]
        assert first == again == reports[0]["without a gradient"][0]
        for (_, _, dtypes), (direct, reference) in zip(DENSITIES, report["ways"], strict=True):
            for ours, theirs in zip(direct, reference, strict=True):
                largest = abs(theirs).max(initial=0)
                tolerance = 1e-6 if torch.float32 in dtypes else 1e-9
                assert abs(ours - theirs).max(initial=0) <= tolerance * largest
            assert direct[1].size == 0 or abs(direct[1]).max() > 1e-6
    for i, (loss, options) in enumerate(LOSSES):
        for weighted in (False, True):
            # Without a process group `gather` changes nothing.
            expected = step(
                network(), loss(pool="batch", gather=True, **options), slice(None), weighted
            )
            assert max(abs(g).max() for g in expected[1:]) > 1e-3
            for report in reports:
                assert largest_difference(report["gathered", i, weighted], expected) < 1e-10
            if world_size >= 3:
                for report in reports:
                    assert largest_difference(report["empty"][2 * i + weighted], expected) < 1e-10
        # Apart, DDP computes the mean over processes of what each makes of its part: something
        # else.
        parts = [
            step(network(), loss(pool="batch", **options), share(r, world_size), False)
            for r in range(world_size)
        ]
        mean = [sum(v) / world_size for v in zip(*parts, strict=True)]
        expected = step(network(), loss(pool="batch", **options), slice(None), False)
        for report in reports:
            assert largest_difference(report["apart", i][1:], mean[1:]) < 1e-10
        assert largest_difference(mean, expected) > 1e-2
        for report in reports:
            assert report["nobody"][i] == [0, 0, 0, 0]
            good, bad = report["spoilt"][i]
            assert good == good
            assert bad != bad
