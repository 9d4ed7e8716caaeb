"""Figures of joint distributions, pointwise values and matrices; matplotlib is imported only when
one is drawn.

Figures are :class:`matplotlib.figure.Figure` objects without pyplot's global state: nothing needs a
display, nothing has to be closed, and a notebook shows what a function returns.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mi_metrics.functional.options import UNITS, Unit, check_choice, check_number, require
from mi_metrics.functional.tensors import check_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

# Below this fraction of the fullest cell a probability has no colour: soft kernels leave traces of
# 1e-17 that would stretch the scale until everything else is one colour.
FAINTEST = 1e-6
# The least end of the colour scale of a matrix, so that noise between independent columns stays
# dark.
LEAST_SCALE = 0.05
# The most columns whose cells hold their values, and the most columns that all have their label.
WRITTEN, LABELLED = 12, 60
# The share of pointwise values that the colours tell apart: those of rare cells would stretch them.
WITHIN_SCALE = 0.995
# The colour of values as far below 0 as the largest is above; what lies between has one between.
NEGATIVE = "#8a5a44"
# Colours of the scale of a matrix.
COLORS = 512


def require_matplotlib() -> None:
    """Check that matplotlib is installed.

    Raises:
        ModuleNotFoundError: If it is not, with the extra that installs it.
    """
    require("matplotlib", "plot", "Figures")


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

    x runs to the right and y upwards. A cell's colour is its probability on a logarithmic scale,
    because joint distributions of dependent variables are peaky; empty cells are blank. The
    marginals are the table's own sums, drawn above and to the right: the probability of each bin.

    Args:
        joint: Probabilities ``(B_x, B_y)``.
        x_edges: Edges of the bins of x, ascending, ``(B_x + 1,)``; their widths may differ.
        y_edges: Edges of the bins of y, ascending, ``(B_y + 1,)``.
        ax: The axes to draw in, which the table shares with its marginals and the colour bar; by
            default those of a new figure.
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
        >>> edges = torch.linspace(-4, 4, 21)
        >>> joint = binned_joint(x, x + y, 20, value_range=(-4, 4))
        >>> figure, ax = plot_joint(joint, edges, edges, y_label="x + noise")
        >>> ax.get_ylabel()
        'x + noise'
    """
    require_matplotlib()
    p, x, y = _checked(joint, x_edges, y_edges)
    figure, ax = _axes(ax)
    ax.set(xlabel=x_label, ylabel=y_label, xlim=x[[0, -1]].tolist(), ylim=y[[0, -1]].tolist())
    above, right, colors = _beside(ax)
    if title is not None:
        above.set_title(title)
    if not bool(p.sum() > 0):
        colors.set_visible(False)
        ax.text(0.5, 0.5, "no samples", transform=ax.transAxes, ha="center", va="center")
        return figure, ax
    mesh = _cells(ax, p, x, y)
    above.stairs(p.sum(1).numpy(), x.numpy(), fill=True, color="0.6")
    right.stairs(p.sum(0).numpy(), y.numpy(), fill=True, color="0.6", orientation="horizontal")
    for marginal in (above, right):
        marginal.margins(0)
    above.set_ylim(bottom=0)
    right.set_xlim(left=0)
    figure.colorbar(mesh, cax=colors, label="probability of a cell (blank: none)")
    return figure, ax


