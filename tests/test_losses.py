import copy
import math
import pickle

import pytest
import torch

from mi_metrics import losses
from mi_metrics.functional import binned_mutual_information
from mi_metrics.functional.densities import differentiable as soft_kde
from mi_metrics.functional.densities import direct as densities
from mi_metrics.functional.kde import kde_mutual_information
from mi_metrics.losses import (
    KDEMutualInformationLoss,
    MutualInformationLoss,
    MutualInformationPenalty,
)
from tests.cautions import ignore_cautions
from tests.waiting import no_waiting

RANGES = ((-2.0, 3.0), (-1.5, 2.5))
NORMALIZATIONS = ["none", "arithmetic", "geometric", "min", "max", "joint", "studholme"]
KERNELS = ["linear", "cubic"]

# The function warns of few samples per cell; a loss does not look.
pytestmark = ignore_cautions


def images(*shape, seed=0, dtype=torch.float64, r=0.6):
    x, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return x, r * x + math.sqrt(1 - r * r) * noise


def all_losses(**options):
    bins = {"num_bins": (6, 5)}
    return [
        MutualInformationLoss(kernel="linear", **bins, **options),
        MutualInformationPenalty(kernel="cubic", **bins, **options),
        KDEMutualInformationLoss(grid_size=16, **options),
    ]


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("value_range", [None, RANGES])
def test_loss_is_minus_the_function_table_by_table(kernel, normalization, value_range):
    x, y = images(2, 3, 6, 7)
    options = {
        "value_range": value_range,
        "kernel": kernel,
        "normalization": normalization,
        "unit": "bits",
    }
    expected = binned_mutual_information(x.flatten(2), y.flatten(2), (7, 5), **options)
    loss = MutualInformationLoss((7, 5), reduction="none", **options)(x, y)
    assert loss.shape == (2, 3)
    torch.testing.assert_close(loss, -expected, rtol=0, atol=1e-10)
    penalty = MutualInformationPenalty((7, 5), reduction="none", **options)(x, y)
    assert penalty.equal(-loss)
    pooled = MutualInformationLoss((7, 5), reduction="none", pool="batch", **options)(x, y)
    columns = (v.movedim(1, 0).flatten(1) for v in (x, y))
    torch.testing.assert_close(
        pooled, -binned_mutual_information(*columns, (7, 5), **options), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_value_is_that_of_the_lifted_input(dtype):
    x, y = (v.to(dtype) for v in images(2, 1, 20, 20))
    loss = MutualInformationLoss(8, reduction="none")(x, y)
    expected = -binned_mutual_information(x.flatten(2), y.flatten(2), 8, kernel="cubic")
    assert loss.dtype == torch.float32
    assert loss.equal(expected.float())


@pytest.mark.parametrize(
    "loss", all_losses(pool="batch", reduction="none"), ids=lambda v: type(v).__name__
)
def test_batches_of_vectors_and_a_single_channel_of_y(loss):
    x, y = images(200, 3)
    one_by_one = torch.cat([loss(x[:, c], y[:, 0]) for c in range(3)])
    assert one_by_one.shape == (3,)
    torch.testing.assert_close(loss(x, y[:, :1]), one_by_one, rtol=0, atol=1e-12)
    x, y = (
        x.unsqueeze(2).unsqueeze(3).requires_grad_(),
        y[:, :1].unsqueeze(2).unsqueeze(3).requires_grad_(),
    )
    value = loss(x, y)
    torch.testing.assert_close(value, one_by_one, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad(value.sum(), (x, y))
    assert gradients[1].shape == y.shape
    assert gradients[1].abs().max() > 0


@pytest.mark.parametrize("loss", all_losses(reduction="none"), ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("shape", [(2, 3, 60), (2, 3, 6, 10), (2, 3, 3, 4, 5), (2, 3, 2, 3, 2, 5)])
def test_any_rank_and_layout_of_input(loss, shape):
    x, y = images(2, 3, 60)
    expected = loss(x, y)
    x, y = x.reshape(shape), y.reshape(shape)
    torch.testing.assert_close(loss(x, y), expected, rtol=0, atol=1e-12)
    strided = x.transpose(1, -1).contiguous().transpose(1, -1).requires_grad_()
    torch.testing.assert_close(loss(strided, y), expected, rtol=0, atol=1e-12)
    contiguous = x.clone().requires_grad_()
    gradients = [torch.autograd.grad(loss(v, y).sum(), v)[0] for v in (strided, contiguous)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    if len(shape) == 4:
        torch.testing.assert_close(
            loss(*(v.to(memory_format=torch.channels_last) for v in (x, y))),
            expected,
            rtol=0,
            atol=1e-12,
        )


def test_reductions():
    x, y = images(4, 2, 50)
    for none, mean, total in zip(
        *(all_losses(reduction=r) for r in ("none", "mean", "sum")), strict=True
    ):
        assert mean(x, y).item() == pytest.approx(none(x, y).mean().item(), abs=1e-14)
        assert total(x, y).item() == pytest.approx(none(x, y).sum().item(), abs=1e-13)


def test_a_lists_and_ints_from_yaml_are_taken():
    x, y = images(1, 1, 100)
    loss = MutualInformationLoss([7, 5], value_range=[[-2, 3], [-1.5, 2.5]])
    assert loss(x, y).equal(MutualInformationLoss((7, 5), value_range=RANGES)(x, y))
    kde = KDEMutualInformationLoss(bandwidth=[0.5, 1])
    assert kde(x, y).equal(KDEMutualInformationLoss(bandwidth=(0.5, 1.0))(x, y))
    assert "num_bins=(7, 5)" in repr(loss)
    for module in (loss, kde):
        assert not module.state_dict()
        assert pickle.loads(pickle.dumps(module))(x, y).equal(copy.deepcopy(module)(x, y))


# -- kernel densities ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "tolerance"), [(100, 3e-2), (1000, 1.5e-2), (5000, 5e-3), (50_000, 1e-3)]
)
@pytest.mark.parametrize("r", [0.0, 0.6, 0.99, 0.9999])
def test_kde_loss_is_the_function_to_the_stated_tolerance(n, tolerance, r):
    for options in ({}, {"bandwidth": "scott", "unit": "bits"}):
        x, y = images(n, r=r)
        loss = KDEMutualInformationLoss(pool="batch", **options)(x, y)
        assert loss.item() == pytest.approx(
            -kde_mutual_information(x, y, **options).item(), abs=1.5 * tolerance
        )
        # Units of the data do not matter.
        assert KDEMutualInformationLoss(pool="batch", **options)(
            1e150 * x - 3e150, -1e-150 * y
        ).item() == (pytest.approx(loss.item(), abs=1e-9))


@pytest.mark.parametrize("normalization", NORMALIZATIONS[1:])
@pytest.mark.parametrize("r", [0.0, 0.6])
def test_normalised_kde_loss_is_the_functions(normalization, r):
    x, y = images(2000, r=r)
    loss = KDEMutualInformationLoss(pool="batch", normalization=normalization)(x, y)
    expected = kde_mutual_information(x, y, normalization=normalization, grid_size=64)
    assert loss.item() == pytest.approx(-expected.item(), abs=1e-3)


def test_kde_loss_with_a_given_bandwidth_and_range():
    x, y = images(5000)
    for options in ({"bandwidth": (0.4, 0.3)}, {"value_range": ((-1.5, 2.0), (-2.0, 1.0))}):
        loss = KDEMutualInformationLoss(pool="batch", **options)(x, y)
        assert loss.item() == pytest.approx(
            -kde_mutual_information(x, y, **options).item(), abs=5e-3
        )


@pytest.mark.parametrize("normalization", ["none", "joint"])
def test_kde_gradient_is_exact_with_everything_else_constant(normalization, monkeypatch):
    def frozen(name, function):
        # A little wider than the data: the samples at the ends are not at a kink then.
        def call(*args):
            if name not in constants:
                result = function(*args)
                if name == "data_axes":
                    result = tuple(
                        a._replace(lo=a.lo - 0.003, width=a.width + 0.007) for a in result
                    )
                if name == "_ends":
                    result = result[0] - 0.003, result[1] + 0.004
                constants[name] = result
            return constants[name]

        return call

    # What serves few samples is compared with this in test_direct_densities.py.
    monkeypatch.setattr(densities, "serves", lambda *_: False)
    constants = {}
    for module, name in ((losses, "data_axes"), (soft_kde, "_moments"), (soft_kde, "_ends")):
        monkeypatch.setattr(module, name, frozen(name, getattr(module, name)))
    x, y = (v.requires_grad_() for v in images(2, 1, 12))
    loss = KDEMutualInformationLoss(grid_size=8, normalization=normalization)
    loss(x, y)
    assert len(constants) == 3
    assert torch.autograd.gradcheck(loss, (x, y))


def test_kde_gradient_points_where_the_densities_do():
    def direct(x, y):
        """The estimate from all pairs of kernels, moments constant."""
        n = len(x)
        sx, sy = x.detach().std(), y.detach().std()
        r = torch.corrcoef(torch.stack([x, y]).detach())[0, 1]
        dx, dy = x.unsqueeze(1) - x, y.unsqueeze(1) - y
        u, v = dx / (sx * n ** (-1 / 6)), dy / (sy * n ** (-1 / 6))
        joint = torch.exp(-(u**2 - 2 * r * u * v + v**2) / (2 * (1 - r * r)))
        value = 0
        for kernels, sign in (
            (joint, 1),
            (torch.exp(-((dx / (1.06 * sx * n**-0.2)) ** 2) / 2), -1),
            (torch.exp(-((dy / (1.06 * sy * n**-0.2)) ** 2) / 2), -1),
        ):
            total = kernels.sum(1)
            value = value + sign * (total.log() + (total - 1).clamp_min(2**-7).log()).mean() / 2
        return value

    x, y = images(800)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(-direct(x, y), x)
    (ours,) = torch.autograd.grad(KDEMutualInformationLoss(pool="batch")(x, y), x)
    assert torch.nn.functional.cosine_similarity(ours, expected, dim=0) > 0.98
    assert ours.norm().item() == pytest.approx(expected.norm().item(), rel=0.05)


# -- masks and weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("value_range", [None, (-2.0, 2.0)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_a_mask_excludes(value_range, dtype):
    x, y = images(2, 1, 8, 9)
    mask = torch.rand(2, 1, 8, 9, generator=torch.Generator().manual_seed(1)) > 0.4
    spoilt = torch.where(mask, x, torch.nan), torch.where(mask, y, 1e9)
    for loss in all_losses(value_range=value_range, reduction="none"):
        value = loss(spoilt[0].requires_grad_(), spoilt[1], mask.to(dtype))
        alone = [
            loss(x[i][mask[i]].view(1, 1, -1), y[i][mask[i]].view(1, 1, -1)).flatten()
            for i in range(2)
        ]
        torch.testing.assert_close(value.flatten(), torch.cat(alone), rtol=0, atol=1e-12)
        (gradient,) = torch.autograd.grad(value.sum(), spoilt[0])
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask] != 0).any()


def test_masked_independent_images_have_no_information():
    # A mask that multiplied by zero would put half of all samples in one cell, and give 0.7 nats.
    x, y = torch.rand(2, 1, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 100, 100, dtype=torch.bool)
    mask[..., :50] = True
    assert MutualInformationPenalty(16)(x + 1, y + 1, mask) < 0.02


def test_weights_are_frequencies_and_broadcast():
    x, y = images(2, 3, 30)
    weights = torch.randint(0, 4, (2, 1, 30), generator=torch.Generator().manual_seed(1))
    loss = MutualInformationLoss((6, 5), reduction="none")
    value = loss(x, y, weights)
    assert value.equal(loss(x, y, weights.expand(2, 3, 30).double()))
    expected = -binned_mutual_information(
        x, y, (6, 5), kernel="cubic", weights=weights.expand(2, 3, 30)
    )
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-14)
    for i in range(2):
        repeated = (v[i : i + 1].repeat_interleave(weights[i, 0], 2) for v in (x, y))
        torch.testing.assert_close(loss(*repeated)[0], value[i], rtol=0, atol=1e-12)


