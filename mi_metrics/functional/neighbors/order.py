"""Sorted rows, and runs of equal ones: what makes an estimate independent of the order of its
samples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_metrics.functional.neighbors.steps import argsort, take
from mi_metrics.functional.tensors import on_cpu

# Columns of so many values at most are sorted as digits of 16 bits, in linear time by NumPy.
DIGITS = 2**16
# A short table is sorted sooner than it is looked at.
LONG = 2**14


def lexicographic_order(columns: Sequence[Tensor], last: Tensor | None = None) -> Tensor:
    """Return the order that sorts rows by their first column, then by the second, and so on.

    Each column after the first decides only among the rows that are equal so far, most often few.

    Args:
        columns: Tensors of ``(N,)``, the columns of the table.
        last: int64 ``(N,)``, the order of rows that are equal in all columns; any if ``None``.

    Returns:
        int64 ``(N,)``.
    """
    digits = _digits(columns)
    if digits is not None:
        return _order_of_digits(digits, last)
    if last is not None:
        place = torch.empty_like(last)
        place[last] = torch.arange(len(last), device=last.device)
        columns = [*columns, place]
    order = argsort(columns[0])
    start = run_starts([take(columns[0], order)])
    for column in columns[1:]:
        places = _in_company(start)
        if not len(places):
            break
        rows = take(order, places)
        # Sorted by the run first, rows stay where their run is.
        by_run = argsort(take(start, places) * len(rows) + _ranks(take(column, rows)))
        rows = take(rows, by_run)
        order[places] = rows
        new = take(start, places), take(column, rows)
        start[places] = take(places, run_starts(new))
    return order


def run_starts(columns: Sequence[Tensor]) -> Tensor:
    """Return for each row of a table the place of the first of the equal rows around it.

    Args:
        columns: Tensors of ``(N,)``, the columns of the table.

    Returns:
        int64 ``(N,)``.
    """
    starts = torch.arange(len(columns[0]), device=columns[0].device)
    # NumPy compares a few numbers in a fifth of the time that torch takes to begin.
    table: list[Any] = [column.numpy() if on_cpu(column) else column for column in columns]
    same = table[0][1:] == table[0][:-1]
    for column in table[1:]:
        same &= column[1:] == column[:-1]
    if not bool(same.any()):
        return starts
    if not on_cpu(starts):
        # Sums of one long column are spread over a GPU, maxima are not.
        first = torch.cat((torch.zeros_like(same[:1]), same)).logical_not_()
        return first.nonzero().squeeze(1)[first.cumsum(0) - 1]
    starts[1:].masked_fill_(torch.as_tensor(same), 0)
    return starts.cummax(0).values


def run_lengths(starts: Tensor) -> Tensor:
    """Return for each row how many rows its run has, from what :func:`run_starts` returns."""
    return take(torch.bincount(starts, minlength=len(starts)), starts)


def _digits(columns: Sequence[Tensor]) -> list[np.ndarray] | None:
    """Return columns of few values as 16-bit numbers of the same order; None where one has many."""
    if len(columns[0]) < LONG or not on_cpu(columns[0]):
        return None
    # A glance at some rows spares the sorting of a continuous column.
    if any(len(torch.unique(column[:1000])) > 500 for column in columns):
        return None
    digits = []
    for column in columns:
        first, last = (float(end) for end in column.aminmax())
        if last - first < DIGITS and bool((column == column.round()).all()):
            ranks = column - first
        else:
            ranks = _ranks(column)
            if int(ranks.max()) >= DIGITS:
                return None
        digits.append(ranks.numpy().astype(np.uint16))
    return digits


def _order_of_digits(digits: Sequence[np.ndarray], last: Tensor | None) -> Tensor:
    """Sort by the last digit, then by the one before it, and leave equal ones where they are."""
    *others, least = digits
    order = None if last is None else last.numpy()
    for digit in (least, *reversed(others)):
        by = np.argsort(digit if order is None else digit.take(order), kind="stable")
        order = by if order is None else order.take(by)
    return torch.from_numpy(order)


def _in_company(start: Tensor) -> Tensor:
    """Return the places whose run has more than one row."""
    alone = start == torch.arange(len(start), device=start.device)
    alone[:-1] &= alone[1:].clone()
    return (~alone).nonzero().squeeze(1)


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value among the distinct ones."""
    order = argsort(values)
    ordered = take(values, order)
    ranks = torch.empty_like(order)
    ranks[order[1:]] = (ordered[1:] != ordered[:-1]).cumsum(0)
    ranks[order[:1]] = 0
    return ranks
