"""Tables in files, opened by their suffix."""

from pathlib import Path

from mi_metrics.commands.array_table import NPYTable, NPZTable
from mi_metrics.commands.arrow_table import ParquetTable
from mi_metrics.commands.column_names import listed
from mi_metrics.commands.table import Source, Table, TableError
from mi_metrics.commands.text_table import TextTable, is_text

SUFFIXES = (".csv", ".tsv", ".txt", ".data", ".csv.gz", ".parquet", ".npy", ".npz")


def open_table(path: Path, source: Source | None = None) -> Table:
    r"""Open a file by its suffix, and read what its columns are.

    A text file may be separated by commas, semicolons or tabs, with decimal points or, unless
    commas separate, decimal commas; in UTF-8, UTF-16 with its mark, or Windows' Western European;
    with comments that begin with ``#``. Bars and blanks separate where all lines agree about it.

    Args:
        path: A ``.csv``, ``.tsv``, ``.txt`` or ``.data`` file with a header line, also compressed
            as ``.gz``; a ``.parquet`` file or a folder of them; an ``.npy`` file with an array
            (rows, columns), whose columns are named "0", "1", …, or a structured array; an
            ``.npz`` archive of arrays.
        source: How it is to be read, as far as that is known.

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
        ...     print(*map(table.kind, table.names()))
        ...     print(*next(table.batches(["response", "dose"])).columns)
        text number number
        tensor([2.5000,    nan], dtype=torch.float64) tensor([1., 2.], dtype=torch.float64)
    """
    source = source or Source()
    if not path.exists():
        raise TableError(f"There is no file {path}.")
    suffix = path.suffix.lower()
    if path.is_dir():
        return ParquetTable(path, source)
    if not path.is_file():
        raise TableError(
            f"{path} is a pipe or a device, and the file may be read more than once. Write it to a "
            "file first."
        )
    if is_text(path):
        return TextTable(path, source)
    kinds: dict[str, type[ParquetTable | NPYTable | NPZTable]] = {
        ".parquet": ParquetTable,
        ".npy": NPYTable,
        ".npz": NPZTable,
    }
    if suffix in kinds:
        return kinds[suffix](path, source)
    raise TableError(
        f"Expected a file that ends in {listed(SUFFIXES, 'or')}, or a folder of Parquet files, but "
        f"got {path}. Convert it first."
    )
