"""What knn_mutual_information refuses, and with what words."""

import math

import numpy as np
import pytest
import torch

from mi_metrics.functional import knn_mutual_information


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"n_neighbors": 0},
            ValueError,
            "`n_neighbors` to be at least 1, but got 0",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"n_neighbors": -2},
            ValueError,
            "`n_neighbors` to be at least 1",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"n_neighbors": 2.0},
            TypeError,
            "`n_neighbors` to be an int",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"n_neighbors": 4},
            ValueError,
            "N = 4 samples .* n_neighbors=4. Pass more",
        ),
        ([1.0, 2, 3], [1.0, 2, 3], {}, ValueError, "more samples than `n_neighbors`"),
        ([], [], {}, ValueError, "N = 0 samples"),
        (
            [1.0, 2, 3, math.nan],
            [1.0, 2, 3, 4],
            {},
            ValueError,
            "`x` to be finite, but it holds 1 NaN",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, -math.inf, math.inf],
            {},
            ValueError,
            "`y` to be finite, but it holds 2",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4, 5],
            {},
            ValueError,
            "agree in all but the last dimension, but got \\(4,\\)",
        ),
        ([[1.0]] * 5, [[[1.0]] * 5], {}, ValueError, "agree in all but the last"),
        ([[1.0, 2, 3, 4]], [[1.0, 2, 3, 4]], {}, ValueError, "use x.unsqueeze"),
        (1.0, 1.0, {}, ValueError, "shape \\(..., N, d\\) or \\(N,\\)"),
        ([[]] * 5, [[1.0]] * 5, {}, ValueError, "at least one coordinate"),
        ([1j, 2, 3, 4], [1.0, 2, 3, 4], {}, TypeError, "`x` to be real"),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"discrete_y": True},
            TypeError,
            "integer or bool class labels .* y.long",
        ),
        (
            [1.0, 2, 3, 4],
            [1, 2, 3, 4],
            {"discrete_y": True},
            ValueError,
            "class of two or more members",
        ),
        ([1.0] * 4, [[1, 2]] * 4, {"discrete_y": True}, ValueError, "one class label per sample"),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"algorithm": "ksg3"},
            ValueError,
            "`algorithm` to be one of 'ksg1', 'ksg2'",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"unit": "bans"},
            ValueError,
            "`unit` to be one of 'nats', 'bits'",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"discrete_y": 1},
            TypeError,
            "`discrete_y` to be True or False, but got 1",
        ),
        (
            [1.0, 2, 3, 4],
            [1.0, 2, 3, 4],
            {"standardize": "no"},
            TypeError,
            "`standardize` to be one of True, False, 'rank', 'joint', but got 'no'",
        ),
    ],
)
def test_bad_input_is_refused(
    x: object, y: object, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        knn_mutual_information(torch.tensor(x), torch.tensor(y), **options)  # type: ignore[arg-type]


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"`x` to be a torch.Tensor, but got ndarray"):
        knn_mutual_information(np.zeros(5), torch.zeros(5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on the same device, but got cpu and meta"):
        knn_mutual_information(torch.zeros(5), torch.zeros(5, device="meta"))
