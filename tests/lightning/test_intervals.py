"""A metric's value and the ends of its interval, logged in a real run."""

import pytest
import torch

pytest.importorskip("lightning")

import lightning.pytorch as pl
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from mi_metrics import BinnedMutualInformation, KNNMutualInformation
from mi_metrics.lightning import log_interval
from tests.lightning.modules import LIGHTNING_WARNINGS, QUIET, samples

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_WARNINGS)


class Evaluation(pl.LightningModule):
    """Compares the sum of the features with the target, by a metric alone and one of several."""

    def __init__(self):
        super().__init__()
        self.alone = BinnedMutualInformation(6, unit="bits")
        self.several = two_metrics()
        self.seen = []

    def test_step(self, batch, batch_idx):
        x, y = batch[0].sum(1, keepdim=True), batch[1]
        self.alone.update(x, y)
        self.several.update(x, y)
        self.seen.append((x, y))

    def on_test_epoch_end(self):
        log_interval(self, "alone", self.alone, level=0.9, num_resamples=49, seed=3)
        for name, metric in self.several.items():
            log_interval(self, name, metric, num_resamples=49)


def two_metrics():
    kinds = {"few": BinnedMutualInformation(4), "found": BinnedMutualInformation()}
    return MetricCollection(kinds, prefix="test/")


def test_value_and_ends_are_those_of_all_samples():
    module = Evaluation()
    trainer = pl.Trainer(accelerator="cpu", **QUIET)
    (logged,) = trainer.test(module, DataLoader(samples(300, 0), 64), verbose=False)
    seen = [torch.cat(part) for part in zip(*module.seen, strict=True)]
    module.alone.update(*seen)
    module.several.update(*seen)
    found = {"alone": (module.alone, module.alone.interval(0.9, num_resamples=49, seed=3))}
    for name, metric in module.several.items():
        found[name] = metric, metric.interval(num_resamples=49)
    assert set(logged) == {f"{name}{end}" for name in found for end in ("", "_lower", "_upper")}
    for name, (metric, ends) in found.items():
        assert logged[name] == metric.compute().item()
        assert [logged[f"{name}_lower"], logged[f"{name}_upper"]] == ends.tolist()
        assert logged[f"{name}_lower"] < logged[name] < logged[f"{name}_upper"]


def test_lightning_resets_what_is_logged():
    module = Evaluation()
    trainer = pl.Trainer(accelerator="cpu", **QUIET)
    loader = DataLoader(samples(300, 0), 64)
    first, second = (trainer.test(module, loader, verbose=False) for _ in range(2))
    assert first == second
    assert not module.alone.seen


@pytest.mark.parametrize(
    ("metric", "options", "error", "message"),
    [
        (KNNMutualInformation(), {}, TypeError, "BinnedMutualInformation.*KNNMutualInformation"),
        (BinnedMutualInformation(4, num_outputs=2), {}, ValueError, "num_outputs=2"),
        (BinnedMutualInformation(4, normalization="max"), {}, ValueError, "normalization='max'"),
        (BinnedMutualInformation(4), {"level": 2}, ValueError, r"`level` in \(0, 1\)"),
        (BinnedMutualInformation(4), {"levels": 0.9}, TypeError, "level"),
        (BinnedMutualInformation(4, kernel="cubic"), {}, ValueError, "whole counts"),
    ],
)
def test_errors(metric, options, error, message):
    with pytest.raises(error, match=message):
        log_interval(pl.LightningModule(), "mi", metric, **options)
