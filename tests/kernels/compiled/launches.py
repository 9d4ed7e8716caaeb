"""What launches of kernels compile: other sizes take no compiler, which takes seconds."""

import itertools
import math

import pytest
import torch

from mi_metrics.kernels import triton_counts, triton_hard, triton_neighbors, triton_soft
from mi_metrics.kernels.native_soft import Side
from mi_metrics.kernels.native_tables import Line

SIZES = ((1, 2), (1, 1000), (1, 1024), (3, 4097), (16, 33), (2, 200_000))


def full(rows, value, dtype=torch.float64):
    return torch.full((rows, 1), value, dtype=dtype)


def test_hard_tables(compilations):
    for lo, (rows, n) in itertools.product((0.0, -3.0), SIZES):
        x = torch.rand(rows, n)
        for bins, own in (((2, 3), 1), ((16, 1), rows), ((64, 256), 1)):
            lines = [
                Line(full(own, lo, x.dtype), full(own, b, x.dtype), full(own, 1.0, x.dtype))
                for b in bins
            ]
            ends = ((lo, 1.0), (-1.0, 0.0))
            triton_hard.hard_counts(x, x, tuple(lines), bins, None, None, 1, ends, False)
    # Rows that are aligned in memory, and those that are not.
    assert len(compilations) <= 2


def test_ends_of_ranges_are_integers_of_one_length():
    ends = [0.0, -0.0, 1.0, -1.0, 1e-300, math.inf, -math.inf]
    bits = torch.tensor([triton_hard._bits(end) for end in ends])
    assert bits.view(torch.float64).tolist() == ends
    assert (bits.abs() > 2**32).logical_or(bits == -(2**63)).all()


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_soft_tables(compilations, kernel):
    for rows, n in SIZES:
        x = torch.rand(rows, n)
        for bins, own in (((32, 17), 1), ((24, 32), rows)):
            sides = [
                Side(x, full(own, 0.0), full(own, 1.0), full(own, b), None, kernel, b) for b in bins
            ]
            triton_soft.soft_table(*sides, None)
            table = torch.ones(rows, *bins, dtype=torch.float64)
            triton_soft.soft_gradients(table, *sides, None, (True, True))
    assert compilations.count("_table") == 1
    assert compilations.count("_gradients") <= 2


@pytest.mark.parametrize("dim", [2, 12])
def test_neighbors(compilations, dim):
    for sets, n in SIZES[1:5]:
        points = torch.rand(sets, n, dim, dtype=torch.float64)
        triton_neighbors.nearest(points, 3)
        triton_counts.range_counts(points, points[..., 0])
        triton_counts.range_counts(points[..., :1], points[..., 0])
    assert len(set(compilations)) == len(compilations) >= 2
