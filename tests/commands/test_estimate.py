import csv
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from mi_metrics import BinnedConditionalMutualInformation, cli
from mi_metrics.commands import arrow_table, estimate_pairs, estimators, table
from mi_metrics.commands.array_table import NPYTable
from mi_metrics.commands.columns import open_table
from mi_metrics.commands.estimate import main
from mi_metrics.commands.estimate_options import parser
from mi_metrics.commands.estimate_run import find
from mi_metrics.functional import mutual_information, standard_error
from mi_metrics.settings import ESTIMATORS
from tests.cautions import ignore_cautions

pytest.importorskip("tqdm")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
arrow_csv = pytest.importorskip("pyarrow.csv")

N = 2000
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
        "sum": (x + y + z, np.zeros(N, bool)),
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


def found_in(path, *args):
    """Return the lines that the command finds."""
    given = parser().parse_args([str(path), *map(str, args)])
    return find(open_table(path), given).found


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
            monkeypatch.setattr(table, "ROWS", rows)
            monkeypatch.setattr(table, "LEAST_ROWS", rows)
            monkeypatch.setattr(arrow_table, "BLOCK", 10_000)
        path, tensors = write(tmp_path, suffix)
        names = list(tensors)
        out = tmp_path / "mi.csv"
        options = ["--unit", "bits", "--permutations", 0, "--out", out]
        run(path, "--x", *names[:3], "--y", *names[3:], *options)
        found = lines(out)
        expected = [(x, y, e) for x in names[:3] for y in names[3:] for e in METRICS]
        assert [(line["x"], line["y"], line["estimator"]) for line in found] == expected
        for line in found:
            x, y = tensors[line["x"]], tensors[line["y"]]
            metric = direct(line["estimator"], x, y, unit="bits")
            assert float(line["mi"]) == metric.compute().item()
            assert line["unit"] == "bits"
            valid = int((x.isfinite() & y.isfinite()).sum())
            assert (int(line["n"]), int(line["ignored"])) == (valid, N - valid)
            if line["estimator"] != "bins":
                assert (line["standard_error"], line["lower"], line["p_value"]) == ("", "", "")
                continue
            error = standard_error(metric.counts(), unit="bits").item()
            assert float(line["standard_error"]) == error
            assert float(line["upper"]) - float(line["lower"]) == pytest.approx(3.92 * error, 1e-4)
            assert float(line["p_value"]) == metric.p_value(method="g").item()
        assert {int(line["ignored"]) > 0 for line in found} == {True, False}

    @pytest.mark.parametrize("name", METRICS)
    def test_one_estimator_alone_is_the_one_among_others(self, name, tmp_path):
        path = write(tmp_path, "parquet")[0]
        options = ["--x", "x", "--y", "y", "--permutations", 3, "--estimator"]
        together = found_in(path, *options, "kde", "knn", "bins")
        (alone,) = found_in(path, *options, name)
        assert alone in together

    def test_the_former_name_of_an_estimator_answers_as_the_present_one(self, tmp_path):
        options = ["--x", "x", "--y", "y", "--permutations", 3, "--estimator"]
        path = write(tmp_path, "parquet")[0]
        (bins, former) = found_in(path, *options, "bins", "quantile-bins")
        assert former == bins._replace(estimator="quantile-bins")

    def test_resolution_and_samples_reach_the_estimators(self, tmp_path):
        path, tensors = write(tmp_path, "parquet")
        options = ["--x", "x", "--y", "y", "--permutations", 0, "--resolution", 32]
        found = found_in(path, *options, "--max-samples", 500)
        for line in found[:2]:
            metric = direct(line.estimator, tensors["x"], tensors["y"], resolution=32)
            assert line.mi == metric.compute().item()
        assert found[-1].n == 500
        assert found[-1].ignored == found[0].ignored
        whole = found_in(path, *options)[-1]
        # A fifth of the rows is as good as all, but for chance.
        assert found[-1].mi == pytest.approx(whole.mi, abs=0.15)

    def test_standardize_reaches_the_neighbours(self, tmp_path):
        path, tensors = write(tmp_path, "parquet")
        options = ["--x", "x", "--y", "half", "--permutations", 0, "--estimator", "knn"]
        for given, value in (("rank", "rank"), ("false", False), ("joint", "joint")):
            (line,) = found_in(path, *options, "--standardize", given)
            metric = direct("knn", tensors["x"], tensors["half"], standardize=value)
            assert line.mi == metric.compute().item()

    def test_a_column_of_few_values_has_a_bin_for_each(self, tmp_path):
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 4, 2000), rng.integers(0, 3, 2000)
        counts = np.zeros((4, 3), int)
        y = np.where(rng.random(2000) < 0.5, np.minimum(x, 2), y)
        np.add.at(counts, (x, y), 1)
        # Uneven doses, of which bins of equal width would put three into one.
        np.save(tmp_path / "t.npy", np.stack([np.array([0, 1, 10, 1000])[x], y], 1))
        (found,) = found_in(
            tmp_path / "t.npy", "--x", "0", "--y", "1", "--estimator", "bins", "--permutations", 0
        )
        counts = torch.from_numpy(counts)
        assert found.mi == pytest.approx(mutual_information(counts).item(), abs=1e-12)
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
        found = found_in(tmp_path / "t.npy", "--x", "0", "--y", "1", "--permutations", 0)
        assert {(line.n, line.ignored) for line in found} == {(97, 3)}

    def test_a_constant_has_none(self, tmp_path, capsys):
        np.save(tmp_path / "t.npy", np.stack([np.full(100, 3.0), np.arange(100.0)], 1))
        for permutations in (0, 3):
            run(tmp_path / "t.npy", "--x", "0", "--y", "1", "--permutations", permutations)
            rows = [line.split() for line in capsys.readouterr().out.splitlines()]
            assert [row[5] for row in rows[1:]] == ["0.000"] * 3
            assert rows[1][6:] == ["0.000", "to", "0.000", "1.000"]
        assert all(row[6:] == rows[1][6:] for row in rows[1:])


