"""Whether a table has enough samples for its cells."""

from collections.abc import Callable

import torch
from torch import Tensor

# From a measure of tables to that of tables under conditions.
Averaged = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
# Above this expected bias, in nats, an uncorrected value says more about N than about the data.
UNDERSAMPLED = 0.1
# And so does one with more than this share of samples alone in their cell, by the correction.
ALONE = {"none": 0.2, "miller_madow": 0.2, "grassberger": 0.25}


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


def undersampled(
    counts: Tensor, bias_correction: str = "none", effective_samples: Tensor | None = None
) -> str | None:
    """Return a message if the value of a hard table says more about N than about the data."""
    table = counts.detach().cpu().double()
    n = None if effective_samples is None else effective_samples.cpu().flatten()
    return undersampled_message(
        table.reshape(-1, *table.shape[-2:]), bias_correction, effective_samples=n
    )


def undersampled_message(
    table: Tensor,
    bias_correction: str,
    averaged: Averaged | None = None,
    effective_samples: Tensor | None = None,
) -> str | None:
    """Return the message of :func:`undersampled` for tables ``(R, B_x, B_y)``, or for tables under
    conditions ``(R, K, B_x, B_y)`` whose measures are ``averaged``.
    """
    cells_of = tuple(range(1, table.ndim))
    n = table.sum(cells_of) if effective_samples is None else effective_samples
    if averaged is None:
        bias, share = analytic_bias(table, n), alone(table, n)
    else:
        bias = averaged(lambda t: analytic_bias(t, t.sum((1, 2))), table)
        share = averaged(_alone_under_a_condition, table)
    doubt = share / ALONE[bias_correction]
    if bias_correction == "none":
        doubt = torch.maximum(doubt, bias / UNDERSAMPLED)
    # A constant has no information, whatever N.
    constant = _constant(table if averaged is None else table.sum(1))
    # A table that sums to 1, as float32 does, holds probabilities: of how many samples is unknown.
    doubt = torch.where(constant | (n < 1 + 1e-3), 0, doubt)
    if doubt.numel() == 0 or not bool(doubt.max() > 1):
        return None
    worst = int(doubt.argmax())
    cells = int(occupied(table[worst], table.ndim - 1))
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
    return (
        f"{float(n[worst]):g} samples occupy {cells} cells of the joint table, "
        f"{100 * float(share[worst]):.0f} % of them alone in theirs: {what}. Use fewer bins "
        f'(num_bins="auto"), more samples, or {remedy}.'
    )


def _constant(table: Tensor) -> Tensor:
    """Return which tables have one occupied row or column."""
    return torch.minimum(*(occupied(table.sum(dim), 1) for dim in (-1, -2))) <= 1


def _alone_under_a_condition(table: Tensor) -> Tensor:
    """Return :func:`alone`, but 0 where several samples show a constant: a single one shows
    nothing.
    """
    n = table.sum((1, 2))
    return torch.where(_constant(table) & (n > 1), 0, alone(table, n))
