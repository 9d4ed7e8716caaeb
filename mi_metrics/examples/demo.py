"""What `make demo` runs: mutual information as a validation metric, on one and two processes, and
as a training loss.

The steps are commands that a user would type; what they print is left as it is.
"""

import csv
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint

from mi_metrics.examples.registration import RegistrationReport
from mi_metrics.lightning.cli import main as run

CONFIG = ["--config", "validation_metric"]
REGISTRATION = ["--config", "registration"]
TWO_PROCESSES = ["--config", "trainer/ddp_cpu"]
NAMES = ("test/mi", "test/nmi", "test/code_mi")


def main(args: Sequence[str] = ()) -> int:
    """Run the demo in the current folder.

    Args:
        args: Options for all steps, after the demo's own.

    Returns:
        The exit status: 0 if both tests give the same values, to the last bit, and the images fit
        to within a pixel.
    """
    equal = evaluate(args)
    return 0 if register(args) and equal else 1


def evaluate(args: Sequence[str]) -> bool:
    """Train with a metric, test on one and two processes, and return whether these give the same
    values.
    """
    fit = ["fit", *CONFIG, *args]
    announce("Train", fit)
    trainer = run(fit).trainer
    checkpoint = trainer.checkpoint_callback
    if not isinstance(checkpoint, ModelCheckpoint) or trainer.log_dir is None:
        raise ValueError(
            "Expected a trainer with a ModelCheckpoint and a logger. Leave both in the "
            "configuration."
        )
    best = os.path.relpath(checkpoint.best_model_path)

    values = {}
    for processes, overlay in ((1, []), (2, TWO_PROCESSES)):
        folder = Path(trainer.log_dir) / f"test_on_{processes}"
        # Lightning may make a process start another one like itself, so each test is a program of
        # its own.
        logger = [
            "CSVLogger",
            f"--trainer.logger.save_dir={folder.parent}",
            "--trainer.logger.name=",
        ]
        test = ["test", *CONFIG, *overlay, "--ckpt_path", best, *args]
        announce(f"Test on {processes} process{'es' if processes > 1 else ''}", test)
        test += ["--trainer.logger", *logger, f"--trainer.logger.version={folder.name}"]
        subprocess.run([sys.executable, "-m", "mi_metrics.cli", *test], check=True)
        values[processes] = read_values(folder / "metrics.csv")

    print(f"\nprocesses{''.join(name.rjust(22) for name in NAMES)}")
    for processes, row in values.items():
        print(f"{processes:>9}{''.join(repr(value).rjust(22) for value in row)}")
    equal = values[1] == values[2]
    print("equal, to the last bit" if equal else "NOT EQUAL: please report this")
    return equal


def register(args: Sequence[str]) -> bool:
    """Train with a loss, and return whether the images fit to within a pixel."""
    fit = ["fit", *REGISTRATION, *args]
    announce("Register", fit)
    callbacks = run(fit).trainer.callbacks  # type: ignore[attr-defined]
    (report,) = (callback for callback in callbacks if isinstance(callback, RegistrationReport))
    residual, _ = list(report.rows.values())[-1]
    return residual < 1


def announce(what: str, command: Sequence[str]) -> None:
    """Print a step as the command that one would type for it."""
    print(f"\n== {what}: mi-metrics {shlex.join(command)}", flush=True)


def read_values(path: Path) -> list[float]:
    """Return the last values of :data:`NAMES` in a CSV log, which holds all digits of a float64."""
    with path.open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    return [float(row[name]) for name in NAMES]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
