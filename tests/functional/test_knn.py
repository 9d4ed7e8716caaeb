"""knn_mutual_information: against the formulas written out, scikit-learn, and what must not change
it.
"""

import doctest
import itertools
import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

from mi_metrics.functional import knn
from mi_metrics.functional.knn import knn_mutual_information, rows_mutual_information
from mi_metrics.functional.neighbors import search, steps, within
from tests.cautions import ignore_cautions
from tests.functional import knn_oracle as oracle
from tests.functional.knn_oracle import estimate, gaussian_pair

STANDARDIZE = (True, False, "rank", "joint")

# --------------------------------------------------------------------------------------------------
# The formulas, point by point, over all distances


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize(("d_x", "d_y"), [(1, 1), (2, 1), (1, 3), (3, 2), (6, 5), (20, 9)])
def test_equals_the_formulas(d_x: int, d_y: int, k: int, device: torch.device) -> None:
    x, y = gaussian_pair(300, 0.7, k, d_x, d_y)
    y = y * 7 + 100
    for standardize, algorithm in itertools.product(STANDARDIZE, ("ksg1", "ksg2")):
        options = {"standardize": standardize, "algorithm": algorithm}
        value = estimate(x, y, k, device=device, **options)
        assert value == pytest.approx(oracle.ksg(x, y, k, **options), abs=1e-12)


