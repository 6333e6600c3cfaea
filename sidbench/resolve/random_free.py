"""random-free: who does not fit moves to any last code that has room."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sidbench.kit import groups
from sidbench.kit.places import Places, Shelves
from sidbench.resolver import Mover


class RandomFree(Mover):
    """Items beyond `cap` on a SID move to a random last code below their prefix that has room.

    What the nearest place is worth shows against it; it asks for no distances. Who stays is random too, by
    seed and item id. An item whose prefix has no room left stays where it is, and facts count it.
    """

    name = "random-free"
    paper = "https://arxiv.org/abs/2509.20904"
    needs_costs: ClassVar[bool] = False

    #: Items that may share a SID; FORGE lets 5.
    cap: Annotated[int, Field(ge=1)] = 1
    #: One seed, one result.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def most(self) -> int:
        return self.cap

    def place(self, places: Places, item_ids: NDArray[Any]) -> None:
        rng = np.random.default_rng(self.seed)
        lot = np.empty(len(item_ids), dtype=np.int64)
        lot[np.argsort(item_ids, kind="stable")] = rng.permutation(len(item_ids))
        salt = groups.scrambled(rng.integers(2**63, size=1, dtype=np.uint64))
        movers, _ = places.movers(self.cap, lot)
        shelves = Shelves(places, movers, lot[movers - places.frozen])
        for which, shelf in shelves.pieces():
            room = np.maximum(self.cap - shelves.counts(which), 0)
            first = which[np.unique(shelf, return_index=True)[1]]
            prefix = groups.keys(places.codes[first, :-1], places.sizes[:-1])[:, None]
            # The last codes in a random order of each prefix.
            code = np.arange(room.shape[1], dtype=np.uint64)
            order = groups.scrambled(groups.scrambled(prefix ^ salt) ^ code).argsort(axis=1)
            # The first mover of a prefix takes the first place with room, the second the second.
            upto = np.cumsum(np.take_along_axis(room, order, axis=1), axis=1)
            turn = groups.ranks(shelf)
            at = (upto[shelf] <= turn[:, None]).sum(axis=1)
            fits = at < room.shape[1]
            places.codes[which[fits], -1] = order[shelf[fits], at[fits]]
