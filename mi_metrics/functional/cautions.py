"""What can be doubtful about a value, said by kind, at the line of the user who asked for it."""

import sys
import warnings
from pathlib import Path
from typing import Literal, get_args

Kind = Literal[
    "coarse grid",
    "copies",
    "crowded",
    "far samples",
    "few values",
    "labels",
    "narrow kernel",
    "no samples",
    "outside",
    "pooled",
    "rising",
    "shared bins",
    "too few",
    "undersampled",
    "unreliable",
    "wide kernel",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

_PACKAGE = str(Path(__file__).resolve().parents[1])
# Modules between the package and its user: a call passes through their wrappers.
_BETWEEN = ("torch", "torchmetrics")


class MutualInformationWarning(UserWarning):
    """A value may be off by more than a tenth of a nat and a fifth of itself.

    Python's filters choose by this class; ``kind`` tells a program which doubt it is.

    Args:
        message: What is doubtful and what to do, in a sentence for people.
        kind: One of :data:`KINDS`, for programs.

    Raises:
        ValueError: If ``kind`` is not one of them.

    Example:
        >>> from mi_metrics import MutualInformationWarning
        >>> MutualInformationWarning("Too few samples for so many bins.", "undersampled").kind
        'undersampled'
    """

    def __init__(self, message: str, kind: Kind) -> None:
        if kind not in KINDS:
            raise ValueError(f"Expected `kind` to be one of {', '.join(KINDS)}, but got {kind!r}.")
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type, tuple[str, Kind]]:
        return type(self), (str(self), self.kind)


def caution(kind: Kind, message: str) -> None:
    """Warn of a doubtful value at the line outside of the package that asked for it."""
    warnings.warn(MutualInformationWarning(message, kind), stacklevel=_levels_to_the_user() + 1)


def _levels_to_the_user() -> int:
    """Return how many frames above the caller of :func:`caution` the user's own line is."""
    frame, levels = sys._getframe(1), 0
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename, frame.f_globals):
        frame, levels = frame.f_back, levels + 1
    return levels


def _is_ours(file: str, names: dict[str, object]) -> bool:
    module = str(names.get("__name__", "")).partition(".")[0]
    return file.startswith(_PACKAGE) or module in _BETWEEN
