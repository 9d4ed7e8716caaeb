"""The command `mi-metrics estimate` against what it can't do without: reading the file and updating
a metric.
"""

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks.timing import Row, at_most, missing, peer, seconds
from mi_metrics.commands import columns
from mi_metrics.commands.estimate import main
from mi_metrics.settings import ESTIMATORS

N = 10_000_000


def rows() -> list[Row]:
    """Run the suite."""
    if not (pa := peer("pyarrow")) or not (parquet := peer("pyarrow.parquet")):
        return [missing("estimate of a Parquet file", "pyarrow")]
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for n in (N // 10, N):
            x, noise = np.random.default_rng(0).standard_normal((2, n))
            paths.append(Path(folder) / f"{n}.parquet")
            parquet.write_table(pa.table({"x": x, "y": 0.6 * x + 0.8 * noise}), paths[-1])
        return [*_time(paths[1], parquet), *_memory(*paths)]


def _command(path: Path, estimator: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        options = ["--x", "x", "--y", "y", "--estimator", estimator, "--permutations", "0"]
        main(["estimate", str(path), *options])


def _time(path: Path, parquet: ModuleType) -> list[Row]:
    """Measure the command against reading the same chunks, and a metric with chunks that are in
    memory.
    """
    chunks = [chunk.columns for chunk in columns.open_table(path).batches(["x", "y"])]
    # The chunks are copied, because those of the file stay in PyArrow's memory.
    chunks = [[v.clone() for v in chunk] for chunk in chunks]
    size = len(chunks[0][0])

    def read() -> None:
        for _ in parquet.ParquetFile(path).iter_batches(size, columns=["x", "y"]):
            pass

    def update() -> None:
        metric = ESTIMATORS["bins"].metric(nan_strategy="ignore")
        for x, y in chunks:
            metric.update(x, y)

    calls = (lambda: _command(path, "bins")), read, update
    found = []
    for clock, times in (("CPU", seconds(*calls, repeat=5)), ("wall", _wall(*calls))):
        ours, alone = times[0], sum(times[1:])
        parts = f"{1e3 * ours:.3g} against {1e3 * times[1]:.3g} + {1e3 * times[2]:.3g} ms"
        figure = f"{ours / alone:.2f}x  ({parts})"
        what = (
            f"estimate, bins, Parquet of {N:.0e} rows: against reading and updating, {clock} time"
        )
        found.append(Row(what, figure, "<= 2x", ours <= 2 * alone))
    return found


def _wall(*calls: Callable[[], object]) -> list[float]:
    best = [float("inf")] * len(calls)
    for _ in range(5):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def _memory(small: Path, large: Path) -> list[Row]:
    """Measure the peak, which settles after some chunks: the larger file alone would add 137
    MiB.
    """
    found = []
    for estimator in ("bins", "knn"):
        what = (
            f"estimate, {estimator}: peak memory with {N:.0e} rows beyond that with {N // 10:.0e}"
        )
        if not Path("/proc/self/status").exists():
            found.append(missing(what, "procfs"))
            continue
        few, many = (peak_memory(path, estimator) for path in (small, large))
        found.append(at_most(f"{what} ({few:.0f} MiB)", many - few, 32, " MiB"))
    return found


def peak_memory(path: Path, estimator: str) -> float:
    """Return the peak resident memory of the command in a process of its own, in MiB."""
    # The peak is not read from getrusage, where a process begins with the peak of the one that
    # started it.
    code = (
        "import pyarrow, torch; torch.set_num_threads(1); pyarrow.set_cpu_count(1)\n"
        f"import mi_metrics.commands.estimate as e; e.main(['estimate', {str(path)!r}, '--x', 'x', "
        f"'--y', 'y', "
        f"'--estimator', {estimator!r}, '--permutations', '0'])\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if "
        "line.startswith('VmHWM')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return int(result.stdout.split()[-1]) / 1024