def samples_that_tie(d_x: int, d_y: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Vectors of 150 samples of every kind that repeats values, rows or distances."""
    rng = np.random.default_rng(d_x)
    x, y = gaussian_pair(150, 0.7, 0, d_x, d_y)
    for step in (0.05, 0.25, 1):
        yield np.round(x / step) * step, np.round(y / step)
    yield np.round(10 * x) * 3 + 1e9, np.round(10 * y)
    yield np.round(x), y
    yield x.clip(0), y.clip(0)
    yield rng.integers(0, 4, (150, d_x)), rng.integers(0, 4, (150, d_y))
    yield np.round(5 * x), np.round(5 * x)
    yield rng.permuted(np.repeat(np.arange(150.0)[:, None], d_x, 1), axis=0), y
    yield np.where(np.arange(d_x) > 0, x, 7), y
    yield np.repeat(x[:50], 3, 0), np.repeat(y[:50], 3, 0)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize(("d_x", "d_y"), [(1, 1), (2, 1), (3, 2)])
@ignore_cautions
def test_equals_the_formulas_where_values_tie(
    d_x: int, d_y: int, k: int, device: torch.device
) -> None:
    for (x, y), standardize in itertools.product(samples_that_tie(d_x, d_y), STANDARDIZE):
        for algorithm in ("ksg1", "ksg2"):
            options = {"standardize": standardize, "algorithm": algorithm}
            value = estimate(x, y, k, device=device, **options)
            assert value == pytest.approx(oracle.ksg(x, y, k, **options), abs=1e-12)
            assert estimate(y, x, k, device=device, **options) == value


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("d_x", [1, 2])
def test_ross_equals_the_formula(d_x: int, k: int, device: torch.device) -> None:
    for (x, y), standardize in itertools.product(samples_that_tie(d_x, 1), STANDARDIZE):
        labels = np.digitize(y[:, 0], np.quantile(y[:, 0], [0.2, 0.5, 0.9]))
        labels[:2] = 7, 8  # each alone in its class
        labels[2:5] = -3  # fewer than k others
        options = {"standardize": standardize, "discrete_y": True}
        value = estimate(x, labels, k, device=device, **options)
        assert value == pytest.approx(oracle.ross(x, labels, k, standardize), abs=1e-12)


def test_ross_label_values_do_not_matter() -> None:
    x, y = gaussian_pair(300, 0.8)
    labels = (y[:, 0] > 0).astype(np.int64)
    expected = estimate(x, labels, discrete_y=True)
    assert estimate(x, labels.astype(bool), discrete_y=True) == expected
    assert estimate(x, labels.astype(np.uint8) * 200, discrete_y=True) == expected
    # Neighbours among float64's numbers.
    assert estimate(x, labels + 2**60, discrete_y=True) == expected
    assert estimate(x, -labels, discrete_y=True) == expected
    assert estimate(x, labels, discrete_y=True, algorithm="ksg2") == expected


# --------------------------------------------------------------------------------------------------
# scikit-learn: the same scaling, its noise (1e-10) too small to matter without ties


@pytest.mark.parametrize("r", [0.0, 0.6, 0.99])
@pytest.mark.parametrize("k", [3, 7])
def test_agrees_with_scikit_learn(r: float, k: int, device: torch.device) -> None:
    x, y = gaussian_pair(1500, r, seed=k)
    ours = estimate(x, 5 * y, k, device=device)
    assert max(0.0, ours) == pytest.approx(
        mutual_info_regression(x, 5 * y[:, 0], n_neighbors=k)[0], abs=1e-5
    )
    labels = (y[:, 0] > 0.3).astype(int)
    classes = estimate(x, labels, k, device=device, discrete_y=True)
    assert max(0.0, classes) == pytest.approx(
        mutual_info_classif(x, labels, n_neighbors=k)[0], abs=1e-5
    )


@pytest.mark.parametrize("r", [0.3, 0.6, 0.99])
def test_agrees_with_scikit_learn_without_its_noise(r: float, device: torch.device) -> None:
    private = pytest.importorskip("sklearn.feature_selection._mutual_info")
    x, y = gaussian_pair(1500, r)
    a, b = (v[:, 0] / v.std() for v in (x, y))
    assert estimate(x, y, device=device) == pytest.approx(
        private._compute_mi_cc(a, b, 3), abs=1e-10
    )
    labels = np.digitize(y[:, 0], [-0.5, 0.5])
    value = estimate(x, labels, device=device, discrete_y=True)
    assert value == pytest.approx(private._compute_mi_cd(a, labels, 3), abs=1e-10)


# --------------------------------------------------------------------------------------------------
# What must not change the value


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"algorithm": "ksg2"},
        {"standardize": False},
        {"standardize": "rank"},
        {"standardize": "joint"},
        {"discrete_y": True},
    ],
)
@pytest.mark.parametrize("levels", [None, 20])
def test_order_changes_no_bit(
    options: dict[str, object], levels: int | None, device: torch.device
) -> None:
    x, y = gaussian_pair(700, 0.6, 0, 2)
    if levels or options.get("discrete_y"):
        x, y = np.round(x * 5) / 3, np.round(y * 5).astype(int)
    expected = estimate(x, y, device=device, **options)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(x))
        assert estimate(x[order], y[order], device=device, **options) == expected


@pytest.mark.parametrize("levels", [None, 1000, 20])
def test_the_branches_for_cuda_agree(levels: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting, searching and selecting in plain torch, as on CUDA, by strips and all pairs: the
    same bits.
    """
    x, y = gaussian_pair(1500, 0.8, 0, 2)
    labels = (y > 0).astype(int)
    if levels:
        x, y = np.round(x * levels / 6), np.round(y * levels / 6)

    def values() -> list[float]:
        options: list[dict[str, object]] = [{}, {"algorithm": "ksg2"}, {"standardize": False}]
        found = [estimate(a, y, **o) for a in (x[:, :1], x) for o in options]
        return found + [estimate(a, labels, discrete_y=True) for a in (x[:, :1], x)]

    expected = values()
    for module in (search, steps, within):
        monkeypatch.setattr(module, "on_cpu", lambda _: False)
    assert values() == expected


def test_number_of_threads_changes_no_bit() -> None:
    x, y = gaussian_pair(50_000, 0.6)
    expected = estimate(x, y)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert estimate(x, y) == expected
    finally:
        torch.set_num_threads(threads)


def test_symmetry_and_units(device: torch.device) -> None:
    x, y = gaussian_pair(500, 0.8, 0, 1, 2)
    for algorithm in ("ksg1", "ksg2"):
        value = estimate(x, y, device=device, algorithm=algorithm)
        assert estimate(y, x, device=device, algorithm=algorithm) == value
        bits = estimate(x, y, device=device, algorithm=algorithm, unit="bits")
        assert bits == pytest.approx(value / math.log(2), rel=1e-15)


@pytest.mark.parametrize("scale", [1e-300, 5e-308, 1e-30, 1e30, 1e300, 2.0**1021])
def test_scale_does_not_matter(scale: float, device: torch.device) -> None:
    x, y = gaussian_pair(400, 0.8)
    for algorithm in ("ksg1", "ksg2"):
        expected = estimate(x, y, device=device, algorithm=algorithm)
        assert estimate(x * scale, y, device=device, algorithm=algorithm) == pytest.approx(
            expected, abs=1e-4
        )
        raw = estimate(x * scale, y * scale, device=device, algorithm=algorithm, standardize=False)
        assert raw == pytest.approx(
            estimate(x, y, algorithm=algorithm, standardize=False), abs=1e-4
        )
        # units apart without standardizing: finite, whatever it is worth
        assert math.isfinite(estimate(x * scale, y / scale, algorithm=algorithm, standardize=False))
    labels = (y[:, 0] > 0).astype(int)
    classes = estimate(x * scale, labels, device=device, discrete_y=True)
    assert classes == pytest.approx(estimate(x, labels, discrete_y=True), abs=1e-4)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int16, torch.uint8, torch.bool]
)
def test_dtypes_are_lifted_exactly(dtype: torch.dtype, device: torch.device) -> None:
    x, y = (
        torch.from_numpy(v * 20 + 100).to(device).clamp(0, 255).to(dtype)
        for v in gaussian_pair(300, 0.8)
    )
    value = knn_mutual_information(x, y)
    assert value.dtype == torch.float64
    assert value == knn_mutual_information(x.double(), y.double())


