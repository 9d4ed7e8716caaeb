"""Whether a table has enough samples for its cells."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

# From a measure of tables to that of tables under conditions.
Averaged = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
# Above this expected bias, in nats, an uncorrected value says more about N than about the data.
UNDERSAMPLED = 0.1
# And so does one with more than this share of samples alone in their cell, by the correction.
ALONE = {"none": 0.2, "miller_madow": 0.2, "grassberger": 0.25}
# A soft table has no samples alone in a cell, but cells that each sample fills by itself: so many
# per sample are as many as there are where a fifth of the samples is alone.
CELLS_PER_SAMPLE = 0.5
# What part of a cell is one sample's own, Σ w² / Σ w over the samples: where many overlap, the
# integral of the kernel's square; and the most that a sample adds to a cell.
OVERLAP = {"linear": (2 / 3, 1.0), "cubic": (151 / 315, 2 / 3)}
SOFT_EXCESS = 1.5


class Sampling(NamedTuple):
    """What a table of each pair says of its samples, ``(R,)``: their number, the cells that they
    occupy, the share of them that is alone in a cell, the expected excess that no correction takes
    away, and whether a variable is constant.
    """

    n: Tensor
    cells: Tensor
    alone: Tensor
    bias: Tensor
    constant: Tensor


def occupied(table: Tensor, dims: int) -> Tensor:
    """Return how many entries of the last dimensions are above 0, float64."""
    return (table > 0).sum(tuple(range(-dims, 0)), dtype=torch.float64)


def analytic_bias(counts: Tensor, n: Tensor) -> Tensor:
    """Return the expected excess of the plug-in information of tables of n samples, in nats."""
    kx, ky = occupied(counts.sum(-1), 1), occupied(counts.sum(-2), 1)
    excess = occupied(counts, 2) - kx - ky + 1
    return torch.where(n > 0, excess / (2 * n), 0)


def alone(counts: Tensor, n: Tensor) -> Tensor:
    """Return the share of samples that are alone in their cell; of weighted ones, of those in cells
    with less than twice the mean weight.
    """
    total = counts.sum((-2, -1), dtype=torch.float64)
    share = counts / torch.where(total > 0, total, 1)[..., None, None]
    single = share * n[..., None, None] < 2 - 1e-9
    return (share * single).sum((-2, -1))


def told_by_single_samples(counts: Tensor, n: Tensor) -> Tensor:
    """Return the part of the plug-in information of tables, in nats, that comes from samples alone
    in their cell (as :func:`alone` counts them), where the margins predict fewer than one there.
    """
    total = counts.sum((-2, -1), dtype=torch.float64)
    share = counts / torch.where(total > 0, total, 1)[..., None, None]
    single = (share > 0) & (share * n[..., None, None] < 2 - 1e-9)
    expected = share.sum(-1, keepdim=True) * share.sum(-2, keepdim=True)
    ratio = torch.where(single, share / torch.where(single, expected, 1), 1)
    return (share * ratio.log().clamp_min(0)).sum((-2, -1))


def undersampled(
    counts: Tensor,
    bias_correction: str = "none",
    effective_samples: Tensor | None = None,
    *,
    automatic: bool = False,
) -> str | None:
    """Return a message if the value of a hard table says more about N than about the data."""
    table = counts.detach().cpu().double()
    n = None if effective_samples is None else effective_samples.cpu().flatten()
    return undersampled_message(
        table.reshape(-1, *table.shape[-2:]),
        bias_correction,
        effective_samples=n,
        automatic=automatic,
    )


def undersampled_message(
    table: Tensor,
    bias_correction: str,
    averaged: Averaged | None = None,
    effective_samples: Tensor | None = None,
    *,
    automatic: bool = False,
) -> str | None:
    """Return the message of :func:`undersampled` for tables ``(R, B_x, B_y)``, or for tables under
    conditions ``(R, K, B_x, B_y)`` whose measures are ``averaged``. It does not advise an
    ``automatic`` number of bins where the bins have one.
    """
    cells_of = tuple(range(1, table.ndim))
    n = table.sum(cells_of) if effective_samples is None else effective_samples
    if averaged is None:
        bias, share = analytic_bias(table, n), alone(table, n)
    else:
        bias = averaged(lambda t: analytic_bias(t, t.sum((1, 2))), table)
        share = averaged(alone_under_a_condition, table)
    if bias_correction != "none":
        bias = torch.zeros_like(bias)
    # A constant has no information, whatever N.
    constant = _constant(table if averaged is None else table.sum(1))
    found = Sampling(n, occupied(table, table.ndim - 1), share, bias, constant)
    return sampling_message(found, bias_correction, automatic=automatic)


def sampling_message(
    found: Sampling, bias_correction: str, *, automatic: bool = False
) -> str | None:
    """Return the message of :func:`undersampled` from what is known of the samples."""
    n, cells, share, bias, constant = found
    doubt = torch.maximum(share / ALONE[bias_correction], bias / UNDERSAMPLED)
    # A table that sums to 1, as float32 does, holds probabilities: of how many samples is unknown.
    doubt = torch.where(constant | (n < 1 + 1e-3), 0, doubt)
    if doubt.numel() == 0 or not bool(doubt.max() > 1):
        return None
    worst = int(doubt.argmax())
    if bias_correction != "none":
        what = f"bias_correction={bias_correction!r} does not make it right"
    else:
        excess = float(bias[worst])
        by = f" by {excess:.2f} nats or more" if excess > UNDERSAMPLED else ""
        what = f"the uncorrected mutual information is too large{by}"
    # What would bring another doubt is no remedy.
    if bias_correction == "none" and float(share[worst]) <= ALONE["miller_madow"]:
        remedy = 'a bias correction ("miller_madow", or "grassberger" for whole counts)'
    else:
        remedy = "variables with fewer values"
    fewer = "`num_bins` of your own, fewer" if automatic else 'fewer bins (num_bins="auto")'
    return (
        f"{float(n[worst]):g} samples occupy {int(cells[worst])} cells of the joint table, "
        f"{100 * float(share[worst]):.0f} % of them alone in theirs: {what}. Use {fewer}, "
        f"more samples, or {remedy}."
    )


def soft_undersampled(
    counts: Tensor,
    value: Tensor,
    kernel: str,
    bias_correction: str = "none",
    effective_samples: Tensor | None = None,
    averaged: Averaged | None = None,
) -> str | None:
    """Return a message if the value of a soft table says more about N than about the data.

    The expected excess of the plug-in value is that of a hard table, with Σ w² / Σ w in place of
    each occupied cell, times a number that was measured where it is a tenth of a nat.

    Args:
        counts: Tables ``(R, B_x, B_y)`` of a soft kernel, or under conditions ``(R, K, B_x, B_y)``
            whose measures are ``averaged``.
        value: Their plug-in information in nats, ``(R,)``.
        kernel: ``"linear"`` or ``"cubic"``.
        bias_correction: That of the values.
        effective_samples: Of weighted samples, ``(R,)``.
        averaged: See :func:`undersampled_message`.
    """
    table, value = counts.detach().cpu().double(), value.detach().cpu()
    n = total = table.sum(tuple(range(1, table.ndim)))
    if effective_samples is not None:
        n = effective_samples.cpu()
        table = table * (n / torch.where(total > 0, total, 1))[:, None, None]
    bias, density = (
        measure(table) if averaged is None else averaged(measure, table)
        for measure in (partial(soft_bias, kernel=kernel), partial(soft_density, kernel=kernel))
    )
    return soft_message(
        n, (table.shape[-2], table.shape[-1]), value, bias, density, kernel, bias_correction
    )


def soft_message(
    n: Tensor,
    bins: tuple[int, int],
    value: Tensor,
    bias: Tensor,
    density: Tensor,
    kernel: str,
    bias_correction: str,
) -> str | None:
    """Return the message of :func:`soft_undersampled` from what is known of each pair, ``(R,)``."""
    excess, doubt = SOFT_EXCESS * bias, density / CELLS_PER_SAMPLE
    if bias_correction == "none":
        doubt = torch.maximum(doubt, excess / ((value - excess) / 5).clamp_min(UNDERSAMPLED))
    # A constant has no information, whatever N.
    doubt = torch.where(value > 0, doubt, 0)
    if doubt.numel() == 0 or not bool(doubt.max() > 1):
        return None
    worst = int(doubt.argmax())
    by = f" by about {float(excess[worst]):.2f} nats" * bool(excess[worst] > UNDERSAMPLED)
    return (
        f"{float(n[worst]):g} samples are few for {bins[0]} x {bins[1]} bins of a "
        f"{kernel} kernel: the mutual information is too large{by}. Use fewer bins, or more "
        "samples."
    )


def soft_bias(table: Tensor, kernel: str) -> Tensor:
    """Return :func:`analytic_bias` of tables of a soft kernel, ``(R,)``."""
    n = table.sum((-2, -1)).clamp_min(1e-300)
    often, once = OVERLAP[kernel]
    kx, ky = (_own(table.sum(dim), often, once).sum(-1) for dim in (-1, -2))
    return (soft_density(table, kernel) * n - kx - ky + 1) / (2 * n)


def soft_density(table: Tensor, kernel: str) -> Tensor:
    """Return how many cells there are for each sample, counted by what is its own, ``(R,)``."""
    often, once = OVERLAP[kernel]
    n = table.sum((-2, -1)).clamp_min(1e-300)
    return _own(table, often**2, once**2).sum((-2, -1)) / n


def _own(mass: Tensor, often: float, once: float) -> Tensor:
    """Return how much of each cell is one sample's own, from its mass in samples."""
    return torch.where(mass <= once + 1e-9, mass, often)


def _constant(table: Tensor) -> Tensor:
    """Return which tables have one occupied row or column."""
    return torch.minimum(*(occupied(table.sum(dim), 1) for dim in (-1, -2))) <= 1


def alone_under_a_condition(table: Tensor) -> Tensor:
    """Return :func:`alone`, but 0 where several samples show a constant: a single one shows
    nothing.
    """
    n = table.sum((1, 2))
    return torch.where(_constant(table) & (n > 1), 0, alone(table, n))
