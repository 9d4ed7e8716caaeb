"""What `mi-metrics estimate` found, as text."""

import math
import shutil
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from mi_metrics.commands.column_names import label
from mi_metrics.commands.estimate_lines import Estimate, by_value


def _decimals(found: Sequence[Estimate]) -> int:
    """Return how many decimals show two digits of a typical standard error; 3 to 6."""
    errors = [line.standard_error for line in found if line.standard_error]
    return max(3, min(6, 1 - math.floor(math.log10(median(errors))))) if errors else 3


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:z.{decimals}f}"


def _interval(e: Estimate, decimals: int) -> str:
    if e.lower is None or e.upper is None:
        return "-"
    return f"{_number(e.lower, decimals)} to {_number(e.upper, decimals)}"


def lines(found: Sequence[Estimate], unit: str, condition: str | None = None) -> list[str]:
    """Return a table with a line for each pair and estimator."""
    quantity = "MI" if condition is None else f"MI given {label(condition)}"
    decimals = _decimals(found)
    rows = [["x", "y", "estimator", "N", "ignored", f"{quantity} ({unit})", "95 % interval", "p"]]
    for e in found:
        p = "-" if e.p_value is None else "<0.001" if e.p_value < 0.001 else f"{e.p_value:.3f}"
        mi, interval = _number(e.mi, decimals), _interval(e, decimals)
        names = [label(e.x), label(e.y), e.estimator]
        rows.append([*names, str(e.n), str(e.ignored), mi, interval, p])
    if all(e.lower is None and e.p_value is None for e in found):
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


def square(found: Sequence[Estimate], unit: str, condition: str | None = None) -> list[str]:
    """Return a symmetric table for each estimator; the lines of all pairs, largest first, where
    that is too wide.
    """
    decimals = _decimals(found)
    text: list[str] = []
    names, values = matrices(found)
    for estimator, matrix in values.items():
        rows = [["", *map(label, names)]]
        for i, name in enumerate(names):
            cells = [
                "" if i == j else _number(float(matrix[i, j]), decimals) for j in range(len(names))
            ]
            rows.append([label(name), *cells])
        table = _aligned(rows, left=1)
        if max(map(len, table)) > shutil.get_terminal_size().columns:
            return lines(by_value(found), unit, condition)
        given = "" if condition is None else f" given {label(condition)}"
        text += [f"MI{given} in {unit}, {estimator}", *table, ""]
    counts, ignored = [e.n for e in found], [e.ignored for e in found]
    return [*text, f"N: {_span(counts)} rows; ignored: {_span(ignored)}"]


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def matrices(found: Sequence[Estimate]) -> tuple[list[str], dict[str, Tensor]]:
    """Return the names of the columns and the symmetric matrix of each estimator, NaN on the
    diagonal.
    """
    names = list(dict.fromkeys(name for line in found for name in (line.x, line.y)))
    place = {name: i for i, name in enumerate(names)}
    found_matrices: dict[str, Tensor] = {}
    for e in found:
        if e.estimator not in found_matrices:
            found_matrices[e.estimator] = torch.full(
                (len(names), len(names)), math.nan, dtype=torch.float64
            )
        i, j = place[e.x], place[e.y]
        matrix = found_matrices[e.estimator]
        matrix[i, j] = matrix[j, i] = e.mi
    return names, found_matrices
