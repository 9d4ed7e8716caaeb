"""The joint table of bins against histogram libraries, and the accuracy of what is read from it."""

from functools import partial

import numpy as np
import torch
from torchmetrics import (
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
    MetricCollection,
    PearsonCorrCoef,
    R2Score,
)

from benchmarks import study
from benchmarks.timing import (
    Row,
    at_most,
    compiled,
    missing,
    peer,
    ratio,
    seconds,
    transient_bytes,
)
from mi_metrics import BinnedMutualInformation
from mi_metrics.functional import binned_joint, binned_mutual_information
from mi_metrics.kernels import switch

N = 1_000_000
RANGE = (-4.0, 4.0)


def rows() -> list[Row]:
    """Run the suite."""
    with switch.disabled():
        found = [*_tables(1), *_formulation(), *_small(), *_grid(3), *_memory(), *_accuracy()]
    return [*found, *compiled(lambda: [*_tables(3), *_grid(2), *_memory()])]


def _gaussian(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return x, 0.6 * x + 0.8 * noise


def _tables(at_least: float) -> list[Row]:
    x, y = _gaussian(N)
    a, b = x.numpy(), y.numpy()
    limits = (RANGE, RANGE)
    found = []

    def ours() -> torch.Tensor:
        return binned_joint(x, y, 64, value_range=RANGE)

    if fast := peer("fast_histogram"):
        images = tuple(((v + 6) * 21).to(torch.uint8) for v in (x, y))
        for (u, v), bins, ends, kind in (
            ((x, y), 64, RANGE, ""),
            ((x.double(), y.double()), 64, RANGE, ", float64"),
            (images, 256, (0.0, 255.0), ", 8-bit images"),
        ):
            times = seconds(
                partial(binned_joint, u, v, bins, value_range=ends),
                partial(fast.histogram2d, u.numpy(), v.numpy(), bins, range=(ends, ends)),
                repeat=15,
            )
            what = f"hard table, 1e6 samples{kind}, {bins} bins, against fast-histogram"
            found.append(ratio(what, *times, at_least))
    else:
        found.append(missing("hard table against fast-histogram", "fast-histogram"))
    if boost := peer("boost_histogram"):
        axis = boost.axis.Regular(64, *RANGE)
        times = seconds(ours, lambda: boost.Histogram(axis, axis).fill(a, b))
        found.append(ratio("hard table, 1e6 samples, 64 bins, against boost-histogram", *times, 2))
    else:
        found.append(missing("hard table against boost-histogram", "boost-histogram"))
    times = seconds(ours, lambda: np.histogram2d(a, b, bins=64, range=limits), repeat=3)
    found.append(ratio("hard table, 1e6 samples, 64 bins, against numpy.histogram2d", *times, 10))
    return found


def _formulation() -> list[Row]:
    """Measure against the textbook formulation: cumulative indicators (N, B + 1, B + 1), summed and
    differenced.
    """
    x, y = _gaussian(64, 4900)
    edges = torch.linspace(*RANGE, 21)

    def dense() -> None:
        for a, b in zip(x[:2], y[:2], strict=True):
            above = (a[:, None] >= edges)[:, :, None] & (b[:, None] >= edges)[:, None, :]
            above.float().sum(0).diff(dim=0).diff(dim=1)

    ours, theirs = seconds(lambda: binned_joint(x, y, 20, value_range=RANGE), dense)
    return [
        ratio(
            "hard table, 64 x 4900, 20 bins, against boolean (N, B+1, B+1)", ours, 32 * theirs, 100
        )
    ]


def _small() -> list[Row]:
    """Measure small batches, where time goes into calls and not into samples."""
    x, y = (v.clamp(-5, 5) for v in _gaussian(32))
    return [*_updates(32), *_updates(512), *_forward(x, y), _collection(x, y)]


def _updates(n: int) -> list[Row]:
    x, y = (v.clamp(-5, 5) for v in _gaussian(n))
    peer_, known, unknown, first = (
        MeanSquaredError(),
        BinnedMutualInformation(32, value_range=(-6, 6)),
        BinnedMutualInformation(32),
        BinnedMutualInformation(32),
    )
    for a, b in zip(*(v.view(20, -1) for v in _gaussian(4096 * 20)), strict=True):
        unknown.update(a, b)

    def often(metric: Metric) -> None:
        for _ in range(20):
            metric.update(x, y)

    def epoch(metric: Metric) -> None:
        metric.reset()
        for a, b in zip(*(v.view(31, -1) for v in _gaussian(31 * n)), strict=True):
            metric.update(a, b)
        # What waits is counted, too.
        getattr(metric, "table", None)

    what = f"{n} samples against MeanSquaredError"
    theirs, *ours = seconds(*(partial(often, m) for m in (peer_, known, unknown)), repeat=20)
    other, begun = seconds(*(partial(epoch, m) for m in (peer_, first)), repeat=8)
    return [
        at_most(f"update of {what}, known range", ours[0] / theirs, 4, "x"),
        at_most(f"update of {what}, unknown range", ours[1] / theirs, 12, "x"),
        at_most(f"first 31 updates of {what}, unknown range", begun / other, 12, "x"),
    ]


def _forward(x: torch.Tensor, y: torch.Tensor) -> list[Row]:
    known = BinnedMutualInformation(32, value_range=(-6, 6))
    metrics = (PearsonCorrCoef(), known, BinnedMutualInformation(32))
    theirs, *ours = seconds(*(partial(m, x, y) for m in metrics), repeat=20)
    what = "forward of 32 samples against PearsonCorrCoef"
    return [
        at_most(f"{what}, known range", ours[0] / theirs, 2, "x"),
        at_most(f"{what}, unknown range", ours[1] / theirs, 8, "x"),
    ]


def _collection(x: torch.Tensor, y: torch.Tensor) -> Row:
    options = [{}, {"normalization": "arithmetic"}, {"num_bins": 16}, {"unit": "bits"}]
    ours = MetricCollection({str(o): BinnedMutualInformation(**o) for o in options})
    peers = [MeanSquaredError(), MeanAbsoluteError(), PearsonCorrCoef(), R2Score()]
    theirs = MetricCollection(peers)

    def often(collection: MetricCollection) -> None:
        for _ in range(20):
            collection.update(x, y)

    time, other = seconds(*(partial(often, c) for c in (ours, theirs)), repeat=20)
    what = "update of 32 samples, a collection of four, against four of torchmetrics"
    return at_most(what, time / other, 3, "x")


def _grid(most: float) -> list[Row]:
    """Measure the steady state: the grid has seen such data before."""
    x, y = _gaussian(N)
    known = BinnedMutualInformation(32, value_range=(-6, 6))
    far = (torch.arange(N) % 1000 == 0) * 1e20
    images = tuple(((v + 6) * 21).to(torch.uint8) for v in (x, y))
    kinds = {
        "Gaussian": (x, y),
        "lognormal": ((2 * x).exp(), (2 * y).exp()),
        "8-bit images": images,
        "values k / 255": tuple(v.float() / 255 for v in images),
        "Gaussian, 0.1 % at 1e20": (x + far, y),
        "two clusters 1e4 apart": (x + 1e4 * (y > 0), y),
    }
    found = []
    for name, pair in kinds.items():
        unknown = BinnedMutualInformation(32)
        unknown.update(*pair)
        fixed, free = seconds(lambda: known.update(x, y), lambda u=unknown, p=pair: u.update(*p))
        figure = f"{free / fixed:.2f}x  ({1e3 * free:.3g} against {1e3 * fixed:.3g} ms)"
        what = f"update of 1e6 samples: unknown against known range, {name}"
        found.append(Row(what, figure, f"<= {most:g}x", free <= most * fixed))
    return found


def _memory() -> list[Row]:
    x, y = _gaussian(4 * N)
    found = []
    for name, options in (("known range", {"value_range": (-6, 6)}), ("unknown range", {})):
        metric = BinnedMutualInformation(256, **options)
        metric.update(x[:1000], y[:1000])
        transient = transient_bytes(lambda metric=metric: metric.update(x, y)) / 2**20
        found.append(
            at_most(
                f"transient memory of an update with 4e6 samples, 256 bins, {name}",
                transient,
                8,
                " MiB",
            )
        )
    return found


def _accuracy() -> list[Row]:
    found = []
    for options, bound in (
        ({}, 0.037),
        ({"binning": "uniform"}, 0.06),
        ({"bias_correction": "grassberger"}, 0.06),
        ({"bias_correction": "none"}, None),
    ):
        error = study.errors(lambda x, y, o=options: binned_mutual_information(x, y, **o)).abs()
        name = ", ".join(str(v) for v in options.values()) or "defaults"
        worst, value = float(error.max()), float(error.mean())
        what = f"35 points of the study, bins, {name}: mean |error| (worst {worst:.3f})"
        found.append(
            Row(what, f"{value:.4g} nats", "", None)
            if bound is None
            else at_most(what, value, bound, " nats")
        )
    return found
