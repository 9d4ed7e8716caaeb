"""The class labels of a condition that a loss is given, checked and counted."""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.tensors import broadcasts, check_same_device, check_tensor


def numbered(labels: Tensor, number: int | None, name: str, *, shared: bool) -> tuple[Tensor, int]:
    """Return labels and their number; where that is None, the places of labels among the distinct
    ones, which the loss ``name`` can't find compiled, nor in a batch ``shared`` by processes.
    """
    if number is not None:
        return labels, number
    if shared or torch.compiler.is_compiling():
        raise ValueError(
            "Expected `num_conditions` to be given, as gather=True and torch.compile need "
            f"it, but {name} would look for the distinct labels of this "
            "batch. Pass num_conditions=K for labels 0 … K - 1."
        )
    found, labels = torch.unique(labels, return_inverse=True)
    return labels, len(found)


def check_condition(condition: Any, x: Tensor) -> Tensor:
    """Return class labels, a label for each sample or as many as x has numbers, in x's shape."""
    labels = check_tensor("condition", condition)
    if labels.is_floating_point():
        raise TypeError(
            f"Expected class labels in `condition` (integers or bool), but got {labels.dtype}. "
            "Convert labels with condition.long(); cut a continuous condition into classes with "
            "torch.bucketize."
        )
    if labels.shape == x.shape[:1]:
        labels = labels.reshape(-1, *[1] * (x.ndim - 1))
    if not broadcasts(labels.shape, x.shape):
        raise ValueError(
            f"Expected `condition` of shape ({x.shape[0]},), a label for each sample, or one that "
            f"broadcasts to the shape {tuple(x.shape)} of x, but got {tuple(labels.shape)}."
        )
    check_same_device({"x": x, "condition": labels})
    return labels.detach().long().expand(x.shape)
