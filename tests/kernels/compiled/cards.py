"""What kernels ask of cards, old and new, where they ask for most."""

import re
import subprocess
from pathlib import Path

import pytest
import triton

from mi_metrics.kernels import triton_counts, triton_hard, triton_neighbors, triton_soft
from tests.kernels.compiled.conftest import compiled
from tests.kernels.compiled.hard import types_of
from tests.kernels.compiled.neighbors import BOXES, COUNTED, FILLS, POINTS, SHAPE, TILES
from tests.kernels.compiled.soft import AXES

DUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
# What every card has without being asked, and what one thread may hold beyond its registers.
SHARED, OVERFLOW = 48 * 1024, 1024
HARD = types_of("fp64", "bf16", True)
SOFT = {
    **AXES,
    "x": "*bf16",
    "y": "*fp32",
    "weights": "*fp64",
    "into": "*fp64",
    "BLOCK": triton_soft._BLOCK,
    "LONG": triton_soft._LEAST,
}
GRADIENTS = {
    **AXES,
    "x": "*fp64",
    "y": "*bf16",
    "weights": "*fp64",
    "table": "*fp64",
    "to_x": "*fp64",
    "to_y": "*bf16",
    "X_STEEPEST": 1e300,
    "Y_STEEPEST": 3e35,
    "X_MOST": 1e308,
    "Y_MOST": 3e38,
    "BLOCK": triton_soft._READ,
    "X_REACH": 4,
    "Y_REACH": 4,
}


def soft(reach, tile_x, tile_y):
    return SOFT | {"X_REACH": reach, "Y_REACH": reach, "X_TILE": tile_x, "Y_TILE": tile_y}


@pytest.mark.parametrize("capability", [75, 86, 90, 100])
@pytest.mark.parametrize(
    ("kernel", "types", "options"),
    [
        pytest.param(triton_hard._count, HARD, {}, id="hard"),
        *(
            pytest.param(
                triton_soft._table,
                soft(reach, *tile),
                {"num_warps": triton_soft._warps(*tile)},
                id=f"soft-{reach}-{tile[0]}x{tile[1]}",
            )
            for reach, tile in ((2, (64, 64)), (4, (64, 64)), (4, (16, 64)), (4, (32, 32)))
        ),
        pytest.param(triton_soft._gradients, GRADIENTS, {}, id="gradients"),
        *(
            pytest.param(
                triton_neighbors._search,
                POINTS | BOXES | SHAPE | {"D": d, "X": x, "SLOTS": slots},
                {},
                id=f"search-{d}-{x}-{slots}",
            )
            for d, x, slots in ((2, 0, 64), (6, 0, 4), (10, 0, 4), (10, 5, 4))
        ),
        *(
            pytest.param(
                triton_neighbors._compare,
                POINTS | TILES | {"D": d, "X": x, "SLOTS": 4},
                {},
                id=f"compare-{d}-{x}",
            )
            for d, x in ((12, 6), (20, 10), (128, 0))
        ),
        *(
            pytest.param(
                triton_counts._count,
                COUNTED | BOXES | FILLS | SHAPE | {"D": d},
                {},
                id=f"count-{d}",
            )
            for d in (2, 4, 10)
        ),
    ],
)
def test_cards_have_the_memory_and_the_registers(capability, kernel, types, options, tmp_path):
    found = compiled(capability, kernel, types, enable_fp_fusion=False, **options)
    assert found.metadata.shared <= SHARED
    if DUMP.exists():
        (tmp_path / "cubin").write_bytes(found.asm["cubin"])
        said = subprocess.run(
            [DUMP, "-res-usage", tmp_path / "cubin"], capture_output=True, text=True, check=True
        )
        assert int(re.search(r"STACK:(\d+)", said.stdout + said.stderr)[1]) <= OVERFLOW
