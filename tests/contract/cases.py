"""The metrics under contract. To put a class under it, add one line to ``CASES``."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

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
    gaussian_mutual_information,
    kde_mutual_information,
    knn_conditional_mutual_information,
    knn_mutual_information,
    mutual_information_gap,
)

Batch = tuple[Tensor, Tensor]


SIZES = {
    MutualInformationMatrix: ("num_x", "num_y"),
    MutualInformationGap: ("num_latents", "num_factors"),
}


@dataclass(frozen=True)
class Case:
    """One configuration of a metric, and what is promised of it beyond what is promised of all."""

    name: str
    metric: type[Metric]
    kwargs: dict[str, Any] = field(default_factory=dict)
    # The call on all samples that gives the same value; it gets those of `kwargs` that it knows.
    functional: Callable[..., Tensor] | None = None
    # The two agree to this, relative; 0: bit for bit.
    functional_tolerance: float = 0.0
    # Whether the two agree only where an axis has fewer distinct values than the metric has cells.
    on_lattice: bool = False
    # How far values of different splits may lie apart, relative; 0: bit for bit.
    tolerance: float = 0.0
    # Other arguments with which the metric can share its state in a collection.
    shares: tuple[dict[str, Any], ...] = ()
    # Other arguments with which it can't.
    differs: tuple[dict[str, Any], ...] = ()
    # Whether the state stays as large as it is.
    constant_memory: bool = True
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    @property
    def num_outputs(self) -> int:
        return self.kwargs.get("num_outputs", 1)

    @property
    def strangers(self) -> tuple[dict[str, Any], ...]:
        """Arguments of metrics whose states don't add up with this one's, whatever the class."""
        known, more = inspect.signature(self.metric).parameters, []
        if self.vectors or ("x_dim" in known and "num_outputs" not in known):
            more = [{self.sizes[0]: self.dims[0] + 1}]
        elif "num_outputs" in known:
            more = [{"num_outputs": self.num_outputs + 1}]
        return (*self.differs, {"nan_strategy": "ignore"}, *more)

    @property
    def sizes(self) -> tuple[str, str]:
        """The arguments that say how many columns x and y have."""
        return SIZES.get(self.metric, ("x_dim", "y_dim"))

    @property
    def dims(self) -> tuple[int, int]:
        x, y = self.sizes
        return self.kwargs.get(x, 1), self.kwargs.get(y, 1)

    @property
    def vectors(self) -> bool:
        return self.dims != (1, 1) or self.metric is GaussianMutualInformation

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a value."""
        if self.metric is MutualInformationMatrix:
            return self.dims
        return () if self.num_outputs == 1 else (self.num_outputs,)

    @property
    def counted(self) -> tuple[int, ...]:
        """The shape of what counts samples."""
        return self.dims if self.metric in SIZES else self.shape

    @property
    def pairs(self) -> int:
        """How many pairs of variables are counted."""
        return math.prod(self.counted)

    @property
    def per_row(self) -> int:
        """How many samples of one output are in a row of :meth:`samples`."""
        return 1 if self.num_outputs == 1 else 2

    def on(self, device: torch.device) -> "Case":
        return replace(self, device=device)

    def build(self, **overrides: Any) -> Any:
        return self.metric(**(self.kwargs | overrides)).to(self.device)

    def samples(self, n: int = 400, seed: int = 0) -> Batch:
        """Return n rows of dependent samples, float32, whose two marginals have different shapes,
        places and scales.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = (n,) if self.num_outputs == 1 else (n, self.num_outputs, 2)
        x, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        if self.vectors:
            x, noise = (torch.randn(n, dim, generator=generator) for dim in self.dims)
            y = 20 + 8 * (0.6 * x.sum(1, keepdim=True) + noise)
            return x.to(self.device), y.to(self.device)
        # Every output has its own dependence.
        r = (
            0.6
            if self.num_outputs == 1
            else torch.linspace(0.1, 0.9, self.num_outputs).unsqueeze(1)
        )
        y = 20 + 8 * (r * x + 0.8 * noise) + 2 * x**2
        return x.to(self.device), y.to(self.device)

    def lattice(self, n: int = 400, seed: int = 0) -> Batch:
        """Return samples with some 40 distinct values on either axis, as images and labels have
        them.
        """
        x, y = self.samples(n, seed)
        return (x * 20 / 3).clamp(-20, 20).round() / 10, (y / 2).clamp(-5, 30).round()

    def value(self, batch: Batch, **overrides: Any) -> Tensor:
        """Return the value of a metric that has seen one batch."""
        return self.fed([batch], **overrides).compute()

    def fed(self, batches: Sequence[Batch], **overrides: Any) -> Any:
        """Return a metric that has seen some batches."""
        metric = self.build(**overrides)
        for batch in batches:
            metric.update(*batch)
        return metric

    def call_functional(self, batch: Batch) -> Tensor:
        assert self.functional is not None
        known = inspect.signature(self.functional).parameters
        kwargs = {k: v for k, v in self.kwargs.items() if k in known}
        if self.vectors:
            return self.functional(*batch, **kwargs)
        rows = [
            v.movedim(1, 0).reshape(self.num_outputs, -1) if self.num_outputs > 1 else v.flatten()
            for v in batch
        ]
        return self.functional(
            *(v.unsqueeze(-1) if "n_neighbors" in known else v for v in rows), **kwargs
        )

    def assert_same(self, value: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(
            value, expected, rtol=self.tolerance, atol=self.tolerance, equal_nan=True
        )

    def assert_same_state(self, metric: Metric | dict[str, Any], expected: Metric) -> None:
        """Check that all states are the same; of a list, that it holds as many samples."""
        states = metric.metric_state if isinstance(metric, Metric) else metric
        assert list(states) == list(expected._defaults)
        for name, default in expected._defaults.items():
            state, wanted = states[name], getattr(expected, name)
            if isinstance(default, Tensor):
                assert state.dtype == wanted.dtype == default.dtype
                if "max_samples" in self.kwargs and name == "samples":
                    # Tags depend on the order in which all samples came: these are kept.
                    state, wanted = (_kept(v) for v in (state, wanted))
                self.assert_same(state, wanted)
            else:
                assert sum(map(len, state)) == sum(map(len, wanted))


def batches_of(batch: Batch, sizes: Sequence[int]) -> list[Batch]:
    """Cut a batch into batches of these sizes, with what remains as the last."""
    rest = len(batch[0]) - sum(sizes)
    assert rest >= 0
    parts = [v.split([*sizes, rest] if rest else list(sizes)) for v in batch]
    return list(zip(*parts, strict=True))


KNOWN: dict[str, Any] = {"num_bins": (5, 8), "value_range": ((-3.0, 3.0), (-10.0, 60.0))}
UNKNOWN: dict[str, Any] = {"num_bins": (5, 8), "resolution": 64}
QUANTILE = UNKNOWN | {"binning": "quantile", "bias_correction": "miller_madow"}
VIEWS = ({"normalization": "geometric"}, {"unit": "bits"}, {"bias_correction": "miller_madow"})
CONDITIONAL_VIEWS = ({"unit": "bits"}, {"bias_correction": "miller_madow"})
OTHER_TABLES = (
    {"value_range": ((-3.0, 3.0), (-10.0, 60.00000006))},
    {"value_range": ((-3.0, 3.0), (-10.0, 255.0))},
    {"value_range": (-10.0, 60.0)},
    {"value_range": None},
    {"num_bins": (8, 5)},
    {"num_bins": (5, 9)},
)
OTHER_BINS = (
    *VIEWS,
    {"num_bins": 9},
    {"num_bins": "auto"},
    {"kernel": "hard"},
    {"kernel": "cubic"},
    {"margin": 0.5},
)
OTHER_GRIDS = ({"resolution": 63}, {"num_bins": (5, 8), "value_range": (-10.0, 60.0)})


def _kept(samples: Tensor) -> Tensor:
    """Return the number of a bounded sample and its rows, sorted."""
    rows = torch.cat(
        [samples[:, :1, :1].expand(-1, -1, samples.shape[2] - 1), samples[:, 1:, 1:]], 1
    )
    return torch.stack([torch.tensor(sorted(v.tolist())) for v in rows])


def binned(name: str, kwargs: dict[str, Any], **more: Any) -> Case:
    return Case(name, BinnedMutualInformation, kwargs, binned_mutual_information, **more)


def kde(name: str, kwargs: dict[str, Any], **more: Any) -> Case:
    return Case(name, KDEMutualInformation, kwargs, kde_mutual_information, 0.05, **more)


def knn(name: str, kwargs: dict[str, Any], **more: Any) -> Case:
    more = {"constant_memory": False} | more
    return Case(name, KNNMutualInformation, kwargs, knn_mutual_information, **more)


def third(x: Any, y: Any) -> Tensor | None:
    """A variable that depends on x, sample by sample; None where these are no samples."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or x.is_meta or y.is_meta:
        return None
    if x.is_complex() or y.is_complex() or len(x) != len(y):
        return None
    return torch.sin(5 * x.double())


