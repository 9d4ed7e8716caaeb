"""What `mi-metrics estimate` found: as text, as CSV and as a figure."""

import csv
import math
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.commands.column_names import label, shown
from mi_metrics.settings import ESTIMATORS


class Estimate(NamedTuple):
    """A line of the result; MI and its standard error are in the unit that was asked for, NaN
    without samples.
    """

    x: str
    y: str
    estimator: str
    n: int
    ignored: int
    mi: float
    standard_error: float | None
    p_value: float | None
    notes: tuple[tuple[str, str], ...]  # each with the column or the pair that it is about


def notes(found: Iterable[Estimate]) -> Iterator[str]:
    """Return each note once, with the estimators and the columns or pairs that it is about."""
    subjects: dict[tuple[str, str], list[str]] = {}
    for e in found:
        for subject, text in e.notes:
            subjects.setdefault((text, e.estimator), []).append(subject)
    estimators: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (text, estimator), listed in subjects.items():
        estimators.setdefault((text, tuple(dict.fromkeys(listed))), []).append(estimator)
    for (text, about), names in estimators.items():
        more = f" and {len(about) - 3} more" if len(about) > 4 else ""
        yield f"{' and '.join(names)}, {'; '.join(about[: 3 if more else None])}{more}: {text}"


def _decimals(found: Iterable[Estimate]) -> int:
    """Return how many decimals show two digits of a typical standard error; 3 to 6."""
    errors = [line.standard_error for line in found if line.standard_error]
    return max(3, min(6, 1 - math.floor(math.log10(median(errors))))) if errors else 3


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:z.{decimals}f}"


def lines(found: Sequence[Estimate], unit: str) -> list[str]:
    """Return a table with a line for each pair and estimator."""
    decimals = _decimals(found)
    rows = [["x", "y", "estimator", "N", "ignored", f"MI ({unit})", "±", "p"]]
    for e in found:
        p = "-" if e.p_value is None else "<0.001" if e.p_value < 0.001 else f"{e.p_value:.3f}"
        mi, error = _number(e.mi, decimals), _number(e.standard_error, decimals)
        rows.append([label(e.x), label(e.y), e.estimator, str(e.n), str(e.ignored), mi, error, p])
    if all(e.standard_error is None for e in found):
        rows = [row[:6] for row in rows]
    return _aligned(rows, left=3)


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def square(found: Sequence[Estimate], unit: str) -> list[str]:
    """Return a symmetric table for each estimator; the lines of all pairs, largest first, where
    that is too wide.
    """
    decimals = _decimals(found)
    text: list[str] = []
    names, matrices = _matrices(found)
    for estimator, values in matrices.items():
        rows = [["", *map(label, names)]]
        for i, name in enumerate(names):
            cells = [
                "" if i == j else _number(float(values[i, j]), decimals) for j in range(len(names))
            ]
            rows.append([label(name), *cells])
        table = _aligned(rows, left=1)
        if max(map(len, table)) > shutil.get_terminal_size().columns:
            order = list(matrices)
            largest_first = sorted(
                found, key=lambda e: (order.index(e.estimator), -e.mi if e.mi == e.mi else math.inf)
            )
            return lines(largest_first, unit)
        text += [f"MI in {unit}, {estimator}", *table, ""]
    counts, ignored = [e.n for e in found], [e.ignored for e in found]
    return [*text, f"N: {_span(counts)} rows; ignored: {_span(ignored)}"]


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _matrices(found: Sequence[Estimate]) -> tuple[list[str], dict[str, Tensor]]:
    """Return the names of the columns and the symmetric matrix of each estimator, NaN on the
    diagonal.
    """
    names = list(dict.fromkeys(name for line in found for name in (line.x, line.y)))
    place = {name: i for i, name in enumerate(names)}
    matrices: dict[str, Tensor] = {}
    for e in found:
        if e.estimator not in matrices:
            matrices[e.estimator] = torch.full(
                (len(names), len(names)), math.nan, dtype=torch.float64
            )
        i, j = place[e.x], place[e.y]
        matrices[e.estimator][i, j] = matrices[e.estimator][j, i] = e.mi
    return names, matrices


def write(
    found: Sequence[Estimate], unit: str, out: Path, file: str, *, matrix: bool
) -> Iterator[Path]:
    """Write the lines as CSV, and a matrix also as a figure that names the file it comes from."""
    with out.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(
            ["x", "y", "estimator", "n", "ignored", "mi", "unit", "standard_error", "p_value"]
        )
        for e in found:
            optional = ["" if v is None else v for v in (e.standard_error, e.p_value)]
            writer.writerow([e.x, e.y, e.estimator, e.n, e.ignored, e.mi, unit, *optional])
    yield out
    if matrix:
        from mi_metrics.plotting import plot_matrices

        names, matrices = _matrices(found)
        # matplotlib reads formulas between dollars.
        labels = [label(name).replace("$", r"\$") for name in names]
        file = shown(file).replace("$", r"\$")
        named = {ESTIMATORS[estimator].title: values for estimator, values in matrices.items()}
        quantity, title = (
            f"mutual information ({unit}); 0: independent",
            f"Mutual information between columns of {file}",
        )
        figure = plot_matrices(named, labels, label=quantity, title=title)
        with warnings.catch_warnings():
            # Letters that the font lacks are drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(path := out.with_suffix(".png"), dpi=150)
        yield path
