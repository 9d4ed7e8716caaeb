"""The matrix of all pairs of columns is a loop over the pairs, and its p-values hold for all."""

import math
import warnings

import numpy as np
import pytest
import torch

from mi_metrics import MutualInformationWarning
from mi_metrics.functional import (
    binned_mutual_information,
    mutual_information_matrix,
    mutual_information_matrix_p_value,
)
from mi_metrics.functional import matrix as module
from mi_metrics.functional.tables import columns
from tests.cautions import ignore_cautions, kind_of, warned

N = 700


def data(n=N, seed=0, dtype=torch.float32):
    """Return columns of many kinds that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=generator)
    x = z @ torch.randn(2, 8, generator=generator) + torch.randn(n, 8, generator=generator)
    x[:, 1] = (2 * x[:, 1]).round()
    x[:, 2] = (x[:, 2] > 0).float()  # labels
    x[:, 3] = 7  # constant
    x[:, 4] = x[:, 4].exp().exp().clamp_max(1e30)  # heavy tails
    x[:, 5] = torch.arange(n) % 30  # more labels
    x[:, 6] = x[:, 6].relu()  # zero-inflated
    x[:, 7] = torch.where(torch.arange(n) % 9 == 0, -9999, x[:, 7])  # a fill value
    y = z @ torch.randn(2, 4, generator=generator) + torch.randn(n, 4, generator=generator)
    y[:, 1] = y[:, 0]
    y[:, 2] = (y[:, 2] / 3).round()
    y[:, 3] *= 1e35  # beyond what float32 multiplies
    return x.to(dtype), y.to(dtype)


def loop(x, y, *args, **options):
    return torch.stack(
        [
            torch.stack(
                [
                    binned_mutual_information(a.contiguous(), b.contiguous(), *args, **options)
                    for b in y.T
                ]
            )
            for a in x.T
        ]
    )


OPTIONS = [
    {},
    {"num_bins": 16},
    {"num_bins": (5, 9), "bias_correction": "miller_madow"},
    {"num_bins": 16, "binning": "quantile"},
    {"num_bins": 30, "binning": ("auto", "uniform")},
    {"binning": "values"},
    {"binning": ("uniform", "quantile")},
    {"binning": ("values", "auto")},
    {"bias_correction": "grassberger", "unit": "bits"},
    {"normalization": "geometric"},
    {"normalization": "adjusted"},
]


@ignore_cautions
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_matrix_is_the_loop_to_the_bit(options, device):
    x, y = (v.to(device) for v in data())
    assert torch.equal(mutual_information_matrix(x, y, **options), loop(x, y, **options))


@ignore_cautions
@pytest.mark.parametrize("options", [{}, {"num_bins": (6, 7)}], ids=str)
@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_few_samples(n, options):
    x, y = data(n)
    assert torch.equal(mutual_information_matrix(x, y, **options), loop(x, y, **options))


@ignore_cautions
def test_every_dtype():
    x, y = data()
    x = x.clamp(-1e4, 1e4)
    for a, b in (
        (x.double(), y),
        (x.half(), y[:, :3].bfloat16()),
        ((x > 0), x.long()),
        (x.to(torch.uint8), y.double()),
    ):
        for options in ({}, {"num_bins": 11}):
            assert torch.equal(mutual_information_matrix(a, b, **options), loop(a, b, **options))


@ignore_cautions
@pytest.mark.parametrize(
    "options", [{}, {"num_bins": 9}, {"num_bins": 16, "binning": "quantile"}], ids=str
)
def test_without_y_the_columns_are_paired_with_each_other(options):
    x, _ = data()
    found = mutual_information_matrix(x, **options)
    assert torch.equal(found, loop(x, x, **options))
    torch.testing.assert_close(found, found.T, rtol=1e-12, atol=1e-12)
    assert (found[3] == 0).all()


@ignore_cautions
@pytest.mark.parametrize("name", ["SAMPLES", "CELLS"])
def test_no_bit_depends_on_the_size_of_blocks(name, monkeypatch):
    x, y = data()
    expected = mutual_information_matrix(x, y)
    monkeypatch.setattr(module, name, 3 * N if name == "SAMPLES" else 2**20)
    monkeypatch.setattr(columns, "KEPT", 0)
    assert torch.equal(mutual_information_matrix(x, y), expected)


@ignore_cautions
def test_columns_in_any_layout():
    x, y = data()
    wide = torch.stack([x, x], 2)[:, :, 0]
    assert torch.equal(
        mutual_information_matrix(wide, y.T.contiguous().T), mutual_information_matrix(x, y)
    )


def test_the_value_has_no_gradient():
    x, y = data()
    assert not mutual_information_matrix(x[:, :1].requires_grad_(), y[:, :1]).requires_grad


# -- cautions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"num_bins": 32}, {"num_bins": 4, "binning": "uniform"}, {}, {"binning": "values"}]
)
def test_cautions_are_those_of_the_pairs_and_name_the_first(options):
    x, y = data(1500)
    first = {}
    for i, a in enumerate(x.T):
        for j, b in enumerate(y.T):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", MutualInformationWarning)
                binned_mutual_information(a.contiguous(), b.contiguous(), **options)
            for w in caught:
                first.setdefault(
                    kind_of(w), f"Column {i} of `x` with column {j} of `y`: {w.message}"
                )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MutualInformationWarning)
        mutual_information_matrix(x, y, **options)
    # Pairs with numbers near the largest of all come last.
    found = {kind_of(w): str(w.message) for w in caught}
    assert bool(first) == bool(options)
    assert found == first


def test_right_data_get_no_caution(rng):
    x = torch.randn(3000, 5, generator=rng)
    mutual_information_matrix(x, x[:, :2] + torch.randn(3000, 2, generator=rng))


# -- refusals --------------------------------------------------------------------------------------

X = torch.rand(20, 3)
NAN = X.clone().index_put((torch.tensor([4]), torch.tensor([1])), torch.tensor(math.nan))


@pytest.mark.parametrize("function", [mutual_information_matrix, mutual_information_matrix_p_value])
@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((X[:, 0], X), {}, r"Expected `x` of shape \(N, C\), .* but got \(20,\).*x.unsqueeze\(1\)"),
        ((X, X.flatten()), {}, r"Expected `y` of shape \(N, C\), .* but got \(60,\)"),
        ((X, X[:, :0]), {}, r"at least one column, but got \(20, 0\)"),
        ((X[:0],), {}, r"but got \(0, 3\)"),
        ((X, X[:7]), {}, "as many rows in `x` as in `y`, but got 20 and 7"),
        ((X, NAN), {}, "`y` to be finite, but it holds 1 .* first in column 1.*nan_strategy"),
        ((X / 0,), {}, "`x` to be finite, but it holds 60"),
        ((X, X.to("meta")), {}, "to hold values"),
        ((torch.tensor([[2**53 + 1]]),), {}, r"at most 2\*\*53"),
        ((X,), {"num_bins": 0}, "`num_bins`"),
        ((X,), {"num_bins": 7, "binning": "values"}, "a bin for each distinct value"),
        ((X,), {"binning": "cells"}, "`binning`"),
    ],
)
def test_bad_input_is_refused(function, args, options, message):
    with pytest.raises(ValueError, match=message):
        function(*args, **options)


@pytest.mark.parametrize("function", [mutual_information_matrix, mutual_information_matrix_p_value])
def test_wrong_types_are_refused(function):
    with pytest.raises(TypeError, match=r"`x` to be a torch.Tensor, but got list"):
        function([[1.0]])
    with pytest.raises(TypeError, match=r"`y` to be real"):
        function(X, X + 1j)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"`bias_correction`"):
        mutual_information_matrix(X, bias_correction="jackknife")
    with pytest.raises(ValueError, match=r'"adjusted".*excludes'):
        mutual_information_matrix(X, normalization="adjusted", bias_correction="miller_madow")
    with pytest.raises(ValueError, match=r"`seed`"):
        mutual_information_matrix_p_value(X, seed=-1)


# -- p-values --------------------------------------------------------------------------------------


def statistic(a, b):
    """Return Wilson and Hilferty's transform of G of two lists of labels, from its definition."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    k = (table.shape[0] - 1) * (table.shape[1] - 1)
    if k == 0:
        return -math.inf
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    g = 2 * sum(c * math.log(c / e) for c, e in zip(table.flat, expected.flat, strict=True) if c)
    return ((max(g, 0) / k) ** (1 / 3) - 1 + 2 / (9 * k)) / math.sqrt(2 / (9 * k))


