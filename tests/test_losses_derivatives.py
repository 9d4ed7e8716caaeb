"""Derivatives of the losses by every transform, and of kernel densities against direct sums."""

import math
from itertools import pairwise

import pytest
import torch
from torch.autograd import forward_ad

from mi_metrics.functional.binned import binned_mutual_information
from mi_metrics.functional.kde import kde_mutual_information
from mi_metrics.functional.tables.axis import fixed_axis
from mi_metrics.functional.tables.bspline import soft_counts, soft_values
from mi_metrics.losses import KDEMutualInformationLoss, MutualInformationLoss

# PyTorch's own, where it loads its forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

LOSSES = [
    MutualInformationLoss((6, 5), value_range=(-3, 3), reduction="sum"),
    MutualInformationLoss((6, 5), kernel="linear", clip_quantile=0.1, reduction="sum"),
    KDEMutualInformationLoss(grid_size=16, reduction="sum"),
    KDEMutualInformationLoss(grid_size=16, normalization="joint", reduction="sum"),
]


def images(*shape, seed=0, r=0.6):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return x, r * x + math.sqrt(1 - r * r) * noise


def gradient(function, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_transforms_and_forward_mode_give_the_gradient_of_reverse_mode(loss, dtype):
    x, y = (v.to(dtype) for v in images(2, 1, 12))
    direction = torch.randn(2, 1, 12, generator=torch.Generator().manual_seed(1)).to(dtype)

    def of_x(v):
        return loss(v, y)

    expected = gradient(of_x, x)
    tolerance = {"rtol": 1e-5, "atol": 1e-7}
    assert expected.abs().max() > 1e-3
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(of_x)(x), expected, **tolerance)
    along = (expected * direction).sum()
    _, tangent = torch.func.jvp(of_x, (x,), (direction,))
    torch.testing.assert_close(tangent, along, **tolerance)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(of_x(forward_ad.make_dual(x, direction)))
    torch.testing.assert_close(dual.tangent, along, **tolerance)


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize(
    "options",
    [{"value_range": (-3, 3)}, {}, {"clip_quantile": 0.05}, {"normalization": "geometric"}],
    ids=str,
)
@pytest.mark.parametrize("n", [12, 200])
@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
def test_functions_have_the_transforms_and_the_forward_mode_of_losses(n, options, kernel):
    # What looks for doubts sorts values, which have no memory inside the transforms.
    x, y = (v.flatten() for v in images(1, 1, n))
    direction = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def of_x(v):
        return binned_mutual_information(v, y, 6, kernel=kernel, **options)

    expected = gradient(of_x, x)
    assert expected.abs().max() > 1e-4
    _, tangent = torch.func.jvp(of_x, (x,), (direction,))
    torch.testing.assert_close(tangent, (expected * direction).sum())
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(of_x)(x), expected)


