"""What `mi-metrics estimate` writes: `--out`, its order, and that a file is whole or not there."""

import contextlib
import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mi_metrics.commands import estimate_output, table
from mi_metrics.commands.estimate_lines import Estimate, by_value
from tests.commands.test_estimate import run
from tests.processes import LIMIT, interruptible

pytest.importorskip("tqdm")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

COLUMNS = [
    *("x", "y", "estimator", "n", "ignored", "mi", "unit"),
    *("standard_error", "lower", "upper", "p_value", "cautions"),
]


def read(path):
    """Return the rows of any of the three kinds of file."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    x, y, z = rng.standard_normal((3, 300))
    y = 0.6 * x + 0.8 * y
    names = ["=1+1", "-weak", "target", "@home"]
    columns = [x, z, y, x + z]
    parquet.write_table(pa.table(dict(zip(names, columns, strict=True))), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_every_kind_of_file_has_the_same_lines(path, suffix, capsys):
    out = path.with_name(f"mi{suffix}")
    run(path, "--y", "target", "--permutations", 19, "--out", out)
    printed, err = capsys.readouterr()
    rows = read(out)
    assert list(rows[0]) == COLUMNS
    # The largest first, as printed.
    assert [row["x"].lstrip("'") for row in rows[::3]] == ["=1+1", "@home", "-weak"]
    assert [row["x"] for row in rows[::3]] == [
        text.split()[0] if suffix != ".csv" else "'" + text.split()[0]
        for text in printed.splitlines()[1::3]
    ]
    for row in rows:
        assert row["y"] == "target"
        numbers = [float(row[k]) for k in ("lower", "mi", "upper", "standard_error", "p_value")]
        assert all(map(math.isfinite, numbers))
        assert int(row["n"]) == 300
        assert row["unit"] == "nats"
    assert err.splitlines()[-1] == f"written to {out}"
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([out.name, "t.parquet"])


def test_values_that_are_not_there(tmp_path):
    rows = [
        Estimate("a", "b", "kde", 30, 0, math.nan, cautions=("too few",)),
        Estimate("a", "b", "bins", 30, 0, 0.5, 0.1, 0.3, 0.7, 0.01, ("rising", "copies")),
    ]
    for suffix in (".csv", ".json", ".parquet"):
        out = tmp_path / f"mi{suffix}"
        list(estimate_output.write(rows, "bits", out, "t", matrix=False))
        first, second = read(out)
        assert first["mi"] in ("nan", None) or math.isnan(first["mi"])
        assert first["p_value"] in ("", None)
        cautions = "rising; copies" if suffix == ".csv" else ["rising", "copies"]
        assert second["cautions"] == cautions


def test_names_that_a_spreadsheet_would_run_are_quoted_in_csv_alone(path):
    for suffix, expected in ((".csv", "'=1+1"), (".json", "=1+1"), (".parquet", "=1+1")):
        out = path.with_name(f"mi{suffix}")
        run(path, "--x", "=1+1", "--y", "target", "--permutations", 0, "--out", out)
        assert {row["x"] for row in read(out)} == {expected}


def test_top_keeps_pairs(path, capsys):
    run(path, "--y", "target", "--top", 1, "--permutations", 0, "--out", path.with_name("mi.csv"))
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["=1+1"] * 3
    assert len(read(path.with_name("mi.csv"))) == 3
    run(path, "--matrix", "--top", 2, "--estimator", "bins")
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [["=1+1", "@home"], ["-weak", "@home"]]


def test_the_order_is_that_of_the_first_estimator_with_a_value():
    lines = [
        Estimate("a", "y", "kde", 9, 0, math.nan),
        Estimate("a", "y", "bins", 9, 0, 0.2),
        Estimate("b", "y", "kde", 9, 0, 0.5),
        Estimate("b", "y", "bins", 9, 0, 0.1),
        Estimate("c", "y", "kde", 0, 9, math.nan),
        Estimate("c", "y", "bins", 0, 9, math.nan),
    ]
    assert [e.x for e in by_value(lines)] == ["b", "b", "a", "a", "c", "c"]
    assert [e.x for e in by_value(lines, 1)] == ["b", "b"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("full")])
@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_what_is_cut_off_leaves_the_old_file(error, suffix, tmp_path, monkeypatch):
    out = tmp_path / f"mi{suffix}"
    rows = [Estimate("a", "b", "bins", 9, 0, 0.5)]
    list(estimate_output.write(rows, "nats", out, "t", matrix=False))
    before = out.read_bytes()
    replace = type(out).replace

    def interrupted(self, target):
        raise error

    monkeypatch.setattr(type(out), "replace", interrupted)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        list(estimate_output.write(rows * 2, "nats", out, "t", matrix=False))
    monkeypatch.setattr(type(out), "replace", replace)
    assert out.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


# The command, which tells when it begins with a pair, or to wait for its workers.
TELLING = """
import sys
from mi_metrics import cli
from mi_metrics.commands import estimators, workers

