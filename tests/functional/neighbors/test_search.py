"""Every path of the neighbour search equals the comparison of all pairs, exactly."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from mi_metrics.functional.neighbors import search as neighbors
from mi_metrics.functional.neighbors.search import nearest
from mi_metrics.functional.neighbors.within import range_counts, strict_counts
from mi_metrics.functional.tensors import CHUNKS

NAMES = [
    "continuous",
    "float32",
    "grid",
    "fine grid",
    "inexact grid",
    "lattice",
    "binary",
    "constant",
    "all equal",
]
NAMES += ["heavy tails", "tiny", "huge", "offset", "clusters", "simplex"]


def make(name: str, dimensions: int, size: int = 300) -> Tensor:
    rng = np.random.default_rng(dimensions)
    z = rng.standard_normal((size, dimensions))
    z[:, 0] += z[:, -1]
    corners = np.eye(dimensions)[rng.integers(0, dimensions, size)]
    data = {
        "continuous": z,
        "float32": z.astype(np.float32).astype(np.float64),
        "grid": np.round(2 * z),
        "fine grid": np.round(40 * z),
        "inexact grid": (np.round(40 * z) / 255).astype(np.float32).astype(np.float64),
        "lattice": np.stack(np.unravel_index(rng.permutation(size), (20,) * dimensions), 1).astype(
            np.float64
        ),
        "binary": np.where(np.arange(dimensions) % 2, z, np.sign(z)),
        "constant": np.where(np.arange(dimensions) == 0, 1.0, z),
        "all equal": np.full_like(z, 0.1),
        "heavy tails": np.exp(30 * z),
        "tiny": z * 1e-300,
        "huge": z * 1e300,
        "offset": 1e8 + z,
        "clusters": z * 1e-9 + rng.integers(0, 3, (size, 1)),
        "simplex": corners + 1e-3 * np.arange(size)[:, None] * (np.arange(dimensions) == 0),
    }
    return torch.from_numpy(data[name].astype(np.float64))


def distances(points: Tensor) -> np.ndarray:
    """All distances, pair by pair: the definition."""
    values = points.cpu().numpy()
    return np.abs(values[:, None, :] - values[None, :, :]).max(-1)


def oracle(points: Tensor, k: int, x_dim: int) -> tuple[np.ndarray, ...]:
    """Radius and reach of each point."""
    joint, x, y = distances(points), distances(points[:, :x_dim]), distances(points[:, x_dim:])
    radius = np.sort(joint, axis=1)[:, k]  # column 0 is the point itself
    inside = joint <= radius[:, None]
    return radius, np.where(inside, x, 0).max(1), np.where(inside, y, 0).max(1)


def assert_nearest(points: Tensor, k: int, x_dim: int, path: str) -> None:
    found = nearest(points, k, x_dim=x_dim, path=path)
    for got, expected in zip((found.radius, *found.reach), oracle(points, k, x_dim), strict=True):
        np.testing.assert_array_equal(got.cpu().numpy(), expected)
    alone = nearest(points, k, path=path)
    assert torch.equal(alone.radius, found.radius)
    assert alone.reach == ()


def assert_counts(points: Tensor, radius: Tensor, path: str) -> None:
    gap, near = distances(points), radius.cpu().numpy()[:, None]
    closed = (gap <= near).sum(1)
    strict = np.where(near[:, 0] > 0, (gap < near).sum(1), closed)
    some = torch.from_numpy(np.random.default_rng(0).permutation(len(points))[:40])
    some = some.to(points.device)
    for count, expected in ((range_counts, closed), (strict_counts, strict)):
        np.testing.assert_array_equal(count(points, radius, path=path).cpu().numpy(), expected)
        part = count(points, radius[some], queries=some, path=path)
        np.testing.assert_array_equal(part.cpu().numpy(), expected[some.cpu().numpy()])


def paths(device: torch.device, *names: str) -> list[str]:
    return [name for name in names if name != "tree" or device.type == "cpu"]


@pytest.fixture
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the strips work on few points: narrow windows, hence many uncertain queries."""
    monkeypatch.setattr(neighbors, "WINDOW", 2)
    monkeypatch.setattr(neighbors, "STRIP_AREA", 2.0)


