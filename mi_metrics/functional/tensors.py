"""The one door for samples: checked, lifted to a dtype with arithmetic, in rows; devices, chunks.

Three shapes of samples come in:

- scalars in batches, ``(..., N)``: :func:`paired_rows`, for bins and densities;
- scalars of a metric or a loss, of other shapes: :func:`check_pair`, then :func:`lift`;
- vectors, ``(..., N, d)``: :func:`paired_vectors`, for neighbours and Gaussians.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_metrics.kernels import gpu

# Above it float64 does not hold every whole number.
MAX_EXACT = 2**53

Work = Literal["bins", "cells", "densities", "density cells", "density tables", "distances"]
# What is in flight at once: samples; for densities also cells that are counted and cells between
# which kernels are summed; for distances pairs of samples. A chunk and its temporaries stay in a
# core's cache; a GPU wants more work.
CHUNKS: dict[Work, tuple[int, int]] = {
    "bins": (2**17, 2**20),
    "cells": (2**16, 2**22),
    "densities": (2**16, 2**20),
    "density cells": (2**16, 2**24),
    "density tables": (2**20, 2**24),
    "distances": (2**17, 2**25),
}

NO_FLOAT64 = (
    "Expected a device with float64, but MPS has none. Evaluate on the CPU: move samples there "
    "with .cpu(), and keep metrics there (in a list, where a module does not move them)."
)


F = TypeVar("F", bound=torch.autograd.Function)
C = TypeVar("C")


# Samples of one byte: those of a pair may stay as they are, because a table of 256 entries says of
# each where it belongs.
BYTES = (torch.uint8, torch.int8, torch.bool)


class Rows(NamedTuple):
    """Paired samples, a row for each pair of variables."""

    x: Tensor  # (R, N), float32 or float64, or where they may stay so bytes, as y
    y: Tensor  # (R, N)
    weights: Tensor | None  # (R, N), float64


# -- devices ---------------------------------------------------------------------------------------


def on_cpu(where: Tensor | torch.device) -> bool:
    """Say whether a tensor is, or a device is that, where NumPy and SciPy can read it: the one
    place that knows, for tests of the other branch.
    """
    return (where.device if isinstance(where, Tensor) else where).type == "cpu"


def as_array(values: Tensor) -> NDArray[Any] | None:
    """Return the memory behind a tensor for NumPy, or None where there is none: on other devices
    than the CPU, of a dtype that NumPy lacks, and inside the transforms of ``torch.func``.
    """
    if not on_cpu(values):
        return None
    try:
        return values.numpy()
    except (RuntimeError, TypeError):
        return None


def sort_rows(values: Tensor) -> Tensor:
    """Return rows ``(R, n)`` in ascending order."""
    if (array := as_array(values)) is not None:
        # NumPy sorts with SIMD: 10 to 20 times faster than torch on the CPU.
        return torch.from_numpy(np.sort(array, axis=1))
    return values.sort(1).values


def chunk_size(work: Work, device: torch.device) -> int:
    """Return how much of a kind of work is done at once on a device."""
    return CHUNKS[work][0 if on_cpu(device) else 1]


def check_device(device: torch.device) -> None:
    """Refuse a device that can't hold float64, in which this package counts and sums."""
    if device.type == "mps":
        raise TypeError(NO_FLOAT64)


