"""How many points of a plane lie in each of many rectangles, in time N log N, plain torch.

A wavelet matrix: the points in the order of one coordinate, with their ranks by the other sorted
bit by bit from the highest, each time stably. Where a point stands after a bit is how many points
before it have a 0 there, so a range of places can be followed through all bits, and how many points
in it have ranks below a bound comes out on the way.

References:
    F. Claude, G. Navarro, A. Ordóñez, "The wavelet matrix: an efficient wavelet tree for large
    alphabets" (2015), doi:10.1016/j.is.2014.06.002.
"""

import torch
from torch import Tensor

from mi_metrics.functional.neighbors.steps import take


def rectangle_counts(ranks: Tensor, places: Tensor, bounds: Tensor) -> Tensor:
    """Count points in rectangles.

    Args:
        ranks: The rank by the second coordinate of each point in the order of the first, a
            permutation of 0 … N - 1, int64 ``(N,)``.
        places: First place in that order and the one after the last, int64 ``(2, Q)``.
        bounds: Least rank and the one after the largest, int64 ``(2, Q)``.

    Returns:
        int64 ``(Q,)``.
    """
    size, asked = len(ranks), bounds.shape[1]
    # Both bounds at once: the points below the second less those below the first.
    threshold = bounds.flatten()
    below = torch.zeros_like(threshold)
    ends = places.repeat(1, 2)
    width = ends[1] - ends[0]
    here = torch.arange(size + 1, device=ranks.device)
    # Where a place goes to: if the bit of its bound is 0, and if it is 1.
    to = torch.zeros(2, size + 1, dtype=torch.int64, device=ranks.device)
    for bit in range(size.bit_length() - 1, -1, -1):
        low = ((ranks >> bit) & 1) == 0
        torch.cumsum(low, 0, out=to[0, 1:])
        torch.sub(here + to[0, -1], to[0], out=to[1])
        above = (threshold >> bit) & 1
        ends = take(to.view(-1), ends + above * (size + 1))
        rest = ends[1] - ends[0]
        below += (width - rest) * above
        width = rest
        # Places and not masks, which take four times as long.
        ranks = take(ranks, torch.cat((low.nonzero(), (~low).nonzero())).squeeze(1))
    return below[asked:] - below[:asked]
