"""The command line's `estimate`: mutual information between columns of a file."""

import argparse
import math
import os
import sys
import warnings
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from mi_metrics import BinnedMutualInformation, KDEMutualInformation, KNNMutualInformation, grid
from mi_metrics.columns import Table, TableError, open_table
from mi_metrics.estimate_table import Estimate, lines, notes, square, write
from mi_metrics.functional import independence_p_value, standard_error
from mi_metrics.metrics.base import IGNORED, SEEN

ESTIMATORS = ("bins", "quantile", "kde", "knn")
DEFAULT = ("bins", "kde", "knn")
MAX_SAMPLES = 100_000
# From here on the user is told beforehand.
MUCH_MEMORY = 2 << 30

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
  bins      joint histogram: bins of equal width, their number chosen from the
            data, bias-corrected (Grassberger); for categories and numbers
  quantile  the same with bins of equal frequency (Miller-Madow): for numbers
            with heavy tails, not for rare categories
  kde       kernel densities (Silverman's bandwidth), for continuous numbers
  knn       3 nearest neighbours (Kraskov), for continuous numbers; of at most
            --max-samples rows, always the same ones

output:
  A line for each pair and estimator: N rows used, rows ignored, MI; of bins
  also its standard error (±) and the p-value of independence (G-test), both for
  rows that do not depend on each other. An estimate near 0 may be negative:
  read it as 0. --matrix prints a square where it fits the terminal, else the
  pairs, largest MI first. Its diagonal is empty: the MI of a column with itself
  is its entropy, not a dependence.

memory:
  bins, quantile and kde share 16 R^2 bytes per pair, R the --resolution (1 MiB);
  knn takes 48 bytes per pair and row kept (4.6 MiB).

NPY: a 2-D array, whose columns are named 0, 1, ..., or a structured array.
"""

# A column with fewer distinct values than one in so many samples is no continuous one.
FEW = 10

# What a metric's warning begins or is recognised by, and what a user of this command can do about it.
NOTES = {
    "coarser than the bins": "the cells of the grid are wider than the bins, as heavy tails, far outliers or very many "
    "rows make it, so MI may be too small: raise --resolution, or replace the columns by logarithms or ranks, which "
    "does not change MI",
    "wider than the bulk": "a few far values, or many equal ones, set the width of the kernel, so the value says "
    "little about the rest: rely on knn or quantile",
    "narrower than half a cell": "the kernel is narrower than the grid resolves, so MI is too small: raise "
    "--resolution, or rely on knn",
    "needs more than n_neighbors": "fewer than 4 rows to use, so there is no value",
    "Repeated samples": "rows that repeat make the part that was kept unrepresentative: rely on bins, or use "
    "--max-samples all",
    "are copies of others": "many rows are exact copies of others, which makes MI far too large: remove the copies",
}
CROWDED = "most values lie in one bin, as heavy tails make it, so MI is too small: rely on quantile or knn"


class Settings(NamedTuple):
    """What an estimate is made with."""

    estimators: tuple[str, ...] = DEFAULT
    unit: Any = "nats"
    resolution: int = 256
    max_samples: int | None = MAX_SAMPLES


def main(args: Sequence[str]) -> None:
    """Run ``estimate``.

    Args:
        args: The name of the command, which is not read, and its options.

    Raises:
        SystemExit: After a message of one line; status 2 if the options do not fit the file, 1 if the file can't be
            read, holds no valid samples or the result can't be written.
        ModuleNotFoundError: If an extra is missing.
    """
    parser = _parser()
    given = parser.parse_args(args[1:])

    def refuse(status: int, error: object) -> NoReturn:
        parser.exit(status, f"mi-metrics: error: {error}\n")

    settings = Settings(tuple(dict.fromkeys(given.estimator)), given.unit, given.resolution, given.max_samples)
    try:
        table = open_table(given.file)
        pairs = _pairs(table, given.x, given.y, given.matrix)
        _check_output(given.out, given.file, given.matrix is not None)
    except (TableError, OSError) as error:
        refuse(2, error)
    _warn_of_memory(table, len(pairs), settings)
    # Pairs are many and each is small: two threads took twice as long as one (780 pairs of 2e5 rows, two cores).
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = estimate(table, pairs, settings)
        if not any(line.n for line in found):
            raise TableError(f"{given.file} has no row in which both columns of a pair hold a finite number.")
    except TableError as error:
        refuse(1, error)
    finally:
        torch.set_num_threads(threads)
    print("\n".join((lines if given.matrix is None else square)(found, settings.unit)))
    for note in notes(found):
        _note(note)
    if given.out is not None:
        try:
            for path in write(found, settings.unit, given.out, given.file.name, matrix=given.matrix is not None):
                print(f"written to {path}", file=sys.stderr)
        except OSError as error:
            refuse(1, f"Can't write the result: {error}.")


def estimate(table: Table, pairs: Sequence[tuple[str, str]], settings: Settings) -> list[Estimate]:
    """Estimate the mutual information of pairs of columns, reading the file once.

    Args:
        table: The file.
        pairs: Pairs of names of numeric columns.
        settings: Estimators and their settings.

    Returns:
        A line for each pair and estimator, in this order.

    Raises:
        TableError: If the file can't be read to its end.
        ModuleNotFoundError: If tqdm is not installed.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from mi_metrics.estimate import Settings, estimate
        >>> x, noise = np.random.default_rng(0).standard_normal((2, 10_000))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "samples.npy"
        ...     np.save(path, np.stack([x, 0.6 * x + 0.8 * noise], 1))  # truth: 0.2231 nats
        ...     for line in estimate(open_table(path), [("0", "1")], Settings()):
        ...         print(f"{line.estimator:4} {line.mi:.4f}")
        bins 0.2162
        kde  0.2203
        knn  0.2232
    """
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    place = {name: i for i, name in enumerate(names)}
    # One joint table serves every estimator that reads one.
    held = [name for name in settings.estimators if name != "knn"][:1]
    held += ["knn"] if "knn" in settings.estimators else []
    reading = settings._replace(max_samples=None) if _keeps_all(table, settings) else settings
    metrics = [{name: _metric(name, reading) for name in held} for _ in pairs]
    with _progress("reading") as bar:
        for chunk in table.chunks(names):
            for (x, y), pair_metrics in zip(pairs, metrics, strict=True):
                for metric in pair_metrics.values():
                    metric.update(chunk.columns[place[x]], chunk.columns[place[y]])
            bar.update(min(chunk.done, 1.0) - bar.n)
    found = []
    with _progress("estimating", len(pairs)) as bar:
        for pair, pair_metrics in zip(pairs, metrics, strict=True):
            for name in settings.estimators:
                metric = pair_metrics.get(name)
                if metric is None:
                    metric = _metric(name, settings)
                    metric.merge_state(pair_metrics[held[0]].metric_state)
                found.append(_evaluate(pair, name, metric, settings))
            # Done with: a kernel density needs more memory than the state.
            pair_metrics.clear()
            bar.update(1)
    return found


def _keeps_all(table: Table, settings: Settings) -> bool:
    """Whether knn keeps every row; a reservoir that can't overflow would be sorted again and again for nothing."""
    return settings.max_samples is None or table.most_rows <= settings.max_samples


def _metric(name: str, settings: Settings) -> Any:
    """Return an estimator with the settings that its documentation recommends."""
    unit, resolution = settings.unit, settings.resolution
    if name == "knn":
        return KNNMutualInformation(max_samples=settings.max_samples, unit=unit, nan_strategy="ignore")
    if name == "kde":
        return KDEMutualInformation(unit=unit, resolution=resolution, nan_strategy="ignore")
    options: Any = {"binning": "quantile", "bias_correction": "miller_madow"} if name == "quantile" else {}
    options = options or {"bias_correction": "grassberger"}
    return BinnedMutualInformation("auto", unit=unit, resolution=resolution, nan_strategy="ignore", **options)


def _evaluate(pair: tuple[str, str], name: str, metric: Any, settings: Settings) -> Estimate:
    ignored = int(metric.counters[IGNORED])
    n = valid = int(metric.counters[SEEN]) - ignored
    both = " and ".join(pair)
    if not n:
        remark = (both, "no row holds a finite number in both")
        return Estimate(*pair, name, 0, ignored, math.nan, None, None, (remark,))
    remarks = []
    if name == "knn" and settings.max_samples is not None and valid > settings.max_samples:
        n = settings.max_samples
        remarks.append((both, f"{n} of {valid} rows used; --max-samples sets how many"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = float(metric.compute())
    for warning in caught:
        text = " ".join(str(warning.message).split())
        remarks.append((both, next((note for sign, note in NOTES.items() if sign in text), text)))
    error = p = None
    if name in ("bins", "quantile"):
        counts = metric.counts()
        error, p = float(standard_error(counts, unit=settings.unit)), float(independence_p_value(counts))
    if name == "bins":
        remarks += [(column, CROWDED) for column, yes in zip(pair, _crowded(metric), strict=True) if yes]
    else:
        remarks += [
            (column, f"{distinct} distinct values only, where continuous ones are expected: rely on bins")
            for column, distinct in zip(pair, _distinct(name, metric), strict=True)
            if FEW * distinct < n
        ]
    return Estimate(*pair, name, n, ignored, value, error, p, tuple(remarks))


def _distinct(name: str, metric: Any) -> list[int]:
    """Return how many distinct values each column has; of more than the grid resolves, one for each sample."""
    if name == "knn":
        (rows,) = metric._rows()
        return [len(column.unique()) for column in rows.unbind(1)]
    cells = grid.view(metric.table)
    return [int(axis.size) if bool(axis.lossless) else int(cells.joint.sum()) for axis in (cells.x, cells.y)]


def _crowded(metric: BinnedMutualInformation) -> list[bool]:
    """Say of each axis whether a bin holds most of the samples though they differ: then bins see the tails only."""
    cells, counts = grid.view(metric.table), metric.counts()
    found = []
    for axis, edges, marginal in zip((cells.x, cells.y), metric.edges(), (counts.sum(1), counts.sum(0)), strict=True):
        fullest = int(marginal.argmax())
        bins = torch.bucketize(axis.centre[0, : int(axis.size[0])], edges[1:-1], right=True)
        # A cell that is wider than a point can hold many values.
        differ = int((bins == fullest).sum()) > 1 or not bool(axis.lossless[0])
        found.append(len(marginal) > 1 and differ and 2 * int(marginal[fullest]) > int(marginal.sum()))
    return found


def _progress(what: str, total: float = 1.0) -> Any:
    """Return a progress bar that shows after two seconds, and on a terminal only."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'The command line needs tqdm. Install it with: pip install "mi-metrics[cli]"', name="tqdm"
        ) from error
    # disable=None: where stderr is no terminal.
    bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return tqdm(total=total, desc=what, delay=2, leave=False, disable=None, bar_format=bar_format)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


# -- options ----------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mi-metrics estimate",
        usage="mi-metrics estimate FILE (--x COL ... --y COL ... | --matrix [COL ...]) [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a .csv (with a header line), .parquet or .npy file")
    parser.add_argument("--x", nargs="+", metavar="COL", help="columns, each paired with every column of --y")
    parser.add_argument("--y", nargs="+", metavar="COL", help="columns")
    parser.add_argument(
        "--matrix", nargs="*", metavar="COL", help="every pair of these columns, or of all columns that hold numbers"
    )
    parser.add_argument(
        "--estimator",
        nargs="+",
        choices=ESTIMATORS,
        default=DEFAULT,
        metavar="NAME",
        help=f"which of {', '.join(ESTIMATORS)} (default: {' '.join(DEFAULT)})",
    )
    parser.add_argument("--unit", choices=("nats", "bits"), default="nats", help="unit of MI (default: nats)")
    parser.add_argument(
        "--max-samples",
        type=_max_samples,
        default=MAX_SAMPLES,
        metavar="N",
        help=f"rows that knn keeps (default: {MAX_SAMPLES}); 0 or all: every row",
    )
    parser.add_argument(
        "--resolution",
        type=_resolution,
        default=256,
        metavar="R",
        help="cells per axis of the grid behind bins, quantile and kde (default: 256); more for heavy tails",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.csv",
        help="also write the lines as CSV, and with --matrix a heat map beside it, as FILE.png",
    )
    return parser


def _max_samples(text: str) -> int | None:
    if text in ("0", "all"):
        return None
    if not text.isdecimal() or int(text) < 4:
        raise argparse.ArgumentTypeError(f"expected a number of at least 4, or all, but got {text!r}")
    return int(text)


def _resolution(text: str) -> int:
    if not text.isdecimal() or not 16 <= int(text) <= 8192:
        raise argparse.ArgumentTypeError(f"expected a number from 16 to 8192, but got {text!r}")
    return int(text)


def _pairs(table: Table, x: list[str] | None, y: list[str] | None, matrix: list[str] | None) -> list[tuple[str, str]]:
    """Return the pairs that the options ask for."""
    if (matrix is None) == (x is None and y is None) or (matrix is None and (x is None or y is None)):
        columns = ", ".join(f"{name} ({kind})" for name, kind in table.types[:30])
        raise TableError(f"Give --x and --y, or --matrix. Columns of {table.path}: {columns}.")
    if matrix is not None:
        names = list(dict.fromkeys(matrix or table.numeric_columns()))
        table.check(names)
        if len(names) < 2:
            raise TableError(f"A matrix needs at least two numeric columns, but {table.path} gives {len(names)}.")
        return list(combinations(names, 2))
    assert x is not None
    assert y is not None
    table.check(x + y)
    pairs = [(a, b) for a, b in dict.fromkeys(product(x, y)) if a != b]
    if not pairs:
        raise TableError("Name different columns: the MI of a column with itself is its entropy, not a dependence.")
    return pairs


def _check_output(out: Path | None, file: Path, matrix: bool) -> None:
    """Refuse, before anything is read, a place where the result can't be written."""
    if out is None:
        return
    if out.suffix.lower() != ".csv" or out.is_dir():
        raise TableError(f"Expected --out to be a file that ends in .csv, but got {out}.")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise TableError(f"Can't write to the folder {out.parent} of --out. Name one that exists and is writable.")
    if out.exists() and out.samefile(file):
        raise TableError(f"--out would overwrite {file}. Name another file.")
    if matrix:
        from mi_metrics.plotting import require_matplotlib

        require_matplotlib()


def _warn_of_memory(table: Table, pairs: int, settings: Settings) -> None:
    # Metrics hold their states twice: what they are and what they are reset to.
    need = 16 * settings.resolution**2 if set(settings.estimators) - {"knn"} else 0
    if "knn" in settings.estimators:
        need += 16 * table.most_rows if _keeps_all(table, settings) else 48 * (settings.max_samples or 0)
    if (need := pairs * need) > MUCH_MEMORY:
        _note(
            f"{pairs} pairs may need {need / 2**30:.0f} GiB of memory: name fewer columns or estimators, or lower "
            "--max-samples or --resolution"
        )
