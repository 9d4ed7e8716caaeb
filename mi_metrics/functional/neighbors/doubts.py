"""What samples show of themselves that makes an estimate from their neighbours doubtful."""

import math

import torch
from torch import Tensor

from mi_metrics.functional.cautions import ENOUGH, TOO_FEW, Kind
from mi_metrics.functional.neighbors.order import lexicographic_order, run_lengths, run_starts
from mi_metrics.functional.neighbors.steps import sort, take

LEAST_FOR_SPREAD = 30
# Coincident samples are counted whatever the scale: a doubt about it needs this share of others.
LEAST_APART = 0.05
# Labels, where y could be some: so many samples of each on average, and so many at most.
LEAST_MEMBERS = 10
MOST_LABELS = 50
# Where rows repeat more often on average, they are labels or rounded, and counted as such.
MOST_COPIES = 19
# Labels that agree more often than this where x differs a little may agree where x repeats.
MOST_AGREEMENT = 0.9
# With fewer, half of the information is missing at a correlation of 0.6, and nearly all of it with
# no more than one beyond k.
SAMPLES_PER_NEIGHBOR = 3
NEIGHBORS = (
    "{number} samples are few for n_neighbors={k}: the neighbours of each are a large part of all, "
    "and the value is near 0 whatever the dependence. Use three times `n_neighbors` samples or "
    "more, or fewer neighbours."
)
FAR = (
    "Far samples set the standard deviation of a coordinate, beside which the spread of the others "
    "is less than the distance of neighbours: these see the others as one value, and the mutual "
    'information may be too small. Pass standardize="rank", which leaves the information as it is '
    "and knows no far samples; if they are fill values, remove them."
)
COPIES = (
    "Nearly every sample occurs {factor} times or a multiple of it, as where several processes "
    "read the same data. Copies are neighbours at distance 0, and the value is far "
    "too large. Evaluate each sample once; under a process group give the data loader a "
    "mi_metrics.UnpaddedDistributedSampler."
)
RESAMPLED = (
    "{share:.0f} % of the samples are copies of others, as resampling with replacement "
    "(BootStrapper) or oversampling makes them. Copies are neighbours at distance 0, and the value "
    "is far too large. Evaluate each sample once; resample without replacement."
)
LABELS = (
    "`{name}` holds {number} whole numbers only, and {value:.3g} nats are too little: taken for "
    "class labels they share {labels:.3g} nats with the other variable. If they are labels, pass "
    "them as `y` with discrete_y=True."
)


def doubts(
    rows: Tensor, x_dim: int, n_neighbors: int, *, discrete_y: bool, compares_scales: bool
) -> dict[Kind, str]:
    """Return what is doubtful about samples, by kind, in sentences for people.

    Args:
        rows: Finite float64 samples ``(N, x_dim + y_dim)``.
        x_dim: Coordinates of x.
        n_neighbors: k.
        discrete_y: Whether the others are labels.
        compares_scales: Whether coordinates are scaled by their deviations.
    """
    found: dict[Kind, str] = {}
    if len(rows) <= n_neighbors:
        return found
    if message := _too_few(rows, x_dim, n_neighbors, discrete_y=discrete_y):
        found["too few"] = message
    same = copies(rows)
    if factor := _factor(same):
        found["copies"] = COPIES.format(factor=factor)
    elif share := _resampled(rows, x_dim, same, discrete_y=discrete_y):
        found["copies"] = RESAMPLED.format(share=100 * share)
    apart = float((same <= n_neighbors).double().mean())
    columns = rows[:, :x_dim] if discrete_y else rows
    # With one coordinate there is no other scale to compare with.
    compares_scales = compares_scales and columns.shape[1] > 1 and apart >= LEAST_APART
    if compares_scales and any(_hides_the_rest(column.contiguous()) for column in columns.T):
        found["far samples"] = FAR
    return found


def _too_few(rows: Tensor, x_dim: int, n_neighbors: int, *, discrete_y: bool) -> str | None:
    """Say that samples are few, or that k neighbours of each are a large part of them."""
    # Neighbours of labels are those within a class.
    enough = ENOUGH if discrete_y else max(ENOUGH, SAMPLES_PER_NEIGHBOR * n_neighbors)
    constant = (rows == rows[0]).all(0)
    if len(rows) >= enough or bool(constant[:x_dim].all()) or bool(constant[x_dim:].all()):
        return None
    return TOO_FEW if len(rows) < ENOUGH else NEIGHBORS.format(number=len(rows), k=n_neighbors)


