"""Rows sorted by digits and by values: the order of NumPy's lexsort."""

import numpy as np
import pytest
import torch

from mi_metrics.functional.neighbors.order import LONG, lexicographic_order

RNG = np.random.default_rng(0)
COLUMNS = {
    "continuous": RNG.standard_normal(LONG),
    "8-bit": RNG.integers(0, 256, LONG).astype(float),
    "decimals": np.round(RNG.standard_normal(LONG), 1),
    "negative": RNG.integers(-300, -290, LONG).astype(float),
    "few, then many": np.where(np.arange(LONG) < 2000, 0, RNG.standard_normal(LONG)),
    "far apart": RNG.choice([-1e300, 0, 1e300], LONG),
    "beyond 16 bits": RNG.choice([0.0, 65536.0, 65535.0], LONG),
    "zeros of both signs": RNG.choice([-0.0, 0.0, 1.0], LONG),
    "constant": np.full(LONG, 3.5),
}


@pytest.mark.parametrize("second", COLUMNS)
@pytest.mark.parametrize("first", COLUMNS)
@pytest.mark.parametrize("rows", [100, LONG])
def test_order_of_lexsort(rows, first, second):
    columns = [COLUMNS[name][-rows:] for name in (first, second)]
    last = np.random.default_rng(1).permutation(rows)
    place = np.argsort(last)
    tensors = [torch.from_numpy(column.copy()) for column in columns]
    order = lexicographic_order(tensors, torch.from_numpy(last)).numpy()
    assert np.array_equal(order, np.lexsort((place, *reversed(columns))))
    order = lexicographic_order(tensors).numpy()
    assert np.array_equal(np.sort(order), np.arange(rows))
    for column in columns:
        assert np.array_equal(column[order], column[np.lexsort(columns[::-1])])
