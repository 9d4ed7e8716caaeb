"""The command line's `fit`, `validate` and `test`: LightningCLI with bundled configurations."""

import contextlib
import io
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import lightning
import lightning.pytorch as pl
import torch
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

PACKAGE = Path(__file__).resolve().parent.parent
# The packages whose code runs between the command line and a user's own module.
LIBRARIES = sys.stdlib_module_names | {
    "jsonargparse",
    "lightning",
    "mi_metrics",
    "torch",
    "torchmetrics",
    "yaml",
}
# The errors with which these refuse an argument: PyTorch raises RuntimeError too, and
# ModuleNotFoundError means that an extra is missing.
REFUSALS = (ImportError, MisconfigurationException, RuntimeError, TypeError, ValueError)


def configs_folder(package: Path = PACKAGE) -> Path:
    """Return where the bundled configurations are: inside an installed package, beside it in a
    source checkout.
    """
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def bundled_configs(folder: Path | None = None) -> dict[str, Path]:
    """Return the bundled configurations by name, of the given folder or that of the package."""
    folder = configs_folder() if folder is None else folder
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.yaml"))
    }


def resolve_config(value: str, folder: Path | None = None) -> str:
    """Return the file that a value of ``--config`` stands for.

    Args:
        value: A bundled configuration without folder and suffix (``validation_metric``,
            ``trainer/ddp_cpu``), a path, or a configuration as text.
        folder: Where the bundled configurations are.

    Raises:
        ValueError: If it is something else, with the names that there are.
    """
    bundled = bundled_configs(folder)
    if value in bundled:
        return str(bundled[value])
    # The order matters: a text may be too long to be asked for as a file.
    if ":" in value or "{" in value or Path(value).is_file():
        return value
    raise ValueError(
        f"Expected --config to be a file or a bundled configuration, but got {value!r}. "
        f"Bundled: {', '.join(bundled) or 'none'}."
    )


def condense(message: str) -> str:
    """Return what is wrong in a message of jsonargparse as one line.

    Left out are the options that would have been allowed beside the one that was meant, and dumps
    of whole objects.
    """
    lines = (line.strip().removeprefix("- ") for line in message.splitlines())
    empty = (
        r"Does not validate against|Subtypes: |Errors:|Given value type: |"
        r"Given value: .*(Namespace|NestedArg)\("
    )
    empty += r"|Expected a <class 'NoneType'>$"
    kept = dict.fromkeys(line for line in lines if line and not re.match(empty, line))
    return re.sub(r"([:.;]) *;", r"\1", "; ".join(kept))


def origins(error: BaseException) -> list[BaseException]:
    """Return what an error was before jsonargparse made it one of its own: several, if a value may
    be of several types.

    Of these, ``__cause__`` is the first one, which in some versions says no more than that the
    value is not None.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if error.__cause__ is None or not frames or _package(frames[-1]) != "jsonargparse":
        return [error]
    causes = frames[-1].f_locals.get("exceptions", [error.__cause__])
    return [source for cause in causes for source in origins(cause)]


def is_foreign(error: BaseException) -> bool:
    """Return whether an error comes from or through code that is neither this package nor a library
    below it.
    """
    packages = {_package(frame) for frame, _ in traceback.walk_tb(error.__traceback__)}
    return not isinstance(error, MisconfigurationException) and not packages <= LIBRARIES


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


class Parser(LightningArgumentParser):
    """Say in one line what is wrong with the settings, without two pages of options above it.

    An error in a user's own module is raised as it was. ``JSONARGPARSE_DEBUG=true`` in the
    environment, which is jsonargparse's own, gives the traceback of every error.
    """

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the process with a message."""
        try:
            # Jsonargparse decides whether to end the process or to raise.
            with contextlib.redirect_stderr(io.StringIO()):
                super().error(message, ex)
        except SystemExit:
            pass
        for source in [] if ex is None else origins(ex):
            if is_foreign(source):
                raise source
        self.exit(2, f"mi-metrics: error: {condense(message)}\n")