@pytest.mark.parametrize("loss", LOSSES[::2], ids=repr)
def test_second_derivatives_agree_in_any_order(loss):
    x, y = images(1, 1, 8)

    def of_x(v):
        return loss(v, y)

    expected = torch.autograd.functional.hessian(of_x, x)
    assert expected.abs().max() > 1e-3
    grad, jacfwd, jacrev = torch.func.grad, torch.func.jacfwd, torch.func.jacrev
    for found in (
        torch.func.hessian(of_x)(x),
        jacrev(grad(of_x))(x),
        jacrev(jacfwd(of_x))(x),
        jacfwd(jacfwd(of_x))(x),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_the_forward_mode_of_a_gradient_without_a_graph_is_refused():
    x, y = images(1, 1, 8)
    x.requires_grad_()
    with forward_ad.dual_level():
        loss = LOSSES[0](forward_ad.make_dual(x, torch.ones_like(x)), y)
        with pytest.raises(NotImplementedError, match=r"forward-mode.*create_graph=True"):
            torch.autograd.grad(loss, x)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_vmap_is_a_loop(loss):
    x, y = images(4, 2, 1, 12)
    mapped = torch.vmap(loss)(x, y)
    torch.testing.assert_close(mapped, torch.stack([loss(a, b) for a, b in zip(x, y, strict=True)]))
    shared = torch.vmap(loss, in_dims=(0, None))(x, y[0])
    torch.testing.assert_close(shared, torch.stack([loss(a, y[0]) for a in x]))
    per_sample = torch.vmap(torch.func.grad(loss))(x, y)
    alone = [gradient(lambda v, b=b: loss(v, b), a) for a, b in zip(x, y, strict=True)]
    torch.testing.assert_close(per_sample, torch.stack(alone))
    leaf = x.clone().requires_grad_()
    torch.vmap(loss)(leaf, y).sum().backward()
    torch.testing.assert_close(leaf.grad, per_sample)


def test_batches_of_gradients():
    x, y = images(2, 1, 12)
    for kind in (
        MutualInformationLoss(6, reduction="none"),
        KDEMutualInformationLoss(grid_size=16),
    ):
        rows, batch = (
            torch.autograd.functional.jacobian(lambda v, k=kind: k(v, y), x, vectorize=v)
            for v in (False, True)
        )
        torch.testing.assert_close(rows, batch)


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("bins", [(6, 5), (6, 1)])
def test_values_at_samples_are_the_adjoint_of_the_table(kernel, bins):
    x, y = (v.requires_grad_() for v in images(2, 7))
    axes = tuple(fixed_axis((-1.5, 2.0), b, torch.float64, torch.device("cpu")) for b in bins)
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(2, *bins, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    values = soft_values(table, x, y, axes, kernel)
    counts = soft_counts(x, y, axes, bins, kernel, weights)
    torch.testing.assert_close((values * weights).sum(1), (table * counts).sum((1, 2)))

    def values_of(s, a, b):
        return soft_values(s, a, b, axes, kernel)

    def counts_of(a, b, w):
        return soft_counts(a, b, axes, bins, kernel, w)

    checks = {"check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(values_of, (table, x, y), **checks)
    assert torch.autograd.gradcheck(counts_of, (x, y, weights), **checks)
    if kernel == "cubic":
        assert torch.autograd.gradgradcheck(values_of, (table, x, y))
        assert torch.autograd.gradgradcheck(counts_of, (x, y, weights), check_fwd_over_rev=True)


# -- kernel densities ------------------------------------------------------------------------------


def direct_sums(x, y, least=2**-7):
    """The estimate from all pairs of kernels, bandwidths constant."""
    n = len(x)
    sx, sy = x.detach().std(), y.detach().std()
    r = torch.corrcoef(torch.stack([x, y]).detach())[0, 1]
    dx, dy = x.unsqueeze(1) - x, y.unsqueeze(1) - y
    u, v = dx / (sx * n ** (-1 / 6)), dy / (sy * n ** (-1 / 6))
    value = 0
    for exponent, log_width, sign in (
        ((u**2 - 2 * r * u * v + v**2) / (1 - r * r), (sx * sy).log() + (1 - r * r).log() / 2, 1),
        ((dx / (1.06 * sx * n**-0.2)) ** 2, (1.06 * sx).log(), -1),
        ((dy / (1.06 * sy * n**-0.2)) ** 2, (1.06 * sy).log(), -1),
    ):
        total = torch.exp(-exponent / 2).sum(1)
        logs = total.log() + (total - 1).clamp_min(least).log() - math.log(n) - math.log(n - 1)
        value = value + sign * (logs.mean() / 2 - log_width)
    return value + math.log(n) * (1 / 3 - 2 / 5)


def skewed(n, seed):
    e = -torch.rand(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log()
    return e[0], 0.6 * e[0] + e[1]


@pytest.mark.parametrize("n", [50, 60, 100, 200, 500, 1000, 2000])
@pytest.mark.parametrize("kind", [lambda n, s: images(n, seed=s), skewed], ids=["normal", "skewed"])
def test_kde_value_and_gradient_are_those_of_direct_sums(n, kind):
    for seed in range(2):
        x, y = (v.requires_grad_() for v in kind(n, seed))
        exact, value = -direct_sums(x, y), KDEMutualInformationLoss(pool="batch")(x, y)
        assert value.item() == pytest.approx(exact.item(), abs=1e-3)
        for ours, theirs in zip(
            torch.autograd.grad(value, (x, y)), torch.autograd.grad(exact, (x, y)), strict=True
        ):
            assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.999
            assert (ours - theirs).norm() < 0.03 * theirs.norm()


def test_kde_gradient_is_the_difference_quotient_where_range_and_covariance_stay():
    """Along directions without the outermost samples and orthogonal to the moments' own."""
    loss = KDEMutualInformationLoss(pool="batch")
    for n in (100, 1000):
        x, y = images(n)
        slope = torch.linalg.lstsq(torch.stack([x, y], 1), x.unsqueeze(1)).solution
        assert slope.isfinite().all()
        inner = torch.ones(n, dtype=torch.float64)
        for v in (x, y, y - (y @ x) / (x @ x) * x):
            inner[v.argmin()] = inner[v.argmax()] = 0
        basis, _ = torch.linalg.qr(torch.stack([inner, inner * x, inner * y], 1))
        direction = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
        along = gradient(lambda v, y=y: loss(v, y), x) + 0 * direction
        # A part of the gradient itself, so that the quotient is not noise.
        direction = inner * (direction / direction.norm() + 3 * along / along.norm())
        direction = direction - basis @ (basis.mT @ direction)
        step = 1e-4
        quotient = (loss(x + step * direction, y) - loss(x - step * direction, y)) / (2 * step)
        assert (along @ direction).item() == pytest.approx(quotient.item(), rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_kde_loss_of_equal_images_is_the_functions_and_the_least(seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (1, 1, 32, 32), generator=generator) / 255
    noise = torch.randn(1, 1, 32, 32, generator=generator)
    loss = KDEMutualInformationLoss()
    values = [loss(image + s * noise, image).item() for s in (0, 1e-7, 1e-6, 1e-5, 1e-3, 0.1, 1)]
    assert all(a <= b + 1e-3 for a, b in pairwise(values))
    expected = -kde_mutual_information(image.flatten(), image.flatten()).item()
    assert values[0] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("exponent", [-1000, -1010, -1015, -1020, -1022])
def test_kde_gradient_of_the_smallest_numbers_is_finite(exponent):
    x = torch.linspace(0, 1, 30, dtype=torch.float64).view(1, 1, 30) * 2.0**exponent
    for y in (x.flip(2), x.roll(7, 2)):
        assert (
            gradient(lambda v, y=y: KDEMutualInformationLoss(grid_size=16)(v, y), x)
            .isfinite()
            .all()
        )
