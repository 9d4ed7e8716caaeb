"""The permutation test of a table: its information among those of random tables of its margins.

A table is given by strata: a single one for a test of independence, that of each class for a test
of independence within classes, where samples change places within their class only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import random_table

from mi_metrics.functional.tables.way import chunks

# Sums of n log n of one table in two orders differ by less than this share.
SAME = 1e-14
# Up to this total, n log n is looked up.
LISTED = 2**20

Array = NDArray[np.float64]


def permutation_p_value(tables: Sequence[Array], number: int, seed: int) -> float:
    """Return the p-value of tables of at least two occupied rows and columns each.

    With margins fixed the information rises with Σ n log n, which knows nothing of labels. Margins
    in an order of their own make the random tables the same for every labelling and its transpose.
    """
    n_log_n = _lookup(max(int(table.sum()) for table in tables))
    observed = n_log_n(np.sort(np.concatenate([table.ravel() for table in tables]))).sum()
    bound = observed - SAME * abs(observed)
    margins = sorted(
        sorted(np.sort(table.sum(axis)).astype(np.int64).tolist() for axis in (0, 1))
        for table in tables
    )
    laws, rng = [random_table(*both) for both in margins], np.random.default_rng(seed)
    reached = 0
    for size in chunks(number, max(table.size for table in tables)):
        draws = (law.rvs(size, random_state=rng).reshape(size, -1) for law in laws)
        reached += int((sum(n_log_n(draw).sum(1) for draw in draws) >= bound).sum())
    return (1 + reached) / (1 + number)


def _lookup(total: int) -> Callable[[NDArray[Any]], Array]:
    """Return n log n for counts up to a total: from a list, where that is short."""
    if total > LISTED:
        return lambda n: xlogy(n, n)
    n = np.arange(total + 1, dtype=np.float64)
    values: Array = xlogy(n, n)
    return lambda n: values[n.astype(np.int64, copy=False)]