def test_constant_weights_do_not_matter():
    x, y = images(2, 1, 50)
    for loss in all_losses():
        weights = torch.full((2, 1, 50), 0.3, dtype=torch.float64)
        assert loss(x, y, weights).item() == pytest.approx(loss(x, y).item(), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_the_scale_of_weights_does_not_matter(scale):
    x, y = images(2, 1, 50)
    weights = torch.rand(2, 1, 50, generator=torch.Generator().manual_seed(1)).double()
    for loss in all_losses(reduction="none"):
        a = x.clone().requires_grad_()
        values = loss(a, y, scale * weights), loss(a, y, weights)
        torch.testing.assert_close(*values, rtol=0, atol=1e-9)
        gradients = (torch.autograd.grad(value.sum(), a)[0] for value in values)
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_no_gradient_for_weights():
    x, y = images(1, 1, 50)
    weights = torch.rand(1, 1, 50, requires_grad=True)
    for loss in all_losses():
        assert not loss(x, y, weights).requires_grad


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("pool", ["image", "batch"])
def test_gradcheck_with_empty_cells_and_samples_outside(kernel, normalization, pool):
    x, y = images(2, 1, 8)
    x[0, 0, 0], y[1, 0, 3] = 7.0, -9.0
    loss = MutualInformationLoss(
        (7, 5),
        kernel=kernel,
        value_range=RANGES,
        normalization=normalization,
        pool=pool,
        reduction="none",
    )
    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), y.requires_grad_()))