@pytest.mark.parametrize("k", [1, 3, 40, 299])
@pytest.mark.parametrize("dimensions", [2, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_nearest_equals_all_pairs(name: str, dimensions: int, k: int, device: torch.device) -> None:
    points = make(name, dimensions).to(device)
    for path in paths(device, "tree", "brute", *(["strips"] if dimensions == 2 else [])):
        assert_nearest(points, k, 1, path)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("small_strips")
def test_strips_equal_all_pairs(name: str, k: int, device: torch.device) -> None:
    for size in (31, 200, 397):
        assert_nearest(make(name, 2, size).to(device), k, 1, "strips")


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.99, 0.999999])
def test_strips_at_full_size(correlation: float, device: torch.device) -> None:
    rng = np.random.default_rng(0)
    x, e = rng.standard_normal((2, 1500))
    points = torch.from_numpy(
        np.stack((x, correlation * x + (1 - correlation**2) ** 0.5 * e), 1)
    ).to(device)
    assert_nearest(points, 3, 1, "strips")
    assert_nearest((32 * points).round(), 3, 1, "strips")


@pytest.mark.parametrize("name", NAMES)
def test_line_equals_all_pairs(name: str, device: torch.device) -> None:
    points = make(name, 2).to(device)[:, 1:]
    for k in (1, 3, 40, 299):
        found = nearest(points, k, path="line")
        np.testing.assert_array_equal(
            found.radius.cpu().numpy(), oracle(points.repeat(1, 2), k, 1)[0]
        )


