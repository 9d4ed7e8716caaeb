"""The command line `mi-metrics`: finds out which command is meant, and imports no more than that
one needs.
"""

import argparse
import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version

# Command: the module whose `main(args)` runs it, and what it does.
COMMANDS = {
    "fit": (
        "mi_metrics.lightning.cli",
        "train a model, for example: mi-metrics fit --config validation_metric",
    ),
    "validate": ("mi_metrics.lightning.cli", "evaluate a checkpoint on the validation data"),
    "test": ("mi_metrics.lightning.cli", "evaluate a checkpoint on the test data"),
    "estimate": (
        "mi_metrics.commands.estimate",
        "mutual information between columns of a CSV, Parquet or NPY file",
    ),
    "study": (
        "mi_metrics.commands.study",
        "measure the estimators' accuracy and duration on samples of known information",
    ),
}
PRINTING = ("estimate", "study")
# A file system that is full, or past a quota, or has failed.
UNWRITABLE = errno.ENOSPC, errno.EDQUOT, errno.EIO


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: The arguments; by default those of the process.

    Returns:
        The exit status: 0; 1 if an extra of the package has to be installed first; 130 after
        Ctrl-C.

    Raises:
        SystemExit: With status 1 if the output can't be written, 141 if its reader has gone (of
            ``fit``, ``validate`` and ``test`` what is printed last: before, it may be an error of a
            user's own connections and is raised); by the parsers and the commands with 2 for wrong
            options, 1 if ``estimate`` can't do what it was asked for because of its file. A line
            says so, except for 141. Lightning itself answers Ctrl-C while it trains, with 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of columns can hold letters that the terminal does not have.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(args)
    except KeyboardInterrupt:
        print("mi-metrics: interrupted", file=sys.stderr)
        status = 128 + signal.SIGINT
    except SystemExit:
        _flush()
        raise
    _flush()
    return status


def _flush() -> None:
    """Print what remains here, where an error can be answered, and not when the interpreter
    ends.
    """
    with _output():
        if sys.stdout is not None:
            sys.stdout.flush()


@contextmanager
def _output() -> Iterator[None]:
    """End the command where what it prints has no reader or finds no room."""
    try:
        yield
    except BrokenPipeError:
        _discard_output()
        raise SystemExit(141) from None
    except OSError as error:
        # With the name of a file it is not the output.
        if error.filename is not None or error.errno not in UNWRITABLE:
            raise
        _discard_output()
        print(f"mi-metrics: error: Can't write the output: {error.strerror}.", file=sys.stderr)
        raise SystemExit(1) from None


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
    parser.add_argument(
        "command", nargs="?", choices=COMMANDS, metavar="COMMAND", help="one of the commands below"
    )
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="...", help="options of the command"
    )
    with _output():
        given = parser.parse_args(args)
        if given.command is None:
            parser.error(f"name a command: {', '.join(COMMANDS)}, or --help")
    try:
        module = COMMANDS[given.command][0]
        if module == "mi_metrics.lightning.cli":
            from mi_metrics.functional.options import require

            require("jsonargparse", "lightning", "The commands of Lightning")
        run = importlib.import_module(module).main
        # What the others run is users' code, whose connections and files are not the output.
        with _output() if given.command in PRINTING else nullcontext():
            run([given.command, *given.options])
    except ModuleNotFoundError as error:
        # With the parts that need it, because it loads torch.
        from mi_metrics.functional.options import MissingExtraError

        # Another module that is missing is a defect, to be traced.
        if not isinstance(error, MissingExtraError):
            raise
        print(f"mi-metrics: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
