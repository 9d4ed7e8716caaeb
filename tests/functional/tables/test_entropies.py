"""Entropies of tables: the gradient in closed form against autograd through the direct formula."""

import math

import pytest
import torch

from mi_metrics.functional.information import information
from mi_metrics.functional.options import NORMALIZATIONS
from mi_metrics.functional.tables.entropies import plug_in, plug_in_entropies, probabilities

# Forward mode compiles some of PyTorch's own rules.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

FORMS = [form for form in NORMALIZATIONS if form != "adjusted"]


def table(*shape, empty=False):
    found = torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    if empty:
        found[..., 0, :] = 0
        found[..., 1, 2] = 0
    return found.requires_grad_()


def direct(counts):
    """Return the three entropies by the formula alone."""
    p = probabilities(counts)
    return plug_in(p.sum(-1), 1), plug_in(p.sum(-2), 1), plug_in(p, 2)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradient_is_that_of_the_direct_formula(empty, scale, which):
    ours, theirs = table(2, 3, 4, empty=empty), table(2, 3, 4, empty=empty)
    value, expected = plug_in_entropies(scale * ours)[which], direct(scale * theirs)[which]
    assert torch.equal(value, expected)
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    (value @ weights).backward()
    (expected @ weights).backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_of_every_form(form):
    def value(counts):
        return information(counts, normalization=form)

    counts = table(2, 3, 4)
    assert torch.autograd.gradcheck(value, (counts,), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(value, (counts,))
    jacobian = torch.func.jacrev(value)(counts.detach())
    assert torch.allclose(torch.func.jacfwd(value)(counts.detach()), jacobian, atol=1e-14)
    hessian = torch.func.hessian(lambda t: value(t).sum())(counts.detach())
    other = torch.func.jacrev(torch.func.jacrev(lambda t: value(t).sum()))(counts.detach())
    assert torch.allclose(hessian, other, atol=1e-12)
    found = torch.func.vmap(torch.func.grad(lambda t: value(t)))(counts.detach())
    (expected,) = torch.autograd.grad(value(counts).sum(), counts)
    assert torch.allclose(found, expected, atol=1e-14)


def test_tables_without_samples_or_with_nan_stay_their_own():
    counts = table(3, 2, 2).detach()
    counts[0], counts[1, 0, 0] = 0, math.nan
    counts.requires_grad_()
    value = plug_in_entropies(counts)[2]
    assert value.isnan().tolist() == [True, True, False]
    value[2].backward()
    assert bool(counts.grad[2].isfinite().all())
