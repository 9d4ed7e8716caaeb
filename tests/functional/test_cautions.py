"""Cautions: their words and kinds, and the line of the user's that they name."""

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import MetricCollection

import mi_metrics
from mi_metrics import BinnedMutualInformation, KNNMutualInformation, MutualInformationWarning
from mi_metrics.functional import binned_mutual_information, mutual_information
from mi_metrics.functional.cautions import KINDS
from tests.cautions import warned

THIN = torch.ones(5, 5, dtype=torch.int64)
X, Y = torch.rand(2, 500, generator=torch.Generator().manual_seed(0))


def place(comment: str) -> tuple[str, int]:
    """Return this file and the number of its one line that ends in a comment."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if line.endswith(f"  # {comment}"))
    return __file__, number


def places(seen: list[warnings.WarningMessage]) -> set[tuple[str, int]]:
    return {(w.filename, w.lineno) for w in seen}


def run_as(file: str, module: str, source: str) -> dict[str, Any]:
    """Run code as if it stood in another file."""
    names: dict[str, Any] = {"__name__": module}
    exec(compile(source, file, "exec"), names)
    return names


def fed() -> BinnedMutualInformation:
    metric = BinnedMutualInformation(32)
    metric.update(X, Y)
    return metric


# -- what a caution is -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            THIN,
            "25 samples occupy 25 cells of the joint table, 100 % of them alone in theirs: the "
            "uncorrected mutual information is too large by 0.32 nats or more. Use fewer bins "
            '(num_bins="auto"), more samples, or variables with fewer values.',
        ),
        (
            2 * THIN,
            "50 samples occupy 25 cells of the joint table, 0 % of them alone in theirs: the "
            "uncorrected mutual information is too large by 0.16 nats or more. Use fewer bins "
            '(num_bins="auto"), more samples, or a bias correction ("miller_madow", or '
            '"grassberger" for whole counts).',
        ),
    ],
)
def test_the_words(table: torch.Tensor, message: str):
    with warned("undersampled") as seen:
        mutual_information(table)
    assert str(seen[0].message) == message


def test_the_kind_has_to_be_one_of_them():
    with pytest.raises(ValueError, match=r"to be one of coarse grid, .*, but got 'doubt'"):
        MutualInformationWarning("A doubt.", "doubt")


@pytest.mark.parametrize("kind", KINDS)
def test_survives_pickling_and_copying(kind):
    original = MutualInformationWarning("What is doubtful.", kind)
    for twin in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original)):
        assert type(twin) is MutualInformationWarning
        assert str(twin) == "What is doubtful."
        assert twin.kind == kind


def test_is_filtered_by_its_class():
    assert issubclass(MutualInformationWarning, UserWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MutualInformationWarning)
        mutual_information(THIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MutualInformationWarning)
        with pytest.raises(MutualInformationWarning) as caught:
            mutual_information(THIN)
    assert caught.value.kind == "undersampled"


def test_is_filtered_from_the_command_line_and_the_environment():
    script = (
        "import torch\n"
        "from mi_metrics.functional import mutual_information\n"
        "mutual_information(torch.ones(5, 5))\n"
    )
    said = {}
    for option in ("default", "ignore::UserWarning"):
        command = [sys.executable, "-W", option, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        said[option] = [line for line in done.stderr.splitlines() if "samples occupy" in line]
    assert said["ignore::UserWarning"] == []
    (line,) = said["default"]
    assert line.startswith("<string>:3: MutualInformationWarning: 25 samples")


# -- whose line ------------------------------------------------------------------------------------


def test_a_function_says_it_at_each_call():
    with warned("undersampled", "undersampled") as seen:
        for _ in range(2):
            binned_mutual_information(X, Y, 32)  # the call
    assert places(seen) == {place("the call")}


def test_python_decides_about_repeats_of_a_line():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            binned_mutual_information(X, Y, 32)
    assert len(seen) == 1


def test_a_metric_says_it_once_since_it_was_built():
    metric = fed()
    with warned("undersampled") as seen:
        metric.compute()  # the value
        metric.update(X[:99], Y[:99])
        metric.compute()
        metric.reset()
        metric.update(X, Y)
        metric.compute()
        metric.clone().compute()
    assert places(seen) == {place("the value")}


def test_forward_is_silent_about_its_batch():
    metric = BinnedMutualInformation(32)
    with warned():
        metric(X, Y)
    with warned("undersampled"):
        metric.compute()


DOUBTFUL = """
from mi_metrics import BinnedMutualInformation

class Doubtful(BinnedMutualInformation):
    def update(self, x, y):
        super().update(x, y)
        self._warn_once("pooled", "What was given.", of_input=True)
"""


def test_forward_says_what_is_doubtful_about_samples():
    package = Path(mi_metrics.__file__).parent
    metric = run_as(f"{package}/doubtful.py", "mi_metrics.doubtful", DOUBTFUL)["Doubtful"](2)
    with warned("pooled") as seen:
        metric(X, Y)  # the batch
        metric(X, Y)
    assert places(seen) == {place("the batch")}


def test_a_collection_names_the_line_that_asked_it():
    collection = MetricCollection({"a": BinnedMutualInformation(32), "b": KNNMutualInformation(3)})
    collection.update(X, Y)
    with warned("undersampled") as seen:
        collection.compute()  # the collection
    assert places(seen) == {place("the collection")}


class Doubled(BinnedMutualInformation):
    """A user's own metric."""

    def compute(self) -> torch.Tensor:
        return 2 * super().compute()  # the subclass


def test_a_users_subclass_is_a_users_line():
    metric = Doubled(32)
    metric.update(X, Y)
    with warned("undersampled") as seen:
        metric.compute()
    assert places(seen) == {place("the subclass")}


def test_a_users_function_is_a_users_line():
    def mine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return binned_mutual_information(x, y, 32)  # the wrapper

    with warned("undersampled") as seen:
        torch.no_grad()(mine)(X, Y)
    assert places(seen) == {place("the wrapper")}


SAYS = "from mi_metrics.functional.cautions import caution\ncaution('copies', 'Said.')\n"


def test_a_package_whose_path_begins_as_ours_is_another():
    file = f"{Path(mi_metrics.__file__).parent}_demo/script.py"
    with warned("copies") as seen:
        run_as(file, "mi_metrics_demo.script", SAYS)
    assert places(seen) == {(file, 2)}


def test_without_any_user_the_outermost_line_is_named():
    script = f"exec(compile({SAYS!r}, 'loop.py', 'exec'), {{'__name__': 'torch.loop'}})"
    # The script itself is torch's, as far as one can see.
    command = [sys.executable, "-c", f"__name__ = 'torch'\n{script}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "<string>:2: MutualInformationWarning: Said." in done.stderr


def test_nothing_else_in_the_package_warns():
    package = Path(mi_metrics.__file__).parent
    callers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "warnings.warn(" in path.read_text()
    }
    # The others say that a name has moved.
    moved = {"moved.py", "functional/neighbors/__init__.py"}
    assert callers - moved == {"functional/cautions.py"}
