"""Every kind of file and of column that analysts have, small, with the right value from
scikit-learn or a closed form.
"""

import datetime
import gzip
from decimal import Decimal

import numpy as np
import pytest
import torch

from mi_metrics.commands.columns import open_table
from mi_metrics.commands.estimate_options import parser
from mi_metrics.commands.estimate_run import find
from mi_metrics.commands.table import Source
from mi_metrics.functional import binned_mutual_information, knn_mutual_information
from tests.commands.test_estimate import run

pytest.importorskip("tqdm")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
metrics = pytest.importorskip("sklearn.metrics")
selection = pytest.importorskip("sklearn.feature_selection")

N = 600
RNG = np.random.default_rng(0)
KINDS = RNG.choice(["cat", "cow", "dog"], N, p=[0.5, 0.3, 0.2])
HOMES = np.where(RNG.random(N) < 0.6, np.char.add("of ", KINDS), "barn")
MASS = np.round(RNG.standard_normal(N) + 2.0 * (KINDS == "dog"), 4)
AGE = np.round(0.8 * MASS + 0.6 * RNG.standard_normal(N), 4)
WHEN = [datetime.date(2020, 1, 1) + datetime.timedelta(days=int(50 * m + 200)) for m in MASS]


def result(path, *args):
    """Return what the command finds, without resampling."""
    given = parser().parse_args([str(path), "--permutations", "0", *map(str, args)])
    source = Source(given.delimiter, given.skip, not given.no_header, tuple(given.missing))
    return find(open_table(path, source), given)


def values(path, *args):
    """Return the values by x and estimator."""
    return {(e.x, e.estimator): e.mi for e in result(path, *args).found}


