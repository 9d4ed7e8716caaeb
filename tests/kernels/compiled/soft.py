"""The kernels of soft tables as a card would run them: they compile, and add in a fixed order."""

import re

import pytest

from mi_metrics.kernels import triton_soft

AXES = {f"{side}_{part}": "*fp64" for side in "xy" for part in ("lo", "width", "bins", "scale")}


@pytest.mark.parametrize(
    ("x", "y", "weights"),
    [("fp32", "fp32", None), ("fp16", "bf16", "*u8"), ("fp32", "fp16", "*fp64")],
)
@pytest.mark.parametrize(("reach", "tile"), [(2, 64), (4, 16), (4, 64)])
def test_tables(assembly, x, y, weights, reach, tile):
    types = {**AXES, "x": f"*{x}", "y": f"*{y}", "weights": weights, "into": "*fp64"}
    types |= {"X_REACH": reach, "Y_REACH": reach, "X_TILE": tile, "Y_TILE": tile}
    text = assembly(triton_soft._table, {**types, "BLOCK": 64, "LONG": 4096}, enable_fp_fusion=True)
    assert not re.search(r"\b(red|atom)\.", text)
    # Products in full float32, no tensor cores; sums of them in float64.
    assert not re.search(r"\b(mma|wgmma)\.", text)
    assert re.search(r"\bfma\.rn\.f32", text)
    assert re.search(r"\badd\.(rn\.)?f64", text)


@pytest.mark.parametrize("number", ["fp16", "bf16", "fp32", "fp64"])
@pytest.mark.parametrize("reach", [2, 4])
def test_gradients(assembly, number, reach):
    types = {**AXES, "x": f"*{number}", "y": "*fp32", "weights": None, "table": "*fp64"}
    types |= {"x_scale": None, "to_x": f"*{number}", "to_y": "*fp32" if reach == 2 else None}
    types |= {"X_REACH": reach, "Y_REACH": reach}
    types |= {"X_STEEPEST": 1e300 if number == "fp64" else 3e35, "Y_STEEPEST": 3e35}
    types |= {"X_MOST": None if number == "fp16" else 3e38, "Y_MOST": 3e38, "BLOCK": 256}
    text = assembly(triton_soft._gradients, types, enable_fp_fusion=True)
    assert not re.search(r"\b(red|atom)\.", text)
    if reach == 4:
        # A constant of float64, not one of float32 made longer.
        assert "0d3FE5555555555555" in text
