"""What `mi-metrics estimate` notes about doubtful values."""

import numpy as np
import pytest
import torch

from mi_metrics.commands.estimate_lines import Estimate
from mi_metrics.commands.estimate_notes import ADVICE, ORDER, notes, remarks
from mi_metrics.commands.facts import Facts
from mi_metrics.functional.cautions import KINDS
from mi_metrics.settings import ESTIMATORS
from tests.commands.test_estimate import found_in, run

pytest.importorskip("tqdm")
pytest.importorskip("pyarrow")

OF_KDE = "note: kde, 0 and 1: a few far values, or many equal ones, set the width of the kernel"


class TestNotes:
    def of(self, path, capsys, *options):
        run(path, *options, "--permutations", "0")
        err = capsys.readouterr().err
        assert all(line.startswith("note: ") for line in err.splitlines())
        assert "Warning" not in err
        return err

    def pair(self, path, x, y):
        np.save(path / "t.npy", np.stack([x, y], 1))
        return path / "t.npy", "--x", "0", "--y", "1"

    def test_heavy_tails(self, tmp_path, capsys):
        x, y = np.random.default_rng(0).standard_normal((2, 20_000))
        path, *options = self.pair(tmp_path, np.exp(2 * x), np.exp(2 * (0.6 * x + 0.8 * y)))
        err = self.of(path, capsys, *options)
        assert OF_KDE in err
        assert "note: bins, 0 and 1: the cells of the grid are wider than" in err
        assert "0 and 1: the values differ beyond chance; rely on knn" in err
        found = found_in(path, *options, "--permutations", 0)
        # The truth is 0.2231: this is what the notes are for.
        assert 0.1 < found[0].mi < 0.2
        assert found[1].mi < 0.1
        assert found[2].mi == pytest.approx(0.2231, abs=0.02)

    def test_a_far_value(self, tmp_path, capsys):
        x, y = np.random.default_rng(0).standard_normal((2, 500))
        y = 0.6 * x + 0.8 * y
        x[7] = 1e6
        path, *options = self.pair(tmp_path, x, y)
        err = self.of(path, capsys, *options)
        assert OF_KDE in err
        assert "note: knn, 0 and 1: a few far values hide the rest" in err
        assert "rely on bins" in err

    @pytest.mark.parametrize(
        "x", [np.arange(1000) % 3 == 0, np.arange(1000.0), np.sin(np.arange(1000))]
    )
    def test_bins_have_none_on_categories_and_on_light_tails(self, x, tmp_path, capsys):
        path, *options = self.pair(
            tmp_path, x.astype(float), np.random.default_rng(0).standard_normal(1000)
        )
        assert self.of(path, capsys, *options, "--estimator", "bins") == ""

    def test_few_distinct_values_are_counted_in_the_whole_column(self):
        facts = {"a": Facts(), "b": Facts()}
        for start in range(0, 1000, 100):
            facts["a"].add(torch.arange(start, start + 100.0) % 250)
            facts["b"].add(torch.randn(100))
        found = list(remarks([("few values", "The library's words.")], ("a", "b"), facts))
        assert found == [("a", "250 distinct values only, where continuous ones are expected")]
        # Where the columns are not known to have few, the advice is without a number.
        (text,) = remarks([("few values", "The library's words.")], ("c", "d"), facts)
        assert text == ("c and d", ADVICE["few values"])

    def test_a_constant_has_none(self, tmp_path, capsys):
        path, *options = self.pair(
            tmp_path, np.full(1000, 2.0), np.random.default_rng(0).standard_normal(1000)
        )
        assert self.of(path, capsys, *options) == ""

    def test_no_p_value_without_resamples(self, tmp_path, capsys):
        path, *options = self.pair(
            tmp_path, np.arange(1000.0) == 7, np.random.default_rng(0).standard_normal(1000)
        )
        run(path, *options, "--estimator", "bins", "--permutations", 0)
        header, row = capsys.readouterr().out.splitlines()
        # The interval is shown all the same.
        assert header.split()[-2:] == ["interval", "p"]
        assert row.split()[-1] == "-"
        (line,) = found_in(path, *options, "--estimator", "bins", "--permutations", 19)
        assert 0.05 <= line.p_value <= 1

    def test_a_part_of_the_rows(self, tmp_path, capsys):
        path, *options = self.pair(tmp_path, *np.random.default_rng(0).standard_normal((2, 1000)))
        err = self.of(path, capsys, *options, "--max-samples", "100")
        assert err == "note: knn, 0 and 1: 100 of 1000 rows used; --max-samples sets how many\n"

    def test_rows_that_repeat(self, tmp_path, capsys):
        rng = np.random.default_rng(0)
        path, *options = self.pair(tmp_path, rng.integers(0, 3, 5000), rng.integers(0, 3, 5000))
        err = self.of(path, capsys, *options, "--estimator", "knn", "--max-samples", "1000")
        assert "exact copies of others" not in err

    def test_copies(self, tmp_path, capsys):
        path, *options = self.pair(
            tmp_path, *np.tile(np.random.default_rng(0).standard_normal((2, 500)), 2)
        )
        assert "note: knn, 0 and 1: many rows are exact copies of others" in self.of(
            path, capsys, *options
        )

    def test_too_few_rows(self, tmp_path, capsys):
        few = "fewer than 30 rows, too few to rely on the value"
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((2, 5))
        x[:2] = np.nan
        path, *options = self.pair(tmp_path, x, y)
        err = self.of(path, capsys, *options, "--estimator", "bins", "knn")
        assert f"note: bins, 0 and 1: {few}\n" in err
        assert "note: knn, 0 and 1: too few rows, or all labels different" in err
        x, y = np.exp(3 * rng.standard_normal((2, 30)))
        path, *options = self.pair(tmp_path, x[:29], y[:29])
        assert self.of(path, capsys, *options) == f"note: bins, kde and knn, 0 and 1: {few}\n"
        path, *options = self.pair(tmp_path, x, y)
        assert few not in self.of(path, capsys, *options)

    def test_a_kernel_that_is_too_narrow(self, tmp_path, capsys):
        x, y = np.random.default_rng(0).standard_normal((2, 4000))
        path, *options = self.pair(tmp_path, x, x + 1e-4 * y)
        err = self.of(path, capsys, *options, "--estimator", "kde")
        assert err == (
            "note: kde, 0 and 1: the kernel is narrower than the grid resolves, so MI is too "
            "small: raise --resolution\n"
            "note: kde, 0 and 1: compare with --estimator knn bins\n"
        )
        assert "rely on knn" in self.of(path, capsys, *options)

    def test_a_note_about_many_pairs_is_one_line(self, tmp_path, capsys):
        values = np.random.default_rng(0).standard_normal((6, 5))
        values[3:] = np.nan
        np.save(tmp_path / "t.npy", values)
        err = self.of(tmp_path / "t.npy", capsys, "--matrix", "--estimator", "knn")
        assert err.startswith("note: knn, 0 and 1; 0 and 2; 0 and 3 and 7 more: too few rows")
        assert err.count("\n") == 1

    @pytest.mark.parametrize("value", [-999.0, 99999.0])
    def test_a_value_that_looks_like_a_missing_one(self, value, tmp_path, capsys):
        x, y = np.random.default_rng(0).standard_normal((2, 2000))
        x[::500] = value
        path, *options = self.pair(tmp_path, x, y)
        err = self.of(path, capsys, *options)
        told = f"note: 0: {value:g} in 0.2 % of the rows lies far from all others; if it marks"
        assert f"{told} missing values, pass --missing {value:g}\n" in err
        run(path, *options, "--permutations", 0, "--missing", f"{value:g}")
        out, err = capsys.readouterr()
        assert err == ""
        assert out.splitlines()[1].split()[3:5] == ["1996", "4"]

    @pytest.mark.parametrize(
        "x",
        [
            np.r_[np.zeros(900), np.exp(2 * np.random.default_rng(0).standard_normal(1100))],
            np.array([0, 1, 10, 1000.0])[np.arange(2000) % 4],
            np.arange(2000) % 2,
            np.random.default_rng(0).standard_cauchy(2000),
            np.minimum(np.random.default_rng(0).exponential(size=2000), 3),
        ],
    )
    def test_zeros_doses_flags_tails_and_clipped_values_do_not(self, x, tmp_path, capsys):
        path, *options = self.pair(tmp_path, x, np.random.default_rng(1).standard_normal(2000))
        assert "missing values" not in self.of(path, capsys, *options)


