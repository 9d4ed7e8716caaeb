"""The kernel of hard tables as a card would run it: it compiles, and rounds every operation."""

import re

import pytest

from mi_metrics.kernels import triton_hard

WIDE = {"fp16": "fp32", "bf16": "fp32", "fp32": "fp32", "fp64": "fp64", "u8": "fp64", "i8": "fp64"}


def types_of(x, y, every):
    """Return the arguments of the kernel for samples of these dtypes, with all that they may
    have or without.
    """
    types = {"x_samples": f"*{x}", "y_samples": f"*{y}", "table": "*i32"}
    types |= {f"x_{part}": f"*{WIDE[x]}" for part in ("lo", "bins", "width")}
    types |= {f"y_{part}": f"*{WIDE[y]}" for part in ("lo", "bins", "width")}
    types |= {f"{side}_{end}": "i64" for side in "xy" for end in ("lowest", "highest")}
    types |= {"valid": "*u8", "labels": "*i64"} if every else {"valid": None, "labels": None}
    return types | {"LOOK": every, "BLOCK": triton_hard._BLOCK, "ROUNDS": triton_hard._ROUNDS}


@pytest.mark.parametrize(
    ("x", "y", "every"),
    [("fp32", "fp32", False), ("fp64", "fp64", True), ("u8", "fp16", True), ("bf16", "i8", False)],
)
def test_cells_are_rounded_operation_by_operation(assembly, x, y, every):
    text = assembly(triton_hard._count, types_of(x, y, every), enable_fp_fusion=False)
    for number in {WIDE[x], WIDE[y]}:
        kind = number.replace("fp", "f")
        for operation in ("sub", "mul", "div"):
            # Neither an approximation nor one that takes the smallest numbers for 0.
            assert f"{operation}.rn.{kind}" in text
    assert not re.search(r"\bfma\.|\bdiv\.(full|approx)|\b(sub|mul|div|add)\S*\.ftz", text)
    assert re.search(r"\b(red|atom)\S*\.add\S*32", text)
    assert not re.search(r"\b(red|atom)\S*\.add\S*\.f(32|64)", text)
