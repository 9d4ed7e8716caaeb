"""The recommended estimators: name, title and arguments of each, once for all that shows or runs
them (the commands, their figures, the README's tables, the benchmarks).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from mi_metrics.functional import (
    binned_mutual_information,
    kde_mutual_information,
    knn_mutual_information,
)
from mi_metrics.metrics.binned import BinnedMutualInformation
from mi_metrics.metrics.kde import KDEMutualInformation
from mi_metrics.metrics.knn import KNNMutualInformation


@dataclass(frozen=True)
class Estimator:
    """An estimator with the arguments that its documentation recommends.

    Args:
        title: What figures and tables call it.
        function: The function of samples.
        metric_class: The metric that gives the same values.
        arguments: What both get beyond their defaults.
        vectors: Whether the function takes the last dimension for that of the variables.
    """

    title: str
    function: Callable[..., Tensor]
    metric_class: type[Metric]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    vectors: bool = False

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the estimates ``(draws,)`` in nats from samples ``(draws, N)``."""
        if self.vectors:
            x, y = x.unsqueeze(-1), y.unsqueeze(-1)
        return self.function(x, y, **self.arguments)

    def metric(self, **options: Any) -> Metric:
        """Return a new metric, with further options of its class."""
        return self.metric_class(**self.arguments, **options)


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        "bins": Estimator("bins", binned_mutual_information, BinnedMutualInformation),
        "quantile-bins": Estimator(
            "quantile bins",
            binned_mutual_information,
            BinnedMutualInformation,
            {"binning": "quantile"},
        ),
        "kde": Estimator("kernel densities", kde_mutual_information, KDEMutualInformation),
        "knn": Estimator(
            "nearest neighbours", knn_mutual_information, KNNMutualInformation, vectors=True
        ),
    }
)
