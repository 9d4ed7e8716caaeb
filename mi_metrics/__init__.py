"""Mutual information for PyTorch: metrics whose state adds up, a functional API and differentiable
losses.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mi_metrics import moved as _moved

if TYPE_CHECKING:
    from mi_metrics.functional.cautions import MutualInformationWarning
    from mi_metrics.gaussian_losses import (
        GaussianMutualInformationLoss,
        GaussianMutualInformationPenalty,
    )
    from mi_metrics.losses import (
        KDEMutualInformationLoss,
        MutualInformationLoss,
        MutualInformationPenalty,
    )
    from mi_metrics.metrics.binned import BinnedMutualInformation
    from mi_metrics.metrics.conditional import BinnedConditionalMutualInformation
    from mi_metrics.metrics.gap import MutualInformationGap
    from mi_metrics.metrics.gaussian import GaussianMutualInformation
    from mi_metrics.metrics.kde import KDEMutualInformation
    from mi_metrics.metrics.knn import KNNMutualInformation
    from mi_metrics.metrics.knn_conditional import KNNConditionalMutualInformation
    from mi_metrics.metrics.matrix import MutualInformationMatrix
    from mi_metrics.sampler import UnpaddedDistributedSampler

    __version__: str

__all__ = [
    "BinnedConditionalMutualInformation",
    "BinnedMutualInformation",
    "GaussianMutualInformation",
    "GaussianMutualInformationLoss",
    "GaussianMutualInformationPenalty",
    "KDEMutualInformation",
    "KDEMutualInformationLoss",
    "KNNConditionalMutualInformation",
    "KNNMutualInformation",
    "MutualInformationGap",
    "MutualInformationLoss",
    "MutualInformationMatrix",
    "MutualInformationPenalty",
    "MutualInformationWarning",
    "UnpaddedDistributedSampler",
]

# Imported when it is asked for, so that `mi-metrics --help` and a part of the package do not wait
# for the rest.
_HOMES = {
    "BinnedConditionalMutualInformation": "metrics.conditional",
    "BinnedMutualInformation": "metrics.binned",
    "GaussianMutualInformation": "metrics.gaussian",
    "GaussianMutualInformationLoss": "gaussian_losses",
    "GaussianMutualInformationPenalty": "gaussian_losses",
    "KDEMutualInformation": "metrics.kde",
    "KDEMutualInformationLoss": "losses",
    "KNNConditionalMutualInformation": "metrics.knn_conditional",
    "KNNMutualInformation": "metrics.knn",
    "MutualInformationGap": "metrics.gap",
    "MutualInformationLoss": "losses",
    "MutualInformationMatrix": "metrics.matrix",
    "MutualInformationPenalty": "losses",
    "MutualInformationWarning": "functional.cautions",
    "UnpaddedDistributedSampler": "sampler",
}
_MODULES = ("distributions", "functional", "losses", "metrics", "plotting", "sampler")

_moved.install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("mi-metrics")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES, "__version__"})
