"""What `mi-metrics estimate` refuses, how it writes odd names, and how it ends."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mi_metrics import cli
from mi_metrics.commands import arrow_table
from tests.commands.test_estimate import lines, run

pytest.importorskip("tqdm")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def refused(*args):
    """Return the status of a run that ends early."""
    with pytest.raises(SystemExit) as caught:
        run(*args)
    return caught.value.code


class TestRefusals:
    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "t.csv").write_text("dose,age,name,dose2,void\n1,2,a,3,\n2,3,b,,\n")
        return tmp_path / "t.csv"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                [],
                r"Give --y, or --matrix\. Columns of .*: dose \(int64\), age \(int64\), "
                r"name \(string\)",
            ),
            (["--x", "dose"], "--x needs --y"),
            (
                ["--x", "dose", "--y", "age", "--matrix"],
                r"Give --y .* or --matrix, not both",
            ),
            (["--x", "dose", "--y", "dose"], "Name different columns"),
            (
                ["--matrix", "dose"],
                "A matrix needs at least two columns .* gives 1",
            ),
            (
                ["--matrix", "--out", "."],
                "Expected --out to be a file that ends in .csv or",
            ),
            (
                ["--matrix", "--out", "mi.png"],
                "Expected --out to be a file that ends in .*, but got mi.png",
            ),
            (["--matrix", "--out", "nowhere/mi.csv"], "Can't write to the folder nowhere of --out"),
            (["--matrix", "--out", "t.csv"], "--out would overwrite"),
        ],
    )
    def test_wrong_options_are_one_line(self, path, options, message, capsys, monkeypatch):
        monkeypatch.chdir(path.parent)
        before = path.read_bytes()
        assert refused("t.csv", *options) == 2
        self.check(capsys, message)
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        ("file", "options", "message"),
        [
            (
                "t.csv",
                ["--x", "does", "--y", "age"],
                r"has no column 'does'\. Did you mean 'dose' or 'dose2'\? Its columns: 'dose', "
                r"'age',",
            ),
            ("no.csv", ["--matrix"], "There is no file no.csv"),
            (
                "alone.csv",
                ["--matrix"],
                r"has one column, 'a', .* pass it as --delimiter",
            ),
            ("ids.csv", ["--y", "a"], r"no other column .* Left out: b holds a text of its own"),
            ("short.csv", ["--matrix"], "has fewer than 4 rows"),
            ("empty.csv", ["--matrix"], "Can't read empty.csv: Empty CSV file"),
        ],
    )
    def test_what_the_file_lacks_is_one_line(
        self, path, file, options, message, capsys, monkeypatch
    ):
        monkeypatch.chdir(path.parent)
        (path.parent / "alone.csv").write_text("a\n1\n")
        (path.parent / "ids.csv").write_text("a,b\n1,x\n2,y\n3,z\n4,u\n")
        (path.parent / "short.csv").write_text("a,b\n1,2\n2,3")
        (path.parent / "empty.csv").write_text("")
        assert refused(file, *options) == 1
        self.check(capsys, message)

    def check(self, capsys, message):
        out, err = capsys.readouterr()
        assert err.startswith("mi-metrics: error: ")
        assert err.count("\n") == 1
        assert re.search(message, err)
        assert out == ""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--unit", "hartleys"], "invalid choice: 'hartleys'"),
            (["--estimator", "magic"], "invalid choice: 'magic'"),
            (["--max-samples", "3"], "a number of at least 4, or all, but got '3'"),
            (["--resolution", "2"], "a number from 16 to 8192, but got '2'"),
        ],
    )
    def test_options_of_no_file_are_refused_by_the_parser(self, path, options, message, capsys):
        assert refused(path, "--matrix", *options) == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a,b\n", "has no row in which both columns|has fewer than"),
            ("a,b\n1,\n,2\ninf,3\n", "has no row in which both columns|has fewer than"),
            ("a,b\n" + "1,2\n" * 100 + "1\n", "Can't read .*Expected 2 columns"),
            (
                "a,b\n" + "1,2\n" * 100 + "1,x\n",
                "Column 'b' of .* holds numbers and 'x': .* --missing",
            ),
        ],
    )
    def test_what_only_reading_shows_is_one_line(self, path, content, message, capsys, monkeypatch):
        monkeypatch.setattr(arrow_table, "BLOCK", 100)
        path.write_text(content)
        assert refused(path, "--x", "a", "--y", "b") == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert re.search(message, err)

    def test_a_result_that_cant_be_written_is_printed_all_the_same(self, path, capsys):
        path.write_text("a,b\n" + "1,2\n2,3\n" * 4)
        (path.parent / "mi.png").mkdir()
        assert (
            refused(path, "--matrix", "--estimator", "bins", "--out", path.parent / "mi.csv") == 1
        )
        out, err = capsys.readouterr()
        assert out.startswith("MI in nats, bins\n")
        assert "mi-metrics: error: Can't write the result: " in err.splitlines()[-1]

    @pytest.mark.parametrize("missing", ["tqdm", "pyarrow", "matplotlib"])
    def test_a_missing_extra_is_named(self, path, missing, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, missing, None)
        path.write_text("a,b\n" + "1,2\n2,3\n" * 4)
        assert (
            cli.main(["estimate", str(path), "--matrix", "--out", str(path.parent / "mi.csv")]) == 1
        )
        err = capsys.readouterr().err
        assert 'pip install "mi-metrics[' in err
        assert err.count("\n") == 1


class TestNames:
    """Columns may have any name; the table and the messages keep their lines."""

    NAMES = ("a\nb", "", "\x1b[31m$r$", "x" * 30 + "_first_" + "y" * 30)
    SHOWN = (r"a\nb", "''", r"\x1b[31m$r$", "x" * 24 + "…" + "y" * 15)

    @pytest.fixture
    def path(self, tmp_path, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        values = np.random.default_rng(0).standard_normal((4, 40))
        parquet.write_table(
            pa.table(dict(zip(self.NAMES, values, strict=True))), tmp_path / "t.parquet"
        )
        return tmp_path / "t.parquet"

    def test_in_the_table(self, path, capsys):
        options = ["--estimator", "bins", "--permutations", 0]
        run(path, "--x", *self.NAMES[:1], "--y", *self.NAMES[1:], *options)
        out, err = capsys.readouterr()
        assert [line.split()[:2] for line in out.splitlines()[1:]] == [
            [self.SHOWN[0], name] for name in self.SHOWN[1:]
        ]
        for note in err.splitlines():
            assert note.startswith(f"note: bins, {self.SHOWN[0]} and ")

    def test_in_the_matrix_its_figure_and_the_csv(self, path, capsys):
        out = path.parent / "mi.csv"
        run(path, "--matrix", "--estimator", "bins", "--out", out)
        printed = capsys.readouterr().out.splitlines()
        assert printed[1].split() == list(self.SHOWN)
        assert [line.split()[0] for line in printed[2:6]] == list(self.SHOWN)
        assert [line["y"] for line in lines(out)[:3]] == list(self.NAMES[1:])
        assert out.with_suffix(".png").stat().st_size > 0

    def test_in_messages(self, path, capsys):
        assert refused(path, "--x", "r", "--y", "b\n") == 1
        assert capsys.readouterr().err.endswith(
            f" has no column 'r'. Its columns: 'a\\nb', '', '\\x1b[31m$r$' and '{self.SHOWN[3]}'.\n"
        )


class TestStreams:
    """What can happen to the process and its output, for every command."""

    @pytest.fixture
    def command(self, tmp_path):
        np.save(tmp_path / "t.npy", np.random.default_rng(0).standard_normal((100, 2)))
        return [
            sys.executable,
            "-m",
            "mi_metrics.cli",
            "estimate",
            str(tmp_path / "t.npy"),
            "--matrix",
        ]

    @pytest.mark.parametrize(
        ("error", "status", "message"),
        [
            (KeyboardInterrupt(), 130, "mi-metrics: interrupted\n"),
            (BrokenPipeError(), 141, ""),
            (
                OSError(errno.ENOSPC, "No space left"),
                1,
                "mi-metrics: error: Can't write the output: No space left.\n",
            ),
        ],
    )
    def test_what_ends_a_command_is_one_line(self, error, status, message, monkeypatch, capsys):
        def main(args):
            raise error

        monkeypatch.setattr("mi_metrics.commands.study.main", main)
        monkeypatch.setattr(cli, "_discard_output", lambda: None)
        try:
            found = cli.main(["study"])
        except SystemExit as end:
            found = end.code
        assert found == status
        assert capsys.readouterr().err == message

    @pytest.mark.parametrize(
        "error",
        [OSError(errno.ENOSPC, "full", "file"), ConnectionRefusedError(errno.ECONNREFUSED, "")],
    )
    def test_other_errors_keep_their_traceback(self, error, monkeypatch):
        def main(args):
            raise error

        monkeypatch.setattr("mi_metrics.commands.study.main", main)
        with pytest.raises(OSError, match=re.escape(str(error))):
            cli.main(["study"])

    def test_a_reader_that_has_gone_ends_it_in_silence(self, command, tmp_path):
        command += ["--out", str(tmp_path / "mi.csv")]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        assert process.wait() == 141
        assert all(line.startswith("written to ") for line in err.splitlines())
        assert len(lines(tmp_path / "mi.csv")) == 3

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
    def test_a_full_disk_is_one_line(self, command):
        with open("/dev/full", "w") as full:
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert result.returncode == 1
        assert (
            result.stderr == "mi-metrics: error: Can't write the output: No space left on device.\n"
        )

    def test_letters_that_the_terminal_lacks_are_escaped(self, command):
        path = Path(command[-2]).with_suffix(".csv")
        path.write_text("ä,b\n" + "1,2\n2,1\n" * 9, encoding="utf-8")
        result = subprocess.run(
            [*command[:-2], str(path), "--y", "b", "--permutations", "0"],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )
        assert result.returncode == 0
        assert r"\xe4" in result.stdout


def test_a_damaged_file_ends_the_process_without_a_traceback(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more than that")
    command = [
        sys.executable,
        "-m",
        "mi_metrics.cli",
        "estimate",
        str(tmp_path / "t.parquet"),
        "--matrix",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("mi-metrics: error: Can't read ")
    assert result.stderr.count("\n") == 1
