"""Kernel density estimates against direct sums over all pairs of samples, closed forms, and what
must not change.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mi_metrics import MutualInformationWarning
from mi_metrics.functional.cautions import caution_each
from mi_metrics.functional.densities.counted import Cells, kde_from_table, kde_joint_from_table
from mi_metrics.functional.densities.doubts import MESSAGES, Doubts
from mi_metrics.functional.information import entropies
from mi_metrics.functional.kde import kde_joint, kde_mutual_information
from tests.cautions import warned
from tests.samples import gaussian


def truth(r: float) -> float:
    return -0.5 * math.log(1 - r * r)


def oracle(x: Tensor, y: Tensor, bandwidth: str | tuple[float, float] = "silverman") -> float:
    """Moon, Rajagopalan, Lall (1995), word for word: N² kernels, plug-in and leave-one-out."""
    x, y = x.double().cpu(), y.double().cpu()
    n, s = len(x), torch.cov(torch.stack([x, y]))
    deviations = s.diagonal().sqrt()
    if isinstance(bandwidth, str):
        joint = n ** (-1 / 3) * s
        hx, hy = (
            {"silverman": 1.06, "scott": 1.0}[bandwidth] * deviations * n ** (-1 / 5)
        ).tolist()
    else:
        hx, hy = bandwidth
        r = float(s[0, 1] / deviations.prod())
        joint = torch.tensor([[hx * hx, r * hx * hy], [r * hx * hy, hy * hy]], dtype=torch.float64)
    inverse = torch.linalg.inv(joint)
    dx, dy = x[:, None] - x, y[:, None] - y
    mahalanobis = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
    value = 0.0
    for sign, exponent, norm in (
        (1, mahalanobis, 2 * math.pi * math.sqrt(float(torch.linalg.det(joint)))),
        (-1, (dx / hx) ** 2, math.sqrt(2 * math.pi) * hx),
        (-1, (dy / hy) ** 2, math.sqrt(2 * math.pi) * hy),
    ):
        kernels = torch.exp((-exponent / 2).clamp_min(-600)) / norm
        plug_in = (kernels.sum(1) / n).log().mean()
        leave_one_out = ((kernels.sum(1) - 1 / norm) / (n - 1)).log().mean()
        value += sign * float(plug_in + leave_one_out) / 2
    return value


def dyadic_table(x: Tensor, y: Tensor, resolution: int = 256) -> tuple[Tensor, Cells, Cells]:
    """Count samples in the cells that a metric of unknown range would have: occupied ones of width
    2**e.
    """
    index, cells = [], []
    for v in (x, y):
        level = -40
        while len(numbers := torch.floor(v / 2.0**level).unique()) > resolution:
            level += 1
        cells.append(Cells((numbers + 0.5) * 2.0**level, 2.0**level))
        index.append(torch.searchsorted(numbers, torch.floor(v / 2.0**level)))
    shape = len(cells[0].centres), len(cells[1].centres)
    counts = torch.bincount(index[0] * shape[1] + index[1], minlength=shape[0] * shape[1]).view(
        shape
    )
    return counts, cells[0], cells[1]


class TestAgainstDirectSums:
    @pytest.mark.parametrize("r", [0, 0.6, -0.6, 0.99, 0.9999])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_thousand_samples(self, r: float, seed: int, device: torch.device) -> None:
        x, y = gaussian(1000, r, seed)
        assert float(kde_mutual_information(x.to(device), y.to(device))) == pytest.approx(
            oracle(x, y), abs=5e-4
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("r", [0, 0.6, 0.9999])
    def test_study_size(self, r: float) -> None:
        x, y = gaussian(4900, r, 2)
        assert float(kde_mutual_information(x, y)) == pytest.approx(oracle(x, y), abs=5e-4)

    @pytest.mark.parametrize("bandwidth", ["scott", (0.2, 0.5), (0.4, 0.15)])
    def test_bandwidths(self, bandwidth: str | tuple[float, float]) -> None:
        x, y = gaussian(1000, 0.8)
        value = float(kde_mutual_information(x, y, bandwidth=bandwidth))  # type: ignore[arg-type]
        assert value == pytest.approx(oracle(x, y, bandwidth), abs=5e-4)

    def test_one_number_is_both_axes(self) -> None:
        x, y = gaussian(500, 0.5)
        assert kde_mutual_information(x, y, bandwidth=0.3) == kde_mutual_information(
            x, y, bandwidth=(0.3, 0.3)
        )

    def test_other_shapes(self) -> None:
        x, y = gaussian(800, 0.5)
        x, y = x.exp(), torch.where(y > 0, y + 2, y)
        assert float(kde_mutual_information(x, y)) == pytest.approx(oracle(x, y), abs=2e-3)

    def test_finer_grid_is_closer(self) -> None:
        pairs = [gaussian(500, 0.7, seed) for seed in range(8)]
        errors = {
            size: max(
                abs(float(kde_mutual_information(x, y, grid_size=size)) - oracle(x, y))
                for x, y in pairs
            )
            for size in (48, 512)
        }
        assert errors[512] < 2e-4 < errors[48] < 2e-2

    def test_clamps_to_a_range(self) -> None:
        x, y = gaussian(1000, 0.6)
        inside = x.clamp(-2, 2), y.clamp(-1, 1)
        with warned("outside"):
            value = kde_mutual_information(x, y, value_range=((-2, 2), (-1, 1)))
        assert value == kde_mutual_information(*inside)


class TestClosedForms:
    @pytest.mark.parametrize(
        ("r", "tolerance"), [(0, 0.01), (0.6, 0.02), (0.99, 0.03), (-0.9, 0.02)]
    )
    def test_gaussian(self, r: float, tolerance: float) -> None:
        values = [float(kde_mutual_information(*gaussian(2601, r, seed))) for seed in range(8)]
        assert sum(values) / 8 == pytest.approx(truth(r), abs=tolerance)

    @pytest.mark.parametrize(
        ("n", "r", "bound"), [(100, 0, 0.04), (100, 0.8, 0.05), (676, 0, 0.02), (676, 0.95, 0.03)]
    )
    def test_bias_is_small_and_positive(self, n: int, r: float, bound: float) -> None:
        x, y = (
            torch.stack(v) for v in zip(*(gaussian(n, r, seed) for seed in range(64)), strict=True)
        )
        bias = float(kde_mutual_information(x, y).mean()) - truth(r)
        assert -0.01 < bias < bound

    @pytest.mark.slow
    def test_study(self) -> None:
        last, errors = truth(0.99), []
        for n in (100, 169, 361, 676, 1296, 2601, 4900):
            for i in (0, 6, 12, 18, 24):
                information = last * i / 24
                r = math.sqrt(1 - math.exp(-2 * information))
                z = torch.randn(2, 64, n, generator=torch.Generator().manual_seed(1000 * i + n))
                mean = float(
                    kde_mutual_information(z[0], r * z[0] + math.sqrt(1 - r * r) * z[1]).mean()
                )
                errors.append(abs(mean - information))
        assert sum(errors) / len(errors) <= 0.022
        assert max(errors) <= 0.05

    def test_bits(self) -> None:
        x, y = gaussian(500, 0.5)
        nats, bits = kde_mutual_information(x, y), kde_mutual_information(x, y, unit="bits")
        assert float(bits) == pytest.approx(float(nats) / math.log(2))


class TestInvariances:
    def test_permutation_to_the_last_bit(self, device: torch.device) -> None:
        x, y = gaussian(3000, 0.6, device=device)
        order = torch.randperm(3000, generator=torch.Generator().manual_seed(1)).to(device)
        for u, v in ((x, y), ((20 * x).round(), (20 * y).round()), (x, x + 1e-5 * y), (x, x)):
            assert kde_mutual_information(u, v) == kde_mutual_information(u[order], v[order])
        assert torch.equal(
            kde_joint(x, y, grid_size=32), kde_joint(x[order], y[order], grid_size=32)
        )

    @pytest.mark.parametrize("scale", [1e-300, 1e-150, 2.0, 1e150, 1e300])
    def test_scale(self, scale: float) -> None:
        x, y = gaussian(1000, 0.6)
        value = float(kde_mutual_information(x, y))
        assert float(kde_mutual_information(x * scale, y)) == pytest.approx(value, abs=1e-10)
        assert float(kde_mutual_information(x, -scale * y)) == pytest.approx(value, abs=1e-3)

    def test_shift(self) -> None:
        x, y = gaussian(1000, 0.6)
        moved = float(kde_mutual_information(x + 1e4, y - 1e4))
        assert moved == pytest.approx(float(kde_mutual_information(x, y)), abs=1e-9)

    def test_bandwidth_has_the_units_of_the_data(self) -> None:
        x, y = gaussian(1000, 0.6)
        value = kde_mutual_information(x * 1e200, y * 1e-200, bandwidth=(3e199, 4e-201))
        assert float(value) == pytest.approx(
            float(kde_mutual_information(x, y, bandwidth=(0.3, 0.4))), abs=1e-9
        )

    @pytest.mark.parametrize("r", [0, 0.6, 0.99])
    def test_swap(self, r: float) -> None:
        x, y = gaussian(1000, r)
        y = y.exp()
        # Of a curve as narrow as that of r = 0.99 the kernel sees too little.
        with warned("oversmoothed") if r > 0.9 else nullcontext():
            forward = kde_mutual_information(x, y)
        with warned("oversmoothed") if r > 0.9 else nullcontext():
            back = kde_mutual_information(y, x)
        assert float(forward) == pytest.approx(float(back), abs=2e-3)

    def test_batch_is_a_loop(self, device: torch.device) -> None:
        x, y = (v.to(device).reshape(2, 3, 500) for v in gaussian(3000, 0.6))
        x = x * torch.tensor([1.0, 1e3, 1e-3], dtype=x.dtype, device=device)[:, None]
        for normalization in ("none", "geometric"):
            together = kde_mutual_information(x, y, grid_size=64, normalization=normalization)  # type: ignore[arg-type]
            for i in range(2):
                for j in range(3):
                    alone = kde_mutual_information(
                        x[i, j],
                        y[i, j],
                        grid_size=64,
                        normalization=normalization,  # type: ignore[arg-type]
                    )
                    assert together[i, j] == alone
        assert together.shape == (2, 3)
        assert together.dtype == torch.float64
        assert torch.equal(
            kde_joint(x, y, grid_size=16)[1, 2], kde_joint(x[1, 2], y[1, 2], grid_size=16)
        )

    @pytest.mark.parametrize(
        "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8]
    )
    def test_dtypes(self, dtype: torch.dtype) -> None:
        x, y = (100 + 20 * v for v in gaussian(1000, 0.6))
        u, v = x.to(dtype), y.to(dtype)
        assert kde_mutual_information(u, v) == kde_mutual_information(u.double(), v.double())


class TestNeverInfinite:
    @pytest.mark.parametrize("constant", [0.0, 0.1, -1e300, 1e-300])
    def test_constant_is_exactly_zero(self, constant: float) -> None:
        x, _ = gaussian(200, 0)
        c = torch.full_like(x, constant)
        for u, v in ((x, c), (c, x), (c, c)):
            assert kde_mutual_information(u, v) == 0
            assert kde_mutual_information(u, v, bandwidth=0.1) == 0
            assert kde_mutual_information(u, v, normalization="max") == 0
            assert kde_mutual_information(u, v, normalization="studholme") == 1
            assert float(kde_joint(u, v, grid_size=16).sum()) == pytest.approx(1)

    def test_perfect_dependence(self) -> None:
        x, _ = gaussian(1000, 0)
        value = kde_mutual_information(x, x)
        assert 14 < float(value) < 17
        assert float(kde_mutual_information(x, -3 * x + 1)) == pytest.approx(float(value), abs=1e-3)
        assert float(kde_mutual_information(x.float(), (3 * x + 1).float())) == pytest.approx(
            float(value), abs=0.05
        )

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_few_samples(self, n: int) -> None:
        x, y = gaussian(n, 0)
        # Two samples lie on a line: 15 nats. One is a constant.
        with warned(*["too few"] * (n > 1)):
            value = float(kde_mutual_information(x, y))
        assert math.isfinite(value)
        assert float(kde_joint(x, y, grid_size=16).sum()) == pytest.approx(1)
        if n == 1:
            assert value == 0

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.tuples(
                *(
                    st.floats(allow_nan=False, allow_infinity=False) | st.integers(-3, 3)
                    for _ in "xy"
                )
            ),
            min_size=1,
            max_size=12,
        ),
        st.sampled_from(["silverman", 1.0, 1e-300, 1e300]),
    )
    def test_any_samples(self, samples: list[tuple[float, float]], bandwidth: float) -> None:
        x, y = torch.tensor(samples, dtype=torch.float64).T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert math.isfinite(
                float(kde_mutual_information(x, y, bandwidth=bandwidth, grid_size=16))
            )
            joint = kde_joint(x, y, bandwidth=bandwidth, grid_size=8)
        assert joint.min() >= 0
        assert float(joint.sum()) == pytest.approx(1)


class TestJoint:
    def test_axis_order_and_shape(self) -> None:
        x = torch.tensor([0.0] * 70 + [1.0] * 30)
        y = torch.cat([torch.linspace(0.0, 0.1, 70), torch.linspace(0.8, 1.0, 30)])
        joint = kde_joint(x, y, bandwidth=(0.2, 0.05), grid_size=20, value_range=(0, 1))
        assert float(joint[:10].sum()) == pytest.approx(0.7, abs=0.05)  # x = 0: the first rows
        assert float(joint[:10, :5].sum()) == pytest.approx(0.7, abs=0.05)
        assert float(joint[10:, 10:].sum()) == pytest.approx(0.3, abs=0.05)

    @pytest.mark.parametrize("value_range", [None, (-2, 2), ((-1, 3), (-2, 1))])
    def test_nothing_is_lost_at_the_ends(self, value_range: tuple[float, float] | None) -> None:
        x, y = gaussian(2000, 0.7)
        with warned(*([] if value_range is None else ["outside"])):
            joint = kde_joint(x, y, grid_size=48, value_range=value_range)
        assert float(joint.sum()) == pytest.approx(1, abs=1e-12)
        assert joint.min() >= 0

    def test_is_the_density(self) -> None:
        x, y = gaussian(500, -0.8)
        joint = kde_joint(x, y, grid_size=96, value_range=(-6, 6))
        centres = (torch.arange(96, dtype=torch.float64) + 0.5) / 8 - 6
        kernel = torch.linalg.inv(500 ** (-1 / 3) * torch.cov(torch.stack([x, y])))
        dx, dy = centres[:, None, None] - x, centres[None, :, None] - y
        exponent = kernel[0, 0] * dx**2 + 2 * kernel[0, 1] * dx * dy + kernel[1, 1] * dy**2
        direct = torch.exp(-exponent / 2).sum(-1)
        # the table's cells are 0.125 wide, the short axis of the kernel 0.16
        assert float((joint - direct / direct.sum()).abs().sum()) < 0.04

    def test_normalised_forms_are_those_of_the_joint(self) -> None:
        x, y = gaussian(500, 0.6)
        hx, hy, hxy = entropies(kde_joint(x, y, grid_size=40))
        value = kde_mutual_information(x, y, grid_size=40, normalization="joint")
        assert float(value) == pytest.approx(float((hx + hy - hxy) / hxy))


class TestTables:
    @pytest.mark.parametrize(
        ("n", "r", "tolerance"),
        [(4900, 0, 1e-3), (4900, 0.6, 1e-3), (4900, 0.99, 5e-3), (1000, 0.99, 1e-2)],
    )
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_metric_view_against_samples(
        self, n: int, r: float, tolerance: float, seed: int
    ) -> None:
        x, y = gaussian(n, r, seed)
        estimate = kde_from_table(*dyadic_table(x, y))
        assert float(estimate.value) == pytest.approx(
            float(kde_mutual_information(x, y)), abs=tolerance
        )
        assert not estimate.doubts.narrow
        assert not estimate.doubts.wide

    def test_is_a_direct_sum_between_cells(self, device: torch.device) -> None:
        # Cells so small that they are points: the table must give the sum over all pairs of
        # samples.
        x, y = gaussian(200, 0.9)
        counts, cx, cy = dyadic_table(x, y)
        counts, points = counts.to(device), [Cells(c.centres.to(device), c.width) for c in (cx, cy)]
        assert counts.max() == 1
        value = kde_from_table(counts, *points).value
        assert float(value) == pytest.approx(oracle(x, y), abs=1e-6)

    @pytest.mark.parametrize("bandwidth", ["scott", (0.3, 0.2)])
    def test_bandwidths(self, bandwidth: str | tuple[float, float]) -> None:
        x, y = gaussian(250, 0.5)
        assert float(kde_from_table(*dyadic_table(x, y), bandwidth).value) == pytest.approx(
            oracle(x, y, bandwidth), abs=1e-6
        )

    def test_gaps_and_empty_cells_do_not_matter(self) -> None:
        x, y = gaussian(1000, 0.6)
        counts, cx, cy = dyadic_table(x, y, 64)
        padded = torch.zeros(len(cx.centres) + 2, len(cy.centres), dtype=torch.int64)
        padded[2:] = counts
        far = Cells(torch.cat([cx.centres[:1] - torch.tensor([1e6, 1e3]), cx.centres]), cx.width)
        assert kde_from_table(padded, far, cy).value == kde_from_table(counts, cx, cy).value

    def test_a_far_cell_is_seen_by_nobody(self) -> None:
        x, y = gaussian(1000, 0.6)
        x[0] = 1e6
        value = kde_from_table(*dyadic_table(x, y), 0.3).value
        assert float(value) == pytest.approx(
            float(kde_mutual_information(x, y, bandwidth=0.3)), abs=2e-3
        )

    def test_perfect_dependence_is_finite_and_flagged(self) -> None:
        x, _ = gaussian(2000, 0)
        estimate = kde_from_table(*dyadic_table(x, x))
        assert 3 < float(estimate.value) < 8
        assert estimate.doubts.narrow
        with warned("narrow kernel"):
            caution_each(estimate.doubts.messages())

    def test_empty_and_constant(self) -> None:
        cells = Cells(torch.tensor([0.0, 1.0, 2.0]), 1.0)
        counts = torch.zeros(3, 3, dtype=torch.int64)
        assert math.isnan(float(kde_from_table(counts, cells, cells).value))
        with pytest.raises(ValueError, match="all 0"):
            kde_joint_from_table(counts, cells, cells)
        counts[1] = torch.tensor([3, 4, 5])
        for table in (counts, counts.T):
            assert kde_from_table(table, cells, cells).value == 0
            assert kde_from_table(table, cells, cells, normalization="min").value == 0
            assert kde_from_table(table, cells, cells, normalization="studholme").value == 1

    def test_joint(self) -> None:
        x, y = gaussian(2000, 0.6)
        y = 5 * y + 100
        display = kde_joint_from_table(*dyadic_table(x, y), grid_size=32)
        assert display.joint.shape == (32, 32)
        assert float(display.joint.sum()) == pytest.approx(1)
        centres = [(e[1:] + e[:-1]) / 2 for e in (display.x_edges, display.y_edges)]
        assert float(display.joint.sum(1) @ centres[0]) == pytest.approx(float(x.mean()), abs=0.01)
        assert float(display.joint.sum(0) @ centres[1]) == pytest.approx(float(y.mean()), abs=0.05)
        samples = kde_joint(x, y, grid_size=32)
        assert float((display.joint - samples).abs().sum()) < 0.05

    @settings(max_examples=40, deadline=None)
    @given(
        st.data(),
        st.sampled_from([2.0**-1022, 0.5, 1e100]),
        st.sampled_from(["silverman", 1.0, 1e-300, 1e300]),
    )
    def test_any_table(self, data: st.DataObject, width: float, bandwidth: float) -> None:
        value = st.floats(-1e305, 1e305) | st.integers(-3, 3).map(float)
        axes = [
            sorted(data.draw(st.lists(value, min_size=1, max_size=6, unique=True))) for _ in "xy"
        ]
        x, y = (Cells(torch.tensor(a, dtype=torch.float64), width) for a in axes)
        cells = len(axes[0]) * len(axes[1])
        drawn = data.draw(
            st.lists(st.integers(0, 5) | st.just(10**12), min_size=cells, max_size=cells)
        )
        counts = torch.tensor(drawn).view(len(axes[0]), len(axes[1]))
        estimate = kde_from_table(counts, x, y, bandwidth)
        assert math.isfinite(float(estimate.value)) == bool(counts.sum() > 0)
        if counts.sum() > 0:
            joint = kde_joint_from_table(counts, x, y, bandwidth, 8).joint
            assert joint.min() >= 0
            assert float(joint.sum()) == pytest.approx(1)


class TestWarnings:
    def test_outlier(self) -> None:
        x, y = gaussian(1000, 0.6)
        x[0], y[0] = 1e6, 1e6
        for call in (kde_mutual_information, kde_joint):
            with warned(
                "wide kernel", match="wider than the bulk.*binned_mutual_information.*`bandwidth`"
            ) as seen:
                call(x, y)
            assert seen[0].filename == __file__
        assert kde_from_table(*dyadic_table(x, y)).doubts.wide

    def test_remedies(self) -> None:
        x, y = gaussian(1000, 0.6)
        expected = float(kde_mutual_information(x, y))
        x[0] = 1e6
        assert float(kde_mutual_information(x, y, bandwidth=0.3)) == pytest.approx(
            expected, abs=0.02
        )
        y[0] = 1e6
        assert float(kde_mutual_information(x, y, value_range=(-4, 4))) == pytest.approx(
            expected, abs=0.02
        )
        # The correlation of a sample that is far on both axes is not the bulk's.
        with warned("wide kernel", "narrow kernel"):
            kde_mutual_information(x, y, bandwidth=0.3)

    def test_once_per_call(self) -> None:
        x, y = gaussian(1000, 0.6)
        x[0] = 1e6
        with warned("wide kernel"):
            kde_mutual_information(x.expand(4, -1), y.expand(4, -1))

    def test_coarse(self) -> None:
        x, y = gaussian(1000, 0.6)
        with warned("narrow kernel", match="narrower than half a cell.*`grid_size`"):
            value = kde_mutual_information(x, y, bandwidth=0.01, grid_size=16)
        assert math.isfinite(float(value))

    def test_texts(self) -> None:
        yes, no = torch.tensor([[False], [True]]), torch.tensor([[False], [False]])
        with pytest.warns(MutualInformationWarning) as seen:
            caution_each(Doubts(*[yes] * len(MESSAGES)).messages())
        assert [str(w.message) for w in seen] == list(MESSAGES.values())
        assert [w.message.kind for w in seen] == list(MESSAGES)  # type: ignore[union-attr]
        caution_each(Doubts(*[no] * len(MESSAGES)).messages())


class TestErrors:
    @pytest.mark.parametrize(
        "bandwidth",
        [
            0,
            -1.0,
            math.nan,
            math.inf,
            (1, 2, 3),
            (1,),
            (),
            (0.1, -0.1),
            "gauss",
            None,
            True,
            ("a", "b"),
            {1: 2},
        ],
    )
    def test_bandwidth(self, bandwidth: object) -> None:
        x, y = gaussian(10, 0)
        for call in (kde_mutual_information, kde_joint):
            with pytest.raises(
                ValueError, match=r"`bandwidth` to be .* one or two positive numbers, but got"
            ):
                call(x, y, bandwidth=bandwidth)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"grid_size": 1}, ValueError, "`grid_size` to be at least 2"),
            ({"grid_size": 2.5}, TypeError, "`grid_size` to be an int"),
            ({"value_range": (1, 0)}, ValueError, "lo < hi"),
            ({"normalization": "sum"}, ValueError, "`normalization` to be one of"),
            ({"unit": "dits"}, ValueError, "`unit` to be one of"),
        ],
    )
    def test_options(
        self, arguments: dict[str, object], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            kde_mutual_information(*gaussian(10, 0), **arguments)  # type: ignore[arg-type]

    @pytest.mark.parametrize("call", [kde_mutual_information, kde_joint])
    def test_samples(self, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        x, y = gaussian(10, 0)
        with pytest.raises(ValueError, match="same shape"):
            call(x, y[:5])
        with pytest.raises(ValueError, match=r"shape \(\.\.\., N\)"):
            call(x[0], y[0])
        with pytest.raises(ValueError, match="at least one sample"):
            call(x[:0], y[:0])
        with pytest.raises(TypeError, match="real"):
            call(x + 0j, y + 0j)
        with pytest.raises(ValueError, match="`y` to be finite"):
            call(x, y.log())
