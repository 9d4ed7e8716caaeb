"""Columns of a CSV, Parquet or NPY file as tensors, a chunk of rows at a time: the file may be
larger than memory.

Numbers keep their precision: float32 and float16 arrive as float32, everything else that is a
number (integers, booleans, decimals) as float64. Missing values arrive as NaN. PyArrow, which reads
CSV and Parquet, is imported only when such a file is opened.
"""

import difflib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from mi_metrics.commands.column_names import listed, quoted, shown
from mi_metrics.commands.csv_dialect import THOUSANDS, find_dialect
from mi_metrics.functional.options import require
from mi_metrics.functional.tensors import MAX_EXACT

# A chunk of few columns has ROWS rows, which spreads the fixed price of an update; one of many
# columns has fewer, so that it holds about VALUES numbers, down to LEAST_ROWS.
ROWS, LEAST_ROWS, VALUES = 1 << 18, 1 << 15, 1 << 21
# Bytes that are read at once; the first so many decide which columns of a CSV file are numbers.
# PyArrow reads 32 such blocks of a CSV file ahead.
BLOCK = 1 << 20
# Rows that do not fit into a block are read in larger ones, up to this.
MOST_BLOCK = 1 << 26


class TableError(ValueError):
    """A file that can't be read, or a column that is missing, ambiguous or not numeric, in one
    line.
    """


class Chunk(NamedTuple):
    """Some rows of a file, in order."""

    # The columns, float32 or float64 (n,), in the order in which they were asked for.
    columns: list[Tensor]
    done: float  # the fraction of the file that has been read


