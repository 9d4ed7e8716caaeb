"""The matrix as a metric: each pair is that of a metric of its own, whatever the others lack."""

import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import entropy
from torchmetrics import MetricCollection

from mi_metrics import (
    BinnedMutualInformation,
    MutualInformationGap,
    MutualInformationMatrix,
)
from mi_metrics.functional import binned_mutual_information, mutual_information_matrix
from mi_metrics.metrics.base import SEEN
from mi_metrics.states import column_views
from tests.cautions import ignore_cautions, warned
from tests.functional.test_gap import codes, definition
from tests.functional.test_matrix import data

mpl.use("Agg")

RANGE = ((-4.0, 4.0), (-6.0, 5.0))
OPTIONS = [
    {},
    {"num_bins": 16},
    {"num_bins": (5, 9), "bias_correction": "miller_madow"},
    {"num_bins": 12, "binning": "quantile", "unit": "bits"},
    {"binning": "values"},
    {"normalization": "adjusted"},
    {"num_bins": (8, 6), "value_range": RANGE},
    {"value_range": RANGE, "bias_correction": "grassberger"},
]


def fed(x, y, *, parts=3, **options):
    metric = MutualInformationMatrix(x.shape[1], y.shape[1], **options)
    for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
        metric.update(a, b)
    return metric


@ignore_cautions
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_pair_is_that_of_a_metric_of_its_own(options, device):
    x, y = (v.to(device) for v in data())
    found = fed(x, y, **options).compute()
    for i, a in enumerate(x.T):
        for j, b in enumerate(y.T):
            one = BinnedMutualInformation(resolution=64, **options).to(device)
            one.update(a, b)
            assert torch.equal(found[i, j], one.compute()), (i, j)


@ignore_cautions
@pytest.mark.parametrize("options", OPTIONS[:6], ids=str)
def test_of_few_values_it_is_the_function(options):
    x, y = data()
    x, y = (2 * x.clamp(-8, 8)).round(), y.clamp(-5, 5).round()
    expected = mutual_information_matrix(x, y, **options)
    assert torch.equal(fed(x, y, **options).compute(), expected)


@ignore_cautions
def test_no_bit_depends_on_how_many_pairs_are_read_at_a_time(monkeypatch):
    x, y = data()
    metric = fed(x, y)
    expected, own = metric.compute(), metric.entropies()
    monkeypatch.setattr(column_views, "CELLS", 1)
    again = fed(x, y)
    assert torch.equal(again.compute(), expected)
    torch.testing.assert_close(again.entropies(), own, rtol=1e-14, atol=1e-14)


# -- what is missing -------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True])
def test_a_missing_value_is_missing_in_its_pairs_only(known, rng):
    x, y = (torch.randint(-3, 4, (600, c), generator=rng).float() for c in (3, 2))
    y[:, 0] = (y[:, 0] + x[:, 1]).clamp(-4, 4)
    x[torch.rand(600, generator=rng) < 0.3, 0] = math.nan
    y[torch.rand(600, generator=rng) < 0.2, 1] = -math.inf
    options = {"num_bins": 9, "value_range": (-4.5, 4.5)} if known else {"binning": "values"}
    metric = fed(x, y, parts=7, nan_strategy="ignore", **options)
    value, (hx, hy) = metric.compute(), metric.entropies()
    for i, a in enumerate(x.T):
        for j, b in enumerate(y.T):
            held = a.isfinite() & b.isfinite()
            assert value[i, j] == binned_mutual_information(a[held], b[held], **options)
            assert metric.ignored[i, j] == 600 - held.sum()
    assert (metric.seen == 600).all()
    for columns, found in ((x, hx), (y, hy)):
        for column, h in zip(columns.T, found, strict=True):
            counts = column[column.isfinite()].unique(return_counts=True)[1]
            assert h.item() == pytest.approx(entropy(counts.numpy()), abs=1e-12)


