"""The trajectory of layers through the information plane, as a figure."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mi_metrics.plotting import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_trajectories(
    points: Mapping[str, Sequence[tuple[int, float, float]]], *, title: str | None = None
) -> "Figure":
    """Draw how layers move through the information plane: entropy of the binned layer against its
    information about the class, one line per layer, its epochs from light to dark.

    Args:
        points: By layer: epoch, entropy and information, both in nats.
        title: Title above the figure.

    Returns:
        The figure.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> from mi_metrics.lightning.trajectories import plot_trajectories
        >>> figure = plot_trajectories({"hidden": [(0, 2.0, 0.5), (1, 1.5, 1.1)]})
        >>> figure.axes[0].get_xlabel()
        'entropy of the binned layer H(T) (nats)'
    """
    require_matplotlib()
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    ax = figure.add_subplot()
    epochs = [epoch for line in points.values() for epoch, _, _ in line]
    first, last = min(epochs, default=0), max(epochs, default=0)
    norm = Normalize(first, max(last, first + 1))
    colors = colormaps["viridis_r"]
    for (layer, line), marker in zip(points.items(), itertools.cycle("osD^vP*X"), strict=False):
        number, entropy, information = (list(part) for part in zip(*line, strict=True))
        ax.plot(entropy, information, color="0.7", linewidth=1, zorder=1)
        ax.scatter(
            entropy, information, c=number, norm=norm, cmap=colors, marker=marker, label=layer
        )
    ax.set(
        xlabel="entropy of the binned layer H(T) (nats)",
        ylabel="information about the class I(T; Y) (nats)",
    )
    legend = ax.legend(title="layer")
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set(array=None, color="0.3")
    if last > first:
        figure.colorbar(ScalarMappable(norm, colors), ax=ax, label="epoch")
    if title is not None:
        ax.set_title(title)
    return figure
