"""Disentanglement scores are their papers' formulas."""

import math

import numpy as np
import pytest
import torch

from mi_metrics.functional import mutual_information_gap, mutual_information_matrix
from tests.cautions import warned

KINDS = ("mig", "mig_sup", "modularity")


# -- the definitions, one sample and one pair at a time --------------------------------------------


def discretised(column, bins=20):
    """Return the bin of each sample among equal ones between the extremes, as NumPy has them."""
    edges = np.histogram(column, bins)[1]
    return np.digitize(column, edges[:-1])


def entropy(labels):
    counts = np.unique(labels, return_counts=True)[1]
    return -sum(c / counts.sum() * math.log(c / counts.sum()) for c in counts)


def information(a, b):
    joint = [f"{i}/{j}" for i, j in zip(a.tolist(), b.tolist(), strict=True)]
    return entropy(a) + entropy(b) - entropy(joint)


def definition(kind, latents, factors):
    """Return a score of codes (N, L) and factors (N, F), with latents in 20 equal bins."""
    codes = [discretised(column) for column in latents.T]
    table = np.array([[information(c, v) for v in factors.T] for c in codes])
    h = np.array([entropy(v) for v in factors.T])
    if kind == "mig":  # Chen 2018
        ordered = np.sort(table, axis=0)
        return np.mean((ordered[-1] - ordered[-2]) / h)
    if kind == "mig_sup":  # Li 2020
        ordered = np.sort(table / h, axis=1)
        return np.mean(ordered[:, -1] - ordered[:, -2])
    scores = []  # Ridgeway and Mozer 2018
    for row in table:
        best = row.argmax()
        others = [v for f, v in enumerate(row) if f != best]
        scores.append(1 - sum(v**2 for v in others) / (row[best] ** 2 * len(others)))
    return np.mean(scores)


def codes(n=3000, seed=0):
    """Return latents that mix three factors of 3, 4 and 6 values, and a noisy one."""
    rng = np.random.default_rng(seed)
    factors = np.stack([rng.integers(0, k, n) for k in (3, 4, 6)], 1).astype(float)
    mix = np.array([[1, 0.2, 0], [0.1, 1, 0], [0, 0.3, 1], [0.5, 0.5, 0.5], [0, 0, 0.1]])
    return factors @ mix.T + 0.3 * rng.standard_normal((n, 5)), factors


def score(latents, factors, kind="mig", **options):
    latents, factors = torch.as_tensor(latents), torch.as_tensor(factors)
    matrix = mutual_information_matrix(latents, factors, 20, bias_correction="none", **options)
    own = mutual_information_matrix(factors, num_bins=20, bias_correction="none", **options)
    return float(mutual_information_gap(matrix, own.diagonal(), kind=kind))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_their_definitions(kind, seed):
    latents, factors = codes(seed=seed)
    expected = definition(kind, latents, factors)
    assert score(latents, factors, kind) == pytest.approx(expected, abs=1e-12)
    assert score(latents, factors, kind, unit="bits") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_latent_for_each_factor_scores_1(kind):
    _, factors = codes()
    # Sampling makes factors depend on each other a little; a full design does not.
    grid = torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0), torch.arange(6.0)).repeat(
        20, 1
    )
    assert score(-2 * grid.flip(1), grid, kind) == pytest.approx(1, abs=1e-12)
    assert 0.99 < score(factors, factors, kind) <= 1


def test_a_code_that_has_everything_twice_has_no_gap():
    _, factors = codes()
    twice = np.concatenate([factors, -3 * factors], 1)
    assert score(twice, factors) == pytest.approx(0, abs=1e-12)
    # Its latents still tell of one factor each.
    assert score(twice, factors, "modularity") > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_order_does_not_matter(kind):
    latents, factors = codes()
    expected = score(latents, factors, kind)
    assert score(latents[:, [3, 1, 4, 0, 2]], factors[:, [2, 0, 1]], kind) == pytest.approx(
        expected
    )


# -- edges -----------------------------------------------------------------------------------------

MATRIX = torch.tensor([[0.6, 0.1], [0.2, 0.5], [0.0, 0.4]], dtype=torch.float64)
H = torch.tensor([1.0, 0.5], dtype=torch.float64)


