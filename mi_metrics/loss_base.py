"""What the losses have in common: shapes, weights and masks, ranges, ranks and the reduction."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mi_metrics.functional.conditions import check_condition, numbered
from mi_metrics.functional.information import check_options
from mi_metrics.functional.options import POOLS, REDUCTIONS, Interval, check_choice, check_flag
from mi_metrics.functional.ranks import ALONE, OVER_RANKS, Reduce, extremes
from mi_metrics.functional.tables.axis import (
    Axis,
    check_binning,
    parse_value_range,
    scaled_axis,
)
from mi_metrics.functional.tables.quantiles import ordered, quantile
from mi_metrics.functional.tensors import (
    PAIRED,
    check_broadcasts,
    check_mask,
    check_same_device,
    check_tensor,
    no_sample,
    shapes_differ,
)


class Rows(NamedTuple):
    """Samples ``(R, n)`` of R tables.

    ``kept`` tells which samples weights and mask leave, or None; of the others x and y are 0.
    ``ends`` ``(R, 4)`` are minus the least and the largest x, then y, of this process, minus
    infinity where there is none. ``spoilt`` ``(R, 1)`` is NaN for tables with a sample that is not
    finite or whose label is none, else 0. ``labels`` ``(R, n)`` are numbers below ``conditions``,
    those of samples that are not kept may be any.
    """

    x: Tensor
    y: Tensor
    weights: Tensor | None
    kept: Tensor | None
    ends: Tensor
    spoilt: Tensor
    labels: Tensor | None = None
    conditions: int = 1

    def having(self, **changed: Any) -> "Rows":
        """Return these with other fields, as ``_replace`` does, which `torch.compile` of PyTorch up
        to 2.7 does not follow.
        """
        for name in changed:
            if name not in _FIELDS:
                raise TypeError(f"Rows have no field {name!r}, only {', '.join(_FIELDS)}.")
        fields: list[Any] = [
            changed.get(name, value) for name, value in zip(_FIELDS, self, strict=True)
        ]
        return Rows(*fields)


# A name of its own, which torch.compile of PyTorch up to 2.7 can look up.
_FIELDS = Rows._fields


class Loss(nn.Module):
    """What the losses have in common: shapes, weights, ranks and the reduction."""

    sign: ClassVar[int] = -1
    # How many conditions there are; None: as many as labels. A loss that takes none has no such
    # option.
    num_conditions: int | None

    def __init__(
        self,
        value_range: Any,
        clip_quantile: float,
        normalization: str,
        unit: str,
        pool: str,
        reduction: str,
        gather: bool,
    ):
        super().__init__()
        check_binning(1, value_range, "uniform", clip_quantile, 0.0, "linear")
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
        if gather and clip_quantile:
            raise ValueError(
                f"`clip_quantile={clip_quantile}` needs the quantiles of the whole batch, which "
                "are no sum over the processes that `gather=True` could take. Give a "
                "`value_range`, or remove one of the two."
            )
        self.value_range = parse_value_range(value_range)
        self.clip_quantile = float(clip_quantile)
        self.normalization, self.unit = normalization, unit
        self.pool, self.reduction, self.gather = pool, reduction, gather

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        weights: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch of pairs.

        Args:
            x: Floating-point samples: ``(B, C, *)`` with ``pool="image"``, at least two per image
                and channel; ``(N,)`` or ``(N, C, *)`` with ``pool="batch"``.
            y: Samples paired with ``x`` by position, of the same shape; with ``pool="batch"`` also
                with one channel, which is paired with each of x's.
            weights: Weights ≥ 0 (or a boolean mask) that broadcast to x's shape. 0 excludes a
                sample, from the range too and even if it is NaN.
            mask: A boolean mask that broadcasts to x's shape. False excludes a sample, as a weight
                of 0 does; with weights, both count.
            condition: Class labels, integers or bool: ``(N,)`` for each sample of the batch, or
                broadcast to x's shape. The loss is that of I(x; y | condition).

        Returns:
            With ``reduction="none"`` ``(B, C)`` or ``(C,)``, else a scalar; in the inputs' dtype,
            at least float32.

        Raises:
            TypeError: If x or y is not a floating-point tensor, weights is not a real one, mask
                not a boolean one, or condition not one of integers or bool.
            ValueError: If shapes or devices do not fit, a table has too few samples, or the loss
                takes no condition.
        """
        self._check(x, y)
        if weights is not None:
            check_broadcasts("weights", check_tensor("weights", weights), x)
        if mask is not None:
            mask = check_mask(mask, x)
        weights = self._weights(x, weights, mask)
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        labelled = condition is not None or getattr(self, "num_conditions", None) is not None
        u, v = self._pair(x, y)
        loss = None if labelled else self.direct(u, v, weights, dtype)
        if loss is None:
            rows = self.rows_of(u, v, weights)
            rows = self._under_conditions(rows, x, condition) if labelled else rows
            loss = self.signed(self.information(rows), x, dtype)
        if self.pool == "image":
            loss = loss.reshape(x.shape[:2])
        if self.reduction == "none":
            return loss
        if loss.numel() == 1:
            return loss.reshape(())
        return loss.mean() if self.reduction == "mean" else loss.sum()

    def signed(self, value: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return losses in a dtype from informations."""
        return (self.sign * value).to(device=x.device, dtype=dtype)

    def extra_repr(self) -> str:
        """Return the options for ``print``."""
        names = [n for n in self.__dict__ if not n.startswith("_") and n != "training"]
        return ", ".join(f"{n}={getattr(self, n)!r}" for n in names)

    def information(self, rows: Rows) -> Tensor:
        """Return the information of each table, ``(R,)``."""
        raise NotImplementedError

    def direct(self, x: Tensor, y: Tensor, weights: Tensor | None, dtype: Any) -> Tensor | None:
        """Return the losses of samples ``(R, n)`` by a way of their own, or None."""
        return None

    @property
    def factor(self) -> float:
        """What information in nats is multiplied by: the sign, and the unit."""
        return self.sign / math.log(2) if self.unit == "bits" else self.sign

    def reference(
        self, weights: Tensor | None, dtype: torch.dtype
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the losses as a function of samples ``(R, n)``, differentiable in every way."""
        return lambda x, y: self.signed(self.information(self.rows_of(x, y, weights)), x, dtype)

    def _check(self, x: Any, y: Any) -> None:
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
                "To pair one number of each sample with every channel, pass y.unsqueeze(1)."
                if self.pool == "batch" and x.ndim == 2 and y.shape == x.shape[:1]
                else PAIRED,
            )
        if x.ndim < (3 if self.pool == "image" else 1):
            expected = "(B, C, ...)" if self.pool == "image" else "(N,) or (N, C, ...)"
            raise ValueError(
                f'Expected `x` and `y` of shape {expected} with pool="{self.pool}", but got '
                f"{tuple(x.shape)}. "
                'Add dimensions with unsqueeze, or use pool="batch" for vectors.'
            )
        self.check_samples(x)
        check_same_device({"x": x, "y": y})

    def check_samples(self, x: Tensor) -> None:
        """Refuse too few samples per table, and shapes whose dimensions are not what they seem."""
        samples = x.shape[2:].numel() * (1 if self.pool == "image" else x.shape[0])
        # A process without samples takes part in what the others share.
        shared = self._world_size() > 1 and x.shape[0] == samples == 0
        if x.numel() == 0 and not shared:
            raise no_sample(x)
        if not shared and samples < (1 if self._world_size() > 1 else 2):
            raise ValueError(
                f"Expected at least 2 samples per table, but x of shape {tuple(x.shape)} "
                f'with pool="{self.pool}" has {samples}. '
                + (
                    'Use pool="batch".'
                    if self.pool == "image"
                    else "Use larger batches, or skip this one, as a DataLoader with "
                    "drop_last=True does."
                )
            )
        if self.pool == "image" and _channels_last(x.shape):
            raise ValueError(
                f"Expected `x` of shape (B, C, H, W), but {tuple(x.shape)} looks like (B, H, W, "
                "C), of which every row of pixels would be an image of its own. Move the channels "
                "with x.movedim(-1, 1), and y's; if they are where they belong, pass x.flatten(2)."
            )

    def _weights(self, x: Tensor, weights: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Return weights ``(R, n)`` of weights and a mask."""
        if weights is None:
            weights = mask
        elif mask is not None:
            weights = torch.where(mask, weights, torch.zeros_like(weights))
        return None if weights is None else self._tables(weights.detach().expand(x.shape))

    def _pair(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self._tables(x), self._tables(y)
        return x, y.expand_as(x)

    def rows_of(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Rows:
        """Return what is to be known of samples ``(R, n)``."""
        kept, spoilt = None, x.new_zeros((x.shape[0], 1), dtype=torch.float64)
        if weights is not None:
            if weights.dtype in (torch.uint16, torch.uint32, torch.uint64):
                weights = weights.double()  # PyTorch can't compare them
            # One that makes no sense stays, and spoils its table.
            kept = weights != 0
            # Not a product with the mask: that would move what is masked to 0, and NaN would stay.
            x, y = torch.where(kept, x, 0), torch.where(kept, y, 0)
            if weights.is_floating_point() or weights.dtype.is_signed:
                spoilt = torch.where((weights >= 0).all(1, keepdim=True), spoilt, torch.nan)
        ends = torch.cat([extremes(v.detach(), kept) for v in (x, y)], 1)
        spoilt = spoilt + (0 * torch.where(no_samples(ends), 0, ends)).sum(1, keepdim=True)
        return Rows(x, y, weights, kept, ends, spoilt)

    def _under_conditions(self, rows: Rows, x: Tensor, condition: Any) -> Rows:
        """Return rows with the labels of their samples."""
        if not hasattr(self, "num_conditions") or self.pool == "image":
            raise ValueError(
                "`condition` makes a table for each class of the samples of a batch, which "
                f'{type(self).__name__} with pool="{self.pool}" has not. Use '
                'MutualInformationLoss or MutualInformationPenalty with pool="batch".'
            )
        labels, number = numbered(
            self._tables(check_condition(condition, x)),
            self.num_conditions,
            type(self).__name__,
            shared=self._world_size() > 1,
        )
        outside = (labels < 0) | (labels >= number)
        if rows.kept is not None:
            outside = outside & rows.kept
        spoilt = torch.where(outside.any(1, keepdim=True), torch.nan, rows.spoilt)
        return rows.having(labels=labels, conditions=number, spoilt=spoilt)

    def clipped(self, rows: Rows, ends: Tensor) -> Tensor:
        """Return the ends of ranges that leave out a fraction of samples at each end."""
        if not self.clip_quantile:
            return ends
        quantiles = []
        for side in (rows.x, rows.y):
            # An end that is NaN would leave no sample within.
            v = side.detach().double().nan_to_num(math.inf, math.inf, -math.inf)
            # Sorting by torch alone: torch.compile and torch.func follow it.
            values, mass = v.sort(1).values, None
            if rows.weights is not None:
                weights = rows.weights.double()
                values, mass = ordered(v, weights.where(weights > 0, 0))
            lo, hi = (
                quantile(values, mass, q) for q in (self.clip_quantile, 1 - self.clip_quantile)
            )
            quantiles += [-lo, hi]
        return torch.where(no_samples(ends), ends, torch.cat(quantiles, 1))

    def _tables(self, v: Tensor) -> Tensor:
        """Return samples as ``(R, n)``, one row per table."""
        if self.pool == "image":
            return v.reshape(v.shape[0] * v.shape[1], -1)
        return v.unsqueeze(0) if v.ndim == 1 else v.movedim(1, 0).flatten(1)

    def _world_size(self) -> int:
        if not (self.gather and dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size()

    def reduce(self) -> Reduce:
        """Return how to add up over the processes that share the tables."""
        return ALONE if self._world_size() == 1 else OVER_RANKS


def data_axes(ends: Tensor, bins: tuple[int, int]) -> tuple[Axis, Axis]:
    """Return the axes of each table's own range; that of a table without samples is a point."""
    x_lo, x_hi, y_lo, y_hi = torch.where(no_samples(ends), 0, ends).unsqueeze(2).unbind(1)
    return (
        scaled_axis(-x_lo, x_hi, torch.full_like(x_lo, bins[0]), bins[0]),
        scaled_axis(-y_lo, y_hi, torch.full_like(y_lo, bins[1]), bins[1]),
    )


def ends_and_heaviest(rows: Rows, reduce: Reduce) -> tuple[Tensor, Tensor]:
    """Return ``ends`` and the largest weight of each table on all processes, ``(R, 1)``; that of a
    table without samples is 1.
    """
    weights = rows.weights
    if weights is None or weights.shape[1] == 0 or weights.dtype == torch.bool:
        # A process without samples or with a mask alone has no larger one.
        most = torch.full_like(rows.ends[:, :1], weights is None or weights.dtype == torch.bool)
    else:
        most = weights.double().amax(1, keepdim=True)
    ends, heaviest = reduce.max(torch.cat([rows.ends, most], 1)).tensor_split([4], 1)
    return ends, torch.where(heaviest > 0, heaviest, 1)


def no_samples(ends: Tensor) -> Tensor:
    """Return which tables have no sample, ``(R, 1)``."""
    return (ends[:, :2] == -torch.inf).all(1, keepdim=True)


def limited(ends: Tensor, ranges: tuple[Interval, Interval]) -> Tensor:
    """Return the ends of samples that are moved to the ends of ranges."""
    lo, hi = zip(*((sign * r[0], sign * r[1]) for r in ranges for sign in (-1, 1)), strict=True)
    limited = [
        e.clamp(min(a, b), max(a, b)) for e, a, b in zip(ends.unbind(1), lo, hi, strict=True)
    ]
    return torch.where(no_samples(ends), ends, torch.stack(limited, 1))


def _channels_last(shape: Sequence[int]) -> bool:
    """Return whether a shape is that of images with their channels in the last place."""
    if len(shape) != 4 or min(shape[1:3]) < 16:
        return False
    return shape[3] in (3, 4) or (shape[3] == 1 and shape[1] == shape[2])
