"""Random calls of the functional API."""

import math
from random import Random
from typing import Any

import torch
from torch import Tensor

from mi_metrics import functional
from tests.fuzzing import inputs
from tests.fuzzing.outcome import (
    Call,
    attempt,
    require,
    require_close,
    require_gradient,
    require_joint,
    require_number,
    same,
)

TABLE = {
    "value_range": inputs.RANGES,
    "binning": inputs.BINNINGS,
    "clip_quantile": (0.0, 0.0, 0.01, 0.3, 0.499),
    "margin": (0.0, 0.0, 0.1, 1000.0),
    "kernel": ("hard", "hard", "linear", "cubic"),
}
CORRECTIONS = ("auto", "none", "none", "miller_madow", "grassberger")
VIEW = {"normalization": inputs.NORMALIZATIONS, "unit": inputs.UNITS}
# 256 cells squared take their time.
KDE = {"bandwidth": inputs.BANDWIDTHS, "grid_size": inputs.GRIDS, "value_range": inputs.RANGES}


def binned_mutual_information(random: Random) -> Call:
    args, kwargs = _binned(random)
    kwargs |= inputs.arguments(random, VIEW | {"bias_correction": CORRECTIONS})
    return Call(
        "binned_mutual_information",
        functional.binned_mutual_information,
        args,
        kwargs,
        _check_binned,
    )


def binned_joint(random: Random) -> Call:
    args, kwargs = _binned(random)
    return Call("binned_joint", functional.binned_joint, args, kwargs, _check_binned_joint)


def _binned(random: Random) -> tuple[tuple[Any, ...], dict[str, Any]]:
    shape = inputs.shape(random)
    kwargs = inputs.arguments(random, {"num_bins": inputs.BINS[:-1]} | TABLE)
    if random.random() < 0.15:
        weights = inputs.tensor(random, shape)
        if not weights.is_complex() and random.random() < 0.8:
            weights = weights.abs() if weights.dtype in inputs.FLOATS else weights
        kwargs["weights"] = weights
    return inputs.pair(random, shape), kwargs


def _check_binned(call: Call, value: Tensor) -> None:
    x, y = call.args
    require_number(value, x.shape[:-1])
    check_layout(call, value)
    options = {
        k: v
        for k, v in call.kwargs.items()
        if k not in ("normalization", "unit", "bias_correction")
    }
    joint = attempt(functional.binned_joint, x, y, **options)
    normalization, unit = (
        call.kwargs.get(k, v) for k, v in (("normalization", "none"), ("unit", "nats"))
    )
    if call.kwargs.get("bias_correction", "auto") == "none":
        require_information(value, joint, normalization, unit)
    if value.requires_grad and call.kwargs.get("kernel") != "hard":
        check_gradients(call.args, value)


def _check_binned_joint(call: Call, joint: Tensor) -> None:
    x, _ = call.args
    require_joint(joint, (*x.shape[:-1], *joint.shape[-2:]))
    bins = call.kwargs.get("num_bins", "auto")
    if not isinstance(bins, str):
        expected = tuple(bins) if hasattr(bins, "__len__") else (bins, bins)
        require(
            tuple(joint.shape[-2:]) == tuple(int(b) for b in expected),
            f"a joint of {tuple(joint.shape)}",
        )
    check_layout(call, joint)


def require_information(value: Tensor, joint: Tensor, normalization: str, unit: str) -> None:
    """Check that a plug-in value is that of its joint, and within its bounds."""
    value, joint = value.detach(), joint.detach()
    hx, hy, _ = functional.entropies(joint)
    if normalization == "none":
        nats = value * (math.log(2) if unit == "bits" else 1)
        require(
            (nats >= -1e-9).all() and (nats <= torch.minimum(hx, hy) + 1e-9).all(),
            f"out of bounds: {nats}",
        )
    else:
        least = 1.0 if normalization == "studholme" else 0.0
        if normalization == "adjusted":
            # Below 0 where the dependence is less than chance makes.
            require(not (value > 1 + 1e-9).any(), f"no adjusted value: {value}")
            return
        # A ratio of nothing to nothing, where a soft kernel leaves 1e-16 in the next cell.
        sane = torch.minimum(hx, hy) > 1e-6
        require(
            (value[sane] >= least - 1e-9).all() and (value[sane] <= least + 1 + 1e-9).all(),
            f"no ratio: {value}",
        )


def kde_mutual_information(random: Random) -> Call:
    kwargs = {"grid_size": 32} | inputs.arguments(random, KDE | VIEW)
    args = inputs.pair(random, inputs.shape(random))
    return Call(
        "kde_mutual_information", functional.kde_mutual_information, args, kwargs, _check_value
    )


def kde_joint(random: Random) -> Call:
    kwargs = {"grid_size": 32} | inputs.arguments(random, KDE)
    return Call(
        "kde_joint",
        functional.kde_joint,
        inputs.pair(random, inputs.shape(random)),
        kwargs,
        _check_kde_joint,
    )


def _check_value(call: Call, value: Tensor) -> None:
    require_number(value, call.args[0].shape[:-1])
    check_layout(call, value)