def test_single_latents_and_factors():
    assert mutual_information_gap(MATRIX[:1], H).item() == pytest.approx((0.6 + 0.1 / 0.5) / 2)
    one = MATRIX[:, :1], H[:1]
    assert mutual_information_gap(*one).item() == pytest.approx(0.4)
    # The last latent tells nothing of that factor.
    assert mutual_information_gap(*one, kind="mig_sup").item() == pytest.approx((0.6 + 0.2) / 2)
    with pytest.raises(ValueError, match=r'two factors or more for kind="modularity".*"mig"'):
        mutual_information_gap(*one, kind="modularity")


@pytest.mark.parametrize("kind", KINDS)
def test_constant_factors_are_left_out_with_a_caution(kind):
    wide = torch.cat([MATRIX[:, :1], torch.zeros(3, 1), MATRIX[:, 1:]], 1)
    with warned("constant", match=r"^1 of 3 factors are constant \(number 1\) and left out"):
        found = mutual_information_gap(wide, torch.tensor([1.0, 1e-13, 0.5]), kind=kind)
    assert found == mutual_information_gap(MATRIX, H, kind=kind)
    with warned("constant", match="2 of 2 factors"):
        assert mutual_information_gap(0 * MATRIX, 0 * H, kind=kind).isnan()


def test_modularity_of_one_factor_that_varies_is_no_number():
    with warned("constant"):
        found = mutual_information_gap(MATRIX, torch.tensor([1.0, 0.0]), kind="modularity")
    assert found.isnan()


def test_dead_latents():
    dead = torch.cat([MATRIX, torch.zeros(1, 2)])
    assert mutual_information_gap(dead, H) == mutual_information_gap(MATRIX, H)
    sup, modularity = (mutual_information_gap(MATRIX, H, kind=k).item() for k in KINDS[1:])
    assert mutual_information_gap(dead, H, kind="mig_sup").item() == pytest.approx(sup)
    found = mutual_information_gap(dead, H, kind="modularity").item()
    assert found == pytest.approx(0.75 * modularity)
    assert mutual_information_gap(0 * MATRIX, H) == 0
    assert mutual_information_gap(0 * MATRIX, H, kind="modularity") == 0
    with warned("constant", match="No latent tells anything"):
        assert mutual_information_gap(0 * MATRIX, H, kind="mig_sup").isnan()


def test_negative_values_count_as_nothing():
    # Squares of -0.02 and -0.01 would make a dead latent look modular.
    noisy = torch.cat([MATRIX, torch.tensor([[-0.02, -0.01]])])
    dead = torch.cat([MATRIX, torch.zeros(1, 2)])
    for kind in KINDS:
        found, expected = (mutual_information_gap(m, H, kind=kind) for m in (noisy, dead))
        assert found == expected


@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays(kind):
    assert mutual_information_gap(MATRIX.clone().fill_(math.nan), H, kind=kind).isnan()
    assert mutual_information_gap(MATRIX, H * math.nan, kind=kind).isnan() or kind == "modularity"


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences(kind):
    matrix = (MATRIX + 0.01).requires_grad_()  # Away from the corner at 0.
    assert torch.autograd.gradcheck(lambda m: mutual_information_gap(m, H, kind=kind), matrix)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((MATRIX, H[:1]), r"\(latents, factors\).*but got \(3, 2\) and \(1,\).*matrix.T"),
        ((MATRIX[0], H), "matrix.T"),
        ((MATRIX[:0], H), r"but got \(0, 2\)"),
        ((MATRIX, -H), "finite and not negative, but got values from -1 to -0.5"),
        ((MATRIX, H / 0), "differential"),
    ],
)
def test_bad_input_is_refused(args, message):
    with pytest.raises(ValueError, match=message):
        mutual_information_gap(*args)
    with pytest.raises(ValueError, match=r"`kind`"):
        mutual_information_gap(MATRIX, H, kind="dci")
    with pytest.raises(TypeError, match=r"`entropies` to be a torch.Tensor"):
        mutual_information_gap(MATRIX, [1.0, 0.5])
