r"""Which bins a pair of variables gets: their kind and their number.

**Number.** Hacine-Gharbi and Ravier's b for N samples and a squared correlation q is the root of
:math:`2 b^2 = 1 + \sqrt{1 + 24 N / (1 - q)}`. It begins with q = 0. Twice, the information I of the
table of b x b quantile bins, corrected by Miller and Madow, gives :math:`q = 1 - e^{-2 I}`, the
squared correlation of a Gaussian pair of that information, and b becomes their number for q times
1 + 0.75 q, at most N / 5 and 256. So the number follows any dependence, not the linear one alone.
The tables have to be corrected: a plug-in value would grow with the bins and the bins with it.

**One of several classes** (:mod:`mi_metrics.functional.tables.classes`) has 1 + f q in place of
1 + 0.75 q, with f = 0.75 times the root of N / 500 below 500 samples: the mean over classes keeps
the bias of small tables and loses their scatter. With too few samples for two bins it has one.
Over a given range, the number is that of bins on the part of it that the class reaches: as many
times more on the whole, as all samples reach further.

**Few values.** A variable of at most 256 distinct values, each of which occurs twice on average,
may have a bin for each of them: two such variables both, or neither. They do where

- a normalised form of two of them is asked for (C0),
- the table needs no more cells than bins would (C1),
- or it is well sampled (C2): its bias is at most a hundredth of a nat or a tenth of its
  information, at most 15 % of the samples are alone in their cell, and these tell at most 60 % of
  the information: of zero-inflated numbers, whose values but one occur once or twice, they tell
  nearly all, of labels that are well sampled less than a third.

References:
    A. Hacine-Gharbi, P. Ravier, "A binning formula of bi-histogram for joint entropy estimation
    using mean square error minimization" (2018), doi:10.1016/j.patrec.2017.11.007.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.information import information
from mi_metrics.functional.options import check_cells
from mi_metrics.functional.tables.axis import Axis
from mi_metrics.functional.tables.chance import expected_information, poisson_information
from mi_metrics.functional.tables.pairs import Pairs
from mi_metrics.functional.tables.sampling import alone, analytic_bias, told_by_single_samples

MOST_BINS = 256
# Bins hold so many samples on average at least: with fewer, chance dependence makes bins that show
# more of it.
SAMPLES_PER_BIN = 5
# By how much a squared correlation adds to the bins, of several classes from so many samples on.
MORE_BINS, MANY_IN_A_CLASS = 0.75, 500
# C2: bounds on the analytic bias, in nats and as a share of the value, on the samples alone, and on
# the share of the value that these tell.
LITTLE_BIAS, SHARE_OF_VALUE, FEW_ALONE, TOLD_ALONE = 0.01, 0.1, 0.15, 0.6
# What values have to tell beyond bins, in nats, and how far the cheap expectation may be off.
BEYOND_BINS, SLACK = 0.05, 0.15

Kinds = tuple[str, str]


class Choice(NamedTuple):
    """What the caller of a binned estimate asks for.

    ``bins`` are the numbers of bins, None: automatic. ``kinds`` are "uniform", "quantile",
    "values" or "auto". ``looks`` says whether "auto" may look at the values; ``normalized`` whether
    a normalised form is asked for; ``most`` is the upper bound of an automatic number, ``few`` that
    of a number of values that may have a bin each. ``of_several`` says that the pairs are classes
    of larger samples; ``stretch`` are then the numbers that bins of both axes are multiplied by,
    ``(R,)``, or None.
    """

    bins: tuple[int, int] | None
    kinds: Kinds
    looks: bool
    normalized: bool = False
    most: int = MOST_BINS
    few: int = MOST_BINS
    of_several: bool = False
    stretch: tuple[Tensor, Tensor] | None = None


class Binned(NamedTuple):
    """Some of the pairs, all with bins of the same kinds, and their tables.

    ``rows`` are the places of these pairs; ``bins`` are the numbers of bins per axis, ``(r,)``
    each, of a bin per value the number of values.
    """

    rows: Tensor
    pairs: Pairs
    kinds: Kinds
    bins: tuple[Tensor, Tensor]
    axes: tuple[Axis, Axis]
    counts: Tensor
    automatic: bool
    values_tell_more: Tensor  # (r,) bool: a bin per value would show more than these bins do
    by_condition: Tensor | None = None  # (r, K, B_x, B_y), whose sum `counts` are

    @property
    def shape(self) -> tuple[int, int]:
        """The size of the tables."""
        return self.counts.shape[1], self.counts.shape[2]

    @property
    def tables(self) -> Tensor:
        """The tables ``(r, B_x, B_y)``, or ``(r, K, B_x, B_y)`` under K conditions."""
        return self.counts if self.by_condition is None else self.by_condition

    def measured(self, measure: Callable[..., Tensor]) -> Tensor:
        """Return a measure of the tables and their numbers of samples, ``(r,)``."""
        return measure(self.counts, self.pairs.size)

    @property
    def correction(self) -> str:
        """The bias correction of the automatic choice, under the hard kernel and without a
        normalisation.
        """
        plain = not self.automatic or self.kinds == ("values", "values")
        return "none" if plain else "miller_madow"


def number_of_bins(n: Tensor, q: Tensor, most: Tensor, *, of_several: bool = False) -> Tensor:
    """Return Hacine-Gharbi and Ravier's number of bins times 1 + f q, at least 2, at most ``most``.

    Args:
        n: Numbers of samples, float64 of any shape.
        q: Squared correlations of the same shape.
        most: Upper bounds, int64.
        of_several: Whether samples are those of one of several classes; f is smaller for few.
    """
    unexplained = (1 - q).clamp_min(torch.finfo(torch.float64).tiny)
    b = torch.sqrt((1 + torch.sqrt(1 + 24 * n / unexplained)) / 2).clamp_max(MOST_BINS)
    more = MORE_BINS * (n / MANY_IN_A_CLASS).clamp_max(1).sqrt() if of_several else MORE_BINS
    return ((1 + more * q) * b.round()).round().clamp(2, MOST_BINS).long().minimum(most)


def choose(pairs: Pairs, choice: Choice) -> Iterator[Binned]:
    """Yield all pairs once, those with bins of the same kinds together."""
    rows = torch.arange(len(pairs.size), device=pairs.size.device)
    if choice.bins is not None:
        yield from _of_given_number(pairs, rows, choice, choice.bins)
    elif not choice.looks:
        kinds = _settled(choice.kinds, "uniform")
        b = automatic_number(pairs, kinds, choice)
        yield _binned(pairs, rows, kinds, *_stretched(b, choice))
    else:
        few = [
            few_values(pairs, side, choice.few)
            if kind == "auto"
            else torch.zeros_like(rows, dtype=torch.bool)
            for side, kind in enumerate(choice.kinds)
        ]
        for some, kinds in _groups(few, choice.kinds, "values"):
            yield from _of_automatic_number(pairs.take(some), some, kinds, choice)


def choose_alone(columns: Pairs, choice: Choice) -> Iterator[Binned]:
    """Yield pairs of a column with itself, each once, in bins that follow from the column and N
    alone: what an entropy needs.

    The number of automatic bins is that of N independent samples. A column of few values has a bin
    for each where these are no more, or their squares half the samples.
    """
    if choice.bins is not None:
        yield from choose(columns, choice)
        return
    rows, n = torch.arange(len(columns.size), device=columns.size.device), columns.size
    top = (n / SAMPLES_PER_BIN).floor().clamp(2, min(MOST_BINS, choice.most)).long()
    b = number_of_bins(n, torch.zeros_like(n), top)
    base = _settled(choice.kinds, "quantile" if choice.looks else "uniform")
    each = torch.zeros_like(rows, dtype=torch.bool)
    if choice.looks and choice.kinds[0] == "auto":
        number = columns.number(0, choice.few)
        each = few_values(columns, 0, choice.few) & ((number <= b) | (2 * number * number <= n))
    for some, kinds in _groups([each, each], base, "values"):
        yield _binned(columns.take(some), some, kinds, b[some], b[some])


def automatic_number(pairs: Pairs, kinds: Kinds, choice: Choice) -> Tensor:
    """Return the number of bins of each pair, ``(R,)``; a bin per value where the kinds say so."""
    x, y = ("values" if kind == "values" else "quantile" for kind in kinds)
    coarse, n, several = (x, y), pairs.size, choice.of_several
    least, most = 1 if several else 2, min(MOST_BINS, choice.most)
    top = (n / SAMPLES_PER_BIN).floor().clamp(least, most).long()
    b = number_of_bins(n, torch.zeros_like(n), top, of_several=several)
    if coarse == ("values", "values"):
        return b
    for again in (False, True):
        q = _dependence(_binned(pairs, b, coarse, b, b))
        found = number_of_bins(n, q, top, of_several=several)
        if bool((found <= b).all()):
            break
        b = torch.maximum(b, found) if again else found
    return b


def extent(counts: Tensor) -> Tensor:
    """Return how many cells lie between the ends of the samples of each row, ``(R,)``; at least
    1.
    """
    mass = counts.cumsum(1)
    return ((mass > 0) & (mass - counts < mass[:, -1:])).sum(1).clamp_min(1).double()


def _stretched(b: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
    if choice.stretch is None:
        return b, b
    # One bin is not what a class has on its part of the range, but all that it may have.
    x, y = (
        torch.where(b > 1, (b * s).round().long().clamp_max(choice.most), b) for s in choice.stretch
    )
    return x, y


def _of_given_number(
    pairs: Pairs, rows: Tensor, choice: Choice, bins: tuple[int, int]
) -> Iterator[Binned]:
    """Yield tables of given numbers of bins; values that are no more than these do not share."""
    kinds = choice.kinds
    if not choice.looks or "auto" not in kinds:
        yield _binned(pairs, rows, _settled(kinds, "uniform"), *_full(rows, bins), shape=bins)
        return
    own = [
        shared(pairs, side, b) if kind == "auto" else torch.zeros_like(rows, dtype=torch.bool)
        for side, (kind, b) in enumerate(zip(kinds, bins, strict=True))
    ]
    for some, marked in _groups(own, kinds, "quantile"):
        settled = _settled(marked, "uniform")
        yield _binned(pairs.take(some), some, settled, *_full(some, bins), shape=bins)


def _full(rows: Tensor, bins: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return torch.full_like(rows, bins[0]), torch.full_like(rows, bins[1])


def _of_automatic_number(
    pairs: Pairs, rows: Tensor, kinds: Kinds, choice: Choice
) -> Iterator[Binned]:
    """Yield tables of a bin per value where that is well sampled, of quantile bins elsewhere."""
    base = _settled(choice.kinds, "quantile")
    kinds = _settled(kinds, "quantile")
    if kinds == base:
        b = automatic_number(pairs, base, choice)
        yield _binned(pairs, rows, base, b, b)
        return
    b = automatic_number(pairs, kinds, choice)
    each = _binned(pairs, rows, kinds, b, b)
    own = _worth_it(each) | (choice.normalized and kinds == ("values", "values"))
    if bool(own.all()):
        yield each
        return
    if bool(own.any()):
        some = own.nonzero().squeeze(1)
        yield _binned(pairs.take(some), rows[some], kinds, each.bins[0][some], each.bins[1][some])
    rest = (~own).nonzero().squeeze(1)
    pairs = pairs.take(rest)
    b = automatic_number(pairs, base, choice)
    pooled = _binned(pairs, rows[rest], base, b, b)
    more = _carries_more(each.counts[rest], pooled)
    yield pooled._replace(values_tell_more=more)


def _worth_it(each: Binned) -> Tensor:
    """Return where a bin per value needs no more cells than bins would, or is well sampled."""
    n = each.pairs.size
    values = information(each.counts)
    bias = each.measured(analytic_bias)
    sampled = bias <= (SHARE_OF_VALUE * values).clamp_min(LITTLE_BIAS)
    sampled &= each.measured(alone) <= FEW_ALONE
    single = each.measured(told_by_single_samples)
    sampled &= single <= (TOLD_ALONE * values).clamp_min(LITTLE_BIAS)
    bx, by = each.bins
    if each.kinds == ("values", "values"):
        # By the table's own dependence: the order of the values plays no part.
        q = _dependence(each)
        return sampled | (bx * by <= number_of_bins(n, q, torch.full_like(bx, MOST_BINS)) ** 2)
    return sampled | (bx <= by if each.kinds[0] == "values" else by <= bx)


def _carries_more(each: Tensor, pooled: Binned) -> Tensor:
    """Return where tables of a bin per value tell more, beyond chance, than tables of bins do,
    ``(R,)`` bool.
    """
    beyond = information(each) - BEYOND_BINS - pooled.measured(_corrected)
    # What single samples tell is chance, too.
    beyond = beyond.where(beyond >= told_by_single_samples(each, pooled.pairs.size), -math.inf)
    # The exact expectation of 256 x 256 values takes half a second, and most cases are clear.
    rows = (beyond >= poisson_information(each) - SLACK).nonzero().squeeze(1)
    result = torch.zeros(len(each), dtype=torch.bool, device=each.device)
    if len(rows):
        result[rows] = beyond[rows] >= expected_information(each[rows])
    return result


def shared(pairs: Pairs, side: int, bins: int) -> Tensor:
    """Return which pairs have at most as many distinct values as bins, and two of them in one,
    ``(R,)`` bool. Values beyond a range, or clipped, count as one at its end.
    """
    found = pairs.number(side, bins)
    result = found <= bins
    rows = result.nonzero().squeeze(1)
    if len(rows):
        some = pairs.take(rows)
        values = some.margin(side).values
        axis = some.uniform(side, torch.full_like(rows, bins).unsqueeze(1))
        held = values < torch.inf
        cells = axis.cell(values.where(held, 0))
        places = axis.position(values.where(held, 0)).clamp(axis.bins.new_zeros(()), axis.bins)
        # The values are in order, and so are their places and bins.
        number, occupied = (
            ((v[:, 1:] != v[:, :-1]) & held[:, 1:]).sum(1) + 1 for v in (places, cells)
        )
        result[rows] = occupied < number
    return result


def rebinned(binned: Binned, factor: int) -> Binned:
    """Return the same pairs with so many times the bins; a bin per value stays."""
    bins = [
        b if kind == "values" else factor * b
        for b, kind in zip(binned.bins, binned.kinds, strict=True)
    ]
    return _binned(binned.pairs, binned.rows, binned.kinds, bins[0], bins[1])


def few_values(pairs: Pairs, side: int, most: int) -> Tensor:
    """Return which pairs have a variable of at most so many values, each of which occurs twice on
    average, ``(R,)`` bool.
    """
    number = pairs.number(side, most)
    return (number <= most) & (2 * number <= pairs.size)


def _groups(marked: list[Tensor], kinds: Kinds, kind: str) -> Iterator[tuple[Tensor, Kinds]]:
    """Yield the rows with the same marks, and the kinds with ``kind`` where there is a mark."""
    code = 2 * marked[0].long() + marked[1].long()
    for number in sorted(set(code.tolist())):
        marks = number >= 2, number % 2 == 1
        x, y = (kind if mark else own for mark, own in zip(marks, kinds, strict=True))
        yield (code == number).nonzero().squeeze(1), (x, y)


def _settled(kinds: Kinds, kind: str) -> Kinds:
    x, y = (kind if own == "auto" else own for own in kinds)
    return x, y


def _corrected(counts: Tensor, n: Tensor) -> Tensor:
    return information(counts, bias_correction="miller_madow", effective_samples=n)


def _dependence(binned: Binned) -> Tensor:
    """Return the squared correlation of a Gaussian pair with the information of tables."""
    return -torch.expm1(-2 * binned.measured(_corrected).clamp_min(0))


def _binned(
    pairs: Pairs,
    rows: Tensor,
    kinds: Kinds,
    bins_x: Tensor,
    bins_y: Tensor,
    *,
    shape: tuple[int, int] | None = None,
) -> Binned:
    """Return tables of bins of given kinds and numbers ``(r,)``; with a ``shape`` all have these,
    given and not chosen, so that nothing has to be read back from the device.
    """
    bins, axes = [bins_x, bins_y], []
    for side, kind in enumerate(kinds):
        if kind == "uniform":
            number = bins[side].unsqueeze(1)
            axes.append(pairs.uniform(side, number if shape is None else number[:1]))
            continue
        margin = pairs.margin(side)
        if kind == "values":
            bins[side] = margin.number
        axes.append(margin.axis(bins[side]))
    cells = shape or (int(bins[0].max()), int(bins[1].max()))
    tables = len(rows)
    check_cells(f"{tables} tables of {cells[0]} x {cells[1]} bins", tables * cells[0] * cells[1])
    counts = pairs.count((axes[0], axes[1]), cells)
    conditional = counts.ndim == 4
    return Binned(
        rows,
        pairs,
        kinds,
        (bins[0], bins[1]),
        (axes[0], axes[1]),
        counts.sum(1) if conditional else counts,
        shape is None,
        torch.zeros_like(rows, dtype=torch.bool),
        counts if conditional else None,
    )
