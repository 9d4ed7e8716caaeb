"""How names and values of columns, which may hold anything, are written within a line."""

from collections.abc import Iterable


def shown(text: str) -> str:
    """Return a name or a value as it fits a line: what can't be printed escaped, of a long one its
    two ends.
    """
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= 40 else f"{text[:24]}…{text[-15:]}"


def label(name: str) -> str:
    """Return a name as :func:`shown`, and one that is empty so that it can be seen."""
    return shown(name) or "''"


def quoted(text: str) -> str:
    """Return a name or a value as :func:`shown`, in quotation marks."""
    return f"'{shown(text)}'"


def listed(names: Iterable[str], last: str = "and") -> str:
    """Return names as a list in a sentence, the first thirty of them."""
    marked = [quoted(name) for name in names]
    if len(marked) > 30:
        return f"{', '.join(marked[:30])} and {len(marked) - 30} more"
    return (
        f" {last} ".join([", ".join(marked[:-1]), marked[-1]] if len(marked) > 1 else marked)
        or "none"
    )
