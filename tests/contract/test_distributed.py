"""Several processes give what one would, whatever each of them saw, and none of them waits for
ever.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler
from torchmetrics import MetricCollection

from mi_metrics import (
    BinnedMutualInformation,
    KDEMutualInformation,
    KNNMutualInformation,
    UnpaddedDistributedSampler,
)
from mi_metrics.functional import knn_mutual_information
from tests.cautions import ignore_cautions
from tests.contract.cases import Batch, Case, batches_of
from tests.contract.ranks import Ranks, Report

pytestmark = [pytest.mark.distributed, ignore_cautions]

# Numbers of samples, of which each rank has its own: uneven, a single one, none.
UNEVEN = {
    "2 ranks, uneven": [[100, 37], [263]],
    "2 ranks, one empty": [[400], []],
    "3 ranks, uneven": [[50, 50, 3], [1], [200, 96]],
    "3 ranks, one empty": [[150], [], [1, 249]],
    "3 ranks, two empty": [[], [], [400]],
    "4 ranks, uneven": [[50, 50, 3], [1], [200, 46], [50]],
    "4 ranks, two empty": [[150], [], [1, 249], []],
}


def dealt(batch: Batch, sizes: list[list[int]]) -> list[list[Batch]]:
    """Deal a batch out to ranks, each with batches of its own sizes."""
    batches = iter(batches_of(batch, [n for own in sizes for n in own]))
    return [[next(batches) for _ in own] for own in sizes]


def updates(batches: list[Batch]) -> list[tuple[Any, ...]]:
    return [("update", x, y) for x, y in batches]


def feed(
    ranks: Ranks, case: Case, batches: list[list[Batch]], *then: tuple[Any, ...], **kwargs: Any
) -> list[Report]:
    """Update a metric on every rank with its batches, then take further steps."""
    case = case.on(torch.device("cpu"))
    return ranks.run(case.metric, case.kwargs | kwargs, [[*updates(own), *then] for own in batches])


def assert_clean(report: Report) -> None:
    """Check that nothing raised, nothing was said but cautions about the data, and the metric was
    left unsynced.
    """
    assert [r for r in report.results if isinstance(r, Exception)] == []
    assert report.warnings == []
    assert "no samples" not in report.cautions
    assert not report.synced


@pytest.mark.parametrize("sizes", UNEVEN.values(), ids=UNEVEN)
def test_every_rank_has_the_value_of_one_process(ranks: Ranks, case: Case, sizes: list[list[int]]):
    batch = case.samples()
    batches = dealt(batch, sizes)
    for own, report in zip(batches, feed(ranks, case, batches, ("compute",)), strict=True):
        assert_clean(report)
        case.assert_same(report.results[-1], case.value(batch))
        case.assert_same_state(report.states[-1], case.fed(own))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_no_samples_anywhere_is_nan_and_one_warning_on_every_rank(
    ranks: Ranks, case: Case, size: int
):
    for report in feed(ranks, case, [[]] * size, ("compute",), ("compute",), ("compute",)):
        assert all(bool(value.isnan().all()) for value in report.results)
        assert report.cautions == ["no samples"]
        assert report.warnings == []
        assert not report.synced


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_may_have_samples_of_different_dtypes(ranks: Ranks, case: Case, size: int):
    dtypes = (torch.float32, torch.int16, torch.float64, torch.bfloat16)[:size]
    sizes = [[150], [50, 100], [60], [40]][: size - 1]
    batches = dealt(case.samples(), [*sizes, [400 - sum(map(sum, sizes))]])
    batches = [[(a.to(t), b.to(t)) for a, b in own] for own, t in zip(batches, dtypes, strict=True)]
    expected = case.fed([batch for own in batches for batch in own]).compute()
    for report in feed(ranks, case, batches, ("compute",)):
        assert_clean(report)
        case.assert_same(report.results[-1], expected)


BAD: dict[str, Callable[[Tensor, Tensor], tuple[Any, ...]]] = {
    "NaN": lambda x, y: (torch.full_like(x, math.nan), y),
    "lengths": lambda x, y: (x, y[:-1]),
    "a list": lambda x, y: (x.tolist(), y),
}


@pytest.mark.parametrize("call", ["update", "forward"])
@pytest.mark.parametrize(
    "sizes", [[[150], [250]], [[150], [50, 100], [100]], [[150], [50, 100], [], [100]]]
)
def test_a_rank_that_raised_and_went_on_costs_no_sample(
    ranks: Ranks, case: Case, sizes: list[list[int]], call: str
):
    """Every second rank is given bad input after each good batch, and one before any."""
    batch, bad = case.samples(), [(call, *spoil(*case.samples(10))) for spoil in BAD.values()]
    batches = dealt(batch, sizes)
    steps = [
        [
            *(bad if rank % 2 else []),
            *(s for u in updates(own) for s in (u, *(bad if rank % 2 else []))),
            ("compute",),
        ]
        for rank, own in enumerate(batches)
    ]
    for rank, (own, report) in enumerate(
        zip(batches, ranks.run(case.metric, case.kwargs, steps), strict=True)
    ):
        errors = [str(r) for r in report.results if isinstance(r, Exception)]
        assert len(errors) == (len(own) + 1) * len(bad) * (rank % 2)
        assert all(re.match("(ValueError|TypeError): Expected", error) for error in errors)
        assert not report.synced
        case.assert_same(report.results[-1], case.value(batch))
        case.assert_same_state(report.states[-1], case.fed(own))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_accumulation_continues_after_compute(ranks: Ranks, case: Case, size: int):
    first, second = case.samples(seed=0), case.samples(seed=1)
    both = tuple(torch.cat(pair) for pair in zip(first, second, strict=True))
    sizes = [[100], [300], [], []][:size]
    steps = [
        [
            *updates(a),
            ("compute",),
            *updates(b),
            ("forward", *case.samples(9)),
            ("compute",),
            ("reset",),
            ("compute",),
        ]
        for a, b in zip(dealt(first, sizes), dealt(second, sizes), strict=True)
    ]
    more = [case.samples(9)] * size
    expected = case.fed([both, *more])
    for own, report in zip(steps, ranks.run(case.metric, case.kwargs, steps), strict=True):
        values = [
            r
            for (name, *_), r in zip(own, report.results, strict=True)
            if name in ("compute", "forward")
        ]
        case.assert_same(values[0], case.value(first))
        case.assert_same(values[1], case.value(more[0]))
        case.assert_same(values[2], expected.compute())
        assert values[3].isnan().all()
        assert not report.synced


def test_without_sync_on_compute_each_rank_has_its_own_value(ranks: Ranks, case: Case):
    batches = dealt(case.samples(), [[150], [100, 50], [100]])
    for own, report in zip(
        batches, feed(ranks, case, batches, ("compute",), sync_on_compute=False), strict=True
    ):
        assert_clean(report)
        case.assert_same(report.results[-1], case.fed(own).compute())
        assert report.gathers == 0


def test_forward_that_synchronises_returns_the_value_of_all_ranks_batches(ranks: Ranks, case: Case):
    """The remaining calls after ``forward`` see this rank's samples and, in ``compute``,
    everybody's.
    """
    batch = case.samples()
    first, second = (dealt(part, [[60], [40], [100]]) for part in batches_of(batch, (200, 200)))
    steps = [
        [("forward", *a[0]), ("forward", *b[0]), ("compute",)]
        for a, b in zip(first, second, strict=True)
    ]
    halves = batches_of(batch, (200, 200))
    for report in ranks.run(case.metric, case.kwargs | {"dist_sync_on_step": True}, steps):
        assert_clean(report)
        for value, part in zip(report.results, [*halves, batch], strict=True):
            case.assert_same(value, case.value(part))


def test_a_compute_gathers_each_of_at_most_three_states_once(ranks: Ranks, case: Case):
    batches = dealt(case.samples(), [[100, 50], [150], []])
    for report in feed(ranks, case, [*batches[:2], []], ("compute",)):
        assert report.gathers == len(case.build()._defaults) <= 3


def test_a_sync_by_hand_uses_the_metrics_own_function(ranks: Ranks, case: Case):
    batches = dealt(case.samples(), [[100], [300]])
    for report in feed(ranks, case, batches, ("sync",), ("unsync",)):
        assert report.gathers == len(case.build()._defaults)


def test_a_sync_can_be_held_open(ranks: Ranks, case: Case):
    batches = dealt(case.samples(), [[100], [300]])
    whole = case.fed([case.samples()])
    for own, report in zip(
        batches, feed(ranks, case, batches, ("sync",), ("unsync",), ("compute",)), strict=True
    ):
        assert_clean(report)
        _, synced, unsynced, _ = report.states
        assert torch.equal(synced["counters"], whole.counters)
        case.assert_same_state(unsynced, case.fed(own))
        case.assert_same(report.results[-1], whole.compute())


def test_a_rank_built_differently_is_an_error_on_every_rank_and_costs_no_sample(
    ranks: Ranks, case: Case
):
    """Whatever the difference: also where states differ in dtype or number of dimensions, where
    gloo would abort.
    """
    batches = dealt(case.samples(), [[100], [200, 100], []])
    for other in case.strangers:
        steps = [
            [*updates(own), ("compute",), ("forward", *case.samples(10))] for own in batches[:2]
        ]
        steps.append([("compute",)])
        kwargs = [case.kwargs, case.kwargs, case.kwargs | other]
        for rank, (own, report) in enumerate(
            zip(batches, ranks.run(case.metric, kwargs, steps), strict=True)
        ):
            error = report.results[len(own)]
            assert isinstance(error, RuntimeError)
            assert str(error).startswith(
                "ValueError: Expected metrics of one configuration, but got\n"
            )
            assert str(error).endswith("Build the metric with the same arguments on every rank.")
            assert not report.synced
            case.assert_same_state(
                report.states[len(own)], case.fed(own, **(other if rank == 2 else {}))
            )
            if own:
                case.assert_same(report.results[-1], case.value(case.samples(10)))
                case.assert_same_state(report.states[-1], case.fed([*own, case.samples(10)]))
    # The processes are as good as new.
    for report in feed(ranks, case, batches, ("compute",)):
        case.assert_same(report.results[-1], case.value(case.samples()))


def test_a_rank_that_is_at_another_metric_is_an_error_on_every_rank(ranks: Ranks):
    """As after an exception between the two: the first thing that is gathered tells them apart."""
    x, y = torch.arange(20.0), torch.arange(20.0).remainder(7)
    metrics = [
        BinnedMutualInformation,
        KNNMutualInformation,
        KDEMutualInformation,
        BinnedMutualInformation,
    ]
    for size in (2, 3, 4):
        steps: list[Any] = [[("update", x, y), ("compute",)]] * size
        for report in ranks.run(metrics[:size], {}, steps):
            assert str(report.results[1]).startswith(
                "ValueError: Expected metrics of one configuration, but got\n"
            )
            assert report.states[1]["counters"][0].item() == 20


def test_invalid_samples_of_one_rank_are_dropped_everywhere(ranks: Ranks, case: Case):
    x, y = case.samples()
    x[30:40] = math.nan
    y[350:360] = math.inf
    batches = dealt((x, y), [[100], [], [300]])
    expected = case.fed([(x, y)], nan_strategy="ignore").compute()
    for report in feed(ranks, case, batches, ("compute",), nan_strategy="ignore"):
        assert_clean(report)
        case.assert_same(report.results[-1], expected)


def test_a_rank_that_dies_fails_its_test_and_no_other(ranks: Ranks, case: Case):
    if case.name != "bins":
        pytest.skip("concerns the harness, not the metric")
    with pytest.raises(AssertionError, match="rank 1 raised"):
        ranks.run(case.metric, [case.kwargs, {"no_such_argument": 1}], [[], []])
    for report in feed(ranks, case, [[case.samples()], []], ("compute",)):
        case.assert_same(report.results[-1], case.value(case.samples()))


def test_repeated_samples_of_a_padding_sampler_are_named_on_every_rank(ranks: Ranks):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(58, generator=generator, dtype=torch.float64)
    y = 0.6 * x + 0.8 * torch.randn(58, generator=generator, dtype=torch.float64)
    for sampler, named in ((DistributedSampler, True), (UnpaddedDistributedSampler, False)):
        shares = [list(sampler(range(58), num_replicas=3, rank=rank)) for rank in range(3)]
        steps = [[("update", x[share], y[share]), ("compute",), ("compute",)] for share in shares]
        for report in ranks.run(KNNMutualInformation, {}, steps):
            assert report.cautions == ["copies"] * named
            assert report.warnings == []
            assert not report.synced


def test_padding_inflates_the_nearest_neighbour_estimate():
    # The figures of the documentation: 57 samples on 8 ranks, of which 7 are repeated.
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 400, 57, 1, generator=generator, dtype=torch.float64)
    y = 0.6 * x + 0.8 * noise
    clean = knn_mutual_information(x, y).mean().item()
    padded = knn_mutual_information(*(torch.cat([v, v[:, :7]], 1) for v in (x, y))).mean().item()
    assert clean == pytest.approx(0.216, abs=0.01)
    assert padded == pytest.approx(0.282, abs=0.01)


class Twin(BinnedMutualInformation):
    """A metric whose copy does the work."""

    def of_a_clone(self) -> Tensor:
        return self.clone().compute()

    def of_a_clone_in_a_collection(self) -> Tensor:
        return MetricCollection({"mi": self}).clone()["mi"].compute()


@pytest.mark.parametrize("size", [2, 4])
def test_a_clone_shares_the_process_group(ranks: Ranks, size: int):
    zero_one = torch.tensor([0.0, 1.0])
    then = [("of_a_clone",), ("of_a_clone_in_a_collection",)]
    # The first rank is on one diagonal of the table, the others on the other.
    steps = [
        [("update", zero_one if rank == 0 else 1 - zero_one, zero_one), *then]
        for rank in range(size)
    ]
    share = 1 / size
    expected = math.log(2) + share * math.log(share) + (1 - share) * math.log(1 - share)
    for report in ranks.run(Twin, {"num_bins": 2}, steps):
        assert_clean(report)
        assert [value.item() for value in report.results[1:]] == pytest.approx(
            [expected] * 2, abs=1e-12
        )
