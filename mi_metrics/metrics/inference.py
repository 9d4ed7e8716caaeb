"""What a table of counts says beside the value of a metric: error bar, interval, p-value.

A metric whose state is a table of whole counts answers all three by one method: the tables of its
value, ``(C, K, B_x, B_y)`` for C outputs and K classes of a third variable (K = 1 without one).
"""

import torch
from torch import Tensor

from mi_metrics.functional.cautions import caution
from mi_metrics.functional.options import PValueMethod, Unit, hints_keywords
from mi_metrics.functional.stratified import (
    stratified_interval,
    stratified_p_value,
    stratified_standard_error,
)
from mi_metrics.functional.tables.independence import follows_law
from mi_metrics.metrics.base import MutualInformationMetric

TOO_FEW_FOR_LAW = (
    "G follows its law where five samples or more are expected in every cell of the table, and "
    "some have fewer here, so the p-value may be far off, either way. Take the method "
    '"permutation", or fewer bins.'
)


class PValueMetric(MutualInformationMetric):
    """A metric with a p-value: a test of independence on its table of counts.

    A subclass gives :meth:`_tables_to_test`. With one table per class of a third variable the test
    is that of independence within the classes.
    """

    def _tables_to_test(self, *, law: bool) -> Tensor:
        """Return whole counts ``(C, K, B_x, B_y)`` of C outputs and K classes, in bins that know
        nothing of the dependence; ``law``: such as suit the law of G.
        """
        raise NotImplementedError

    def _check_whole_counts(self, method: str) -> None:
        """Refuse a method where counts are shares of samples, as soft kernels make them."""

    @hints_keywords
    def p_value(
        self,
        *,
        method: PValueMethod = "permutation",
        num_permutations: int = 999,
        seed: int = 0,
    ) -> Tensor:
        """Return the p-value of a test of independence, float64 of the shape of ``compute()``.

        That of :func:`mi_metrics.functional.independence_p_value`, on a table whose bins know
        nothing of the dependence. So it holds for automatic bins too, where a test of ``counts()``
        does not: here numbers have :math:`(0.4 N)^{1/3}` bins of equal frequency, at least 3, and
        few-valued variables a bin for each value where the table then has two samples per cell, or
        no more cells than bins would give it. ``method="g"`` takes fewer bins, down to 3, where
        that is what it takes to expect 5 samples in every cell. Where that is not enough, as under
        conditions, p may be far off, and the caution ``"undersampled"`` says so. Given
        numbers of bins stay.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for that of all, which is
        the same on each of them. Samples that depend on each other (pixels, time series) make p too
        small. NaN without samples.

        Args:
            method: ``"permutation"`` or ``"g"``.
            num_permutations: Random tables of the same margins, from 1 to 10**8; of no effect on
                ``"g"``.
            seed: Seed of the random tables.

        Raises:
            TypeError: If an option has the wrong type.
            ValueError: If an option is unknown or out of its range, counts are not whole, or there
                are more than 2**31 samples for permutations.
        """
        self._check_has_values()
        self._check_whole_counts("p_value")
        tables = self._tables_to_test(law=method == "g")
        if method == "g" and not follows_law(tables):
            caution("undersampled", TOO_FEW_FOR_LAW)
        return self._squeeze(
            stratified_p_value(tables, method=method, num_permutations=num_permutations, seed=seed)
        )

    def _squeeze(self, value: Tensor) -> Tensor:
        return value.squeeze(0) if self.num_outputs == 1 else value


class IntervalMetric(PValueMetric):
    """A metric whose value is the information of a table of whole counts, with what the table says
    of that value.

    A subclass gives :meth:`_tables_of_value` and, where the bins of the value were chosen after a
    look at the dependence, :meth:`_tables_to_test`.
    """

    unit: Unit

    def _tables_of_value(self) -> Tensor:
        """Return whole counts ``(C, K, B_x, B_y)`` of C outputs and K classes: those whose
        information ``compute`` returns.
        """
        raise NotImplementedError

    def _tables_to_test(self, *, law: bool) -> Tensor:
        return self._tables_of_value()

    def standard_error(self) -> Tensor:
        """Return the standard error of the value, in the metric's unit, float64 of the shape of
        ``compute()``.

        That of :func:`mi_metrics.functional.standard_error`: it covers the sampling of N
        independent samples, not what bins hide, nor that neighbouring pixels or times repeat each
        other. Near independence, and with few samples per cell, the scatter is not that of a
        normal law: there :meth:`interval` and :meth:`p_value` hold. It is that of the information
        itself, whatever ``normalization``.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for that of all. NaN
        without samples.

        Raises:
            ValueError: If counts are not whole.
        """
        self._check_has_values()
        self._check_whole_counts("standard_error")
        return self._squeeze(stratified_standard_error(self._tables_of_value(), unit=self.unit))

    @hints_keywords
    def interval(self, level: float = 0.95, *, num_resamples: int = 999, seed: int = 0) -> Tensor:
        """Return a confidence interval in the metric's unit: lower and upper end in a last
        dimension of 2, float64.

        That of :func:`mi_metrics.functional.confidence_interval`. It covers the sampling error of
        the *binned* variables' information for N independent samples, from two samples per cell
        on. It does not cover what bins hide of continuous variables, nor that neighbouring pixels
        or times repeat each other, which makes it too narrow. It is the interval of the information
        itself, whatever ``normalization``. The value may lie outside: that is the bias that its
        correction has left, on tables of few samples per cell.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for that of all, which is
        the same on each of them. NaN without samples.

        Args:
            level: The share of intervals that hold the truth, in (0, 1).
            num_resamples: Random tables per quantile, from 2 / (1 - level) to 10**8.
            seed: Seed of the random tables.

        Raises:
            TypeError: If an option has the wrong type.
            ValueError: If an option is out of its range, counts are not whole, or there are more
                than 2**31 samples.
        """
        self._check_has_values()
        self._check_whole_counts("interval")
        tables = self._tables_of_value()
        return self._squeeze(
            stratified_interval(
                tables, level, num_resamples=num_resamples, seed=seed, unit=self.unit
            )
        )


def stacked(tables: list[Tensor]) -> Tensor:
    """Stack tables ``(K, B_x, B_y)``; automatic bins differ between outputs, and the smaller tables
    are padded.
    """
    bx, by = (max(table.shape[i] for table in tables) for i in (1, 2))
    return torch.stack(
        [
            torch.nn.functional.pad(table, (0, by - table.shape[2], 0, bx - table.shape[1]))
            for table in tables
        ]
    )