def check_same_device(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors on different devices, and on one without float64."""
    (name, first), *others = tensors.items()
    check_device(first.device)
    for other, tensor in others:
        if tensor.device != first.device:
            raise ValueError(
                f"Expected `{name}` and `{other}` on the same device, but got {first.device} and "
                f"{tensor.device}. Move one of them with .to(device)."
            )


def kept(function: Callable[..., C]) -> Callable[..., C]:
    """Let a function keep the tensors that it makes, but for those without values, which record
    operations.
    """
    cached = functools.lru_cache(64)(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> C:
        if not torch.compiler.is_compiling() and gpu.is_recorded():
            return function(*arguments)
        return cached(*arguments)

    return call


def kept_by_device(function: Callable[..., C]) -> Callable[..., C]:
    """Let a function, whose last argument is a device, keep the constants that it makes there.

    It makes them by fills and arithmetic: copies from the host would wait for the device.
    """
    cached = kept(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> C:
        if arguments[-1].type == "cuda" and torch.cuda.is_current_stream_capturing():
            # What is made while a graph is captured is written when the graph runs.
            return function(*arguments)
        return cached(*arguments)

    return call


# -- single tensors --------------------------------------------------------------------------------


def check_tensor(name: str, value: Any) -> Tensor:
    """Return a dense tensor of real numbers as it is; refuse everything else."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"Expected `{name}` to be a torch.Tensor, but got {type(value).__name__}. "
            "Convert it with torch.as_tensor first."
        )
    if value.is_complex():
        raise TypeError(
            f"Expected `{name}` to be real, but got {value.dtype}. Pass its real part, its "
            "magnitude, or both as two variables."
        )
    if value.layout != torch.strided:
        raise TypeError(
            f"Expected `{name}` to be a dense tensor, but got the layout {value.layout}. Convert "
            f"it with {name}.to_dense()."
        )
    if value.is_floating_point() and value.dtype.itemsize < 2:
        raise TypeError(
            f"Expected `{name}` in a dtype that has arithmetic, but got {value.dtype}, which only "
            f"stores numbers. Convert it with {name}.float()."
        )
    return value


def check_values(name: str, values: Tensor) -> None:
    """Refuse a tensor that has a shape and a dtype only."""
    if values.is_meta:
        raise ValueError(
            f"Expected `{name}` to hold values, but it is on the device meta. Move real data to "
            f"the CPU."
        )


def check_finite(x: Tensor, y: Tensor, z: Tensor | None = None) -> None:
    """Refuse NaN and infinite samples, and such as have no values at all."""
    check_values("x", x)
    named = {"x": x, "y": y} if z is None else {"x": x, "y": y, "z": z}
    for name, values in named.items():
        # The sum shows every NaN and infinity, in a quarter of the time; where it merely
        # overflowed, count.
        if not values.is_floating_point() or bool(values.detach().sum().isfinite()):
            continue
        if count := non_finite(values):
            raise ValueError(
                f"Expected `{name}` to be finite, but it holds {count} NaN or infinite of "
                f"{values.numel()} values. Remove these samples from `x` and `y` first, for "
                "example with keep = x.isfinite() & y.isfinite()."
            )


def non_finite(values: Tensor) -> int:
    """Return how many values are NaN or infinite."""
    return int((~torch.isfinite(values)).sum())


def check_exact(name: str, values: Tensor) -> None:
    """Refuse whole numbers that float64 would round, and with that merge."""
    if values.dtype not in (torch.int64, torch.uint64) or values.numel() == 0 or values.is_meta:
        return
    # Unsigned numbers from 2**63 on are negative ones here; PyTorch can't compare them itself.
    low, high = torch.stack(torch.aminmax(values.view(torch.int64))).tolist()
    unsigned = values.dtype == torch.uint64
    if high <= MAX_EXACT and low >= (0 if unsigned else -MAX_EXACT):
        return
    largest = low + 2**64 if unsigned and low < 0 else low if low < -MAX_EXACT else high
    raise ValueError(
        f"Expected whole numbers in `{name}` of at most 2**53, beyond which float64 would merge "
        f"them, but got {largest}. Subtract the least, {name} - {name}.min(), or number the "
        f"distinct ones with torch.unique({name}, return_inverse=True)[1]."
    )


def lift(values: Tensor, name: str = "x") -> Tensor:
    """Return values in the dtype that the arithmetic uses.

    Half precision is lifted to float32, because its 11 bits merge neighbouring bins; integers and
    bool go to float64, which holds every one of them up to 2**53 exactly.
    """
    # NumPy reads the memory behind a tensor, where a pending minus sign does not stand.
    values = values.resolve_neg()
    if values.dtype in (torch.float32, torch.float64):
        return values
    if values.is_floating_point():
        return cast(values, torch.float32)
    check_exact(name, values)
    return values.double()


