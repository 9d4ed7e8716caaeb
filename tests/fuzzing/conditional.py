"""Random calls of the functions of x and y given z, of the matrix, and of scores read from it."""

import math
from random import Random
from typing import Any

import torch
from torch import Tensor

from mi_metrics import functional
from tests.fuzzing import inputs
from tests.fuzzing.functions import (
    CORRECTIONS,
    KNN,
    TABLE,
    VIEW,
    check_gradients,
    check_knn,
    check_knn_p_value,
    check_layout,
)
from tests.fuzzing.outcome import Call, attempt, require, require_gradient, require_number, same

NEIGHBORS = {k: KNN[k] for k in ("n_neighbors", "standardize", "unit")}


def labels(random: Random, shape: tuple[int, ...]) -> Tensor:
    """Return class labels: few, one for each sample, all alike, or what is no label."""
    kind = random.random()
    if kind < 0.1:
        return inputs.tensor(random, shape)
    values = inputs.numbers(random, shape)
    if kind < 0.7:
        values = values.nan_to_num(0.0).clamp(-9, 9).remainder(random.choice((1, 2, 5)))
    return inputs.laid_out(random, inputs.cast(values, random.choice(inputs.INTEGERS)))


def condition(random: Random, x: Any, shape: tuple[int, ...]) -> Tensor:
    """Return vectors z of a shape: numbers, some of which depend on x, or labels."""
    if random.random() < 0.2:
        return labels(random, shape)
    plain = isinstance(x, Tensor) and not x.is_meta and not x.is_sparse
    like = x.detach().cpu() if plain and x.shape == shape else None
    z = inputs.tensor(random, shape, like)
    return z.clone() if z.is_inference() else z


def binned_conditional_mutual_information(random: Random) -> Call:
    shape = inputs.shape(random)
    options = {"num_bins": inputs.BINS[:-1], "bias_correction": CORRECTIONS, "unit": inputs.UNITS}
    args = (*inputs.pair(random, shape), labels(random, shape))
    return Call(
        "binned_conditional_mutual_information",
        functional.binned_conditional_mutual_information,
        args,
        inputs.arguments(random, options | TABLE),
        _check_binned,
    )


def _check_binned(call: Call, value: Tensor) -> None:
    x, y, z = call.args
    require_number(value, x.shape[:-1])
    check_layout(call, value)
    if call.kwargs.get("bias_correction", "auto") == "none":
        most = math.log(x.shape[-1]) / (math.log(2) if call.kwargs.get("unit") == "bits" else 1)
        require(((value >= -1e-9) & (value <= most + 1e-9)).all(), f"out of bounds: {value}")
    if call.kwargs.get("kernel", "hard") == "hard":
        x, y = x.detach(), y.detach()
        one = attempt(call.function, x, y, torch.zeros_like(z, dtype=torch.int64), **call.kwargs)
        plain = attempt(functional.binned_mutual_information, x, y, **call.kwargs)
        require(same(one, plain), f"another value of one class: {one} and {plain}")
    elif value.requires_grad:
        check_gradients(call.args, value)


def knn_conditional_mutual_information(random: Random) -> Call:
    return Call(
        "knn_conditional_mutual_information",
        functional.knn_conditional_mutual_information,
        _triple(random),
        inputs.arguments(random, NEIGHBORS),
        check_knn,
    )


def knn_p_value_given_z(random: Random) -> Call:
    def p_value(x: Any, y: Any, z: Any, **kwargs: Any) -> Tensor:
        return functional.knn_p_value(x, y, z=z, **kwargs)

    options = {"algorithm": ("ksg1", "ksg1", "ksg1", "ksg2"), "num_permutations": (1, 9)}
    kwargs = inputs.arguments(random, NEIGHBORS | options | {"seed": (0, 7)})
    kwargs = {"num_permutations": 3} | kwargs
    return Call("knn_p_value, given z,", p_value, _triple(random), kwargs, check_knn_p_value)


def _triple(random: Random) -> tuple[Any, ...]:
    shape = inputs.shape(random)
    if random.random() < 0.2:
        x, y = inputs.pair(random, shape)
        return x, y, condition(random, x, shape)
    x, y = (inputs.tensor(random, (*shape, random.choice((1, 1, 2, 5)))) for _ in range(2))
    return x, y, condition(random, x, (*shape, random.choice((1, 1, 2, 3))))


