"""The estimate of samples of two numbers in one compiled call, where it serves."""

from torch import Tensor

from mi_metrics.functional.neighbors.digamma import mean_of_tally
from mi_metrics.functional.neighbors.scaling import normal_scores
from mi_metrics.functional.options import Standardize
from mi_metrics.functional.tensors import on_cpu
from mi_metrics.kernels import native
from mi_metrics.kernels import neighbors as native_neighbors

# The mean variance of one coordinate is its own variance.
SCALINGS: dict[Standardize, int] = {"rank": 0, False: 1, True: 2, "joint": 2}


def serves(rows: Tensor) -> bool:
    """Say whether the compiled call serves samples ``(N, d)``."""
    return rows.shape[1] == 2 and on_cpu(rows) and native.serves()


def pair_information(
    rows: Tensor, n_neighbors: int, *, algorithm: str, standardize: Standardize
) -> float:
    """Estimate the mutual information, in nats, to the bit as the reference does.

    Args:
        rows: Finite float64 samples ``(N, 2)``, in any order.
        n_neighbors: k, less than N.
        algorithm: ``"ksg1"`` or ``"ksg2"``.
        standardize: How coordinates are scaled.
    """
    # -0.0 and 0 are one value.
    columns = (rows + 0.0).T.contiguous()
    if standardize == "rank":
        # Whoever has the same value has the same score, and the order stays.
        x, y = (normal_scores(column).numpy() for column in columns)
    else:
        x, y = columns.numpy()
    rectangles = algorithm == "ksg2"
    found = native_neighbors.pair_tally(
        x, y, n_neighbors, scaling=SCALINGS[standardize], rectangles=rectangles
    )
    if found is None:
        return 0.0
    tally, searched = found
    value = mean_of_tally(len(rows), tally)
    return value - searched / (n_neighbors * len(rows)) if rectangles else value
