"""What the metrics of three variables do beyond the contract that all metrics keep."""

import math

import pytest
import torch
from torch import Tensor

from mi_metrics import (
    BinnedConditionalMutualInformation,
    BinnedMutualInformation,
    KNNConditionalMutualInformation,
    MutualInformationWarning,
)
from mi_metrics.functional import (
    binned_conditional_mutual_information,
    knn_conditional_mutual_information,
    knn_p_value,
)
from tests.functional.test_conditional import labels, numbers


def fed(*batch: Tensor, parts: int = 3, **options: object) -> BinnedConditionalMutualInformation:
    options = {"num_conditions": 5} | options
    metric = BinnedConditionalMutualInformation(**options)  # type: ignore[arg-type]
    for part in zip(*(v.tensor_split(parts) for v in batch), strict=True):
        metric.update(*part)
    return metric


class TestBins:
    @pytest.mark.parametrize("value_range", [None, ((-6.0, 8.0), (-9.0, 6.0))])
    @pytest.mark.parametrize("num_bins", ["auto", (6, 9)])
    @pytest.mark.parametrize("parts", [1, 2, 40])
    def test_equal_to_the_function(self, value_range: object, num_bins: object, parts: int) -> None:
        x, y, z = numbers(3000)
        x, y = x.round(decimals=1), y.round(decimals=1)
        options = {"num_bins": num_bins, "value_range": value_range}
        metric = fed(x, y, z, parts=parts, **options)
        expected = binned_conditional_mutual_information(x, y, z, **options)  # type: ignore[arg-type]
        assert metric.compute().item() == expected.item()
        # A fourth and a fifth class have no samples.
        counts = metric.counts()
        assert counts.shape[0] == 5
        assert counts.sum((1, 2)).tolist() == [*torch.bincount(z).tolist(), 0, 0]
        assert metric.joint().sum().item() == pytest.approx(1, abs=1e-12)
        assert [e.shape[-1] - 1 for e in metric.edges()] == list(counts.shape[1:])

    def test_large_batches_and_small_ones_find_the_same_cells(self) -> None:
        x, y, z = numbers(20_000)
        states = [fed(x, y, z, parts=parts).table for parts in (1, 7, 300)]
        assert all(torch.equal(state, states[0]) for state in states)
        together = BinnedMutualInformation()
        together.update(x, y)
        head = 2 + 2 * 256
        assert torch.equal(states[0][:, :head], together.table[:, :head].expand(5, -1))
        assert torch.equal(states[0][:, head:].sum(0), together.table[0, head:])

    @pytest.mark.parametrize("value_range", [None, ((-4.0, 14.0), (-14.0, 4.0))])
    def test_automatic_bins_are_those_of_each_class(self, value_range: object) -> None:
        generator = torch.Generator().manual_seed(0)
        x, noise = torch.randn(2, 1200, generator=generator, dtype=torch.float64)
        z = (torch.arange(1200) >= 600).long()
        y, x = 0.9 * x + 0.436 * noise - 10 * z, x + 10 * z
        metric = fed(x, y, z, value_range=value_range, num_conditions=3)
        edges, counts = metric.edges(), metric.counts()
        alone = 0.0
        for k in range(2):
            own = metric.edges(k)
            for side, (v, all_edges) in enumerate(zip((x, y), edges, strict=True)):
                number = len(own[side])
                assert torch.equal(all_edges[k, :number], own[side])
                assert (all_edges[k, number:] == own[side][-1]).all()
                if value_range is None:
                    assert own[side][0] <= v[z == k].min()
                    assert v[z == k].max() <= own[side][-1]
                    # No bins are lost to the other class.
                    assert (counts[k].sum(1 - side)[: number - 1] > 10).all()
            plain = BinnedMutualInformation()
            plain.update(x[z == k], y[z == k])
            alone += 0.5 * plain.compute().item()
        # Cells are shared by the classes, and of a given range equal.
        error = 0.06 if value_range else 0.03
        assert metric.compute().item() == pytest.approx(alone, abs=error)
        assert metric.edges(2)[0].shape == metric.edges(2)[1].shape == (2,)
        with pytest.raises(ValueError, match="class labels"):
            metric.edges(3)
        given = fed(x, y, z, num_bins=5, num_conditions=3)
        assert torch.equal(given.edges(1)[0], given.edges()[0])

    @pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
    def test_automatic_bins_have_the_value_as_their_mean(self) -> None:
        x, y, z = numbers(700)
        for value_range in (None, (-9.0, 9.0)):
            metric = fed(x, y, z, bias_correction="none", value_range=value_range)
            values = metric.pointwise(x, y, z)
            assert values.mean().item() == pytest.approx(metric.compute().item(), abs=1e-12)

    def test_one_class_is_the_unconditional_metric(self) -> None:
        x, y, _ = numbers(2000)
        metric = fed(x, y, torch.zeros(2000, dtype=torch.bool), num_conditions=1)
        plain = BinnedMutualInformation()
        plain.update(x, y)
        assert metric.compute().item() == plain.compute().item()
        for name, options in (
            ("standard_error", {}),
            ("interval", {"num_resamples": 99}),
            ("p_value", {"num_permutations": 99}),
        ):
            found, expected = (getattr(m, name)(**options) for m in (metric, plain))
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
        assert torch.equal(metric.pointwise(x, y, x > 99), plain.pointwise(x, y))

    def test_labels_need_not_be_int64(self) -> None:
        x, y, z = labels(200)
        expected = fed(x, y, z).compute()
        for dtype in (torch.uint8, torch.int32, torch.uint64):
            assert fed(x, y, z.to(dtype)).compute() == expected

    def test_masked_labels_may_be_anything(self) -> None:
        x, y, z = labels(200)
        mask = torch.arange(200) % 3 > 0
        metric = BinnedConditionalMutualInformation(num_conditions=5)
        metric.update(x, y, torch.where(mask, z, -100), mask)
        assert metric.compute() == fed(x[mask], y[mask], z[mask]).compute()
        metric.update(x, y, z - 100, mask & False)
        assert metric.seen == mask.sum()

    @pytest.mark.parametrize("shape", [(20,), (1, 20), (20, 1)])
    def test_a_mask_that_broadcasts_takes_the_labels_along(self, shape: tuple[int, ...]) -> None:
        x, y, z = (v.view(20, 20) for v in labels(400))
        mask = (torch.arange(20) % 3 > 0).view(shape)
        found, expected = (BinnedConditionalMutualInformation(num_conditions=5) for _ in range(2))
        found.update(x, y, z, mask)
        expected.update(x, y, z, mask.expand(20, 20))
        assert torch.equal(found.table, expected.table)

    def test_pointwise_has_the_value_as_its_mean(self) -> None:
        x, y, z = labels(500)
        metric = fed(x, y, z, num_bins=5, bias_correction="none", unit="bits", num_conditions=6)
        values = metric.pointwise(x, y, z)
        assert values.mean().item() == pytest.approx(metric.compute().item(), abs=1e-12)
        # Nothing is known of a class without samples.
        assert metric.pointwise(x[:2], y[:2], torch.tensor([5, 5])).tolist() == [0, 0]
        assert metric.pointwise(x[:1] * math.nan, y[:1], z[:1]).isnan().all()
        with pytest.raises(ValueError, match="num_conditions=6"):
            metric.pointwise(x, y, z + 6)

    def test_interval_and_error_bar(self) -> None:
        x, y, z = labels(5000)
        metric = fed(x, y, z)
        value, error = metric.compute(), metric.standard_error()
        low, high = metric.interval(num_resamples=199)
        assert low < value < high
        assert (high - low).item() == pytest.approx(3.92 * error.item(), rel=0.25)

    @pytest.mark.campaign
    @pytest.mark.parametrize("apart", [1, 40])
    def test_p_values_in_automatic_bins(self, apart: int) -> None:
        """x and y are independent within classes that lie apart."""
        generator = torch.Generator().manual_seed(0)
        rejected = 0
        for seed in range(400):
            z = torch.randint(3, (300,), generator=generator)
            x, y = (apart * z + torch.randn(2, 300, generator=generator)).unbind(0)
            metric = fed(x, y, z, num_conditions=3, parts=1)
            rejected += int(metric.p_value(num_permutations=99, seed=seed) <= 0.05)
        # 20 expected of 400, standard deviation 4.4.
        assert 10 <= rejected <= 32

    @pytest.mark.campaign
    def test_p_values_of_a_common_cause(self) -> None:
        """X ← Z → Y: a test of I(X; Y) rejects, that within the classes in 5 % of cases."""
        generator = torch.Generator().manual_seed(0)
        rejected, plain = 0, 0
        for seed in range(400):
            z = torch.randint(3, (300,), generator=generator)
            x, y = (z + torch.randn(2, 300, generator=generator)).unbind(0)
            metric = fed(x, y, z, num_bins=4, binning="quantile", num_conditions=3, parts=1)
            rejected += int(metric.p_value(num_permutations=99, seed=seed) <= 0.05)
            unconditional = BinnedMutualInformation(4, binning="quantile")
            unconditional.update(x, y)
            plain += int(unconditional.p_value(method="g") <= 0.05)
        # 20 expected of 400, standard deviation 4.4.
        assert 10 <= rejected <= 32
        assert plain > 390

    def test_joint_can_be_drawn(self) -> None:
        pytest.importorskip("matplotlib").use("Agg")
        metric = fed(*labels(100))
        for own in (metric, fed(*numbers(100)), fed(*numbers(100), value_range=(-9.0, 9.0))):
            for condition in (None, 2):
                figure, _ = own.plot_joint(condition)
                assert figure is not None
        with pytest.raises(ValueError, match="class labels"):
            metric.plot_joint(5)

    def test_damaged_states_are_refused(self) -> None:
        for options in ({"num_bins": 4, "value_range": (0.0, 5.0)}, {"num_bins": 4}):
            metric = fed(*labels(100), **options)  # type: ignore[arg-type]
            metric.persistent(True)
            for place, change in ((0, 1), (-1, -1), (-1, 1)):
                state = {k: v.clone() for k, v in metric.state_dict().items()}
                state["table"].view(-1)[place] += change
                with pytest.raises(RuntimeError, match="impossible values in table"):
                    fed(*labels(10), **options).load_state_dict(state)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("z", "error", "said"),
        [
            (torch.zeros(20), TypeError, "class labels in `z`"),
            (torch.full((20,), math.nan), TypeError, "class labels in `z`"),
            (torch.full((20,), 5), ValueError, "from 0 to 4 for num_conditions=5, but got 5"),
            (torch.full((20,), -1), ValueError, "got -1"),
            (torch.zeros(19, dtype=torch.int64), ValueError, "`z` of the shape of `x`"),
            (torch.zeros(20, 1, dtype=torch.int64), ValueError, "`z` of the shape of `x`"),
            (None, TypeError, "`z` to be a torch.Tensor"),
            (torch.zeros(20, dtype=torch.int64, device="meta"), ValueError, "meta"),
        ],
    )
    def test_conditions_that_are_none_leave_the_state(
        self, z: Tensor, error: type[Exception], said: str
    ) -> None:
        x, y, good = labels(20)
        metric = fed(x, y, good)
        before = metric.table.clone()
        with pytest.raises(error, match=said):
            metric.update(x, y, z)
        assert torch.equal(metric.table, before)
        assert metric.seen == 20

    def test_doubts(self) -> None:
        x, y, _ = numbers(40)
        metric = fed(x, y, torch.arange(40), num_bins=4, num_conditions=40)
        with pytest.warns(MutualInformationWarning) as caught:
            assert metric.compute() == 0
        assert [w.message.kind for w in caught] == ["undersampled"]  # type: ignore[union-attr]
        with pytest.warns(MutualInformationWarning) as caught:
            assert BinnedConditionalMutualInformation(num_conditions=2).compute().isnan()
        assert [w.message.kind for w in caught] == ["no samples"]  # type: ignore[union-attr]

    def test_options_that_are_refused(self) -> None:
        for options, error in (
            ({}, TypeError),
            ({"num_conditions": 0}, ValueError),
            ({"num_conditions": 2, "kernel": "cubic"}, TypeError),
            ({"num_conditions": 2, "num_outputs": 2}, TypeError),
            ({"num_conditions": 2**15}, ValueError),
            ({"num_conditions": 2, "binning": "values", "value_range": (0, 1)}, ValueError),
        ):
            with pytest.raises(error):
                BinnedConditionalMutualInformation(**options)
        for number in (None, 2.0):
            with pytest.raises(TypeError, match="`num_conditions` to be an int"):
                BinnedConditionalMutualInformation(num_conditions=number)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="Did you mean `num_conditions`"):
            BinnedConditionalMutualInformation(num_classes=3, num_conditions=3)