def _checked(joint: Tensor, x_edges: Tensor, y_edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return table and edges in float64 on the CPU, or refuse them."""
    if (
        joint.ndim != 2
        or x_edges.shape != (joint.shape[0] + 1,)
        or y_edges.shape != (joint.shape[1] + 1,)
    ):
        raise ValueError(
            "Expected a joint table (B_x, B_y) with edges (B_x + 1,) and (B_y + 1,), but got "
            f"{tuple(joint.shape)}, {tuple(x_edges.shape)} and {tuple(y_edges.shape)}. "
            "For one output of several, pass joint[c] and its own edges."
        )
    p, x, y = (v.detach().to("cpu", torch.float64) for v in (joint, x_edges, y_edges))
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise ValueError(
            "Expected finite edges, but some are NaN or infinite. Give the axis a finite "
            "`value_range`."
        )
    return p, x, y


def _axes(ax: "Axes | None", *, constrained: bool = False) -> "tuple[Figure, Axes]":
    """Return the axes to draw in and their figure, by default new ones."""
    from matplotlib.figure import Figure

    if ax is None and constrained:
        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        return figure, figure.add_subplot()
    if ax is None:
        figure = Figure(figsize=(6.4, 5.2))
        figure.subplots_adjust(left=0.12, right=0.98, bottom=0.1, top=0.98)
        return figure, figure.add_subplot()
    parent = ax.get_figure()
    if parent is None:
        raise ValueError("Expected `ax` to belong to a figure. Make it with figure.add_subplot().")
    # Parts of a figure know the whole one by this name in every version of matplotlib.
    return parent.figure, ax


def _beside(ax: "Axes") -> "tuple[Axes, Axes, Axes]":
    """Return the axes of the two marginals and of the colour bar."""
    from matplotlib.ticker import MaxNLocator
    from mpl_toolkits.axes_grid1 import make_axes_locatable  # type: ignore[import-untyped]

    # The marginals are cut off from the axes themselves, so that a table keeps to its place in any
    # grid of subplots.
    divider = make_axes_locatable(ax)
    above = divider.append_axes("top", size="22%", pad=0.08, sharex=ax)
    right = divider.append_axes("right", size="22%", pad=0.08, sharey=ax)
    colors = divider.append_axes("right", size="4%", pad=0.12)
    # The colour bar's labels and the title need room, which no layout engine reserves around axes
    # that are cut off.
    for side, inches in (("right", 0.65), ("top", 0.25)):
        divider.append_axes(side, size=inches, pad=0).set_axis_off()
    for marginal in (above, right):
        marginal.spines[["top", "right"]].set_visible(False)
    above.tick_params(labelbottom=False)
    right.tick_params(labelleft=False)
    # The tick at 0 is left out, because it would run into the last one of the table's own axis.
    above.yaxis.set_major_locator(MaxNLocator(3, prune="lower"))
    # One label only, because two would run into each other.
    right.xaxis.set_major_locator(MaxNLocator(1, prune="lower"))
    above.set_ylabel("P(bin)")
    right.set_xlabel("P(bin)")
    return above, right, colors


def _cells(ax: "Axes", p: Tensor, x: Tensor, y: Tensor) -> "QuadMesh":
    """Draw the cells of a table that is not empty, in logarithmic colours."""
    from matplotlib.colors import LogNorm

    largest = float(p.max())
    shown = torch.where(p > FAINTEST * largest, p, torch.nan)
    smallest = float(shown[shown.isfinite()].min())
    # A table of equal cells has a scale of a decade, so that the colour bar has a length.
    norm = LogNorm(smallest if smallest < largest else largest / 10, largest)
    return ax.pcolormesh(
        x.numpy(), y.numpy(), shown.T.numpy(), norm=norm, cmap="viridis", rasterized=True
    )


def plot_pointwise(
    values: Tensor,
    *,
    unit: Unit = "nats",
    limit: float | None = None,
    ax: "Axes | None" = None,
    title: str | None = None,
) -> "tuple[Figure, Axes]":
    """Draw a map of pointwise mutual information: where two images share information.

    Red is where grey levels occur together more often than independent ones would, blue where less
    often; white is 0, and both colours reach equally far. A few values beyond the scale, which
    rare pairs of grey levels have by chance, are drawn as its ends. NaN is grey.

    Args:
        values: Pointwise values of an image's pixels ``(H, W)``, as ``metric.pointwise(x, y)``
            returns them for two images.
        unit: Their unit, ``"nats"`` or ``"bits"``, for the colour bar.
        limit: The value that the colours reach to on either side, for maps to be compared; by
            default 99.5 % of these values lie within.
        ax: The axes to draw in; by default those of a new figure.
        title: Title above the map; by default the mean value, which is the mutual information where
            the samples are those that were counted.

    Returns:
        The figure and the axes of the map.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        TypeError: If the values are not a real tensor, or the limit is not a number.
        ValueError: If the values are not of shape ``(H, W)``, the unit is unknown, or the limit is
            not positive.

    Example:
        >>> import torch
        >>> from mi_metrics import BinnedMutualInformation
        >>> from mi_metrics.plotting import plot_pointwise
        >>> x, noise = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> metric = BinnedMutualInformation(8)
        >>> metric.update(x, x + noise)
        >>> figure, ax = plot_pointwise(metric.pointwise(x, x + noise))
        >>> ax.get_title()
        'mean 0.309 nats'
    """
    require_matplotlib()
    _check_map(values, unit, limit)
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    shown = values.detach().to("cpu", torch.float64)
    finite = shown[shown.isfinite()]
    figure, ax = _axes(ax, constrained=True)
    ax.set_facecolor("0.6")
    ax.set(xticks=[], yticks=[])
    if not len(finite):
        ax.set_title("no values" if title is None else title)
        return figure, ax
    # NumPy's quantile has no bound on the number of values.
    scale = limit or float(np.quantile(finite.abs().numpy(), WITHIN_SCALE)) or 1.0
    mesh = ax.imshow(
        shown.masked_fill(~shown.isfinite(), torch.nan).numpy(),
        norm=Normalize(-scale, scale),
        cmap=colormaps["RdBu_r"].with_extremes(bad=(0, 0, 0, 0)),
        interpolation="nearest",
    )
    below, above = bool((finite < -scale).any()), bool((finite > scale).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}
    figure.colorbar(
        mesh,
        ax=ax,
        label=f"pointwise mutual information ({unit})",
        extend=extend.get((below, above), "neither"),
    )
    mean = f"mean {float(finite.mean()):z.3f} {unit}"
    ax.set_title(mean if title is None else title)
    return figure, ax


def _check_map(values: Tensor, unit: str, limit: float | None) -> None:
    check_choice("unit", unit, UNITS)
    if limit is not None and not 0 < check_number("limit", limit) < math.inf:
        raise ValueError(
            f"Expected `limit` to be a positive number, but got {limit}. It is the value that the "
            "colours reach to on either side of 0."
        )
    check_tensor("values", values)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"Expected `values` of an image (H, W), but got {tuple(values.shape)}. Of a batch "
            "(N, C, H, W) draw one image: values[0, 0]."
        )


def plot_matrices(
    matrices: Mapping[str, Tensor], names: Sequence[str], *, label: str, title: str | None = None
) -> "Figure":
    """Draw symmetric matrices of a quantity between columns as heat maps side by side, on one
    colour scale.

    The scale is that of :func:`plot_matrix`, for all values. The diagonal is grey, whatever it
    holds: mutual information of a column with itself is its entropy, and would outshine every
    dependence. Small matrices have their values in the cells.

    Args:
        matrices: Name and matrix ``(k, k)`` of each heat map; NaN is left grey and written as
            "none".
        names: Names of the k columns.
        label: What the values are, and their unit.
        title: Title above the figure.

    Returns:
        The figure.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If there is no matrix, or a shape does not fit the names.

    Example:
        >>> import torch
        >>> from mi_metrics.plotting import plot_matrices
        >>> values = torch.tensor([[torch.nan, 0.22], [0.22, torch.nan]])
        >>> names = ["dose", "response"]
        >>> figure = plot_matrices({"bins": values}, names, label="mutual information (nats)")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['0.22', '0.22']
    """
    require_matplotlib()
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    k = len(names)
    if not matrices or any(m.shape != (k, k) for m in matrices.values()):
        raise ValueError(
            f"Expected one or more matrices of shape ({k}, {k}) for {k} names, but got "
            f"{[tuple(m.shape) for m in matrices.values()]}."
        )
    apart = ~torch.eye(k, dtype=torch.bool)
    shown = {
        name: m.detach().to("cpu", torch.float64).where(apart, torch.nan)
        for name, m in matrices.items()
    }
    finite = torch.cat([v[v.isfinite()] for v in shown.values()])
    norm, colors, extend = _scale(finite)

    side = min(max(2.4, 0.6 * k), 12)
    figure = Figure(figsize=(len(shown) * (side + 0.1) + 2.4, side + 1.6), layout="compressed")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for ax, (name, values) in zip(axes, shown.items(), strict=True):
        ax.set_facecolor("0.85")
        ax.imshow(values.numpy(), norm=norm, cmap=colors)
        ax.set_title(name)
        _label(ax, names, names)
        if k <= WRITTEN:
            _write(ax, values, norm, apart)
    figure.colorbar(ScalarMappable(norm, colors), ax=axes, label=label, extend=extend)
    if title is not None:
        figure.suptitle(title)
    gaps = len(finite) < len(shown) * k * (k - 1)
    grey = "grey: a column with itself, not estimated" + (", or no value" if gaps else "")
    figure.supxlabel(grey, fontsize=9, color="0.4")
    return figure


def plot_matrix(
    values: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    title: str | None = None,
    ax: "Axes | None" = None,
) -> "tuple[Figure, Axes]":
    """Draw a matrix of a quantity between two groups of columns as a heat map.

    The scale runs from 0 to the largest value, and down to the least where estimates are negative:
    from the dark colour of 0 to brown, which is as far below 0 as the largest is above, so that an
    estimate just below 0 looks like 0. Small matrices have their values in the cells.

    Args:
        values: The matrix ``(R, C)``; NaN is left grey and written as "none".
        rows: Names of the R rows.
        columns: Names of the C columns.
        label: What the values are, and their unit.
        title: Title above the figure.
        ax: The axes to draw in; by default a new figure.

    Returns:
        The figure and the axes of the heat map.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If the shape does not fit the names.

    Example:
        >>> import torch
        >>> from mi_metrics.plotting import plot_matrix
        >>> values = torch.tensor([[0.22, -0.01]])
        >>> figure, ax = plot_matrix(values, ["dose"], ["effect", "age"], label="MI (nats)")
        >>> [text.get_text() for text in ax.texts]
        ['0.22', '-0.01']
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"Expected a matrix of shape ({len(rows)}, {len(columns)}) for as many names, but got "
            f"{tuple(values.shape)}. Give each row and column a name."
        )
    shown = values.detach().to("cpu", torch.float64)
    finite = shown[shown.isfinite()]
    norm, colors, extend = _scale(finite)
    if ax is None:
        height, width = (min(max(2.4, 0.5 * len(names)), 12) for names in (rows, columns))
        ax = Figure(figsize=(width + 3, height + 1.6), layout="compressed").add_subplot()
    figure, ax = _axes(ax)
    ax.set_facecolor("0.85")
    image = ax.imshow(shown.numpy(), norm=norm, cmap=colors, aspect="auto")
    _label(ax, columns, rows)
    if max(shown.shape) <= WRITTEN:
        _write(ax, shown, norm, torch.ones_like(shown, dtype=torch.bool))
    figure.colorbar(image, ax=ax, label=label, extend=extend)
    if title is not None:
        ax.set_title(title)
    return figure, ax


