"""KSG 1, KSG 2 and Ross with the rule for ties, over all distances: slow and obviously right.

A sample with more than k - 1 exact copies counts coincidences; all others are evaluated by the
papers' formulas on points moved by 1e-10 of a coordinate's spread times a hash of the sample's
place.
"""

import math

import numpy as np
import torch
from scipy.special import psi
from scipy.stats import norm, rankdata

from mi_metrics.functional import knn_mutual_information

WORD = 2**64


def mix(word: int) -> int:
    """SplitMix64, in Python's integers."""
    word = (word + 0x9E3779B97F4A7C15) % WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % WORD
    return word ^ (word >> 31)


def uniform(place: int, coordinate: int) -> float:
    return ((mix((mix(coordinate) + place) % WORD) >> 11) + 0.5) * 2.0**-53 - 0.5


def places(x: np.ndarray, y: np.ndarray) -> tuple[list[int], list[int]]:
    """The place of each row among those sorted by (x, y), and among those sorted by (y, x) with the
    copies of a row in reverse.
    """
    rows = [(tuple(a), tuple(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    first = sorted(range(len(rows)), key=lambda i: (*rows[i], i))
    place_x = {row: place for place, row in enumerate(first)}
    second = sorted(range(len(rows)), key=lambda i: (rows[i][1], rows[i][0], -place_x[i]))
    place_y = {row: place for place, row in enumerate(second)}
    every = range(len(rows))
    return [place_x[i] for i in every], [place_y[i] for i in every]


def spread(column: np.ndarray) -> float:
    q = np.unique(column)
    return q[-(-3 * (len(q) - 1) // 4)] - q[(len(q) - 1) // 4]


def moved(v: np.ndarray, standardize: object, place: list[int]) -> np.ndarray:
    if standardize == "rank":
        w = np.stack([norm.ppf((rankdata(c) - 0.5) / len(c)) for c in v.T], 1)
    else:
        w = v - np.stack([np.unique(c)[len(np.unique(c)) // 2] for c in v.T])
        factor = w.std(0)
        if standardize == "joint":
            factor = np.full_like(factor, np.sqrt(np.mean(factor**2)))
        w = w / np.where(factor > 0, factor, 1) if standardize else w
    for d in range(w.shape[1]):
        hashed = np.array([uniform(p, d) for p in place])
        w[:, d] += 1e-10 * spread(w[:, d]) * hashed
    return w


def gaps(v: np.ndarray) -> np.ndarray:
    return np.abs(v[:, None] - v[None]).max(-1)


def copies(v: np.ndarray) -> np.ndarray:
    return (v[:, None] == v[None]).all(-1).sum(1)


def constant(v: np.ndarray) -> bool:
    return bool((v == v[0]).all())


def ksg(
    x: np.ndarray, y: np.ndarray, k: int = 3, standardize: object = True, *, algorithm: str = "ksg1"
) -> float:
    x, y = (np.asarray(v, float).reshape(len(v), -1) + 0.0 for v in (x, y))
    if constant(x) or constant(y):
        return 0.0
    same = copies(np.concatenate((x, y), 1)), copies(x), copies(y)
    places_xy = places(x, y)
    dx, dy = (
        gaps(moved(v, standardize, place)) for v, place in zip((x, y), places_xy, strict=True)
    )
    joint = np.maximum(dx, dy)
    terms = []
    for i in range(len(x)):
        radius = np.sort(joint[i])[k]
        if same[0][i] > k:
            term = psi(same[0][i]) - psi(same[1][i]) - psi(same[2][i])
        elif algorithm == "ksg1":
            term = psi(k) - psi((dx[i] < radius).sum()) - psi((dy[i] < radius).sum())
        else:
            near = joint[i] <= radius
            n_x, n_y = ((d[i] <= d[i][near].max()).sum() - 1 for d in (dx, dy))
            term = psi(k) - 1 / k - psi(n_x) - psi(n_y)
        terms.append(term)
    return float(psi(len(x)) + np.mean(np.sort(terms)))


def in_order(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Classes numbered by what they hold: by the sum of hashes of how many samples have a smaller
    x, as signed words; classes of one sum by their label.
    """
    rows = [tuple(row) for row in x.tolist()]
    below = {row: sum(other < row for other in rows) for row in rows}
    held: dict[int, int] = {}
    for row, label in zip(rows, labels.tolist(), strict=True):
        held[label] = (held.get(label, 0) + mix(below[row])) % WORD
    signed = {label: word - WORD * (word >= WORD // 2) for label, word in held.items()}
    order = sorted(held, key=lambda label: (signed[label], label))
    return np.array([order.index(label) for label in labels.tolist()])


def ross(x: np.ndarray, labels: np.ndarray, k: int = 3, standardize: object = True) -> float:
    x, labels = np.asarray(x, float).reshape(len(x), -1) + 0.0, np.asarray(labels).ravel()
    kept = copies(labels[:, None]) > 1
    x, labels = x[kept], labels[kept]
    if constant(x) or constant(labels[:, None]):
        return 0.0
    place = places(x, in_order(x, labels)[:, None])[0]
    distance, same_x = gaps(moved(x, standardize, place)), copies(x)
    same_row = copies(np.concatenate((x, labels[:, None]), 1))
    terms = []
    for i, label in enumerate(labels.tolist()):
        inside = labels == label
        size = int(inside.sum())
        least = min(k, size - 1)
        if same_row[i] > least:
            term = psi(same_row[i]) - psi(same_x[i])
        else:
            radius = np.sort(distance[i][inside])[least]
            term = psi(least) - psi((distance[i] < radius).sum())
        terms.append(term - psi(size))
    return float(psi(len(x)) + np.mean(np.sort(terms)))


def gaussian_pair(
    size: int, r: float, seed: int = 0, d_x: int = 1, d_y: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((size, d_x)), rng.standard_normal((size, d_y))
    shared = min(d_x, d_y)
    y[:, :shared] = r * x[:, :shared] + math.sqrt(1 - r * r) * y[:, :shared]
    return x, y


def estimate(
    x: np.ndarray, y: np.ndarray, *args: int, device: torch.device | str = "cpu", **options: object
) -> float:
    value = knn_mutual_information(
        torch.as_tensor(x).to(device), torch.as_tensor(y).to(device), *args, **options
    )  # type: ignore[arg-type]
    assert value.dtype == torch.float64
    return value.item()
