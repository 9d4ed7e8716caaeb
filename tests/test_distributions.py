import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from mi_metrics.distributions import DISTRIBUTIONS, student_t
from mi_metrics.functional import knn_mutual_information

GAUSSIAN_PAIRS = ("gaussian", "lognormal", "cubed")
TRUTHS = (0.0424115, 0.3, 0.5, 1.0, 1.959)


def pairs(name, truth, seed=0, draws=4, n=5000):
    return DISTRIBUTIONS[name].sample(truth, draws, n, torch.Generator().manual_seed(seed))


def by_quadrature(joint, x_density, y_density, x_range, y_range):
    """Return the information of a smooth joint density by Gauss-Legendre quadrature on a grid."""
    nodes, weights = np.polynomial.legendre.leggauss(800)
    (x, wx), (y, wy) = (
        ((hi - lo) / 2 * nodes + (hi + lo) / 2, (hi - lo) / 2 * weights)
        for lo, hi in (x_range, y_range)
    )
    p = joint(x[:, None], y[None, :])
    mass = wx[:, None] * wy[None, :]
    assert (p * mass).sum() == pytest.approx(1, abs=1e-6)
    return float(
        (
            mass * (special.xlogy(p, p) - special.xlogy(p, x_density(x)[:, None] * y_density(y)))
        ).sum()
    )


class TestClosedForms:
    """The information of a parameter, against integrals over densities from SciPy."""

    @pytest.mark.parametrize("name", GAUSSIAN_PAIRS)
    @pytest.mark.parametrize("r", [0.0, 0.6, 0.95])
    def test_gaussian(self, name, r):
        def joint(x, y):
            return stats.multivariate_normal.pdf(
                np.stack(np.broadcast_arrays(x, y), -1), cov=[[1, r], [r, 1]]
            )

        value = by_quadrature(joint, stats.norm.pdf, stats.norm.pdf, (-9, 9), (-9, 9))
        assert DISTRIBUTIONS[name].information(r) == pytest.approx(value, abs=1e-9)

    @pytest.mark.parametrize("nu", [1, 3, 10.5])
    @pytest.mark.parametrize("r", [0.0, 0.75])
    def test_student_t(self, nu, r):
        # In units of asinh the tails decay exponentially; the entropies' change cancels.
        def joint(u, v):
            x, y = np.broadcast_arrays(np.sinh(u), np.sinh(v))
            density = stats.multivariate_t.pdf(np.stack([x, y], -1), shape=[[1, r], [r, 1]], df=nu)
            return density * np.cosh(u) * np.cosh(v)

        def alone(u):
            return stats.t.pdf(np.sinh(u), nu) * np.cosh(u)

        value = by_quadrature(joint, alone, alone, (-25, 25), (-25, 25))
        assert student_t(nu).information(r) == pytest.approx(value, abs=2e-6)

    def test_student_t_of_many_degrees_of_freedom_is_gaussian(self):
        assert student_t(1e6).information(0.8) == pytest.approx(
            DISTRIBUTIONS["gaussian"].information(0.8), abs=1e-6
        )

    @pytest.mark.parametrize("theta", [0.5, 1.0, 7.0])
    def test_gamma_exponential(self, theta):
        # The entropy of y, a Lomax variable, less its mean entropy given the rate.
        given_rate = (
            1 - integrate.quad(lambda x: math.log(x) * stats.gamma.pdf(x, theta), 0, np.inf)[0]
        )
        value = float(stats.lomax(theta).entropy()) - given_rate
        assert DISTRIBUTIONS["gamma-exponential"].information(theta) == pytest.approx(
            value, abs=1e-6
        )

    @pytest.mark.parametrize("epsilon", [0.05, 0.5, 0.8, 10.0])
    def test_uniform_noise(self, epsilon):
        def density(y):
            return (min(1, y + epsilon) - max(0, y - epsilon)) / (2 * epsilon)

        kinks = sorted({-epsilon, epsilon, 1 - epsilon, 1 + epsilon})
        entropy = sum(
            integrate.quad(lambda y: special.entr(density(y)), lo, hi)[0]
            for lo, hi in itertools.pairwise(kinks)
        )
        value = entropy - math.log(2 * epsilon)
        assert DISTRIBUTIONS["uniform-noise"].information(epsilon) == pytest.approx(value, abs=1e-9)


