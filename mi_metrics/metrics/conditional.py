"""Conditional mutual information from a joint table for each class, as a metric."""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.conditional import check_labels
from mi_metrics.functional.inference import pointwise_mutual_information
from mi_metrics.functional.options import (
    Binning,
    NanStrategy,
    NumBins,
    TableCorrection,
    Unit,
    ValueRange,
)
from mi_metrics.functional.tables import views
from mi_metrics.functional.tables.hard import hard_counts
from mi_metrics.functional.tensors import lift
from mi_metrics.metrics.base import IGNORED, SEEN, MutualInformationMetric, keywords
from mi_metrics.metrics.bins import BinnedMetric
from mi_metrics.states import grid
from mi_metrics.states.damage import conditions_problems


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
        grid are those of all samples, shared by the classes.
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
            num_conditions=num_conditions,
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
            mask: bool of the shape of ``x``; False leaves a sample out, whatever it holds, its
                label included.

        Raises:
            TypeError: If x, y or z is not a real tensor, z holds floating-point numbers, or the
                mask is not bool.
            ValueError: If shapes or devices differ, there is no sample, a label is none of the
                classes, or with ``nan_strategy="error"`` a sample is NaN or infinite. The state is
                left as it was.
        """
        samples = self._samples(x, y, mask)
        labels = labels_of(self, z, x)
        if samples is None:
            return
        labels = self._in_range(labels if mask is None else labels[mask])
        x, y, valid, _ = samples
        if self._bins is None or self._ranges is None:
            table, outside = grid.update(self.table, x, y, valid, labels), None
        else:
            axes = self._axes(x.dtype, y.dtype)
            batch = hard_counts(
                x, y, axes, self._bins, valid, labels=labels, conditions=self.num_conditions
            )
            table, outside = self.table + batch, self._outside(x, y, valid)
        self.counters = self._count(samples, outside)
        self.table = table

    def counts(self) -> Tensor:
        """Return the counts in bins of each class, int64 ``(K, B_x, B_y)``.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for the counts of all.
        """
        return self._tables_of_value().squeeze(0)

    def joint(self) -> Tensor:
        """Return the probability table ``(K, B_x, B_y)`` of class, x and y; it sums to 1.

        NaN without samples. Of this rank alone, as :meth:`counts`.
        """
        counts = self.counts().double()
        return counts / counts.sum()

    def edges(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the edges of the bins of x and of y in data units, float64 ``(B + 1,)`` each; all
        classes share them.
        """
        return super().edges()

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
        view = self._view(0)
        bins = self._bins_of(view, torch.where(finite, a, 0), torch.where(finite, b, 0))
        tables = pointwise_mutual_information(view.counts[0], unit=self.unit)
        # Under a class without samples nothing is known, as in a cell without.
        empty = torch.isnan(tables) & (view.counts.sum() > 0)
        values = torch.where(empty, 0, tables)[labels[0], bins[0], bins[1]]
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

        joint = self.joint()
        if condition is not None:
            joint = joint[int(self._in_range(torch.tensor([condition])))].unsqueeze(0)
        table = joint.sum(0) / joint.sum()
        return plot_joint(table, *self.edges(), ax=ax)

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
