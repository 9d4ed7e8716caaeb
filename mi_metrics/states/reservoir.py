"""A bounded uniform sample of a stream, without a random number generator.

Every row carries a tag, and the M rows of least (tag, row) stay. "The M least" of a set is a
function of the set: the M least of two sets of M least are the M least of the whole, so that
samples of batches, devices and merge trees can be united in any order. Up to M rows nothing is
dropped.

A tag depends on all rows that came before. With t the number of rows seen before a row and s a sum
that wraps around at 2**64,

    s ← s + mix(hash(row) ⊕ mix(t)),    tag = mix(s ⊕ mix(t + c)).

Copies of a row thus have different tags, and a value that repeats is kept as often as its share
asks for. (A hash of the row alone keeps or drops all its copies together; one of t alone does so to
the rows of one t on all ranks.) Two streams share tags only as long as they are equal from their
first row on. The same stream keeps the same sample, whatever its batches; another order of the same
rows keeps another.

State: int64 ``(C, 1 + M, 1 + d)``, for each output a first row ``(t, s, 0 …)`` that adds up in a
merge, then the kept rows in ascending order, tag first, values as their bits; empty slots hold the
largest int64. Memory: 8 (M + 1) (1 + d) bytes per output.

References:
    A. Z. Broder, "On the resemblance and containment of documents" (1997),
    doi:10.1109/SEQUEN.1997.666900. G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom
    number generators" (2014), doi:10.1145/2660193.2660195.
"""

import torch
from torch import Tensor

from mi_metrics.functional.neighbors.hashing import mix, shift
from mi_metrics.functional.tensors import on_cpu

EMPTY = 2**63 - 1
# What tells a tag from a step of the sum: the fraction of the golden ratio squared, in 63 bits.
SALT = 0x30E44323485A9B9D


def empty(
    num_outputs: int, size: int, dim: int, device: torch.device | str | None = None
) -> Tensor:
    """Return the reservoir of no rows, ``(num_outputs, 1 + size, 1 + dim)``: the neutral element of
    :func:`fold`.
    """
    state = torch.full((num_outputs, 1 + size, 1 + dim), EMPTY, dtype=torch.int64, device=device)
    state[:, 0] = 0
    return state


def update(
    state: Tensor, rows: Tensor, valid: Tensor | None = None, stream: Tensor | None = None
) -> Tensor:
    """Return the reservoir after a batch of finite float64 rows ``(C, n, d)``, those apart that are
    not ``valid``.

    An empty reservoir can go on with the stream of another, given its first row ``(C, 1 + d)``; the
    two merged are as if the batch had come to the other.
    """
    # -0.0 and 0 are one value.
    bits = (rows + 0.0).contiguous().view(torch.int64)
    head, kept = state[:, 0], state[:, 1:]
    if stream is None or bool((head[:, 0] > 0).any()):
        stream = torch.zeros_like(head)
    tags, head = _tags(bits, valid, head + stream)
    head = head - stream
    # What can't be among the least is dropped before anything is sorted.
    few = min(kept.shape[1], rows.shape[1])
    bound = tags.kthvalue(few, dim=1).values if on_cpu(rows) else tags.sort(1).values[:, few - 1]
    bound = torch.minimum(bound, kept[:, -1, 0])
    candidates = tags <= bound.unsqueeze(1)
    most = int(candidates.sum(1).max())
    # Outputs differ in how many they have; a stable sort brings them to the front of equally many
    # slots.
    order = (~candidates).to(torch.uint8).sort(dim=1, stable=True).indices[:, :most]
    found = torch.cat([tags.unsqueeze(2), bits], 2).gather(
        1, order.unsqueeze(2).expand(-1, -1, bits.shape[2] + 1)
    )
    found = torch.where(found[:, :, :1] == EMPTY, EMPTY, found)
    return torch.cat([head.unsqueeze(1), _insert(kept, _least(found, most))], 1)


def fold(stacked: Tensor) -> Tensor:
    """Merge reservoirs ``(K, C, 1 + M, 1 + d)`` over the first dimension: the ``dist_reduce_fx`` of
    the state.
    """
    kept = stacked[:, :, 1:].movedim(0, 1).flatten(1, 2)
    head = stacked[:, :, :1].sum(0)
    return torch.cat([head, _least(kept, stacked.shape[2] - 1)], 1)


def rows(state: Tensor) -> list[Tensor]:
    """Return the kept rows of each output, float64 ``(n, d)``."""
    return [kept[kept[:, 0] != EMPTY, 1:].contiguous().view(torch.float64) for kept in state[:, 1:]]


def problems(state: Tensor, total: Tensor) -> list[str]:
    """Say what in a tensor ``(C, 1 + M, 1 + d)`` can't be the reservoir of ``total`` (C,) rows."""
    tags, bits = state[:, 1:, 0], state[:, 1:, 1:]
    filled = tags != EMPTY
    finite = bits.contiguous().view(torch.float64).isfinite().all(2)
    ordered = tags[:, 1:] >= tags[:, :-1]
    right = torch.where(filled, finite & (tags >= 0), (bits == EMPTY).all(2))
    number = filled.sum(1) == total.clamp(max=tags.shape[1])
    seen = state[:, 0, 0] == total
    if bool(ordered.all() & right.all() & number.all() & seen.all()):
        return []
    return [
        "impossible values in samples: expected rows of finite numbers in the order of their tags, "
        f"as many as {total.tolist()} samples leave"
    ]


def _tags(bits: Tensor, valid: Tensor | None, head: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tags of a batch of rows ``(C, n, d)``, and the number and sum after it."""
    one = torch.ones_like(bits[:, :, 0]) if valid is None else valid.long()
    before = head[:, :1] + one.cumsum(1) - one
    # int64 wraps around, in sums too.
    sums = head[:, 1:2] + (one * mix(_hash(bits) ^ mix(before))).cumsum(1)
    tags = shift(mix(sums ^ mix(before + SALT)), 1).clamp_max(EMPTY - 1)
    after = torch.zeros_like(head)
    after[:, 0] = head[:, 0] + one.sum(1)
    after[:, 1] = sums[:, -1]
    return torch.where(one > 0, tags, EMPTY), after


def _insert(state: Tensor, found: Tensor) -> Tensor:
    """Return the least of kept rows and of others that are sorted too: a merge, as most
    batches add few.
    """
    tags, new = (v[:, :, 0].contiguous() for v in (state, found))
    both = torch.empty_like(torch.cat([state, found], 1))
    for rows, place in (
        (state, torch.searchsorted(new, tags)),
        (found, torch.searchsorted(tags, new, right=True)),
    ):
        place = place + torch.arange(rows.shape[1], device=place.device)
        both.scatter_(1, place.unsqueeze(2).expand_as(rows), rows)
    # Different rows of one tag are too rare to be merged by more than their tag.
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
    """Return a word for each row of bits ``(..., d)``."""
    word = torch.full_like(bits[..., 0], bits.shape[-1])
    for value in bits.unbind(-1):
        word = mix(word + value)
    return word
