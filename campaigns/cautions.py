"""False alarms and misses of the cautions, estimator by estimator: ``python -m campaigns.cautions
[--draws N]``.

A value is right where it is off by no more than the larger of a tenth of a nat and a fifth of the
truth; a caution about it is a false alarm. A value that is off without a caution, on data of the
kinds that cautions are about, is a miss. The table is the one in ``benchmarks/RESULTS.md``.
"""

import argparse
import math
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from mi_metrics import MutualInformationWarning
from mi_metrics.functional import (
    binned_mutual_information,
    gaussian_mutual_information,
    kde_mutual_information,
    knn_mutual_information,
    mutual_information,
)

Pair = tuple[Tensor, Tensor, float]
Make = Callable[[Generator], Pair]


def uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def normal(generator: Generator, low: int, high: int) -> Pair:
    """Return a Gaussian pair of a random size and correlation with its information."""
    n, r = int(low * (high / low) ** uniform(generator, 0, 1)), uniform(generator, 0, 0.95)
    x, noise = torch.randn(2, n, generator=generator, dtype=torch.float64)
    return x, r * x + math.sqrt(1 - r * r) * noise, -0.5 * math.log(1 - r * r)


def of(change: Callable[[Tensor], Tensor]) -> Make:
    def make(generator: Generator) -> Pair:
        x, y, truth = normal(generator, 400, 5000)
        return change(x), change(y), truth

    return make


def labels(generator: Generator, low: int = 400, high: int = 5000) -> Pair:
    """Return labels of which one names the other, but for a random share."""
    n = int(low * (high / low) ** uniform(generator, 0, 1))
    k, share = 2 + int(uniform(generator, 0, 8)), uniform(generator, 0, 1)
    joint = share / k**2 + (1 - share) / k * torch.eye(k, dtype=torch.float64)
    x = torch.randint(k, (n,), generator=generator)
    drawn = torch.rand(n, generator=generator) < share
    y = torch.where(drawn, torch.randint(k, (n,), generator=generator), x)
    return x.double(), y.double(), float(mutual_information(joint))


RIGHT: dict[str, Make] = {
    "Gaussian": of(lambda v: v),
    "lognormal": of(torch.exp),
    "uniform": of(torch.special.ndtr),
    "8 bits": of(lambda v: (256 * torch.special.ndtr(v)).floor().clamp_max(255)),
    "labels": labels,
}


def few(low: int, high: int) -> Make:
    return lambda generator: normal(generator, low, high)


def filled(share: float) -> Make:
    def make(generator: Generator) -> Pair:
        x, y, truth = normal(generator, 400, 5000)
        y[: round(share * len(y))] = -999
        return x, y, (1 - share) * truth

    return make


def far(generator: Generator) -> Pair:
    x, y, truth = normal(generator, 400, 5000)
    x[0] = 3e4
    return x, y, truth


def renamed(generator: Generator) -> Pair:
    """Return labels with names that are far apart."""
    x, y, truth = labels(generator)
    names = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 900, 10_000], dtype=torch.float64)
    return names[x.long()], names[y.long()], truth


def wave(generator: Generator) -> Pair:
    n = int(uniform(generator, 2000, 20_000))
    x, noise = torch.rand(2, n, generator=generator, dtype=torch.float64)
    # The entropy of y less that of the noise, from a fine histogram of 2e7 samples.
    return x, (40 * math.pi * x).sin() + 0.2 * (noise - 0.5), 2.329


def copied(times: int) -> Make:
    def make(generator: Generator) -> Pair:
        x, y, truth = normal(generator, 400, 2000)
        return x.repeat(times), y.repeat(times), truth

    return make


def classes(generator: Generator) -> Pair:
    """Return class labels y for neighbours that take them for numbers."""
    n, k = int(uniform(generator, 400, 5000)), 10
    y = torch.randint(k, (n,), generator=generator)
    # Neighbouring classes have names that are far apart.
    place = torch.tensor([0, 5, 1, 6, 2, 7, 3, 8, 4, 9], dtype=torch.float64)[y]
    x = place + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    return x, y.double(), math.log(k)


