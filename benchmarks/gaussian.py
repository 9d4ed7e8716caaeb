"""The Gaussian metric against the matrix product that it needs; the loss against three slogdets."""

import torch
from torch import Tensor

from benchmarks.timing import Row, at_most, seconds
from mi_metrics import GaussianMutualInformation, GaussianMutualInformationPenalty
from mi_metrics.functional import gaussian_mutual_information


def rows() -> list[Row]:
    """Run the suite."""
    return [_update(), *_loss(), _function()]


def _pair(n: int, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, n, dim, generator=generator, dtype=dtype)
    return x, 0.6 * x + 0.8 * noise


def _update() -> Row:
    x, y = _pair(512, 64)
    samples = torch.cat((x, y), 1).double()
    metric = GaussianMutualInformation(x_dim=64, y_dim=64)
    ours, product = seconds(lambda: metric.update(x, y), lambda: samples.mT @ samples, repeat=30)
    return _ratio("update of (512, 64 + 64), against the product of the samples", ours, product, 2)


def _loss() -> list[Row]:
    x, y = _pair(1024, 64)
    x.requires_grad_()
    penalty = GaussianMutualInformationPenalty()

    def ours() -> None:
        x.grad = None
        penalty(x, y).backward()

    def theirs() -> None:
        x.grad = None
        _three_determinants(_covariance(x, y)).backward()

    covariance = _covariance(x, y).detach().requires_grad_()

    def alone() -> None:
        covariance.grad = None
        _three_determinants(covariance).backward()

    times = seconds(ours, theirs, alone, repeat=30)
    what = "loss of (1024, 64 + 64), forward and backward, against torch.linalg.slogdet of "
    return [
        _ratio(what + "the covariances", times[0], times[1], 3),
        _ratio(what + "covariances that are there", times[0], times[2], None),
    ]


def _covariance(x: Tensor, y: Tensor) -> Tensor:
    samples = torch.cat((x, y), 1).double()
    samples = samples - samples.mean(0)
    return samples.mT @ samples / len(samples)


def _three_determinants(covariance: Tensor) -> Tensor:
    blocks = covariance[:64, :64], covariance[64:, 64:], covariance
    a, b, joint = (torch.linalg.slogdet(block)[1] for block in blocks)
    return (a + b - joint) / 2


def _function() -> Row:
    x, y = _pair(500, 50, torch.float64)

    def determinants() -> Tensor:
        samples = torch.cat((x, y), 1)
        samples = samples - samples.mean(0)
        joint = samples.mT @ samples
        a, b, c = (torch.linalg.slogdet(m)[1] for m in (joint[:50, :50], joint[50:, 50:], joint))
        return (a + b - c) / 2

    times = seconds(lambda: gaussian_mutual_information(x, y), determinants, repeat=30)
    return _ratio("function of (500, 50 + 50), against three slogdets", *times, None)


def _ratio(what: str, ours: float, theirs: float, bound: float | None) -> Row:
    if bound is not None:
        row = at_most(what, ours / theirs, bound, "x")
    else:
        row = Row(what, f"{ours / theirs:.3g}x", "", None)
    return row._replace(figure=f"{row.figure}  ({1e3 * ours:.3g} against {1e3 * theirs:.3g} ms)")
