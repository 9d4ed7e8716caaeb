"""What a metric of neighbours says beside its value: p-value, verdict, and a caution."""

import math

import pytest
import torch

from mi_metrics import KNNMutualInformation, MutualInformationWarning
from mi_metrics.functional import knn_p_value, knn_reliability
from tests.cautions import ignore_cautions

OPTIONS = {
    "scalars": {},
    "bits": {"unit": "bits", "n_neighbors": 5, "algorithm": "ksg2"},
    "ranks": {"standardize": "rank"},
}


def pair(n=300, d=1, r=0.6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, d, generator=generator)
    return x, r * x + math.sqrt(1 - r * r) * noise


def fed(x, y, **kwargs):
    metric = KNNMutualInformation(**kwargs)
    metric.update(x, y)
    return metric


@pytest.mark.parametrize("kwargs", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("d", [1, 3])
def test_the_functions_of_the_samples_to_the_bit(kwargs, d):
    x, y = pair(d=d)
    dims = {} if d == 1 else {"x_dim": d, "y_dim": d}
    metric = fed(x, y, **dims, **kwargs)
    found = metric.p_value(num_permutations=19, seed=2)
    assert torch.equal(found, knn_p_value(x, y, num_permutations=19, seed=2, **kwargs))
    verdict = metric.reliability(parts=4, seed=3)
    expected = knn_reliability(x, y, parts=4, seed=3, **kwargs)
    assert all(torch.equal(a, b) for a, b in zip(verdict, expected, strict=True))
    assert torch.equal(verdict.value, metric.compute())


def test_labels():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (200,), generator=generator)
    x = y + torch.randn(200, generator=generator)
    metric = fed(x, y, discrete_y=True)
    expected = knn_p_value(x, y, discrete_y=True, num_permutations=19)
    assert torch.equal(metric.p_value(num_permutations=19), expected)
    assert torch.equal(metric.reliability().drift, knn_reliability(x, y, discrete_y=True).drift)


def test_outputs_are_judged_one_by_one():
    x, y = pair(200, 2, 0.3)
    metric = fed(x, y, num_outputs=2)
    alone = [fed(x[:, c], y[:, c]) for c in range(2)]
    found = metric.p_value(num_permutations=19)
    assert torch.equal(found, torch.stack([m.p_value(num_permutations=19) for m in alone]))
    verdict = metric.reliability()
    assert verdict.reliable.shape == (2,)
    for c, m in enumerate(alone):
        assert all(torch.equal(v[c], w) for v, w in zip(verdict, m.reliability(), strict=True))


def test_a_bounded_sample_speaks_for_itself():
    x, y = pair(500)
    metric = fed(x, y, max_samples=100)
    (rows,) = metric.rows()
    assert len(rows) == 100
    expected = knn_p_value(rows[:, 0], rows[:, 1], num_permutations=19)
    assert torch.equal(metric.p_value(num_permutations=19), expected)
    assert torch.equal(metric.reliability().drift, knn_reliability(*rows.unbind(1)).drift)


@ignore_cautions
def test_too_few_samples_raise_nothing():
    metric = KNNMutualInformation(check=True)
    for n in (0, 2, 24, 31):
        if n:
            metric.reset()
            metric.update(*pair(n))
        assert metric.p_value(num_permutations=9).isnan() == (n <= 3)
        verdict = metric.reliability()
        assert not verdict.reliable
        assert verdict.drift.isnan()
        assert verdict.reference.isnan()
        assert metric.compute().isnan() == (n <= 3)
    metric.update(*pair(1, seed=1))  # 4 samples in each of 8 parts, more than k
    assert not metric.reliability().drift.isnan()


class TestCheck:
    def test_an_unreliable_value_is_said_once(self):
        metric = KNNMutualInformation(x_dim=8, y_dim=8, check=True)
        plain = KNNMutualInformation(x_dim=8, y_dim=8)
        batch = pair(1000, 8, 0.8)
        metric.forward(*batch)
        plain.update(*batch)
        with pytest.warns(MutualInformationWarning, match="at least 4.0") as caught:
            value = metric.compute()
        assert [w.message.kind for w in caught] == ["unreliable"]
        assert torch.equal(value, plain.compute())
        metric.update(*pair(4, 8))
        metric.compute()

    def test_a_reliable_value_is_not(self):
        metric = fed(*pair(1000), check=True)
        assert metric.compute() == metric.reliability().value

    def test_drift_is_said_as_such(self):
        # Ten coordinates without dependence but one strong pair: parts see less of it.
        generator = torch.Generator().manual_seed(0)
        x, noise = torch.randn(2, 1000, 3, generator=generator)
        turn = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
        metric = fed(x, (x @ turn) ** 3 + 0.05 * noise, x_dim=3, y_dim=3, check=True)
        with pytest.warns(MutualInformationWarning, match="unreliable") as caught:
            metric.compute()
        assert "unreliable" in [w.message.kind for w in caught]

    def test_few_samples_cannot_be_judged(self):
        with pytest.warns(MutualInformationWarning, match="can't be judged") as caught:
            fed(*pair(20), check=True).compute()
        assert [w.message.kind for w in caught] == ["unreliable"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: KNNMutualInformation(check=1), TypeError, "`check`"),
        (lambda m: m.p_value(num_permutations=0), ValueError, "at least 1"),
        (lambda m: m.p_value(seed=-1), ValueError, "`seed` to be at least 0"),
        (lambda m: m.p_value(num_resamples=3), TypeError, "num_permutations"),
        (lambda m: m.reliability(parts=3), ValueError, "power of 2"),
        (lambda m: m.reliability(seed=0.5), TypeError, "`seed`"),
        (lambda m: m.reliability(splits=4), TypeError, "parts"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(fed(*pair(50)))
