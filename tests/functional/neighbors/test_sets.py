"""Many sets told apart at once have the bits of one after the other, and no doubt is overlooked."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mi_metrics.functional.neighbors.doubts import doubts, few_labels
from mi_metrics.functional.neighbors.sets import tell_sets_apart
from mi_metrics.functional.neighbors.sets_doubts import doubtful
from mi_metrics.functional.neighbors.ties import multiplicity, tell_apart, tell_triples_apart
from tests.kernels.test_neighbors import KINDS, VALUES, make

SCALINGS = (True, False, "rank", "joint")


def assert_told_apart(sets, dims, standardize, *, discrete_y=False):
    found = tell_sets_apart(sets, dims, standardize, discrete_y=discrete_y)
    for b, rows in enumerate(sets):
        if len(dims) == 2:
            one = tell_apart(rows, dims[0], standardize, discrete_y=discrete_y)
        else:
            one = tell_triples_apart(rows, dims, standardize)
        assert (one is None) == bool(found.constant[b])
        if one is None:
            continue
        for points, right in zip(found.points, one, strict=False):
            assert torch.equal(points[b], right)
        assert torch.equal(found.same[b], one.same_row)
        if len(dims) == 2:
            assert torch.equal(found.alike(0)[b], one.same_x)
            assert torch.equal(found.alike(1)[b], one.same_y)
        else:
            x, _, z = one.given
            assert torch.equal(found.alike(0, 2)[b], multiplicity([*x, *z]))


@pytest.mark.parametrize("standardize", SCALINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_sets_are_told_apart_as_each_is(kind, standardize):
    for size in (5, 60, 201):
        one, other, ends = (make(k, size, 4) for k in (kind, "grid", "8 bits"))
        sets = torch.from_numpy(np.stack((one, 1e-3 * one, other, ends * [1, 1, 1, 0])))
        for dims in ((1, 3), (3, 1), (2, 2), (1, 2, 1), (1, 1, 2)):
            assert_told_apart(sets, dims, standardize)
        sets[..., 3] = torch.arange(size) % 3
        assert_told_apart(sets, (3, 1), standardize, discrete_y=True)


@settings(max_examples=100, derandomize=True)
@given(
    sets=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 3), st.integers(2, 20), st.integers(3, 4)),
        elements=VALUES,
    ),
    standardize=st.sampled_from(SCALINGS),
)
def test_sets_of_any_numbers(sets, standardize):
    dim = sets.shape[2]
    for dims in ((1, dim - 1), (1, 1, dim - 2)):
        assert_told_apart(torch.from_numpy(sets), dims, standardize)


def in_doubt(size, dim):
    """Sets of all kinds, and such that ought to raise a doubt."""
    generator = torch.Generator().manual_seed(size)
    plain = [torch.from_numpy(make(kind, size, dim)) for kind in KINDS]
    yield from plain
    for rows in plain[:3]:
        yield rows[torch.randint(size, (size,), generator=generator)]
        yield rows[torch.arange(size) // 2]
        yield rows[torch.arange(size) * 9 // 10]
    yield (torch.arange(size) % 7).double()[:, None].expand(-1, dim)
    far, labels = plain[0].clone(), plain[0].clone()
    far[0], labels[:, -1] = 1e9, torch.arange(size) % 4
    yield from (far, labels)


@pytest.mark.parametrize("dims", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("size", [6, 12, 40, 200])
@pytest.mark.parametrize("discrete_y", [False, True])
def test_no_doubt_is_overlooked(size, dims, discrete_y):
    if discrete_y and dims[1] > 1:
        pytest.skip("a label has one column")
    sets = torch.stack(list(in_doubt(size, sum(dims))))
    if discrete_y:
        sets[..., -1] = sets[..., -1].round().clamp(-3, 3)
    how = {"discrete_y": discrete_y, "compares_scales": True}
    for k in (1, 3, 5):
        found = doubtful(sets, dims[0], k, **how)
        of_each = [doubts(rows, dims[0], k, **how) for rows in sets]
        few = [b for b, said in enumerate(of_each) if "too few" in said]
        wanted = set(few[:1])
        for b, said in enumerate(of_each):
            labels = not discrete_y and any(
                few_labels(sets[b], column, k)
                for column, width in ((0, dims[0]), (dims[0], dims[1]))
                if width == 1
            )
            if labels or set(said) - {"too few"}:
                wanted.add(b)
        assert wanted <= set(found)
    assert doubtful(sets[:1], dims[0], size, **how) == []
    assert doubtful(sets[:0], dims[0], 3, **how) == []


def test_plain_samples_are_in_no_doubt():
    sets = torch.randn(20, 200, 3, generator=torch.Generator().manual_seed(0)).double()
    assert doubtful(sets, 1, 3, discrete_y=False, compares_scales=True) == []
