"""The figures of the gallery: ``draw(folder)``, as the build of the site calls it."""

from pathlib import Path

import torch

from mi_metrics import (
    BinnedMutualInformation,
    KDEMutualInformation,
    KNNMutualInformation,
    MutualInformationMatrix,
)
from mi_metrics.distributions import DISTRIBUTIONS

DPI = 110


def draw(folder: Path) -> None:
    """Draw a figure of each kind that a metric has."""
    generator = torch.Generator().manual_seed(0)
    x, y = (v[0] for v in DISTRIBUTIONS["gaussian"].sample(0.5, 1, 5000, generator))
    for name, metric in (
        ("binned", BinnedMutualInformation(24, value_range=(-4, 4))),
        ("quantile", BinnedMutualInformation()),
        ("kde", KDEMutualInformation()),
    ):
        metric.update(x, y)
        figure, _ = metric.plot_joint()
        figure.savefig(folder / f"{name}.png", dpi=DPI)

    mixed = torch.randn(5000, 4, generator=generator)
    noise = torch.randn(5000, 3, generator=generator)
    matrix = MutualInformationMatrix(4, 3)
    matrix.update(mixed, mixed[:, :3] + torch.tensor([0.5, 1.0, 2.0]) * noise)
    matrix.plot()[0].savefig(folder / "matrix.png", dpi=DPI)

    growing = KNNMutualInformation()
    values = []
    for batch in zip(x[:1000].split(50), y[:1000].split(50), strict=True):
        growing.update(*batch)
        values.append(growing.compute())
    figure, _ = growing.plot(values)
    figure.savefig(folder / "values.png", dpi=DPI)
