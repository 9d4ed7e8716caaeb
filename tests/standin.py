"""A stand-in for a GPU: a device that counts what it is asked to do, with the CPU's bits.

Small batches on a GPU take as long as their operations are many, and each value that is read back
to the host makes it wait for the device. Here tensors say that they are on a device of their own
and are computed by the CPU: operations are counted, but for views and memory that is not written
to; and so are waits: numbers read from tensors, copies to the CPU, and results whose shape depends
on values. To mix its tensors with those of the CPU is an error, as on a GPU.

Importing this gives the process the device for good: do so in one of its own.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

NAME = "standin"
# PyTorch's own set of what a backend in Python has to have; earlier releases have none.
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
if AVAILABLE:
    backend_registration._setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(f"{NAME}:0" if AVAILABLE else "cpu")

aten = torch.ops.aten
_EMPTY = {aten.empty, aten.empty_strided, aten.empty_like, aten.new_empty, aten.new_empty_strided}
_COPIES = {aten._to_copy, aten.copy_}
# Their results have a shape that depends on values, or are numbers for the host.
_WAITS = {
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
    aten.bincount,
    aten.repeat_interleave,
}
# PyTorch's own views that are no views by their schema.
_VIEWS = {aten._unsafe_view, aten.lift_fresh, aten.detach, aten.alias}


class OnDevice(Tensor):
    """A tensor of the stand-in, its values held by the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "OnDevice":
        found = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        found.values = values
        return found

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.values!r})"

    def tolist(self) -> Any:
        """Copy to the host, as PyTorch does it on a device."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function} outside of `with StandIn()`")


class StandIn(TorchDispatchMode):
    """The device, while it counts: ``operations`` and ``waits``, their names in ``done``."""

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        """Count from 0."""
        self.waits = 0
        self.done: list[str] = []

    @property
    def operations(self) -> int:
        """How many operations were asked for."""
        return len(self.done)

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves = tree_flatten((args, kwargs))[0]
        ours = [v for v in leaves if isinstance(v, OnDevice)]
        to = kwargs.get("device")
        here = to is not None and torch.device(to).type == NAME
        if not ours and not here:
            return function(*args, **kwargs)
        packet = function.overloadpacket
        others = [v for v in leaves if isinstance(v, Tensor) and not isinstance(v, OnDevice)]
        if packet not in _COPIES and ours and any(v.ndim for v in others):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but "
                f"{function} got {DEVICE} and cpu"
            )
        self._count(function, packet, args, to)
        if here:
            kwargs["device"] = torch.device("cpu")
        plain_args, plain = tree_map_only(OnDevice, lambda v: v.values, (args, kwargs))
        result = function(*plain_args, **plain)
        leaves_here = here or (ours and not (to is not None and not here))
        if packet is aten.copy_:
            return args[0]
        if not leaves_here:
            return result
        held = {id(v.values): v for v in ours}

        def wrap(value: Any) -> Any:
            if not isinstance(value, Tensor) or isinstance(value, OnDevice):
                return value
            # In place: the tensor that was given.
            return held[id(value)] if id(value) in held else OnDevice(value)

        return tree_map(wrap, result)

    def _count(self, function: Any, packet: Any, args: Any, to: Any) -> None:
        away = to is not None and torch.device(to).type != NAME
        copied = packet is aten.copy_ and not isinstance(args[0], OnDevice)
        masks = packet is aten.index and any(
            v is not None and v.dtype in (torch.bool, torch.uint8) for v in args[1]
        )
        if packet in _WAITS or away or copied or masks:
            self.waits += 1
        if not (function.is_view or packet in _EMPTY or packet in _VIEWS):
            self.done.append(str(function))


def moved(values: Tensor) -> Tensor:
    """Return a tensor of the stand-in with values of the CPU."""
    return OnDevice(values)
