"""The site's tables of accuracy, made and kept true: ``python -m benchmarks.accuracy [--write]``.

Means over the draws, in nats, beside the closed form. scikit-learn is its nearest-neighbour
estimate ``mutual_info_regression`` with k = 3. The figures of torch_mi, the PyTorch library whose
experiment the study repeats, are those that it has published, rerun where it published none.
"""

import argparse
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.feature_selection import mutual_info_regression
from torch import Tensor

from mi_metrics.commands import study
from mi_metrics.distributions import DISTRIBUTIONS
from mi_metrics.settings import ESTIMATORS

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"

SHOWN = list(ESTIMATORS.values())

# torch_mi's published means by N, of nearest neighbours, kernels and bins, at r = 0 and r = 0.99,
# where there are any.
PUBLISHED = {
    100: ((0.0265, 0.1480, 1.0148), None),
    361: ((0.0212, 0.1256, 0.3906), (1.9696, 1.4138, 1.7258)),
    1296: ((0.0075, 0.0998, 0.1263), (1.9822, 1.6627, 1.6878)),
    4900: ((0.0051, 0.0707, 0.0362), (1.9715, 1.8375, 1.6680)),
}
# Heavier and lighter tails, other shapes and another dependence, all with the same information and
# size.
TRUTH, SIZE, DRAWS = 0.5, 2000, 32
FEW, CORRELATIONS = (50, 100, 200), (0.0, 0.5, 0.7, 0.9)


def scikit_learn(x: Tensor, y: Tensor) -> Tensor:
    found = [
        mutual_info_regression(a[:, None], b, n_neighbors=3, random_state=0)[0]
        for a, b in zip(x.numpy(), y.numpy(), strict=True)
    ]
    return torch.tensor(found)


def study_rows() -> list[list[str]]:
    """Return some of the study's points, of its samples: truth, ours, scikit-learn's and
    torch_mi's figures.
    """
    rows = []
    truths = study.truths()
    for i, truth in enumerate((truths[0], truths[-1])):
        for n, published in PUBLISHED.items():
            earlier = published[i] or (None, None, None)
            x, y = study.draw("gaussian", truth, n, study.DRAWS, 0)
            estimators = (*SHOWN, scikit_learn)
            row = [f"{DISTRIBUTIONS['gaussian'].parameter(truth):.2g}", str(n), _number(truth)]
            row += [_mean(estimator, x, y) for estimator in estimators]
            rows.append(
                [*row, *("–" if value is None else _number(value) for value in reversed(earlier))]
            )
    return rows


def catalogue_rows() -> list[list[str]]:
    """Return the catalogue of closed forms: truth, each of our estimators, scikit-learn."""
    rows = []
    for name, distribution in DISTRIBUTIONS.items():
        x, y = distribution.sample(TRUTH, DRAWS, SIZE, torch.Generator().manual_seed(0))
        estimators = (*SHOWN, scikit_learn)
        rows.append([name, _number(TRUTH), *(_mean(estimator, x, y) for estimator in estimators)])
    return rows


def few_rows() -> list[list[str]]:
    """Return Gaussian pairs of few samples: truth, each of our estimators, scikit-learn."""
    rows = []
    for r in CORRELATIONS:
        truth = -math.log1p(-r * r) / 2
        for n in FEW:
            x, y = study.draw("gaussian", truth, n, study.DRAWS, 0)
            estimators = (*SHOWN, scikit_learn)
            means = (_mean(estimator, x, y) for estimator in estimators)
            rows.append([f"{r:.2g}", str(n), _number(truth), *means])
    return rows


TITLES = [estimator.title for estimator in SHOWN]
TABLES: dict[str, tuple[list[str], Callable[[], list[list[str]]]]] = {
    "study": (
        [
            *("r", "N", "truth", *TITLES, "scikit-learn"),
            *(f"torch_mi: {title}" for title in TITLES),
        ],
        study_rows,
    ),
    "catalogue": (
        ["distribution", "truth", *TITLES, "scikit-learn"],
        catalogue_rows,
    ),
    "few": (["r", "N", "truth", *TITLES, "scikit-learn"], few_rows),
}


def table(name: str) -> str:
    """Compute one of :data:`TABLES` and return it as Markdown."""
    header, rows = TABLES[name]
    with warnings.catch_warnings():
        # The tables show what becomes of few samples and heavy tails, so warnings are silenced.
        warnings.simplefilter("ignore")
        lines = [header, ["---"] * len(header), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(name: str, text: str) -> re.Match[str]:
    """Return where a table stands in a Markdown text, between its markers, as group 1."""
    found = re.search(rf"<!-- accuracy: {name} -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    if found is None:
        raise ValueError(
            f"Expected the markers <!-- accuracy: {name} --> and <!-- end --> in the text."
        )
    return found


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-0.000", "0.000")


def _mean(estimator: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> str:
    return _number(float(estimator(x, y).mean()))


def main() -> None:
    """Print the tables, and write them into the page on request."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the tables into the page")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    for name in TABLES:
        made = table(name)
        print(f"\n{made}", flush=True)
        if write:
            text = PAGE.read_text()
            start, end = section(name, text).span(1)
            PAGE.write_text(text[:start] + made + text[end:])


if __name__ == "__main__":
    main()
