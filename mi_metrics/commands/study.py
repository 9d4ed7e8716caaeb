r"""How accurate and how fast the estimators are: `mi-metrics study`.

Samples are drawn from a distribution whose mutual information is known
(:mod:`mi_metrics.distributions`), at several strengths of dependence and several sizes. All
estimators see the same samples, each with the settings that its documentation recommends. The
results are a table (:mod:`mi_metrics.commands.study_table`) and figures.

Rows are written as they are computed, so an interrupted study continues where it was. The generator
of a point is seeded by its distribution, truth, size and the seed: the values do not depend on what
was computed before, or where.
"""

import argparse
import hashlib
import math
import time
import warnings
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch

from mi_metrics.commands.study_options import DRAWS, POINTS, SIZES, parser
from mi_metrics.commands.study_table import (
    Place,
    Row,
    TableError,
    append,
    held,
    number,
    read,
    read_own,
    writable,
    write,
)
from mi_metrics.commands.workers import WorkerError, shared
from mi_metrics.distributions import DISTRIBUTIONS, Pair
from mi_metrics.functional.options import require
from mi_metrics.settings import ESTIMATORS, present_name

# The most pairs that are held in memory at once: 2 GiB.
MOST = 2**27
# The information of a Gaussian pair at r = 0.99.
STRONGEST = -0.5 * math.log(1 - 0.99**2)


class Point(NamedTuple):
    """What one row of the table is computed from."""

    estimator: str
    distribution: str
    truth: float
    n: int
    draws: int = DRAWS
    seed: int = 0

    @property
    def parameter(self) -> float:
        """The distribution's parameter."""
        return DISTRIBUTIONS[self.distribution].parameter(self.truth)

    @property
    def place(self) -> Place:
        """Where its row is."""
        return self.estimator, number(self.parameter), self.n


def truths(distribution: str = "gaussian", points: int = POINTS) -> list[float]:
    """Return evenly spaced values of the mutual information, from the least there is (mostly 0) to
    1.959 nats.
    """
    least = DISTRIBUTIONS[distribution].minimum
    return [least + (STRONGEST - least) * i / (points - 1) for i in range(points)]


def grid(
    distribution: str = "gaussian",
    estimators: Collection[str] = tuple(ESTIMATORS),
    sizes: Iterable[int] = SIZES,
    points: int = POINTS,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Point]:
    """Return the points of a study: every truth, size and estimator, in this order."""
    asked = set(map(present_name, estimators))
    names = [name for name in ESTIMATORS if name in asked]
    return [
        Point(name, distribution, truth, n, draws, seed)
        for truth in truths(distribution, points)
        for n in sizes
        for name in names
    ]