def mutual_information_matrix(random: Random) -> Call:
    args = columns(random, inputs.size(random), random.choice((1, 2, 4)), random.choice((1, 1, 3)))
    options = VIEW | {
        "num_bins": inputs.BINS[:-1],
        "binning": inputs.BINNINGS,
        "bias_correction": CORRECTIONS,
    }
    return Call(
        "mutual_information_matrix",
        functional.mutual_information_matrix,
        args if random.random() < 0.7 else args[:1],
        inputs.arguments(random, options),
        _check_matrix,
    )


def columns(random: Random, n: int, cx: int, cy: int) -> tuple[Any, Any]:
    """Return x and y with samples in rows; now and then of other shapes, or no tensors at all."""
    if random.random() < 0.05:
        return inputs.pair(random, random.choice([(n,), (n, cx), (0, cx), (n, 0), (2, n, cx)]))
    x = inputs.tensor(random, (n, cx))
    plain = not x.is_meta and not x.is_sparse and cx == cy
    return x, inputs.tensor(random, (n, cy), x.detach().cpu() if plain else None)


def _check_matrix(call: Call, value: Tensor) -> None:
    x, y = call.args[0].detach(), call.args[-1].detach()
    require_number(value, (x.shape[1], y.shape[1]))
    check_layout(call, value)
    if len(x) < 2:
        # The function of a pair takes rows of one sample for a mistake in their shape.
        return
    for i, a in enumerate(x.T):
        for j, b in enumerate(y.T):
            pair = attempt(functional.binned_mutual_information, a, b, **call.kwargs)
            require(same(value[i, j], pair), f"pair {i}, {j}: {value[i, j]} against {pair}")


def mutual_information_gap(random: Random) -> Call:
    latents, factors = random.choice((1, 2, 5)), random.choice((1, 2, 3))
    entropies = inputs.tensor(random, (factors,))
    matrix = inputs.tensor(random, (latents, factors))
    if random.random() < 0.6:
        generator = torch.Generator().manual_seed(random.getrandbits(31))
        entropies = torch.rand(factors, generator=generator) * random.choice((0, 1, 1, 5))
        shares = torch.rand(latents, factors, generator=generator)
        matrix = inputs.laid_out(random, entropies * (2 * shares - 1).clamp_min(0))
    elif random.random() < 0.7 and entropies.dtype in inputs.FLOATS:
        entropies = entropies.abs()
    if random.random() < 0.05:
        matrix = inputs.tensor(random, inputs.shape(random))
    options = {"kind": ("mig", "mig_sup", "modularity")}
    return Call(
        "mutual_information_gap",
        functional.mutual_information_gap,
        (matrix, entropies),
        inputs.arguments(random, options),
        _check_gap,
    )


def _check_gap(call: Call, value: Tensor) -> None:
    matrix, entropies = (v.detach().double() for v in call.args)
    told = entropies[~(entropies < 1e-12)]
    tame = bool((matrix.abs() < 1e100).all() & (entropies < 1e100).all())
    kind = call.kwargs.get("kind", "mig")
    silent = not bool((matrix / entropies >= 1e-12)[:, ~(entropies < 1e-12)].any())
    without = len(told) < (2 if kind == "modularity" else 1) or (kind == "mig_sup" and silent)
    # Scores of what is no information are not looked at.
    if not tame:
        return
    require_number(value, (), may_be_nan=without)
    if bool((matrix <= entropies).all()) and not bool(value.isnan()):
        require(-1e-9 <= value <= 1 + 1e-9, f"a score of {value}")
    if call.args[0].requires_grad and call.args[0].is_leaf and not bool(value.isnan()):
        (gradient,) = torch.autograd.grad(value, call.args[:1])
        require_gradient(gradient, call.args[0])


FUNCTIONS = (
    binned_conditional_mutual_information,
    knn_conditional_mutual_information,
    knn_p_value_given_z,
    mutual_information_matrix,
    mutual_information_gap,
)
KINDS = {function.__name__: function for function in FUNCTIONS}
