"""The figures of the gallery: ``draw(folder)``, as the build of the site calls it."""

from pathlib import Path

import torch
from torch import nn

from mi_metrics import (
    BinnedMutualInformation,
    KDEMutualInformation,
    KNNMutualInformation,
    MutualInformationMatrix,
)
from mi_metrics.distributions import DISTRIBUTIONS
from mi_metrics.functional.symbols import entropy_of, rows_of_bins, shared_by, symbols
from mi_metrics.lightning.trajectories import plot_trajectories

DPI = 110
EPOCHS, BINS = 60, 8


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

    plot_trajectories(trained_layers()).savefig(folder / "plane.png", dpi=DPI)

    growing = KNNMutualInformation()
    values = []
    for batch in zip(x[:1000].split(50), y[:1000].split(50), strict=True):
        growing.update(*batch)
        values.append(growing.compute())
    figure, _ = growing.plot(values)
    figure.savefig(folder / "values.png", dpi=DPI)


def trained_layers() -> dict[str, list[tuple[int, float, float]]]:
    """Return where two layers of a small network are in the information plane while it learns."""
    inputs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 12)
    classes = (inputs[:, :7].sum(1) > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 2)
        )
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    points: dict[str, list[tuple[int, float, float]]] = {"hidden": [], "narrow": []}
    for epoch in range(EPOCHS):
        for name, depth in (("hidden", 2), ("narrow", 4)):
            t = symbols(rows_of_bins(net[:depth](inputs).detach(), BINS, (-1.0, 1.0)))
            entropy = entropy_of(t)
            information = entropy + entropy_of(classes) - entropy_of(shared_by(t, classes))
            points[name].append((epoch, float(entropy), float(information)))
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), classes).backward()
            optimizer.step()
    return points
