"""The options of `mi-metrics estimate`, and its help. Without PyTorch, so that help comes at
once.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from mi_metrics.settings import ESTIMATORS, FORMER_NAMES

DEFAULT = tuple(ESTIMATORS)
MAX_SAMPLES = 100_000
# Resamples, and the most pairs for which they are drawn without being asked for.
PERMUTATIONS, FEW_PAIRS = 199, 20

DESCRIPTION = """\
Estimate the mutual information (MI) between columns of a table in a file. The
file is read in chunks and may be larger than memory. A row counts for a pair of
columns where both hold a value; the others are ignored and counted.
"""

EPILOG = """\
examples:
  mi-metrics estimate trial.csv --y response           every column against it
  mi-metrics estimate trial.csv --x dose age --y response --missing -999
  mi-metrics estimate trial.parquet --matrix --estimator bins --out mi.csv
  torchrun --nproc-per-node 8 -m mi_metrics estimate trials/ --y response

estimators:
  bins  joint histogram: bins of equal frequency, their number chosen from the
        data, bias-corrected (Miller-Madow); a category has a bin of its own, and
        so have few distinct numbers where rows suffice
  kde   kernel densities (Silverman's bandwidth), for continuous numbers
  knn   3 nearest neighbours (Kraskov; Ross for a category beside a number), of
        at most --max-samples rows, always the same ones

output:
  A line for each pair and estimator: N rows used, rows ignored, MI, its 95 %
  interval, and the p-value of independence, all for rows that do not depend on
  each other. The interval covers the error of sampling, not what bins hide. p of
  bins is that of a table of its own, coarser than the bins. An estimate near 0
  may be negative: read it as 0. --y alone puts the largest MI first. --matrix
  prints a square where it fits the terminal, else the pairs. Its diagonal is
  empty: the MI of a column with itself is its entropy, not a dependence.

resampling (--permutations):
  N > 0: p by N permutations (so 1/(N + 1) is the least; knn of 2000 rows), and
  intervals by drawing (bins) or from the scatter among parts of the rows (kde,
  knn). 0: for bins a G-test where 5 rows are expected in each cell, and an
  interval from the standard error; none for kde and knn.

categories and dates:
  Texts and truth values are categories: the 255 most frequent count each, all
  others as one. Numbers that are labels: --discrete. Dates and times are days.

condition (--condition):
  From --max-samples rows. A category, or a number of few values, divides them:
  bins have a table for each value, and knn takes the mean over the values. With
  any other number knn takes the estimator of Frenzel and Pompe, and bins none.

files:
  .csv .tsv .txt .data, also as .gz: a header line, then a line for each row,
  separated by commas, semicolons, tabs, bars or blanks, with decimal points or
  commas; UTF-8 or UTF-16; lines that begin with # are comments. .parquet, or a
  folder of such files. .npy: a 2-D array, whose columns are named 0, 1, ..., or
  a structured array. .npz: arrays of one length, unpacked in memory. Under
  torchrun each process parses the whole of a text file, and reads only its part
  of .parquet and .npy.

exit status:
  0, 1 if the file can't be read or lacks what was asked for, 2 for wrong
  options, 130 after Ctrl-C.
"""


class Settings(NamedTuple):
    """What an estimate is made with."""

    estimators: tuple[str, ...] = DEFAULT
    unit: str = "nats"
    resolution: int = 256
    max_samples: int | None = MAX_SAMPLES
    permutations: int = 0
    standardize: Any = True
    condition: str | None = None


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    result = argparse.ArgumentParser(
        prog="mi-metrics estimate",
        usage="mi-metrics estimate FILE (--y COL... [--x COL...] | --matrix [COL...]) [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_columns(result.add_argument_group("columns"))
    _add_file(result.add_argument_group("file"))
    _add_settings(result.add_argument_group("estimate"))
    _add_output(result.add_argument_group("output"))
    return result


def _add_columns(group: Any) -> None:
    """Add the options that say what is compared."""
    add = group.add_argument
    add("file", metavar="FILE", type=Path, help="see files, below")
    add("--y", nargs="+", metavar="COL", help="columns, each compared with every other column")
    add("--x", nargs="+", metavar="COL", help="only with these")
    text = "every pair of these columns, or of all columns that can be used"
    add("--matrix", nargs="*", metavar="COL", help=text)
    add(
        "--discrete",
        nargs="+",
        metavar="COL",
        default=[],
        help="columns of numbers that are labels",
    )
    text = "MI given this column: what x and y share beyond it"
    add("--condition", metavar="COL", help=text)


def _add_file(group: Any) -> None:
    """Add the options that say how the file is read."""
    add = group.add_argument
    text = "values that mean missing, such as ? or -999"
    add("--missing", nargs="+", metavar="VALUE", default=[], help=text)
    text = "what separates columns of text: , ; | tab or blank (default: what the file shows)"
    add("--delimiter", type=_delimiter, metavar="SIGN", help=text)
    add("--skip", type=_least(0), default=0, metavar="N", help="lines before the header line")
    add("--no-header", action="store_true", help="the first line is data; columns are 0, 1, ...")


def _add_settings(group: Any) -> None:
    """Add the options that say how it is estimated."""
    add = group.add_argument
    add(
        "--estimator",
        nargs="+",
        choices=(*ESTIMATORS, *FORMER_NAMES),
        default=DEFAULT,
        metavar="NAME",
        help=f"which of {', '.join(ESTIMATORS)} (default: all)",
    )
    text = f"resamples (default: {PERMUTATIONS}; 0 for --matrix and more than {FEW_PAIRS} pairs)"
    add("--permutations", type=_least(0), metavar="N", help=text)
    text = f"rows that knn keeps (default: {MAX_SAMPLES}); 0 or all: every row"
    add("--max-samples", type=_max_samples, default=MAX_SAMPLES, metavar="N", help=text)
    text = (
        "how knn scales columns: true (by their deviation, the default), false, rank (normal "
        "scores of ranks, for heavy tails), joint"
    )
    choices = {"true": True, "false": False, "rank": "rank", "joint": "joint"}
    add("--standardize", type=_choice(choices), default=True, metavar="HOW", help=text)
    text = "cells per axis of the grid behind bins and kde (default: 256); more for heavy tails"
    add("--resolution", type=_resolution, default=256, metavar="R", help=text)
    add("--unit", choices=("nats", "bits"), default="nats", help="unit of MI (default: nats)")
    add("--jobs", type=_least(1), default=1, metavar="N", help="processes (default: 1)")


def _add_output(group: Any) -> None:
    """Add the options that say what becomes of the result."""
    add = group.add_argument
    add("--top", type=_least(1), metavar="K", help="only the K pairs of the largest MI")
    text = (
        "also write the lines as .csv, .json or .parquet, and with --matrix a heat map beside it, "
        "as .png"
    )
    add("--out", type=Path, metavar="FILE", help=text)


def _least(least: int) -> Any:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {least}, but got {text!r}"
            )
        return int(text)

    return number


def _choice(choices: dict[str, Any]) -> Any:
    def chosen(text: str) -> Any:
        if text.lower() not in choices:
            raise argparse.ArgumentTypeError(
                f"expected one of {', '.join(choices)}, but got {text!r}"
            )
        return choices[text.lower()]

    return chosen


def _delimiter(text: str) -> str:
    names = ("tab", "\\t", "blank", "space", "pipe")
    if text in names or (len(text) == 1 and text.isprintable() and not text.isalnum()):
        return text
    if text == "\t":
        return "tab"
    raise argparse.ArgumentTypeError(f"expected one sign, or tab or blank, but got {text!r}")


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
