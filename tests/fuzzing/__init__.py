"""Random calls of everything that is public, and what must hold of every one of them, whatever it
was given.

``tests/test_fuzz.py`` draws some with hypothesis, ``python -m campaigns.fuzz`` as many as time
allows. A call is made from a :class:`random.Random`, so that both share this code, and a seed
repeats it.
"""

from collections.abc import Callable
from random import Random

from tests.fuzzing import conditional, functions, losses, metrics
from tests.fuzzing.outcome import Call

KINDS: dict[str, Callable[[Random], Call]] = {
    **functions.KINDS,
    **conditional.KINDS,
    **metrics.KINDS,
    **losses.KINDS,
}

__all__ = ["KINDS", "Call"]
