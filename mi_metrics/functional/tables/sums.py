"""Sums over the samples of a soft table: the table, its values at samples, and their derivatives.

All go through the samples in chunks and compute the weights anew.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.tables import splines
from mi_metrics.functional.tables.axis import Axis
from mi_metrics.functional.tables.splines import SUPPORT
from mi_metrics.functional.tensors import chunk_size, narrow, on_cpu
from mi_metrics.kernels import gpu, native_soft

Block = tuple[slice, slice]
Pieces = Iterator[tuple[Block, tuple[Tensor | None, ...]]]


def chunks(rows: int, n: int, device: torch.device, size: int | None = None) -> Iterator[Block]:
    """Cut ``(rows, n)`` in blocks of bounded size: several short rows, or pieces of one long
    row.
    """
    return _blocks(rows, n, chunk_size("bins", device) if size is None else size)


def add_up(
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    kernel: str,
) -> Tensor:
    """Return the tables. What kernels have outside of 0 … B - 1 is collected in a margin, and
    folded in at the end.
    """
    rows, n = x.shape
    kernels = splines.along(kernel, bins[0]), splines.along(kernel, bins[1])
    shape = [b + splines.margin(k) for b, k in zip(bins, kernels, strict=True)]
    if on_cpu(x):
        found = native_soft.soft_table(*_sides(x, y, axes, kernels, shape), weights)
        if found is not None:
            return splines.folded(found, axes, bins, kernels)
    else:
        sides = _sides(x, y, axes, kernels, bins)
        whole: Tensor | None = gpu.attempt(
            "soft", _read_by(sides, weights), lambda module: module.soft_table(*sides, weights)
        )
        if whole is not None:
            return whole
    table = torch.zeros(rows, *shape, dtype=torch.float64, device=x.device)
    # Float atomics would add in a random order, so other devices than the CPU multiply matrices.
    add = _scatter if on_cpu(x) else _multiply
    for r, c in _blocks(rows, n, _soft_chunk(x.device, sum(shape))):
        place_x = splines.locate(_part(x, r, c).contiguous(), axes[0].rows(r), kernels[0])
        place_y = splines.locate(_part(y, r, c).contiguous(), axes[1].rows(r), kernels[1])
        w = None if weights is None else _part(weights, r, c).double()
        add(table[r], place_x, place_y, w, kernels)
    return splines.folded(table, axes, bins, kernels)


def _scatter(
    table: Tensor,
    x: tuple[Tensor, Tensor],
    y: tuple[Tensor, Tensor],
    weights: Tensor | None,
    kernels: tuple[str, str],
) -> None:
    flat = table.view(-1)
    index = _flat_index(x[0], y[0], table)
    wx = [w if weights is None else w * weights for w in splines.weights(x[1], kernels[0])]
    wy = splines.weights(y[1], kernels[1])
    mass = torch.empty_like(x[1])
    for k, a in enumerate(wx):
        for l, b in enumerate(wy):
            # Along a single cell the weight is 1.
            if len(wy) > 1:
                torch.mul(a, b, out=mass)
            # The same index into a view that starts further on: no arithmetic on indices.
            flat[k * table.shape[2] + l :].scatter_add_(
                0, index, (mass if len(wy) > 1 else a).view(-1)
            )


def _multiply(
    table: Tensor,
    x: tuple[Tensor, Tensor],
    y: tuple[Tensor, Tensor],
    weights: Tensor | None,
    kernels: tuple[str, str],
) -> None:
    wx = splines.dense(x[0] + x[1], table.shape[1], kernels[0])
    wy = splines.dense(y[0] + y[1], table.shape[2], kernels[1])
    if weights is not None:
        wx = wx * weights.unsqueeze(-1)
    table += wx.mT @ wy


def push_forward(
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    tangents: tuple[Tensor | None, Tensor | None, Tensor | None],
    axes: tuple[Axis, Axis],
    bins: tuple[int, int],
    kernel: str,
) -> Tensor:
    """Return how fast tables change with samples and weights that move along tangents."""
    kernels = splines.along(kernel, bins[0]), splines.along(kernel, bins[1])
    shape = [b + splines.margin(k) for b, k in zip(bins, kernels, strict=True)]
    table = torch.zeros(x.shape[0], *shape, dtype=torch.float64, device=x.device)
    size = max(1, 8 * chunk_size("bins", x.device) // (sum(shape) * max(1, x.shape[0])))
    rows = slice(0, x.shape[0])
    for start in range(0, x.shape[1], size):
        c = slice(start, start + size)
        (wx, dx), (wy, dy) = (
            _matrices(
                _part(v, rows, c), None if d is None else _part(d, rows, c), axis, name, cells
            )
            for v, d, axis, name, cells in zip(
                (x, y), tangents[:2], axes, kernels, shape, strict=True
            )
        )
        w = 1.0 if weights is None else _part(weights, rows, c).double().unsqueeze(2)
        table = table + (dx * w).mT @ wy + (wx * w).mT @ dy
        if tangents[2] is not None:
            table = table + (wx * _part(tangents[2], rows, c).double().unsqueeze(2)).mT @ wy
    return splines.folded(table, axes, bins, kernels)


def _matrices(
    v: Tensor, tangent: Tensor | None, axis: Axis, kernel: str, cells: int
) -> tuple[Tensor, Tensor]:
    """Return the weights of all cells ``(R, n, cells)``, and how fast they change."""
    position = axis.position(v)
    first, t = splines.place(position, axis, kernel)
    weights = splines.spread(first, splines.weights(t, kernel), cells)
    if tangent is None:
        return weights, torch.zeros_like(weights)
    speed = tangent.double() * splines.slope_inside(position, axis, v.dtype)
    return weights, splines.spread(first, [s * speed for s in splines.slopes(t, kernel)], cells)


def values(table: Tensor, x: Tensor, y: Tensor, axes: tuple[Axis, Axis], kernel: str) -> Tensor:
    """Return what tables of coefficients are worth at samples, without a graph."""
    kernels, unfolded = _unfolded(table, axes, kernel)
    sides = _sides(x, y, axes, kernels, unfolded.shape[1:])
    found = native_soft.soft_values(unfolded, *sides) if on_cpu(x) else None
    if found is None:
        found = written(read(table, x, y, axes, kernel), x.shape)[0]
    return found


def gradients(
    table: Tensor,
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    axes: tuple[Axis, Axis],
    kernel: str,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of samples from that of their tables, without a graph."""
    if on_cpu(x):
        kernels, unfolded = _unfolded(table, axes, kernel)
        sides = _sides(x, y, axes, kernels, unfolded.shape[1:])
        found = native_soft.soft_gradients(unfolded, *sides, weights, wanted)
    else:
        kernels = splines.along(kernel, table.shape[1]), splines.along(kernel, table.shape[2])
        sides = _sides(x, y, axes, kernels, table.shape[1:])
        found = gpu.attempt(
            "soft",
            _read_by(sides, weights, table),
            lambda module: module.soft_gradients(table, *sides, weights, wanted),
        )
    if found is None:
        to_x, to_y = written(pull_back(table, x, y, weights, axes, kernel, wanted), x.shape)
        return to_x, to_y
    to_x, to_y = (
        g if g is None or g.dtype == v.dtype else narrow(g, v.dtype)
        for g, v in zip(found, (x, y), strict=True)
    )
    return to_x, to_y


