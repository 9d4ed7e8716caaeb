"""Gaussian losses: the function's value, exact and finite gradients, one graph, half precision."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from mi_metrics import GaussianMutualInformationLoss, GaussianMutualInformationPenalty
from mi_metrics import losses as package_losses
from mi_metrics.functional import gaussian_mutual_information
from mi_metrics.functional.shrinkage import class_codes
from tests.cautions import ignore_cautions
from tests.waiting import no_waiting

# The function warns of few samples; a loss does not look.
pytestmark = ignore_cautions

LOSSES = [GaussianMutualInformationLoss(), GaussianMutualInformationPenalty(unit="bits")]
PENALTY = GaussianMutualInformationPenalty()


def pair(n, x_dim, y_dim, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, x_dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, y_dim, generator=generator, dtype=torch.float64)
    y = 0.5 * x.sum(1, keepdim=True) * torch.linspace(0, 1, y_dim) + noise
    return (3 * x - 7).to(dtype), (y / 50).to(dtype)


def classes(n, seed=0):
    """Return labels with gaps between them, of unequal frequencies."""
    draws = torch.randint(9, (n,), generator=torch.Generator().manual_seed(seed))
    return torch.tensor([-100, 3, 3, 3, 7, 7, 2**40, 2**40, 2**40])[draws]


def one_hot(labels):
    return torch.nn.functional.one_hot(class_codes(labels)).double()


def plug_in(x, y):
    return gaussian_mutual_information(x, y, bias_correction="none")


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "x_dim", "y_dim"), [(10, 1, 1), (300, 3, 4), (40, 2, 6), (500, 40, 50)]
)
def test_value_is_that_of_the_function(n, x_dim, y_dim):
    x, y = pair(n, x_dim, y_dim)
    expected = plug_in(x, y)
    loss, penalty = (
        cls() for cls in (GaussianMutualInformationLoss, GaussianMutualInformationPenalty)
    )
    assert loss(x, y).item() == pytest.approx(-expected.item(), abs=1e-12)
    assert penalty(x, y).equal(-loss(x, y))
    assert GaussianMutualInformationPenalty(unit="bits")(x, y).item() == pytest.approx(
        expected.item() / math.log(2), abs=1e-12
    )


@pytest.mark.parametrize("exponent", [0, 1.5, 2.5])
def test_value_is_that_of_the_function_up_to_a_condition_of_1e8(exponent):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(150, 20, generator=generator, dtype=torch.float64)
    # All but one coordinate nearly the same: a condition of d · 10**(2 exponent).
    x = z[:, :1] + 10**-exponent * z
    y = (
        z[:, 3:10] * 10**-exponent
        + z[:, :1]
        + torch.randn(150, 7, generator=generator) * 10**-exponent
    )
    condition = np.linalg.cond(np.corrcoef(torch.cat((x, y), 1).T))
    assert exponent < 2 or 1e7 < condition < 1e8
    assert PENALTY(x, y).item() == pytest.approx(plug_in(x, y).item(), abs=1e-6)


@pytest.mark.parametrize("labels", [classes(200), classes(200) > 3, classes(200).bool().byte()])
def test_labels_are_one_hot_vectors(labels):
    x, _ = pair(200, 3, 1)
    x = x + (labels == labels.max()).unsqueeze(1) * torch.tensor([1.0, 0, -2])
    expected = plug_in(x, one_hot(labels)).item()
    assert PENALTY(x, labels).item() == pytest.approx(expected, abs=1e-12)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    assert PENALTY(x[order], labels[order]).item() == pytest.approx(expected, abs=1e-12)


def test_numbers_without_a_second_dimension_are_scalars():
    x, y = pair(50, 1, 1)
    assert PENALTY(x[:, 0], y[:, 0]).equal(PENALTY(x, y))
    assert PENALTY(x[:, 0], y).equal(PENALTY(x, y))
    assert PENALTY(x[:, 0], classes(50)).equal(PENALTY(x, classes(50)))


def test_scale_and_place_of_coordinates_change_nothing():
    x, y = pair(30, 3, 4)
    for n in (30, 8, 5):
        expected = PENALTY(x[:n], y[:n]).item()
        moved = PENALTY(x[:n] * torch.tensor([1e-3, -1e5, 1.0]) + 100, y[:n] * 1e200)
        assert moved.item() == pytest.approx(expected, abs=1e-9)


def by_noise(x, y, rho):
    """The information after noise of variance ρ/(1 − ρ) in every coordinate, by NumPy."""
    r = np.corrcoef(np.hstack((x, y)).T)
    r = (1 - rho) * r + rho * np.eye(len(r))
    d = x.shape[1]
    a, b, joint = (np.linalg.slogdet(m)[1] for m in (r[:d, :d], r[d:, d:], r))
    return (a + b - joint) / 2


@pytest.mark.parametrize("n", [2, 5, 8, 20, 34, 35, 50])
def test_shrinkage_for_few_samples_is_the_documented_one(n):
    x, y = pair(n, 3, 4)
    rho = max(0, (35 - n) / (2 * (35 + n)))
    assert PENALTY(x, y).item() == pytest.approx(by_noise(x.numpy(), y.numpy(), rho), abs=1e-9)


def test_shrinkage_of_functions_of_each_other_is_the_documented_one():
    x, _ = pair(300, 3, 1)
    for y, directions in ((2 * x - 1, 3), (x.sum(1, keepdim=True), 1)):
        value = PENALTY(x, y).item()
        d = 3 + y.shape[1]
        # 1/tr R⁻¹ of what rounding leaves is near 0, from where ρ is measured: 15/16 of the floor.
        assert value == pytest.approx(
            by_noise(x.numpy(), y.numpy(), 15 / 16 * 2**-27 / d), rel=0.02
        )
        assert directions * 8 < value < directions * 11
    # Labels: the same, of noise in x alone.
    labels = classes(300)
    value = PENALTY(one_hot(labels), labels).item()
    assert 3 * 8 < value < 3 * 11
    assert PENALTY(x, labels).item() < 0.1


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e30])
def test_constant_input_has_no_information_and_no_gradient(constant):
    x, y = pair(40, 2, 3)
    still = torch.full_like(x, constant).requires_grad_()
    for other in (y, classes(40), still.detach()):
        value = PENALTY(still, other)
        assert value.item() == 0
        assert torch.autograd.grad(value, still)[0].abs().max() == 0
    for label in (0, 2**50):
        assert PENALTY(x, torch.full((40,), label)).item() == pytest.approx(0, abs=1e-12)
    # A constant coordinate is absent.
    expected = PENALTY(x, y).item()
    assert PENALTY(torch.cat((x, still), 1), y).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_value_is_that_of_the_lifted_input(dtype):
    x, y = pair(100, 3, 2, dtype=dtype)
    assert PENALTY(x, y).dtype == torch.float32
    assert PENALTY(x, y).equal(PENALTY(x.double(), y.double()).float())
    assert PENALTY(x, y.double()).dtype == torch.float64
    assert PENALTY(x, classes(100)).equal(PENALTY(x.double(), classes(100)).float())


# -- gradients -------------------------------------------------------------------------------------

TARGETS = {"vectors": lambda n: pair(n, 2, 3, seed=1)[1], "labels": classes}


# Forward mode compiles formulas of PyTorch's own.
jit_is_deprecated = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")


@jit_is_deprecated
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_gradient_is_that_of_differences(target):
    """Where nothing is shrunk; elsewhere ρ is a constant to the gradient and differences see it."""
    x, y = pair(30, 2, 1)[0].requires_grad_(), target(30)
    if y.is_floating_point():
        y.requires_grad_()
    inputs = [v for v in (x, y) if v.requires_grad]
    for loss in LOSSES:
        function = loss if y.requires_grad else lambda x, loss=loss: loss(x, y)
        assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("n", [6, 12])
def test_gradient_with_shrinkage_for_few_samples_is_exact_too(n):
    # ρ depends on N alone here.
    x, y = pair(n, 2, 2)
    assert torch.autograd.gradcheck(PENALTY, (x.requires_grad_(), y.requires_grad_()))


def hostile(dtype):
    most = torch.finfo(dtype).max
    x, y = pair(50, 2, 3)
    x = x / x.abs().max()
    labels = classes(50)
    yield "few", x[:4], y[:4]
    yield "two", x[:2], y[:2]
    yield "equal samples", x[:1].expand(50, 2), y
    yield "y is x", x, x
    yield "y is a function of x", x, x @ torch.ones(2, 3, dtype=torch.float64)
    yield "repeated coordinates", torch.cat((x, x), 1), y
    yield "one-hot", x, one_hot(labels)
    yield "labels of functions", labels.clamp(-5, 9).double().unsqueeze(1) * x[:1], labels
    yield "a class of each", x[:5], torch.arange(5)
    yield "one class", x, torch.zeros(50, dtype=torch.int64)
    yield "largest", x * most, y
    yield "smallest", x * (10 * torch.finfo(dtype).tiny), y
    yield "far from 0", x * 1e-6 + 1, y
    yield (
        "one far sample",
        torch.cat((x, torch.full((1, 2), most / 2, dtype=torch.float64))),
        torch.cat((y, y[:1])),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda v: type(v).__name__)
def test_value_and_gradient_are_finite_whatever_the_input(loss, dtype):
    for name, x, y in hostile(dtype):
        x = x.to(dtype).detach().requires_grad_()
        y = y.to(dtype) if y.is_floating_point() else y
        value = loss(x, y)
        value.backward()
        assert value.isfinite(), name
        assert x.grad.isfinite().all(), name
        assert x.grad.dtype == dtype


def test_descent_removes_and_raises_information_where_there_are_few_samples():
    """Shrunk gradients point the right way: batches of as many samples as coordinates."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 12, generator=generator)
    labels = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()
    for loss in (GaussianMutualInformationPenalty(), GaussianMutualInformationLoss()):
        torch.manual_seed(0)
        encoder = nn.Linear(12, 8)
        before = gaussian_mutual_information(encoder(inputs), one_hot(labels)).item()
        optimizer = torch.optim.Adam(encoder.parameters(), 0.02)
        for _ in range(200):
            rows = torch.randint(2000, (11,), generator=generator)
            optimizer.zero_grad()
            loss(encoder(inputs[rows]), labels[rows]).backward()
            optimizer.step()
        after = gaussian_mutual_information(encoder(inputs), one_hot(labels)).item()
        assert after < before / 3 if loss.sign > 0 else after > before + 0.1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_sample_that_is_not_finite_spoils_the_loss_and_does_not_raise(bad):
    x, y = pair(50, 3, 2)
    for target in (y, classes(50)):
        spoilt = x.clone()
        spoilt[3, 1] = bad
        spoilt.requires_grad_()
        value = PENALTY(spoilt, target)
        value.backward()
        assert value.isnan()
        assert spoilt.grad.isnan().any()
    y[7, 0] = bad
    assert PENALTY(x, y).isnan()