def draw(distribution: str, truth: float, n: int, draws: int, seed: int) -> Pair:
    """Return the samples of a point, x and y of shape ``(draws, n)``: a function of these arguments
    alone.
    """
    identity = f"{distribution} {number(truth)} {n} {seed}"
    digest = hashlib.sha256(identity.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    return DISTRIBUTIONS[distribution].sample(truth, draws, n, generator)


def evaluate(point: Point) -> Row:
    """Compute a row of the table."""
    x, y = draw(point.distribution, point.truth, point.n, point.draws, point.seed)
    with warnings.catch_warnings():
        # The study shows what heavy tails and small samples do, so its warnings are silenced.
        warnings.simplefilter("ignore", UserWarning)
        start = time.process_time()
        values = ESTIMATORS[point.estimator](x, y)
        seconds = time.process_time() - start
    mean, sd = float(values.mean()), float(values.std())
    milliseconds = round(1e3 * seconds / point.draws, 4)
    results = mean, sd, mean - point.truth, milliseconds
    return Row(
        point.estimator, point.parameter, point.n, point.truth, *results, point.draws, point.seed
    )


def evaluate_all(points: Sequence[Point], workers: int = 1) -> Generator[Row]:
    """Compute rows, in the order of their completion.

    Args:
        points: What to compute.
        workers: Processes that share the points; with 1 it is this process.

    Raises:
        WorkerError: If one of several processes can't be started, or ends before its time.
    """
    if workers > 1 and len(points) > 1:
        yield from shared(evaluate, points, min(workers, len(points)), _prepare)
        return
    if not points:
        return
    threads = torch.get_num_threads()
    try:
        _prepare()
        yield from map(evaluate, points)
    finally:
        torch.set_num_threads(threads)


def _prepare() -> None:
    """Compute on one thread, and load what the estimators load at their first call."""
    torch.set_num_threads(1)
    x, y = torch.randn(2, 1, 100, generator=torch.Generator().manual_seed(0))
    for estimator in ESTIMATORS.values():
        estimator(x, y)


def run(path: Path, points: Sequence[Point], workers: int = 1) -> list[Row]:
    """Compute the rows of a table that it does not have yet, with a progress bar on a terminal.

    Args:
        path: The table; a new file, or one of the same study.
        points: What the table should have, of one distribution, number of draws and seed.
        workers: As in :func:`evaluate_all`.

    Returns:
        The rows of ``points``, in their order.

    Raises:
        TableError: If the file is not a table of this study, can't be written, or another study is
            writing it.
        WorkerError: As in :func:`evaluate_all`; what is done is in the table.
    """
    from tqdm import tqdm

    _, distribution, *_, draws, seed = points[0]
    # Other estimators at these points may be there as well.
    places = {point._replace(estimator=name).place for point in points for name in ESTIMATORS}
    with held(path):
        rows = read_own(path, distribution, places, draws, seed)
        missing = [point for point in points if point.place not in rows]
        write(path, distribution, rows.values())
        done = len(points) - len(missing)
        with (
            tqdm(total=len(points), initial=done, unit="rows", leave=False, disable=None) as bar,
            closing(evaluate_all(missing, workers)) as found,
        ):
            for row in found:
                append(path, row)
                bar.update()
        # The rows are those of the file, so that what is returned now and what is read later are
        # the same.
        rows = {row.place: row for row in read(path, distribution)}
        order = list(ESTIMATORS)
        write(
            path,
            distribution,
            sorted(rows.values(), key=lambda row: (order.index(row.estimator), row.truth, row.n)),
        )
    return [rows[point.place] for point in points]


def summary(rows: Sequence[Row]) -> str:
    """Return a table of the mean and the greatest absolute error, and of the duration at the
    largest N.
    """
    largest = max(row.n for row in rows)
    lines = [
        f"{'estimator':<14}{'mean |error|':>14}{'worst |error|':>15}{f'ms at N = {largest}':>18}"
    ]
    for name in dict.fromkeys(row.estimator for row in rows):
        mine = [row for row in rows if row.estimator == name]
        errors = [abs(row.error) for row in mine]
        times = [row.milliseconds for row in mine if row.n == largest]
        lines.append(
            f"{name:<14}{sum(errors) / len(errors):>14.4f}{max(errors):>15.4f}"
            f"{sum(times) / len(times):>18.3f}"
        )
    return "\n".join(lines)


def main(args: Sequence[str]) -> None:
    """Run ``mi-metrics study``.

    Args:
        args: ``"study"`` and its options.

    Raises:
        ModuleNotFoundError: If the extra ``cli`` is not installed.
    """
    parsed = parser()
    options = parsed.parse_args(args[1:])
    require("tqdm", "cli", "The commands")
    if not options.no_figures:
        require("matplotlib", "cli", "Figures")
    sizes = sorted(set(options.sizes))
    if options.draws * sizes[-1] > MOST:
        parsed.error(
            f"expected --draws times --sizes of at most {MOST} pairs, but got "
            f"{options.draws} * {sizes[-1]}"
        )
    name = options.distribution
    path = options.out / f"study_{name}.csv"
    continues = f"{path} keeps what is done; the same command continues."
    try:
        rows, written = _study(options, sizes, path)
    except TableError as error:
        parsed.exit(1, f"mi-metrics study: error: {error}\n")
    except WorkerError as error:
        fewer = "Where memory is short use fewer, for example --workers 1."
        parsed.exit(1, f"mi-metrics study: error: {error} {fewer} {continues}\n")
    except KeyboardInterrupt:
        parsed.exit(130, f"\nmi-metrics study: interrupted. {continues}\n")
    print(f"{name}: {DISTRIBUTIONS[name].summary}")
    print(
        f"{options.points} strengths of dependence, {len(sizes)} sizes, {options.draws} draws; "
        "errors in nats\n"
    )
    print(summary(rows))
    print("\nwritten:", *written, sep="\n  ")


def _study(
    options: argparse.Namespace, sizes: Sequence[int], path: Path
) -> tuple[list[Row], list[Path]]:
    """Compute the table and draw the figures; return the rows and the files written."""
    name, draws, seed = options.distribution, options.draws, options.seed
    points = grid(name, options.estimators, sizes, options.points, draws, seed)
    with writable(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    rows = run(path, points, options.workers)
    written = [path]
    if not options.no_figures:
        from mi_metrics.commands.study_figures import figures

        x, y = draw(name, points[-1].truth, sizes[-1], 1, seed)
        for what, figure in figures(rows, name, x[0], y[0]).items():
            written.append(options.out / f"study_{name}_{what}.png")
            with writable(written[-1]):
                figure.savefig(written[-1], dpi=150)
    return rows, written
