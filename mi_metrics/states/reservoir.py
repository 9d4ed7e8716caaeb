"""A bounded sample of a stream that does not depend on the stream's order, for estimators that need
the samples.

Every row gets a key, a hash of the bits of its float64 values. The reservoir keeps the M rows of
least (key, row). "The M least" of a multiset is a function of the multiset: it can be taken over
batches, devices and merge trees in any order, and the M least of two sets of M least are the M
least of the whole. Up to M rows nothing is dropped.

Where rows do not repeat, the keys are as good as random numbers that were drawn once per row, and
the kept rows are a uniform sample without replacement; no random number generator is involved.
Where rows repeat, all copies of a row have one key and are kept or dropped together: labels against
labels, or the zeros of a ReLU. This shows: with u the largest kept key as a fraction of the key
range, a uniform sample has M = N u up to a few √M.

State: int64 ``(C, M, 1 + d)``, for each output the kept rows in ascending order, key first, values
as their bits; empty slots hold the largest int64. Memory: 8 M (1 + d) bytes per output.

References:
    A. Z. Broder, "On the resemblance and containment of documents" (1997),
    doi:10.1109/SEQUEN.1997.666900. G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom
    number generators" (2014), doi:10.1145/2660193.2660195.
"""

import math

import torch
from torch import Tensor

EMPTY = 2**63 - 1


def empty(
    num_outputs: int, size: int, dim: int, device: torch.device | str | None = None
) -> Tensor:
    """Return the reservoir of no rows, ``(num_outputs, size, 1 + dim)``: the neutral element of
    :func:`fold`.
    """
    return torch.full((num_outputs, size, 1 + dim), EMPTY, dtype=torch.int64, device=device)


def update(state: Tensor, rows: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the reservoir after a batch of finite float64 rows ``(C, n, d)``, those apart that are
    not ``valid``.
    """
    # -0.0 and 0 are one value.
    bits = (rows + 0.0).contiguous().view(torch.int64)
    keys = _hash(bits)
    if valid is not None:
        keys = torch.where(valid, keys, EMPTY)
    # What can't be among the least is dropped before anything is sorted.
    size = state.shape[1]
    few = min(size, rows.shape[1])
    bound = (
        keys.kthvalue(few, dim=1).values
        if rows.device.type == "cpu"
        else keys.sort(1).values[:, few - 1]
    )
    bound = torch.minimum(bound, state[:, -1, 0])
    candidates = keys <= bound.unsqueeze(1)
    most = int(candidates.sum(1).max())
    # Outputs differ in how many they have; a stable sort brings them to the front of equally many
    # slots.
    order = (~candidates).to(torch.uint8).sort(dim=1, stable=True).indices[:, :most]
    found = torch.cat([keys.unsqueeze(2), bits], 2).gather(
        1, order.unsqueeze(2).expand(-1, -1, bits.shape[2] + 1)
    )
    found = torch.where(found[:, :, :1] == EMPTY, EMPTY, found)
    return _insert(state, _least(found, most))


def fold(stacked: Tensor) -> Tensor:
    """Merge reservoirs ``(K, C, M, 1 + d)`` over the first dimension: the ``dist_reduce_fx`` of the
    state.
    """
    return _least(stacked.movedim(0, 1).flatten(1, 2), stacked.shape[2])


def rows(state: Tensor) -> list[Tensor]:
    """Return the kept rows of each output, float64 ``(n, d)``."""
    return [kept[kept[:, 0] != EMPTY, 1:].contiguous().view(torch.float64) for kept in state]


def problems(state: Tensor, total: Tensor) -> list[str]:
    """Say what in a tensor ``(C, M, 1 + d)`` can't be the reservoir of ``total`` (C,) rows."""
    keys, bits = state[:, :, 0], state[:, :, 1:]
    filled = keys != EMPTY
    finite = bits.contiguous().view(torch.float64).isfinite().all(2)
    ordered = keys[:, 1:] >= keys[:, :-1]
    right = torch.where(filled, finite & (keys == _hash(bits)), (bits == EMPTY).all(2))
    number = filled.sum(1) == total.clamp(max=state.shape[1])
    if bool(ordered.all() & right.all() & number.all()):
        return []
    return [
        "impossible values in samples: expected rows of finite numbers in the order of their keys, "
        f"as many as {total.tolist()} samples leave"
    ]


def is_representative(state: Tensor, seen: Tensor) -> Tensor:
    """Return for each output, bool ``(C,)``, whether the kept rows can be a uniform sample of
    ``seen`` rows.
    """
    size = state.shape[1]
    largest = state[:, -1, 0].double() / 2.0**63
    deviation = (size - seen.double() * largest).abs()
    return (seen <= size) | (deviation <= 6 * math.sqrt(size))


def _insert(state: Tensor, found: Tensor) -> Tensor:
    """Return the least of the rows of a state and of others that are sorted too: a merge, as most
    batches add few.
    """
    keys, new = (v[:, :, 0].contiguous() for v in (state, found))
    both = torch.empty_like(torch.cat([state, found], 1))
    for rows, place in (
        (state, torch.searchsorted(new, keys)),
        (found, torch.searchsorted(keys, new, right=True)),
    ):
        place = place + torch.arange(rows.shape[1], device=place.device)
        both.scatter_(1, place.unsqueeze(2).expand_as(rows), rows)
    # Different rows of one key are too rare to be merged by more than their key.
    after, before = both[:, 1:], both[:, :-1]
    if bool(((after[:, :, 0] == before[:, :, 0]) & (after != before).any(2)).any()):
        return _least(both, state.shape[1])
    return both[:, : state.shape[1]].clone()


def _least(candidates: Tensor, size: int) -> Tensor:
    """Return the ``size`` least of rows ``(C, n, 1 + d)`` in lexicographic order, sorted."""
    # Stable sorts from the last column to the first. Bits need not be ordered as numbers, only
    # always alike.
    for column in range(candidates.shape[2] - 1, -1, -1):
        order = candidates[:, :, column].sort(dim=1, stable=True).indices
        candidates = candidates.gather(1, order.unsqueeze(2).expand_as(candidates))
    # A copy: a view would keep all candidates alive.
    return candidates[:, :size].clone()


def _hash(bits: Tensor) -> Tensor:
    """Return a key in 0 … 2**63 - 2 for each row of bits ``(..., d)``: the SplitMix64 finaliser,
    chained.
    """
    key = torch.full_like(bits[..., 0], bits.shape[-1])
    for word in bits.unbind(-1):
        # int64 wraps around; 0x9E3779B97F4A7C15 and the others are written as what they wrap to.
        key = key + word - 7046029254386353131
        key = (key ^ _shift(key, 30)) * -4658895280553007687
        key = (key ^ _shift(key, 27)) * -7723592293110705685
        key = key ^ _shift(key, 31)
    return torch.clamp(_shift(key, 1), max=EMPTY - 1)


def _shift(value: Tensor, places: int) -> Tensor:
    # The shift of int64 copies the sign; the mask takes it away.
    return (value >> places) & ((1 << (64 - places)) - 1)