def _check_kde_joint(call: Call, joint: Tensor) -> None:
    size = int(call.kwargs.get("grid_size", 256))
    require_joint(joint, (*call.args[0].shape[:-1], size, size))
    check_layout(call, joint)


KNN = {
    "n_neighbors": (1, 2, 3, 3, 10),
    "algorithm": ("ksg1", "ksg2"),
    "discrete_y": (False, False, True),
    "standardize": (True, False, "rank", "joint"),
    "unit": inputs.UNITS,
}


def knn_mutual_information(random: Random) -> Call:
    args, kwargs = _knn(random, KNN)
    return Call(
        "knn_mutual_information", functional.knn_mutual_information, args, kwargs, check_knn
    )


def knn_p_value(random: Random) -> Call:
    options = KNN | {"num_permutations": (1, 9), "seed": (0, 7)}
    args, kwargs = _knn(random, options)
    kwargs = {"num_permutations": 3} | kwargs
    return Call("knn_p_value", functional.knn_p_value, args, kwargs, check_knn_p_value)


def knn_reliability(random: Random) -> Call:
    args, kwargs = _knn(random, KNN | {"parts": (2, 2, 4, 8), "seed": (0, 7)})
    kwargs = {"parts": 2} | kwargs
    return Call("knn_reliability", functional.knn_reliability, args, kwargs, _check_reliability)


