"""Gaussian losses of conditional information: correlations of their own for each class."""

import copy
import math

import pytest
import torch
from torch import Tensor

from mi_metrics import GaussianMutualInformationLoss, GaussianMutualInformationPenalty
from tests.cautions import ignore_cautions

pytestmark = ignore_cautions

PLAIN, GIVEN = (
    GaussianMutualInformationPenalty(),
    GaussianMutualInformationPenalty(num_conditions=4),
)


def batch(n: int = 90, x_dim: int = 3, y_dim: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """x and y of which the dependence and the place differ between classes of unequal sizes."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, n, x_dim, generator=generator, dtype=torch.float64)
    z = torch.tensor([0, 0, 0, 1, 1, 3])[torch.randint(6, (n,), generator=generator)]
    y = (x * (1 - z[:, None]) + 0.5 * noise)[:, :y_dim]
    return x + 5 * z[:, None], y / 20 - z[:, None], z


def of_classes(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The sum over classes, from the loss without conditions."""
    value = torch.zeros((), dtype=torch.float64)
    for k in z.unique():
        own = z == k
        if own.sum() > 1:
            value = value + own.double().mean() * PLAIN(x[own], y[own])
    return value


def attribute(x: Tensor) -> Tensor:
    return (x.sum(1) * 1.5).round().long().clamp(-2, 9)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("n", [2, 7, 20, 90, 600])
def test_value_and_gradient_are_the_sum_over_classes(n: int, labels: bool) -> None:
    x, y, z = batch(n)
    x = x.requires_grad_()
    y = attribute(y * 20) if labels else y.requires_grad_()
    inputs = [x] if labels else [x, y]
    expected = of_classes(x, y, z)
    # Classes without samples, and the distinct labels, are of no effect.
    for loss in (GIVEN, PLAIN, GaussianMutualInformationPenalty(num_conditions=9)):
        value = loss(x, y, condition=z)
        assert value.item() == pytest.approx(expected.item(), abs=1e-10)
        if n > 7:
            found, wanted = (
                torch.autograd.grad(v, inputs, retain_graph=True) for v in (value, expected)
            )
            for a, b in zip(found, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)
                assert b.abs().max() > 1e-3
    bits = GaussianMutualInformationLoss(unit="bits", num_conditions=4)(x, y, condition=z)
    assert bits.item() == pytest.approx(-expected.item() / math.log(2), abs=1e-10)


@pytest.mark.parametrize("labels", [False, True])
def test_one_class_is_none(labels: bool) -> None:
    x, y, z = batch()
    y = attribute(x) if labels else y
    one = GaussianMutualInformationPenalty(num_conditions=1)(x, y, condition=z > 9)
    assert one.item() == pytest.approx(PLAIN(x, y).item(), abs=1e-13)


def test_a_common_cause_and_a_common_effect() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(3, (20_000,), generator=generator)
    x, y = (2 * z + torch.randn(2, 20_000, generator=generator, dtype=torch.float64)).unbind(0)
    assert PLAIN(x, y) > 0.3
    assert GIVEN(x, y, condition=z).item() == pytest.approx(0, abs=1e-3)
    a, b = torch.randn(2, 20_000, generator=generator, dtype=torch.float64)
    sign = (a * b > 0).long()
    assert PLAIN(a, b) < 1e-3
    # Halves of the plane: the correlation of |a| and |b| with one sign is 2 / π.
    truth = -0.5 * math.log(1 - (2 / math.pi) ** 2)
    assert GIVEN(a, b, condition=sign).item() == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize("n", [12, 60])
def test_gradcheck(n: int) -> None:
    x, y, z = batch(60)
    # The same classes in each; with 12 samples correlations are shrunk.
    x, y, z = x[:n], y[:n], z[:n]
    assert torch.autograd.gradcheck(
        lambda a, b: GIVEN(a, b, condition=z), (x.requires_grad_(), y.requires_grad_())
    )
    labels = attribute(x.detach())
    assert torch.autograd.gradcheck(lambda a: GIVEN(a, labels, condition=z), (x,))


def test_small_classes_and_constants_count_nothing() -> None:
    x, y, z = batch(30)
    single = GIVEN(x[:3].requires_grad_(), y[:3], condition=torch.tensor([0, 1, 3]))
    assert single.item() == 0
    still = torch.where((z == 0)[:, None], 0.7, x.detach()).requires_grad_()
    value = GIVEN(still, y, condition=z)
    (gradient,) = torch.autograd.grad(value, still)
    assert (gradient[z == 0] == 0).all()
    assert gradient.isfinite().all()
    assert value < GIVEN(x, y, condition=z)


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_outside_make_the_loss_nan(label: int) -> None:
    x, y, z = batch(30)
    z[7] = label
    assert GIVEN(x, y, condition=z).isnan()
    assert GIVEN(x, attribute(x), condition=z).isnan()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("labels", [False, True])
def test_compiles_to_one_graph(labels: bool) -> None:
    x, y, z = batch(60)
    y = attribute(x) if labels else y
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(GIVEN), fullgraph=True, backend="aot_eager")
    pair = [x.clone().requires_grad_() for _ in range(2)]
    values = [f(v, y, condition=z) for f, v in zip((GIVEN, compiled), pair, strict=True)]
    torch.testing.assert_close(values[0], values[1])
    gradients = [torch.autograd.grad(a, b)[0] for a, b in zip(values, pair, strict=True)]
    torch.testing.assert_close(gradients[0], gradients[1])
    # PyTorch up to 2.7 has no words of what is raised in a graph.
    with pytest.raises(Exception, match=r"num_conditions|[Oo]bserved exception"):
        torch.compile(PLAIN, fullgraph=True, backend="eager")(x, y, condition=z)


