"""Every command and every script that the README and the site show runs as it stands there; their
examples with prompts are run by `make doctest`.
"""

import re
import shlex
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

from mi_metrics.functional.cautions import KINDS
from tests import processes

pytest.importorskip("lightning")
pytest.importorskip("sklearn")

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
# What is copied into the site when it is built is looked at where it comes from.
PAGES = [README, *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_" not in str(p.parent.name))]
TEXTS = {path: path.read_text() for path in PAGES}
FILES, ESTIMATES = TEXTS[ROOT / "docs/files.md"], "x    y            estimator"
LIGHTNING, TRAINING = (TEXTS[ROOT / "docs" / name] for name in ("lightning.md", "training.md"))
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
SITE, SOURCE = URLS["Documentation"] + "/en/latest/", URLS["Repository"] + "/blob/main/"
IMAGES = URLS["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"


def commands(text):
    return [
        line.split("   #")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]


def scripts(text):
    """Return the Python of a page that has no prompts, and what is hidden in its comments."""
    blocks = re.findall(r"(?:```|<!-- )python\n(.*?)(?:```|-->)", text, re.DOTALL)
    return [block for block in blocks if not block.startswith(">>>")]


COMMANDS = list(dict.fromkeys(line for text in TEXTS.values() for line in commands(text)))
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
    for name in ("benchmarks", "campaigns", "examples"):
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
    assert any("torchrun" in command for command in COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in RUN_BY_CI])
def test_command_runs(command, folder):
    for there, here in ONE_MACHINE.items():
        command = command.replace(there, here)
    run(command, folder)


def test_the_estimates_shown_are_those_printed(folder):
    (command,) = (c for c in COMMANDS if "diabetes.csv --x" in c)
    printed = run(command, folder).splitlines()
    shown = FILES[FILES.index(ESTIMATES) :].split("\n```")[0].splitlines()
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
            text[text.index(block) :].split(end)[0].splitlines() for text in (LIGHTNING, printed)
        )
        assert found[0] == shown[0]
        for a, b in zip(found[1:], shown[1:], strict=True):
            # Thirty epochs of training multiply a last bit.
            assert numbers(a) == pytest.approx(numbers(b), rel=0.02)
    start, squared_error, information = (
        numbers(line) for line in printed.split("NMI\n")[1].splitlines()[:3]
    )
    assert f"{start[0]:.0f} pixels" in TRAINING.replace("\n", " ")
    assert information[0] < 0.5
    assert squared_error[0] > 30


# The markers of this module are for what starts processes; the rest is quick.
@pytest.mark.parametrize("path", [p for p in PAGES if scripts(TEXTS[p])], ids=lambda p: p.name)
def test_scripts_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "monai" in TEXTS[path]:
        with warnings.catch_warnings():
            # Importing it warns of versions of others.
            warnings.simplefilter("ignore")
            pytest.importorskip("monai.networks.blocks")
    names = {"__name__": "page"}
    for script in scripts(TEXTS[path]):
        exec(compile(script, str(path), "exec"), names)


def test_scripts_are_found():
    assert len(scripts(LIGHTNING)) >= 4
    assert len(scripts(TRAINING)) >= 4


def anchors(text):
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", TEXTS[README]))))
def test_what_the_readme_links_is_there(link):
    # An index page shows the README without its repository.
    assert link.startswith("https://"), f"{link} is not absolute"
    address, _, anchor = link.partition("#")
    for start, folder in ((SITE, ROOT / "docs"), (SOURCE, ROOT), (IMAGES, ROOT)):
        if address.startswith(start):
            path = folder / re.sub(r"\.html$", ".md", address.removeprefix(start))
            path = path / "index.md" if path.is_dir() and folder.name == "docs" else path
            assert path.exists(), path
            assert not anchor or anchor in anchors(path.read_text()), anchor
            return
    assert address.startswith("https://"), address


def test_addresses_of_the_project_are_those_of_its_metadata():
    hosts = ("readthedocs.io", "github.com/mi-metrics", "raw.githubusercontent.com")
    for path in [*PAGES, ROOT / "CITATION.cff", ROOT / "CHANGELOG.md"]:
        for address in re.findall(r"https://[^\s)>\"'`]+", path.read_text()):
            if any(host in address for host in hosts):
                known = (URLS["Documentation"], URLS["Repository"], IMAGES)
                assert address.startswith(known), (path, address)


def test_versions_and_addresses_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {version}\n" in citation
    assert all(f'"{URLS[name]}"' in citation for name in ("Documentation", "Repository"))


def test_actions_are_pinned_by_commit():
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for action in re.findall(r"uses: (\S+)", path.read_text()):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), (path.name, action)


def test_the_readme_is_a_page_of_one_screen():
    assert len(TEXTS[README].encode()) <= 8 * 1024


def test_every_kind_of_caution_can_be_looked_up():
    rows = re.findall(r'^\| `"([a-z ]+)"` \|', TEXTS[ROOT / "docs/issues.md"], re.MULTILINE)
    assert sorted(rows) == sorted(KINDS)


def test_configurations_and_modules_named_in_prose_exist():
    text = "\n".join(TEXTS.values())
    configurations, modules = (
        re.findall(r"--config (\S+?)[`\s]", text),
        re.findall(r"python -m ([\w.]+)", text),
    )
    assert len(set(configurations)) >= 4
    assert len(set(modules)) >= 4
    for name in configurations:
        assert (ROOT / "configs" / f"{name}.yaml").is_file(), name
    for name in modules:
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name
