"""The configuration of a metric as a tensor that travels with its state.

torchmetrics merges metrics of a collection into one compute group when their states are
``allclose`` after the first batch, whatever their arguments: two ranges would be taken for one for
ever after a first batch of zeros. A state that spells the configuration out keeps them apart, and
lets ``merge_state``, checkpoints and ranks be checked against it.

Every field is a float64 written as four words of 16 bits. A difference of one in a word below 2**16
exceeds ``allclose``'s tolerance of 1e-5; a difference of 1e-9 between two bounds, as one number,
would not.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Only what `update` uses: metrics that differ in the unit or the normalisation are to share their
# state.
CHOICES: dict[str, tuple[str, ...]] = {
    "state": ("table", "grid", "samples", "moments", "tables of columns", "grids of columns"),
    "nan_strategy": ("error", "ignore"),
    "kernel": ("hard", "linear", "cubic"),
}
# The order is that of the words: a new field goes to the end, so that shorter headers of earlier
# versions are beginnings of later ones, their missing fields absent.
FIELDS = (
    "state",
    "nan_strategy",
    "kernel",
    "num_outputs",
    "num_bins_x",
    "num_bins_y",
    "x_lo",
    "x_hi",
    "y_lo",
    "y_hi",
    "resolution",
    "x_dim",
    "y_dim",
    "max_samples",
    "discrete_y",
    "num_conditions",
    "z_dim",
)

Value = str | float | None


def encode(configuration: dict[str, Value]) -> Tensor:
    """Return the words of a configuration, int64 of shape ``(4 * len(FIELDS),)``; absent fields are
    NaN.
    """
    values = np.full(len(FIELDS), np.nan)
    for i, name in enumerate(FIELDS):
        value = configuration.get(name)
        if isinstance(value, str):
            values[i] = CHOICES[name].index(value)
        elif value is not None:
            # -0.0 and 0 are the same bound.
            values[i] = value + 0.0
    return torch.from_numpy(values.view(np.uint16).astype(np.int64))


def complete(header: Any) -> Any:
    """Return a header that an earlier version wrote with its missing fields, absent; anything else
    as it is.
    """
    absent = encode({})
    if not isinstance(header, Tensor) or header.ndim != 1 or header.dtype != torch.int64:
        return header
    if len(header) == 0 or len(header) % 4 or len(header) >= len(absent):
        return header
    return torch.cat([header, absent[len(header) :].to(header.device)])


def decode(header: Tensor) -> dict[str, str | float]:
    """Return the fields that :func:`encode` was given."""
    values = header.detach().cpu().numpy().astype(np.uint16).view(np.float64)
    configuration: dict[str, str | float] = {}
    for name, value in zip(FIELDS, values.tolist(), strict=True):
        if not math.isnan(value):
            configuration[name] = CHOICES[name][int(value)] if name in CHOICES else value
    return configuration


def describe(header: Tensor) -> str:
    """Return a configuration in words, for messages."""
    try:
        fields = decode(header)
    except (ValueError, IndexError, OverflowError):
        return "(not a configuration of this package)"
    return ", ".join(f"{k}={v if isinstance(v, str) else f'{v:g}'}" for k, v in fields.items())


def agree(headers: Tensor) -> Tensor:
    """Reduce headers ``(K, L)`` of ranks or batches to one, ``(L,)``; refuse different
    configurations.
    """
    differ = (headers != headers[0]).any(1)
    if bool(differ.any()):
        raise ValueError(
            "Expected metrics of one configuration, but got\n"
            f"  {describe(headers[0])}\n  {describe(headers[int(differ.int().argmax())])}\n"
            "Build the metric with the same arguments on every rank."
        )
    return headers[0].clone()
