"""Mutual information in Lightning: callbacks, runnable examples and the command line's `fit`, `validate` and `test`.

Needs ``pip install "mi-metrics[lightning]"``. The metrics, losses and samplers themselves work without Lightning.
"""

try:
    from mi_metrics.lightning.autoencoder import DigitsAutoencoder
    from mi_metrics.lightning.callbacks import EpochTable, JointDistributionLogger
    from mi_metrics.lightning.digits import DigitsDataModule
    from mi_metrics.lightning.fairness import DiabetesDataModule, FairRegression
    from mi_metrics.lightning.registration import AffineRegistration, RegistrationReport
    from mi_metrics.lightning.stains import StainsDataModule
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "lightning":
        raise
    raise ModuleNotFoundError(
        'mi_metrics.lightning needs Lightning. Install it with: pip install "mi-metrics[lightning]"', name=error.name
    ) from error

__all__ = [
    "AffineRegistration",
    "DiabetesDataModule",
    "DigitsAutoencoder",
    "DigitsDataModule",
    "EpochTable",
    "FairRegression",
    "JointDistributionLogger",
    "RegistrationReport",
    "StainsDataModule",
]
