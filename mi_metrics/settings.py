"""The recommended estimators: name, title and arguments of each, once for all that shows or runs
them (the commands, their figures, the README's tables, the benchmarks).

Names and titles are there without PyTorch, which the first call imports.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric


@dataclass(frozen=True)
class Estimator:
    """An estimator with the arguments that its documentation recommends.

    Args:
        title: What figures and tables call it.
        function_name: The function of samples, in :mod:`mi_metrics.functional`.
        metric_name: The metric that gives the same values, in :mod:`mi_metrics`.
        arguments: What both get beyond their defaults.
        vectors: Whether the function takes the last dimension for that of the variables.
    """

    title: str
    function_name: str
    metric_name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    vectors: bool = False

    @property
    def function(self) -> "Callable[..., Tensor]":
        """The function of samples."""
        found: Callable[..., Tensor] = getattr(
            import_module("mi_metrics.functional"), self.function_name
        )
        return found

    @property
    def metric_class(self) -> "type[Metric]":
        """The metric that gives the same values."""
        found: type[Metric] = getattr(import_module("mi_metrics"), self.metric_name)
        return found

    def __call__(self, x: "Tensor", y: "Tensor") -> "Tensor":
        """Return the estimates ``(draws,)`` in nats from samples ``(draws, N)``."""
        if self.vectors:
            x, y = x.unsqueeze(-1), y.unsqueeze(-1)
        return self.function(x, y, **self.arguments)

    def metric(self, **options: Any) -> "Metric":
        """Return a new metric, with further options of its class."""
        return self.metric_class(**self.arguments, **options)


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        "bins": Estimator("bins", "binned_mutual_information", "BinnedMutualInformation"),
        "kde": Estimator("kernel densities", "kde_mutual_information", "KDEMutualInformation"),
        "knn": Estimator(
            "nearest neighbours", "knn_mutual_information", "KNNMutualInformation", vectors=True
        ),
    }
)

# Names of 0.1.0 that commands still take: quantile bins are what `bins` chooses by itself.
FORMER_NAMES: Mapping[str, str] = MappingProxyType({"quantile-bins": "bins"})


def present_name(name: str) -> str:
    """Return what an estimator is called now."""
    return FORMER_NAMES.get(name, name)
