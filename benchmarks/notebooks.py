"""Execute the notebooks and keep their outputs in them: ``python -m benchmarks.notebooks``, as in
``make figures``.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        # Notebooks run in another folder, because they write files, and without the times at which
        # cells ran, which would differ every time.
        with TemporaryDirectory() as elsewhere:
            resources = {"metadata": {"path": elsewhere}}
            NotebookClient(
                notebook, timeout=300, record_timing=False, resources=resources
            ).execute()
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
