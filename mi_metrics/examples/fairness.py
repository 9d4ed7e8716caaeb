"""Mutual information as a penalty: learn a representation that does not tell an attribute, or tells
no more of it than what is predicted explains.

What it costs and buys is measured by :mod:`mi_metrics.examples.trade_off` and
:mod:`mi_metrics.examples.equalised_odds`.
"""

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Metric, R2Score

from mi_metrics.examples import parts
from mi_metrics.examples.parts import Part
from mi_metrics.functional.options import require
from mi_metrics.losses import MutualInformationPenalty
from mi_metrics.metrics.knn import KNNMutualInformation
from mi_metrics.metrics.knn_conditional import KNNConditionalMutualInformation

Batch = tuple[Tensor, Tensor, Tensor]

# About half of the 442 patients are for evaluation: an estimate of information needs samples.
SIZES: dict[Part, int] = {"train": 221, "val": 88, "test": 133}


class DiabetesDataModule(pl.LightningDataModule):
    """Serve scikit-learn's diabetes data: ten measurements of 442 patients, and how far the disease
    went in a year.

    A batch is ``(features, progression, attribute)``: float32 of shapes ``(N, 10)`` and ``(N,)``,
    standardised by the training part, and int64 0 or 1 of shape ``(N,)``. The attribute, by default
    the patient's sex, is one of the features too: a network that knows it can take its traces out
    of blood pressure and blood fats, one that does not know it cannot.

    Args:
        split_seed: Which patients are trained, validated and tested on: 221, 88 and 133.
        batch_size: Patients per training batch. The penalty is an estimate on the batch, so large
            is good; the default is all of them.
        attribute: Name of the measurement that is the attribute where it is above its median:
            ``"sex"``, or another such as ``"bmi"``, which tells much of the progression.
    """

    def __init__(self, split_seed: int = 0, batch_size: int = 221, attribute: str = "sex") -> None:
        super().__init__()
        self.split_seed = split_seed
        self.batch_size = batch_size
        self.attribute = attribute
        self._parts: dict[Part, TensorDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Load, split and standardise the data.

        Args:
            stage: What is about to run; all parts are loaded for each.
        """
        data = require("sklearn.datasets", "demo", "The diabetes data").load_diabetes()
        values = torch.as_tensor(data.data), torch.as_tensor(data.target)
        if self.attribute not in data.feature_names:
            raise ValueError(
                f"Expected `attribute` to be one of {', '.join(data.feature_names)}, but got "
                f"{self.attribute!r}."
            )
        column = values[0][:, data.feature_names.index(self.attribute)]
        attribute = (column > column.median()).long()
        rows = parts.rows(SIZES, self.split_seed)
        features, progression = (
            ((v - v[rows["train"]].mean(0)) / v[rows["train"]].std(0)).float() for v in values
        )
        self._parts = parts.datasets(rows, features, progression, attribute)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the batches to train on, shuffled; what is left at the end is too few for an
        estimate.
        """
        return DataLoader(self._parts["train"], self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the validation part, in one batch."""
        return DataLoader(self._parts["val"], SIZES["val"])

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the test part, in one batch."""
        return DataLoader(self._parts["test"], SIZES["test"])


class FairRegression(pl.LightningModule):
    """Predict the progression of a disease from a code of the patient that should not tell an
    attribute, such as the patient's sex.

    Encoder, code of some numbers, linear head. The loss is the mean squared error plus
    ``penalty_weight`` times the mean mutual information between a number of the code and the
    attribute, over the patients of the batch. That is demographic parity. With a penalty of K
    conditions it is the information given the progression, in K classes of as many patients: what
    the progression itself tells of the attribute may stay, as equalised odds ask for.

    Logged in validation and test as ``val/…`` and ``test/…``, on patients that were not trained on:

    - ``r2``: share of the progression's variance that is predicted;
    - ``mi``: mutual information between the whole code and the attribute, by nearest neighbours, in
      nats; 0.69 would tell it for certain. An estimate of another kind than the penalty, so that
      what the penalty cannot see is not hidden: numbers of which each tells nothing may tell
      something together;
    - ``odds``: mutual information between the prediction and the attribute given the progression,
      by nearest neighbours: 0 where the odds are equal.

    With so few patients the estimates scatter by some hundredths of a nat around the truth, below 0
    too.

    Args:
        penalty_weight: Weight of the penalty. 0 trains without it.
        penalty: The penalty; its x is the code ``(N, code_dim)``, its y the attribute ``(N, 1)``,
            and with ``num_conditions`` its condition a class of the progression. By default the
            mutual information in 8 by 2 bins.
        code_dim: Numbers that the code consists of.
        hidden_dim: Width of the hidden layer.
        learning_rate: Step size of AdamW.
        weight_decay: Weight decay of AdamW.
    """

    def __init__(
        self,
        penalty_weight: float = 1.0,
        penalty: nn.Module | None = None,
        code_dim: int = 4,
        hidden_dim: int = 32,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["penalty"])
        self.penalty_weight = penalty_weight
        if penalty is None:
            penalty = MutualInformationPenalty(
                (8, 2), pool="batch", value_range=((-3.0, 3.0), (0.0, 1.0))
            )
        self.penalty = penalty
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.encoder = nn.Sequential(
            nn.Linear(10, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, code_dim),
            # The penalty does not depend on the scale of the code, and its bins need a known one.
            nn.BatchNorm1d(code_dim, affine=False),
        )
        self.head = nn.Linear(code_dim, 1)
        mi = KNNMutualInformation(5, x_dim=code_dim, discrete_y=True)
        self.val_r2, self.test_r2 = R2Score(), R2Score()
        self.val_mi, self.test_mi = mi.clone(), mi.clone()
        odds = KNNConditionalMutualInformation(5)
        self.val_odds, self.test_odds = odds.clone(), odds.clone()

    def setup(self, stage: str) -> None:
        """Refuse several processes: each would train on, and evaluate, all of the few patients."""
        if self.trainer.world_size > 1:
            raise ValueError(
                "FairRegression runs in one process, but the trainer has "
                f"{self.trainer.world_size}. Pass --trainer.devices=1. (To train on several, split "
                "the data with samplers as DigitsDataModule does, and give the penalty "
                "gather=True.)"
            )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes ``(N, code_dim)`` and predictions ``(N,)`` of patients."""
        code = self.encoder(features)
        return code, self.head(code).squeeze(1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the squared error plus the weighted penalty of a batch."""
        features, progression, attribute = batch
        code, prediction = self(features)
        error = nn.functional.mse_loss(prediction, progression)
        number = getattr(self.penalty, "num_conditions", None)
        given = {} if number is None else {"condition": classes(progression, number)}
        attribute = attribute.to(code.dtype).unsqueeze(1).expand_as(code)
        penalty: Tensor = self.penalty(code, attribute, **given)
        self.log_dict(
            {"train/error": error, "train/penalty": penalty}, on_step=False, on_epoch=True
        )
        return error + self.penalty_weight * penalty

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the validation metrics."""
        self._update(batch, self.val_r2, self.val_mi, self.val_odds)
        self.log_dict(
            {"val/r2": self.val_r2, "val/mi": self.val_mi, "val/odds": self.val_odds},
            on_step=False,
            on_epoch=True,
            prog_bar=True,
        )

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the test metrics."""
        self._update(batch, self.test_r2, self.test_mi, self.test_odds)
        self.log_dict(
            {"test/r2": self.test_r2, "test/mi": self.test_mi, "test/odds": self.test_odds},
            on_step=False,
            on_epoch=True,
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over all parameters."""
        return torch.optim.AdamW(
            self.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )

    def _update(self, batch: Batch, r2: R2Score, mi: Metric, odds: Metric) -> None:
        features, progression, attribute = batch
        code, prediction = self(features)
        r2.update(prediction, progression)
        mi.update(code, attribute)
        odds.update(prediction, attribute, progression)


def classes(values: Tensor, number: int) -> Tensor:
    """Return classes 0 … number - 1 of numbers ``(N,)``, in their order and about as many in each.

    Args:
        values: Numbers of a batch.
        number: How many classes.
    """
    ranks = values.argsort().argsort()
    return ranks * number // len(values)