class ConfigAction(ActionConfigFile):
    """Read a configuration from a file or from the bundled ones."""

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Resolve the name, then read the file."""
        try:
            values = resolve_config(values)
        except ValueError as error:
            parser.error(str(error))
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]


class MutualInformationCLI(LightningCLI):
    """LightningCLI for any module and data, with bundled configurations and one folder per run."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands with the arguments that they do not take from the command line."""
        return {
            name: skip for name, skip in LightningCLI.subcommands().items() if name != "predict"
        }

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser whose ``--config`` knows the bundled configurations."""
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={lightning.__version__}"])
        parser = Parser(**kwargs)
        help_text = (
            "A YAML file, or a bundled configuration: "
            f"{', '.join(bundled_configs())}. Several are applied from left to right."
        )
        parser.add_argument("-c", "--config", action=ConfigAction, help=help_text)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what PyTorch has no trainer argument for."""
        help_text = "Threads that PyTorch computes with; null leaves it to PyTorch: one per core."
        parser.add_argument("--num_threads", type=PositiveInt | None, default=None, help=help_text)

    def before_instantiate_classes(self) -> None:
        """Look for the checkpoint before anything else is done, and set the number of threads."""
        options = self.config[self.subcommand]
        checkpoint = options.get("ckpt_path")
        # Lightning knows some by name, and reads from its model registry and from other file
        # systems.
        elsewhere = r"best|last|hpc|(?i:registry)(:.*)?|.*://.*"
        if checkpoint and not re.fullmatch(elsewhere, checkpoint) and not Path(checkpoint).exists():
            self.parser.error(
                f"Expected --ckpt_path to be a checkpoint, but there is no {checkpoint}."
            )
        if num_threads := options.get("num_threads"):
            torch.set_num_threads(num_threads)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse a list of arguments, without a warning that the process has some as well."""
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def instantiate_classes(self) -> None:
        """Build trainer, model and data, or say in one line which setting is refused: no GPU, for
        example.
        """
        try:
            return super().instantiate_classes()
        except Exception as error:
            refused = error
        # The error is raised outside of the `except` block, which would make the error of
        # jsonargparse its context.
        for source in origins(refused):
            if not isinstance(source, REFUSALS):
                raise source
        hint = (
            ""
            if isinstance(refused, MisconfigurationException)
            else " (JSONARGPARSE_DEBUG=true shows where)"
        )
        self.parser.error(f"{condense(str(refused))}{hint}", refused)

    def after_instantiate_classes(self) -> None:
        """Let loggers of one name share one folder.

        Each would otherwise look for the next free ``version_N`` when it is first used, and find
        the other's.
        """
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger | TensorBoardLogger):
                Path(logger.root_dir).mkdir(parents=True, exist_ok=True)
                _ = logger.version


def main(args: Sequence[str]) -> MutualInformationCLI:
    """Run ``fit``, ``validate`` or ``test``.

    Args:
        args: The subcommand and its options. With several processes per machine they have to be
            those of this process, because Lightning starts the others with ``sys.argv``.

    Returns:
        The command line with its trainer, model and data, when all is done.
    """
    if not {"", str(Path.cwd())} & set(sys.path):
        # Own classes lie there; an installed command looks only beside itself. It comes last, so
        # that no file there hides a package.
        sys.path.append(str(Path.cwd()))
    # Lightning would say before every run which devices there are and which cloud services could be
    # used.
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # The bundled data are in memory, where worker processes only cost time.
        warnings.filterwarnings(
            "ignore", message=".*does not have many workers which may be a bottleneck.*"
        )
        # The warning is about Lightning's own use of PyTorch, which no user can change.
        warnings.filterwarnings(
            "ignore", message=r".*isinstance\(treespec, LeafSpec\).* is deprecated"
        )
        if args[0] != "fit":
            # An evaluation writes into a folder of its own, and saves no checkpoint there.
            warnings.filterwarnings("ignore", message="The dirpath has changed from")
        return MutualInformationCLI(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            # Without a logger the folder is not a new one, and the checkpoint in it is replaced as
            # well.
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": "mi-metrics"},
            args=list(args),
        )
