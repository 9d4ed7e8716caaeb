"""Demographic parity beside equalised odds: what each penalty of
:mod:`mi_metrics.examples.fairness` costs and buys where the attribute tells of what is predicted.

``python -m mi_metrics.examples.equalised_odds`` predicts the progression of diabetes, which depends
on the attribute, a body mass index above the median. Parity removes all that the code tells of it,
and so what it needs to predict; equalised odds remove what it tells beyond the progression. The
table has the test results, the mean over splits of the data and its standard error.
"""

import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mi_metrics.examples.fairness import FairRegression
from mi_metrics.examples.trade_off import means, over_splits, tested
from mi_metrics.losses import MutualInformationPenalty

ATTRIBUTE = "bmi"
# Name of the penalty, its weight, and the number of classes of the progression.
RUNS = (
    ("none", 0.0, None),
    ("parity", 3.0, None),
    ("parity", 10.0, None),
    ("parity", 30.0, None),
    ("odds", 3.0, 3),
    ("odds", 10.0, 3),
    ("odds", 30.0, 3),
)
COLUMNS = ("test/r2", "test/mi", "test/odds")

Run = tuple[str, float, int | None]


def compare(
    runs: Sequence[Run] = RUNS, splits: int = 10, max_epochs: int = 80
) -> dict[tuple[str, float], Tensor]:
    """Train with several penalties on several splits of the data, and test each.

    Args:
        runs: Name, weight and number of classes (None: demographic parity) of each penalty.
        splits: Splits of the data into training and test.
        max_epochs: Epochs of each training.

    Returns:
        For each name and weight, R², the information of code and attribute, and that of prediction
        and attribute given the progression, on the test part of each split, ``(splits, 3)``.
    """
    results = {}
    for name, weight, number in runs:
        rows = []
        for split in range(splits):
            penalty = MutualInformationPenalty(
                (8, 2),
                value_range=((-3.0, 3.0), (0.0, 1.0)),
                pool="batch",
                num_conditions=number,
            )
            values = tested(
                partial(FairRegression, weight, penalty),
                split,
                max_epochs,
                attribute=ATTRIBUTE,
            )
            rows.append([values[column] for column in COLUMNS])
        results[name, weight] = torch.tensor(rows)
    return results


def main(args: Sequence[str] = ()) -> None:
    """Print :func:`compare` as a table of means and their standard errors.

    Args:
        args: Options of the command line.
    """
    results = over_splits("equalised_odds", __doc__, args, lambda splits: compare(splits=splits))
    print("penalty  weight   R² (test)         MI(code; a)       MI(prediction; a | progression)")
    for (name, weight), rows in results.items():
        cells = means(rows)
        print(f"{name:<9}{weight:<9g}{cells[0]:<18}{cells[1]:<18}{cells[2]}")


if __name__ == "__main__":
    main(sys.argv[1:])
