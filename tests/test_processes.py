"""A command that hangs fails its test, and is gone with all that it has started."""

import sys

import pytest

from tests.processes import run

# A rank whose launcher waits for it.
HANG = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time; print('started', flush=True); time.sleep(30); print('survived')"])
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
