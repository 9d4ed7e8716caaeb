"""The base of every metric: what torchmetrics' contract leaves open, closed once.

Beyond :class:`torchmetrics.Metric`:

- accumulators keep their dtype under ``.half()``, ``.to(torch.bfloat16)``, ``set_dtype`` and
  Lightning's true-half precision, and move between devices;
- an ``update`` or ``forward`` that raises leaves the metric as it was, and so does a ``sync`` that
  raises;
- ``merge_state`` refuses another configuration, forgets the cached value and counts the merged
  updates;
- ``clone`` shares the process group, which can't be copied;
- ``load_state_dict`` checks names, shapes, dtypes and configuration, and copies;
- updates are out of place and detached, so that they work under inference mode and keep no graph
  alive.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from mi_metrics.functional.cautions import Kind, caution
from mi_metrics.functional.options import (
    check_choice,
    check_finite,
    check_integer,
    check_pair,
    lift,
)
from mi_metrics.states import header as headers

SEEN, IGNORED, OUTSIDE, WIDE_X, WIDE_Y = range(5)


class MutualInformationMetric(Metric):
    """Configuration, counters and safety that all estimators share.

    States: ``header``, the configuration (see :mod:`mi_metrics.states.header`), and ``counters``,
    int64 of shape ``(5, num_outputs)``: samples seen, ignored for NaN or inf, outside the range,
    and given in float64 for x and y. A subclass adds one more, its table or its samples.
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False

    header: Tensor
    counters: Tensor
    # A class attribute too: metrics that were pickled by version 0.1.0 have none of their own.
    _in_forward: bool = False

    def __init__(
        self,
        configuration: dict[str, headers.Value],
        *,
        num_outputs: int,
        nan_strategy: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_outputs = check_integer("num_outputs", num_outputs, 1)
        check_choice("nan_strategy", nan_strategy, headers.CHOICES["nan_strategy"])
        self.nan_strategy = nan_strategy
        self._warned: set[Kind] = set()
        self._in_forward = False
        words = headers.encode(
            configuration | {"num_outputs": num_outputs, "nan_strategy": nan_strategy}
        )
        self.add_state("header", words.to(self._device), headers.agree)
        zeros = torch.zeros(5, num_outputs, dtype=torch.int64, device=self._device)
        self.add_state("counters", zeros, "sum")

    # -- what subclasses use -----------------------------------------------------------------------

    def _samples(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a batch as rows ``(C, n)`` of float32 or float64, and which pairs are valid (None:
        all).
        """
        x, y = check_pair(x, y)
        self._check_device(x)
        if self.num_outputs > 1 and (x.ndim < 2 or x.shape[1] != self.num_outputs):
            raise ValueError(
                f"Expected `x` and `y` of shape (N, {self.num_outputs}, ...) for "
                f"num_outputs={self.num_outputs}, but got {tuple(x.shape)}. Move the outputs to "
                "dimension 1, or pool them with num_outputs=1."
            )
        x, y = (lift(v.detach()) for v in (x, y))
        if self.nan_strategy == "error":
            check_finite(x, y)
        if self.num_outputs > 1:
            x, y = (v.movedim(1, 0).reshape(self.num_outputs, -1) for v in (x, y))
        else:
            x, y = x.reshape(1, -1), y.reshape(1, -1)
        return x, y, x.isfinite() & y.isfinite() if self.nan_strategy == "ignore" else None

    def _count(
        self, x: Tensor, y: Tensor, valid: Tensor | None, outside: Tensor | None = None
    ) -> Tensor:
        """Return the counters after a batch of rows ``(C, n)``."""
        n = torch.full((self.num_outputs,), x.shape[1], dtype=torch.int64, device=x.device)
        none = torch.zeros_like(n)
        kept = n if valid is None else valid.sum(1)
        wide_x, wide_y = (kept if v.dtype == torch.float64 else none for v in (x, y))
        return self.counters + torch.stack(
            [n, n - kept, none if outside is None else outside, wide_x, wide_y]
        )

    def _check_device(self, x: Tensor) -> None:
        if x.device != self.counters.device:
            raise ValueError(
                f"Expected samples on the metric's device {self.counters.device}, but got "
                f"{x.device}. Move the metric with .to({str(x.device)!r}), or make it an attribute "
                "of your module, which moves it along."
            )

    def _check_unsynced(self, what: str) -> None:
        if self._is_synced:
            raise TorchMetricsUserError(
                f"Expected a metric that holds its own state for `{what}`, but this one holds that "
                "of all ranks, and what is added now would be lost. Call `unsync` first, or leave "
                "the `sync_context`."
            )

    def _warn_once(self, kind: Kind, message: str | None, *, of_input: bool = False) -> None:
        """Warn of an accumulated value, once per metric and kind.

        ``forward`` returns the value of a small batch and is silent about it, but not about what is
        doubtful in the samples themselves (``of_input``).
        """
        silent = self._in_forward and not of_input
        if message is not None and kind not in self._warned and not silent:
            self._warned.add(kind)
            caution(kind, message)

    def _without_samples(self) -> str | None:
        """Say that there is no valid sample: on any rank, when this is called after a sync."""
        if bool((self.counters[SEEN] > self.counters[IGNORED]).all()):
            return None
        return (
            f"{type(self).__name__} has no valid samples for at least one output, so its value is "
            "NaN: either `update` was never called since the last reset, or all samples were NaN "
            "or infinite."
        )

    def _outside_message(self) -> str | None:
        """Say that more than 1 % of the valid samples of an output lie outside the given range."""
        used = (self.counters[SEEN] - self.counters[IGNORED]).clamp_min(1)
        share = float((self.counters[OUTSIDE].double() / used).max())
        if share <= 0.01:
            return None
        return (
            f"{100 * share:.3g} % of the samples of {type(self).__name__} lie outside "
            "`value_range` and were counted in the edge bins. Widen the range, or pass "
            "value_range=None."
        )

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one value or several, as every torchmetrics metric does; needs matplotlib.

        Args:
            val: A result of ``forward`` or ``compute``, or a list of them; by default
                ``compute()``.
            ax: The axes to draw in; by default a new figure.

        Returns:
            The figure and the axes.
        """
        from mi_metrics.plotting import require_matplotlib

        require_matplotlib()
        drawn: Any = self._plot(val, ax)
        figure, axes = drawn
        # Upstream returns no figure where it did not make it.
        return axes.figure if figure is None else figure, axes

    # -- the contract of torchmetrics, closed ------------------------------------------------------

    def _wrap_update(self, update: Callable[..., None]) -> Callable[..., None]:
        wrapped = super()._wrap_update(update)

        @functools.wraps(update)
        def restoring(*args: Any, **kwargs: Any) -> None:
            self._check_unsynced("update")
            before = self._update_count, self._computed
            try:
                wrapped(*args, **kwargs)
            except BaseException:
                self._update_count, self._computed = before
                raise

        return restoring

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def quiet(*args: Any, **kwargs: Any) -> Any:
            # Upstream warns where this rank was not updated, though other ranks may have been.
            # `compute` warns where there is no sample at all.
            count, self._update_count = self._update_count, max(self._update_count, 1)
            try:
                return wrapped(*args, **kwargs)
            finally:
                self._update_count = count

        return quiet

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Update the state with a batch and return the value of that batch alone."""
        # No update writes into a tensor, so references are enough.
        states = self._copy_state_dict()
        names = (
            "_update_count",
            "_computed",
            "_forward_cache",
            "_cache",
            "_is_synced",
            "compute_on_cpu",
        )
        before = {name: getattr(self, name) for name in names}
        self._in_forward = True
        try:
            return super().forward(*args, **kwargs)
        except BaseException:
            for name, value in (states | before).items():
                setattr(self, name, value)
            self._to_sync, self._should_unsync, self._enable_grad = (
                self.sync_on_compute,
                True,
                False,
            )
            raise
        finally:
            self._in_forward = False

    def _copy_state_dict(self) -> dict[str, Any]:
        states = {name: getattr(self, name) for name in self._defaults}
        return {
            name: value if isinstance(value, Tensor) else list(value)
            for name, value in states.items()
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = twin = self.__class__.__new__(self.__class__)
        memo[id(self.process_group)] = self.process_group
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

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
                for name, value in before.items():
                    setattr(self, name, value)
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

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None
    ) -> None:
        # The header first: states of metrics that were built differently need not have as many
        # dimensions, and over that gloo ends the process.
        gathered = dist_sync_fn(self.header, group=process_group or self.process_group)
        header = headers.agree(torch.stack(gathered))
        reductions = self._reductions
        self._reductions = {
            name: reduction for name, reduction in reductions.items() if name != "header"
        }
        try:
            super()._sync_dist(dist_sync_fn, process_group)
        finally:
            self._reductions = reductions
        self.header = header

    @contextmanager
    def sync_context(self, *args: Any, should_unsync: bool = True, **kwargs: Any) -> Iterator[None]:
        """Hold the state of all ranks inside the ``with`` block; every rank must enter it."""
        self.sync(*args, **kwargs)
        try:
            yield
        finally:
            self.unsync(should_unsync=self._is_synced and should_unsync)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the state of another metric of the same configuration, which is left as it is.

        Args:
            incoming_state: A metric of the same class, or a dict of its states.

        Raises:
            ValueError: If it is something else, lacks a state or has another configuration.
            TorchMetricsUserError: If this metric is synced.
        """
        self._check_unsynced("merge_state")
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
        if problems := self._problems(states):
            raise ValueError("Can't merge this state: " + "; ".join(problems))
        moved = {
            k: v.to(self.device) if isinstance(v, Tensor) else [e.to(self.device) for e in v]
            for k, v in states.items()
        }
        super().merge_state(moved)
        self._computed = None
        self._update_count += (
            incoming_state._update_count if isinstance(incoming_state, Metric) else 1
        )

    def _problems(self, states: dict[str, Any]) -> list[str]:
        """Say in what states of this metric's names can't be states of this metric."""
        theirs = states["header"]
        same_kind = isinstance(theirs, Tensor) and theirs.shape == self.header.shape
        if same_kind and not torch.equal(theirs.to(self.header), self.header):
            return [
                f"it belongs to a metric with {headers.describe(theirs)}, but this metric has "
                f"{headers.describe(self.header)}. Build both with the same arguments"
            ]
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
        absent = [key for key in self._defaults if key not in states]
        if states and absent:
            missing_keys.extend(prefix + key for key in absent)
        elif states:
            if problems := self._problems(states):
                error_msgs.append(
                    f"While loading {prefix or type(self).__name__}: " + "; ".join(problems)
                )
            else:
                for key, value in states.items():
                    own = (
                        value.detach().clone().to(self.device)
                        if isinstance(value, Tensor)
                        else [v.detach().clone().to(self.device) for v in value]
                    )
                    setattr(self, key, own)
                self._computed = None
                self._update_count = max(self._update_count, int(self.counters[SEEN].max() > 0))
        elif any(self._persistent.values()):
            missing_keys.extend(prefix + key for key in absent)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _apply(
        self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()
    ) -> torch.nn.Module:
        def move(value: Any) -> Any:
            if isinstance(value, list):
                return [move(v) for v in value]
            if not isinstance(value, Tensor):
                return value
            try:
                moved = fn(value)
            except TypeError as error:
                if "float64" in str(error):
                    raise TypeError(
                        f"{type(self).__name__} accumulates in float64, which this device does not "
                        f"have ({error}). "
                        'Use kernel="hard", whose counts are integers, or keep the metric on the '
                        "CPU and call update(x.cpu(), y.cpu())."
                    ) from error
                raise
            return moved if moved.dtype == value.dtype else value.to(moved.device)

        cached = {name: move(getattr(self, name)) for name in ("_computed", "_forward_cache")}
        states = {
            name: (move(default), move(getattr(self, name)))
            for name, default in self._defaults.items()
        }
        super()._apply(fn, exclude_state=tuple(self._defaults))
        for name, (default, value) in states.items():
            self._defaults[name] = default
            setattr(self, name, value)
        for name, value in cached.items():
            setattr(self, name, value)
        return self
