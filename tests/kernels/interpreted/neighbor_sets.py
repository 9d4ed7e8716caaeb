"""Estimates of many sets at once by the kernels have the bits of one after the other without."""

import warnings

import pytest
import torch

from mi_metrics import KNNMutualInformation, MutualInformationWarning
from mi_metrics.functional import (
    knn,
    knn_conditional_mutual_information,
    knn_mutual_information,
    knn_sets,
)
from mi_metrics.functional.neighbors import sets_doubts
from mi_metrics.kernels import gpu
from tests.cautions import ignore_cautions
from tests.kernels.test_neighbors import make

pytestmark = ignore_cautions


def three(kind, size=40, dim=3):
    return torch.stack(
        [torch.from_numpy(make(k, size, dim)) for k in (kind, "continuous", "8 bits")]
    )


def alone(function, *tensors, **options):
    return torch.stack([function(*each, **options) for each in zip(*tensors, strict=True)])


@pytest.fixture
def calls(monkeypatch):
    """Return the families of kernels that are called."""
    found = []
    attempt = gpu.attempt

    def watched(family, tensors, call):
        found.append(family)
        return attempt(family, tensors, call)

    monkeypatch.setattr(gpu, "attempt", watched)
    return found


@pytest.mark.parametrize(
    ("kind", "standardize"), [("grid", "rank"), ("labels", True), ("all equal", True)]
)
def test_estimates_of_sets(card, calls, kind, standardize):
    rows = three(kind)
    x, y, z = rows[..., :1], rows[..., 1:2], rows[..., 2:]
    how = {"standardize": standardize}
    for function, tensors, options in (
        (knn_mutual_information, (x, rows[..., 1:]), how),
        (knn_mutual_information, (x, y), {"algorithm": "ksg2", "n_neighbors": 2, **how}),
        (knn_conditional_mutual_information, (x, y, z), how),
    ):
        calls.clear()
        found = function(*tensors, **options)
        # One search for all sets; some are estimated once more, for a doubt.
        assert calls[:3] == ["neighbors", "counts", "counts"]
        assert torch.equal(found, card(alone, function, *tensors, **options))


def test_estimates_of_classes(card, calls):
    rows = three("continuous", 60)
    labels = torch.arange(60).expand(3, -1) % torch.tensor([[2], [3], [29]])
    found = knn_mutual_information(rows, labels, discrete_y=True)
    assert calls == ["neighbors", "counts"]
    assert torch.equal(found, card(alone, knn_mutual_information, rows, labels, discrete_y=True))
    # A label that occurs once leaves a set with fewer samples than the others.
    labels[1, 0] = 99
    found = knn_mutual_information(rows, labels, discrete_y=True)
    assert torch.equal(found, card(alone, knn_mutual_information, rows, labels, discrete_y=True))


def test_sets_in_parts(card, calls, monkeypatch):
    rows = three("grid")
    monkeypatch.setattr(knn_sets, "CHUNK", 80)
    found = knn_mutual_information(rows[..., :1], rows[..., 1:])
    assert calls[:6] == ["neighbors", "counts", "counts"] * 2
    right = card(alone, knn_mutual_information, rows[..., :1], rows[..., 1:])
    assert torch.equal(found, right)


def test_more_neighbors_than_kernels_serve(card):
    rows = three("continuous", 80, 2)
    x, y = rows[..., :1], rows[..., 1:]
    found = knn_mutual_information(x, y, n_neighbors=70)
    right = card(alone, knn_mutual_information, x, y, n_neighbors=70)
    assert torch.equal(found, right)


def test_where_kernels_do_not_serve_nothing_is_done_in_vain(card, monkeypatch):
    told = []
    monkeypatch.setattr(knn_sets, "tell_sets_apart", lambda *a, **o: told.append(1))
    rows = three("continuous", 80, 2)
    x, y = rows[..., :1], rows[..., 1:]
    knn_mutual_information(x, y, n_neighbors=70)
    for family in ("neighbors", "counts"):
        gpu._failed[family, frozenset({torch.float64})] = "No C compiler."
        knn_mutual_information(x, y)
        gpu._failed.clear()
    assert told == []


def test_doubts_are_asked_about_in_parts(card, monkeypatch):
    rows = three("continuous", 40, 2)
    rows[1] = rows[1, torch.arange(40) // 2]
    sizes, order = [], sets_doubts.lexicographic_order

    def watched(table):
        sizes.append(len(table[0]))
        return order(table)

    monkeypatch.setattr(sets_doubts, "lexicographic_order", watched)
    how = {"discrete_y": False, "standardize": True}
    whole = knn.doubtful_sets(rows, 1, 3, **how)
    assert max(sizes) == 120
    monkeypatch.setattr(knn, "CHUNK", 50)
    sizes.clear()
    parts = knn.doubtful_sets(rows, 1, 3, **how)
    assert max(sizes) == 40
    assert 1 in whole
    assert set(whole) <= set(parts)


def test_doubts_are_those_of_each(card):
    rows = three("continuous", 40, 2)
    rows[1] = rows[1, torch.arange(40) // 2]
    rows[2, 0] = 1e9

    def said(function, *arguments):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", MutualInformationWarning)
            function(*arguments)
        return [(str(w.message), w.message.kind) for w in found]

    found = said(knn_mutual_information, rows[..., :1], rows[..., 1:])
    assert {kind for _, kind in found} == {"copies", "far samples"}
    assert found == card(said, knn_mutual_information, rows[..., :1], rows[..., 1:])


def test_a_metric_of_several_outputs(card, calls):
    rows = three("continuous", 40, 2).float()
    x, y = rows[..., 0].T, rows[..., 1].T

    def value():
        metric = KNNMutualInformation(num_outputs=3)
        metric.update(x, y)
        return metric.compute()

    found = value()
    assert calls == ["neighbors", "counts", "counts"]
    assert torch.equal(found, card(value))
