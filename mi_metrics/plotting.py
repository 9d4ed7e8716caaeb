"""Figures of joint distributions; matplotlib is imported only when one is drawn.

Figures are :class:`matplotlib.figure.Figure` objects without pyplot's global state: nothing needs a display, nothing
has to be closed, and a notebook shows what a function returns.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Below this fraction of the fullest cell a probability has no colour: soft kernels leave traces of 1e-17 that would
# stretch the scale until everything else is one colour.
FAINTEST = 1e-6


def require_matplotlib() -> None:
    """Check that matplotlib is installed.

    Raises:
        ModuleNotFoundError: If it is not, with the extra that installs it.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'Figures need matplotlib. Install it with: pip install "mi-metrics[plot]"', name="matplotlib"
        ) from error


def plot_joint(
    joint: Tensor,
    x_edges: Tensor,
    y_edges: Tensor,
    *,
    ax: "Axes | None" = None,
    x_label: str = "x",
    y_label: str = "y",
    title: str | None = None,
) -> "tuple[Figure, Axes]":
    """Draw a joint table as an image in data units, with its two marginals and a colour bar.

    x runs to the right and y upwards. A cell's colour is its probability on a logarithmic scale, because joint
    distributions of dependent variables are peaky; empty cells are blank. The marginals are the table's own sums, drawn
    above and to the right: the probability of each bin.

    Args:
        joint: Probabilities ``(B_x, B_y)``.
        x_edges: Edges of the bins of x, ascending, ``(B_x + 1,)``; their widths may differ.
        y_edges: Edges of the bins of y, ascending, ``(B_y + 1,)``.
        ax: The axes to draw in, which the table shares with its marginals and the colour bar; by default those of a
            new figure.
        x_label: Name of x.
        y_label: Name of y.
        title: Title above the figure.

    Returns:
        The figure and the axes of the table.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If the shapes do not belong together, or an edge is NaN or infinite.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import binned_joint
        >>> from mi_metrics.plotting import plot_joint
        >>> x, y = torch.randn(2, 1_000, generator=torch.Generator().manual_seed(0))
        >>> edges = torch.linspace(-3, 3, 21)
        >>> figure, ax = plot_joint(binned_joint(x, x + y, 20, value_range=(-3, 3)), edges, edges, y_label="x + noise")
        >>> ax.get_ylabel()
        'x + noise'
    """
    require_matplotlib()
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from mpl_toolkits.axes_grid1 import make_axes_locatable  # type: ignore[import-untyped]

    if joint.ndim != 2 or x_edges.shape != (joint.shape[0] + 1,) or y_edges.shape != (joint.shape[1] + 1,):
        raise ValueError(
            "Expected a joint table (B_x, B_y) with edges (B_x + 1,) and (B_y + 1,), but got "
            f"{tuple(joint.shape)}, {tuple(x_edges.shape)} and {tuple(y_edges.shape)}. "
            "For one output of several, pass joint[c] and its own edges."
        )
    p, x, y = (v.detach().to("cpu", torch.float64) for v in (joint, x_edges, y_edges))
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise ValueError("Expected finite edges, but some are NaN or infinite. Give the axis a finite `value_range`.")

    if ax is None:
        figure = Figure(figsize=(6.4, 5.2))
        figure.subplots_adjust(left=0.12, right=0.98, bottom=0.1, top=0.98)
        ax = figure.add_subplot()
    elif (root := ax.get_figure(root=True)) is None:
        raise ValueError("Expected `ax` to belong to a figure. Make it with figure.add_subplot().")
    else:
        figure = root

    ax.set(xlabel=x_label, ylabel=y_label, xlim=x[[0, -1]].tolist(), ylim=y[[0, -1]].tolist())
    # Cut off from the axes themselves, so that a table keeps to its place in any grid of subplots.
    divider = make_axes_locatable(ax)
    above = divider.append_axes("top", size="22%", pad=0.08, sharex=ax)
    right = divider.append_axes("right", size="22%", pad=0.08, sharey=ax)
    colors = divider.append_axes("right", size="4%", pad=0.12)
    # Room for the colour bar's labels and the title, which no layout engine reserves around axes that are cut off.
    for side, inches in (("right", 0.65), ("top", 0.25)):
        divider.append_axes(side, size=inches, pad=0).set_axis_off()
    for marginal in (above, right):
        marginal.spines[["top", "right"]].set_visible(False)
    above.tick_params(labelbottom=False)
    right.tick_params(labelleft=False)
    # Without the tick at 0, which would run into the last one of the table's own axis.
    above.yaxis.set_major_locator(MaxNLocator(3, prune="lower"))
    right.xaxis.set_major_locator(MaxNLocator(3, prune="lower"))
    above.set_ylabel("P(bin)")
    right.set_xlabel("P(bin)")
    if title is not None:
        above.set_title(title)

    if not bool(p.sum() > 0):
        colors.set_visible(False)
        ax.text(0.5, 0.5, "no samples", transform=ax.transAxes, ha="center", va="center")
        return figure, ax

    largest = float(p.max())
    shown = torch.where(p > FAINTEST * largest, p, torch.nan)
    smallest = float(shown[shown.isfinite()].min())
    # One colour only: a scale of a decade, so that the colour bar has a length.
    norm = LogNorm(smallest if smallest < largest else largest / 10, largest)
    mesh = ax.pcolormesh(x.numpy(), y.numpy(), shown.T.numpy(), norm=norm, cmap="viridis", rasterized=True)
    above.stairs(p.sum(1).numpy(), x.numpy(), fill=True, color="0.6")
    right.stairs(p.sum(0).numpy(), y.numpy(), fill=True, color="0.6", orientation="horizontal")
    for marginal in (above, right):
        marginal.margins(0)
    above.set_ylim(bottom=0)
    right.set_xlim(left=0)
    figure.colorbar(mesh, cax=colors, label="probability of a cell (blank: none)")
    return figure, ax
