"""What kept samples say beside an estimate from nearest neighbours: p-value and verdict."""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.knn_permutations import rows_p_value
from mi_metrics.functional.options import (
    Standardize,
    Unit,
    check_repetitions,
    check_seed,
    hints_keywords,
)
from mi_metrics.functional.reliability import (
    Reliability,
    check_parts,
    collected,
    doubt,
    rows_reliability,
)
from mi_metrics.metrics.base import MutualInformationMetric


class NeighborInference(MutualInformationMetric):
    """A metric that keeps samples of two variables, with what these say of its value."""

    n_neighbors: int
    x_dim: int
    algorithm: str
    discrete_y: bool
    standardize: Standardize
    unit: Unit

    def rows(self) -> list[Tensor]:
        """Return the samples that are kept of each output, float64 ``(n, x_dim + y_dim)``."""
        raise NotImplementedError

    @hints_keywords
    def p_value(self, *, num_permutations: int = 199, seed: int = 0) -> Tensor:
        """Return the p-value of a test of independence, float64 of the shape of ``compute()``: the
        value among those of permuted samples.

        That of :func:`mi_metrics.functional.knn_p_value`, on the samples that are kept: it takes as
        long as so many values. Samples that depend on each other (pixels, time series) make it too
        small. NaN where the value is.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for that of all, which is
        the same on each of them.

        Args:
            num_permutations: How many permutations, from 1 to 10**8.
            seed: Their seed.

        Raises:
            TypeError: If an option has the wrong type.
            ValueError: If an option is out of its range.
        """
        self._check_has_values()
        repeats: dict[str, Any] = {
            "num_permutations": check_repetitions("num_permutations", num_permutations),
            "seed": check_seed(seed),
        }
        found = [
            rows_p_value(r, self.x_dim, self.n_neighbors, **repeats, **self._options)
            for r in self.rows()
        ]
        value = torch.tensor(found, dtype=torch.float64, device=self.counters.device)
        return value.squeeze(0) if self.num_outputs == 1 else value

    @hints_keywords
    def reliability(self, *, parts: int = 8, seed: int = 0) -> Reliability:
        """Judge the value, in the metric's unit: tensors of the shape of ``compute()``.

        What :func:`mi_metrics.functional.knn_reliability` returns for the samples that are kept:
        value, standard error, drift with the number of samples, a lower bound by other means, and
        whether the value is reliable. With at most ``n_neighbors`` samples in a part it is not, and
        all but the value is NaN.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for that of all, which is
        the same on each of them.

        Args:
            parts: Number of the finest parts, a power of 2.
            seed: Seed of the random parts.

        Raises:
            TypeError: If an option has the wrong type.
            ValueError: If an option is out of its range.
        """
        self._check_has_values()
        parts, seed = check_parts(parts), check_seed(seed)
        found = [
            rows_reliability(
                r, self.x_dim, self.n_neighbors, parts=parts, seed=seed, **self._options
            )
            for r in self.rows()
        ]
        leading = torch.Size([] if self.num_outputs == 1 else [self.num_outputs])
        return collected(found, leading, self.unit, self.counters.device)

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm,
            "discrete_y": self.discrete_y,
            "standardize": self.standardize,
        }

    def _unreliable(self, rows: Tensor, value: Tensor) -> str | None:
        """Say why the value of samples, in nats, is unreliable, if it is."""
        verdict = rows_reliability(rows, self.x_dim, self.n_neighbors, value=value, **self._options)
        return doubt(verdict, type(self).__name__)
