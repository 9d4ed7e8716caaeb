"""Speed, memory and accuracy against peers: ``python -m benchmarks [NAME ...] [--json FILE]``.

Every figure is a ratio of CPU times of one thread within one run, the least of several repetitions:
other programs on the machine move single times, not ratios. A peer that is not installed is skipped
and says so.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import binned, conditional, estimate, gaussian, gpu, kde, knn, losses, matrix, start
from benchmarks.timing import Row, print_rows

SUITES = {
    "binned": binned.rows,
    "conditional": conditional.rows,
    "estimate": estimate.rows,
    "gaussian": gaussian.rows,
    "kde": kde.rows,
    "knn": knn.rows,
    "losses": losses.rows,
    "matrix": matrix.rows,
    "start": start.rows,
}


def main() -> None:
    """Run the suites that are asked for, print a table and write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"suites to run: {', '.join(SUITES)} (default: all)",
    )
    parser.add_argument(
        "--json", type=Path, default=Path("runs/benchmarks.json"), help="where to write the rows"
    )
    parser.add_argument(
        "--device", type=torch.device, help="run the suites of GPUs on a device: cuda, cuda:1, ..."
    )
    arguments = parser.parse_args()
    suites = SUITES
    if (device := arguments.device) is not None:
        if device.type != "cuda" or not torch.cuda.is_available():
            parser.error(f"--device {device}: these suites need a CUDA device")
        suites = gpu.suites(device)
    if unknown := set(arguments.names) - set(suites):
        parser.error(f"unknown suites: {', '.join(sorted(unknown))}; known: {', '.join(suites)}")
    torch.set_num_threads(1)
    rows: list[Row] = []
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "torch": version("torch"),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    for name in arguments.names or suites:
        print(f"\n{name}", flush=True)
        found = suites[name]()
        print_rows(found)
        rows += found
        # After each: what comes next may be stopped.
        text = json.dumps({"machine": machine, "rows": [row._asdict() for row in rows]}, indent=1)
        arguments.json.write_text(text + "\n")
    print(f"\nwritten to {arguments.json}")


if __name__ == "__main__":
    main()