class TestNeighbors:
    def test_equal_to_the_function_and_its_p_value(self) -> None:
        x, y, z = (v.double() for v in numbers(300))
        metric = KNNConditionalMutualInformation(5, standardize="rank", unit="bits")
        for part in zip(*(v.split(77) for v in (x, y, z)), strict=True):
            metric.update(*part)
        options = {"n_neighbors": 5, "standardize": "rank"}
        expected = knn_conditional_mutual_information(x, y, z, unit="bits", **options)  # type: ignore[arg-type]
        assert metric.compute().item() == expected.item()
        p = knn_p_value(x, y, z=z, num_permutations=19, seed=3, **options)  # type: ignore[arg-type]
        assert metric.p_value(num_permutations=19, seed=3).item() == p.item() == 0.05

    def test_vectors(self) -> None:
        x, y, z = torch.randn(3, 200, 6, generator=torch.Generator().manual_seed(0)).unbind(0)
        metric = KNNConditionalMutualInformation(x_dim=2, y_dim=1, z_dim=3)
        metric.update(x[:, :2], y[:, 0], z[:, :3])
        assert metric.compute() == knn_conditional_mutual_information(x[:, :2], y[:, :1], z[:, :3])
        for batch, said in (
            ((x[:, :2], y[:, 0], z), "`z` of shape"),
            ((x[:, :2], y[:, 0], z[:-1, :3]), "as many samples"),
            ((x[:, :2], y[:, 0], z[:, :3] / 0), "finite"),
        ):
            with pytest.raises(ValueError, match=said):
                metric.update(*batch)
        assert metric.seen == 200

    def test_few_samples(self) -> None:
        x, y, z = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
        metric = KNNConditionalMutualInformation()
        metric.update(x, y, z)
        with pytest.warns(MutualInformationWarning, match="more than n_neighbors=3"):
            assert metric.compute().isnan()
        assert metric.p_value().isnan()

    def test_options_that_are_refused(self) -> None:
        for options, error in (
            ({"z_dim": 0}, ValueError),
            ({"z_dim": 1.0}, TypeError),
            ({"max_samples": 3}, ValueError),
            ({"max_samples": 2**33}, ValueError),
            ({"discrete_y": True}, TypeError),
            ({"standardize": "max"}, TypeError),
        ):
            with pytest.raises(error):
                KNNConditionalMutualInformation(**options)
