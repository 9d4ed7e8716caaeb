import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from mi_metrics.functional import (
    entropies,
    independence_p_value,
    mutual_information,
    standard_error,
)
from mi_metrics.functional.information import information
from tests import oracles
from tests.cautions import ignore_cautions, warned

ASYMMETRIC = torch.tensor([[30, 10, 2], [0, 40, 7]])

tables = arrays(
    np.int64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 50)
).filter(lambda table: table.sum() > 0)


@given(tables)
def test_entropies_are_those_of_the_oracle(table):
    ours = entropies(torch.from_numpy(table))
    assert [float(h) for h in ours] == pytest.approx(oracles.information(table), abs=1e-13)


@given(tables, st.sampled_from(["none", "miller_madow", "grassberger"]))
def test_mutual_information_is_that_of_the_oracle(table, correction):
    counts = torch.from_numpy(table)
    ours = float(information(counts, bias_correction=correction))
    occupied = (table.sum(1) > 0).sum(), (table.sum(0) > 0).sum()
    hx, hy, hxy = oracles.information(table, correction)
    assert ours == pytest.approx(0 if 1 in occupied else hx + hy - hxy, abs=1e-12)


@given(tables)
def test_mutual_information_is_scikit_learns(table):
    labels = oracles.codes(table)
    assert float(information(torch.from_numpy(table))) == pytest.approx(
        mutual_info_score(*labels), abs=1e-12
    )


@given(tables, st.sampled_from(["arithmetic", "geometric", "min", "max"]))
def test_normalised_forms_are_scikit_learns(table, normalization):
    labels = oracles.codes(table)
    ours = float(information(torch.from_numpy(table), normalization=normalization))
    constant = 1 in ((table.sum(1) > 0).sum(), (table.sum(0) > 0).sum())
    # scikit-learn calls two constants a perfect match; a constant says nothing about anything.
    expected = (
        0 if constant else normalized_mutual_info_score(*labels, average_method=normalization)
    )
    assert ours == pytest.approx(expected, abs=1e-10)


def test_normalised_forms_without_a_reference():
    hx, hy, hxy = oracles.information(ASYMMETRIC)
    assert mutual_information(ASYMMETRIC, normalization="joint").item() == pytest.approx(
        (hx + hy - hxy) / hxy
    )
    assert mutual_information(ASYMMETRIC, normalization="studholme").item() == pytest.approx(
        (hx + hy) / hxy
    )


@pytest.mark.parametrize("correction", ["none", "miller_madow", "grassberger"])
@pytest.mark.parametrize(
    ("normalization", "expected"),
    [(n, 0.0) for n in ("none", "arithmetic", "geometric", "min", "max", "joint")]
    + [("studholme", 1.0)],
)
@pytest.mark.parametrize(
    "table", [[[5, 3, 1]], [[5], [3]], [[0, 0], [4, 3]], [[7]], [[0, 2], [0, 9]]]
)
def test_constant_input_is_exactly_zero(table, normalization, expected, correction):
    counts = torch.tensor(table)
    assert (
        mutual_information(counts, normalization=normalization, bias_correction=correction).item()
        == expected
    )


@pytest.mark.parametrize(
    "normalization", ["none", "arithmetic", "geometric", "min", "max", "joint", "studholme"]
)
def test_no_samples_is_nan(normalization):
    empty = torch.zeros(2, 3, dtype=torch.int64)
    for correction in ("none", "miller_madow", "grassberger"):
        value = mutual_information(empty, normalization=normalization, bias_correction=correction)
        assert value.isnan(), correction
    assert standard_error(empty).isnan()
    assert independence_p_value(empty).isnan()


def test_bits_are_nats_over_log_two_and_ratios_have_no_unit():
    nats = mutual_information(ASYMMETRIC)
    assert mutual_information(ASYMMETRIC, unit="bits").item() == pytest.approx(
        nats.item() / math.log(2)
    )
    assert standard_error(ASYMMETRIC, unit="bits").item() == pytest.approx(
        standard_error(ASYMMETRIC).item() / math.log(2)
    )
    ratio = mutual_information(ASYMMETRIC, normalization="max")
    assert mutual_information(ASYMMETRIC, normalization="max", unit="bits").equal(ratio)


def test_rows_are_x_and_columns_are_y():
    hx, hy, _ = entropies(ASYMMETRIC)
    assert hx.item() == pytest.approx(oracles.entropy([42, 47]))
    assert hy.item() == pytest.approx(oracles.entropy([30, 50, 9]))
    assert [h.item() for h in entropies(ASYMMETRIC.T)[:2]] == pytest.approx([hy.item(), hx.item()])


