"""Nearest neighbours in the max norm, and how many samples lie within a distance."""

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    # In version 0.1.0 the search was this module.
    if name not in ("Neighborhood", "nearest"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mi_metrics.functional.neighbors import search

    warnings.warn(
        f"{__name__}.{name} is now {search.__name__}.{name}. The old path will be gone in the next "
        "release.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(search, name)
