"""Mutual information from nearest neighbours, as a metric that keeps samples."""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.knn import (
    check_standardize,
    rows_doubts,
    rows_estimate,
    sets_estimates,
)
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
from mi_metrics.functional.tensors import check_tensor, on_cpu, shapes_differ
from mi_metrics.metrics.base import IGNORED, SEEN, Samples, keywords
from mi_metrics.metrics.neighbor_inference import NeighborInference
from mi_metrics.metrics.samples import MAX_NUMBERS, SampleMetric
from mi_metrics.states.header import Value

# A matrix of so few columns may be one of vectors.
MOST_COORDINATES = 64


class KNNMutualInformation(SampleMetric, NeighborInference):
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
        check: Judge the value by :meth:`reliability` in ``compute``, which takes 6 to 12 times as
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

    # Metrics that were pickled by version 0.1.0 have none.
    check: bool = False

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
        self.check, self.unit = check, unit
        self._keep_rows(x_dim + y_dim, max_samples)

    def update(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> None:
        """Keep a batch of paired samples.

        Args:
            x: Samples of any real dtype; shapes as said in the class.
            y: Samples paired with ``x`` by position; with ``discrete_y`` integers or bool; with
                several outputs ``(N, 1, ...)`` is paired with each.
            mask: bool of the shape of ``x``, or of one that broadcasts to it, of vectors
                ``(N,)``; False leaves a sample out, whatever it holds.

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
        self._add(*batch)

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
        values, doubted = self._values(rows)
        if not self._in_forward:
            self._warn_once("copies", self._padding(rows))
            for place, (r, value) in enumerate(zip(rows, values, strict=True)):
                self._warn_of(r, value, doubtful=place in doubted)
        if fewest > self.n_neighbors and any(bool(value.isnan()) for value in values):
            self._warn_once(
                "too few",
                f"Every label of {type(self).__name__} occurs once, so its value is NaN. Classes "
                "need two members; if `y` holds numbers and not classes, pass discrete_y=False.",
            )
        value = from_nats(torch.stack(values), self.unit)
        return value.squeeze(0) if self.num_outputs == 1 else value

    def _values(self, rows: list[Tensor]) -> tuple[list[Tensor], list[int]]:
        """Return the value of each output in nats, and which of them may be doubtful."""
        how: Any = (self.x_dim, self.n_neighbors)
        # On the CPU a table of all outputs would be of no use.
        if len({len(r) for r in rows}) == 1 and not on_cpu(rows[0]):
            values, doubted = sets_estimates(torch.stack(rows), *how, **self._options)
            return list(values), doubted
        each = [rows_estimate(r, *how, **self._options) for r in rows]
        return [e.value for e in each], [place for place, e in enumerate(each) if e.doubtful]

    def _warn_of(self, rows: Tensor, value: Tensor, *, doubtful: bool) -> None:
        """Warn of what the samples of an output leave in doubt about its value, in nats."""
        options: dict[str, Any] = {
            "discrete_y": self.discrete_y,
            "standardize": self.standardize,
        }
        how: Any = (self.x_dim, self.n_neighbors, value)
        found = rows_doubts(rows, *how, **options) if doubtful else {}
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
