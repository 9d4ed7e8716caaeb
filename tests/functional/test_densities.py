"""The density core: direct sums with the documented floor, bits in batches, former values, and
doubts.
"""

import math
import warnings

import pytest
import torch
from torch import Tensor

from campaigns.cautions import judged
from campaigns.densities import main as campaign
from mi_metrics import KDEMutualInformation, MutualInformationWarning
from mi_metrics.functional import kde_joint, kde_mutual_information
from tests.cautions import warned
from tests.samples import gaussian

SHAPES = {
    "Gaussian": lambda v: v,
    "uniform": torch.special.ndtr,
    "exponential": lambda v: -torch.special.log_ndtr(-v),
    "lognormal": torch.exp,
}
# Of the former code, one pair at a time, with the lines of `test_former_values`.
FORMER = {
    "Gaussian 20 0.6": 0.401222046233357,
    "Gaussian 300 -0.9": 0.8612050916833494,
    "Gaussian 4900 0.6": 0.23197262780198802,
    "uniform 20 0.6": 0.2641354981145647,
    "uniform 300 -0.9": 0.8010649167353914,
    "uniform 4900 0.6": 0.19492259716418747,
    "exponential 20 0.6": 0.38011820357120274,
    "exponential 300 -0.9": 0.5007940496088197,
    "exponential 4900 0.6": 0.17700244186224712,
    "lognormal 20 0.6": 0.4493262812569818,
    "lognormal 300 -0.9": 0.2769654624265607,
    "lognormal 4900 0.6": 0.11541663183937523,
    "Gaussian 70000 0.6": 0.2210063308410657,
    "Gaussian 1000 1.0": 15.514277832803323,
    "lognormal 1000 0.6 bandwidth=scott": 0.12398513741271078,
    "lognormal 1000 0.6 bandwidth=0.3": 0.2225939178805052,
    "lognormal 1000 0.6 grid_size=32": 0.1276298242059033,
    "lognormal 1000 0.6 value_range=1.5": 0.1396570016643719,
    "lognormal 1000 0.6 normalization=joint grid_size=32": 0.05874949337605156,
    "lognormal 1000 0.6 normalization=studholme grid_size=48": 1.053726934771561,
    "lognormal 1000 0.6 normalization=min value_range=2.0 grid_size=32": 0.062072266178707904,
}


def direct(x: Tensor, y: Tensor) -> float:
    """Sum all N² kernels; what a sample sees of the others is at least 2**-40 of its own kernel."""
    n, s = len(x), torch.cov(torch.stack([x, y]))
    h_x, h_y = (1.06 * s.diagonal().sqrt() * n ** (-1 / 5)).tolist()
    inverse = torch.linalg.inv(n ** (-1 / 3) * s)
    dx, dy = x[:, None] - x, y[:, None] - y
    pair = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
    area = 2 * math.pi * math.sqrt(float(torch.linalg.det(n ** (-1 / 3) * s)))
    value = 0.0
    for sign, exponent, height in (
        (1, pair, 1 / area),
        (-1, (dx / h_x) ** 2, 1 / (math.sqrt(2 * math.pi) * h_x)),
        (-1, (dy / h_y) ** 2, 1 / (math.sqrt(2 * math.pi) * h_y)),
    ):
        others = (-exponent / 2).fill_diagonal_(-math.inf).logsumexp(1).clamp_min(-40 * math.log(2))
        inside = (others.exp() + 1).log() + math.log(height / n)
        value += sign * float((inside + others + math.log(height / (n - 1))).mean()) / 2
    return value


@pytest.mark.parametrize(
    ("shape", "bound"),
    [("Gaussian", 5e-4), ("uniform", 5e-4), ("exponential", 2e-3), ("lognormal", 4e-3)],
)
@pytest.mark.parametrize("r", [0, 0.6, 0.9])
def test_direct_sums(shape: str, bound: float, r: float) -> None:
    for seed, n in enumerate((1000, 2000)):
        x, y = map(SHAPES[shape], gaussian(n, r, seed))
        assert float(kde_mutual_information(x, y)) == pytest.approx(direct(x, y), abs=bound)


def test_a_value_has_the_same_bits_in_any_batch(device: torch.device) -> None:
    x, y = (v.to(device).reshape(17, 300) for v in gaussian(17 * 300, 0.6))
    x = x.clone()
    x[3] = x[3].exp()
    x[4, 0], x[5], x[6] = 1e6, 1.0, (2 * x[6]).round()
    for options in ({}, {"grid_size": 32}, {"bandwidth": 0.02, "grid_size": 16}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MutualInformationWarning)
            together = kde_mutual_information(x, y, **options)  # type: ignore[arg-type]
            for i in range(17):
                alone = kde_mutual_information(x[i], y[i], **options)  # type: ignore[arg-type]
                assert together[i] == alone
            some = kde_mutual_information(x[2:9], y[2:9], **options)  # type: ignore[arg-type]
            assert torch.equal(some, together[2:9])


@pytest.mark.parametrize("n", [1000, 70_000])
def test_cells_without_samples_are_left_out(n: int) -> None:
    # Two clusters far from each other: with equal cells each would be a point.
    x, y = gaussian(n, 0.8)
    far = torch.arange(n) % 2 * 1e4
    value = kde_mutual_information(x + far, y, bandwidth=0.3, grid_size=128)
    exact = kde_mutual_information(x + 12 * torch.arange(n).remainder(2), y, bandwidth=0.3)
    assert torch.isfinite(value)
    # The correlation of the kernel is another; within a cluster it is nearly nothing.
    assert float(value) == pytest.approx(float(exact), abs=0.05)


