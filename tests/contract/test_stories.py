"""Random lives of a metric on several ranks: every value is that of one process, and no rank
waits.

A story is drawn once for all ranks. Between the steps that all take together (``compute``, a held
sync), each rank does as it likes: takes batches, one or none, forgets them, merges others.
"""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from tests.cautions import ignore_cautions
from tests.contract.cases import CASES, Batch, Case
from tests.contract.ranks import Ranks

pytestmark = [pytest.mark.distributed, ignore_cautions]

TOGETHER = ("compute", "compute", "compute", "value_in_context", "value_in_sync")


@dataclass
class Story:
    """What each rank does, and the batches that each of its values is of."""

    case: Case
    steps: list[list[tuple[Any, ...]]]
    # For each rank and step: None where no value is expected.
    expected: list[list[list[Batch] | None]]
    held: list[list[Batch]] = field(default_factory=list)

    @classmethod
    def drawn(cls, case: Case, seed: int) -> "Story":
        dice = random.Random(seed)
        size = dice.choice((2, 3))
        story = cls(case, [[] for _ in range(size)], [[] for _ in range(size)])
        story.held = [[] for _ in range(size)]
        batches = iter(range(10_000 * seed, 10_000 * (seed + 1)))
        # One rank in three stories has nothing at all.
        idle = dice.randrange(size) if dice.random() < 1 / 3 else None
        for _ in range(dice.randint(2, 5)):
            for rank in range(size):
                for _ in range(0 if rank == idle else dice.choice((0, 0, 1, 2))):
                    story.alone(rank, dice, next(batches))
            story.together(dice.choice(TOGETHER))
        return story

    def alone(self, rank: int, dice: random.Random, seed: int) -> None:
        batch = self.case.samples(dice.randint(5, 40), seed)
        held = self.held[rank]
        step = dice.choice(("update", "update", "forward", "merge", "reset", "refused"))
        if step == "reset":
            held.clear()
            self.add(rank, ("reset",), None)
        elif step == "merge":
            held.append(batch)
            self.add(rank, ("merge_batch", *batch), None)
        elif step == "refused":
            self.add(rank, ("update_refused", *batch), None)
        else:
            held.append(batch)
            self.add(rank, (step, *batch), [batch] if step == "forward" else None)

    def together(self, step: str) -> None:
        everything = [batch for held in self.held for batch in held]
        for rank in range(len(self.steps)):
            self.add(rank, (step,), everything)

    def add(self, rank: int, step: tuple[Any, ...], expected: list[Batch] | None) -> None:
        self.steps[rank].append(step)
        self.expected[rank].append(expected)


class Life:
    """A metric, or a collection of it and its relatives, that takes the steps of a story."""

    def __init__(self, name: str, collected: bool, **kwargs: Any) -> None:
        self.case = next(case for case in CASES if case.name == name)
        self.kwargs = kwargs
        self.metric = self.case.build(**kwargs)
        if collected:
            self.metric = MetricCollection(
                {str(i): self.case.build(**kwargs, **o) for i, o in enumerate(family(self.case))}
            )

    @property
    def metric_state(self) -> dict[str, Any]:
        return self.metric.metric_state

    @property
    def _is_synced(self) -> bool:
        return any(getattr(m, "_is_synced", False) for m in self.metric.modules())

    def update(self, *batch: Tensor) -> None:
        self.metric.update(*batch)

    def forward(self, *batch: Tensor) -> Tensor:
        return one_tensor(self.metric(*batch))

    def compute(self) -> Tensor:
        return one_tensor(self.metric.compute())

    def reset(self) -> None:
        self.metric.reset()

    def merge_batch(self, *batch: Tensor) -> None:
        if isinstance(self.metric, MetricCollection):
            self.metric.update(*batch)
            return
        other = self.case.build(sync_on_compute=False)
        other.update(*batch)
        other.compute()
        self.metric.merge_state(other)

    def update_refused(self, x: Tensor, *rest: Tensor) -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            self.metric.update(x[:-1], *rest)

    def value_in_context(self) -> Tensor:
        if isinstance(self.metric, MetricCollection):
            return self.compute()
        with self.metric.sync_context():
            first, second = self.metric.compute(), self.metric.compute()
        assert torch.equal(first.nan_to_num(), second.nan_to_num())
        return first

    def value_in_sync(self) -> Tensor:
        if isinstance(self.metric, MetricCollection):
            return self.compute()
        self.metric.sync()
        value = self.metric.compute()
        self.metric.unsync()
        return value


def family(case: Case) -> tuple[dict[str, Any], ...]:
    """Return the arguments of the metrics of a collection."""
    return ({}, *case.shares, {"nan_strategy": "ignore"})


def one_tensor(value: Tensor | dict[str, Tensor]) -> Tensor:
    return torch.stack(list(value.values())) if isinstance(value, dict) else value


def assert_told_alike(ranks: Ranks, story: Story, collected: bool) -> None:
    """Live a story on its ranks, and check every value against that of one process."""
    case, size = story.case, len(story.steps)
    kwargs = {"name": case.name, "collected": collected}
    variants = family(case) if collected else ({},)
    reports = ranks.run([Life] * size, [kwargs] * size, story.steps)
    for steps, expected, report in zip(story.steps, story.expected, reports, strict=True):
        assert not report.synced
        for (step, *_), batches, result in zip(steps, expected, report.results, strict=True):
            assert not isinstance(result, Exception), (step, result)
            if batches is None:
                continue
            values = [case.fed(batches, **variant).compute() for variant in variants]
            case.assert_same(result, torch.stack(values) if collected else values[0])


CPU = torch.device("cpu")


@pytest.mark.parametrize("collected", [False, True], ids=["metric", "collection"])
def test_a_story_of_each(ranks: Ranks, case: Case, collected: bool):
    assert_told_alike(ranks, Story.drawn(case.on(CPU), seed=int(collected)), collected)


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(10))
def test_five_hundred_stories(ranks: Ranks, part: int):
    for seed in range(100 + 50 * part, 150 + 50 * part):
        case = CASES[seed % len(CASES)]
        assert_told_alike(ranks, Story.drawn(case, seed), collected=seed % 3 == 0)
