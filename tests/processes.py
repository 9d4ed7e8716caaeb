"""Run a command that starts processes of its own, and leave none of them behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

# Seconds: several times what the longest takes on two busy cores.
LIMIT = 300


def interruptible(command: Sequence[str]) -> list[str]:
    """Return a command that an interrupt reaches, also where the tests themselves run without: in
    the background of a script.
    """
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", code, *command]


def run(
    command: Sequence[str], cwd: Path | None = None, limit: float = LIMIT
) -> subprocess.CompletedProcess[str]:
    """Return what a command has printed and its exit status; fail the test if it takes longer than
    the limit.

    `subprocess.run` with a timeout kills the command alone, and waits for ever for the processes
    that it has started.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=cwd, start_new_session=True, **pipes) as process:
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            out, err = process.communicate()
            pytest.fail(
                f"{' '.join(command)} has not ended within {limit} s:\n{out}\n{err}", pytrace=False
            )
        finally:
            # This also ends what the command has left behind; the group may be empty.
            _kill_group(process.pid)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _kill_group(leader: int) -> None:
    # macOS answers with PermissionError where only processes that have ended are left.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