class Table(ABC):
    """A file with named columns.

    Attributes:
        path: The file.
        types: The name and the type of each column, as the file has it.
        most_rows: A number that the rows do not exceed.
    """

    path: Path
    types: list[tuple[str, Any]]
    most_rows: int
    # The errors that the library which reads the file raises over a file that it can't read.
    _errors: tuple[type[Exception], ...] = (OSError, ValueError)

    def numeric_columns(self) -> list[str]:
        """Return the names of the columns that hold numbers, in the order of the file."""
        return [name for name, kind in self.types if self._is_numeric(kind)]

    def check(self, names: Iterable[str]) -> None:
        """Refuse columns that are missing, that share their name, or that do not hold numbers.

        Raises:
            TableError: With what there is instead, and what to do.
        """
        there = [name for name, _ in self.types]
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
            kind = dict(self.types)[name]
            if not self._is_numeric(kind):
                try:
                    value = self._example(name)
                except self._errors as error:
                    raise self._unreadable(error) from error
                example = "" if value is None else f", for example {quoted(str(value))}"
                raise TableError(
                    f"Column {quoted(name)} of {self.path} is of type {shown(str(kind))}{example}. "
                    f"{_remedy(str(kind), value)}"
                )

    def chunks(self, names: Sequence[str]) -> Iterator[Chunk]:
        """Read columns that :meth:`check` accepts, from the first row to the last.

        Raises:
            TableError: If the file is damaged, or a value is no number.
        """
        rows = max(LEAST_ROWS, min(ROWS, VALUES // len(names)))
        held: list[list[Tensor]] = []
        done = 0.0
        # Blocks of text and small row groups are put together; a batch of the right size is passed
        # on without a copy.
        for columns, done in self._read(names, rows):
            if not len(columns[0]):
                continue
            held.append(columns)
            if sum(len(part[0]) for part in held) >= rows:
                yield _joined(held, done)
                held = []
        if held:
            yield _joined(held, done)

    def _read(self, names: Sequence[str], rows: int) -> Iterator[Chunk]:
        try:
            yield from self._batches(names, rows)
        except TableError:
            raise
        except self._errors as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> TableError:
        return TableError(f"Can't read {self.path}: {' '.join(str(error).split()).rstrip('.')}.")

    @abstractmethod
    def _is_numeric(self, kind: Any) -> bool: ...

    @abstractmethod
    def _example(self, name: str) -> Any:
        """Return a value of a column that is no number, or None."""

    @abstractmethod
    def _batches(self, names: Sequence[str], rows: int) -> Iterator[Chunk]:
        """Read batches of any size, ``rows`` at most where that can be chosen."""


def open_table(path: Path) -> Table:
    r"""Open a file by its suffix, and read what its columns are.

    A CSV file may be separated by commas, semicolons or tabs, with decimal points or, unless commas
    separate, decimal commas; in UTF-8, UTF-16 with its mark, or Windows' Western European.

    Args:
        path: A ``.csv`` file with a header line, a ``.parquet`` file, or an ``.npy`` file with an
            array (rows, columns), whose columns are named "0", "1", …, or a structured array.

    Returns:
        The file, of which no rows are read yet.

    Raises:
        TableError: If there is no such file, its suffix is another, or it can't be read.
        ModuleNotFoundError: If PyArrow is needed and not installed.

    Example:
        >>> import tempfile
        >>> from mi_metrics.commands.columns import open_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "trial.csv"
        ...     _ = path.write_text("name,dose,response\nA,1,2.5\nB,2,\n")
        ...     table = open_table(path)
        ...     print(table.numeric_columns())
        ...     print(*next(table.chunks(["response", "dose"])).columns)
        ['dose', 'response']
        tensor([2.5000,    nan], dtype=torch.float64) tensor([1., 2.], dtype=torch.float64)
    """
    kinds: dict[str, type[_CSV | _Parquet | _NPY]] = {
        ".csv": _CSV,
        ".parquet": _Parquet,
        ".npy": _NPY,
    }
    if not path.exists():
        raise TableError(f"There is no file {path}.")
    if path.is_dir():
        raise TableError(f"{path} is a folder. Name one of its files.")
    if path.suffix.lower() not in kinds:
        raise TableError(
            f"Expected a file that ends in {listed(kinds, 'or')}, but got {path}. Convert it first."
        )
    return kinds[path.suffix.lower()](path)


class _Arrow(Table):
    """What CSV and Parquet have in common: columns of PyArrow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pa = require("pyarrow", "cli", "CSV and Parquet files")
        self._errors = (self._pa.ArrowException, OSError, ValueError)
        try:
            self._open()
        except self._errors as error:
            raise self._unreadable(error) from error

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _first(self, name: str) -> Any:
        """Return the first batch of a column as it is, or None."""

    def _is_numeric(self, kind: Any) -> bool:
        test = self._pa.types
        return any(
            is_kind(kind)
            for is_kind in (test.is_integer, test.is_floating, test.is_boolean, test.is_decimal)
        ) or bool(test.is_null(kind))

    def _example(self, name: str) -> Any:
        values = [value for value in self._first(name) or [] if value is not None]
        return next(
            (value for value in values if not _is_number(value)), values[0] if values else None
        )

    def _columns(self, batch: Any, names: Sequence[str]) -> list[Tensor]:
        kinds, whole = dict(self.types), (self._pa.int64(), self._pa.uint64())
        tensors = [self._tensor(batch.column(name)) for name in names]
        for name, tensor in zip(names, tensors, strict=True):
            if kinds[name] in whole:
                _check_whole(self.path, name, tensor)
        return tensors

    def _tensor(self, array: Any) -> Tensor:
        """Return an array as a tensor; one of float32 or float64 without missing values shares its
        memory.
        """
        pa = self._pa
        target = pa.float32() if array.type in (pa.float16(), pa.float32()) else pa.float64()
        if array.type != target:
            array = array.cast(target, safe=False)
        if array.null_count:
            array = array.fill_null(math.nan)
        tensor: Tensor = from_dlpack(array)
        return tensor


class _CSV(_Arrow):
    def _open(self) -> None:
        self._csv = import_module("pyarrow.csv")
        with self.path.open("rb") as file:
            start = file.read(BLOCK)
        self._dialect = find_dialect(start, whole=len(start) < BLOCK)
        self._block = BLOCK
        while True:
            try:
                with self._reader() as reader:
                    self.types = list(zip(reader.schema.names, reader.schema.types, strict=True))
                break
            except self._pa.ArrowInvalid as error:
                self._enlarge(error)
        # A row has at least a delimiter or a line end per column.
        self.most_rows = self.path.stat().st_size // len(self.types) + 1

    def _reader(self, file: Any = None, **options: Any) -> Any:
        return self._csv.open_csv(
            self.path if file is None else file,
            read_options=self._csv.ReadOptions(
                block_size=self._block, encoding=self._dialect.encoding
            ),
            parse_options=self._csv.ParseOptions(delimiter=self._dialect.delimiter),
            convert_options=self._csv.ConvertOptions(
                decimal_point=self._dialect.decimal_mark, **options
            ),
        )

    def _enlarge(self, error: Exception) -> None:
        """Read larger blocks from now on, if that is why there was an error, or raise it again."""
        if not re.search("straddles two block|Empty CSV file or block", str(error)):
            raise error
        if self._block >= self.path.stat().st_size:
            raise error
        if self._block >= MOST_BLOCK:
            raise ValueError(
                f"it has a row of more than {MOST_BLOCK >> 20} MiB. Write the columns that hold "
                "numbers into a file of their own"
            ) from error
        self._block *= 4

    def _first(self, name: str) -> Any:
        with self._reader(include_columns=[name]) as reader:
            return next((batch.column(0).to_pylist() for batch in reader), None)

    def _batches(self, names: Sequence[str], rows: int) -> Iterator[Chunk]:
        read = 0
        while True:
            try:
                for batch, done in self._pass(names, read):
                    read += len(batch)
                    yield Chunk(self._columns(batch, names), done)
                return
            except self._pa.ArrowInvalid as error:
                found = re.search(r"column #(\d+).*invalid value '(.*)'", str(error), re.DOTALL)
                if not found:
                    self._enlarge(error)
                    continue
                name, kind = self.types[int(found[1])]
                raise TableError(
                    f"Column {quoted(name)} of {self.path} begins with values of type {kind}, but "
                    f"further down holds {quoted(found[2])}. {_remedy('string', found[2])}"
                ) from error

    def _pass(self, names: Sequence[str], skip: int) -> Iterator[tuple[Any, float]]:
        """Read batches, without the first rows of the file, and the fraction that has been read."""
        pa, kinds = self._pa, dict(self.types)
        # The first block does not decide: whole numbers may be followed by others.
        types = {
            name: kinds[name] if pa.types.is_boolean(kinds[name]) else pa.float64()
            for name in names
        }
        size = max(self.path.stat().st_size, 1)
        with (
            pa.OSFile(str(self.path)) as file,
            self._reader(file, include_columns=list(names), column_types=types) as reader,
        ):
            for batch in reader:
                if len(batch) > skip:
                    yield batch.slice(skip), file.tell() / size
                skip = max(0, skip - len(batch))


class _Parquet(_Arrow):
    def _open(self) -> None:
        with self._file() as file:
            schema = file.schema_arrow
            self.types = list(zip(schema.names, schema.types, strict=True))
            self.most_rows = file.metadata.num_rows

    def _file(self) -> Any:
        # The default would read the whole file beforehand, and a row group may be the whole file.
        return import_module("pyarrow.parquet").ParquetFile(
            self.path, buffer_size=BLOCK, pre_buffer=False
        )

    def _first(self, name: str) -> Any:
        with self._file() as file:
            for batch in file.iter_batches(1 << 10, columns=[name]):
                if batch.column(0).null_count < len(batch):
                    return batch.column(0).to_pylist()
        return None

    def _batches(self, names: Sequence[str], rows: int) -> Iterator[Chunk]:
        read = 0
        with self._file() as file:
            for batch in file.iter_batches(rows, columns=list(names)):
                read += len(batch)
                yield Chunk(self._columns(batch, names), read / self.most_rows)


class _NPY(Table):
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            array = self._map()
        except self._errors as error:
            raise self._unreadable(error) from error
        if array.dtype.names is not None and array.ndim == 1:
            self.types = [(name, array.dtype[name]) for name in array.dtype.names]
        elif array.dtype.names is None and array.ndim in (1, 2):
            self.types = [
                (str(i), array.dtype) for i in range(1 if array.ndim == 1 else array.shape[1])
            ]
        else:
            raise TableError(
                f"Expected an array (rows, columns) in {path}, but its shape is {array.shape}. "
                "Reshape it, so that each variable is a column."
            )
        self.most_rows = len(array)

    def _map(self) -> Any:
        return np.lib.format.open_memmap(self.path, mode="r")

    def _column(self, part: Any, name: str) -> Any:
        return (
            part[name]
            if part.dtype.names is not None
            else part.reshape(len(part), -1)[:, int(name)]
        )

    def _is_numeric(self, kind: Any) -> bool:
        return kind.kind in "biuf" and not kind.shape

    def _example(self, name: str) -> Any:
        return next(iter(self._column(self._map()[:1], name).tolist()), None)

    def _batches(self, names: Sequence[str], rows: int) -> Iterator[Chunk]:
        for start in range(0, self.most_rows, rows):
            # The file is mapped anew, because what was read through one map counts as memory of the
            # process until that map is closed.
            part = self._map()[start : start + rows]
            columns = [self._column(part, name) for name in names]
            tensors = [
                self._tensor(name, column) for name, column in zip(names, columns, strict=True)
            ]
            yield Chunk(tensors, min(1.0, (start + rows) / self.most_rows))

    def _tensor(self, name: str, column: Any) -> Tensor:
        if column.dtype.kind == "f" and column.dtype.itemsize <= 4:
            return torch.from_numpy(np.array(column, np.float32))
        with np.errstate(over="ignore"):
            numbers = np.array(column, np.float64)
        # Numbers of a wider type may lie beyond float64.
        if column.dtype.itemsize > 8 and (lost := np.isinf(numbers) & np.isfinite(column)).any():
            raise TableError(
                f"Column {quoted(name)} of {self.path} holds {column[lost][0]!s}, which is beyond "
                "float64. Divide it by a constant or take logarithms first; MI does not change."
            )
        tensor = torch.from_numpy(numbers)
        if column.dtype.kind in "iu" and column.dtype.itemsize == 8:
            _check_whole(self.path, name, tensor)
        return tensor


def _check_whole(path: Path, name: str, numbers: Tensor) -> None:
    """Refuse whole numbers that may have been rounded, and with that merged, as float64."""
    if bool((numbers.abs() >= MAX_EXACT).any()):
        raise TableError(
            f"Column {quoted(name)} of {path} holds whole numbers of 2**53 or more, which float64 "
            "would merge. Subtract the least of them first, or number the distinct ones."
        )


def _joined(parts: list[list[Tensor]], done: float) -> Chunk:
    return Chunk(
        parts[0] if len(parts) == 1 else [torch.cat(column) for column in zip(*parts, strict=True)],
        done,
    )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _remedy(kind: str, value: object) -> str:
    if re.fullmatch(THOUSANDS, str(value)):
        return (
            "That may have a decimal mark or one of thousands: write a decimal point, and nothing "
            "between thousands."
        )
    if re.fullmatch(r"[-+]?\d[\d.,' ]*", str(value)):
        return "Write numbers with one decimal mark and nothing between thousands."
    if kind.startswith(("timestamp", "date", "time", "duration", "datetime")):
        return "Write times as numbers first, for example as seconds since a given day."
    if kind.startswith(("complex", "list", "struct", "map", "large_list", "fixed_size_list", "(")):
        return "Write its parts as columns of their own first."
    return "Number categories 0, 1, 2, … first; write missing values as an empty field, NA or NaN."
