"""The figures of ``campaigns/imports.py``, on a package of a few lines."""

import pytest

from campaigns import imports


@pytest.fixture
def package(tmp_path):
    root = tmp_path / "house"
    for name, text in {
        "__init__": "from house.cellar.wine import drink\n",
        "door": "from house.cellar import wine\nimport torch\n",
        "cellar/__init__": "",
        "cellar/wine": "def drink():\n    import house.door\n",
        "cellar/key": "from house.cellar.wine import _cork\n",
        "roof": f"from house.cellar.wine import _cork\n{'x' * 101} = 0\n",
    }.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return imports.modules(root)


def test_arrows(package):
    assert imports.arrows(package, "house") == {
        "__init__": {"cellar.wine"},
        "door": {"cellar.wine"},
        "cellar": set(),
        "cellar.wine": {"door"},
        "cellar.key": {"cellar.wine"},
        "roof": {"cellar.wine"},
    }


def test_private_names_may_be_imported_within_their_folder(package):
    assert imports.private_imports(package, "house") == ["roof imports cellar.wine._cork"]


def test_figures(package):
    figures = imports.figures(package, "house")
    assert figures["files on the top floor"] == "3"
    assert figures["arrows between modules"] == "5"
    assert set(figures["cycle of imports"].split(" -> ")) == {"door", "cellar.wine"}
    assert figures["lines over 100 columns"] == "1"
    assert figures["longest function without its docstring"].startswith(
        "2 lines (cellar.wine.drink"
    )