def test_double_backward():
    x, y = (v.requires_grad_() for v in images(1, 1, 6))
    loss = MutualInformationLoss((5, 4), value_range=RANGES)
    assert torch.autograd.gradgradcheck(loss, (x, y))


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_with_the_datas_range_is_that_with_the_same_range_given(kernel):
    x, y = (v.requires_grad_() for v in images(1, 1, 60))
    ranges = tuple((v.min().item(), v.max().item()) for v in (x, y))
    gradients = [
        torch.autograd.grad(
            MutualInformationLoss((7, 5), kernel=kernel, value_range=r)(x, y), (x, y)
        )
        for r in (None, ranges)
    ]
    for a, b in zip(*gradients, strict=True):
        assert a.equal(b)
        assert a.abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("normalization", ["none", "geometric", "studholme"])
def test_value_and_gradient_are_finite_whatever_the_input(dtype, normalization):
    huge = torch.finfo(dtype).max
    tiny = torch.finfo(dtype).smallest_normal
    inputs = [
        torch.zeros(6),
        torch.tensor([0.0, 0.5, 1.0, 0.5, 0.25, 1.0]),
        torch.tensor([-huge, huge, 0.0, 0.0, 1.0, 2.0], dtype=dtype),
        torch.tensor([0.0, tiny, 0.0, tiny, tiny, 0.0], dtype=dtype),
        torch.linspace(0, 1, 6),
    ]
    for loss in [
        *all_losses(normalization=normalization),
        *all_losses(value_range=(0, 1), normalization=normalization),
    ]:
        for v in inputs:
            x = v.to(dtype).view(1, 1, -1).clone().requires_grad_()
            for y in (x, x.detach().flip(2), torch.ones(1, 1, 6, dtype=dtype)):
                value = loss(x, y)
                assert value.isfinite()
                (gradient,) = torch.autograd.grad(value, x)
                assert gradient.isfinite().all()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_constant_images_have_information_and_gradient_0(normalization):
    x, y = images(2, 1, 40)
    x[0] = 3.0
    x.requires_grad_()
    for loss in all_losses(normalization=normalization, reduction="none"):
        value = loss(x, y)
        assert abs(value[0, 0]) == (1 if normalization == "studholme" else 0)
        assert value[1, 0] != value[0, 0]
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert (gradient[0] == 0).all()
        assert (gradient[1] != 0).any()
    # The kernel spreads a constant over several cells of a given range.
    for constant in (3.0, 0.1, 7.0):
        x = torch.full((1, 1, 40), constant, dtype=torch.float64, requires_grad=True)
        for options in ({"value_range": (0, 5)}, {"clip_quantile": 0.13}):
            for loss in all_losses(normalization=normalization, **options):
                value = loss(x, y[:1])
                (gradient,) = torch.autograd.grad(value, x)
                assert abs(value) == (1 if normalization == "studholme" else 0)
                assert (gradient == 0).all()


