"""The base of every metric: its configuration, its counters and the samples of a batch."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, ParamSpec

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from mi_metrics.functional.cautions import Kind, caution
from mi_metrics.functional.options import check_choice, check_integer, hints_keywords
from mi_metrics.functional.tables.inside import FEW
from mi_metrics.functional.tables.outside import outside_message
from mi_metrics.functional.tensors import (
    PAIRED,
    arithmetic,
    check_device,
    check_exact,
    check_finite,
    check_mask,
    check_pair,
    check_same_device,
    check_tensor,
    lift_pair,
    no_sample,
)
from mi_metrics.metrics.hardened import HardenedMetric
from mi_metrics.states import header as headers

SEEN, IGNORED, OUTSIDE, WIDE_X, WIDE_Y = range(5)

P = ParamSpec("P")
# The names of torchmetrics' own options, which it takes from ``**kwargs`` one by one; up to version
# 1.6 it names the device cpu there too.
UPSTREAM = frozenset(
    name
    for name in Metric.__init__.__code__.co_consts
    if isinstance(name, str) and name.isidentifier() and name != "cpu"
)


def keywords(init: Callable[P, None]) -> Callable[P, None]:
    """Refuse unknown keyword arguments of a metric by naming the one that was meant."""
    return hints_keywords(init, UPSTREAM)


@lru_cache(maxsize=16)
def _increments(n: int, wide: tuple[bool, bool], device: torch.device) -> Tensor:
    """Return what n samples add to the counters ``(5, 1)`` where none is left out or outside."""
    rows = [n, 0, 0, n * wide[0], n * wide[1]]
    return torch.tensor(rows, dtype=torch.int64, device="cpu").unsqueeze(1).to(device)


def _is_wide(samples: Tensor) -> bool:
    """Say whether samples are reckoned with in float64."""
    return arithmetic(samples.dtype) == torch.float64


# What torchmetrics calls the two arguments of most of its metrics.
_ALIASES = {"preds": "x", "target": "y"}


class Samples(NamedTuple):
    """A batch as rows of paired samples, masked ones left out."""

    x: Tensor  # (C, n) float32 or float64; bytes, as y, where the metric takes them
    y: Tensor  # (C, n)
    valid: Tensor | None  # (C, n) bool: which pairs count; None: all
    given: Tensor | None  # (C,) int64: how many pairs were given; None: n of each output


class MutualInformationMetric(HardenedMetric):
    """Configuration and counters that all estimators share.

    States: ``header``, the configuration (see :mod:`mi_metrics.states.header`), and ``counters``,
    int64 of shape ``(5, num_outputs)``: samples seen, ignored for NaN or inf, outside the range,
    and given in float64 for x and y. A subclass adds one more, its table or its samples.
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False

    # Whether many samples of a byte each may come as they are.
    _takes_bytes: ClassVar[bool] = False

    header: Tensor
    counters: Tensor

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
        words = headers.encode(
            configuration | {"num_outputs": num_outputs, "nan_strategy": nan_strategy}
        )
        self.add_state("header", words, headers.agree)
        self.add_state(
            "counters", torch.zeros(5, num_outputs, dtype=torch.int64, device="cpu"), "sum"
        )

    @property
    def seen(self) -> Tensor:
        """How many samples were given, int64 of the shape of ``compute()``: NaN included, masked
        ones not. Of this rank; inside ``sync_context`` of all.
        """
        return self._counter(SEEN)

    @property
    def ignored(self) -> Tensor:
        """How many of the samples :attr:`seen` were NaN or infinite and left out."""
        return self._counter(IGNORED)

    @property
    def outside(self) -> Tensor:
        """How many of the other samples lay outside a given ``value_range``."""
        return self._counter(OUTSIDE)

    # -- what subclasses use -----------------------------------------------------------------------

    def _counter(self, row: int) -> Tensor:
        counter = self.counters[row].clone()
        return counter.squeeze(0) if self.num_outputs == 1 else counter

    def _samples(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Samples | None:
        """Return a batch as rows; None where the mask leaves nothing."""
        samples = self._unchecked(x, y, mask)
        return None if samples is None else self._finite(samples)

    def _unchecked(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Samples | None:
        """Return a batch as rows that may hold NaN and inf; None where the mask leaves nothing."""
        x, y = self._pair(x, y)
        valid = given = None
        if mask is None:
            x, y = self._by_output(x), self._by_output(y)
        else:
            mask = self._by_output(check_mask(mask, x))
            given = mask.sum(1)
            most = int(given.max())
            if most == 0:
                return None
            if bool((given == most).all()):
                x, y = (self._by_output(v)[mask].view(-1, most) for v in (x, y))
            else:
                x, y = (self._by_output(v) for v in (x, y))
                x, y = (torch.where(mask, v, torch.zeros_like(v)) for v in (x, y))
                valid = mask
        x, y = lift_pair(x, y, bytes_stay=self._takes_bytes and x.numel() > FEW)
        return Samples(x, y, valid, given)

    def _finite(self, samples: Samples) -> Samples:
        """Refuse NaN and inf, or leave them out."""
        x, y, valid, given = samples
        if self.nan_strategy == "error":
            check_finite(x, y)
            return samples
        finite = x.isfinite() & y.isfinite()
        return Samples(x, y, finite if valid is None else valid & finite, given)

    def _pair(self, x: Any, y: Any) -> tuple[Tensor, Tensor]:
        """Return paired samples of one shape, or refuse them."""
        x, y = check_pair(x, self._over_outputs(x, y))
        self._check_device(x)
        if self.num_outputs > 1 and (x.ndim < 2 or x.shape[1] != self.num_outputs):
            raise ValueError(
                f"Expected `x` and `y` of shape (N, {self.num_outputs}, ...) for "
                f"num_outputs={self.num_outputs}, but got {tuple(x.shape)}. Move the outputs to "
                "dimension 1, or pool them with num_outputs=1."
            )
        return x.detach(), y.detach()

    def _vectors(
        self, variables: Sequence[tuple[str, Any, int]], mask: Tensor | None = None
    ) -> tuple[Tensor, Samples] | None:
        """Return a batch of vectors, each with its name and dimension, side by side as rows ``(n,
        d)``; None where the mask leaves nothing.
        """
        check_same_device({name: check_tensor(name, value) for name, value, _ in variables})
        parts = [self._vector(*variable) for variable in variables]
        (first, *_), names = parts, " and ".join(f"`{name}`" for name, *_ in variables)
        if all(len(part) == 0 for part in parts):
            raise no_sample(first)
        if any(len(part) != len(first) for part in parts):
            raise ValueError(
                f"Expected as many samples in {names.replace(' and ', ' as in ')}, but got "
                f"{' and '.join(str(len(part)) for part in parts)}. {PAIRED}"
            )
        if mask is not None:
            mask = check_mask(mask, first[:, 0])
            parts = [part[mask] for part in parts]
        rows = torch.cat([part.double() for part in parts], 1)
        if len(rows) == 0:
            return None
        valid = None
        # The sum shows every NaN and infinity, in a twentieth of the time.
        if self.nan_strategy == "ignore" or not bool(rows.sum().isfinite()):
            valid = rows.isfinite().all(1).unsqueeze(0)
        if self.nan_strategy == "error" and valid is not None:
            if not bool(valid.all()):
                raise ValueError(
                    f"Expected {names} to be finite, but {int((~valid).sum())} of {len(rows)} "
                    'samples hold NaN or inf. Remove them first, or pass nan_strategy="ignore".'
                )
            valid = None
        # The counters count rows.
        one = rows[:, 0].unsqueeze(0)
        return rows, Samples(one, one, valid, None)

    def _vector(self, name: str, value: Any, dim: int) -> Tensor:
        """Return a variable of a batch, ``(N, dim)``."""
        vector = check_tensor(name, value)
        self._check_device(vector)
        if vector.ndim == 1 and dim == 1:
            vector = vector.unsqueeze(1)
        if vector.ndim != 2 or vector.shape[1] != dim:
            raise ValueError(
                f"Expected `{name}` of shape (N, {dim}) for {name}_dim={dim}, but got "
                f"{tuple(vector.shape)}. Flatten what is one variable, and set its dimension in "
                "the constructor."
            )
        check_exact(name, vector)
        return vector.detach()

    def _over_outputs(self, x: Any, y: Any) -> Any:
        """Return y of shape (N, 1, ...) once for each output of x."""
        if (
            self.num_outputs > 1
            and isinstance(x, Tensor)
            and isinstance(y, Tensor)
            and x.ndim == y.ndim > 1
            and y.shape[1] == 1
        ):
            return y.expand(-1, self.num_outputs, *y.shape[2:])
        return y

    def _by_output(self, values: Tensor) -> Tensor:
        """Return values of a batch as ``(num_outputs, n)``."""
        if self.num_outputs == 1:
            return values.reshape(1, -1)
        return values.movedim(1, 0).reshape(self.num_outputs, -1)

    def _count(self, samples: Samples, outside: Tensor | None = None) -> Tensor:
        """Return the counters after a batch."""
        x, y, valid, given = samples
        if valid is None and given is None and outside is None:
            wide = _is_wide(x), _is_wide(y)
            return self.counters + _increments(x.shape[1], wide, x.device)
        if given is None:
            given = torch.full((self.num_outputs,), x.shape[1], dtype=torch.int64, device=x.device)
        none = torch.zeros_like(given)
        kept = given if valid is None else valid.sum(1)
        wide_x, wide_y = (kept if _is_wide(v) else none for v in (x, y))
        return self.counters + torch.stack(
            [given, given - kept, none if outside is None else outside, wide_x, wide_y]
        )

    def _check_device(self, x: Tensor) -> None:
        check_device(x.device)
        if x.device != self.counters.device:
            raise ValueError(
                f"Expected samples on the metric's device {self.counters.device}, but got "
                f"{x.device}. Move the metric with .to({str(x.device)!r}), or make it an attribute "
                "of your module, which moves it along."
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
        name = type(self).__name__
        if not bool(self.counters[SEEN].any()):
            # Upstream's words, for those whose filter knows them.
            return (
                f"The ``compute`` method of metric {name} was called before the ``update`` method "
                "which may lead to errors, as metric states have not yet been updated, or a mask "
                "left out all that came. It has no valid samples, so its value is NaN."
            )
        return (
            f"{name} has no valid samples for at least one output, so its value is NaN: all that "
            "were given were NaN or infinite, or masked."
        )

    def _outside_message(self) -> str | None:
        """Say that too many of the valid samples of an output lie outside the given range."""
        used = (self.counters[SEEN] - self.counters[IGNORED]).clamp_min(1)
        return outside_message(float((self.counters[OUTSIDE].double() / used).max()))

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

    # -- the contract of torchmetrics --------------------------------------------------------------

    def _renamed(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        if not (_ALIASES.keys() & kwargs.keys()) or {"x", "y"} <= kwargs.keys():
            # With x and y, the others are meant for another metric of a collection.
            return kwargs
        for alias, name in _ALIASES.items():
            if alias in kwargs and name in kwargs:
                raise ValueError(
                    f"Expected `{name}` or `{alias}`, but got both. `preds` and `target`, as a "
                    "MetricCollection passes them, stand for `x` and `y`; give one pair of them."
                )
        return {_ALIASES.get(name, name): value for name, value in kwargs.items()}

    def _filter_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        return super()._filter_kwargs(**self._renamed(kwargs))

    def _upgraded(self, states: dict[str, Any]) -> dict[str, Any]:
        return states | {"header": headers.complete(states["header"])}

    def _problems(self, states: dict[str, Any]) -> list[str]:
        # The default, which has values on `meta` too.
        theirs, ours = states["header"], self._defaults["header"]
        assert isinstance(ours, Tensor)
        same_kind = isinstance(theirs, Tensor) and theirs.shape == ours.shape
        if same_kind and not torch.equal(theirs.to(ours), ours):
            return [
                f"it belongs to a metric with {headers.describe(theirs)}, but this metric has "
                f"{headers.describe(ours)}. Build both with the same arguments"
            ]
        return super()._problems(states) or self._impossible(states)

    def _impossible(self, states: dict[str, Any]) -> list[str]:
        """Say which values of states of the right shapes no samples give."""
        counters = states["counters"]
        kept = counters[SEEN] - counters[IGNORED]
        if bool((counters < 0).any() | (kept < 0).any() | (counters[OUTSIDE:] > kept).any()):
            return [
                "impossible values in counters: expected numbers of samples that are not negative, "
                "of which no more are ignored or outside than were seen, but got "
                f"{counters.tolist()}. The checkpoint was changed or damaged"
            ]
        return []

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
