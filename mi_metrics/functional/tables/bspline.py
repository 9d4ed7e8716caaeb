r"""The soft joint table: B-spline kernels of compact support, with a backward of its own.

A sample at :math:`u = (x - lo) B / (hi - lo) - 1/2`, in units of bins from the first bin's centre,
gives the cell at integer a the weight :math:`\beta(u - a)`; what would fall outside 0 … B - 1 is
added to the edge cell. So

.. math::
    T_{ab} = \sum_i w_i \, \beta(u_i - a) \, \beta(v_i - b), \qquad
    \frac{\partial L}{\partial x_i} = w_i \frac{B_x}{hi_x - lo_x}
    \sum_{ab} \frac{\partial L}{\partial T_{ab}} \,
    \beta'(u_i - a) \, \beta(v_i - b).

Of the sums over a and b all but 4 (linear) or 16 (cubic) terms are 0, so a sample costs the same
with any number of bins. Forward and backward go through the samples in chunks and compute the
weights anew; between the two nothing is kept but the samples themselves. All arithmetic is in
float64, whatever the input: a float32 table would stop counting at 2**24 samples, and neither
autocast nor TF32 touches float64.

The two passes are operators of torch.library: to torch.compile each is one node, whatever the
number of chunks.

References:
    P. Thévenaz, M. Unser, "Optimization of mutual information for multiresolution image
    registration" (2000), doi:10.1109/83.887976. D. Mattes et al., "PET-CT image registration in the
    chest using free-form deformations" (2003), doi:10.1109/TMI.2003.809072.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.tables.axis import Axis
from mi_metrics.functional.tensors import narrow

# Samples that are in flight at once. A chunk and its temporaries stay in a core's cache; a GPU
# wants more work.
CHUNK = {"cpu": 2**17, "other": 2**20}
# Cells of an axis that a sample reaches.
SUPPORT = {"hard": 1, "linear": 2, "cubic": 4}


def chunk_size(device: torch.device) -> int:
    """Return the number of samples of a chunk."""
    return CHUNK["cpu" if device.type == "cpu" else "other"]


def chunks(rows: int, n: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Cut ``(rows, n)`` in blocks of bounded size: several short rows, or pieces of one long
    row.
    """
    return _blocks(rows, n, chunk_size(device))


def soft_counts(
    x: Tensor,
    y: Tensor,
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    kernel: str,
    weights: Tensor | None,
) -> Tensor:
    """Add up the mass of samples ``(R, N)`` in float64 tables ``(R, B_x, B_y)``.

    Differentiable with respect to x and y, twice in eager mode: the gradient is that of the kernel
    inside the range, its ends included, and 0 outside. Axes and weights are constants to it. A NaN
    sample makes its own table NaN.

    Args:
        x: Samples of any real dtype.
        y: Samples paired with ``x`` by position.
        axes: The axes of x and y, in float64 for soft kernels, with R rows or one.
        bins: Cells of the table; an axis may have rows with fewer bins.
        kernel: ``"hard"`` (no gradient), ``"linear"`` or ``"cubic"``.
        weights: Weights of any real dtype, ``(R, N)``, or None.
    """
    if kernel == "hard":
        return _add_up(x.detach(), y.detach(), weights, axes, bins, kernel)
    table: Tensor = _table_op(
        x, y, weights, _packed(axes[0]), _packed(axes[1]), bins[0], bins[1], kernel
    )
    return table


def kernel_matrix(x: Tensor, axis: Axis, bins: int, kernel: str) -> Tensor:
    """Return the mass ``(R, n, B)`` that each sample ``(R, n)`` gives to each bin."""
    first, t = _locate(x, axis, kernel)
    return _dense(first + t, bins + _margin(kernel), kernel) @ _fold(axis, bins, kernel).mT


# ---------------------------------------------------------------------------------------- operators


