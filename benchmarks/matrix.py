"""The matrix of all pairs of columns against a loop over the pairs, and its metric's update."""

import time
import warnings

import torch

from benchmarks.timing import Row, at_most, missing, peer, ratio, seconds
from mi_metrics import BinnedMutualInformation, MutualInformationMatrix, MutualInformationWarning
from mi_metrics.functional import binned_mutual_information, mutual_information_matrix

C, N, BINS = 64, 10_000, 16


def rows() -> list[Row]:
    """Run the suite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MutualInformationWarning)
        return [*_pairs(), *_updates()]


def _columns(n: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, noise = torch.randn(2, n, number, generator=torch.Generator().manual_seed(0))
    return x, x.roll(1, 1) + noise


def _pairs() -> list[Row]:
    x, y = _columns(N, C)

    def loop(columns: int = 4) -> None:
        for a in x.T[:columns]:
            for b in y.T:
                binned_mutual_information(a, b, BINS)

    def batch() -> torch.Tensor:
        a, b = x.T.unsqueeze(1).expand(C, C, N), y.T.expand(C, C, N)
        return binned_mutual_information(a, b, BINS)

    (ours, few) = seconds(lambda: mutual_information_matrix(x, y, BINS), loop, repeat=3)
    (again, together) = seconds(lambda: mutual_information_matrix(x, y, BINS), batch, repeat=1)
    (automatic,) = seconds(lambda: mutual_information_matrix(x, y), repeat=1)
    what = "matrix of 64 x 64 pairs, 1e4 rows, 16 bins"
    found = [
        at_most(what, ours, 0.4, " s"),
        ratio(f"{what}, against a loop over binned_mutual_information", ours, 16 * few, 10),
        ratio(f"{what}, against one call with a batch", again, together, 3),
        Row("the same with automatic bins", f"{automatic:.3g} s", "", None),
    ]
    if learn := peer("sklearn.feature_selection"):
        start = time.process_time()
        learn.mutual_info_regression(x.numpy()[:, :4], y.numpy()[:, 0])
        theirs = (time.process_time() - start) * C * C / 4
        found.append(ratio(f"{what}, against scikit-learn's neighbours", ours, theirs, 100))
    else:
        found.append(missing(f"{what}, against scikit-learn's neighbours", "scikit-learn"))
    return found


def _updates() -> list[Row]:
    found = []
    for name, options in (("unknown range", {}), ("known range", {"value_range": (-9, 9)})):
        x, y = _columns(512 * 40, 10)
        matrix = MutualInformationMatrix(10, 10, BINS, **options)
        one = BinnedMutualInformation(BINS, resolution=64, **options)
        for a, b in zip(x.split(512), y.split(512), strict=True):
            matrix.update(a, b)
            one.update(a[:, 0], b[:, 0])
        a, b = x[:512], y[:512]
        first, second = a[:, 0].contiguous(), b[:, 0].contiguous()
        ours, single = seconds(
            lambda m=matrix, a=a, b=b: m.update(a, b),
            lambda m=one, a=first, b=second: m.update(a, b),
            repeat=25,
        )
        figure = f"{ours / single:.2f}x  ({1e3 * ours:.3g} against {1e3 * single:.3g} ms)"
        what = f"update of (512, 10 + 10) against one pair, {name}"
        found.append(Row(what, figure, "<= 10x", ours <= 10 * single))
    return found
