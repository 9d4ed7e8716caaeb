"""Which samples the losses count: masks, clipped ranges, empty tables, shapes that are refused."""

import contextlib
import math

import pytest
import torch

from mi_metrics.functional import binned_mutual_information
from mi_metrics.functional.densities import direct as densities
from mi_metrics.functional.tables import direct
from mi_metrics.kernels import switch
from mi_metrics.losses import (
    KDEMutualInformationLoss,
    MutualInformationLoss,
    MutualInformationPenalty,
)
from tests.cautions import ignore_cautions

LOSSES = [
    MutualInformationLoss((6, 5), reduction="none"),
    MutualInformationPenalty((6, 5), kernel="linear", value_range=(-2, 2), reduction="none"),
    MutualInformationLoss((6, 5), clip_quantile=0.05, reduction="none"),
    KDEMutualInformationLoss(grid_size=16, reduction="none"),
    KDEMutualInformationLoss(grid_size=16, clip_quantile=0.05, reduction="none"),
]
LIMITED = KDEMutualInformationLoss(grid_size=16, value_range=(-1, 1), reduction="none")
NORMALISED = [
    MutualInformationLoss(6, normalization="min", reduction="none"),
    KDEMutualInformationLoss(grid_size=16, normalization="joint", reduction="none"),
]


def images(*shape, seed=0, r=0.6):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return x, r * x + math.sqrt(1 - r * r) * noise


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_mask_is_a_weight_of_zero_and_multiplies_weights(loss):
    x, y = images(2, 3, 40)
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(2, 1, 40, generator=generator) > 0.3
    weights = torch.randint(1, 4, (2, 3, 40), generator=generator)
    assert loss(x, y, mask=mask).equal(loss(x, y, mask))
    assert loss(x, y, weights, mask=mask).equal(loss(x, y, weights * mask))
    spoilt = torch.where(mask, weights.double(), torch.nan)
    assert loss(torch.where(mask, x, torch.nan), y, spoilt, mask=mask).equal(
        loss(x, y, weights, mask=mask)
    )


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_table_without_samples_counts_as_zero_with_gradient_zero(loss):
    x, y = images(3, 1, 40)
    x[1, 0, 3] = math.nan
    mask = torch.ones(3, 1, 40, dtype=torch.bool)
    mask[1] = False
    expected = loss(x[::2], y[::2])
    x.requires_grad_()
    value = loss(x, y, mask=mask)
    assert value[1, 0] == 0
    torch.testing.assert_close(value[::2], expected, rtol=0, atol=1e-13)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert (gradient[1] == 0).all()
    assert gradient.isfinite().all()
    assert (gradient[::2] != 0).any()
    loss = type(loss)(**({} if "KDE" in repr(loss) else {"num_bins": 6}))
    # The mean is over all tables, the empty one included.
    mean = loss(x.detach(), y, mask=mask)
    assert mean.item() == pytest.approx(loss(x[::2].detach(), y[::2]).item() * 2 / 3, abs=1e-12)
    assert loss(x, y, torch.zeros(3, 1, 1)) == 0


@pytest.mark.parametrize("serves", [True, False], ids=["compiled", "reference"])
@pytest.mark.parametrize("side", [40, 3000], ids=["few", "many"])
@pytest.mark.parametrize("loss", [*LOSSES, *NORMALISED], ids=repr)
def test_what_is_left_out_of_a_table_that_is_nan_has_no_gradient(loss, side, serves):
    x, y = images(6, 1, side)
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(6, 1, side, generator=generator) > 0.3
    mask[:, 0, 0] = True
    weights = mask * torch.rand(6, 1, side, generator=generator)
    x[0, 0, 0], y[1, 0, 0], weights[2, 0, 0], weights[3, 0, 0] = math.nan, math.inf, -1, math.nan
    # Of the fourth, what makes no sense is all that there is.
    weights[3, 0, 1:] = 0
    spoilt = torch.where(mask, x, math.nan)
    for options in ({"mask": mask}, {"weights": weights}, {"weights": weights, "mask": mask}):
        pair = spoilt.clone().requires_grad_(), y.clone().requires_grad_()
        with contextlib.nullcontext() if serves else switch.disabled():
            value = loss(*pair, **options)
            gradients = torch.autograd.grad(value.nansum(), pair, retain_graph=True)
            # A step that is not finite itself, as of a scale that is too large.
            overflown = torch.autograd.grad(value.sum() * math.inf, pair)
        given = weights if "weights" in options else mask
        doubtful = 4 if "weights" in options else 2
        assert value.flatten().isnan().tolist() == [i < doubtful for i in range(6)]
        for gradient in gradients:
            assert (gradient[given == 0] == 0).all()
            assert gradient[: min(doubtful, 3)].isnan().flatten(1).any(1).all()
            assert gradient[doubtful:].isfinite().all()
            assert (gradient[doubtful:] != 0).flatten(1).any(1).all()
        for gradient in overflown:
            assert (gradient[given == 0] == 0).all()


