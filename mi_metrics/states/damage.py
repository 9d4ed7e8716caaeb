"""What in a tensor can't be a grid of samples: how a damaged or changed checkpoint is found out."""

from torch import Tensor

from mi_metrics.states.by_condition import pooled
from mi_metrics.states.keys import _EMPTY, _NEVER, LEAST, _floor, resolution


def grid_problems(state: Tensor, total: Tensor) -> list[str]:
    """Say what in a tensor (C, L) can't be the state of ``total`` (C,) samples."""
    m = resolution(state)
    level, joint = state[:, :2], state[:, 2 + 2 * m :].reshape(-1, m, m)
    found = []
    if bool(((level < LEAST) | (level >= _NEVER)).any()):
        return [f"impossible values in table: levels outside of {LEAST} to {_NEVER - 1}"]
    for axis, name in enumerate("xy"):
        borders = state[:, 2 + axis * m : 2 + (axis + 1) * m]
        filled = borders != _EMPTY
        ascend = ~filled[:, 1:] | (borders[:, 1:] > borders[:, :-1])
        numbers = (borders >= -_EMPTY) & (borders <= _EMPTY)
        whole = ~filled | (_floor(borders, level[:, axis]) == borders)
        if not bool(ascend.all() & numbers.all() & whole.all()):
            found.append(f"borders of {name} that are out of order or not of their level")
        elif bool(((joint.sum(2 - axis) > 0) != filled).any()):
            found.append(f"counts of {name} in empty cells, or cells without a count")
    if bool((joint < 0).any() | (joint.sum((1, 2)) != total).any()):
        found.append(
            f"counts that are negative or do not sum to the {total.tolist()} samples of the "
            "counters"
        )
    return ["impossible values in table: " + ", ".join(found)] if found else []


def conditions_problems(state: Tensor, total: Tensor) -> list[str]:
    """Say what in a tensor ``(K, L)`` can't be the grid under K conditions of ``total`` (1,)
    samples.
    """
    head = state.shape[1] - resolution(state) ** 2
    if bool((state[:, :head] != state[:1, :head]).any()):
        return ["impossible values in table: conditions with cells of their own"]
    if bool((state[:, head:] < 0).any()):
        return ["impossible values in table: counts that are negative"]
    return grid_problems(pooled(state), total)