def definition(x, y, among, number, seed):
    generator = torch.Generator().manual_seed(seed)
    pairs = [(i, j) for i in range(x.shape[1]) for j in range(y.shape[1]) if not among or i < j]
    largest = []
    for _ in range(number):
        order = torch.randperm(len(x), generator=generator).numpy()
        largest.append(max(statistic(x[order, i], y[:, j]) for i, j in pairs))
    p = np.array(
        [
            [(1 + sum(v >= statistic(a, b) - 1e-9 for v in largest)) / (1 + number) for b in y.T]
            for a in x.T
        ]
    )
    return np.where(np.tri(*p.shape, -1, dtype=bool), p.T, p) if among else p


def test_a_column_beside_itself_has_no_caution(rng):
    x = torch.randn(2000, 3, generator=rng)
    # Silent: warnings are errors.
    value = mutual_information_matrix(x)
    assert (value.diagonal() > 4).all()
    assert torch.equal(mutual_information_matrix(x, x.clone()), value)
    with warned("rising", match=r"^Column 1 of `x` with column 0 of `y`"):
        mutual_information_matrix(x, x[:, 1:2].exp())


@pytest.mark.parametrize("among", [False, True])
def test_p_values_are_their_definition(among, device, rng):
    # Labels have a bin each, and small tables repeat: ties decide.
    x = torch.randint(0, 4, (60, 4), generator=rng)
    x[:, 1] = (x[:, 0] + torch.randint(0, 3, (60,), generator=rng)) % 4
    x[:, 2] = 1
    y = None if among else torch.randint(0, 3, (60, 3), generator=rng)
    found = mutual_information_matrix_p_value(
        x.to(device), None if y is None else y.to(device), num_permutations=49, seed=5
    )
    expected = definition(x.numpy(), (x if among else y).numpy(), among, 49, 5)
    np.testing.assert_allclose(found.cpu().numpy(), expected, atol=1e-12)


