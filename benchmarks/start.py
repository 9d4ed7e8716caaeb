"""What the command line takes before it does anything."""

import resource
import subprocess
import sys

from benchmarks.timing import Row, at_most


def rows() -> list[Row]:
    """Run the suite."""
    return [at_most("mi-metrics --help: CPU time of the process", 1e3 * _help(), 150, " ms")]


def _help() -> float:
    """Return the least CPU time of several processes, in seconds."""
    best = float("inf")
    for _ in range(5):
        before = _children()
        command = [sys.executable, "-m", "mi_metrics", "--help"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        best = min(best, _children() - before)
    return best


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
