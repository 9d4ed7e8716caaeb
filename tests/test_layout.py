"""Which part of the package may import which, and what is public."""

import ast
import inspect
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torchmetrics

import mi_metrics
import mi_metrics.functional
from campaigns import imports as imports_of

PACKAGE = Path(mi_metrics.__file__).parent
HEAVY = ("lightning", "matplotlib", "sklearn", "jsonargparse", "pyarrow", "tqdm")


def imported_by(statement):
    """Return which of the optional packages a fresh interpreter holds after a statement."""
    code = f"{statement}; import sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return result.stdout.split()


@pytest.mark.slow
def test_importing_the_package_pulls_in_no_optional_dependency():
    modules = (
        "functional",
        "plotting",
        "distributions",
        "commands.study",
        "commands.study_figures",
        "commands.estimate",
        "commands.columns",
        "cli",
    )
    everything = f"import mi_metrics, {', '.join(f'mi_metrics.{name}' for name in modules)}"
    # torchmetrics imports matplotlib where it finds it.
    assert set(imported_by(everything)) <= set(imported_by("import torchmetrics"))
    # Without them the package imports all the same (torchmetrics would not without an installed
    # matplotlib).
    others = [name for name in HEAVY if name != "matplotlib"]
    absent = f"import sys; sys.modules.update(dict.fromkeys({others!r})); {everything}"
    subprocess.run([sys.executable, "-c", absent], check=True)


def test_the_check_of_imports_can_fail():
    # Where pandas is installed, scikit-learn imports it, and that imports pyarrow.
    assert "sklearn" in imported_by("import sklearn")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            yield node.module or ""


@pytest.mark.parametrize(
    "path",
    sorted((PACKAGE / "functional").rglob("*.py")),
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_functional_imports_nothing_of_the_package_above_it(path):
    for name in imports(path):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names or top in ("torch", "numpy", "scipy", "mi_metrics"), (
            name
        )
        inside = ("mi_metrics.functional", "mi_metrics.kernels")
        assert top != "mi_metrics" or name.startswith(inside), name


# Which rooms of the package a room may import: CONTRIBUTING, "What imports what".
BELOW = {
    "kernels": set(),
    "functional": {"kernels"},
    "states": {"functional", "kernels"},
    "metrics": {"functional", "plotting", "states"},
    "losses": {"functional", "gaussian_losses", "loss_base"},
    "loss_base": {"functional"},
    "gaussian_losses": {"functional"},
    "sampler": {"functional"},
    "plotting": {"functional"},
    "distributions": {"functional"},
    "settings": {"functional", "metrics"},
    "commands": {"distributions", "functional", "metrics", "plotting", "settings", "states"},
    "moved": set(),
    "lightning": {"functional", "metrics", "moved", "plotting", "sampler"},
    "examples": {"functional", "lightning", "losses", "metrics", "plotting", "sampler"},
}


def test_rooms_import_downwards_and_in_no_circle():
    known = imports_of.modules(PACKAGE)
    graph = imports_of.arrows(known, "mi_metrics")
    for name, found in graph.items():
        room = name.split(".")[0]
        if room in BELOW:
            assert {other.split(".")[0] for other in found} <= BELOW[room] | {room}, name
    assert imports_of.cycle(graph) == []


def test_names_with_an_underscore_stay_in_their_folder():
    assert imports_of.private_imports(imports_of.modules(PACKAGE), "mi_metrics") == []


def test_the_tree_in_contributing_names_every_room():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    tree = text.split("```\nmi_metrics/\n")[1].split("```")[0]
    rooms = [PACKAGE, PACKAGE / "functional", PACKAGE / "states"]
    for path in (path for room in rooms for path in room.iterdir()):
        if path.suffix == ".py" and not path.stem.startswith("__"):
            assert path.name in tree, path
        elif path.is_dir() and (path / "__init__.py").exists():
            assert f"{path.name}/" in tree, path


def test_lightning_is_imported_under_its_folder_only():
    for path in PACKAGE.rglob("*.py"):
        if not {"lightning", "examples"} & set(path.relative_to(PACKAGE).parts):
            # A function may import it when called; the module may not.
            tree = ast.parse(path.read_text())
            top_level = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
            names = [a.name for n in top_level for a in n.names] + [
                getattr(n, "module", None) or "" for n in top_level
            ]
            assert not any(
                n.startswith(("lightning", "pytorch_lightning", "mi_metrics.lightning"))
                for n in names
            ), path


@pytest.mark.parametrize("module", [mi_metrics, mi_metrics.functional])
def test_public_names_are_sorted_and_complete(module):
    assert list(module.__all__) == sorted(module.__all__)
    defined = {
        name
        for name in dir(module)
        if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
    }
    assert defined - {"Any", "TYPE_CHECKING"} == set(module.__all__)


def test_what_is_imported_when_asked_for_is_what_types_say():
    (block,) = (
        node
        for node in ast.parse(Path(mi_metrics.__file__).read_text()).body
        if isinstance(node, ast.If)
    )
    said = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert said == {name: f"mi_metrics.{home}" for name, home in mi_metrics._HOMES.items()}
    assert set(said) == set(mi_metrics.__all__)
    for name in said:
        assert getattr(mi_metrics, name).__name__ == name


def test_the_version_is_that_of_the_distribution():
    assert mi_metrics.__version__ == version("mi-metrics")
    assert "__version__" in dir(mi_metrics)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        mi_metrics.absent  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import mi_metrics", ("torch", "torchmetrics", "numpy", "scipy", "jsonargparse")),
        (
            "import mi_metrics.functional; mi_metrics.functional.knn_mutual_information",
            ("torchmetrics", "lightning", "matplotlib"),
        ),
        ("import mi_metrics; mi_metrics.MutualInformationLoss", ("torchmetrics", "lightning")),
        ("import mi_metrics; mi_metrics.KNNMutualInformation", ("lightning", "jsonargparse")),
        (
            "from mi_metrics.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
            ("torch", "numpy", "jsonargparse", "lightning"),
        ),
        (
            "from mi_metrics.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass",
            ("torch", "numpy", "jsonargparse", "lightning"),
        ),
    ],
)
def test_what_is_not_needed_is_not_imported(statement, absent):
    code = f"{statement}\nimport sys; print('held:', *[n for n in {absent!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "held:"


