"""Random lives of metrics: built, fed with good and bad batches, copied, saved, merged and
computed.
"""

import copy
import io
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from mi_metrics import (
    BinnedConditionalMutualInformation,
    BinnedMutualInformation,
    GaussianMutualInformation,
    KDEMutualInformation,
    KNNConditionalMutualInformation,
    KNNMutualInformation,
    MutualInformationGap,
    MutualInformationMatrix,
)
from mi_metrics.functional import (
    binned_conditional_mutual_information,
    binned_mutual_information,
    knn_conditional_mutual_information,
    knn_mutual_information,
)
from mi_metrics.functional.tables.automatic import MOST_BINS
from mi_metrics.metrics.base import MutualInformationMetric
from mi_metrics.states import reservoir
from tests.fuzzing import conditional, functions, inputs
from tests.fuzzing.outcome import Call, attempt, require, require_close, require_number, same

COMMON: dict[str, Any] = {
    "unit": inputs.UNITS,
    "num_outputs": (1, 1, 1, 2, 3, 2**40),
    "nan_strategy": ("error", "ignore", "ignore"),
    "compute_on_cpu": (False, True),
    "sync_on_compute": (True, False),
}
WITHOUT_OUTPUTS = {k: v for k, v in COMMON.items() if k != "num_outputs"}
TABLE: dict[str, Any] = {
    "normalization": inputs.NORMALIZATIONS,
    "resolution": (2, 5, 64, 64, 256, 2**30),
}
BINNED = (
    COMMON
    | TABLE
    | functions.TABLE
    | {"num_bins": inputs.BINS, "bias_correction": functions.CORRECTIONS}
)
KDE = COMMON | TABLE | functions.KDE
GAUSSIAN = WITHOUT_OUTPUTS | {
    "x_dim": (1, 1, 2, 5),
    "y_dim": (1, 1, 3),
    "bias_correction": ("analytic", "none"),
}
KNN = (
    COMMON
    | functions.KNN
    | {
        "x_dim": (1, 1, 1, 2),
        "y_dim": (1, 1, 1, 3),
        "max_samples": (None, None, 12, 100, 2**50),
    }
)
BINS = {k: BINNED[k] for k in ("num_bins", "value_range", "binning", "bias_correction")}
RESOLUTION = {"resolution": TABLE["resolution"]}
BINNED_CONDITIONAL = WITHOUT_OUTPUTS | BINS | RESOLUTION | {"num_conditions": (1, 2, 5, 5, 2**40)}
KNN_CONDITIONAL = (
    WITHOUT_OUTPUTS
    | conditional.NEIGHBORS
    | {k: KNN[k] for k in ("x_dim", "y_dim", "max_samples")}
    | {"z_dim": (1, 1, 1, 3)}
)
MATRIX = WITHOUT_OUTPUTS | BINS | TABLE | {"num_x": (1, 2, 4), "num_y": (1, 1, 3)}
GAP = {k: v for k, v in MATRIX.items() if k not in ("num_x", "num_y", "normalization", "unit")}
GAP |= {
    "num_latents": (1, 2, 4),
    "num_factors": (1, 2, 3),
    "kind": ("mig", "mig_sup", "modularity"),
}
# Arguments without a default, given in any case.
NEEDED = {
    BinnedConditionalMutualInformation: {"num_conditions": 3},
    MutualInformationMatrix: {"num_x": 2, "num_y": 1},
    MutualInformationGap: {"num_latents": 2, "num_factors": 2},
}
COLUMNS = MutualInformationMatrix | MutualInformationGap


@dataclass
class Life:
    """A metric with what it was fed: the batches that it took, as they came."""

    metric: MutualInformationMetric
    taken: list[tuple[Tensor, ...]]


def _case(cls: type[MutualInformationMetric], options: dict[str, Any]) -> Callable[[Random], Call]:
    def case(random: Random) -> Call:
        kwargs = inputs.arguments(random, options)
        # 256 cells squared take their time to be copied about.
        kwargs = {k: 64 for k in ("resolution", "grid_size") if k in options} | kwargs
        kwargs = NEEDED.get(cls, {}) | kwargs
        seed = random.getrandbits(32)
        return Call(
            f"{cls.__name__}, fed with seed {seed},",
            cls,
            (),
            kwargs,
            lambda _, metric: _live(metric, Random(seed)),
        )

    return case


