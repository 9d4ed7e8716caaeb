"""Which samples are trained, validated and tested on."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

Part = Literal["train", "val", "test"]


def rows(sizes: Mapping[Part, int], seed: int = 0) -> dict[Part, Tensor]:
    """Return the rows of each part, the same for a seed in every run and on every machine."""
    order = torch.randperm(sum(sizes.values()), generator=torch.Generator().manual_seed(seed))
    return dict(zip(sizes, torch.split(order, list(sizes.values())), strict=True))


def datasets(parts: Mapping[Part, Tensor], *columns: Tensor) -> dict[Part, TensorDataset]:
    """Return the samples of each part."""
    return {part: TensorDataset(*(column[r] for column in columns)) for part, r in parts.items()}
