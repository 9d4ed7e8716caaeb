r"""Which bins a test of independence has: the one rule of metrics, the matrix and the command line.

Bins that follow the dependence would know what is to be tested, so these follow from each variable
alone. Numbers have :math:`(0.4 N)^{1/3}` bins of equal frequency, whatever bins the value has:
fewer than are right for a value, because a test of fewer cells finds more of weak dependences. A
variable of few values has a bin for each of them where the table then has two samples per cell, or
no more cells than bins would give it.
"""

import torch
from torch import Tensor

from mi_metrics.functional.tables.automatic import MOST_BINS, Choice, _binned, choose, few_values
from mi_metrics.functional.tables.pairs import Pairs

# For b x b cells of equal frequency, the law of G is off by sqrt(b^2 / 2) / (6 N / b^2) of its
# standard deviations; b that grow as this times N, to the power 1/3, keep that at a twentieth.
CELLS = 0.4
# With two halves each, whose sizes are fixed, G takes so few values that a level of 0.05 can mean
# 0.023 or 0.115.
LEAST = 3
# Cochran's rule: so many samples expected in a cell under independence.
EXPECTED = 5
# Samples per cell from which each of few values has a bin.
SAMPLES_PER_CELL = 2


def number_to_test(n: float, most: int = MOST_BINS) -> int:
    """Return how many bins of equal frequency a variable has in a test of N samples."""
    # A millionth more, so that the root of a cube is not less.
    return min(max(LEAST, int((CELLS * n) ** (1 / 3) + 1e-6)), most)


def table_to_test(pairs: Pairs, choice: Choice, *, law: bool = False) -> Tensor:
    """Return the table of a pair for a test of independence, ``(1, B_x, B_y)``, or ``(1, K, B_x,
    B_y)`` under K conditions.

    Args:
        pairs: A single pair.
        choice: What was asked for the value: given numbers of bins stay, and so does a bin for
            each value.
        law: Whether the table has to suit the law of G: then numbers have fewer bins, down to 3,
            and few values none of their own, where that is what it takes to expect 5 samples in
            every cell. Where nothing does, :func:`follows_law` says so of the table.
    """
    if choice.bins is not None:
        (binned,) = choose(pairs, choice)
        return binned.tables
    b = number_to_test(float(pairs.size), min(MOST_BINS, choice.most))
    base = ["values" if kind == "values" else "quantile" for kind in choice.kinds]
    each = _each_value(pairs, choice, base, b)
    first = _table(pairs, each, b)
    if not law:
        return first
    for bins in range(b, LEAST - 1, -1):
        for kinds in (each, base):
            table = _table(pairs, kinds, bins)
            if follows_law(table):
                return table
    return first


def follows_law(tables: Tensor) -> bool:
    """Say whether five samples are expected in every cell of tables ``(..., B_x, B_y)``, rows and
    columns without samples apart: then G follows its law.
    """
    for table in tables.flatten(0, -3):
        x, y = table.sum(1), table.sum(0)
        if int(x.sum()) and int(x[x > 0].min()) * int(y[y > 0].min()) < EXPECTED * int(x.sum()):
            return False
    return True


def _each_value(pairs: Pairs, choice: Choice, base: list[str], b: int) -> list[str]:
    """Return the kinds of bins with a bin for each of few values, where samples suffice."""
    kinds, numbers = list(base), [b, b]
    for side, kind in enumerate(choice.kinds):
        if kind == "auto" and bool(few_values(pairs, side, choice.few)):
            kinds[side], numbers[side] = "values", int(pairs.number(side, choice.few))
    cells = numbers[0] * numbers[1]
    suffice = cells <= b * b or SAMPLES_PER_CELL * cells <= float(pairs.size)
    return kinds if suffice else base


def _table(pairs: Pairs, kinds: list[str], bins: int) -> Tensor:
    rows = torch.zeros(1, dtype=torch.int64, device=pairs.size.device)
    number = torch.full_like(rows, bins)
    return _binned(pairs, rows, (kinds[0], kinds[1]), number, number).tables
