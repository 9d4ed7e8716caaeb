"""The table of `mi-metrics study`: a CSV file that is written row by row, and can be continued
after any interruption.

``study_DISTRIBUTION.csv`` has one row per estimator, parameter and size, with these columns:

``estimator``
    ``bins``, ``kde`` or ``knn``, see :data:`mi_metrics.settings.ESTIMATORS`.
``r``
    The parameter of the distribution, by its own name: ``theta`` for ``gamma-exponential``,
    ``epsilon`` for ``uniform-noise``, ``r`` for all others.
``n``
    Pairs per sample, N.
``truth``
    The mutual information, in nats like the next three.
``mean``, ``sd``
    Mean and standard deviation of the estimates over the draws: the deviation of a single estimate,
    not of their mean.
``error``
    ``mean - truth``.
``milliseconds``
    Processor time of the estimator's call per sample, on one thread, after a first call that loads
    what it needs. The drawing of the samples is not in it.
``draws``, ``seed``
    What the row was made with.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from mi_metrics.distributions import DISTRIBUTIONS

Place = tuple[str, str, int]


class TableError(ValueError):
    """A file that is not the table of this study, or can't be written; its message says what
    to do.
    """


class Row(NamedTuple):
    """One row of the table; ``parameter`` is the column that has the parameter's name."""

    estimator: str
    parameter: float
    n: int
    truth: float
    mean: float
    sd: float
    error: float
    milliseconds: float
    draws: int
    seed: int

    @property
    def place(self) -> Place:
        """What tells the row from all others."""
        return self.estimator, number(self.parameter), self.n


def number(value: float) -> str:
    """Return a number as the table has it, in eight digits; -0 is 0."""
    return f"{value + 0.0:.8g}"


def columns(distribution: str) -> list[str]:
    """Return the names of the columns."""
    return ["estimator", DISTRIBUTIONS[distribution].parameter_name, *Row._fields[2:]]


def line(row: Iterable[object]) -> str:
    """Return a row as a line of text."""
    return (
        ",".join(number(value) if isinstance(value, float) else str(value) for value in row) + "\n"
    )


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Read and write files at a path, with a :class:`TableError` for what the system refuses."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise TableError(
            f"Can't write to {path}: {reason}. Pass another folder with --out."
        ) from error


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a table for one study at a time.

    The lock is the system's, on a hidden file beside the table: it ends with the process, however
    that does.

    Raises:
        TableError: If another study holds it.
    """
    # The file stays: to remove it would let a third process lock another one of its name.
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with writable(path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise TableError(
                f"Expected {path} for this study alone, but another one is writing it. "
                "Wait for its end, or pass another folder with --out."
            ) from None
    try:
        yield
    finally:
        lock.release()


def read(path: Path, distribution: str) -> list[Row]:
    """Return the rows of a table, none if there is no file; a last line that was cut off is
    dropped.

    Raises:
        TableError: If the file is not a table of that distribution.
    """
    header = line(columns(distribution))
    with writable(path):
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    if not (text.startswith(header) or header.startswith(text)):
        raise TableError(
            f"Expected {path} to start with {header.strip()}, but got "
            f"{text.splitlines()[0][:80]!r}. Move the file away, or pass another folder with "
            "--out."
        )
    rows = []
    for place, content in enumerate(text[len(header) :].split("\n")[:-1], 2):
        try:
            estimator, parameter, n, truth, mean, sd, error, milliseconds, draws, seed = (
                content.split(",")
            )
            values = float(truth), float(mean), float(sd), float(error), float(milliseconds)
            rows.append(Row(estimator, float(parameter), int(n), *values, int(draws), int(seed)))
        except ValueError:
            raise TableError(
                f"Expected {header.strip()} in line {place} of {path}, but got {content[:80]!r}. "
                "Delete that line, or pass another folder with --out."
            ) from None
    return rows


def write(path: Path, distribution: str, rows: Iterable[Row]) -> None:
    """Write a table in one step, in place of what was there."""
    part = path.with_name(path.name + ".part")
    with writable(path):
        part.write_text("".join(map(line, [columns(distribution), *rows])), encoding="utf-8")
        part.replace(path)


def append(path: Path, row: Row) -> None:
    """Write one more row at the end of a table."""
    with writable(path), path.open("a", encoding="utf-8") as file:
        file.write(line(row))


def read_own(
    path: Path, distribution: str, places: set[Place], draws: int, seed: int
) -> dict[Place, Row]:
    """Return the rows of a table by their place, if they are all of one study.

    Raises:
        TableError: If a row has another place than one of ``places``, or another number of draws or
            seed.
    """
    rows = {}
    for row in read(path, distribution):
        found, required = f"--draws {row.draws} --seed {row.seed}", f"--draws {draws} --seed {seed}"
        if row.place not in places:
            estimator, parameter, n = row.place
            name = DISTRIBUTIONS[distribution].parameter_name
            found = f"a row for {estimator} at {name} = {parameter}, N = {n}"
            required = "no such point"
        if found != required:
            raise TableError(
                f"{path} has {found}, but this study has {required}. Repeat the options that it "
                "was made with, or pass another folder with --out."
            )
        rows[row.place] = row
    return rows
