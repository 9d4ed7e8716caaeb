"""The estimates of all pairs of a table: in as many readings as the memory asks for, by as many
processes as there are.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mi_metrics.commands import estimators
from mi_metrics.commands.column_names import label
from mi_metrics.commands.columns import open_table
from mi_metrics.commands.conditional import conditional
from mi_metrics.commands.estimate_lines import Estimate
from mi_metrics.commands.estimate_notes import LEAST_ROWS, remarks
from mi_metrics.commands.estimate_options import Settings
from mi_metrics.commands.facts import Facts
from mi_metrics.commands.gather import Gathered, Need, Pair, gather, most_kept
from mi_metrics.commands.ranks import Ranks
from mi_metrics.commands.survey import Column, Survey
from mi_metrics.commands.table import Share, Table, TableError
from mi_metrics.commands.workers import shared
from mi_metrics.functional.options import require
from mi_metrics.settings import present_name

# A file is not read more often than this.
MOST_READINGS = 64
# What a pair's grid takes beside its counts, while another batch is merged into it.
TWICE = 2
# Taken for free where the system does not say.
USUAL_MEMORY = 4 << 30

Found = tuple[list[Estimate], dict[str, Facts]]


class Plan(NamedTuple):
    """What is to be estimated."""

    table: Table
    survey: Survey
    pairs: list[Pair]
    settings: Settings

    def need(self, pairs: list[Pair]) -> Need:
        """Return what has to be held for some of the pairs."""
        settings, table = self.settings, self.table
        names = dict.fromkeys(name for pair in pairs for name in pair)
        conditional = settings.condition is not None
        if settings.condition is not None:
            names[settings.condition] = None
        rows = settings.max_samples if "knn" in settings.estimators or conditional else 0
        # Where all rows are kept nothing has to be chosen.
        kept = None if rows is None or (rows and table.most_rows <= rows) else rows
        return Need(
            tuple(self.survey.columns[name] for name in names),
            tuple(pairs),
            not conditional and set(settings.estimators) != {"knn"},
            # So few rows have no more distinct values.
            max(2, min(settings.resolution, table.most_rows)),
            kept,
            settings.condition,
        )


class Task(NamedTuple):
    """A part of the pairs, for another process."""

    path: Path
    source: Any
    texts: frozenset[str]
    survey: Survey
    pairs: list[Pair]
    settings: Settings
    memory: int


def estimate_pairs(plan: Plan, jobs: int = 1, ranks: Ranks | None = None) -> Found:
    """Estimate the mutual information of pairs of columns.

    Args:
        plan: What is to be estimated.
        jobs: Processes that share the pairs.
        ranks: Processes that share the rows.

    Returns:
        A line for each pair and estimator, in this order, and facts about the columns. The same
        for any number of jobs and ranks, to the bit.

    Raises:
        TableError: If the file can't be read to its end, or there is too little memory.
    """
    ranks = ranks or Ranks()
    jobs = min(jobs, len(plan.pairs)) if ranks.size == 1 else 1
    memory = min(ranks.all_of(free_memory() // 2)) // jobs
    blocks = divided(plan, memory, jobs)
    if jobs == 1:
        parts = [_block(plan, block, ranks) for block in blocks]
        return _joined(parts)
    # Each process has pairs that follow each other, so that they share columns.
    size = math.ceil(len(plan.pairs) / jobs)
    starts = range(0, len(plan.pairs), size)
    source, texts = plan.table.source, plan.table.texts
    tasks = [
        Task(
            plan.table.path,
            source,
            texts,
            plan.survey,
            plan.pairs[start : start + size],
            plan.settings,
            memory,
        )
        for start in starts
    ]
    with _progress("estimating", len(plan.pairs)) as bar:
        parts = []
        for part in shared(work, tasks, len(tasks), prepare):
            parts.append(part)
            bar.update(len(part[0]) / max(len(plan.settings.estimators), 1))
    lines, facts = _joined(parts)
    order = {pair: i for i, pair in enumerate(plan.pairs)}
    return sorted(lines, key=lambda e: order[e.x, e.y]), facts


def prepare() -> None:
    """Compute on one thread."""
    torch.set_num_threads(1)


def work(task: Task) -> Found:
    """Do a part of the pairs in another process."""
    table = open_table(task.path, task.source)
    for name in task.texts:
        table.read_as_text(name)
    plan = Plan(table, task.survey, task.pairs, task.settings)
    blocks = divided(plan, task.memory, 1)
    return _joined([_block(plan, block, Ranks(), quiet=True) for block in blocks])


def divided(plan: Plan, memory: int, jobs: int) -> list[list[Pair]]:
    """Return the pairs in blocks that fit into memory together, each for one reading of the file.

    Raises:
        TableError: If there would be too many readings.
    """
    need = plan.need(plan.pairs)
    per_pair = TWICE * 8 * (need.resolution + 1) ** 2 if need.grids else 256
    kept = most_kept(need)
    rows = plan.table.most_rows if kept is None else min(plan.table.most_rows, 2 * kept)
    per_column = 0 if need.rows == 0 else 16 * rows
    fixed = per_column * len(need.columns)
    fitting = (memory - fixed) // per_pair
    if fitting < 1 or len(plan.pairs) > MOST_READINGS * fitting * jobs:
        total = fixed + per_pair * len(plan.pairs)
        raise TableError(
            f"{len(plan.pairs)} pairs of {len(need.columns)} columns, {per_pair / 2**20:.2g} MiB "
            f"each, and {fixed / 2**20:.2g} MiB of rows take {total / 2**30:.2g} GiB, where "
            f"{memory / 2**30:.2g} GiB are free for them. Name fewer columns or estimators, or "
            "lower --resolution or --max-samples."
        )
    return [plan.pairs[i : i + fitting] for i in range(0, len(plan.pairs), fitting)]


def free_memory() -> int:
    """Return how many bytes this process may take, as far as the system says."""
    found = [USUAL_MEMORY]
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    with suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        found.append(limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return max(min(found, default=USUAL_MEMORY), 0)


def _joined(parts: list[Found]) -> Found:
    facts: dict[str, Facts] = {}
    for _, found in parts:
        facts |= found
    return [line for found, _ in parts for line in found], facts


def _block(plan: Plan, pairs: list[Pair], ranks: Ranks, *, quiet: bool = False) -> Found:
    """Read the file once and estimate some of the pairs."""
    need, quiet = plan.need(pairs), quiet or ranks.rank > 0
    share = Share(ranks.rank, ranks.size)
    with _progress("reading", quiet=quiet) as bar:

        def advance(done: float) -> None:
            bar.update(done - bar.n)

        held = ranks.together(lambda: gather(plan.table, need, share, advance))
    if ranks.size > 1:
        held.merge(ranks)
    mine = [pair for i, pair in enumerate(pairs) if i % ranks.size == ranks.rank]

    def evaluate() -> list[Estimate]:
        found = []
        with _progress("estimating", len(mine), quiet=quiet) as bar:
            for pair in mine:
                found += list(_lines(held, pair, plan.settings))
                # The state is released, because a kernel density needs more memory than it does.
                held.states.pop(pair, None)
                bar.update(1)
        return found

    # What each process has found goes to the first, which shows it.
    parts = ranks.all_of(ranks.together(evaluate))
    order = {pair: i for i, pair in enumerate(pairs)}
    found = [line for part in parts for line in part]
    return sorted(found, key=lambda e: order[e.x, e.y]), held.facts


def _lines(held: Gathered, pair: Pair, settings: Settings) -> Iterator[Estimate]:
    valid = held.valid[pair]
    columns = {column.name: column for column in held.need.columns}
    for name in settings.estimators:
        yield _line(held, pair, name, (columns[pair[0]], columns[pair[1]]), valid, settings)


def _line(
    held: Gathered,
    pair: Pair,
    name: str,
    columns: tuple[Column, Column],
    valid: int,
    settings: Settings,
) -> Estimate:
    both = " and ".join(map(label, pair))
    ignored = held.seen - valid
    if not valid:
        remark = (both, "no row holds a value in both")
        return Estimate(*pair, name, 0, ignored, math.nan, notes=(remark,))
    value = _value(held, pair, present_name(name), columns, settings)
    n = value.n
    found = [] if value.reason is None else [(both, value.reason)]
    if n < valid and value.reason is None:
        found.append((both, f"{n} of {valid} rows used; --max-samples sets how many"))
    if n < LEAST_ROWS and not math.isnan(value.mi):
        found = [(both, f"fewer than {LEAST_ROWS} rows, too few to rely on the value")]
    else:
        found += list(remarks(value.doubts, pair, held.facts))
    scale = math.log(2) if settings.unit == "bits" else 1.0
    low, high = value.interval or (None, None)
    return Estimate(
        *pair,
        name,
        n,
        ignored,
        value.mi / scale,
        None if value.error is None else value.error / scale,
        None if low is None else low / scale,
        None if high is None else high / scale,
        value.p,
        tuple(kind for kind, _ in value.doubts),
        tuple(found),
    )


def _value(
    held: Gathered, pair: Pair, name: str, columns: tuple[Column, Column], settings: Settings
) -> estimators.Value:
    discrete = columns[0].discrete, columns[1].discrete
    given = estimators.Options(settings.permutations, settings.standardize)
    if settings.condition is not None:
        third = held.need.columns[held.names.index(settings.condition)]
        places = [held.names.index(column) for column in (*pair, settings.condition)]
        rows = held.sample.rows(places, settings.max_samples)
        return conditional(name, rows, (*discrete, third.discrete), given)
    if name == "bins":
        wide = held.wide[pair[0]], held.wide[pair[1]]
        return estimators.bins(held.states[pair], discrete, wide, given)
    if name == "kde":
        if any(discrete):
            reason = "categories have no density"
            return estimators.Value(held.valid[pair], math.nan, reason=reason)
        return estimators.densities(held.states[pair], given)
    places = [held.names.index(column) for column in pair]
    return estimators.neighbours(held.sample.rows(places, settings.max_samples), discrete, given)


def _progress(what: str, total: float = 1.0, *, quiet: bool = False) -> Any:
    """Return a progress bar that shows after two seconds, and on a terminal only."""
    tqdm: Any = require("tqdm", "cli", "The commands").tqdm
    # A lock for several processes, which tqdm makes by itself, outlives a worker that is ended.
    tqdm.set_lock(threading.RLock())
    # `disable=None` hides the bar where stderr is not a terminal.
    bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return tqdm(
        total=total,
        desc=what,
        delay=2,
        leave=False,
        disable=True if quiet else None,
        bar_format=bar_format,
    )