class TestTable:
    def test_is_aligned_and_names_the_unit(self, tmp_path, capsys):
        path, tensors = write(tmp_path, "parquet")
        run(path, "--x", "x", "half", "--y", "y", "--unit", "bits", "--permutations", 0)
        out, err = capsys.readouterr()
        header, *rows = out.splitlines()
        names = ["x", "y", "estimator", "N", "ignored", "MI", "(bits)", "95", "%", "interval", "p"]
        assert header.split() == names
        assert len({len(line.rstrip()) for line in [header, *rows] if "bins" in line}) == 1
        assert [row.split()[:3] for row in rows] == [
            [x, "y", e] for x in ("x", "half") for e in ("bins", "kde", "knn")
        ]
        metric = direct("bins", tensors["x"], tensors["y"], unit="bits")
        mi, error = metric.compute().item(), standard_error(metric.counts(), unit="bits").item()
        # Two digits of the standard error, 0.02, are shown.
        ends = f"{mi - 1.95996 * error:.3f} to {mi + 1.95996 * error:.3f}"
        assert " ".join(rows[0].split()[5:]) == f"{mi:.3f} {ends} <0.001"
        assert rows[1].split()[6:] == ["-", "-"]
        assert err == ""

    def test_every_estimator_has_an_interval_and_a_p_value(self, tmp_path):
        path, _ = write(tmp_path, "parquet")
        for line in found_in(path, "--x", "x", "--y", "y", "--permutations", 19):
            assert line.lower < line.mi < line.upper
            assert line.lower < 0.2231 < line.upper
            assert line.p_value == 0.05

    def test_without_resamples_only_bins_have_them(self, tmp_path, capsys):
        path, _ = write(tmp_path, "parquet")
        run(path, "--x", "x", "--y", "y", "--estimator", "knn", "--permutations", 0)
        assert "interval" not in capsys.readouterr().out

    def test_a_column_is_not_paired_with_itself(self, tmp_path, capsys):
        path, _ = write(tmp_path, "parquet")
        run(path, "--x", "x", "y", "x", "--y", "y", "--estimator", "bins", "--permutations", 0)
        assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
            ["x", "y"]
        ]