def test_leading_dimensions_are_a_batch():
    batch = torch.randint(0, 30, (2, 4, 3, 5), generator=torch.Generator().manual_seed(0))
    for function in (mutual_information, standard_error, independence_p_value):
        together = function(batch)
        assert together.shape == (2, 4)
        assert together.dtype == torch.float64
        one_by_one = [function(table) for row in batch for table in row]
        torch.testing.assert_close(together.flatten(), torch.stack(one_by_one), rtol=0, atol=1e-14)


def test_bias_corrections_reduce_the_bias_of_independent_samples():
    # Plug-in > Miller-Madow > Grassberger > -plug-in, in the mean: what the corrections are for.
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 64, (400, 200), generator=generator)
    counts = (
        torch.zeros(400, 64, dtype=torch.int64)
        .scatter_add_(1, cells, torch.ones_like(cells))
        .view(-1, 8, 8)
    )
    mean = {
        c: float(information(counts, bias_correction=c).mean())
        for c in ("none", "miller_madow", "grassberger")
    }
    assert mean["none"] > 0.11
    assert 0.01 < mean["miller_madow"] < 0.5 * mean["none"]
    assert abs(mean["grassberger"]) < 0.5 * mean["miller_madow"]


def test_grassberger_is_unbiased_where_it_should_be():
    # K = 10 equal cells, N = 20: the paper's log N gives 2.326, psi(N) 2.301, the truth is 2.303.
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 10, (4000, 20), generator=generator)
    counts = torch.zeros(4000, 10, dtype=torch.int64).scatter_add_(1, cells, torch.ones_like(cells))
    # The entropy of the joint of x with a constant is the entropy of x.
    from mi_metrics.functional.information import _grassberger

    assert float(_grassberger(counts.double(), 1).mean()) == pytest.approx(math.log(10), abs=0.01)


def test_standard_error_is_the_spread_of_the_estimate():
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([[0.4, 0.1, 0.05], [0.05, 0.3, 0.1]])
    cells = torch.multinomial(
        p.flatten().expand(2000, 6), 500, replacement=True, generator=generator
    )
    counts = (
        torch.zeros(2000, 6, dtype=torch.int64)
        .scatter_add_(1, cells, torch.ones_like(cells))
        .view(-1, 2, 3)
    )
    spread = information(counts).std().item()
    assert standard_error(counts).mean().item() == pytest.approx(spread, rel=0.05)


def test_standard_error_is_zero_for_a_constant_and_for_a_uniform_bijection():
    assert standard_error(torch.tensor([[4, 9]])).item() == 0
    constants = torch.randint(0, 99, (300, 1, 7), generator=torch.Generator().manual_seed(0))
    assert (standard_error(constants) == 0).all()
    assert (standard_error(constants.mT) == 0).all()
    assert standard_error(torch.eye(5, dtype=torch.int64) * 7).item() == pytest.approx(0, abs=1e-15)


def test_p_value_is_uniform_under_independence_and_scipys():
    from scipy.stats import chi2_contingency

    expected = chi2_contingency(ASYMMETRIC.numpy(), correction=False, lambda_="log-likelihood")[1]
    assert independence_p_value(ASYMMETRIC).item() == pytest.approx(expected, rel=1e-9)
    padded = torch.nn.functional.pad(ASYMMETRIC, (0, 4, 2, 0))
    assert independence_p_value(padded).item() == pytest.approx(expected, rel=1e-9)
    assert independence_p_value(torch.tensor([[3, 4]])).item() == 1

    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 9, (4000, 400), generator=generator)
    counts = (
        torch.zeros(4000, 9, dtype=torch.int64)
        .scatter_add_(1, cells, torch.ones_like(cells))
        .view(-1, 3, 3)
    )
    p = independence_p_value(counts)
    assert float((p < 0.05).double().mean()) == pytest.approx(0.05, abs=0.012)
    assert float(p.mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "normalization", ["none", "arithmetic", "geometric", "min", "max", "joint", "studholme"]
)
def test_gradient_is_exact_and_finite_with_empty_cells(normalization):
    counts = torch.tensor(
        [[3.0, 1.0, 0.5], [0.7, 4.0, 2.0]], dtype=torch.float64, requires_grad=True
    )

    def value(c):
        return information(c, normalization=normalization)

    assert torch.autograd.gradcheck(value, counts)
    holes = torch.tensor(
        [[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]], dtype=torch.float64, requires_grad=True
    )
    for table in (holes, holes[:1], holes[:, :1]):
        (gradient,) = torch.autograd.grad(value(table), holes)
        assert gradient.isfinite().all()
    (gradient,) = torch.autograd.grad(standard_error(holes), holes)
    assert gradient.isfinite().all()


