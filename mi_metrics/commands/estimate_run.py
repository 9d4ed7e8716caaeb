"""What `mi-metrics estimate` does once its options are read: choose the pairs, estimate, print and
write.
"""

import sys
from collections.abc import Collection, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch

from mi_metrics.commands.column_names import label, quoted, shown
from mi_metrics.commands.columns import open_table
from mi_metrics.commands.estimate_lines import Estimate, by_value
from mi_metrics.commands.estimate_notes import column_notes, notes
from mi_metrics.commands.estimate_options import FEW_PAIRS, PERMUTATIONS, Settings
from mi_metrics.commands.estimate_output import write
from mi_metrics.commands.estimate_pairs import Plan, estimate_pairs
from mi_metrics.commands.estimate_report import lines, square
from mi_metrics.commands.facts import Facts
from mi_metrics.commands.gather import Pair
from mi_metrics.commands.ranks import Ranks
from mi_metrics.commands.survey import Survey, survey
from mi_metrics.commands.table import ColumnError, Source, Table, TableError, TextFoundError
from mi_metrics.commands.workers import WorkerError

# With so few rows there is nothing to estimate.
LEAST_ROWS = 4


class RefusalError(Exception):
    """What ends the command, in one line.

    Args:
        status: The exit status.
        message: The line; empty on processes that leave it to the first.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Result:
    """What was found of a file: lines, facts about its columns, and notes about the file."""

    def __init__(
        self, found: Sequence[Estimate], facts: dict[str, Facts], file_notes: Sequence[str]
    ) -> None:
        self.found, self.facts, self.file_notes = list(found), facts, list(file_notes)


def run(given: Any) -> None:
    """Estimate, print and write.

    Args:
        given: The options.

    Raises:
        RefusalError: If it can't be done.
    """
    ranks = Ranks.started()
    if given.matrix is not None and given.out is not None:
        from mi_metrics.plotting import require_matplotlib

        require_matplotlib()
    # Pairs are many and each is small: two threads took twice as long as one (780 pairs of 2e5
    # rows, two cores).
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        source = Source(
            given.delimiter, given.skip, not given.no_header, tuple(dict.fromkeys(given.missing))
        )
        result = find(ranks.together(lambda: open_table(given.file, source)), given, ranks)
        if not any(line.n for line in result.found):
            raise TableError(
                f"{given.file} has no row in which both columns of a pair hold a value."
            )
    except (TableError, OSError, WorkerError, OptionError) as error:
        status = 2 if isinstance(error, OptionError) else 1
        raise RefusalError(status, str(error) if ranks.rank == 0 else "") from error
    finally:
        torch.set_num_threads(threads)
        ranks.leave()
    if ranks.rank == 0:
        _show(result, given)


class OptionError(ValueError):
    """Options that the file contradicts, in one line."""


def find(table: Table, given: Any, ranks: Ranks | None = None) -> Result:
    """Estimate what the options ask for.

    Args:
        table: The file.
        given: The options.
        ranks: The processes that share it.

    Raises:
        TableError: If the file can't be read, or lacks what is asked for.
        OptionError: If the file contradicts the options.
    """
    ranks = ranks or Ranks()
    while True:
        try:
            return _find(table, given, ranks)
        except TextFoundError as error:
            # A text decides what a column is, wherever it stands.
            table.read_as_text(error.name)
        except ColumnError as error:
            if error.name in _named(given):
                raise
            table.leave_out(error.name, error.reason)


def _find(table: Table, given: Any, ranks: Ranks) -> Result:
    named = _named(given)
    if not given.y and given.matrix is None:
        columns = ", ".join(
            f"{label(name)} ({shown(str(kind))})" for name, kind in table.types[:30]
        )
        raise OptionError(f"Give --y, or --matrix. Columns of {table.path}: {columns}.")
    if len(table.types) == 1:
        raise TableError(
            f"{table.path} has one column, {quoted(table.names()[0])}, and MI is between two. If "
            "another sign separates its columns, pass it as --delimiter."
        )
    found = survey(
        table,
        named,
        all_others=not given.x and not given.matrix,
        discrete=given.discrete,
        most_labels=given.resolution - 1,
        ranks=ranks,
    )
    pairs = _pairs(table, found, given)
    _check_rows(table)
    settings = _settings(given, len(pairs))
    plan = Plan(table, found, pairs, settings)
    lines_found, facts = estimate_pairs(plan, given.jobs, ranks)
    file_notes = list(found.notes)
    if len(found.columns) > table.most_rows:
        file_notes.append(
            f"{table.path.name} has more columns than rows: if its rows are the variables, "
            "transpose it"
        )
    return Result(lines_found, facts, file_notes)


def _check_rows(table: Table) -> None:
    if table.most_rows < LEAST_ROWS:
        turned = ""
        if len(table.types) > table.most_rows:
            turned = " If its rows are the variables, transpose it first."
        raise TableError(
            f"{table.path} has fewer than {LEAST_ROWS} rows, too few to estimate anything.{turned}"
        )


def _settings(given: Any, pairs: int) -> Settings:
    """Return what the pairs are estimated with."""
    permutations = given.permutations
    if permutations is None:
        many = given.matrix is not None or pairs > FEW_PAIRS
        permutations = 0 if many else PERMUTATIONS
    return Settings(
        tuple(dict.fromkeys(given.estimator)),
        given.unit,
        given.resolution,
        given.max_samples,
        permutations,
        given.standardize,
        given.condition,
    )


def _named(given: Any) -> list[str]:
    """Return the columns that the user has named."""
    condition = [] if given.condition is None else [given.condition]
    lists = (given.x or (), given.y or (), given.matrix or (), condition)
    return list(dict.fromkeys(name for names in lists for name in names))


def _pairs(table: Table, found: Survey, given: Any) -> list[Pair]:
    """Return the pairs that the options ask for."""
    usable = [name for name in found.columns if name != given.condition]
    if given.matrix is not None:
        names = [n for n in dict.fromkeys(given.matrix or usable) if n != given.condition]
        if len(names) < 2:
            kind: type[ValueError] = OptionError if given.matrix else TableError
            raise kind(
                f"A matrix needs at least two columns that can be used, but {table.path} gives "
                f"{len(names)}.{_left_out(found)}"
            )
        return list(combinations(names, 2))
    others: Collection[str] = given.x or [name for name in usable if name not in given.y]
    pairs = [(a, b) for a, b in dict.fromkeys(product(others, given.y)) if a != b]
    if pairs:
        return pairs
    if given.x:
        raise OptionError(
            "Name different columns: the MI of a column with itself is its entropy, not a "
            "dependence."
        )
    raise TableError(f"{table.path} has no other column that can be used.{_left_out(found)}")


def _left_out(found: Survey) -> str:
    reasons = [note for note in found.notes if note.startswith("left out: ")]
    return f" {reasons[0][0].upper()}{reasons[0][1:]}." if reasons else ""


def _show(result: Result, given: Any) -> None:
    """Write the files, then print: for a reader that takes a few lines and leaves."""
    found = result.found
    matrix = given.matrix is not None
    if given.top or (not matrix and not given.x):
        found = by_value(found, given.top)
    written: list[Path] = []
    failure: OSError | None = None
    try:
        if given.out is not None:
            parts = write(found, given.unit, given.out, given.file.name, matrix=matrix)
            for path in parts:
                written.append(path)
    except OSError as error:
        failure = error
    as_square = matrix and not given.top
    print("\n".join((square if as_square else lines)(found, given.unit, given.condition)))
    for note in [*result.file_notes, *column_notes(result.facts), *notes(found)]:
        print(f"note: {note}", file=sys.stderr)
    for path in written:
        print(f"written to {path}", file=sys.stderr)
    if failure is not None:
        raise RefusalError(1, f"Can't write the result: {failure}.")
