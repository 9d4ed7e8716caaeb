"""Mutual information for PyTorch: metrics whose state adds up, a functional API and differentiable
losses.
"""

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
from mi_metrics.metrics.gaussian import GaussianMutualInformation
from mi_metrics.metrics.kde import KDEMutualInformation
from mi_metrics.metrics.knn import KNNMutualInformation
from mi_metrics.sampler import UnpaddedDistributedSampler

__all__ = [
    "BinnedMutualInformation",
    "GaussianMutualInformation",
    "GaussianMutualInformationLoss",
    "GaussianMutualInformationPenalty",
    "KDEMutualInformation",
    "KDEMutualInformationLoss",
    "KNNMutualInformation",
    "MutualInformationLoss",
    "MutualInformationPenalty",
    "MutualInformationWarning",
    "UnpaddedDistributedSampler",
]
