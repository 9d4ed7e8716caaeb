"""Coverage of intervals, calibration and power of p-values, verdicts on nearest neighbours:
``python -m campaigns.inference [--repetitions N] [--write]``.

The truth of an interval is the information of the *binned* variables: of a table of known
probabilities, or, where the samples choose the bins, of the cells between the edges that they have
chosen. ``--write`` puts the tables into ``benchmarks/RESULTS.md``.
"""

import argparse
import itertools
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from campaigns.reliability import tally
from mi_metrics import BinnedMutualInformation
from mi_metrics.functional import confidence_interval, independence_p_value

RESULTS = Path(__file__).parent.parent / "benchmarks" / "RESULTS.md"
TITLE = "## P-values, intervals and verdicts"
# Draws of tables or samples, each with a p-value from so many permutations.
REPETITIONS, PERMUTATIONS, RESAMPLES = 500, 199, 300
NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)

Array = NDArray[np.float64]


def gaussian_cells(x_edges: Array, y_edges: Array, r: float) -> Array:
    """Return the probabilities of cells between inner edges of a Gaussian pair, in deviations.

    Gauss's rule along x in steps of probability, and the conditional normal law along y.
    """
    ends = np.concatenate([[0.0], norm.cdf(x_edges), [1.0]])
    cells = []
    for low, high in itertools.pairwise(ends):
        x = norm.ppf(low + (high - low) * (NODES + 1) / 2)
        below = norm.cdf((y_edges - r * x[:, None]) / math.sqrt(1 - r * r))
        share = np.diff(below, axis=1, prepend=0, append=1)
        cells.append((high - low) / 2 * WEIGHTS @ share)
    return np.stack(cells)


def information(p: Array) -> float:
    """Return the information of a table of probabilities, in nats."""
    independent = np.outer(p.sum(1), p.sum(0))
    held = p > 0
    # Rounding may leave less than 0, where intervals end.
    return max(float((p[held] * np.log(p[held] / independent[held])).sum()), 0.0)


def equal_cells(bins: int, r: float) -> Array:
    """Return bins of equal frequency of a Gaussian pair."""
    edges = norm.ppf(np.arange(1, bins) / bins)
    return gaussian_cells(edges, edges, r)


def lognormal_cells(r: float) -> Array:
    """Return 12 bins of equal width of a lognormal pair: most samples lie in three of them."""
    edges = np.log(np.arange(1, 12) / 2)
    return gaussian_cells(edges, edges, r)


def label_cells(share: float) -> Array:
    """Return 12 x 9 labels; a share of the samples has a dependence."""
    generator = np.random.default_rng(12)
    joint = generator.dirichlet(np.full(108, 0.3)).reshape(12, 9)
    return share * joint + (1 - share) * np.outer(joint.sum(1), joint.sum(0))


def tied_cells(r: float) -> Array:
    """Return a pair of which 70 % have one value, the others bins of equal frequency."""
    edges = norm.ppf(0.7 + 0.3 * np.arange(8) / 8)
    return gaussian_cells(edges, edges, r)


def tables() -> Iterator[tuple[str, int, Array]]:
    """Yield named tables of probabilities with numbers of samples, about two per cell or more."""
    for n in (500, 5000):
        for r in (0.0, 0.2, 0.5, 0.9):
            yield f"8 x 8 bins, Gaussian, r = {r}", n, equal_cells(8, r)
            yield f"16 x 16 bins, Gaussian, r = {r}", n, equal_cells(16, r)
        yield "12 x 12 equal widths, lognormal, r = 0.5", n, lognormal_cells(0.5)
        for share in (0.0, 0.3, 1.0):
            yield f"12 x 9 labels, {share:.0%} dependent", n, label_cells(share)
        for r in (0.0, 0.6):
            yield f"70 % of one value, r = {r}", n, tied_cells(r)


def covered(p: Array, n: int, repetitions: int, seed: int = 0) -> float:
    """Return the share of intervals of 95 % that hold the information of a table."""
    drawn = np.random.default_rng(seed).multinomial(n, p.ravel() / p.sum(), size=repetitions)
    counts = torch.as_tensor(drawn.reshape(-1, *p.shape))
    ends, truth = confidence_interval(counts, num_resamples=RESAMPLES).numpy(), information(p)
    return float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())


