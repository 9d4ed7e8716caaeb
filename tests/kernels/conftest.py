"""Both sides of a comparison."""

import pytest

from mi_metrics.kernels import native, switch


@pytest.fixture
def reference():
    """Return a function that calls another one without the compiled library."""
    if not native.serves():
        pytest.skip(native.status())

    def call(function, *arguments, **options):
        with switch.disabled():
            return function(*arguments, **options)

    return call
