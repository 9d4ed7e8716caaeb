"""Examples that are about a single pair or few patients refuse to run on several processes."""

from types import SimpleNamespace

import pytest

pytest.importorskip("skimage")

from mi_metrics.examples.fairness import FairRegression
from mi_metrics.examples.registration import AffineRegistration


@pytest.mark.parametrize("module", [AffineRegistration, FairRegression])
def test_several_processes_are_refused(module, monkeypatch):
    monkeypatch.setattr(module, "trainer", SimpleNamespace(world_size=2), raising=False)
    with pytest.raises(
        ValueError, match=r"one process, but the trainer has 2.*--trainer.devices=1"
    ):
        module().setup("fit")
    monkeypatch.setattr(module, "trainer", SimpleNamespace(world_size=1), raising=False)
    module().setup("fit")
