"""knn_mutual_information: against the formulas written out, scikit-learn, closed forms, and what
must not change it.
"""

import doctest
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

from mi_metrics.functional import knn
from mi_metrics.functional.knn import knn_mutual_information, rows_mutual_information
from mi_metrics.functional.neighbors import search as neighbors
from mi_metrics.functional.neighbors import steps as _steps
from mi_metrics.functional.neighbors import within as ranges
from tests.cautions import warned

# --------------------------------------------------------------------------------------------------
# The formulas, point by point, over all distances


def scaled(values: np.ndarray) -> np.ndarray:
    spread = values.std(0)
    return values / np.where(values.min(0) == values.max(0), 1, spread)


def gaps(values: np.ndarray) -> np.ndarray:
    return np.abs(values[:, None] - values[None]).max(-1)


def tie_rule(gap: np.ndarray, eps: float) -> int:
    """n_v of one sample from its distances to all samples, itself included."""
    if eps == 0:
        return int((gap == 0).sum())
    return max(int((gap < eps).sum()), int((gap <= eps).sum()) - 1)


def ksg1(x: np.ndarray, y: np.ndarray, k: int) -> float:
    dx, dy = gaps(x), gaps(y)
    terms = []
    for gap_x, gap_y in zip(dx, dy, strict=True):
        joint = np.maximum(gap_x, gap_y)
        eps = np.sort(joint)[k]
        others = int((joint <= eps).sum()) - (eps > 0)
        terms.append(
            special.psi(others)
            - special.psi(tie_rule(gap_x, eps))
            - special.psi(tie_rule(gap_y, eps))
        )
    return float(special.psi(len(x)) + np.mean(terms))


