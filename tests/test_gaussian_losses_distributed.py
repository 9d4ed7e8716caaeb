"""Gaussian losses on processes joined by gloo, one of them without samples, against one process."""

import multiprocessing
import tempfile
import traceback
import warnings
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn

from mi_metrics.gaussian_losses import (
    GaussianMutualInformationLoss,
    GaussianMutualInformationPenalty,
)

pytestmark = pytest.mark.distributed

TIMEOUT = 30
BATCH = 40
LOSSES = [GaussianMutualInformationLoss, GaussianMutualInformationPenalty]
# Where the ranks' parts begin; the last of three, and the second of two in another deal, have none.
DEALS = {
    "2 ranks, uneven": [7, BATCH],
    "2 ranks, one empty": [BATCH, BATCH],
    "3 ranks, uneven": [1, 15, BATCH],
    "3 ranks, one empty": [12, 12, BATCH],
}


def data(kind):
    """Return inputs and targets; whose labels no two ranks share, in part."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH, 4, generator=generator, dtype=torch.float64)
    if kind == "labels":
        return inputs, torch.arange(BATCH) // 8 * 5 - 3 + 20 * (inputs[:, 0] > 0)
    noise = torch.randn(BATCH, 3, generator=generator, dtype=torch.float64)
    targets = inputs[:, :3] + 0.5 * noise
    if kind == "float32":
        return inputs.float(), targets.float()
    if kind == "singular":
        # The least eigenvalue is that of rounding, and is lifted to 1e-9.
        targets = torch.cat((targets, targets.sum(1, keepdim=True)), 1)
    return inputs, targets


def network(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def conditions():
    """Return the condition of each sample, of five the fourth without any."""
    return torch.tensor([0, 1, 1, 4, 2])[torch.arange(BATCH) * 7 % 5]


def step(model, loss, part, kind):
    """Return the loss and the parameters' gradients."""
    inputs, targets = (v[part] for v in data(kind))
    model.zero_grad()
    given = {} if loss.num_conditions is None else {"condition": conditions()[part]}
    value = loss(model(inputs), targets, **given)
    value.backward()
    return [value.detach().numpy(), *(p.grad.numpy().copy() for p in model.parameters())]


KINDS = {
    "vectors": (torch.float64, 1e-10),
    "labels": (torch.float64, 1e-10),
    "singular": (torch.float64, 1e-6),
    "float32": (torch.float32, 1e-5),
}


def process(rank, bounds, store, pipe):
    try:
        warnings.simplefilter("error")
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo", f"file://{store}", timedelta(seconds=TIMEOUT), rank=rank, world_size=len(bounds)
        )
        part = slice([0, *bounds][rank], bounds[rank])
        results = {}
        for kind, (dtype, _) in KINDS.items():
            model = nn.parallel.DistributedDataParallel(network(dtype))
            for loss in LOSSES:
                for number in (None, 5):
                    module = loss(gather=True, num_conditions=number)
                    results[loss, kind, number] = step(model, module, part, kind)
        inputs, targets = data("vectors")
        spoilt = inputs[part].clone()
        spoilt[:1] = torch.nan
        results["spoilt"] = LOSSES[0](gather=True)(spoilt, targets[part]).item()
        outside = torch.where(torch.arange(BATCH) == 0, 5, conditions())[part]
        given = LOSSES[0](gather=True, num_conditions=5)
        results["outside"] = given(inputs[part], targets[part], condition=outside).item()
        dist.destroy_process_group()
        pipe.send(results)
    except Exception:
        pipe.send(traceback.format_exc())


def run(bounds):
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(["mi_metrics.gaussian_losses"])
    with tempfile.TemporaryDirectory() as folder:
        store, pipes, processes = Path(folder) / "store", [], []
        for rank in range(len(bounds)):
            ours, theirs = context.Pipe(duplex=False)
            processes.append(
                context.Process(target=process, args=(rank, bounds, store, theirs), daemon=True)
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


@pytest.mark.parametrize("bounds", DEALS.values(), ids=DEALS)
def test_gathered_losses_are_those_of_one_process(bounds):
    reports = run(bounds)
    for report in reports:
        assert isinstance(report, dict), report
    for kind, (dtype, tolerance) in KINDS.items():
        for loss, number in product(LOSSES, (None, 5)):
            # Without a process group `gather` changes nothing.
            module = loss(gather=True, num_conditions=number)
            expected = step(network(dtype), module, slice(None), kind)
            assert max(abs(g).max() for g in expected[1:]) > 1e-3
            for report in reports:
                for a, b in zip(report[loss, kind, number], expected, strict=True):
                    assert abs(a - b).max() < tolerance, (kind, loss, number)
    for what in ("spoilt", "outside"):
        assert all(report[what] != report[what] for report in reports)
