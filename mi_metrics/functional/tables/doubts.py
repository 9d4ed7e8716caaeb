"""What the bins of a table may hide, as cautions: a kind and a sentence."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from mi_metrics.functional.cautions import ENOUGH, TOO_FEW, Kind
from mi_metrics.functional.information import information, standard_error
from mi_metrics.functional.tables.automatic import MOST_BINS, Binned, rebinned, shared
from mi_metrics.functional.tables.axis import Axis
from mi_metrics.functional.tables.conditions import (
    averaged,
    margin_entropy,
    undersampled_conditions,
)
from mi_metrics.functional.tables.pairs import Margin
from mi_metrics.functional.tables.sampling import (
    alone,
    occupied,
    soft_undersampled,
    undersampled,
)

NAMES = ("x", "y")
# "rising": twice the bins add so much in nats, as a share of the value and in standard errors,
# while no more than this share of samples is alone in its cell there.
RISE, RISE_SHARE, RISE_ERRORS, RISE_ALONE = 0.05, 0.05, 3, 0.1
# So many bins are too few to see dependence under a condition.
FEW_UNDER_A_CONDITION = 3

Doubt = tuple[Kind, str]


def doubts(
    binned: Binned,
    counts: Tensor,
    correction: str,
    effective: Tensor | None,
    most: int,
    *,
    kernel: str = "hard",
) -> Iterator[Doubt]:
    """Yield what is doubtful about the values of tables, each kind once.

    Args:
        binned: The pairs and their bins. Their tables are those of the hard kernel.
        counts: The tables of the values.
        correction: The bias correction of the values.
        effective: The effective number of weighted samples, ``(R,)``.
        most: The most bins that the pairs can be counted in; fewer than twice the bins give no
            "rising".
        kernel: The kernel of the values.
    """
    soft = kernel != "hard"
    constant = None
    if soft:
        value = averaged(partial(information, soft=True), counts)
        # What spreads over several bins may be a constant all the same.
        constant = value == 0
        message = soft_undersampled(
            counts, value, kernel, correction, effective, None if counts.ndim == 3 else averaged
        )
    else:
        message = _undersampled(binned, correction, effective)
    if message:
        yield "undersampled", message
    elif too_few(binned, constant):
        yield "too few", TOO_FEW
    few = message is not None
    if message := shared_bins(binned):
        yield "shared bins", message
    apart = None if few or not binned.pairs.valued else lying_apart(binned)
    if binned.pairs.valued and (message := crowded(binned) or apart):
        yield "crowded", message
    # Weights have no samples to count: a cell of one may look like a cell of several.
    whole = effective is None and not soft
    if binned.automatic and whole and (message := rising(binned, most)):
        yield "rising", message


def too_few(binned: Binned, constant: Tensor | None) -> bool:
    """Say whether a pair that is not constant has so few samples that they say nothing."""
    few = (binned.pairs.size > 0) & (binned.pairs.size < ENOUGH)
    if constant is not None:
        few &= ~constant
    rows = few.nonzero().squeeze(1)
    if not len(rows):
        return False
    counts = binned.counts[rows]
    varied = [occupied(counts.sum(dim), 1) > 1 for dim in (1, 2)]
    return bool((varied[0] & varied[1]).any())


def shared_bins(binned: Binned) -> str | None:
    """Say that values share bins: in a bin per value they would tell more, or they are no more than
    the bins.
    """
    if bool(binned.values_tell_more.any()):
        return (
            "The variables have few distinct values, which tell at least 0.05 nats more than the "
            "bins that they share, as class labels do whose numbers mean nothing: the value is too "
            'small. Pass binning="values" for a bin each, with more samples if there are few for '
            "so many cells."
        )
    for side, name in enumerate(NAMES):
        if binned.kinds[side] != "uniform":
            continue
        bins = int(binned.bins[side].max())
        # Where every bin is occupied, no more values than bins can't share any.
        vacant = (binned.counts.sum(2 - side) == 0).any(1)
        rows = (vacant & (binned.bins[side] == bins)).nonzero().squeeze(1)
        if not len(rows):
            continue
        pairs = binned.pairs.take(rows)
        # Samples that are all different are no labels.
        labels = 2 * pairs.number(side, bins) <= pairs.size
        if bool((labels & shared(pairs, side, bins)).any()):
            return (
                f"`{name}` has no more distinct values than its {bins} bins of equal width, yet "
                "some share a bin: if they are class labels, the value is too small. Pass "
                'binning="values" without a range for a bin each, or num_bins="auto".'
            )
    return None


def crowded(binned: Binned) -> str | None:
    """Say that a few of the bins of equal width hold nearly all that differs."""
    for side, name in enumerate(NAMES):
        if binned.kinds[side] != "uniform":
            continue
        marginal = binned.counts.sum(2 - side).double()
        total = marginal.sum(1, keepdim=True).clamp_min(1e-300)
        bins = binned.bins[side].double()
        # A bin is judged without its most frequent value; none has more than the fullest bin.
        rest = (total - marginal.amax(1, keepdim=True)).clamp_min(1e-300)
        rows = _few_bins(marginal / rest, bins).nonzero().squeeze(1)
        if not len(rows):
            continue
        axis = binned.axes[side].take(rows)
        shares = crowding(binned.pairs.take(rows).margin(side), axis, marginal.shape[1])
        if bool(_few_bins(shares, bins[rows]).any()):
            return (
                f"Nearly all samples of `{name}` lie in a few bins of equal width, as a fill "
                "value, a far outlier or heavy tails make it, so the value is too small. Remove "
                'what is far off, pass clip_quantile=0.01 or a range, or binning="quantile".'
            )
    return None


def lying_apart(binned: Binned) -> str | None:
    """Say that conditions lie so far apart that each has too few of the bins, which all share."""
    if binned.by_condition is None:
        return None
    for side, name in enumerate(NAMES):
        whole = margin_entropy(binned.counts, side)
        each = margin_entropy(binned.by_condition, side)
        found = (each < math.log(FEW_UNDER_A_CONDITION)) & (whole - each > math.log(2))
        # A variable of few values may well follow from the condition.
        found &= binned.pairs.number(side, MOST_BINS) > MOST_BINS
        if bool(found.any()):
            return (
                f"Under a condition most samples of `{name}` lie in less than three bins, since "
                "conditions lie apart and share the bins, so the value is too small. Subtract from "
                f"`{name}` its mean under each condition, which changes nothing else, or give more "
                "bins."
            )
    return None


def _few_bins(shares: Tensor, bins: Tensor) -> Tensor:
    """Return where one bin holds more than half, or a few of many hold nearly all, ``(R,)``."""
    # One of a few bins holds more than half, whatever the data. The inverse of the sum of squares
    # is the number of equal bins that hold as much: three of 32 or more are too few.
    half, few = (3 / bins).clamp_min(1 / 2), (11 / bins).clamp_min(1 / 3)
    return (shares.amax(1) > half) | (shares.square().sum(1) > few)


def crowding(margin: Margin, axis: Axis, bins: int) -> Tensor:
    """Return how many samples other than its most frequent value each bin has, as shares of those
    other than the most frequent value of all, ``(R, B)``.
    """
    values, weights = margin.values, margin.weights()
    held = values < torch.inf
    cells = axis.cell(values.where(held, 0)).long().clamp(0, bins - 1)
    changes = (values[:, 1:] != values[:, :-1]).cumsum(1)
    run = torch.nn.functional.pad(changes, (1, 0))
    weights = weights.where(held, 0)
    points = weights if margin.wide is None else weights.where(~margin.wide, 0)
    length = torch.zeros_like(weights).scatter_add_(1, run, points)
    place = torch.zeros_like(cells).scatter_(1, run, cells)
    empty = weights.new_zeros(len(values), bins)
    top = empty.scatter_reduce(1, place, length, "amax")
    total = empty.scatter_add(1, cells, weights)
    rest = total.sum(1) - length.amax(1)
    return (total - top) / rest.clamp_min(1e-300).unsqueeze(1)


def rising(binned: Binned, most: int) -> str | None:
    """Say that twice as many bins would raise the value, and have the samples for it."""
    if (
        binned.kinds == ("values", "values")
        or 2
        * max(
            int(b.max())
            for b, kind in zip(binned.bins, binned.kinds, strict=True)
            if kind != "values"
        )
        > most
    ):
        return None
    doubled = rebinned(binned, 2)
    before, after = (_cautious(b.counts) for b in (binned, doubled))
    error = standard_error(binned.counts).clamp_min(1e-300)
    rise = after - before
    found = (rise > RISE_ERRORS * error) & (rise > RISE) & (rise > RISE_SHARE * before)
    found &= doubled.measured(alone) <= RISE_ALONE
    if not bool(found.any()):
        return None
    worst = int(torch.where(found, rise, 0).argmax())
    return (
        f"Twice the bins would raise the value by {float(rise[worst]):.2f} nats, so it is too "
        "small by more than that. Give more bins (`num_bins`), or rely on "
        "knn_mutual_information for continuous variables."
    )


def _undersampled(binned: Binned, correction: str, effective: Tensor | None) -> str | None:
    if binned.by_condition is None:
        return undersampled(binned.counts, correction, effective, automatic=binned.automatic)
    return undersampled_conditions(binned.by_condition, correction, automatic=binned.automatic)


def _cautious(counts: Tensor) -> Tensor:
    """Return the lesser of two corrected values."""
    corrections = "miller_madow", "grassberger"
    return torch.minimum(*(information(counts, bias_correction=c) for c in corrections))