class TestSamples:
    """Samples against SciPy's distributions: marginals, dependence, and a large-sample estimate."""

    marginals = (
        ("gaussian", 0.5, stats.norm, stats.norm),
        ("lognormal", 0.5, stats.lognorm(1), stats.lognorm(1)),
        ("student-t", 0.5, stats.t(3), stats.t(3)),
        ("gamma-exponential", 0.5, stats.loggamma(0.8161155069), None),
        ("gamma-exponential", 1.959, stats.loggamma(0.0911222469), None),
        ("uniform-noise", 0.5, stats.uniform, stats.trapezoid(0.5, 0.5, loc=-0.5, scale=2)),
        ("uniform-noise", 0.25, stats.uniform, stats.trapezoid(1 / 3, 2 / 3, loc=-1, scale=3)),
    )

    @pytest.mark.parametrize(("name", "truth", "x_law", "y_law"), marginals)
    def test_marginals(self, name, truth, x_law, y_law):
        for values, law in zip(pairs(name, truth), (x_law, y_law), strict=True):
            if law is not None:
                assert stats.kstest(values.flatten().numpy(), law.cdf).pvalue > 1e-3

    @pytest.mark.parametrize("truth", [0.02, 1.959])
    def test_marginals_of_the_exponential_time(self, truth):
        shape = DISTRIBUTIONS["gamma-exponential"].parameter(truth)
        rate, time = (v.flatten().numpy() for v in pairs("gamma-exponential", truth))
        # P(time > t) = (1 + t)^-θ, and time × rate is exponential whatever the rate.
        assert stats.kstest(time, lambda u: -np.expm1(-shape * np.logaddexp(0, u))).pvalue > 1e-3
        assert stats.kstest(np.exp(time + rate), stats.expon.cdf).pvalue > 1e-3
        assert abs(stats.spearmanr(time + rate, rate).statistic) < 0.03

    def test_cubes_are_cubes(self):
        (x, y), (u, v) = pairs("gaussian", 1.0), pairs("cubed", 1.0)
        assert torch.equal(u, x**3)
        assert torch.equal(v, y**3)

    def test_correlation(self):
        x, y = pairs("gaussian", -0.5 * math.log(1 - 0.6**2))
        assert float(
            torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]
        ) == pytest.approx(0.6, abs=0.015)

    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    @pytest.mark.parametrize("truth", TRUTHS)
    def test_an_estimate_from_many_samples_is_the_truth(self, name, truth):
        # The estimator is almost exact for smooth densities; edges, peaks and strong dependence
        # cost it a little.
        values = (torch.asinh(v).unsqueeze(-1) for v in pairs(name, truth))
        tolerance = 0.035 if name in ("uniform-noise", "cubed") or truth > 1 else 0.02
        assert float(knn_mutual_information(*values).mean()) == pytest.approx(truth, abs=tolerance)

    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_shape_dtype_and_generator(self, name):
        x, y = pairs(name, 0.7, seed=3, draws=2, n=7)
        assert (x.shape, y.shape, x.dtype, y.dtype) == (
            (2, 7),
            (2, 7),
            torch.float64,
            torch.float64,
        )
        state = torch.random.get_rng_state()
        again = pairs(name, 0.7, seed=3, draws=2, n=7)
        assert torch.equal(torch.stack(again), torch.stack([x, y]))
        assert not torch.equal(pairs(name, 0.7, seed=4, draws=2, n=7)[0], x)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert not torch.equal(x[0], x[1])

    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_the_strongest_dependence_is_finite(self, name):
        x, y = pairs(name, 10.0)
        assert bool(x.isfinite().all() and y.isfinite().all())


class TestParameters:
    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_the_parameter_gives_the_truth(self, name):
        distribution = DISTRIBUTIONS[name]
        for truth in (distribution.minimum, 0.49, 0.51, 1.959, 5.0, 10.0):
            value = distribution.information(distribution.parameter(truth))
            # A correlation of 1 - 1e-9 has seven digits left.
            assert value == pytest.approx(truth, abs=1e-12 if truth < 5 else 1e-7)

    def test_known_parameters(self):
        assert DISTRIBUTIONS["gaussian"].parameter(-0.5 * math.log(1 - 0.99**2)) == pytest.approx(
            0.99, abs=1e-12
        )
        assert DISTRIBUTIONS["gamma-exponential"].parameter(1 - np.euler_gamma) == pytest.approx(
            1, abs=1e-12
        )
        assert DISTRIBUTIONS["uniform-noise"].parameter(0.5) == pytest.approx(0.5, abs=1e-12)
        assert DISTRIBUTIONS["uniform-noise"].parameter(0.25) == 1

    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    @pytest.mark.parametrize("truth", [-0.1, 10.1, math.inf, math.nan])
    def test_what_no_parameter_gives_is_refused(self, name, truth):
        with pytest.raises(
            ValueError, match=f"Expected `truth` from .* to 10 nats for {name}, but got {truth}"
        ):
            pairs(name, truth)

    def test_the_student_t_can_not_be_independent(self):
        with pytest.raises(
            ValueError, match=r"from 0\.04241 to 10 nats for student-t, but got 0\.04\."
        ):
            pairs("student-t", 0.04)

    @pytest.mark.parametrize("nu", [0, -1, math.inf, math.nan])
    def test_degrees_of_freedom(self, nu):
        with pytest.raises(
            ValueError, match=f"`degrees_of_freedom` to be positive and finite, but got {nu}"
        ):
            student_t(nu)

    @pytest.mark.parametrize("options", [{"draws": 0}, {"n": 0}])
    def test_no_samples(self, options):
        with pytest.raises(ValueError, match="at least 1, but got 0"):
            pairs("gaussian", 1.0, **options)

    def test_names(self):
        assert all(name == distribution.name for name, distribution in DISTRIBUTIONS.items())
