"""Every sample is evaluated exactly once, on however many processes."""

import re

import pytest
import torch
from torch import distributed as dist
from torch.utils.data import DataLoader, DistributedSampler, Subset, TensorDataset

from mi_metrics import BinnedMutualInformation, UnpaddedDistributedSampler
from tests.cautions import ignore_cautions
from tests.contract.ranks import shared_ranks

# Equal bins say little about heavy tails, and few samples about anything; ranks don't change it.
pytestmark = ignore_cautions


def samples(n: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, generator=generator)
    return TensorDataset(x, 10 + x.exp() + torch.randn(n, generator=generator))


def build() -> BinnedMutualInformation:
    return BinnedMutualInformation((3, 4), bias_correction="miller_madow")


def split(n: int, world_size: int) -> list[UnpaddedDistributedSampler]:
    return [UnpaddedDistributedSampler(range(n), world_size, rank) for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [0, 1, 3, 17, 57, 499])
def test_every_sample_belongs_to_one_rank(n: int, world_size: int):
    samplers = split(n, world_size)
    shares = [list(sampler) for sampler in samplers]
    assert sorted(i for share in shares for i in share) == list(range(n))
    assert [len(sampler) for sampler in samplers] == [len(share) for share in shares]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shares == [sorted(share) for share in shares]
    # Every epoch is the same.
    assert shares == [list(sampler) for sampler in samplers]


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("n", [17, 57, 499])
def test_ranks_together_have_the_value_of_one_process(n: int, world_size: int):
    dataset, whole, merged = samples(n), build(), build()
    whole.update(*dataset.tensors)
    for sampler in split(n, world_size):
        metric = build()
        for x, y in DataLoader(dataset, batch_size=8, sampler=sampler):
            metric.update(x, y)
        merged.merge_state(metric)
    assert torch.equal(merged.counters, whole.counters)
    assert torch.equal(merged.compute(), whole.compute())


@pytest.mark.parametrize("n", [17, 57, 499])
def test_pytorchs_own_sampler_would_count_samples_twice(n: int):
    """Why this one is needed."""
    padded = [i for rank in range(4) for i in DistributedSampler(range(n), 4, rank, shuffle=False)]
    assert len(padded) > n == len(set(padded))


class Evaluation(BinnedMutualInformation):
    """A metric that evaluates its rank's share of a data set by itself."""

    def evaluate(self, n: int) -> torch.Tensor:
        dataset = samples(n)
        sampler = UnpaddedDistributedSampler(dataset)
        for x, y in DataLoader(dataset, batch_size=8, sampler=sampler):
            self.update(x, y)
        return torch.tensor([sampler.rank, sampler.num_replicas, len(sampler)])


@pytest.mark.distributed
@pytest.mark.parametrize("n", [2, 17, 57, 499])
def test_rank_and_number_of_processes_are_those_of_the_process_group(n: int):
    kwargs = {"num_bins": (3, 4), "bias_correction": "miller_madow"}
    ranks = shared_ranks()
    # All ranks take part, because the sampler asks for the default group.
    reports = ranks.run(Evaluation, kwargs, [[("evaluate", n), ("compute",)]] * ranks.world_size)
    whole = build()
    whole.update(*samples(n).tensors)
    for rank, report in enumerate(reports):
        place, value = report.results
        assert place.tolist() == [rank, ranks.world_size, len(range(rank, n, ranks.world_size))]
        assert torch.equal(value, whole.compute())


def test_without_a_process_group_there_is_one_rank():
    sampler = UnpaddedDistributedSampler(range(5))
    assert (sampler.rank, sampler.num_replicas, list(sampler)) == (0, 1, [0, 1, 2, 3, 4])


def test_a_rank_that_the_process_group_lacks_is_refused_when_it_is_used():
    sampler = UnpaddedDistributedSampler(range(5), rank=1)
    for use in (len, list):
        with pytest.raises(ValueError, match="Expected `rank` below num_replicas=1, but got 1"):
            use(sampler)