@pytest.mark.parametrize("spoiler", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("value_range", [None, (-2.0, 2.0)])
def test_a_pixel_that_is_not_finite_spoils_its_own_table_only(spoiler, value_range):
    x, y = images(3, 2, 20)
    for loss in all_losses(value_range=value_range, reduction="none"):
        expected = loss(x, y)
        spoilt = x.clone()
        spoilt[1, 0, 3] = spoiler
        spoilt.requires_grad_()
        for a, b in ((spoilt, y), (y, spoilt)):
            value = loss(a, b)
            assert value[1, 0].isnan()
            assert value.isnan().sum() == 1
        others = torch.ones(3, 2, dtype=torch.bool)
        others[1, 0] = False
        value = loss(spoilt, y)
        torch.testing.assert_close(value[others], expected[others], rtol=0, atol=1e-13)
        (gradient,) = torch.autograd.grad(value.sum(), spoilt)
        assert gradient[others].isfinite().all()
        # GradScaler looks at gradients, not at the loss.
        assert gradient[1, 0].isnan().any()


def test_weights_that_make_no_sense_spoil_their_own_table_only():
    x, y = images(4, 1, 20)
    weights = torch.ones(4, 1, 20)
    weights[1] = 0
    weights[2, 0, 5] = -1
    weights[3, 0, 5] = math.nan
    for value_range in (None, (-2, 2)):
        for loss in all_losses(value_range=value_range, reduction="none"):
            assert loss(x, y, weights).isnan().flatten().tolist() == [False, False, True, True]


def test_gradient_descent_registers_two_signals():
    position = torch.arange(600.0)
    fixed = torch.sin(position / 17).add(torch.sin(position / 41)).view(1, 1, -1)
    moving = torch.cos(2 * fixed.roll(7, 2))  # another modality: not even monotone in the first
    for loss in (MutualInformationLoss(16), KDEMutualInformationLoss(grid_size=32)):
        shift = torch.full((1,), 2.0, requires_grad=True)
        optimizer = torch.optim.Adam([shift], lr=0.3)
        for _ in range(60):
            optimizer.zero_grad()
            at = position[20:580] + shift
            low = at.detach().floor()
            t = at - low
            sampled = moving[..., low.long()] * (1 - t) + moving[..., low.long() + 1] * t
            loss(sampled, fixed[..., 20:580]).backward()
            optimizer.step()
        assert shift.item() == pytest.approx(7, abs=0.3)


# -- at work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", all_losses(), ids=lambda v: type(v).__name__)
def test_autocast_changes_nothing(loss, dtype):
    x, y = images(2, 1, 300, dtype=torch.float32)
    x.requires_grad_()
    expected = loss(x, y)
    with torch.autocast("cpu", dtype=dtype):
        value = loss(x, y)
        assert value.equal(expected)
        gradients = torch.autograd.grad(value, x) + torch.autograd.grad(expected, x)
        assert gradients[0].equal(gradients[1])
        half = torch.nn.functional.linear(x, torch.eye(300))
        assert half.dtype == dtype
        assert loss(half, y).dtype == torch.float32


def test_a_scaled_loss_of_half_precision():
    x, y = images(1, 1, 400, dtype=torch.float32)
    x.requires_grad_()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD([x], lr=1.0)
    before = x.detach().clone()
    for spoil in (1.0, math.nan):
        optimizer.zero_grad()
        scaler.scale(MutualInformationLoss(8)((spoil * x).half(), y.half())).backward()
        scaler.step(optimizer)
        scaler.update()
        assert x.isfinite().all()
        assert not x.equal(before)
    # The second step was skipped.
    assert scaler.get_scale() == 2.0**9


@pytest.mark.parametrize("loss", all_losses(), ids=lambda v: type(v).__name__)
def test_a_scale_too_large_for_half_precision_is_noticed(loss):
    x, y = images(1, 1, 64, dtype=torch.float32)
    x = (x / 64).half().requires_grad_()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**32)
    parameter = torch.ones((), requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    for _ in range(40):
        optimizer.zero_grad()
        scale = scaler.get_scale()
        scaler.scale(loss(parameter.half() * x, y)).backward()
        scaler.step(optimizer)
        scaler.update()
        if parameter != 1:
            break
    # Skipped until all numbers could be represented, with the scale halved each time.
    assert 1 < scale < 2.0**32
    assert parameter.isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_range_that_the_samples_dtype_does_not_have(dtype):
    x, y = images(1, 1, 300, dtype=torch.float32)
    expected = KDEMutualInformationLoss(value_range=((-2.0, 2.0), (-2.0, 2.0)))(x, y)
    for most in (1e-30, 1e5, 1e300):
        value = KDEMutualInformationLoss(value_range=((-most, most), (-2.0, 2.0)))(
            x.to(dtype), y.to(dtype)
        )
        assert value.isfinite()
    assert KDEMutualInformationLoss(value_range=((-2.0, 2.0), (-2.0, 2.0)))(
        x.to(dtype), y.to(dtype)
    ).item() == (pytest.approx(expected.item(), abs=1e-3))


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int16, torch.bool]
)
@pytest.mark.parametrize("loss", all_losses(), ids=lambda v: type(v).__name__)
def test_a_mask_of_any_integer_dtype(loss, dtype):
    x, y = images(1, 1, 100)
    kept = (torch.arange(100) % 3 > 0).expand_as(x)
    assert loss(x, y, kept.to(dtype)).equal(loss(x, y, kept.double()))