# -- where it runs ---------------------------------------------------------------------------------


@jit_is_deprecated
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_functions_can_be_transformed(target, dtype):
    batches = torch.stack([pair(40, 2, 1, seed)[0] for seed in range(3)]).to(dtype)
    y = target(40)
    y = y.to(dtype) if y.is_floating_point() else y
    function = lambda x: PENALTY(x, y)  # noqa: E731
    expected = [x.clone().requires_grad_() for x in batches]
    values = torch.stack([function(x) for x in expected])
    values.sum().backward()
    gradients = torch.stack([x.grad for x in expected])
    close = {"rtol": 1e-5, "atol": 1e-6 if dtype == torch.float32 else 1e-12}
    torch.testing.assert_close(torch.func.vmap(function)(batches), values.detach(), **close)
    for transform in (torch.func.grad, torch.func.jacrev):
        found = torch.func.vmap(transform(function))(batches)
        torch.testing.assert_close(found, gradients, **close)
    with forward_ad.dual_level():
        tangent = torch.ones_like(batches[0]) * batches[1]
        dual = function(forward_ad.make_dual(batches[0], tangent))
        along = forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(along, (gradients[0] * tangent).sum(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    x, y = pair(100, 4, 3, dtype=torch.float32)
    for target in (y, classes(100)):
        a, b = (x.clone().requires_grad_() for _ in range(2))
        expected = PENALTY(a, target)
        with torch.autocast("cpu", dtype):
            value = PENALTY(b, target)
        assert value.equal(expected)
        expected.backward()
        value.backward()
        assert b.grad.equal(a.grad)


def test_nothing_is_read_back_from_the_device():
    x, y = pair(50, 3, 2)
    x.requires_grad_()
    targets = y, classes(50)
    with no_waiting():
        for target in targets:
            PENALTY(x, target).backward()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_to_one_graph_without_recompiling(backend, target):
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(PENALTY), fullgraph=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(3):
            x, y = pair(60, 2, 1, seed)[0].float(), target(60)
            y = y.float() if y.is_floating_point() else y
            a, b = (x.clone().requires_grad_() for _ in range(2))
            value, expected = compiled(a, y), PENALTY(b, y)
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
            value.backward()
            expected.backward()
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)


def test_modules_can_be_copied_printed_and_cast():
    loss = GaussianMutualInformationLoss(unit="bits", gather=True)
    assert repr(loss) == "GaussianMutualInformationLoss(unit='bits', gather=True)"
    x, y = pair(50, 2, 2)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), loss.half()):
        # Without a process group `gather` changes nothing.
        assert twin(x, y).equal(GaussianMutualInformationLoss(unit="bits")(x, y))
    assert not loss.state_dict()
    assert package_losses.GaussianMutualInformationLoss is GaussianMutualInformationLoss
    assert package_losses.GaussianMutualInformationPenalty is GaussianMutualInformationPenalty