def test_the_arguments_of_pytorchs_sampler_are_taken():
    """As when it is replaced by name, or built again with other arguments by a framework."""
    sampler = UnpaddedDistributedSampler(
        range(7), num_replicas=2, rank=1, shuffle=False, seed=3, drop_last=False
    )
    theirs = DistributedSampler(range(6), num_replicas=2, rank=1, shuffle=False, seed=3)
    assert set(vars(theirs)) <= set(dir(sampler))
    sampler.set_epoch(3)
    assert (list(sampler), sampler.num_samples, sampler.total_size) == ([1, 3, 5], 3, 7)


class Late(BinnedMutualInformation):
    """A metric whose loader comes from the main script, made before there was a process group."""

    def evaluate(self, sampler: UnpaddedDistributedSampler) -> torch.Tensor:
        for x, y in DataLoader(sampler.dataset, batch_size=8, sampler=sampler):
            self.update(x, y)
        return torch.tensor([sampler.rank, sampler.num_replicas, len(sampler)])


@pytest.mark.distributed
@pytest.mark.parametrize("n", [0, 1, 3, 57])
def test_a_sampler_made_before_the_process_group_serves_each_sample_once(n: int):
    ranks = shared_ranks()
    dataset = samples(60)
    sampler = UnpaddedDistributedSampler(Subset(dataset, range(n)))
    assert (sampler.rank, sampler.num_replicas, len(sampler)) == (0, 1, n)
    steps = [[("evaluate", sampler)]] * ranks.world_size
    reports = ranks.run(Late, {"num_bins": (3, 4)}, steps)
    whole = build()
    if n:
        whole.update(*(v[:n] for v in dataset.tensors))
    for rank, report in enumerate(reports):
        expected = [rank, ranks.world_size, len(range(rank, n, ranks.world_size))]
        assert report.results[0].tolist() == expected
    seen = sum(report.states[-1]["counters"][0] for report in reports)
    assert torch.equal(seen, whole.counters[0])
    assert (sampler.rank, sampler.num_replicas, len(sampler)) == (0, 1, n)


def test_a_loader_with_persistent_workers_follows_the_process_group(
    monkeypatch: pytest.MonkeyPatch,
):
    loader = DataLoader(
        range(7),
        batch_size=2,
        sampler=UnpaddedDistributedSampler(range(7)),
        num_workers=1,
        persistent_workers=True,
    )
    assert len(loader) == 4
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    for size, rank, expected in ((2, 1, [1, 3, 5]), (3, 0, [0, 3, 6])):
        monkeypatch.setattr(dist, "get_world_size", lambda size=size: size)
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        assert torch.cat(list(loader)).tolist() == expected
    monkeypatch.undo()
    assert torch.cat(list(loader)).tolist() == list(range(7))


def test_length_follows_the_dataset():
    dataset = list(range(5))
    sampler = UnpaddedDistributedSampler(dataset, 2, 1)
    dataset.extend(range(5, 9))
    assert list(sampler) == [1, 3, 5, 7]
    assert len(sampler) == 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"num_replicas": 0, "rank": 0},
            ValueError,
            "Expected `num_replicas` to be at least 1, but got 0.",
        ),
        (
            {"num_replicas": 2.0, "rank": 0},
            TypeError,
            "Expected `num_replicas` to be an int, but got 2.0 of type",
        ),
        (
            {"num_replicas": 2, "rank": -1},
            ValueError,
            "Expected `rank` to be at least 0, but got -1.",
        ),
        (
            {"num_replicas": 2, "rank": True},
            TypeError,
            "Expected `rank` to be an int, but got True of type bool.",
        ),
        (
            {"num_replicas": 2, "rank": 2},
            ValueError,
            "Expected `rank` below num_replicas=2, but got 2.",
        ),
        ({"shuffle": True}, ValueError, "Expected `shuffle=False`, but got True. The value of a"),
        (
            {"drop_last": True},
            ValueError,
            "Expected `drop_last=False`, but got True. It would leave",
        ),
        ({"shuffle": 0}, TypeError, "Expected `shuffle` to be True or False, but got 0."),
        ({"seed": 1.5}, TypeError, "Expected `seed` to be an int, but got 1.5"),
    ],
)
def test_wrong_ranks_are_refused(arguments: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=re.escape(message)):
        UnpaddedDistributedSampler(range(5), **arguments)
