"""The options of `mi-metrics estimate`, and its help."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from mi_metrics.settings import ESTIMATORS

DEFAULT = ("bins", "kde", "knn")
MAX_SAMPLES = 100_000

DESCRIPTION = """\
Estimate the mutual information (MI) between columns of a CSV, Parquet or NPY
file. The file is read once, in chunks, and may be larger than memory. A row
counts for a pair of columns where both hold a finite number; the others are
ignored and counted.
"""

EPILOG = """\
examples:
  mi-metrics estimate trial.csv --x dose age --y response
  mi-metrics estimate trial.parquet --matrix --estimator bins --out mi.csv

estimators:
  bins           joint histogram: bins of equal frequency, their number chosen
                 from the data, bias-corrected (Miller-Madow); for categories
                 and numbers. A column of few distinct values has a bin for each
                 where rows suffice
  quantile-bins  the same, with bins of equal frequency for every column
  kde            kernel densities (Silverman's bandwidth), for continuous numbers
  knn            3 nearest neighbours (Kraskov), for continuous numbers; of at
                 most --max-samples rows, always the same ones

output:
  A line for each pair and estimator: N rows used, rows ignored, MI; of bins
  also its standard error (±) and a p-value of independence, both for rows that
  do not depend on each other. p is of a G-test on a table of its own, coarser
  than the bins: as fine as its law allows, with 5 rows or more expected in each
  cell, and left out where there is no such table. An estimate near 0 may be
  negative: read it as 0. --matrix prints a square where it fits the terminal,
  else the pairs, largest MI first. Its diagonal is empty: the MI of a column
  with itself is its entropy, not a dependence.

memory:
  bins, quantile-bins and kde share about 30 R^2 bytes per pair, R the
  --resolution (1.9 MiB); knn takes 96 bytes per pair and row kept (9.2 MiB).

files:
  CSV: a header line, then numbers, separated by commas, or by semicolons or
  tabs, with decimal commas or points; UTF-8 or UTF-16. NPY: a 2-D array, whose
  columns are named 0, 1, ..., or a structured array.

exit status:
  0, 1 if the file can't be read or lacks what was asked for, 2 for wrong
  options, 130 after Ctrl-C.
"""


class Settings(NamedTuple):
    """What an estimate is made with."""

    estimators: tuple[str, ...] = DEFAULT
    unit: Any = "nats"
    resolution: int = 256
    max_samples: int | None = MAX_SAMPLES


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    result = argparse.ArgumentParser(
        prog="mi-metrics estimate",
        usage="mi-metrics estimate FILE (--x COL ... --y COL ... | --matrix [COL ...]) [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_columns(result)
    _add_settings(result)
    result.add_argument(
        "--out",
        type=Path,
        metavar="FILE.csv",
        help="also write the lines as CSV, and with --matrix a heat map beside it, as FILE.png",
    )
    return result


def _add_columns(result: argparse.ArgumentParser) -> None:
    """Add the options that say what is read."""
    result.add_argument(
        "file", metavar="FILE", type=Path, help="a .csv (with a header line), .parquet or .npy file"
    )
    result.add_argument(
        "--x", nargs="+", metavar="COL", help="columns, each paired with every column of --y"
    )
    result.add_argument("--y", nargs="+", metavar="COL", help="columns")
    result.add_argument(
        "--matrix",
        nargs="*",
        metavar="COL",
        help="every pair of these columns, or of all columns that hold numbers",
    )


def _add_settings(result: argparse.ArgumentParser) -> None:
    """Add the options that say how it is estimated."""
    result.add_argument(
        "--estimator",
        nargs="+",
        choices=ESTIMATORS,
        default=DEFAULT,
        metavar="NAME",
        help=f"which of {', '.join(ESTIMATORS)} (default: {' '.join(DEFAULT)})",
    )
    result.add_argument(
        "--unit", choices=("nats", "bits"), default="nats", help="unit of MI (default: nats)"
    )
    result.add_argument(
        "--max-samples",
        type=_max_samples,
        default=MAX_SAMPLES,
        metavar="N",
        help=f"rows that knn keeps (default: {MAX_SAMPLES}); 0 or all: every row",
    )
    result.add_argument(
        "--resolution",
        type=_resolution,
        default=256,
        metavar="R",
        help="cells per axis of the grid behind bins, quantile-bins and kde (default: 256); more "
        "for heavy tails",
    )


def _max_samples(text: str) -> int | None:
    if text in ("0", "all"):
        return None
    if not text.isdecimal() or int(text) < 4:
        raise argparse.ArgumentTypeError(
            f"expected a number of at least 4, or all, but got {text!r}"
        )
    return int(text)


def _resolution(text: str) -> int:
    if not text.isdecimal() or not 16 <= int(text) <= 8192:
        raise argparse.ArgumentTypeError(f"expected a number from 16 to 8192, but got {text!r}")
    return int(text)
