"""Every notebook runs from top to bottom, and the outputs that are committed are those that it makes."""

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


def outputs(notebook):
    """Return what each cell shows: the kinds of its outputs, and its text without the figures, which machines round."""
    shown = []
    for cell in notebook.cells:
        kinds, text = [], ""
        for output in cell.get("outputs", []):
            kinds += [] if output.output_type == "stream" else sorted(output.data)
            text += output.get("text", "")
        shown.append((kinds, re.sub(r"[-+]?\d+(\.\d+)?|\s+", "", text)))
    return shown


def test_there_are_four():
    assert {path.stem for path in NOTEBOOKS} == {
        "which_estimator",
        "metric_in_lightning",
        "registration",
        "fair_representation",
    }


@notebooks
def test_notebook_runs_and_shows_what_is_committed(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    committed = outputs(notebook)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    streams = [output for cell in notebook.cells for output in cell.get("outputs", []) if "name" in output]
    assert [output.text for output in streams if output.name == "stderr"] == []
    assert outputs(notebook) == committed


@notebooks
def test_notebook_is_small_and_tells_nothing_of_the_machine(path):
    text = path.read_text()
    assert len(text) < 200_000
    assert not re.search(r"/home/|/root/|/tmp/|/Users/|site-packages", text)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert any("image/png" in kinds or "image/jpeg" in kinds for kinds, _ in outputs(notebook))
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