@pytest.mark.parametrize("dimensions", [1, 2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_range_counts_equal_all_pairs(name: str, dimensions: int, device: torch.device) -> None:
    points = make(name, dimensions + 1).to(device)
    for radius in (
        nearest(points, 3).radius,
        nearest(points, 60).radius,
        torch.zeros(300).double().to(device),
    ):
        for path in paths(device, "tree", "brute", *(["line"] if dimensions == 1 else [])):
            assert_counts(points[:, 1:], radius, path)


def test_rounding_decides_on_the_border(device: torch.device) -> None:
    """A search for value ± radius alone miscounts here; the true counts are equal on every path."""
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.standard_normal((2000, 2))).to(device)
    radius = nearest(points, 3).radius
    strict = (distances(points[:, :1]) < radius.cpu().numpy()[:, None]).sum(1)
    values = np.sort(points[:, 0].cpu().numpy())
    x, eps = points[:, 0].cpu().numpy(), radius.cpu().numpy()
    naive = np.searchsorted(values, x + eps) - np.searchsorted(values, x - eps, side="right")
    assert (naive != strict).any()
    assert_counts(points[:, :1], radius, "line")


def test_values_that_vanish_in_the_difference(device: torch.device) -> None:
    """Beside 1, all these values are the same distance away: a guess is off by hundreds of
    places.
    """
    points = torch.cat(
        (
            10.0 ** -torch.arange(20, 300, dtype=torch.float64),
            torch.tensor([0.0, 1.0, 2.0]).double(),
        )
    )
    points = points[:, None].to(device)
    for radius in (1.0, 2.0, 0.5, 1e-100):
        assert_counts(
            points, torch.full((len(points),), radius, dtype=torch.float64, device=device), "line"
        )
    assert_nearest(torch.cat((points, points.flip(0)), 1), 3, 1, "brute")


values = st.one_of(
    st.integers(-4, 4).map(float),
    st.floats(-1e300, 1e300, allow_nan=False, allow_subnormal=True),
    st.sampled_from(
        [0.0, -0.0, 5e-324, 1e-300, 0.1, 0.2, 0.30000000000000004, 1e16, 1e16 + 2, 1e300]
    ),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    data=hnp.arrays(np.float64, st.tuples(st.integers(6, 40), st.integers(2, 3)), elements=values),
    k=st.integers(1, 5),
)
def test_any_numbers(device: torch.device, data: np.ndarray, k: int) -> None:
    points = torch.from_numpy(data).to(device)
    for path in paths(device, "tree", "brute", *(["strips"] if data.shape[1] == 2 else [])):
        assert_nearest(points, k, 1, path)
    radius = nearest(points, k).radius
    for path in paths(device, "tree", "brute", "line"):
        assert_counts(points[:, :1], radius, path)


@pytest.mark.parametrize("width", [1, 31, 32, 200, 2048, 4000])
def test_folded_selection(width: int, device: torch.device) -> None:
    rng = np.random.default_rng(width)
    for distance in (rng.random((7, width)), rng.integers(0, 5, (7, width)).astype(float)):
        for k in {1, min(2, width), min(40, width), width}:
            got = neighbors._kth_smallest(torch.from_numpy(distance).to(device), k)
            np.testing.assert_array_equal(got.cpu().numpy(), np.sort(distance)[:, k - 1])


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    points = make("fine grid", 2).to(device)
    monkeypatch.setitem(CHUNKS, "distances", (700, 700))
    monkeypatch.setattr(neighbors, "WINDOW", 2)
    for path in ("brute", "strips"):
        assert_nearest(points, 3, 1, path)
    assert_counts(points[:, :1], nearest(points, 3).radius, "brute")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts in other units elsewhere")
@pytest.mark.parametrize("path", ["brute", "strips", "tree"])
def test_memory_is_linear(path: str) -> None:
    """All pairs would be 288 MB; so is what a heap in pieces keeps, if chunks leave small results
    behind.
    """
    script = f"""
import resource, torch
from mi_metrics.functional.neighbors.search import nearest
from mi_metrics.functional.neighbors.within import range_counts, strict_counts
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
torch.set_num_threads(1)
points = torch.randn(6000, 2, generator=torch.Generator().manual_seed(0)).double()
for part in (points[:500].contiguous(), points):
    before = peak()
    radius = nearest(part, 3, x_dim=1, path="{path}").radius
    range_counts(part, radius, path="brute")
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 40


@pytest.mark.parametrize("path", ["tree", "brute", "strips", "line"])
def test_queries_select_points(path: str, device: torch.device) -> None:
    if path not in paths(device, path):
        pytest.skip("the tree is the CPU's")
    points = make("fine grid", 2).to(device)[:, : 1 if path == "line" else 2]
    some = torch.tensor([5, 3, 250], device=device)
    for x_dim in (None,) if path == "line" else (None, 1):
        whole = nearest(points, 3, path=path, x_dim=x_dim)
        for chosen in (path, None):
            part = nearest(points, 3, queries=some, path=chosen, x_dim=x_dim)
            assert torch.equal(part.radius, whole.radius[some])
            for side, of_all in zip(part.reach, whole.reach, strict=True):
                assert torch.equal(side, of_all[some])


@pytest.mark.parametrize("compiled", [False, True])
def test_paths_by_default(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, compiled: bool
) -> None:
    taken: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: taken.append(name)

    monkeypatch.setattr(neighbors.native, "serves", lambda: compiled)
    for name in ("native", "tree", "strips", "line", "brute"):
        monkeypatch.setattr(neighbors, f"_{name}", note(name))
    monkeypatch.setattr(neighbors, "_tree_radius", note("tree"))
    for dimensions in (1, 2, 3, neighbors.TREE_DIMENSIONS, neighbors.TREE_DIMENSIONS + 1):
        nearest(torch.zeros(50, dimensions, dtype=torch.float64, device=device), 3)
    cuda = ["line", "strips", "brute", "brute", "brute"]
    few = "native" if compiled else "tree"
    assert taken == (["line", few, few, "tree", "brute"] if device.type == "cpu" else cuda)


def test_line_has_no_rectangle() -> None:
    with pytest.raises(ValueError, match="A line has no rectangle"):
        nearest(torch.zeros(9, 1, dtype=torch.float64), 3, x_dim=1)
