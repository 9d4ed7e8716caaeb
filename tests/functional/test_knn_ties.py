"""Constants, labels, rounded and mixed data: what the rule for ties promises.

Figures and tolerances were measured when the rule was chosen, beside the alternatives; truths are
exact.
"""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from sklearn.feature_selection import mutual_info_regression

from mi_metrics.functional import knn_mutual_information
from tests.functional.knn_oracle import estimate, gaussian_pair, ross


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


def rounded_information(r: float, step: float) -> float:
    """The mutual information of a Gaussian pair of correlation r, both rounded to a step.

    Probabilities of cells by quadrature: Gauss-Legendre over each column of cells, exact normal
    integrals over its rows.
    """
    number = math.ceil(6 / step)
    edges = (np.arange(-number, number + 2) - 0.5) * step
    nodes, weights = np.polynomial.legendre.leggauss(8)
    x = (edges[:-1, None] + edges[1:, None]) / 2 + step / 2 * nodes
    below = stats.norm.cdf((edges - r * x[:, :, None]) / math.sqrt(1 - r * r))
    density = step / 2 * weights * stats.norm.pdf(x)
    cells = (density[:, :, None] * np.diff(below, axis=2)).sum(1)
    product = np.outer(cells.sum(1), cells.sum(0))
    return float(special.rel_entr(cells, product).sum())


def test_rounding_itself_loses_information() -> None:
    """The truth of the tests below, beside values that were found by finer quadrature."""
    for r, values in {
        0.6: {0.05: 0.2230, 0.1: 0.2227, 0.15: 0.2221, 0.25: 0.2202},
        0.9: {0.05: 0.8295, 0.1: 0.8268, 0.15: 0.8225, 0.25: 0.8088},
    }.items():
        for step, value in values.items():
            assert rounded_information(r, step) == pytest.approx(value, abs=6e-5)


def errors_of_rounding(
    r: float, step: float, size: int, draws: int, **options: object
) -> tuple[float, float]:
    """The mean error of rounded pairs, and how it differs from that of the same pairs unrounded."""
    errors, differences = [], []
    for seed in range(draws):
        x, y = gaussian_pair(size, r, seed)
        raw = estimate(x, y, **options) + 0.5 * math.log(1 - r * r)
        rounded = estimate(np.round(x / step) * step, np.round(y / step) * step, **options)
        errors.append(rounded - rounded_information(r, step))
        differences.append(errors[-1] - raw)
    return float(np.mean(errors)), float(np.mean(differences))


@pytest.mark.parametrize("algorithm", ["ksg1", "ksg2"])
@pytest.mark.parametrize("standardize", [True, False, "rank"])
@pytest.mark.parametrize("r", [0.0, 0.6, 0.9])
def test_rounded_gaussians(r: float, standardize: object, algorithm: str) -> None:
    """Mesner and Shalizi's counts were off by up to 0.1 here."""
    for step in (0.05, 0.1, 0.25):
        options = {"standardize": standardize, "algorithm": algorithm}
        error, difference = errors_of_rounding(r, step, 4000, 3, **options)
        # Three draws leave a scatter of 0.01 that rounding has no part in.
        assert abs(error) < 0.03
        assert abs(difference) < 0.02


