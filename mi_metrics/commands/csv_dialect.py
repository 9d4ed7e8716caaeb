"""How the text of a table is encoded, what separates its columns, its decimal mark and its
comments.
"""

import codecs
import re
from typing import NamedTuple

from mi_metrics.commands.text_lines import changed

# A number that a mark may divide into thousands, or into a whole and three decimals.
THOUSANDS = r"[-+]?[1-9]\d{0,2}[.,]\d{3}"
# What --delimiter takes, beside the signs themselves.
DELIMITERS = {"tab": "\t", "\\t": "\t", "blank": " ", "space": " ", "pipe": "|"}
# Lines that have to agree about a sign that may be part of a name.
LINES = 20


class Dialect(NamedTuple):
    """How to read the text of a table."""

    encoding: str
    delimiter: str  # " " is any number of blanks and tabs
    decimal_mark: str
    comments: bool = False  # whether lines that begin with # are left out
    header: str | None = None  # the names, where a comment has them
    guessed: bool = False  # whether the delimiter is one that names may hold


def find_dialect(
    start: bytes, *, whole: bool, delimiter: str | None = None, skip: int = 0
) -> Dialect:
    r"""Find out how to read the text of a table.

    Args:
        start: The first bytes of the file.
        whole: Whether they are all there are.
        delimiter: What separates the columns, where it is known.
        skip: Lines at the beginning that are left out.

    Raises:
        ValueError: If it is text in an encoding that is not known.

    Example:
        >>> from mi_metrics.commands.csv_dialect import find_dialect
        >>> find_dialect(b"dose;response\n1,5;2\n", whole=True)[:3]
        ('utf-8', ';', ',')
    """
    encoding = _encoding(start)
    text = re.sub("\r\n?", "\n", start.decode(encoding, errors="replace")).removeprefix("\ufeff")
    if not whole:
        # Where the last line was cut, 1,234 may be left as 1,23.
        text = text[: text.rfind("\n") + 1] or text
    for _ in range(skip):
        text = text.partition("\n")[2]
    comments = re.search("^[ \t]*#", text, re.MULTILINE) is not None
    above = re.match(r"(?:[ \t]*#.*\n)*", text)
    text = changed(text, comments=comments, blanks=False)
    guessed = False
    if delimiter is None:
        delimiter, guessed = _delimiter(text)
    header = None
    if above is not None and above[0]:
        named = above[0].splitlines()[-1].strip().lstrip("#").strip()
        first = text.partition("\n")[0]
        fields = [_fields(line, delimiter) for line in (named, first)]
        if len(fields[0]) == len(fields[1]) and _numeric(fields[1]) and not _numeric(fields[0]):
            header = delimiter.join(fields[0]) if delimiter != " " else "\t".join(fields[0])
    mark = "." if delimiter == "," else _decimal_mark(text, delimiter)
    return Dialect(encoding, delimiter, mark, comments, header, guessed)


def _delimiter(text: str) -> tuple[str, bool]:
    """Return what separates columns, and whether it is a sign that names may hold."""
    unquoted = re.sub('"[^"]*"', "", text.partition("\n")[0])
    delimiter = max(",;\t", key=unquoted.count)
    if delimiter in unquoted:
        return delimiter, False
    lines = [line for line in text.split("\n")[:LINES] if line.strip()]
    for sign in "| ":
        numbers = {len(_fields(line, sign)) for line in lines}
        if len(lines) > 1 and len(numbers) == 1 and numbers.pop() > 1:
            return sign, True
    return ",", False


def _fields(line: str, delimiter: str) -> list[str]:
    unquoted = re.sub('"[^"]*"', "x", line.strip())
    return unquoted.split() if delimiter == " " else unquoted.split(delimiter)


def _numeric(fields: list[str]) -> bool:
    """Whether there is a number among fields."""
    return any(re.fullmatch(r"[-+]?\d*[.,]?\d+([eE][-+]?\d+)?", f.strip(' "')) for f in fields)


def _decimal_mark(text: str, delimiter: str) -> str:
    points, commas = (_numbers(text, delimiter, mark) for mark in ".,")
    # 1,234 may be 1234, as 1.234 beside 2,5 is: where all are of that kind they are refused, not
    # guessed.
    grouped = [
        all(re.fullmatch(THOUSANDS, value) for value in values) for values in (points, commas)
    ]
    comma = not grouped[1] and (len(commas) > len(points) or grouped[0])
    return "," if comma else "."


def _encoding(start: bytes) -> str:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # In text that is no number only the names matter.
    header = start.splitlines()[0] if start else b""
    if b"\0" in header:
        raise ValueError(
            "it is no text in UTF-8. If it comes from a spreadsheet, save it as 'CSV UTF-8'"
        )
    try:
        header.decode("utf-8")
    except UnicodeDecodeError:
        # The file is mostly in Windows' Western European encoding; Latin 1 is that but for some
        # signs, and has a letter for every byte that may come further down.
        return "cp1252" if any(0x80 <= byte < 0xA0 for byte in header) else "latin-1"
    return "utf-8"


def _numbers(text: str, delimiter: str, mark: str) -> list[str]:
    """Return the numbers with that decimal mark."""
    sign = "[ \t]" if delimiter == " " else re.escape(delimiter)
    number = rf'"?([-+]?\d*{re.escape(mark)}\d+(?:[eE][-+]?\d+)?)"?'
    return re.findall(rf"(?:^|{sign}){number}(?={sign}|$)", text, re.MULTILINE)
