"""The command line's `estimate`: mutual information between columns of a file."""

import math
import os
import sys
import warnings
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any, NoReturn

import torch

from mi_metrics.commands.column_names import label, shown
from mi_metrics.commands.columns import Table, TableError, open_table
from mi_metrics.commands.estimate_counts import FEW, p_value
from mi_metrics.commands.estimate_options import Settings, parser
from mi_metrics.commands.estimate_report import Estimate, lines, notes, square, write
from mi_metrics.functional import standard_error
from mi_metrics.functional.cautions import Kind, MutualInformationWarning
from mi_metrics.functional.options import require
from mi_metrics.settings import ESTIMATORS
from mi_metrics.states import grid

BINNED = ("bins", "quantile-bins")
# With fewer rows there is no value to rely on, whatever else there is to be noted.
LEAST_ROWS = 30
# Bytes from which on the user is warned beforehand.
MUCH_MEMORY = 2 << 30

# The advice for a caution; the others are printed in their own words.
ADVICE: dict[Kind, str] = {
    "coarse grid": "the cells of the grid are wider than the bins, as heavy tails, far outliers or "
    "very many rows make it, so MI may be too small: raise --resolution, or replace the columns by "
    "logarithms or ranks, which does not change MI",
    "shared bins": "few distinct values tell more than the bins that they share, as categories do: "
    "MI is too small, and rows are too few to give each value a bin",
    "rising": "twice the bins would show more, so MI is too small: rely on knn",
    "undersampled": "many rows are alone in their cell, so they are too few to rely on the value",
    "wide kernel": "a few far values, or many equal ones, set the width of the kernel, so the "
    "value says little about the rest: rely on bins",
    "narrow kernel": "the kernel is narrower than the grid resolves, so MI is too small: raise "
    "--resolution, or rely on knn",
    "too few": "fewer than 4 rows to use, so there is no value",
    "far samples": "a few far values hide the rest from the neighbours, so MI may be too small: "
    "rely on bins, or replace the columns by logarithms or ranks, which does not change "
    "MI",
    "copies": "many rows are exact copies of others: remove them where they are mistakes, which "
    "make MI far too large, and rely on bins where they are data",
}
NO_P = (
    "no p-value, because a value is too rare, or rows are too few, to expect 5 rows in every cell"
)


class OptionError(ValueError):
    """Options that contradict each other or can't be followed, in one line."""


def main(args: Sequence[str]) -> None:
    """Run ``estimate``.

    Args:
        args: The name of the command, which is not read, and its options.

    Raises:
        SystemExit: After a message of one line; status 2 if the options are wrong, 1 if the file
            can't be read, lacks a column that was asked for, holds no numbers there, or the result
            can't be written.
        ModuleNotFoundError: If an extra is missing.
    """
    options = parser()
    given = options.parse_args(args[1:])

    def refuse(status: int, error: object) -> NoReturn:
        options.exit(status, f"mi-metrics: error: {error}\n")

    settings = Settings(
        tuple(dict.fromkeys(given.estimator)), given.unit, given.resolution, given.max_samples
    )
    matrix = given.matrix is not None
    # Pairs are many and each is small: two threads took twice as long as one (780 pairs of 2e5
    # rows, two cores).
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        table = open_table(given.file)
        pairs = _pairs(table, given.x, given.y, given.matrix)
        _check_output(given.out, given.file, matrix)
        _warn_of_memory(table, len(pairs), settings)
        found = estimate(table, pairs, settings)
        if not any(line.n for line in found):
            raise TableError(
                f"{given.file} has no row in which both columns of a pair hold a finite number."
            )
    except OptionError as error:
        refuse(2, error)
    except (TableError, OSError) as error:
        refuse(1, error)
    finally:
        torch.set_num_threads(threads)
    # The files are written before anything is printed, for a reader that takes a few lines and
    # leaves.
    written: list[Path] = []
    failure: OSError | None = None
    try:
        if given.out is not None:
            for path in write(found, settings.unit, given.out, given.file.name, matrix=matrix):
                written.append(path)
    except OSError as error:
        failure = error
    print("\n".join((square if matrix else lines)(found, settings.unit)))
    for note in notes(found):
        _note(note)
    for path in written:
        print(f"written to {path}", file=sys.stderr)
    if failure is not None:
        refuse(1, f"Can't write the result: {failure}.")


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
        >>> from mi_metrics.commands.estimate import Settings, estimate
        >>> x, noise = np.random.default_rng(0).standard_normal((2, 10_000))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "samples.npy"
        ...     np.save(path, np.stack([x, 0.6 * x + 0.8 * noise], 1))  # truth: 0.2231 nats
        ...     for line in estimate(open_table(path), [("0", "1")], Settings()):
        ...         print(f"{line.estimator:4} {line.mi:.4f}")
        bins 0.2126
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
            # Both states are released, because a kernel density needs more memory than they do.
            pair_metrics.clear()
            bar.update(1)
    return found


def _keeps_all(table: Table, settings: Settings) -> bool:
    """Whether knn keeps every row; a reservoir that can't overflow would be sorted again and again
    to no effect.
    """
    return settings.max_samples is None or table.most_rows <= settings.max_samples


