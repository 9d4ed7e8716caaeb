"""Joint tables of samples under the options of a binned estimate."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.cautions import Kind
from mi_metrics.functional.information import information
from mi_metrics.functional.options import Interval, from_nats
from mi_metrics.functional.tables.automatic import MOST_BINS, Binned, Choice, choose, extent
from mi_metrics.functional.tables.axis import Axis, check_binning, data_axis, fixed_axis
from mi_metrics.functional.tables.bspline import soft_counts
from mi_metrics.functional.tables.conditions import (
    LabelledCells,
    LabelledSamples,
    conditional_information,
    soft_conditional_counts,
)
from mi_metrics.functional.tables.doubts import doubts
from mi_metrics.functional.tables.hard import Unchecked
from mi_metrics.functional.tables.pairs import Cells, Pairs, Samples
from mi_metrics.functional.tensors import arithmetic, cast, on_cpu

# Pairs of automatic bins that are tabulated at once: of at most 512 x 512 bins, 128 MiB.
PAIRS = 64


class Options(NamedTuple):
    """Checked options of a binned estimate; ``bins`` None: automatic, ``ranges`` None: unknown."""

    bins: tuple[int, int] | None
    ranges: tuple[Interval, Interval] | None
    kinds: tuple[str, str]
    clip_quantile: float
    margin: float
    kernel: str
    normalization: str = "none"
    bias_correction: str = "auto"
    unit: str = "nats"

    @property
    def soft(self) -> bool:
        """Whether a sample counts in several cells."""
        return self.kernel != "hard"

    @property
    def looks(self) -> bool:
        """Whether "auto" may look at the values to choose bins."""
        return not (self.ranges or self.soft or self.clip_quantile or self.margin)

    def choice(self, cells: int = MOST_BINS) -> Choice:
        """Return what the choice of bins has to know, of variables of so many cells at most."""
        most, normalized = min(MOST_BINS, cells), self.normalization != "none"
        return Choice(self.bins, self.kinds, self.looks, normalized, most, cells)

    def correction(self, binned: Binned, *, weighted: bool = False) -> str:
        """Return the bias correction of these tables, that of "auto" too."""
        if self.bias_correction != "auto":
            return self.bias_correction
        if self.normalization != "none" or self.soft or (weighted and not self.looks):
            return "none"
        return binned.correction


class Table(NamedTuple):
    """Joint tables of pairs with bins of one kind, ``(r, B_x, B_y)``, or ``(r, K, B_x, B_y)`` under
    K conditions; ``effective`` is the effective number of weighted samples, ``(r,)``.
    """

    binned: Binned
    counts: Tensor
    effective: Tensor | None

    def value(self, options: Options) -> Tensor:
        """Return the mutual information of each, ``(r,)``."""
        bins = torch.stack(self.binned.bins, 1)
        if not self.binned.automatic or len(bins) == 1:
            return self._value(options, self.counts, self.effective)
        # Padded tables would be summed in another order: bits would depend on the batch.
        value = self.counts.new_empty(len(bins), dtype=torch.float64)
        for bx, by in sorted(set(map(tuple, bins.tolist()))):
            rows = ((bins[:, 0] == bx) & (bins[:, 1] == by)).nonzero().squeeze(1)
            counts = self.counts[rows, ..., :bx, :by].contiguous()
            effective = None if self.effective is None else self.effective[rows]
            value = value.index_copy(0, rows, self._value(options, counts, effective))
        return value

    def _value(self, options: Options, counts: Tensor, effective: Tensor | None) -> Tensor:
        correction = options.correction(self.binned, weighted=effective is not None)
        if counts.ndim == 4:
            value = conditional_information(counts, correction, soft=options.soft)
            return from_nats(value, options.unit)
        return information(
            counts,
            normalization=options.normalization,
            bias_correction=correction,
            unit=options.unit,
            effective_samples=effective,
            soft=options.soft,
        )

    def take(self, row: int) -> "Table":
        """Return one of the tables."""
        rows = torch.tensor([row], device=self.counts.device)
        binned, (bx, by) = self.binned, (int(b[row]) for b in self.binned.bins)
        counts = self.counts[rows] if not binned.automatic else self.counts[rows, :bx, :by]
        return Table(
            binned._replace(
                rows=binned.rows[rows],
                pairs=binned.pairs.take(rows),
                bins=(binned.bins[0][rows], binned.bins[1][rows]),
                axes=(binned.axes[0].take(rows), binned.axes[1].take(rows)),
                counts=counts,
                values_tell_more=binned.values_tell_more[rows],
            ),
            counts,
            None if self.effective is None else self.effective[rows],
        )

    def doubts(self, options: Options, most: int) -> Iterator[tuple[Kind, str]]:
        """Yield cautions about these values; ``most`` is the most bins that can be told apart."""
        correction = options.correction(self.binned, weighted=self.effective is not None)
        for kind, message in doubts(
            self.binned, self.counts, correction, self.effective, most, kernel=options.kernel
        ):
            # Normalised forms grow with the bins anyway, and one of them takes chance away.
            skip = {"none": (), "adjusted": ("rising", "undersampled")}
            if kind not in skip.get(options.normalization, ("rising",)):
                yield kind, message


def parse(
    num_bins: Any,
    value_range: Any,
    binning: Any,
    clip_quantile: Any,
    margin: Any,
    kernel: Any,
    **measure: str,
) -> Options:
    """Refuse options that are wrong or exclude each other, and return the others."""
    bins, ranges, kinds = check_binning(
        num_bins, value_range, binning, clip_quantile, margin, kernel
    )
    return Options(bins, ranges, kinds, float(clip_quantile), float(margin), kernel, **measure)


class Conditions(NamedTuple):
    """The condition of each sample, int64 ``(R, n)``, of ``number`` that there are."""

    labels: Tensor
    number: int


def tables(
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    options: Options,
    *,
    unchecked: Unchecked | None = None,
    conditions: Conditions | None = None,
    of_several: bool = False,
    wide: tuple[Tensor, Tensor] | None = None,
) -> Iterator[Table]:
    """Yield the tables of rows ``(R, n)``, each row once.

    ``unchecked`` samples are refused if they are NaN or infinite. ``of_several`` says that rows are
    classes of larger samples, of which ``wide`` are :func:`extent` in the cells of known
    ranges, ``(R,)`` each.
    """
    size = len(x) if options.bins else PAIRS
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        a, b, w = x[rows], y[rows], None if weights is None else weights[rows]
        effective = None if w is None else w.sum(1).square() / w.square().sum(1)
        some = None if conditions is None else conditions._replace(labels=conditions.labels[rows])
        pairs: Pairs = _samples(a, b, w, effective, options, some, unchecked=unchecked)
        if options.ranges and options.bins is None and not options.soft:
            pairs = fine_cells(pairs, effective)
        choice = options.choice()._replace(of_several=of_several)
        if wide is not None:
            choice = stretched(choice, pairs, (wide[0][rows], wide[1][rows]))
        for binned in choose(pairs, choice):
            part = binned.rows
            counts = binned.tables
            if options.soft:
                # Estimates are exact; a GPU has kernels for float32 that are not.
                u, v = (s[part] if on_cpu(s) else cast(s[part], torch.float64) for s in (a, b))
                bins = binned.shape
                counts = (
                    soft_counts(
                        u, v, binned.axes, bins, options.kernel, None if w is None else w[part]
                    )
                    if some is None
                    else soft_conditional_counts(
                        u, v, some.labels[part], some.number, binned.axes, bins, options.kernel
                    )
                )
            yield Table(
                binned._replace(rows=part + start),
                counts,
                None if effective is None else effective[part],
            )


def answers(
    found: Iterator[Table], options: Options, shape: torch.Size, most: int
) -> tuple[Tensor, dict[Kind, str]]:
    """Return the values of all tables in the shape of the pairs, and what is doubtful about them.

    Args:
        found: What :func:`tables` yields.
        options: The options of the estimate.
        shape: The leading dimensions of the samples.
        most: The most bins that can be told apart.
    """
    value: Tensor | None = None
    said: dict[Kind, str] = {}
    for table in found:
        for kind, message in table.doubts(options, most):
            said.setdefault(kind, message)
        part = table.value(options)
        if value is None:
            value = part.new_empty(shape.numel())
        value = value.index_copy(0, table.binned.rows.to(part.device), part)
    assert value is not None
    return value.reshape(shape), said


def note_doubts(
    found: dict[Kind, str],
    table: Table,
    options: Options,
    index: Sequence[Tensor],
    most: int = 2 * MOST_BINS,
    *,
    itself: bool = False,
) -> None:
    """Add cautions of new kinds about pairs of columns, with the first pair that each is of.

    Args:
        found: The cautions that there are.
        table: The tables of the pairs.
        options: Their options.
        index: The columns of x and of y.
        most: The most bins that can be told apart.
        itself: Whether they are pairs of a column with itself: their values are entropies of bins,
            which more bins always raise.
    """
    for kind, message in table.doubts(options, most):
        if kind in found or (itself and kind == "rising"):
            continue
        for row in range(len(index[0])):
            one = dict(table.take(row).doubts(options, most))
            if kind in one:
                message = one[kind]
                break
        i, j = (int(side[row]) for side in index)
        found[kind] = f"Column {i} of `x` with column {j} of `y`: {message}"


def stretched(choice: Choice, pairs: Pairs, wide: tuple[Tensor, Tensor]) -> Choice:
    """Return a choice of bins of a known range that gives a class as many on its own range.

    Args:
        choice: The choice.
        pairs: The cells of known ranges of each class.
        wide: :func:`extent` of all samples that the classes are of, ``(R,)`` each.
    """
    assert isinstance(pairs, Cells)
    x, y = (
        (w / extent(counts)).clamp_min(1) for w, counts in zip(wide, pairs.marginals, strict=True)
    )
    return choice._replace(of_several=True, stretch=(x, y))


def fine_cells(pairs: Pairs, effective: Tensor | None = None) -> Cells:
    """Return pairs over known ranges as the cells that a metric keeps of them."""
    rows, most = len(pairs.size), MOST_BINS
    fine = torch.full((rows, 1), most, dtype=torch.int64, device=pairs.size.device)
    axes = pairs.uniform(0, fine), pairs.uniform(1, fine)
    return cells_of_ranges(pairs.count(axes, (most, most)), effective)


def fine_margins(x: Tensor, y: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Return how many samples of rows ``(R, n)`` lie in each of these cells of a known range."""
    margins = []
    for side, values in enumerate((x, y)):
        assert options.ranges is not None
        axis = fixed_axis(options.ranges[side], MOST_BINS, values.dtype, values.device)
        cells = axis.cell(values.detach()).long()
        empty = torch.zeros(len(values), MOST_BINS, dtype=torch.int64, device=values.device)
        margins.append(empty.scatter_add_(1, cells, torch.ones_like(cells)))
    return margins[0], margins[1]


