"""Processes joined by gloo, on which metrics are put through the steps that a test dictates."""

import functools
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from mi_metrics.functional.cautions import Kind, MutualInformationWarning

GROUP_TIMEOUT = 30
ANSWER_TIMEOUT = 45
START_TIMEOUT = 150

Step = tuple[Any, ...]


@dataclass
class Report:
    """What happened on one rank."""

    results: list[Any] = field(default_factory=list)  # of each step; an exception where it raised
    states: list[dict[str, Any]] = field(default_factory=list)  # after each step
    cautions: list[Kind] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # all others
    gathers: int = 0
    synced: bool = False
    broken: bool = False  # a collective failed, on which no other can rely


class CountedGather:
    """What torchmetrics gathers states with, counting its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, tensor: Tensor, group: Any = None) -> list[Tensor]:
        self.calls += 1
        return gather_all_tensors(tensor, group)


class Ranks:
    """Four processes, started at the first use and again after one has died or hung."""

    world_size = 4

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self._ends: list[Connection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(
        self,
        metric: type[Metric] | Sequence[type[Metric]],
        kwargs: dict[str, Any] | Sequence[dict[str, Any]],
        steps: Sequence[Sequence[Step]],
    ) -> list[Report]:
        """Take one metric per rank through its own steps, ``(method, *arguments)``, or ``(function,
        *arguments)`` of the metric; as many ranks as lists of steps.

        A rank that dies, or does not answer in time, fails the test that asked and no other.
        """
        self._start()
        metrics = [metric] * len(steps) if isinstance(metric, type) else metric
        kwargs = [kwargs] * len(steps) if isinstance(kwargs, dict) else kwargs
        reports, problems = [], []
        for rank, (end, *own) in enumerate(zip(self._ends, metrics, kwargs, steps, strict=False)):
            try:
                end.send_bytes(pickle.dumps((*own, len(steps))))
            except ConnectionError:
                problems.append(f"the process of rank {rank} had died before")
        deadline = time.monotonic() + ANSWER_TIMEOUT
        for rank, end in enumerate(self._ends[: len(steps)]):
            try:
                if not end.poll(max(0.0, deadline - time.monotonic())):
                    problems.append(f"rank {rank} did not answer within {ANSWER_TIMEOUT} s")
                    continue
                report = pickle.loads(end.recv_bytes())
            except (EOFError, ConnectionError):
                problems.append(f"the process of rank {rank} died")
                continue
            if isinstance(report, Report):
                reports.append(report)
            else:
                problems.append(f"rank {rank} raised\n{report}")
        if problems or any(report.broken for report in reports):
            self.stop()
        if problems:
            raise AssertionError("\n".join(problems))
        return reports

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for end in self._ends:
            end.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._processes, self._ends, self._folder = [], [], None

    def _start(self) -> None:
        if self._processes:
            return
        # With a fork server, where the platform has one, torch is imported once for all.
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            context.set_forkserver_preload([__name__, "mi_metrics"])
        self._folder = tempfile.TemporaryDirectory()
        store = Path(self._folder.name) / "store"
        for rank in range(self.world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, self.world_size, store, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._ends.append(ours)
        deadline = time.monotonic() + START_TIMEOUT
        for rank, end in enumerate(self._ends):
            try:
                if not end.poll(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"no answer within {START_TIMEOUT} s")
                end.recv_bytes()
            except (EOFError, OSError) as error:
                self.stop()
                raise AssertionError(f"rank {rank} could not be started") from error


@functools.cache
def shared_ranks() -> Ranks:
    """Return the processes that all tests share."""
    return Ranks()


def _serve(rank: int, world_size: int, store: Path, end: Connection) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        # The host's name need not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    timeout = timedelta(seconds=GROUP_TIMEOUT)
    dist.init_process_group("gloo", f"file://{store}", timeout, world_size, rank)
    groups = {size: dist.new_group(list(range(size)), timeout) for size in range(2, world_size)}
    end.send_bytes(b"ready")
    while True:
        try:
            metric, kwargs, steps, size = pickle.loads(end.recv_bytes())
        except EOFError:
            return
        try:
            # All ranks use the default group, as users do; fewer use one that is named.
            named = {} if size == world_size else {"process_group": groups[size]}
            answer: Any = _take(metric, kwargs | named, steps)
        except Exception:
            answer = traceback.format_exc()
        end.send_bytes(pickle.dumps(answer))


def _take(metric_class: type[Metric], kwargs: dict[str, Any], steps: Sequence[Step]) -> Report:
    report = Report()
    gather = CountedGather()
    metric = metric_class(**kwargs, dist_sync_fn=gather)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for method, *arguments in steps:
            try:
                if callable(method):
                    result = method(metric, *arguments)
                else:
                    result = getattr(metric, method)(*arguments)
            except Exception as error:
                # Only what any process can read back.
                result = RuntimeError(f"{type(error).__name__}: {error}")
                # As those of torch.distributed are.
                report.broken |= isinstance(error, RuntimeError)
            report.results.append(result if isinstance(result, Tensor | RuntimeError) else None)
            report.states.append(dict(metric.metric_state))
    for message in (w.message for w in caught):
        if isinstance(message, MutualInformationWarning):
            report.cautions.append(message.kind)
        else:
            report.warnings.append(str(message))
    report.gathers, report.synced = gather.calls, metric._is_synced
    return report