def _live(metric: MutualInformationMetric, random: Random) -> None:
    life = Life(metric, [])
    shape = _batch_shape(metric, random)
    for _ in range(random.choice((0, 1, 2, 4))):
        batch = _batch(metric, random, shape)
        how = random.choice(("update", "update", "forward"))
        _feed(life, batch, _mask(metric, random, batch[0]), how)
        step = random.choice((_nothing, _nothing, _nothing, _saved, _pickled, _merged, _computed))
        step(life, random)
    _check(life)


def _batch_shape(metric: MutualInformationMetric, random: Random) -> tuple[int, ...]:
    if _vectors_are_given(metric) or isinstance(metric, COLUMNS):
        return (inputs.size(random),)
    if metric.num_outputs > 1:
        return (inputs.size(random), metric.num_outputs, *random.choice(((), (), (3,))))
    return inputs.shape(random)


def _batch(
    metric: MutualInformationMetric, random: Random, shape: tuple[int, ...]
) -> tuple[Any, ...]:
    if isinstance(metric, COLUMNS):
        return conditional.columns(random, *shape, *metric._layout.columns)
    if isinstance(metric, BinnedConditionalMutualInformation):
        labels = conditional.labels(random, shape)
        if random.random() < 0.9 and labels.dtype in inputs.INTEGERS and not labels.is_meta:
            labels = labels.long().remainder(metric.num_conditions)
        return *inputs.pair(random, shape), labels
    if _vectors_are_given(metric):
        x, y = (inputs.tensor(random, (*shape, dim)) for dim in (metric.x_dim, metric.y_dim))
        if isinstance(metric, KNNConditionalMutualInformation):
            return x, y, conditional.condition(random, x, (*shape, metric.z_dim))
        return x, y
    if isinstance(metric, KNNConditionalMutualInformation):
        x, y = inputs.pair(random, shape)
        return x, y, conditional.condition(random, x, shape)
    if getattr(metric, "discrete_y", False) and random.random() < 0.8:
        labels = inputs.cast(inputs.numbers(random, shape), torch.int32)
        return inputs.tensor(random, shape), labels
    return inputs.pair(random, shape)


def _mask(metric: MutualInformationMetric, random: Random, x: Any) -> Any:
    """Return no mask mostly, else one that treats the outputs alike, so that rows can be taken."""
    if random.random() < 0.7 or not isinstance(x, Tensor) or x.ndim == 0:
        return None
    if _vectors_are_given(metric) or isinstance(metric, COLUMNS):
        return inputs.mask(random, x.shape[:1])
    if metric.num_outputs == 1:
        return inputs.mask(random, x.shape)
    mask = inputs.mask(random, x.shape[:1])
    if not isinstance(mask, Tensor) or mask.shape != x.shape[:1]:
        return mask
    return mask.view(-1, *[1] * (x.ndim - 1)).expand(x.shape)


def _vectors_are_given(metric: MutualInformationMetric) -> bool:
    if isinstance(metric, KNNConditionalMutualInformation):
        return (metric.x_dim, metric.y_dim, metric.z_dim) != (1, 1, 1)
    return isinstance(metric, GaussianMutualInformation) or (
        isinstance(metric, KNNMutualInformation) and (metric.x_dim, metric.y_dim) != (1, 1)
    )


def _masked(metric: MutualInformationMetric, v: Tensor, mask: Tensor) -> Tensor:
    """Return the samples that a mask leaves, in a shape that the metric takes."""
    if isinstance(metric, COLUMNS):
        return v[mask]
    if metric.num_outputs > 1:
        return v[mask.flatten(1)[:, 0] if mask.numel() else mask.new_zeros(len(mask))]
    if mask.ndim > 1 and v.shape != mask.shape:
        # One of x and y may have a dimension of size 1 more or less.
        v = v.reshape(mask.shape)
    return v[mask]


