"""A sampler for exact evaluation on several processes."""

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from mi_metrics.functional.options import check_integer


class UnpaddedDistributedSampler(DistributedSampler[Any]):
    """Split a dataset over processes so that every sample is evaluated exactly once.

    PyTorch's ``DistributedSampler``, which Lightning puts into ``validate`` and ``test``, repeats
    leading samples until every rank has as many. A repeated sample is counted twice in a table of
    bins, and to a nearest-neighbour estimator it is a neighbour at distance zero: 57 Gaussian
    samples on 8 ranks read 0.28 nats instead of .22.

    Rank r takes the samples r, r + W, r + 2W, …: in order, without repeats, at most one sample
    apart between ranks. With fewer samples than ranks some ranks have none: the metrics allow for
    it, but Lightning skips the evaluation loop on such a rank, and the others wait for it.

    Evaluation only: with uneven numbers of batches, a model wrapped in ``DistributedDataParallel``
    that runs forward with synchronised buffers can wait for a rank that has finished.
    ``trainer.validate`` and ``trainer.test`` do not wrap the model. Lightning leaves a sampler
    alone that is a ``DistributedSampler``, as this one is;
    ``Trainer(use_distributed_sampler=False)`` is not needed for it, and would leave a training
    loader unsplit.

    Args:
        dataset: What is sampled; only its length is used.
        num_replicas: Number of processes; by default that of the process group, or 1 without one.
        rank: Number of this process; by default that in the process group, or 0 without one.

    Raises:
        TypeError: If ``num_replicas`` or ``rank`` is not a whole number.
        ValueError: If ``num_replicas`` is below 1 or ``rank`` not in 0 … num_replicas - 1.

    Example:
        >>> from mi_metrics import UnpaddedDistributedSampler
        >>> [list(UnpaddedDistributedSampler(range(7), num_replicas=3, rank=r)) for r in range(3)]
        [[0, 3, 6], [1, 4], [2, 5]]
    """

    def __init__(
        self, dataset: Dataset[Any], num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        if num_replicas is None:
            num_replicas = dist.get_world_size() if grouped else 1
        if rank is None:
            rank = dist.get_rank() if grouped else 0
        check_integer("num_replicas", num_replicas, 1)
        check_integer("rank", rank, 0)
        if rank >= num_replicas:
            raise ValueError(
                f"Expected `rank` below num_replicas={num_replicas}, but got {rank}. Ranks are "
                f"counted from 0."
            )
        super().__init__(dataset, num_replicas, rank, shuffle=False)

    def __iter__(self) -> Iterator[int]:
        return iter(self._mine())

    def __len__(self) -> int:
        return len(self._mine())

    def _mine(self) -> range:
        return range(self.rank, len(self.dataset), self.num_replicas)  # type: ignore[arg-type]
