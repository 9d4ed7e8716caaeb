"""Marks that tests of the command line share."""

import pytest

# LightningCLI calls what jsonargparse has renamed.
lightning_cli = pytest.mark.filterwarnings(
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"
)
