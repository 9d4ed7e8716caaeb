"""The trainer overlays, each run where its hardware is, and what the command line says where
something is missing.
"""

import re
import sys

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("sklearn")

from lightning.pytorch.strategies import DDPStrategy

from mi_metrics import cli
from mi_metrics.lightning.cli import MutualInformationCLI, condense, configs_folder
from mi_metrics.lightning.cli import main as run
from tests import processes
from tests.lightning.marks import lightning_cli

pytestmark = [pytest.mark.slow, lightning_cli]

OVERLAYS = sorted(path.stem for path in (configs_folder() / "trainer").glob("*.yaml"))
FIT = ["fit", "--config", "validation_metric"]


class ParsedError(Exception):
    """Carries the configuration of a command line that has been parsed and not run."""


@pytest.fixture
def parsed(monkeypatch):
    """Parse a command line with the parser that runs it, which checks every key and value."""

    def parse(args):
        with pytest.raises(ParsedError) as caught:
            run(args)
        return caught.value.args[0]

    def stop(self):
        raise ParsedError(self.config[self.subcommand])

    monkeypatch.setattr(MutualInformationCLI, "before_instantiate_classes", stop)
    return parse


def refusal(args, capsys):
    """Return the one line with which the command line refuses some arguments."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(args)
    message = capsys.readouterr().err
    assert message.startswith("mi-metrics: error: ")
    assert message.count("\n") == 1
    assert len(message) < 400
    return message


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("config", ["validation_metric", "registration", "fair_representation"])
def test_every_overlay_is_accepted_after_every_configuration(config, overlay, parsed):
    pytest.importorskip("skimage")
    before = parsed(["fit", "--config", config]).trainer.as_dict()
    after = parsed(["fit", "--config", config, "--config", f"trainer/{overlay}"]).trainer.as_dict()
    # An overlay changes where a job runs and on how many devices, and nothing about the job.
    changed = {key for key in before | after if after[key] != before[key]}
    assert changed <= {"accelerator", "devices", "strategy", "use_distributed_sampler"}
    assert after["accelerator"] == ("gpu" if "gpu" in overlay else "cpu")
    assert after["max_epochs"] > 1


@pytest.mark.parametrize(
    ("overlay", "devices", "backend"),
    [("cpu", 1, None), ("gpu", 1, None), ("ddp_cpu", 2, "gloo"), ("ddp_gpu", "auto", "nccl")],
)
def test_what_an_overlay_asks_for(overlay, devices, backend, parsed):
    trainer = parsed([*FIT, "--config", f"trainer/{overlay}"]).trainer
    assert trainer.devices == devices
    if backend is None:
        assert trainer.strategy == "auto"
    else:
        assert trainer.strategy.class_path == "lightning.pytorch.strategies.DDPStrategy"
        assert DDPStrategy(**trainer.strategy.init_args.as_dict()).process_group_backend == backend
        # The data modules bring samplers that repeat no sample.
        assert trainer.use_distributed_sampler is False


def test_every_overlay_is_described_here():
    assert OVERLAYS == ["cpu", "ddp_cpu", "ddp_gpu", "gpu"]


def test_the_cpu_overlay_undoes_another_one(parsed):
    cluster = ["--config", "trainer/ddp_gpu", "--trainer.num_nodes=4"]
    trainer = parsed([*FIT, *cluster, "--config", "trainer/cpu"]).trainer
    assert (trainer.accelerator, trainer.devices, trainer.num_nodes, trainer.strategy) == (
        "cpu",
        1,
        1,
        "auto",
    )


def test_the_cpu_overlay_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trainer = run([*FIT, "--config", "trainer/cpu", "--trainer.fast_dev_run=1"]).trainer
    assert (trainer.world_size, trainer.strategy.root_device.type) == (1, "cpu")
    assert "val/mi" in trainer.callback_metrics


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="Apple's GPUs have no float64")
@pytest.mark.parametrize("overlay", ["gpu", pytest.param("ddp_gpu", marks=pytest.mark.distributed)])
def test_a_gpu_overlay_runs_or_ends_in_one_line(overlay, tmp_path):
    # In a process of its own: Lightning starts the others with this one's arguments.
    command = [sys.executable, "-m", "mi_metrics.cli", *FIT, "--config", f"trainer/{overlay}"]
    options = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    result = processes.run([*command, *options], tmp_path)
    if torch.cuda.is_available():
        assert result.returncode == 0, result.stderr
        assert (
            "best checkpoint: runs/validation_metric/version_0/checkpoints/best.ckpt"
            in result.stdout
        )
    else:
        assert result.returncode == 2
        # Above it, PyTorch may say of which driver it found none.
        assert re.match(r"mi-metrics: error: .*\bgpu\b", result.stderr.splitlines()[-1])
        assert "Traceback" not in result.stderr
        assert list(tmp_path.iterdir()) == []


class TestRefusals:
    """One line instead of a traceback or two pages of options."""

    @pytest.mark.parametrize("command", ["fit", "validate", "test"])
    def test_a_checkpoint_that_is_not_there(self, command, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        message = refusal(
            [command, "--config", "validation_metric", "--ckpt_path", "runs/none.ckpt"], capsys
        )
        assert "Expected --ckpt_path to be a checkpoint, but there is no runs/none.ckpt." in message
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("option", "reason"),
        [
            ("--trainer.max_epochs=x", r"trainer\.max_epochs.*Expected a <class 'int'>.*x"),
            ("--trainer.devices=0", "devices='0'"),
            ("--trainer.no_such_option=1", "no_such_option"),
            ("--model.init_args.code_dim=many", "code_dim.*Expected a <class 'int'>.*many"),
            ("--model.init_args.code_dim=-1", r"negative dimension.*JSONARGPARSE_DEBUG=true"),
            ("--model.init_args.no_such_argument=1", "'no_such_argument' is not accepted"),
            ("--model.init_args.metrics.mi.init_args.unit=nat", r"'nats', 'bits'.*nat$"),
            (
                "--model.init_args.metrics.mi.init_args.num_bins=-1",
                "Expected `num_bins` to be at least 1, but got -1",
            ),
        ],
    )
    def test_a_bad_value(self, option, reason, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        message = refusal([*FIT, option], capsys)
        assert re.search(reason, message.rstrip()), message
        assert "Namespace" not in message

    def test_a_bad_file(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mine.yaml").write_text("trainer: {no_such_option: 1}\n")
        assert "no_such_option" in refusal([*FIT, "--config", "mine.yaml"], capsys)

    def test_no_model(self, capsys):
        assert "fit.model" in refusal(["fit"], capsys)

    def test_debugging_gives_the_error_itself(self, monkeypatch, capsys):
        monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
        with pytest.raises(Exception, match="negative dimension") as caught:
            cli.main([*FIT, "--model.init_args.code_dim=-1"])
        assert not isinstance(caught.value, SystemExit)

    def test_what_is_left_out_of_a_message(self):
        message = """Parser key "model":
          Does not validate against any of the Union subtypes
          Subtypes: [<class 'Model'>, <class 'NoneType'>]
          Errors:
            - Problem with given class_path 'Model':
                Expected a <class 'int'>
            - Expected a <class 'NoneType'>
          Given value type: <class 'Namespace'>
          Given value: Namespace(class_path='Model', init_args=Namespace(a=1))"""
        expected = (
            "Parser key \"model\": Problem with given class_path 'Model': Expected a <class 'int'>"
        )
        assert condense(message) == expected
        assert condense("Expected `a`; but got -1.") == "Expected `a`; but got -1."
        assert (
            condense("Expected a <class 'int'>\nGiven value: x")
            == "Expected a <class 'int'>; Given value: x"
        )
