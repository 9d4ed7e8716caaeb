"""The site's tables of accuracy are what the code gives."""

import re

import pytest

pytest.importorskip("sklearn")

from benchmarks import accuracy

pytestmark = pytest.mark.slow

# Nats: another version of a library may round otherwise, no more.
TOLERANCE = 0.002


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def is_number(cell):
    return re.fullmatch(r"-?\d+(\.\d+)?", cell) is not None


@pytest.mark.parametrize("name", accuracy.TABLES)
def test_the_table_on_the_page_is_what_the_code_gives(name):
    shown = cells(accuracy.section(name, accuracy.PAGE.read_text())[1])
    made = cells(accuracy.table(name))
    assert [[c for c in row if not is_number(c)] for row in shown] == [
        [c for c in row if not is_number(c)] for row in made
    ]
    for row, expected in zip(shown, made, strict=True):
        numbers, wanted = ([float(c) for c in r if is_number(c)] for r in (row, expected))
        assert numbers == pytest.approx(wanted, abs=TOLERANCE), row


def test_a_text_without_the_table_is_refused():
    with pytest.raises(ValueError, match=r"the markers <!-- accuracy: study -->"):
        accuracy.section("study", "no table")