@ignore_cautions
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("clip", [0.01, 0.1, 0.3])
def test_clipped_ranges_are_those_of_the_function(kernel, clip):
    x, y = images(2, 3, 101)
    x[0, 0, 0] = 1e6
    options = {"clip_quantile": clip, "kernel": kernel}
    loss = MutualInformationLoss((7, 5), reduction="none", **options)
    expected = -binned_mutual_information(x, y, (7, 5), bias_correction="none", **options)
    torch.testing.assert_close(loss(x, y), expected, rtol=0, atol=1e-10)
    weights = torch.randint(0, 4, (2, 3, 101), generator=torch.Generator().manual_seed(1))
    expected = -binned_mutual_information(
        x, y, (7, 5), bias_correction="none", weights=weights, **options
    )
    torch.testing.assert_close(loss(x, y, weights), expected, rtol=0, atol=1e-10)


def test_clipping_brings_a_far_voxel_in_and_gives_it_no_gradient():
    x, y = images(1, 1, 400)
    x[0, 0, 0] = 30_000
    x.requires_grad_()
    for kind, options in (
        (MutualInformationPenalty, {"num_bins": 8}),
        (KDEMutualInformationLoss, {}),
    ):
        sign = 1 if kind is MutualInformationPenalty else -1
        assert sign * kind(**options)(x, y) < 0.05
        clipped = kind(clip_quantile=0.01, **options)(x, y)
        assert 0.1 < sign * clipped < 0.5  # truth .2231
        (gradient,) = torch.autograd.grad(clipped, x)
        assert gradient[0, 0, 0] == 0
        assert (gradient != 0).sum() > 380


def test_constants_have_exactly_no_information():
    y = images(1, 1, 40)[1]
    for value in (0.1, 1 / 3, 7.3, -1e30):
        x = torch.full((1, 1, 40), value, dtype=torch.float64, requires_grad=True)
        for kernel in ("linear", "cubic"):
            for options in ({"value_range": (-1, 8)}, {"clip_quantile": 0.13}, {}):
                for normalization in ("none", "geometric", "joint"):
                    loss = MutualInformationLoss(
                        7, kernel=kernel, normalization=normalization, **options
                    )
                    for pair in ((x, y), (y, x)):
                        result = loss(*pair)
                        assert result == 0
                        assert (torch.autograd.grad(result, x)[0] == 0).all()


@pytest.mark.parametrize(
    ("shape", "bins", "message"),
    [
        ((32, 32, 32), 32, "32 x 32 tables of 32 samples for 32 x 32 bins.*x\\[None, None\\]"),
        ((2, 28, 28), (16, 64), "more samples per table than bins"),
        ((2, 28, 28, 1), 8, r"looks like \(B, H, W, C\).*movedim"),
        ((2, 64, 48, 3), 8, r"looks like \(B, H, W, C\).*movedim"),
    ],
)
def test_shapes_that_are_no_images_are_refused(shape, bins, message):
    x, y = torch.rand(2, *shape)
    with pytest.raises(ValueError, match=message):
        MutualInformationLoss(bins)(x, y)
    assert MutualInformationLoss(bins)(x.flatten()[None, None], y.flatten()[None, None]) < 0
    if len(shape) == 4:
        with pytest.raises(ValueError, match="movedim"):
            KDEMutualInformationLoss()(x, y)


def test_as_few_samples_as_bins_of_one_axis_are_taken():
    x, y = images(2, 1, 6)
    assert MutualInformationLoss((6, 5))(x, y).isfinite()
    with pytest.raises(ValueError, match="more samples"):
        MutualInformationLoss((7, 5))(x, y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mask": torch.ones(2, 1, 10)}, TypeError, "`mask` to be a bool tensor.*weights > 0"),
        ({"mask": [True]}, TypeError, "`mask` to be a bool tensor.*got list"),
        (
            {"mask": torch.ones(2, 3, 10) > 0},
            ValueError,
            "`mask` of the samples' shape .* broadcasts",
        ),
        ({"mask": torch.ones(2, 1, 10, device="meta") > 0}, ValueError, "same device"),
    ],
)
def test_bad_masks_are_refused(arguments, error, message):
    x = torch.rand(2, 1, 10)
    with pytest.raises(error, match=message):
        MutualInformationLoss(4)(x, x, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_quantile": 0.5}, r"`clip_quantile` in \[0, 0.5\)"),
        ({"clip_quantile": 0.1, "value_range": (0, 1)}, "excludes a given `value_range`"),
        ({"clip_quantile": 0.1, "pool": "batch", "gather": True}, "quantiles of the whole batch"),
    ],
)
def test_clipping_excludes(options, message):
    for kind in (MutualInformationLoss, MutualInformationPenalty, KDEMutualInformationLoss):
        with pytest.raises(ValueError, match=message):
            kind(**options)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("loss", [LOSSES[2], LOSSES[4]], ids=repr)