def _feed(life: Life, batch: tuple[Any, ...], mask: Any, how: str) -> None:
    """Give a metric a batch; if it is refused, check that the metric is as it was."""
    metric = life.metric
    before = {k: copy.copy(v) for k, v in metric.metric_state.items()}, metric.update_count
    found = attempt(getattr(metric, how), *batch, **({} if mask is None else {"mask": mask}))
    if not isinstance(found, Exception):
        taken = tuple(v.detach().clone() for v in batch)
        if mask is not None:
            taken = tuple(_masked(metric, v, mask) for v in taken)
        life.taken.append(taken)
        if how == "forward":
            require_number(found, _shape(metric), may_be_nan=True)
        return
    require(metric.update_count == before[1], "a refused batch was counted")
    for name, state in metric.metric_state.items():
        kept = before[0][name]
        pairs = zip(state, kept, strict=True) if isinstance(state, list) else [(state, kept)]
        require(all(same(a, b) for a, b in pairs), f"a refused batch changed `{name}`")


def _nothing(life: Life, random: Random) -> None:
    pass


def _saved(life: Life, random: Random) -> None:
    """Save the states and load them into a new metric, as a checkpoint that nobody has to trust."""
    life.metric.persistent(True)
    file = io.BytesIO()
    torch.save(life.metric.state_dict(), file)
    file.seek(0)
    other = pickle.loads(pickle.dumps(life.metric))
    other.reset()
    other.load_state_dict(torch.load(file, weights_only=True))
    life.metric = other


def _pickled(life: Life, random: Random) -> None:
    life.metric = pickle.loads(pickle.dumps(life.metric))


def _merged(life: Life, random: Random) -> None:
    """Go on with an empty metric into which this one was merged."""
    other = life.metric.clone()
    other.reset()
    other.merge_state(life.metric)
    life.metric = other


def _computed(life: Life, random: Random) -> None:
    value = attempt(life.metric.compute)
    require(not isinstance(value, Exception), f"compute raised {value!r}")
    again = attempt(life.metric.compute)
    require(same(value, again), "another value at the second call")


def _shape(metric: MutualInformationMetric) -> tuple[int, ...]:
    if isinstance(metric, COLUMNS):
        gap = isinstance(metric, MutualInformationGap)
        return metric._layout.columns if metric.num_outputs > 1 and not gap else ()
    return () if metric.num_outputs == 1 else (metric.num_outputs,)


def _check(life: Life) -> None:
    """Check the final value: finite where there are samples, and that of the function where that is
    promised.
    """
    metric = life.metric
    value = attempt(metric.compute)
    require(not isinstance(value, Exception), f"compute raised {value!r}")
    used = metric.seen - metric.ignored
    few = used <= _too_few(metric)
    # No class of two members: nothing can be said.
    few = few | bool(getattr(metric, "discrete_y", False))
    if isinstance(metric, MutualInformationGap):
        # No factor varies, or no latent tells anything.
        few = torch.tensor(True)
        # Pairs that lack samples of their own have other entropies.
        whole = metric.bias_correction == "none" and not metric.ignored.any()
        most = 1 + 1e-9 if whole else math.inf
        require(bool(value.isnan()) or -1e-9 <= value <= most, f"a score of {value}")
    if isinstance(metric, MutualInformationMatrix):
        few = few.view(_shape(metric))
    require_number(value, _shape(metric), few)
    if isinstance(metric, BinnedMutualInformation | KDEMutualInformation):
        _check_table(metric, used, value)
    if isinstance(metric, BinnedConditionalMutualInformation):
        _check_classes(metric, used)
    if life.taken and not metric.ignored.any():
        _compare(life, value)


def _too_few(metric: MutualInformationMetric) -> int:
    """Return the number of samples up to which a metric has no value."""
    if isinstance(metric, KNNMutualInformation | KNNConditionalMutualInformation):
        return min(metric.n_neighbors, 2**62)
    if isinstance(metric, GaussianMutualInformation):
        return metric.x_dim + metric.y_dim
    return 0


