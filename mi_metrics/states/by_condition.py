"""A grid under K conditions: one joint table for each, over cells that all share.

The state is that of :mod:`mi_metrics.states.grid` with a row for each condition, ``(K, 2 + 2m +
m^2)``, in which all rows have the levels and borders of the samples of all conditions together. So
it is a function of the samples, as that is, and merges by the same `grid.fold`: rows of equal
borders unite to rows of equal borders. It is updated by `grid.update` with labels.
"""

import torch
from torch import Tensor

from mi_metrics.states.keys import resolution


def pooled(state: Tensor) -> Tensor:
    """Return the grid ``(1, L)`` of the samples of all conditions, from the state ``(K, L)``."""
    head = state.shape[1] - resolution(state) ** 2
    return torch.cat([state[:1, :head], state[:, head:].sum(0, keepdim=True)], 1)
