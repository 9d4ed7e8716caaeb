"""The estimate of samples of two numbers in one compiled call, where it serves."""

from typing import NamedTuple

from torch import Tensor

from mi_metrics.functional.neighbors.digamma import mean_of_tally
from mi_metrics.functional.neighbors.scaling import normal_scores
from mi_metrics.functional.options import Standardize
from mi_metrics.functional.tensors import on_cpu
from mi_metrics.kernels import native
from mi_metrics.kernels import neighbors as native_neighbors

# The mean variance of one coordinate is its own variance.
SCALINGS: dict[Standardize, int] = {"rank": 0, False: 1, True: 2, "joint": 2}


class PairEstimate(NamedTuple):
    """An estimate of samples of two numbers.

    Attributes:
        value: The mutual information in nats.
        doubtful: Whether :mod:`mi_metrics.functional.neighbors.doubts` can find something doubtful
            about it.
    """

    value: float
    doubtful: bool


def serves(rows: Tensor) -> bool:
    """Say whether the compiled call serves samples ``(N, d)``."""
    size, dim = rows.shape
    return dim == 2 and size <= native_neighbors.MOST_PAIRS and on_cpu(rows) and native.serves()


def pair_information(
    rows: Tensor, n_neighbors: int, *, algorithm: str, standardize: Standardize
) -> PairEstimate:
    """Estimate the mutual information to the bit as the reference does.

    Args:
        rows: Finite float64 samples ``(N, 2)``, in any order.
        n_neighbors: k, less than N.
        algorithm: ``"ksg1"`` or ``"ksg2"``.
        standardize: How coordinates are scaled.
    """
    if standardize == "rank":
        # Whoever has the same value has the same score, and the order stays; -0.0 and 0 are one.
        x, y = (normal_scores(column + 0.0).numpy() for column in rows.T)
    else:
        x, y = rows.numpy().T
    rectangles = algorithm == "ksg2"
    found = native_neighbors.pair_tally(
        x, y, n_neighbors, scaling=SCALINGS[standardize], rectangles=rectangles
    )
    if found is None:
        return PairEstimate(0.0, True)
    value = mean_of_tally(len(rows), found.tally)
    if rectangles:
        value -= found.searched / (n_neighbors * len(rows))
    return PairEstimate(value, found.doubtful)
