"""The line that a caution names where Lightning asks for the value."""

from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mi_metrics import BinnedMutualInformation
from tests.cautions import warned
from tests.lightning.modules import LIGHTNING_WARNINGS

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_WARNINGS)


class Logging(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.mi = BinnedMutualInformation(32)

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        self.mi.update(*batch)
        self.log("mi", self.mi)


def test_a_logged_metric_names_the_line_that_started_the_trainer(tmp_path):
    x, y = torch.rand(2, 500, generator=torch.Generator().manual_seed(0))
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    data = DataLoader(TensorDataset(x, y), batch_size=500)
    with warned("undersampled") as seen:
        trainer.validate(Logging(), data, verbose=False)  # the trainer
    lines = Path(__file__).read_text().splitlines()
    assert seen[0].filename == __file__
    assert lines[seen[0].lineno - 1].endswith("  # the trainer")