def text(delimiter=",", *, header=True, mark="."):
    """Return the table as text."""
    rows = zip(KINDS, HOMES, MASS, AGE, WHEN, strict=True)
    lines = [["kind", "home", "mass", "age", "when"]] if header else []
    lines += [[k, h, str(m), str(a), str(w)] for k, h, m, a, w in rows]
    if mark != ".":
        lines = [[v.replace(".", mark) for v in line] for line in lines]
    return "".join(delimiter.join(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def table():
    """The columns for Parquet: texts, dictionaries and dates."""
    return pa.table(
        {
            "kind": pa.array(KINDS.tolist()).dictionary_encode(),
            "home": HOMES.tolist(),
            "mass": MASS,
            "age": AGE,
            "when": pa.array(WHEN),
        }
    )


def ross(numbers, labels):
    _, codes = np.unique(labels, return_inverse=True)
    return selection.mutual_info_classif(numbers[:, None], codes, n_neighbors=3, random_state=0)[0]


class TestCategories:
    @pytest.fixture(params=["csv", "parquet"])
    def path(self, request, tmp_path, table):
        path = tmp_path / f"t.{request.param}"
        if request.param == "csv":
            path.write_text(text())
        else:
            parquet.write_table(table, path)
        return path

    def test_a_category_and_a_number(self, path):
        found = values(path, "--y", "kind")
        assert found["mass", "knn"] == pytest.approx(ross(MASS, KINDS), abs=0.005)
        assert np.isnan(found["mass", "kde"])
        _, codes = np.unique(KINDS, return_inverse=True)
        expected = binned_mutual_information(
            torch.from_numpy(MASS), torch.from_numpy(codes), binning=("auto", "values")
        )
        assert found["mass", "bins"] == pytest.approx(expected.item(), abs=0.01)

    def test_two_categories(self, path):
        found = values(path, "--x", "home", "--y", "kind")
        expected = metrics.mutual_info_score(KINDS, HOMES)
        assert found["home", "bins"] == pytest.approx(expected, abs=1e-12)
        assert np.isnan(found["home", "knn"])

    def test_dates_are_days(self, path, capsys):
        found = values(path, "--x", "when", "--y", "age")
        days = np.array([w.toordinal() for w in WHEN], float)
        expected = knn_mutual_information(torch.from_numpy(days), torch.from_numpy(AGE)).item()
        assert found["when", "knn"] == pytest.approx(expected, abs=1e-9)
        run(path, "--x", "when", "--y", "age", "--permutations", 0)
        assert "note: when: dates and times are read as days\n" in capsys.readouterr().err

    def test_truth_values(self, tmp_path):
        flag = MASS > 0.5
        (tmp_path / "t.csv").write_text(
            "flag,age\n" + "".join(f"{f},{a}\n" for f, a in zip(flag, AGE, strict=True))
        )
        found = values(tmp_path / "t.csv", "--y", "age")
        assert found["flag", "knn"] == pytest.approx(ross(AGE, flag), abs=0.005)

    @pytest.mark.parametrize("suffix", ["csv", "npy"])
    def test_numbers_that_are_labels(self, suffix, tmp_path):
        _, codes = np.unique(KINDS, return_inverse=True)
        codes = np.array([7, -3, 100])[codes]
        path = tmp_path / f"t.{suffix}"
        names = ["code", "age"] if suffix == "csv" else ["0", "1"]
        if suffix == "csv":
            path.write_text(
                "code,age\n" + "".join(f"{c},{a}\n" for c, a in zip(codes, AGE, strict=True))
            )
        else:
            np.save(path, np.stack([codes, AGE], 1))
        found = values(path, "--y", names[1], "--discrete", names[0])
        assert found[names[0], "knn"] == pytest.approx(ross(AGE, codes), abs=0.005)
        # The value does not depend on which numbers stand for the labels, or on the side.
        other = values(path, "--x", names[1], "--y", names[0], "--discrete", names[0])
        assert other[names[1], "knn"] == found[names[0], "knn"]

    def test_many_categories_leave_one_for_the_rest(self, tmp_path, capsys):
        # 300 categories: 255 of 12 rows each, and 45 of 4.
        codes = np.r_[np.repeat(np.arange(255), 12), np.repeat(np.arange(255, 300), 4)]
        half = np.minimum(codes, 255) % 2
        path = tmp_path / "t.csv"
        path.write_text(
            "code,half\n" + "".join(f"c{c},h{h}\n" for c, h in zip(codes, half, strict=True))
        )
        found = values(path, "--y", "half", "--estimator", "bins")
        expected = metrics.mutual_info_score(np.minimum(codes, 255), half)
        assert found["code", "bins"] == pytest.approx(expected, abs=1e-12)
        run(path, "--y", "half", "--permutations", 0)
        told = "note: code: 300 categories; all but the 255 most frequent count as one\n"
        assert told in capsys.readouterr().err

    def test_names_of_rows_and_row_numbers_are_left_out(self, tmp_path, capsys):
        lines = [f"{i},name {i},{m},{a}\n" for i, (m, a) in enumerate(zip(MASS, AGE, strict=True))]
        (tmp_path / "t.csv").write_text(",who,mass,age\n" + "".join(lines))
        run(tmp_path / "t.csv", "--matrix", "--estimator", "bins")
        out, err = capsys.readouterr()
        assert out.splitlines()[1].split() == ["mass", "age"]
        told = "note: left out: '' numbers the rows; who holds a text of its own in most rows, for "
        assert f"{told}example 'name 0'\n" in err

    def test_an_index_of_pandas_is_left_out(self, tmp_path, table):
        index = table.append_column("__index_level_0__", pa.array(range(N)))
        parquet.write_table(index, tmp_path / "t.parquet")
        assert not [x for x, _ in values(tmp_path / "t.parquet", "--y", "mass") if "index" in x]

    @pytest.mark.parametrize(
        ("spelled", "told"),
        [
            (lambda v: f'"${1000 + abs(v):,.0f}"', "an amount of money: write the number alone"),
            (lambda v: f"{abs(v):.1f}%", "a percentage: write the number alone"),
            (lambda v: hex(int(abs(v) * 100)), "a hexadecimal number: write it in decimal"),
            (lambda v: f"{v:.2E}".replace("E", "D"), "a number of Fortran: write E in place of D"),
            (lambda v: f"{1 + int(abs(v)) % 28}/12/2020", "a date: write it as in 2026-11-30"),
            (lambda v: f"{1 + int(abs(v)) % 28:02d}.12.20", "a date: write it as in 2026-11-30"),
        ],
    )
    def test_numbers_in_disguise_are_told_what_they_are(self, spelled, told, tmp_path, capsys):
        lines = [f"{spelled(m)},{m},{a}\n" for m, a in zip(MASS, AGE, strict=True)]
        path = tmp_path / "t.csv"
        path.write_text("odd,mass,age\n" + "".join(lines))
        run(path, "--y", "age", "--estimator", "bins", "--permutations", 0)
        err = capsys.readouterr().err
        first = spelled(MASS[0]).strip('"')
        assert f"note: left out: odd holds '{first}', {told}" in err
        with pytest.raises(SystemExit, match="1"):
            run(path, "--x", "odd", "--y", "age")
        assert f"Column 'odd' of {path} holds '{first}', {told}" in capsys.readouterr().err

    @pytest.mark.parametrize("least", [2**63 - 100, 10**24])
    def test_longer_ids_than_integers_hold_are_left_out(self, least, tmp_path, capsys):
        lines = [f"{least + i},{m},{a}\n" for i, (m, a) in enumerate(zip(MASS, AGE, strict=True))]
        path = tmp_path / "t.csv"
        path.write_text("id,mass,age\n" + "".join(lines))
        with pytest.raises(SystemExit, match="1"):
            run(path, "--x", "id", "--y", "age", "--estimator", "bins")
        assert "Column 'id'" in (err := capsys.readouterr().err)
        assert "holds whole numbers of 2**53 or more, which float64 would merge" in err
        # Large numbers are fine that are written as such.
        path.write_text(
            "big,age\n" + "".join(f"{m * 1e20:.6e},{a}\n" for m, a in zip(MASS, AGE, strict=True))
        )
        assert len(values(path, "--y", "age", "--estimator", "bins")) == 1

    def test_ids_in_decimals_that_float64_would_merge_are_left_out(self, tmp_path, capsys):
        ids = pa.array([Decimal(10**24 + i) for i in range(N)], pa.decimal128(38, 0))
        parquet.write_table(pa.table({"id": ids, "age": AGE}), tmp_path / "t.parquet")
        with pytest.raises(SystemExit, match="1"):
            run(tmp_path / "t.parquet", "--x", "id", "--y", "age", "--estimator", "bins")
        assert "which float64 would merge" in capsys.readouterr().err

    @pytest.mark.parametrize("end", ["", '"'])
    def test_a_quotation_mark_that_is_not_closed_is_told(self, end, tmp_path, capsys):
        lines = [f"{m},{a},fine\n" for m, a in zip(MASS, AGE, strict=True)]
        lines[9] = lines[9].replace("fine", '"5')
        lines[19] = lines[19].replace("fine", f"{end}6")
        path = tmp_path / "t.csv"
        path.write_text("mass,age,note\n" + "".join(lines))
        with pytest.raises(SystemExit, match="1"):
            run(path, "--x", "mass", "--y", "age", "--estimator", "bins")
        assert "has a quotation mark in line 11 that no other closes" in capsys.readouterr().err

    def test_texts_of_several_lines_are_texts(self, tmp_path):
        lines = [f'{m},{a},"one\n\n""two"""\n' for m, a in zip(MASS, AGE, strict=True)]
        path = tmp_path / "t.csv"
        path.write_text("mass,age,note\n" + "".join(lines))
        assert len(values(path, "--x", "mass", "--y", "age", "--estimator", "bins")) == 1

    def test_ids_that_float64_would_merge_are_left_out(self, tmp_path, capsys):
        lines = [f"{2**60 + i},{m},{a}\n" for i, (m, a) in enumerate(zip(MASS, AGE, strict=True))]
        (tmp_path / "t.csv").write_text("id,mass,age\n" + "".join(lines))
        run(tmp_path / "t.csv", "--y", "age", "--estimator", "bins", "--permutations", 0)
        assert "left out: id holds whole numbers of 2**53" in capsys.readouterr().err


class TestMissing:
    def write(self, path, place, marker):
        lines = [f"{m},{a}\n" for m, a in zip(MASS, AGE, strict=True)]
        lines[place] = f"{marker},1\n"
        path.write_text("mass,age\n" + "".join(lines))

    @pytest.mark.parametrize("place", [3, N - 3])
    @pytest.mark.parametrize("marker", ["?", "nil", "-999", "-999.0", "n/k"])
    def test_markers_anywhere_in_the_file(self, place, marker, tmp_path, monkeypatch):
        monkeypatch.setattr("mi_metrics.commands.arrow_table.BLOCK", 1000)
        path = tmp_path / "t.csv"
        self.write(path, place, marker)
        given = "-999" if marker.startswith("-999") else marker
        found = result(path, "--y", "age", "--missing", "?", "nil", given).found
        assert {(e.n, e.ignored) for e in found} == {(N - 1, 1)}
        kept = np.arange(N) != place
        x, y = torch.from_numpy(MASS[kept]), torch.from_numpy(AGE[kept])
        assert found[2].mi == knn_mutual_information(x, y).item()

    @pytest.mark.parametrize("place", [3, N - 3])
    def test_one_that_was_not_named_is_told_wherever_it_stands(
        self, place, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.setattr("mi_metrics.commands.arrow_table.BLOCK", 1000)
        path = tmp_path / "t.csv"
        self.write(path, place, "?")
        with pytest.raises(SystemExit, match="1"):
            run(path, "--y", "age")
        assert "Left out: mass holds numbers and '?': if it" in capsys.readouterr().err
        with pytest.raises(SystemExit, match="1"):
            run(path, "--x", "mass", "--y", "age")
        told = f"Column 'mass' of {path} holds numbers and '?': if it marks a missing value, pass"
        assert f"{told} --missing '?'.\n" in capsys.readouterr().err

    def test_numbers_of_binary_files(self, tmp_path):
        holed = np.where(np.arange(N) % 10 == 0, -999, MASS)
        np.save(tmp_path / "t.npy", np.stack([holed, AGE], 1))
        parquet.write_table(pa.table({"0": holed, "1": AGE}), tmp_path / "t.parquet")
        for path in (tmp_path / "t.npy", tmp_path / "t.parquet"):
            found = result(path, "--y", "1", "--missing", "-999").found
            assert {(e.n, e.ignored) for e in found} == {(N - N // 10, N // 10)}

    def test_labels_that_are_all_missing(self, tmp_path):
        lines = [f"{m},,\n" for m in MASS]
        (tmp_path / "t.csv").write_text("mass,code,text\n" + "".join(lines))
        found = result(tmp_path / "t.csv", "--y", "mass", "--discrete", "code").found
        assert {(e.n, e.ignored) for e in found} == {(0, N)}

    def test_texts(self, tmp_path, capsys):
        lines = [f"{k},{m}\n" for k, m in zip(KINDS, MASS, strict=True)]
        lines[:2] = ["unknown,1\n", ",1\n"]
        path = tmp_path / "t.csv"
        path.write_text("kind,mass\n" + "".join(lines))
        run(path, "--y", "mass", "--estimator", "bins", "--permutations", 0)
        out, err = capsys.readouterr()
        assert out.splitlines()[1].split()[3:5] == [str(N - 1), "1"]
        assert "note: kind: 'unknown' counts as a category; if it marks missing values, pass" in err
        found = result(path, "--y", "mass", "--missing", "unknown").found
        assert {e.ignored for e in found} == {2}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "t.csv"
    path.write_text(text())
    return values(path, "--y", "mass", "--estimator", "bins", "knn")


class TestFiles:
    """Files of other kinds give the values of the plain one."""

    def same(self, path, expected, *args):
        found = values(path, "--y", "mass", "--estimator", "bins", "knn", *args)
        assert found == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(
        ("name", "delimiter", "given"),
        [
            ("t.tsv", "\t", []),
            ("t.txt", ";", []),
            ("t.data", "|", []),
            ("t.csv", "|", ["--delimiter", "|"]),
            ("t.txt", "\t", ["--delimiter", "tab"]),
            ("t.txt", ":", ["--delimiter", ":"]),
        ],
    )
    def test_delimiters(self, name, delimiter, given, tmp_path, expected):
        (tmp_path / name).write_text(text(delimiter))
        self.same(tmp_path / name, expected, *given)

    @pytest.mark.parametrize("given", [[], ["--delimiter", "blank"]])
    def test_blanks(self, given, tmp_path, expected, capsys):
        lines = text("\t").replace("of ", "of-").splitlines()
        content = "\n".join("  " + line.replace("\t", "    ") + " " for line in lines) + "\n"
        (tmp_path / "t.txt").write_text(content)
        self.same(tmp_path / "t.txt", expected, *given)
        run(tmp_path / "t.txt", "--y", "mass", "--permutations", 0, *given)
        told = "note: t.txt: columns are taken to be separated by blanks; if they are not, pass"
        assert (told in capsys.readouterr().err) == (not given)

    def test_names_with_blanks_are_no_columns(self, tmp_path):
        (tmp_path / "t.csv").write_text("body mass\n" + "".join(f"{m}\n" for m in MASS))
        assert open_table(tmp_path / "t.csv").names() == ["body mass"]

    @pytest.mark.parametrize("name", ["t.csv.gz", "t.txt.gz", "t.tsv.gz"])
    def test_compressed(self, name, tmp_path, expected):
        with gzip.open(tmp_path / name, "wt") as file:
            file.write(text("\t" if "tsv" in name else ","))
        self.same(tmp_path / name, expected)

    def test_a_cut_archive_is_one_line(self, tmp_path, capsys):
        whole = gzip.compress(text().encode())
        (tmp_path / "t.csv.gz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SystemExit, match="1"):
            run(tmp_path / "t.csv.gz", "--y", "mass")
        assert capsys.readouterr().err.startswith("mi-metrics: error: Can't read ")

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_lines_before_the_header_and_comments(self, encoding, tmp_path, expected):
        lines = text().splitlines()
        lines.insert(300, "# a pause, of an hour")
        content = "\n".join(["A title", "", "# made by hand", *lines]) + "\n"
        (tmp_path / "t.csv").write_bytes(content.encode(encoding))
        self.same(tmp_path / "t.csv", expected, "--skip", "2")

    def test_names_in_a_comment(self, tmp_path):
        array = np.stack([MASS, AGE], 1)
        np.savetxt(tmp_path / "t.txt", array, header="mass age", fmt="%.17g")
        table = open_table(tmp_path / "t.txt")
        assert table.names() == ["mass", "age"]
        (batch,) = table.batches(["mass"])
        assert batch.columns[0].tolist() == MASS.tolist()

    def test_no_header(self, tmp_path, expected, capsys):
        (tmp_path / "t.csv").write_text(text(header=False))
        found = values(tmp_path / "t.csv", "--y", "2", "--no-header", "--estimator", "bins", "knn")
        names = dict(zip("0134", ["kind", "home", "age", "when"], strict=True))
        assert {(names[x], e): v for (x, e), v in found.items()} == pytest.approx(
            expected, abs=1e-12
        )
        np.savetxt(tmp_path / "t.csv", np.stack([MASS, AGE], 1), delimiter=",")
        run(tmp_path / "t.csv", "--matrix", "--estimator", "bins")
        told = "if its first line is data, pass --no-header\n"
        assert told in capsys.readouterr().err

    def test_decimal_commas_between_bars(self, tmp_path, expected):
        (tmp_path / "t.txt").write_text(text("|", mark=","))
        self.same(tmp_path / "t.txt", expected)

    def test_a_folder_of_parquet_files(self, tmp_path, table, expected):
        folder = tmp_path / "trials"
        (folder / "deeper").mkdir(parents=True)
        parquet.write_table(table[:100], folder / "a.parquet")
        parquet.write_table(table[100:350], folder / "b.parquet", row_group_size=70)
        parquet.write_table(table[350:], folder / "deeper" / "c.parquet")
        (folder / "_SUCCESS").write_text("")
        (folder / "_part.parquet").write_text("no table")
        self.same(folder, expected)
        parquet.write_table(table.drop(["kind"]), folder / "d.parquet")
        with pytest.raises(Exception, match=r"d\.parquet has other columns than .*a\.parquet"):
            open_table(folder)

    def test_an_archive_of_arrays(self, tmp_path):
        both = np.stack([MASS, AGE], 1)
        np.savez(tmp_path / "t.npz", kind=KINDS, both=both, flag=MASS > 0)
        table = open_table(tmp_path / "t.npz")
        assert table.names() == ["kind", "both_0", "both_1", "flag"]
        assert [table.kind(name) for name in table.names()] == ["text", "number", "number", "flag"]
        found = values(tmp_path / "t.npz", "--y", "both_0")
        assert found["kind", "knn"] == pytest.approx(ross(MASS, KINDS), abs=0.005)
        np.savez(tmp_path / "t.npz", a=MASS, b=AGE[1:])
        with pytest.raises(Exception, match=r"have different lengths: 'a' 600, 'b' 599"):
            open_table(tmp_path / "t.npz")
        (tmp_path / "t.npz").write_bytes((tmp_path / "t.npz").read_bytes()[:60])
        with pytest.raises(Exception, match=r"t\.npz is no NPZ archive, or a damaged one"):
            open_table(tmp_path / "t.npz")
        np.savez(tmp_path / "t.npz", a=np.zeros((2, 2, 2)))
        with pytest.raises(Exception, match=r"'a' of .* has the shape \(2, 2, 2\)"):
            open_table(tmp_path / "t.npz")

    def test_texts_and_dates_of_numpy(self, tmp_path):
        days = np.array(WHEN, "M8[D]")
        array = np.zeros(N, [("kind", "U3"), ("when", "M8[D]"), ("mass", "f8")])
        array["kind"], array["when"], array["mass"] = KINDS, days, MASS
        array["when"][0] = np.datetime64("NaT", "D")
        np.save(tmp_path / "t.npy", array)
        found = {e.x: e for e in result(tmp_path / "t.npy", "--y", "mass").found}
        assert found["kind"].mi == pytest.approx(ross(MASS, KINDS), abs=0.005)
        assert (found["when"].n, found["when"].ignored) == (N - 1, 1)

    def test_a_damaged_page_is_seen_by_its_checksum(self, tmp_path, capsys):
        path = tmp_path / "t.parquet"
        options = {"use_dictionary": False, "compression": "none", "write_page_checksum": True}
        parquet.write_table(pa.table({"mass": MASS, "age": AGE}), path, **options)
        damaged = bytearray(path.read_bytes())
        # A bit of a number, which any reader would take for another number.
        damaged[200] ^= 64
        path.write_bytes(damaged)
        with pytest.raises(SystemExit, match="1"):
            run(path, "--y", "mass")
        err = capsys.readouterr().err
        assert err.startswith("mi-metrics: error: Can't read ")
        assert "CRC" in err or "checksum" in err
