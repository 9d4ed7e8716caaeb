"""Every sample is evaluated exactly once, on however many processes."""

import re

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from mi_metrics import BinnedMutualInformation, UnpaddedDistributedSampler
from tests.contract.ranks import shared_ranks


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
        (
            {"rank": 1},
            ValueError,
            "Expected `rank` below num_replicas=1, but got 1. Ranks are counted from 0.",
        ),
    ],
)
def test_wrong_ranks_are_refused(arguments: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=re.escape(message)):
        UnpaddedDistributedSampler(range(5), **arguments)
