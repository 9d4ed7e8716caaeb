"""Cautions in tests: which kinds a block gives, and marks for tests that are about something
else.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mi_metrics import MutualInformationWarning
from mi_metrics.functional.cautions import Kind

ignore_cautions = pytest.mark.filterwarnings(
    "ignore::mi_metrics.functional.cautions.MutualInformationWarning"
)


@contextmanager
def warned(*kinds: Kind, match: str = "") -> Iterator[list[warnings.WarningMessage]]:
    """Check that a block gives cautions of these kinds, in this order, at any line.

    Every message has to match. Other warnings are treated as elsewhere in the test. Yields a list
    that holds the cautions after the block.
    """
    found: list[warnings.WarningMessage] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MutualInformationWarning)
        yield found
    found += [w for w in caught if isinstance(w.message, MutualInformationWarning)]
    assert [kind_of(w) for w in found] == list(kinds), [str(w.message) for w in found]
    for w in found:
        assert re.search(match, str(w.message)), str(w.message)


def kind_of(caught: warnings.WarningMessage) -> Kind:
    assert isinstance(caught.message, MutualInformationWarning)
    return caught.message.kind