@pytest.mark.parametrize("name", list(FORMER))
def test_former_values(name: str) -> None:
    assert former(name) == pytest.approx(FORMER[name], abs=1e-11)


def former(name: str) -> float:
    """Return the value that a name of `FORMER` stands for."""
    shape, n, r, *options = name.split()
    x, y = (SHAPES[shape](v) for v in gaussian(int(n), float(r), int(n)))
    chosen: dict[str, object] = {}
    for option in options:
        key, text = option.split("=")
        chosen[key] = text if text.isalpha() else float(text) if "." in text else int(text)
    if "value_range" in chosen:
        chosen["value_range"] = (-1.0, chosen["value_range"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MutualInformationWarning)
        return float(kde_mutual_information(x, y, **chosen))  # type: ignore[arg-type]


class TestDoubts:
    @pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.6, 0.8])
    @pytest.mark.parametrize("n", [300, 5000])
    def test_fill_value(self, share: float, n: int) -> None:
        x, y = gaussian(n, 0.6)
        y = torch.where(torch.arange(n) < share * n, -999.0, y)
        with warned("wide kernel"):
            kde_mutual_information(x, y)
        with warned("wide kernel"):
            kde_joint(x, y, grid_size=64)
        with warned("wide kernel"):
            metric(x, y)
        with warned("wide kernel"):
            metric(y, x)

    @pytest.mark.parametrize("n", [300, 5000])
    def test_few_values(self, n: int) -> None:
        x, y = gaussian(n, 0.6)
        for v in ((y > 0).double(), (y > 1).long(), y.round()):
            with warned("few values"):
                kde_mutual_information(x, v)
            with warned("few values"):
                metric(x, v)

    @pytest.mark.parametrize("n", [300, 2000])
    def test_many_zeros(self, n: int) -> None:
        """Half of the samples are 0, as of activations after ReLU: independent ones have 0 nats."""
        x, y = (v.clamp_min(0) for v in gaussian(n, 0))
        with warned("few values"):
            assert kde_mutual_information(x, y) < -0.1
        with warned("few values"):
            metric(x, y)
        # A fifth of them do no harm (truth: 0.745), nor do peaks without a value that repeats.
        x, y = (v.clamp_min(-0.8416) for v in gaussian(n, 0.9))
        assert float(kde_mutual_information(x, y)) == pytest.approx(0.745, abs=0.1)
        metric(x, y)
        x, y = gaussian(n, 0.6)
        kde_mutual_information(x, y.sign() * y.abs() ** 1.3)

    def test_rounded_numbers_are_no_few_values_while_the_kernel_is_wider(self) -> None:
        x, y = gaussian(2000, 0.6)
        for step in (0.02, 0.1, 0.4):
            u, v = (x / step).round(), (y / step).round()
            assert float(kde_mutual_information(u, v)) == pytest.approx(0.223, abs=0.045)
            metric(u, v)

    def test_images_are_silent(self) -> None:
        x, y = (256 * torch.special.ndtr(v) for v in gaussian(4900, 0.6))
        kde_mutual_information(x.to(torch.uint8), y.to(torch.uint8))
        metric(x.to(torch.uint8), y.to(torch.uint8), value_range=(0, 255))

    def test_two_samples_are_too_few(self) -> None:
        x, y = gaussian(2, 0)
        with warned("too few"):
            assert float(kde_mutual_information(x, y)) == pytest.approx(14.68, abs=0.01)
        x, y = gaussian(8, 0)
        kde_mutual_information(x, y)

    def test_constants_are_zero_without_a_word(self) -> None:
        x, _ = gaussian(200, 0)
        for normalization in ("none", "arithmetic", "geometric", "min", "max", "joint"):
            for bandwidth in ("silverman", "scott", 0.1, 1e-9, 1e9):
                for value_range in (None, (-1.0, 1.0), (5.0, 6.0)):
                    with warned(*([] if value_range is None else ["outside"])):
                        value = kde_mutual_information(
                            x,
                            torch.full_like(x, 0.3),
                            bandwidth=bandwidth,  # type: ignore[arg-type]
                            value_range=value_range,
                            normalization=normalization,  # type: ignore[arg-type]
                            grid_size=16,
                        )
                    assert value == 0

    def test_a_judged_value(self) -> None:
        x, y = gaussian(1000, 0.6)
        assert judged(kde_mutual_information, x, y, 0.223) == (False, set())
        assert judged(kde_mutual_information, x, (y > 0).double(), 0.131) == (True, {"few values"})

    @pytest.mark.campaign
    def test_false_alarms_and_misses(self, capsys: pytest.CaptureFixture[str]) -> None:
        campaign(500)
        lines = [line for line in capsys.readouterr().out.splitlines() if "false alarms" in line]
        assert len(lines) == 4
        for right, wrong in zip(lines[::2], lines[1::2], strict=True):
            alarms, _, _, _, of = right.split(": ")[1].split(",")[0].split()
            assert int(alarms) <= 0.02 * int(of)
            misses, _, _, of = wrong.split(", ")[-1].split()
            assert int(misses) <= 0.1 * int(of)


def metric(x: Tensor, y: Tensor, **options: object) -> float:
    one = KDEMutualInformation(**options)  # type: ignore[arg-type]
    one.update(x, y)
    return float(one.compute())


@pytest.mark.parametrize("dim", [None, 0, 1])
def test_few_values_are_seen_in_any_order(dim):
    # Several chunks: sorted by x the first has some of the values only.
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(5, (100_000,), generator=generator).float()
    pair = torch.stack([x, x + torch.randint(2, x.shape, generator=generator)])
    pair = pair if dim is None else pair[:, pair[dim].argsort()]
    with warned("few values"):
        kde_mutual_information(*pair)
