"""Samples shared out among the points of their grids: tables, their values at samples, and
derivatives, without a graph.

In two ways: by dense matrices of the weights of all points, where time is the number of operations,
and by the sums of soft tables, which take time by the sample.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mi_metrics.functional.densities.grids import Grids
from mi_metrics.functional.tables import sums
from mi_metrics.functional.tables.axis import Axis
from mi_metrics.functional.tables.dense import cubic_weights

# A table of x and z ``(R, G, G)`` and those of x and of y ``(2, R, G)``.
Tables = tuple[Tensor, Tensor]
# Weights of samples in the three: of one kind for each ``(3, R, n)``, for all ``(R, n)``, or 1.
Masses = Tensor | None
# Derivatives by x, y and z, ``(R, n)``; None where not wanted.
Slopes = tuple[Tensor | None, Tensor | None, Tensor]


def of_density(masses: Masses, density: int) -> Tensor | None:
    """Return the weights of samples in one of the three tables."""
    return masses if masses is None or masses.ndim == 2 else masses[density]


class Dense:
    """Samples x, y and z ``(3, R, n)`` as matrices of the weights of all grid points."""

    def __init__(self, v: Tensor, grids: Grids, differentiate: bool):
        points = torch.arange(grids.size, dtype=torch.float64, device=v.device)
        distance = ((v - grids.first) / grids.step).unsqueeze(3) - points
        # Six times the weights of the spline, and minus twice its slopes.
        weights, self.slopes_ = cubic_weights(distance, differentiate)
        self.weights, self.step = weights.mul_(1 / 6), grids.step

    def tables(self, masses: Masses) -> Tables:
        """Return what samples of these masses are shared out to."""
        of_x, _, of_z = self.weights
        pair = of_density(masses, 0)
        joint = torch.bmm((of_x if pair is None else of_x * pair.unsqueeze(2)).mT, of_z)
        if masses is None:
            return joint, self.weights[:2].sum(2)
        alone = masses[1:] if masses.ndim == 3 else masses
        return joint, (self.weights[:2] * alone.unsqueeze(-1)).sum(2)

    def values(self, tables: Tables) -> Tensor:
        """Return what tables are worth at the samples, ``(3, R, n)``."""
        pair = (torch.bmm(self.weights[0], tables[0]) * self.weights[2]).sum(2)
        alone = (self.weights[:2] * tables[1].unsqueeze(2)).sum(3)
        return torch.cat([pair.unsqueeze(0), alone])

    def slopes(self, terms: Sequence[tuple[Tables, Masses]], of_x: bool, of_y: bool) -> Slopes:
        """Return the derivatives of the sum of what tables are worth at samples times masses."""
        assert self.slopes_ is not None
        masses = torch.stack([self._whole(m) for _, m in terms], 3)
        pairs, single = [t[0] for t, _ in terms], torch.stack([t[1] for t, _ in terms], 2)
        rate = self.step.reciprocal() * -0.5
        along = self._along(2, masses[0], torch.cat([p.mT for p in pairs], 1))
        along = torch.baddbmm(along, masses[1], single[0]) if of_x else along
        to_x = (along * self.slopes_[0]).sum(2) * rate[0] if of_x else None
        to_y = None
        if of_y:
            to_y = (torch.bmm(masses[2], single[1]) * self.slopes_[1]).sum(2) * rate[1]
        along = self._along(0, masses[0], torch.cat(pairs, 1))
        return to_x, to_y, (along * self.slopes_[2]).sum(2) * rate[2]

    def _along(self, other: int, masses: Tensor, tables: Tensor) -> Tensor:
        held = self.weights[other].unsqueeze(2) * masses.unsqueeze(3)
        return torch.bmm(held.flatten(2), tables)

    def _whole(self, masses: Masses) -> Tensor:
        shape = self.weights.shape[:3]
        if masses is None:
            return torch.ones((), dtype=torch.float64, device=self.step.device).expand(shape)
        return masses.expand(shape)


class Sums:
    """Samples x, y and z ``(3, R, n)`` by the sums of soft tables."""

    def __init__(self, v: Tensor, grids: Grids, differentiate: bool):
        self.v, self.size = v, grids.size
        self.axes = axes(grids)
        zero = torch.zeros_like(grids.step[0])
        self.single = Axis(zero, zero + 1, zero + 1)

    def tables(self, masses: Masses) -> Tables:
        """Return what samples of these masses are shared out to."""
        x, _, z = self.v
        bins = self.size, self.size
        joint = sums.add_up(
            x, z, of_density(masses, 0), (self.axes[0], self.axes[2]), bins, "inner"
        )
        each = masses is not None and masses.ndim == 3
        of_x = self._line(0, of_density(masses, 1)) if each else joint.sum(2)
        return joint, torch.stack([of_x, self._line(1, of_density(masses, 2))])

    def _line(self, side: int, masses: Tensor | None) -> Tensor:
        v, pair = self.v[side], (self.axes[side], self.single)
        return sums.add_up(v, v, masses, pair, (self.size, 1), "inner").squeeze(2)

    def values(self, tables: Tables) -> Tensor:
        """Return what tables are worth at the samples, ``(3, R, n)``."""
        x, y, z = self.v
        found = [sums.values(tables[0], x, z, (self.axes[0], self.axes[2]), "inner")]
        for v, axis, table in zip((x, y), self.axes, tables[1], strict=False):
            found.append(sums.values(table.unsqueeze(2), v, v, (axis, self.single), "inner"))
        return torch.stack(found)

    def slopes(self, terms: Sequence[tuple[Tables, Masses]], of_x: bool, of_y: bool) -> Slopes:
        """Return the derivatives of the sum of what tables are worth at samples times masses."""
        x, _, z = self.v
        found: list[Tensor | None] = [None, None, None]

        def add(side: int, slope: Tensor | None) -> None:
            had = found[side]
            found[side] = slope if had is None or slope is None else had.add_(slope)

        for (joint, single), masses in terms:
            pair = self.axes[0], self.axes[2]
            to_x, to_z = sums.gradients(
                joint, x, z, of_density(masses, 0), pair, "inner", (of_x, True)
            )
            if of_x:
                add(0, to_x)
            add(2, to_z)
            for side in (side for side, want in enumerate((of_x, of_y)) if want):
                v, line = self.v[side], (self.axes[side], self.single)
                table, mass = single[side].unsqueeze(2), of_density(masses, 1 + side)
                add(side, sums.gradients(table, v, v, mass, line, "inner", (True, False))[0])
        to_z = found[2]
        assert to_z is not None
        return found[0], found[1], to_z


def axes(grids: Grids) -> tuple[Axis, Axis, Axis]:
    """Return the axes of x, y and z whose cells' centres are the grid points."""
    size = torch.full_like(grids.step[0], grids.size)
    on_x, on_y, on_z = (
        Axis(first - step / 2, step * grids.size, size)
        for first, step in zip(grids.first, grids.step, strict=True)
    )
    return on_x, on_y, on_z
