"""Tensors in, tensors out: estimators of mutual information without state."""

from mi_metrics.functional.binned import binned_joint, binned_mutual_information
from mi_metrics.functional.information import (
    entropies,
    independence_p_value,
    mutual_information,
    standard_error,
)

__all__ = [
    "binned_joint",
    "binned_mutual_information",
    "entropies",
    "independence_p_value",
    "mutual_information",
    "standard_error",
]
