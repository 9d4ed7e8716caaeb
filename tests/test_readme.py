"""Every command that the README shows runs as it stands there; its Python is run by `make
doctest`.
"""

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests import processes

pytest.importorskip("lightning")
pytest.importorskip("sklearn")

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("   #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
# What these do is what CI consists of.
RUN_BY_CI = ("make demo", "make test")
# What needs several GPUs or hosts, as it runs on this machine.
ONE_MACHINE = {
    "trainer/ddp_gpu": "trainer/ddp_cpu",
    "--nnodes=2 ": "--nnodes=1 ",
    "--rdzv-endpoint=host0:29500": "--rdzv-endpoint=localhost:0",
}

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the README's files are: a table, a trained model, the script for torchrun."""
    folder = tmp_path_factory.mktemp("readme")
    run(*(c for c in COMMANDS if "diabetes.csv" in c and c.startswith("python -c")), folder)
    for name in ("benchmarks", "campaigns"):
        (folder / name).symlink_to(ROOT / name)
    run("mi-metrics fit --config validation_metric --trainer.max_epochs=1", folder)
    return folder


def run(command, folder):
    """Run a command with the programs of this Python."""
    program, *arguments = shlex.split(command)
    modules = {"mi-metrics": "mi_metrics.cli", "torchrun": "torch.distributed.run"}
    program = [sys.executable, "-m", modules[program]] if program in modules else [sys.executable]
    result = processes.run([*program, *arguments], folder)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_commands_are_found():
    assert {"make demo", "make test"} < set(COMMANDS)
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in RUN_BY_CI])
def test_command_runs(command, folder):
    for there, here in ONE_MACHINE.items():
        command = command.replace(there, here)
    run(command, folder)


def test_the_estimates_shown_are_those_printed(folder):
    (command,) = (c for c in COMMANDS if "diabetes.csv --x" in c)
    printed = run(command, folder).splitlines()
    shown = TEXT[TEXT.index("x    y            estimator") :].split("\n```")[0].splitlines()
    assert [line for line in shown if line != "..."] == [line for line in printed if line in shown]


def numbers(line):
    return [float(number) for number in re.findall(r"\d*\.?\d+", line)]


def test_the_demo_prints_what_is_shown(folder):
    printed = run("python -m mi_metrics.examples.demo", folder)
    for block, end in (
        ("      epoch       val/mi", "\n\n"),
        ("processes ", "\nequal, to the last bit"),
    ):
        shown, found = (
            text[text.index(block) :].split(end)[0].splitlines() for text in (TEXT, printed)
        )
        assert found[0] == shown[0]
        for a, b in zip(found[1:], shown[1:], strict=True):
            # Thirty epochs of training multiply a last bit.
            assert numbers(a) == pytest.approx(numbers(b), rel=0.02)
    start, squared_error, information = (
        numbers(line) for line in printed.split("NMI\n")[1].splitlines()[:3]
    )
    assert f"{start[0]:.0f} pixels" in TEXT.replace("\n", " ")
    assert information[0] < 0.5
    assert squared_error[0] > 30


@pytest.mark.parametrize(
    "link", sorted({l for l in re.findall(r"\]\(([^)]+)\)", TEXT) if not l.startswith("http")})
)
def test_what_is_linked_is_there(link):
    path, _, anchor = link.partition("#")
    assert (ROOT / path).exists()
    if anchor:
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


def test_configurations_and_modules_named_in_prose_exist():
    configurations, modules = (
        re.findall(r"--config (\S+?)[`\s]", TEXT),
        re.findall(r"python -m ([\w.]+)", TEXT),
    )
    assert len(set(configurations)) >= 4
    assert len(set(modules)) >= 4
    for name in configurations:
        assert (ROOT / "configs" / f"{name}.yaml").is_file(), name
    for name in modules:
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name
