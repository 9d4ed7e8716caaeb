"""What version 0.1.0 wrote, and imports of its paths: they still work."""

import importlib
import importlib.util
import pickle
import sys
from pathlib import Path

import pytest
import torch
import yaml

import mi_metrics
from mi_metrics import moved
from mi_metrics.functional.neighbors import search
from tests import processes
from tests.cautions import ignore_cautions

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
SAVED = torch.load(DATA / "metrics_0.1.0.pt")
PICKLES = torch.load(DATA / "pickles_0.1.0.pt")


def fresh(name: str) -> None:
    """Forget a module under its old name, also as an attribute of the package above it."""
    sys.modules.pop(name, None)
    package, _, attribute = name.rpartition(".")
    vars(importlib.import_module(package)).pop(attribute, None)


@pytest.mark.parametrize("old", [n for n in moved.MODULES if ".lightning." not in n])
def test_an_old_module_is_the_new_one(old):
    fresh(old)
    with pytest.warns(DeprecationWarning, match="is now") as seen:
        module = importlib.import_module(old)
    assert module is importlib.import_module(moved.MODULES[old])
    assert module.__spec__.name == moved.MODULES[old]
    (warning,) = (w for w in seen if str(w.message).startswith(f"{old} is now"))
    assert str(warning.message) == (
        f"{old} is now {moved.MODULES[old]}. The old path will be gone in the next release."
    )


def test_the_warning_names_the_users_line():
    fresh("mi_metrics.grid")
    with pytest.warns(DeprecationWarning, match="mi_metrics.states.grid") as seen:
        from mi_metrics import grid
    assert seen[0].filename == __file__
    assert grid is importlib.import_module("mi_metrics.states.grid")


@pytest.mark.parametrize("old", [n for n in moved.MODULES if ".lightning." in n])
def test_an_old_module_of_the_examples_is_where_it_is_said_to_be(old):
    assert importlib.util.find_spec(moved.MODULES[old]) is not None
    assert importlib.util.find_spec(old).loader.__class__ is moved.MovedModules


@pytest.mark.parametrize("old", moved.NAMES)
def test_an_old_name_is_the_new_one(old):
    module, _, name = old.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"^{old} is now {moved.NAMES[old]}.{name}") as seen:
        found = getattr(importlib.import_module(module), name)
    assert seen[0].filename == __file__
    assert found is getattr(importlib.import_module(moved.NAMES[old]), name)


def test_names_of_the_old_module_of_neighbours():
    with pytest.warns(DeprecationWarning, match=r"neighbors\.search\.nearest") as seen:
        from mi_metrics.functional.neighbors import nearest
    assert nearest is search.nearest
    assert seen[0].filename == __file__


@pytest.mark.parametrize("name", ["mi_metrics.absent", "mi_metrics.lightning.absent"])
def test_what_never_was_is_not_found(name):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)
    module, _, attribute = name.rpartition(".")
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        getattr(importlib.import_module(module), attribute)


def test_one_finder_is_enough():
    moved.install()
    assert sum(isinstance(f, moved.MovedModules) for f in sys.meta_path) == 1


@ignore_cautions
@pytest.mark.parametrize("name", [n for n in SAVED["metrics"] if n != "bounded neighbours"])
def test_a_saved_state_has_its_value(name):
    saved = SAVED["metrics"][name]
    metric = getattr(mi_metrics, saved["class"])(**saved["arguments"])
    metric.persistent(True)
    metric.load_state_dict(saved["state"])
    assert metric.compute().item() == pytest.approx(saved["value"].item(), abs=1e-9)


@ignore_cautions
@pytest.mark.filterwarnings("ignore:mi_metrics.* is now:DeprecationWarning")
@pytest.mark.parametrize("name", [n for n in PICKLES if n != "bounded neighbours"])
def test_a_pickled_metric_has_its_value_and_goes_on(name):
    metric = pickle.loads(PICKLES[name])
    saved = SAVED["metrics"][name]
    assert metric.compute().item() == pytest.approx(saved["value"].item(), abs=1e-9)
    x, y = SAVED["x"], SAVED["y"]
    metric.update(x[:7], y[:7])
    metric(x[7:], y[7:])
    value = metric.compute().item()
    twin = getattr(mi_metrics, saved["class"])(**saved["arguments"])
    for _ in range(2):
        twin.update(x, y)
    assert value == pytest.approx(twin.compute().item(), abs=1e-9)
    assert pickle.loads(pickle.dumps(metric)).compute().item() == value
    metric.reset()
    assert metric.compute().isnan()


def test_a_bounded_sample_of_the_first_version_is_refused():
    saved = SAVED["metrics"]["bounded neighbours"]
    metric = getattr(mi_metrics, saved["class"])(**saved["arguments"])
    metric.persistent(True)
    with pytest.raises(RuntimeError, match=r"bounded sample is of version 0\.1\.0, which kept or"):
        metric.load_state_dict(saved["state"])


@pytest.mark.slow
def test_the_command_line_reads_class_paths_of_the_first_version(tmp_path):
    config = yaml.safe_load((ROOT / "configs" / "validation_metric.yaml").read_text())
    for part in ("model", "data"):
        config[part]["class_path"] = config[part]["class_path"].replace("examples", "lightning")
    assert config["model"]["class_path"] == "mi_metrics.lightning.DigitsAutoencoder"
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(config))
    options = ["--trainer.fast_dev_run=true", "--trainer.logger=false"]
    command = [sys.executable, "-m", "mi_metrics", "fit", "--config", str(path), *options]
    result = processes.run(command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "val/mi" in result.stdout
