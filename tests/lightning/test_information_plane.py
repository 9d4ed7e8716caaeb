"""The information plane of small networks is what counting by hand gives."""

import math
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mi_metrics import MutualInformationMatrix
from mi_metrics.functional import knn_mutual_information
from mi_metrics.lightning import InformationPlane, log_matrix
from tests.cautions import ignore_cautions, warned
from tests.lightning.modules import LIGHTNING_WARNINGS, QUIET
from tests.processes import run

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_WARNINGS)

ROOT = Path(__file__).resolve().parent.parent.parent
LAYERS = {"first": "net.1", "second": "net.3"}
INPUTS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 12)
CLASSES = ((INPUTS[:, :5].sum(1) > 0).long() + 2 * (INPUTS[:, 5] * INPUTS[:, 6] > 0).long()) * 3 - 1


class Toy(pl.LightningModule):
    """A small network of whose inputs all 4096 are evaluated."""

    def __init__(self, named: bool = False):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Linear(12, 3), nn.Tanh(), nn.Linear(3, 2), nn.Tanh())
        for parameter in self.net.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 2
        self.out, self.named = nn.Linear(2, 10), named

    def step(self, batch):
        x, y = (batch["x"], batch["y"]) if self.named else batch
        return nn.functional.cross_entropy(self.out(self.net(x)), y + 1)

    def training_step(self, batch, batch_idx):
        return self.step(batch)

    def validation_step(self, batch, batch_idx):
        self.step(batch)

    def test_step(self, batch, batch_idx):
        self.step(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def data(batch_size=512):
    return DataLoader(TensorDataset(INPUTS, CLASSES), batch_size)


def trainer(plane, folder, **options):
    options = QUIET | {"accelerator": "cpu", "default_root_dir": folder} | options
    return pl.Trainer(callbacks=plane if isinstance(plane, list) else [plane], **options)


def by_hand(values, classes, bins, ranges=None):
    """Return H(T) and I(T; Y) in nats, one sample and one unit at a time."""
    columns = []
    for unit in values.double().T.tolist():
        lo, hi = ranges or (min(unit), max(unit))
        columns.append(
            [min(max(math.floor((v - lo) / (hi - lo) * bins), 0), bins - 1) for v in unit]
        )
    cells = list(zip(*columns, strict=True))

    def entropy(labels):
        n = Counter(labels)
        return -sum(c / len(labels) * math.log(c / len(labels)) for c in n.values())

    y = classes.tolist()
    h = entropy(cells)
    return h, h + entropy(y) - entropy(list(zip(cells, y, strict=True)))


def outputs(module):
    with torch.no_grad():
        first = module.net[1](module.net[0](INPUTS))
        return {"first": first, "second": module.net[3](module.net[2](first))}


@ignore_cautions
@pytest.mark.parametrize("value_range", [None, [-1, 1], {"first": [-1, 1]}])
def test_all_inputs_of_a_network_of_12_bits(value_range, tmp_path):
    module = Toy()
    plane = InformationPlane(LAYERS, 1, num_bins=12, value_range=value_range)
    (logged,) = trainer(plane, tmp_path).validate(module, data(), verbose=False)
    assert set(logged) == {f"{what}/{name}" for what in ("mi", "entropy") for name in LAYERS}
    for name, values in outputs(module).items():
        given = value_range.get(name) if isinstance(value_range, dict) else value_range
        h, i = by_hand(values, CLASSES, 12, given)
        assert logged[f"entropy/{name}"] == pytest.approx(h, abs=1e-12)
        assert logged[f"mi/{name}"] == pytest.approx(i, abs=1e-12)
        assert 0 < i <= math.log(4)
    assert plane.last_figure == tmp_path / "figures" / "information_plane" / "validation.png"
    assert plane.last_figure.is_file()
    assert not plane._hooks
    assert plane.trajectory == {"first": [], "second": []}


def test_many_symbols_are_left_to_neighbours(tmp_path):
    module = Toy()
    plane = InformationPlane({"second": "net.3"}, 1, max_symbols=50)
    (logged,) = trainer(plane, tmp_path).validate(module, data(), verbose=False)
    values = outputs(module)["second"]
    expected = knn_mutual_information(values, CLASSES, discrete_y=True)
    assert logged["mi/second"] == pytest.approx(expected.item(), abs=1e-6)


def test_samples_alone_in_their_symbol_are_told(tmp_path):
    plane = InformationPlane({"second": "net.3"}, 1, num_bins=10_000)
    with warned("undersampled", match="% of 4096 samples are alone in their symbol of the layer"):
        trainer(plane, tmp_path).validate(Toy(), data(), verbose=False)


@ignore_cautions
def test_a_fit_draws_a_trajectory_without_the_sanity_check(tmp_path):
    class Named(torch.utils.data.Dataset):
        def __len__(self):
            return len(INPUTS)

        def __getitem__(self, i):
            return {"x": INPUTS[i], "y": CLASSES[i]}

    loader = DataLoader(Named(), 1024)
    plane = InformationPlane(LAYERS, "y", num_bins=8, every_n_epochs=2)
    module = Toy(named=True)
    trainer(plane, tmp_path, max_epochs=5).fit(module, loader, loader)
    for name, values in outputs(module).items():
        points = plane.trajectory[name]
        assert [epoch for epoch, _, _ in points] == [0, 2, 4]
        assert points[-1][1:] == pytest.approx(by_hand(values, CLASSES, 8), abs=1e-9)
    found = sorted(path.stem for path in tmp_path.rglob("*.png"))
    assert found == ["epoch_000", "epoch_002", "epoch_004"]
    again = InformationPlane(LAYERS, "y", num_bins=8)
    again.load_state_dict(plane.state_dict())
    assert again.trajectory == plane.trajectory


@ignore_cautions
def test_two_planes_of_a_trainer_draw_in_folders_of_their_own(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    planes = [InformationPlane({name: path}, 1, num_bins=8) for name, path in LAYERS.items()]
    logger = TensorBoardLogger(tmp_path, name="", version="")
    options = {"max_epochs": 1, "log_every_n_steps": 1}
    trainer(planes, tmp_path, logger=logger, **options).fit(Toy(), data(), data())
    folders = ["information_plane", "information_plane_2"]
    for plane, folder in zip(planes, folders, strict=True):
        assert plane.last_figure == tmp_path / "figures" / folder / "epoch_000.png"
        assert plane.last_figure.is_file()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert sorted(events.Tags()["images"]) == folders


@ignore_cautions
def test_a_test_is_logged_on_request_and_nothing_else(tmp_path):
    plane = InformationPlane(LAYERS, 1, num_bins=8, stage="test")
    assert trainer(plane, tmp_path).validate(Toy(), data(), verbose=False) == [{}]
    (logged,) = trainer(plane, tmp_path).test(Toy(), data(), verbose=False)
    assert len(logged) == 4
    assert plane.last_figure.stem == "test"
    trainer(plane, tmp_path / "fast", fast_dev_run=True).test(Toy(), data(), verbose=False)
    assert not list((tmp_path / "fast").rglob("*.png"))


def test_a_network_that_diverged_has_no_values(tmp_path):
    module = Toy()
    module.net[0].weight.data.fill_(math.nan)
    plane = InformationPlane({"first": "net.1"}, 1)
    with warned("no samples", match="'first' has NaN or infinite outputs"):
        (logged,) = trainer(plane, tmp_path).validate(module, data(), verbose=False)
    assert all(math.isnan(value) for value in logged.values())


class Twice(Toy):
    def step(self, batch):
        self.net(batch[0])
        return super().step(batch)


@pytest.mark.parametrize(
    ("module", "options", "error", "message"),
    [
        (
            Toy,
            {"layers": {"a": "net.9"}},
            ValueError,
            r"but got 'net.9' for 'a'. It has: net, net.0",
        ),
        (Toy, {"target": 0}, ValueError, r"classes, but got torch.float32\[512, 12\] at 0"),
        (Twice, {}, ValueError, "once per batch.* called 2 times in 1 batches"),
        (Toy, {"layers": {}}, ValueError, "names and dotted paths"),
        (Toy, {"stage": "train"}, ValueError, "`stage` to be one of 'validation', 'test'"),
        (Toy, {"num_bins": 0}, ValueError, "`num_bins` to be at least 1"),
        (Toy, {"value_range": [1, 1]}, ValueError, "lo < hi"),
    ],
)
def test_what_can_not_be_watched_is_refused(module, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        trainer(InformationPlane(**({"layers": LAYERS, "target": 1} | options)), tmp_path).validate(
            module(), data(), verbose=False
        )


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_log_what_one_does(tmp_path):
    logged = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        command = [sys.executable, "-m", "tests.lightning.plane", str(folder), str(processes)]
        result = run(command, ROOT)
        assert result.returncode == 0, result.stderr
        logged[processes] = [torch.load(folder / f"{rank}.pt") for rank in range(processes)]
    (one,) = logged[1]
    assert set(one) == {
        "mi/codes",
        "entropy/codes",
        "mi/near",
        "entropy/near",
        "m/x0_y0",
        "m/x1_y0",
    }
    for of_two in logged[2]:
        assert of_two == one


def test_two_planes_of_a_stage_name_their_layers_apart(tmp_path):
    def with_second(**options):
        planes = [InformationPlane(LAYERS, 1, num_bins=8), InformationPlane(**options)]
        return trainer(planes, tmp_path).validate(Toy(), data(), verbose=False)

    layers = {"second": "net.3"}
    with pytest.raises(ValueError, match=r'would log mi/second in validation.*"second_8_bins"'):
        with_second(layers=layers, target=1, num_bins=4)
    (logged,) = with_second(layers={"second_4_bins": "net.3"}, target=1, num_bins=4)
    assert logged["mi/second"] != logged["mi/second_4_bins"]
    # In another stage the names are free.
    (logged,) = with_second(layers=layers, target=1, num_bins=4, stage="test")
    assert {"mi/first", "mi/second"} <= set(logged)


# -- matrices --------------------------------------------------------------------------------------


class Screening(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.matrix = MutualInformationMatrix(2, 2, 6)

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.matrix.update(x[:, :2], torch.stack([y, x[:, 1]], 1))

    def on_test_epoch_end(self):
        log_matrix(self, "mi", self.matrix, x_names=["age", "dose"])


def test_each_value_of_a_matrix_is_logged(tmp_path):
    module = Screening()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 2, generator=generator)
    y = x[:, 0] + torch.randn(500, generator=generator)
    loader = DataLoader(TensorDataset(x, y), 64)
    (logged,) = pl.Trainer(accelerator="cpu", **QUIET).test(module, loader, verbose=False)
    assert not module.matrix.seen.any()
    module.matrix.update(x, torch.stack([y, x[:, 1]], 1))
    expected = module.matrix.compute().tolist()
    assert logged == {
        "mi/age_y0": expected[0][0],
        "mi/age_y1": expected[0][1],
        "mi/dose_y0": expected[1][0],
        "mi/dose_y1": expected[1][1],
    }
    with pytest.raises(ValueError, match="Expected 2 `y_names`, one per column, but got 1"):
        log_matrix(module, "mi", module.matrix, y_names=["one"])
    with pytest.raises(TypeError, match="Expected a MutualInformationMatrix, but got Linear"):
        log_matrix(module, "mi", nn.Linear(1, 1))
