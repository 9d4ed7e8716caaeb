"""The command line's `estimate`: mutual information between columns of a file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mi_metrics.commands.estimate_options import parser

SUFFIXES = (".csv", ".json", ".parquet")


def main(args: Sequence[str]) -> None:
    """Run ``estimate``.

    Args:
        args: The name of the command, which is not read, and its options.

    Raises:
        SystemExit: After a message of one line; status 2 if the options are wrong, 1 if the file
            can't be read, lacks a column that was asked for, holds nothing to use there, or the
            result can't be written.
        ModuleNotFoundError: If an extra is missing.
    """
    options = parser()
    given = options.parse_args(args[1:])
    if error := _wrong(given):
        options.exit(2, f"mi-metrics: error: {error}\n")
    # PyTorch is imported now that the options are known to make sense.
    from mi_metrics.commands.estimate_run import RefusalError, run

    try:
        run(given)
    except RefusalError as refusal:
        options.exit(refusal.status, f"mi-metrics: error: {refusal}\n" if str(refusal) else None)


def _wrong(given: Any) -> str | None:
    """Return what is wrong with the options, as far as they alone show it."""
    if given.matrix is not None and (given.x or given.y):
        return "Give --y (and --x), or --matrix, not both."
    if given.x and not given.y:
        return "--x needs --y: name the columns that those of --x are compared with."
    if given.condition is not None and given.condition in [*(given.x or ()), *(given.y or ())]:
        return "--condition is a column of its own, not one of --x or --y."
    if given.out is not None:
        return _wrong_output(given.out, given.file)
    return None


def _wrong_output(out: Path, file: Path) -> str | None:
    """Return why a result can't be written to a place, before anything is read."""
    if out.suffix.lower() not in SUFFIXES or out.is_dir():
        return f"Expected --out to be a file that ends in {' or '.join(SUFFIXES)}, but got {out}."
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        return (
            f"Can't write to the folder {out.parent} of --out. Name one that exists, and is yours."
        )
    if out.exists() and file.exists() and out.samefile(file):
        return f"--out would overwrite {file}. Name another file."
    if file.is_dir() and file.resolve() in out.resolve().parents and out.suffix == ".parquet":
        return f"--out would become a part of {file}. Name another folder."
    return None
