r"""The information of soft tables and its normalised forms, with their derivatives by the cells.

A table and its margins' cells become, by two products with matrices of zeros and ones, one table
:math:`p` with a row and a column more, in which the marginals stand. With
:math:`h_{ab} = -p_{ab} \log p_{ab}` each entropy is a sum over a part of it, and of a form
:math:`V = f / g`, f and g sums of entropies, the derivative is

.. math::
    \frac{\partial V}{\partial p_{ab}} = - \frac{f_{ab} - V g_{ab}}{g} \log p_{ab} + c,

with :math:`f_{ab}` and :math:`g_{ab}` the cell's numbers in these sums. What it is constant by adds
nothing, because a sample's weights add up to 1 wherever it lies.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.information import ROUNDING, independent
from mi_metrics.functional.tables.splines import margin
from mi_metrics.functional.tensors import kept_by_device

# A mass so small that it changes no sum, and its square is no subnormal number.
TINY = 1e-150
# Numerator and denominator as sums of Hx, Hy and Hxy.
SUMS = {
    "none": ((1, 1, -1), (0, 0, 0)),
    "arithmetic": ((2, 2, -2), (1, 1, 0)),
    "geometric": ((1, 1, -1), (0, 0, 0)),
    "min": ((1, 1, -1), (0, 0, 0)),
    "max": ((1, 1, -1), (0, 0, 0)),
    "joint": ((1, 1, -1), (0, 0, 1)),
    "studholme": ((1, 1, 0), (0, 0, 1)),
}


class Form(NamedTuple):
    """A measure of tables with kernels' margins."""

    bins: tuple[int, int]
    kernel: str
    normalization: str
    # What the value is multiplied by: the sign, and the unit.
    factor: float


class Constants(NamedTuple):
    """What a form needs of a device: matrices that add cells up, the least mass, and the numbers of
    each cell in Hx, Hy and Hxy ``(3, cells)``, of those in numerator and denominator, and of cells
    in the numerator ``(1, cells)``.
    """

    fold_x: Tensor
    fold_y: Tensor
    tiny: Tensor
    entropies: Tensor
    sums: Tensor
    numerator: Tensor


def measure(
    table: Tensor, flat: Tensor, empty: Tensor | None, form: Form, scale: float, differentiate: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the values ``(R,)`` of tables ``(R, cells_x, cells_y)`` with margins, times the form's
    factor, and where wanted their derivatives by all cells.

    Args:
        table: Tables whose mass, times ``scale``, is 1.
        flat: Which tables have a constant, or no sample, ``(R, 1)``: those are independent.
        empty: Which tables have no sample, ``(R, 1)``: their value is 0. None: none has.
        form: What is measured.
        scale: The inverse of the tables' mass.
        differentiate: Whether derivatives are wanted.
    """
    c, rows = constants(form, table.device), len(table)
    fold_x, fold_y = c.fold_x.expand(rows, -1, -1), c.fold_y.expand(rows, -1, -1)
    p = torch.baddbmm(c.tiny, torch.bmm(fold_x, table), fold_y.mT, alpha=scale)
    shape, p = p.shape, p.flatten(1)
    log = p.log()
    if form.kernel == "linear":
        # A cubic kernel spreads whatever lies in the range; a linear one may fill a single row.
        least = ((p * log) @ c.entropies.mT).amin(1, keepdim=True)
        flat = flat | (least < ROUNDING)
        # Its slope pushes mass in empty cells, too; as autograd has it, 0 log 0 has the slope 0.
        log = log.masked_fill(p < 2 * TINY, -1)
    if form.normalization == "none":
        slope = (log * c.numerator).masked_fill_(flat, 0)
        value = (p * slope).sum(1)
    else:
        h = (p * log) @ c.entropies.mT
        found, rates, _ = quotient(h, form.normalization, c.sums)
        slope = (rates @ c.entropies).mul_(log)
        alone = form.factor * independent(form.normalization)
        value = found.masked_fill(flat, alone)
        if empty is not None and alone:
            value = value.masked_fill(empty, 0)
        value = value.squeeze(1)
        slope = slope.masked_fill_(flat, 0) if differentiate else slope
    if not differentiate:
        return value, None
    inner = torch.bmm(fold_x.mT, slope.view(shape))
    return value, torch.baddbmm(inner[:, :, :1], inner, fold_y, beta=0, alpha=scale)


def quotient(h: Tensor, name: str, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values of a normalised form ``(R, 1)`` of Hx, Hy and Hxy ``(R, 3)``, their
    derivatives by these, and the denominators ``(R, 1)``.

    ``sums`` are those of :func:`sums_of`.
    """
    if name in ("arithmetic", "joint", "studholme"):
        numerator, denominator = (h @ sums.mT).tensor_split(2, 1)
        parts = sums[1:]
    else:
        numerator, own = h @ sums[:1].mT, h[:, :2]
        if name == "geometric":
            denominator = own.prod(1, keepdim=True).sqrt()
            share = denominator / (2 * own)
        else:
            denominator = (own.amin if name == "min" else own.amax)(1, keepdim=True)
            share = (own == denominator).double()
            share = share / share.sum(1, keepdim=True)
        parts = torch.nn.functional.pad(share, (0, 1))
    value = numerator / denominator
    rates = torch.addcmul(sums[:1], value, parts, value=-1) / denominator
    return value, rates, denominator


@kept_by_device
def sums_of(name: str, factor: float, device: torch.device) -> Tensor:
    """Return a form's numerator, times a factor, and its denominator as sums of Hx, Hy and Hxy,
    ``(2, 3)``.
    """
    numerator, denominator = SUMS[name]
    filled = [
        torch.full((1,), v, dtype=torch.float64, device=device)
        for v in (*(factor * v for v in numerator), *denominator)
    ]
    return torch.cat(filled).view(2, 3)


@kept_by_device
def constants(form: Form, device: torch.device) -> Constants:
    """Return the constants of a form."""
    fold_x, fold_y = (_fold(bins, form.kernel, device) for bins in form.bins)
    bx, by = form.bins
    joint = torch.zeros(bx + 1, by + 1, dtype=torch.float64, device=device)
    joint[:bx, :by].fill_(1)
    of_x, of_y = torch.zeros_like(joint), torch.zeros_like(joint)
    of_x[:bx, by].fill_(1)
    of_y[bx, :by].fill_(1)
    entropies = -torch.stack([of_x, of_y, joint]).flatten(1)
    sums = sums_of(form.normalization, form.factor, device)
    tiny = torch.full((1, 1, 1), TINY, dtype=torch.float64, device=device)
    return Constants(fold_x, fold_y, tiny, entropies, sums, sums[:1] @ entropies)


def _fold(bins: int, kernel: str, device: torch.device) -> Tensor:
    """Return the matrix ``(1, bins + 1, cells)`` of zeros and ones that adds the margin's cells to
    those at the ends, and in its last row all cells.
    """
    beyond = margin(kernel) // 2
    cell = torch.arange(-beyond, bins + beyond, dtype=torch.float64, device=device)
    matrix = torch.ones(bins + 1, len(cell), dtype=torch.float64, device=device)
    rows = torch.arange(bins, dtype=torch.float64, device=device).unsqueeze(1)
    matrix[:bins].copy_(cell.clamp(0, bins - 1) == rows)
    return matrix.unsqueeze(0)