@ignore_cautions
class TestPValue:
    def columns(self):
        rng = np.random.default_rng(0)
        x, noise = rng.standard_normal((2, 400))
        return {
            "x": x,
            "weak": 0.1 * x + noise,
            "count": rng.poisson(np.exp(0.2 * x) * 4).astype(float),
            "rare": (np.arange(400) % 50 == 0).astype(float),
            "label": rng.integers(0, 11, 400).astype(float),
            "class": (np.arange(400) % 3).astype(float),
        }

    @pytest.mark.parametrize("permutations", [0, 99])
    @pytest.mark.parametrize("discrete", [(), ("label", "rare")])
    def test_of_bins_is_that_of_the_metric(self, discrete, permutations, tmp_path):
        columns = self.columns()
        np.savez(tmp_path / "t.npz", **columns)
        options = ["--matrix", *columns, "--estimator", "bins", "--permutations", permutations]
        options += ["--discrete", *discrete] if discrete else []
        given = {"method": "permutation", "num_permutations": 99} if permutations else {}
        found = found_in(tmp_path / "t.npz", *options)
        assert len(found) == 15
        blank = 0
        for line in found:
            kinds = tuple("values" if name in discrete else "auto" for name in (line.x, line.y))
            x, y = (torch.from_numpy(columns[name]) for name in (line.x, line.y))
            metric = direct("bins", x, y, binning=kinds)
            if line.p_value is None:
                blank += 1
                continue
            p = metric.p_value(**(given or {"method": "g"})).item()
            assert line.p_value == p
        # Eight rare samples: 5 are not expected in each of three bins or more.
        assert blank == (0 if permutations else 5)

    def test_given_a_class_is_that_of_the_metric(self, tmp_path):
        columns = self.columns()
        np.savez(tmp_path / "t.npz", **columns)
        x, y, z = (torch.from_numpy(columns[name]) for name in ("weak", "count", "class"))
        metric = BinnedConditionalMutualInformation(num_conditions=3, resolution=512)
        metric.update(x, y, z.long())
        options = ["--x", "weak", "--y", "count", "--condition", "class", "--estimator", "bins"]
        for permutations, given in ((99, {"num_permutations": 99}), (0, {"method": "g"})):
            (line,) = found_in(tmp_path / "t.npz", *options, "--permutations", permutations)
            assert line.p_value == metric.p_value(**given).item()

    def test_of_more_rows_than_can_be_drawn_again_is_that_of_g(self):
        metric = direct("bins", *torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)))
        cells = 2 + 2 * metric.resolution
        state = torch.cat([metric.table[:, :cells], metric.table[:, cells:] << 20], 1)
        given = estimators.Options(permutations=19)
        value = estimators.bins(state, (False, False), (False, False), given)
        assert (value.n, value.p) == (4000 << 20, 0)
        assert estimators.densities(state, given).p is None


class TestMatrix:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("COLUMNS", "100")
        return tmp_path

    def test_of_all_numeric_columns_is_complete_and_symmetric(self, folder, capsys):
        path, tensors = write(folder, "parquet")
        parts = parquet.read_table(path).append_column("parts", pa.array([[1]] * N))
        parquet.write_table(parts, path)
        run(path, "--matrix", "--estimator", "bins", "kde", "--out", folder / "mi.csv")
        out, err = capsys.readouterr()
        names = list(tensors)
        found = {
            (line["x"], line["y"]): line
            for line in lines(folder / "mi.csv")
            if line["estimator"] == "bins"
        }
        assert set(found) == {(x, y) for i, x in enumerate(names) for y in names[i + 1 :]}
        first, second, rest = out.split("\n\n")
        for title, square in (("MI in nats, bins", first), ("MI in nats, kde", second)):
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
        run(path, "--matrix", "--estimator", "kde", "bins")
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        pairs = len(tensors) * (len(tensors) - 1) // 2
        assert [row[2] for row in rows] == ["estimator", *["kde", "bins"] * pairs]
        values = [float(row[5]) for row in rows[1::2]]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[-1]

    def test_a_pair_without_samples_is_a_gap(self, folder, capsys):
        array = np.random.default_rng(0).standard_normal((50, 3))
        array[:, 2] = np.nan
        np.save(folder / "t.npy", array)
        run(folder / "t.npy", "--matrix", "--estimator", "bins", "--out", folder / "mi.csv")
        out, err = capsys.readouterr()
        assert out.splitlines()[4].split() == ["2", "-", "-"]
        assert "note: 2: all values are missing\n" in err
        assert "note: bins, 0 and 2; 1 and 2: no row holds a value in both\n" in err
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
    monkeypatch.setattr(table, "LEAST_ROWS", 10)
    monkeypatch.setattr(table, "ROWS", 10)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    monkeypatch.setattr("tqdm.std.time", lambda: 0)
    run(path, "--x", "0", "--y", "2", "--estimator", "bins", "--permutations", 0)
    assert "reading" not in capsys.readouterr().err
    clock = iter(range(0, 10**6, 3))
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    run(path, "--x", "0", "--y", "2", "--estimator", "bins", "--permutations", 0)
    assert "reading" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    run(path, "--x", "0", "--y", "2", "--estimator", "bins", "--permutations", 0)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_it_imports_no_more_than_it_needs():
    absent = ["pyarrow", "tqdm", "lightning", "torchmetrics", "matplotlib"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r})); "
        "import mi_metrics.commands.estimate; assert 'torch' not in sys.modules; "
        "import mi_metrics.commands.estimate_run"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads the peak memory from procfs"
)
@pytest.mark.parametrize("suffix", ["csv", "parquet", "npy"])
def test_memory_does_not_grow_with_the_file(suffix, tmp_path):
    # Chunks are made small, so that the shorter file too has enough to fill what allocators keep.
    code = (
        "import sys, torch; torch.set_num_threads(1); "
        "from mi_metrics.commands import arrow_table, estimate, table; "
        "table.ROWS = table.LEAST_ROWS = 1 << 15; arrow_table.BLOCK = 1 << 17; "
        "estimate.main(sys.argv[1:]); print(next(line.split()[1] for line in "
        "open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    peaks, sizes = [], []
    for n in (1_500_000, 5_000_000):
        x, y = np.random.default_rng(0).standard_normal((2, n))
        gone = np.zeros(n, bool)
        path, tensors = write(tmp_path, suffix, {"x": (x, gone), "y": (x + y, gone)})
        sizes.append(path.stat().st_size / 2**20)
        x, y = tensors
        options = ["--x", x, "--y", y, "--permutations", "0"]
        command = [sys.executable, "-c", code, "estimate", str(path), *options]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(result.stdout.split()[-1]) / 1024)
    assert sizes[1] - sizes[0] > 50
    # What allocators keep depends on the threads of pyarrow, which read ahead.
    assert peaks[1] - peaks[0] < 0.4 * (sizes[1] - sizes[0])


