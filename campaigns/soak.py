"""Long streams: ``python -m campaigns.soak [NAME ...] [--pairs 1e8]``.

Every metric that keeps a table is fed pairs of correlated Gaussians, made chunk by chunk, and then
copies of one pair that have passed 2**31 in their cell. Printed are the pairs per second of CPU
time that ``update`` takes, the growth of the process over the run (the slope of its resident memory
after a tenth of the run, times the length of the rest), and the value. Exit status 1: memory grew,
a pair got lost, or the value is off.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mi_metrics import BinnedMutualInformation, KDEMutualInformation

CHUNK = 2**18
R = 0.6
TRUTH = -math.log(1 - R * R) / 2
# The most growth of the process over a run, in MiB, for what malloc moves about. A state of 32 kB
# kept per chunk would be 12 in 1e8 pairs.
GROWTH = 8.0
# This pair is far from all random ones, in the corner of the range.
LONE = (5.99, -5.99)
DOUBLINGS = 14

Metric = BinnedMutualInformation | KDEMutualInformation
METRICS: dict[str, tuple[Callable[[], Metric], float]] = {
    # Each with the share of the pairs that it is given.
    "known": (lambda: BinnedMutualInformation(64, value_range=(-6, 6)), 1.0),
    "unknown": (lambda: BinnedMutualInformation(64), 1.0),
    "kde": (KDEMutualInformation, 1.0),
    "kde-known": (lambda: KDEMutualInformation(value_range=(-6, 6)), 1.0),
    "cubic": (lambda: BinnedMutualInformation(64, value_range=(-6, 6), kernel="cubic"), 0.1),
}


def main() -> int:
    """Feed the metrics that are asked for, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m campaigns.soak", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(METRICS)} (default: all)"
    )
    parser.add_argument(
        "--pairs", type=float, default=1e8, help="pairs for each metric; a tenth for cubic"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(METRICS):
        parser.error(f"unknown names: {', '.join(sorted(unknown))}; known: {', '.join(METRICS)}")
    torch.set_num_threads(1)
    problems = []
    for name in arguments.names or METRICS:
        build, share = METRICS[name]
        problems += [
            f"{name}: {problem}"
            for problem in soak(name, build, max(20, int(arguments.pairs * share) // CHUNK))
        ]
    print("\n".join(problems) or "flat, and exact")
    return 1 if problems else 0


def soak(name: str, build: Callable[[], Metric], chunks: int) -> list[str]:
    """Feed one metric; return what is wrong with it."""
    metric, generator = build(), torch.Generator().manual_seed(0)
    seconds, memory = 0.0, []
    # All chunks share one piece of memory: what malloc does with others would drown what the metric
    # does.
    x, y = samples = torch.empty(2, CHUNK)
    for _ in range(chunks):
        torch.randn(2, CHUNK, generator=generator, out=samples)
        y.mul_(math.sqrt(1 - R * R)).add_(x, alpha=R)
        start = time.process_time()
        metric.update(x, y)
        seconds += time.process_time() - start
        memory.append(resident())
    value = float(metric.compute())
    growth = slope(memory[chunks // 10 :]) * (chunks - chunks // 10)
    problems = []
    if growth > GROWTH:
        problems.append(f"memory grew by {growth:.1f} MiB")
    if abs(value - TRUTH) > 0.01:
        problems.append(f"the value is {value:.4f} nats, the truth {TRUTH:.4f}")
    if lost := lost_pairs(metric, chunks * CHUNK, build):
        problems.append(lost)
    print(
        f"{name:<10} {chunks * CHUNK:.3g} pairs  {chunks * CHUNK / seconds / 1e6:6.1f} million/s  "
        f"resident {memory[-1]:.0f} MiB, growth {growth:+.2f} MiB  {value:.5f} nats (truth "
        f"{TRUTH:.5f})",
        flush=True,
    )
    return problems


def lost_pairs(metric: Metric, pairs: int, build: Callable[[], Metric]) -> str | None:
    """Take one cell past 2**31, go on counting there, and say whether every pair arrived."""
    x, y = (torch.full((1,), v).expand(CHUNK) for v in LONE)
    lone = build()
    lone.update(x, y)
    for _ in range(DOUBLINGS):
        lone.merge_state(lone)
    metric.merge_state(lone)
    for n in (1, CHUNK - 1, 3):
        metric.update(x[:n], y[:n])
    copies = (CHUNK << DOUBLINGS) + CHUNK + 3
    counts = metric.counts()
    cell = counts.max() if counts.dtype == torch.int64 else block(counts)
    found = int(cell.round()), int(counts.sum().round()), int(metric.counters[0])
    if copies > 2**31 and found == (copies, pairs + copies, pairs + copies):
        return None
    return f"counted {found}, but there were {copies} copies and {pairs + copies} pairs"


def block(counts: Tensor) -> Tensor:
    """Return the mass of the cells that a soft kernel reaches from the corner."""
    return counts[-3:, :3].sum()


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def slope(values: list[float]) -> float:
    """Return the slope of a regression line over equally spaced values."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])


if __name__ == "__main__":
    if not Path("/proc/self/statm").exists():
        sys.exit("The soak test reads its memory from /proc, which this system does not have.")
    sys.exit(main())