def cut(generator: Generator) -> Pair:
    from campaigns.densities import of_cut

    n, r = int(uniform(generator, 400, 5000)), uniform(generator, 0.3, 0.95)
    x, noise = torch.randn(2, n, generator=generator, dtype=torch.float64)
    y = r * x + math.sqrt(1 - r * r) * noise
    return x, (y > 0).double(), of_cut(torch.zeros(1, dtype=torch.float64), r)


def binned(**options: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: binned_mutual_information(x, y, **options)


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bins": binned(),
    "16 bins": binned(num_bins=16),
    "16 cubic bins": binned(num_bins=16, kernel="cubic"),
    "densities": kde_mutual_information,
    "neighbours": knn_mutual_information,
    "neighbours of vectors": lambda x, y: knn_mutual_information(
        torch.stack([x, y.new_tensor(range(len(y))).sin()], 1), y.unsqueeze(1)
    ),
    "Gaussian": gaussian_mutual_information,
}
# What each estimator's cautions are about.
WRONG: dict[str, dict[str, Make]] = {
    "bins": {"2 to 7 samples": few(2, 7), "waves": wave},
    "16 bins": {
        "16 to 100 samples": few(16, 100),
        "2 to 7 samples": few(2, 7),
        "fill value, 10 %": filled(0.1),
        "fill value, 60 %": filled(0.6),
        "far sample": far,
        "renamed labels": renamed,
    },
    "16 cubic bins": {"2 to 7 samples": few(2, 7), "8 to 100 samples": few(8, 100)},
    "densities": {
        "2 to 7 samples": few(2, 7),
        "fill value, 10 %": filled(0.1),
        "fill value, 60 %": filled(0.6),
        "far sample": far,
        "two values": cut,
    },
    "neighbours": {
        "5 to 7 samples": few(5, 7),
        "2 copies": copied(2),
        "3 copies": copied(3),
        "labels": classes,
    },
    "neighbours of vectors": {"far sample": far},
    "Gaussian": {"3 to 7 samples": few(3, 7)},
}


def judged(
    call: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, truth: float
) -> tuple[bool, set[str]]:
    """Return whether a value is off, and the kinds of its cautions."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = float(call(x, y))
    said = {w.message.kind for w in caught if isinstance(w.message, MutualInformationWarning)}
    return abs(value - truth) > max(0.1, 0.2 * truth), set(said)


def main() -> None:
    """Print the table, and of what alarms and misses are made."""
    parser = argparse.ArgumentParser(prog="python -m campaigns.cautions", description=__doc__)
    parser.add_argument("--draws", type=int, default=500, help="right data sets (default: 500)")
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    print("| estimator | right values | false alarms | doubtful values | silent |")
    print("|---|---|---|---|---|")
    details = []
    for name, call in ESTIMATORS.items():
        alarms, kinds, silent = 0, Counter[str](), Counter[str]()
        fair = doubtful = 0
        for seed in range(draws):
            family = list(RIGHT)[seed % len(RIGHT)]
            off, said = judged(call, *RIGHT[family](Generator().manual_seed(seed)))
            fair += not off
            alarms += not off and bool(said)
            kinds.update(f"{family}: {kind}" for kind in said if not off)
        for what, make in WRONG[name].items():
            for seed in range(draws // 5):
                off, said = judged(call, *make(Generator().manual_seed(10_000 + seed)))
                doubtful += off
                silent[what] += off and not said
        missed = silent.total()
        shares = f"{alarms / max(fair, 1):.1%}", f"{missed / max(doubtful, 1):.1%}"
        print(
            f"| {name} | {fair} of {draws} | {alarms} ({shares[0]}) | {doubtful} | "
            f"{missed} ({shares[1]}) |",
            flush=True,
        )
        details.append(f"{name}: alarms {dict(kinds)}; silent {dict(+silent)}")
    print("", *details, sep="\n")


if __name__ == "__main__":
    main()
