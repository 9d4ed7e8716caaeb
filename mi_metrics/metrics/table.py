"""Metrics whose state is a joint table: what binned and kernel density estimates have in common."""

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mi_metrics.functional.options import Interval, check_cells, check_integer
from mi_metrics.functional.tables import views
from mi_metrics.functional.tables.automatic import MOST_BINS, Choice
from mi_metrics.functional.tables.axis import Axis, fixed_axis
from mi_metrics.functional.tables.bspline import soft_counts
from mi_metrics.functional.tables.hard import Unchecked, hard_counts_within, looks_on_the_way
from mi_metrics.functional.tables.independence import table_to_test
from mi_metrics.functional.tables.inside import added, are_few
from mi_metrics.functional.tables.outside import all_inside, mass_outside
from mi_metrics.functional.tables.pairs import Cells
from mi_metrics.functional.tensors import arithmetic, lift, on_cpu
from mi_metrics.metrics.base import IGNORED, SEEN, WIDE_X, WIDE_Y, Samples
from mi_metrics.metrics.inference import PValueMetric, stacked
from mi_metrics.states import grid, reading
from mi_metrics.states.damage import grid_problems
from mi_metrics.states.header import Value
from mi_metrics.states.memory import Memory

# So many samples of small batches wait until they are counted, on the CPU and elsewhere: to write
# a table takes longer than to count them.
MOST_WAITING, MOST_WAITING_ELSEWHERE = 1 << 13, 1 << 16
# And so many batches: each takes memory of its own, however small it is.
MOST_BATCHES = 256


class Waiting(NamedTuple):
    """A table and the samples that it lacks: finite, and inside of a known range."""

    table: Tensor
    samples: tuple[Tensor, ...]  # (2, C, n), x first, of one dtype
    number: int

    @property
    def pairs(self) -> Tensor:
        """The samples, ``(2, C, n)``."""
        return torch.cat(self.samples, 2)


