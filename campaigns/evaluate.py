"""The recommended metrics over a dataset that is split among processes, to be started alone or by
torchrun.

``python -m campaigns.hosts`` starts it on two hosts and compares the values with those of one
process.
"""

import argparse
import os
import socket
import time
from datetime import timedelta

import torch
from torch import distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from mi_metrics import UnpaddedDistributedSampler
from mi_metrics.settings import ESTIMATORS

# The number of samples is not a multiple of any likely number of processes.
SAMPLES = 10_007
# Seconds that a process waits for the others.
TIMEOUT = 30


def main() -> None:
    """Evaluate this process's share of the dataset, and print the values of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds to wait after each batch")
    pause = parser.parse_args().pause
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if "RANK" in os.environ:
        # The CPU is used where there are more processes than GPUs, as on a laptop.
        if (
            torch.cuda.is_available()
            and int(os.environ["LOCAL_WORLD_SIZE"]) <= torch.cuda.device_count()
        ):
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, generator=generator)
    y = 0.6 * x + 0.8 * torch.randn(SAMPLES, generator=generator)
    dataset = TensorDataset(x, y)
    sampler = UnpaddedDistributedSampler(dataset)
    metrics = {name: estimator.metric().to(device) for name, estimator in ESTIMATORS.items()}
    if pause:
        print(f"rank {sampler.rank} evaluates", flush=True)
    for batch in DataLoader(dataset, batch_size=256, sampler=sampler):
        for metric in metrics.values():
            metric.update(*(v.to(device) for v in batch))
        time.sleep(pause)
    values = ", ".join(f"{name} {metric.compute().item()!r}" for name, metric in metrics.items())
    place = f"rank {sampler.rank} of {sampler.num_replicas} on {socket.gethostname()}"
    # The line is written at once, because ranks print at the same time.
    print(f"{place}: {len(sampler)} of {SAMPLES} samples; all: {values}\n", end="", flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
