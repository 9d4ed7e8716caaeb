"""What can be doubtful about a value, said by kind, at the line of the user who asked for it."""

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Literal, get_args

Kind = Literal[
    "coarse grid",
    "constant",
    "copies",
    "crowded",
    "far samples",
    "few values",
    "labels",
    "narrow kernel",
    "no samples",
    "outside",
    "oversmoothed",
    "pooled",
    "rising",
    "shared bins",
    "too few",
    "undersampled",
    "unreliable",
    "wide kernel",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

# So many samples say something about dependence.
ENOUGH = 8
TOO_FEW = (
    f"Fewer than {ENOUGH} samples say nothing about dependence: what they show of it is chance. "
    "Use more samples."
)

# Code is compiled under the path that it was imported from, so links in it are not followed.
_PACKAGE = str(Path(__file__).parents[1]) + os.sep
# Packages between this one and its user: a call passes through their wrappers and loops.
_BETWEEN = frozenset(
    {
        "lightning",
        "lightning_fabric",
        "lightning_utilities",
        "pytorch_lightning",
        "torch",
        "torchmetrics",
    }
)


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
    """Warn of a doubtful value at the line outside of the package that asked for it.

    Args:
        kind: One of :data:`KINDS`.
        message: What is doubtful and what to do, in a sentence for people.
    """
    warnings.warn(MutualInformationWarning(message, kind), stacklevel=_levels_to_the_user() + 1)


def caution_each(found: Mapping[Kind, str]) -> None:
    """Warn once for each kind of doubt that was found."""
    for kind, message in found.items():
        caution(kind, message)


def _levels_to_the_user() -> int:
    """Return how many frames above :func:`caution` the user's own line is."""
    frame, levels = sys._getframe(1), 0
    while frame.f_back is not None and not _is_the_users(frame):
        frame, levels = frame.f_back, levels + 1
    return levels


def _is_the_users(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return not frame.f_code.co_filename.startswith(_PACKAGE) and package not in _BETWEEN
