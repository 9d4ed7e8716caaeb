"""Losses of conditional information: a table for each class of the batch."""

import math

import pytest
import torch
from torch import Tensor

from mi_metrics.functional import binned_conditional_mutual_information
from mi_metrics.losses import (
    KDEMutualInformationLoss,
    MutualInformationLoss,
    MutualInformationPenalty,
)
from tests.cautions import ignore_cautions

pytestmark = ignore_cautions

RANGE = ((-2.5, 2.5), (-3.0, 3.0))


def batch(n: int = 60, channels: int = 2, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, n, channels, generator=generator, dtype=torch.float64)
    z = torch.randint(classes, (n,), generator=generator)
    return x, 0.6 * x * (z - 1)[:, None] + 0.8 * noise, z


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("value_range", [None, RANGE])
@pytest.mark.parametrize("unit", ["nats", "bits"])
def test_value_is_that_of_the_function(kernel: str, value_range: object, unit: str) -> None:
    x, y, z = batch()
    options = {"kernel": kernel, "value_range": value_range, "unit": unit}
    expected = binned_conditional_mutual_information(
        x.T,
        y.T,
        z.expand(2, -1),
        (6, 5),
        bias_correction="none",
        **options,  # type: ignore[arg-type]
    )
    for number in (3, 5, None):
        penalty = MutualInformationPenalty(
            (6, 5),
            pool="batch",
            reduction="none",
            num_conditions=number,
            **options,  # type: ignore[arg-type]
        )
        torch.testing.assert_close(penalty(x, y, condition=z), expected, rtol=1e-10, atol=1e-12)
    loss = MutualInformationLoss((6, 5), pool="batch", num_conditions=3, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(loss(x, y, condition=z), -expected.mean(), rtol=1e-10, atol=1e-12)


def hat(v: Tensor, lo: float, hi: float, bins: int) -> Tensor:
    """Weights of the linear kernel, with what would fall outside in the edge bins, ``(N, B)``."""
    u = (v.clamp(lo, hi) - lo) * bins / (hi - lo) - 0.5
    return (1 - (u[:, None].clamp(0, bins - 1) - torch.arange(bins)).abs()).clamp_min(0)


def direct(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The formula, by dense weights and autograd."""
    value = torch.zeros((), dtype=torch.float64)
    for k in z.unique():
        own = z == k
        p = hat(x[own], *RANGE[0], 6).T @ hat(y[own], *RANGE[1], 5) / own.sum()
        ratio = p / (p.sum(1, keepdim=True) * p.sum(0, keepdim=True)).clamp_min(1e-300)
        value = value + own.double().mean() * (p * ratio.clamp_min(1e-300).log())[p > 0].sum()
    return value


def test_gradient_is_that_of_the_formula() -> None:
    x, y, z = batch(channels=1)
    pair = [v[:, 0].clone().requires_grad_() for v in (x, y)]
    penalty = MutualInformationPenalty(
        (6, 5), kernel="linear", value_range=RANGE, pool="batch", num_conditions=4
    )
    value, expected = penalty(*pair, condition=z), direct(*pair, z)
    assert value.item() == pytest.approx(expected.item(), abs=1e-12)
    for found, wanted in zip(
        torch.autograd.grad(value, pair), torch.autograd.grad(expected, pair), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        assert wanted.abs().max() > 1e-3


def test_gradcheck() -> None:
    x, y, z = batch(24)
    weights = torch.rand(24, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for number, reduction in ((3, "none"), (None, "mean"), (5, "sum")):
        penalty = MutualInformationPenalty(
            5, value_range=RANGE, pool="batch", num_conditions=number, reduction=reduction
        )
        assert torch.autograd.gradcheck(
            lambda a, b: penalty(a, b, weights, condition=z),  # noqa: B023
            (x.clone().requires_grad_(), y.clone().requires_grad_()),
        )
    x, y = x[:, 0], y[:, 0]
    penalty = MutualInformationPenalty(5, value_range=RANGE, pool="batch", num_conditions=3)
    each = torch.stack([x, y]), torch.stack([y, x]), torch.stack([z, 2 - z])
    rows = torch.func.vmap(lambda a, b, c: penalty(a, b, condition=c))(*each)
    for row, value in zip(zip(*each, strict=True), rows, strict=True):
        torch.testing.assert_close(penalty(*row[:2], condition=row[2]), value)


def test_one_class_is_none() -> None:
    x, y, z = batch()
    for options in ({}, {"clip_quantile": 0.1}, {"normalization": "joint"}, {"kernel": "linear"}):
        plain = MutualInformationPenalty(6, pool="batch", **options)  # type: ignore[arg-type]
        one = MutualInformationPenalty(6, pool="batch", num_conditions=1, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(one(x, y, condition=z * 0), plain(x, y), rtol=1e-12, atol=0)


def test_exclusive_or() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(2, (2, 400, 1), generator=generator).double()
    z = (x != y)[:, 0]
    # As far apart as the bins are wide, the cubic kernel shares a sample out between three.
    options = {"num_bins": 8, "pool": "batch", "value_range": (-0.1, 1.1)}
    assert MutualInformationPenalty(**options)(x, y).item() < 0.01
    given = MutualInformationPenalty(num_conditions=2, **options)(x, y, condition=z)
    assert given.item() == pytest.approx(math.log(2), abs=0.02)


def test_constants_and_empty_classes_count_nothing() -> None:
    x, y, z = batch()
    penalty = MutualInformationPenalty(
        6, value_range=RANGE, pool="batch", reduction="none", num_conditions=4
    )
    whole = penalty(x, y, condition=z)
    # In a class in which x is constant nothing can be told.
    still = torch.where(z[:, None] == 0, 0.7, x).requires_grad_()
    value = penalty(still, y, condition=z)
    (gradient,) = torch.autograd.grad(value.sum(), still)
    assert (gradient[z == 0] == 0).all()
    assert (value < whole).all()
    constant = penalty(torch.full_like(x, 0.3).requires_grad_(), y, condition=z)
    assert constant.tolist() == [0, 0]
    single = penalty(x[:3], y[:3], condition=torch.tensor([0, 1, 3]))
    assert single.abs().max() < 1e-12
    nothing = penalty(x, y, mask=torch.zeros_like(x) > 0, condition=z)
    assert nothing.tolist() == [0, 0]


def test_masked_samples_may_have_any_label() -> None:
    x, y, z = batch()
    mask = torch.arange(60) % 4 > 0
    penalty = MutualInformationPenalty(6, pool="batch", num_conditions=3)
    expected = penalty(x[mask], y[mask], condition=z[mask])
    given = penalty(x, y, mask=mask[:, None], condition=torch.where(mask, z, -100))
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=0)
    # A label of each sample, and of each of its numbers.
    every = penalty(x, y, condition=z[:, None].expand(60, 2))
    assert every == penalty(x, y, condition=z) == penalty(x, y, condition=z[:, None])
    assert penalty(x[..., None, None], y[..., None, None], condition=z) == every


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_make_the_loss_nan(label: int) -> None:
    x, y, z = batch()
    z = z[:, None].repeat(1, 2)
    z[7, 1] = label
    penalty = MutualInformationPenalty(6, pool="batch", reduction="none", num_conditions=3)
    good, bad = penalty(x, y, condition=z).tolist()
    assert good == good
    assert bad != bad


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_to_one_graph() -> None:
    x, y, z = batch()
    mask = torch.arange(60)[:, None] % 4 > 0
    penalty = MutualInformationPenalty(6, pool="batch", num_conditions=3, clip_quantile=0.05)
    torch.compiler.reset()
    compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
    for arguments in ({"condition": z}, {"condition": z, "mask": mask}):
        pair = [x.clone().requires_grad_() for _ in range(2)]
        values = [f(v, y, **arguments) for f, v in zip((penalty, compiled), pair, strict=True)]
        torch.testing.assert_close(values[0], values[1])
        gradients = [torch.autograd.grad(a, b)[0] for a, b in zip(values, pair, strict=True)]
        torch.testing.assert_close(gradients[0], gradients[1])
    free = MutualInformationPenalty(6, pool="batch")
    # PyTorch up to 2.7 has no words of what is raised in a graph.
    with pytest.raises(Exception, match=r"num_conditions|[Oo]bserved exception"):
        torch.compile(free, fullgraph=True, backend="eager")(x, y, condition=z)


def test_descent_takes_away_what_the_condition_does_not_explain() -> None:
    """x = z + attribute: what is left tells z, and nothing more of the attribute."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(2, (2000,), generator=generator)
    attribute = torch.randint(2, (2000,), generator=generator)
    attribute = torch.where(torch.rand(2000, generator=generator) < 0.6, z, attribute)
    noise = 0.3 * torch.randn(2000, generator=generator)
    bias = torch.tensor(1.0, requires_grad=True)
    penalty = MutualInformationPenalty((8, 2), pool="batch", num_conditions=2)
    optimizer = torch.optim.Adam([bias], 0.05)
    for _ in range(80):
        x = z + bias * attribute + noise
        optimizer.zero_grad()
        penalty(x, attribute.float(), condition=z).backward()
        optimizer.step()
    assert abs(bias.item()) < 0.05


BAD = [
    ({"condition": torch.zeros(60)}, TypeError, "class labels in `condition`"),
    ({"condition": [0] * 60}, TypeError, "`condition` to be a torch.Tensor"),
    ({}, TypeError, "`condition` to be a torch.Tensor"),
    ({"condition": torch.zeros(59, dtype=torch.int64)}, ValueError, "`condition` of shape"),
    ({"condition": torch.zeros(60, 3, dtype=torch.int64)}, ValueError, "`condition` of shape"),
    ({"condition": torch.zeros(60, dtype=torch.int64, device="meta")}, ValueError, "device"),
]


@pytest.mark.parametrize(("arguments", "error", "said"), BAD)
def test_conditions_that_are_none(
    arguments: dict[str, Tensor], error: type[Exception], said: str
) -> None:
    x, y, _ = batch()
    with pytest.raises(error, match=said):
        MutualInformationPenalty(6, pool="batch", num_conditions=2)(x, y, **arguments)


def test_losses_without_conditions() -> None:
    x, y, z = batch()
    with pytest.raises(ValueError, match="MutualInformationPenalty with pool"):
        KDEMutualInformationLoss(pool="batch")(x, y, condition=z)
    image = torch.rand(60, 1, 8, 8)
    with pytest.raises(ValueError, match='pool="batch"'):
        MutualInformationPenalty(6)(image, image, condition=z)
    with pytest.raises(ValueError, match='needs pool="batch"'):
        MutualInformationPenalty(6, num_conditions=2)
    with pytest.raises(TypeError, match="`num_conditions` to be an int"):
        MutualInformationPenalty(6, pool="batch", num_conditions=2.0)  # type: ignore[arg-type]
    assert "num_conditions=2" in repr(MutualInformationPenalty(6, pool="batch", num_conditions=2))
