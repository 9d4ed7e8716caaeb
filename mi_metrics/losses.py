r"""Mutual information as a loss: to train with, where the metrics are to evaluate with.

A loss is minus (a penalty: plus) the value of the function that it names, with a gradient with
respect to both inputs:

- :class:`MutualInformationLoss`: minus :func:`mi_metrics.functional.binned_mutual_information` with
  a soft kernel. Registration, representation learning, whatever shall share information.
- :class:`MutualInformationPenalty`: plus the same. What shall share none.
- :class:`KDEMutualInformationLoss`: minus :func:`mi_metrics.functional.kde_mutual_information`, to
  a stated tolerance.
- :class:`GaussianMutualInformationLoss` and :class:`GaussianMutualInformationPenalty`: minus and
  plus :func:`mi_metrics.functional.gaussian_mutual_information`, for whole vectors
  (:mod:`mi_metrics.gaussian_losses`).

There is no loss of the nearest-neighbour estimate: it is ψ of *counts* of neighbours, and counts do
not change when a sample moves a little. Its gradient is 0 wherever it exists.

**What is minimised.** ``pool="image"`` has a table for each image and channel, and the loss is
their mean: the pixels of one image are the samples. ``pool="batch"`` has one table per channel for
the whole batch: the pairs of the batch are the samples. Choose by what the statement is about, not
by speed.

**Several processes.** Under DDP every process computes its own loss, and the gradients are
averaged. With ``pool="image"`` this is the mean over all images, as in one process. With
``pool="batch"`` it is *the mean of the estimates of the processes' parts*, another quantity than
the estimate on the whole batch: with W processes its bias is W times as large, and dependence
between the parts is not seen. ``gather=True`` sums the tables over the processes, so that loss and
parameter gradients (after DDP's averaging) are those of one process with the whole batch. It costs
one all-reduce of the table forward, one backward, and with an unknown range one of the range
(kernel densities: four more of a few numbers). Every process must call the loss, and run backward,
equally often; the sizes of their batches may differ.

**No hidden checks.** A loss looks at shapes, dtypes and devices, never at values: torch.compile
traces it as one graph, and a GPU is not waited for. A NaN or infinite pixel, a negative weight, or
a mask that leaves nothing makes the loss of its own table NaN (and so the reduced loss, for
GradScaler or a check to find) and leaves the other tables alone.

**Gradients are finite** for all finite input: what is larger than any number of its dtype is the
largest one. Only in half precision it is infinite, as in all of PyTorch: it is how GradScaler
learns that its scale is too large.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mi_metrics.functional.densities.differentiable import soft_kde_information
from mi_metrics.functional.densities.gaussian import check_kde_options
from mi_metrics.functional.information import check_options, information
from mi_metrics.functional.options import (
    POOLS,
    REDUCTIONS,
    Bandwidth,
    Normalization,
    Pool,
    Reduction,
    SoftKernel,
    Unit,
    ValueRange,
    check_choice,
    check_flag,
    hints_keywords,
)
from mi_metrics.functional.ranks import ALONE, OVER_RANKS, Reduce
from mi_metrics.functional.tables.axis import (
    Axis,
    check_binning,
    fixed_axis,
    parse_value_range,
    scaled_axis,
)
from mi_metrics.functional.tables.bspline import soft_counts
from mi_metrics.functional.tensors import cast, check_same_device, check_tensor, shapes_differ
from mi_metrics.gaussian_losses import (
    GaussianMutualInformationLoss as GaussianMutualInformationLoss,
)
from mi_metrics.gaussian_losses import (
    GaussianMutualInformationPenalty as GaussianMutualInformationPenalty,
)


class _Rows(NamedTuple):
    """Samples ``(R, n)`` of R tables.

    ``kept`` tells which samples the weights leave, or None; of the others x and y are 0. ``spoilt``
    ``(R, 1)`` is NaN for tables with a sample that is not finite, else 0.
    """

    x: Tensor
    y: Tensor
    weights: Tensor | None
    kept: Tensor | None
    spoilt: Tensor


class _Loss(nn.Module):
    """What the losses have in common: shapes, weights, ranks and the reduction."""

    sign: ClassVar[int] = -1

    def __init__(
        self,
        value_range: Any,
        normalization: str,
        unit: str,
        pool: str,
        reduction: str,
        gather: bool,
    ):
        super().__init__()
        check_options(normalization, "none", unit)
        check_choice("pool", pool, POOLS)
        check_choice("reduction", reduction, REDUCTIONS)
        check_flag("gather", gather)
        if gather and pool == "image":
            raise ValueError(
                '`gather=True` sums tables over processes and needs pool="batch", but got '
                'pool="image", whose tables '
                "belong to single images. Under DDP these losses are averaged as they are; remove "
                "`gather`."
            )
        self.value_range = parse_value_range(value_range)
        self.normalization, self.unit = normalization, unit
        self.pool, self.reduction, self.gather = pool, reduction, gather

    def forward(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss of a batch of pairs.

        Args:
            x: Floating-point samples: ``(B, C, *)`` with ``pool="image"``, at least two per image
                and channel; ``(N,)`` or ``(N, C, *)`` with ``pool="batch"``.
            y: Samples paired with ``x`` by position, of the same shape; with ``pool="batch"`` also
                with one channel, which is paired with each of x's.
            weights: Weights ≥ 0 (or a boolean mask) that broadcast to x's shape. 0 excludes a
                sample, from the range too and even if it is NaN.

        Returns:
            With ``reduction="none"`` ``(B, C)`` or ``(C,)``, else a scalar; in the inputs' dtype,
            at least float32.

        Raises:
            TypeError: If x or y is not a floating-point tensor, or weights is not a real one.
            ValueError: If shapes or devices do not fit, or a table has fewer than two samples.
        """
        self._check(x, y, weights)
        value = self._information(self._rows(x, y, weights))
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        loss = (self.sign * value).to(device=x.device, dtype=dtype)
        if self.pool == "image":
            loss = loss.reshape(x.shape[:2])
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()

    def extra_repr(self) -> str:
        """Return the options for ``print``."""
        names = [n for n in self.__dict__ if not n.startswith("_") and n != "training"]
        return ", ".join(f"{n}={getattr(self, n)!r}" for n in names)

    def _information(self, rows: _Rows) -> Tensor:
        raise NotImplementedError

    def _check(self, x: Any, y: Any, weights: Any) -> None:
        for name, v in (("x", x), ("y", y)):
            if not check_tensor(name, v).is_floating_point():
                raise TypeError(
                    f"Expected `{name}` to be a floating-point tensor, but got {v.dtype}. "
                    f"Convert it first, for example with {name}.float()."
                )
        y_shape = y.shape
        if self.pool == "batch" and 2 <= y.ndim == x.ndim and y.shape[1] == 1:
            y_shape = y_shape[:1] + x.shape[1:2] + y_shape[2:]
        if x.shape != y_shape:
            raise shapes_differ(
                x,
                y,
                "Samples are paired by position; resample, reshape or expand one of them first.",
            )
        if x.ndim < (3 if self.pool == "image" else 1):
            expected = "(B, C, ...)" if self.pool == "image" else "(N,) or (N, C, ...)"
            raise ValueError(
                f'Expected `x` and `y` of shape {expected} with pool="{self.pool}", but got '
                f"{tuple(x.shape)}. "
                'Add dimensions with unsqueeze, or use pool="batch" for vectors.'
            )
        samples = x.shape[2:].numel() * (1 if self.pool == "image" else x.shape[0])
        least = 1 if self._world_size() > 1 else 2
        if samples < least or x.numel() == 0:
            raise ValueError(
                f"Expected at least {least} samples per table, but x of shape {tuple(x.shape)} "
                f'with pool="{self.pool}" '
                f"has {samples}. "
                + (
                    'Use pool="batch".'
                    if self.pool == "image"
                    else "Use larger batches, or skip this one."
                )
            )
        tensors = {"y": y}
        if weights is not None:
            tensors["weights"] = check_tensor("weights", weights)
            if not _broadcasts(weights.shape, x.shape):
                raise ValueError(
                    f"Expected `weights` to broadcast to the shape {tuple(x.shape)} of the "
                    f"samples, but got {tuple(weights.shape)}. Give every sample its weight, or a "
                    "mask of shape (B, 1, ...)."
                )
        check_same_device({"x": x, **tensors})

    def _rows(self, x: Tensor, y: Tensor, weights: Tensor | None) -> _Rows:
        if weights is not None:
            weights = self._tables(weights.detach().expand(x.shape))
        x, y = self._tables(x), self._tables(y)
        y = y.expand_as(x)
        if weights is None:
            return _Rows(x, y, None, None, _spoilt(x) + _spoilt(y))
        if weights.dtype in (torch.uint16, torch.uint32, torch.uint64):
            weights = weights.double()  # PyTorch can't compare them
        kept = weights > 0
        # Not a product with the mask: that would move what is masked to 0, and NaN would stay.
        x, y = torch.where(kept, x, 0), torch.where(kept, y, 0)
        spoilt = _spoilt(x) + _spoilt(y)
        if weights.is_floating_point() or weights.dtype.is_signed:
            spoilt = spoilt + torch.where((weights >= 0).all(1, keepdim=True), 0, torch.nan)
        return _Rows(x, y, weights, kept, spoilt)

    def _tables(self, v: Tensor) -> Tensor:
        """Return samples as ``(R, n)``, one row per table."""
        if self.pool == "image":
            return v.reshape(v.shape[0] * v.shape[1], -1)
        return v.reshape(1, -1) if v.ndim == 1 else v.movedim(1, 0).reshape(v.shape[1], -1)

    def _world_size(self) -> int:
        if not (self.gather and dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size()

    def _reduce(self) -> Reduce:
        return ALONE if self._world_size() == 1 else OVER_RANKS


class MutualInformationLoss(_Loss):
    r"""Compute minus the mutual information of paired samples, in nats or bits, to be minimised.

    .. math::
        L = -I(x, y) = -\sum_{ab} p_{ab} \log \frac{p_{ab}}{p_a \, p_b}

    with p the joint table of B-spline kernels. The value, to 1e-10 in float64, is minus that of
    :func:`mi_metrics.functional.binned_mutual_information` with ``bias_correction="none"``, table
    by table.

    Conventions:
        Sign and range: -min(log B_x, log B_y) … 0, so it is negative and falls as images align; the
        normalised forms are negated likewise. Two different images of the same content may have
        more of it than two equal ones of less content: compare values of the same pair only.
        Range: ``None`` takes each table's own minimum and maximum, in every call; give it where
        values are bounded, so that outliers cannot shift the bins from one step to the next.
        Samples outside a given range count in the edge bins, with gradient 0.
        Ties: no special rule. Constant input: 0, with gradient 0 (with a given range to rounding,
        about 1e-16).
        Bias: as :func:`mi_metrics.functional.binned_mutual_information`; about the same for every
        pair of one size, so it hardly moves the minimum. Few samples per table (``pool="batch"`` on
        small batches): use fewer bins.
        Gradient: with respect to x and y. Exact wherever the kernel is differentiable: cubic
        everywhere inside the range, linear everywhere but at the bins' centres; finite in any case.
        Ranges and weights are constants to it. Double backward in eager mode. All arithmetic is in
        float64 whatever the input, so autocast and TF32 do not touch it, and float32 inputs lose
        nothing but the rounding of the result and of the gradient.
        Memory: the table and a bounded chunk beside the inputs, which are kept for backward, and
        their gradients; a copy of inputs whose layout does not allow ``(R, n)`` without one, and of
        masked inputs.
        Exact under splits and ranks: with ``pool="image"`` always; with ``pool="batch"`` under
        ``gather=True``. See :mod:`mi_metrics.losses` for what DDP computes without it.

    Args:
        num_bins: Bins of both axes, or ``(B_x, B_y)``.
        value_range: ``None``, ``(lo, hi)`` for both axes, or ``((x_lo, x_hi), (y_lo, y_hi))``.
        kernel: ``"cubic"`` (16 cells per sample, smooth gradient) or ``"linear"`` (4 cells, twice
            as fast; its gradient jumps where a sample crosses a bin's centre).
        normalization: ``"none"``, ``"arithmetic"``, ``"geometric"``, ``"min"``, ``"max"``,
            ``"joint"`` or ``"studholme"``.
        unit: ``"nats"`` or ``"bits"``.
        pool: ``"image"`` (one table per image and channel) or ``"batch"`` (one per channel).
        reduction: ``"none"``, ``"mean"`` or ``"sum"`` over the tables.
        gather: Sum the tables over all processes of the default group (needs ``pool="batch"``).
            Without a process group it changes nothing.

    Shape:
        - x, y: ``(B, C, *)`` with ``pool="image"``; ``(N,)`` or ``(N, C, *)`` with
          ``pool="batch"``, where y may have one channel that is paired with each of x's.
        - weights: broadcasts to x's shape.
        - Output: scalar; ``(B, C)`` or ``(C,)`` with ``reduction="none"``.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown, out of its range or excludes another; ``kernel="hard"``
            has no gradient.

    Example:
        >>> import torch
        >>> from mi_metrics.losses import MutualInformationLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> fixed = torch.rand(2, 1, 64, 64, generator=generator)
        >>> moving = (1 - fixed).sqrt().requires_grad_()  # another modality of the same content
        >>> loss = MutualInformationLoss(value_range=(0, 1))(moving, fixed)
        >>> loss.backward()
        >>> print(f"{loss:.4f}")
        -2.1359

    References:
        P. Thévenaz, M. Unser, "Optimization of mutual information for multiresolution image
        registration" (2000), doi:10.1109/83.887976. D. Mattes et al., "PET-CT image registration in
        the chest using free-form deformations" (2003), doi:10.1109/TMI.2003.809072.
    """

    @hints_keywords
    def __init__(
        self,
        num_bins: int | tuple[int, int] = 32,
        *,
        value_range: ValueRange = None,
        kernel: SoftKernel = "cubic",
        normalization: Normalization = "none",
        unit: Unit = "nats",
        pool: Pool = "image",
        reduction: Reduction = "mean",
        gather: bool = False,
    ) -> None:
        super().__init__(value_range, normalization, unit, pool, reduction, gather)
        name: str = kernel
        bins, _ = check_binning(num_bins, value_range, "uniform", 0.0, 0.0, name)
        if bins is None:
            raise ValueError(
                f'`num_bins="auto"` is chosen from the data, and a loss whose bins changed from '
                f"step to step would jump. Give {type(self).__name__} a number of bins, 32 for "
                "example."
            )
        if name == "hard":
            raise ValueError(
                f'Expected `kernel` of {type(self).__name__} to be "linear" or "cubic", but got '
                f'"hard", whose '
                "gradient is 0 everywhere."
            )
        self.num_bins, self.kernel = bins, name

    def _information(self, rows: _Rows) -> Tensor:
        reduce = self._reduce()
        if self.value_range is None:
            axes = _data_axes(rows, self.num_bins, reduce)
        else:
            x_range, y_range = self.value_range
            device = rows.x.device
            axes = (
                fixed_axis(x_range, self.num_bins[0], torch.float64, device),
                fixed_axis(y_range, self.num_bins[1], torch.float64, device),
            )
        table = soft_counts(rows.x, rows.y, axes, self.num_bins, self.kernel, rows.weights)
        table = reduce.sum(table + rows.spoilt.unsqueeze(2))
        return information(table, normalization=self.normalization, unit=self.unit)


class MutualInformationPenalty(MutualInformationLoss):
    r"""Compute the mutual information of paired samples, in nats or bits, to be minimised.

    Plus what :class:`MutualInformationLoss` is minus: minimising it removes information, for
    representations that shall not tell an attribute, or two parts of a code that shall not tell the
    same. Everything else is as there:

    .. math::
        L = +I(x, y)

    Conventions:
        Bias: the estimate on N independent samples is not 0, but up to (B_x - 1)(B_y - 1) / 2N.
        This is where the penalty ends, so use few bins with ``pool="batch"`` (8 on batches of some
        hundreds).
        All others: as :class:`MutualInformationLoss`.

    Args:
        num_bins: Bins of both axes, or ``(B_x, B_y)``.
        value_range: ``None``, ``(lo, hi)`` for both axes, or ``((x_lo, x_hi), (y_lo, y_hi))``.
        kernel: ``"cubic"`` or ``"linear"``.
        normalization: ``"none"``, ``"arithmetic"``, ``"geometric"``, ``"min"``, ``"max"``,
            ``"joint"`` or ``"studholme"``.
        unit: ``"nats"`` or ``"bits"``.
        pool: ``"image"`` (one table per image and channel) or ``"batch"`` (one per channel).
        reduction: ``"none"``, ``"mean"`` or ``"sum"`` over the tables.
        gather: Sum the tables over all processes (needs ``pool="batch"``).

    Shape:
        - As :class:`MutualInformationLoss`.

    Raises:
        TypeError: As :class:`MutualInformationLoss`.
        ValueError: As :class:`MutualInformationLoss`.

    Example:
        >>> import torch
        >>> from mi_metrics.losses import MutualInformationPenalty
        >>> generator = torch.Generator().manual_seed(0)
        >>> code = torch.randn(1000, 3, generator=generator, requires_grad=True)
        >>> attribute = code[:, :1].detach() + torch.randn(1000, 1, generator=generator)
        >>> penalty = MutualInformationPenalty(8, pool="batch", reduction="none")(code, attribute)
        >>> print([f"{value:.3f}" for value in penalty.tolist()])
        ['0.196', '0.004', '0.005']
    """

    sign = 1


class KDEMutualInformationLoss(_Loss):
    r"""Compute minus the mutual information of a kernel density estimate, in nats or bits, to be
    minimised.

    .. math::
        L = -\frac1N \sum_i \log \frac{\hat f(x_i, y_i)}{\hat f(x_i) \, \hat f(y_i)}

    with Gaussian kernels on a grid: a smooth estimate without bins to choose. What is computed,
    exactly: :func:`mi_metrics.functional.densities.differentiable.soft_kde_information`.

    Conventions:
        Against minus :func:`mi_metrics.functional.kde_mutual_information`: for Gaussian samples,
        \|r\| ≤ .9999 and default options within .03 nats for N = 100, .015 for 1,000, .005 for
        5,000 and .001 for 50,000, below the estimate's own sampling error. It is samples without
        neighbours that differ, so a given bandwidth that is too narrow for N differs more. A kernel
        narrower than half a grid cell (N above some millions, or far outliers) is taken at half a
        cell: raise ``grid_size``.
        Sign and range: minus an estimate that crosses 0 for independent variables; not clamped.
        Normalised forms: of the entropies of the smoothed joint and its marginals in cells of the
        grid, so they depend on ``grid_size``. Within 1e-3 of the function's with the same
        ``grid_size``, where that resolves the kernel (\|r\| ≤ .8 for 64).
        Constant input: 0 (``"studholme"``: -1) with gradient 0.
        Gradient: with respect to x and y. Ranges, bandwidths, covariance and weights are constants
        to it, so it moves samples against the kernels, never the kernels. Finite everywhere; it
        jumps where a sample crosses a line of the grid.
        Memory: the grid, a bounded chunk, and some float64 copies of the samples.
        Exact under splits and ranks: with ``pool="image"`` always; with ``pool="batch"`` under
        ``gather=True``.

    Args:
        bandwidth: ``"silverman"``, ``"scott"``, or one or two positive numbers: the kernel's
            standard deviation on each axis in data units, as in
            :func:`mi_metrics.functional.kde_mutual_information`.
        grid_size: Points of the grid along each axis, at least 4. Time and memory of the table grow
            with its square.
        value_range: ``None``, ``(lo, hi)`` or ``((x_lo, x_hi), (y_lo, y_hi))``: samples outside are
            moved to its ends, with gradient 0.
        normalization: ``"none"``, ``"arithmetic"``, ``"geometric"``, ``"min"``, ``"max"``,
            ``"joint"`` or ``"studholme"``.
        unit: ``"nats"`` or ``"bits"``.
        pool: ``"image"`` (one estimate per image and channel) or ``"batch"`` (one per channel).
        reduction: ``"none"``, ``"mean"`` or ``"sum"`` over the estimates.
        gather: Estimate from the samples of all processes (needs ``pool="batch"``).

    Shape:
        - As :class:`MutualInformationLoss`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown, out of its range or excludes another.

    Example:
        >>> import torch
        >>> from mi_metrics.losses import KDEMutualInformationLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(1000, generator=generator, requires_grad=True)
        >>> noise = torch.randn(1000, generator=generator)
        >>> y = 0.6 * x.detach() + 0.8 * noise  # truth: 0.2231 nats
        >>> loss = KDEMutualInformationLoss(pool="batch")(x, y)
        >>> loss.backward()
        >>> print(f"{loss:.2f}")
        -0.24

    References:
        Y.-I. Moon, B. Rajagopalan, U. Lall, "Estimation of mutual information using kernel density
        estimators" (1995), doi:10.1103/PhysRevE.52.2318.
    """

    @hints_keywords
    def __init__(
        self,
        *,
        bandwidth: Bandwidth = "silverman",
        grid_size: int = 64,
        value_range: ValueRange = None,
        normalization: Normalization = "none",
        unit: Unit = "nats",
        pool: Pool = "image",
        reduction: Reduction = "mean",
        gather: bool = False,
    ) -> None:
        check_kde_options(bandwidth, grid_size, value_range, normalization, unit)
        if grid_size < 4:
            raise ValueError(
                f"Expected `grid_size` to be at least 4, but got {grid_size}. The default is 64."
            )
        super().__init__(value_range, normalization, unit, pool, reduction, gather)
        # A YAML list comes as a list, and torch.compile guards tuples only.
        self.bandwidth = tuple(bandwidth) if isinstance(bandwidth, list) else bandwidth
        self.grid_size = int(grid_size)

    def _information(self, rows: _Rows) -> Tensor:
        reduce = self._reduce()
        if self.value_range is not None:
            # In float64, which has every range.
            x_range, y_range = self.value_range
            x, y = cast(rows.x, torch.float64), cast(rows.y, torch.float64)
            rows = rows._replace(x=x.clamp(*x_range), y=y.clamp(*y_range))
        axes = _data_axes(rows, (1, 1), reduce)
        value = soft_kde_information(
            rows.x,
            rows.y,
            rows.weights,
            axes,
            bandwidth=self.bandwidth,
            grid_size=self.grid_size,
            normalization=self.normalization,
            unit=self.unit,
            reduce=reduce,
        )
        # Not added: a gradient that is NaN, too, makes GradScaler skip the step.
        return value * (1 + reduce.sum(rows.spoilt).squeeze(1))


def _data_axes(rows: _Rows, bins: tuple[int, int], reduce: Reduce) -> tuple[Axis, Axis]:
    """Return the axes of each table's own range."""
    ends = []
    for v in (rows.x.detach(), rows.y.detach()):
        low = v if rows.kept is None else v.masked_fill(~rows.kept, torch.inf)
        high = v if rows.kept is None else v.masked_fill(~rows.kept, -torch.inf)
        ends += [-low.amin(1, keepdim=True).double(), high.amax(1, keepdim=True).double()]
    # One reduction for all four.
    x_lo, x_hi, y_lo, y_hi = reduce.max(torch.cat(ends, 1)).unsqueeze(2).unbind(1)
    return (
        scaled_axis(-x_lo, x_hi, torch.full_like(x_lo, bins[0]), bins[0]),
        scaled_axis(-y_lo, y_hi, torch.full_like(y_lo, bins[1]), bins[1]),
    )


def _spoilt(v: Tensor) -> Tensor:
    """Return NaN for rows ``(R, n)`` that hold NaN or infinity, and 0 for others, ``(R, 1)``."""
    v = v.detach()
    return (0 * v.amin(1, keepdim=True) + 0 * v.amax(1, keepdim=True)).double()


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    return len(shape) <= len(to) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False)
    )
