"""Mutual information from nearest neighbours, as a metric that keeps samples."""

from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from mi_metrics.functional.knn import check_standardize, rows_doubts, rows_mutual_information
from mi_metrics.functional.neighbors.doubts import copies
from mi_metrics.functional.options import (
    ALGORITHMS,
    UNITS,
    Algorithm,
    NanStrategy,
    Standardize,
    Unit,
    check_cells,
    check_choice,
    check_flag,
    check_integer,
    from_nats,
)
from mi_metrics.functional.tensors import check_tensor, shapes_differ
from mi_metrics.metrics.base import (
    IGNORED,
    SEEN,
    Samples,
    keywords,
)
from mi_metrics.metrics.neighbor_inference import NeighborInference
from mi_metrics.states import reservoir
from mi_metrics.states.header import Value

# 64 GiB of samples.
MAX_NUMBERS = 2**33
# A matrix of so few columns may be one of vectors.
MOST_COORDINATES = 64


class KNNMutualInformation(NeighborInference):
    r"""Estimate the mutual information of paired samples from nearest neighbours, in nats or bits.

    What is computed, the formula and its conventions:
    :func:`mi_metrics.functional.knn_mutual_information`. Here the samples are the state, all of
    them or a bounded number.

    Conventions:
        Exact under splits and ranks: bit for bit, in any order, and with ``max_samples=None`` equal
        to the functional call on all samples. ``max_samples=M`` keeps all samples up to M, and of
        more a uniform sample, however often samples repeat: the same for the same stream in any
        batches, another for another order or other ranks.
        Repeated samples are neighbours at distance 0. ``compute`` warns once when, after a sync
        over W ranks, 1 to W - 1 samples are repeated, as the padding of PyTorch's
        ``DistributedSampler`` makes them (use :class:`mi_metrics.UnpaddedDistributedSampler`), and
        when copies of whole samples abound, as resampling with replacement makes them
        (:class:`torchmetrics.wrappers.BootStrapper`).
        At most ``n_neighbors`` samples: NaN, with a warning. ``compute`` never raises.
        State: ``samples``; with ``max_samples=None`` a list of float64 ``(n, x_dim + y_dim)``
        (several outputs: ``(n, C, 2)``), else int64 ``(C, 1 + max_samples, 1 + x_dim + y_dim)``;
        ``header`` and ``counters``.
        Memory: 8 (x_dim + y_dim) bytes per sample with ``max_samples=None``, which is the one state
        in this package that grows; pass ``compute_on_cpu=True`` to keep it off the GPU.
        Gradient: none.

    As input to ``forward`` and ``update`` the metric accepts:
        x: With ``x_dim = y_dim = 1``: of any shape, all elements pooled (``num_outputs=1``), or
            ``(N, num_outputs, ...)``. Else ``(N, x_dim)``.
        y: Paired with ``x`` by position: of the same shape, or ``(N, y_dim)``; ``(N,)`` is read as
        ``(N, 1)``.

    As output of ``forward`` and ``compute`` the metric returns:
        float64, a scalar with ``num_outputs=1``, else of shape ``(num_outputs,)``.

    Args:
        n_neighbors: k, at least 1.
        x_dim: Dimension of the variable x.
        y_dim: Dimension of the variable y.
        algorithm: ``"ksg1"`` or ``"ksg2"``; without effect with ``discrete_y``.
        discrete_y: y holds class labels, integers or bool (Ross 2014).
        standardize: True, False, ``"rank"`` or ``"joint"``, as in the function.
        max_samples: The most samples to keep, or None for all.
        check: Judge the value by :meth:`reliability` in ``compute``, which takes about six times as
            long, and warn where it is unreliable.
        unit: ``"nats"`` or ``"bits"``.
        num_outputs: Number of pairs of scalar variables that are evaluated side by side.
        nan_strategy: What to do with NaN and infinite samples: ``"error"``, or ``"ignore"``: the
            pair is dropped and counted.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown, out of its range or excludes another.

    Example:
        >>> import torch
        >>> from mi_metrics import KNNMutualInformation
        >>> generator = torch.Generator().manual_seed(0)
        >>> metric = KNNMutualInformation()
        >>> for _ in range(10):
        ...     x = torch.randn(1_000, generator=generator)
        ...     y = 0.6 * x + 0.8 * torch.randn(1_000, generator=generator)  # truth: 0.2231 nats
        ...     metric.update(x, y)
        >>> print(f"{metric.compute():.4f}")
        0.2321

    References:
        A. Kraskov, H. Stögbauer, P. Grassberger, "Estimating mutual information" (2004),
        doi:10.1103/PhysRevE.69.066138.
        B. C. Ross, "Mutual information between discrete and continuous data sets" (2014),
        doi:10.1371/journal.pone.0087357.
    """

    # TorchScript has no type for it where a module that holds this metric is compiled.
    __jit_ignored_attributes__: ClassVar[list[str]] = [
        *NeighborInference.__jit_ignored_attributes__,
        "samples",
    ]
    samples: list[Tensor] | Tensor

    # Metrics that were pickled by version 0.1.0 have none.
    check: bool = False
    # Number and sum of the stream that `forward` sets aside while it evaluates a batch.
    _stream: Tensor | None = None

    @keywords
    def __init__(
        self,
        n_neighbors: int = 3,
        *,
        x_dim: int = 1,
        y_dim: int = 1,
        algorithm: Algorithm = "ksg1",
        discrete_y: bool = False,
        standardize: Standardize = True,
        max_samples: int | None = None,
        check: bool = False,
        unit: Unit = "nats",
        num_outputs: int = 1,
        nan_strategy: NanStrategy = "error",
        **kwargs: Any,
    ) -> None:
        n_neighbors = check_integer("n_neighbors", n_neighbors, 1)
        x_dim, y_dim = check_integer("x_dim", x_dim, 1), check_integer("y_dim", y_dim, 1)
        num_outputs = check_integer("num_outputs", num_outputs, 1)
        check_choice("algorithm", algorithm, ALGORITHMS)
        check_choice("unit", unit, UNITS)
        check_flag("discrete_y", discrete_y)
        check_flag("check", check)
        check_standardize(standardize)
        if max_samples is not None:
            max_samples = check_integer("max_samples", max_samples, n_neighbors + 1)
        _check_shapes(num_outputs, max_samples, x_dim, y_dim, discrete_y)
        configuration: dict[str, Value] = {
            "state": "samples",
            "x_dim": x_dim,
            "y_dim": y_dim,
            "discrete_y": float(discrete_y),
            "max_samples": max_samples,
        }
        super().__init__(
            configuration, num_outputs=num_outputs, nan_strategy=nan_strategy, **kwargs
        )
        self.n_neighbors, self.algorithm, self.standardize = n_neighbors, algorithm, standardize
        self.x_dim, self.y_dim, self.discrete_y = x_dim, y_dim, discrete_y
        self.max_samples, self.check, self.unit, self._stream = max_samples, check, unit, None
        dim = x_dim + y_dim
        self._row_shape = (dim,) if num_outputs == 1 else (num_outputs, dim)
        if max_samples is None:
            self.add_state("samples", [], "cat")
        else:
            self.add_state(
                "samples",
                reservoir.empty(num_outputs, max_samples, dim, "cpu"),
                reservoir.fold,
            )

    def update(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> None:
        """Keep a batch of paired samples.

        Args:
            x: Samples of any real dtype; shapes as said in the class.
            y: Samples paired with ``x`` by position; with ``discrete_y`` integers or bool; with
                several outputs ``(N, 1, ...)`` is paired with each.
            mask: bool of the shape of ``x``, of vectors ``(N,)``; False leaves a sample out,
                whatever it holds.

        Raises:
            TypeError: If x or y is not a real tensor, y holds floating-point labels, or the mask is
                not bool.
            ValueError: If shapes or devices differ, there is no sample, or with
                ``nan_strategy="error"`` a sample is NaN or infinite. The state is left as it was.
        """
        if self.discrete_y:
            self._check_device(check_tensor("y", y))
        if self.discrete_y and y.is_floating_point():
            raise TypeError(
                "Expected class labels in `y` (integers or bool) for discrete_y=True, but got "
                f"{y.dtype}. Convert labels with y.long(), or use discrete_y=False for a "
                "continuous variable."
            )
        if (self.x_dim, self.y_dim) == (1, 1):
            batch = self._scalars(x, y, mask)
        else:
            batch = self._vectors((("x", x, self.x_dim), ("y", y, self.y_dim)), mask)
        if batch is None:
            return
        rows, samples = batch
        rows = rows if rows.ndim == 3 else rows.unsqueeze(0)
        valid, counters = samples.valid, self._count(samples)
        if self.max_samples is not None:
            if valid is not None:
                rows = torch.where(valid.unsqueeze(2), rows, 0)
            self.samples = reservoir.update(cast(Tensor, self.samples), rows, valid, self._stream)
        elif self.num_outputs == 1:
            kept = rows[0] if valid is None else rows[0][valid[0]]
            self.samples = [*self.samples, kept]
        else:
            # Outputs drop different pairs but share their rows; `compute` leaves the marked ones
            # out.
            if valid is not None:
                rows = torch.where(valid.unsqueeze(2), rows, torch.nan)
            self.samples = [*self.samples, rows.movedim(0, 1).contiguous()]
        self.counters = counters

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Update the state with a batch and return the value of that batch alone."""
        if isinstance(self.samples, Tensor):
            self._stream = self.samples[:, 0]
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._stream = None

    def compute(self) -> Tensor:
        """Return the mutual information of all samples since the last reset, of all ranks."""
        rows = self.rows()
        used = self.counters[SEEN] - self.counters[IGNORED]
        fewest = int(used.min())
        self._warn_once("no samples", self._without_samples())
        if 0 < fewest <= self.n_neighbors:
            self._warn_once(
                "too few",
                f"{type(self).__name__} needs more than n_neighbors={self.n_neighbors} valid "
                f"samples, but has {fewest}, so its value is NaN. Update it with more samples, or "
                "lower `n_neighbors`.",
            )
        values = [
            rows_mutual_information(r, self.x_dim, self.n_neighbors, **self._options) for r in rows
        ]
        if not self._in_forward:
            self._warn_once("copies", self._padding(rows))
            for r, value in zip(rows, values, strict=True):
                self._warn_of(r, value)
        if fewest > self.n_neighbors and any(bool(value.isnan()) for value in values):
            self._warn_once(
                "too few",
                f"Every label of {type(self).__name__} occurs once, so its value is NaN. Classes "
                "need two members; if `y` holds numbers and not classes, pass discrete_y=False.",
            )
        value = from_nats(torch.stack(values), self.unit)
        return value.squeeze(0) if self.num_outputs == 1 else value

    def _warn_of(self, rows: Tensor, value: Tensor) -> None:
        """Warn of what the samples of an output leave in doubt about its value, in nats."""
        options: dict[str, Any] = {
            "discrete_y": self.discrete_y,
            "standardize": self.standardize,
        }
        found = rows_doubts(rows, self.x_dim, self.n_neighbors, value, **options)
        for kind, message in found.items():
            self._warn_once(kind, message)
        if self.check and not bool(value.isnan()):
            self._warn_once("unreliable", self._unreliable(rows, value))

    def _scalars(self, x: Tensor, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Samples] | None:
        """Return a batch of scalars as rows ``(C, n, 2)``; None where the mask leaves nothing."""
        if self.num_outputs == 1:
            _check_scalars(x, y)
            self._warn_once("pooled", _pooled(x, y), of_input=True)
        if isinstance(x, Tensor) and isinstance(y, Tensor) and {x.ndim, y.ndim} == {1, 2}:
            # (N, 1) beside (N,): one variable of dimension 1, as the functional API reads it.
            x, y = (v.squeeze(1) if v.ndim == 2 else v for v in (x, y))
            if isinstance(mask, Tensor) and mask.ndim == 2:
                mask = mask.squeeze(1)
        samples = self._samples(x, y, mask)
        if samples is None:
            return None
        return torch.stack([samples.x.double(), samples.y.double()], 2), samples

    def rows(self) -> list[Tensor]:
        """Return the samples that are kept of each output, float64 ``(n, x_dim + y_dim)``.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for those of all.
        """
        if self.max_samples is not None:
            return reservoir.rows(cast(Tensor, self.samples))
        # After a sync the list is one tensor.
        parts = (
            [self.samples] if isinstance(self.samples, Tensor) else [self._no_rows(), *self.samples]
        )
        rows = torch.cat([p.to(parts[0].device) for p in parts])
        if self.num_outputs == 1:
            return [rows]
        return [r[~r.isnan().any(1)] for r in rows.unbind(1)]

    def _no_rows(self) -> Tensor:
        device = self.samples[0].device if len(self.samples) else self.counters.device
        return torch.empty(0, *self._row_shape, dtype=torch.float64, device=device)

    def _padding(self, rows: list[Tensor]) -> str | None:
        """Say that fewer samples are repeated than there are ranks, which padding does and data do
        not.
        """
        ranks = 1
        if self._is_synced and dist.is_available() and dist.is_initialized():
            ranks = dist.get_world_size(self.process_group)
        for r in rows if ranks > 1 else ():
            repeated = round(float((1 - 1 / copies(r).double()).sum())) if len(r) else 0
            if 1 <= repeated < ranks:
                return (
                    f"{repeated} of {len(r)} samples of {type(self).__name__} are repeated on "
                    f"{ranks} ranks, as the padding of DistributedSampler makes them. A copy is a "
                    "neighbour at distance 0 and raises the value. Use "
                    "mi_metrics.UnpaddedDistributedSampler."
                )
        return None

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        if isinstance(self.samples, list):
            # A rank without samples takes part with rows of the right shape and dtype, and on the
            # right device.
            self.samples = [torch.cat([self._no_rows(), *self.samples]).to(self.counters.device)]
        super()._sync_dist(*args, **kwargs)

    def _problems(self, states: dict[str, Any]) -> list[str]:
        parts = states["samples"]
        if self.max_samples is None and isinstance(parts, list):
            kinds = {(p.shape[1:], p.dtype) if isinstance(p, Tensor) else None for p in parts}
            if kinds - {(self._row_shape, torch.float64)}:
                shape = ", ".join(map(str, self._row_shape))
                return [f"expected samples of shape (n, {shape}) in float64"]
        default = self._defaults["samples"]
        if isinstance(default, Tensor) and isinstance(parts, Tensor):
            first = (default.shape[0], default.shape[1] - 1, default.shape[2])
            if parts.shape == first and torch.equal(states["header"].to(self.header), self.header):
                return [
                    "its bounded sample is of version 0.1.0, which kept or dropped all copies of a "
                    "sample together and can't be made right. Update a new metric with the samples"
                ]
        return super()._problems(states)

    def _impossible(self, states: dict[str, Any]) -> list[str]:
        if problems := super()._impossible(states):
            return problems
        samples, counters = states["samples"], states["counters"]
        kept = counters[SEEN] - counters[IGNORED]
        if self.max_samples is not None:
            return reservoir.problems(samples, kept)
        nothing = torch.empty(0, *self._row_shape, dtype=torch.float64, device=counters.device)
        rows = torch.cat([nothing, *(p.to(counters.device) for p in samples)])
        rows = rows.view(-1, self.num_outputs, self.x_dim + self.y_dim)
        # With several outputs a pair that one of them ignored is NaN.
        finite, ignored = rows.isfinite().all(2), rows.isnan().all(2) & (self.num_outputs > 1)
        if bool((finite | ignored).all() & (finite.sum(0) == kept).all()):
            return []
        return [
            f"impossible values in samples: expected {kept.tolist()} of finite numbers, as the "
            f"counters say, but got {finite.sum(0).tolist()} and {int((~finite).sum())} others. "
            "The checkpoint was changed or damaged"
        ]


def _check_scalars(x: Any, y: Any) -> None:
    """Say what vectors need, where shapes show that they are some."""
    for name, v, other in (("x", x, y), ("y", y, x)):
        if not (
            isinstance(v, Tensor) and isinstance(other, Tensor) and v.ndim == 2 and v.shape[1] > 1
        ):
            continue
        if other.ndim in (1, 2) and len(other) == len(v) and other.shape[1:] != v.shape[1:]:
            raise shapes_differ(
                x, y, f"If `{name}` holds vectors, build the metric with {name}_dim={v.shape[1]}."
            )


def _pooled(x: Any, y: Any) -> str | None:
    """Say that a narrow matrix, which looks like one of vectors, is taken for scalars."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim == 2 == y.ndim):
        return None
    number, dim = x.shape
    if x.shape != y.shape or not 2 <= dim <= MOST_COORDINATES or number < 4 * dim:
        return None
    return (
        f"`x` and `y` of shape ({number}, {dim}) are pooled, {number * dim} pairs of scalars. If "
        f"their rows are vectors, build the metric with x_dim={dim}, y_dim={dim}; for scalars pass "
        "x.flatten(), y.flatten()."
    )


def _check_shapes(
    num_outputs: int, max_samples: int | None, x_dim: int, y_dim: int, discrete_y: bool
) -> None:
    """Refuse what a metric can't hold."""
    if num_outputs > 1 and (x_dim, y_dim) != (1, 1):
        raise ValueError(
            f"`num_outputs={num_outputs}` evaluates pairs of scalars and excludes vectors, but "
            f"got x_dim={x_dim} and y_dim={y_dim}. Use one metric per pair of vectors."
        )
    if discrete_y and y_dim != 1:
        raise ValueError(
            "`discrete_y=True` takes one class label per sample and needs y_dim=1, but got "
            f"{y_dim}. Encode combinations of labels as one."
        )
    rows = num_outputs * (max_samples or 1)
    check_cells(
        f"{num_outputs=}, {max_samples=} with {x_dim=}, {y_dim=}",
        rows * (1 + x_dim + y_dim),
        MAX_NUMBERS,
    )