@torch.library.custom_op(
    "mi_metrics::soft_table",
    mutates_args=(),
    schema="(Tensor x, Tensor y, Tensor? weights, Tensor x_axis, Tensor y_axis, int x_bins, int "
    "y_bins, str kernel)"
    " -> Tensor",
)
def _table_op(
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    x_axis: Tensor,
    y_axis: Tensor,
    x_bins: int,
    y_bins: int,
    kernel: str,
) -> Tensor:
    return _add_up(x, y, weights, (_unpacked(x_axis), _unpacked(y_axis)), (x_bins, y_bins), kernel)


@_table_op.register_fake
def _(
    x: Tensor, y: Any, weights: Any, x_axis: Any, y_axis: Any, x_bins: int, y_bins: int, kernel: Any
) -> Tensor:
    return x.new_empty((x.shape[0], x_bins, y_bins), dtype=torch.float64)


@torch.library.custom_op(
    "mi_metrics::soft_table_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor y, Tensor? weights, Tensor x_axis, Tensor y_axis, str "
    "kernel,"
    " bool for_x, bool for_y) -> (Tensor, Tensor)",
)
def _backward_op(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    x_axis: Tensor,
    y_axis: Tensor,
    kernel: str,
    for_x: bool,
    for_y: bool,
) -> tuple[Tensor, Tensor]:
    return _pull_back(grad, x, y, weights, x_axis, y_axis, kernel, for_x, for_y)


@_backward_op.register_fake
def _(
    grad: Any,
    x: Tensor,
    y: Tensor,
    weights: Any,
    x_axis: Any,
    y_axis: Any,
    kernel: Any,
    for_x: bool,
    for_y: bool,
) -> tuple[Tensor, Tensor]:
    return _like(x, for_x), _like(y, for_y)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, y, weights, x_axis, y_axis, _, _, kernel = inputs
    ctx.save_for_backward(x, y, weights, x_axis, y_axis)
    ctx.kernel = kernel


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    for_x, for_y = ctx.needs_input_grad[:2]
    # With create_graph=True the same formula runs outside of the operator, where autograd sees it.
    pull = _pull_back if torch.is_grad_enabled() else _backward_op
    x, y, weights, x_axis, y_axis = ctx.saved_tensors
    grads = pull(grad, x, y, weights, x_axis, y_axis, ctx.kernel, for_x, for_y)
    return (
        grads[0] if for_x else None,
        grads[1] if for_y else None,
        None,
        None,
        None,
        None,
        None,
        None,
    )


_table_op.register_autograd(_backward, setup_context=_setup_context)


# ------------------------------------------------------------------------------------- computations


def _add_up(
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    kernel: str,
) -> Tensor:
    """Return the tables. What kernels have outside of 0 … B - 1 is collected in a margin, and
    folded in at the end.
    """
    rows, n = x.shape
    shape = bins[0] + _margin(kernel), bins[1] + _margin(kernel)
    table = torch.zeros(rows, *shape, dtype=torch.float64, device=x.device)
    # Float atomics would add in a random order, so other devices than the CPU multiply matrices.
    add = _scatter if x.device.type == "cpu" else _multiply
    for r, c in _blocks(rows, n, _soft_chunk(x.device, shape)):
        place_x = _locate(x[r, c].contiguous(), axes[0].rows(r), kernel)
        place_y = _locate(y[r, c].contiguous(), axes[1].rows(r), kernel)
        add(table[r], place_x, place_y, None if weights is None else weights[r, c].double(), kernel)
    if kernel == "hard":
        return table
    return _fold(axes[0], bins[0], kernel) @ table @ _fold(axes[1], bins[1], kernel).mT


def _scatter(
    table: Tensor,
    x: tuple[Tensor, Tensor],
    y: tuple[Tensor, Tensor],
    weights: Tensor | None,
    kernel: str,
) -> None:
    flat = table.view(-1)
    index = _flat_index(x[0], y[0], table)
    wx = [w if weights is None else w * weights for w in _weights(x[1], kernel)]
    wy = _weights(y[1], kernel)
    mass = torch.empty_like(x[1])
    for k, a in enumerate(wx):
        for l, b in enumerate(wy):
            torch.mul(a, b, out=mass)
            # The same index into a view that starts further on: no arithmetic on indices.
            flat[k * table.shape[2] + l :].scatter_add_(0, index, mass.view(-1))


