"""Two hosts on one machine: ``python -m campaigns.hosts [--fail]``, as root on Linux.

Each host is a network namespace with a host name, an address and two processes of its own; a pair
of virtual network cards connects them, and nothing else. The command is the one that a user gives
on two machines. The values that all four processes print are compared, to the last bit, with those
of a single process; then those of ``mi-metrics estimate`` for a folder of Parquet files, of which
each host reads its share. ``--fail`` also loses a host while it evaluates, once by killing its
processes and once by cutting the cable, and says what the other one sees.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

NAMES = ("host0", "host1")
ADDRESSES = ("10.213.57.1", "10.213.57.2")
CARD = "eth0"
SCRIPT = Path(__file__).parents[1] / "examples" / "evaluate_on_many_hosts.py"
TORCHRUN = [
    "--nnodes=2",
    "--nproc-per-node=2",
    "--rdzv-backend=c10d",
    f"--rdzv-endpoint={NAMES[0]}:29500",
    "--rdzv-id=evaluation",
]
EVALUATION = ["examples/evaluate_on_many_hosts.py"]
# Seconds for a whole run, in which processes start and, where one is lost, the others wait for it.
LIMIT = 120
# What a rank prints when all is done.
RESULT = re.compile(
    r"rank (\d+) of \d+ on \S+: (\d+) of \d+ samples; all: (\w+ [\d.e-]+(?:, \w+ [\d.e-]+)*)"
)
# The ways to lose a host, and the error of gloo that the other one should see: its connection or
# its patience ends.
LOSSES = {
    "kill": (f"kill every process of {NAMES[1]}", "Connection (closed|reset) by peer"),
    "cut": (f"cut the cable of {NAMES[1]}", "Timed out"),
}


class Run(NamedTuple):
    """An evaluation on one host, and the file with what it prints."""

    process: "subprocess.Popen[bytes]"
    output: Path


def main() -> int:
    """Run the evaluation on one process and on two hosts."""
    parser = argparse.ArgumentParser(prog="python -m campaigns.hosts", description=__doc__)
    parser.add_argument(
        "--fail", action="store_true", help="also lose a host in the midst of the evaluation"
    )
    fail = parser.parse_args().fail
    if (
        sys.platform != "linux"
        or os.geteuid() != 0
        or not all(map(shutil.which, ("ip", "unshare", "hostname")))
    ):
        print(
            "Two hosts on one machine need Linux, root, and the commands ip, unshare and hostname. "
            "Nothing was run."
        )
        return 2
    # A terminal that closes or a CI job that ends should leave no network behind.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(1))
    try:
        return _compare() or _compare_files() or (_lose("kill") or _lose("cut") if fail else 0)
    except subprocess.TimeoutExpired as error:
        print(f"{' '.join(map(str, error.cmd))} has not ended within {LIMIT} s.")
        return 2
    except subprocess.CalledProcessError as error:
        print(
            f"{' '.join(map(str, error.cmd))}: {error.stderr.strip()}\nWhat was set up before that "
            f"is gone again."
        )
        return 2


def _compare() -> int:
    print(f"one process\n$ python {EVALUATION[0]}")
    command = [sys.executable, SCRIPT]
    single = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=LIMIT
    ).stdout
    print(single)
    with hosts() as (start, _):
        started = [start(host, *EVALUATION) for host in range(2)]
        texts = [_output(run) for run in started]
    print("\n".join(texts))
    # Two ranks of a host may print into one line.
    results = [result for text in texts for result in RESULT.findall(text)]
    ranks = sorted(int(rank) for rank, _, _ in results)
    samples = sum(int(count) for _, count, _ in results)
    values = {value for _, _, value in results}
    equal = values == {RESULT.findall(single)[0][2]} and ranks == [0, 1, 2, 3]
    print(
        f"{samples} samples on {len(ranks)} ranks;",
        "equal, to the last bit" if equal else "NOT EQUAL",
    )
    return 0 if equal else 1


def _compare_files() -> int:
    """Estimate from a folder of files on one process and on two hosts, which share them."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table"
        _write_table(table)
        outs = [Path(folder) / "one.csv", Path(folder) / "two.csv"]
        # Fewer rows than there are, so that which ones are kept shows as well.
        options = ["estimate", str(table), "--y", "y", "--max-samples", "5000"]
        options += ["--permutations", "19", "--out"]
        print(f"\none process\n$ python -m mi_metrics {' '.join(options)} one.csv", flush=True)
        command = [sys.executable, "-m", "mi_metrics", *options, str(outs[0])]
        subprocess.run(command, check=True, timeout=LIMIT)
        with hosts() as (start, _):
            started = [start(host, "-m", "mi_metrics", *options, str(outs[1])) for host in range(2)]
            print("".join(_output(run) for run in started))
        equal = outs[1].exists() and outs[0].read_bytes() == outs[1].read_bytes()
    print("files written:", "equal, to the last bit" if equal else "NOT EQUAL")
    return 0 if equal else 1


