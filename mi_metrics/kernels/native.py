"""The compiled library: found, checked and called through ctypes, which lets other threads run.

A twin declares its function once, by :func:`function`, and hands over :func:`address`\\ es: there
dtype, size and layout of every array are checked, because the other side can't.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_metrics.kernels import build, switch

# The number of native.cpp.
ABI = 2

POINTER, INTEGER, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


class Loaded(NamedTuple):
    """A library, or why there is none."""

    path: Path
    library: ctypes.CDLL | None
    reason: str = ""


@functools.cache
def load() -> Loaded:
    """Return the library beside this file, or that of ``MI_METRICS_LIBRARY``.

    One that does not load, has another interface or was built of other sources than those beside it
    is as good as none.
    """
    path = Path(os.environ.get("MI_METRICS_LIBRARY") or build.LIBRARY)
    if not path.exists():
        return Loaded(path, None, "this installation was built without a C++ compiler.")
    try:
        library = ctypes.CDLL(str(path))
        found = int(library.mi_metrics_abi())
        library.mi_metrics_fingerprint.restype = ctypes.c_char_p
        name = library.mi_metrics_fingerprint().decode()
    except (OSError, AttributeError, UnicodeDecodeError) as error:
        return Loaded(path, None, f"{path} does not load ({error}).")
    if found != ABI:
        return Loaded(path, None, f"{path} has the interface {found}, not {ABI}.")
    if build.fingerprint() not in (None, name):
        remedy = "Run python -m mi_metrics.kernels.build."
        return Loaded(path, None, f"{path} was built of other sources. {remedy}")
    return Loaded(path, library)


def serves() -> bool:
    """Say whether the library is there and not switched off."""
    return switch.enabled() and load().library is not None


def status() -> str:
    """Say in a sentence whether the compiled functions serve, and if not, why."""
    if not switch.enabled():
        forbidden = f"{switch.VARIABLE}=0, or inside `disabled`"
        return f"The compiled functions are switched off ({forbidden})."
    found = load()
    if found.library is None:
        return f"The compiled functions are not there: {found.reason}"
    return f"The compiled functions serve, from {found.path}."


def function(name: str, *types: Any) -> Callable[..., int]:
    """Return a function of the library, looked up at its first call; it returns an int64."""

    @functools.cache
    def found() -> Any:
        call = getattr(load().library, name)
        call.argtypes, call.restype = types, INTEGER
        return call

    def call(*arguments: Any) -> int:
        result: int = found()(*arguments)
        return result

    return call


def array_of(values: Tensor) -> NDArray[Any] | None:
    """Return the memory of a tensor without its gradient, or None where there is none to read: on
    other devices than the CPU, inside the transforms of ``torch.func``, while a graph is traced.
    """
    if values.device.type != "cpu":
        return None
    try:
        return values.detach().numpy()
    except (RuntimeError, TypeError):
        return None


def address(array: NDArray[Any], dtype: Any, size: int) -> int:
    """Return where the memory of an array begins that has so many values of a dtype, one after the
    other; refuse others.
    """
    if array.dtype != dtype or array.size != size or not array.flags.c_contiguous:
        raise ValueError(
            f"Expected {size} contiguous values of {np.dtype(dtype)}, but got {array.size} of "
            f"{array.dtype} with strides {array.strides}."
        )
    start: int = array.__array_interface__["data"][0]
    return start


def column(array: NDArray[Any], dtype: Any, size: int) -> tuple[int, int]:
    """Return where the memory of an array ``(size,)`` of a dtype begins, and how many values apart
    its values are; refuse others.
    """
    size_of = np.dtype(dtype).itemsize
    stride = array.strides[0] // size_of if array.ndim == 1 else 0
    if array.dtype != dtype or array.shape != (size,) or array.strides != (stride * size_of,):
        raise ValueError(
            f"Expected {size} values of {np.dtype(dtype)} in one dimension, but got {array.dtype} "
            f"of shape {array.shape} with strides {array.strides}."
        )
    start: int = array.__array_interface__["data"][0]
    return start, stride


def threads() -> int:
    """Return how many threads PyTorch is set to use."""
    return torch.get_num_threads()