def test_a_column_without_samples_is_nan_alone():
    x, y = torch.arange(800.0).view(400, 2), torch.arange(400.0).view(400, 1) % 2
    metric = MutualInformationMatrix(2, 1, nan_strategy="ignore", num_bins=2)
    metric.update(torch.cat([x[:, :1], x[:, 1:] * math.nan], 1), y)
    with warned("no samples", match="at least one output"):
        value = metric.compute()
    assert value.isnan().flatten().tolist() == [False, True]
    hx, hy = metric.entropies()
    assert hx.isnan().tolist() == [False, True]
    assert hy.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("scale", [1e-9, 1e308])
@pytest.mark.parametrize("num_bins", ["auto", 3])
def test_float64_of_a_column_counts_where_all_others_are_missing(scale, num_bins, rng):
    x = 1 + scale * torch.rand(60, 1, generator=rng, dtype=torch.float64)
    x[::7] = 1 - scale
    y = torch.full_like(x, math.nan)
    alone = MutualInformationMatrix(1, 1, num_bins)
    alone.update(x, x)
    metric = MutualInformationMatrix(1, 1, num_bins, nan_strategy="ignore")
    metric.update(x, y)
    with warned("no samples", match="no valid samples"):
        assert metric.compute().isnan()
    assert metric.entropies()[0].item() == alone.entropies()[0].item()


def test_nan_is_refused_and_names_the_column():
    metric = MutualInformationMatrix(2, 1)
    x = torch.tensor([[0.0, math.nan], [1.0, 2.0]])
    message = r"`x` to be finite, but it holds 1 NaN or infinite of 4 values, first in column 1"
    with pytest.raises(ValueError, match=message):
        metric.update(x, torch.zeros(2, 1))
    assert not metric.seen.any()
    # What merely overflows a sum is finite.
    metric.update(torch.full((4, 2), 3e38), torch.zeros(4, 1))
    assert (metric.counters[SEEN] == 4).all()


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            torch.zeros(5, 3),
            torch.zeros(5, 1),
            r"`x` of shape \(N, 2\) for num_x=2, but got \(5, 3\)",
        ),
        (torch.zeros(5, 2), torch.zeros(5, 2), r"`y` of shape \(N, 1\) for num_y=1"),
        (torch.zeros(2, 5, 1), torch.zeros(5), "Samples are in rows"),
        (torch.zeros(5, 2), torch.zeros(4), "as many samples in `x` as in `y`.* 5 and 4"),
        (torch.zeros(0, 2), torch.zeros(0), "at least one, but got 0 and 0"),
    ],
)
def test_wrong_shapes_are_refused(x, y, message):
    metric = MutualInformationMatrix(2, 1)
    with pytest.raises(ValueError, match=message):
        metric.update(x, y)
    assert not metric.seen.any()
    metric.update(torch.zeros(5, 2), torch.zeros(5))  # A single column may be flat.


def test_too_large_a_state_is_refused_with_the_arithmetic():
    message = r"num_x=300 times num_y=200 tables of 64 x 64 cells, which takes 2 GiB"
    with pytest.raises(ValueError, match=message):
        MutualInformationMatrix(300, 200)
    with pytest.raises(ValueError, match="num_latents=300 times num_factors=200"):
        MutualInformationGap(300, 200)
    MutualInformationMatrix(300, 200, 8, value_range=(0, 1))


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="`num_x` to be at least 1"):
        MutualInformationMatrix(0, 2)
    with pytest.raises(ValueError, match="`resolution` to be at least the number of bins 65"):
        MutualInformationMatrix(2, 2, 65)
    with pytest.raises(TypeError, match="Did you mean `num_bins`"):
        MutualInformationMatrix(2, 2, bins=7)
    with pytest.raises(ValueError, match=r"two factors or more for kind=\"modularity\""):
        MutualInformationGap(2, 1, kind="modularity")
    with pytest.raises(ValueError, match="`kind` to be one of"):
        MutualInformationGap(2, 1, kind="sap")