def test_functions_can_be_transformed() -> None:
    x, y, z = batch(40)
    each = torch.stack([x, x.flip(0)]), torch.stack([y, y]), torch.stack([z, 3 - z])
    rows = torch.func.vmap(lambda a, b, c: GIVEN(a, b, condition=c))(*each)
    for row, value in zip(zip(*each, strict=True), rows, strict=True):
        torch.testing.assert_close(GIVEN(*row[:2], condition=row[2]), value)


def test_descent_takes_away_what_the_condition_does_not_explain() -> None:
    """x = z + attribute: what is left tells z, and nothing more of the attribute."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(2, (1000,), generator=generator)
    label = torch.where(torch.rand(1000, generator=generator) < 0.4, z, 1 - z)
    noise = 0.3 * torch.randn(1000, generator=generator)
    weight = torch.tensor(1.0, requires_grad=True)
    penalty = GaussianMutualInformationPenalty(num_conditions=2)
    optimizer = torch.optim.Adam([weight], 0.05)
    for _ in range(80):
        optimizer.zero_grad()
        penalty(z + weight * label + noise, label, condition=z).backward()
        optimizer.step()
    assert weight.abs() < 0.05


@pytest.mark.parametrize(
    ("condition", "error", "said"),
    [
        (None, TypeError, "`condition` to be a torch.Tensor"),
        (torch.zeros(30), TypeError, "class labels in `condition`"),
        (torch.zeros(29, dtype=torch.int64), ValueError, "`condition` of shape"),
        (torch.zeros(30, 2, dtype=torch.int64), ValueError, "`condition` of shape"),
        (torch.zeros(30, dtype=torch.int64, device="meta"), ValueError, "meta"),
    ],
)
def test_bad_conditions_are_refused(condition: Tensor, error: type[Exception], said: str) -> None:
    x, y, _ = batch(30)
    with pytest.raises(error, match=said):
        GIVEN(x, y, condition=condition)


def test_options() -> None:
    assert repr(GIVEN).endswith("num_conditions=4)")
    for number, error in ((0, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match="num_conditions"):
            GaussianMutualInformationPenalty(num_conditions=number)  # type: ignore[arg-type]
