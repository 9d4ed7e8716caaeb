"""Trainings on real data: what `mi-metrics fit --config NAME` runs."""

try:
    from mi_metrics.examples.autoencoder import DigitsAutoencoder
    from mi_metrics.examples.digits import DigitsDataModule
    from mi_metrics.examples.fairness import DiabetesDataModule, FairRegression
    from mi_metrics.examples.hidden_label import LabelFreeAutoencoder
    from mi_metrics.examples.registration import AffineRegistration, RegistrationReport
    from mi_metrics.examples.stains import StainsDataModule
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "lightning":
        raise
    raise ModuleNotFoundError(
        'mi_metrics.examples needs Lightning. Install it with: pip install "mi-metrics[lightning]"',
        name=error.name,
    ) from error

__all__ = [
    "AffineRegistration",
    "DiabetesDataModule",
    "DigitsAutoencoder",
    "DigitsDataModule",
    "FairRegression",
    "LabelFreeAutoencoder",
    "RegistrationReport",
    "StainsDataModule",
]
