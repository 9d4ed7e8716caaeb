"""`mi-metrics estimate --condition`: closed forms, and the values of the functions."""

import math

import numpy as np
import pytest
import torch

from mi_metrics.commands import conditional, sample
from mi_metrics.commands.estimators import Options
from mi_metrics.functional import (
    binned_conditional_mutual_information,
    knn_conditional_mutual_information,
    knn_mutual_information,
)
from tests.commands.test_estimate import found_in, run

pytest.importorskip("tqdm")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

N = 4000


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    z, a, b = rng.standard_normal((3, N))
    x = z + a
    coins = rng.integers(0, 2, (2, N))
    return {
        "z": z,
        "x": x,
        "effect": z + b,  # x <- z -> effect: 0 given z
        "child": 0.6 * x + 0.8 * b,  # given z the correlation is 0.6: 0.2231 nats
        "group": np.where(rng.random(N) < 0.3, "left", "right"),
        "heads": coins[0],
        "tails": coins[1],
        "xor": coins[0] ^ coins[1],
    }


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("conditional") / "t.parquet"
    parquet.write_table(pa.table(data), path)
    return path


def one(path, x, y, condition, estimator, *args, permutations=0):
    options = ["--x", x, "--y", y, "--condition", condition, "--estimator", estimator, *args]
    (line,) = found_in(path, *options, "--permutations", permutations)
    return line


def test_a_common_cause_explains_it(path, data):
    line = one(path, "effect", "x", "z", "knn", permutations=19)
    assert line.mi == pytest.approx(0, abs=0.03)
    assert line.lower < 0.005
    dependent = one(path, "child", "x", "z", "knn", permutations=19)
    assert dependent.mi == pytest.approx(-math.log(1 - 0.36) / 2, abs=0.03)
    assert dependent.p_value == 0.05
    tensors = (torch.from_numpy(data[name]) for name in ("child", "x", "z"))
    # The rows are in an order of chance, and the value is a function of their set.
    assert dependent.mi == pytest.approx(knn_conditional_mutual_information(*tensors).item(), 1e-12)


def test_a_common_effect_shows_it(path):
    line = one(path, "heads", "tails", "xor", "bins", permutations=19)
    assert line.mi == pytest.approx(math.log(2), abs=1e-3)
    assert line.p_value == 0.05
    plain = found_in(path, "--x", "heads", "--y", "tails", "--permutations", 0)[0]
    assert plain.mi == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("condition", ["group", "heads"])
def test_classes_divide_the_rows(path, data, condition):
    _, labels = np.unique(data[condition], return_inverse=True)
    x, y, z = (torch.from_numpy(v) for v in (data["child"], data["x"], labels))
    line = one(path, "child", "x", condition, "bins", permutations=19)
    assert line.mi == pytest.approx(binned_conditional_mutual_information(x, y, z).item(), 1e-12)
    assert line.lower < line.mi < line.upper
    assert line.p_value == 0.05
    line = one(path, "child", "x", condition, "knn")
    parts = [(z == k) for k in (0, 1)]
    expected = sum(int(p.sum()) * knn_mutual_information(x[p], y[p]).item() for p in parts) / N
    assert line.mi == pytest.approx(expected, rel=1e-12)


def test_p_of_independent_columns_is_uniform_given_classes(tmp_path):
    rng = np.random.default_rng(1)
    found = []
    for i in range(20):
        classes = rng.integers(0, 3, 120)
        # Dependent through the classes alone.
        x, y = 3 * classes + rng.standard_normal((2, 120))
        np.save(tmp_path / f"{i}.npy", np.stack([x, y, classes], 1))
        found.append(
            [
                one(tmp_path / f"{i}.npy", "0", "1", "2", name, permutations=19).p_value
                for name in ("bins", "knn")
            ]
        )
    # At a level of 0.2 a share of 0.2 of 20 is rejected: more than 10 are one in 400.
    assert (np.array(found) <= 0.2).sum(0).max() <= 10


