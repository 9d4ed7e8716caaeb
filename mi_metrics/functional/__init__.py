"""Tensors in, tensors out: estimators of mutual information without state."""

from mi_metrics.functional.binned import binned_joint, binned_mutual_information
from mi_metrics.functional.conditional import binned_conditional_mutual_information
from mi_metrics.functional.gap import mutual_information_gap
from mi_metrics.functional.gaussian import gaussian_mutual_information
from mi_metrics.functional.inference import (
    confidence_interval,
    independence_p_value,
    pointwise_mutual_information,
)
from mi_metrics.functional.information import (
    entropies,
    mutual_information,
    standard_error,
)
from mi_metrics.functional.kde import kde_joint, kde_mutual_information
from mi_metrics.functional.knn import knn_mutual_information
from mi_metrics.functional.knn_conditional import knn_conditional_mutual_information
from mi_metrics.functional.knn_permutations import knn_p_value
from mi_metrics.functional.matrix import (
    mutual_information_matrix,
    mutual_information_matrix_p_value,
)
from mi_metrics.functional.reliability import knn_reliability

__all__ = [
    "binned_conditional_mutual_information",
    "binned_joint",
    "binned_mutual_information",
    "confidence_interval",
    "entropies",
    "gaussian_mutual_information",
    "independence_p_value",
    "kde_joint",
    "kde_mutual_information",
    "knn_conditional_mutual_information",
    "knn_mutual_information",
    "knn_p_value",
    "knn_reliability",
    "mutual_information",
    "mutual_information_gap",
    "mutual_information_matrix",
    "mutual_information_matrix_p_value",
    "pointwise_mutual_information",
    "standard_error",
]
