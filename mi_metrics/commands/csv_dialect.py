"""How the text of a CSV file is encoded, what separates its columns, and its decimal mark."""

import codecs
import re
from typing import NamedTuple

# A number that a mark may divide into thousands, or into a whole and three decimals.
THOUSANDS = r"[-+]?[1-9]\d{0,2}[.,]\d{3}"


class Dialect(NamedTuple):
    """How to read a CSV file."""

    encoding: str
    delimiter: str
    decimal_mark: str


def find_dialect(start: bytes, *, whole: bool) -> Dialect:
    r"""Find out how to read a CSV file.

    Args:
        start: The first bytes of the file.
        whole: Whether they are all there are.

    Raises:
        ValueError: If it is text in an encoding that is not known.

    Example:
        >>> from mi_metrics.commands.csv_dialect import find_dialect
        >>> find_dialect(b"dose;response\n1,5;2\n", whole=True)
        Dialect(encoding='utf-8', delimiter=';', decimal_mark=',')
    """
    encoding = _encoding(start)
    text = re.sub("\r\n?", "\n", start.decode(encoding, errors="replace"))
    if not whole:
        # Where the last line was cut, 1,234 may be left as 1,23.
        text = text[: text.rfind("\n") + 1] or text
    unquoted = re.sub('"[^"]*"', "", text.partition("\n")[0])
    delimiter = max(",;\t", key=unquoted.count)
    if delimiter == ",":
        return Dialect(encoding, delimiter, ".")
    points, commas = (_numbers(text, delimiter, mark) for mark in ".,")
    # 1,234 may be 1234, as 1.234 beside 2,5 is: where all are of that kind they are refused, not
    # guessed.
    grouped = [
        all(re.fullmatch(THOUSANDS, value) for value in values) for values in (points, commas)
    ]
    comma = not grouped[1] and (len(commas) > len(points) or grouped[0])
    return Dialect(encoding, delimiter, "," if comma else ".")


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
    number = rf'"?([-+]?\d*{re.escape(mark)}\d+(?:[eE][-+]?\d+)?)"?'
    return re.findall(rf"(?:^|{delimiter}){number}(?={delimiter}|$)", text, re.MULTILINE)