def counting(monkeypatch):
    """Return a list of the columns of each batch that is read."""
    read = []
    original = NPYTable._batches

    def batches(self, names, share, rows):
        for batch in original(self, names, share, rows):
            read.append(tuple(names))
            yield batch

    monkeypatch.setattr(NPYTable, "_batches", batches)
    return read


def test_a_matrix_of_many_columns_reads_each_chunk_once(tmp_path, monkeypatch):
    path, _ = write(tmp_path, "npy")
    monkeypatch.setattr(table, "ROWS", 500)
    monkeypatch.setattr(table, "LEAST_ROWS", 500)
    read = counting(monkeypatch)
    found = found_in(path, "--matrix", "0", "1", "2", "--estimator", "bins")
    assert read == [("0", "1", "2")] * math.ceil(N / 500)
    assert min(line.n for line in found) > 0


class TestMemory:
    @pytest.fixture
    def path(self, tmp_path):
        return write(tmp_path, "npy")[0]

    def test_pairs_that_do_not_fit_together_are_read_one_after_the_other(self, path, monkeypatch):
        whole = found_in(path, "--matrix")
        read = counting(monkeypatch)
        # Rows, and the grids of three pairs: 2 * 8 * 257^2 bytes each.
        rows = 5 * 16 * N
        monkeypatch.setattr(estimate_pairs, "free_memory", lambda: 2 * (rows + 3_200_000))
        assert found_in(path, "--matrix") == whole
        assert len(read) == 4

    def test_too_many_readings_are_refused_with_the_arithmetic(self, path, monkeypatch, capsys):
        monkeypatch.setattr(estimate_pairs, "free_memory", lambda: 2 << 20)
        with pytest.raises(SystemExit, match="1"):
            run(path, "--matrix")
        err = capsys.readouterr().err
        assert "10 pairs of 5 columns, 1 MiB each" in err
        assert "where 0.00098 GiB are free" in err
        assert err.count("\n") == 1

    def test_few_rows_need_few_cells(self, tmp_path, monkeypatch):
        rng = np.random.default_rng(0)
        np.save(tmp_path / "t.npy", rng.standard_normal((63, 4)))
        whole = found_in(tmp_path / "t.npy", "--matrix")
        monkeypatch.setattr(estimate_pairs, "free_memory", lambda: 2 * (6 * 2 * 8 * 64**2 + 5000))
        assert found_in(tmp_path / "t.npy", "--matrix") == whole
        x, y = torch.from_numpy(np.load(tmp_path / "t.npy").T[:2].copy())
        assert whole[0].mi == direct("bins", x, y).compute().item()

    def test_a_forgotten_transpose_is_refused(self, tmp_path, capsys):
        np.save(tmp_path / "t.npy", np.zeros((2, 333)))
        with pytest.raises(SystemExit, match="1"):
            run(tmp_path / "t.npy", "--matrix")
        err = capsys.readouterr().err
        assert "has fewer than 4 rows" in err
        assert "transpose it first" in err

    def test_more_columns_than_rows_are_noted(self, tmp_path, capsys):
        np.save(tmp_path / "t.npy", np.random.default_rng(0).standard_normal((5, 6)))
        run(tmp_path / "t.npy", "--matrix", "--estimator", "bins")
        assert "note: t.npy has more columns than rows" in capsys.readouterr().err