def samples(n: int, r: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a Gaussian pair."""
    x, noise = torch.randn(2, n, generator=generator, dtype=torch.float64)
    return x, r * x + math.sqrt(1 - r * r) * noise


def covered_by_automatic_bins(n: int, r: float, repetitions: int, seed: int = 0) -> float:
    """Return the share of intervals that hold the information between the edges of automatic
    bins.
    """
    generator, held = torch.Generator().manual_seed(seed), 0
    for _ in range(repetitions):
        metric = BinnedMutualInformation(resolution=1024)
        metric.update(*samples(n, r, generator))
        x_edges, y_edges = (edges[1:-1].numpy() for edges in metric.edges())
        truth = information(gaussian_cells(x_edges, y_edges, r))
        low, high = metric.interval(num_resamples=RESAMPLES).tolist()
        held += low <= truth <= high
    return held / repetitions


def binned(
    draw: Callable[[int, float, torch.Generator], tuple[torch.Tensor, torch.Tensor]],
    n: int,
    r: float,
    bins: int | None,
    repetitions: int,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the share of p-values of at most 5 %, by permutations and by G, on bins of equal
    frequency; None: automatic bins, tested by the metric.
    """
    generator, found = torch.Generator().manual_seed(seed), np.zeros(2)
    for repetition in range(repetitions):
        kind = {} if bins is None else {"num_bins": bins, "binning": "quantile"}
        metric = BinnedMutualInformation(**kind)
        metric.update(*draw(n, r, generator))
        for i, method in enumerate(("permutation", "g")):
            # With one seed, tables of the same margins would share their random ones.
            p = metric.p_value(method=method, num_permutations=PERMUTATIONS, seed=repetition)
            found[i] += p <= 0.05
    return float(found[0] / repetitions), float(found[1] / repetitions)


def rejected(p: Array, n: int, repetitions: int, seed: int = 0) -> tuple[float, float]:
    """Return the share of p-values of at most 5 % of tables, by permutations and by G."""
    drawn = np.random.default_rng(seed).multinomial(n, p.ravel() / p.sum(), size=repetitions)
    counts = torch.as_tensor(drawn.reshape(-1, *p.shape))
    return (
        float(
            (
                independence_p_value(counts, method="permutation", num_permutations=PERMUTATIONS)
                <= 0.05
            )
            .double()
            .mean()
        ),
        float((independence_p_value(counts) <= 0.05).double().mean()),
    )


def lognormal(n: int, r: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a lognormal pair."""
    x, y = samples(n, r, generator)
    return x.exp(), y.exp()


def tied(n: int, r: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a pair of which half the values of either variable are 0."""
    x, y = samples(n, r, generator)
    return x.clamp_min(0), y.clamp_min(0)


def rounded(n: int, r: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a pair of few values."""
    x, y = samples(n, r, generator)
    return x.round(), (2 * y).round()


def calibration(repetitions: int) -> Iterator[tuple[str, int, tuple[float, float]]]:
    """Yield shares of rejected tests of independent variables."""
    for n in (50, 250, 2000):
        yield "16 quantile bins, Gaussian", n, binned(samples, n, 0.0, 16, repetitions)
        yield "12 equal widths, lognormal", n, rejected(lognormal_cells(0.0), n, repetitions)
        yield "12 x 9 labels", n, rejected(label_cells(0.0), n, repetitions)
        yield "70 % of one value", n, rejected(tied_cells(0.0), n, repetitions)
    for n in (60, 250, 1000):
        for name, draw in (
            ("Gaussian", samples),
            ("lognormal", lognormal),
            ("half of one value", tied),
            ("rounded", rounded),
        ):
            yield f"automatic bins, {name}", n, binned(draw, n, 0.0, None, repetitions)


def power(repetitions: int) -> Iterator[tuple[str, int, tuple[float, float]]]:
    """Yield shares of rejected tests of a Gaussian pair of correlation 0.2."""
    for bins in (4, 8):
        yield f"{bins} quantile bins", 300, binned(samples, 300, 0.2, bins, repetitions)
    yield "automatic bins", 300, binned(samples, 300, 0.2, None, repetitions)


def durations() -> Iterator[tuple[str, float, float]]:
    """Yield what takes how many milliseconds of CPU time, and how many it may."""
    generator = np.random.default_rng(0)

    def table(bins: int, n: int) -> torch.Tensor:
        p = equal_cells(bins, 0.3)
        return torch.as_tensor(generator.multinomial(n, p.ravel() / p.sum()).reshape(p.shape))

    def permuted(counts: torch.Tensor, number: int) -> Callable[[], object]:
        return lambda: independence_p_value(counts, method="permutation", num_permutations=number)

    large, small, few = table(64, 10**7), table(16, 10**6), table(16, 5000)
    for name, call, share, most in (
        ("a permutation of 64 x 64 cells, N = 1e7", permuted(large, 100), 100, 1.0),
        ("999 permutations of 16 x 16 cells, N = 1e6", permuted(small, 999), 1, 200.0),
        (
            "an interval of 16 x 16 cells, N = 5000",
            lambda: confidence_interval(few),
            1,
            100.0,
        ),
    ):
        call()
        taken = []
        for _ in range(3):
            start = time.process_time()
            call()
            taken.append(1000 * (time.process_time() - start) / share)
        yield name, min(taken), most


def report(repetitions: int) -> Iterator[str]:
    """Yield the lines of the section of ``benchmarks/RESULTS.md``."""
    yield TITLE
    yield ""
    yield (
        f"`python -m campaigns.inference --write`: {repetitions} repetitions of each row, "
        f"{PERMUTATIONS} permutations, {RESAMPLES} resamples."
    )
    yield from ("", "| intervals of 95 % of the binned variables' information | N | hold it |")
    yield "|---|---|---|"
    shares = []
    for name, n, p in tables():
        shares.append(covered(p, n, repetitions))
        yield f"| {name} | {n} | {shares[-1]:.1%} |"
    for n in (500, 5000):
        for r in (0.0, 0.5, 0.9):
            shares.append(covered_by_automatic_bins(n, r, repetitions))
            yield f"| automatic bins, Gaussian, r = {r} | {n} | {shares[-1]:.1%} |"
    yield f"| all (least {min(shares):.1%}, most {max(shares):.1%}) | | {np.mean(shares):.1%} |"
    head = "| N | permutations | G |"
    for title, rows in (
        ("p ≤ 0.05 of independent variables", calibration(repetitions)),
        ("p ≤ 0.05 of a Gaussian pair, r = 0.2", power(repetitions)),
    ):
        yield from ("", f"| {title} {head}", "|---|---|---|---|")
        for name, n, (permuted, g) in rows:
            yield f"| {name} | {n} | {permuted:.1%} | {g:.1%} |"
    yield from ("", "| CPU time of one thread | measured | required | |", "|---|---|---|---|")
    for name, taken, most in durations():
        verdict = "yes" if taken <= most else "**no**"
        yield f"| {name} | {taken:.3g} ms | <= {most:g} ms | {verdict} |"


def verdicts(draws: int) -> Iterator[str]:
    """Yield the table of verdicts on nearest neighbours."""
    head = "| `knn_reliability`, N = 1000 and 2000, 1 to 10 dimensions | false alarms | found |"
    yield from ("", head, "|---|---|---|")
    for name, (alarms, right, found, wrong) in tally(draws).items():
        yield f"| {name} | {alarms} of {right} | {found} of {wrong} |"


def main() -> None:
    """Print the tables, and write them."""
    parser = argparse.ArgumentParser(prog="python -m campaigns.inference", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--draws", type=int, default=5, help="of each family of verdicts")
    parser.add_argument("--write", action="store_true", help="into benchmarks/RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for part in (report(options.repetitions), verdicts(options.draws)):
        for line in part:
            print(line, flush=True)
            lines.append(line)
    if options.write:
        write("\n".join(lines))


def write(section: str) -> None:
    """Put the section in place of the one that has its title, or at the end."""
    text = RESULTS.read_text()
    old = re.search(rf"^{re.escape(TITLE)}\n.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if old:
        text = text[: old.start()] + section + "\n\n" + text[old.end() :]
    else:
        text = text.rstrip() + "\n\n" + section + "\n"
    RESULTS.write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    main()