@pytest.mark.parametrize("known", [False, True])
def test_states_that_no_samples_give_are_refused(known, rng):
    options = {"num_bins": 4, "value_range": (-2, 2)} if known else {"resolution": 8}
    metric = MutualInformationMatrix(2, 2, nan_strategy="ignore", **options)
    metric.update(*torch.randn(2, 50, 2, generator=rng))
    states = {name: value.clone() for name, value in metric.metric_state.items()}
    metric.reset()
    metric.merge_state(states)
    changes = {"negative or do not sum": -1, "fewer samples in a cell": None}
    for message, place in changes.items():
        table = states["table"].clone()
        # The first counts are those of x's first column, the last ones of the last pair.
        first = 0 if known else 4 + 4 * 8
        table[first : first + 4] = 0 if place is None else table[first : first + 4]
        table[-1] += place is not None
        with pytest.raises(ValueError, match=message):
            metric.merge_state(states | {"table": table})
    if not known:
        for message, place, value in (("no cell has", 0, 2000), ("out of order", 4, 2**60)):
            table = states["table"].clone()
            table[place] = value
            with pytest.raises(ValueError, match=message):
                metric.merge_state(states | {"table": table})


# -- cautions --------------------------------------------------------------------------------------


def test_cautions_name_the_first_pair_once(rng):
    x = torch.randn(300, 2, generator=rng)
    metric = fed(x, torch.randn(300, 3, generator=rng), num_bins=32)
    with warned("undersampled", match="^Column 0 of `x` with column 0 of `y`: 300 samples occupy"):
        metric.compute()
        metric._computed = None
        metric.compute()
    far = fed(torch.cat([x, x + 100]), torch.randn(600, 1, generator=rng), value_range=(-9, 9))
    with warned("outside"):
        far.compute()
    assert (far.outside == 300).all()


def test_a_coarse_grid_is_told(rng):
    labels = torch.randint(0, 200, (5000, 1), generator=rng)
    with warned("coarse grid", match="resolution=64 distinct values"):
        fed(labels, labels, binning="values", bias_correction="miller_madow").compute()


@pytest.mark.parametrize("n", [500, 5000])
@pytest.mark.parametrize("options", [{}, {"resolution": 256}, {"value_range": (-6, 6)}])
def test_a_column_beside_itself_is_its_entropy_without_a_doubt(options, n, rng):
    x = torch.randn(n, 3, generator=rng)
    metric = fed(x, x, **options)
    # Silent: warnings are errors.
    value = metric.compute()
    assert (value.diagonal() > 2).all()
    assert (value - value.diagonal().diag()).abs().max() < 0.05
    if options.get("value_range") is None:
        # Of another variable that follows from it the state tells too little.
        other = fed(x, x.exp(), **options)
        with warned("coarse grid" if n == 5000 or not options else "rising"):
            other.compute()


# -- gaps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mig", "mig_sup", "modularity"])
def test_gap_is_its_definition(kind):
    latents, factors = codes()
    # Few enough values for the grid, of which none lies on an edge: 101 is prime.
    low, high = latents.min(0), latents.max(0)
    latents = (101 * (latents - low) / (high - low)).round()
    metric = MutualInformationGap(5, 3, kind=kind, resolution=256)
    for x, y in zip(
        torch.from_numpy(latents).chunk(4), torch.from_numpy(factors).long().chunk(4), strict=True
    ):
        metric.update(x, y)
    expected = definition(kind, latents, factors)
    assert metric.compute().item() == pytest.approx(expected, abs=1e-12)


def test_gap_over_a_given_range_is_its_definition():
    latents, factors = codes()
    low, high = latents.min(0), latents.max(0)
    latents = (latents - low) / (high - low)
    # The factors' values 0 … 5 have a bin each.
    ranges = ((0.0, 1.0), (-0.5, 5.5))
    metric = MutualInformationGap(5, 3, num_bins=(20, 6), value_range=ranges)
    metric.update(torch.from_numpy(latents), torch.from_numpy(factors))
    assert metric.compute().item() == pytest.approx(definition("mig", latents, factors), abs=1e-12)