def line(estimator, mi, error=0.01, cautions=(), n=1000):
    return Estimate("x", "y", estimator, n, 0, mi, error, cautions=cautions)


class TestVerdicts:
    def test_values_that_agree_need_none(self):
        assert list(notes([line("bins", 0.5), line("kde", 0.52), line("knn", 0.55)])) == []
        # A fifth and more, but chance may do that.
        assert list(notes([line("bins", 0.5, 0.1), line("knn", 0.9, 0.1)])) == []
        assert list(notes([line("bins", 0.001, 1e-4), line("knn", 0.01, 1e-4)])) == []

    def test_values_that_differ_name_the_one_to_rely_on(self):
        found = [line("bins", 0.5), line("kde", 0.52), line("knn", 0.9)]
        (note,) = notes(found)
        assert note.startswith("bins, kde and knn, x and y: the values differ beyond chance; rely")
        assert "rely on knn: it has no bins" in note
        (note,) = notes([line("bins", 0.5), line("knn", 0.9, cautions=("copies",))])
        assert "rely on bins" in note

    @pytest.mark.parametrize("kind", KINDS)
    def test_advice_never_leads_in_a_circle(self, kind):
        assert not any(f"rely on {name}" in ADVICE.get(kind, "") for name in ESTIMATORS)
        asked, seen = ["kde"], []
        # Whoever follows the advice comes to an end, though every estimator has this doubt.
        while True:
            found = [line(name, 0.5, cautions=(kind,)) for name in asked]
            (note,) = notes(found)
            assert note not in seen
            seen.append(note)
            if "--estimator" not in note:
                break
            asked += note.split("--estimator ")[1].split()
            assert len(asked) == len(set(asked))
        assert "no estimator is free of doubt" in seen[-1]
        assert set(asked) == set(ORDER) == set(ESTIMATORS)
