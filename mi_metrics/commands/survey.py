"""Which columns of a table are used, as what, and which are left out and why."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from mi_metrics.commands.column_names import label, listed, quoted
from mi_metrics.commands.labels import (
    MISSING,
    MOST,
    Counts,
    Labels,
    counted,
    labels_of,
    why_no_labels,
)
from mi_metrics.commands.ranks import Ranks
from mi_metrics.commands.table import Share, Table, TableError

# Names that programs give to a column that numbers the rows.
ROW_NUMBERS = frozenset({"__index_level_0__", "Unnamed: 0"})


class Column(NamedTuple):
    """How a column is used."""

    name: str
    discrete: bool  # categories, and not numbers
    labels: Labels | None = None  # its codes; None: the numbers themselves


class Survey(NamedTuple):
    """The columns of a table."""

    columns: dict[str, Column]  # those that are used, in the order of the file
    notes: tuple[str, ...]


def survey(
    table: Table,
    named: Collection[str],
    *,
    all_others: bool,
    discrete: Collection[str] = (),
    most_labels: int = MOST,
    ranks: Ranks | None = None,
) -> Survey:
    """Find out what columns hold; those of texts, and numbers that are labels, are read for it.

    Args:
        table: The file.
        named: Columns that the user has named.
        all_others: Whether all other columns are wanted as well, where they can be used.
        discrete: Columns of numbers that are labels.
        most_labels: The most categories that count each.
        ranks: The processes that share the file.

    Raises:
        TableError: If a column that is named can't be used, or the file can't be read.
        TextFoundError: If a column of numbers holds a text.
    """
    ranks = ranks or Ranks()
    table.check([*named, *discrete])
    wanted, left_out = _wanted(table, named, all_others)
    counted_ones = [n for n in wanted if table.kind(n) == "text" or n in discrete]
    found = _count(table, counted_ones, ranks)
    columns, notes = {}, list(table.notes)
    for name in wanted:
        kind = table.kind(name)
        if name not in found:
            columns[name] = Column(name, kind == "flag")
            continue
        reason = None
        if kind == "text":
            mark = table.decimal_mark
            reason = why_no_labels(found[name], asked=name in named, mark=mark)
        if reason is None and found[name].more:
            reason = "holds too many distinct values to be categories"
        if reason and name in named:
            raise TableError(f"Column {quoted(name)} of {table.path} {reason}.")
        if reason:
            left_out[name] = reason
            continue
        columns[name] = Column(name, True, labels_of(found[name], min(MOST, most_labels)))
        notes += _label_notes(name, found[name], columns[name])
    dates = [name for name in columns if table.kind(name) == "date"]
    if dates:
        notes.append(f"{', '.join(map(label, dates))}: dates and times are read as days")
    if left_out:
        reasons = "; ".join(f"{label(name)} {reason}" for name, reason in left_out.items())
        notes.append(f"left out: {reasons}")
    return Survey(columns, tuple(notes))


def _wanted(
    table: Table, named: Collection[str], all_others: bool
) -> tuple[list[str], dict[str, str]]:
    """Return the columns that are wanted, and why others are left out before they are read."""
    wanted, left_out = list[str](), dict[str, str]()
    for place, name in enumerate(table.names()):
        if name in named:
            wanted.append(name)
        elif all_others and name not in left_out:
            if reason := _reason(table, name, place):
                left_out[name] = reason
            else:
                wanted.append(name)
    return wanted, left_out


def _reason(table: Table, name: str, place: int) -> str | None:
    """Return why a column that the user has not named is left out before it is read, or None."""
    if table.names().count(name) > 1:
        return f"is the name of {table.names().count(name)} columns"
    if name in table.unfit:
        return table.unfit[name]
    if name in ROW_NUMBERS or (place == 0 and not name.strip()):
        return "numbers the rows"
    if table.kind(name) == "other":
        return table.why_not(name)
    return None


def _count(table: Table, names: Sequence[str], ranks: Ranks) -> dict[str, Counts]:
    if not names:
        return {}

    def count() -> dict[str, Counts]:
        found: dict[str, Counts] = {}
        for batch in table.batches(names, Share(ranks.rank, ranks.size)):
            for name, column in zip(names, batch.columns, strict=True):
                if name not in found:
                    found[name] = counted(column)
                elif not found[name].more:
                    found[name] += counted(column)
        return found

    parts = ranks.all_of(ranks.together(count))
    total: dict[str, Counts] = {}
    for part in parts:
        for name, counts in part.items():
            total[name] = total[name] + counts if name in total else counts
    return {name: total[name] for name in names if name in total}


def _label_notes(name: str, counts: Counts, column: Column) -> list[str]:
    notes = []
    labels = column.labels
    assert labels is not None
    if labels.others:
        notes.append(
            f"{label(name)}: {len(labels.values) + labels.others} categories; all but the "
            f"{len(labels.values)} most frequent count as one"
        )
    texts = [value for value in labels.values if isinstance(value, str)]
    if suspects := [text for text in texts if text.lower() in MISSING]:
        given = " ".join(f"'{text}'" for text in suspects)
        notes.append(
            f"{label(name)}: {listed(suspects)} counts as a category; if it marks missing values, "
            f"pass --missing {given}"
        )
    return notes