class JointTableMetric(PValueMetric):
    """A joint table per output, over a known range or over cells that the data choose; estimators
    are views of it.

    State: ``table``. With a known range, int64 ``(C, B_x, B_y)`` (hard kernel) or float64 (soft
    kernels), a sum over batches and ranks. With an unknown range, the int64 ``(C, L)`` of
    :mod:`mi_metrics.states.grid`, which has a merge of its own; kernels and bins are chosen when it
    is read.

    Integers that add up may be added up later: samples of small batches wait until there are enough
    of them, or somebody asks for the table. Meanwhile the metric has no attribute of this name,
    which is what :meth:`__getattr__` is for. Where it has one, nothing waits.
    """

    _takes_bytes: ClassVar[bool] = True

    table: Tensor
    resolution: int
    # A class attribute too: metrics that were pickled by version 0.1.0 have none of their own.
    _memory: Memory | None = None
    _waiting: Waiting | None = None
    _restored = (*PValueMetric._restored, "_waiting")
    # TorchScript compiles the class of every attribute that is not named here.
    __jit_ignored_attributes__: ClassVar[list[str]] = [
        *PValueMetric.__jit_ignored_attributes__,
        "_memory",
        "_waiting",
    ]

    def __init__(
        self,
        bins: tuple[int, int] | None,
        ranges: tuple[Interval, Interval] | None,
        *,
        kernel: str,
        resolution: int,
        num_outputs: int,
        nan_strategy: str,
        num_conditions: int | None,
        **kwargs: Any,
    ) -> None:
        configuration: dict[str, Value] = {"state": "grid", "resolution": resolution}
        if bins is not None and ranges is not None:
            (x_lo, x_hi), (y_lo, y_hi) = ranges
            configuration = {
                "state": "table",
                "kernel": kernel,
                "num_bins_x": bins[0],
                "num_bins_y": bins[1],
            }
            configuration |= {"x_lo": x_lo, "x_hi": x_hi, "y_lo": y_lo, "y_hi": y_hi}
        num_outputs = check_integer("num_outputs", num_outputs, 1)
        bx, by = bins or (resolution, resolution)
        tables = num_outputs
        if num_conditions is None:
            check_cells(f"{num_outputs=} with {bx} x {by} each", tables * bx * by)
        else:
            tables = check_integer("num_conditions", num_conditions, 1)
            check_cells(f"{num_conditions=} with {bx} x {by} each", tables * bx * by)
            configuration["num_conditions"] = tables
        super().__init__(
            configuration, num_outputs=num_outputs, nan_strategy=nan_strategy, **kwargs
        )
        self._bins, self._ranges, self._kernel = bins, ranges, kernel
        if bins is not None and ranges is not None:
            dtype = torch.int64 if kernel == "hard" else torch.float64
            self.add_state("table", torch.zeros(tables, *bins, dtype=dtype, device="cpu"), "sum")
        else:
            self.add_state("table", grid.empty(tables, resolution, "cpu"), grid.fold)

    def update(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch of paired samples to the joint table.

        Args:
            x: Samples of any real dtype and shape with ``num_outputs=1``, else ``(N, num_outputs,
                ...)``.
            y: Samples paired with ``x`` by position, of the same shape; with several outputs ``(N,
                1, ...)`` is paired with each.
            mask: bool of the shape of ``x``, or of one that broadcasts to it; False leaves a
                sample out, whatever it holds.

        Raises:
            TypeError: If x or y is not a real tensor, or the mask is not bool.
            ValueError: If shapes or devices differ, there is no sample, or with
                ``nan_strategy="error"`` a sample is NaN or infinite. The state is left as it was.
        """
        samples = self._unchecked(x, y, mask)
        if samples is not None:
            self._add(samples)

    def __getattr__(self, name: str) -> Any:
        if name == "table" and (waiting := self._waiting) is not None:
            table = self._counted(waiting)
            # Another thread may have added samples meanwhile, or have read the table.
            if self._waiting is waiting:
                self.table, self._waiting = table, None
            return table
        return super().__getattr__(name)

    def reset(self) -> None:
        """Forget all that was accumulated."""
        # What waits need not be counted first.
        if self._waiting is not None and "table" not in self.__dict__:
            self.table, self._waiting = self._waiting.table, None
        super().reset()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state | {"table": self.table, "_waiting": None}

    def _add(self, samples: Samples, labels: Tensor | None = None) -> None:
        """Add rows of samples to the state, or refuse them."""
        if self._can_wait(samples, labels) and self._add_to_waiting(samples):
            return
        looked_at_later = samples.valid is None and self.nan_strategy == "error"
        if labels is not None and not looked_at_later:
            self._refuse(labels)
        if self._bins is None:
            # Others are refused where they are read anyway.
            if not looked_at_later:
                samples = self._finite(samples)
            x, y, valid, _ = samples
            table, outside = self._in_cells(self.table, x, y, valid, labels), None
        elif (found := self._inside(samples, labels)) is not None:
            table, outside = found
        else:
            samples = self._finite(samples)
            x, y, valid, _ = samples
            table = self.table + self._batch(x, y, valid, labels)
            outside = self._outside(x, y, valid)
        self.counters = self._count(samples, outside)
        self.table = table

    # -- samples that wait -------------------------------------------------------------------------

    def _can_wait(self, samples: Samples, labels: Tensor | None) -> bool:
        """Say whether samples may be counted later, should they be finite and inside."""
        x, y, valid, _ = samples
        here = on_cpu(x)
        return (
            labels is None
            and valid is None
            # What is read at once need not be put away.
            and not self._in_forward
            and x.dtype == y.dtype
            and x.numel() <= (MOST_WAITING if here else MOST_WAITING_ELSEWHERE) // 2
            # Sums of soft counts are rounded, as the batches came.
            and (self._bins is None or self._kernel == "hard")
            # Samples that are not refused are no reason to wait for a GPU.
            and (here or self.nan_strategy == "error")
        )

    def _add_to_waiting(self, samples: Samples) -> bool:
        """Put samples away and return True; or False where one is not finite, or not inside."""
        x, y, _, _ = samples
        pairs = torch.stack([x, y])
        if self._bins is None:
            # Finite samples, too, may have a sum that overflows, and are looked at again.
            if not math.isfinite(float(pairs.sum())):
                return False
        elif self._ranges is None or not all_inside(x, y, self._ranges):
            return False
        waiting = None if "table" in self.__dict__ else self._waiting
        if waiting is None or waiting.samples[0].dtype != pairs.dtype:
            waiting = Waiting(self.table, (), 0)
        waiting = Waiting(waiting.table, (*waiting.samples, pairs), waiting.number + x.numel())
        counters = self._count(samples)
        enough = waiting.number > (MOST_WAITING if on_cpu(x) else MOST_WAITING_ELSEWHERE)
        enough |= len(waiting.samples) >= MOST_BATCHES
        table = self._counted(waiting) if enough else None
        self.counters = counters
        if table is None:
            self._waiting = waiting
            self.__dict__.pop("table", None)
        else:
            self.table, self._waiting = table, None
        return True

    def _counted(self, waiting: Waiting) -> Tensor:
        """Return the table with the samples that wait added."""
        x, y = waiting.pairs
        if self._bins is None:
            return self._in_cells(waiting.table, x, y)
        assert self._ranges is not None
        table = added(waiting.table, x, y, self._ranges) if are_few(x) else None
        return waiting.table + self._batch(x, y, None) if table is None else table

    def _in_cells(
        self,
        table: Tensor,
        x: Tensor,
        y: Tensor,
        valid: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return a grid with samples added."""
        memory = self._memory
        if memory is None or not memory.is_of(table):
            memory = Memory()
            # In `forward` this may be the batch by itself, and what was kept of the whole state.
            if not self._in_forward or self._memory is None or self._memory.is_of(None):
                self._memory = memory
        return grid.update(table, x, y, valid, labels, memory, self._refuse)

    def _forward_reduce_state_update(self, *args: Any, **kwargs: Any) -> Any:
        # To add a batch to a grid takes a fraction of merging a grid of it, to the same bits.
        if self._bins is None:
            return self._forward_full_state_update(*args, **kwargs)
        return super()._forward_reduce_state_update(*args, **kwargs)

    def joint(self) -> Tensor:
        """Return the probability table; see the subclass."""
        raise NotImplementedError

    def edges(self, output: int = 0) -> tuple[Tensor, Tensor]:
        """Return the edges of the table's cells in data units; see the subclass."""
        raise NotImplementedError

    def pointwise(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Return the pointwise information of samples under the table, in the metric's unit:
        :math:`\log p_{ab} / (p_a p_b)` of the cell (a, b) that a sample lies in.

        Of samples that occur together more often than independent ones would it is positive, of
        others negative. Its mean over the samples that were counted is the plug-in information.
        Rare cells have large values by chance. Under the table of this rank alone; enter
        ``metric.sync_context()`` on every rank for that of all.

        Args:
            x: Samples as ``update`` takes them.
            y: Samples paired with ``x`` by position.

        Returns:
            float64 of the shape of ``x``: 0 in a cell without samples; those outside of the table
            count in its edge; NaN where x or y is NaN or infinite, and without samples.

        Raises:
            TypeError: If x or y is not a real tensor.
            ValueError: If shapes or devices differ, or there is no sample.
        """
        self._check_has_values()
        self._check_whole_counts("pointwise")
        x, y = self._pair(x, y)
        rows = [lift(self._by_output(v), name) for v, name in ((x, "x"), (y, "y"))]
        finite = rows[0].isfinite() & rows[1].isfinite()
        a, b = (torch.where(finite, v, 0) for v in rows)
        values = torch.stack(
            [self._pointwise(output, a[output], b[output]) for output in range(self.num_outputs)]
        )
        values = torch.where(finite, values, torch.nan)
        if self.num_outputs == 1:
            return values.view(x.shape)
        return values.view(x.movedim(1, 0).shape).movedim(0, 1)

    def plot_joint(self, output: int = 0, ax: Any = None) -> Any:
        """Draw the joint table with its two marginals, axes in data units, and the value above;
        needs matplotlib.

        Of this rank alone; enter ``metric.sync_context()`` on every rank for the table of all.

        Args:
            output: Which output to draw.
            ax: The axes to draw in; by default a new figure.

        Returns:
            The figure and the axes of the table.
        """
        from mi_metrics.plotting import plot_joint

        x_edges, y_edges = self.edges(output)
        joint = self.joint()
        table = joint if self.num_outputs == 1 else joint[output]
        # With automatic bins, outputs that have fewer are padded.
        table = table[: len(x_edges) - 1, : len(y_edges) - 1]
        return plot_joint(table, x_edges, y_edges, ax=ax, title=self._title(output))

    def _title(self, output: int) -> str:
        """Return the value of an output with its unit, of this rank and without a word of doubt."""
        was, self._in_forward = self._in_forward, True
        try:
            # The method of the class, because that of the object takes part in a sync.
            value = float(type(self).compute(self).reshape(-1)[output])
        finally:
            self._in_forward = was
        if self.normalization == "none":
            return f"mutual information {value:z.3f} {self.unit}"
        return f"normalised mutual information {value:z.3f} ({self.normalization})"

    def _impossible(self, states: dict[str, Any]) -> list[str]:
        if problems := super()._impossible(states):
            return problems
        table, counters = states["table"], states["counters"]
        kept = counters[SEEN] - counters[IGNORED]
        if self._bins is None:
            return grid_problems(table, kept)
        mass = table.sum((1, 2))
        # Sums of soft counts are rounded. No comparison holds for NaN.
        exact = mass == kept if self._kernel == "hard" else (mass - kept).abs() <= 1e-6 * (1 + kept)
        if bool((table >= 0).all() & exact.all()):
            return []
        return [
            "impossible values in table: expected counts that are not negative and sum to the "
            f"{kept.tolist()} samples of the counters, but they sum to {mass.tolist()}. The "
            "checkpoint was changed or damaged"
        ]

    def _check_output(self, output: int) -> None:
        if not 0 <= check_integer("output", output, 0) < self.num_outputs:
            raise ValueError(
                f"Expected `output` below num_outputs={self.num_outputs}, but got {output}. "
                f"Outputs are counted from 0."
            )

    # -- what the state says to a test, and of samples ---------------------------------------------

    def _pointwise(self, output: int, x: Tensor, y: Tensor) -> Tensor:
        """Return the pointwise information of finite samples ``(n,)`` of an output; see the
        subclass.
        """
        raise NotImplementedError

    def _tables_to_test(self, *, law: bool) -> Tensor:
        found = [table_to_test(*self._pairs(c), law=law) for c in range(self.num_outputs)]
        return stacked([table.flatten(0, -3) for table in found])

    def _pairs(self, output: int) -> tuple[Cells, Choice]:
        """Return an output's cells as pairs to be put in bins, and what the choice of bins has to
        know: here that of a bare call.
        """
        table = self.table[output : output + 1]
        most = table.shape[-1] if self._bins else self.resolution
        choice = Choice(None, ("auto", "auto"), True, most=min(MOST_BINS, most), few=most)
        if self._bins:
            return views.cells_of_ranges(table), choice
        return reading.pairs_of(table, self._wide(output))[0], choice

    def _wide(self, output: int) -> tuple[bool, bool]:
        """Return whether x and y had samples of other dtypes than float32 and shorter."""
        x, y = self.counters[[WIDE_X, WIDE_Y], output].tolist()
        return bool(x), bool(y)

    def _refuse(self, labels: Tensor) -> None:
        """Refuse labels that are none of the conditions."""

    def _inside(
        self, samples: Samples, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None] | None:
        """Return the table with samples that were looked at while they were counted, and how many
        lie outside of the known range, None: none does; None where nothing looked at them, or a
        mask leaves some out.
        """
        assert self._ranges is not None
        x, y, valid, _ = samples
        # Samples that are not refused are no reason to wait for a GPU.
        if valid is not None or (self.nan_strategy == "ignore" and not on_cpu(x)):
            return None
        if self._kernel == "hard" and are_few(x):
            if labels is not None:
                self._refuse(labels)
            table = added(self.table, x, y, self._ranges, labels)
            return None if table is None else (table, None)
        if self._kernel == "hard" and self.nan_strategy == "error" and looks_on_the_way(x):
            unchecked = Unchecked(self._ranges)
            table = self.table + self._batch(x, y, None, labels, unchecked)
            if unchecked.outside is not None:
                return table, unchecked.outside if bool(unchecked.outside.any()) else None
            return table, self._outside(x, y, None)
        if not all_inside(x, y, self._ranges):
            return None
        return self.table + self._batch(x, y, None, labels), None

    def _batch(
        self,
        x: Tensor,
        y: Tensor,
        valid: Tensor | None,
        labels: Tensor | None = None,
        unchecked: Unchecked | None = None,
    ) -> Tensor:
        """Return the table of a batch over the known range."""
        assert self._bins is not None
        if self._kernel == "hard":
            assert self._ranges is not None
            return hard_counts_within(
                *(x, y, self._ranges, self._bins, valid),
                unchecked=unchecked,
                labels=labels,
                conditions=1 if labels is None else len(self.table),
                refuse=self._refuse,
            )
        if valid is not None:
            x, y = (torch.where(valid, v, 0) for v in (x, y))
        axes = self._axes(torch.float64, torch.float64)
        return soft_counts(x.double(), y.double(), axes, self._bins, self._kernel, valid)

    def _axes(self, x_dtype: torch.dtype, y_dtype: torch.dtype) -> tuple[Axis, Axis]:
        assert self._bins is not None
        assert self._ranges is not None
        device = self.counters.device  # The table may be what is asked for.
        return (
            fixed_axis(self._ranges[0], self._bins[0], arithmetic(x_dtype), device),
            fixed_axis(self._ranges[1], self._bins[1], arithmetic(y_dtype), device),
        )

    def _outside(self, x: Tensor, y: Tensor, valid: Tensor | None) -> Tensor:
        """Count the valid samples of each output that lie outside the range on either axis."""
        assert self._ranges is not None
        return mass_outside(x, y, self._ranges, valid)
