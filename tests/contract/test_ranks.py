"""The processes that tests share: what happens to one of them is the business of the test that
asked.
"""

import os
import signal

import pytest
import torch

from mi_metrics import BinnedMutualInformation
from tests.contract.ranks import Ranks

pytestmark = pytest.mark.distributed

KWARGS = {"num_bins": 4, "value_range": (0.0, 1.0)}


class Dies(BinnedMutualInformation):
    """A metric that kills its process."""

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def counts(ranks: Ranks) -> list[float]:
    x = torch.tensor([0.1, 0.9])
    reports = ranks.run(BinnedMutualInformation, KWARGS, [[("update", x, x), ("compute",)]] * 2)
    return [report.results[-1].item() for report in reports]


def test_a_process_that_dies_fails_one_test_and_no_other():
    ranks = Ranks()
    try:
        expected = [pytest.approx(0.6931472)] * 2
        assert counts(ranks) == expected
        with pytest.raises(AssertionError, match="the process of rank 1 died"):
            ranks.run(Dies, KWARGS, [[("compute",)], [("die",)]])
        assert counts(ranks) == expected

        # While nothing was asked of it.
        ranks._processes[0].kill()
        ranks._processes[0].join()
        with pytest.raises(AssertionError, match=r"the process of rank 0 (had )?died"):
            counts(ranks)
        assert counts(ranks) == expected
    finally:
        ranks.stop()