@pytest.mark.parametrize("divides", [True, False])
def test_intervals_of_neighbours_hold_the_truth(divides):
    given, held = Options(permutations=1), 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        x, y, z = torch.randn(3, 200, generator=generator, dtype=torch.float64)
        if divides:
            z = torch.randint(3, (200,), generator=generator).double()
        rows = torch.stack([x + z, y + z, z], 1)
        interval = conditional.conditional("knn", rows, (False, False, divides), given).interval
        assert interval is not None
        held += interval[0] <= 0 <= interval[1]
    # The scatter of eighths alone held 60 and 70 % of truths.
    assert held >= 53


def test_what_can_t_be_conditioned_says_so(path, capsys):
    run(path, "--y", "x", "--x", "child", "--condition", "z", "--permutations", 0)
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split("  ")[-1].strip() == "MI given z (nats)"
    assert "note: bins, child and x: the condition has too many values for a table each" in err
    assert "note: kde, child and x: densities are not conditioned" in err
    run(path, "--matrix", "x", "child", "--condition", "group", "--estimator", "bins")
    assert capsys.readouterr().out.startswith("MI given group in nats, bins\n")


def test_the_condition_is_paired_with_none(path):
    found = found_in(path, "--y", "x", "--condition", "z", "--estimator", "bins")
    assert "z" not in {e.x for e in found}


def test_rows_without_the_condition_are_ignored(tmp_path, data):
    z = np.where(np.arange(N) % 4 == 0, np.nan, data["z"])
    np.save(tmp_path / "t.npy", np.stack([data["x"], data["child"], z], 1))
    line = one(tmp_path / "t.npy", "0", "1", "2", "knn")
    assert (line.n, line.ignored) == (N - N // 4, N // 4)


def test_rows_that_are_kept_depend_on_their_places_alone():
    rows = torch.arange(1000.0, dtype=torch.float64)
    whole = sample.Sample(1, 100)
    whole.add([rows], 0)
    parts = [sample.Sample(1, 100) for _ in range(3)]
    for i in range(0, 1000, 50):
        parts[i % 3].add([rows[i : i + 50]], i)
    for part in parts[1:]:
        parts[0].merge(part)
    assert torch.equal(whole.rows([0], None), parts[0].rows([0], None))
    kept = whole.rows([0], None)
    assert len(kept.unique()) == 100
    # A uniform share of the rows: its mean is that of all within four standard errors.
    assert abs(float(kept.mean()) - 499.5) < 4 * 288.7 / 10


def test_classes_of_few_rows_are_not_the_value_of_all(tmp_path, capsys):
    x, noise = np.random.default_rng(0).standard_normal((2, 100))
    z = ["large"] * 10 + [f"small {i // 3}" for i in range(90)]
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"x": x, "y": x + noise, "z": z}), path)
    run(path, "--x", "x", "--y", "y", "--condition", "z", "--permutations", "0")
    output, err = capsys.readouterr()
    assert "knn        100        0                  -" in output
    assert "note: knn, x and y: 90 rows share the condition with fewer than 3 others\n" in err
    assert "rely on" not in err
    # Neighbours and densities were asked, too.
    assert "compare with" not in err


def test_many_categories_given_a_number_are_refused_where_they_take_too_long(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels, z = rng.integers(0, 20, (2, 500)), rng.standard_normal(500)
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"a": labels[0], "b": labels[1], "z": z}), path)
    options = ["--y", "a", "--x", "b", "--condition", "z", "--estimator", "knn"]
    options += ["--discrete", "a", "b", "--permutations", 0]
    assert not np.isnan(found_in(path, *options)[0].mi)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conditional, "MOST_WORK", 41 * 300**2)
        run(path, *options)
    message = "so many categories beside a continuous condition take too long with 500 rows"
    assert f"{message}: pass --max-samples 300" in capsys.readouterr().err
