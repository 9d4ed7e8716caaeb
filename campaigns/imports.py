"""The shape of the package: ``python -m campaigns.imports [FOLDER] [--dot]``.

Printed are the modules and whom each imports (the arrows between modules), and the figures that say
whether a stranger finds the way: files on the top floor, arrows, cycles, private names imported
from other folders, the longest function, long files and lines, lines in all. ``--dot`` prints the
arrows for Graphviz instead.
"""

import argparse
import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1] / "mi_metrics"
LONGEST_LINE, LONGEST_FUNCTION, LONGEST_FILE = 100, 50, 500


class Module(NamedTuple):
    """A file of the package."""

    path: Path
    lines: list[str]
    tree: ast.Module


def modules(root: Path) -> dict[str, Module]:
    """Return the modules of a package by dotted name, without the package's own name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        text = path.read_text()
        found[name.removesuffix(".__init__")] = Module(path, text.splitlines(), ast.parse(text))
    return found


def imported(
    module: Module, package: str, known: Mapping[str, Module]
) -> Iterator[tuple[str, str]]:
    """Yield module and name of every import from the package, also inside functions."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            pairs = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            pairs = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        for dotted, name in pairs:
            if dotted.split(".")[0] == package:
                inner = dotted.removeprefix(package).lstrip(".") or "__init__"
                within = f"{inner}.{name}".removeprefix("__init__.")
                yield (within, "") if within in known else (inner, name)


def arrows(known: Mapping[str, Module], package: str) -> dict[str, set[str]]:
    """Return whom each module imports."""
    return {
        name: {whom for whom, _ in imported(module, package, known)} - {name}
        for name, module in known.items()
    }


def private_imports(known: Mapping[str, Module], package: str) -> list[str]:
    """Return the names with an underscore that cross a folder."""
    return [
        f"{name} imports {whom}.{what}".rstrip(".")
        for name, module in known.items()
        for whom, what in imported(module, package, known)
        if any(part.startswith("_") and part != "__init__" for part in [*whom.split("."), what])
        and whom.rpartition(".")[0] != name.rpartition(".")[0]
    ]


def functions(module: Module) -> Iterator[tuple[int, int, str]]:
    """Yield length, length without the docstring, and name of every function."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            documented = ast.get_docstring(node) is not None
            said = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield length, length - said, node.name


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of one cycle of imports, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def figures(known: Mapping[str, Module], package: str) -> dict[str, str]:
    """Return what is printed below the arrows."""
    graph = arrows(known, package)
    inner = {name: whom - {"__init__"} for name, whom in graph.items() if name != "__init__"}
    top = [name for name, module in known.items() if "." not in name and module.path.stem == name]
    lengths = [(*f, name) for name, module in known.items() for f in functions(module)]
    code, text, function, where = max((c, t, f, name) for t, c, f, name in lengths)
    files = {name: len(module.lines) for name, module in known.items()}
    long_lines = sum(len(line) > LONGEST_LINE for m in known.values() for line in m.lines)
    return {
        "files": str(len(known)),
        "files on the top floor": str(len(top)),
        "arrows between modules": str(sum(map(len, graph.values()))),
        "cycle of imports": " -> ".join(cycle(inner)) or "none",
        "private names from other folders": str(len(private_imports(known, package))),
        "longest function without its docstring": f"{code} lines ({where}.{function}, {text} with)",
        f"functions over {LONGEST_FUNCTION} lines without docstring": str(
            sum(c > LONGEST_FUNCTION for _, c, _, _ in lengths)
        ),
        f"files over {LONGEST_FILE} lines": ", ".join(
            f"{name} {n}" for name, n in files.items() if n > LONGEST_FILE
        )
        or "none",
        f"lines over {LONGEST_LINE} columns": str(long_lines),
        "lines in all": str(sum(files.values())),
    }


def main() -> None:
    """Print the arrows and the figures."""
    parser = argparse.ArgumentParser(prog="python -m campaigns.imports", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="a package's folder")
    parser.add_argument("--dot", action="store_true", help="print the arrows for Graphviz")
    options = parser.parse_args()
    root = options.folder.resolve()
    known = modules(root)
    graph = arrows(known, root.name)
    if options.dot:
        edges = [f'  "{a}" -> "{b}";' for a, whom in graph.items() for b in sorted(whom)]
        print("digraph {", *edges, "}", sep="\n")
        return
    for name, whom in graph.items():
        print(f"{name} -> {', '.join(sorted(whom)) or '-'}")
    print()
    for what, figure in figures(known, root.name).items():
        print(f"{what}: {figure}")
    for line in private_imports(known, root.name):
        print(f"  {line}")


if __name__ == "__main__":
    main()
