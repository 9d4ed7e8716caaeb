"""Whether kernels for a GPU serve, and the one way to call them.

They are written in Triton, which comes with PyTorch's wheels for CUDA. It is imported when the
first tensor on a GPU asks for a kernel, never before. Where it is absent or broken, or a kernel
does not compile (no C compiler, an old card), the reference serves; :func:`status` says why.
"""

import functools
import importlib
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from mi_metrics.kernels import switch

T = TypeVar("T")

# Families of kernels that have failed, each with the reason; none of them is tried again.
_failed: dict[str, str] = {}


@functools.cache
def load() -> str | None:
    """Import Triton; return None, or why it can't be used."""
    try:
        importlib.import_module("triton")
    except ModuleNotFoundError as error:
        if error.name == "triton":
            return "Triton is not installed."
        return f"Triton does not load ({error})."
    # A broken installation raises whatever it likes.
    except Exception as error:
        return f"Triton does not load ({_words(error)})."
    return None


def is_card(values: Tensor) -> bool:
    """Say whether a tensor is on a device that the kernels are for: the one place that knows, for
    tests under Triton's interpreter.
    """
    return values.is_cuda


def serves(*tensors: Tensor) -> bool:
    """Say whether kernels are there, not switched off, and all tensors have memory on a GPU."""
    return (
        all(map(is_card, tensors))
        and switch.enabled()
        and not torch.compiler.is_compiling()
        and all(map(_has_memory, tensors))
        and load() is None
    )


def attempt(
    family: str, tensors: Sequence[Tensor], call: Callable[[ModuleType], T | None]
) -> T | None:
    """Return what a call of a family of kernels returns, or None where the reference has to serve.

    Args:
        family: ``"hard"`` for the kernels of ``mi_metrics.kernels.triton_hard``, and so on.
        tensors: The tensors that decide where the kernel runs; all on one device.
        call: Takes the module of the family.
    """
    if family in _failed or not serves(*tensors):
        return None
    try:
        kernels = importlib.import_module(f"mi_metrics.kernels.triton_{family}")
        # Triton launches on the current device, which need not be that of the tensors.
        with torch.cuda.device_of(tensors[0]):  # type: ignore[no-untyped-call]
            return call(kernels)
    except torch.cuda.OutOfMemoryError:
        # The reference may need less, and the next call may find more.
        return None
    except Exception as error:
        _failed[family] = _words(error)
        return None


def failures() -> dict[str, str]:
    """Return the families of kernels that have failed in this process, each with the reason."""
    return dict(_failed)


def status() -> str:
    """Say in a sentence whether the kernels for GPUs serve, and if not, why."""
    if not switch.enabled():
        forbidden = f"{switch.VARIABLE}=0, or inside `disabled`"
        return f"The kernels for GPUs are switched off ({forbidden})."
    if not torch.cuda.is_available():
        return "The kernels for GPUs do not serve: PyTorch finds no CUDA device."
    if (reason := load()) is not None:
        return f"The kernels for GPUs do not serve: {reason}"
    said = "The kernels for GPUs serve, by Triton"
    if os.environ.get("TRITON_INTERPRET") == "1":
        said = f"{said}'s interpreter (TRITON_INTERPRET=1)"
    if not _failed:
        return f"{said}."
    lost = "; ".join(f"{family}: {reason}" for family, reason in _failed.items())
    return f"{said}, but for those that failed ({lost})."


def _has_memory(values: Tensor) -> bool:
    """Say whether there is something to read: not inside the transforms of ``torch.func``."""
    try:
        values.data_ptr()
    except RuntimeError:
        return False
    return True


def _words(error: Any) -> str:
    """Return the class and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
