"""Trainings on real data: what `mi-metrics fit --config NAME` runs."""

from mi_metrics.functional.options import require

require("lightning", "lightning", "Examples")

from mi_metrics.examples.autoencoder import DigitsAutoencoder  # noqa: E402
from mi_metrics.examples.classifier import DigitsClassifier  # noqa: E402
from mi_metrics.examples.digits import DigitsDataModule  # noqa: E402
from mi_metrics.examples.disentanglement import BetaVAE, MovedDigitsDataModule  # noqa: E402
from mi_metrics.examples.fairness import DiabetesDataModule, FairRegression  # noqa: E402
from mi_metrics.examples.hidden_label import LabelFreeAutoencoder  # noqa: E402
from mi_metrics.examples.registration import AffineRegistration, RegistrationReport  # noqa: E402
from mi_metrics.examples.stains import StainsDataModule  # noqa: E402

__all__ = [
    "AffineRegistration",
    "BetaVAE",
    "DiabetesDataModule",
    "DigitsAutoencoder",
    "DigitsClassifier",
    "DigitsDataModule",
    "FairRegression",
    "LabelFreeAutoencoder",
    "MovedDigitsDataModule",
    "RegistrationReport",
    "StainsDataModule",
]
