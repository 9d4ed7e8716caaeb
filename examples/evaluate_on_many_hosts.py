"""Evaluate on any number of processes, devices and hosts: every rank prints the values of all.

Alone: ``python examples/evaluate_on_many_hosts.py``. On two hosts, the same on each::

    torchrun --nnodes=2 --nproc-per-node=2 --rdzv-backend=c10d --rdzv-endpoint=host0:29500 \\
        --rdzv-id=evaluation examples/evaluate_on_many_hosts.py

``python -m campaigns.hosts`` starts it on two hosts and compares the values with those of one
process.
"""

import argparse
import os
import socket
import time
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mi_metrics import (
    BinnedMutualInformation,
    KDEMutualInformation,
    KNNMutualInformation,
    UnpaddedDistributedSampler,
)

# The number of samples is not a multiple of any likely number of processes.
SAMPLES = 10_007
# Seconds that a process waits for the others.
TIMEOUT = 30


def evaluate(dataset: Dataset[tuple[Tensor, ...]], pause: float = 0.0) -> dict[str, float]:
    """Return the values of the whole dataset, of which each process reads a part of its own."""
    device = torch.device("cpu")
    if "RANK" in os.environ:  # torchrun says who is who
        local, here = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        if here <= torch.cuda.device_count():
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT))
    loader = DataLoader(dataset, 256, sampler=UnpaddedDistributedSampler(dataset))
    metrics = {
        "bins": BinnedMutualInformation().to(device),
        "kde": KDEMutualInformation().to(device),
        "knn": KNNMutualInformation().to(device),
    }
    for x, y in loader:
        for metric in metrics.values():
            metric.update(x.to(device), y.to(device))
        time.sleep(pause)
    # On every rank, of all samples.
    return {name: metric.compute().item() for name, metric in metrics.items()}


def main() -> None:
    """Evaluate correlated Gaussians, and print the values with the place of this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds to wait after each batch")
    pause = parser.parse_args().pause
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, generator=generator)
    y = 0.6 * x + 0.8 * torch.randn(SAMPLES, generator=generator)
    dataset = TensorDataset(x, y)
    if pause:
        print(f"rank {os.environ.get('RANK', 0)} evaluates", flush=True)
    values = ", ".join(f"{name} {value!r}" for name, value in evaluate(dataset, pause).items())
    sampler = UnpaddedDistributedSampler(dataset)
    place = f"rank {sampler.rank} of {sampler.num_replicas} on {socket.gethostname()}"
    # The line is written at once, because ranks print at the same time.
    print(f"{place}: {len(sampler)} of {SAMPLES} samples; all: {values}\n", end="", flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
