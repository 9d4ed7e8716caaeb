"""Sums and maxima over all processes, through which gradients pass: for losses of a batch that
processes share.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist


class Reduce(NamedTuple):
    """How to add up and to compare over all processes; in a single one, the identity."""

    sum: Callable[[Tensor], Tensor]
    max: Callable[[Tensor], Tensor]


class _SumOverRanks(torch.autograd.Function):
    """Sum a tensor over all processes, backward too.

    Backward of a sum that every process uses is the sum of what each of them made of it. So the
    gradient of a process is W times its share, and DDP, which divides by W, leaves the share.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _sum_over_ranks(grad)


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(tensor)  # type: ignore[no-untyped-call]
    return total


def _max_over_ranks(tensor: Tensor) -> Tensor:
    largest = tensor.detach().contiguous().clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


ALONE = Reduce(lambda t: t, lambda t: t)
OVER_RANKS = Reduce(_sum_over_ranks, _max_over_ranks)
