"""Small LightningModules with every metric, and what the tests compare them with."""

from collections import defaultdict

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchmetrics import Metric, MetricCollection

from mi_metrics import BinnedMutualInformation, KDEMutualInformation, KNNMutualInformation

Pairs = list[tuple[Tensor, Tensor]]

# Lightning's own, which no user can change; the data are in memory, where workers only cost time.
LIGHTNING_WARNINGS = (
    r"ignore:.*isinstance\(treespec, LeafSpec\).* is deprecated",
    "ignore:.*does not have many workers which may be a bottleneck",
)
# For tests, where neither logs nor files are wanted.
QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def estimators() -> dict[str, Metric]:
    """Return the three estimators, those with two kinds of state in both."""
    return {
        # So few bins that two batches of a sanity check suffice.
        "known": BinnedMutualInformation((4, 5), value_range=((-1.0, 1.0), (-8.0, 8.0))),
        "found": BinnedMutualInformation((4, 5), normalization="geometric"),
        "kde": KDEMutualInformation(),
        "knn": KNNMutualInformation(),
        "bounded": KNNMutualInformation(max_samples=200),
    }


def samples(n: int, seed: int) -> TensorDataset:
    """Return n rows of 4 features and a target that depends on them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return TensorDataset(x, x.sum(1, keepdim=True) + torch.randn(n, 1, generator=generator))


def offline(seen: Pairs, prefix: str) -> dict[str, Tensor]:
    """Return the values of fresh metrics that are given all pairs at once."""
    collection = MetricCollection(estimators(), prefix=prefix)
    collection.update(*(torch.cat(part) for part in zip(*seen, strict=True)))
    return collection.compute()


class Regression(pl.LightningModule):
    """Predicts y from x, logs the metrics of both in every stage, and keeps what they were given.

    ``seen`` and ``logged`` have an entry for each pass over data: ``val 0``, ``train 0``, ``val
    1``, ... Of the sanity check, ``sanity``, nothing is logged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Tanh())
        self.train_metrics = MetricCollection(estimators(), prefix="train/")
        self.val_metrics = self.train_metrics.clone(prefix="val/")
        self.test_metrics = self.train_metrics.clone(prefix="test/")
        self.seen: dict[str, Pairs] = defaultdict(list)
        self.logged: dict[str, dict[str, Tensor]] = {}
        # Dtypes of the states while they are full, by metric and state: ``known.table``, ...
        self.dtypes: dict[str, set[torch.dtype]] = defaultdict(set)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        # PyTorch 2.4 has no mean squared error of half-precision floats on the CPU.
        return (self._step("train", self.train_metrics, batch) - batch[1] / 6).square().mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step("val", self.val_metrics, batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step("test", self.test_metrics, batch)

    def on_train_epoch_end(self) -> None:
        self._keep("train", self.train_metrics)

    def on_validation_end(self) -> None:
        if not self.trainer.sanity_checking:
            self._keep("val", self.val_metrics)

    def on_test_end(self) -> None:
        self._keep("test", self.test_metrics)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05)

    def _step(self, stage: str, metrics: MetricCollection, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        prediction = self.net(x)
        metrics.update(prediction, y)
        self.log_dict(metrics, on_step=False, on_epoch=True)
        self.seen[self._pass(stage)].append((prediction.detach().clone(), y.clone()))
        return prediction

    def _keep(self, stage: str, metrics: MetricCollection) -> None:
        values = self.trainer.callback_metrics
        self.logged[self._pass(stage)] = {
            k: v.clone() for k, v in values.items() if k.startswith(stage)
        }
        for key, metric in metrics.items(keep_base=True):
            for name, state in metric.metric_state.items():
                dtypes = {
                    tensor.dtype for tensor in (state if isinstance(state, list) else [state])
                }
                self.dtypes[f"{key}.{name}"] |= dtypes

    def _pass(self, stage: str) -> str:
        return "sanity" if self.trainer.sanity_checking else f"{stage} {self.current_epoch}"
