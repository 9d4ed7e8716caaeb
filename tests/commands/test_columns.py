import datetime
import sys
from decimal import Decimal

import numpy as np
import pytest
import torch

from mi_metrics.commands import arrow_table, text_table
from mi_metrics.commands import table as tables
from mi_metrics.commands.arrow_table import ParquetTable
from mi_metrics.commands.columns import open_table
from mi_metrics.commands.survey import survey
from mi_metrics.commands.table import TableError, TextFoundError

pa = pytest.importorskip("pyarrow")
csv = pytest.importorskip("pyarrow.csv")
parquet = pytest.importorskip("pyarrow.parquet")

NAN = float("nan")


def read(path, names):
    """Return whole columns, and how many chunks they came in."""
    chunks = list(open_table(path).batches(names))
    return [torch.cat(parts) for parts in zip(*(c.columns for c in chunks), strict=True)], len(
        chunks
    )


def numeric(table):
    """Return the columns that hold numbers."""
    return [name for name in table.names() if table.kind(name) == "number"]


def usable(path, *names):
    """Find out whether columns that the user has named can be used."""
    return survey(open_table(path), names, all_others=False)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def text(tmp_path):
    """Write a CSV file."""

    def write(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


TYPES = {
    "f8": pa.array([1.5, None, -np.inf]),
    "f4": pa.array([0.1, 2, None], pa.float32()),
    "f2": pa.array(np.array([1, 2, 3], np.float16)),
    "i1": pa.array([-1, None, 3], pa.int8()),
    "i8": pa.array([2**53 - 1, None, 1 - 2**53]),
    "u8": pa.array([0, 1, 2**53 - 1], pa.uint64()),
    "b": pa.array([True, None, False]),
    "nulls": pa.nulls(3),
    "decimal": pa.array([Decimal("1.5"), None, Decimal("-2.25")]),
}
EXPECTED = {
    "f8": torch.tensor([1.5, NAN, -torch.inf], dtype=torch.float64),
    "f4": torch.tensor([0.1, 2, NAN], dtype=torch.float32),
    "f2": torch.tensor([1, 2, 3], dtype=torch.float32),
    "i1": torch.tensor([-1, NAN, 3], dtype=torch.float64),
    "i8": torch.tensor([2.0**53 - 1, NAN, 1 - 2.0**53], dtype=torch.float64),
    "u8": torch.tensor([0, 1, 2.0**53 - 1], dtype=torch.float64),
    "b": torch.tensor([1, NAN, 0], dtype=torch.float64),
    "nulls": torch.full((3,), NAN, dtype=torch.float64),
    "decimal": torch.tensor([1.5, NAN, -2.25], dtype=torch.float64),
}


class TestParquet:
    @pytest.fixture
    def path(self, tmp_path):
        others = {
            "name": ["a", None, "b"],
            "when": [datetime.datetime(2020, 1, 1)] * 3,
            "list": [[1], [2], None],
        }
        parquet.write_table(pa.table(TYPES | others), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    def test_every_kind_of_number_keeps_its_values(self, path):
        table = open_table(path)
        assert numeric(table) == [name for name in EXPECTED if name != "b"]
        assert [table.kind(name) for name in ("b", "name", "when", "list")] == [
            "flag",
            "text",
            "date",
            "other",
        ]
        found, _ = read(path, list(EXPECTED))
        for name, column in zip(EXPECTED, found, strict=True):
            same(column, EXPECTED[name])

    def test_columns_come_in_the_order_in_which_they_were_asked_for(self, path):
        found, _ = read(path, ["b", "f8"])
        same(found[0], EXPECTED["b"])
        same(found[1], EXPECTED["f8"])

    def test_what_has_parts_is_refused_with_its_type_and_a_value(self, path):
        with pytest.raises(
            TableError, match=r"'list' of .* is of type list.*\[1\].*: write its parts"
        ):
            usable(path, "f8", "list")

    def test_floats_without_missing_values_are_not_copied(self):
        array = pa.array([1.0, 2.0, 3.0])
        parquet_table = object.__new__(ParquetTable)
        parquet_table._pa = pa
        assert parquet_table._tensor(array).data_ptr() == array.buffers()[1].address

    def test_small_row_groups_are_put_together(self, tmp_path, monkeypatch):
        x = np.arange(1000.0)
        parquet.write_table(pa.table({"x": x, "a.b": -x}), tmp_path / "t.parquet", row_group_size=7)
        monkeypatch.setattr(tables, "ROWS", 300)
        monkeypatch.setattr(tables, "LEAST_ROWS", 1)
        (a, b), count = read(tmp_path / "t.parquet", ["x", "a.b"])
        assert count == 4
        same(a, torch.from_numpy(x))
        same(b, torch.from_numpy(-x))

    def test_a_damaged_page_is_one_line(self, tmp_path):
        path = tmp_path / "t.parquet"
        parquet.write_table(pa.table({"x": np.random.default_rng(0).standard_normal(1000)}), path)
        damaged = bytearray(path.read_bytes())
        damaged[4:300] = b"\xff" * 296
        path.write_bytes(damaged)
        with pytest.raises(TableError, match=r"^Can't read .*t.parquet: [^\n]*$"):
            read(path, ["x"])

    def test_a_damaged_column_that_is_no_number_is_one_line(self, tmp_path):
        path = tmp_path / "t.parquet"
        parquet.write_table(
            pa.table({"x": [str(i) for i in range(1000)]}), path, use_dictionary=False
        )
        damaged = bytearray(path.read_bytes())
        damaged[4:300] = b"\xff" * 296
        path.write_bytes(damaged)
        with pytest.raises(TableError, match=r"^Can't read .*t.parquet: [^\n]*$"):
            usable(path, "x")

    def test_a_file_that_is_none_is_one_line(self, text):
        with pytest.raises(TableError, match=r"^Can't read .*t.parquet: [^\n]*$"):
            open_table(text("hello", "t.parquet"))


class TestCSV:
    def test_numbers_of_every_spelling(self, text):
        path = text("i,f,b,e,s\n1, 2.5,true,,x\n,1e-3,,NA,y\n-3,inf,false,nan,\n")
        table = open_table(path)
        assert numeric(table) == ["i", "f", "e"]
        assert table.kind("b") == "flag"
        found, _ = read(path, ["e", "b", "f", "i"])
        for column, expected in zip(
            found, ([NAN] * 3, [1, NAN, 0], [2.5, 1e-3, torch.inf], [1, NAN, -3]), strict=True
        ):
            same(column, torch.tensor(expected, dtype=torch.float64))

    def test_whole_numbers_may_be_followed_by_others(self, text, monkeypatch):
        monkeypatch.setattr(arrow_table, "BLOCK", 100)
        monkeypatch.setattr(tables, "ROWS", 100)
        monkeypatch.setattr(tables, "LEAST_ROWS", 1)
        values = [*range(300), 0.5, 1.5, *range(300)]
        path = text("a,b\n" + "".join(f"{v},{-v}\n" for v in values))
        (a, b), count = read(path, ["a", "b"])
        assert count > 3
        same(a, torch.tensor(values, dtype=torch.float64))
        same(b, -torch.tensor(values, dtype=torch.float64))

    def test_what_is_done_grows_to_one(self, text, monkeypatch):
        monkeypatch.setattr(arrow_table, "BLOCK", 100)
        monkeypatch.setattr(tables, "ROWS", 10)
        monkeypatch.setattr(tables, "LEAST_ROWS", 1)
        done = [c.done for c in open_table(text("a\n" + "1\n" * 100_000)).batches(["a"])]
        assert done == sorted(done)
        assert done[0] < 0.5
        assert done[-1] == 1

    def test_a_later_text_is_named_with_its_column(self, text, monkeypatch):
        monkeypatch.setattr(arrow_table, "BLOCK", 100)
        path = text("a,b\n" + "1,2\n" * 100 + "1,oops\n")
        read(path, ["a"])
        with pytest.raises(TextFoundError) as caught:
            read(path, ["a", "b"])
        assert (caught.value.name, caught.value.value) == ("b", "oops")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "Can't read .*: Empty CSV file"),
            ("\n\n", "Can't read .*: "),
            ("a,b\n1,2\n3\n", "Can't read .*: .*Expected 2 columns, got 1: 3"),
            (
                "a,b\n1,2\n".encode("utf-16-le"),
                "Can't read .*: it is no text in UTF-8. If .* save it as 'CSV UTF-8'",
            ),
        ],
    )
    def test_damaged_files_are_one_line(self, text, content, message):
        path = text(content)
        with pytest.raises(TableError, match=message) as caught:
            open_table(path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
    @pytest.mark.parametrize(
        ("delimiter", "mark"), [(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ",")]
    )
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_spreadsheets_write_it_in_many_ways(self, text, encoding, delimiter, mark, end):
        rows = [
            ['"größe, m; €"', "b", "c"],
            ["-1.5", "2e3", '"y, z"'],
            [".25", "", "1,2"],
            ["3", "1.5e-1", "ü"],
        ]
        if delimiter == ",":
            rows[2][2] = "1"
        if mark == ",":
            rows[1:] = [[a.replace(".", ","), b.replace(".", ","), c] for a, b, c in rows[1:]]
        content = end.join(delimiter.join(row) for row in [*rows, ""])
        path = text(content.encode(encoding))
        assert numeric(open_table(path)) == ["größe, m; €", "b"]
        (a, b), _ = read(path, ["größe, m; €", "b"])
        same(a, torch.tensor([-1.5, 0.25, 3], dtype=torch.float64))
        same(b, torch.tensor([2000, NAN, 0.15], dtype=torch.float64))

    @pytest.mark.parametrize("at", [0, 50, 299])
    def test_rows_longer_than_a_block_are_read(self, text, at, monkeypatch):
        monkeypatch.setattr(arrow_table, "BLOCK", 100)
        values = list(range(300))
        path = text(
            "a,b,c\n" + "".join(f"{v},{'x' * 5000 if v == at else ''},{-v}\n" for v in values)
        )
        (a, c), _ = read(path, ["a", "c"])
        same(a, torch.tensor(values, dtype=torch.float64))
        same(c, -a)

    def test_a_header_longer_than_a_block_is_read(self, text, monkeypatch):
        monkeypatch.setattr(arrow_table, "BLOCK", 100)
        path = text(
            ",".join(f"column{i}" for i in range(100))
            + "\n"
            + ",".join(map(str, range(100)))
            + "\n"
        )
        (last,), _ = read(path, ["column99"])
        assert last.tolist() == [99]

    def test_a_row_that_is_far_too_long_is_one_line(self, text, monkeypatch):
        monkeypatch.setattr(arrow_table, "BLOCK", 100)
        monkeypatch.setattr(text_table, "MOST_BLOCK", 1000)
        path = text("a,b\n" + "1,\n" * 50 + f"1,{'x' * 5000}\n" + "1,\n" * 5000)
        with pytest.raises(
            TableError, match=r"^Can't read .*t.csv: it has a row of more than .* Write the columns"
        ):
            read(path, ["a"])

    def test_a_ragged_row_further_down_is_one_line(self, text, monkeypatch):
        monkeypatch.setattr(arrow_table, "BLOCK", 100)
        path = text("a,b\n" + "1,2\n" * 100 + "1\n")
        with pytest.raises(TableError, match=r"Can't read .*: .*Expected 2 columns, got 1: 1"):
            read(path, ["a"])

    def test_the_value_that_makes_a_column_text_is_named(self, text):
        with pytest.raises(TableError, match=r"holds numbers and '\?'.*pass --missing '\?'"):
            usable(text("a\n1\n2\n?\n"), "a")

    def test_thousands_are_not_to_be_marked(self, text):
        with pytest.raises(
            TableError,
            match=r"holds '1\.234,5', a number with several marks: write one decimal mark",
        ):
            usable(text("a;b\n1.234,5;2\n"), "a")

    @pytest.mark.parametrize("delimiter", [";", "\t"])
    @pytest.mark.parametrize("value", ["1,234", "-12,345", '"123,456"'])
    def test_what_may_be_thousands_is_refused_and_not_guessed(self, text, delimiter, value):
        path = text(f"a{delimiter}b\n{value}{delimiter}2\n7{delimiter}5\n")
        with pytest.raises(
            TableError,
            match=r"holds '[-0-9,]+', a number with a decimal mark or one of thousands",
        ):
            usable(path, "a")

    def test_points_are_of_thousands_beside_decimal_commas(self, text):
        path = text("a;b\n1.234;2,5\n999;3,5\n12.345;4\n")
        with pytest.raises(
            TableError,
            match=r"holds '1\.234', a number with a decimal mark or one of thousands",
        ):
            usable(path, "a")
        (b,), _ = read(path, ["b"])
        assert b.tolist() == [2.5, 3.5, 4]

    @pytest.mark.parametrize("length", range(1, 9))
    def test_where_the_first_block_ends_does_not_matter(self, text, length, monkeypatch):
        monkeypatch.setattr(arrow_table, "BLOCK", 100)
        path = text(f"{'a' * length};b\n" + "1,234;5\n" * 100)
        with pytest.raises(TableError, match=r"holds '1,234', a number"):
            usable(path, "a" * length)

    @pytest.mark.parametrize("other", ["0,234", "1,23", "1234,567", "1,234e2"])
    def test_one_number_that_can_t_be_of_thousands_makes_it_a_decimal_comma(self, text, other):
        (a,), _ = read(text(f"a;b\n1,234;2\n{other};5\n"), ["a"])
        assert a.tolist() == [1.234, float(other.replace(",", "."))]

    @pytest.mark.parametrize("byte", [b"\x81", b"\xff"])
    def test_bytes_of_an_unknown_code_in_text_are_no_obstacle(self, text, byte, monkeypatch):
        monkeypatch.setattr(arrow_table, "BLOCK", 100)
        for rows in (1, 1000):
            path = text(b"n\xe4me,b\n" + b",1\n" * rows + byte + b",2\n")
            (b,), _ = read(path, ["b"])
            assert b.tolist() == [1] * rows + [2]
            assert set(numeric(open_table(path))) - {"näme"} == {"b"}

    def test_a_header_without_rows_has_no_chunks(self, text):
        path = text("a,b\n")
        open_table(path).check(["a", "b"])
        assert list(open_table(path).batches(["a", "b"])) == []

    def test_columns_of_one_name_are_refused_when_asked_for(self, text):
        table = open_table(text("a,a,b\n1,2,3\n"))
        table.check(["b"])
        with pytest.raises(TableError, match=r"has 2 columns named 'a'. Rename"):
            table.check(["a"])

    @pytest.mark.parametrize("content", ["a,b\n1,2\n3,4", "a,b\n,\n,\n", "a\n1\n2\n3\n4\n"])
    def test_there_are_no_more_rows_than_promised(self, text, content):
        path = text(content)
        name = open_table(path).types[0][0]
        (column,), _ = read(path, [name])
        assert len(column) <= open_table(path).most_rows


class TestNPY:
    @pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ">f4", ">i2", "u8", "?", "g"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_columns_by_number(self, tmp_path, dtype, order, monkeypatch):
        monkeypatch.setattr(tables, "ROWS", 4)
        monkeypatch.setattr(tables, "LEAST_ROWS", 1)
        array = np.array(np.arange(30).reshape(10, 3) % 7, dtype=dtype, order=order)
        np.save(tmp_path / "t.npy", array)
        found, count = read(tmp_path / "t.npy", ["2", "0"])
        assert count == 3
        expected = torch.float32 if dtype in ("f4", "f2", ">f4") else torch.float64
        same(torch.stack(found, 1), torch.from_numpy(array[:, [2, 0]].astype("f8")).to(expected))

    def test_fields_by_name(self, tmp_path):
        array = np.array([(1, 2.5, "a", [1, 2]), (3, NAN, "b", [3, 4])], dtype="i1,f8,U1,2f4")
        np.save(tmp_path / "t.npy", array)
        table = open_table(tmp_path / "t.npy")
        assert numeric(table) == ["f0", "f1"]
        found, _ = read(tmp_path / "t.npy", ["f0", "f1"])
        same(torch.stack(found), torch.tensor([[1, 3], [2.5, NAN]], dtype=torch.float64))
        assert table.kind("f2") == "text"
        with pytest.raises(TableError, match=r"'f3' of .*write its parts"):
            table.check(["f3"])

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (
                np.zeros((2, 2, 2)),
                r"Expected an array \(rows, columns\) in .*, but its shape is \(2, 2, 2\)\. "
                r"Reshape",
            ),
            (np.array(1.0), r"shape is \(\)"),
            (np.arange(3.0), r"shape is \(3,\)"),
            (np.array([None, 1]), "Can't read .*: .*Python objects"),
        ],
    )
    def test_other_arrays_are_refused(self, tmp_path, array, message):
        np.save(tmp_path / "t.npy", array, allow_pickle=True)
        with pytest.raises(TableError, match=message):
            open_table(tmp_path / "t.npy")

    @pytest.mark.skipif(
        np.finfo(np.longdouble).max == np.finfo(float).max, reason="long double is double here"
    )
    def test_numbers_beyond_float64_are_refused(self, tmp_path):
        array = np.array([[1, np.inf], [np.nan, np.longdouble("1e-4000")]], np.longdouble)
        np.save(tmp_path / "t.npy", array)
        found, _ = read(tmp_path / "t.npy", ["0", "1"])
        same(torch.stack(found), torch.tensor([[1, NAN], [torch.inf, 0]], dtype=torch.float64))
        array[1, 0] = np.longdouble("-1e4000")
        np.save(tmp_path / "t.npy", array)
        with pytest.raises(
            TableError, match=r"Column '0' of .* holds -1e\+4000, which is beyond float64\. Divide"
        ):
            read(tmp_path / "t.npy", ["0"])

    def test_complex_numbers_are_refused(self, tmp_path):
        np.save(tmp_path / "t.npy", np.ones((2, 2), complex))
        with pytest.raises(TableError, match=r"complex128, for example .*write its parts"):
            usable(tmp_path / "t.npy", "0")

    def test_no_rows_are_none(self, tmp_path):
        np.save(tmp_path / "t.npy", np.zeros((0, 2)))
        assert list(open_table(tmp_path / "t.npy").batches(["0", "1"])) == []

    @pytest.mark.parametrize("keep", [0, 5, 100, -8])
    def test_damaged_files_are_one_line(self, tmp_path, keep):
        path = tmp_path / "t.npy"
        np.save(path, np.zeros((10, 2)))
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(TableError, match=r"^Can't read .*t.npy: [^\n]*$"):
            open_table(path)

    def test_pyarrow_is_not_needed(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        np.save(tmp_path / "t.npy", np.zeros((2, 2)))
        assert numeric(open_table(tmp_path / "t.npy")) == ["0", "1"]


def test_without_pyarrow_the_message_names_the_extra(text, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mi-metrics\[cli\]"'):
        open_table(text("a\n1\n"))


def test_chunks_of_many_columns_are_shorter(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS", 100)
    monkeypatch.setattr(tables, "LEAST_ROWS", 10)
    monkeypatch.setattr(tables, "VALUES", 200)
    np.save(tmp_path / "t.npy", np.zeros((200, 50)))
    names = numeric(open_table(tmp_path / "t.npy"))
    lengths = [
        len(next(open_table(tmp_path / "t.npy").batches(names[:k])).columns[0]) for k in (1, 4, 50)
    ]
    assert lengths == [100, 50, 10]


def test_missing_columns_are_refused_with_those_that_there_are(text):
    table = open_table(text("dose,age,response\n1,2,3\n"))
    with pytest.raises(
        TableError,
        match=r"no column 'does'. Did you mean 'dose'\? Its columns: 'dose', 'age' and 'resp",
    ):
        table.check(["age", "does"])
    with pytest.raises(TableError, match=r"no column 'zzz'. Its columns"):
        table.check(["zzz"])


def test_of_many_columns_the_first_are_listed(text):
    table = open_table(text(",".join(f"c{i}" for i in range(100)) + "\n"))
    with pytest.raises(TableError, match="'c28', 'c29' and 70 more"):
        table.check(["x"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.csv", "There is no file"),
        (".", "is a folder without Parquet files"),
        ("t.xlsx", "ends in '.csv', '.tsv', .* or '.npz', or a folder of Parquet files, but got"),
    ],
)
def test_paths_that_are_no_table_are_refused(tmp_path, name, message):
    (tmp_path / "t.xlsx").write_text("")
    with pytest.raises(TableError, match=message):
        open_table(tmp_path / name)


def test_the_suffix_may_be_in_capitals(text):
    assert numeric(open_table(text("a\n1\n", "T.CSV"))) == ["a"]


@pytest.mark.parametrize("suffix", ["npy", "csv", "parquet"])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_whole_numbers_that_float64_would_merge_are_refused(suffix, dtype, tmp_path):
    ids = 2**62 + np.arange(5, dtype=dtype)
    path = tmp_path / f"t.{suffix}"
    for values in (ids - ids.min(), ids):
        if suffix == "npy":
            np.save(path, np.stack([values, values], 1))
        elif suffix == "csv":
            path.write_text("0,1\n" + "".join(f"{v},{v}\n" for v in values))
        else:
            parquet.write_table(pa.table({"0": values, "1": values}), path)
        table = open_table(path)
        if values is not ids:
            (chunk,) = table.batches(["0"])
            assert chunk.columns[0].tolist() == [0, 1, 2, 3, 4]
            continue
        with pytest.raises(TableError, match=r"'0' of .*2\*\*53 or more.*Subtract the least"):
            list(table.batches(["0"]))
