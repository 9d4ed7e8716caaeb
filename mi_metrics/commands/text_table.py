"""Text files of a table: .csv, .tsv, .txt and .data, also compressed as .gz."""

import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, cast

from mi_metrics.commands import arrow_table
from mi_metrics.commands.arrow_table import ArrowTable
from mi_metrics.commands.column_names import quoted
from mi_metrics.commands.csv_dialect import DELIMITERS, find_dialect
from mi_metrics.commands.table import (
    Batch,
    Share,
    TableError,
    TextFoundError,
    check_whole,
    is_number,
)
from mi_metrics.commands.text_lines import Lines
from mi_metrics.functional.tensors import MAX_EXACT

# Rows that do not fit into a block are read in larger ones, up to this.
MOST_BLOCK = 1 << 26
# A compressed file is at most so many times as long when it is unpacked.
MOST_EXPANSION = 1032


class TextTable(ArrowTable):
    """A text file with a line for each row; the first has the names.

    PyArrow reads 32 blocks of it ahead.
    """

    def _open(self) -> None:
        self._csv = import_module("pyarrow.csv")
        self._block = arrow_table.BLOCK
        with self._bytes() as file:
            start = file.read(self._block)
        whole = len(start) < self._block
        source = self.source
        delimiter = source.delimiter and DELIMITERS.get(source.delimiter, source.delimiter)
        if delimiter is None and self.path.name.lower().endswith((".tsv", ".tsv.gz")):
            delimiter = "\t"
        self._dialect = find_dialect(start, whole=whole, delimiter=delimiter, skip=source.skip)
        self.decimal_mark = self._dialect.decimal_mark
        self._names: list[str] | None = None
        self._looked_at: set[str] = set()
        self._checked_quotes = False
        self._find_types()
        self._look_at_names()
        size = self.path.stat().st_size
        # A row has at least a delimiter or a line end per column.
        longest = size * MOST_EXPANSION if self._compressed else size
        self.most_rows = longest // len(self.types) + 1
        if whole:
            lines = len(start.splitlines()) - source.skip - source.header
            self.most_rows = min(self.most_rows, max(lines, 0))

    def _find_types(self) -> None:
        while True:
            try:
                with self._stream() as (stream, _), self._reader(stream) as reader:
                    self.types = list(zip(reader.schema.names, reader.schema.types, strict=True))
            except self._pa.ArrowInvalid as error:
                self._enlarge(error)
                continue
            if self.source.header or self._names is not None:
                return
            self._names = [str(i) for i in range(len(self.types))]

    def _look_at_names(self) -> None:
        names, dialect = self.names(), self._dialect
        if dialect.guessed:
            sign = "blanks" if dialect.delimiter == " " else quoted(dialect.delimiter)
            self.notes.append(
                f"{self.path.name}: columns are taken to be separated by {sign}; if they are not, "
                "pass --delimiter"
            )
        if self.source.header and all(map(is_number, names)):
            self.notes.append(
                f"{self.path.name}: the names of all columns are numbers ({', '.join(names[:3])}, "
                "…): if its first line is data, pass --no-header"
            )

    @property
    def _compressed(self) -> bool:
        return self.path.suffix.lower() == ".gz"

    def _bytes(self) -> IO[bytes]:
        if self._compressed:
            return cast("IO[bytes]", gzip.open(self.path, "rb"))
        return self.path.open("rb")

    @contextmanager
    def _stream(self) -> Iterator[tuple[Any, Any]]:
        """Open what PyArrow reads, and the file whose position says how far that is."""
        dialect = self._dialect
        changed = dialect.comments or dialect.delimiter == " " or self.source.skip > 0
        if not changed and not self._compressed:
            with self._pa.OSFile(str(self.path)) as native:
                yield native, native
            return
        with self.path.open("rb") as raw:
            file = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if self._compressed else raw
            if changed:
                yield (
                    Lines(
                        file,
                        "utf-8-sig" if dialect.encoding == "utf-8" else dialect.encoding,
                        skip=self.source.skip,
                        comments=dialect.comments,
                        blanks=dialect.delimiter == " ",
                        header=dialect.header,
                    ),
                    raw,
                )
            else:
                yield file, raw

    def _reader(self, stream: Any, **options: Any) -> Any:
        csv, dialect = self._csv, self._dialect
        encoding = "utf-8" if isinstance(stream, Lines) else dialect.encoding
        defaults = csv.ConvertOptions()
        return csv.open_csv(
            stream,
            read_options=csv.ReadOptions(
                block_size=self._block,
                encoding=encoding,
                column_names=self._names,
                autogenerate_column_names=not self.source.header and self._names is None,
            ),
            parse_options=csv.ParseOptions(
                delimiter="\t" if dialect.delimiter == " " else dialect.delimiter
            ),
            convert_options=csv.ConvertOptions(
                decimal_point=dialect.decimal_mark,
                null_values=[*defaults.null_values, *self.source.missing],
                strings_can_be_null=True,
                **options,
            ),
        )

    def _enlarge(self, error: Exception) -> None:
        """Read larger blocks from now on, if that is why there was an error, or raise it again."""
        if not re.search("straddles two block|Empty CSV file or block", str(error)):
            raise error
        longest = self.path.stat().st_size * (MOST_EXPANSION if self._compressed else 1)
        if self._block >= longest:
            raise error
        if self._block >= MOST_BLOCK:
            raise ValueError(
                f"it has a row of more than {MOST_BLOCK >> 20} MiB. Write the columns that hold "
                "numbers into a file of their own"
            ) from error
        self._block *= 4

    def _example(self, name: str) -> Any:
        with self._stream() as (stream, _), self._reader(stream, include_columns=[name]) as reader:
            for batch in reader:
                for value in batch.column(0).to_pylist():
                    if value is not None:
                        return value
        return None

    def _batches(self, names: Sequence[str], share: Share, rows: int) -> Iterator[Batch]:
        read = part = 0
        while True:
            try:
                for batch, done in self._pass(names, read):
                    if share.has(part):
                        yield Batch(self._columns(batch, names), read, done)
                    read += len(batch)
                    part += 1
                self._check_quotes(read)
                return
            except self._pa.ArrowInvalid as error:
                found = re.search(r"column #(\d+).*invalid value '(.*)'", str(error), re.DOTALL)
                if not found:
                    self._enlarge(error)
                    continue
                raise TextFoundError(self.types[int(found[1])][0], found[2]) from error

    def _columns(self, batch: Any, names: Sequence[str]) -> list[Any]:
        found, kinds = super()._columns(batch, names), dict(self.types)
        for name, column in zip(names, found, strict=True):
            if (
                kinds[name] == self._pa.float64()
                and self.kind(name) == "number"
                and name not in self._looked_at
                and bool((column.abs() >= MAX_EXACT).any())
            ):
                self._looked_at.add(name)
                # 1e20 is a number, and 100000000000000000001 a name.
                if self._has_long_numbers(name):
                    check_whole(self.path, name, column)
        return found

    def _has_long_numbers(self, name: str) -> bool:
        """Say whether a column has whole numbers of more digits than float64 keeps."""
        options = {"include_columns": [name], "column_types": {name: self._pa.string()}}
        with self._stream() as (stream, _), self._reader(stream, **options) as reader:
            for batch in reader:
                texts = batch.column(0).to_pylist()
                return any(text and re.fullmatch(r"\s*[-+]?\d{17,}\s*", text) for text in texts)
        return False

    def _check_quotes(self, rows: int) -> None:
        """Refuse a file in which a quotation mark that is not closed makes one value of many lines,
        once all its rows have been read.
        """
        if self._checked_quotes:
            return
        self._checked_quotes = True
        encoding = self._dialect.encoding
        with self._stream() as (stream, _):
            if isinstance(stream, Lines) or encoding.startswith("utf-16"):
                return
        lines, quoted_values = 0, False
        with self._bytes() as file:
            while block := file.read(self._block):
                lines += max(block.count(b"\n"), block.count(b"\r"))
                quoted_values |= b'"' in block
        if not quoted_values or lines <= rows + self.source.header:
            return
        with io.TextIOWrapper(self._bytes(), encoding, "replace", newline="") as text:
            reader, before = csv.reader(text, delimiter=self._dialect.delimiter, strict=True), 0
            try:
                for _ in reader:
                    before = reader.line_num
            except csv.Error:
                if reader.line_num > before + 1:
                    raise TableError(
                        f"{self.path} has a quotation mark in line {before + 1} that no other "
                        f"closes, so that what follows, to line {reader.line_num}, is one value. "
                        "Close it, or leave it out."
                    ) from None

    def _pass(self, names: Sequence[str], skip: int) -> Iterator[tuple[Any, float]]:
        """Read batches, without the first rows of the file, and the fraction that has been read."""
        pa, kinds = self._pa, dict(self.types)
        # The first block does not decide: whole numbers may be followed by others.
        types = {
            name: {"text": pa.string(), "number": pa.float64()}.get(self.kind(name), kinds[name])
            for name in names
        }
        size = max(self.path.stat().st_size, 1)
        with (
            self._stream() as (stream, raw),
            self._reader(stream, include_columns=list(names), column_types=types) as reader,
        ):
            for batch in reader:
                if len(batch) > skip:
                    yield batch.slice(skip), raw.tell() / size
                skip = max(0, skip - len(batch))


def is_text(path: Path) -> bool:
    """Whether a file is one of these, by its name."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith((".csv", ".tsv", ".txt", ".data"))