def test_masks_weights_and_clipping_compile_to_one_graph(loss):
    if torch.__version__ < "2.6" and isinstance(loss, KDEMutualInformationLoss):
        pytest.skip("PyTorch compiles autograd functions with a context of their own from 2.6 on")
    x, y = images(2, 1, 30)
    mask = torch.rand(2, 1, 30, generator=torch.Generator().manual_seed(0)) > 0.3
    weights = torch.rand(2, 1, 30, generator=torch.Generator().manual_seed(1)) + 0.5
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for arguments in ({}, {"mask": mask}, {"mask": mask, "weights": weights}):
        pair = [x.clone().requires_grad_() for _ in range(2)]
        values = [f(v, y, **arguments) for f, v in zip((loss, compiled), pair, strict=True)]
        torch.testing.assert_close(values[0], values[1])
        gradients = [torch.autograd.grad(a.sum(), b)[0] for a, b in zip(values, pair, strict=True)]
        torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("build", [MutualInformationLoss, MutualInformationPenalty])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_only_ratios_of_weights_count_however_large_they_are(build, clip):
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.rand(2, 1, 1, 500, generator=generator, dtype=torch.float64)
    x, y = x.requires_grad_(), x.detach().sqrt()
    loss = build(8, clip_quantile=clip)
    expected = loss(x, y, weights)
    (gradient,) = torch.autograd.grad(expected, x)
    for scale in (1e-300, 1.7e308):
        value = loss(x, y, scale * weights)
        assert value.item() == pytest.approx(expected.item(), abs=1e-10)
        torch.testing.assert_close(torch.autograd.grad(value, x)[0], gradient)
    # Subnormal weights have few digits, but sums.
    assert loss(x, y, torch.full_like(x, 5e-324)).item() == pytest.approx(loss(x, y).item())
    assert loss(x, y, torch.full_like(x, torch.inf)).isnan()


@pytest.mark.parametrize("serves", [True, False], ids=["direct", "reference"])
@pytest.mark.parametrize("upstream", [1, math.nan, math.inf], ids=str)
@pytest.mark.parametrize("spoilt", ["nothing", "by a weight", "by y"])
@pytest.mark.parametrize("loss", [*LOSSES[:2], LOSSES[3], LIMITED, *NORMALISED], ids=repr)
def test_gradients_are_nan_where_losses_or_theirs_are_and_samples_count(
    loss, spoilt, upstream, serves, monkeypatch
):
    if not serves:
        monkeypatch.setattr(direct, "serves", lambda *_: False)
        monkeypatch.setattr(densities, "serves", lambda *_: False)
    for constant in (False, True):
        x, y = images(1, 1, 40)
        weights = torch.rand(1, 1, 40, generator=torch.Generator().manual_seed(1))
        weights[..., :3] = 0
        x = torch.full_like(x, 0.25) if constant else 2 * x
        if spoilt == "by a weight":
            weights[..., 5] = -1
        if spoilt == "by y":
            y[..., 5] = math.inf
        x.requires_grad_()
        value = loss(x, y, weights)
        assert value.isnan() == (spoilt != "nothing")
        (gradient,) = torch.autograd.grad(value, x, torch.full_like(value, upstream))
        still = weights == 0
        if loss is LIMITED:
            still = still | (x.abs() > 1)
        assert (gradient[still] == 0).all()
        if constant and spoilt == "nothing":
            assert (gradient == 0).all()
        else:
            finite = spoilt == "nothing" and upstream == 1
            assert (gradient[~still].isfinite() == finite).all()


@pytest.mark.parametrize("loss", LOSSES[:2] + LOSSES[3:4], ids=repr)
@pytest.mark.parametrize("side", [0, 1])
def test_samples_changed_before_backward_are_refused_as_in_all_of_pytorch(loss, side):
    leaf, y = images(1, 1, 40)
    x = leaf.requires_grad_() * 1
    for function in (loss, torch.nn.functional.mse_loss):
        value = function(x, y)
        (x, y)[side].detach().add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.sum().backward()


def test_rows_have_no_fields_but_their_own():
    rows = MutualInformationLoss().rows_of(*images(1, 40))
    assert rows.having(conditions=3) == rows._replace(conditions=3)
    with pytest.raises(TypeError, match="no field 'weight'"):
        rows.having(weight=None)


@pytest.mark.parametrize("inputs", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("context", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_autocast_takes_samples_and_weights_of_either_half_precision(loss, inputs, context):
    x, y = (v.to(inputs) for v in images(2, 1, 40))
    x.requires_grad_()
    for weights in (None, y.abs(), y.abs().half()):
        found = []
        for enabled in (False, True):
            with torch.autocast("cpu", context, enabled):
                value = loss(x, y, weights)
                (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
                (second,) = torch.autograd.grad(gradient.double().square().sum(), x)
            found.append((value, gradient, second))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
