"""Whether kernels for a GPU serve, and the one way to call them.

They are written in Triton, which comes with PyTorch's wheels for CUDA. It is imported when the
first tensor on a GPU asks for a kernel, never before. Where it is absent or broken, or a kernel
does not compile (no C compiler, an old card), the reference serves; :func:`status` says why.
"""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from mi_metrics.kernels import switch

T = TypeVar("T")


class ArgumentsError(ValueError):
    """Arguments that a kernel can't be called with: a mistake of the caller, no failure of it."""


# Families of kernels that have failed, with the dtypes of the tensors and the reason; none of them
# is tried again with such tensors. An old card may know no bfloat16, and all else.
_failed: dict[tuple[str, frozenset[torch.dtype]], str] = {}


@functools.cache
def load() -> str | None:
    """Import Triton; return None, or why it can't be used."""
    if torch.version.hip is not None:
        return "The kernels are for CUDA, and this PyTorch is for ROCm."
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
    """Say whether kernels are there, not switched off, and all tensors have memory on one GPU.

    What a kernel reads and writes is seen by nothing that records operations, so that it does not
    serve where something does.
    """
    return (
        not torch.compiler.is_compiling()
        and all(map(is_card, tensors))
        and len({values.device for values in tensors}) == 1
        and switch.enabled()
        and not is_recorded()
        and all(map(_has_memory, tensors))
        and load() is None
    )


def attempt(
    family: str, tensors: Sequence[Tensor | None], call: Callable[[ModuleType], T | None]
) -> T | None:
    """Return what a call of a family of kernels returns, or None where the reference has to serve.

    Args:
        family: ``"hard"`` for the kernels of ``mi_metrics.kernels.triton_hard``, and so on.
        tensors: All tensors that the kernel reads; None is passed over.
        call: Takes the module of the family.

    Raises:
        ArgumentsError: As the kernel does.
    """
    given = [values for values in tensors if values is not None]
    kind = family, frozenset(values.dtype for values in given)
    if kind in _failed or not serves(*given):
        return None
    try:
        kernels = importlib.import_module(f"mi_metrics.kernels.triton_{family}")
        # Triton launches on the current device, which need not be that of the tensors.
        with torch.cuda.device_of(given[0]):  # type: ignore[no-untyped-call]
            return call(kernels)
    except ArgumentsError:
        raise
    # A tensor that has no memory after all raises NotImplementedError.
    except (torch.cuda.OutOfMemoryError, NotImplementedError):
        # The reference may need less, and the next call may find more.
        return None
    except Exception as error:
        if not _is_for_this_call(error):
            _failed[kind] = _words(error)
        return None


def failures() -> dict[str, str]:
    """Return the families of kernels that have failed in this process, each with the reason."""
    return {family: reason for (family, _), reason in _failed.items()}


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
    lost = "; ".join(f"{family}: {reason}" for family, reason in failures().items())
    return f"{said}, but for those that failed ({lost})."


def is_recorded() -> bool:
    """Say whether operations are recorded, by ``torch.jit.trace`` or ``torch.fx``."""
    modes = torch._C._TorchDispatchModeKey
    recorded = (torch._C._get_dispatch_mode(mode) for mode in (modes.PROXY, modes.FAKE))
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return traced or any(mode is not None for mode in recorded)


def _has_memory(values: Tensor) -> bool:
    """Say whether there is something to read: not in a FakeTensor, nor inside the transforms of
    ``torch.func``.
    """
    if type(values).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    try:
        return values.data_ptr() != 0 or values.numel() == 0
    except RuntimeError:
        return False


def _is_for_this_call(error: Exception) -> bool:
    """Say whether another call may succeed: a card lacks the shared memory or the registers for the
    constants of this one, or memory for the code, or a graph is captured, which forbids to load it.
    """
    errors = sys.modules.get("triton.runtime.errors")
    if errors is not None and isinstance(error, errors.OutOfResources):
        return True
    # Triton makes a RuntimeError of the driver's errors.
    if "out of memory" in str(error):
        return True
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return started and torch.cuda.is_current_stream_capturing()


def _words(error: Any) -> str:
    """Return the class and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
