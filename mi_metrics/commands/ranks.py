"""Processes that share one file under `torchrun`, or the one process that there is."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")

# Seconds.
LETTING_GO = 0.1


class Ranks:
    """This process among those that work together.

    Attributes:
        rank: Its number.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def leave(self) -> None:
        """End the work together."""
        if self.size > 1 and dist.is_initialized():
            # PyTorch up to 2.7 joins its worker while it holds Python's lock, which the worker
            # waits for as long as it has not let go of what it gathered last.
            time.sleep(LETTING_GO)
            dist.destroy_process_group()

    @classmethod
    def started(cls) -> "Ranks":
        """Join the processes that `torchrun` has started; alone without it."""
        if int(os.environ.get("WORLD_SIZE", "1")) < 2 or not dist.is_available():
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def all_of(self, mine: Any) -> list[Any]:
        """Return what each process has, in the order of their numbers, to all of them."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine)
        return found

    def to(self, rank: int, mine: Any) -> Sequence[Any]:
        """Return what each process has to one of them; nothing to the others."""
        if self.size == 1:
            return [mine]
        found: list[Any] | None = [None] * self.size if self.rank == rank else None
        dist.gather_object(mine, found, dst=rank)
        return found or ()

    def together(self, work: Callable[[], T]) -> T:
        """Do work that may fail on one process; then it fails on all of them."""
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        for each in self.all_of(failure):
            if each is not None:
                raise each
        return result  # type: ignore[return-value]
