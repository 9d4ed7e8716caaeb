"""The command line `mi-metrics`: finds out which command is meant, and imports no more than that one needs."""

import argparse
import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version

# Command: the module whose `main(args)` runs it, and what it does.
COMMANDS = {
    "fit": ("mi_metrics.lightning.cli", "train a model, for example: mi-metrics fit --config validation_metric"),
    "validate": ("mi_metrics.lightning.cli", "evaluate a checkpoint on the validation data"),
    "test": ("mi_metrics.lightning.cli", "evaluate a checkpoint on the test data"),
    "estimate": ("mi_metrics.estimate", "mutual information between columns of a CSV, Parquet or NPY file"),
    "study": ("mi_metrics.study", "measure the estimators' accuracy and duration on samples of known information"),
}


# A file system that is full, or past a quota, or has failed.
UNWRITABLE = errno.ENOSPC, errno.EDQUOT, errno.EIO


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: The arguments; by default those of the process.

    Returns:
        The exit status: 0; 1 if an extra of the package has to be installed first, or the output can't be written;
        130 after Ctrl-C; 141 if the reader of the output has gone. A line says so, except for the last.

    Raises:
        SystemExit: By the parsers and the commands: status 2 for wrong options, 1 if ``estimate`` can't do what it was
            asked for because of its file. Lightning itself answers Ctrl-C while it trains, with 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of columns can hold letters that the terminal does not have.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(args)
        finally:
            # Here, where an error can be answered, and not when the interpreter ends.
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        print("mi-metrics: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _discard_output()
        return 141
    except OSError as error:
        # With the name of a file it is not the output.
        if error.filename is not None or error.errno not in UNWRITABLE:
            raise
        _discard_output()
        print(f"mi-metrics: error: Can't write the output: {error.strerror}.", file=sys.stderr)
        return 1


def _discard_output() -> None:
    """Let what could not be written go nowhere, or the interpreter tries again when it ends."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _run(args: Sequence[str] | None) -> int:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="mi-metrics",
        description="Mutual information for PyTorch.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
        + "\n\nOptions of a command: mi-metrics COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=version("mi-metrics"))
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="options of the command")
    given = parser.parse_args(args)
    try:
        importlib.import_module(COMMANDS[given.command][0]).main([given.command, *given.options])
    except ModuleNotFoundError as error:
        message = str(error)
        if error.name == "jsonargparse":
            message = (
                'The commands of Lightning need jsonargparse. Install it with: pip install "mi-metrics[lightning]"'
            )
        # A message that does not say how to install what is missing is a defect, to be traced.
        if "pip install" not in message:
            raise
        print(f"mi-metrics: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