def _knn(random: Random, options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    shape = inputs.shape(random)
    kwargs = inputs.arguments(random, options)
    if random.random() < 0.2:
        args = inputs.pair(random, shape)
    else:
        args = (inputs.tensor(random, (*shape, random.choice((1, 1, 2, 5)))),)
        args = (*args, inputs.tensor(random, (*shape, random.choice((1, 1, 1, 3)))))
    if kwargs.get("discrete_y") is True and random.random() < 0.8:
        args = args[0], inputs.cast(inputs.numbers(random, shape), random.choice(inputs.INTEGERS))
    return args, kwargs


def check_knn(call: Call, value: Tensor) -> None:
    require_number(value, _leading(call))
    check_layout(call, value)


def check_knn_p_value(call: Call, p: Tensor) -> None:
    require_number(p, _leading(call))
    least = 1 / (1 + int(call.kwargs["num_permutations"]))
    require(((p >= least - 1e-12) & (p <= 1)).all(), f"no p-value: {p}")
    check_layout(call, p)


def _check_reliability(call: Call, found: Any) -> None:
    x, y = (v.detach() for v in call.args)
    names = KNN.keys() & call.kwargs.keys()
    options = {name: call.kwargs[name] for name in names}
    value = attempt(functional.knn_mutual_information, x, y, **options)
    require(same(found.value, value), f"{found.value.tolist()} against {value.tolist()}")
    require(found.reliable.dtype == torch.bool, "a verdict that is neither yes nor no")
    require(found.reliable.shape == found.value.shape, "a verdict of another shape")
    for number in (found.standard_error, found.drift, found.reference):
        require_number(number, _leading(call), ~found.reliable)
    error = found.standard_error
    require(((error >= 0) | error.isnan()).all(), f"a negative error: {error}")


def _leading(call: Call) -> tuple[int, ...]:
    x = call.args[0]
    return tuple(x.shape[:-2]) if x.ndim > 1 else ()


def gaussian_mutual_information(random: Random) -> Call:
    shape = inputs.shape(random)
    options = {
        "copula": (False, True),
        "bias_correction": ("analytic", "none"),
        "unit": inputs.UNITS,
    }
    args = tuple(inputs.tensor(random, (*shape, random.choice((1, 2, 5)))) for _ in range(2))
    return Call(
        "gaussian_mutual_information",
        functional.gaussian_mutual_information,
        args if random.random() < 0.8 else inputs.pair(random, shape),
        inputs.arguments(random, options),
        _check_gaussian,
    )


def _check_gaussian(call: Call, value: Tensor) -> None:
    x = call.args[0]
    require_number(value, x.shape[:-2] if x.ndim > 1 else ())
    if call.kwargs.get("bias_correction") == "none":
        require((value >= -1e-9).all(), f"a negative value: {value.tolist()}")


def table(random: Random) -> Any:
    """Return counts (..., B_x, B_y), or what is not."""
    shape = (
        *random.choice([(), (), (1,), (2,), (0,)]),
        *random.choice([(1, 1), (2, 3), (5, 5), (1, 7), (40, 3), (0, 2)]),
    )
    if random.random() < 0.05:
        shape = random.choice([(), (3,)])
    counts = inputs.tensor(random, shape)
    if (
        random.random() < 0.85
        and not counts.is_complex()
        and counts.dtype in (*inputs.FLOATS, *inputs.INTEGERS)
    ):
        counts = counts.abs() if counts.dtype != torch.bool else counts
        counts = counts.round() if random.random() < 0.5 and counts.is_floating_point() else counts
    return counts if random.random() < 0.98 else random.choice(inputs.NONSENSE)


def mutual_information(random: Random) -> Call:
    kwargs = inputs.arguments(random, VIEW | {"bias_correction": CORRECTIONS})
    return Call(
        "mutual_information",
        functional.mutual_information,
        (table(random),),
        kwargs,
        _check_measure,
    )


def entropies(random: Random) -> Call:
    return Call("entropies", functional.entropies, (table(random),), {}, _check_entropies)


def standard_error(random: Random) -> Call:
    kwargs = inputs.arguments(random, {"unit": inputs.UNITS})
    return Call(
        "standard_error", functional.standard_error, (table(random),), kwargs, _check_measure
    )


RESAMPLING = (1, 9, 19, 50)


def independence_p_value(random: Random) -> Call:
    options = {"method": ("g", "permutation"), "num_permutations": RESAMPLING, "seed": (0, 7)}
    return Call(
        "independence_p_value",
        functional.independence_p_value,
        (table(random),),
        {"num_permutations": 9} | inputs.arguments(random, options),
        _check_measure,
    )


def confidence_interval(random: Random) -> Call:
    options = {
        "level": (0.5, 0.9, 0.999),
        "num_resamples": RESAMPLING,
        "seed": (0, 7),
        "unit": inputs.UNITS,
    }
    return Call(
        "confidence_interval",
        functional.confidence_interval,
        (table(random),),
        {"num_resamples": 50} | inputs.arguments(random, options),
        _check_interval,
    )


def _check_interval(call: Call, ends: Tensor) -> None:
    (counts,) = call.args
    empty = _is_empty(counts)
    require_number(ends, (*counts.shape[:-2], 2), empty.unsqueeze(-1))
    low, high = ends[~empty].unbind(-1)
    # A raw estimate of 0 scatters around it, and so may the lower end.
    require(((low <= high) & (high >= 0)).all(), f"no interval: {ends}")


def pointwise_mutual_information(random: Random) -> Call:
    kwargs = inputs.arguments(random, {"unit": inputs.UNITS})
    return Call(
        "pointwise_mutual_information",
        functional.pointwise_mutual_information,
        (table(random),),
        kwargs,
        _check_pointwise,
    )


def _check_pointwise(call: Call, values: Tensor) -> None:
    (counts,) = call.args
    empty = _is_empty(counts)
    require_number(values, counts.shape, empty[..., None, None])
    nothing = (counts.detach().double() == 0) & ~empty[..., None, None]
    require((values[nothing] == 0).all(), f"information where there are no samples: {values}")


def _is_empty(counts: Tensor) -> Tensor:
    return (counts.detach().double() == 0).flatten(-2).all(-1)


def _check_measure(call: Call, value: Tensor) -> None:
    (counts,) = call.args
    empty = _is_empty(counts)
    require_number(value, counts.shape[:-2], empty)
    full = value[~empty]
    if call.name == "independence_p_value":
        require(((full >= 0) & (full <= 1)).all(), f"no probability: {value}")
    if call.name == "standard_error":
        require((full >= 0).all(), f"a negative error: {value}")
    if call.name == "mutual_information" and call.kwargs.get("bias_correction", "none") == "none":
        options = call.kwargs.get("normalization", "none"), call.kwargs.get("unit", "nats")
        require_information(full, counts.detach()[~empty], *options)


def _check_entropies(call: Call, found: tuple[Tensor, Tensor, Tensor]) -> None:
    (counts,) = call.args
    empty = _is_empty(counts)
    for h in found:
        require_number(h, counts.shape[:-2], empty)
        require((h[~empty] >= -1e-12).all(), f"a negative entropy: {h}")
    hx, hy, hxy = (h[~empty] for h in found)
    require(
        (hxy <= hx + hy + 1e-9).all() and (hxy >= torch.maximum(hx, hy) - 1e-9).all(),
        f"no entropies: {found}",
    )


def check_layout(call: Call, value: Tensor) -> None:
    """Check that the numbers count, not their place in memory, and that NumPy's order of dimensions
    is kept.
    """
    args = [v.detach().clone(memory_format=torch.contiguous_format) for v in call.args]
    again = attempt(call.function, *args, **call.kwargs)
    require(not isinstance(again, Exception), f"refused as a copy: {again}")
    if call.kwargs.get("kernel", "hard") == "hard" and call.kwargs.get("weights") is None:
        require(
            same(value.detach(), again),
            f"another value for a copy: {value.tolist()} and {again.tolist()}",
        )
    else:
        require_close(value.detach(), again, 1e-12, "another value for a copy")


def check_gradients(args: tuple[Any, ...], value: Tensor) -> None:
    leaves = [v for v in args if v.requires_grad and v.is_leaf]
    for leaf, gradient in zip(
        leaves, torch.autograd.grad(value.sum(), leaves, allow_unused=True), strict=True
    ):
        if gradient is not None:
            require_gradient(gradient, leaf)


FUNCTIONS = (
    binned_mutual_information,
    binned_joint,
    kde_mutual_information,
    kde_joint,
    knn_mutual_information,
    knn_p_value,
    knn_reliability,
    gaussian_mutual_information,
    mutual_information,
    entropies,
    standard_error,
    independence_p_value,
    confidence_interval,
    pointwise_mutual_information,
)
KINDS = {function.__name__: function for function in FUNCTIONS}
