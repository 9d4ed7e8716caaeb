"""The search among the few samples that others surround gives the bits of the search among all."""

import numpy as np
import pytest
import torch

from mi_metrics.functional.neighbors import candidates
from mi_metrics.functional.neighbors.candidates import nearest_apart
from mi_metrics.functional.neighbors.search import nearest
from mi_metrics.functional.neighbors.ties import tell_apart

RNG = np.random.default_rng(0)
GAUSS = RNG.standard_normal((20_000, 4))
TAIL = RNG.standard_cauchy((20_000, 2))
TABLES = {
    "8-bit": np.clip(np.round(8 * GAUSS[:, :2] + 128), 0, 255) / 255,
    "heavy tails": np.round(TAIL),
    "one line": np.round(9 * GAUSS[:, [0, 0]]),
    "ReLU": np.maximum(np.round(4 * GAUSS[:, :2]), 0),
    "far from 0": 1e9 + np.round(4 * GAUSS[:, :2]),
    "vectors": np.round(1.5 * GAUSS),
}


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("standardize", [True, False, "rank"])
@pytest.mark.parametrize("table", TABLES)
def test_same_bits_as_among_all(table, standardize, k, monkeypatch):
    rows = torch.from_numpy(TABLES[table])
    x_dim = rows.shape[1] // 2
    samples = tell_apart(rows, x_dim, standardize)
    assert samples is not None
    points = torch.cat((samples.x, samples.y), 1)
    apart = (samples.same_row <= k).nonzero().squeeze(1)
    whole = nearest(points, k, queries=apart, x_dim=x_dim)
    asked = []

    def spy(some, *args, **kwargs):
        asked.append(len(some))
        return nearest(some, *args, **kwargs)

    monkeypatch.setattr(candidates, "nearest", spy)
    found = nearest_apart(points, samples.first, k, apart, x_dim=x_dim)
    assert 0 < asked[0] < len(points)
    assert torch.equal(found.radius, whole.radius)
    for some, all_ in zip(found.reach, whole.reach, strict=True):
        assert torch.equal(some, all_)


@pytest.mark.parametrize("step", [0.01, 4.0])
def test_all_samples_where_that_is_sooner_done(step):
    """Hardly a row repeats, or there are fewer rows than neighbours and nobody asks."""
    samples = tell_apart(torch.from_numpy(np.round(GAUSS[:, :2] / step)), 1, True)
    assert samples is not None
    points = torch.cat((samples.x, samples.y), 1)
    for k in (3, 12):
        apart = (samples.same_row <= k).nonzero().squeeze(1)
        found = nearest_apart(points, samples.first, k, apart)
        assert torch.equal(found.radius, nearest(points, k, queries=apart).radius)
