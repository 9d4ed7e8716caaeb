"""What is asked of kernels on a card, asked of Triton's interpreter."""

import pytest
import torch

from mi_metrics.kernels import triton_soft
from tests.cautions import ignore_cautions
from tests.kernels import on_cards

pytestmark = [
    ignore_cautions,
    # NumPy says what a GPU does not.
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]


@pytest.mark.parametrize("name", on_cards.CHECKS)
@pytest.mark.usefixtures("card")
def test_kernels_answer_as_plain_pytorch(name, monkeypatch):
    # Short programs: the interpreter takes time.
    monkeypatch.setattr(triton_soft, "_LEAST", 64)
    with on_cards.all_answered(monkeypatch):
        on_cards.CHECKS[name](torch.device("cpu"), 70)
