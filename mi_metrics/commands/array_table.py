"""Arrays of NumPy as tables: .npy, read through memory maps, and .npz, read from the archive."""

import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_metrics.commands.column_names import quoted
from mi_metrics.commands.table import (
    Batch,
    ColumnError,
    Kind,
    Share,
    Table,
    TableError,
    check_whole,
    without,
)


class ArrayTable(Table):
    """What the files of NumPy have in common."""

    _errors = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)

    @abstractmethod
    def _part(self, names: Sequence[str], start: int, stop: int) -> list[Any]:
        """Return some rows of columns."""

    def _kind(self, type_: Any) -> Kind:
        kinds: dict[str, Kind] = {"b": "flag", "U": "text", "S": "text", "M": "date", "m": "date"}
        kinds |= dict.fromkeys("iuf", "number")
        return "other" if type_.shape else kinds.get(type_.kind, "other")

    def _example(self, name: str) -> Any:
        return next(iter(self._part([name], 0, 1)[0].tolist()), None) if self.most_rows else None

    def _batches(self, names: Sequence[str], share: Share, rows: int) -> Iterator[Batch]:
        for part, start in enumerate(range(0, self.most_rows, rows)):
            if share.has(part):
                columns = self._part(names, start, start + rows)
                found = [self._value(name, v) for name, v in zip(names, columns, strict=True)]
                yield Batch(found, start, min(1.0, (start + rows) / self.most_rows))

    def _value(self, name: str, column: Any) -> Any:
        if column.dtype.kind in "US":
            return self._text(column)
        if column.dtype.kind in "Mm":
            gone = np.isnat(column)
            whole = column.astype(f"{column.dtype.kind}8[us]").astype(np.int64)
            days = np.where(gone, np.nan, whole / np.float64(86_400_000_000))
            return without(torch.from_numpy(days), self.source.missing)
        return without(self._tensor(name, column), self.source.missing)

    def _text(self, column: Any) -> Any:
        pa = import_module("pyarrow")
        texts = column.astype(str) if column.dtype.kind == "S" else column
        texts = np.char.strip(np.ascontiguousarray(texts))
        gone = np.isin(texts, ["", *self.source.missing])
        return pa.array(texts.tolist(), pa.large_string(), mask=gone)

    def _tensor(self, name: str, column: Any) -> Tensor:
        if column.dtype.kind == "f" and column.dtype.itemsize <= 4:
            return torch.from_numpy(np.array(column, np.float32))
        with np.errstate(over="ignore"):
            numbers = np.array(column, np.float64)
        # Numbers of a wider type may lie beyond float64.
        if column.dtype.itemsize > 8 and (lost := np.isinf(numbers) & np.isfinite(column)).any():
            raise ColumnError(
                self.path,
                name,
                f"holds {column[lost][0]!s}, which is beyond float64. Divide it by a constant or "
                "take logarithms first; MI does not change",
            )
        tensor = torch.from_numpy(numbers)
        if column.dtype.kind in "iu" and column.dtype.itemsize == 8:
            check_whole(self.path, name, tensor)
        return tensor


class NPYTable(ArrayTable):
    """An array (rows, columns), whose columns are named "0", "1", …, or a structured array."""

    def _open(self) -> None:
        array = self._map()
        self.types = _columns_of(self.path, array.dtype, array.shape)
        self.most_rows = len(array)

    def _map(self) -> Any:
        return np.lib.format.open_memmap(self.path, mode="r")

    def _part(self, names: Sequence[str], start: int, stop: int) -> list[Any]:
        # The file is mapped anew, because what was read through one map counts as memory of the
        # process until that map is closed.
        part = self._map()[start:stop]
        if part.dtype.names is not None:
            return [part[name] for name in names]
        return [part[:, int(name)] for name in names]


class NPZTable(ArrayTable):
    """An archive of arrays of one length: one of one dimension is a column of its name, one of two
    dimensions is columns "name_0", "name_1", ….
    """

    def _open(self) -> None:
        self.types, self._homes = [], dict[str, tuple[str, Any]]()
        self._held: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        # NumPy would advise to load it unsafely.
        if not zipfile.is_zipfile(self.path):
            raise TableError(
                f"{self.path} is no NPZ archive, or a damaged one. Save it again with numpy.savez."
            )
        with np.load(self.path, allow_pickle=False) as archive:
            names = list(archive.files)
            for name in names:
                # One array at a time is unpacked, to see what it is.
                array = archive[name]
                if array.ndim not in (1, 2) or (array.ndim == 2 and array.dtype.names):
                    raise TableError(
                        f"Array {quoted(name)} of {self.path} has the shape {array.shape}. Leave "
                        "it out, or reshape it to (rows,) or (rows, columns)."
                    )
                lengths[name] = len(array)
                self._add(name, array)
        if len(set(lengths.values())) > 1:
            sizes = ", ".join(f"{quoted(name)} {n}" for name, n in lengths.items())
            raise TableError(
                f"The arrays of {self.path} have different lengths: {sizes}. Save those of one "
                "table into a file of their own."
            )
        self.most_rows = next(iter(lengths.values()), 0)

    def _add(self, name: str, array: Any) -> None:
        if array.dtype.names is not None:
            fields: list[tuple[str, Any, Any]] = [(f, array.dtype[f], f) for f in array.dtype.names]
        elif array.ndim == 1:
            fields = [(name, array.dtype, ...)]
        else:
            fields = [(f"{name}_{i}", array.dtype, i) for i in range(array.shape[1])]
        for column, dtype, place in fields:
            self.types.append((column, dtype))
            self._homes[column] = (name, place)

    def _part(self, names: Sequence[str], start: int, stop: int) -> list[Any]:
        wanted = {self._homes[name][0] for name in names}
        if set(self._held) != wanted:
            # What is asked for together stays unpacked; the rest is let go.
            with np.load(self.path, allow_pickle=False) as archive:
                self._held = {name: archive[name] for name in sorted(wanted)}
        found = []
        for name in names:
            home, place = self._homes[name]
            array = self._held[home][start:stop]
            found.append(array[:, place] if isinstance(place, int) else array[place])
        return found


def _columns_of(path: Path, dtype: Any, shape: tuple[int, ...]) -> list[tuple[str, Any]]:
    """Return the names and types of the columns of an array."""
    if dtype.names is not None and len(shape) == 1:
        return [(name, dtype[name]) for name in dtype.names]
    if dtype.names is None and len(shape) == 2:
        return [(str(i), dtype) for i in range(shape[1])]
    raise TableError(
        f"Expected an array (rows, columns) in {path}, but its shape is {shape}. Reshape it, so "
        "that each variable is a column."
    )
