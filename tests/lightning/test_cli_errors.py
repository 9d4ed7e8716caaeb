"""A setting that is refused is one line; an error in somebody's own code is raised as it was, with
file and line.
"""

import errno
import traceback
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("sklearn")

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from mi_metrics import BinnedMutualInformation, cli
from mi_metrics.lightning.cli import MutualInformationCLI
from mi_metrics.lightning.cli import main as run
from mi_metrics.states import header
from tests.lightning.marks import lightning_cli

pytestmark = [pytest.mark.slow, lightning_cli]

HERE = "tests.lightning.test_cli_errors"
DIGITS = ["--data", "mi_metrics.examples.DigitsDataModule"]
REFUSED = [
    "fit",
    "--config",
    "validation_metric",
    "--model.init_args.metrics.mi.init_args.num_bins=0",
]


def fail(how: str) -> None:
    match how:
        case "key":
            {}["absent"]
        case "attribute":
            _ = torch.absent
        case "type":
            _ = None + 1
        case "value":
            int("one")
        case "assertion":
            raise AssertionError("never")
        case "import":
            import no_such_module  # noqa: F401
        case "in PyTorch":
            nn.Linear(-1, 1)
        case "in mi_metrics":
            BinnedMutualInformation(0)
        case "connection":
            raise BrokenPipeError(errno.EPIPE, "a server has gone")
        case "disk":
            raise OSError(errno.ENOSPC, "a file of theirs")
        case "misconfiguration":
            raise MisconfigurationException("`how` has to be something else")


class Inner(nn.Module):
    def __init__(self, how: str = "") -> None:
        super().__init__()
        fail(how)


class Module(pl.LightningModule):
    def __init__(self, how: str = "", inner: Inner | int | None = None) -> None:
        super().__init__()
        fail(how)


class Data(pl.LightningDataModule):
    def __init__(self, how: str = "") -> None:
        super().__init__()
        fail(how)


ERRORS = {
    "key": (KeyError, '{}["absent"]'),
    "attribute": (AttributeError, "_ = torch.absent"),
    "type": (TypeError, "_ = None + 1"),
    "value": (ValueError, 'int("one")'),
    "assertion": (AssertionError, 'raise AssertionError("never")'),
    "import": (ModuleNotFoundError, "import no_such_module  # noqa: F401"),
    "connection": (BrokenPipeError, 'raise BrokenPipeError(errno.EPIPE, "a server has gone")'),
    "disk": (OSError, 'raise OSError(errno.ENOSPC, "a file of theirs")'),
    "in PyTorch": (RuntimeError, "nn.Linear(-1, 1)"),
    "in mi_metrics": (ValueError, "BinnedMutualInformation(0)"),
}


def raised(error, args):
    """Return the traceback that the command line ends with, and its last line in this file."""
    with pytest.raises(error) as caught:
        cli.main(args)
    assert type(caught.value) is error
    lines = [
        frame.line
        for frame in traceback.extract_tb(caught.value.__traceback__)
        if frame.filename == __file__
    ]
    return "".join(traceback.format_exception(caught.value)), lines[-1]


@pytest.mark.parametrize("how", ERRORS)
def test_an_error_in_a_module_is_raised_as_it_was(how, capsys):
    error, line = ERRORS[how]
    text, last = raised(
        error, ["fit", f"--model={HERE}.Module", f"--model.init_args.how={how}", *DIGITS]
    )
    assert last == line
    # Not within what jsonargparse says of the types that the value could have had.
    assert "Union" not in text
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", ["key", "attribute", "type"])
def test_an_error_in_data_or_in_an_argument_too(how):
    error, line = ERRORS[how]
    data = [f"--data={HERE}.Data", f"--data.init_args.how={how}"]
    # One of three types that the argument could have had.
    inner = [
        f"--model.init_args.inner={HERE}.Inner",
        f"--model.init_args.inner.init_args.how={how}",
        *DIGITS,
    ]
    for options in (data, inner):
        assert raised(error, ["fit", f"--model={HERE}.Module", *options])[1] == line


def test_a_module_that_can_t_be_imported_names_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in (
        ("mi_test_name", "\nabsent\n"),
        ("mi_test_import", "\nimport no_such_module\n"),
    ):
        path = tmp_path / f"{name}.py"
        path.write_text(code)
        with pytest.raises((NameError, ModuleNotFoundError)) as caught:
            cli.main(["fit", f"--model={name}.Module", *DIGITS])
        last = traceback.extract_tb(caught.value.__traceback__)[-1]
        assert (Path(last.filename), last.lineno) == (path, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("no_such_module.Module", "No module named 'no_such_module'"),
        (f"{HERE}.Absent", "no attribute 'Absent'"),
    ],
)
def test_a_name_that_is_not_there_is_one_line(model, reason, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["fit", f"--model={model}", *DIGITS])
    message = capsys.readouterr().err
    assert message.startswith("mi-metrics: error: ")
    assert message.count("\n") == 1
    assert reason in message


def test_a_module_may_refuse_a_setting_as_lightning_does(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(
            ["fit", f"--model={HERE}.Module", "--model.init_args.how=misconfiguration", *DIGITS]
        )
    assert "`how` has to be something else" in capsys.readouterr().err


def test_a_defect_of_the_package_is_not_a_refusal(monkeypatch):
    monkeypatch.delitem(header.CHOICES, "nan_strategy")
    with pytest.raises(KeyError, match="nan_strategy"):
        cli.main(["fit", "--config", "validation_metric"])


@pytest.mark.parametrize("value", ["", "false", "False"])
def test_debugging_that_is_switched_off_is_off(value, monkeypatch, capsys):
    monkeypatch.setenv("JSONARGPARSE_DEBUG", value)
    with pytest.raises(SystemExit, match="2"):
        cli.main(REFUSED)
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert (
        "Expected `num_bins` to be at least 1, but got 0. (JSONARGPARSE_DEBUG=true shows where)"
        in message
    )


@pytest.mark.skipif(
    tuple(map(int, version("jsonargparse").split(".")[:2])) < (4, 51),
    reason="jsonargparse up to 4.50 has words of its own there",
)
@pytest.mark.parametrize("value", ["true", "True"])
def test_debugging_raises_what_is_refused(value, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEBUG", value)
    with pytest.raises(
        Exception, match="Expected `num_bins` to be at least 1, but got 0"
    ) as caught:
        cli.main(REFUSED)
    assert "check_integer" in "".join(traceback.format_exception(caught.value))


class Reached(Exception):  # noqa: N818
    """The checkpoint has been accepted."""


@pytest.mark.parametrize(
    ("checkpoint", "accepted"),
    [
        ("last", True),
        ("registry", True),
        ("registry:mine:version:2", True),
        ("Registry:mine", True),
        ("s3://bucket/best.ckpt", True),
        ("registry_of_mine.ckpt", False),
        ("none:best.ckpt", False),
        (r"C:\runs\best.ckpt", False),
    ],
)
def test_checkpoints_elsewhere_are_not_looked_for_here(checkpoint, accepted, monkeypatch, capsys):
    def reached(self):
        raise Reached

    monkeypatch.setattr(MutualInformationCLI, "instantiate_classes", reached)
    with pytest.raises(Reached if accepted else SystemExit):
        run(["test", "--config", "validation_metric", "--ckpt_path", checkpoint])
    message = (
        ""
        if accepted
        else f"Expected --ckpt_path to be a checkpoint, but there is no {checkpoint}."
    )
    assert message in capsys.readouterr().err
