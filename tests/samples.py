"""Samples of known mutual information that several tests draw."""

import math

import torch
from torch import Tensor


def gaussian(
    n: int,
    r: float = 0.6,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Return ``n`` samples of a Gaussian pair of correlation ``r``."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, generator=generator, dtype=dtype).to(device)
    return x, r * x + math.sqrt(1 - r * r) * noise