@pytest.mark.campaign
@pytest.mark.parametrize("algorithm", ["ksg1", "ksg2"])
@pytest.mark.parametrize("standardize", [True, False, "rank"])
@pytest.mark.parametrize("r", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("step", [0.02, 0.05, 0.1, 0.15, 0.25])
def test_rounded_gaussians_in_the_mean(
    step: float, r: float, standardize: object, algorithm: str
) -> None:
    for size, draws in ((1000, 100), (4000, 25)):
        options = {"standardize": standardize, "algorithm": algorithm}
        error, difference = errors_of_rounding(r, step, size, draws, **options)
        assert abs(error) < 0.02
        assert abs(difference) < 0.02


@pytest.mark.parametrize("r", [0.0, 0.6, 0.9])
def test_what_eight_bits_cost(r: float) -> None:
    """The figures of the documentation, at N = 4900: nothing that can be seen."""
    pairs = [np.stack(gaussian_pair(4900, r, seed)) for seed in range(24)]
    x, y = torch.from_numpy(np.clip(np.round(np.stack(pairs, 1) * 32), -128, 127))
    values = knn_mutual_information(x, y)
    assert (values.mean() + 0.5 * math.log(1 - r**2)).abs() < 0.01
    raw = knn_mutual_information(*torch.from_numpy(np.stack(pairs, 1)))
    assert (values - raw).abs().max() < 0.03
    expected = knn_mutual_information(x[:3], y[:3])
    assert knn_mutual_information(x[:3] / 255, y[:3] / 255).allclose(expected, rtol=0, atol=1e-4)
    # float32 rounds by more than samples are moved, and breaks ties in its own way.
    single = knn_mutual_information(x[:3].float() / 255, y[:3])
    assert single.allclose(expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("algorithm", ["ksg1", "ksg2"])
def test_uniform_bytes(algorithm: str, device: torch.device) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (2, 4900))
    assert abs(estimate(x, y, algorithm=algorithm, device=device)) < 0.03


@pytest.mark.parametrize("k", [2, 3, 10, 40])
def test_labels_against_themselves_are_log_k(k: int, device: torch.device) -> None:
    x = np.random.default_rng(k).permutation(np.arange(2000) % k)
    for algorithm in ("ksg1", "ksg2"):
        value = estimate(x, x, algorithm=algorithm, device=device)
        assert value == pytest.approx(math.log(k), abs=0.01)
    assert estimate(x, x, discrete_y=True, device=device) == pytest.approx(math.log(k), abs=0.01)


@pytest.mark.parametrize("k", [2, 3, 10, 30])
def test_independent_labels_are_nothing(k: int) -> None:
    rng = np.random.default_rng(0)
    values = [estimate(*rng.integers(0, k, (2, 2000))) for _ in range(8)]
    assert abs(np.mean(values)) < 0.01 + (k / 30) ** 2 * 0.01


def test_the_numbers_of_labels_do_not_matter() -> None:
    """Every pair of labels has more than k copies, so that only coincidences count."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, 2000)
    y = np.where(rng.random(2000) < 0.7, x, rng.integers(0, 5, 2000))
    value = estimate(x, y)
    for relabelled in (-x, np.array([7, -2, 255, 10**6, 3])[x]):
        assert estimate(relabelled, y) == value
        assert estimate(y, relabelled) == value


@pytest.mark.parametrize("dim", [1, 2])
def test_the_numbers_of_classes_do_not_matter_beside_ties(dim: int, device: torch.device) -> None:
    """Zero-inflated, rounded and few-valued numbers beside classes, whose names may change."""
    rng = np.random.default_rng(dim)
    x = rng.standard_normal((120, dim))
    classes = np.arange(120) % 5
    # Two classes that hold the same.
    x[classes == 3] = x[classes == 4]
    for tied in (x.clip(0), x.round(1), x.round()):
        value = estimate(tied, classes, discrete_y=True, device=device)
        assert value == pytest.approx(ross(tied, classes), abs=1e-12)
        for names in ([4, 3, 2, 1, 0], [7, -2, 255, 10**6, 3]):
            renamed = np.array(names)[classes]
            assert estimate(tied, renamed, discrete_y=True, device=device) == value
        # A change of unit keeps the order of x, and with it that of the classes.
        moved = estimate(4 * tied + 1, classes, discrete_y=True, device=device)
        assert moved == pytest.approx(value, abs=1e-4)


def discrete_truth(joint: np.ndarray) -> float:
    return float(special.rel_entr(joint, np.outer(joint.sum(1), joint.sum(0))).sum())


def test_noisy_labels() -> None:
    """Ten labels, 70 % right; the counts of the first edition were .080 off."""
    joint = 0.07 * np.eye(10) + 0.003
    errors = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, other = rng.integers(0, 10, (2, 1000))
        y = np.where(rng.random(1000) < 0.7, x, other)
        errors.append(estimate(x, y) - discrete_truth(joint))
    assert abs(np.mean(errors)) < 0.03


@pytest.mark.parametrize("mean", [3, 30])
def test_independent_counts(mean: int) -> None:
    rng = np.random.default_rng(0)
    values = [estimate(*rng.poisson(mean, (2, 1000)).astype(float)) for _ in range(8)]
    assert abs(np.mean(values)) < 0.02


def test_rounded_heavy_tails() -> None:
    """Lognormal samples of median 10, rounded to whole numbers."""
    for r in (0.0, 0.6):
        errors = []
        for seed in range(8):
            x, y = gaussian_pair(1000, r, seed)
            value = estimate(np.round(10 * np.exp(x)), np.round(10 * np.exp(y)))
            errors.append(value + 0.5 * math.log(1 - r * r))
        assert abs(np.mean(errors)) < 0.03


class TestMixtures:
    """Variables that are partly discrete, at N = 2000."""

    def mean(self, draw: object, draws: int = 8) -> float:
        values = [estimate(*draw(np.random.default_rng(seed))) for seed in range(draws)]
        return float(np.mean(values))

    @pytest.mark.parametrize("quantile", [0.5, 0.8])
    def test_independent_zero_inflated(self, quantile: float) -> None:
        threshold = stats.norm.ppf(quantile)
        value = self.mean(lambda rng: (rng.standard_normal((2, 2000)) - threshold).clip(0))
        assert abs(value) < 0.015

    def test_discrete_and_uniform(self) -> None:
        """x of m values, y uniform on [x, x + 2]: log m − (m − 1) log 2 / m (Gao et al. 2017)."""

        def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            x = rng.integers(0, 5, 2000)
            return x, x + 2 * rng.random(2000)

        assert self.mean(draw) == pytest.approx(math.log(5) - 0.8 * math.log(2), abs=0.02)

    def test_a_rectifier_with_noise(self) -> None:
        """y = relu(x) + noise of 0.3: the entropy of y by quadrature, less that of the noise."""
        y = np.linspace(-3, 8, 40001)
        u = np.linspace(0, 8, 2001)
        density = 0.5 * stats.norm.pdf(y, scale=0.3)
        for value, width in zip(
            u, np.full(2001, u[1]) * np.r_[0.5, np.ones(1999), 0.5], strict=True
        ):
            density += width * stats.norm.pdf(value) * stats.norm.pdf(y - value, scale=0.3)
        truth = special.entr(density).sum() * (y[1] - y[0]) - stats.norm.entropy(scale=0.3)

        def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            x = rng.standard_normal(2000).clip(0)
            return x, x + 0.3 * rng.standard_normal(2000)

        assert self.mean(draw) == pytest.approx(truth, abs=0.025)


@pytest.mark.parametrize("d", [2, 3])
def test_rounded_vectors(d: int) -> None:
    """Rounding to a quarter of the deviation costs a few hundredths of a nat in vectors, more than
    in scalars.
    """
    differences = {0.1: [], 0.25: []}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, noise = rng.standard_normal((2, 1000, d))
        y = 0.6 * x + 0.8 * noise
        raw = estimate(x, y)
        for step, found in differences.items():
            found.append(estimate(np.round(x / step), np.round(y / step)) - raw)
    assert abs(np.mean(differences[0.1])) < 0.03
    assert abs(np.mean(differences[0.25])) < 0.05


@pytest.mark.parametrize("step", [0.1, 0.25])
def test_the_unit_of_rounded_data_does_not_matter(step: float) -> None:
    x, y = (np.round(v / step) for v in gaussian_pair(1000, 0.6))
    for standardize in (True, "rank", "joint"):
        value = estimate(x, y, standardize=standardize)
        for factor, offset in ((10, 0), (0.1, 0), (3, 0), (1, 1e9), (step, 0)):
            other = estimate(factor * x + offset, y, standardize=standardize)
            assert other == pytest.approx(value, abs=1e-4)


def test_scikit_learn_tells_ties_apart_alike() -> None:
    """Its noise is random; the two differ by what that leaves."""
    differences = []
    for seed in range(8):
        x, y = (np.round(v[:, 0], 1) for v in gaussian_pair(1000, 0.6, seed))
        theirs = mutual_info_regression(x[:, None], y, random_state=seed)[0]
        differences.append(estimate(x, y) - theirs)
    assert abs(np.mean(differences)) < 0.01


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
