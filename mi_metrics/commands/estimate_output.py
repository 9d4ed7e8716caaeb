"""The files that `mi-metrics estimate --out` writes: whole, or not at all."""

import csv
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from mi_metrics.commands.column_names import label, shown
from mi_metrics.commands.estimate_lines import Estimate
from mi_metrics.commands.estimate_report import matrices
from mi_metrics.functional.options import require
from mi_metrics.settings import ESTIMATORS, present_name

COLUMNS = (
    *("x", "y", "estimator", "n", "ignored", "mi", "unit"),
    *("standard_error", "lower", "upper", "p_value", "cautions"),
)
SUFFIXES = (".csv", ".json", ".parquet")
# A spreadsheet takes a text that begins so for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(
    found: Sequence[Estimate], unit: str, out: Path, file: str, *, matrix: bool
) -> Iterator[Path]:
    """Write the lines as CSV, JSON or Parquet by the suffix, and a matrix also as a figure that
    names the file it comes from; yield the files.
    """
    rows = [_row(e, unit) for e in found]
    {".csv": _csv, ".json": _json, ".parquet": _parquet}[out.suffix.lower()](rows, out)
    yield out
    if matrix:
        figure = _figure(found, unit, file)
        with warnings.catch_warnings():
            # Letters that the font lacks are drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph")
            _whole(
                path := out.with_suffix(".png"),
                "wb",
                lambda target: figure.savefig(target, dpi=150, format="png"),
            )
        yield path


def _row(e: Estimate, unit: str) -> dict[str, Any]:
    return {
        "x": e.x,
        "y": e.y,
        "estimator": e.estimator,
        "n": e.n,
        "ignored": e.ignored,
        "mi": e.mi,
        "unit": unit,
        "standard_error": e.standard_error,
        "lower": e.lower,
        "upper": e.upper,
        "p_value": e.p_value,
        "cautions": list(e.cautions),
    }


def _whole(path: Path, mode: str, fill: Callable[[IO[Any]], object]) -> None:
    """Write a file beside its place and move it there when it is whole."""
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with NamedTemporaryFile(
        mode, dir=path.parent, prefix=f".{path.name}.", delete=False, **text
    ) as part:
        try:
            fill(part)
            part.flush()
            # Others may read what they could have read if it had been written in place.
            Path(part.name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
            Path(part.name).replace(path)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise


def _csv(rows: Sequence[dict[str, Any]], out: Path) -> None:
    def fill(file: IO[str]) -> None:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            values = row | {"cautions": "; ".join(row["cautions"])}
            values |= {name: _no_formula(row[name]) for name in ("x", "y")}
            writer.writerow(["" if v is None else v for v in values.values()])

    _whole(out, "w", fill)


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _json(rows: Sequence[dict[str, Any]], out: Path) -> None:
    plain = [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in rows
    ]
    _whole(out, "w", lambda file: file.write(json.dumps(plain, indent=1, ensure_ascii=False)))


def _parquet(rows: Sequence[dict[str, Any]], out: Path) -> None:
    pa = require("pyarrow", "cli", "Parquet files")
    parquet = require("pyarrow.parquet", "cli", "Parquet files")
    kinds = {name: pa.string() for name in ("x", "y", "estimator", "unit")}
    kinds |= {name: pa.int64() for name in ("n", "ignored")} | {"cautions": pa.list_(pa.string())}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in COLUMNS])
    table = pa.Table.from_pylist(list(rows), schema=schema)
    _whole(out, "wb", lambda file: parquet.write_table(table, file))


def _figure(found: Sequence[Estimate], unit: str, file: str) -> Any:
    from mi_metrics.plotting import plot_matrices

    names, values = matrices(found)
    # matplotlib reads formulas between dollars.
    labels = [label(name).replace("$", r"\$") for name in names]
    file = shown(file).replace("$", r"\$")
    return plot_matrices(
        {ESTIMATORS[present_name(name)].title: matrix for name, matrix in values.items()},
        labels,
        label=f"mutual information ({unit}); 0: independent",
        title=f"Mutual information between columns of {file}",
    )