def few_labels(rows: Tensor, column: int, n_neighbors: int) -> int:
    """Return how many labels a column can be of: whole numbers, few and often repeated; else 0."""
    values = rows[:, column]
    # A glance at some samples spares the sorting of all where they are not whole.
    if not bool((values[:1000] == values[:1000].round()).all()):
        return 0
    distinct = torch.unique(values[:1000])
    if len(distinct) > MOST_LABELS:
        return 0
    distinct = torch.unique(values)
    if not 1 < len(distinct) <= min(MOST_LABELS, len(rows) // LEAST_MEMBERS):
        return 0
    if bool((distinct != distinct.round()).any()):
        return 0
    apart = float((copies(rows) <= n_neighbors).double().mean())
    return len(distinct) if apart >= LEAST_APART else 0


def copies(rows: Tensor) -> Tensor:
    """Return how often each row of a table occurs, in sorted order, int64 ``(N,)``."""
    columns = rows.T.contiguous()
    # Sorting a column of distinct values tells as much, in a third of the time.
    if any(bool((ordered[1:] != ordered[:-1]).all()) for ordered in map(sort, columns)):
        return torch.ones(len(rows), dtype=torch.int64, device=rows.device)
    order = lexicographic_order(list(columns))
    return run_lengths(run_starts([take(column, order) for column in columns]))


def _factor(same: Tensor) -> int:
    """Return the number by which nearly all distinct rows are multiplied, or 0."""
    multiplicity = torch.arange(int(same.max()) + 1, device=same.device).clamp_min(1)
    distinct = torch.bincount(same) // multiplicity
    total = int(distinct.sum())
    if total < 20 or len(same) > MOST_COPIES * total:
        return 0
    for factor in (7, 5, 3, 2):
        if int(distinct[::factor][1:].sum()) >= 0.95 * total:
            return factor
    return 0


def _resampled(rows: Tensor, x_dim: int, same: Tensor, *, discrete_y: bool) -> float:
    """Return the share of copies among samples that repeat as a whole, a few times each; else 0.

    Rounded variables repeat each other's values in ever new pairs.
    """
    distinct = len(same) - float((1 - 1 / same.double()).sum())
    share = 1 - distinct / len(same)
    if share <= 0.1 or distinct <= 50 or len(same) > 3 * distinct:
        return 0.0
    variables = [rows[:, :x_dim]] if discrete_y else [rows[:, :x_dim], rows[:, x_dim:]]
    alike = all(bool((copies(v).sort()[0] == same.sort()[0]).all()) for v in variables)
    if not alike or (discrete_y and _may_agree(rows, len(rows) - distinct)):
        return 0.0
    return share


def _may_agree(rows: Tensor, repeats: float) -> bool:
    """Say whether samples with one x may have one label without being copies, as those of a
    constant label or of one that x determines do; labels are the last column.
    """
    columns = rows.T.contiguous()
    order = lexicographic_order(list(columns))
    *x, label = (take(column, order) for column in columns)
    starts = run_starts(x)
    first = starts[1:] > starts[:-1]
    agreement = float((label[1:] == label[:-1])[first].double().mean())
    return agreement > MOST_AGREEMENT or agreement**repeats > 1e-3


def _hides_the_rest(column: Tensor) -> bool:
    """Say whether far samples set the deviation of a coordinate, so that neighbours can't tell the
    others apart.

    Neighbours of N samples are about σ/√N from each other, and σ is compared with the width of the
    shortest half of the values, which up to half of them can't change.
    """
    if len(column) < LEAST_FOR_SPREAD:
        return False
    # In units in which nothing overflows.
    values = column / column.abs().max().clamp_min(1e-300)
    ordered = sort(values)
    deviation = float(ordered.std(correction=0))
    if _shortest_half(ordered) * math.sqrt(len(column)) >= deviation:
        return False
    lengths = run_lengths(run_starts([ordered]))
    # Where many samples have one value, the others are what there is to see.
    others = ordered[lengths < lengths.max()]
    spread = max(_shortest_half(v) for v in (ordered, others))
    return spread > 0 and spread * math.sqrt(len(column)) < deviation


def _shortest_half(ordered: Tensor) -> float:
    """Return the width of the narrowest interval that holds half of the sorted values."""
    half = len(ordered) // 2
    if half == 0:
        return 0.0
    return float((ordered[half:] - ordered[: len(ordered) - half]).min())
