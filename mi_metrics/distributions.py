r"""Pairs of variables whose mutual information is known in closed form, to measure estimators with.

================= ========================================= ========================================
name              pair                                      mutual information in nats
================= ========================================= ========================================
gaussian          standard normal, correlation r            :math:`-\frac12 \log(1 - r^2)`
lognormal         exp of the Gaussian pair                  the same
cubed             third powers of the Gaussian pair         the same
student-t         Student t, ν = 3, correlation r           :math:`-\frac12 \log(1 - r^2) + c_\nu`
gamma-exponential log of a gamma rate of shape θ, log of an :math:`\psi(\theta + 1) - \log \theta`
                  exponential time at that rate
uniform-noise     U uniform on [0, 1], U plus uniform noise :math:`\epsilon - \log 2\epsilon`, ε ≤ ½
                  on [-ε, ε]                                :math:`1 / 4 \epsilon` else
================= ========================================= ========================================

Strictly monotone maps of either variable leave the information as it is (Kraskov, Stögbauer and
Grassberger 2004). That is why the second and third have that of the first: only their tails differ.
The Student t is dependent at r = 0 too: a large x tells of a small denominator, which is y's as
well. Its constant follows from the entropies :math:`h_d` of d variables of unit scale,

.. math::
    c_\nu = 2 h_1 - h_2, \qquad
    h_d = \log \frac{\Gamma(\nu / 2) \, (\nu \pi)^{d/2}}{\Gamma((\nu + d) / 2)}
    + \frac{\nu + d}{2}
    \Big( \psi \Big( \frac{\nu + d}{2} \Big) - \psi \Big( \frac \nu 2 \Big) \Big).

References:
    A. Kraskov, H. Stögbauer, P. Grassberger, "Estimating mutual information" (2004),
    doi:10.1103/PhysRevE.69.066138. R. B. Arellano-Valle, J. E. Contreras-Reyes, M. G. Genton,
    "Shannon entropy and mutual information for multivariate skew-elliptical distributions" (2013),
    doi:10.1111/j.1467-9469.2011.00774.x. G. A. Darbellay, I. Vajda, "Entropy expressions for
    multivariate continuous distributions" (2000), doi:10.1109/18.825848. P. Czyż, F. Grabowski, J.
    E. Vogt, N. Beerenwinkel, A. Marx, "Beyond normal: on the evaluation of mutual information
    estimators" (2023), arXiv:2306.11078.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import digamma, gammaln, lambertw
from torch import Generator, Tensor

from mi_metrics.functional.options import check_integer

# The largest truth is more than any sample shows: an estimator needs N of about exp(I).
LARGEST = 10.0

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Distribution:
    """A family of pairs of scalar variables, with one parameter that sets their mutual information.

    Args:
        name: Its name.
        summary: What it is, in a line.
        parameter_name: The parameter's symbol.
        minimum: The least mutual information in nats that can be asked for.
        information: The closed form: mutual information in nats of a parameter.
        solve: Its inverse: the parameter of a mutual information.
        draw: Draws ``(draws, n)`` pairs from a parameter, the two numbers and a generator, in
            float64.
    """

    name: str
    summary: str
    parameter_name: str
    minimum: float
    information: Callable[[float], float]
    solve: Callable[[float], float]
    draw: Callable[[float, int, int, Generator], Pair]

    def parameter(self, truth: float) -> float:
        """Return the parameter at which the mutual information is ``truth`` nats.

        Raises:
            ValueError: If no parameter gives it, or it is above 10 nats.
        """
        if not self.minimum <= truth <= LARGEST:
            raise ValueError(
                f"Expected `truth` from {self.minimum:.4g} to {LARGEST:g} nats for {self.name}, "
                f"but got {truth}. Choose one within, or another distribution."
            )
        return self.solve(truth)

    def sample(self, truth: float, draws: int, n: int, generator: Generator) -> Pair:
        """Draw ``draws`` independent samples of ``n`` pairs each, whose mutual information is
        ``truth`` nats.

        Args:
            truth: The mutual information, from ``minimum`` to 10.
            draws: Number of samples.
            n: Pairs per sample.
            generator: The only source of randomness, on the CPU.

        Returns:
            x and y, float64 of shape ``(draws, n)``.

        Raises:
            TypeError: If ``draws`` or ``n`` is no int.
            ValueError: If ``truth`` is out of its range, or ``draws`` or ``n`` below 1.

        Example:
            >>> import torch
            >>> from mi_metrics.distributions import DISTRIBUTIONS
            >>> from mi_metrics.functional import knn_mutual_information
            >>> generator = torch.Generator().manual_seed(0)
            >>> x, y = DISTRIBUTIONS["lognormal"].sample(1.0, 8, 1000, generator)
            >>> x, y = x.log().unsqueeze(-1), y.log().unsqueeze(-1)
            >>> print(f"{knn_mutual_information(x, y).mean():.2f}")
            1.01
        """
        check_integer("draws", draws, 1)
        check_integer("n", n, 1)
        return self.draw(self.parameter(truth), draws, n, generator)


def _gaussian_information(r: float) -> float:
    return (0 - math.log1p(-r) - math.log1p(r)) / 2


def _gaussian_correlation(truth: float) -> float:
    return math.sqrt(-math.expm1(-2 * truth))


def _draw_gaussian(r: float, draws: int, n: int, generator: Generator) -> Pair:
    x, noise = torch.randn(2, draws, n, generator=generator, dtype=torch.float64)
    return x, r * x + math.sqrt((1 - r) * (1 + r)) * noise


def _gaussian(name: str, summary: str, transform: Callable[[Tensor], Tensor]) -> Distribution:
    """Return a Gaussian pair under a strictly monotone map of both variables."""

    def draw(r: float, draws: int, n: int, generator: Generator) -> Pair:
        x, y = _draw_gaussian(r, draws, n, generator)
        return transform(x), transform(y)

    return Distribution(name, summary, "r", 0.0, _gaussian_information, _gaussian_correlation, draw)


def _standard_gamma(shape: float, draws: int, n: int, generator: Generator) -> Tensor:
    # PyTorch's public sampler takes no generator.
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).standard_gamma(shape, (draws, n)))


def student_t(degrees_of_freedom: float) -> Distribution:
    """Return the bivariate Student t distribution of unit scale.

    Args:
        degrees_of_freedom: ν > 0: the tails fall off as the power -ν.

    Returns:
        The family, whose parameter is the correlation of the Gaussian pair that is divided by the
        root of a χ² variable over ν. Its least mutual information, at r = 0, is that of the common
        denominator.

    Raises:
        ValueError: If ``degrees_of_freedom`` is not a positive number.
    """
    nu = float(degrees_of_freedom)
    if not 0 < nu < math.inf:
        raise ValueError(
            f"Expected `degrees_of_freedom` to be positive and finite, but got "
            f"{degrees_of_freedom}."
        )

    def entropy(d: int) -> float:
        half = (nu + d) / 2
        volume = gammaln(nu / 2) + d / 2 * math.log(nu * math.pi) - gammaln(half)
        return float(volume + half * (digamma(half) - digamma(nu / 2)))

    constant = 2 * entropy(1) - entropy(2)

    def draw(r: float, draws: int, n: int, generator: Generator) -> Pair:
        x, y = _draw_gaussian(r, draws, n, generator)
        scale = (_standard_gamma(nu / 2, draws, n, generator) / (nu / 2)).sqrt_()
        return x / scale, y / scale

    return Distribution(
        "student-t",
        f"Student t with {nu:g} degrees of freedom: heavy tails, dependent at r = 0 too",
        "r",
        constant,
        lambda r: _gaussian_information(r) + constant,
        lambda truth: _gaussian_correlation(truth - constant),
        draw,
    )


def _gamma_information(theta: float) -> float:
    return float(digamma(theta + 1)) - math.log(theta)


def _gamma_shape(truth: float) -> float:
    # ψ grows, and lies below log θ - 1 / 2θ: so -γ - log θ < I < 1 / 2θ.
    ends = math.exp(-np.euler_gamma - truth), 1 / (2 * truth)
    return float(
        brentq(lambda theta: _gamma_information(theta) - truth, *ends, xtol=1e-300, rtol=1e-14)
    )


def _draw_gamma_exponential(theta: float, draws: int, n: int, generator: Generator) -> Pair:
    # A gamma variable of small shape underflows; its logarithm does not, as that of one of shape θ
    # + 1 less an exponential variable over θ.
    uniform = torch.rand(2, draws, n, generator=generator, dtype=torch.float64)
    exponential, time = -torch.log1p(-uniform)
    rate = _standard_gamma(theta + 1, draws, n, generator).log_() - exponential / theta
    return rate, time.clamp_min_(torch.finfo(torch.float64).tiny).log_() - rate


def _noise_information(epsilon: float) -> float:
    return epsilon - math.log(2 * epsilon) if epsilon < 0.5 else 1 / (4 * epsilon)


def _noise_width(truth: float) -> float:
    return 1 / (4 * truth) if truth < 0.5 else float(-lambertw(-math.exp(-truth) / 2).real)


def _draw_uniform_noise(epsilon: float, draws: int, n: int, generator: Generator) -> Pair:
    x, noise = torch.rand(2, draws, n, generator=generator, dtype=torch.float64)
    return x, x + epsilon * (2 * noise - 1)


DISTRIBUTIONS = {
    distribution.name: distribution
    for distribution in (
        _gaussian("gaussian", "standard normal variables of correlation r", torch.clone),
        _gaussian("lognormal", "exp of the Gaussian pair: skewed, a heavy tail", torch.exp),
        _gaussian(
            "cubed", "third powers of the Gaussian pair: a peak and heavy tails", lambda v: v**3
        ),
        student_t(3),
        Distribution(
            "gamma-exponential",
            "logarithms of a gamma rate of shape theta and of an exponential time at that rate",
            "theta",
            # 0 is the limit of θ → ∞.
            0.01,
            _gamma_information,
            _gamma_shape,
            _draw_gamma_exponential,
        ),
        Distribution(
            "uniform-noise",
            "uniform on [0, 1], and the same plus noise uniform on [-epsilon, epsilon]",
            "epsilon",
            # 0 is the limit of ε → ∞.
            0.01,
            _noise_information,
            _noise_width,
            _draw_uniform_noise,
        ),
    )
}
