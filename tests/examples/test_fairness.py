"""Mutual information as a penalty, on patients' data."""

import contextlib
import io
import sys

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("sklearn")
pytest.importorskip("tensorboard")

from mi_metrics.examples import DiabetesDataModule, FairRegression, equalised_odds, trade_off
from mi_metrics.examples.fairness import classes
from mi_metrics.lightning.cli import main as run
from mi_metrics.losses import MutualInformationPenalty
from tests.lightning.marks import lightning_cli

pytestmark = [
    lightning_cli,
    # Both warnings are Lightning's: the first comes on the command line too, the second is its own
    # use of PyTorch.
    pytest.mark.filterwarnings("ignore:.*does not have many workers which may be a bottleneck"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\).* is deprecated"),
]


def parts(**options):
    data = DiabetesDataModule(**options)
    data.setup()
    return [
        next(iter(loader))
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    ]


@pytest.mark.slow
def test_the_bundled_configuration_runs(tmp_path):
    text = io.StringIO()
    with (
        contextlib.chdir(tmp_path),
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
    ):
        cli = run(["fit", "--config", "fair_representation", "--trainer.max_epochs=2"])
        best = str(tmp_path / cli.trainer.checkpoint_callback.best_model_path)
        tested = run(["test", "--config", "fair_representation", "--ckpt_path", best])
    logged = set(cli.trainer.callback_metrics)
    assert {"val/r2", "val/mi", "val/odds", "train/error", "train/penalty"} <= logged
    assert set(tested.trainer.callback_metrics) == {"test/r2", "test/mi", "test/odds"}
    assert "site-packages" not in text.getvalue()
    default = FairRegression()
    assert dict(default.hparams).items() <= dict(cli.model.hparams).items()
    assert repr(cli.model.penalty) == repr(default.penalty)


@pytest.mark.slow
def test_the_configuration_of_equalised_odds_runs(tmp_path):
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(io.StringIO()):
        cli = run(["fit", "--config", "equalised_odds", "--trainer.max_epochs=2"])
    assert cli.model.penalty.num_conditions == 3
    assert cli.datamodule.attribute == "bmi"
    assert {"val/r2", "val/mi", "val/odds"} <= set(cli.trainer.callback_metrics)


@pytest.mark.slow
def test_equalised_odds_leave_what_the_progression_explains():
    runs = (("none", 0.0, None), ("parity", 30.0, None), ("odds", 30.0, 3))
    results = equalised_odds.compare(runs, splits=4)
    none, parity, odds = (rows.mean(0).tolist() for rows in results.values())
    # Both take away what the prediction tells of the attribute beyond the progression.
    assert none[2] > 0.05
    assert max(parity[2], odds[2]) < none[2] / 2
    # Parity takes away what the progression tells of it, and with it the prediction.
    assert odds[0] > parity[0] + 0.05
    assert odds[1] > parity[1]


def test_the_table_of_equalised_odds_has_a_row_for_each_penalty(monkeypatch, capsys):
    rows = torch.tensor([[0.4, 0.2, 0.1], [0.2, 0.4, 0.1]])
    monkeypatch.setattr(equalised_odds, "compare", lambda **_: {("odds", 3.0): rows})
    equalised_odds.main()
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row == ["odds", "3", "0.300", "±", "0.100", "0.300", "±", "0.100", "0.100", "±", "0.000"]


def test_classes_have_about_as_many_members_each():
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    found = classes(values, 3)
    assert torch.bincount(found).tolist() == [34, 33, 33]
    assert values[found == 0].max() < values[found == 1].min()
    assert values[found == 1].max() < values[found == 2].min()


def test_any_measurement_may_be_the_attribute():
    (features, _, attribute), *_ = parts(attribute="bmi")
    assert features[attribute == 1, 2].min() > features[attribute == 0, 2].max()
    with pytest.raises(ValueError, match="`attribute` to be one of age, sex, bmi"):
        parts(attribute="height")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_second_run_without_a_logger_takes_the_place_of_the_first(tmp_path):
    options = [
        "--config",
        "fair_representation",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
    ]
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(io.StringIO()):
        for epochs in (2, 1):
            run(["fit", *options, f"--trainer.max_epochs={epochs}"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.yaml"]
    assert "max_epochs: 1\n" in (tmp_path / "config.yaml").read_text()
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 0


@pytest.mark.slow
def test_the_penalty_removes_what_the_code_tells_about_sex_on_patients_not_trained_on():
    results = trade_off.trade_off((0.0, 1.0), splits=5)
    (r2, mi), (fair_r2, fair_mi) = (rows.mean(0).tolist() for rows in results.values())
    assert mi > 0.15
    assert fair_mi < mi / 2
    # Progression and sex are almost independent (r = 0.04), so here nothing has to be given up.
    assert fair_r2 > r2 - 0.05


def test_the_table_has_a_row_for_each_weight(monkeypatch, capsys):
    monkeypatch.setattr(
        trade_off, "trade_off", lambda **_: {0.0: torch.tensor([[0.4, 0.2], [0.2, 0.4]])}
    )
    trade_off.main()
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "0",
        "0.300",
        "±",
        "0.100",
        "0.300",
        "±",
        "0.100",
    ]


def test_every_patient_is_in_one_part_and_sex_is_a_feature():
    batches = parts(split_seed=1)
    assert [len(features) for features, _, _ in batches] == [221, 88, 133]
    features, progression, sex = (torch.cat(v) for v in zip(*batches, strict=True))
    assert len(features.unique(dim=0)) == 442
    assert (features.shape, progression.shape, sex.shape) == ((442, 10), (442,), (442,))
    assert sex.unique().tolist() == [0, 1]
    assert (features[sex == 1, 1].min() > features[sex == 0, 1].max()).item()


def test_what_is_standardised_is_the_training_part():
    features, progression, _ = parts()[0]
    for v in (features, progression):
        torch.testing.assert_close(v.mean(0), torch.zeros(v.shape[1:]), rtol=0, atol=1e-5)
        torch.testing.assert_close(v.std(0), torch.ones(v.shape[1:]))


def test_a_seed_is_a_split():
    assert torch.equal(parts(split_seed=2)[2][0], parts(split_seed=2)[2][0])
    assert not torch.equal(parts(split_seed=2)[2][0], parts(split_seed=3)[2][0])


def test_the_loss_is_the_error_plus_the_weighted_penalty(monkeypatch):
    batch = parts()[0]
    monkeypatch.setattr(FairRegression, "log_dict", lambda *_, **__: None)
    losses = []
    for weight in (0.0, 1.0, 3.0):
        torch.manual_seed(0)
        losses.append(FairRegression(weight).training_step(batch, 0).item())
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-4)
    assert losses[1] > losses[0]
    # And given classes of the progression.
    torch.manual_seed(0)
    penalty = MutualInformationPenalty((8, 2), pool="batch", num_conditions=3)
    model = FairRegression(1.0, penalty)
    features, progression, sex = batch
    code, _ = model(features)
    expected = penalty(
        code, sex.float()[:, None].expand_as(code), condition=classes(progression, 3)
    )
    assert model.training_step(batch, 0).item() == pytest.approx(
        losses[0] + expected.item(), rel=1e-4
    )


def test_without_scikit_learn_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mi-metrics\[demo\]"'):
        DiabetesDataModule().setup()
