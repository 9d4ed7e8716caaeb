"""A code of scanned digits that does not tell odd from even, or which digit, and probes that look.

``python -m mi_metrics.examples.hidden_label`` trains the same autoencoder without a penalty and
with three, and prints how often a linear and a nonlinear classifier find the label in codes of
scans on which neither the autoencoder nor they were trained.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from mi_metrics.examples.digits import DigitsDataModule
from mi_metrics.losses import GaussianMutualInformationPenalty, MutualInformationPenalty

Batch = tuple[Tensor, Tensor]


Attribute = Literal["parity", "digit"]
CLASSES: Mapping[Attribute, int] = {"parity": 2, "digit": 10}


class CorrelationPenalty(nn.Module):
    """Compute half the sum of squared correlations between the numbers of a code and labels.

    Args:
        num_classes: Number of labels, taken as one-hot vectors.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, code: Tensor, labels: Tensor) -> Tensor:
        """Return the penalty of codes ``(N, d)`` and labels ``(N,)``."""
        one_hot = nn.functional.one_hot(labels, self.num_classes).to(code.dtype)
        code, one_hot = ((v - v.mean(0)) / (v.std(0) + 1e-6) for v in (code, one_hot))
        return (code.mT @ one_hot / len(code)).square().sum() / 2


class PenaltyPerNumber(nn.Module):
    """Compute the sum of the information in bins between each number of a code and the label.

    Args:
        num_classes: Number of labels, and of bins for them.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.penalty = MutualInformationPenalty(
            (8, num_classes),
            pool="batch",
            value_range=((-3.0, 3.0), (0.0, num_classes - 1.0)),
            reduction="sum",
        )

    def forward(self, code: Tensor, labels: Tensor) -> Tensor:
        """Return the penalty of codes ``(N, d)`` and labels ``(N,)``."""
        value: Tensor = self.penalty(code, labels.to(code.dtype).unsqueeze(1))
        return value


class LabelFreeAutoencoder(pl.LightningModule):
    """Rebuild scans of digits from a code that should not tell a label.

    The decoder is told the label, so that the code need not hold it. The loss is the squared error
    of the pixels times 20 plus ``penalty_weight`` times the penalty of code and label.

    Logged as ``val/…`` and ``test/…``: ``r2``, the share of the pixels' variance that is rebuilt,
    and ``information``, the Gaussian information between code and label in nats, where 0 means
    that the codes of all labels have one mean.

    Args:
        attribute: The label: ``"parity"`` (odd or even) or ``"digit"``.
        penalty_weight: Weight of the penalty. 0 trains without it.
        penalty: The penalty; its x is the code ``(N, code_dim)``, its y the labels ``(N,)``. By
            default their Gaussian information.
        code_dim: Numbers that the code consists of.
        learning_rate: Step size of AdamW.
    """

    def __init__(
        self,
        attribute: Attribute = "parity",
        penalty_weight: float = 3.0,
        penalty: nn.Module | None = None,
        code_dim: int = 16,
        learning_rate: float = 3e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["penalty"])
        self.attribute, self.penalty_weight = attribute, penalty_weight
        self.penalty = GaussianMutualInformationPenalty() if penalty is None else penalty
        self.learning_rate = learning_rate
        # Bins need a known scale; the Gaussian information needs none.
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(64, code_dim), nn.BatchNorm1d(code_dim, affine=False)
        )
        self.decoder = nn.Sequential(
            nn.Linear(code_dim + CLASSES[attribute], 64), nn.ReLU(), nn.Linear(64, 64)
        )
        self.information = GaussianMutualInformationPenalty()

    def forward(self, images: Tensor) -> Tensor:
        """Return the codes ``(N, code_dim)`` of scans ``(N, 1, 8, 8)``."""
        code: Tensor = self.encoder(images)
        return code

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the squared error plus the weighted penalty of a batch."""
        code, labels, error, _ = self._errors(batch)
        loss: Tensor = 20 * error
        if self.penalty_weight:
            loss = loss + self.penalty_weight * self.penalty(code, labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the validation part, which comes in one batch."""
        self._log("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the test part, which comes in one batch."""
        self._log("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over all parameters."""
        return torch.optim.AdamW(self.parameters(), self.learning_rate)

    def _errors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        images, labels = batch[0], batch[1] % CLASSES[self.attribute]
        code, pixels = self(images), images.flatten(1)
        told = nn.functional.one_hot(labels, CLASSES[self.attribute]).to(code.dtype)
        error = (self.decoder(torch.cat((code, told), 1)) - pixels).square().mean()
        return code, labels, error, pixels.var(0, correction=0).mean()

    def _log(self, stage: str, batch: Batch) -> None:
        code, labels, error, variance = self._errors(batch)
        values = {"r2": 1 - error / variance, "information": self.information(code, labels)}
        self.log_dict(
            {f"{stage}/{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            prog_bar=True,
        )


def penalties(attribute: Attribute) -> dict[str, nn.Module | None]:
    """Return what is compared; all are in nats, and have the same weight."""
    return {
        "none": None,
        "correlation": CorrelationPenalty(CLASSES[attribute]),
        "bins, per number": PenaltyPerNumber(CLASSES[attribute]),
        "Gaussian": GaussianMutualInformationPenalty(),
    }


def probe(
    attribute: Attribute, penalty: nn.Module | None, max_epochs: int = 150
) -> tuple[float, float, float]:
    """Train with a penalty, then train classifiers of the label on codes of the validation part.

    Returns:
        On the test part: R² of the autoencoder, accuracy of a linear classifier (logistic
        regression), accuracy of a nonlinear one (support vectors with Gaussian kernels).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    weight = 0.0 if penalty is None else 3.0
    data, model = DigitsDataModule(540), LabelFreeAutoencoder(attribute, weight, penalty)
    trainer.fit(model, data)
    (values,) = trainer.test(model, data, verbose=False)
    model.eval()
    with torch.no_grad():
        (train, told), (held_out, truth) = (
            (model(images).numpy(), (labels % CLASSES[attribute]).numpy())
            for images, labels in (
                next(iter(data.val_dataloader())),
                next(iter(data.test_dataloader())),
            )
        )
    probes = LogisticRegression(max_iter=1000), SVC()
    linear, nonlinear = (float(p.fit(train, told).score(held_out, truth)) for p in probes)
    return float(values["test/r2"]), linear, nonlinear


def compare(attribute: Attribute, max_epochs: int = 150) -> dict[str, tuple[float, float, float]]:
    """Return for each penalty R² and accuracies as :func:`probe` returns them."""
    return {
        name: probe(attribute, penalty, max_epochs)
        for name, penalty in penalties(attribute).items()
    }


def main(args: Sequence[str] = ()) -> None:
    """Print :func:`compare` of both labels as tables.

    Args:
        args: Options of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mi_metrics.examples.hidden_label", description=__doc__
    )
    parser.add_argument("--epochs", type=int, default=150, help="of each training (default: 150)")
    epochs = parser.parse_args(args).epochs
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for attribute, classes in CLASSES.items():
        with warnings.catch_warnings():
            # The data are in memory, where worker processes only cost time.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=r".*number of training batches \(2\).*")
            warnings.filterwarnings(
                "ignore", message=r".*isinstance\(treespec, LeafSpec\).* is deprecated"
            )
            results = compare(attribute, epochs)
        print(f"penalty of {attribute:<9}R² (test)   linear probe   nonlinear probe")
        for name, (r2, linear, nonlinear) in results.items():
            print(f"{name:<20}{r2:>9.3f}{linear:>15.3f}{nonlinear:>18.3f}")
        chance = 1 / classes
        error = (chance * (1 - chance) / 359) ** 0.5
        print(f"chance: {chance:.2f} ± {error:.3f}, the standard error of 359 scans\n")


if __name__ == "__main__":
    main(sys.argv[1:])