@pytest.mark.parametrize("size", [30, 3000])
def test_the_default_device_is_not_that_of_the_samples(size):
    x, y = images(2, 2, size)
    for loss in all_losses():
        right = loss(x, y)
        with torch.device("meta"):
            assert torch.equal(loss(x, y), right)


@pytest.mark.parametrize("value_range", [None, (-2.0, 2.0)])
def test_nothing_is_read_back_from_the_device(value_range):
    x, y = images(2, 2, 30)
    x.requires_grad_()
    mask = torch.rand(2, 1, 30) > 0.2
    for normalization in ("none", "geometric"):
        for loss in all_losses(value_range=value_range, normalization=normalization):
            for weights in (None, mask, mask.double()):
                with no_waiting():
                    loss(x, y, weights).backward()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_to_one_graph_without_recompiling(backend):
    x, y = images(2, 1, 12, 10, dtype=torch.float32)
    mask = torch.rand(2, 1, 12, 10, generator=torch.Generator().manual_seed(0)) > 0.3
    candidates = (
        all_losses() if backend == "aot_eager" else [MutualInformationLoss(8, value_range=(-2, 2))]
    )
    if torch.__version__ < "2.6":
        candidates = [c for c in candidates if not isinstance(c, KDEMutualInformationLoss)]
    for loss in candidates:
        for weights in (None, mask):
            torch.compiler.reset()
            compiled = torch.compile(loss, fullgraph=True, backend=backend)
            compiled(x.clone().requires_grad_(), y, weights)
            with torch._dynamo.config.patch(error_on_recompile=True):
                for factor in (1.0, -2.0):
                    a = (factor * x).requires_grad_()
                    value, expected = compiled(a, y, weights), loss(a, y, weights)
                    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
                    (ours,), (theirs,) = (
                        torch.autograd.grad(value, a),
                        torch.autograd.grad(expected, a),
                    )
                    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_a_large_volume_trains_in_two_gigabytes():
    x = torch.rand(
        1, 1, 256, 256, 256, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    y = x.detach().square()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        MutualInformationLoss(32)(x, y).backward()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    # What came in, and the gradient, are 0.2 GB.
    assert peak + 2 * x.nbytes < 0.3e9


# -- bad input -------------------------------------------------------------------------------------

X = torch.rand(2, 1, 10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_bins": "auto"}, ValueError, '`num_bins="auto"` is chosen from the data'),
        ({"num_bins": 0}, ValueError, "`num_bins` to be at least 1, but got 0"),
        ({"kernel": "hard"}, ValueError, '"linear" or "cubic", but got "hard"'),
        ({"kernel": "gaussian"}, ValueError, "`kernel` to be one of"),
        ({"value_range": (1, 0)}, ValueError, "lo < hi"),
        ({"normalization": "nmi"}, ValueError, "`normalization` to be one of"),
        ({"unit": "bit"}, ValueError, "`unit` to be one of"),
        ({"pool": "pixel"}, ValueError, "`pool` to be one of 'image', 'batch', but got 'pixel'"),
        (
            {"reduction": "max"},
            ValueError,
            "`reduction` to be one of 'none', 'mean', 'sum', but got 'max'",
        ),
        ({"gather": True}, ValueError, 'needs pool="batch", but got pool="image"'),
        ({"gather": 1, "pool": "batch"}, TypeError, "`gather` to be True or False, but got 1"),
    ],
)
def test_bad_options_are_refused_with_a_message(options, error, message):
    for loss in (MutualInformationLoss, MutualInformationPenalty):
        with pytest.raises(error, match=message):
            loss(**options)
    if not options.keys() & {"num_bins", "kernel"}:
        with pytest.raises(error, match=message):
            KDEMutualInformationLoss(**options)


