"""Disentanglement scores of latents against factors, as a metric."""

from typing import Any

from torch import Tensor

from mi_metrics.functional.gap import check_factors, gap_and_doubts
from mi_metrics.functional.options import (
    GAP_KINDS,
    Binning,
    GapKind,
    NanStrategy,
    NumBins,
    TableCorrection,
    ValueRange,
    check_choice,
)
from mi_metrics.functional.tables import views
from mi_metrics.metrics.base import keywords
from mi_metrics.metrics.matrix import ColumnsMetric


class MutualInformationGap(ColumnsMetric):
    r"""Compute how well each factor of variation is encoded in one latent of its own
    (dimensionless, 0 … 1).

    .. math::
        \text{MIG} = \frac1F \sum_f \frac{\max_l I_{lf} - \max^{(2)}_l I_{lf}}{H_f}

    The other kinds and all conventions: :func:`mi_metrics.functional.mutual_information_gap`. The
    entropies are those of the factors' bins.

    Conventions:
        Discretiser: scores depend on it. By default latents have 20 bins of equal width over their
        range, and factors of at most 20 values a bin for each, as published scores mostly have it.
        For factors of more values give ``num_bins=(20, their number)``: they would share bins.
        Exact under splits and ranks: bit for bit. To 1e-12 the score of all samples' own table with
        a given range, or where each latent has at most ``resolution`` values; with an unknown range
        the edges of bins snap to a grid of ``resolution`` / 2 to ``resolution`` cells.
        A collection holds one state for this metric in all kinds and a
        :class:`mi_metrics.MutualInformationMatrix` of the same columns, ``resolution`` and
        ``nan_strategy`` (with a given range: and ``num_bins``).
        Cautions: "constant" (factors that are left out), and those of the matrix.
        No samples: NaN, with a warning. ``compute`` never raises.
        State, memory, gradient: as :class:`mi_metrics.MutualInformationMatrix`.

    As input to ``forward`` and ``update`` the metric accepts:
        x: Latents of any real dtype, ``(N, num_latents)``: means of the posterior, usually.
        y: Factors of the same samples, ``(N, num_factors)``, for example int64.

    As output of ``forward`` and ``compute`` the metric returns:
        float64, a scalar.

    Args:
        num_latents: Number of latents.
        num_factors: Number of factors.
        kind: ``"mig"``, ``"mig_sup"`` or ``"modularity"``.
        bias_correction: ``"auto"``, ``"none"``, ``"miller_madow"`` or ``"grassberger"``; published
            scores have none.
        num_bins: Bins of latents and factors, ``(B_x, B_y)``, or ``"auto"``.
        value_range: ``None``, ``(lo, hi)`` or ``((x_lo, x_hi), (y_lo, y_hi))``.
        binning: ``"auto"``, ``"uniform"``, ``"quantile"`` or ``"values"``, or a pair of them.
        nan_strategy: ``"error"`` or ``"ignore"``.
        resolution: The most cells per column of an unknown range, at least 2.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is unknown, out of its range or excludes another, modularity is
            asked of one factor, or the state would be too large.

    Example:
        >>> import torch
        >>> from mi_metrics import MutualInformationGap
        >>> generator = torch.Generator().manual_seed(0)
        >>> metric = MutualInformationGap(num_latents=3, num_factors=2)
        >>> factors = torch.randint(0, 4, (5_000, 2), generator=generator)
        >>> noise = torch.randn(5_000, 3, generator=generator)
        >>> latents = factors[:, [0, 1, 0]] + torch.tensor([0.1, 0.1, 0.5]) * noise
        >>> metric.update(latents, factors)  # The third latent repeats half of the first.
        >>> print(f"{metric.compute():.3f}")
        0.700

    References:
        R. T. Q. Chen, X. Li, R. Grosse, D. Duvenaud, "Isolating sources of disentanglement in
        variational autoencoders" (2018), arXiv:1802.04942.
        Z. Li, J. V. Murkute, P. K. Gyawali, L. Wang, "Progressive learning and disentanglement of
        hierarchical representations" (2020), arXiv:2002.10549.
        K. Ridgeway, M. C. Mozer, "Learning deep disentangled embeddings with the F-statistic loss"
        (2018), arXiv:1802.05312.
    """

    @keywords
    def __init__(
        self,
        num_latents: int,
        num_factors: int,
        *,
        kind: GapKind = "mig",
        bias_correction: TableCorrection = "none",
        num_bins: NumBins = 20,
        value_range: ValueRange = None,
        binning: Binning = "auto",
        nan_strategy: NanStrategy = "error",
        resolution: int = 64,
        **kwargs: Any,
    ) -> None:
        check_choice("kind", kind, GAP_KINDS)
        options = views.parse(
            num_bins,
            value_range,
            binning,
            0.0,
            0.0,
            "hard",
            bias_correction=bias_correction,
        )
        super().__init__(
            {"num_latents": num_latents, "num_factors": num_factors},
            options,
            binning,
            resolution,
            nan_strategy,
            **kwargs,
        )
        self.num_latents, self.num_factors = self._layout.columns
        check_factors(kind, self.num_factors)
        self.kind = kind

    def compute(self) -> Tensor:
        """Return the score of all samples since the last reset, of all ranks."""
        value, doubts = gap_and_doubts(self._matrix(), self.entropies()[1], self.kind)
        for doubt in doubts:
            self._warn_once("constant", doubt)
        return value
