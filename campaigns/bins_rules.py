"""How the automatic bins and their cautions fare: ``python -m campaigns.bins_rules [--draws N]``.

Prints the values of made data sets beside their truth, with the bins that were taken and the
cautions given, and the share of false alarms among data sets whose values are right: off by no more
than the larger of a tenth of a nat and a fifth of the truth.
"""

import argparse
import math
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch

from mi_metrics import MutualInformationWarning
from mi_metrics.distributions import DISTRIBUTIONS
from mi_metrics.functional import binned_joint, binned_mutual_information

Pair = tuple[torch.Tensor, torch.Tensor]


def estimate(x: torch.Tensor, y: torch.Tensor) -> tuple[float, list[str]]:
    """Return the value of a call without options, and the kinds of its cautions."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = float(binned_mutual_information(x, y))
    return value, [
        w.message.kind for w in caught if isinstance(w.message, MutualInformationWarning)
    ]


def made(rng: np.random.Generator) -> Iterator[tuple[str, float, Pair]]:
    """Yield data sets whose mutual information is known."""
    z, w = torch.from_numpy(rng.standard_normal((2, 20_000)))
    yield "x, x^2 + noise (neighbours: 2.00)", 2.0, (z, z**2 + 0.1 * w)
    u = torch.from_numpy(rng.random(5000))
    yield "u, sin(20 pi u) + noise", 1.35, (u, (20 * math.pi * u).sin() + 0.1 * w[:5000])
    for step in (0.1, 0.25, 1.0):
        y = 0.6 * z + 0.8 * w
        yield (
            f"Gaussian r = 0.6 rounded to {step}",
            0.223,
            (
                (z / step).round(),
                (y / step).round(),
            ),
        )
    for k, n, share, truth in (
        (100, 1000, 0.1, 3.83),
        (100, 1000, 0.5, 1.64),
        (26, 1000, 0.2, 2.15),
    ):
        a, names = rng.integers(0, k, n), rng.permutation(k)
        b = np.where(rng.random(n) < share, rng.integers(0, k, n), names[a])
        yield (
            f"{k} classes, N = {n}, {share:.0%} noise",
            truth,
            (
                torch.from_numpy(a),
                torch.from_numpy(b),
            ),
        )
    yield (
        "100 classes, independent, N = 1000",
        0.0,
        (
            torch.from_numpy(rng.integers(0, 100, 1000)),
            torch.from_numpy(rng.integers(0, 100, 1000)),
        ),
    )
    yield (
        "75 % zeros, r = 0.9",
        0.335,
        ((z - 0.6745).clamp_min(0), ((0.9 * z + 0.19**0.5 * w) - 0.6745).clamp_min(0)),
    )


def right(draws: int) -> Iterator[tuple[float, Pair]]:
    """Yield random pairs of the catalogue with 400 to 5000 samples."""
    rng = np.random.default_rng(0)
    names = list(DISTRIBUTIONS)
    for i in range(draws):
        family = DISTRIBUTIONS[names[i % len(names)]]
        truth = max(family.minimum, float(rng.uniform(0, 1.5)))
        n = int(400 * 12.5 ** rng.random())
        x, y = family.sample(truth, 1, n, torch.Generator().manual_seed(i))
        yield truth, (x[0], y[0])


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m campaigns.bins_rules", description=__doc__)
    parser.add_argument("--draws", type=int, default=500, help="random data sets (default: 500)")
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    for name, truth, (x, y) in made(np.random.default_rng(0)):
        value, kinds = estimate(x, y)
        bins = "x".join(map(str, binned_joint(x, y).shape))
        print(f"{name:40} truth {truth:5.2f}  {value:6.3f}  {bins:9} {', '.join(kinds)}")
    alarms: Counter[str] = Counter()
    fair = 0
    for truth, pair in right(draws):
        value, kinds = estimate(*pair)
        if abs(value - truth) <= max(0.1, 0.2 * truth):
            fair += 1
            alarms.update(kinds)
    print(f"{fair} of {draws} values are right; false alarms among these: {dict(alarms)}")


if __name__ == "__main__":
    main()
