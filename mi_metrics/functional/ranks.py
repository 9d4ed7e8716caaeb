"""Sums and maxima over all processes, through which gradients pass: for losses of a batch that
processes share.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist


class Reduce(NamedTuple):
    """How to add up and to compare over all processes; in a single one, the identity."""

    sum: Callable[[Tensor], Tensor]
    max: Callable[[Tensor], Tensor]


class _OverRanks(torch.autograd.Function):
    """Combine a tensor over all processes."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(
            "Forward-mode derivatives do not pass through gather=True: a process whose inputs have "
            "no tangent would leave the others waiting. Use reverse mode, torch.autograd.grad or "
            "torch.func.grad, or gather=False."
        )


class _SumOverRanks(_OverRanks):
    """Sum a tensor over all processes, backward too.

    Backward of a sum that every process uses is the sum of what each of them made of it. So the
    gradient of a process is W times its share, and DDP, which divides by W, leaves the share.
    """

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _sum_over_ranks(grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], tensor: Tensor) -> tuple[Tensor, int | None]:
        return _sum_over_ranks(tensor), in_dims[0]


class _MaxOverRanks(_OverRanks):
    """Take the largest of each entry over all processes; a constant to gradients."""

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        largest = tensor.contiguous().clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], tensor: Tensor) -> tuple[Tensor, int | None]:
        return _max_over_ranks(tensor), in_dims[0]


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(tensor)
    return total


def _max_over_ranks(tensor: Tensor) -> Tensor:
    largest: Tensor = _MaxOverRanks.apply(tensor.detach())
    return largest


ALONE = Reduce(lambda t: t, lambda t: t)
OVER_RANKS = Reduce(_sum_over_ranks, _max_over_ranks)


def added(reduce: Reduce, *tensors: Tensor) -> Sequence[Tensor]:
    """Return the sums of several tensors over all processes, by one call, in float64: processes may
    have samples of other dtypes.
    """
    if reduce is ALONE:
        return tensors
    whole = reduce.sum(torch.cat([t.reshape(-1) for t in tensors]).double())
    parts = whole.split([t.numel() for t in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]


def outermost(reduce: Reduce, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least of some numbers and the largest of others over all processes."""
    if reduce is ALONE:
        return low, high
    low, high = reduce.max(torch.cat([-low, high])).tensor_split(2)
    return -low, high


def extremes(v: Tensor, kept: Tensor | None) -> Tensor:
    """Return minus the least and the largest of kept samples ``(R, n)``, float64 ``(R, 2)``: what
    the maximum over processes makes a range of.

    Rows without samples give minus infinity twice.
    """
    if v.shape[1] == 0:
        return v.new_full((v.shape[0], 2), -torch.inf, dtype=torch.float64)
    low = v if kept is None else v.masked_fill(~kept, torch.inf)
    high = v if kept is None else v.masked_fill(~kept, -torch.inf)
    return torch.cat([-low.amin(1, keepdim=True).double(), high.amax(1, keepdim=True).double()], 1)