def test_batches_are_loops(device: torch.device) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((2, 3, 100, 2))).to(device)
    y = x[..., :1] + torch.from_numpy(rng.standard_normal((2, 3, 100, 1))).to(device)
    labels = (y > 0).int()
    value, classes = (
        knn_mutual_information(x, y),
        knn_mutual_information(x, labels, discrete_y=True),
    )
    assert value.shape == classes.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert value[i, j] == knn_mutual_information(x[i, j], y[i, j])
            assert classes[i, j] == knn_mutual_information(x[i, j], labels[i, j], discrete_y=True)
    assert torch.equal(knn_mutual_information(x, labels[..., 0], discrete_y=True), classes)
    assert knn_mutual_information(x[:0], y[:0]).shape == (0, 3)


def test_shapes_of_scalars(device: torch.device) -> None:
    x, y = (torch.from_numpy(v).to(device) for v in gaussian_pair(100, 0.8))
    expected = knn_mutual_information(x, y)
    assert expected.shape == ()
    for a in (x, x[:, 0]):
        for b in (y, y[:, 0]):
            assert knn_mutual_information(a, b) == expected
    labels = y > 0
    expected = knn_mutual_information(x, labels, discrete_y=True)
    for a in (x, x[:, 0]):
        for b in (labels, labels[:, 0]):
            assert knn_mutual_information(a, b, discrete_y=True) == expected


def test_inputs_are_left_alone(device: torch.device) -> None:
    x, y = (torch.from_numpy(v).to(device).requires_grad_() for v in gaussian_pair(100, 0.8))
    before = x.detach().clone(), y.detach().clone()
    state = torch.get_rng_state()
    assert not knn_mutual_information(x, y).requires_grad
    assert torch.equal(before[0], x)
    assert torch.equal(before[1], y)
    assert torch.equal(state, torch.get_rng_state())


def test_rows_are_what_the_metric_keeps() -> None:
    x, y = gaussian_pair(200, 0.8, 0, 2, 1)
    labels = (y > 0).astype(np.int64)
    rows = torch.from_numpy(np.concatenate((x, y), 1))
    for algorithm in ("ksg1", "ksg2"):
        assert rows_mutual_information(rows, 2, 3, algorithm=algorithm).item() == estimate(
            x, y, algorithm=algorithm
        )
    classes = torch.from_numpy(np.concatenate((x, labels), 1))
    assert rows_mutual_information(classes, 2, 3, discrete_y=True).item() == estimate(
        x, labels, discrete_y=True
    )
    assert rows_mutual_information(rows[:3], 2, 3).isnan()
    assert rows_mutual_information(rows[:0], 2, 3).isnan()
    assert rows_mutual_information(rows, 2, 3, discrete_y=True).isnan()  # every label once


def test_docstring_example() -> None:
    assert doctest.testmod(knn).failed == 0


def test_no_warnings(device: torch.device) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = gaussian_pair(100, 0.5)
        estimate(x, y, device=device)
        estimate(x * 1e300, np.ones(100), device=device)
