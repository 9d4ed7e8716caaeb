"""Whether twins may serve."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "MI_METRICS_KERNELS"

_switched_off = 0


def enabled() -> bool:
    """Say whether twins may serve: neither the environment nor :func:`disabled` forbids it."""
    return not _switched_off and os.environ.get(VARIABLE) != "0"


@contextmanager
def disabled() -> Iterator[None]:
    """Let the references serve in this block, in all threads: to compare the two."""
    global _switched_off
    _switched_off += 1
    try:
        yield
    finally:
        _switched_off -= 1
