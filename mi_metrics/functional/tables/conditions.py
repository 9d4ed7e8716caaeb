r"""Joint tables of x and y for each value of a third variable: what is known of x and y under K
conditions.

Measures of single tables become those of :math:`(K, B_x, B_y)` by the shares of the samples,

.. math:: I(X; Y | Z) = \sum_k \frac{N_k}{N} I_k,

and so do biases, and the shares of samples that are alone in their cell. A condition without
samples has a share of 0. The bins of x and y are the same under all conditions; those that are
chosen for each have :mod:`mi_metrics.functional.tables.classes`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mi_metrics.functional.information import entropy, information
from mi_metrics.functional.options import check_cells
from mi_metrics.functional.tables.axis import Axis
from mi_metrics.functional.tables.bspline import soft_counts
from mi_metrics.functional.tables.pairs import Cells, Samples, Uniform
from mi_metrics.functional.tables.sampling import undersampled_message


def averaged(measure: Callable[[Tensor], Tensor], tables: Tensor) -> Tensor:
    """Return a measure of tables ``(R, B_x, B_y)``, or its mean over the samples of all conditions
    of tables ``(R, K, B_x, B_y)``, float64 ``(R,)``.
    """
    if tables.ndim == 3:
        return measure(tables)
    size = tables.sum((2, 3), dtype=torch.float64)
    total = size.sum(1, keepdim=True)
    # An empty table is read as a full one: its value is NaN, whose gradient would be that of all.
    held = torch.where((size > 0)[..., None, None], tables, 1)
    values = measure(held.flatten(0, 1)).view(tables.shape[:2])
    # One condition has a share of exactly 1; no samples at all have none: NaN.
    return (values * (size / total)).sum(1)


def margin_entropy(tables: Tensor, side: int) -> Tensor:
    """Return the entropy of a variable, 0 or 1, under all conditions of tables ``(R, K, B_x,
    B_y)`` as :func:`averaged` has it, or of tables ``(R, B_x, B_y)``, in nats, ``(R,)``.
    """
    return averaged(lambda table: entropy(table.sum(2 - side)), tables)


def conditional_information(tables: Tensor, correction: str, *, soft: bool = False) -> Tensor:
    """Return the conditional information of tables ``(R, K, B_x, B_y)`` in nats, ``(R,)``; each
    condition is corrected for its own number of samples.
    """
    return averaged(lambda t: information(t, bias_correction=correction, soft=soft), tables)


def undersampled_conditions(
    tables: Tensor, correction: str, *, automatic: bool = False
) -> str | None:
    """Return a message if a value of hard tables ``(R, K, B_x, B_y)`` says more about N than about
    the data.
    """
    table = tables.detach().cpu().double()
    return undersampled_message(table, correction, averaged, automatic=automatic)


def soft_conditional_counts(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    conditions: int,
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    kernel: str,
) -> Tensor:
    """Return the tables ``(R, K, B_x, B_y)`` of a soft kernel, differentiable as
    :func:`soft_counts` is.
    """
    tables = [soft_counts(x, y, axes, bins, kernel, labels == k) for k in range(conditions)]
    return torch.stack(tables, 1)


class LabelledSamples(Samples):
    """Pairs of samples ``(R, n)`` under conditions ``(R, n)``, numbers below K: their tables are
    ``(R, K, B_x, B_y)``.

    Bins share the samples of a condition, so the number of samples that counts is that of the
    condition in which a sample finds itself, on average.
    """

    def __init__(
        self, x: Tensor, y: Tensor, uniform: Uniform, labels: Tensor, conditions: int
    ) -> None:
        super().__init__(x, y, None, None, uniform, _not_weighted)
        self.labels, self.conditions = labels, conditions
        size = torch.zeros(len(x), conditions, dtype=torch.int64, device=x.device)
        size.scatter_add_(1, labels, torch.ones_like(labels))
        self.size = typical_size(size)

    def count(self, axes: tuple[Axis, Axis], shape: tuple[int, int]) -> Tensor:
        """See :class:`Pairs`."""
        rows, cells = len(self.size), self.conditions * shape[0] * shape[1]
        check_cells(
            f"{rows} x {self.conditions} conditions of {shape[0]} x {shape[1]} bins", rows * cells
        )
        x, y = (axis.cell(v).long() for axis, v in zip(axes, self.values, strict=True))
        code = (self.labels * shape[0] + x).mul_(shape[1]).add_(y)
        code += cells * torch.arange(rows, device=code.device).unsqueeze(1)
        counts = torch.bincount(code.flatten(), minlength=rows * cells)
        return counts.view(rows, self.conditions, *shape)

    def take(self, rows: Tensor) -> "LabelledSamples":
        """See :class:`Pairs`."""
        if len(rows) == len(self.size):
            return self
        x, y = (v[rows] for v in self.values)
        taken = LabelledSamples(x, y, self._uniform, self.labels[rows], self.conditions)
        taken._margins = {side: margin.take(rows) for side, margin in self._margins.items()}
        return taken


class LabelledCells(Cells):
    """Pairs that are known by the cells of a grid under conditions: joint counts ``(R, K, m_x,
    m_y)``.
    """

    def __init__(
        self,
        values: tuple[Tensor, Tensor],
        joint: Tensor,
        points: tuple[bool, bool],
        wide: tuple[Tensor, Tensor],
        uniform: Uniform,
        effective: Tensor | None = None,
        *,
        valued: bool = True,
    ) -> None:
        super().__init__(values, joint.sum(1), points, wide, uniform, valued=valued)
        self.by_condition = joint
        self.size = typical_size(joint.sum((2, 3)))

    def count(self, axes: tuple[Axis, Axis], shape: tuple[int, int]) -> Tensor:
        """See :class:`Pairs`."""
        joint = self.by_condition
        rows, columns = (a.cell(v).long() for a, v in zip(axes, self.values, strict=True))
        code = (rows.unsqueeze(2) * shape[1] + columns.unsqueeze(1)).unsqueeze(1).expand_as(joint)
        tables = joint.new_zeros(*joint.shape[:2], shape[0] * shape[1])
        tables.scatter_add_(2, code.flatten(2), joint.flatten(2))
        return tables.view(*joint.shape[:2], *shape)

    def take(self, rows: Tensor) -> "LabelledCells":
        """See :class:`Pairs`."""
        if len(rows) == len(self.size):
            return self
        x, y = (v[rows] for v in self.values)
        wide = self._wide[0][rows], self._wide[1][rows]
        return LabelledCells(
            (x, y), self.by_condition[rows], self.points, wide, self._uniform, valued=self.valued
        )

    def having(self, values: tuple[Tensor, Tensor]) -> "LabelledCells":
        """Return the same counts with other values of the cells."""
        return LabelledCells(
            values, self.by_condition, self.points, self._wide, self._uniform, valued=self.valued
        )


def typical_size(size: Tensor) -> Tensor:
    """Return the mean over all samples of the number in their condition, from the numbers ``(R,
    K)``; float64 ``(R,)``.
    """
    size = size.double()
    # The share of a single condition is 1, and the mean is its number to the bit.
    return (size * (size / size.sum(1, keepdim=True).clamp_min(1))).sum(1)


def _not_weighted(*_: object) -> Tensor:
    raise NotImplementedError
