"""The CPU as the card that Triton's interpreter runs kernels on."""

import sys

import pytest

from mi_metrics.kernels import gpu, switch


@pytest.fixture
def card(monkeypatch):
    """Let the package take the CPU for a GPU; return a function that calls another one without
    kernels. A kernel that fails is a failure of the test.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("mi_metrics.") and hasattr(module, "on_cpu"):
            monkeypatch.setattr(module, "on_cpu", lambda where: False)
    monkeypatch.setattr(gpu, "is_card", lambda values: values.device.type == "cpu")
    assert gpu.load() is None

    def reference(function, *arguments, **options):
        with switch.disabled():
            return function(*arguments, **options)

    yield reference
    assert gpu.failures() == {}