def cells_of_ranges(joint: Tensor, effective: Tensor | None = None) -> Cells:
    """Return the counts ``(R, m_x, m_y)``, or ``(R, K, m_x, m_y)``, in equal cells of known ranges
    as pairs to be put in bins.
    """
    shape = joint.shape[-2:]
    places = [
        torch.arange(m, dtype=torch.float64, device=joint.device).expand(len(joint), -1)
        for m in shape
    ]
    wide = [torch.ones_like(place, dtype=torch.bool) for place in places]

    def uniform(side: int, values: Tensor, bins: Tensor, weights: Tensor | None) -> Axis:
        lo = torch.zeros_like(values[:1, :1])
        return Axis(lo, lo + shape[side], bins.double())

    return (Cells if joint.ndim == 3 else LabelledCells)(
        (places[0], places[1]),
        joint,
        (False, False),
        (wide[0], wide[1]),
        uniform,
        effective,
        valued=False,
    )


def _samples(
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    effective: Tensor | None,
    options: Options,
    conditions: Conditions | None,
    *,
    unchecked: Unchecked | None,
) -> Samples:
    def uniform(side: int, values: Tensor, bins: Tensor, w: Tensor | None) -> Axis:
        dtype = arithmetic(values.dtype)
        number = bins.to(dtype)
        if options.ranges is None:
            return data_axis(values, number, w, "uniform", options.clip_quantile, options.margin)
        most = options.bins[side] if options.bins else int(bins.max())
        axis = fixed_axis(options.ranges[side], most, dtype, values.device)
        return axis._replace(bins=number.to(axis.lo.dtype))

    def weighted(
        a: Tensor, b: Tensor, axes: tuple[Axis, Axis], shape: tuple[int, int], w: Tensor
    ) -> Tensor:
        return soft_counts(a, b, axes, shape, "hard", w)

    if conditions is not None:
        return LabelledSamples(x, y, uniform, *conditions)
    return Samples(x, y, weights, effective, uniform, weighted, unchecked=unchecked)
