"""Every notebook runs from top to bottom, and the outputs that are committed are those that it
makes.
"""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
nbclient = pytest.importorskip("nbclient")

pytestmark = [pytest.mark.slow, pytest.mark.notebook]

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


# Beside the words of an output: further off than any machine or version of a library rounds.
TOLERANCE = {"rel": 0.05, "abs": 0.02}
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def outputs(notebook):
    """Return what each cell shows: the kinds of its outputs, and its text."""
    shown = []
    for cell in notebook.cells:
        kinds, text = [], ""
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            kinds += sorted(data)
            text += output.get("text", "") + data.get("text/plain", "")
        shown.append((kinds, text))
    return shown


def alike(text, other):
    """Return whether two texts have the same words, and about the same numbers."""
    if NUMBER.sub("#", text).split() != NUMBER.sub("#", other).split():
        return False
    numbers = ([float(number) for number in NUMBER.findall(t)] for t in (text, other))
    return next(numbers) == pytest.approx(next(numbers), **TOLERANCE)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("MI  0.513 ± 0.02 nats of 1000\n", True),
        ("MI 0.53 ± 0.02 nats of 1000", False),
        ("MI 0.5 ± 0.02 nats of 1049", True),
        ("MI 0.5 ± 0.02 nats of 1060", False),
        ("MI -0.5 ± 0.02 nats of 1000", False),
        ("MI 0.5 ± 0.02 bits of 1000", False),
        ("MI 0.5 nats of 1000", False),
    ],
)
def test_what_counts_as_the_same_output(other, expected):
    assert alike("MI 0.5 ± 0.02 nats of 1e3", other) is expected


def test_there_are_five():
    assert {path.stem for path in NOTEBOOKS} == {
        "which_estimator",
        "metric_in_lightning",
        "registration",
        "fair_representation",
        "disentanglement_and_information_plane",
    }


@notebooks
def test_notebook_runs_and_shows_what_is_committed(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    committed = outputs(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    streams = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "name" in output
    ]
    assert [output.text for output in streams if output.name == "stderr"] == []
    for (kinds, text), (made_kinds, made) in zip(committed, outputs(notebook), strict=True):
        assert kinds == made_kinds
        assert alike(text, made), (
            f"committed:\n{text}\nmade:\n{made}\nRun `make figures` and reread the text."
        )


# A slash or a drive where a word begins, and a folder.
ABSOLUTE = re.compile(r"(?<![^\s\"'`(\[=:>])(?:/|[A-Za-z]:\\)[\w.~-]+[/\\][\w.~-]*")


def texts(node):
    """Return all texts of a notebook but its pictures, in which letters mean nothing."""
    if isinstance(node, str):
        return [node]
    if isinstance(node, dict):
        return [
            text
            for key, value in node.items()
            if not key.startswith("image/")
            for text in texts(value)
        ]
    return [text for value in node for text in texts(value)] if isinstance(node, list) else []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('File "/srv/lib/module.py", line 1', ["/srv/lib"]),
        (r"written to C:\work\mi.csv", [r"C:\work\mi.csv"]),
        ("runs/validation/mi.csv and/or ./configs/a.yaml; 0.5 / 2", []),
        ("[README](https://example.org/a/b)", []),
    ],
)
def test_what_counts_as_a_path_of_a_machine(text, found):
    assert ABSOLUTE.findall(text) == found


@notebooks
def test_notebook_is_small_and_tells_nothing_of_the_machine(path):
    text = path.read_text()
    assert len(text) < 400_000
    notebook = nbformat.read(path, as_version=4)
    assert [found for text in texts(notebook) for found in ABSOLUTE.findall(text)] == []
    nbformat.validate(notebook)
    assert any("image/png" in kinds or "image/jpeg" in kinds for kinds, _ in outputs(notebook))
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