# -- what is refused -------------------------------------------------------------------------------

REFUSED = {
    "integers": (lambda x, y: (x.long(), y), TypeError, "`x` to be a floating-point tensor"),
    "labels of two": (
        lambda x, y: (x, y.long()),
        TypeError,
        r"labels `y` of shape \(N,\).*float\(\)",
    ),
    "a list": (lambda x, y: (x, [1]), TypeError, r"`y` to be a torch\.Tensor"),
    "complex": (lambda x, y: (x + 1j, y), TypeError, "`x` to be real"),
    "lengths": (lambda x, y: (x, y[1:]), ValueError, r"\(20, 3\) and \(19, 2\)"),
    "length of labels": (lambda x, y: (x, classes(19)), ValueError, r"\(20, 3\) and \(19,\)"),
    "three dimensions": (
        lambda x, y: (x[None], y[None]),
        ValueError,
        "flatten what is one variable",
    ),
    "a number": (lambda x, y: (x[0, 0], y), ValueError, r"\(\) and \(20, 2\)"),
    "no coordinate": (lambda x, y: (x[:, :0], y), ValueError, "d ≥ 1"),
    "devices": (lambda x, y: (x, y.to("meta")), ValueError, r"`x` and `y` on the same device"),
    "one sample": (lambda x, y: (x[:1], y[:1]), ValueError, "at least 2 samples"),
}


