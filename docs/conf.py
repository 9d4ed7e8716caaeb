"""How Sphinx builds the site: ``make docs``, or ``sphinx-build -W docs docs/_build/html``."""

import ast
import re
import shutil
import sys
import tomllib
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation
from torchmetrics import Metric

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import gallery  # noqa: E402

import mi_metrics  # noqa: E402
from mi_metrics import functional, lightning  # noqa: E402
from mi_metrics.functional import options  # noqa: E402

URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
REPOSITORY = URLS["Repository"]

project = "mi_metrics"
author = "The mi_metrics developers"
copyright = author
release = version_of("mi-metrics")
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
# Files under _made are parts of pages.
exclude_patterns = ["_build", "_made/*.md"]

# The notebooks are executed by the tests, which compare what they show with what is committed.
nb_execution_mode = "off"
html_math_renderer = "mathml"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
napoleon_custom_sections = [
    "Conventions",
    ("Input", "params_style"),
    "Output",
    "Shape",
]

# The tests know what the project's own addresses stand for; publishers refuse programs.
linkcheck_ignore = [*map(re.escape, URLS.values()), r"https://doi\.org/"]

html_theme = "furo"
html_title = f"mi_metrics {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_theme_options = {
    "source_repository": f"{REPOSITORY}/",
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# What `ValueRange` and the like stand for is said once, on the page of options.
ALIASES = {
    stringify_annotation(alias, "smart"): name
    for name, alias in vars(options).items()
    if name[0].isupper() and not name.isupper() and hasattr(alias, "__args__")
}


def short_signature(
    app: Sphinx, what: str, name: str, obj: Any, config: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Name the type aliases in a signature, where Python has written out what they stand for."""
    if not signature:
        return None
    for long in sorted(ALIASES, key=len, reverse=True):
        signature = signature.replace(long, ALIASES[long])
    return signature, returns


# A convention begins a sentence with what it is about.
CONVENTION = re.compile(r"\s*([A-Z][^.:`]{0,70}): (.*)")


def plain_sections(app: Sphinx, what: str, name: str, obj: Any, o: Any, lines: list[str]) -> None:
    """Make the sections that Napoleon does not know ones that it does: sentences of torchmetrics,
    and conventions, of which each becomes an item.
    """
    sentences = {
        "As input to ``forward`` and ``update`` the metric accepts:": "Input:",
        "As output of ``forward`` and ``compute`` the metric returns:": "Output:",
    }
    made: list[str] = []
    inside = False
    for line in lines:
        if line.strip() and not line.startswith(" "):
            inside = line.strip() == "Conventions:"
        found = CONVENTION.fullmatch(line) if inside else None
        if found and made[-1].rstrip().endswith((".", ":")):
            made += [*([] if made[-1] == "Conventions:" else [""]), f"    * {found[1]}: {found[2]}"]
        elif inside and line.strip() and line.strip() != "Conventions:":
            made.append(f"  {line}")
        else:
            made.append(sentences.get(line.strip(), line))
    lines[:] = made


def trimmed(app: Sphinx, name: str, source: list[str]) -> None:
    """Leave out the blank line that ends an example for doctest."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")


def collect(app: Sphinx) -> None:
    """Copy what lies outside of this folder into the pages, and draw the gallery."""
    made = HERE / "_made"
    shutil.rmtree(made, ignore_errors=True)
    (made / "notebooks").mkdir(parents=True)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copy(notebook, made / "notebooks")
    for page in ("CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / page, made / page.lower())
    (made / "options.md").write_text(aliases_page())
    for page, names in (
        ("functions", [f"mi_metrics.functional.{n}" for n in functional.__all__]),
        ("metrics", [f"mi_metrics.{n}" for n in mi_metrics.__all__ if is_metric(n)]),
        ("losses", [f"mi_metrics.{n}" for n in mi_metrics.__all__ if not is_metric(n)]),
        ("training", [f"mi_metrics.lightning.{n}" for n in lightning.__all__]),
    ):
        (made / f"more_{page}.md").write_text(others(names))
    gallery.draw(made)


def is_metric(name: str) -> bool:
    """Return whether a public name is that of a metric."""
    return issubclass(getattr(mi_metrics, name), Metric)


def others(names: list[str]) -> str:
    """Return entries of the public names that no page of the reference has by itself."""
    text = "\n".join(path.read_text() for path in (HERE / "reference").glob("*.md"))
    lines = ["```{eval-rst}"]
    for name in names:
        module, _, short = name.rpartition(".")
        if not re.search(rf"auto\w+:: ([\w.]+\.)?{short}$", text, re.MULTILINE):
            kind = "class" if short[0].isupper() else "function"
            lines.append(f".. auto{kind}:: {name}")
            if kind == "class" and module == "mi_metrics" and is_metric(short):
                lines += ["   :members:", "   :inherited-members: Metric, Module"]
    return "\n".join([*lines, "```"]) + "\n" if len(lines) > 1 else ""


def aliases_page() -> str:
    """Return a table of the names that signatures use for the values of options."""
    lines = ["| name | values |", "|---|---|"]
    for statement in ast.parse(Path(options.__file__).read_text()).body:
        target = getattr(statement, "targets", [None])[0]
        if isinstance(target, ast.Name) and target.id in ALIASES.values():
            values = re.sub(r"Literal\[([^]]*)\]", r"\1", ast.unparse(statement.value))
            lines.append(f"| `{target.id}` | `{values.replace(' | ', ' or ')}` |")
    return "\n".join(lines) + "\n"


def mathml(node: nodes.Node, *, block: bool) -> str:
    """Return a formula in the language that browsers know, without a script from elsewhere."""
    # Docutils does not know brackets of a given size, and takes two digits for one number.
    text = node.astext().replace(r"\Big(", r"\left(").replace(r"\Big)", r"\right)")
    text = re.sub(r"\\frac\s*(\d)(\d)", r"\\frac{\1}{\2}", text)
    return str(tex2mathml(text, as_block=block))


def inline_math(writer: Any, node: nodes.math) -> None:
    """Write a formula into a line."""
    writer.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def displayed_math(writer: Any, node: nodes.math_block) -> None:
    """Write a displayed formula, which scrolls where it is wider than the page."""
    writer.body.append(f'<div class="formula">{mathml(node, block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Connect the above."""
    app.add_html_math_renderer("mathml", (inline_math, None), (displayed_math, None))
    app.connect("builder-inited", collect)
    app.connect("source-read", trimmed)
    app.connect("autodoc-process-signature", short_signature)
    # Before Napoleon, which is at 500.
    app.connect("autodoc-process-docstring", plain_sections, priority=400)
