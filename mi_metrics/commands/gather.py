"""Read a table once, and hold what the estimates of pairs of its columns need."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.commands.facts import Facts
from mi_metrics.commands.ranks import Ranks
from mi_metrics.commands.sample import Sample
from mi_metrics.commands.survey import Column
from mi_metrics.commands.table import Batch, Share, Table
from mi_metrics.states import grid, shared

Pair = tuple[str, str]
# Rows are kept for all pairs together. Where some are missing, a pair finds its own among so many
# times as many, as far as they have no more than so many numbers.
SPARE, MOST_NUMBERS = 4, 1 << 25


class Need(NamedTuple):
    """What has to be held."""

    columns: tuple[Column, ...]
    pairs: tuple[Pair, ...]
    grids: bool  # tables of cells, for bins and densities
    resolution: int
    rows: int | None  # rows for neighbours: 0 for none, None for all
    condition: str | None = None  # a column that each row needs as well


class Gathered:
    """What was read of a table.

    Attributes:
        states: The grid of each pair, ``(1, L)``; none without rows.
        sample: Rows of all columns.
        facts: What the numbers of each column are like.
        wide: Whether a column has other numbers than float32.
        seen: How many rows were read.
        valid: How many rows have a value in both columns of a pair.
    """

    def __init__(self, need: Need) -> None:
        self.need = need
        self.names = [column.name for column in need.columns]
        self.states: dict[Pair, Tensor] = {}
        self.sample = Sample(len(self.names), most_kept(need))
        self.facts = {c.name: Facts() for c in need.columns if not c.discrete}
        self.wide = dict.fromkeys(self.names, False)
        self.seen = 0
        self.valid = dict.fromkeys(need.pairs, 0)

    def add(self, columns: list[Tensor], start: int) -> None:
        """Add a batch of rows."""
        place = {name: i for i, name in enumerate(self.names)}
        self.seen += len(columns[0])
        for name, column in zip(self.names, columns, strict=True):
            self.wide[name] |= column.dtype != torch.float32
            if name in self.facts:
                self.facts[name].add(column)
        for (x, y), number in self._overlaps(columns).items():
            self.valid[x, y] += number
        if self.need.rows != 0:
            self.sample.add(columns, start)
        if not self.need.grids:
            return
        ordered = [shared.Column(column, self.need.resolution) for column in columns]
        for x, y in self.need.pairs:
            state = self.states.get((x, y))
            self.states[x, y] = shared.add(state, ordered[place[x]], ordered[place[y]])

    def merge(self, ranks: Ranks) -> None:
        """Take in what the other processes have read. The grid of a pair goes to one of them: that
        of its place among all pairs.
        """
        parts = ranks.all_of((self.sample, self.facts, self.wide, self.seen, self.valid))
        for rank, (sample, facts, wide, seen, valid) in enumerate(parts):
            if rank == ranks.rank:
                continue
            self.sample.merge(sample)
            self.facts = {n: f + facts[n] for n, f in self.facts.items()}
            self.wide = {n: w or wide[n] for n, w in self.wide.items()}
            self.seen += seen
            self.valid = {p: n + valid[p] for p, n in self.valid.items()}
        if not self.need.grids:
            return
        for i, pair in enumerate(self.need.pairs):
            states = [
                s for s in ranks.to(i % ranks.size, self.states.pop(pair, None)) if s is not None
            ]
            if states:
                self.states[pair] = grid.fold(torch.stack(states))

    def _overlaps(self, columns: list[Tensor]) -> dict[Pair, int]:
        """Return how many rows each pair has."""
        finite = torch.stack([column.isfinite() for column in columns], 1)
        if self.need.condition is not None:
            # A row without the condition is no row of any pair.
            finite &= finite[:, self.names.index(self.need.condition)].unsqueeze(1)
        if bool(finite.all()):
            return dict.fromkeys(self.need.pairs, len(finite))
        # Sums of ones are exact in float32 up to 2^24 rows, more than a batch has.
        both = finite.float().T @ finite.float()
        place = {name: i for i, name in enumerate(self.names)}
        return {(x, y): int(both[place[x], place[y]]) for x, y in self.need.pairs}


def gather(
    table: Table,
    need: Need,
    share: Share | None = None,
    progress: Callable[[float], None] | None = None,
) -> Gathered:
    """Read columns of a table.

    Args:
        table: The table.
        need: What is held.
        share: The part of the table that is read; by default all.
        progress: Told which fraction has been read.

    Raises:
        TableError: If the file can't be read to its end.
        TextFoundError: If a column of numbers holds a text.
    """
    found = Gathered(need)
    held: list[Batch] = []
    rows = table.chunk_rows(len(need.columns))
    # Blocks of text and small row groups are put together where their rows follow each other; a
    # batch of the right size is passed on without a copy.
    for batch in table.batches(found.names, share):
        if not len(batch):
            continue
        if held and held[-1].start + len(held[-1]) != batch.start:
            _add(found, held)
            held = []
        held.append(batch)
        if sum(map(len, held)) >= rows:
            _add(found, held)
            held = []
        if progress is not None:
            progress(min(batch.done, 1.0))
    if held:
        _add(found, held)
    return found


def _add(found: Gathered, held: Sequence[Batch]) -> None:
    columns = []
    for i, column in enumerate(found.need.columns):
        parts = [
            batch.columns[i] if column.labels is None else column.labels.code(batch.columns[i])
            for batch in held
        ]
        columns.append(parts[0] if len(parts) == 1 else torch.cat(parts))
    found.add(columns, held[0].start)


def most_kept(need: Need) -> int | None:
    """Return how many rows are kept at most; None for all."""
    if need.rows is None:
        return None
    return max(need.rows, min(SPARE * need.rows, MOST_NUMBERS // max(len(need.columns), 1)))
