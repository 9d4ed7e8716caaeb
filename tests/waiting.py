"""What would wait for a GPU, refused on the CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mi_metrics.kernels import switch

# Operators that read a value back, have a shape that depends on values, or copy from the host.
WAITING = frozenset(
    {
        "_local_scalar_dense",
        "_unique",
        "_unique2",
        "bincount",
        "equal",
        "is_nonzero",
        "item",
        "lift_fresh",
        "masked_select",
        "nonzero",
        "repeat_interleave",
        "unique_consecutive",
        "unique_dim",
    }
)
# On the CPU these call no operator.
READING = (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__)


class _Methods(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        assert func not in READING, func
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    """Refuse whatever would wait for a GPU, if the tensors were on one: there no function that is
    compiled for the CPU serves.
    """
    with switch.disabled(), _Methods(), _Operators():
        yield


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        assert name not in WAITING, name
        # Decompositions with a check of the result, as `linalg.inv`, read it back.
        assert "error" not in name, name
        if name.startswith(("index", "_index")):
            indices = args[1] if isinstance(args[1], list | tuple) else ()
            masks = [i for i in indices if isinstance(i, Tensor) and i.dtype == torch.bool]
            assert not masks, f"{name} by a mask"
        return func(*args, **(kwargs or {}))
