"""False alarms and misses of the cautions about kernel density estimates.

A caution is due where the value is off by more than a tenth of a nat and a fifth of the truth. The
truth is the closed form of a Gaussian copula, or a table's over a fine grid where one variable is
cut. Run with ``python -m campaigns.densities [repetitions]``.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from campaigns.cautions import judged
from mi_metrics import KDEMutualInformation
from mi_metrics.functional import kde_mutual_information

Pair = tuple[Tensor, Tensor, float]
SIZES = (50, 100, 200, 500, 1000, 2000, 5000)
STRENGTHS = (0.0, 0.3, 0.6, 0.9)


def main(repetitions: int = 500) -> None:
    """Print shares for samples whose values are right, and for those that a density cannot take."""
    for name, call in (("function", kde_mutual_information), ("metric", _metric)):
        for title, families in (("right", _right()), ("wrong", _wrong())):
            counts: Counter[str] = Counter()
            kinds: Counter[str] = Counter()
            for seed in range(repetitions):
                family, pair = _draw(families, seed)
                off, said = judged(call, *pair)
                counts[("off" if off else "right") + (", said" if said else ", silent")] += 1
                if off != bool(said):
                    kinds[f"{family}: {', '.join(sorted(said)) or 'silent'}"] += 1
            right = counts["right, said"] + counts["right, silent"]
            off = counts["off, said"] + counts["off, silent"]
            print(
                f"{name}, {title} families: {counts['right, said']} false alarms of {right}, "
                f"{counts['off, silent']} misses of {off}"
            )
            for what, number in kinds.most_common(12):
                print(f"    {number:4} {what}")


def _metric(x: Tensor, y: Tensor) -> Tensor:
    metric = KDEMutualInformation()
    metric.update(x, y)
    value: Tensor = metric.compute()
    return value


def _draw(
    families: dict[str, Callable[[Tensor, Tensor, float], Pair]], seed: int
) -> tuple[str, Pair]:
    generator = torch.Generator().manual_seed(seed)
    name = list(families)[seed % len(families)]
    n = SIZES[int(torch.randint(len(SIZES), (), generator=generator))]
    r = STRENGTHS[int(torch.randint(len(STRENGTHS), (), generator=generator))]
    z = torch.randn(2, n, generator=generator, dtype=torch.float64)
    x, y, truth = families[name](z[0], r * z[0] + math.sqrt(1 - r * r) * z[1], r)
    return f"{name} {n} {r}", (x, y, truth)


def _right() -> dict[str, Callable[[Tensor, Tensor, float], Pair]]:
    def same(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, float], Pair]:
        return lambda x, y, r: (change(x), change(y), gaussian(r))

    return {
        "Gaussian": same(lambda v: v),
        "lognormal": same(torch.exp),
        "uniform": same(torch.special.ndtr),
        "image": same(lambda v: (256 * torch.special.ndtr(v)).floor().clamp_max(255)),
        "rounded to 0.1": same(lambda v: v.mul(10).round() / 10),
    }


def _wrong() -> dict[str, Callable[[Tensor, Tensor, float], Pair]]:
    def filled(share: float) -> Callable[[Tensor, Tensor, float], Pair]:
        def change(x: Tensor, y: Tensor, r: float) -> Pair:
            number = round(share * len(y))
            return (
                x,
                torch.cat([torch.full((number,), -999.0), y[number:]]),
                ((1 - share) * gaussian(r)),
            )

        return change

    def cut(at: tuple[float, ...]) -> Callable[[Tensor, Tensor, float], Pair]:
        borders = torch.tensor(at, dtype=torch.float64)
        return lambda x, y, r: (
            x,
            torch.bucketize(y, borders).double(),
            of_cut(borders, r),
        )

    def far(x: Tensor, y: Tensor, r: float) -> Pair:
        return torch.cat([x[1:], x.new_tensor([1e4])]), y, gaussian(r)

    return {f"{share:.0%} filled": filled(share) for share in (0.01, 0.1, 0.3, 0.6, 0.8)} | {
        "binary": cut((0.0,)),
        "binary, 16 %": cut((1.0,)),
        "three values": cut((-0.5, 0.5)),
        "five values": cut((-1.0, -0.3, 0.3, 1.0)),
        "far": far,
    }


def gaussian(r: float) -> float:
    """Return the mutual information of a Gaussian copula in nats."""
    return -0.5 * math.log(1 - r * r)


def of_cut(borders: Tensor, r: float) -> float:
    """Return the information between x and which of the borders y exceeds."""
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weight = torch.exp(-x.square() / 2)
    weight = weight / weight.sum()
    below = torch.special.ndtr((borders - r * x.unsqueeze(1)) / math.sqrt(1 - r * r))
    zero, one = torch.zeros_like(x).unsqueeze(1), torch.ones_like(x).unsqueeze(1)
    given = torch.cat([zero, below, one], 1).diff(dim=1).clamp_min(0)
    total = weight @ given
    return float(weight @ torch.special.entr(given).sum(1).neg() + torch.special.entr(total).sum())


def _options() -> Iterator[int]:
    yield from map(int, sys.argv[1:2])


if __name__ == "__main__":
    main(*_options())
