"""A fit that was killed goes on from its checkpoint, and logs what it would have logged."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from tests import processes
from tests.lightning.modules import LIGHTNING_WARNINGS, estimators, offline
from tests.lightning.resumable import BATCHES, EPOCHS, EVERY, Training, fit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        *LIGHTNING_WARNINGS,
        # The folder of the run that goes on is that of the run that ended.
        r"ignore:Checkpoint directory .* exists and is not empty",
    ),
]

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = {f"{how}/{name}" for how in ("single", "together") for name in estimators()}


def assert_same(logged, whole):
    assert set(logged) >= NAMES
    for name in NAMES:
        assert torch.equal(logged[name], whole[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A fit that nothing interrupts, and its folder of checkpoints."""
    module, folder = Training(), tmp_path_factory.mktemp("whole")
    fit(module, folder)
    return module, folder


def test_an_uninterrupted_fit_logs_what_all_samples_give(whole):
    module, folder = whole
    assert list(module.logged) == list(range(EPOCHS))
    for epoch, values in module.logged.items():
        expected = offline(module.seen[epoch], "")
        for name in NAMES:
            assert torch.equal(values[name], expected[name.split("/")[1]]), name
    steps = range(EVERY, EPOCHS * BATCHES + 1, EVERY)
    assert {path.name for path in folder.iterdir()} == {f"step={step}.ckpt" for step in steps}


# 5 to 14 are in the first epoch, 20 to 29 in the second.
@pytest.mark.parametrize("step", [11, 28])
def test_a_killed_fit_goes_on_where_its_checkpoint_was_saved(step, whole, tmp_path):
    command = [sys.executable, "-m", "tests.lightning.resumable", str(tmp_path), str(step)]
    killed = processes.run(command, ROOT)
    assert killed.returncode == -9, killed.stderr
    saved = step // EVERY * EVERY
    assert {path.name for path in tmp_path.iterdir()} == {
        f"step={s}.ckpt" for s in range(EVERY, step, EVERY)
    }
    path = tmp_path / f"step={saved}.ckpt"
    # Tensors in dicts and lists, and no code.
    states = torch.load(path, weights_only=True)["state_dict"]
    assert {"single.known.table", "single.knn.samples", "together.bounded.samples"} <= set(states)
    assert not any(key.startswith("validation") for key in states)

    module = Training()
    fit(module, tmp_path, path)
    first = saved // BATCHES
    # Only what came after the checkpoint was computed again.
    assert sum(len(x) for x, _ in module.seen[first]) == 1000 - 64 * (saved % BATCHES)
    assert list(module.logged) == list(range(first, EPOCHS))
    for epoch, values in module.logged.items():
        assert_same(values, whole[0].logged[epoch])


@pytest.mark.parametrize(
    "when",
    [
        pytest.param({"save_on_train_epoch_end": True}, id="after the epoch"),
        pytest.param({"save_on_train_epoch_end": False}, id="after validation"),
        pytest.param(
            {"every_n_train_steps": BATCHES},
            id="after the last step",
            marks=pytest.mark.skipif(
                version("lightning").startswith("2.4."),
                reason="Lightning 2.4 repeats a batch of the epoch that is over",
            ),
        ),
    ],
)
def test_a_fit_goes_on_after_an_epoch(when, whole, tmp_path):
    fit(Training(), tmp_path, **when)
    module, polluted = Training(), Training(reset=False)
    path = tmp_path / f"step={BATCHES}.ckpt"
    fit(module, tmp_path, path, **when)
    assert {epoch for epoch in module.logged if module.seen[epoch]} == {1, 2}
    for epoch in (1, 2):
        assert_same(module.logged[epoch], whole[0].logged[epoch])
    # Lightning saves before it resets, so that the checkpoint has the samples of the epoch that is
    # over. This is what the reset at the first batch is for; Lightning does not call
    # `on_train_epoch_start` in all three cases.
    fit(polluted, tmp_path, path, **when)
    assert all(polluted.logged[1][name] != whole[0].logged[1][name] for name in NAMES)
    assert_same(polluted.logged[2], whole[0].logged[2])


def test_a_checkpoint_of_another_configuration_is_refused_with_both_named(whole, tmp_path):
    module = Training(num_bins=(4, 6), value_range=((-1.0, 1.0), (-8.0, 9.0)))
    message = (
        r"(?s)While loading single\.known\.: it belongs to a metric with .*y_hi=8.*"
        r"but this metric has .*y_hi=9"
    )
    with pytest.raises(RuntimeError, match=message):
        fit(module, tmp_path, whole[1] / f"step={EVERY}.ckpt")
    assert module.logged == {}
