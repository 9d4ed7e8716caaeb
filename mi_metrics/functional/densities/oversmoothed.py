r"""Whether a kernel blurs what ties two variables: it follows the covariance of all samples, which
of a circle, a wave, clusters or heavy tails says little.

Two signs are looked for in a coarse table of the samples. A halved kernel gives another value: a
density that is smooth on the scale of its kernel does not ask for a finer one. Or a few bins of
about equal counts know more than the estimate: by the data processing inequality no function of the
variables has more information than they (T. M. Cover, J. A. Thomas, "Elements of Information
Theory", 2006, doi:10.1002/047174882X).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.densities.gaussian import (
    NOTHING,
    CountedAxis,
    CountedTable,
    Kernel,
)
from mi_metrics.functional.densities.sheared import CENTRE, information_of_table

# Values of halved kernels differ by chance, too: for Gaussian pairs of 20 samples the standard
# deviation is 0.2 nats, of 100 samples 0.06.
CHANGE, CHANCE = 0.15, 2.0
# Cells on an axis between which they are summed. Those of more samples would ask for more cells,
# and with so many samples bins tell enough.
CELLS, FEW_SAMPLES = 64, 2**13
# As every caution says: a tenth of a nat and a fifth of the value.
ERROR, PART = 0.1, 5
# At most so many bins on an axis, and at least so many samples for each pair of them.
MOST_BINS, SAMPLES = 32, 4
# Standard errors that are taken off what the bins know.
ERRORS = 2.0


class Blurred(NamedTuple):
    """What shows that the kernels of pairs are too wide, each bool ``(R, 1)``."""

    lacks: Tensor  # a few bins know more
    changes: Tensor  # halved kernels give another value


def blurred(value: Tensor | None, table: CountedTable, kernel: Kernel, samples: int) -> Blurred:
    """Say whether the kernels of pairs blur what ties their variables.

    Args:
        value: What was estimated, in nats; None of normalised forms and of densities.
        table: All samples, counted. Several pairs have the same cells in units of their own.
        kernel: The kernels.
        samples: How many of each pair.
    """
    coarse = _merged(table)
    told: Tensor | bool = True
    if value is None:
        value, narrow = information_of_table(coarse, kernel, CENTRE)
        told = ~narrow
    less = lacks(value, table.n, samples) & told
    if samples > FEW_SAMPLES:
        return Blurred(less, torch.zeros_like(less))
    of_half, narrow = information_of_table(coarse, halved(kernel), CENTRE)
    return Blurred(less, changes(value, of_half, samples) & ~narrow)


def halved(kernel: Kernel) -> Kernel:
    """Return kernels of half the width."""
    x, y, x_alone, y_alone = (h / 2 for h in (kernel.x, kernel.y, kernel.x_alone, kernel.y_alone))
    return kernel._replace(x=x, y=y, x_alone=x_alone, y_alone=y_alone)


def changes(value: Tensor, of_half: Tensor, n: int) -> Tensor:
    """Say whether halved kernels give another value, bool ``(R, 1)``."""
    return (of_half - value).abs() > (value.abs() / PART).clamp_min(max(CHANGE, CHANCE / n**0.5))


def lacks(value: Tensor, n: Tensor, samples: int) -> Tensor:
    """Say whether bins of counts ``(R, m_x, m_y)`` know more than the value, bool ``(R, 1)``."""
    known = least_information(n, samples)
    return known - value > (known / PART).clamp_min(ERROR)


def coarse_factor(cells: int) -> int:
    """Return how many cells of an axis are one of a coarse table."""
    return max(cells // CELLS, 1)


def merged_axis(axis: CountedAxis, factor: int) -> CountedAxis:
    """Return an axis of equal cells ``(R, m)`` with so many of them in each; a cell stands at the
    mean of what it holds.
    """
    fill = -axis.n.shape[1] % factor
    n, centres = (
        torch.nn.functional.pad(v, (0, fill)).view(len(v), -1, factor)
        for v in (axis.n, axis.centres)
    )
    total = n.sum(2)
    mean = (n * centres).sum(2) / total.clamp_min(1)
    return CountedAxis(torch.where(total > 0, mean, centres[:, :, 0]), axis.width * factor, total)


def merged_table(n: Tensor, factor: int) -> Tensor:
    """Return counts ``(R, m, m)`` with so many rows and columns in each."""
    fill = -n.shape[1] % factor
    n = torch.nn.functional.pad(n, (0, fill, 0, fill))
    m = n.shape[1] // factor
    return n.view(-1, m, factor, m, factor).sum((2, 4))


def _merged(table: CountedTable) -> CountedTable:
    """Return a table with several cells in each; gaps between them stay."""
    n, axes = table.n, []
    for dim, axis in ((1, table.x), (2, table.y)):
        # Cells without a width are values.
        reach = axis.centres[:, -1:] - axis.centres[:, :1]
        width = torch.where(axis.width > 0, axis.width, reach / CELLS).clamp_min(NOTHING)
        number = ((axis.centres - axis.centres[:, :1]) / width)[0].round().long()
        factor = coarse_factor(int(number[-1]) + 1)
        distinct, place = torch.unique_consecutive(number // factor, return_inverse=True)
        shape = [len(distinct) if d == dim else n.shape[d] for d in range(3)]
        n = n.new_zeros(shape).index_add_(dim, place, n)
        mass, moment = (
            v.new_zeros(len(v), len(distinct)).index_add_(1, place, v)
            for v in (axis.n, axis.n * axis.centres)
        )
        first = torch.searchsorted(place, torch.arange(len(distinct), device=place.device))
        centres = torch.where(mass > 0, moment / mass, axis.centres[:, first])
        axes.append(CountedAxis(centres, width * factor, mass))
    return table._replace(n=n, x=axes[0], y=axes[1])


def least_information(n: Tensor, samples: int) -> Tensor:
    """Return what bins of about equal counts know for sure of so many ``samples`` counted in tables
    ``(R, m_x, m_y)``, in nats ``(R, 1)``: the information of their table less its bias and two
    standard errors.
    """
    total, bins = float(samples), _number_of_bins(samples)
    of_x, of_y = (_in_bins(n.sum(dim), bins) for dim in (2, 1))
    p = of_x.mT @ n @ of_y / total
    x, y = p.sum(2, keepdim=True), p.sum(1, keepdim=True)
    ratio = torch.where(p > 0, p / (x * y), 1.0).log()
    value = (p * ratio).sum((1, 2), keepdim=True)
    variance = (p * (ratio - value).square()).sum((1, 2), keepdim=True)
    # 2 N I of independent variables has the law of chi-squared with so many degrees of freedom.
    free = ((x > 0).sum(1, keepdim=True) - 1) * ((y > 0).sum(2, keepdim=True) - 1)
    error = (variance / total + free / (2 * total**2)).sqrt()
    return (value - free / (2 * total) - ERRORS * error).view(-1, 1)


def crowded_bins(n: Tensor, samples: int) -> Tensor:
    """Say whether a row or a column of counts ``(R, m_x, m_y)`` has more samples than two bins of
    equal counts, as heavy tails make it, bool ``(R, 1)``.
    """
    fullest = torch.maximum(n.sum(2).amax(1), n.sum(1).amax(1))
    return fullest.unsqueeze(1) * _number_of_bins(samples) > 2 * samples


def _number_of_bins(samples: int) -> int:
    bins = MOST_BINS
    while bins > 2 and SAMPLES * bins**2 > samples:
        bins //= 2
    return bins


def _in_bins(n: Tensor, bins: int) -> Tensor:
    """Return which bin of about equal counts cells ``(R, m)`` lie in, as 0 and 1
    ``(R, m, bins)``.
    """
    # On the CPU: a cumulative sum of floats is not deterministic on CUDA.
    up_to = n.cpu().cumsum(1).to(n.device)
    place = (up_to - n / 2) / up_to[:, -1:] * bins
    return torch.nn.functional.one_hot(place.long().clamp(0, bins - 1), bins).to(n.dtype)
