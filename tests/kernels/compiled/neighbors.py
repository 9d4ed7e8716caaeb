"""The kernels of neighbours as a card would run them: they compile, and distances are rounded
differences.
"""

import re

import pytest

from mi_metrics.kernels import triton_counts, triton_neighbors

POINTS = {"P": "*fp64", "FOUND": "*fp64", "WANTED": "*i32", "stride": "i64"}
BOXES = {"BOXES": "*fp64", "GROUPS": "*fp64", "PLACE": "*i64"}
COUNTED = {"P": "*fp64", "RADIUS": "*fp64", "COUNT": "*i64"}
SHAPE = {
    "LEAF": triton_neighbors.LEAF,
    "FAN": triton_neighbors.FAN,
    "TILE": triton_neighbors.TILE,
}
TILES = {"ROWS": triton_neighbors.ROWS, "COLUMNS": triton_neighbors.COLUMNS}
FILLS = {"FILL": "*i32", "GROUP_FILL": "*i32"}


EACH = pytest.mark.parametrize(
    ("kernel", "types"),
    [
        (triton_neighbors._search, POINTS | BOXES | SHAPE | {"D": 2, "X": 0, "SLOTS": 4}),
        (triton_neighbors._search, POINTS | BOXES | SHAPE | {"D": 3, "X": 1, "SLOTS": 4}),
        (triton_neighbors._compare, POINTS | TILES | {"D": 12, "X": 3, "SLOTS": 4}),
        (triton_counts._count, COUNTED | BOXES | FILLS | SHAPE | {"D": 2}),
        (triton_counts._count_pairs, COUNTED | TILES | {"D": 12}),
    ],
    ids=lambda value: (
        "-".join(f"{n}{v}" for n, v in value.items() if n in ("D", "X", "SLOTS"))
        if isinstance(value, dict)
        else value.__name__
    ),
)


@EACH
def test_distances_are_rounded_differences(assembly, kernel, types):
    text = assembly(kernel, types, enable_fp_fusion=False)
    assert "sub.rn.f64" in text or "sub.f64" in text
    assert not re.search(r"\bfma\.\S*f64|\b(mul|div)\.\S*f64", text)


@EACH
def test_offsets_of_many_points_are_64_bits_wide(assembly, kernel, types):
    types = {name: kind for name, kind in types.items() if name != "stride"}
    code = assembly(kernel, types, "ttir", enable_fp_fusion=False)
    assert re.search(r"muli .*: i64", code)
    assert not re.search(r"(muli|shli) .*%(size|number|stride)\b.*: i32", code)


def test_a_line(assembly):
    types = {"VALUES": "*fp64", "PLACE": "*i64", "RADIUS": "*fp64", "COUNT": "*i64"}
    types |= {"BLOCK": triton_counts.BLOCK}
    text = assembly(triton_counts._line, types, enable_fp_fusion=False)
    assert not re.search(r"\b(fma|mul|div)\.\S*f64", text)
