"""Conditional mutual information from nearest neighbours, as a metric that keeps samples."""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.knn import check_standardize
from mi_metrics.functional.knn_conditional import triples_doubts, triples_information
from mi_metrics.functional.knn_permutations import triples_p_value
from mi_metrics.functional.options import (
    UNITS,
    NanStrategy,
    Standardize,
    Unit,
    check_cells,
    check_choice,
    check_integer,
    check_repetitions,
    check_seed,
    from_nats,
    hints_keywords,
)
from mi_metrics.metrics.base import IGNORED, SEEN, keywords
from mi_metrics.metrics.samples import MAX_NUMBERS, SampleMetric
from mi_metrics.states.header import Value


class KNNConditionalMutualInformation(SampleMetric):
    r"""Estimate the mutual information of x and y that z does not explain, from nearest neighbours,
    in nats or bits.

    What is computed, the formula and its conventions:
    :func:`mi_metrics.functional.knn_conditional_mutual_information`. Here the samples are the
    state, all of them or a bounded number.

    Conventions:
        Exact under splits and ranks: bit for bit, in any order, and with ``max_samples=None`` equal
        to the functional call on all samples. ``max_samples=M`` keeps all samples up to M, and of
        more a uniform sample, as :class:`mi_metrics.KNNMutualInformation` does.
        Repeated samples are neighbours at distance 0, and ``compute`` warns of them as there.
        At most ``n_neighbors`` samples: NaN, with a warning. ``compute`` never raises.
        State: ``samples``; with ``max_samples=None`` a list of float64 ``(n, x_dim + y_dim +
        z_dim)``, else int64 ``(1, 1 + max_samples, 1 + x_dim + y_dim + z_dim)``; ``header`` and
        ``counters``.
        Memory: 8 (x_dim + y_dim + z_dim) bytes per sample with ``max_samples=None``; pass
        ``compute_on_cpu=True`` to keep it off the GPU.
        Gradient: none.

    As input to ``forward`` and ``update`` the metric accepts:
        x: With ``x_dim = y_dim = z_dim = 1`` of any shape, all elements pooled; else ``(N,
            x_dim)``, where ``(N,)`` is read as ``(N, 1)``.
        y: Paired with ``x`` by position: of the same shape, or ``(N, y_dim)``.
        z: What is known of each: of the same shape, or ``(N, z_dim)``.

    As output of ``forward`` and ``compute`` the metric returns:
        float64 scalar.

    Args:
        n_neighbors: k, at least 1.
        x_dim: Dimension of the variable x.
        y_dim: Dimension of the variable y.
        z_dim: Dimension of the variable z.
        standardize: True, False, ``"rank"`` or ``"joint"``, as in the function.
        max_samples: The most samples to keep, or None for all.
        unit: ``"nats"`` or ``"bits"``.
        nan_strategy: What to do with NaN and infinite samples: ``"error"``, or ``"ignore"``: the
            sample is dropped and counted.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of its range.

    Example:
        >>> import torch
        >>> from mi_metrics import KNNConditionalMutualInformation
        >>> generator = torch.Generator().manual_seed(0)
        >>> metric = KNNConditionalMutualInformation(z_dim=2)
        >>> for _ in range(10):
        ...     z = torch.randn(300, 2, generator=generator)
        ...     x, noise = torch.randn(2, 300, generator=generator)
        ...     y = 0.6 * x + 0.8 * noise  # truth: 0.2231 nats
        ...     metric.update(x + z[:, 0], y + z[:, 1], z)
        >>> print(f"{metric.compute():.2f}")
        0.22

    References:
        S. Frenzel, B. Pompe, "Partial mutual information for coupling analysis of multivariate time
        series" (2007), doi:10.1103/PhysRevLett.99.204101.
    """

    @keywords
    def __init__(
        self,
        n_neighbors: int = 3,
        *,
        x_dim: int = 1,
        y_dim: int = 1,
        z_dim: int = 1,
        standardize: Standardize = True,
        max_samples: int | None = None,
        unit: Unit = "nats",
        nan_strategy: NanStrategy = "error",
        **kwargs: Any,
    ) -> None:
        n_neighbors = check_integer("n_neighbors", n_neighbors, 1)
        x_dim, y_dim = check_integer("x_dim", x_dim, 1), check_integer("y_dim", y_dim, 1)
        z_dim = check_integer("z_dim", z_dim, 1)
        check_choice("unit", unit, UNITS)
        check_standardize(standardize)
        if max_samples is not None:
            max_samples = check_integer("max_samples", max_samples, n_neighbors + 1)
        dim = x_dim + y_dim + z_dim
        check_cells(
            f"{max_samples=} with {x_dim=}, {y_dim=}, {z_dim=}",
            (max_samples or 1) * (1 + dim),
            MAX_NUMBERS,
        )
        configuration: dict[str, Value] = {
            "state": "samples",
            "x_dim": x_dim,
            "y_dim": y_dim,
            "z_dim": z_dim,
            "max_samples": max_samples,
        }
        super().__init__(configuration, num_outputs=1, nan_strategy=nan_strategy, **kwargs)
        self.n_neighbors, self.standardize, self.unit = n_neighbors, standardize, unit
        self.x_dim, self.y_dim, self.z_dim = x_dim, y_dim, z_dim
        self._keep_rows(dim, max_samples)

    def update(self, x: Tensor, y: Tensor, z: Tensor, mask: Tensor | None = None) -> None:
        """Keep a batch of samples.

        Args:
            x: Samples of any real dtype; shapes as said in the class.
            y: Samples paired with ``x`` by position.
            z: What is known of each.
            mask: bool of the shape of scalars, of vectors ``(N,)``; False leaves a sample out,
                whatever it holds.

        Raises:
            TypeError: If x, y or z is not a real tensor, or the mask is not bool.
            ValueError: If shapes or devices differ, there is no sample, or with
                ``nan_strategy="error"`` a sample is NaN or infinite. The state is left as it was.
        """
        if self._dims == (1, 1, 1):
            x, y, z, mask = _scalars(x, y, z, mask)
        variables = (("x", x, self.x_dim), ("y", y, self.y_dim), ("z", z, self.z_dim))
        batch = self._vectors(variables, mask)
        if batch is not None:
            self._add(*batch)

    def compute(self) -> Tensor:
        """Return the conditional mutual information of all samples since the last reset, of all
        ranks.
        """
        (rows,) = self.rows()
        used = int(self.counters[SEEN] - self.counters[IGNORED])
        self._warn_once("no samples", self._without_samples())
        if 0 < used <= self.n_neighbors:
            self._warn_once(
                "too few",
                f"{type(self).__name__} needs more than n_neighbors={self.n_neighbors} valid "
                f"samples, but has {used}, so its value is NaN. Update it with more samples, or "
                "lower `n_neighbors`.",
            )
        value = triples_information(rows, self._dims, self.n_neighbors, **self._options)
        if not self._in_forward:
            self._warn_once("copies", self._padding([rows]))
            found = triples_doubts(rows, self._dims, self.n_neighbors, value, **self._options)
            for kind, message in found.items():
                self._warn_once(kind, message)
        return from_nats(value, self.unit)

    @hints_keywords
    def p_value(self, *, num_permutations: int = 199, seed: int = 0) -> Tensor:
        """Return the p-value of a test of conditional independence, a float64 scalar: the value
        among those of samples whose x is permuted where z is about the same.

        That of :func:`mi_metrics.functional.knn_p_value` with ``z``, on the samples that are kept:
        it takes as long as so many values. NaN where the value is. Of this rank alone; enter
        ``metric.sync_context()`` on every rank for that of all, which is the same on each of them.

        Args:
            num_permutations: How many permutations, from 1 to 10**8.
            seed: Their seed.

        Raises:
            TypeError: If an option has the wrong type.
            ValueError: If an option is out of its range.
        """
        self._check_has_values()
        p = triples_p_value(
            self.rows()[0],
            self._dims,
            self.n_neighbors,
            num_permutations=check_repetitions("num_permutations", num_permutations),
            seed=check_seed(seed),
            **self._options,
        )
        return torch.tensor(p, dtype=torch.float64, device=self.counters.device)

    @property
    def _dims(self) -> tuple[int, int, int]:
        return self.x_dim, self.y_dim, self.z_dim

    @property
    def _options(self) -> dict[str, Any]:
        return {"standardize": self.standardize}


def _scalars(x: Any, y: Any, z: Any, mask: Any) -> tuple[Any, Any, Any, Any]:
    """Return scalars of one shape as ``(N,)``, and anything else as it is."""
    values = (x, y, z) if mask is None else (x, y, z, mask)
    if not all(isinstance(v, Tensor) and v.shape == x.shape for v in values):
        return x, y, z, mask
    if any(v.layout != torch.strided for v in values):
        return x, y, z, mask
    return x.flatten(), y.flatten(), z.flatten(), None if mask is None else mask.flatten()
