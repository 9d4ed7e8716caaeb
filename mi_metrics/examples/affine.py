"""Affine maps of images: 2 by 3 matrices on coordinates that run from -1 to 1, x before y."""

import math
from typing import Literal

import torch
from torch import Tensor, nn


def pixel_grid(size: int, device: torch.device | None = None) -> Tensor:
    """Return the centres of the pixels of a square image as homogeneous coordinates, ``(size, size,
    3)``.
    """
    centres = (2 * torch.arange(size, device=device) + 1) / size - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack((x, y, torch.ones_like(x)), -1)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the map that applies ``inner``, then ``outer``, ``(2, 3)`` each."""
    return outer @ torch.cat((inner, inner.new_tensor([[0, 0, 1]])))


def mean_displacement(transform: Tensor, grid: Tensor) -> float:
    """Return how far a map moves the pixels of a grid in the mean, in pixels."""
    moved = grid @ (transform - torch.eye(2, 3, device=grid.device)).T
    return float(moved.norm(dim=-1).mean()) * grid.shape[0] / 2


def sample(
    image: Tensor,
    transform: Tensor,
    grid: Tensor,
    mode: Literal["bilinear", "bicubic"] = "bilinear",
) -> tuple[Tensor, Tensor]:
    """Return an image as seen through a map, and a mask of the pixels that came from inside of it.

    Args:
        image: The image, ``(1, C, H, W)``.
        transform: Where a pixel of the result looks in the image, ``(2, 3)``.
        grid: The pixels of the result.
        mode: How to interpolate.
    """
    points = grid @ transform.T
    inside = (points.detach().abs() < 1).all(-1)[None, None]
    seen = nn.functional.grid_sample(
        image, points[None], mode=mode, padding_mode="border", align_corners=False
    )
    return seen, inside


def blur(image: Tensor, sigma: float) -> Tensor:
    """Return an image ``(1, 1, H, W)`` under a Gaussian blur, stretched to [0, 1] again.

    Args:
        image: The image.
        sigma: Standard deviation of the blur in pixels; 0 leaves the image as it is.
    """
    if sigma > 0:
        radius = math.ceil(3 * sigma)
        offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
        kernel = (-0.5 * (offsets / sigma) ** 2).exp()
        kernel = kernel / kernel.sum()
        image = nn.functional.pad(image, (radius,) * 4, mode="replicate")
        image = nn.functional.conv2d(image, kernel.view(1, 1, 1, -1))
        image = nn.functional.conv2d(image, kernel.view(1, 1, -1, 1))
    lowest, highest = image.aminmax()
    return (image - lowest) / (highest - lowest)
