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
autocast nor TF32 touches float64. The kernel for tables of float32 and half-precision samples on a
GPU (``kernels/triton_soft.py``) has weights in float32 and sums in float64.

The two passes are operators of torch.library to torch.compile: each is one node, whatever the
number of chunks. Elsewhere they are functions of autograd, with forward mode, `torch.func` and
double backward.

What a table of coefficients S is worth at the samples,
:math:`\sum_{ab} S_{ab} \, \beta(u_i - a) \, \beta(v_i - b)`, is the derivative of
:math:`\sum_{ab} S_{ab} T_{ab}` by the weights: table and values are each other's backward.

References:
    P. Thévenaz, M. Unser, "Optimization of mutual information for multiresolution image
    registration" (2000), doi:10.1109/83.887976. D. Mattes et al., "PET-CT image registration in the
    chest using free-form deformations" (2003), doi:10.1109/TMI.2003.809072.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mi_metrics.functional.tables import splines
from mi_metrics.functional.tables.axis import Axis
from mi_metrics.functional.tables.sums import (
    add_up,
    gradients,
    joined,
    pull_back,
    push_forward,
    read,
    values,
)
from mi_metrics.functional.tensors import signed


def soft_counts(
    x: Tensor,
    y: Tensor,
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    kernel: str,
    weights: Tensor | None,
) -> Tensor:
    """Add up the mass of samples ``(R, N)`` in float64 tables ``(R, B_x, B_y)``.

    Differentiable with respect to x, y and floating-point weights, twice in eager mode, and in
    forward mode: the gradient is that of the kernel inside the range, its ends included, and 0
    outside. Axes are constants to it. A NaN sample makes its own table NaN.

    Args:
        x: Samples of any real dtype.
        y: Samples paired with ``x`` by position.
        axes: The axes of x and y, in float64 for soft kernels, with R rows or one.
        bins: Cells of the table; an axis may have rows with fewer bins.
        kernel: ``"hard"`` (no gradient), ``"linear"`` or ``"cubic"``.
        weights: Weights of any real dtype, ``(R, N)``, or None.
    """
    if kernel == "hard":
        return add_up(x.detach(), y.detach(), weights, axes, bins, kernel)
    table: Tensor = (_table_op if torch.compiler.is_compiling() else _Table.apply)(
        x, y, weights, _packed(axes[0]), _packed(axes[1]), bins[0], bins[1], kernel
    )
    return table


def soft_values(
    table: Tensor, x: Tensor, y: Tensor, axes: tuple[Axis, Axis], kernel: str
) -> Tensor:
    """Return what tables of coefficients ``(R, B_x, B_y)`` are worth at samples, float64 ``(R,
    N)``.

    Differentiable with respect to all three, as :func:`soft_counts` is.
    """
    values: Tensor = (_values_op if torch.compiler.is_compiling() else _Values.apply)(
        table, x, y, _packed(axes[0]), _packed(axes[1]), kernel
    )
    return values


def kernel_matrix(x: Tensor, axis: Axis, bins: int, kernel: str) -> Tensor:
    """Return the mass ``(R, n, B)`` that each sample ``(R, n)`` gives to each bin."""
    first, t = splines.locate(x, axis, kernel)
    matrix = splines.dense(first + t, bins + splines.margin(kernel), kernel)
    return matrix @ splines.fold(axis, bins, kernel).mT


# ------------------------------------------------------------------------- functions of autograd


@signed
class _Table(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        weights: Tensor | None,
        x_axis: Tensor,
        y_axis: Tensor,
        x_bins: int,
        y_bins: int,
        kernel: str,
    ) -> Tensor:
        axes = _unpacked(x_axis), _unpacked(y_axis)
        return add_up(x, y, weights, axes, (x_bins, y_bins), kernel)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.save_for_forward(*inputs[:5])
        ctx.bins, ctx.kernel = inputs[5:7], inputs[7]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weights, *axes = ctx.saved_tensors
        to_x, to_y = _gradients(ctx.needs_input_grad[:2], grad, x, y, weights, axes, ctx.kernel)
        to_weights = None
        if ctx.needs_input_grad[2]:
            to_weights = _Values.apply(grad, x, y, *axes, ctx.kernel).to(weights.dtype)
        return to_x, to_y, to_weights, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        with _derivatives_of_derivatives():
            x, y, weights, *packed = _primals(ctx)
            axes = _unpacked(packed[0]), _unpacked(packed[1])
            return push_forward(x, y, weights, tangents[:3], axes, ctx.bins, ctx.kernel)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        tables = _Table.apply(*_rows_of_all(info.batch_size, in_dims[:5], inputs[:5]), *inputs[5:])
        return tables.unflatten(0, (info.batch_size, -1)), 0


