"""What the readers of all kinds of files have in common: named columns, read in batches of rows.

Numbers keep their precision: float32 and float16 arrive as float32, everything else that is a
number (integers, decimals) as float64, dates as days in float64. Missing values arrive as NaN.
Texts arrive as PyArrow's arrays.
"""

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mi_metrics.commands.column_names import listed, quoted, shown
from mi_metrics.functional.tensors import MAX_EXACT

# A chunk of few columns has ROWS rows, which spreads the fixed price of an update; one of many
# columns has fewer, so that it holds about VALUES numbers, down to LEAST_ROWS.
ROWS, LEAST_ROWS, VALUES = 1 << 18, 1 << 15, 1 << 21

# What a column holds: numbers; truth values; texts; dates, which become numbers; or something that
# can't be used.
Kind = Literal["number", "flag", "text", "date", "other"]


class TableError(ValueError):
    """A file that can't be read, or a column that is missing, ambiguous or can't be used, in one
    line.
    """


class ColumnError(TableError):
    """A column whose values have no place in float64.

    Args:
        path: The file.
        name: The column.
        reason: What it does, as the end of a sentence.
    """

    def __init__(self, path: Path, name: str, reason: str) -> None:
        super().__init__(path, name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"Column {quoted(self.name)} of {self.args[0]} {self.reason}."


class TextFoundError(Exception):
    """A column that begins with numbers holds a text further down.

    Args:
        name: The column.
        value: The text.
    """

    def __init__(self, name: str, value: str) -> None:
        super().__init__(name, value)
        self.name, self.value = name, value


class Source(NamedTuple):
    """How a file is to be read, as far as the user says."""

    delimiter: str | None = None
    skip: int = 0
    header: bool = True
    missing: tuple[str, ...] = ()


class Share(NamedTuple):
    """Which part of a file this process reads: one of several that share it."""

    rank: int = 0
    ranks: int = 1

    def has(self, part: int) -> bool:
        """Whether a part of the file, by its number, is this process's."""
        return part % self.ranks == self.rank


class Batch(NamedTuple):
    """Some rows of a file, in order."""

    # In the order in which they were asked for: tensors (n,) of float32 or float64, texts as arrays
    # of PyArrow.
    columns: list[Any]
    start: int  # the number of the first row, counted from 0
    done: float  # the fraction of the file that has been read

    def __len__(self) -> int:
        return len(self.columns[0])


class Table(ABC):
    """A file with named columns.

    Attributes:
        path: The file.
        source: How it is read.
        types: The name and the type of each column, as the file has it.
        most_rows: A number that the rows do not exceed.
        notes: What was guessed about the file.
        decimal_mark: That of the numbers in its texts.
        unfit: Columns that are left out, and why.
    """

    path: Path
    types: list[tuple[str, Any]]
    most_rows: int
    source: Source
    decimal_mark: str = "."
    # The errors that the library which reads the file raises over a file that it can't read.
    _errors: tuple[type[Exception], ...] = (OSError, ValueError)

    def __init__(self, path: Path, source: Source) -> None:
        self.path, self.source, self.notes = path, source, list[str]()
        # Columns that are read as texts, whatever they begin with.
        self._texts: set[str] = set()
        self.unfit: dict[str, str] = {}
        try:
            self._open()
        except TableError:
            raise
        except self._errors as error:
            raise self.unreadable(error) from error

    @property
    def texts(self) -> frozenset[str]:
        """Columns that are read as texts, whatever they begin with."""
        return frozenset(self._texts)

    def names(self) -> list[str]:
        """Return the names of all columns, in the order of the file."""
        return [name for name, _ in self.types]

    def kind(self, name: str) -> Kind:
        """Return what a column holds."""
        return "text" if name in self._texts else self._kind(dict(self.types)[name])

    def read_as_text(self, name: str) -> None:
        """Read a column as texts from now on."""
        self._texts.add(name)

    def leave_out(self, name: str, reason: str) -> None:
        """Use a column no more, for a reason that only its values have shown."""
        self.unfit[name] = reason

    def check(self, names: Iterable[str]) -> None:
        """Refuse columns that are missing, that share their name, or that can't be used.

        Raises:
            TableError: With what there is instead, and what to do.
        """
        there = self.names()
        for name in names:
            if name not in there:
                close = difflib.get_close_matches(name, there, n=3)
                meant = f" Did you mean {listed(close, 'or')}?" if close else ""
                raise TableError(
                    f"{self.path} has no column {quoted(name)}.{meant} Its columns: "
                    f"{listed(there)}."
                )
            if there.count(name) > 1:
                raise TableError(
                    f"{self.path} has {there.count(name)} columns named {quoted(name)}. Rename "
                    "them, so that it is clear which one is meant."
                )
            if self.kind(name) == "other":
                raise TableError(f"Column {quoted(name)} of {self.path} {self.why_not(name)}.")

    def why_not(self, name: str) -> str:
        """Return why a column of another kind can't be used, and what to do about it."""
        try:
            value = self._example(name)
        except self._errors as error:
            raise self.unreadable(error) from error
        example = "" if value is None else f", for example {quoted(str(value))}"
        return (
            f"is of type {shown(str(dict(self.types)[name]))}{example}: write its parts as columns "
            "of their own"
        )

    @staticmethod
    def chunk_rows(columns: int) -> int:
        """Return how many rows of so many columns are read, and put together, at a time."""
        return max(LEAST_ROWS, min(ROWS, VALUES // max(columns, 1)))

    def batches(
        self, names: Sequence[str], share: Share | None = None, rows: int | None = None
    ) -> Iterator[Batch]:
        """Read columns that :meth:`check` accepts, from the first row to the last.

        Args:
            names: The columns.
            share: The part of the rows that is read; by default all.
            rows: The most rows of a batch, where that can be chosen.

        Raises:
            TableError: If the file is damaged or changes, or a value has no place in float64.
            TextFoundError: If a column of numbers holds a text.
        """
        rows = rows or self.chunk_rows(len(names))
        before = self._state()
        try:
            yield from self._batches(names, share or Share(), rows)
        except TableError:
            raise
        except self._errors as error:
            self._check_unchanged(before)
            raise self.unreadable(error) from error
        self._check_unchanged(before)

    def unreadable(self, error: Exception) -> TableError:
        """Return an error of a library as one line."""
        return TableError(f"Can't read {self.path}: {' '.join(str(error).split()).rstrip('.')}.")

    def _state(self) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    def _check_unchanged(self, before: tuple[int, int]) -> None:
        if self._state() != before:
            raise TableError(
                f"{self.path} was changed while it was read. Repeat the command when it is whole."
            )

    @abstractmethod
    def _open(self) -> None:
        """Find out what columns the file has."""

    @abstractmethod
    def _kind(self, type_: Any) -> Kind: ...

    @abstractmethod
    def _example(self, name: str) -> Any:
        """Return a value of a column, or None."""

    @abstractmethod
    def _batches(self, names: Sequence[str], share: Share, rows: int) -> Iterator[Batch]: ...


def check_whole(path: Path, name: str, numbers: Tensor) -> None:
    """Refuse whole numbers that may have been rounded, and with that merged, as float64."""
    if bool((numbers.abs() >= MAX_EXACT).any()):
        raise ColumnError(
            path,
            name,
            "holds whole numbers of 2**53 or more, which float64 would merge. Subtract the least "
            "of them first, or number the distinct ones",
        )


def without(numbers: Tensor, missing: Sequence[str]) -> Tensor:
    """Return numbers with NaN in place of those that mark missing values."""
    for marker in missing:
        if is_number(marker):
            numbers = torch.where(numbers == float(marker), torch.nan, numbers)
    return numbers


def is_number(value: Any) -> bool:
    """Whether a text is a number as files have them."""
    text = str(value).strip()
    return bool(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?inf(inity)?|nan", text))