def _check_table(metric: Any, used: Tensor, value: Tensor) -> None:
    counts, joint = attempt(metric.counts), attempt(metric.joint)
    require(
        not isinstance(counts, Exception) and not isinstance(joint, Exception),
        "a table was refused",
    )
    require_close(counts.sum((-2, -1)).double(), used.double(), 1e-12, "samples got lost")
    if bool((used > 0).all()):
        require_close(
            joint.sum((-2, -1)), torch.ones(_shape(metric)), 1e-9, "a joint that does not sum to 1"
        )
        if isinstance(metric, BinnedMutualInformation) and metric.bias_correction == "none":
            functions.require_information(value, joint, metric.normalization, metric.unit)
    for output in range(metric.num_outputs):
        for edges, size in zip(metric.edges(output), joint.shape[-2:], strict=True):
            require(len(edges) <= size + 1, "more edges than bins have")
            require(
                not bool((edges.diff() < 0).any()), f"edges that are not in order: {edges.tolist()}"
            )


def _check_classes(metric: BinnedConditionalMutualInformation, used: Tensor) -> None:
    counts, joint = attempt(metric.counts), attempt(metric.joint)
    require(counts.shape == joint.shape, "a joint of another shape")
    require(len(counts) == metric.num_conditions, "not a table for each class")
    require(bool((counts >= 0).all() & (counts.sum() == used)), "samples got lost")
    if bool(used > 0):
        require_close(joint.sum(), torch.ones(()), 1e-9, "a joint that does not sum to 1")


def _compare(life: Life, value: Tensor) -> None:
    """Compare with the functional call on all samples."""
    metric, dtypes = life.metric, {v.dtype for batch in life.taken for v in batch[:2]}
    if not metric.seen.any():
        return
    # Batches of several dtypes are evaluated each in its own; one call has one.
    if len(dtypes) > 1 or not dtypes <= {*inputs.FLOATS, *inputs.INTEGERS}:
        return
    if isinstance(metric, BinnedConditionalMutualInformation):
        _compare_classes(life, metric, value)
    if isinstance(metric, KNNConditionalMutualInformation):
        _compare_triples(life, metric, value)
    if isinstance(metric, MutualInformationMatrix):
        _compare_columns(life, metric, value)
    if isinstance(metric, KNNMutualInformation):
        parts = [_vectors(metric, *batch) for batch in life.taken]
        x, y = (torch.cat(v, -2) for v in zip(*parts, strict=True))
        if metric.max_samples is not None:
            _compare_bounded(metric, x, y)
        if x.shape[-2] <= metric.n_neighbors or x.shape[-2] > (metric.max_samples or math.inf):
            return
        names = ("n_neighbors", "algorithm", "discrete_y", "standardize", "unit")
        options = {name: getattr(metric, name) for name in names}
        expected = attempt(knn_mutual_information, x, y, **options)
        if isinstance(expected, Exception):
            # Some leading index has no class of two members.
            require(
                metric.discrete_y and value.isnan().any(),
                f"the metric took what the function refuses: {expected}",
            )
            return
        require(
            same(value, expected.view(_shape(metric))),
            f"{value.tolist()} against {expected.tolist()}",
        )
    if isinstance(metric, BinnedMutualInformation) and metric.value_range is not None:
        x, y = (
            torch.cat(v, 1)
            for v in zip(*(_rows(metric, *batch) for batch in life.taken), strict=True)
        )
        # The function takes rows of one sample for a mistake in their shape.
        if x.shape[1] < 2 or (metric.num_bins == "auto" and metric.resolution != MOST_BINS):
            return
        names = ("num_bins", "value_range", "kernel", "normalization", "bias_correction", "unit")
        options = {name: getattr(metric, name) for name in names}
        expected = attempt(binned_mutual_information, x, y, **options).view(_shape(metric))
        if metric.kernel == "hard":
            require(same(value, expected), f"{value.tolist()} against {expected.tolist()}")
        elif metric.normalization == "none" and metric.bias_correction == "none":
            require_close(value, expected, 1e-12, "another value than the function's")


