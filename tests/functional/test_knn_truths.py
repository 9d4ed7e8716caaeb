"""knn_mutual_information against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from mi_metrics.distributions import DISTRIBUTIONS
from mi_metrics.functional import knn_mutual_information
from tests.functional.knn_oracle import estimate, gaussian_pair


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
    assert np.mean(errors) <= 0.0145


@pytest.mark.parametrize("unit", [1, 1000])
def test_joint_scale_of_codes_whose_first_coordinate_has_the_information(unit: float) -> None:
    """Five coordinates each, as those of principal components; only the first two depend."""
    truth, scale = 1.15, np.array([3, 1, 0.3, 0.1, 0.03])
    r = math.sqrt(-math.expm1(-2 * truth))
    errors: dict[str | bool, list[float]] = {"joint": [], True: []}
    for seed in range(4):
        x, y = np.random.default_rng(seed).standard_normal((2, 4000, 5))
        y[:, 0] = r * x[:, 0] + math.sqrt(1 - r * r) * y[:, 0]
        for standardize, found in errors.items():
            found.append(estimate(scale * x, unit * scale * y, standardize=standardize) - truth)
    assert abs(np.mean(errors["joint"])) <= 0.02
    assert np.mean(errors[True]) < -0.5


@pytest.mark.campaign
def test_the_catalogue_by_ranks() -> None:
    errors = []
    for distribution in DISTRIBUTIONS.values():
        x, y = distribution.sample(0.5, 32, 2000, torch.Generator().manual_seed(0))
        values = knn_mutual_information(x.unsqueeze(-1), y.unsqueeze(-1), standardize="rank")
        errors.append(abs(values.mean().item() - 0.5))
    assert np.mean(errors) <= 0.02


def rounding_loss(r: float, step: float) -> float:
    """What rounding takes from the information of a Gaussian pair, by the midpoint rule."""
    edges = np.arange(-8, 8 + step, step) - step / 2
    inside = edges[:-1, None] + step * (np.arange(64) + 0.5) / 64
    below = stats.norm.cdf((edges - r * inside[..., None]) / math.sqrt(1 - r * r))
    table = (stats.norm.pdf(inside)[..., None] * np.diff(below)).sum(1)
    table /= table.sum()
    product = np.outer(table.sum(1), table.sum(0))
    return seed_study_truth(r) - float(special.rel_entr(table, product).sum())


@pytest.mark.campaign
@pytest.mark.parametrize("r", [0.6, 0.9])
@pytest.mark.parametrize("step", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("dim", [2, 3])
def test_rounded_vectors_lose_what_rounding_takes(dim: int, step: float, r: float) -> None:
    """Beside the estimate of the same samples unrounded, which has the same bias of dimension."""
    found, truth = [], dim * seed_study_truth(r)
    for seed in range(16):
        x, noise = np.random.default_rng(seed).standard_normal((2, 3000, dim))
        y = r * x + math.sqrt(1 - r * r) * noise
        rounded = estimate(np.round(x / step), np.round(y / step))
        found.append(rounded - estimate(x, y) + dim * rounding_loss(r, step))
    assert abs(np.mean(found)) <= max(0.025, 0.03 * truth)