def _scale(finite: Tensor) -> "tuple[Normalize, Colormap, str]":
    """Return the colour scale of the values of matrices, and at which of its ends some are beyond.

    A step is worth as much on both sides of 0.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize, to_hex

    largest = max(LEAST_SCALE, float(finite.max()) if len(finite) else 0.0)
    least = min(0.0, float(finite.min()) if len(finite) else 0.0)
    viridis, lowest = colormaps["viridis"], max(-largest, least)
    below = LinearSegmentedColormap.from_list("below", [to_hex(viridis(0.0)), NEGATIVE])
    steps = np.linspace(lowest, largest, COLORS) / largest
    colors = [viridis(step) if step >= 0 else below(-step) for step in steps.tolist()]
    extend = "min" if least < lowest else "neither"
    return Normalize(lowest, largest), ListedColormap(colors), extend


def _label(ax: "Axes", columns: Sequence[str], rows: Sequence[str]) -> None:
    """Name the columns and rows of a heat map, and draw lines between its cells."""
    for axis, names in ((ax.xaxis, columns), (ax.yaxis, rows)):
        labels = [name if len(name) <= 24 else name[:23] + "…" for name in names]
        ticks = range(0, len(names), math.ceil(len(names) / LABELLED))
        axis.set_ticks(ticks, [labels[i] for i in ticks])
    ax.tick_params("x", labelrotation=45)
    for text in ax.get_xticklabels():
        text.set(ha="right", rotation_mode="anchor")
    k = max(len(columns), len(rows))
    ax.tick_params(length=0, labelsize=10 if k <= 30 else 7)
    ax.spines[:].set_visible(False)
    # With more columns the lines would hide the cells.
    if k <= LABELLED:
        ax.set_xticks([i - 0.5 for i in range(1, len(columns))], minor=True)
        ax.set_yticks([i - 0.5 for i in range(1, len(rows))], minor=True)
        ax.grid(which="minor", color="white", linewidth=1 if k <= 30 else 0.3)
        ax.tick_params(which="minor", length=0)


def _write(
    ax: "Axes",
    values: Tensor,
    norm: "Normalize",
    where: Tensor,
) -> None:
    """Write values into the cells of a heat map."""
    largest = float(norm.vmax or 1)
    decimals = max(2, 1 - math.floor(math.log10(largest)))
    for i, j in where.nonzero().tolist():
        value = float(values[i, j])
        text = "none" if math.isnan(value) else f"{value:z.{decimals}f}"
        dark = value / largest < 0.6 and not math.isnan(value)
        color = "white" if dark else "black"
        ax.text(j, i, text, ha="center", va="center", fontsize=9, color=color)
