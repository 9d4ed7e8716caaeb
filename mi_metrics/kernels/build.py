"""Compile the library of native twins: ``python -m mi_metrics.kernels.build``.

The build of the wheel and of an editable install (``hatch_build.py``) calls the same function. It
calls the system's compiler, once for each source, because no part of the library depends on Python
or PyTorch: it has a plain C interface, so that one wheel per platform serves every version of both.

This file runs where the package is not installed, and imports the standard library only.
"""

import argparse
import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# Not one that Python would take for a module.
NAME = {"win32": "mi_metrics.dll", "darwin": "libmi_metrics.dylib"}.get(
    sys.platform, "libmi_metrics.so"
)
LIBRARY = FOLDER / NAME
# Arithmetic rounds operation by operation, as PyTorch's does: no fused products, no -ffast-math.
OPTIMISED = ("-O3", "-ffp-contract=off", "-DNDEBUG")
SANITISED = (
    *("-O1", "-g", "-ffp-contract=off", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover"),
)


def sources() -> list[Path]:
    """Return what the library is built of; nothing in an installed wheel."""
    return sorted([*FOLDER.glob("*.h"), *FOLDER.glob("*.cpp")])


def fingerprint() -> str | None:
    """Return a name for the present sources and how they are built, None where they are not."""
    if not (files := sources()):
        return None
    digest = hashlib.sha256()
    for path in (*files, FOLDER / "build.py"):
        text = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.name} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]


def compiler() -> list[str] | None:
    """Return the command of a C++ compiler: that of the variable CXX, else the first on the path.

    An empty CXX says that there is none.
    """
    if (named := os.environ.get("CXX")) is not None:
        command = shlex.split(named, posix=os.name != "nt")
        return command if command and shutil.which(command[0]) else None
    # Clang on Windows finds Microsoft's library itself.
    names = ("clang++", "g++") if sys.platform == "win32" else ("c++", "g++", "clang++")
    return next(([name] for name in names if shutil.which(name)), None)


def platform_tag() -> str:
    """Return the wheel's tag of the platform that the library is for."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def commands(folder: Path, target: Path, flags: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Return the calls that compile one source each into a folder, and the one that links them, to
    be run in this folder; the same sources give the same bytes.
    """
    if not sources():
        raise FileNotFoundError("The sources are in the source distribution, not in a wheel.")
    if (found := compiler()) is None:
        raise FileNotFoundError("There is no C++ compiler: neither in CXX nor on the path.")
    call, link = [*found, "-std=c++17", *flags], ["-shared"]
    if sys.platform == "win32":
        link += ["-static"] if Path(found[0]).stem == "g++" else []
    else:
        call += ["-fPIC", "-pthread", "-fvisibility=hidden", "-fvisibility-inlines-hidden"]
    if sys.platform == "darwin":
        architectures = {"universal2": ("x86_64", "arm64")}
        names = architectures.get(platform_tag().rpartition("_")[2], (platform.machine(),))
        asked = os.environ.get("ARCHFLAGS") or " ".join(f"-arch {name}" for name in names)
        call += shlex.split(asked)
    elif sys.platform == "linux" and flags == OPTIMISED:
        link += ["-Wl,--strip-all"]
    names = [path.name for path in sources() if path.suffix == ".cpp"]
    objects = [str(folder / f"{name}.o") for name in names]
    named = f'-DMI_METRICS_FINGERPRINT="{fingerprint()}"'
    compiled = [
        [*call, named, "-c", name, "-o", made] for name, made in zip(names, objects, strict=True)
    ]
    return compiled, [*call, *link, *objects, "-o", str(target)]


def build(target: Path = LIBRARY, flags: Sequence[str] = OPTIMISED) -> str | None:
    """Compile the library to a file; return None, or why it could not be, in the compiler's words.

    A library of the same name is replaced in one step, and removed where there is no new one.
    """
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
            made = Path(folder) / target.name
            compiled, link = commands(Path(folder), made, flags)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                failures = [failure for failure in pool.map(_run, compiled) if failure is not None]
            failure = failures[0] if failures else _run(link)
            if failure is None:
                made.replace(target)
                return None
    except OSError as error:
        failure = str(error)
    # One that can't be removed serves only if it is of these sources.
    with contextlib.suppress(OSError):
        target.unlink()
    return failure


def _run(call: list[str]) -> str | None:
    """Run a compiler; return None, or why it failed, in its words."""
    done = subprocess.run(call, cwd=FOLDER, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return done.stderr.strip() or f"exit status {done.returncode}"


def is_current(library: Path = LIBRARY) -> bool:
    """Say whether a library is there that was built of the present sources."""
    name = fingerprint()
    return name is not None and library.exists() and name.encode() in library.read_bytes()


def main() -> None:
    """Build the library into the source tree, if it is not that of the present sources."""
    name = "python -m mi_metrics.kernels.build"
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    parser.add_argument(
        "--output", type=Path, help="where to write it (default: where it is found)"
    )
    parser.add_argument("--sanitize", action="store_true", help="with checks of memory accesses")
    parser.add_argument(
        "--if-possible", action="store_true", help="without a compiler end well, and say so"
    )
    arguments = parser.parse_args()
    if arguments.sanitize and arguments.output is None:
        parser.error("--sanitize needs --output: no interpreter loads that library as it is")
    target = arguments.output or LIBRARY
    flags = SANITISED if arguments.sanitize else OPTIMISED
    if target == LIBRARY and is_current():
        print(f"{target} is up to date")
        return
    failure = build(target, flags)
    print(f"built {target}" if failure is None else f"not built: {failure}")
    if failure is not None and not arguments.if_possible:
        sys.exit(1)


if __name__ == "__main__":
    main()
