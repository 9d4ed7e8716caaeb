"""The options of `mi-metrics study`, and its help."""

import argparse
import os
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

from mi_metrics.distributions import DISTRIBUTIONS
from mi_metrics.settings import ESTIMATORS, FORMER_NAMES

DRAWS = 64
SIZES = (100, 169, 361, 676, 1296, 2601, 4900)
POINTS = 25

DESCRIPTION = (
    "Measure the accuracy and the duration of the estimators on samples whose mutual information "
    "is known. Writes a table (CSV) and figures; repeated, it continues where it was interrupted."
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    # The width that argparse gives to the options.
    width = shutil.get_terminal_size().columns - 2
    result = argparse.ArgumentParser(
        prog="mi-metrics study",
        description=textwrap.fill(DESCRIPTION, width),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["distributions:", *_distributions(width)]),
    )
    _add_points(result)
    text = "where to write (default: the current folder)"
    result.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help=text)
    default = min(2, os.cpu_count() or 1)
    text = "processes that share the work (default: %(default)s); 1 gives the steadiest durations"
    result.add_argument("--workers", type=_at_least(1), default=default, help=text)
    result.add_argument("--no-figures", action="store_true", help="write the table only")
    return result


def _add_points(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is computed."""
    add = parser.add_argument
    text = "one of those below (default: %(default)s)"
    add("--distribution", choices=DISTRIBUTIONS, default="gaussian", metavar="NAME", help=text)
    add(
        "--estimators",
        nargs="+",
        choices=(*ESTIMATORS, *FORMER_NAMES),
        default=[*ESTIMATORS],
        metavar="NAME",
        help=f"some of {', '.join(ESTIMATORS)}",
    )
    text = "samples per point (default: %(default)s)"
    add("--draws", type=_at_least(2), default=DRAWS, help=text)
    text = f"pairs per sample (default: {' '.join(map(str, SIZES))})"
    add("--sizes", type=_at_least(4), nargs="+", default=SIZES, metavar="N", help=text)
    text = "values of the true information, evenly spaced up to 1.96 nats (default: %(default)s)"
    add("--points", type=_at_least(2), default=POINTS, help=text)
    add("--seed", type=_at_least(0), default=0, help="of the samples (default: 0)")


def _distributions(width: int) -> list[str]:
    return [
        textwrap.fill(
            d.summary, width, initial_indent=f"  {d.name:<18} ", subsequent_indent=" " * 21
        )
        for d in DISTRIBUTIONS.values()
    ]


def _at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, but got {text}")
        return int(text)

    return integer