def test_undersampling_warns_once_per_call_and_names_the_remedies():
    thin = torch.ones(3, 5, 5, dtype=torch.int64)
    match = (
        r'50 samples occupy 25 cells.*too large by 0\.16 nats or more.*num_bins="auto".*grassberger'
    )
    with warned("undersampled", match=match) as caught:
        mutual_information(2 * thin)
    assert caught[0].filename == __file__
    with warned("undersampled", match=r"25 samples.*, or variables with fewer values\.$"):
        mutual_information(thin)
    # No correction mends a table whose samples are alone in their cells.
    with warned("undersampled", match=r"100 % of them alone in theirs: bias_correction='grassb"):
        mutual_information(thin, bias_correction="grassberger")
    with warned("undersampled", match="100 % of them alone"):
        mutual_information(torch.eye(10, dtype=torch.int64))
    # Silent (warnings are errors): enough samples, chance taken away, and a constant.
    mutual_information(4 * thin)
    mutual_information(2 * thin, bias_correction="miller_madow")
    mutual_information(thin, normalization="adjusted")
    mutual_information(torch.ones(5, 1))


@ignore_cautions
@pytest.mark.parametrize(
    ("n", "bins", "plug_in", "corrected"), [(1024, 32, 0.54, 0.05), (1000, 100, 2.27, 1.23)]
)
def test_what_too_many_bins_cost(n, bins, plug_in, corrected):
    # The figures of the documentation: independent uniform samples.
    cells = torch.randint(bins**2, (50, n), generator=torch.Generator().manual_seed(0))
    counts = torch.stack([torch.bincount(c, minlength=bins**2) for c in cells]).view(50, bins, bins)
    assert mutual_information(counts).mean().item() == pytest.approx(plug_in, abs=0.02)
    value = mutual_information(counts, bias_correction="grassberger").mean().item()
    assert value == pytest.approx(corrected, abs=0.02)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: mutual_information([[1, 2]]),
            TypeError,
            "`counts` to be a torch.Tensor, but got list",
        ),
        (
            lambda: mutual_information(torch.ones(2, 2, dtype=torch.complex64)),
            TypeError,
            "to be real",
        ),
        (lambda: entropies(torch.ones(3)), ValueError, r"shape \(..., B_x, B_y\), but got \(3,\)"),
        (
            lambda: entropies(torch.tensor([[1, -1]])),
            ValueError,
            "not negative, but got values from -1 to 1",
        ),
        (
            lambda: standard_error(torch.tensor([[1.0, torch.inf]])),
            ValueError,
            "finite and not negative",
        ),
        (
            lambda: standard_error(torch.ones(2, 2), unit="dits"),
            ValueError,
            "`unit` to be one of 'nats', 'bits'",
        ),
        (
            lambda: mutual_information(ASYMMETRIC, normalization="sum"),
            ValueError,
            "`normalization` to be one of",
        ),
        (
            lambda: mutual_information(ASYMMETRIC, bias_correction="mm"),
            ValueError,
            "`bias_correction` to be one of",
        ),
        (lambda: mutual_information(ASYMMETRIC, unit="shannon"), ValueError, "but got 'shannon'"),
        (
            lambda: mutual_information(ASYMMETRIC / 3, bias_correction="grassberger"),
            ValueError,
            "whole counts",
        ),
        (lambda: independence_p_value(ASYMMETRIC / 3), ValueError, "G-test needs whole counts"),
    ],
)
def test_bad_input_is_refused_with_a_message(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_whole_counts_may_be_floating_point():
    expected = mutual_information(ASYMMETRIC, bias_correction="grassberger")
    assert mutual_information(ASYMMETRIC.float(), bias_correction="grassberger").equal(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bias_correction", ["none", "miller_madow"])
def test_probabilities_are_no_numbers_of_samples(dtype, bias_correction):
    table = torch.rand(3, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table = (table / table.sum((-2, -1), keepdim=True)).to(dtype)
    with warned():
        mutual_information(table, bias_correction=bias_correction)
    with warned("undersampled"):
        mutual_information(72 * table, bias_correction=bias_correction)
