"""How many operations, and waits for the device, a call may take: what a small batch costs on a
GPU. `test_budgets.py` runs these in a process of their own, which has the stand-in for a device.

Numbers of operations may differ by a few between releases of PyTorch.
"""

import pytest
import torch
from torch import distributed as dist

from mi_metrics import (
    BinnedMutualInformation,
    KDEMutualInformation,
    KDEMutualInformationLoss,
    MutualInformationLoss,
)
from tests import standin

pytestmark = [
    pytest.mark.skipif(not standin.AVAILABLE, reason="this PyTorch has no backends in Python"),
    # PyTorch says that its own interface for them may change.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def pair(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, generator=generator)
    return x.clamp(-5, 5), (0.6 * x + 0.8 * noise).clamp(-5, 5)


def counted(metric, batches, outputs=1, read=True):
    """Return operations and waits of the last update on the stand-in, and of a first look at the
    table where it is ``read``; the states are the CPU's.
    """
    ours = metric.clone()
    with standin.StandIn() as device:
        ours = ours.to(standin.DEVICE)
        for x, y in batches:
            x, y = (v.view(-1, outputs).squeeze(1) if outputs > 1 else v for v in (x, y))
            ours.table  # noqa: B018
            device.clear()
            ours.update(standin.moved(x), standin.moved(y))
            if read:
                ours.table  # noqa: B018
            operations, waits = device.operations, device.waits
            metric.update(x, y)
        for name in ("table", "counters"):
            assert torch.equal(getattr(ours, name).values, getattr(metric, name))
    return operations, waits


FEW = [pair(32, seed) for seed in range(6)]
SEEN = [pair(20000, 7), pair(20000, 8), *[(x[:32], y[:32]) for x, y in (pair(20000, 8),) * 3]]


@pytest.mark.parametrize("n", [32, 512])
@pytest.mark.parametrize("kind", [BinnedMutualInformation, KDEMutualInformation])
def test_update_over_a_known_range(kind, n):
    metric, batches = kind(value_range=(-6, 6)), [pair(n, seed) for seed in range(3)]
    assert counted(metric.clone(), batches, read=False) == (6, 1)
    assert counted(metric, batches) <= (20, 2)


def test_update_over_an_unknown_range():
    metric = BinnedMutualInformation()
    # The first batches of an epoch, each with values that were not there before. Where they fill
    # the grid, most of them make its cells wider.
    fuller = [pair(32, seed) for seed in range(14)]
    for batches in (SEEN, FEW, *(fuller[:n] for n in (12, 13, 14))):
        assert counted(metric.clone(), batches, read=False) == (4, 1)
    assert counted(metric.clone(), SEEN) <= (16, 2)
    assert counted(metric.clone(), FEW) <= (56, 2)
    assert max(counted(metric.clone(), fuller[:n]) for n in (12, 13, 14)) <= (130, 2)
    two = BinnedMutualInformation(num_outputs=2)
    assert counted(two.clone(), FEW, outputs=2, read=False) == (4, 1)
    assert counted(two, FEW, outputs=2) <= (62, 2)
    # What is left out is looked for at once.
    assert counted(BinnedMutualInformation(nan_strategy="ignore"), SEEN) <= (28, 1)


MASK = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1)) > 0.3
WEIGHTS = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("loss", "options", "most"),
    [
        (MutualInformationLoss(32, value_range=(0, 1)), {}, 46),
        (MutualInformationLoss(), {}, 47),
        (MutualInformationLoss((32, 24), value_range=((0, 1), (0, 2))), {}, 48),
        (MutualInformationLoss(kernel="linear"), {}, 52),
        (MutualInformationLoss(), {"mask": MASK}, 56),
        (MutualInformationLoss(), {"weights": WEIGHTS}, 60),
        (MutualInformationLoss(), {"weights": WEIGHTS, "mask": MASK}, 62),
        (MutualInformationLoss(normalization="studholme"), {}, 53),
        (MutualInformationLoss(normalization="geometric"), {}, 58),
        (MutualInformationLoss(normalization="min"), {}, 59),
        (MutualInformationLoss(normalization="joint", unit="bits"), {"mask": MASK}, 62),
        (MutualInformationLoss(normalization="joint"), {"weights": WEIGHTS}, 64),
        (KDEMutualInformationLoss(), {}, 150),
        (KDEMutualInformationLoss(value_range=(0, 0.8)), {"mask": MASK}, 180),
        (KDEMutualInformationLoss(), {"weights": WEIGHTS}, 180),
        (KDEMutualInformationLoss(normalization="joint"), {}, 140),
        (KDEMutualInformationLoss(normalization="min"), {"weights": WEIGHTS}, 175),
        (KDEMutualInformationLoss(clip_quantile=0.05), {}, 175),
        (KDEMutualInformationLoss(clip_quantile=0.05), {"weights": WEIGHTS}, 230),
    ],
    ids=lambda v: repr(v) if isinstance(v, torch.nn.Module) else None,
)
def test_losses_do_not_wait(loss, options, most):
    x, y = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with standin.StandIn() as device:
        there = {name: standin.moved(v) for name, v in options.items()}
        # The first call makes constants that are kept.
        for _ in range(2):
            device.clear()
            moved = standin.moved(x).requires_grad_()
            value = loss(moved, standin.moved(y), **there)
            value.backward()
            assert device.waits == 0
    assert device.operations <= most
    own = x.clone().requires_grad_()
    expected = loss(own, y, **options)
    expected.backward()
    # On other devices than the CPU the tables are products of matrices.
    assert torch.allclose(value.values, expected.detach(), rtol=1e-6)
    assert torch.allclose(moved.grad.values, own.grad, atol=1e-7)