def test_matrix_and_gaps_share_one_state():
    latents, factors = (torch.from_numpy(v) for v in codes())
    kinds = {kind: MutualInformationGap(5, 3, kind=kind) for kind in ("mig", "modularity")}
    both = MetricCollection({"matrix": MutualInformationMatrix(5, 3)} | kinds)
    for x, y in zip(latents.chunk(5), factors.chunk(5), strict=True):
        both.update(x, y)
    assert len(both.compute_groups) == 1
    found = both.compute()
    assert torch.equal(found["matrix"], fed(latents, factors).compute())
    for kind in kinds:
        alone = MutualInformationGap(5, 3, kind=kind)
        alone.update(latents, factors)
        assert found[kind] == alone.compute()


def test_constant_factors_are_told_once():
    metric = MutualInformationGap(2, 2)
    x = torch.arange(4000.0).view(2000, 2)
    y = torch.stack([torch.arange(2000) % 2, torch.ones(2000, dtype=torch.int64)], 1)
    metric.update(x, y)
    with warned("constant", match="1 of 2 factors are constant"):
        assert metric.compute().isfinite()
        metric._computed = None
        metric.compute()


# -- figures ---------------------------------------------------------------------------------------


def test_heat_map_names_columns_and_shows_negative_values(rng):
    x = torch.randn(400, 2, generator=rng)
    y = torch.randn(400, 3, generator=rng)
    y[:, 0] += x[:, 0]
    metric = fed(x, y)
    value = metric.compute()
    assert (value < 0).any()
    figure, ax = metric.plot(x_names=["dose", "age"], y_names=["pain", "mood", "sleep"])
    assert isinstance(figure, Figure)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["dose", "age"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["pain", "mood", "sleep"]
    (image,) = ax.images
    colors = image.to_rgba(image.get_array())
    zero = np.asarray(mpl.colormaps["viridis"](0.0))
    # Estimates just below 0 look like 0: by their share of the largest value.
    for i, j in (value < 0).nonzero().tolist():
        share = -value[i, j].item() / value.max().item()
        assert abs(colors[i, j] - zero).max() < share + 0.01
    assert {t.get_text() for t in ax.texts} == {f"{v:z.2f}" for v in value.flatten().tolist()}
    (bar,) = (other for other in figure.axes if other is not ax)
    assert bar.get_ylabel() == "mutual information (nats)"
    assert bar.get_ylim() == pytest.approx((value.min().item(), value.max().item()))


def test_heat_map_has_one_scale_on_both_sides_of_0():
    metric = MutualInformationMatrix(1, 4)
    _, ax = metric.plot(torch.tensor([[1.0, -0.001, -0.5, -3.0]]))
    (image,) = ax.images
    zero, brown = np.asarray(mpl.colormaps["viridis"](0.0)), mpl.colors.to_rgba("#8a5a44")
    _, tiny, half, far = np.asarray(image.to_rgba(image.get_array()))[0]
    np.testing.assert_allclose(tiny, zero, atol=0.01)
    np.testing.assert_allclose(half, (zero + brown) / 2, atol=0.01)
    np.testing.assert_allclose(far, brown, atol=0.01)
    assert image.norm.vmin == -1
    assert image.colorbar.extend == "min"


def test_heat_map_of_a_given_value():
    metric = MutualInformationMatrix(2, 1, normalization="max")
    figure, ax = metric.plot([torch.zeros(2, 1), torch.tensor([[0.5], [math.nan]])])
    assert [t.get_text() for t in ax.texts] == ["0.50", "none"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x0", "x1"]
    assert figure.axes[1].get_ylabel() == "max MI"
    with pytest.raises(ValueError, match="Give each row and column a name"):
        metric.plot(torch.zeros(2, 1), x_names=["one"])


def test_a_single_pair_has_a_plot():
    # Torchmetrics makes a scalar of what has one element.
    x = torch.arange(50.0).unsqueeze(1)
    metric = MutualInformationMatrix(1, 1, 5)
    metric.update(x, x)
    figure, _ = metric.plot(metric.compute(), x_names=["a"], y_names=["b"])
    assert isinstance(figure, Figure)
