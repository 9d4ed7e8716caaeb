"""Metrics whose state is the samples themselves, all of them or a bounded number."""

from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from mi_metrics.functional.neighbors.doubts import copies
from mi_metrics.metrics.base import IGNORED, SEEN, MutualInformationMetric, Samples
from mi_metrics.states import reservoir

# 64 GiB of samples.
MAX_NUMBERS = 2**33


class SampleMetric(MutualInformationMetric):
    """Samples of variables side by side; estimators are views of them.

    State: ``samples``; a list of float64 ``(n, d)`` (several outputs: ``(n, C, d)``), or int64
    ``(C, 1 + M, 1 + d)`` for at most M samples (:mod:`mi_metrics.states.reservoir`).
    """

    # TorchScript has no type for it where a module that holds this metric is compiled.
    __jit_ignored_attributes__: ClassVar[list[str]] = [
        *MutualInformationMetric.__jit_ignored_attributes__,
        "samples",
    ]
    samples: list[Tensor] | Tensor

    max_samples: int | None
    # Number and sum of the stream that `forward` sets aside while it evaluates a batch.
    _stream: Tensor | None = None

    def _keep_rows(self, dim: int, max_samples: int | None) -> None:
        """Make the state, for rows of so many numbers."""
        self.max_samples, self._stream = max_samples, None
        self._row_shape = (dim,) if self.num_outputs == 1 else (self.num_outputs, dim)
        if max_samples is None:
            self.add_state("samples", [], "cat")
        else:
            self.add_state(
                "samples",
                reservoir.empty(self.num_outputs, max_samples, dim, "cpu"),
                reservoir.fold,
            )

    def _add(self, rows: Tensor, samples: Samples) -> None:
        """Add a batch of rows ``(n, d)`` or ``(C, n, d)`` to the state."""
        rows = rows if rows.ndim == 3 else rows.unsqueeze(0)
        valid, counters = samples.valid, self._count(samples)
        if self.max_samples is not None:
            if valid is not None:
                rows = torch.where(valid.unsqueeze(2), rows, 0)
            self.samples = reservoir.update(cast(Tensor, self.samples), rows, valid, self._stream)
        elif self.num_outputs == 1:
            kept = rows[0] if valid is None else rows[0][valid[0]]
            self.samples = [*self.samples, kept]
        else:
            # Outputs drop different pairs but share their rows; `compute` leaves the marked ones
            # out.
            if valid is not None:
                rows = torch.where(valid.unsqueeze(2), rows, torch.nan)
            self.samples = [*self.samples, rows.movedim(0, 1).contiguous()]
        self.counters = counters

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Update the state with a batch and return the value of that batch alone."""
        if isinstance(self.samples, Tensor):
            self._stream = self.samples[:, 0]
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._stream = None

    def rows(self) -> list[Tensor]:
        """Return the samples that are kept of each output, float64 ``(n, d)``, its
        variables side by side.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for those of all.
        """
        if self.max_samples is not None:
            return reservoir.rows(cast(Tensor, self.samples))
        # After a sync the list is one tensor.
        parts = (
            [self.samples] if isinstance(self.samples, Tensor) else [self._no_rows(), *self.samples]
        )
        rows = torch.cat([p.to(parts[0].device) for p in parts])
        if self.num_outputs == 1:
            return [rows]
        return [r[~r.isnan().any(1)] for r in rows.unbind(1)]

    def _no_rows(self) -> Tensor:
        device = self.samples[0].device if len(self.samples) else self.counters.device
        return torch.empty(0, *self._row_shape, dtype=torch.float64, device=device)

    def _padding(self, rows: list[Tensor]) -> str | None:
        """Say that fewer samples are repeated than there are ranks, which padding does and data do
        not.
        """
        ranks = 1
        if self._is_synced and dist.is_available() and dist.is_initialized():
            ranks = dist.get_world_size(self.process_group)
        for r in rows if ranks > 1 else ():
            repeated = round(float((1 - 1 / copies(r).double()).sum())) if len(r) else 0
            if 1 <= repeated < ranks:
                return (
                    f"{repeated} of {len(r)} samples of {type(self).__name__} are repeated on "
                    f"{ranks} ranks, as the padding of DistributedSampler makes them. A copy is a "
                    "neighbour at distance 0 and raises the value. Use "
                    "mi_metrics.UnpaddedDistributedSampler."
                )
        return None

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        if isinstance(self.samples, list):
            # A rank without samples takes part with rows of the right shape and dtype, and on the
            # right device.
            self.samples = [torch.cat([self._no_rows(), *self.samples]).to(self.counters.device)]
        super()._sync_dist(*args, **kwargs)

    def _problems(self, states: dict[str, Any]) -> list[str]:
        parts = states["samples"]
        if self.max_samples is None and isinstance(parts, list):
            kinds = {(p.shape[1:], p.dtype) if isinstance(p, Tensor) else None for p in parts}
            if kinds - {(self._row_shape, torch.float64)}:
                shape = ", ".join(map(str, self._row_shape))
                return [f"expected samples of shape (n, {shape}) in float64"]
        default = self._defaults["samples"]
        if isinstance(default, Tensor) and isinstance(parts, Tensor):
            first = (default.shape[0], default.shape[1] - 1, default.shape[2])
            if parts.shape == first and torch.equal(states["header"].to(self.header), self.header):
                return [
                    "its bounded sample is of version 0.1.0, which kept or dropped all copies of a "
                    "sample together and can't be made right. Update a new metric with the samples"
                ]
        return super()._problems(states)

    def _impossible(self, states: dict[str, Any]) -> list[str]:
        if problems := super()._impossible(states):
            return problems
        samples, counters = states["samples"], states["counters"]
        kept = counters[SEEN] - counters[IGNORED]
        if self.max_samples is not None:
            return reservoir.problems(samples, kept)
        nothing = torch.empty(0, *self._row_shape, dtype=torch.float64, device=counters.device)
        rows = torch.cat([nothing, *(p.to(counters.device) for p in samples)])
        rows = rows.view(-1, self.num_outputs, self._row_shape[-1])
        # With several outputs a pair that one of them ignored is NaN.
        finite, ignored = rows.isfinite().all(2), rows.isnan().all(2) & (self.num_outputs > 1)
        if bool((finite | ignored).all() & (finite.sum(0) == kept).all()):
            return []
        return [
            f"impossible values in samples: expected {kept.tolist()} of finite numbers, as the "
            f"counters say, but got {finite.sum(0).tolist()} and {int((~finite).sum())} others. "
            "The checkpoint was changed or damaged"
        ]
