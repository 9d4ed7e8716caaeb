"""A command that hangs fails its test, and is gone with all that it has started."""

import os
import sys
import time
from pathlib import Path

import pytest

from tests.processes import run

# A rank whose launcher waits for it.
HANG = """
import subprocess, sys
child = "import time; print('started', flush=True); time.sleep(3600); print('survived')"
subprocess.run([sys.executable, "-c", child])
"""


def test_what_is_printed_and_the_exit_status_come_back(tmp_path):
    code = "import os, sys; print(os.getcwd()); print('wrong', file=sys.stderr); sys.exit(3)"
    result = run([sys.executable, "-c", code], tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (3, f"{tmp_path}\n", "wrong\n")


def test_a_hang_ends_at_the_limit_with_all_processes():
    with pytest.raises(pytest.fail.Exception, match=r"has not ended within 3 s") as failure:
        run([sys.executable, "-c", HANG], limit=3)
    # The process in the process had the pipe, too: it was read to its end.
    assert "survived" not in str(failure.value).partition("within 3 s")[2]


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_what_a_command_leaves_behind_is_ended():
    code = """
import subprocess, sys
silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], **silent).pid)
"""
    left = int(run([sys.executable, "-c", code]).stdout)
    deadline = time.monotonic() + 300
    while alive(left):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended may wait for somebody to ask for its status.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return not Path("/proc/self").exists()