def _write_table(folder: Path) -> None:
    """Write a table with missing values and categories, as five files of several row groups."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    n = 40_000
    x, noise = rng.standard_normal((2, n))
    kind = rng.choice(["a", "b", "c"], n)
    columns = {"x": np.where(rng.random(n) < 0.1, np.nan, x), "kind": kind}
    columns |= {"y": 0.6 * x + 0.8 * noise + (kind == "c"), "tail": np.exp(2 * x)}
    table = pa.table(columns)
    folder.mkdir()
    for i in range(5):
        part = table.slice(i * n // 5, n // 5)
        parquet.write_table(part, folder / f"{i}.parquet", row_group_size=3000)


def _lose(how: str) -> int:
    """Take a host away while all evaluate, and report what the one that is left sees, and when."""
    what, expected = LOSSES[how]
    with hosts() as (start, spaces):
        here, there = (start(host, *EVALUATION, "--pause", "1") for host in range(2))
        deadline = time.monotonic() + LIMIT
        while any(run.output.read_text().count("evaluates") < 2 for run in (here, there)):
            ended = here.process.poll() is not None or there.process.poll() is not None
            if ended or time.monotonic() > deadline:
                state = (
                    "has ended before it evaluates"
                    if ended
                    else f"does not evaluate after {LIMIT} s"
                )
                sys.exit(f"{here.output.read_text()}{there.output.read_text()}A host {state}.")
            time.sleep(0.1)
        lost = time.monotonic()
        print(what, flush=True)
        if how == "kill":
            _kill_all(spaces[1])
        else:
            _ip("-n", spaces[1], "link", "set", CARD, "down")
        text = _output(here)
        seconds = time.monotonic() - lost
    status = here.process.returncode
    print(f"{NAMES[0]} ends after {seconds:.0f} s with exit status {status}:")
    errors = dict.fromkeys(re.findall(r"\w+Error: .*|\w+ could not gather .*", text))
    print(*errors, sep="\n", flush=True)
    if status and any(re.search(expected, error) for error in errors):
        return 0
    print(f"NOT AS EXPECTED: an exit status that is not 0, and an error that says {expected!r}")
    return 1


def _output(run: Run) -> str:
    try:
        run.process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        print(run.output.read_text())
        sys.exit(f"A host has not ended within {LIMIT} s.")
    return run.output.read_text()


@contextmanager
def hosts() -> Iterator[tuple[Callable[..., Run], list[str]]]:
    """Set up two hosts; yield a function that starts the evaluation on one, and the names of their
    namespaces.
    """
    spaces = [f"{name}-{os.getpid()}" for name in NAMES]
    started: list[Run] = []
    folder = Path(tempfile.mkdtemp())

    def start(host: int, *options: str) -> Run:
        arguments = [*TORCHRUN, *options]
        print(
            f"{NAMES[host]}$ GLOO_SOCKET_IFNAME={CARD} torchrun {' '.join(arguments)}", flush=True
        )
        command = ["ip", "netns", "exec", spaces[host], "unshare", "--uts"]
        command += ["sh", "-c", 'hostname "$0" && exec "$@"']
        torchrun = [NAMES[host], sys.executable, "-m", "torch.distributed.run", *arguments]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": CARD, "OMP_NUM_THREADS": "1"}
        output = folder / NAMES[host]
        with output.open("wb") as file:
            process = subprocess.Popen(
                command + torchrun,
                cwd=SCRIPT.parents[1],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this program, which then ends them all
            )
        started.append(Run(process, output))
        return started[-1]

    try:
        _connect(spaces)
        yield start, spaces
    finally:
        for space in spaces:
            _kill_all(space)
        for process, _ in started:
            process.wait()
        _disconnect(spaces)
        shutil.rmtree(folder)


def _connect(spaces: list[str]) -> None:
    """Make the two namespaces and the cable between them."""
    for space in spaces:
        _ip("netns", "add", space)
        # `ip netns exec` puts these files in the place of those in /etc.
        own = Path("/etc/netns") / space
        own.mkdir(parents=True)
        names = [f"{a} {n}" for a, n in zip(ADDRESSES, NAMES, strict=True)]
        (own / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
    ends = [["name", CARD, "netns", space] for space in spaces]
    _ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
    for space, address in zip(spaces, ADDRESSES, strict=True):
        _ip("-n", space, "address", "add", f"{address}/24", "dev", CARD)
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "link", "set", CARD, "up")


def _disconnect(spaces: list[str]) -> None:
    for space in spaces:
        subprocess.run(["ip", "netns", "delete", space], capture_output=True)
        shutil.rmtree(Path("/etc/netns") / space, ignore_errors=True)
    with suppress(OSError):
        Path("/etc/netns").rmdir()


def _kill_all(space: str) -> None:
    """Kill the processes of a host: torchrun's workers too, which live on when it is killed
    alone.
    """
    while pids := subprocess.run(
        ["ip", "netns", "pids", space], capture_output=True, text=True
    ).stdout.split():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.1)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