def lift_pair(x: Tensor, y: Tensor, *, bytes_stay: bool = False) -> tuple[Tensor, Tensor]:
    """Return both lifted, or pairs of bytes as they are where they may stay so."""
    if bytes_stay and on_cpu(x) and x.dtype in BYTES and y.dtype in BYTES:
        return x, y
    return lift(x, "x"), lift(y, "y")


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which samples of :func:`lift_pair` are reckoned with."""
    return dtype if dtype.is_floating_point else torch.float64


# -- pairs -----------------------------------------------------------------------------------------


PAIRED = "Samples are paired by position; reshape or expand one of them first."


def shapes_differ(x: Tensor, y: Tensor, remedy: str = PAIRED) -> ValueError:
    """Return the error of a pair whose samples can't be paired."""
    return ValueError(
        f"Expected `x` and `y` to have the same shape, but got {tuple(x.shape)} and "
        f"{tuple(y.shape)}. {remedy}"
    )


def no_sample(x: Tensor) -> ValueError:
    """Return the error of samples of which there are none."""
    return ValueError(
        f"Expected at least one sample, but got shape {tuple(x.shape)}. Skip empty batches."
    )


def check_pair(x: Any, y: Any, *, batched: bool = False) -> tuple[Tensor, Tensor]:
    """Refuse a pair that does not hold paired samples: real tensors of one shape on one device, not
    empty; of ``batched`` samples, along the last dimension, there may be no pairs.
    """
    x, y = check_tensor("x", x), check_tensor("y", y)
    if x.shape != y.shape:
        raise shapes_differ(x, y)
    check_same_device({"x": x, "y": y})
    if x.numel() == 0 and not (batched and x.shape[-1]):
        raise no_sample(x)
    return x, y


def paired_rows(
    x: Any, y: Any, weights: Any = None, *, finite: bool = True, bytes_stay: bool = False
) -> Rows:
    """Return paired samples of scalars as rows, with their gradient.

    Args:
        x: Samples ``(..., N)`` of any real dtype, of no pairs too.
        y: Samples of the same shape.
        weights: Weights ≥ 0 of the same shape. A weight of 0 excludes a sample, even if it is NaN.
        finite: Refuse NaN and infinite samples. Else the caller does, where it reads them anyway.
        bytes_stay: Leave pairs of bytes as they are.

    Raises:
        TypeError: If one of them is not a real tensor, or the device has no float64.
        ValueError: If shapes or devices differ, there is no sample or only one per pair, a sample
            is NaN or infinite, or weights are negative, not finite or all 0.
    """
    x, y = check_pair(x, y, batched=True)
    check_values("x", x)
    if x.ndim == 0:
        raise ValueError(
            "Expected `x` and `y` of shape (..., N), but got scalars. Pass at least one dimension."
        )
    if x.ndim > 1 and x.shape[-1] == 1:
        raise ValueError(
            "Expected `x` and `y` of shape (..., N), with the samples along the last dimension, "
            f"but got one sample per pair in shape {tuple(x.shape)}. For samples of shape (N, 1) "
            "pass x.squeeze(-1), y.squeeze(-1)."
        )
    if weights is not None:
        weights = check_weights(weights, x)
        x, y = (torch.where(weights > 0, v, torch.zeros_like(v)) for v in (x, y))
        weights = weights.reshape(-1, weights.shape[-1])
    x, y = lift_pair(x, y, bytes_stay=bytes_stay)
    if finite:
        check_finite(x, y)
    return Rows(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), weights)


def of_no_pairs(rows: Tensor, *shape: int) -> Tensor:
    """Return the values of no pairs, float64, where samples ``(R, N)`` came."""
    return torch.zeros(shape, dtype=torch.float64, device=rows.device)