@pytest.mark.parametrize("bad", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_a_message(bad):
    spoil, error, message = bad
    for loss in LOSSES:
        with pytest.raises(error, match=message):
            loss(*spoil(*pair(20, 3, 2)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [({"unit": "dits"}, ValueError, "`unit`"), ({"gather": 1}, TypeError, "`gather` to be True")],
)
def test_bad_options_are_refused_with_a_message(options, error, message):
    with pytest.raises(error, match=message):
        GaussianMutualInformationLoss(**options)


@pytest.mark.parametrize(
    ("offset", "unit"), [(1e14, 1.0), (-1e15, 2.0), (0.0, 1e-280), (1e308, 1e306)]
)
def test_neither_place_nor_scale_is_lost(offset, unit):
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 500, 2, generator=generator, dtype=torch.float64)
    x, y = (offset + unit * v for v in (x, 0.6 * x + 0.8 * noise))
    x.requires_grad_()
    loss = GaussianMutualInformationLoss()(x, y)
    expected = gaussian_mutual_information(x, y, bias_correction="none")
    assert loss.item() == pytest.approx(-expected.item(), rel=1e-6)
    assert expected > 0.3
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_a_constant_far_from_0_has_no_information_and_no_gradient():
    x = torch.randn(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for constant in (0.1, 1e15 / 3, -1e308):
        y = torch.full_like(x, constant).requires_grad_()
        loss = GaussianMutualInformationLoss()(x, y)
        assert loss == 0
        assert (torch.autograd.grad(loss, y)[0] == 0).all()