def _sides(
    x: Tensor, y: Tensor, axes: tuple[Axis, Axis], kernels: tuple[str, str], shape: Any
) -> tuple[native_soft.Side, native_soft.Side]:
    """Return what the compiled sums know of x and y."""
    on_x, on_y = (
        native_soft.Side(v, axis.lo, axis.width, axis.bins, axis.scale, name, cells)
        for v, axis, name, cells in zip((x, y), axes, kernels, shape, strict=True)
    )
    return on_x, on_y


def _read_by(
    sides: tuple[native_soft.Side, native_soft.Side], *others: Tensor | None
) -> list[Tensor | None]:
    """Return all tensors that kernels for GPUs read."""
    parts = ((side.samples, side.lo, side.width, side.bins, side.scale) for side in sides)
    return [*(part for side in parts for part in side), *others]


def read(table: Tensor, x: Tensor, y: Tensor, axes: tuple[Axis, Axis], kernel: str) -> Pieces:
    """Yield, block by block, what tables of coefficients are worth at samples."""
    kernels, unfolded = _unfolded(table, axes, kernel)
    for r, c in _gathering_blocks(x):
        (first_x, tx), (first_y, ty) = (
            splines.locate(_part(v, r, c).contiguous(), axis.rows(r), name)
            for v, axis, name in zip((x, y), axes, kernels, strict=True)
        )
        wx, wy = splines.weights(tx, kernels[0]), splines.weights(ty, kernels[1])
        cells = _cells(unfolded[r], first_x, first_y, kernels)
        yield (r, c), (_dot([_along(row, wy) for row in cells], wx),)


def pull_back(
    table: Tensor,
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    axes: tuple[Axis, Axis],
    kernel: str,
    wanted: tuple[bool, bool],
) -> Pieces:
    """Yield, block by block, the gradients of samples from that of their tables; differentiable
    itself.
    """
    kernels, unfolded = _unfolded(table, axes, kernel)
    for r, c in _gathering_blocks(x):
        ax, ay = axes[0].rows(r), axes[1].rows(r)
        u, v = (
            # The place in a single cell is asked for by its gradient alone.
            axis.position(part) if want or name != "single" else torch.zeros_like(part)
            for part, axis, want, name in (
                (_part(x, r, c).contiguous(), ax, wanted[0], kernels[0]),
                (_part(y, r, c).contiguous(), ay, wanted[1], kernels[1]),
            )
        )
        (first_x, tx), (first_y, ty) = (
            splines.place(u, ax, kernels[0]),
            splines.place(v, ay, kernels[1]),
        )
        wx, wy = splines.weights(tx, kernels[0]), splines.weights(ty, kernels[1])
        cells = _cells(unfolded[r], first_x, first_y, kernels)
        w = 1.0 if weights is None else _part(weights, r, c).double()
        to_x = to_y = None
        if wanted[0]:
            to_x = _dot([_along(row, wy) for row in cells], splines.slopes(tx, kernels[0]))
            to_x = narrow(to_x * splines.slope_inside(u, ax, x.dtype) * w, x.dtype)
        if wanted[1]:
            dy = splines.slopes(ty, kernels[1])
            to_y = _dot([_dot(row, dy) for row in cells], wx)
            to_y = narrow(to_y * splines.slope_inside(v, ay, y.dtype) * w, y.dtype)
        yield (r, c), (to_x, to_y)


