"""False alarms and finds of the verdict on nearest neighbours, on families that did not set its
thresholds: ``python -m campaigns.reliability [--draws N]``.

A value is right within 0.03 nats of the truth, wrong from 0.1 nats on; others count for neither.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from mi_metrics.distributions import DISTRIBUTIONS
from mi_metrics.functional import knn_reliability

Pair = tuple[Tensor, Tensor, float]
RIGHT, WRONG = 0.03, 0.1
SIZES = (1000, 2000)
DIMENSIONS = (1, 2, 3, 5, 10)
# The Gaussian, its lognormal and the Student t set the thresholds.
SCALARS = ("cubed", "gamma-exponential", "uniform-noise")


def several(name: str, d: int, each: float, n: int, generator: Generator) -> Pair:
    """Return d independent pairs of a family of the catalogue, as two vectors."""
    family = DISTRIBUTIONS[name]
    truth = max(each, family.minimum)
    x, y = family.sample(truth, d, n, generator)
    return x.mT, y.mT, d * truth


def mixed(d: int, r: float, n: int, generator: Generator) -> Pair:
    """Return Gaussian vectors turned by random rotations, then bent by a monotone map."""
    x, noise = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    y = r * x + math.sqrt(1 - r * r) * noise
    turns = torch.linalg.qr(torch.randn(2, d, d, generator=generator, dtype=torch.float64))[0]
    return (x @ turns[0]).asinh(), (y @ turns[1]).sinh(), -d / 2 * math.log1p(-r * r)


def rounded(d: int, n: int, generator: Generator) -> Pair:
    """Return independent counts."""
    x, y = torch.randint(0, 4, (2, n, d), generator=generator).double()
    return x, y, 0.0


def pairs(draws: int) -> Iterator[tuple[str, int, Pair]]:
    """Yield named samples with their size."""
    for seed in range(draws):
        for n in SIZES:
            for d in DIMENSIONS:
                generator = Generator().manual_seed(1000 * seed + 10 * d + n)
                for name in SCALARS:
                    for each in (0.1, 0.5):
                        yield name, n, several(name, d, each, n, generator)
                for r in (0.0, 0.3, 0.7):
                    yield "turned and bent", n, mixed(d, r, n, generator)
                yield "independent counts", n, rounded(d, n, generator)


def tally(draws: int) -> dict[str, list[int]]:
    """Return per family: false alarms, values that are right, wrong ones found, wrong ones."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for name, _, (x, y, truth) in pairs(draws):
        verdict = knn_reliability(x, y)
        error, alarm = abs(float(verdict.value) - truth), not bool(verdict.reliable)
        for row in (found[name], found["all"]):
            row[0] += alarm and error <= RIGHT
            row[1] += error <= RIGHT
            row[2] += alarm and error >= WRONG
            row[3] += error >= WRONG
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m campaigns.reliability", description=__doc__)
    parser.add_argument("--draws", type=int, default=5, help="samples of each kind (default: 5)")
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    for name, (alarms, right, found, wrong) in tally(draws).items():
        print(f"{name:20} false alarms {alarms} of {right}, found {found} of {wrong}")


if __name__ == "__main__":
    main()
