"""Random calls of the losses, forward and backward."""

import inspect
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

from mi_metrics import (
    GaussianMutualInformationLoss,
    GaussianMutualInformationPenalty,
    KDEMutualInformationLoss,
    MutualInformationLoss,
    MutualInformationPenalty,
)
from tests.fuzzing import inputs
from tests.fuzzing.outcome import Call, attempt, require, require_gradient

COMMON: dict[str, Any] = {
    "value_range": inputs.RANGES,
    "normalization": inputs.NORMALIZATIONS,
    "unit": inputs.UNITS,
    "pool": ("image", "batch", "batch"),
    "reduction": ("none", "mean", "sum"),
    "gather": (False, False, True),
}
BINNED = COMMON | {
    "num_bins": inputs.BINS,
    "kernel": ("linear", "cubic"),
    "clip_quantile": (0.0, 0.01, 0.3),
    "standardize": (False, True),
}
KDE = COMMON | {"bandwidth": inputs.BANDWIDTHS, "grid_size": (4, 5, 16, 64)}


def _case(cls: type[torch.nn.Module], options: dict[str, Any]) -> Callable[[Random], Call]:
    known = inspect.signature(cls).parameters
    options = {name: choices for name, choices in options.items() if name in known}

    def case(random: Random) -> Call:
        kwargs = inputs.arguments(random, options)
        seed = random.getrandbits(32)
        return Call(
            f"{cls.__name__}, called with seed {seed},",
            cls,
            (),
            kwargs,
            lambda _, loss: _use(loss, Random(seed)),
        )

    return case


def _floats(random: Random) -> torch.dtype:
    return random.choice(inputs.FLOATS) if random.random() < 0.98 else inputs.dtype(random)


def _use(loss: Any, random: Random) -> None:
    shape = random.choice(
        [(2, 1, 5), (1, 2, 3, 4), (3, 1, 1), (2, 3), (40,), (1, 1, 150), (0, 1, 4), (), (2, 2, 0)]
    )
    x = inputs.tensor(random, shape, dtypes=_floats)
    like = None if x.is_meta or x.layout != torch.strided else x.detach().cpu()
    y = inputs.tensor(random, shape, like, dtypes=_floats)
    if random.random() < 0.1 and y.ndim >= 2 and y.layout == torch.strided:
        y = y[:, :1]
    weights = None
    if random.random() < 0.2:
        weights = inputs.tensor(random, random.choice([shape, shape[-1:], (1,), (3, 3)])).clone()
    # Torch itself keeps inference tensors out of graphs.
    x, y = (v.clone() if v.is_inference() else v.detach() for v in (x, y))
    x, y = (v.requires_grad_() if v.is_floating_point() else v for v in (x, y))
    value = attempt(loss, x, y, weights)
    if isinstance(value, Exception) or value.is_meta:
        return
    require(
        value.dtype == torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32),
        "a dtype",
    )
    require(not value.isinf().any(), f"an infinite loss: {value.tolist()}")
    leaves = [v for v in (x, y) if v.requires_grad]
    if not (_sound(x) and _sound(y) and _positive(weights)):
        return
    require(value.isfinite().all(), f"a loss that is not finite: {value.tolist()}")
    if not value.requires_grad:
        require(not leaves, "a loss without a gradient")
        return
    for leaf, gradient in zip(leaves, torch.autograd.grad(value.sum(), leaves), strict=True):
        require_gradient(gradient, leaf)


def _sound(v: Tensor) -> bool:
    return bool(v.detach().double().isfinite().all())


def _positive(weights: Tensor | None) -> bool:
    """Return whether weights leave something everywhere, which a loss does not check."""
    return weights is None or bool(((weights.double() > 1e-150) & (weights.double() < 1e150)).all())


def _gaussian_case(cls: type[torch.nn.Module]) -> Callable[[Random], Call]:
    def case(random: Random) -> Call:
        kwargs = inputs.arguments(random, {"unit": inputs.UNITS, "gather": (False, False, True)})
        seed = random.getrandbits(32)
        name = f"{cls.__name__}, called with seed {seed},"
        return Call(name, cls, (), kwargs, lambda _, loss: _use_vectors(loss, Random(seed)))

    return case


def _use_vectors(loss: Any, random: Random) -> None:
    """Call a loss of vectors, or of vectors and labels."""
    n = random.choice((0, 1, 2, 5, 17, 64))
    x = inputs.tensor(random, (n, random.choice((1, 1, 3, 20))), dtypes=_floats)
    if random.random() < 0.3:
        y = inputs.cast(inputs.numbers(random, (n,)).clamp(-9, 9), random.choice(inputs.INTEGERS))
    else:
        y = inputs.tensor(random, random.choice(((n,), (n, 1), (n, 4))), dtypes=_floats)
    # Torch itself keeps inference tensors out of graphs.
    x, y = (v.clone() if v.is_inference() else v.detach() for v in (x, y))
    x, y = (v.requires_grad_() if v.is_floating_point() else v for v in (x, y))
    value = attempt(loss, x, y)
    if isinstance(value, Exception) or value.is_meta:
        return
    require(value.shape == (), f"a loss of shape {tuple(value.shape)}")
    if not (_sound(x) and _sound(y)):
        return
    require(value.isfinite(), f"a loss that is not finite: {value.tolist()}")
    leaves = [v for v in (x, y) if v.requires_grad]
    if value.requires_grad:
        for leaf, gradient in zip(leaves, torch.autograd.grad(value, leaves), strict=True):
            require_gradient(gradient, leaf)
    else:
        require(not leaves, "a loss without a gradient")


CLASSES = (
    (MutualInformationLoss, BINNED),
    (MutualInformationPenalty, BINNED),
    (KDEMutualInformationLoss, KDE),
)
GAUSSIAN = (GaussianMutualInformationLoss, GaussianMutualInformationPenalty)
KINDS = {cls.__name__: _case(cls, options) for cls, options in CLASSES}
KINDS |= {cls.__name__: _gaussian_case(cls) for cls in GAUSSIAN}