def _compare_classes(life: Life, metric: BinnedConditionalMutualInformation, value: Tensor) -> None:
    x, y, z = (torch.cat([v.flatten() for v in parts]) for parts in zip(*life.taken, strict=True))
    own_cells = metric.num_bins == "auto" and metric.resolution != MOST_BINS
    # The function takes rows of one sample for a mistake in their shape.
    if len(x) < 2 or own_cells or metric.value_range is None:
        return
    names = ("num_bins", "value_range", "binning", "bias_correction", "unit")
    options = {name: getattr(metric, name) for name in names}
    expected = attempt(binned_conditional_mutual_information, x, y, z, **options)
    require(same(value, expected), f"{value} against {expected}")


def _compare_triples(life: Life, metric: KNNConditionalMutualInformation, value: Tensor) -> None:
    dims = (metric.x_dim, metric.y_dim, metric.z_dim)
    x, y, z = (
        torch.cat([v.reshape(-1, dim) for v in parts])
        for parts, dim in zip(zip(*life.taken, strict=True), dims, strict=True)
    )
    if not metric.n_neighbors < len(x) <= (metric.max_samples or math.inf):
        return
    options = {name: getattr(metric, name) for name in ("n_neighbors", "standardize", "unit")}
    expected = attempt(knn_conditional_mutual_information, x, y, z, **options)
    require(same(value, expected), f"{value} against {expected}")


def _compare_columns(life: Life, metric: MutualInformationMatrix, value: Tensor) -> None:
    sizes = metric._layout.columns
    x, y = (
        torch.cat([v.reshape(-1, number) for v in parts])
        for parts, number in zip(zip(*life.taken, strict=True), sizes, strict=True)
    )
    own_cells = metric.num_bins == "auto" and metric.resolution != MOST_BINS
    if len(x) < 2 or own_cells or metric.value_range is None:
        return
    names = ("num_bins", "value_range", "binning", "bias_correction", "normalization", "unit")
    options, value = {name: getattr(metric, name) for name in names}, value.view(sizes)
    for i, a in enumerate(x.T):
        for j, b in enumerate(y.T):
            pair = attempt(binned_mutual_information, a, b, **options)
            require(same(value[i, j], pair), f"pair {i}, {j}: {value[i, j]} against {pair}")


def _compare_bounded(metric: KNNMutualInformation, x: Tensor, y: Tensor) -> None:
    """Check that the sample which is kept of a stream does not depend on its batches."""
    size, dim = x.shape[-2], metric.x_dim + metric.y_dim
    rows = torch.cat([v.double() for v in (x, y)], -1).view(metric.num_outputs, size, dim)
    state = reservoir.empty(metric.num_outputs, metric.max_samples or 0, dim)
    for part in rows.split(5, 1):
        state = reservoir.update(state, part)
    require(same(metric.samples, state), "another bounded sample in other batches")


def _rows(metric: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if metric.num_outputs > 1:
        x, y = (v.movedim(1, 0).reshape(metric.num_outputs, -1) for v in (x, y))
    return x.reshape(metric.num_outputs, -1), y.reshape(metric.num_outputs, -1)


def _vectors(metric: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if (metric.x_dim, metric.y_dim) != (1, 1):
        return (x.unsqueeze(1) if x.ndim == 1 else x), (y.unsqueeze(1) if y.ndim == 1 else y)
    x, y = (v.unsqueeze(-1) for v in _rows(metric, x, y))
    return x, y


CLASSES = (
    (BinnedMutualInformation, BINNED),
    (GaussianMutualInformation, GAUSSIAN),
    (KDEMutualInformation, KDE),
    (KNNMutualInformation, KNN),
    (BinnedConditionalMutualInformation, BINNED_CONDITIONAL),
    (KNNConditionalMutualInformation, KNN_CONDITIONAL),
    (MutualInformationMatrix, MATRIX),
    (MutualInformationGap, GAP),
)
KINDS = {cls.__name__: _case(cls, options) for cls, options in CLASSES}