def test_bad_options_of_the_kde_loss():
    with pytest.raises(ValueError, match="`grid_size` to be at least 4, but got 3"):
        KDEMutualInformationLoss(grid_size=3)
    with pytest.raises(ValueError, match="`bandwidth` to be"):
        KDEMutualInformationLoss(bandwidth="wide")


@pytest.mark.parametrize(
    ("pool", "arguments", "error", "message"),
    [
        (
            "image",
            (X, X[:, :, :5]),
            ValueError,
            r"same shape, but got \(2, 1, 10\) and \(2, 1, 5\)",
        ),
        ("image", (X, X[:, :1].expand(2, 3, 10)), ValueError, "same shape"),
        ("batch", (X, X.expand(2, 3, 10)), ValueError, "same shape"),
        ("batch", (X.expand(2, 3, 10), X[:1]), ValueError, "same shape"),
        ("batch", (X[:, 0], X[:, 0, 0]), ValueError, r"same shape.* pass y\.unsqueeze\(1\)"),
        (
            "image",
            (X[0], X[0]),
            ValueError,
            r'\(B, C, \.\.\.\) with pool="image", but got \(1, 10\)',
        ),
        ("batch", (X[0, 0, 0], X[0, 0, 0]), ValueError, r"\(N,\) or \(N, C, \.\.\.\)"),
        ("image", (X[..., :1], X[..., :1]), ValueError, "at least 2 samples per table, .* has 1"),
        ("batch", (X[:1, :, 0], X[:1, :, 0]), ValueError, "per table, .* has 1.* drop_last=True"),
        ("batch", (X[:0], X[:0]), ValueError, "at least one sample, but got shape"),
        ("image", (X[:0], X[:0]), ValueError, "at least one sample, but got shape"),
        (
            "image",
            ((255 * X).byte(), X),
            TypeError,
            r"`x` to be a floating-point tensor, but got torch.uint8.*float\(",
        ),
        (
            "image",
            (X, X.long()),
            TypeError,
            r"`y` to be a floating-point tensor, but got torch.int64",
        ),
        ("image", (X, X > 0), TypeError, r"`y` to be a floating-point tensor, but got torch.bool"),
        ("image", (X + 0j, X), TypeError, "`x` to be real"),
        ("image", (X, X.tolist()), TypeError, "`y` to be a torch.Tensor, but got list"),
        (
            "image",
            (X, X.to("meta")),
            ValueError,
            "`x` and `y` on the same device, but got cpu and meta",
        ),
        (
            "image",
            (X, X, X.to("meta")),
            ValueError,
            "`x` and `weights` on the same device, but got cpu and meta",
        ),
        (
            "image",
            (X, X, X[:, :, :5]),
            ValueError,
            r"shape \(2, 1, 10\), or one that broadcasts to it, but got \(2, 1, 5\)",
        ),
        ("image", (X, X, X.expand(2, 2, 1, 10)), ValueError, "one that broadcasts to it"),
        ("image", (X, X, 1.0), TypeError, "`weights` to be a torch.Tensor, but got float"),
    ],
)
def test_bad_input_is_refused_with_a_message(pool, arguments, error, message):
    for loss in all_losses(pool=pool):
        with pytest.raises(error, match=message):
            loss(*arguments)


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_half_precision_gradient_of_a_narrow_range_overflows_and_keeps_its_sign(
    kernel: str,
) -> None:
    """As everywhere in PyTorch, for GradScaler to see; wider dtypes have a number for it."""
    x = (torch.arange(4) * 2.5e-7).half()
    y = torch.tensor([0.3, 0.1, 0.7, 0.2])
    gradients = []
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        leaf = x.to(dtype, copy=True).requires_grad_()
        MutualInformationLoss(8, kernel=kernel, pool="batch")(leaf, y).backward()
        gradients.append(leaf.grad)
    half, *others = gradients
    assert all(g.isfinite().all() for g in others)
    assert not half.isnan().any()
    assert half.sign().equal(others[-1].sign().half())
    assert half.isfinite().equal(others[-1].abs() < 65520)