def _multiply(
    table: Tensor,
    x: tuple[Tensor, Tensor],
    y: tuple[Tensor, Tensor],
    weights: Tensor | None,
    kernel: str,
) -> None:
    wx, wy = (
        _dense(x[0] + x[1], table.shape[1], kernel),
        _dense(y[0] + y[1], table.shape[2], kernel),
    )
    if weights is not None:
        wx = wx * weights.unsqueeze(-1)
    table += wx.mT @ wy


def _pull_back(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    x_axis: Tensor,
    y_axis: Tensor,
    kernel: str,
    for_x: bool,
    for_y: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of samples from that of their tables; differentiable itself."""
    axes = _unpacked(x_axis), _unpacked(y_axis)
    fold_x, fold_y = _fold(axes[0], grad.shape[1], kernel), _fold(axes[1], grad.shape[2], kernel)
    table = (fold_x.mT @ grad @ fold_y).contiguous()
    to_x, to_y = _like(x, for_x), _like(y, for_y)
    for r, c in _blocks(
        x.shape[0], x.shape[1], _soft_chunk(x.device, (SUPPORT[kernel], SUPPORT[kernel]))
    ):
        ax, ay = axes[0].rows(r), axes[1].rows(r)
        u, v = ax.position(x[r, c].contiguous()), ay.position(y[r, c].contiguous())
        (first_x, tx), (first_y, ty) = _place(u, ax), _place(v, ay)
        index, flat = _flat_index(first_x, first_y, table[r]), table[r].reshape(-1)
        wx, wy, dx, dy = (
            _weights(tx, kernel),
            _weights(ty, kernel),
            _slopes(tx, kernel),
            _slopes(ty, kernel),
        )
        along_x, along_y = [], []
        for k in range(SUPPORT[kernel]):
            cells = [
                flat[k * table.shape[2] + l :].index_select(0, index).view_as(tx)
                for l in range(SUPPORT[kernel])
            ]
            if for_x:
                along_x.append(_dot(cells, wy))
            if for_y:
                along_y.append(_dot(cells, dy))
        w = 1 if weights is None else weights[r, c].double()
        if for_x:
            to_x[r, c] = narrow(_dot(along_x, dx) * _slope_inside(u, ax, x.dtype) * w, x.dtype)
        if for_y:
            to_y[r, c] = narrow(_dot(along_y, wx) * _slope_inside(v, ay, y.dtype) * w, y.dtype)
    return to_x, to_y


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    total = a[0] * b[0]
    for v, w in zip(a[1:], b[1:], strict=True):
        total = total.addcmul_(v, w)
    return total


def _locate(x: Tensor, axis: Axis, kernel: str) -> tuple[Tensor, Tensor]:
    """Return the first cell that samples reach, counted from the margin's start, and their place 0
    … 1 after it.
    """
    if kernel == "hard":
        cell = axis.cell(x).double()
        return cell, torch.zeros_like(cell)
    return _place(axis.position(x), axis)


def _place(position: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    u = position.clamp_min(0).minimum(axis.bins) + 0.5
    first = u.detach().floor()
    # NaN is no index. It stays in the place, and so it comes to its own table.
    return first.nan_to_num(), u - first


def slope(axis: Axis, dtype: torch.dtype) -> Tensor:
    """Return dt/dx, bins per unit of x, for samples of a dtype, ``(R, 1)``."""
    bins_per_unit = axis.bins / axis.width
    if axis.scale is not None:
        bins_per_unit = bins_per_unit * axis.scale
    # In a range of 1e-38 the gradient is too large for the input's dtype, and an infinite one is of
    # no use.
    most = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).max * 2.0**-10
    return bins_per_unit.clamp_max(most)


def _slope_inside(position: Tensor, axis: Axis, dtype: torch.dtype) -> Tensor:
    # With a single bin the weights' slopes add up to 0, and this makes it an exact one.
    return slope(axis, dtype) * ((position >= 0) & (position <= axis.bins) & (axis.bins > 1))


def _weights(t: Tensor, kernel: str) -> list[Tensor]:
    """Return the B-spline's values at the cells that a sample reaches, in ascending order of the
    cells.
    """
    if kernel == "hard":
        return [torch.ones_like(t)]
    s = 1 - t
    if kernel == "linear":
        return [s, t]
    s2, t2 = s * s, t * t
    s3, t3 = s2 * s, t2 * t
    return [
        s3 * (1 / 6),
        (t3 * 0.5).sub_(t2).add_(2 / 3),
        (s3 * 0.5).sub_(s2).add_(2 / 3),
        t3 * (1 / 6),
    ]


def _slopes(t: Tensor, kernel: str) -> list[Tensor]:
    """Return the derivatives of the weights."""
    if kernel == "linear":
        one = torch.ones_like(t)
        return [-one, one]
    s = 1 - t
    s2, t2 = s * s, t * t
    return [s2 * -0.5, (1.5 * t2).sub_(t, alpha=2), (-1.5 * s2).add_(s, alpha=2), t2 * 0.5]


def _dense(v: Tensor, cells: int, kernel: str) -> Tensor:
    """Return the weights ``(r, n, cells)`` of all cells, the margin included, for first cell plus
    place ``(r, n)``.
    """
    columns = torch.arange(cells, dtype=v.dtype, device=v.device)
    if kernel == "hard":
        return (v.unsqueeze(-1) == columns).to(v.dtype)
    if kernel == "linear":
        return (1 - (v.unsqueeze(-1) - columns).abs_()).clamp_min_(0)
    distance = (v.unsqueeze(-1) - (columns - 1)).abs_()
    inner, outer = (1 - distance).clamp_min_(0), (2 - distance).clamp_min_(0)
    return (outer * outer * outer).sub_(inner * inner * inner, alpha=4).div_(6)


def _fold(axis: Axis, bins: int, kernel: str) -> Tensor:
    """Return the matrix ``(R, B, B + margin)`` of zeros and ones that adds the margin's cells to
    the edge cells.
    """
    columns = torch.arange(bins + _margin(kernel), dtype=torch.float64, device=axis.bins.device)
    target = (columns - _margin(kernel) // 2).clamp_min(0).minimum(axis.bins.double() - 1)
    return (target.unsqueeze(1) == torch.arange(bins, device=target.device).unsqueeze(1)).double()


def _margin(kernel: str) -> int:
    return 0 if kernel == "hard" else SUPPORT[kernel]


def _flat_index(first_x: Tensor, first_y: Tensor, table: Tensor) -> Tensor:
    index = first_x.long().mul_(table.shape[2]).add_(first_y.long())
    if table.shape[0] > 1:
        rows = torch.arange(table.shape[0], device=index.device).unsqueeze(1)
        index = index.add_(rows, alpha=table.shape[1] * table.shape[2])
    return index.view(-1)


def _soft_chunk(device: torch.device, shape: tuple[int, int]) -> int:
    # On the CPU the weights of both axes and their products stay in the cache, too; elsewhere two
    # matrices of (n, cells) must fit.
    size = chunk_size(device) // 2
    return max(1, size // 4 if device.type == "cpu" else 8 * size // sum(shape))


def _blocks(rows: int, n: int, size: int) -> Iterator[tuple[slice, slice]]:
    columns = max(1, min(n, size))
    block = max(1, size // columns)
    for r in range(0, rows, block):
        for c in range(0, n, columns):
            yield slice(r, r + block), slice(c, c + columns)


def _packed(axis: Axis) -> Tensor:
    """Return an axis as one tensor ``(R, 3)`` or, with a scale, ``(R, 4)``: operators take tensors
    only.
    """
    parts = [axis.lo, axis.width, axis.bins] + ([] if axis.scale is None else [axis.scale])
    rows = max(p.shape[0] for p in parts)
    return torch.cat([p.detach().double().expand(rows, 1) for p in parts], 1)


def _unpacked(axis: Tensor) -> Axis:
    return Axis(*(axis[:, i : i + 1] for i in range(axis.shape[1])))


def _like(x: Tensor, wanted: bool) -> Tensor:
    # Not empty_like: of an expanded tensor that has the strides of one that is not its own memory.
    return x.new_empty(x.shape if wanted else (0,))