class ConditionalBins(BinnedConditionalMutualInformation):
    """The metric of two variables whose condition is a function of x."""

    def update(self, x: Any, y: Any, mask: Any = None) -> None:  # type: ignore[override]
        z = third(x, y)
        super().update(x, y, None if z is None else z > 0, mask)  # type: ignore[arg-type]

    def pointwise(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        z = third(x, y)
        assert z is not None
        return super().pointwise(x, y, z > 0)


def conditional_bins(
    x: Tensor,
    y: Tensor,
    num_bins: Any = "auto",
    value_range: Any = None,
    bias_correction: Any = "auto",
) -> Tensor:
    z = third(x, y)
    assert z is not None
    return binned_conditional_mutual_information(
        x, y, z > 0, num_bins, value_range=value_range, bias_correction=bias_correction
    )


class ConditionalNeighbors(KNNConditionalMutualInformation):
    """The metric of two variables whose condition is a function of x."""

    def update(self, x: Any, y: Any, mask: Any = None) -> None:  # type: ignore[override]
        z = third(x, y)
        super().update(x, y, x if z is None else z, mask)


def conditional_neighbors(
    x: Tensor, y: Tensor, n_neighbors: int = 3, standardize: Any = True
) -> Tensor:
    z = third(x, y)
    assert z is not None
    return knn_conditional_mutual_information(x, y, z, n_neighbors, standardize=standardize)


def given_labels(name: str, kwargs: dict[str, Any], **more: Any) -> Case:
    kwargs = {"num_conditions": 2} | kwargs
    more = {"differs": ({"num_conditions": 3},)} | more
    return Case(name, ConditionalBins, kwargs, conditional_bins, **more)


def given_numbers(name: str, kwargs: dict[str, Any], **more: Any) -> Case:
    more = {"constant_memory": False} | more
    return Case(name, ConditionalNeighbors, kwargs, conditional_neighbors, **more)


def gaussian(name: str, kwargs: dict[str, Any], **more: Any) -> Case:
    views = ({"bias_correction": "none"}, {"unit": "bits"})
    more = {"tolerance": 1e-12, "functional_tolerance": 1e-12, "shares": views} | more
    return Case(name, GaussianMutualInformation, kwargs, gaussian_mutual_information, **more)


def all_pairs(
    x: Tensor,
    y: Tensor,
    *,
    num_bins: Any = "auto",
    value_range: Any = None,
    binning: Any = "auto",
    bias_correction: Any = "auto",
    normalization: Any = "none",
    unit: Any = "nats",
) -> Tensor:
    """Return the information of each pair of columns, one by one."""
    options = {
        "num_bins": num_bins,
        "value_range": value_range,
        "binning": binning,
        "bias_correction": bias_correction,
        "normalization": normalization,
        "unit": unit,
    }
    return torch.stack(
        [torch.stack([binned_mutual_information(a, b, **options) for b in y.T]) for a in x.T]
    )


def gap_of(x: Tensor, y: Tensor, *, num_bins: Any = 20, kind: Any = "mig") -> Tensor:
    """Return a disentanglement score, from each pair of columns."""
    options = {"num_bins": num_bins, "bias_correction": "none"}
    bins = num_bins[1] if isinstance(num_bins, tuple) else num_bins
    own = [binned_mutual_information(v, v, bins, bias_correction="none") for v in y.T]
    return mutual_information_gap(all_pairs(x, y, **options), torch.stack(own), kind=kind)


def matrix(name: str, kwargs: dict[str, Any], **more: Any) -> Case:
    return Case(name, MutualInformationMatrix, SIZE | kwargs, all_pairs, **more)


def gap(name: str, kwargs: dict[str, Any], **more: Any) -> Case:
    size = {"num_latents": 3, "num_factors": 2}
    return Case(name, MutualInformationGap, size | kwargs, gap_of, 1e-12, on_lattice=True, **more)


SIZE = {"num_x": 2, "num_y": 3}
OTHER_MATRICES = (*VIEWS, {"num_bins": 9}, {"num_bins": "auto"}, {"binning": "quantile"})

CASES = [
    binned("bins", KNOWN, shares=VIEWS, differs=(*OTHER_TABLES, {"kernel": "linear"})),
    binned(
        "cubic bins",
        KNOWN | {"kernel": "cubic"},
        shares=VIEWS,
        differs=OTHER_TABLES,
        tolerance=1e-12,
    ),
    binned("bins of 3 outputs", KNOWN | {"num_outputs": 3, "normalization": "geometric"}),
    binned("found bins", UNKNOWN, on_lattice=True, shares=OTHER_BINS, differs=OTHER_GRIDS),
    binned("found quantile bins", QUANTILE, on_lattice=True),
    binned(
        "found clipped bins",
        UNKNOWN | {"clip_quantile": 0.01, "margin": 0.1, "unit": "bits"},
        on_lattice=True,
    ),
    binned(
        "found number of bins",
        {"num_bins": "auto", "bias_correction": "grassberger"},
        on_lattice=True,
    ),
    binned(
        "found cubic bins",
        UNKNOWN | {"kernel": "cubic"},
        on_lattice=True,
        functional_tolerance=1e-12,
    ),
    binned(
        "found bins of 3 outputs",
        UNKNOWN | {"num_outputs": 3},
        on_lattice=True,
        differs=OTHER_GRIDS,
    ),
    kde("densities", {"resolution": 64}),
    kde("densities over a range", {"value_range": KNOWN["value_range"], "grid_size": 64}),
    kde("densities of 3 outputs", {"resolution": 64, "num_outputs": 3}),
    knn("neighbours", {}, shares=({"n_neighbors": 5}, {"algorithm": "ksg2"}, {"unit": "bits"})),
    knn("neighbours of 3 outputs", {"num_outputs": 3}),
    knn("neighbours of vectors", {"n_neighbors": 4, "x_dim": 2, "y_dim": 3}),
    knn(
        "neighbours in a bounded sample",
        # All samples of a test: what is kept of more depends on their order.
        {"max_samples": 5000},
        constant_memory=True,
        differs=({"max_samples": 4999},),
    ),
    given_labels("bins by class", KNOWN, shares=CONDITIONAL_VIEWS),
    given_labels("found bins by class", UNKNOWN, on_lattice=True, shares=CONDITIONAL_VIEWS),
    given_labels("found number of bins by class", {}, on_lattice=True),
    given_numbers("neighbours given numbers", {}, shares=({"n_neighbors": 5}, {"unit": "bits"})),
    given_numbers(
        "neighbours given numbers in a bounded sample",
        {"max_samples": 5000, "standardize": "rank"},
        constant_memory=True,
        differs=({"max_samples": 4999},),
    ),
    gaussian("moments", {}),
    gaussian("moments of vectors", {"x_dim": 2, "y_dim": 3}),
    matrix("tables of columns", KNOWN, shares=VIEWS, differs=OTHER_TABLES),
    matrix(
        "found bins of columns",
        UNKNOWN,
        on_lattice=True,
        shares=OTHER_MATRICES,
        differs=OTHER_GRIDS,
    ),
    matrix(
        "found number of bins of columns", {"num_bins": "auto", "unit": "bits"}, on_lattice=True
    ),
    gap("gap", {}, shares=({"kind": "modularity"}, {"num_bins": 9}, {"bias_correction": "auto"})),
    gap("gap of latents", {"kind": "mig_sup", "num_bins": (7, 5)}),
]
