"""What came of a call: a value to look at, or an error of which everything is known already."""

import linecache
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities.exceptions import TorchMetricsUserError

import mi_metrics
from mi_metrics import MutualInformationWarning

PACKAGE = str(Path(mi_metrics.__file__).parent)
# Metrics hand their further arguments to torchmetrics, which checks them.
UPSTREAM = str(Path(torchmetrics.__file__).with_name("metric.py"))
DOCUMENTED = (ValueError, TypeError, TorchMetricsUserError)


class BrokenPromiseError(AssertionError):
    """A promise that a call has not kept."""


@dataclass
class Call:
    """A function with its arguments, and what must hold of its result."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    check: Callable[["Call", Any], None] = lambda call, result: None

    def run(self) -> str:
        """Make the call and check what comes of it; return ``"value"`` or the type of a documented
        error.
        """
        copies = [v.detach().clone() if isinstance(v, Tensor) else v for v in self.args]
        found = attempt(self.function, *self.args, **self.kwargs)
        for v, copy in zip(self.args, copies, strict=True):
            require(
                not isinstance(v, Tensor) or same(v.detach(), copy), "an argument was written to"
            )
        if isinstance(found, Exception):
            return type(found).__name__
        self.check(self, found)
        return "value"

    def __str__(self) -> str:
        arguments = [describe(v) for v in self.args] + [
            f"{k}={describe(v)}" for k, v in self.kwargs.items()
        ]
        return f"{self.name}({', '.join(arguments)})"


def attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the result, or the error if it is a documented one and says something of its own;
    break otherwise.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*args, **kwargs)
        except DOCUMENTED as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            line = linecache.getline(frame.filename, frame.lineno or 0)
            own = frame.filename.startswith((PACKAGE, UPSTREAM)) and line.strip().startswith(
                "raise"
            )
            require(own, f"an error that is not the package's own: {error!r}")
            require(len(str(error)) > 30, f"an error that says too little: {error!r}")
            result = error
    for warning in caught:
        known = issubclass(warning.category, MutualInformationWarning)
        require(known, f"a warning that is not documented: {warning.message!r}")
    return result


def require_gradient(gradient: Tensor, leaf: Tensor) -> None:
    """Check a gradient's shape and dtype, and that it is finite; in half precision it may
    overflow.
    """
    require(
        gradient.shape == leaf.shape and gradient.dtype == leaf.dtype, "a gradient of another kind"
    )
    bad = gradient.isnan() if gradient.dtype == torch.float16 else ~gradient.isfinite()
    require(not bad.any(), f"a gradient that is not finite: {gradient.tolist()}")


def require(condition: Any, message: str) -> None:
    if not condition:
        raise BrokenPromiseError(message)


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same bits, but for those of NaN."""
    if a.is_meta or a.layout != torch.strided:
        return True
    if a.dtype not in (torch.float32, torch.float64) and a.is_floating_point():
        a, b = a.float(), b.float()
    if a.is_complex():
        a, b = a.to(torch.complex128), b.to(torch.complex128)
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def require_close(a: Tensor, b: Tensor, tolerance: float, what: str) -> None:
    close = torch.allclose(
        a.double().cpu(), b.double().cpu(), rtol=tolerance, atol=tolerance, equal_nan=True
    )
    require(close, f"{what}: {a.tolist()} against {b.tolist()}")


def require_number(value: Any, shape: Any, may_be_nan: Any = False) -> None:
    """Check shape and dtype of a value, and that it is finite but for documented NaN."""
    require(isinstance(value, Tensor), f"no tensor: {value!r}")
    require(value.dtype == torch.float64, f"a value in {value.dtype}")
    require(
        tuple(value.shape) == tuple(shape),
        f"a value of shape {tuple(value.shape)} instead of {tuple(shape)}",
    )
    require(not value.isinf().any(), f"an infinite value: {value.tolist()}")
    nan = torch.as_tensor(may_be_nan, device=value.device).expand_as(value)
    require(not (value.isnan() & ~nan).any(), f"an undocumented NaN: {value.tolist()}")


def require_joint(joint: Tensor, shape: Any) -> None:
    require_number(joint, shape)
    require((joint >= 0).all(), f"a negative probability: {joint.tolist()}")
    require_close(
        joint.sum((-2, -1)), torch.ones(joint.shape[:-2]), 1e-9, "a joint that does not sum to 1"
    )


def describe(v: Any) -> str:
    if not isinstance(v, Tensor):
        return v.name if isinstance(v, Call) else repr(v)
    text = f"{v.dtype} {tuple(v.shape)} on {v.device}"
    if v.is_meta or v.layout != torch.strided or v.numel() == 0:
        return f"<{text}, {v.layout}>"
    shown = str(v.detach().flatten()[:12].tolist())
    return f"<{text}, strides {v.stride()}, {shown}{', ...' if v.numel() > 12 else ''}>"
