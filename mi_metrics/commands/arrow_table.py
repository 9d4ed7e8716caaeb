"""Columns of PyArrow as tensors, and the files of Parquet: one, or a folder of them."""

import math
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.dlpack import from_dlpack

from mi_metrics.commands.table import (
    Batch,
    Kind,
    Share,
    Source,
    Table,
    TableError,
    check_whole,
    without,
)
from mi_metrics.functional.options import require

# Bytes that are read at once.
BLOCK = 1 << 20
MICROSECONDS_OF_A_DAY = 86_400_000_000


class ArrowTable(Table):
    """What text files and Parquet have in common: columns of PyArrow."""

    def __init__(self, path: Path, source: Source) -> None:
        self._pa = require("pyarrow", "cli", "Text files and Parquet files")
        self._compute = import_module("pyarrow.compute")
        self._errors = (self._pa.ArrowException, OSError, ValueError, EOFError)
        super().__init__(path, source)

    def _kind(self, type_: Any) -> Kind:
        test = self._pa.types
        if test.is_dictionary(type_):
            return self._kind(type_.value_type)
        kinds: list[tuple[Kind, Sequence[Any]]] = [
            ("flag", (test.is_boolean,)),
            ("text", (test.is_string, test.is_large_string)),
            ("date", (test.is_date, test.is_timestamp, test.is_time, test.is_duration)),
            ("number", (test.is_integer, test.is_floating, test.is_decimal, test.is_null)),
        ]
        return next((kind for kind, tests in kinds if any(is_(type_) for is_ in tests)), "other")

    def _columns(self, batch: Any, names: Sequence[str]) -> list[Any]:
        kinds, whole = dict(self.types), (self._pa.int64(), self._pa.uint64())
        decimal = self._pa.types.is_decimal
        found = []
        for i, name in enumerate(names):
            array, kind = batch.column(i), self.kind(name)
            if self._pa.types.is_dictionary(array.type):
                array = array.dictionary_decode()
            if kind == "text":
                found.append(self._text(array))
                continue
            tensor = self._tensor(self._days(array) if kind == "date" else array)
            if kinds[name] in whole or (decimal(kinds[name]) and kinds[name].scale <= 0):
                check_whole(self.path, name, tensor)
            found.append(without(tensor, self.source.missing))
        return found

    def _text(self, array: Any) -> Any:
        """Return texts, those that mark missing values as such."""
        array = self._compute.utf8_trim_whitespace(array.cast(self._pa.large_string()))
        gone = self._pa.array(["", *self.source.missing], self._pa.large_string())
        return self._compute.if_else(
            self._compute.is_in(array, value_set=gone), self._pa.scalar(None, array.type), array
        )

    def _days(self, array: Any) -> Any:
        """Return dates, times and durations in days, dates since 1970."""
        pa, test = self._pa, self._pa.types
        if test.is_date(array.type):
            return array.cast(pa.date32()).cast(pa.int32()).cast(pa.float64())
        fine = (
            pa.timestamp("us", array.type.tz)
            if test.is_timestamp(array.type)
            else pa.time64("us")
            if test.is_time(array.type)
            else pa.duration("us")
        )
        numbers = array.cast(fine, safe=False).cast(pa.int64()).cast(pa.float64(), safe=False)
        return self._compute.divide(numbers, float(MICROSECONDS_OF_A_DAY))

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


class ParquetTable(ArrowTable):
    """A Parquet file, or a folder of them in the order of their names, all of the same columns."""

    def _open(self) -> None:
        self._files = [self.path]
        if self.path.is_dir():
            self._files = [
                path
                for path in sorted(self.path.rglob("*.parquet"))
                if path.is_file() and not path.name.startswith((".", "_"))
            ]
            if not self._files:
                raise TableError(
                    f"{self.path} is a folder without Parquet files. Name a folder of them, or one "
                    "of its files."
                )
        self.most_rows = 0
        for place, path in enumerate(self._files):
            with self._file(path) as file:
                schema = file.schema_arrow
                types = list(zip(schema.names, schema.types, strict=True))
                self.most_rows += file.metadata.num_rows
            if place == 0:
                self.types = types
            elif [(n, self._kind(t)) for n, t in types] != [
                (n, self._kind(t)) for n, t in self.types
            ]:
                raise TableError(
                    f"{path} has other columns than {self._files[0]}. Name a folder whose files "
                    "are parts of one table."
                )

    def _file(self, path: Path) -> Any:
        # The default would read the whole file beforehand, and a row group may be the whole file.
        return import_module("pyarrow.parquet").ParquetFile(
            path, buffer_size=BLOCK, pre_buffer=False, page_checksum_verification=True
        )

    def _state(self) -> tuple[int, int]:
        found = [path.stat() for path in self._files]
        return sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)

    def _example(self, name: str) -> Any:
        for path in self._files:
            with self._file(path) as file:
                for batch in file.iter_batches(1 << 10, columns=[name]):
                    values = [value for value in batch.column(0).to_pylist() if value is not None]
                    if values:
                        return values[0]
        return None

    def _batches(self, names: Sequence[str], share: Share, rows: int) -> Iterator[Batch]:
        part = start = 0
        for path in self._files:
            with self._file(path) as file:
                groups = file.metadata.num_row_groups
                mine: list[tuple[int, int]] = []
                for group in range(groups):
                    if share.has(part):
                        mine.append((group, start))
                    part += 1
                    start += file.metadata.row_group(group).num_rows
                # One after the other where there are several processes, so that each row's number
                # is known; together where there is one, because row groups may be small.
                together = [(list(range(groups)), mine[0][1])] if mine else []
                runs = together if share.ranks == 1 else [([g], first) for g, first in mine]
                for run, first in runs:
                    for batch in file.iter_batches(rows, row_groups=run, columns=list(names)):
                        if batch.schema.names != list(names):
                            batch = batch.select(list(names))
                        done = (first + len(batch)) / max(self.most_rows, 1)
                        yield Batch(self._columns(batch, names), first, done)
                        first += len(batch)
