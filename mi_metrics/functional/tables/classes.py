r"""Automatic bins within the classes of a third variable: what x and y share under each of them.

Each class has the bins that are chosen for its samples alone, and the information of each counts
by its share of the samples:

.. math:: I(X; Y | Z) = \sum_k \frac{N_k}{N} I_k .

Bins that all classes share would be too wide where these lie apart, or, where they are made finer,
too many for the samples of a class. The classes of R rows have the places r K + k; one of all
samples of its row is treated as if there were no classes.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from mi_metrics.functional.cautions import Kind
from mi_metrics.functional.information import information
from mi_metrics.functional.options import from_nats
from mi_metrics.functional.tables.automatic import (
    LITTLE_BIAS,
    SAMPLES_PER_BIN,
    SHARE_OF_VALUE,
    extent,
)
from mi_metrics.functional.tables.independence import table_to_test
from mi_metrics.functional.tables.sampling import (
    Sampling,
    alone_under_a_condition,
    analytic_bias,
    occupied,
    sampling_message,
    soft_bias,
    soft_density,
    soft_message,
)
from mi_metrics.functional.tables.views import Conditions, Options, Table, fine_margins, tables

# What is said of classes with less than this share of the samples moves the value by less.
LITTLE = 0.2
# So many bins are too few to see dependence.
FEW_BINS = 3


def have_bins_of_their_own(options: Options) -> bool:
    """Say whether bins are chosen within classes: an automatic number, and not a bin per value."""
    return options.bins is None and options.kinds != ("values", "values")


def sizes(conditions: Conditions) -> Tensor:
    """Return the number of samples of each class of each row, int64 ``(R, K)``."""
    labels, number = conditions
    size = torch.zeros(len(labels), number, dtype=torch.int64, device=labels.device)
    return size.scatter_add_(1, labels, torch.ones_like(labels))


def class_tables(x: Tensor, y: Tensor, options: Options, conditions: Conditions) -> Iterator[Table]:
    """Yield the tables of the classes of rows ``(R, n)`` that have samples, each once; ``rows`` of
    their bins are the places of the classes.
    """
    size, n = sizes(conditions), x.shape[1]
    code = conditions.labels + conditions.number * _column(len(x), x.device)
    order = code.flatten().argsort(stable=True)
    start = size.flatten().cumsum(0) - size.flatten()
    wide = None
    if options.ranges and not options.soft:
        wide = [extent(margin) for margin in fine_margins(x, y, options)]
    # Classes of as many samples as others are counted together.
    for number in torch.unique(size).tolist():
        if not number:
            continue
        places = (size.flatten() == number).nonzero().squeeze(1)
        index = order[start[places].unsqueeze(1) + torch.arange(number, device=x.device)]
        several = number < n
        of_all = None
        if several and wide is not None:
            row = places // conditions.number
            of_all = wide[0][row], wide[1][row]
        a, b = x.flatten()[index], y.flatten()[index]
        for table in tables(a, b, None, options, of_several=several, wide=of_all):
            binned = table.binned
            yield table._replace(binned=binned._replace(rows=places[binned.rows]))


def class_values(found: Sequence[Table], size: Tensor, options: Options) -> Tensor:
    """Return the information within classes, float64 ``(R,)``: of tables by class, and the numbers
    of samples ``(R, K)``. NaN without samples.
    """
    values = size.new_zeros(size.numel(), dtype=torch.float64)
    for table in found:
        value = table.value(options)
        if options.bias_correction == "auto":
            value = value - from_nats(_excess(table, size), options.unit)
        values = values.index_copy(0, table.binned.rows.to(value.device), value)
    # A single class has a share of exactly 1.
    return (values.view(size.shape) * _shares(size)).sum(1)


def stacked_counts(found: Sequence[Table], classes: int) -> Tensor:
    """Return the tables of all classes as one, ``(R K, B_x, B_y)``, padded with empty cells."""
    bx, by = (max((t.counts.shape[i] for t in found), default=1) for i in (1, 2))
    counts = torch.zeros(classes, bx, by, dtype=torch.int64)
    if found:
        counts = found[0].counts.new_zeros(classes, bx, by)
    for table in found:
        part = pad(table.counts, (0, by - table.counts.shape[2], 0, bx - table.counts.shape[1]))
        counts = counts.index_copy(0, table.binned.rows, part)
    return counts


def tables_to_test(found: Sequence[Table], options: Options, *, law: bool) -> Tensor:
    """Return the tables of classes for a test of independence within them, ``(K, B_x, B_y)``; see
    :func:`table_to_test`.
    """
    return padded(
        [
            table_to_test(table.binned.pairs.take(row), options.choice(), law=law)[0]
            for table in found
            for row in torch.arange(len(table.binned.rows)).unsqueeze(1)
        ]
    )


def padded(tables: Sequence[Tensor]) -> Tensor:
    """Return tables ``(B_x, B_y)`` of different sizes as one, padded with empty cells."""
    bx, by = (max(table.shape[i] for table in tables) for i in (0, 1))
    return torch.stack([pad(t, (0, by - t.shape[1], 0, bx - t.shape[0])) for t in tables])


def class_doubts(
    found: Sequence[Table], size: Tensor, options: Options, most: int, names: Sequence[object]
) -> dict[Kind, str]:
    """Return what is doubtful about the information within classes.

    Args:
        found: The tables of all classes that have samples.
        size: The numbers of samples, ``(R, K)``.
        options: The options of the estimate.
        most: The most bins that can be told apart.
        names: What the user calls the classes.
    """
    said: dict[Kind, str] = {}
    several = [table for table in found if _of_several(table, size)]
    for table in found:
        if not _of_several(table, size):
            for kind, message in table.doubts(options, most):
                said.setdefault(kind, message)
    if not several:
        return said
    sampled = (_soft_sampling if options.soft else _sampling)(several, size, options)
    if sampled:
        said.setdefault("undersampled", sampled)
    elif _share_of_few(several, size) > LITTLE:
        said.setdefault("too few", _too_few(size))
    return said | {k: m for k, m in _by_class(several, size, options, most, names) if k not in said}


def _by_class(
    found: Iterable[Table], size: Tensor, options: Options, most: int, names: Sequence[object]
) -> Iterator[tuple[Kind, str]]:
    """Yield what is said of classes that have more than a little share of a row's samples."""
    share = _shares(size).flatten()
    said: dict[Kind, dict[int, str]] = {}
    for table in found:
        if int(table.binned.pairs.size[0]) < FEW_BINS * SAMPLES_PER_BIN:
            continue  # Whatever else there is to say, more samples are what helps.
        # Few samples are said above. What is true of some rows is looked for row by row.
        kinds = {kind for kind, _ in table.doubts(options, most)} - {"undersampled", "too few"}
        for row, place in enumerate(table.binned.rows.tolist() if kinds else ()):
            for kind, message in table.take(row).doubts(options, most):
                if kind in kinds:
                    said.setdefault(kind, {})[place] = message
    number = size.shape[1]
    for kind, messages in said.items():
        total = torch.zeros(size.shape[0], dtype=torch.float64)
        for place in messages:
            total[place // number] += float(share[place])
        if bool(total.max() > LITTLE):
            row = int(total.argmax())
            place = max((p for p in messages if p // number == row), key=lambda p: float(share[p]))
            yield kind, f"Given z = {names[place % number]}: {messages[place]}"


def _sampling(found: Iterable[Table], size: Tensor, options: Options) -> str | None:
    """Say that tables of all classes together say more about N than about the data."""
    rows, correction = len(size), options.bias_correction
    cells, alone, bias = size.new_zeros(3, rows, dtype=torch.float64)
    varied = torch.zeros_like(cells)
    for table in found:
        place, n = table.binned.rows, table.binned.pairs.size
        row, share = place // size.shape[1], _shares(size).flatten()[place]
        counts = table.counts.double()
        corrected = options.correction(table.binned) != "none"
        left = torch.zeros_like(n) if corrected else analytic_bias(counts, n)
        if options.bias_correction == "auto":
            left = left - _excess(table, size)
        bias.index_add_(0, row, share * left)
        alone.index_add_(0, row, share * alone_under_a_condition(counts))
        cells.index_add_(0, row, occupied(counts, 2))
        varied.index_add_(0, row, (_varies(counts) | (n == 1)).double())
    if correction == "auto":
        correction = "none" if bool((bias > 0).any()) else "miller_madow"
    n = size.sum(1).double()
    sampling = Sampling(n, cells, alone, bias, varied == 0)
    return sampling_message(Sampling(*(v.cpu() for v in sampling)), correction, automatic=True)


def _soft_sampling(found: Iterable[Table], size: Tensor, options: Options) -> str | None:
    """:func:`_sampling` of a soft kernel."""
    value, bias, density = size.new_zeros(3, len(size), dtype=torch.float64)
    largest, bins = 0, (1, 1)
    for table in found:
        place = table.binned.rows
        row, share = place // size.shape[1], _shares(size).flatten()[place]
        counts = table.counts.detach().double()
        value.index_add_(0, row, share * information(counts, soft=True))
        bias.index_add_(0, row, share * soft_bias(counts, options.kernel))
        density.index_add_(0, row, share * soft_density(counts, options.kernel))
        if int(table.binned.pairs.size[0]) > largest:
            largest, bins = int(table.binned.pairs.size[0]), table.binned.shape
    correction = "none" if options.bias_correction == "auto" else options.bias_correction
    n, value, bias, density = (v.cpu() for v in (size.sum(1).double(), value, bias, density))
    return soft_message(n, bins, value, bias, density, options.kernel, correction)


def _share_of_few(found: Iterable[Table], size: Tensor) -> float:
    """Return the largest share of a row's samples in classes with too few for three bins."""
    few = size.new_zeros(len(size), dtype=torch.float64)
    for table in found:
        place, n = table.binned.rows, table.binned.pairs.size
        if table.binned.kinds == ("values", "values"):
            continue
        share = _shares(size).flatten()[place]
        few.index_add_(0, place // size.shape[1], share * (n < FEW_BINS * SAMPLES_PER_BIN))
    return float(few.max())


def _too_few(size: Tensor) -> str:
    few = (size > 0) & (size < FEW_BINS * SAMPLES_PER_BIN)
    return (
        f"{int(few.sum(1).max())} of {int((size > 0).sum(1).max())} classes have fewer than "
        f"{FEW_BINS * SAMPLES_PER_BIN} samples, too few for {FEW_BINS} bins of "
        f"{SAMPLES_PER_BIN}, so the value is too small. Use more samples or fewer classes, or "
        "knn_conditional_mutual_information with z as a number where its values are in an order."
    )


def _excess(table: Table, size: Tensor) -> Tensor:
    """Return the expected excess of tables of a bin per value that is worth correcting, in nats."""
    counts, n = table.counts, table.binned.pairs.size
    if table.binned.kinds != ("values", "values") or not _of_several(table, size):
        return torch.zeros_like(n)
    bias = analytic_bias(counts, n)
    little = (SHARE_OF_VALUE * information(counts)).clamp_min(LITTLE_BIAS)
    return torch.where(bias > little, bias, 0)


def _of_several(table: Table, size: Tensor) -> bool:
    """Say whether tables are of classes that leave samples to others."""
    place = int(table.binned.rows[0])
    return int(size.flatten()[place]) < int(size[place // size.shape[1]].sum())


def _varies(counts: Tensor) -> Tensor:
    return torch.minimum(*(occupied(counts.sum(dim), 1) for dim in (1, 2))) > 1


def _shares(size: Tensor) -> Tensor:
    size = size.double()
    return size / size.sum(1, keepdim=True)


def _column(rows: int, device: torch.device) -> Tensor:
    return torch.arange(rows, device=device).unsqueeze(1)
