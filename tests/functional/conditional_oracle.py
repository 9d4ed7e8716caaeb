"""Conditional mutual information, slow and obviously right: class by class from tables, and the
estimate of Frenzel and Pompe over all distances with the rule for ties.
"""

import numpy as np
from scipy.special import psi

from tests.functional.knn_oracle import WORD, constant, copies, gaps, mix, moved


def plug_in(table: np.ndarray) -> float:
    """The information of one table of counts, cell by cell."""
    n, total = table.sum(), 0.0
    for a in range(table.shape[0]):
        for b in range(table.shape[1]):
            if table[a, b]:
                ratio = table[a, b] * n / (table[a].sum() * table[:, b].sum())
                total += table[a, b] / n * np.log(ratio)
    return float(total)


def of_tables(tables: np.ndarray, correction: str = "none") -> float:
    """The mean of the information of tables, one for each condition, by their shares."""
    value, n = 0.0, tables.sum()
    for table in tables:
        rows, columns = (table.sum(1) > 0).sum(), (table.sum(0) > 0).sum()
        if min(rows, columns) < 2:
            continue
        excess = (table > 0).sum() - rows - columns + 1
        bias = excess / (2 * table.sum()) if correction == "miller_madow" else 0.0
        value += table.sum() / n * (plug_in(table) - bias)
    return float(value)


def of_labels(x: np.ndarray, y: np.ndarray, z: np.ndarray, correction: str = "none") -> float:
    """The same from samples whose values are cells."""
    tables = np.zeros([len(np.unique(v)) for v in (z, x, y)])
    cells = [np.unique(v, return_inverse=True)[1] for v in (z, x, y)]
    for cell in zip(*cells, strict=True):
        tables[cell] += 1
    return of_tables(tables, correction)


def places(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    """The place of each row among those sorted by (x, y, z), among those sorted by (y, x, z) with
    the copies of a row in reverse, and a hash of both.
    """
    rows = list(zip(*(map(tuple, v.tolist()) for v in (x, y, z)), strict=True))
    every = range(len(rows))
    first = sorted(every, key=lambda i: (*rows[i], i))
    place_x = {row: place for place, row in enumerate(first)}
    second = sorted(every, key=lambda i: (rows[i][1], rows[i][0], rows[i][2], -place_x[i]))
    place_y = {row: place for place, row in enumerate(second)}
    hashed = [mix((mix(place_x[i]) + mix(place_y[i])) % WORD) for i in every]
    return [place_x[i] for i in every], [place_y[i] for i in every], hashed


def frenzel_pompe(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, k: int = 3, standardize: object = True
) -> float:
    x, y, z = (np.asarray(v, float).reshape(len(v), -1) + 0.0 for v in (x, y, z))
    if constant(x) or constant(y):
        return 0.0
    same = [copies(np.concatenate(parts, 1)) for parts in ((x, y, z), (x, z), (y, z), (z,))]
    dx, dy, dz = (
        gaps(moved(v, standardize, place))
        for v, place in zip((x, y, z), places(x, y, z), strict=True)
    )
    joint = np.maximum(np.maximum(dx, dy), dz)
    terms = []
    for i in range(len(x)):
        if same[0][i] > k:
            counts = [s[i] for s in same]
        else:
            radius = np.sort(joint[i])[k]
            spaces = np.maximum(dx[i], dz[i]), np.maximum(dy[i], dz[i]), dz[i]
            counts = [k, *((space < radius).sum() for space in spaces)]
        terms.append(psi(counts[0]) - psi(counts[1]) - psi(counts[2]) + psi(counts[3]))
    return float(np.mean(np.sort(terms)))
