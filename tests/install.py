"""Install a wheel into an environment of its own, without extras and then with each, and use what
each is for.

``python tests/install.py dist/mi_metrics-*.whl``, as ``make package`` runs it; not collected by
pytest.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

EXAMPLE = """
import doctest, re, sys
text = open({readme!r}).read()
example = re.search(r"```python\\n(>>>.*?)```", text, re.DOTALL)[1]
test = doctest.DocTestParser().get_doctest(example, {{}}, "README.md", "README.md", 0)
runner = doctest.DocTestRunner()
runner.run(test)
print(f"{{runner.tries}} lines of the README's first example, {{runner.failures}} failures")
sys.exit(runner.failures > 0)
"""

# The library is there where the wheel says that it is.
SERVES = """
import sys
from mi_metrics.kernels import native
print(native.status())
sys.exit(native.serves() != {expected})
"""

# What each extra has to bring when it is installed after those before it, and what must not be
# there yet.
STAGES = {
    "": (
        [EXAMPLE.format(readme=str(ROOT / "README.md"))],
        [["--help"], ["--version"]],
        {"lightning", "matplotlib", "pyarrow", "sklearn"},
    ),
    "plot": (
        [
            "import torch, mi_metrics; m = mi_metrics.BinnedMutualInformation(8); "
            "m.update(*torch.rand(2, 500)); m.plot_joint()[0].savefig('joint.png'); m.plot()"
        ],
        [],
        {"lightning", "pyarrow", "sklearn"},
    ),
    "cli": (
        ["import torch; import numpy; numpy.save('pair.npy', torch.randn(1000, 2).numpy())"],
        [
            ["estimate", "pair.npy", "--x", "0", "--y", "1"],
            ["study", "--draws", "2", "--points", "3", "--sizes", "100", "200"],
        ],
        {"lightning", "sklearn"},
    ),
    "lightning": (
        [
            "import mi_metrics.lightning, lightning.pytorch as pl; pl.Trainer(logger=False, "
            "accelerator='cpu')"
        ],
        [["fit", "--help"]],
        {"sklearn"},
    ),
    "demo": ([], [["fit", "--config", "validation_metric", "--trainer.fast_dev_run=1"]], set()),
}


def main(wheel: Path) -> None:
    """Check the wheel's contents, then install it stage by stage."""
    names = zipfile.ZipFile(wheel).namelist()
    configs = {
        f"mi_metrics/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")
    }
    assert {"mi_metrics/py.typed", *configs} <= set(names), "configurations or py.typed are missing"
    folders = {name.split("/")[0] for name in names}
    assert all(f == "mi_metrics" or f.endswith(".dist-info") for f in folders), (
        f"more than the package: {folders}"
    )

    compiled = any(Path(name).suffix in (".so", ".dylib", ".dll") for name in names)
    assert compiled != wheel.name.endswith("-none-any.whl"), "the tag belies what the wheel holds"
    folder = Path(tempfile.mkdtemp())
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        binaries = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
        pip = [binaries / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        for extra, (snippets, commands, absent) in STAGES.items():
            print(f"== mi-metrics[{extra}]" if extra else "== mi-metrics", flush=True)
            target = f"{wheel.resolve()}[{extra}]" if extra else str(wheel.resolve())
            subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", target], check=True)
            names = sorted(absent)
            probe = f"import importlib.util as u; print(*[n for n in {names} if u.find_spec(n)])"
            found = subprocess.run(
                [binaries / "python", "-c", probe], capture_output=True, text=True, check=True
            )
            assert not found.stdout.strip(), f"installed without being asked for: {found.stdout}"
            for snippet in [SERVES.format(expected=compiled), *snippets]:
                subprocess.run(
                    [binaries / "python", "-W", "error", "-c", snippet], cwd=folder, check=True
                )
            for command in commands:
                print("mi-metrics", *command, flush=True)
                subprocess.run(
                    [binaries / "mi-metrics", *command],
                    cwd=folder,
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
    finally:
        shutil.rmtree(folder)
    print("every extra works")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