def telling(call):
    def told(*args):
        print("started", flush=True)
        return call(*args)
    return told

estimators.bins, workers.wait = telling(estimators.bins), telling(workers.wait)
sys.exit(cli.main())
"""


def gone(group):
    """Whether the processes of a group end: what Python itself starts does with some delay."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def refused(*args):
    with pytest.raises(SystemExit) as caught:
        run(*args)
    return caught.value.code


class TestBadInput:
    def test_a_pipe_is_refused(self, tmp_path, capsys):
        os.mkfifo(tmp_path / "t.csv")
        assert refused(tmp_path / "t.csv", "--matrix") == 1
        assert "is a pipe or a device, and the file may be read more" in capsys.readouterr().err

    @pytest.mark.parametrize("suffix", ["csv", "npy", "parquet"])
    def test_a_file_that_changes_is_refused(self, suffix, tmp_path, monkeypatch, capsys):
        path = tmp_path / f"t.{suffix}"
        array = np.random.default_rng(0).standard_normal((100, 2))
        if suffix == "csv":
            np.savetxt(path, array, delimiter=",", header="a,b", comments="")
        elif suffix == "npy":
            np.save(path, array)
        else:
            parquet.write_table(pa.table({"a": array[:, 0], "b": array[:, 1]}), path)
        original = table.Table._state
        states = iter(range(100))

        def growing(self):
            size, _ = original(self)
            return size, next(states)

        monkeypatch.setattr(table.Table, "_state", growing)
        if suffix == "parquet":
            from mi_metrics.commands.arrow_table import ParquetTable

            monkeypatch.setattr(ParquetTable, "_state", growing)
        assert refused(path, "--matrix") == 1
        err = capsys.readouterr().err
        assert f"{path} was changed while it was read. Repeat" in err
        assert err.count("\n") == 1

    def test_all_missing(self, tmp_path, capsys):
        np.save(tmp_path / "t.npy", np.full((100, 2), np.nan))
        assert refused(tmp_path / "t.npy", "--matrix") == 1
        assert "has no row in which both columns" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "Can't read .*: Empty CSV file"),
            ("a,b\n", "has fewer than 4 rows"),
            ("a,b\n1,2\n", "has fewer than 4 rows"),
        ],
    )
    def test_no_rows(self, content, message, tmp_path, capsys):
        (tmp_path / "t.csv").write_text(content)
        assert refused(tmp_path / "t.csv", "--y", "b") == 1
        assert re.search(message, capsys.readouterr().err)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--y", "a", "--condition", "a"], "--condition is a column of its own"),
            (["--y", "no"], "has no column 'no'"),
            (["--y", "a", "--discrete", "no"], "has no column 'no'"),
            (["--y", "a", "--delimiter", "ab"], "expected one sign, or tab or blank"),
            (["--y", "a", "--standardize", "yes"], "expected one of true, false, rank, joint"),
            (["--y", "a", "--jobs", "0"], "expected a whole number of at least 1"),
        ],
    )
    def test_options(self, options, message, tmp_path, capsys):
        (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n3,4\n" * 10)
        assert refused(tmp_path / "t.csv", *options) in (1, 2)
        assert message in capsys.readouterr().err

    @pytest.mark.skipif(os.name != "posix", reason="signals")
    @pytest.mark.slow
    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_ctrl_c_ends_it_in_one_line_and_leaves_nothing(self, jobs, tmp_path):
        np.save(tmp_path / "t.npy", np.random.default_rng(0).standard_normal((20_000, 30)))
        command = [sys.executable, "-c", TELLING, "estimate", str(tmp_path / "t.npy")]
        command += ["--matrix", "--permutations", "999", "--jobs", jobs]
        command += ["--out", str(tmp_path / "mi.csv")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(interruptible(command), start_new_session=True, **pipes)
        try:
            # It takes hours: from its first word on it is interrupted in the midst.
            assert process.stdout.readline() == b"started\n"
            os.killpg(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 130
        assert err.decode() == "mi-metrics: interrupted\n"
        assert [p.name for p in tmp_path.iterdir()] == ["t.npy"]
        assert gone(process.pid)
