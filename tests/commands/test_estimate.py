import csv
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from mi_metrics import cli
from mi_metrics.commands import columns
from mi_metrics.commands.columns import open_table
from mi_metrics.commands.estimate import Settings, estimate, main
from mi_metrics.commands.estimate_counts import p_value
from mi_metrics.functional import mutual_information, standard_error
from mi_metrics.settings import ESTIMATORS
from mi_metrics.states import grid
from tests.cautions import ignore_cautions

pytest.importorskip("tqdm")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
arrow_csv = pytest.importorskip("pyarrow.csv")

N = 2000
BINS = ["bins", "quantile-bins"]
METRICS = {
    name: partial(estimator.metric, nan_strategy="ignore") for name, estimator in ESTIMATORS.items()
}


@pytest.fixture(autouse=True)
def one_thread():
    """Compute on one thread, as the command does: sums on several round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def samples():
    """Return columns of several dtypes, some with missing values: name, values, which are
    missing.
    """
    rng = np.random.default_rng(0)
    x, y, z = rng.standard_normal((3, N))
    some = rng.random(N) < 0.1
    return {
        "x": (x, np.zeros(N, bool)),
        "y": (0.6 * x + 0.8 * y, some),
        "half": ((x + z).astype(np.float32), np.zeros(N, bool)),
        "count": (rng.poisson(np.exp(0.5 * x) * 300), rng.random(N) < 0.2),
        "flag": (x + z > 0, np.zeros(N, bool)),
    }


def write(folder, suffix, data=None):
    """Write a file, and return it with the names of its columns and their samples as the metrics
    should see them.
    """
    data = data or samples()
    path = folder / f"t.{suffix}"
    if suffix == "npy":
        array = np.stack([np.where(gone, np.nan, v.astype(float)) for v, gone in data.values()], 1)
        np.save(path, array)
        return path, {str(i): torch.from_numpy(v.copy()) for i, v in enumerate(array.T)}
    table = pa.table({name: pa.array(v, mask=gone) for name, (v, gone) in data.items()})
    (parquet.write_table if suffix == "parquet" else arrow_csv.write_csv)(table, path)
    tensors = {}
    for name, (v, gone) in data.items():
        single = v.dtype == np.float32 and suffix == "parquet"
        # Text holds as many digits of a float32 as are needed to tell it from others, and no type.
        wide = (
            v.astype(float)
            if v.dtype != np.float32 or single
            else np.array([float(str(e)) for e in v])
        )
        tensors[name] = torch.from_numpy(np.where(gone, np.nan, wide)).to(
            torch.float32 if single else torch.float64
        )
    return path, tensors


def run(*args):
    """Run the command in this process."""
    main(["estimate", *map(str, args)])


def lines(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def direct(name, x, y, **options):
    metric = METRICS[name](**options)
    metric.update(x, y)
    return metric


@ignore_cautions
class TestValues:
    @pytest.mark.parametrize("suffix", ["csv", "parquet", "npy"])
    @pytest.mark.parametrize("rows", [None, 300])
    def test_are_those_of_metrics_that_are_fed_with_the_columns(
        self, suffix, rows, tmp_path, monkeypatch
    ):
        if rows is not None:
            monkeypatch.setattr(columns, "ROWS", rows)
            monkeypatch.setattr(columns, "LEAST_ROWS", rows)
            monkeypatch.setattr(columns, "BLOCK", 10_000)
        path, tensors = write(tmp_path, suffix)
        names = list(tensors)
        out = tmp_path / "mi.csv"
        run(
            path,
            "--x",
            *names[:3],
            "--y",
            *names[3:],
            "--estimator",
            *METRICS,
            "--unit",
            "bits",
            "--out",
            out,
        )
        found = lines(out)
        expected = [(x, y, e) for x in names[:3] for y in names[3:] for e in METRICS]
        assert [(line["x"], line["y"], line["estimator"]) for line in found] == expected
        for line in found:
            x, y = tensors[line["x"]], tensors[line["y"]]
            metric = direct(line["estimator"], x, y, unit="bits")
            # A column of two values has two bins: the sums are the same, and taken in another
            # order.
            same = pytest.approx if line["y"] in ("flag", "4") else float
            assert float(line["mi"]) == same(metric.compute().item())
            assert line["unit"] == "bits"
            valid = int((x.isfinite() & y.isfinite()).sum())
            assert (int(line["n"]), int(line["ignored"])) == (valid, N - valid)
            if line["estimator"] in BINS:
                assert float(line["standard_error"]) == same(
                    standard_error(metric.counts(), unit="bits").item()
                )
                assert float(line["p_value"]) == p_value(grid.view(metric.table))
            else:
                assert (line["standard_error"], line["p_value"]) == ("", "")
        assert {int(line["ignored"]) > 0 for line in found} == {True, False}

    @pytest.mark.parametrize("name", METRICS)
    def test_one_estimator_alone_is_the_one_among_others(self, name, tmp_path):
        table = open_table(write(tmp_path, "parquet")[0])
        together = estimate(table, [("x", "y")], Settings(("kde", "knn", "bins", "quantile-bins")))
        (alone,) = estimate(table, [("x", "y")], Settings((name,)))
        assert alone in together

    @ignore_cautions
    def test_resolution_and_samples_reach_the_metrics(self, tmp_path):
        path, tensors = write(tmp_path, "parquet")
        found = estimate(
            open_table(path), [("x", "y")], Settings(tuple(METRICS), resolution=32, max_samples=500)
        )
        for line in found:
            options = {"max_samples": 500} if line.estimator == "knn" else {"resolution": 32}
            metric = METRICS[line.estimator](**options)
            metric.update(tensors["x"], tensors["y"])
            assert line.mi == metric.compute().item()
        assert found[-1].n == 500
        assert found[-1].ignored == found[0].ignored

    @pytest.mark.parametrize("name", ["bins", "quantile-bins"])
    def test_a_column_of_few_values_has_a_bin_for_each(self, name, tmp_path):
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 4, 2000), rng.integers(0, 3, 2000)
        table = np.zeros((4, 3), int)
        y = np.where(rng.random(2000) < 0.5, np.minimum(x, 2), y)
        np.add.at(table, (x, y), 1)
        # Uneven doses, of which bins of equal width would put three into one.
        np.save(tmp_path / "t.npy", np.stack([np.array([0, 1, 10, 1000])[x], y], 1))
        (found,) = estimate(open_table(tmp_path / "t.npy"), [("0", "1")], Settings((name,)))
        # Quantile bins of few values are these values too, but corrected as bins are.
        correction = {"bins": "none", "quantile-bins": "miller_madow"}[name]
        counts = torch.from_numpy(table)
        expected = mutual_information(counts, bias_correction=correction).item()
        assert found.mi == pytest.approx(expected, abs=1e-12)
        assert found.standard_error == pytest.approx(standard_error(counts).item(), abs=1e-12)

    @pytest.mark.parametrize("given", ["0", "all"])
    def test_every_sample_can_be_kept(self, given, tmp_path, capsys):
        path, _ = write(tmp_path, "parquet")
        run(path, "--x", "x", "--y", "half", "--estimator", "knn", "--max-samples", given)
        assert capsys.readouterr().out.split("\n")[1].split()[3] == str(N)

    def test_infinite_samples_are_ignored_and_counted(self, tmp_path):
        array = np.random.default_rng(0).standard_normal((100, 2))
        array[0, 0], array[1, 1], array[2] = np.inf, -np.inf, np.nan
        np.save(tmp_path / "t.npy", array)
        found = estimate(open_table(tmp_path / "t.npy"), [("0", "1")], Settings())
        assert {(line.n, line.ignored) for line in found} == {(97, 3)}

    def test_a_constant_has_none(self, tmp_path, capsys):
        np.save(tmp_path / "t.npy", np.stack([np.full(100, 3.0), np.arange(100.0)], 1))
        run(tmp_path / "t.npy", "--x", "0", "--y", "1", "--estimator", *METRICS)
        table = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert [row[5] for row in table[1:]] == ["0.000"] * 4
        assert table[1][6:] == ["0.000", "1.000"]


class TestTable:
    def test_is_aligned_and_names_the_unit(self, tmp_path, capsys):
        path, tensors = write(tmp_path, "parquet")
        run(path, "--x", "x", "half", "--y", "y", "--unit", "bits")
        out, err = capsys.readouterr()
        header, *rows = out.splitlines()
        assert header.split() == ["x", "y", "estimator", "N", "ignored", "MI", "(bits)", "±", "p"]
        assert len({len(line.rstrip()) for line in [header, *rows] if "bins" in line}) == 1
        assert [row.split()[:3] for row in rows] == [
            [x, "y", e] for x in ("x", "half") for e in ("bins", "kde", "knn")
        ]
        metric = direct("bins", tensors["x"], tensors["y"], unit="bits")
        error = standard_error(metric.counts(), unit="bits").item()
        # Two digits of the standard error, 0.02, are shown.
        assert rows[0].split()[5:] == [f"{metric.compute():.3f}", f"{error:.3f}", "<0.001"]
        assert rows[1].split()[6:] == ["-", "-"]
        assert err == ""

    def test_without_bins_there_is_no_error_bar(self, tmp_path, capsys):
        path, _ = write(tmp_path, "parquet")
        run(path, "--x", "x", "--y", "y", "--estimator", "knn")
        assert "±" not in capsys.readouterr().out

    def test_a_column_is_not_paired_with_itself(self, tmp_path, capsys):
        path, _ = write(tmp_path, "parquet")
        run(path, "--x", "x", "y", "x", "--y", "y", "--estimator", "bins")
        assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
            ["x", "y"]
        ]


class TestMatrix:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("COLUMNS", "100")
        return tmp_path

    def test_of_all_numeric_columns_is_complete_and_symmetric(self, folder, capsys):
        path, tensors = write(folder, "parquet")
        table = parquet.read_table(path).append_column("name", pa.array(["a"] * N))
        parquet.write_table(table, path)
        run(path, "--matrix", "--estimator", "bins", "quantile-bins", "--out", folder / "mi.csv")
        out, err = capsys.readouterr()
        names = list(tensors)
        found = {
            (line["x"], line["y"]): line
            for line in lines(folder / "mi.csv")
            if line["estimator"] == "bins"
        }
        assert set(found) == {(x, y) for i, x in enumerate(names) for y in names[i + 1 :]}
        first, second, rest = out.split("\n\n")
        for title, square in (("MI in nats, bins", first), ("MI in nats, quantile-bins", second)):
            head, header, *rows = square.splitlines()
            assert head == title
            assert header.split() == names
            # The diagonal is blank.
            cells = [row.split() for row in rows]
            assert [row[0] for row in cells] == names
            assert all(len(row) == len(names) for row in cells)
            full = [[*row[1 : i + 1], "", *row[i + 1 :]] for i, row in enumerate(cells)]
            assert full == [list(column) for column in zip(*full, strict=True)]
            decimals = len(full[0][1].split(".")[1])
            if title.endswith(", bins"):
                value = float(found["x", "y"]["mi"])
                assert full[0][1] == full[1][0] == f"{value:.{decimals}f}"
        numbers = [int(line["n"]) for line in found.values()]
        assert f"N: {min(numbers)} to {max(numbers)} rows; ignored: 0 to {N - min(numbers)}" in rest
        assert err.splitlines()[-2:] == [
            f"written to {folder / 'mi.csv'}",
            f"written to {folder / 'mi.png'}",
        ]
        assert (folder / "mi.png").read_bytes().startswith(b"\x89PNG")

    def test_of_some_columns(self, folder, capsys):
        path, _ = write(folder, "npy")
        run(path, "--matrix", "4", "0", "4", "--estimator", "bins")
        assert capsys.readouterr().out.splitlines()[1].split() == ["4", "0"]
        assert sorted(p.name for p in folder.iterdir()) == ["t.npy"]

    def test_that_is_too_wide_is_a_list_with_the_largest_first(self, folder, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "30")
        path, tensors = write(folder, "parquet")
        run(path, "--matrix", "--estimator", "quantile-bins", "bins")
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        pairs = len(tensors) * (len(tensors) - 1) // 2
        assert [row[2] for row in rows] == [
            "estimator",
            *["quantile-bins"] * pairs,
            *["bins"] * pairs,
        ]
        for part in (rows[1 : pairs + 1], rows[pairs + 1 :]):
            values = [float(row[5]) for row in part]
            assert values == sorted(values, reverse=True)
            assert values[0] > values[-1]

    def test_a_pair_without_samples_is_a_gap(self, folder, capsys):
        array = np.random.default_rng(0).standard_normal((50, 3))
        array[:, 2] = np.nan
        np.save(folder / "t.npy", array)
        run(folder / "t.npy", "--matrix", "--estimator", "bins", "--out", folder / "mi.csv")
        out, err = capsys.readouterr()
        assert out.splitlines()[4].split() == ["2", "nan", "nan"]
        assert "note: bins, 0 and 2; 1 and 2: no row holds a finite number in both\n" in err
        assert [line["mi"] for line in lines(folder / "mi.csv")][1:] == ["nan", "nan"]


def test_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["estimate", "--help"])
    text = capsys.readouterr().out
    for word in ("--matrix", *METRICS, "a line for each pair", "memory", "100000"):
        assert word.lower() in text.lower()
    assert max(map(len, text.splitlines())) <= 88


def test_the_bar_is_for_terminals_and_long_files_only(tmp_path, capsys, monkeypatch):
    path, _ = write(tmp_path, "npy")
    monkeypatch.setattr(columns, "LEAST_ROWS", 10)
    monkeypatch.setattr(columns, "ROWS", 10)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    monkeypatch.setattr("tqdm.std.time", lambda: 0)
    run(path, "--x", "0", "--y", "2", "--estimator", "bins")
    assert "reading" not in capsys.readouterr().err
    clock = iter(range(0, 10**6, 3))
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    run(path, "--x", "0", "--y", "2", "--estimator", "bins")
    assert "reading" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    run(path, "--x", "0", "--y", "2", "--estimator", "bins")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_importing_it_needs_no_extra():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['pyarrow', 'tqdm', 'lightning'])); "
        "import mi_metrics.commands.estimate; sys.exit('matplotlib.figure' in sys.modules)"
    )
    # torchmetrics imports matplotlib where it finds it; figures are what this package imports.
    before = "import sys, torchmetrics; sys.exit('matplotlib.figure' in sys.modules)"
    found, expected = (
        subprocess.run([sys.executable, "-c", c], capture_output=True).returncode
        for c in (code, before)
    )
    assert found == expected


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads the peak memory from procfs"
)
@pytest.mark.parametrize("suffix", ["csv", "parquet", "npy"])
def test_memory_does_not_grow_with_the_file(suffix, tmp_path):
    # Chunks are made small, so that the shorter file has many of them too.
    code = (
        "import sys, torch; torch.set_num_threads(1); "
        "from mi_metrics.commands import columns, estimate; "
        "columns.ROWS = columns.LEAST_ROWS = 1 << 15; columns.BLOCK = 1 << 17; "
        "estimate.main(sys.argv[1:]); print(next(line.split()[1] for line in "
        "open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    peaks, sizes = [], []
    for n in (400_000, 4_000_000):
        x, y = np.random.default_rng(0).standard_normal((2, n))
        gone = np.zeros(n, bool)
        path, tensors = write(tmp_path, suffix, {"x": (x, gone), "y": (x + y, gone)})
        sizes.append(path.stat().st_size / 2**20)
        x, y = tensors
        options = ["--x", x, "--y", y, "--estimator", "bins", "kde"]
        command = [sys.executable, "-c", code, "estimate", str(path), *options]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(result.stdout.split()[-1]) / 1024)
    assert sizes[1] - sizes[0] > 50
    assert peaks[1] - peaks[0] < 20


def test_a_matrix_of_many_columns_reads_each_chunk_once(tmp_path, monkeypatch):
    path, _ = write(tmp_path, "npy")
    monkeypatch.setattr(columns, "ROWS", 500)
    monkeypatch.setattr(columns, "LEAST_ROWS", 500)
    read = []
    original = columns._NPY._batches

    def counting(self, names, rows):
        for chunk in original(self, names, rows):
            read.append(tuple(names))
            yield chunk

    monkeypatch.setattr(columns._NPY, "_batches", counting)
    found = estimate(open_table(path), [("0", "1"), ("0", "2"), ("1", "2")], Settings(("bins",)))
    assert read == [("0", "1", "2")] * math.ceil(N / 500)
    assert min(line.n for line in found) > 0