def test_bins_of_p_values_come_from_each_column_alone(rng):
    x = torch.randn(500, 3, generator=rng)
    x[:, 2] = torch.randint(0, 12, (500,), generator=rng)
    y = torch.stack([x[:, 0] + torch.randn(500, generator=rng), 1.0 - x[:, 2] % 3], 1)
    found = mutual_information_matrix_p_value(x, y)
    # A monotone transform changes no bin of equal frequency, and no pair another's bins.
    assert torch.equal(mutual_information_matrix_p_value(x.double().exp(), y), found)
    few = found[[0, 2]][:, [0, 1]]
    assert (few.diagonal() == 1 / 200).all()
    assert found.min() >= 1 / 200
    assert found.max() <= 1
    for options in ({"num_bins": 8}, {"binning": "uniform"}, {"num_bins": (4, 12)}):
        assert mutual_information_matrix_p_value(x, y, **options)[0, 0] == 1 / 200


def test_numbers_of_many_samples_are_summed_without_a_list(monkeypatch, rng):
    x = torch.randn(300, 3, generator=rng)
    expected = mutual_information_matrix_p_value(x, num_permutations=19)
    monkeypatch.setattr(module, "LISTED", 10)
    assert torch.equal(mutual_information_matrix_p_value(x, num_permutations=19), expected)


def test_constant_columns_have_a_p_value_of_1():
    ones = torch.ones(50, 2)
    assert (mutual_information_matrix_p_value(ones) == 1).all()
    assert (mutual_information_matrix_p_value(ones[:, :1], torch.rand(50, 2)) == 1).all()


@pytest.mark.campaign
@pytest.mark.parametrize("kind", ["two blocks", "one matrix", "labels"])
def test_at_most_a_twentieth_of_independent_blocks_are_found(kind, rng):
    """At 5 %, 400 data sets are above 7.2 % once in 50 runs."""
    found = 0
    for seed in range(400):
        common, other = torch.randn(2, 100, 1, generator=rng)
        x = common + 0.5 * torch.randn(100, 6, generator=rng)
        y = other + 0.5 * torch.randn(100, 5, generator=rng)
        if kind == "labels":
            y = (2 * y).round()
        if kind == "one matrix":
            x, y = torch.randn(100, 6, generator=rng), None
        p = mutual_information_matrix_p_value(x, y, num_permutations=99, seed=seed)
        found += bool((p if y is not None else p + torch.eye(6)).min() <= 0.05)
    assert found <= 0.075 * 400


def test_tables_of_p_values_that_no_memory_holds_are_refused():
    x = torch.arange(12_000.0).unsqueeze(1)
    with pytest.raises(ValueError, match="1 tables of 12000 x 12000 bins, which takes 2 GiB"):
        mutual_information_matrix_p_value(x, x.flip(0), binning="values", num_permutations=1)
