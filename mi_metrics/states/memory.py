"""What a metric keeps between updates of a dyadic grid, beside the state."""

import weakref

from torch import Tensor

from mi_metrics.kernels import native_grid
from mi_metrics.states import few, searches
from mi_metrics.states.lookups import Lookup


class Memory:
    """What is kept between updates to find samples faster: a function of the cells of the state
    that the last one made, and no part of it.
    """

    def __init__(self) -> None:
        self._state: weakref.ref[Tensor] | None = None
        self.forget()

    def forget(self) -> None:
        """Keep nothing."""
        self.index: few.Index | None = None
        self.lookups: tuple[list[Lookup], list[Lookup]] | None = None
        self.packed: native_grid.Lookups | None = None
        self.of_bytes: Tensor | None = None
        self.searches: searches.Searches | None = None
        # Whether the last batch was sorted and brought no new cell.
        self.settled = False

    def is_of(self, state: Tensor | None) -> bool:
        """Say whether what is kept is for a state; of None, whether for none that still is."""
        return (None if self._state is None else self._state()) is state

    def recall(self, state: Tensor) -> None:
        """Forget what was kept for another state; what follows is of none until it is kept."""
        if not self.is_of(state):
            self.forget()
        # A batch that is refused may leave lookups of a state on the way.
        self._state = None

    def keep(self, state: Tensor) -> None:
        """Remember what the next update begins with."""
        self._state = weakref.ref(state)

    def __reduce__(self) -> tuple[type["Memory"], tuple[()]]:
        # A copy begins anew.
        return Memory, ()
