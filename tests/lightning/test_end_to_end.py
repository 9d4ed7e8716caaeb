"""Lightning logs what the metric computes from all samples at once, in every precision and way of
training.
"""

import os
import shutil

import pytest
import torch

pytest.importorskip("lightning")

import lightning.pytorch as pl
from torch import nn
from torch.utils.data import DataLoader

from mi_metrics import KDEMutualInformationLoss, MutualInformationLoss, MutualInformationPenalty
from tests.cautions import ignore_cautions
from tests.lightning.modules import (
    LIGHTNING_WARNINGS,
    QUIET,
    Regression,
    estimators,
    offline,
    samples,
)

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_WARNINGS)


@pytest.fixture
def accelerator(device):
    return "gpu" if device.type == "cuda" else "cpu"


@pytest.fixture(params=["32-true", "64-true", "bf16-true", "16-true", "bf16-mixed", "16-mixed"])
def precision(request, device):
    if request.param == "16-mixed" and device.type == "cpu":
        pytest.skip("Lightning has no 16-mixed on the CPU")
    return request.param


def run(module, accelerator, **options):
    """Fit for two epochs, then validate and test."""
    pl.seed_everything(0)
    for layer in module.net.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    trainer = pl.Trainer(max_epochs=2, accelerator=accelerator, devices=1, **(QUIET | options))
    # 1000 is no multiple of 64: the last batch is a smaller one.
    validation = DataLoader(samples(1000, 1), 64)
    trainer.fit(module, DataLoader(samples(1000, 0), 64), validation)
    trainer.validate(module, validation, verbose=False)
    trainer.test(module, DataLoader(samples(1000, 2), 50), verbose=False)
    return trainer


def assert_logged_is_offline(module):
    assert list(module.logged) == ["val 0", "train 0", "val 1", "train 1", "val 2", "test 2"]
    for name, values in module.logged.items():
        stage, _ = name.split()
        expected = offline(module.seen[name], f"{stage}/")
        assert set(values) == set(expected) == {f"{stage}/{key}" for key in estimators()}
        for key, value in expected.items():
            assert value.isfinite()
            assert torch.equal(values[key], value), (name, key)


def test_fit_validate_and_test(accelerator):
    module = Regression()
    run(module, accelerator)
    assert_logged_is_offline(module)
    assert {
        sum(len(x) for x, _ in seen) for name, seen in module.seen.items() if name != "sanity"
    } == {1000}
    # What `validate` computes is what the last epoch of `fit` did, and training has moved it.
    assert module.logged["val 2"] == module.logged["val 1"] != module.logged["val 0"]


def test_no_pass_holds_the_samples_of_another(accelerator):
    # The other way round: were the sanity check's samples, or those of the epoch before, still in
    # the state, the values that were logged would be others.
    module = Regression()
    run(module, accelerator)
    assert sum(len(x) for x, _ in module.seen["sanity"]) == 128
    for first, second in (("sanity", "val 0"), ("val 0", "val 1"), ("train 0", "train 1")):
        stage = second.split()[0]
        both = offline(module.seen[first] + module.seen[second], f"{stage}/")
        assert all(module.logged[second][key] != value for key, value in both.items())


# Samples of 8 or 11 bits repeat.
@ignore_cautions
def test_every_precision(precision, accelerator):
    module = Regression()
    run(module, accelerator, precision=precision)
    assert_logged_is_offline(module)
    prediction, target = module.seen["val 1"][0]
    low = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32, "64": torch.float64}
    kind, what = precision.split("-")
    assert prediction.dtype == low[kind]
    assert target.dtype == (torch.float32 if what == "mixed" else low[kind])
    # A count in float32 would stop at 2**24, in bfloat16 at 256.
    assert module.dtypes == {
        f"{key}.{name}": {default.dtype if isinstance(default, torch.Tensor) else torch.float64}
        for key, metric in estimators().items()
        for name, default in metric._defaults.items()
    }
    assert {v.dtype for values in module.logged.values() for v in values.values()} == {
        torch.float64
    }


def test_deterministic_algorithms(accelerator, monkeypatch):
    # Lightning sets it too, and leaves it set.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    logged = []
    try:
        for _ in range(2):
            module = Regression()
            run(module, accelerator, deterministic=True)
            assert torch.are_deterministic_algorithms_enabled()
            assert_logged_is_offline(module)
            logged.append(module.logged)
    finally:
        torch.use_deterministic_algorithms(False)
    assert logged[0] == logged[1]


def test_gradient_accumulation(accelerator):
    module = Regression()
    trainer = run(module, accelerator, accumulate_grad_batches=3)
    assert trainer.global_step == 2 * 6  # 16 batches an epoch
    assert_logged_is_offline(module)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler"
)
@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script_method. is deprecated:DeprecationWarning"
)  # torch's own
def test_a_compiled_network(accelerator):
    module = Regression()
    module.net.compile(dynamic=False)
    run(module, accelerator)
    assert module.net._compiled_call_impl is not None
    assert_logged_is_offline(module)


class Training(pl.LightningModule):
    """Trains a linear map of x on a loss between the map and y."""

    def __init__(self, loss):
        super().__init__()
        self.net = nn.Linear(4, 1, bias=False)
        self.loss = loss
        self.losses = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self.net(x), y)
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.1)


@pytest.mark.parametrize(
    "loss", [MutualInformationLoss, KDEMutualInformationLoss, MutualInformationPenalty]
)
def test_losses_train_in_every_precision(loss, precision, accelerator):
    bins = {} if loss is KDEMutualInformationLoss else {"num_bins": 8}
    module = Training(loss(**bins, pool="batch"))
    # The first map has all the information that there is about y, the sum of the features: 0.8
    # nats. The second has nothing.
    start = [[1.0, 1.0, 1.0, 1.0]] if loss is MutualInformationPenalty else [[1.0, -1.0, 1.0, -1.0]]
    module.net.weight.data.copy_(torch.tensor(start))
    trainer = pl.Trainer(
        max_epochs=5, accelerator=accelerator, devices=1, precision=precision, **QUIET
    )
    trainer.fit(module, DataLoader(samples(1024, 0), 128))
    assert {value.dtype for value in module.losses} == {
        torch.float64 if precision == "64-true" else torch.float32
    }
    values = torch.stack(module.losses).double()
    assert values.isfinite().all()
    assert module.net.weight.isfinite().all()
    first, last = values[:2].mean(), values[-8:].mean()
    # Smooth tables of 128 samples show this of 0 and 0.8 nats.
    large = first if loss is MutualInformationPenalty else -last
    small = last if loss is MutualInformationPenalty else -first
    assert large > 0.4
    assert small < 0.1
