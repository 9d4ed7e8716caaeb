"""Conditional mutual information from tables: against a sum over classes, identities and bad
input.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mi_metrics import MutualInformationWarning
from mi_metrics.functional import (
    binned_conditional_mutual_information,
    binned_mutual_information,
    mutual_information,
)
from tests.functional.conditional_oracle import of_labels, of_tables

VALUES = {"binning": "values", "bias_correction": "none"}


def labels(n: int, sizes: tuple[int, int, int] = (3, 4, 5), seed: int = 0) -> list[Tensor]:
    """x and y that depend on each other and on z, whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    x, y, z = (torch.randint(size, (n,), generator=generator) for size in sizes)
    keep = torch.rand(n, generator=generator) < 0.5
    return [x, torch.where(keep, (x + z) % sizes[1], y), z]


def numbers(n: int, r: float = 0.6, seed: int = 0, conditions: int = 3) -> list[Tensor]:
    """x and y of correlation r within classes that lie apart."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, generator=generator, dtype=torch.float64)
    z = torch.randint(conditions, (n,), generator=generator)
    return [x + z, r * x + math.sqrt(1 - r * r) * noise - 2 * z, z]


@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
@pytest.mark.parametrize("correction", ["none", "miller_madow"])
@pytest.mark.parametrize("sizes", [(3, 4, 5), (2, 2, 40), (7, 3, 1)])
def test_equal_to_the_sum_over_classes(correction: str, sizes: tuple[int, int, int]) -> None:
    for n in (1, 2, 30, 500):
        triple = labels(n, sizes)
        value = binned_conditional_mutual_information(
            *triple, binning="values", bias_correction=correction
        )
        expected = of_labels(*(v.numpy() for v in triple), correction)
        assert value.item() == pytest.approx(expected, abs=1e-12)
        # Which numbers stand for classes says nothing.
        x, y, z = triple
        renamed = torch.tensor([7, -3, 2**40, 0, 1])[z % 5] + 100 * (z // 5)
        again = binned_conditional_mutual_information(
            x, y, renamed, binning="values", bias_correction=correction
        )
        assert again.item() == pytest.approx(value.item(), abs=1e-14)


@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"num_bins": (5, 7)},
        {"num_bins": 6, "binning": "quantile"},
        {"num_bins": 6, "value_range": ((-2.0, 4.0), (-6.0, 2.0))},
        {"num_bins": 6, "clip_quantile": 0.05, "margin": 0.1},
        {"num_bins": 6, "kernel": "linear"},
        {"num_bins": (4, 6), "kernel": "cubic"},
    ],
)
def test_bins_are_those_of_all_samples(options: dict[str, object]) -> None:
    from mi_metrics.functional import binned_joint

    x, y, z = numbers(400)
    whole = binned_joint(x, y, **options)  # type: ignore[arg-type]
    parts = []
    for k in range(3):
        # Weights take samples away, but not from the choice of bins: those are given.
        kept = torch.cat([x[z == k], x]), torch.cat([y[z == k], y])
        alone = binned_joint(
            *kept,
            weights=torch.cat([torch.ones(int((z == k).sum())), torch.full((400,), 1e-12)]),
            **options,  # type: ignore[arg-type]
        )
        parts.append(alone * (z == k).sum())
    if "binning" not in options and "clip_quantile" not in options:
        torch.testing.assert_close(sum(parts) / 400, whole, atol=1e-6, rtol=0)
        expected = of_tables(np.stack([p.numpy() for p in parts]))
        value = binned_conditional_mutual_information(x, y, z, **options)  # type: ignore[arg-type]
        assert value.item() == pytest.approx(expected, abs=1e-5)
    one = binned_conditional_mutual_information(x, y, torch.zeros_like(z), **options)  # type: ignore[arg-type]
    assert one.item() == binned_mutual_information(x, y, **options).item()  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"binning": "quantile"},
        {"value_range": (-9.0, 9.0)},
        {"bias_correction": "grassberger", "unit": "bits"},
        {"num_bins": 8},
        {"num_bins": 8, "kernel": "cubic", "bias_correction": "miller_madow"},
    ],
)
def test_one_class_is_the_unconditional_value_to_the_bit(options: dict[str, object]) -> None:
    for n in (10, 77, 3000):
        for x, y, z in (numbers(n), labels(n)):
            one = binned_conditional_mutual_information(x, y, z * 0 - 5, **options)  # type: ignore[arg-type]
            assert one.item() == binned_mutual_information(x, y, **options).item()  # type: ignore[arg-type]


def test_chain_rule() -> None:
    x, y, z = labels(2000, seed=1)
    both = binned_mutual_information(x, 5 * y + z, **VALUES)
    first = binned_mutual_information(x, z, **VALUES)
    rest = binned_conditional_mutual_information(x, y, z, **VALUES)
    assert both.item() == pytest.approx((first + rest).item(), abs=1e-12)
    tables = torch.zeros(5, 3, 4, dtype=torch.int64)
    tables.index_put_((z, x, y), torch.ones_like(z), accumulate=True)
    shares = tables.sum((1, 2)) / 2000
    assert rest.item() == pytest.approx((shares * mutual_information(tables)).sum().item(), 1e-6)


def test_exclusive_or() -> None:
    x, y = torch.tensor([[0, 0, 1, 1] * 50, [0, 1, 0, 1] * 50])
    for variables in ((x, y, x ^ y), (y, x, x ^ y), (x, x ^ y, y), (x.bool(), y.bool(), x == y)):
        assert binned_conditional_mutual_information(*variables).item() == pytest.approx(
            math.log(2), abs=1e-15
        )
        assert binned_mutual_information(*variables[:2]).item() == 0


# Errors of single draws, whose standard deviations are about 0.012 and 0.004.
@pytest.mark.parametrize("r", [0, 0.6, 0.9])
@pytest.mark.parametrize("conditions", [1, 2, 8])
def test_gaussians_in_classes_that_lie_apart(r: float, conditions: int) -> None:
    truth = -0.5 * math.log(1 - r * r)
    value = binned_conditional_mutual_information(*numbers(20_000, r, conditions=conditions))
    assert value.item() == pytest.approx(truth, abs=0.03)
    x, y, z = numbers(5000, r, conditions=conditions)
    value = binned_conditional_mutual_information(x - z, y + 2 * z, z)
    assert value.item() == pytest.approx(truth, abs=0.05)


def test_dependence_that_only_classes_show_gets_its_bins() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 20_000, generator=generator)
    z = torch.randint(2, (20_000,), generator=generator)
    y = 0.9 * x * (2 * z - 1) + math.sqrt(0.19) * noise
    assert binned_conditional_mutual_information(x, y, z).item() == pytest.approx(0.8304, abs=0.03)


def gaussians(sizes: list[int], r: float, rows: int = 24, apart: float = 1.0) -> list[Tensor]:
    """Rows of pairs of correlation r within classes of these sizes."""
    generator = torch.Generator().manual_seed(0)
    z = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).expand(rows, -1)
    x, noise = torch.randn(2, *z.shape, generator=generator, dtype=torch.float64)
    return [x + apart * z, r * x + math.sqrt(1 - r * r) * noise - apart * z, z]


# Truths -log(1 - r²) / 2; bounds are the bias of the rule, whose standard error is 0.01 and less.
# Bins that all classes share are off by 0.19, 0.08, 0.10 and -0.20 in the first four cases.
@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
@pytest.mark.parametrize(
    ("sizes", "r", "apart", "error"),
    [
        ([100] * 3, 0.7, 1.0, 0.03),
        ([60] * 10, 0.7, 1.0, 0.04),
        ([30] * 10, 0.7, 1.0, 0.04),
        ([20] * 20, 0.7, 1.0, 0.03),
        ([500] * 4, 0.9, 1.0, 0.04),
        ([500] * 4, 0.9, 1000.0, 0.04),
        ([1000, 10, 10], 0.7, 1.0, 0.03),
        ([1] * 20 + [200], 0.7, 1.0, 0.05),
        ([100] * 3, 0.0, 1.0, 0.02),
        ([60] * 10, 0.0, 1.0, 0.02),
        ([250] * 4, 0.7, 0.0, 0.03),
    ],
)
def test_automatic_bins_of_classes_of_few_samples(
    sizes: list[int], r: float, apart: float, error: float
) -> None:
    value = binned_conditional_mutual_information(*gaussians(sizes, r, apart=apart))
    assert value.mean().item() == pytest.approx(-0.5 * math.log(1 - r * r), abs=error)


def test_automatic_bins_are_those_of_each_class() -> None:
    # From 500 samples on a class has the bins of the unconditional estimate.
    x, y, z = (v[0] for v in gaussians([500, 900, 600], 0.7, rows=1))
    for options in ({}, {"binning": "uniform"}, {"unit": "bits"}, {"kernel": "cubic"}):
        expected = sum(
            (z == k).sum() / 2000 * binned_mutual_information(x[z == k], y[z == k], **options)  # type: ignore[arg-type]
            for k in range(3)
        )
        value = binned_conditional_mutual_information(x, y, z, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    # So how far classes lie apart is of no effect, nor is what one of few samples does.
    apart = binned_conditional_mutual_information(x + 2**12 * z, y - 2**20 * z, z)
    again = binned_conditional_mutual_information(x, y, z)
    assert apart.item() == pytest.approx(again.item(), abs=1e-6)


def test_classes_too_small_for_two_bins_contribute_nothing() -> None:
    x, y, z = (v[0] for v in gaussians([9] * 20, 0.9, rows=1))
    with pytest.warns(MutualInformationWarning, match="20 of 20 classes") as caught:
        assert binned_conditional_mutual_information(x, y, z).item() == 0
    assert [w.message.kind for w in caught] == ["too few"]  # type: ignore[union-attr]
    # Labels have a bin for each value. Eight coins are expected to show 1 / 2N = 1/16 by chance.
    x, y = (torch.arange(200) % 2), (torch.arange(200) // 2 % 2)
    z = torch.arange(200) // 8
    assert binned_conditional_mutual_information(x, y, z).item() == -1 / 16
    assert binned_conditional_mutual_information(x, x, z).item() == pytest.approx(math.log(2))


@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
def test_labels_are_corrected_where_classes_are_small() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(4, (2, 24, 1500), generator=generator)
    z = (torch.arange(1500) // 50).expand(24, -1)
    plain = binned_conditional_mutual_information(x, y, z, bias_correction="none")
    value = binned_conditional_mutual_information(x, y, z)
    assert plain.mean().item() == pytest.approx(9 / 100, abs=0.02)  # (K_xy - K_x - K_y + 1) / 2N
    assert value.mean().item() == pytest.approx(0, abs=0.03)


def test_what_is_said_of_a_class_names_it() -> None:
    x, y, z = (v[0] for v in gaussians([500, 100], 0.7, rows=1))
    far = torch.where(torch.arange(600) == 0, 1e6, x)
    options: dict[str, object] = {"binning": "uniform"}
    with pytest.warns(MutualInformationWarning, match="Given z = 7: ") as caught:
        binned_conditional_mutual_information(far, y, 7 + z, **options)  # type: ignore[arg-type]
    assert {w.message.kind for w in caught} == {"crowded"}  # type: ignore[union-attr]
    # A sixth of the samples moves the value by little.
    far = torch.where(torch.arange(600) == 599, 1e6, x)
    binned_conditional_mutual_information(far, y, 7 + z, **options)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
def test_a_given_range_has_as_many_bins_for_each_class() -> None:
    x, y, z = gaussians([500] * 2, 0.9, apart=10.0)
    far = ((-5.0, 15.0), (-15.0, 5.0))
    value = binned_conditional_mutual_information(x, y, z, value_range=far)
    assert value.mean().item() == pytest.approx(-0.5 * math.log(1 - 0.81), abs=0.06)
    # On the range of one class, as without classes.
    x, y, z = gaussians([500] * 4, 0.9, apart=0.0)
    alone = binned_mutual_information(x[:, :500], y[:, :500], value_range=(-4.0, 4.0))
    value = binned_conditional_mutual_information(x, y, z, value_range=(-4.0, 4.0))
    assert value.mean().item() == pytest.approx(alone.mean().item(), abs=0.06)


@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
def test_batches_are_row_by_row() -> None:
    rows = [numbers(300, 0.6, seed, conditions) for seed, conditions in ((0, 1), (1, 4), (2, 2))]
    rows.append([v.double() if v.is_floating_point() else v for v in labels(300)])
    x, y, z = (torch.stack([v.to(w.dtype) for v in part]) for part, w in zip(zip(*rows), rows[0]))  # noqa: B905
    for options in ({}, {"num_bins": 5}, {"num_bins": 5, "kernel": "cubic"}):
        value = binned_conditional_mutual_information(x, y, z, **options)  # type: ignore[arg-type]
        each = [binned_conditional_mutual_information(*row, **options) for row in zip(x, y, z)]  # type: ignore[arg-type,misc]  # noqa: B905
        torch.testing.assert_close(value, torch.stack(each), atol=1e-15, rtol=0)
    nested = binned_conditional_mutual_information(*(v.view(2, 2, 300) for v in (x, y, z)))
    assert nested.shape == (2, 2)


def test_gradient() -> None:
    x, y, z = (v[:40] for v in numbers(40))
    x, y = x.requires_grad_(), y.requires_grad_()

    def value(x: Tensor, y: Tensor) -> Tensor:
        return binned_conditional_mutual_information(
            x, y, z, 6, value_range=(-9.0, 9.0), kernel="cubic"
        )

    with pytest.warns(MutualInformationWarning):
        assert torch.autograd.gradcheck(value, (x, y))


def kinds(*arguments: Tensor, **options: object) -> list[str]:
    with pytest.warns(MutualInformationWarning) as caught:
        binned_conditional_mutual_information(*arguments, **options)  # type: ignore[arg-type]
    return [w.message.kind for w in caught]  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("correction", ["none", "miller_madow"])
def test_gradients_of_a_batch_are_those_of_each_row(kernel: str, correction: str) -> None:
    """Also where a row has none of the labels of another."""
    x, y, z = (v.view(3, 40) for v in numbers(120))
    z = torch.stack([z[0], 0 * z[1], z[2] + 2])
    options = {"num_bins": 4, "kernel": kernel, "bias_correction": correction}
    both = x.clone().requires_grad_()
    value = binned_conditional_mutual_information(both, y, z, **options)
    (found,) = torch.autograd.grad(value.sum(), both)
    for row in range(3):
        one = x[row].clone().requires_grad_()
        alone = binned_conditional_mutual_information(one, y[row], z[row] - z[row].min(), **options)
        assert value[row].item() == pytest.approx(alone.item(), abs=1e-12)
        (expected,) = torch.autograd.grad(alone, one)
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(found[row], expected, rtol=1e-9, atol=1e-12)


def test_doubts() -> None:
    x, y, z = numbers(300)
    # Each sample is a class of its own: nothing can be seen.
    assert kinds(x, y, torch.arange(300), num_bins=4) == ["undersampled"]
    assert binned_conditional_mutual_information(x[:1], y[:1], z[:1]).item() == 0
    assert kinds(x, y, z, num_bins=16) == ["undersampled"]
    # Enough samples for one table, but not for 60.
    x, y, z = numbers(6000, conditions=60)
    x, y = x - z, y + 2 * z
    binned_mutual_information(x, y, 16)
    assert kinds(x, y, z, num_bins=16) == ["undersampled"]
    # In bins as wide as classes nothing can be seen either.
    assert kinds(x + 5 * z, y, z, num_bins=(32, 4)) == ["crowded"]
    binned_conditional_mutual_information(x + 5 * z[:, None].gt(30)[:, 0], y, z, (8, 4))
    far = torch.cat([x, torch.tensor([1e6])]), torch.cat([y, y[:1]]), torch.cat([z, z[:1]])
    assert "crowded" in kinds(*far, num_bins=(8, 4))


GOOD = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
Z = torch.arange(50) % 2


@pytest.mark.parametrize(
    ("z", "error", "said"),
    [
        (Z.float(), TypeError, "class labels in `z`"),
        (Z.float().where(Z > 0, math.nan), TypeError, "class labels in `z`"),
        (Z.tolist(), TypeError, "`z` to be a torch.Tensor"),
        (Z[:49], ValueError, "`z` of the samples' shape"),
        (Z[:, None], ValueError, "`z` of the samples' shape"),
        (Z[0], ValueError, "`z` of the samples' shape"),
        (Z.to("meta"), ValueError, "meta"),
        (Z.to(torch.complex64), TypeError, "`z` to be real"),
    ],
)
def test_conditions_that_are_none(z: Tensor, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        binned_conditional_mutual_information(GOOD[0], GOOD[1], z)


def test_other_refusals() -> None:
    x, y = GOOD
    for options, error in (
        ({"normalization": "geometric"}, TypeError),
        ({"weights": x}, TypeError),
        ({"bins": 3}, TypeError),
        ({"num_bins": 0}, ValueError),
        ({"kernel": "cubic", "bias_correction": "grassberger"}, ValueError),
        ({"kernel": "gauss"}, ValueError),
        ({"unit": "bans"}, ValueError),
        ({"bias_correction": "jackknife"}, ValueError),
    ):
        with pytest.raises(error):
            binned_conditional_mutual_information(x, y, Z, **options)
    with pytest.raises(ValueError, match="finite"):
        binned_conditional_mutual_information(x / 0, y, Z, 4, value_range=(0, 1))
    with pytest.raises(ValueError, match="GiB"):
        binned_conditional_mutual_information(x, y, torch.arange(50), 2**11)
