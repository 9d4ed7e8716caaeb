"""What the penalty of :mod:`mi_metrics.examples.fairness` buys and costs.

``python -m mi_metrics.examples.trade_off`` trains with several weights of the penalty on several
splits of the data, and prints a table of the test results, all weights and the mean over all
splits. The size of the code and the length of the training were chosen on splits like these, so the
table compares weights; it is no record of accuracy.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from mi_metrics.examples.fairness import DiabetesDataModule, FairRegression

Results = TypeVar("Results")


def trade_off(
    weights: Sequence[float] = (0.0, 0.3, 1.0, 3.0), splits: int = 10, max_epochs: int = 80
) -> dict[float, Tensor]:
    """Train with several weights of the penalty on several splits of the data, and test each.

    Args:
        weights: Weights of the penalty.
        splits: Splits of the data into training and test; each has its own initial weights of the
            network too.
        max_epochs: Epochs of each training.

    Returns:
        For each weight, R² and mutual information with sex on the test part of each split,
        ``(splits, 2)``.
    """
    results = {}
    for weight in weights:
        rows = []
        for split in range(splits):
            values = tested(partial(FairRegression, weight), split, max_epochs)
            rows.append([values["test/r2"], values["test/mi"]])
        results[weight] = torch.tensor(rows)
    return results


def tested(
    model: Callable[[], FairRegression], split: int, max_epochs: int, **options: Any
) -> Mapping[str, float]:
    """Train a model on a split of the data, and return its test results.

    Args:
        model: What builds the model, from the split's own random numbers.
        split: Which split.
        max_epochs: Epochs of the training.
        options: Further options of the data.
    """
    pl.seed_everything(split, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DiabetesDataModule(split, **options)
    trained = model()
    trainer.fit(trained, data)
    (values,) = trainer.test(trained, data, verbose=False)
    return values


def over_splits(
    name: str, description: str | None, args: Sequence[str], compare: Callable[[int], Results]
) -> Results:
    """Return what is compared over as many splits as the command line asks for, without the
    messages of training.

    Args:
        name: The module that is run.
        description: What its help says.
        args: Options of the command line.
        compare: What is called with the number of splits.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m mi_metrics.examples.{name}", description=description
    )
    parser.add_argument("--splits", type=int, default=10, help="splits of the data (default: 10)")
    splits = parser.parse_args(args).splits
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # The data are in memory, where worker processes only cost time.
        warnings.filterwarnings(
            "ignore", message=".*does not have many workers which may be a bottleneck.*"
        )
        warnings.filterwarnings(
            "ignore", message=r".*isinstance\(treespec, LeafSpec\).* is deprecated"
        )
        return compare(splits)


def means(rows: Tensor) -> list[str]:
    """Return the mean of each column over the splits ``(splits, columns)``, with its standard
    error.
    """
    errors = rows.std(0) / len(rows) ** 0.5
    return [
        f"{mean:.3f} ± {error:.3f}"
        for mean, error in zip(rows.mean(0).tolist(), errors.tolist(), strict=True)
    ]


def main(args: Sequence[str] = ()) -> None:
    """Print :func:`trade_off` as a table of means and their standard errors.

    Args:
        args: Options of the command line.
    """
    results = over_splits("trade_off", __doc__, args, lambda splits: trade_off(splits=splits))
    print("penalty weight    R² (test)        MI(code; sex) in nats (test)")
    for weight, rows in results.items():
        r2, mi = means(rows)
        print(f"{weight:<14g}{r2:>16}{mi:>24}")


if __name__ == "__main__":
    main(sys.argv[1:])
