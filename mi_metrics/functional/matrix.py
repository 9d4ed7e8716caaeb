r"""All pairs of columns at once: the matrix of their mutual information, and p-values for it.

Each column is sorted and put in bins once for all pairs that it is in, and all columns of y are
counted against a column of x in one pass. The value of a pair is that of
:func:`mi_metrics.functional.binned_mutual_information` on its two columns, to the bit.

References:
    C. O. Daub et al., "Estimating mutual information using B-spline functions" (2004),
    doi:10.1186/1471-2105-5-118. P. H. Westfall, S. S. Young, "Resampling-based multiple testing"
    (1993).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.cautions import Kind, caution_each
from mi_metrics.functional.information import check_options
from mi_metrics.functional.options import (
    Binning,
    Normalization,
    NumBins,
    TableCorrection,
    Unit,
    check_cells,
    check_repetitions,
    check_seed,
    hints_keywords,
)
from mi_metrics.functional.tables import views
from mi_metrics.functional.tables.automatic import MOST_BINS, choose, shared
from mi_metrics.functional.tables.columns import ColumnPairs, Columns
from mi_metrics.functional.tables.independence import number_to_test
from mi_metrics.functional.tensors import (
    check_same_device,
    check_tensor,
    check_values,
    lift,
    non_finite,
)

# Samples of a block of pairs, and cells of its tables, that are held at a time.
SAMPLES, CELLS = 2**22, 2**24
# A column has a bin for each of its values where a test of it has so many samples per cell left.
EXPECTED = 5
# Sums of n log n of one table in two orders differ by less than this share.
SAME = 1e-14
# Up to this number of samples, n log n is looked up.
LISTED = 2**20


@hints_keywords
def mutual_information_matrix(
    x: Tensor,
    y: Tensor | None = None,
    num_bins: NumBins = "auto",
    *,
    binning: Binning = "auto",
    bias_correction: TableCorrection = "auto",
    normalization: Normalization = "none",
    unit: Unit = "nats",
) -> Tensor:
    r"""Compute the mutual information of each column of x with each column of y, in nats or bits.

    .. math:: M_{ij} = I(x_i; y_j)

    Conventions:
        Each value is that of :func:`binned_mutual_information` on the two columns, to the bit, and
        so are its sign, range, ties, constant input and bias; one call for 64 x 64 pairs takes a
        fiftieth of the time of as many calls.
        Automatic bins are chosen for each pair, not for each column: the number that is right for
        a pair follows from its dependence, and a column of noise beside a strong pair would
        otherwise take over its bins.
        Without ``y`` the columns of x are paired with each other; the diagonal is I(x, x) by the
        same options, which for a column of few values is its entropy. For any other column it is
        the entropy of its bins, which grows with their number, and no caution says so.
        Cautions: as those of a pair, each kind once, with the first pair that it was found in.
        Gradient: none.
        Memory: a few times that of the samples, and a bounded block of pairs.
        Exact under splits and ranks: :class:`mi_metrics.MutualInformationMatrix` holds tables that
        add up.

    Args:
        x: Samples of any real dtype, shape ``(N, C_x)``.
        y: Samples paired with ``x`` by row, shape ``(N, C_y)``; None: x.
        num_bins: Bins of both axes, ``(B_x, B_y)``, or ``"auto"``.
        binning: ``"auto"``, ``"uniform"``, ``"quantile"`` or ``"values"``, or a pair of them for x
            and y.
        bias_correction: ``"auto"``, ``"none"``, ``"miller_madow"`` or ``"grassberger"``.
        normalization: ``"none"``, ``"arithmetic"``, ``"geometric"``, ``"min"``, ``"max"``,
            ``"joint"``, ``"studholme"`` or ``"adjusted"``.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 of shape ``(C_x, C_y)``.

    Raises:
        TypeError: If x or y is not a real tensor, or an option has the wrong type.
        ValueError: If x or y is not a matrix, they differ in their rows or devices, there is no
            sample, a value is NaN or infinite, or an option is unknown, out of its range or
            excludes another.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import mutual_information_matrix
        >>> x = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
        >>> y = torch.stack([x[:, 0] + x[:, 1], x[:, 1] > 0], 1)  # truths: 0.347, 0; 0.347, 0.693
        >>> [[round(v, 3) for v in row] for row in mutual_information_matrix(x, y).tolist()]
        [[0.342, 0.0], [0.34, 0.688]]

    References:
        C. O. Daub et al., "Estimating mutual information using B-spline functions" (2004),
        doi:10.1186/1471-2105-5-118.
    """
    check_options(normalization, bias_correction, unit, whole=True)
    options = views.parse(
        num_bins,
        None,
        binning,
        0.0,
        0.0,
        "hard",
        normalization=normalization,
        bias_correction=bias_correction,
        unit=unit,
    )
    columns = _columns(x, y)
    shape = len(columns[0].values), len(columns[1].values)
    value = columns[0].values.new_empty(shape[0] * shape[1], dtype=torch.float64)
    found: dict[Kind, str] = {}
    for pairs, itself in _blocks(columns, options):
        index = pairs // shape[1], pairs % shape[1]
        for binned in choose(ColumnPairs(columns, index), options.choice()):
            table = views.Table(binned, binned.counts, None)
            value[pairs[binned.rows]] = table.value(options)
            places = [side[binned.rows] for side in index]
            views.note_doubts(found, table, options, places, itself=itself)
    caution_each(found)
    return value.view(shape)


@hints_keywords
def mutual_information_matrix_p_value(
    x: Tensor,
    y: Tensor | None = None,
    num_bins: NumBins = "auto",
    *,
    binning: Binning = "auto",
    num_permutations: int = 199,
    seed: int = 0,
) -> Tensor:
    r"""Compute p-values of the independence of each column of x from each column of y, corrected
    for the number of pairs (dimensionless).

    The rows of x are permuted against those of y, P times, all columns together, and each pair is
    compared with the largest statistic of all pairs:

    .. math:: p_{ij} = \frac{1 + \#\{\max_{kl} T_{kl}^{null} \ge T_{ij}\}}{1 + P}

    T rises with the pair's plug-in information I: it is the cube root of :math:`G = 2 N I` over its
    degrees of freedom, less its mean and divided by its deviation under the χ² law, so that tables
    of different numbers of cells can be compared.

    Conventions:
        Range: 1 / (P + 1) … 1; 1 for a constant column.
        What is promised: where no column of x depends on one of y, any p is below α in at most a
        share α of such data sets, whatever depends on what within x and within y. Not corrected
        p-values of single pairs: ``independence_p_value`` of their counts.
        Bins: chosen from each column and N alone, before any dependence is looked at; automatic
        ones are :math:`(0.4 N)^{1/3}` of equal frequency, at least 3, or one for each value of a
        column of few.
        Without ``y`` each pair of columns is tested once and the matrix is symmetric. Its diagonal,
        a column against itself, has no part in the maximum.
        Samples that depend on each other (pixels, time series) make p too small.
        Time: P + 1 times that of the tables; gradient: none. Memory: a few times that of the
        samples, and the tables of one column with all others.
        Deterministic: a function of the samples, the options and the seed, the same on every
        device.
        Exact under splits and ranks: no, it needs the samples.

    Args:
        x: Samples of any real dtype, shape ``(N, C_x)``.
        y: Samples paired with ``x`` by row, shape ``(N, C_y)``; None: x.
        num_bins: Bins of both axes, ``(B_x, B_y)``, or ``"auto"``.
        binning: ``"auto"``, ``"uniform"``, ``"quantile"`` or ``"values"``, or a pair of them for x
            and y.
        num_permutations: P, from 1 to 10**8.
        seed: Seed of the permutations, at least 0.

    Returns:
        float64 of shape ``(C_x, C_y)``.

    Raises:
        TypeError: If x or y is not a real tensor, or an option has the wrong type.
        ValueError: As :func:`mutual_information_matrix`, or if the tables of one column of x with
            all of y do not fit in memory.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import mutual_information_matrix_p_value
        >>> x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
        >>> y = x[:, :1] + 2 * x[:, 1:2]
        >>> mutual_information_matrix_p_value(x, y).flatten().tolist()
        [0.005, 0.005, 0.255]

    References:
        P. H. Westfall, S. S. Young, "Resampling-based multiple testing" (1993), chapter 2.
        B. Phipson, G. K. Smyth, "Permutation p-values should never be zero" (2010),
        doi:10.2202/1544-6115.1585. E. B. Wilson, M. M. Hilferty, "The distribution of chi-square"
        (1931), doi:10.1073/pnas.17.12.684.
    """
    options = views.parse(num_bins, None, binning, 0.0, 0.0, "hard")
    num_permutations = check_repetitions("num_permutations", num_permutations)
    seed = check_seed(seed)
    columns = _columns(x, y)
    a, b = (_alone(side, axis, options) for axis, side in enumerate(columns))
    test = _Statistics(a, b, among=y is None)
    observed = test.of(a, slack=SAME)
    reached = torch.zeros_like(observed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_permutations):
        order = torch.randperm(a.shape[1], generator=generator).to(a.device)
        reached += test.largest(a[:, order]) >= observed
    p = (1 + reached) / (1 + num_permutations)
    # Each pair of one matrix has the p-value of its place above the diagonal.
    return torch.where(test.tested, p, p.T) if y is None else p


class _Statistics:
    """The test statistics of all pairs of binned columns ``(C_x, N)`` and ``(C_y, N)``."""

    def __init__(self, x: Tensor, y: Tensor, *, among: bool) -> None:
        (rows, n), (columns, _) = x.shape, y.shape
        self.bins = int(x.max()) + 1, int(y.max()) + 1
        self.cells = self.bins[0] * self.bins[1]
        check_cells(
            f"{columns} tables of {' x '.join(map(str, self.bins))} bins", columns * self.cells
        )
        self.y = y + self.cells * torch.arange(columns, device=y.device).unsqueeze(1)
        self.n_log_n = _n_log_n(n, y.device)
        x_counts, y_counts = (
            torch.stack([torch.bincount(v, minlength=b) for v in side])
            for side, b in zip((x, y), self.bins, strict=True)
        )
        margins = self.n_log_n(x_counts).sum(1).unsqueeze(1) + self.n_log_n(y_counts).sum(1)
        self.constant = n * math.log(n) - margins
        kx, ky = ((counts > 0).sum(1, dtype=torch.float64) for counts in (x_counts, y_counts))
        self.freedom = (kx - 1).unsqueeze(1) * (ky - 1)
        pairs = torch.ones(rows, columns, dtype=torch.bool, device=y.device)
        self.tested = pairs.triu(1) if among and rows > 1 else pairs

    def of(self, x: Tensor, slack: float = 0.0) -> Tensor:
        """Return the statistics ``(C_x, C_y)``; of constants -infinity.

        Sums of equal tables in two orders differ in their last bits: they lie within the slack.
        """
        sums = torch.stack([self._sums(column, 0) for column in x])
        return self._statistic(sums * (1 - slack), self.constant, self.freedom)

    def largest(self, x: Tensor) -> Tensor:
        """Return the largest statistic of the pairs that are tested."""
        found = []
        for column, tested, constant, freedom in zip(
            x, self.tested, self.constant, self.freedom, strict=True
        ):
            if bool(tested.any()):
                # Either all columns of y are, or those behind the column itself.
                first = int(tested.int().argmax())
                sums = self._sums(column, first)
                found.append(self._statistic(sums, constant[first:], freedom[first:]).amax())
        return torch.stack(found).amax()

    def _sums(self, column: Tensor, first: int) -> Tensor:
        """Return Σ n log n of a column's tables with those of y from ``first`` on."""
        size = (len(self.y) - first) * self.cells
        code = self.y[first:] + (self.bins[1] * column - first * self.cells)
        tables = torch.bincount(code.flatten(), minlength=size)
        return self.n_log_n(tables).view(-1, self.cells).sum(1)

    @staticmethod
    def _statistic(sums: Tensor, constant: Tensor, freedom: Tensor) -> Tensor:
        """Return Wilson and Hilferty's transform of G, about normal whatever the freedom."""
        g, spread = 2 * (sums + constant).clamp_min(0), 2 / (9 * freedom.clamp_min(1))
        statistic = ((g / freedom.clamp_min(1)) ** (1 / 3) - (1 - spread)) / spread.sqrt()
        return torch.where(freedom > 0, statistic, -torch.inf)


def _n_log_n(total: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return n log n for counts up to a total: from a list, where that is short."""
    if total > LISTED:
        return lambda n: torch.xlogy(n, n.double())
    n = torch.arange(total + 1, dtype=torch.float64, device=device)
    values = torch.xlogy(n, n)
    return lambda n: values[n]


def _alone(columns: Columns, side: int, options: views.Options) -> Tensor:
    """Return the bins ``(C, N)`` of columns, int64, chosen from each column and N alone."""
    values, kind = columns.values, options.kinds[side]
    (number, n), device = values.shape, values.device
    index = torch.arange(number, device=device)
    pairs = ColumnPairs((columns, columns), (index, index))
    if options.bins is None:
        bins = torch.full_like(index, number_to_test(n))
        each = columns.number(MOST_BINS) <= n / (EXPECTED * number_to_test(n))
    else:
        bins = torch.full_like(index, options.bins[side])
        each = shared(pairs, 0, options.bins[side])
    uniform = kind == "uniform" or (kind == "auto" and options.bins is not None)
    if kind != "auto":
        each = torch.full_like(each, kind == "values")
    margin = pairs.margin(0)
    found = torch.empty(number, n, dtype=torch.int64, device=device)
    for column in range(number):
        row = index[column : column + 1]
        if bool(each[column]):
            axis = margin.take(row).axis(None)
        elif uniform:
            axis = pairs.take(row).uniform(0, bins[row].unsqueeze(1))
        else:
            axis = margin.take(row).axis(bins[row])
        found[column] = columns.cells(column, axis, 0, int(axis.bins))
    return found


def _columns(x: Any, y: Any) -> tuple[Columns, Columns]:
    """Return the columns of x and y, checked; without y those of x twice."""
    named = {"x": x} if y is None else {"x": x, "y": y}
    for name, values in named.items():
        check_values(name, check_tensor(name, values))
        if values.ndim != 2 or values.numel() == 0:
            raise ValueError(
                f"Expected `{name}` of shape (N, C), samples in rows and at least one column, but "
                f"got {tuple(values.shape)}. A single variable is a column: "
                f"{name}.unsqueeze(1)."
            )
    check_same_device(named)
    if y is not None and len(x) != len(y):
        raise ValueError(
            f"Expected as many rows in `x` as in `y`, but got {len(x)} and {len(y)}. Samples are "
            "paired by row; transpose what has them in columns."
        )
    sides = []
    for name, values in named.items():
        values = lift(values.detach(), name)
        if not bool(values.sum().isfinite()) and (count := non_finite(values)):
            column = int((~values.isfinite()).any(0).int().argmax())
            raise ValueError(
                f"Expected `{name}` to be finite, but it holds {count} NaN or infinite of "
                f"{values.numel()} values, first in column {column}. Remove these rows or columns, "
                'or use MutualInformationMatrix(nan_strategy="ignore"), which leaves out a '
                "sample of the pairs that lack it."
            )
        sides.append(Columns(values.T))
    return sides[0], sides[-1]


def _blocks(
    columns: tuple[Columns, Columns], options: views.Options
) -> Iterator[tuple[Tensor, bool]]:
    """Yield numbers of pairs, counted along the rows of the matrix, in blocks of bounded size, and
    whether they are pairs of a column with itself.
    """
    number, n = len(columns[1].values), columns[0].values.shape[1]
    cells, wide = 1, []
    for side, (column, kind) in enumerate(zip(columns, options.kinds, strict=True)):
        # Twice the bins are looked at, too.
        most = options.bins[side] if options.bins else 2 * MOST_BINS
        cells *= int(column.margin.number.max()) if kind == "values" else most
        wide.append(column.wide(most))
    pairs = torch.arange(len(columns[0].values) * number, device=columns[0].values.device)
    size = max(1, min(views.PAIRS, SAMPLES // n, CELLS // cells))
    # Numbers so large that the arithmetic of all pairs of a block would change for one of them.
    single = wide[0][pairs // number] | wide[1][pairs % number]
    itself = _equal(*columns).flatten()
    for some, most in ((~single, size), (single, 1)):
        for same in (False, True):
            found = pairs[some & (itself == same)]
            for start in range(0, len(found), most):
                yield found[start : start + most], same


def _equal(x: Columns, y: Columns) -> Tensor:
    """Return which columns of x are which of y, ``(C_x, C_y)`` bool."""
    if x is y:
        return torch.eye(len(x.values), dtype=torch.bool, device=x.values.device)
    ends = [torch.cat([*side.range, side.values[:, :1]], 1) for side in (x, y)]
    found = (ends[0].unsqueeze(1) == ends[1]).all(2)
    for i, j in found.nonzero().tolist():
        found[i, j] = torch.equal(x.values[i], y.values[j])
    return found