@signed
class _Values(torch.autograd.Function):
    @staticmethod
    def forward(
        table: Tensor, x: Tensor, y: Tensor, x_axis: Tensor, y_axis: Tensor, kernel: str
    ) -> Tensor:
        axes = _unpacked(x_axis), _unpacked(y_axis)
        return values(table, x, y, axes, kernel)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.save_for_forward(*inputs[:5])
        ctx.kernel = inputs[5]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, x, y, *axes = ctx.saved_tensors
        to_table = None
        if ctx.needs_input_grad[0]:
            # Outside of a graph the operator, which takes batches of gradients one by one.
            add = _Table.apply if torch.is_grad_enabled() else _table_op
            to_table = add(x, y, grad, *axes, *table.shape[1:], ctx.kernel)
        to_x, to_y = _gradients(ctx.needs_input_grad[1:3], table, x, y, grad, axes, ctx.kernel)
        return to_table, to_x, to_y, None, None, None

    @staticmethod
    def jvp(ctx: Any, dtable: Any, dx: Any, dy: Any, *_: Any) -> Tensor:
        with _derivatives_of_derivatives():
            table, x, y, *packed = _primals(ctx)
            axes = _unpacked(packed[0]), _unpacked(packed[1])
            rates = joined(pull_back(table, x, y, None, axes, ctx.kernel, (True, True)))
            change = torch.zeros_like(rates[0], dtype=torch.float64)
            for rate, tangent in zip(rates, (dx, dy), strict=True):
                if tangent is not None:
                    change = change + rate.double() * tangent.double()
            if dtable is not None:
                change = change + joined(read(dtable, x, y, axes, ctx.kernel))[0]
            return change

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        values = _Values.apply(*_rows_of_all(info.batch_size, in_dims[:5], inputs[:5]), *inputs[5:])
        return values.unflatten(0, (info.batch_size, -1)), 0


@signed
class _PullBack(torch.autograd.Function):
    """The gradients of x and y where nothing asks for theirs."""

    @staticmethod
    def forward(
        table: Tensor,
        x: Tensor,
        y: Tensor,
        weights: Tensor | None,
        x_axis: Tensor,
        y_axis: Tensor,
        kernel: str,
        for_x: bool,
        for_y: bool,
    ) -> tuple[Tensor, Tensor]:
        axes = _unpacked(x_axis), _unpacked(y_axis)
        to_x, to_y = gradients(table, x, y, weights, axes, kernel, (for_x, for_y))
        return _like(x, False) if to_x is None else to_x, _like(y, False) if to_y is None else to_y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(
            "The forward-mode derivative of a gradient needs the gradient's own graph, but "
            "backward ran without create_graph=True. Use torch.autograd.grad(..., "
            "create_graph=True), or torch.func.grad within torch.func.jvp."
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, tuple[int, int]]:
        grads = _PullBack.apply(
            *_rows_of_all(info.batch_size, in_dims[:6], inputs[:6]), *inputs[6:]
        )
        return tuple(
            g.unflatten(0, (info.batch_size, -1)) if wanted else g.expand(info.batch_size, 0)
            for g, wanted in zip(grads, inputs[7:], strict=True)
        ), (0, 0)


