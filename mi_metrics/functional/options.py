"""Checks of arguments, shared by the estimators: each message names what came and how to fix it."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

UNITS = ("nats", "bits")
# A gibibyte of counts. Far below it, samples that fill a table are hard to find.
MAX_CELLS = 2**27


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse an option that is not one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"Expected `{name}` to be one of {', '.join(map(repr, choices))}, but got {value!r}."
        )


def check_integer(name: str, value: Any, least: int) -> int:
    """Return a whole number of at least ``least``; refuse everything else, ``True`` and ``2.0``
    included.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"Expected `{name}` to be an int, but got {value!r} of type {type(value).__name__}. "
            f"Pass a whole number of at least {least}."
        )
    if value < least:
        raise ValueError(f"Expected `{name}` to be at least {least}, but got {value}.")
    return int(value)


def check_cells(what: str, cells: int, most: int = MAX_CELLS) -> None:
    """Refuse states that hardly any memory holds, before asking for it; ``what`` names the
    arguments and values.
    """
    if cells > most:
        gibibytes = -(-8 * cells >> 30)
        raise ValueError(
            f"Expected what fits in {most >> 27} GiB, 2**{most.bit_length() - 1} numbers, but got "
            f"{what}, which takes {gibibytes} GiB. Use fewer."
        )


def check_number(name: str, value: Any) -> float:
    """Return a finite real number as float; refuse everything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"Expected `{name}` to be a number, but got {value!r} of type {type(value).__name__}. "
            "Pass an int or a float."
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"Expected `{name}` to be finite, but got {value}.")
    return number


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


def shapes_differ(x: Tensor, y: Tensor, remedy: str) -> ValueError:
    """Return the error of a pair whose samples can't be paired."""
    return ValueError(
        f"Expected `x` and `y` to have the same shape, but got {tuple(x.shape)} and "
        f"{tuple(y.shape)}. {remedy}"
    )


def check_pair(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Refuse a pair that does not hold paired samples: real tensors of one shape on one device, not
    empty.
    """
    x, y = check_tensor("x", x), check_tensor("y", y)
    if x.shape != y.shape:
        raise shapes_differ(
            x, y, "Samples are paired by position; reshape or expand one of them first."
        )
    if x.device != y.device:
        raise ValueError(
            f"Expected `x` and `y` on the same device, but got {x.device} and {y.device}. "
            "Move one of them with .to(device)."
        )
    if x.numel() == 0:
        raise ValueError(
            f"Expected at least one sample, but got shape {tuple(x.shape)}. Skip empty batches."
        )
    return x, y


def lift(x: Tensor) -> Tensor:
    """Return x in the dtype that the arithmetic uses.

    Half precision is lifted to float32, because its 11 bits merge neighbouring bins; integers and
    bool go to float64, which holds every one of them up to 2**53 exactly.
    """
    # NumPy reads the memory behind a tensor, where a pending minus sign does not stand.
    x = x.resolve_neg()
    if x.dtype in (torch.float32, torch.float64):
        return x
    return cast(x, torch.float32) if x.is_floating_point() else x.double()


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in a wider dtype, its gradient in its own as `narrow` does it."""
    if not x.requires_grad or x.dtype == dtype:
        return x.to(dtype)
    wide: Tensor = _Cast.apply(x, dtype)  # type: ignore[no-untyped-call]
    return wide


class _Cast(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, torch.dtype], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return narrow(grad, ctx.dtype), None


def narrow(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a gradient in a dtype; where it is larger than any number of that, the largest one.

    In half precision infinity: there GradScaler has to see that its scale is too large.
    """
    if dtype != torch.float16:
        most = torch.finfo(dtype).max
        gradient = gradient.clamp(-most, most)
    return gradient.to(dtype)


def check_finite(x: Tensor, y: Tensor) -> None:
    """Refuse NaN and infinite samples, and such as have no values at all."""
    check_values("x", x)
    for name, values in (("x", x), ("y", y)):
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


def check_values(name: str, values: Tensor) -> None:
    """Refuse a tensor that has a shape and a dtype only."""
    if values.is_meta:
        raise ValueError(
            f"Expected `{name}` to hold values, but it is on the device meta. Move real data to "
            f"the CPU."
        )


def non_finite(values: Tensor) -> int:
    """Return how many values are NaN or infinite."""
    return int((~torch.isfinite(values)).sum())


def from_nats(value: Tensor, unit: str) -> Tensor:
    """Return a quantity in nats in the unit that is asked for."""
    check_choice("unit", unit, UNITS)
    return value / math.log(2) if unit == "bits" else value
