"""The figures of `mi-metrics study`; matplotlib is imported only when one is drawn."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mi_metrics.commands.study_table import Row
from mi_metrics.distributions import DISTRIBUTIONS
from mi_metrics.functional import binned_joint, kde_joint
from mi_metrics.functional.tables.axis import data_axis
from mi_metrics.plotting import plot_joint
from mi_metrics.settings import ESTIMATORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# The least truth, in nats, of which an error is shown in per cent.
FAINTEST = 0.02

# Okabe and Ito's colours, which do not depend on colour vision, and a marker beside each.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v", "P")
# Title, colour and marker of each estimator.
STYLES = {
    name: (estimator.title, colour, marker)
    for (name, estimator), colour, marker in zip(ESTIMATORS.items(), COLOURS, MARKERS, strict=False)
}


def figures(rows: Sequence[Row], distribution: str, x: Tensor, y: Tensor) -> "dict[str, Figure]":
    """Return the figures of a study by name, that of joint tables from one sample ``(N,)`` at the
    largest truth.
    """
    return {
        "estimates": plot_estimates(rows, distribution),
        "parameter": plot_over_parameter(rows, distribution),
        "relative_error": plot_relative_error(rows, distribution),
        "duration": plot_duration(rows, distribution),
        "joint": plot_joints(x, y, distribution, max(row.truth for row in rows)),
    }


def plot_estimates(rows: Sequence[Row], distribution: str) -> "Figure":
    """Draw mean estimates against the truth, a panel per estimator, with N as size and colour of
    the markers.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    names = _estimators(rows)
    sizes = sorted({row.n for row in rows})
    across = min(2, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(1.5 + 4 * across, 0.8 + 3.8 * down), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    norm = LogNorm(sizes[0], max(sizes[-1], 2 * sizes[0]))
    area = {n: 10 + 130 * n / sizes[-1] for n in sizes}
    for ax in panels.flat[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(panels.flat, names, strict=False):
        # Large markers are drawn first, because they would hide the small ones.
        mine = sorted((row for row in rows if row.estimator == name), key=lambda row: -row.n)
        ends = [min(row.truth for row in mine), max(row.truth for row in mine)]
        ax.plot(ends, ends, color="0.5", linewidth=1, zorder=0)
        ax.scatter(
            [row.truth for row in mine],
            [row.mean for row in mine],
            [area[row.n] for row in mine],
            [row.n for row in mine],
            norm=norm,
            cmap="viridis_r",
            edgecolors="white",
            linewidths=0.4,
        )
        ax.set_title(STYLES[name][0])
    # The lowest panel of the right column is not in the last row where their number is odd.
    for ax in panels.flat[len(names) - across : len(names)]:
        ax.set_xlabel("true mutual information (nats)")
        ax.tick_params(labelbottom=True)
    for ax in panels[:, 0]:
        ax.set_ylabel("mean estimate (nats)")
    handles = _size_handles(area, norm)
    figure.legend(handles=handles, title="pairs N", loc="outside right center", frameon=False)
    figure.suptitle(f"Estimates against the truth ({_described(rows, distribution)})")
    return figure


def _size_handles(area: "dict[int, float]", norm: "LogNorm") -> "list[Line2D]":
    """Return what the legend shows: a marker for each N, and the line of the truth."""
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    colors = colormaps["viridis_r"]
    handles = []
    for n, size in area.items():
        style = {"color": colors(norm(n)), "markersize": size**0.5, "label": str(n)}
        handles.append(Line2D([], [], linestyle="", marker="o", **style))
    return [*handles, Line2D([], [], color="0.5", linewidth=1, label="truth")]


def plot_over_parameter(rows: Sequence[Row], distribution: str) -> "Figure":
    """Draw the estimates and their errors over the distribution's parameter, at the median N."""
    from matplotlib.figure import Figure

    sizes = sorted({row.n for row in rows})
    n = sizes[len(sizes) // 2]
    figure = Figure(figsize=(8, 7), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for name in _estimators(rows):
        mine = [row for row in rows if (row.estimator, row.n) == (name, n)]
        label, color, marker = STYLES[name]
        style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1}
        x = [row.parameter for row in mine]
        errors = [row.sd for row in mine]
        for ax, values in (
            (top, [row.mean for row in mine]),
            (bottom, [row.error for row in mine]),
        ):
            ax.plot(x, values, label=label, **style)
            _band(ax, x, values, errors, color)
    mine = [row for row in rows if row.n == n and row.estimator == rows[0].estimator]
    top.plot(
        [row.parameter for row in mine],
        [row.truth for row in mine],
        "k--",
        linewidth=1.5,
        label="truth",
    )
    bottom.axhline(0, color="k", linestyle="--", linewidth=1.5)
    top.set_ylabel("mutual information (nats)")
    bottom.set_ylabel("estimate - truth (nats)\nbands: ± standard error")
    _parameter_axis(bottom, distribution)
    top.legend(frameon=False)
    figure.suptitle(f"Estimates from N = {n} pairs ({_described(rows, distribution)})")
    return figure


def plot_relative_error(rows: Sequence[Row], distribution: str) -> "Figure":
    """Draw the error in per cent of the truth over the truth, at the largest N.

    Where there is hardly any truth, any error is many times it; these points are left out.
    """
    from matplotlib.figure import Figure

    n = max(row.n for row in rows)
    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.add_subplot()
    for name in _estimators(rows):
        mine = [row for row in rows if (row.estimator, row.n) == (name, n) and row.truth > FAINTEST]
        label, color, marker = STYLES[name]
        x, y = [row.truth for row in mine], [100 * row.error / row.truth for row in mine]
        ax.plot(x, y, color=color, marker=marker, markersize=4, linewidth=1, label=label)
        errors = [100 * row.sd / row.draws**0.5 / row.truth for row in mine]
        _band(ax, x, y, errors, color)
    ax.axhline(0, color="k", linestyle="--", linewidth=1.5)
    ax.set_ylabel("(mean estimate - truth) / truth, per cent\nbands: ± standard error of the mean")
    ax.set_xlabel("true mutual information (nats)")
    ax.legend(frameon=False)
    figure.suptitle(f"Relative error with N = {n} pairs ({_described(rows, distribution)})")
    return figure


def _band(
    ax: "Axes", x: Sequence[float], values: Sequence[float], errors: Sequence[float], color: str
) -> None:
    """Draw a band of one standard error around values."""
    low, high = ([v + sign * e for v, e in zip(values, errors, strict=True)] for sign in (-1, 1))
    ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def plot_duration(rows: Sequence[Row], distribution: str) -> "Figure":
    """Draw the processor time of a sample over N, the mean over all strengths of dependence."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure = Figure(figsize=(7, 5), layout="constrained")
    ax = figure.add_subplot()
    sizes = sorted({row.n for row in rows})
    for name in _estimators(rows):
        label, color, marker = STYLES[name]
        times = [
            [row.milliseconds for row in rows if (row.estimator, row.n) == (name, n)] for n in sizes
        ]
        ax.plot(
            sizes,
            [sum(t) / len(t) for t in times],
            color=color,
            marker=marker,
            linewidth=1,
            label=label,
        )
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="pairs N",
        ylabel="processor time of a sample (ms, one thread)",
    )
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    if len(sizes) < 12:
        ax.set_xticks(sizes)
        ax.minorticks_off()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.grid(which="major", color="0.9")
    ax.legend(frameon=False)
    figure.suptitle(f"Duration ({_described(rows, distribution)})")
    return figure


def plot_joints(x: Tensor, y: Tensor, distribution: str, truth: float) -> "Figure":
    """Draw the joint tables that the estimators read one sample ``(N,)`` from, and the sample
    itself.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 10.5))
    figure.subplots_adjust(left=0.075, right=0.99, bottom=0.06, top=0.95, wspace=0.2, hspace=0.15)
    (uniform, quantile), (smooth, scatter) = figure.subplots(2, 2)
    limits = []
    for v in (x, y):
        low, high = (float(end) for end in torch.aminmax(v))
        limits.append((low - 0.1 * (high - low), high + 0.1 * (high - low)))

    joint = binned_joint(x, y, binning="uniform")
    bins = len(joint)
    edges = [_edges(v, bins, "uniform") for v in (x, y)]
    plot_joint(joint, *edges, ax=uniform, title=f"bins: {bins} × {bins} cells")
    joint = binned_joint(x, y)
    edges = [_edges(v, bins, "quantile") for v in (x, y)]
    plot_joint(
        joint,
        *edges,
        ax=quantile,
        title=f"quantile bins: {bins} × {bins}, each row and column 1/{bins}",
    )
    with warnings.catch_warnings():
        # The figure shows what heavy tails do, so its warnings are silenced.
        warnings.simplefilter("ignore", UserWarning)
        joint = kde_joint(x, y, value_range=(limits[0], limits[1]))
    edges = [torch.linspace(*ends, len(joint) + 1, dtype=torch.float64) for ends in limits]
    plot_joint(
        joint,
        *edges,
        ax=smooth,
        title=f"kernel density, shown on {len(joint)} × {len(joint)} cells",
    )

    _scatter(scatter, x, y)
    for ax in (uniform, quantile, smooth, scatter):
        ax.set(xlim=limits[0], ylim=limits[1])
    figure.suptitle(
        f"What the estimators see: {len(x)} pairs, {distribution}, mutual information {truth:.3f} "
        f"nats"
    )
    return figure


def _scatter(ax: "Axes", x: Tensor, y: Tensor) -> None:
    """Draw the pairs, with as much room around them as marginals take beside a table."""
    from mpl_toolkits.axes_grid1 import make_axes_locatable  # type: ignore[import-untyped]

    ax.scatter(x, y, 3, color="k", alpha=0.4, linewidths=0)
    ax.set(xlabel="x", ylabel="y")
    divider = make_axes_locatable(ax)
    above = divider.append_axes("top", size="22%", pad=0.08)
    for size, pad in (("22%", 0.08), ("4%", 0.12), (0.65, 0)):
        divider.append_axes("right", size=size, pad=pad).set_axis_off()
    divider.append_axes("top", size=0.25, pad=0).set_axis_off()
    above.set_axis_off()
    above.set_title("nearest neighbours: no table, the pairs themselves")


def _edges(v: Tensor, bins: int, binning: str) -> Tensor:
    axis = data_axis(v.unsqueeze(0), torch.full((1, 1), bins), None, binning, 0.0, 0.0)
    if axis.edges is None:
        return axis.borders(bins)
    return torch.cat([v.min().view(1), axis.edges[0], v.max().view(1)])


def _estimators(rows: Sequence[Row]) -> list[str]:
    return [name for name in STYLES if any(row.estimator == name for row in rows)]


def _described(rows: Sequence[Row], distribution: str) -> str:
    return f"{distribution}, mean of {rows[0].draws} draws"


def _parameter_axis(ax: "Axes", distribution: str) -> None:
    name = DISTRIBUTIONS[distribution].parameter_name
    if name == "r":
        ax.set_xlabel("correlation r")
    else:
        ax.set(xlabel=name, xscale="log")