@pytest.mark.parametrize(("normalization", "calls"), [("none", 9), ("joint", 7)])
def test_a_density_of_the_samples_of_all_processes_does_not_wait(normalization, calls, monkeypatch):
    made = []
    monkeypatch.setattr(KDEMutualInformationLoss, "_world_size", lambda _: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda *_: made.append(1))
    loss = KDEMutualInformationLoss(pool="batch", gather=True, normalization=normalization)
    x, y = torch.rand(2, 1024, generator=torch.Generator().manual_seed(0))
    with standin.StandIn() as device:
        for _ in range(2):
            device.clear()
            made.clear()
            moved = standin.moved(x).requires_grad_()
            loss(moved, standin.moved(y)).backward()
    assert device.waits == 0
    assert device.operations <= 215
    assert len(made) == calls


@pytest.mark.parametrize("loss", [MutualInformationLoss(), KDEMutualInformationLoss()], ids=repr)
def test_where_no_gradient_is_recorded_there_is_no_work_for_one(loss):
    x, y = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    counts = []
    with standin.StandIn() as device:
        for needed, recorded in ((False, True), (True, False), (False, True), (True, True)):
            device.clear()
            moved = standin.moved(x).requires_grad_(needed)
            with torch.set_grad_enabled(recorded):
                loss(moved, standin.moved(y))
            counts.append(device.operations)
    assert counts[1] == counts[2] < counts[3]


def test_stand_in_counts_and_refuses_to_mix_devices():
    with standin.StandIn() as device:
        x = standin.moved(torch.arange(4.0))
        assert x.device.type == standin.NAME
        y = (x.view(2, 2) + 1).sum()
        assert device.operations == 2
        assert device.waits == 0
        assert float(y) == 10
        assert x.tolist() == [0, 1, 2, 3]
        assert x[x > 1].shape == (2,)
        assert device.waits == 3
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.arange(4.0)
    with pytest.raises(ValueError, match="on the metric's device cpu, but got standin"):
        BinnedMutualInformation().update(x, x)
