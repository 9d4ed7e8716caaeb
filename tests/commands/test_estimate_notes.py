"""What `mi-metrics estimate` notes about doubtful values."""

import numpy as np
import pytest

from mi_metrics.commands.columns import open_table
from mi_metrics.commands.estimate import NO_P, Settings, estimate, main
from mi_metrics.settings import ESTIMATORS

pytest.importorskip("tqdm")
pytest.importorskip("pyarrow")

BINS = ["bins", "quantile-bins"]


def run(*args):
    """Run the command in this process."""
    main(["estimate", *map(str, args)])


class TestNotes:
    def of(self, path, capsys, *options):
        run(path, *options)
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
        err = self.of(path, capsys, *options, "--estimator", *ESTIMATORS)
        assert "note: kde, 0 and 1: a few far values" in err
        coarse = "note: bins and quantile-bins, 0 and 1: the cells of the grid are wider than"
        assert coarse in err
        found = estimate(open_table(path), [("0", "1")], Settings(("bins", "kde")))
        # The truth is 0.2231: this is what the notes are for.
        assert 0.1 < found[0].mi < 0.2
        assert found[1].mi < 0.1

    def test_a_far_value(self, tmp_path, capsys):
        x, y = np.random.default_rng(0).standard_normal((2, 500))
        y = 0.6 * x + 0.8 * y
        x[7] = 1e6
        path, *options = self.pair(tmp_path, x, y)
        err = self.of(path, capsys, *options, "--estimator", *ESTIMATORS)
        for part in (
            "kde, 0 and 1: a few far",
            "knn, 0 and 1: a few far",
        ):
            (note,) = (line for line in err.splitlines() if line.startswith(f"note: {part}"))
            assert "rely on bins" in note

    @pytest.mark.parametrize(
        "x", [np.arange(1000) % 3 == 0, np.arange(1000.0), np.sin(np.arange(1000))]
    )
    def test_bins_have_none_on_categories_and_on_light_tails(self, x, tmp_path, capsys):
        path, *options = self.pair(
            tmp_path, x.astype(float), np.random.default_rng(0).standard_normal(1000)
        )
        assert self.of(path, capsys, *options, "--estimator", "bins") == ""

    def test_few_distinct_values(self, tmp_path, capsys):
        path, *options = self.pair(
            tmp_path, np.arange(1000.0) % 50, np.random.default_rng(0).standard_normal(1000)
        )
        err = self.of(path, capsys, *options, "--estimator", *ESTIMATORS)
        remark = "50 distinct values only, where continuous ones are expected: rely on bins"
        # Bins are silent: the values tell no more than they do.
        assert err == f"note: kde and knn, 0: {remark}\n"

    def test_a_constant_has_none(self, tmp_path, capsys):
        path, *options = self.pair(
            tmp_path, np.full(1000, 2.0), np.random.default_rng(0).standard_normal(1000)
        )
        assert self.of(path, capsys, *options, "--estimator", *ESTIMATORS) == ""

    def test_no_p_value(self, tmp_path, capsys):
        path, *options = self.pair(
            tmp_path, np.arange(1000.0) == 7, np.random.default_rng(0).standard_normal(1000)
        )
        err = self.of(path, capsys, *options, "--estimator", *BINS)
        assert err == f"note: {' and '.join(BINS)}, 0 and 1: {NO_P}\n"
        run(path, *options, "--estimator", "bins")
        header, row = capsys.readouterr().out.splitlines()
        # The error bar is shown all the same.
        assert header.split()[-2:] == ["±", "p"]
        assert float(row.split()[-2]) > 0
        assert row.split()[-1] == "-"

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
        path, *options = self.pair(tmp_path, *np.random.default_rng(0).standard_normal((2, 3)))
        err = self.of(path, capsys, *options, "--estimator", "bins", "knn")
        few = "fewer than 30 rows, too few to rely on the value"
        assert (
            err == f"note: bins, 0 and 1: {few}\nnote: knn, 0 and 1: fewer than 4 rows to use, so "
            f"there is no value\n"
        )
        x, y = np.exp(3 * np.random.default_rng(0).standard_normal((2, 30)))
        path, *options = self.pair(tmp_path, x[:29], y[:29])
        assert (
            self.of(path, capsys, *options, "--estimator", *ESTIMATORS)
            == f"note: {' and '.join(ESTIMATORS)}, 0 and 1: {few}\n"
        )
        path, *options = self.pair(tmp_path, x, y)
        err = self.of(path, capsys, *options, "--estimator", *ESTIMATORS)
        assert few not in err
        assert "note: kde, 0 and 1: a few far values" in err

    def test_a_kernel_that_is_too_narrow(self, tmp_path, capsys):
        x, y = np.random.default_rng(0).standard_normal((2, 4000))
        path, *options = self.pair(tmp_path, x, x + 1e-4 * y)
        err = self.of(path, capsys, *options, "--estimator", "kde")
        assert err == (
            "note: kde, 0 and 1: the kernel is narrower than the grid resolves, so MI is too "
            "small: raise --resolution, or rely on knn\n"
        )

    def test_a_note_about_many_pairs_is_one_line(self, tmp_path, capsys):
        np.save(tmp_path / "t.npy", np.random.default_rng(0).standard_normal((3, 5)))
        err = self.of(tmp_path / "t.npy", capsys, "--matrix", "--estimator", "knn")
        assert err.startswith("note: knn, 0 and 1; 0 and 2; 0 and 3 and 7 more: fewer than 4 rows")
        assert err.count("\n") == 1

    def test_much_memory(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("mi_metrics.commands.estimate.MUCH_MEMORY", 1 << 21)
        path, *options = self.pair(tmp_path, *np.random.default_rng(0).standard_normal((2, 10)))
        assert "GiB" not in self.of(path, capsys, *options, "--estimator", "bins")
        np.save(path, np.random.default_rng(0).standard_normal((10, 3)))
        assert "note: 3 pairs may need 0 GiB of memory: name fewer columns" in self.of(
            path, capsys, "--matrix"
        )
