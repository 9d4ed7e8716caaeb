"""Old import paths: each leads to where its module or name is now, with a DeprecationWarning.

So pickles, checkpoints and configurations that version 0.1.0 wrote load for one more release.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

_FUNCTIONAL = {
    "_arguments": "options",
    "_geometry": "tables.axis",
    "_kernels": "densities.gaussian",
    "_reduce": "ranks",
    "_steps": "neighbors.steps",
    "kde_table": "densities.counted",
    "ranges": "neighbors.within",
    "soft": "tables.bspline",
    "soft_kde": "densities.differentiable",
}
_COMMANDS = {
    "column_names": "column_names",
    "columns": "columns",
    "csv_dialect": "csv_dialect",
    "estimate": "estimate",
    "estimate_options": "estimate_options",
    "estimate_table": "estimate_report",
    "study": "study",
    "study_plots": "study_figures",
    "study_table": "study_table",
}
_EXAMPLES = (
    "affine",
    "autoencoder",
    "demo",
    "digits",
    "fairness",
    "registration",
    "stains",
    "trade_off",
)
MODULES = {
    "mi_metrics.estimate_counts": "mi_metrics.functional.tables.independence",
    "mi_metrics.grid": "mi_metrics.states.grid",
    "mi_metrics.metrics.header": "mi_metrics.states.header",
    "mi_metrics.reservoir": "mi_metrics.states.reservoir",
    "mi_metrics.sampling": "mi_metrics.sampler",
    **{f"mi_metrics.{old}": f"mi_metrics.commands.{new}" for old, new in _COMMANDS.items()},
    **{
        f"mi_metrics.functional.{old}": f"mi_metrics.functional.{new}"
        for old, new in _FUNCTIONAL.items()
    },
    **{f"mi_metrics.lightning.{name}": f"mi_metrics.examples.{name}" for name in _EXAMPLES},
}
NAMES = {
    f"mi_metrics.lightning.{name}": "mi_metrics.examples"
    for name in (
        "AffineRegistration",
        "DiabetesDataModule",
        "DigitsAutoencoder",
        "DigitsDataModule",
        "FairRegression",
        "RegistrationReport",
        "StainsDataModule",
    )
}


class MovedModules:
    """Imports a module that has moved from where it is now.

    A finder and a loader without their base classes, whose import takes longer than the rest.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a specification for the modules of the table, and None for all others."""
        return ModuleSpec(fullname, cast(Any, self)) if fullname in MODULES else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python to make an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module under its new name in the place of the empty one."""
        old = module.__name__
        _warn(old, MODULES[old])
        sys.modules[old] = importlib.import_module(MODULES[old])


def forwarding(module: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module, which finds its names that have moved."""

    def __getattr__(name: str) -> Any:  # noqa: N807
        old = f"{module}.{name}"
        if old not in NAMES:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(old, f"{NAMES[old]}.{name}")
        return getattr(importlib.import_module(NAMES[old]), name)

    return __getattr__


def install() -> None:
    """Have old import paths found, after all others."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())


def _warn(old: str, new: str) -> None:
    # Two frames up is the caller; those of Python's import are not counted.
    warnings.warn(
        f"{old} is now {new}. The old path will be gone in the next release.",
        DeprecationWarning,
        stacklevel=3,
    )