def _gradients(
    wanted: Any, table: Tensor, x: Tensor, y: Tensor, weights: Any, axes: Any, kernel: str
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and y from that of their table, or None where not wanted."""
    if not any(wanted):
        return None, None
    if torch.is_grad_enabled():
        # With create_graph=True the formula runs where autograd sees it.
        pair = (_unpacked(axes[0]), _unpacked(axes[1]))
        found = joined(pull_back(table, x, y, weights, pair, kernel, wanted))
    else:
        found = _PullBack.apply(table, x, y, weights, *axes, kernel, *wanted)
    return found[0] if wanted[0] else None, found[1] if wanted[1] else None


def _derivatives_of_derivatives() -> Any:
    """Return a context in which a forward-mode rule is followed by the levels around its own.

    Without it PyTorch takes what the rule computes for a constant: the second derivative would be
    a silent 0.
    """
    return forward_ad._set_fwd_grad_enabled(True)


def _primals(ctx: Any) -> list[Any]:
    """Return what was saved without the tangents of the rule's own level."""
    return [v if v is None else forward_ad.unpack_dual(v).primal for v in ctx.saved_tensors]


def _rows_of_all(size: int, dims: Any, tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Return batches of tables as the rows of one call: every tensor has its rows first."""
    batches = [
        v if v is None else v.expand(size, *v.shape) if d is None else v.movedim(d, 0)
        for v, d in zip(tensors, dims, strict=True)
    ]
    rows = max(v.shape[1] for v in batches if v is not None)
    return [
        v if v is None else v.expand(size, rows, *v.shape[2:]).reshape(-1, *v.shape[2:])
        for v in batches
    ]


# --------------------------------------------------------------------- operators of torch.compile


@torch.library.custom_op(
    "mi_metrics::soft_table",
    mutates_args=(),
    schema="(Tensor x, Tensor y, Tensor? weights, Tensor x_axis, Tensor y_axis, int x_bins, int "
    "y_bins, str kernel) -> Tensor",
)
def _table_op(x: Tensor, *arguments: Any) -> Tensor:
    return _Table.forward(x, *arguments)


@torch.library.custom_op(
    "mi_metrics::soft_values",
    mutates_args=(),
    schema="(Tensor table, Tensor x, Tensor y, Tensor x_axis, Tensor y_axis, str kernel) -> Tensor",
)
def _values_op(table: Tensor, *arguments: Any) -> Tensor:
    return _Values.forward(table, *arguments)


@torch.library.custom_op(
    "mi_metrics::soft_table_backward",
    mutates_args=(),
    schema="(Tensor table, Tensor x, Tensor y, Tensor? weights, Tensor x_axis, Tensor y_axis, str "
    "kernel, bool for_x, bool for_y) -> (Tensor, Tensor)",
)
def _backward_op(table: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return _PullBack.forward(table, *arguments)


@_table_op.register_fake
def _(
    x: Tensor, y: Any, weights: Any, x_axis: Any, y_axis: Any, x_bins: int, y_bins: int, kernel: Any
) -> Tensor:
    return x.new_empty((x.shape[0], x_bins, y_bins), dtype=torch.float64)


@_values_op.register_fake
def _(table: Tensor, x: Tensor, *_: Any) -> Tensor:
    return table.new_empty(x.shape)


@_backward_op.register_fake
def _(
    table: Any,
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


def _table_op_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    for_x, for_y = ctx.needs_input_grad[:2]
    x, y, weights, *axes = ctx.saved_tensors
    to_x, to_y = _backward_op(grad, x, y, weights, *axes, ctx.kernel, for_x, for_y)
    to_x, to_y = (to_x if for_x else None), (to_y if for_y else None)
    return to_x, to_y, None, None, None, None, None, None


def _values_op_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    for_x, for_y = ctx.needs_input_grad[1:3]
    table, x, y, *axes = ctx.saved_tensors
    to_table = _table_op(x, y, grad, *axes, *table.shape[1:], ctx.kernel)
    to_x, to_y = _backward_op(table, x, y, grad, *axes, ctx.kernel, for_x, for_y)
    return to_table, (to_x if for_x else None), (to_y if for_y else None), None, None, None


_table_op.register_autograd(_table_op_backward, setup_context=_Table.setup_context)
_values_op.register_autograd(_values_op_backward, setup_context=_Values.setup_context)


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