def ksg2(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Equation 9 as printed, for data without ties."""
    dx, dy = gaps(x), gaps(y)
    terms = []
    for i, (gap_x, gap_y) in enumerate(zip(dx, dy, strict=True)):
        order = np.argsort(np.maximum(gap_x, gap_y))
        neighbors = order[order != i][:k]
        n_x = (gap_x <= gap_x[neighbors].max()).sum() - 1
        n_y = (gap_y <= gap_y[neighbors].max()).sum() - 1
        terms.append(special.psi(k) - 1 / k - special.psi(n_x) - special.psi(n_y))
    return float(special.psi(len(x)) + np.mean(terms))


def ross(x: np.ndarray, labels: np.ndarray, k: int) -> float:
    sizes = {label: int((labels == label).sum()) for label in labels.tolist()}
    kept = np.array([sizes[label] > 1 for label in labels.tolist()])
    x, labels = x[kept], labels[kept]
    terms = []
    for gap, label in zip(gaps(x), labels.tolist(), strict=True):
        inside = gap[labels == label]
        eps = np.sort(inside)[min(k, len(inside) - 1)]
        others = int((inside <= eps).sum()) - (eps > 0)
        terms.append(
            special.psi(others) - special.psi(len(inside)) - special.psi(tie_rule(gap, eps))
        )
    return float(special.psi(len(x)) + np.mean(terms))


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


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize(("d_x", "d_y"), [(1, 1), (2, 1), (1, 3), (3, 2), (6, 5), (20, 9)])
def test_equals_the_formulas(d_x: int, d_y: int, k: int, device: torch.device) -> None:
    x, y = gaussian_pair(400, 0.7, k, d_x, d_y)
    y = y * 7 + 100
    for options, (a, b) in ({"standardize": False}, (x, y)), ({}, (scaled(x), scaled(y))):
        assert estimate(x, y, k, device=device, **options) == pytest.approx(
            ksg1(a, b, k), abs=1e-10
        )
        assert estimate(x, y, k, device=device, algorithm="ksg2", **options) == pytest.approx(
            ksg2(a, b, k), abs=1e-10
        )


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("levels", [2, 5, 30, 300])
def test_ties_follow_the_rule(levels: int, k: int, device: torch.device) -> None:
    x, y = gaussian_pair(400, 0.7, k, 2, 1)
    x, y = np.round(x * levels / 6), np.round(y * levels / 6)
    for columns in (1, 2):
        value = estimate(x[:, :columns], y, k, device=device, standardize=False)
        assert value == pytest.approx(ksg1(x[:, :columns], y, k), abs=1e-10)
    mixed = gaussian_pair(400, 0.7, 1)[1]
    assert estimate(x, mixed, k, device=device, standardize=False) == pytest.approx(
        ksg1(x, mixed, k), abs=1e-10
    )


def test_standardizing_keeps_equal_distances_equal(device: torch.device) -> None:
    """A common deviation cannot matter; dividing by it in plain floating point would break ties
    apart.
    """
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 40, (2, 500))
    y[:40] = x[:40] = np.arange(40)
    y = rng.permutation(x)
    for offset in (0, 10**9):
        value = estimate(x + offset, y, device=device)
        assert value == pytest.approx(ksg1(x[:, None], y[:, None], 3), abs=1e-10)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("d_x", [1, 2])
def test_ross_equals_the_formula(d_x: int, k: int, device: torch.device) -> None:
    x, y = gaussian_pair(400, 0.8, k, d_x)
    labels = np.digitize(y[:, 0], [-1, 0, 1.5])
    labels[:2] = 7, 8  # each alone in its class
    labels[2:5] = -3  # fewer than k others
    for samples in (x, np.round(3 * x), np.round(40 * x)):
        value = estimate(samples, labels, k, device=device, discrete_y=True, standardize=False)
        assert value == pytest.approx(ross(samples, labels, k), abs=1e-10)


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
    a, b = scaled(x)[:, 0], scaled(y)[:, 0]
    assert estimate(x, y, device=device) == pytest.approx(
        private._compute_mi_cc(a, b, 3), abs=1e-10
    )
    labels = np.digitize(y[:, 0], [-0.5, 0.5])
    value = estimate(x, labels, device=device, discrete_y=True)
    assert value == pytest.approx(private._compute_mi_cd(a, labels, 3), abs=1e-10)


# --------------------------------------------------------------------------------------------------
# What must not change the value


@pytest.mark.parametrize(
    "options", [{}, {"algorithm": "ksg2"}, {"standardize": False}, {"discrete_y": True}]
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
    for module in (knn, neighbors, ranges, _steps):
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


# --------------------------------------------------------------------------------------------------
# Degenerate and quantised data


@pytest.mark.parametrize("algorithm", ["ksg1", "ksg2"])
@pytest.mark.parametrize("standardize", [True, False])
def test_constants_are_exactly_zero(
    algorithm: str, standardize: bool, device: torch.device
) -> None:
    options = {"algorithm": algorithm, "standardize": standardize, "device": device}
    rng = np.random.default_rng(0)
    for varying in (
        rng.standard_normal(97),
        rng.integers(0, 5, 97),
        rng.integers(0, 90, 97),
        np.full(97, 0.1),
    ):
        for constant in (0.0, 0.1, -1e300, 1e-300):
            assert estimate(varying, np.full(97, constant), **options) == 0
            assert estimate(np.full((97, 2), constant), varying, **options) == 0
        assert estimate(varying, np.zeros(97, dtype=int), discrete_y=True, device=device) == 0
    assert estimate(np.full(97, 0.1), rng.integers(0, 3, 97), discrete_y=True, device=device) == 0
    for size in (2, 3, 4):
        assert estimate(np.arange(size), np.ones(size), 1, **options) == 0


@pytest.mark.parametrize("algorithm", ["ksg1", "ksg2"])
def test_quantised_data(algorithm: str, device: torch.device) -> None:
    rng = np.random.default_rng(0)
    for size in (1000, 4900):
        x, y = rng.integers(0, 256, (2, size))
        assert abs(estimate(x, y, algorithm=algorithm, device=device)) < 0.05
        a, b = (np.clip(np.floor(v[:, 0] * 32 + 128), 0, 255) for v in gaussian_pair(size, 0.6, 1))
        truth = -0.5 * math.log(1 - 0.6**2)
        for values in ((a, b), (a / 255, b / 255), ((a / 255).astype(np.float32), b)):
            assert estimate(*values, algorithm=algorithm, device=device) == pytest.approx(
                truth, abs=0.08
            )


@pytest.mark.parametrize(("r", "error"), [(0.0, -0.033), (0.6, -0.027), (0.9, 0.002)])
def test_what_eight_bits_cost(r: float, error: float) -> None:
    """The figures of the documentation, at N = 4900."""
    pairs = [np.stack(gaussian_pair(4900, r, seed)) for seed in range(24)]
    x, y = torch.from_numpy(np.clip(np.round(np.stack(pairs, 1) * 32), -128, 127))
    errors = knn_mutual_information(x, y) + 0.5 * math.log(1 - r**2)
    assert errors.mean() == pytest.approx(error, abs=0.008)
    assert errors.abs().max() < 0.06


@pytest.mark.parametrize("algorithm", ["ksg1", "ksg2"])
def test_discrete_data_gives_the_plug_in_estimate(algorithm: str, device: torch.device) -> None:
    """With every value repeated more than k times, the counts are those of the contingency
    table.
    """
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, 2000)
    y = (x + rng.integers(0, 2, 2000)) % 4
    table = np.histogram2d(x, y, bins=4)[0] / 2000
    entropies = [stats.entropy(p.ravel()) for p in (table.sum(0), table.sum(1), table)]
    value = estimate(x, y, algorithm=algorithm, device=device)
    assert value == pytest.approx(entropies[0] + entropies[1] - entropies[2], abs=0.01)
    assert estimate(x, x, algorithm=algorithm, device=device) == pytest.approx(
        math.log(4), abs=0.01
    )


def test_identical_variables_are_finite(device: torch.device) -> None:
    x = gaussian_pair(500, 0.0)[0]
    for options in ({}, {"algorithm": "ksg2"}, {"standardize": False}):
        value = estimate(x, x, device=device, **options)
        assert math.isfinite(value)
        assert value > 3


# --------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"n_neighbors": 0},
            ValueError,
            "`n_neighbors` to be at least 1, but got 0",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"n_neighbors": -2},
            ValueError,
            "`n_neighbors` to be at least 1",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"n_neighbors": 2.0},
            TypeError,
            "`n_neighbors` to be an int",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"n_neighbors": 4},
            ValueError,
            "N = 4 samples .* n_neighbors=4. Pass more",
        ),
        ([1.0, 2, 3], [1.0, 2, 3], {}, ValueError, "more samples than `n_neighbors`"),
        ([], [], {}, ValueError, "N = 0 samples"),
        (
            [1.0, 2, 3, math.nan],
            [1.0, 2, 3, 4],
            {},
            ValueError,
            "`x` to be finite, but it holds 1 NaN",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, -math.inf, math.inf],
            {},
            ValueError,
            "`y` to be finite, but it holds 2",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4, 5],
            {},
            ValueError,
            "agree in all but the last dimension, but got \\(4,\\)",
        ),
        ([[1.0]] * 5, [[[1.0]] * 5], {}, ValueError, "agree in all but the last"),
        ([[1.0, 2, 3, 4]], [[1.0, 2, 3, 4]], {}, ValueError, "use x.unsqueeze"),
        (1.0, 1.0, {}, ValueError, "shape \\(..., N, d\\) or \\(N,\\)"),
        ([[]] * 5, [[1.0]] * 5, {}, ValueError, "at least one coordinate"),
        ([1j, 2, 3, 4], [1.0, 2, 3, 4], {}, TypeError, "`x` to be real"),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"discrete_y": True},
            TypeError,
            "integer or bool class labels .* y.long",
        ),
        (
            [1.0, 2, 3, 4],
            [1, 2, 3, 4],
            {"discrete_y": True},
            ValueError,
            "class of two or more members",
        ),
        ([1.0] * 4, [[1, 2]] * 4, {"discrete_y": True}, ValueError, "one class label per sample"),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"algorithm": "ksg3"},
            ValueError,
            "`algorithm` to be one of 'ksg1', 'ksg2'",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"unit": "bans"},
            ValueError,
            "`unit` to be one of 'nats', 'bits'",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"discrete_y": 1},
            TypeError,
            "`discrete_y` to be True or False, but got 1",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"standardize": "no"},
            TypeError,
            "`standardize` to be True or False",
        ),
    ],
)
def test_bad_input_is_refused(
    x: object, y: object, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        knn_mutual_information(torch.tensor(x), torch.tensor(y), **options)  # type: ignore[arg-type]


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"`x` to be a torch.Tensor, but got ndarray"):
        knn_mutual_information(np.zeros(5), torch.zeros(5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on the same device, but got cpu and meta"):
        knn_mutual_information(torch.zeros(5), torch.zeros(5, device="meta"))


# --------------------------------------------------------------------------------------------------
# Closed forms


def seed_study_truth(r: float) -> float:
    return -0.5 * math.log(1 - r * r)


@pytest.mark.parametrize("r", [0.0, 0.6, 0.9, 0.99])
def test_both_algorithms_on_bivariate_gaussians(r: float) -> None:
    pairs = [gaussian_pair(1000, r, seed) for seed in range(8)]
    first, second = (
        np.mean([estimate(*pair, algorithm=name) for pair in pairs]) for name in ("ksg1", "ksg2")
    )
    assert first == pytest.approx(seed_study_truth(r), abs=0.03)
    assert second == pytest.approx(first, abs=0.012)


def multivariate_gaussian(
    size: int, covariance: np.ndarray, d_x: int, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    # The singular vectors behind the default method have other signs on other processors.
    samples = np.random.default_rng(seed).multivariate_normal(
        np.zeros(len(covariance)), covariance, size, method="cholesky"
    )
    log_det = [
        np.linalg.slogdet(c)[1]
        for c in (covariance[:d_x, :d_x], covariance[d_x:, d_x:], covariance)
    ]
    return samples[:, :d_x], samples[:, d_x:], 0.5 * (log_det[0] + log_det[1] - log_det[2])


@pytest.mark.parametrize(
    ("d", "dense", "bias"),
    [
        (2, True, 0.01),
        (3, True, -0.01),
        (4, True, -0.02),
        (5, True, -0.03),
        # The other coordinates drown the dependence of the first: biased towards 0, as documented.
        (2, False, 0.005),
        (3, False, -0.05),
        (4, False, -0.125),
        (5, False, -0.185),
    ],
)
@pytest.mark.parametrize("algorithm", ["ksg1", "ksg2"])
def test_multivariate_gaussians(d: int, dense: bool, bias: float, algorithm: str) -> None:
    """Dense: all correlations are 0.5. Sparse: the first coordinates are correlated by 0.8, all
    others by 0. The biases are means over 40 other draws, where single values spread by 0.025.
    """
    covariance = np.full((2 * d, 2 * d), 0.5 if dense else 0.0)
    np.fill_diagonal(covariance, 1)
    if not dense:
        covariance[0, d] = covariance[d, 0] = 0.8
    errors = []
    for seed in range(4):
        x, y, truth = multivariate_gaussian(2000, covariance, d, seed)
        errors.append(estimate(x, y, algorithm=algorithm) - truth)
    # Four standard deviations of a mean of 4.
    assert np.mean(errors) == pytest.approx(bias, abs=4 * 0.025 / 4**0.5)


@pytest.mark.parametrize("dof", [2, 3])
@pytest.mark.parametrize("r", [0.0, 0.75])
def test_student(dof: int, r: float) -> None:
    """At zero correlation the common denominator still ties x and y together."""
    size = 5000
    x, y = gaussian_pair(size, r, dof)
    denominator = np.sqrt(np.random.default_rng(1).chisquare(dof, (size, 1)) / dof)

    def entropy(d: int) -> float:
        """Differential entropy of the d-variate distribution of unit scale."""
        low, high = dof / 2, (dof + d) / 2
        tail = high * (special.psi(high) - special.psi(low))
        return special.gammaln(low) - special.gammaln(high) + d / 2 * math.log(dof * math.pi) + tail

    truth = 2 * entropy(1) - entropy(2) - 0.5 * math.log(1 - r * r)
    assert truth > 0.04
    value = estimate(np.arcsinh(x / denominator), np.arcsinh(y / denominator))
    assert value == pytest.approx(truth, abs=0.04)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 0.75])
def test_uniform_additive_noise(epsilon: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, 5000)
    y = x + rng.uniform(-epsilon, epsilon, 5000)
    truth = 1 / (4 * epsilon) if epsilon > 0.5 else epsilon - math.log(2 * epsilon)
    assert estimate(x, y) == pytest.approx(truth, abs=0.05)


@pytest.mark.parametrize("r", [0.3, 0.8])
def test_monotone_transforms_keep_the_information(r: float) -> None:
    x, y = gaussian_pair(4000, r)

    def half_cube(v: np.ndarray) -> np.ndarray:
        return np.sign(v) * np.abs(v) ** 1.5

    truth = seed_study_truth(r)
    assert estimate(np.arcsinh(x), np.arcsinh(y)) == pytest.approx(truth, abs=0.04)
    assert estimate(half_cube(x), half_cube(y)) == pytest.approx(truth, abs=0.05)
    assert estimate(stats.norm.cdf(x), y**3) == pytest.approx(truth, abs=0.08)


@pytest.mark.parametrize("r", [0.3, 0.8])
def test_embeddings_keep_the_information(r: float) -> None:
    x, y = gaussian_pair(4000, r)
    t = 3 * np.pi / 2 * (1 + 2 * stats.norm.cdf(x))
    roll = np.concatenate((t * np.cos(t), t * np.sin(t)), 1) / 21
    z = np.random.default_rng(1).standard_normal((4000, 1))
    truth = seed_study_truth(r)
    assert estimate(roll, y) == pytest.approx(truth, abs=0.06)
    # a rotation of (y, z) by an angle that depends on its length is one to one; z is independent of
    # x
    plane = np.concatenate((y, z), 1)
    turn = np.linalg.norm(plane, axis=1)
    spiral = np.stack(
        (
            np.cos(turn) * plane[:, 0] - np.sin(turn) * plane[:, 1],
            np.sin(turn) * plane[:, 0] + np.cos(turn) * plane[:, 1],
        ),
        1,
    )
    assert estimate(x, spiral) == pytest.approx(truth, abs=0.08)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 4.0])
def test_gamma_exponential(alpha: float) -> None:
    """x gamma-distributed with shape alpha, y exponential with rate x: I = ψ(α+1) − log α."""
    rng = np.random.default_rng(0)
    x = rng.gamma(alpha, size=4000)
    y = rng.exponential(1 / x)
    assert estimate(np.log(x), np.log(y)) == pytest.approx(
        special.psi(alpha + 1) - math.log(alpha), abs=0.04
    )


@pytest.mark.parametrize("shift", [0.5, 1.5, 4.0])
def test_class_conditional_gaussians(shift: float, device: torch.device) -> None:
    """I = h(mixture) − h(Gaussian), the first by quadrature."""
    weights, means = np.array([0.5, 0.3, 0.2]), np.array([0.0, shift, 3 * shift])
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 4000, p=weights)
    x = means[labels] + rng.standard_normal(4000)

    def integrand(v: float) -> float:
        return float(special.entr((weights * stats.norm.pdf(v - means)).sum()))

    mixture = integrate.quad(integrand, -10, 3 * shift + 10, limit=200)[0]
    truth = mixture - 0.5 * math.log(2 * math.pi * math.e)
    assert estimate(x, labels, device=device, discrete_y=True) == pytest.approx(truth, abs=0.03)


@pytest.mark.slow
def test_the_seed_study() -> None:
    """r at indices 0, 6, 12, 18, 24 of 25, all seven N, 64 draws, the mean over draws against the
    truth.
    """
    truths = np.linspace(0, seed_study_truth(0.99), 25)[[0, 6, 12, 18, 24]]
    errors = []
    for truth in truths:
        r = math.sqrt(-math.expm1(-2 * truth))
        for n in np.logspace(1, 1.85, 7).astype(int) ** 2:
            generator = torch.Generator().manual_seed(int(n))
            x = torch.randn(64, n, 1, generator=generator)
            y = r * x + math.sqrt(1 - r * r) * torch.randn(64, n, 1, generator=generator)
            errors.append(abs(knn_mutual_information(x, y).mean().item() - truth))
    assert np.mean(errors) <= 0.0165


def test_docstring_example() -> None:
    assert doctest.testmod(knn).failed == 0


def test_no_warnings(device: torch.device) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = gaussian_pair(100, 0.5)
        estimate(x, y, device=device)
        estimate(x * 1e300, np.ones(100), device=device)


class TestFarSamples:
    """A far sample sets the standard deviation, and with it what the neighbours can tell apart."""

    @pytest.mark.parametrize("n", [100, 3000])
    @pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
    def test_is_said_where_they_hide_the_rest(self, n, scale):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(n, 0.6))
        x[n // 2] = 1e5
        y[n // 2] = 0
        with warned(
            "far samples", match=r"Far samples set the standard deviation .* ranks, v\.argsort"
        ):
            value = knn_mutual_information(scale * x, y)
        assert value < 0.1
        assert knn_mutual_information(x.argsort().argsort(), y) > 0.12
        assert knn_mutual_information(x, y, standardize=False) > 0.12

    @pytest.mark.parametrize(
        "heavy", [torch.exp, lambda v: v**3, lambda v: (2 * v).exp(), torch.sign, torch.round]
    )
    @pytest.mark.parametrize("n", [100, 3000])
    def test_heavy_tails_and_ties_alone_are_no_reason(self, heavy, n):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(n, 0.6))
        knn_mutual_information(heavy(x), y)
        knn_mutual_information(x, heavy(y))

    @pytest.mark.parametrize("n", [100, 1000])
    @pytest.mark.parametrize("r", [0.6, 0.99])
    def test_does_no_harm_up_to_a_tenth_of_n_times_the_spread(self, r, n):
        pairs = [gaussian_pair(n, r, seed) for seed in range(16)]
        x, y = (torch.from_numpy(np.stack(v)) for v in zip(*pairs, strict=True))
        far = x.clone()
        far[:, 3] = n / 10
        loss = (knn_mutual_information(far, y) - knn_mutual_information(x, y)).mean().item()
        assert -0.04 < loss < 0.02

    @pytest.mark.parametrize("n", [100, 1000])
    def test_is_said_from_about_n_times_the_spread_on(self, n):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(n, 0.6))
        x[3] = n
        knn_mutual_information(x, y)
        x[3] = 2 * n
        with warned("far samples"):
            knn_mutual_information(x, y)

    def test_is_said_beside_a_value_that_most_samples_have(self):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(3000, 0.6))
        rain = (x - 0.9).clip(0)
        knn_mutual_information(rain, y)
        knn_mutual_information((x > 3).double(), y)
        knn_mutual_information((torch.arange(3000) == 7).double(), y)
        rain[7] = 1e6
        with warned("far samples"):
            assert knn_mutual_information(rain, y) < 0.01

    def test_is_not_said_of_too_few_for_quartiles(self):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(30, 0.6))
        x[7] = 1e5
        knn_mutual_information(x[:29], y[:29])
        with warned("far samples"):
            knn_mutual_information(x, y)

    def test_a_single_coordinate_beside_labels_has_no_scale_to_compare(self):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(3000, 0.6))
        clean = knn_mutual_information(x, (y > 0).long(), discrete_y=True).item()
        x[7] = 1e6
        assert knn_mutual_information(x, (y > 0).long(), discrete_y=True).item() == pytest.approx(
            clean, abs=0.005
        )

    def test_labels_are_no_coordinates(self):
        x = torch.from_numpy(np.concatenate(gaussian_pair(1000, 0.6), 1))
        labels = torch.arange(1000)
        labels[500:] = 500
        labels[7] = 10**9
        knn_mutual_information(x, labels, discrete_y=True)
        with warned("far samples"):
            knn_mutual_information(
                x + 1e6 * (torch.arange(1000) == 3)[:, None], labels, discrete_y=True
            )