def check_weights(weights: Any, x: Tensor) -> Tensor:
    """Return the weights of samples in float64, detached; refuse those that are none."""
    check_tensor("weights", weights)
    if weights.shape != x.shape:
        raise ValueError(
            f"Expected `weights` of the samples' shape {tuple(x.shape)}, but got "
            f"{tuple(weights.shape)}. Give every sample its weight, for example with "
            "weights.expand_as(x)."
        )
    check_same_device({"x": x, "weights": weights})
    found: Tensor = weights.detach().double()
    if not bool(((found >= 0) & (found < torch.inf)).all()):
        raise ValueError(
            "Expected `weights` to be finite and not negative, but got values from "
            f"{float(found.min())} to {float(found.max())}. Use 0 to exclude a sample."
        )
    largest = found.amax(-1, keepdim=True)
    if bool((largest == 0).any()):
        raise ValueError(
            "Expected `weights` to leave at least one sample, but they are all 0. Check the mask."
        )
    # Only ratios of weights matter, and sums of very large or small ones are no numbers. Whole
    # weights stay whole.
    extreme = (largest > 2.0**53) | (largest < 2.0**-53)
    return torch.where(extreme, found / largest, found)


def check_mask(mask: Any, x: Tensor) -> Tensor:
    """Return a mask in the shape of the samples; refuse what is not bool or does not broadcast."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        came = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"Expected `mask` to be a bool tensor, True where a sample counts, but got {came}. "
            "Make one by a comparison, for example mask = weights > 0."
        )
    check_broadcasts("mask", mask, x)
    return mask.expand(x.shape)


def check_broadcasts(name: str, value: Tensor, x: Tensor) -> None:
    """Refuse what has not an entry for each sample, or one for several of them."""
    if not broadcasts(value.shape, x.shape):
        raise ValueError(
            f"Expected `{name}` of the samples' shape {tuple(x.shape)}, or one that broadcasts to "
            f"it, but got {tuple(value.shape)}. Give every sample an entry; one for all channels "
            "has the shape (B, 1, ...)."
        )
    check_same_device({"x": x, name: value})


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Say whether a tensor of a shape can be expanded to another."""
    return len(shape) <= len(to) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False)
    )


def paired_vectors(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Return paired samples of vectors as ``(..., N, d_x)`` and ``(..., N, d_y)``, detached, in
    their own dtypes; ``(N,)`` is read as ``(N, 1)``.

    Values are not looked at: :func:`check_finite` and :func:`check_exact` do that.
    """
    x, y = check_tensor("x", x).detach(), check_tensor("y", y).detach()
    check_same_device({"x": x, "y": y})
    shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError(
            f"Expected `x` and `y` of shape (..., N, d) or (N,), but got {shapes}. Pass more than "
            "one sample."
        )
    x, y = (v.unsqueeze(-1) if v.ndim == 1 else v for v in (x, y))
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(
            "Expected `x` and `y` of shapes (..., N, d_x) and (..., N, d_y) that agree in all but "
            f"the last dimension, but got {shapes}. The last dimension is the variable's: for a "
            "batch of scalars use x.unsqueeze(-1), y.unsqueeze(-1)."
        )
    if not (x.shape[-1] and y.shape[-1]):
        raise ValueError(
            f"Expected at least one coordinate in `x` and `y`, but got {shapes}. Pass (..., N, d) "
            "with d ≥ 1."
        )
    return x, y


# -- dtypes and gradients --------------------------------------------------------------------------


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in a wider dtype, its gradient in its own as `narrow` does it."""
    if not x.requires_grad or x.dtype == dtype:
        return x.to(dtype)
    # torch.compile refuses functions with a forward mode, which it has no use for.
    function = _Cast if torch.compiler.is_compiling() else _CastBothWays
    wide: Tensor = function.apply(x, dtype)
    return wide


def signed(function: type[F]) -> type[F]:
    """Let a function of autograd remember the signature of its ``forward``, which PyTorch makes out
    anew in every call.
    """
    forward: Any = function.forward
    forward.__signature__ = inspect.signature(forward)
    return function


@signed
class _Cast(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, torch.dtype], output: Tensor) -> None:
        ctx.dtype, ctx.wide = inputs[0].dtype, inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return narrow(grad, ctx.dtype), None


@signed
class _CastBothWays(_Cast):
    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.to(ctx.wide)


def narrow(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a gradient in a dtype; where it is larger than any number of that, the largest one.

    In half precision infinity: there GradScaler has to see that its scale is too large.
    """
    if dtype != torch.float16:
        most = torch.finfo(dtype).max
        gradient = gradient.clamp(-most, most)
    return gradient.to(dtype)