def _metric(name: str, settings: Settings) -> Any:
    """Return an estimator with the settings that its documentation recommends."""
    own: dict[str, Any] = (
        {"max_samples": settings.max_samples}
        if name == "knn"
        else {"resolution": settings.resolution}
    )
    return ESTIMATORS[name].metric(unit=settings.unit, nan_strategy="ignore", **own)


def _evaluate(pair: tuple[str, str], name: str, metric: Any, settings: Settings) -> Estimate:
    ignored = int(metric.ignored)
    n = valid = int(metric.seen) - ignored
    columns = [label(name) for name in pair]
    both = " and ".join(columns)
    if not n:
        remark = (both, "no row holds a finite number in both")
        return Estimate(*pair, name, 0, ignored, math.nan, None, None, (remark,))
    if name == "knn" and settings.max_samples is not None:
        n = min(n, settings.max_samples)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = float(metric.compute())
    error = p = None
    remarks = (
        [(both, f"{n} of {valid} rows used; --max-samples sets how many")] if n < valid else []
    )
    remarks += [(both, advice(warning.message)) for warning in caught]
    if name in BINNED:
        error = float(standard_error(metric.counts(), unit=metric.unit))
        p = p_value(grid.view(metric.table))
        if p is None:
            remarks.append((both, NO_P))
    else:
        remarks += [
            (
                column,
                f"{distinct} distinct values only, where continuous ones are expected: rely on "
                f"bins",
            )
            for column, distinct in zip(columns, _distinct(name, metric), strict=True)
            if distinct > 1 and FEW * distinct < n
        ]
    if n < LEAST_ROWS and not math.isnan(value):
        remarks = [(both, f"fewer than {LEAST_ROWS} rows, too few to rely on the value")]
    return Estimate(*pair, name, n, ignored, value, error, p, tuple(remarks))


def advice(message: Warning | str) -> str:
    """Return what a user of this command can do about a warning."""
    if isinstance(message, MutualInformationWarning) and message.kind in ADVICE:
        return ADVICE[message.kind]
    return " ".join(str(message).split())


def _distinct(name: str, metric: Any) -> list[int]:
    """Return how many distinct values each column has; of more than the grid resolves, one for each
    sample.
    """
    if name == "knn":
        (rows,) = metric.rows()
        return [len(column.unique()) for column in rows.unbind(1)]
    cells = grid.view(metric.table)
    return [
        int(axis.size) if bool(axis.lossless) else int(cells.joint.sum())
        for axis in (cells.x, cells.y)
    ]


def _progress(what: str, total: float = 1.0) -> Any:
    """Return a progress bar that shows after two seconds, and on a terminal only."""
    tqdm = require("tqdm", "cli", "The commands").tqdm
    # `disable=None` hides the bar where stderr is not a terminal.
    bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return tqdm(total=total, desc=what, delay=2, leave=False, disable=None, bar_format=bar_format)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _pairs(
    table: Table, x: list[str] | None, y: list[str] | None, matrix: list[str] | None
) -> list[tuple[str, str]]:
    """Return the pairs that the options ask for."""
    if (matrix is None) == (x is None and y is None) or (
        matrix is None and (x is None or y is None)
    ):
        columns = ", ".join(
            f"{label(name)} ({shown(str(kind))})" for name, kind in table.types[:30]
        )
        raise OptionError(f"Give --x and --y, or --matrix. Columns of {table.path}: {columns}.")
    if matrix is not None:
        names = list(dict.fromkeys(matrix or table.numeric_columns()))
        table.check(names)
        if len(names) < 2:
            kind: type[ValueError] = OptionError if matrix else TableError
            raise kind(
                f"A matrix needs at least two numeric columns, but {table.path} gives {len(names)}."
            )
        return list(combinations(names, 2))
    assert x is not None
    assert y is not None
    table.check(x + y)
    pairs = [(a, b) for a, b in dict.fromkeys(product(x, y)) if a != b]
    if not pairs:
        raise OptionError(
            "Name different columns: the MI of a column with itself is its entropy, not a "
            "dependence."
        )
    return pairs


def _check_output(out: Path | None, file: Path, matrix: bool) -> None:
    """Refuse, before anything is read, a place where the result can't be written."""
    if out is None:
        return
    if out.suffix.lower() != ".csv" or out.is_dir():
        raise OptionError(f"Expected --out to be a file that ends in .csv, but got {out}.")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise OptionError(
            f"Can't write to the folder {out.parent} of --out. Name one that exists and is "
            f"writable."
        )
    if out.exists() and out.samefile(file):
        raise OptionError(f"--out would overwrite {file}. Name another file.")
    if matrix:
        from mi_metrics.plotting import require_matplotlib

        require_matplotlib()


def _warn_of_memory(table: Table, pairs: int, settings: Settings) -> None:
    # These are measured figures: a metric holds its state more than once, also as what it is reset
    # to.
    need = 30 * settings.resolution**2 if set(settings.estimators) - {"knn"} else 0
    if "knn" in settings.estimators:
        need += (
            16 * table.most_rows
            if _keeps_all(table, settings)
            else 96 * (settings.max_samples or 0)
        )
    if (need := pairs * need) > MUCH_MEMORY:
        _note(
            f"{pairs} pairs may need {need / 2**30:.0f} GiB of memory: name fewer columns or "
            "estimators, or lower --max-samples or --resolution"
        )
