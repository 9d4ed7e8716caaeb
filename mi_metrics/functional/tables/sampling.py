"""Whether a table has enough samples for its cells."""

import torch
from torch import Tensor

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
    n = table.sum((-2, -1)) if effective_samples is None else effective_samples.cpu()
    bias, share, n = analytic_bias(table, n).flatten(), alone(table, n).flatten(), n.flatten()
    doubt = share / ALONE[bias_correction]
    if bias_correction == "none":
        doubt = torch.maximum(doubt, bias / UNDERSAMPLED)
    # A constant has no information, whatever N.
    constant = torch.minimum(*(occupied(table.sum(dim), 1) for dim in (-1, -2))) <= 1
    # A table that sums to 1, as float32 does, holds probabilities: of how many samples is unknown.
    doubt = torch.where(constant.flatten() | (n < 1 + 1e-3), 0, doubt)
    if doubt.numel() == 0 or not bool(doubt.max() > 1):
        return None
    worst = int(doubt.argmax())
    cells = int(occupied(table, 2).flatten()[worst])
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
