"""Columns of categories: which texts or numbers they hold, and a code for each of the most
frequent.
"""

import re
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mi_metrics.commands.column_names import quoted
from mi_metrics.commands.csv_dialect import THOUSANDS
from mi_metrics.commands.table import is_number

# A row for each of so many categories, and one for all others.
MOST = 255
# Distinct values that are counted; a column of more is no column of categories.
MOST_COUNTED = 50_000
# Categories that have no more than this share of the rows each, on average, are names of rows.
ROWS_PER_LABEL = 2
# The share of numbers among texts from which on the others are foreign.
MOSTLY = 0.5

# What people write where a value is missing, and PyArrow takes for a text.
MISSING = frozenset({"?", "-", "--", ".", "..", "nil", "none", "missing", "unknown", "n.a.", "na"})
# Texts that are numbers to people, and what to do about them.
DISGUISES = (
    (
        r"[-+(]?\s*[$€£¥]\s*[\d.,' ]+\)?|[\d.,' ]+\s*[$€£¥]",
        "an amount of money: write the number alone",
    ),
    (r"[-+]?[\d.,]+\s*%", "a percentage: write the number alone"),
    (r"0[xX][0-9a-fA-F]+", "a hexadecimal number: write it in decimal digits"),
    (
        r"\d{1,2}([./-])\d{1,2}\1(\d{4}|\d\d)",
        "a date: write it as in 2026-11-30, or number the days",
    ),
    (r"[-+]?(\d+\.?\d*|\.\d+)[dD][-+]?\d+", "a number of Fortran: write E in place of D"),
    (
        THOUSANDS,
        "a number with a decimal mark or one of thousands: write a decimal point, and nothing "
        "between thousands",
    ),
    (
        r"[-+]?\d[\d.,' ]*[.,' ]\d+",
        "a number with several marks: write one decimal mark and nothing between thousands",
    ),
)


class Counts(NamedTuple):
    """How often each value of a column occurs."""

    numbers: Counter[Any]
    more: bool = False  # whether there are more values than are counted

    def __add__(self, other: "Counts") -> "Counts":  # type: ignore[override]
        both = self.numbers + other.numbers
        return Counts(both, self.more or other.more or len(both) > MOST_COUNTED)


class Labels(NamedTuple):
    """The categories of a column; each has its place as code, and all others the one after."""

    values: tuple[Any, ...]
    others: int  # how many other categories there are

    def code(self, column: Any) -> Tensor:
        """Return the codes of texts (an array of PyArrow) or of numbers (a tensor), NaN where they
        are missing.
        """
        if isinstance(column, Tensor):
            return self._numbers(column)
        pa, compute = import_module("pyarrow"), import_module("pyarrow.compute")
        known = pa.array(self.values, column.type)
        codes = compute.fill_null(compute.index_in(column, value_set=known), len(self.values))
        gone = compute.is_null(column)
        codes = compute.if_else(gone, pa.scalar(None, codes.type), codes)
        found = codes.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return torch.from_numpy(np.array(found))

    def _numbers(self, column: Tensor) -> Tensor:
        column = column.double()
        if not self.values:
            return torch.full_like(column, torch.nan)
        known = torch.tensor(sorted(self.values), dtype=torch.float64)
        place = torch.searchsorted(known, column.contiguous()).clamp(max=len(known) - 1)
        codes = torch.where(known[place] == column, place.double(), float(len(known)))
        return torch.where(column.isfinite(), codes, torch.nan)


def counted(column: Any) -> Counts:
    """Return how often each value of a batch occurs: texts, or finite numbers."""
    if isinstance(column, Tensor):
        finite = column.double()[column.isfinite()]
        values, numbers = torch.unique(finite, return_counts=True)
        found = Counter(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    else:
        pairs = import_module("pyarrow.compute").value_counts(column).to_pylist()
        found = Counter({p["values"]: p["counts"] for p in pairs if p["values"] is not None})
    return Counts(found, len(found) > MOST_COUNTED)


def labels_of(counts: Counts, most: int = MOST) -> Labels:
    """Return the categories of a column, the most frequent first, at most so many and all others as
    one.
    """
    # All of them where no more than one would be left: it is a row of its own all the same.
    kept = len(counts.numbers) if len(counts.numbers) <= most + 1 else most
    order = sorted(counts.numbers, key=lambda value: (-counts.numbers[value], value))
    return Labels(tuple(order[:kept]), len(order) - kept)


def why_no_labels(counts: Counts, *, asked: bool, mark: str = ".") -> str | None:
    """Return why texts are not categories, and what to do, or None.

    Args:
        counts: How often each text occurs.
        asked: Whether the user has named the column.
        mark: The decimal mark of the file's numbers.
    """
    rows, texts = counts.numbers.total(), list(counts.numbers)
    if not rows:
        return None
    rows_of_numbers = sum(n for text, n in counts.numbers.items() if _is_number(text, mark))
    foreign = [text for text in texts if not _is_number(text, mark)]
    for pattern, what in DISGUISES:
        alike = [text for text in foreign if re.fullmatch(pattern, text.strip())]
        numbers = sum(counts.numbers[t] for t in alike) + rows_of_numbers
        if alike and numbers > MOSTLY * rows:
            return f"holds {quoted(alike[0])}, {what}"
    if rows_of_numbers > MOSTLY * rows and foreign:
        return f"holds numbers and {quoted(foreign[0])}: {_remedy(foreign)}"
    if counts.more:
        return (
            f"holds more than {MOST_COUNTED} distinct texts, for example {quoted(texts[0])}: they "
            "are no categories"
        )
    if not asked and len(texts) > MOST and ROWS_PER_LABEL * len(texts) > rows:
        return f"holds a text of its own in most rows, for example {quoted(texts[0])}"
    if not asked and len(texts) > 1 and len(texts) == rows:
        return f"holds a text of its own in each row, for example {quoted(texts[0])}"
    return None


def _is_number(text: str, mark: str) -> bool:
    return is_number(text) if mark == "." else "." not in text and is_number(text.replace(",", "."))


def _remedy(foreign: Iterable[str]) -> str:
    markers = list(foreign)
    if len(markers) <= 3:
        given = " ".join(f"'{text}'" for text in markers)
        return f"if it marks a missing value, pass --missing {given}"
    return f"so do {len(markers) - 1} other texts; if all are missing values, write empty fields"
