"""Operations and waits per call, counted by a stand-in for a GPU in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest


def test_calls_keep_to_their_budgets(request: pytest.FixtureRequest):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += [f"-W{rule}" for rule in request.config.getoption("pythonwarnings") or ()]
    run = subprocess.run(
        [*command, str(Path(__file__).with_name("budgets.py"))],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]
