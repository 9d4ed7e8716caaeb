"""CPU time of a call, transient memory of a call, and rows of a table."""

import importlib
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from torch.profiler import ProfilerActivity, profile

from mi_metrics.kernels import native


class Row(NamedTuple):
    """One line of the table: a figure of ours beside what it must reach."""

    what: str
    figure: str
    required: str
    reached: bool | None


def seconds(*calls: Callable[[], Any], repeat: int = 7) -> list[float]:
    """Return the least CPU time of each call.

    The calls take turns, so that they meet the same machine, and each is timed right after a first
    run of its own, so that it finds its data and not its rival's in the cache.
    """
    best = [float("inf")] * len(calls)
    for _ in range(repeat):
        for i, call in enumerate(calls):
            call()
            start = time.process_time()
            call()
            best[i] = min(best[i], time.process_time() - start)
    return best


def ratio(what: str, ours: float, theirs: float, at_least: float) -> Row:
    """Return the row of a speed-up."""
    times = f"{theirs / ours:.2f}x  ({1e3 * ours:.3g} against {1e3 * theirs:.3g} ms)"
    return Row(what, times, f">= {at_least:g}x", theirs / ours >= at_least)


def at_most(what: str, value: float, bound: float, unit: str = "") -> Row:
    """Return the row of a figure with an upper bound."""
    return Row(what, f"{value:.4g}{unit}", f"<= {bound:g}{unit}", value <= bound)


def peer(name: str) -> ModuleType | None:
    """Return an optional module, or None."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def compiled(suite: Callable[[], list[Row]]) -> list[Row]:
    """Return the rows of a suite as the compiled functions serve it, and say so in each."""
    if not native.serves():
        return [Row("with the compiled functions", f"not run: {native.status()}", "", None)]
    return [row._replace(what=f"{row.what}, compiled") for row in suite()]


def missing(what: str, name: str) -> Row:
    """Return the row of a peer that is not installed."""
    return Row(what, f"not run: {name} is not installed", "", None)


def transient_bytes(call: Callable[[], Any]) -> int:
    """Return the most bytes that torch held at once during a call beyond those before it (CPU)."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def print_rows(rows: list[Row]) -> None:
    """Print rows as a table."""
    width = max(len(row.what) for row in rows)
    for row in rows:
        mark = {True: "ok", False: "MISSED", None: ""}[row.reached]
        print(f"  {row.what:<{width}}  {row.figure:<44} {row.required:<12} {mark}", flush=True)
