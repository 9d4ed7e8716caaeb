"""How many operations, and waits for the device, a call may take: what a small batch costs on a
GPU. `test_budgets.py` runs these in a process of their own, which has the stand-in for a device.

Numbers of operations may differ by a few between releases of PyTorch.
"""

import pytest
import torch

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


def counted(metric, batches, outputs=1):
    """Return operations and waits of the last update on the stand-in; the states are the CPU's."""
    ours = metric.clone()
    with standin.StandIn() as device:
        ours = ours.to(standin.DEVICE)
        for x, y in batches:
            x, y = (v.view(-1, outputs).squeeze(1) if outputs > 1 else v for v in (x, y))
            device.clear()
            ours.update(standin.moved(x), standin.moved(y))
            metric.update(x, y)
        for name in ("table", "counters"):
            assert torch.equal(getattr(ours, name).values, getattr(metric, name))
    return device.operations, device.waits


FEW = [pair(32, seed) for seed in range(6)]
SEEN = [pair(20000, 7), pair(20000, 8), *[(x[:32], y[:32]) for x, y in (pair(20000, 8),) * 3]]


@pytest.mark.parametrize("n", [32, 512])
def test_update_over_a_known_range(n):
    metric = BinnedMutualInformation(32, value_range=(-6, 6))
    operations, waits = counted(metric, [pair(n, seed) for seed in range(3)])
    assert operations <= 16
    assert waits <= 1
    densities = KDEMutualInformation(value_range=(-6, 6))
    operations, waits = counted(densities, [pair(n, seed) for seed in range(3)])
    assert operations <= 16
    assert waits <= 1


def test_update_over_an_unknown_range():
    operations, waits = counted(BinnedMutualInformation(), SEEN)
    assert operations <= 16
    assert waits <= 1
    # The first batches of an epoch, each with values that were not there before.
    operations, waits = counted(BinnedMutualInformation(), FEW)
    assert operations <= 52
    assert waits <= 1
    # Where they fill the grid, most of them make its cells wider.
    fuller = [pair(32, seed) for seed in range(14)]
    assert max(counted(BinnedMutualInformation(), fuller[:n]) for n in (12, 13, 14)) <= (126, 1)
    operations, waits = counted(BinnedMutualInformation(num_outputs=2), FEW, outputs=2)
    assert operations <= 60
    assert waits <= 1


@pytest.mark.parametrize(
    ("loss", "most"),
    [(MutualInformationLoss(32, value_range=(0, 1)), 360), (KDEMutualInformationLoss(), 1023)],
    ids=["bins", "densities"],
)
def test_losses_do_not_wait(loss, most):
    x, y = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with standin.StandIn() as device:
        moved = standin.moved(x).requires_grad_()
        value = loss(moved, standin.moved(y))
        value.backward()
    assert device.operations <= most
    assert device.waits == 0
    own = x.clone().requires_grad_()
    expected = loss(own, y)
    expected.backward()
    # On other devices than the CPU the tables are products of matrices.
    assert torch.allclose(value.values, expected.detach(), rtol=1e-6)
    assert torch.allclose(moved.grad.values, own.grad, atol=1e-7)


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
