"""Which estimator at which dimension: ``python -m benchmarks.dimensions [--exact]``.

Means over draws of data whose information is known: Gaussian pairs of growing dimension, and two
kinds that a Gaussian estimate can't see. ``--exact`` holds the Gaussian one to its exact bias.
"""

import argparse
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.special import digamma, gammaln
from torch import Tensor

from mi_metrics import MutualInformationWarning
from mi_metrics.functional import gaussian_mutual_information, knn_mutual_information


class Data(NamedTuple):
    """Samples of d + d dimensions and their mutual information."""

    name: str
    dim: int
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    truth: float


def gaussian(dim: int, total: float) -> Data:
    """Return d independent pairs of one correlation with ``total`` nats together."""
    r = math.sqrt(1 - math.exp(-2 * total / dim))

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, noise = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
        return x, r * x + math.sqrt(1 - r * r) * noise

    return Data("Gaussian", dim, draw, total)


def spiral(total: float) -> Data:
    """Return a Gaussian pair of 2 + 2 dimensions whose x is turned by its distance from 0."""
    plain = gaussian(2, total)

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = plain.draw(n, generator)
        angle = 3 * x.norm(dim=1)
        turned = (
            angle.cos() * x[:, 0] - angle.sin() * x[:, 1],
            angle.sin() * x[:, 0] + angle.cos() * x[:, 1],
        )
        return torch.stack(turned, 1), y

    return Data("spiral", 2, draw, total)


def student(dim: int, freedom: int = 3) -> Data:
    """Return a multivariate Student-t without correlation: only the scale is shared."""

    def entropy(d: int) -> float:
        a, b = (freedom + d) / 2, freedom / 2
        constant = d / 2 * math.log(freedom * math.pi) + gammaln(b) - gammaln(a)
        return float(constant + a * (digamma(a) - digamma(b)))

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
        parts = torch.randn(n, freedom, generator=generator, dtype=torch.float64)
        scale = (freedom / parts.square().sum(1, keepdim=True)).sqrt()
        return scale * x, scale * y

    return Data("Student-t, 3", dim, draw, 2 * entropy(dim) - entropy(2 * dim))


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "neighbours": knn_mutual_information,
    "neighbours of ranks": lambda x, y: knn_mutual_information(x, y, standardize="rank"),
    "Gaussian": gaussian_mutual_information,
    "Gaussian of ranks": lambda x, y: gaussian_mutual_information(x, y, copula=True),
}
CASES = [
    *(gaussian(dim, 1.0) for dim in (1, 2, 5, 10, 25, 50)),
    spiral(0.45),
    student(2),
    student(5),
]
# Dimension, correlation, samples: figures of the promised accuracy, from the least number on.
EXACT = [(dim, r, n) for dim in (1, 5, 25, 50) for r in (0.0, 0.5) for n in (2 * dim + 1, 500)]


def table(draws: int = 16) -> list[list[str]]:
    """Return means over draws, one row for each kind of data and number of samples."""
    found = []
    for data in CASES:
        for n in (500, 5000):
            values: dict[str, list[Tensor]] = {name: [] for name in ESTIMATORS}
            for seed in range(draws if n == 500 else max(1, draws // 8)):
                x, y = data.draw(n, torch.Generator().manual_seed(seed))
                for name, estimator in ESTIMATORS.items():
                    values[name].append(estimator(x, y))
            means = [f"{float(torch.stack(v).mean()):.2f}" for v in values.values()]
            dims = f"{data.dim} + {data.dim}"
            found.append([data.name, dims, str(n), f"{data.truth:.2f}", *means])
    return found


def error(dim: int, r: float, n: int, repetitions: int = 300) -> tuple[float, float]:
    """Return the mean error of the Gaussian estimate and its standard error, in nats."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(repetitions // 50):
        x, noise = torch.randn(2, 50, n, dim, generator=generator, dtype=torch.float64)
        y = r * x + math.sqrt(1 - r * r) * noise
        found.append(gaussian_mutual_information(x, y) + dim / 2 * math.log(1 - r * r))
    errors = torch.cat(found)
    return float(errors.mean()), float(errors.std() / len(errors) ** 0.5)


def main() -> None:
    """Print the table, or the errors."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dimensions", description=__doc__)
    parser.add_argument("--exact", action="store_true", help="errors of the Gaussian estimate")
    exact = parser.parse_args().exact
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MutualInformationWarning)
        if exact:
            for dim, r, n in EXACT:
                mean, deviation = error(dim, r, n)
                print(f"{dim} + {dim}, r = {r}, N = {n}: {mean:+.4f} ± {deviation:.4f}", flush=True)
            return
        print("| data | dimensions | N | truth |", " | ".join(ESTIMATORS), "|")
        print("|", " | ".join(["---"] * (4 + len(ESTIMATORS))), "|")
        for row in table():
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