def written(pieces: Pieces, shape: torch.Size) -> tuple[Any, ...]:
    """Write pieces into one tensor each, without a copy of the whole; None for what is not
    wanted.
    """
    whole: list[Tensor | None] = []
    for (r, c), parts in pieces:
        # Made of the first piece, and so a batch where the pieces are batches of torch.vmap.
        whole = whole or [p if p is None else p.new_empty(shape) for p in parts]
        for into, part in zip(whole, parts, strict=True):
            if into is not None and part is not None:
                into[r, c] = part
    return tuple(whole)


def joined(pieces: Pieces) -> tuple[Any, ...]:
    """Return pieces as whole tensors by operations that autograd and transforms follow."""
    rows: dict[int, list[tuple[Tensor | None, ...]]] = {}
    for (r, _), parts in pieces:
        rows.setdefault(r.start, []).append(parts)
    columns = [*zip(*(zip(*parts, strict=True) for parts in rows.values()), strict=True)]
    where = next(pair[0][0].device.type for pair in columns if pair[0][0] is not None)
    # Autocast joins no pieces of the kind of half precision that is not its own.
    with torch.autocast(where, enabled=False):
        return tuple(
            None if pair[0][0] is None else torch.cat([torch.cat(list(row), 1) for row in pair])
            for pair in columns
        )


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    total = a[0] * b[0]
    for v, w in zip(a[1:], b[1:], strict=True):
        total = torch.addcmul(total, v, w)
    return total


def _along(row: list[Tensor], weights: list[Tensor]) -> Tensor:
    """Return the product with the weights of an axis; that of a single cell is 1."""
    return row[0] if len(row) == 1 else _dot(row, weights)


def _unfolded(
    table: Tensor, axes: tuple[Axis, Axis], kernel: str
) -> tuple[tuple[str, str], Tensor]:
    """Return the kernels along the axes, and the table with the margins' cells, as copies of the
    edge cells.
    """
    kernels = splines.along(kernel, table.shape[1]), splines.along(kernel, table.shape[2])
    return kernels, splines.unfolded(table, axes, kernels).contiguous()


def _cells(
    table: Tensor, first_x: Tensor, first_y: Tensor, kernels: tuple[str, str]
) -> list[list[Tensor]]:
    """Return the table's entries in all cells that samples reach."""
    index, flat, width = _flat_index(first_x, first_y, table), table.reshape(-1), table.shape[2]
    return [
        [
            flat[k * width + l :].index_select(0, index).view_as(first_x)
            for l in range(SUPPORT[kernels[1]])
        ]
        for k in range(SUPPORT[kernels[0]])
    ]


def _flat_index(first_x: Tensor, first_y: Tensor, table: Tensor) -> Tensor:
    index = first_x.long() * table.shape[2] + first_y.long()
    if table.shape[0] > 1:
        rows = torch.arange(table.shape[0], device=index.device).unsqueeze(1)
        index = index.add_(rows, alpha=table.shape[1] * table.shape[2])
    return index.view(-1)


def _soft_chunk(device: torch.device, cells: int) -> int:
    # On the CPU the weights of both axes and their products stay in the cache, too; elsewhere two
    # matrices of (n, cells) must fit.
    size = chunk_size("bins", device) // 2
    return max(1, size // 4 if on_cpu(device) else 8 * size // cells)


def _part(v: Tensor, r: slice, c: slice) -> Tensor:
    # Old batches of gradients (is_grads_batched) know no slices of everything.
    whole = r.start == c.start == 0 and r.stop >= v.shape[0] and c.stop >= v.shape[1]
    return v if whole else v[r, c]


def _gathering_blocks(x: Tensor) -> Iterator[Block]:
    return _blocks(x.shape[0], x.shape[1], _soft_chunk(x.device, 2 * SUPPORT["cubic"]))


def _blocks(rows: int, n: int, size: int) -> Iterator[Block]:
    columns = max(1, min(n, size))
    block = max(1, size // columns)
    for r in range(0, rows, block):
        for c in range(0, max(1, n), columns):
            yield slice(r, r + block), slice(c, c + columns)
