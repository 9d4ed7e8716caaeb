"""A rank that leaves before or during a sync: the others get an error in time, and keep what they
have.
"""

import multiprocessing
import os
import pickle
import re
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics.utilities.distributed import gather_all_tensors

from tests.cautions import ignore_cautions
from tests.contract.cases import CASES, Case, batches_of

pytestmark = [pytest.mark.distributed, ignore_cautions]

WORLD_SIZE, LOST = 3, 2
# Seconds: for all ranks to start; that a collective waits for a rank that still runs; for all ranks
# to answer.
START = 150
GROUP_TIMEOUT = 10
LIMIT = 30

ENDED = "Connection closed by peer|Connection reset by peer|Broken pipe"
ABSENT = f"Timed out waiting {GROUP_TIMEOUT}000ms|Application timeout"


@dataclass
class Outcome:
    """What `compute` did on one rank, and what the rank had afterwards."""

    error: str
    notes: list[str]
    synced: bool
    states: dict[str, Any]
    alone: Tensor  # the value of a metric that does not sync, into which this rank's was merged
    later: Tensor | None = None  # its own value once the process group is gone


class Leaves:
    """Gathers states, and does something else at the second call: in the midst of a sync."""

    def __init__(self, leave: Callable[[], Any]) -> None:
        self.leave, self.calls = leave, 0

    def __call__(self, tensor: Tensor, group: Any = None) -> list[Tensor]:
        self.calls += 1
        if self.calls == 2:
            self.leave()
        return gather_all_tensors(tensor, group)


def raise_uncaught(metric: Any) -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    metric.update(torch.full((3,), torch.nan), torch.zeros(3))


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def stay_away() -> None:
    time.sleep(2 * LIMIT)


# What the lost rank does when it should call `compute`, what it does within, and what the others
# are told.
FAULTS: dict[str, tuple[Callable[[Any], None] | None, Callable[[], Any] | None, str]] = {
    "raised an exception": (raise_uncaught, None, ENDED),
    "ended": (lambda metric: sys.exit(3), None, ENDED),
    "was killed": (lambda metric: kill_itself(), None, ENDED),
    "was killed during the sync": (None, kill_itself, ENDED),
    "left the process group": (lambda metric: dist.destroy_process_group(), None, ENDED),
    "was interrupted during the sync": (None, interrupt, ABSENT),
    "never came": (lambda metric: stay_away(), None, ABSENT),
}


def shares(case: Case) -> list[list[tuple[Tensor, Tensor]]]:
    """Return each rank's batches."""
    first, second, third = batches_of(case.samples(), (150, 150))
    return [[first], [second], [third]]


def process(rank: int, store: Path, fault: str, end: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if sys.platform == "linux":
        # The host's name need not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{store}", timedelta(seconds=START), WORLD_SIZE, rank)
    leave, leave_within, told = FAULTS[fault]
    # An end is noticed at once, whatever the timeout.
    timeout = timedelta(seconds=GROUP_TIMEOUT if told == ABSENT else START)
    own: dict[str, Any] = {}
    metrics = []
    for case in CASES:
        # A group of its own: the first failure breaks a group, and each metric is to meet it as the
        # first.
        own["process_group"] = dist.new_group(timeout=timeout)
        if rank == LOST and leave_within is not None:
            own["dist_sync_fn"] = Leaves(leave_within)
        metrics.append(case.fed(shares(case)[rank], **own))
    dist.barrier()
    end.send_bytes(b"ready")
    if rank == LOST and leave is not None:
        leave(metrics[0])
        return
    # All at once, for some of them wait for the timeout.
    with ThreadPoolExecutor(len(CASES)) as pool:
        outcomes = list(pool.map(outcome, CASES, metrics))
    dist.destroy_process_group()
    for metric, one in zip(metrics, outcomes, strict=True):
        one.later = metric.compute()
    end.send_bytes(pickle.dumps(outcomes))
    end.recv()  # until the test ends


def outcome(case: Case, metric: Any) -> Outcome:
    error = None
    try:
        metric.compute()
    except BaseException as e:
        error = e
    alone = case.build(sync_on_compute=False)
    alone.merge_state(metric)
    notes = getattr(error, "__notes__", [])
    said = f"{type(error).__name__}: {error}"
    return Outcome(said, notes, metric._is_synced, dict(metric.metric_state), alone.compute())


def run(fault: str) -> dict[int, list[Outcome]]:
    """Let one rank leave; return what the ranks that live on report, all within the limit."""
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload([__name__])
    processes, ends = [], []
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(WORLD_SIZE):
            ours, theirs = context.Pipe()
            arguments = (rank, Path(folder) / "store", fault, theirs)
            processes.append(context.Process(target=process, args=arguments, daemon=True))
            processes[-1].start()
            theirs.close()
            ends.append(ours)
        try:
            deadline = time.monotonic() + START
            for rank, end in enumerate(ends):
                assert end.poll(max(0.0, deadline - time.monotonic())), (
                    f"rank {rank} had not started after {START} s"
                )
                assert end.recv_bytes() == b"ready"
            reports, deadline = {}, time.monotonic() + LIMIT
            for rank, end in enumerate(ends):
                if rank == LOST and fault != "was interrupted during the sync":
                    continue
                assert end.poll(max(0.0, deadline - time.monotonic())), (
                    f"rank {rank} hung: no answer in {LIMIT} s"
                )
                reports[rank] = pickle.loads(end.recv_bytes())
            return reports
        finally:
            for p in processes:
                p.kill()
                p.join()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_other_ranks_get_an_error_in_time_and_keep_their_state(fault: str):
    reports = run(fault)
    assert set(range(WORLD_SIZE)) - {LOST} <= set(reports)
    for rank, outcomes in reports.items():
        for case, found in zip(CASES, outcomes, strict=True):
            expected = case.fed(shares(case)[rank])
            if rank == LOST:
                assert found.error == "KeyboardInterrupt: "
            else:
                assert found.error.startswith("RuntimeError: ")
                # Who waits for a rank that gave up waiting is told that it has gone.
                told = {ENDED: ENDED, ABSENT: f"{ABSENT}|{ENDED}"}[FAULTS[fault][2]]
                assert re.search(told, found.error), found.error
                (note,) = found.notes
                assert note.startswith(
                    f"{case.metric.__name__} could not gather the states of all ranks"
                )
            assert not found.synced
            case.assert_same_state(found.states, expected)
            for value in (found.alone, found.later):
                case.assert_same(value, expected.compute())
