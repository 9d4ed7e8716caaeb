"""Error bars, intervals, p-values and verdicts are those of all samples, on every rank."""

import pytest
import torch

from tests.cautions import ignore_cautions
from tests.contract.cases import Case, batches_of
from tests.contract.ranks import Ranks

pytestmark = ignore_cautions

# Each metric has those that make sense for its state.
ASKED = ("standard_error", "interval", "p_value", "reliability")
FEW = {
    "interval": {"num_resamples": 49},
    "p_value": {"num_permutations": 19},
    "reliability": {"parts": 2},
}
# Numbers of samples of each rank.
UNEVEN = {
    "2 ranks": [[60, 37], [103]],
    "2 ranks, one empty": [[200], []],
    "3 ranks, one empty": [[150], [], [1, 49]],
}


def answers(metric, batch):
    """Return all that a metric says beside its value, as one row of numbers."""
    found = []
    for name in ASKED:
        if hasattr(metric, name):
            answer = getattr(metric, name)(**FEW.get(name, {}))
            found += answer if isinstance(answer, tuple) else (answer,)
    if hasattr(metric, "pointwise"):
        found.append(metric.pointwise(*batch))
    # NaN is not equal to itself.
    return torch.cat([v.double().flatten() for v in found]).nan_to_num(-99)


@pytest.mark.distributed
@pytest.mark.parametrize("sizes", UNEVEN.values(), ids=UNEVEN)
def test_every_rank_says_what_one_process_would(ranks: Ranks, case: Case, sizes):
    case = case.on(torch.device("cpu"))
    if case.kwargs.get("kernel", "hard") != "hard" or not hasattr(case.metric, "p_value"):
        return
    batch = case.samples(200)
    batches = iter(batches_of(batch, [n for own in sizes for n in own]))
    dealt = [[next(batches) for _ in own] for own in sizes]
    then = (("sync",), (answers, batch), ("unsync",), (answers, batch))
    steps = [[*(("update", *b) for b in own), *then] for own in dealt]
    expected = answers(case.fed([batch]), batch)
    for own, report in zip(dealt, ranks.run(case.metric, case.kwargs, steps), strict=True):
        _, together, _, alone = report.results[len(own) :]
        assert report.warnings == []
        assert torch.equal(together, expected)
        assert torch.equal(alone, answers(case.fed(own), batch))
