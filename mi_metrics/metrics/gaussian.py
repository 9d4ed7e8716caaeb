"""Mutual information of jointly Gaussian vectors, as a metric that keeps their moments."""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.gaussian import canonical_information, doubts
from mi_metrics.functional.options import (
    GAUSSIAN_CORRECTIONS,
    UNITS,
    GaussianCorrection,
    NanStrategy,
    Unit,
    check_cells,
    check_choice,
    check_integer,
    from_nats,
)
from mi_metrics.metrics.base import IGNORED, SEEN, MutualInformationMetric, keywords
from mi_metrics.states import moments as states


class GaussianMutualInformation(MutualInformationMetric):
    r"""Estimate the mutual information of jointly Gaussian vectors, in nats or bits.

    What is computed, the formula, its bias and what it can't see:
    :func:`mi_metrics.functional.gaussian_mutual_information`. Here the moments are the state, of a
    size that depends on the dimensions alone.

    Conventions:
        Exact under splits and ranks: the products to 1e-12 of their diagonal, wherever the data
        lie, the value to 1e-12 (or 1e-12 of itself) times the condition of the correlations; to the
        same the value of the function on all samples.
        Normal scores of ranks (the function's ``copula=True``) need all samples at once: no option
        here.
        At most d_x + d_y samples: NaN, with a warning of kind ``"too few"``. ``compute`` never
        raises.
        State: ``moments``, float64 ``(d + 4, d)`` for d = d_x + d_y; ``header`` and ``counters``.
        Memory: the state, and two copies of a batch in float64.
        Gradient: none; use :class:`mi_metrics.GaussianMutualInformationLoss` to train.

    As input to ``forward`` and ``update`` the metric accepts:
        x: ``(N, x_dim)``; with ``x_dim=1`` also ``(N,)``.
        y: Paired with ``x`` by position: ``(N, y_dim)``; with ``y_dim=1`` also ``(N,)``.

    As output of ``forward`` and ``compute`` the metric returns:
        float64 scalar.

    Args:
        x_dim: Dimension of the variable x.
        y_dim: Dimension of the variable y.
        bias_correction: ``"analytic"`` or ``"none"``.
        unit: ``"nats"`` or ``"bits"``.
        nan_strategy: What to do with NaN and infinite samples: ``"error"``, or ``"ignore"``: the
            sample is dropped and counted.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown or out of its range.

    Example:
        >>> import torch
        >>> from mi_metrics import GaussianMutualInformation
        >>> generator = torch.Generator().manual_seed(0)
        >>> metric = GaussianMutualInformation(x_dim=25, y_dim=25)
        >>> for _ in range(10):
        ...     x, noise = torch.randn(2, 500, 25, generator=generator)
        ...     metric.update(x, 0.6 * x + 0.8 * noise)  # truth: 25 · 0.2231 = 5.58 nats
        >>> print(f"{metric.compute():.2f}")
        5.66

    References:
        T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance"
        (1983), doi:10.1080/00031305.1983.10483115.
    """

    moments: Tensor

    @keywords
    def __init__(
        self,
        *,
        x_dim: int = 1,
        y_dim: int = 1,
        bias_correction: GaussianCorrection = "analytic",
        unit: Unit = "nats",
        nan_strategy: NanStrategy = "error",
        **kwargs: Any,
    ) -> None:
        x_dim, y_dim = check_integer("x_dim", x_dim, 1), check_integer("y_dim", y_dim, 1)
        check_choice("bias_correction", bias_correction, GAUSSIAN_CORRECTIONS)
        check_choice("unit", unit, UNITS)
        dim = x_dim + y_dim
        check_cells(f"{x_dim=}, {y_dim=}", dim * (dim + states.HEAD))
        super().__init__(
            {"state": "moments", "x_dim": x_dim, "y_dim": y_dim},
            num_outputs=1,
            nan_strategy=nan_strategy,
            **kwargs,
        )
        self.x_dim, self.y_dim = x_dim, y_dim
        self.bias_correction, self.unit = bias_correction, unit
        self.add_state("moments", states.empty(dim), states.fold)

    def update(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch of paired samples.

        Args:
            x: Samples of any real dtype, ``(N, x_dim)``.
            y: Samples paired with ``x`` by position, ``(N, y_dim)``.
            mask: bool ``(N,)``; False leaves a sample out, whatever it holds.

        Raises:
            TypeError: If x or y is not a real tensor, or the mask is not bool.
            ValueError: If shapes or devices differ, there is no sample, or with
                ``nan_strategy="error"`` a sample is NaN or infinite. The state is left as it was.
        """
        batch = self._vectors((("x", x, self.x_dim), ("y", y, self.y_dim)), mask)
        if batch is None:
            return
        rows, samples = batch
        counters = self._count(samples)
        if samples.valid is not None:
            rows = rows[samples.valid[0]]
        if len(rows):
            self.moments = states.add(self.moments, rows)
        self.counters = counters

    def compute(self) -> Tensor:
        """Return the mutual information of all samples since the last reset, of all ranks."""
        self._warn_once("no samples", self._without_samples())
        found = states.unpack(self.moments)
        n, dim = int(self.counters[SEEN] - self.counters[IGNORED]), self.x_dim + self.y_dim
        if n <= dim:
            if n:
                self._warn_once(
                    "too few",
                    f"{type(self).__name__} needs more than x_dim + y_dim = {dim} valid samples, "
                    f"but has {n}, so its value is NaN. Update it with more samples, or use fewer "
                    "coordinates.",
                )
            return torch.full_like(found.number, torch.nan)
        estimate = canonical_information(
            found.products, n, self.x_dim, bias_correction=self.bias_correction
        )
        for kind, message in doubts(estimate):
            self._warn_once(kind, message)
        # Not -0.0 for a constant variable.
        return from_nats(estimate.value + 0.0, self.unit)

    def _impossible(self, states_: dict[str, Any]) -> list[str]:
        if problems := super()._impossible(states_):
            return problems
        counters = states_["counters"]
        return states.problems(states_["moments"], counters[SEEN] - counters[IGNORED])
