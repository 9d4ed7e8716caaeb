"""What torchmetrics' contract leaves open, closed once for metrics whose states add up.

Beyond :class:`torchmetrics.Metric`:

- accumulators keep their dtype under ``.half()``, ``.to(torch.bfloat16)``, ``set_dtype`` and
  Lightning's true-half precision, and move between devices; a metric that was made on ``meta`` is
  empty and valid once it is moved, or given memory by ``to_empty``;
- an ``update`` or ``forward`` that raises leaves the metric as it was, and so does a ``sync`` that
  raises;
- under a process group ``compute`` takes part in every sync, whatever it has cached, so that
  collective calls pair up; inside ``sync_context`` it returns the value of all ranks;
- ``merge_state`` refuses states that can't be this metric's, forgets the cached value and counts
  the merged updates;
- copies, of wrappers too, share the process group, which can't be copied;
- ``load_state_dict`` checks names, shapes, dtypes and values, and copies;
- ``repr`` shows the options that differ from the defaults;
- a module that holds a metric can be compiled by TorchScript.

A metric is not thread-safe: an ``update`` reads the state and replaces it, and so may whatever
reads the state, so that two at a time lose one. Give each thread a metric of its own, and merge
them.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from mi_metrics.functional.tensors import NO_FLOAT64, check_device

# Arguments of every metric that a representation can spell out.
_FLAGS = {
    "compute_on_cpu": False,
    "dist_sync_on_step": False,
    "sync_on_compute": True,
    "compute_with_cache": True,
}


class HardenedMetric(Metric):
    """A metric whose states are replaced and never written into, and reduced by functions that are
    associative.

    Subclasses make the default of a state on the CPU; :meth:`add_state` moves it.
    """

    full_state_update: bool = False
    # A class attribute too: metrics that were pickled by version 0.1.0 have none of their own.
    _in_forward: bool = False
    # What is restored after an update that raises, beside the states.
    _restored: ClassVar[tuple[str, ...]] = ("_update_count", "_computed")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # TorchScript compiles every property that is not named here.
        found = (name for base in cls.__mro__ for name in vars(base))
        properties = {n for n in found if isinstance(inspect.getattr_static(cls, n), property)}
        cls.__jit_unused_properties__ = sorted({*cls.__jit_unused_properties__, *properties})

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Torchmetrics 1.6 begins on the CPU, and PyTorch 2.4 forgets the device of a `with`.
        self._device = torch.empty(0).device
        self._in_forward = False

    # -- what subclasses add -----------------------------------------------------------------------

    def _renamed(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the keywords of a call to ``update`` under the names that it knows."""
        return kwargs

    def _upgraded(self, states: dict[str, Any]) -> dict[str, Any]:
        """Return states that an earlier version saved as this one has them."""
        return states

    def _problems(self, states: dict[str, Any]) -> list[str]:
        """Say in what states of this metric's names can't be states of this metric."""
        problems = []
        for name, default in self._defaults.items():
            value = states[name]
            if isinstance(value, Tensor) and isinstance(default, Tensor):
                if value.shape != default.shape or value.dtype != default.dtype:
                    problems.append(
                        f"size mismatch for {name}: expected {tuple(default.shape)} of "
                        f"{default.dtype}, but got {tuple(value.shape)} of {value.dtype}"
                    )
            elif not isinstance(value, type(default)):
                problems.append(
                    f"expected `{name}` as a {type(default).__name__}, but got a "
                    f"{type(value).__name__}"
                )
        return problems

    # -- states ------------------------------------------------------------------------------------

    def add_state(
        self, name: str, default: Any, dist_reduce_fx: Any = None, persistent: bool = False
    ) -> None:
        """Add a state, on the metric's device; its default keeps values also where that has none,
        as ``meta`` does.
        """
        if isinstance(default, Tensor) and default.is_meta:
            raise ValueError(
                f"Expected a default of `{name}` that has values, but it is on the device meta. "
                'Make it with device="cpu".'
            )
        super().add_state(name, default, dist_reduce_fx, persistent)
        if isinstance(default, Tensor):
            self._defaults[name] = default.to(_with_values(self._device))
            setattr(self, name, default.clone().to(self._device))

    def reset(self) -> None:
        """Forget all that was accumulated."""
        for name, default in self._defaults.items():
            if isinstance(default, list):
                # Upstream empties the list in place, which others may hold: `Running` does.
                setattr(self, name, [])
        super().reset()

    def _copy_state_dict(self) -> dict[str, Any]:
        # No update writes into a tensor, so references are enough.
        states = {name: getattr(self, name) for name in self._defaults}
        return {
            name: value if isinstance(value, Tensor) else list(value)
            for name, value in states.items()
        }

    def _check_unsynced(self, what: str) -> None:
        if self._is_synced:
            raise TorchMetricsUserError(
                f"Expected a metric that holds its own state for `{what}`, but this one holds that "
                "of all ranks, and what is added now would be lost. Call `unsync` first, or leave "
                "the `sync_context`."
            )

    def _check_has_values(self) -> None:
        if self._device.type == "meta":
            raise ValueError(
                f"Expected a {type(self).__name__} that holds values, but it is on the device "
                "meta. Move it, or the module it belongs to, with .to(device) or "
                ".to_empty(device=device)."
            )

    # -- update, compute, forward ------------------------------------------------------------------

    def _wrap_update(self, update: Callable[..., None]) -> Callable[..., None]:
        wrapped = super()._wrap_update(update)

        @functools.wraps(update)
        def restoring(*args: Any, **kwargs: Any) -> None:
            self._check_unsynced("update")
            self._check_has_values()
            held = self.__dict__
            names = (*self._defaults, *self._restored)
            before = {name: held[name] for name in names if name in held}
            try:
                wrapped(*args, **self._renamed(kwargs))
            except BaseException:
                for name in names:
                    held.pop(name, None)
                held.update(before)
                raise

        return restoring

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def paired(*args: Any, **kwargs: Any) -> Any:
            self._check_has_values()
            before: dict[str, Any] = {"_update_count": self._update_count}
            if self._is_synced:
                # The state is that of all ranks already. Its value is not this rank's to keep.
                for name in ("_to_sync", "_should_unsync", "_computed"):
                    before[name] = self.__dict__[name]
                self._to_sync = self._should_unsync = False
                self._computed = None
            elif self._to_sync and self.distributed_available_fn():
                # The others may have something new, and wait for this rank.
                self._computed = None
            # Upstream warns where this rank was not updated, though other ranks may have been.
            # `compute` warns where there is no sample at all.
            self._update_count = max(self._update_count, 1)
            try:
                return wrapped(*args, **kwargs)
            finally:
                self.__dict__.update(before)

        return paired

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Update the state with a batch and return the value of that batch alone."""
        names = (
            "_update_count",
            "_computed",
            "_forward_cache",
            "_cache",
            "_is_synced",
            "compute_on_cpu",
        )
        before = self._copy_state_dict() | {name: getattr(self, name) for name in names}
        self._in_forward = True
        try:
            return super().forward(*args, **kwargs)
        except BaseException:
            self.__dict__.update(before)
            self._to_sync, self._should_unsync = self.sync_on_compute, True
            self._enable_grad = False
            raise
        finally:
            self._in_forward = False

    # -- processes ---------------------------------------------------------------------------------

    def sync(
        self, dist_sync_fn: Callable[..., Any] | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Gather the states of all ranks; if that fails, keep this rank's own."""
        before = self._copy_state_dict()
        try:
            # Upstream's default forgets the function that the metric was built with.
            super().sync(dist_sync_fn or self.dist_sync_fn, *args, **kwargs)
        except BaseException as error:
            if not self._is_synced:
                self.__dict__.update(before)
                self._cache = None
                # Errors of torch.distributed are such.
                if isinstance(error, RuntimeError) and not isinstance(
                    error, torch.cuda.OutOfMemoryError
                ):
                    error.add_note(
                        f"{type(self).__name__} could not gather the states of all ranks. Has one "
                        "ended, or not called `compute` as often? This rank's own state is as it "
                        "was. For its value alone, merge it into a metric built with "
                        "sync_on_compute=False."
                    )
            raise

    @contextmanager
    def sync_context(self, *args: Any, should_unsync: bool = True, **kwargs: Any) -> Iterator[None]:
        """Hold the state of all ranks inside the ``with`` block; every rank must enter it."""
        self.sync(*args, **kwargs)
        try:
            yield
        finally:
            self.unsync(should_unsync=self._is_synced and should_unsync)

    # -- merging, saving, loading ------------------------------------------------------------------

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the state of another metric of the same configuration, which is left as it is.

        Args:
            incoming_state: A metric of the same class, or a dict of its states.

        Raises:
            ValueError: If it is something else, lacks a state, has another configuration or
                impossible values.
            TorchMetricsUserError: If this metric is synced.
        """
        self._check_unsynced("merge_state")
        self._check_has_values()
        states = (
            incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        )
        if isinstance(incoming_state, Metric) and not isinstance(incoming_state, type(self)):
            raise ValueError(
                f"Expected a {type(self).__name__} to merge, but got a "
                f"{type(incoming_state).__name__}. Only metrics of one class have states that add "
                "up."
            )
        if not isinstance(states, dict) or set(states) != set(self._defaults):
            raise ValueError(
                f"Expected a metric, or a dict with the states {sorted(self._defaults)}, to merge, "
                f"but got "
                f"{sorted(states) if isinstance(states, dict) else type(states).__name__}."
            )
        states = self._upgraded(states)
        if problems := self._problems(states):
            raise ValueError("Can't merge this state: " + "; ".join(problems))
        super().merge_state({name: _to(value, self._device) for name, value in states.items()})
        self._computed = None
        self._update_count += (
            incoming_state._update_count if isinstance(incoming_state, Metric) else 1
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Taken out of the dict, so that upstream does not set them unchecked.
        states = {
            key: state_dict.pop(prefix + key)
            for key in self._defaults
            if prefix + key in state_dict
        }
        absent = [prefix + key for key in self._defaults if key not in states]
        if states and not absent:
            states = self._upgraded(states)
            if problems := self._problems(states):
                error_msgs.append(
                    f"While loading {prefix or type(self).__name__}: " + "; ".join(problems)
                )
            else:
                self._adopt(states)
        elif states or any(self._persistent.values()):
            missing_keys.extend(absent)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _adopt(self, states: dict[str, Any]) -> None:
        """Take over copies of states, on this metric's device."""
        # A metric on `meta` goes where the values are, as parameters do that are assigned.
        if self._device.type == "meta":
            self.to(next(v.device for v in states.values() if isinstance(v, Tensor)))
        changed = False
        for name, value in states.items():
            own, default = _to(value, self._device, copy=True), self._defaults[name]
            if isinstance(default, Tensor):
                changed |= not torch.equal(own, default)
            else:
                changed |= len(own) > 0
            setattr(self, name, own)
        self._computed = None
        self._update_count = max(self._update_count, 1) if changed else 0

    def __getstate__(self) -> dict[str, Any]:
        # Not by `__deepcopy__`: wrappers that hand on what they lack to their metric find it there,
        # and their copies would be copies of the metric alone.
        state = super().__getstate__()
        if self.process_group is not None:
            state["process_group"] = _Shared(self.process_group)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        group = state.get("process_group")
        if isinstance(group, _Shared):
            state = state | {"process_group": group.value}
        super().__setstate__(state)

    # -- devices and dtypes ------------------------------------------------------------------------

    def _apply(  # type: ignore[override]
        self,
        fn: Callable[[Tensor], Tensor],
        exclude_state: Sequence[str] = (),
        recurse: bool = True,
    ) -> Self:
        # Memory as it comes has no values, and neither had `meta`: both leave an empty metric.
        emptied = "to_empty" in getattr(fn, "__qualname__", "") or self._device.type == "meta"
        moved = {
            name: self._moved(fn, default, None if emptied else getattr(self, name))
            for name, default in self._defaults.items()
        }
        cached = {
            name: None if emptied else _each(self._keeping_dtype(fn), getattr(self, name))
            for name in ("_computed", "_forward_cache")
        }
        # Upstream moves what is cached too, and a tensor from the old device to find the new one.
        self._computed = self._forward_cache = None
        self._device = _with_values(self._device)
        super()._apply(fn, exclude_state=tuple(self._defaults))
        for name, (default, value) in moved.items():
            self._defaults[name] = default
            setattr(self, name, value)
        for name, value in cached.items():
            setattr(self, name, value)
        if emptied:
            self._update_count = 0
        return self

    def _moved(self, fn: Callable[[Tensor], Tensor], default: Any, value: Any) -> tuple[Any, Any]:
        """Return a default and the value of its state (None: the default) where ``fn`` moves
        them.
        """
        move = self._keeping_dtype(fn)
        if not isinstance(default, Tensor):
            return default, _each(move, [] if value is None else value)
        device = move(default.flatten()[:0]).device
        home = default.to(_with_values(device, default.device))
        return home, home.clone().to(device) if value is None else move(value)

    def _keeping_dtype(self, fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a function that moves a tensor as ``fn`` does and leaves its dtype as it is."""

        def move(value: Tensor) -> Tensor:
            try:
                moved = fn(value)
            except TypeError as error:
                if "MPS" in str(error):
                    raise TypeError(NO_FLOAT64) from error
                raise
            check_device(moved.device)
            return moved if moved.dtype == value.dtype else value.to(moved.device)

        return move

    # -- what it says of itself --------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return the options that differ from the defaults, as one would write them."""
        options = inspect.signature(type(self).__init__).parameters.values()
        defaults = {
            p.name: p.default
            for p in options
            if p.name != "self" and p.kind is not inspect.Parameter.VAR_KEYWORD
        }
        said = []
        for name, default in (defaults | _FLAGS).items():
            value = _as_written(getattr(self, name))
            if type(value) is not type(default) or value != default:
                said.append(f"{name}={value!r}")
        return ", ".join(said)


class _Shared:
    """What all copies of a metric share."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def _with_values(device: torch.device, other: torch.device | None = None) -> torch.device:
    """Return the device, or another where it has no values (by default the CPU)."""
    return device if device.type != "meta" else other or torch.device("cpu")


def _each(move: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, list):
        return [_each(move, v) for v in value]
    return move(value) if isinstance(value, Tensor) else value


def _to(value: Any, device: torch.device, copy: bool = False) -> Any:
    return _each(lambda v: v.detach().to(device, copy=copy), value)


def _as_written(value: Any) -> Any:
    """Return an option as the shortest argument that means the same: one number for both axes."""
    if isinstance(value, tuple):
        value = tuple(map(_as_written, value))
        return value[0] if len(value) == 2 and value[0] == value[1] else value
    # NumPy's numbers would be written with their type.
    return float(value) if isinstance(value, float) else value