def test_no_underscore_name_is_imported_from_outside_its_folder():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mi_metrics"):
                private = [
                    part
                    for part in (*node.module.split("."), *(alias.name for alias in node.names))
                    if part.startswith("_") and not part.startswith("__")
                ]
                home = PACKAGE.parent.joinpath(*node.module.split("."))
                assert not private or home.parent == path.parent, (path, private)


def test_no_public_class_is_named_like_one_of_torchmetrics():
    assert not set(mi_metrics.__all__) & set(dir(torchmetrics))


@pytest.mark.parametrize(
    "name",
    [f"mi_metrics.{n}" for n in mi_metrics.__all__]
    + [f"mi_metrics.functional.{n}" for n in mi_metrics.functional.__all__],
)
def test_public_docstrings_say_what_is_promised(name):
    module, _, attribute = name.rpartition(".")
    text = inspect.getdoc(getattr(sys.modules[module], attribute))
    order = ["Args:", "Raises:", "Example:"]
    if inspect.isfunction(getattr(sys.modules[module], attribute)):
        order = ["Conventions:", "Args:", "Returns:", "Raises:", "Example:", "References:"]
    positions = [text.find(section) for section in order]
    assert min(positions) > 0, dict(zip(order, positions, strict=True))
    assert positions == sorted(positions)
    # Sphinx makes a heading of a section whose lines are indented, and a plain line of any other.
    assert not re.search(r"^(Conventions|Args|Returns|Raises|Example|References):\n\n", text, re.M)


def length(node):
    """Count the lines of a function without its docstring."""
    text = ast.get_docstring(node, clean=False)
    said = 0 if text is None else node.body[0].end_lineno - node.body[0].lineno + 1
    return node.end_lineno - node.lineno + 1 - said


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, functions)]
    assert [node.name for node in found if length(node) > 50] == []
