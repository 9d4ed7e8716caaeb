"""The lines of a text file as PyArrow takes them: without what is skipped and without comments, and
separated by tabs where blanks separated them.
"""

import codecs
import io
import re
from typing import IO


class Lines(io.RawIOBase):
    """A binary file whose lines are changed while they are read; the result is UTF-8.

    Args:
        raw: The file.
        encoding: Its encoding.
        skip: Lines at the beginning that are left out.
        comments: Leave out lines that begin with ``#``.
        blanks: Make one tab of blanks between two fields.
        header: A line that comes before the first.
    """

    def __init__(
        self,
        raw: IO[bytes],
        encoding: str,
        *,
        skip: int = 0,
        comments: bool = False,
        blanks: bool = False,
        header: str | None = None,
    ) -> None:
        super().__init__()
        self._raw, self._skip, self._comments, self._blanks = raw, skip, comments, blanks
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._rest, self._ended = "", False
        self._ready = b"" if header is None else header.encode() + b"\n"

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most ``size`` of them where it is not negative."""
        while not self._ended and (size < 0 or len(self._ready) < size):
            self._more(1 << 20)
        cut = len(self._ready) if size < 0 else size
        found, self._ready = self._ready[:cut], self._ready[cut:]
        return found

    def close(self) -> None:
        """Close the file."""
        self._raw.close()
        super().close()

    def _more(self, size: int) -> None:
        block = self._raw.read(size)
        self._ended = not block
        text = self._rest + self._decoder.decode(block, final=self._ended)
        if not self._ended and text.endswith("\r"):
            # The other half of a line end may follow.
            self._rest = text
            return
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        whole = len(text) if self._ended else text.rfind("\n") + 1
        self._rest = text[whole:]
        self._ready += changed(
            self._unskipped(text[:whole]), comments=self._comments, blanks=self._blanks
        ).encode()

    def _unskipped(self, text: str) -> str:
        while self._skip and text:
            _, _, text = text.partition("\n")
            self._skip -= 1
        return text


def changed(text: str, *, comments: bool, blanks: bool) -> str:
    """Return whole lines without comments, and separated by tabs where blanks did."""
    if comments:
        text = re.sub(r"^[ \t]*#.*\n?", "", text, flags=re.MULTILINE)
    if blanks:
        text = re.sub(r"^[ \t]+|[ \t]+$", "", text, flags=re.MULTILINE)
        if '"' in text:
            text = re.sub(r'"[^"\n]*"|[ \t]+', lambda found: _unless_quoted(found[0]), text)
        else:
            text = re.sub("[ \t]+", "\t", text)
    return text


def _unless_quoted(text: str) -> str:
    return text if text.startswith('"') else "\t"
