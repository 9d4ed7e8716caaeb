"""Conditional mutual information from a joint table for each class, as a metric."""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.cautions import Kind
from mi_metrics.functional.conditional import check_labels
from mi_metrics.functional.inference import pointwise_mutual_information
from mi_metrics.functional.options import (
    Binning,
    NanStrategy,
    NumBins,
    TableCorrection,
    Unit,
    ValueRange,
    check_integer,
)
from mi_metrics.functional.tables import classes, views
from mi_metrics.functional.tables.automatic import (
    Choice,
    choose,
    extent,
)
from mi_metrics.functional.tables.independence import table_to_test
from mi_metrics.functional.tables.pairs import Cells
from mi_metrics.functional.tensors import lift
from mi_metrics.metrics.base import IGNORED, SEEN, MutualInformationMetric, keywords
from mi_metrics.metrics.bins import BinnedMetric
from mi_metrics.states import grid, reading
from mi_metrics.states.by_condition import pooled
from mi_metrics.states.damage import conditions_problems
from mi_metrics.states.keys import resolution
from mi_metrics.states.reading import OutputView


class BinnedConditionalMutualInformation(BinnedMetric):
    r"""Compute the mutual information of paired samples that a class label does not explain, from
    a joint table of bins for each class, in nats or bits.

    What is computed, the formula and its conventions:
    :func:`mi_metrics.functional.binned_conditional_mutual_information`. Here the tables are the
    state: they add up over batches, devices and hosts.

    Equalised odds in one number: with x the prediction, y the attribute and z the truth the value
    is 0 where the prediction tells nothing of the attribute beyond the truth, and ``p_value`` tests
    it, by permutations within the classes.

    Conventions:
        Exact under splits and ranks: bit for bit. With a given range the value is that of the
        functional call on all samples (``num_bins="auto"``: where ``resolution`` is 256); with
        ``value_range=None`` as :class:`mi_metrics.BinnedMutualInformation` says. The cells of the
        grid are those of all samples, shared by the classes; automatic bins are chosen from them in
        each class.
        Samples per class: each table needs its own, some five per bin of an axis at least. A class
        without samples contributes nothing.
        No samples: NaN, with a warning. ``compute`` never raises.
        State: ``table``; with a known range int64 ``(K, B_x, B_y)`` for K = ``num_conditions``,
        with an unknown one int64 ``(K, 2 + 2 m + m²)`` for m = ``resolution``; ``header`` and
        ``counters``.
        Memory: the state (4 MB for 8 classes and 256 cells), and a bounded chunk in ``update``.
        Gradient: none; to train, :class:`mi_metrics.MutualInformationPenalty` with ``condition``.

    As input to ``forward`` and ``update`` the metric accepts:
        x: Samples of any real dtype and shape, all elements pooled.
        y: Samples paired with ``x`` by position, of the same shape.
        z: Class labels 0 … ``num_conditions`` - 1 of the same shape, integers or bool.

    As output of ``forward`` and ``compute`` the metric returns:
        float64 scalar.

    Args:
        num_bins: Bins of both axes, ``(B_x, B_y)``, or ``"auto"``.
        num_conditions: K, the number of classes; labels from K on are refused.
        value_range: ``None``, ``(lo, hi)`` or ``((x_lo, x_hi), (y_lo, y_hi))``.
        binning: ``"auto"``, ``"uniform"``, ``"quantile"`` or ``"values"``, or a pair of them.
        bias_correction: ``"auto"``, ``"none"``, ``"miller_madow"`` or ``"grassberger"``.
        unit: ``"nats"`` or ``"bits"``.
        nan_strategy: What to do with NaN and infinite samples: ``"error"``, or ``"ignore"``: the
            pair is dropped and counted.
        resolution: The most cells per axis of an unknown range, or the cells of a given one under
            ``num_bins="auto"``, at least 2.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown, out of its range or excludes another.

    Example:
        >>> import torch
        >>> from mi_metrics import BinnedConditionalMutualInformation
        >>> generator = torch.Generator().manual_seed(0)
        >>> metric = BinnedConditionalMutualInformation(num_conditions=2)
        >>> for _ in range(10):
        ...     truth, attribute, noise = torch.rand(3, 1_000, generator=generator) < 0.5
        ...     metric.update(truth | attribute & noise, attribute, truth)
        >>> print(f"{metric.compute():.3f}")  # truth: 0.108
        0.105
        >>> print(f"{metric.p_value():.3f}")
        0.001

    References:
        M. Hardt, E. Price, N. Srebro, "Equality of opportunity in supervised learning" (2016),
        arXiv:1610.02413.
    """

    _conditional = True

    @keywords
    def __init__(
        self,
        num_bins: NumBins = "auto",
        *,
        num_conditions: int,
        value_range: ValueRange = None,
        binning: Binning = "auto",
        bias_correction: TableCorrection = "auto",
        unit: Unit = "nats",
        nan_strategy: NanStrategy = "error",
        resolution: int = 256,
        **kwargs: Any,
    ) -> None:
        options = views.parse(
            num_bins,
            value_range,
            binning,
            0.0,
            0.0,
            "hard",
            bias_correction=bias_correction,
            unit=unit,
        )
        super().__init__(
            options,
            binning=binning,
            resolution=resolution,
            num_outputs=1,
            nan_strategy=nan_strategy,
            num_conditions=check_integer("num_conditions", num_conditions, 1),
            **kwargs,
        )
        self.num_conditions = int(num_conditions)

    def update(  # type: ignore[override]
        self, x: Tensor, y: Tensor, z: Tensor, mask: Tensor | None = None
    ) -> None:
        """Add a batch of paired samples to the tables of their classes.

        Args:
            x: Samples of any real dtype and shape.
            y: Samples paired with ``x`` by position, of the same shape.
            z: Class labels of the same shape, integers or bool from 0 to ``num_conditions`` - 1.
            mask: bool of the shape of ``x``, or of one that broadcasts to it; False leaves a
                sample out, whatever it holds, its label included.

        Raises:
            TypeError: If x, y or z is not a real tensor, z holds floating-point numbers, or the
                mask is not bool.
            ValueError: If shapes or devices differ, there is no sample, a label is none of the
                classes, or with ``nan_strategy="error"`` a sample is NaN or infinite. The state is
                left as it was.
        """
        samples = self._unchecked(x, y, mask)
        labels = labels_of(self, z, x)
        if samples is not None:
            if mask is not None:
                labels = labels[mask.expand(labels.shape)]
            self._add(samples, labels.reshape(1, -1))

    def counts(self) -> Tensor:
        """Return the counts in bins of each class, int64 ``(K, B_x, B_y)``; under automatic bins
        those of classes with fewer bins are padded with empty cells.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for the counts of all.
        """
        return self._tables_of_value().squeeze(0)

    def joint(self) -> Tensor:
        """Return the probability table ``(K, B_x, B_y)`` of class, x and y; it sums to 1.

        NaN without samples. Of this rank alone, as :meth:`counts`.
        """
        counts = self.counts().double()
        return counts / counts.sum()

    def edges(self, condition: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the edges of the bins of x and of y in data units, float64 ``(B + 1,)`` each.

        Under automatic bins each class has its own; without a ``condition`` those of all classes
        are returned, ``(K, B + 1)`` each, in which bins that a class does not have, or no value
        reaches, have no width.

        Args:
            condition: The class whose edges to return.
        """
        if condition is not None:
            condition = int(self._in_range(torch.tensor([condition])))
        if not self._own_bins:
            return super().edges()
        if condition is not None:
            view = self._class_view(condition)
            return self._edges(view, 0), self._edges(view, 1)
        found = [self._class_view(k) for k in range(self.num_conditions)]
        x, y = ([self._edges(view, side) for view in found] for side in (0, 1))
        return _padded(x), _padded(y)

    def pointwise(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        r"""Return the pointwise information of samples under the table of their class, in the
        metric's unit: :math:`\log p_{ab|k} / (p_{a|k} \, p_{b|k})` of the cell (a, b).

        Its mean over the samples that were counted is the plug-in value. Of this rank alone; enter
        ``metric.sync_context()`` on every rank for the tables of all.

        Args:
            x: Samples as ``update`` takes them.
            y: Samples paired with ``x`` by position.
            z: Their class labels.

        Returns:
            float64 of the shape of ``x``: 0 in a cell without samples; those outside of the table
            count in its edge; NaN where x or y is NaN or infinite, and without samples.

        Raises:
            TypeError: If x, y or z is not a real tensor, or z holds floating-point numbers.
            ValueError: If shapes or devices differ, there is no sample, or a label is none of the
                classes.
        """
        self._check_has_values()
        x, y = self._pair(x, y)
        labels = self._in_range(labels_of(self, z, x))
        a, b = lift(x.flatten(), "x"), lift(y.flatten(), "y")
        finite = a.isfinite() & b.isfinite()
        a, b = torch.where(finite, a, 0), torch.where(finite, b, 0)
        values = torch.zeros_like(a, dtype=torch.float64)
        # Samples that share bins are looked up together.
        groups = torch.unique(labels[0]).tolist() if self._own_bins else [None]
        for k in groups:
            some = labels[0] == k if k is not None else torch.ones_like(finite)
            view = self._view(0) if k is None else self._class_view(k)
            bins = self._bins_of(view, a[some], b[some])
            counts = view.counts[0] if k is None else view.counts
            tables = pointwise_mutual_information(counts, unit=self.unit)
            # Under a class without samples nothing is known, as in a cell without.
            tables = torch.where(tables.isnan() & (self.seen > self.ignored), 0, tables)
            row = labels[0] if k is None else torch.zeros_like(labels[0])
            values[some] = tables[row[some], bins[0], bins[1]]
        return torch.where(finite, values, torch.nan).view(x.shape)

    def plot_joint(self, condition: int | None = None, ax: Any = None) -> Any:
        """Draw the joint table with its two marginals, axes in data units; needs matplotlib.

        Args:
            condition: The class whose table to draw; None: that of all samples.
            ax: The axes to draw in; by default a new figure.

        Returns:
            The figure and the axes of the table.
        """
        from mi_metrics.plotting import plot_joint

        if condition is not None:
            condition = int(self._in_range(torch.tensor([condition])))
        if self._own_bins:
            view = self._class_view(condition)
            table, edges = view.counts[0].double(), (self._edges(view, 0), self._edges(view, 1))
        else:
            joint = self.joint()
            table = joint.sum(0) if condition is None else joint[condition]
            edges = self.edges()
        return plot_joint(table / table.sum(), *edges, ax=ax)

    # -- automatic bins, of each class its own -----------------------------------------------------

    @property
    def _own_bins(self) -> bool:
        return classes.have_bins_of_their_own(self._options)

    def _size(self) -> Tensor:
        """Return the number of samples of each class, ``(1, K)``."""
        head = self.table.shape[1] - resolution(self.table) ** 2 if self._bins is None else 0
        return self.table.flatten(1)[:, head:].sum(1).unsqueeze(0)

    def _class_pairs(self, condition: int | None) -> tuple[Cells, Choice]:
        """Return the cells of a class, of None: of all samples, and what the choice of its bins has
        to know.
        """
        options, given = self._options, self._ranges is not None
        choice = options.choice(self.resolution)
        if condition is None:
            table = self.table.sum(0, keepdim=True) if given else pooled(self.table)
        else:
            table = self.table[condition : condition + 1]
        if given:
            pairs = views.cells_of_ranges(table)
            choice = choice._replace(kinds=("uniform", "uniform"))
        else:
            pairs, _ = reading.pairs_of(table, self._wide(0))
        kept = self.counters[SEEN] - self.counters[IGNORED]
        if condition is None or bool(pairs.size == kept):
            return pairs, choice
        if not given:
            return pairs, choice._replace(of_several=True)
        x, y = (extent(self.table.sum(dim).sum(0, keepdim=True)) for dim in (2, 1))
        return pairs, views.stretched(choice, pairs, (x, y))

    def _class_view(self, condition: int | None) -> OutputView:
        """Return the state of a class, or of all samples, in bins of its own."""
        pairs, choice = self._class_pairs(condition)
        (binned,) = choose(pairs, choice)
        cells = None
        if self._ranges is None:
            k = condition
            cells = grid.view(pooled(self.table) if k is None else self.table[k : k + 1])
        binned = binned._replace(rows=binned.rows + (condition or 0))
        return OutputView(views.Table(binned, binned.counts, None), cells)

    def _occupied(self) -> list[int]:
        """Return the classes with samples, or the first one if there are none."""
        found: list[int] = self._size()[0].nonzero().squeeze(1).tolist()
        return found or [0]

    def _views(self) -> list[OutputView]:
        if not self._own_bins:
            return super()._views()
        return [self._class_view(k) for k in self._occupied()]

    def _values(self, found: list[OutputView], options: views.Options) -> Tensor:
        if not self._own_bins:
            return super()._values(found, options)
        return classes.class_values([view.table for view in found], self._size(), options)

    def _doubts(self, found: list[OutputView], options: views.Options) -> dict[Kind, str]:
        if not self._own_bins:
            return super()._doubts(found, options)
        size, names = self._size(), range(self.num_conditions)
        doubts = classes.class_doubts(
            [view.table for view in found], size, options, self.resolution, names
        )
        share = size[0] / size.sum()
        coarse = {
            k: message
            for k, view in zip(self._occupied(), found, strict=True)
            if (message := reading.coarse_message(view, type(self).__name__, self.resolution))
        }
        if coarse and float(share[list(coarse)].sum()) > classes.LITTLE:
            largest = max(coarse, key=lambda k: float(share[k]))
            doubts["coarse grid"] = coarse[largest]
        return doubts

    def _tables_of_value(self) -> Tensor:
        if not self._own_bins:
            return super()._tables_of_value()
        tables = [view.table for view in self._views()]
        return classes.stacked_counts(tables, self.num_conditions).unsqueeze(0)

    def _tables_to_test(self, *, law: bool) -> Tensor:
        if not self._own_bins:
            return super()._tables_to_test(law=law)
        found = [table_to_test(*self._class_pairs(k), law=law)[0] for k in self._occupied()]
        return classes.padded(found).unsqueeze(0)

    def _refuse(self, labels: Tensor) -> None:
        self._in_range(labels)

    def _in_range(self, labels: Tensor) -> Tensor:
        """Return labels as ``(1, n)``; refuse those that are none of the classes."""
        low, high = (int(end) for end in torch.aminmax(labels))
        if low < 0 or high >= self.num_conditions:
            raise ValueError(
                f"Expected class labels from 0 to {self.num_conditions - 1} for "
                f"num_conditions={self.num_conditions}, but got {low if low < 0 else high}. Number "
                "the classes, for example with torch.unique(z, return_inverse=True)[1], raise "
                "`num_conditions`, or leave samples out with `mask`."
            )
        return labels.reshape(1, -1)

    def _impossible(self, states: dict[str, Any]) -> list[str]:
        if problems := MutualInformationMetric._impossible(self, states):
            return problems
        table, counters = states["table"], states["counters"]
        kept = counters[SEEN] - counters[IGNORED]
        if self._bins is None:
            return conditions_problems(table, kept)
        if bool((table >= 0).all() & (table.sum() == kept).all()):
            return []
        return [
            "impossible values in table: expected counts that are not negative and sum to the "
            f"{kept.tolist()} samples of the counters, but they sum to {int(table.sum())}. The "
            "checkpoint was changed or damaged"
        ]


def _padded(edges: list[Tensor]) -> Tensor:
    """Return edges of different numbers as rows; bins that some do not have have no width."""
    most = max(map(len, edges))
    return torch.stack([torch.cat([e, e[-1:].expand(most - len(e))]) for e in edges])


def labels_of(metric: MutualInformationMetric, z: Any, x: Tensor) -> Tensor:
    """Return class labels as int64 of the shape of x; refuse others."""
    labels = check_labels("z", z)
    metric._check_device(labels)
    if labels.shape != x.shape:
        raise ValueError(
            f"Expected `z` of the shape of `x` {tuple(x.shape)}, one label for each sample, but "
            f"got {tuple(labels.shape)}. Use z.expand_as(x) where one label stands for several "
            "samples."
        )
    return labels
