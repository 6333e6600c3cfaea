"""sinkhorn-group: all items of a shared SID are placed anew by a transport plan of their own."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sidbench.kit import groups
from sidbench.kit.nearest import Index
from sidbench.kit.places import VALUES, Places, to_nearest
from sidbench.kit.workers import workers
from sidbench.resolver import Mover
from sidbench.sids import distinct_rows

TILE = 1 << 17  # entries of plans at one time, near the processor
SAME = 1e-6  # shares that differ by less, relatively, are one


class SinkhornGroup(Mover):
    """Gives all items of a shared SID new last codes by Sinkhorn's iterations over that group, in rounds.

    What LC-Rec and MiniOneRec do with an index. A group spreads over the codes as if they were empty, so it
    may meet others, which then join the next round: items that shared their SID with none can move. Items of
    equal embeddings have equal rows in every plan and never part; of a group whose plan has more than four
    million entries nothing is moved. Items that come later leave those that are there in place: they go to
    the nearest free last code below their prefix.
    """

    name = "sinkhorn-group"
    paper = "https://arxiv.org/abs/2311.09049"
    unique: ClassVar[bool] = False
    moves_others: ClassVar[bool] = True

    #: Rounds at most.
    rounds: Annotated[int, Field(ge=1)] = 20
    #: Smoothing, in units of half the range of a group's distances; double precision ends below 0.003.
    epsilon: Annotated[float, Field(ge=0.003, allow_inf_nan=False)] = 0.003
    #: Sinkhorn's iterations.
    iters: Annotated[int, Field(ge=1)] = 50

    def place(self, places: Places, item_ids: NDArray[Any]) -> None:
        if places.frozen:
            to_nearest(places, 1)
            return
        # Only below a prefix where a SID is shared can anything move; the other items are looked at once.
        prefix = distinct_rows(places.codes[:, :-1])[1]
        live = np.flatnonzero(_marked(prefix, places.crowd()[0], prefix.max(initial=-1) + 1)[prefix])
        prefix = np.unique(prefix[live], return_inverse=True)[1]
        # What happens below one prefix is nothing to the others: each ends at the first of its rounds with
        # the most SIDs. Where there is no room groups go in circles: a prefix is left once it repeats itself.
        whole, at, size = live, np.arange(len(live)), np.bincount(prefix)
        best, codes = places.codes[whole, -1], places.sizes[-1]
        place, most = _sids(prefix, best, codes, len(size))
        state = np.zeros(len(size), dtype=np.uint64)
        np.add.at(state, prefix, _named(live, best))
        past, seen = state.copy(), np.zeros(0, dtype=np.uint64)
        known = _Spreads()
        for _ in range(self.rounds):
            shared = np.bincount(place)[place] > 1
            which, below = live[shared], prefix[shared]
            group = np.unique(place[shared], return_inverse=True)[1]
            # The very same items on the very same code would stay there again.
            before = _named(which, places.codes[which, -1])
            names = np.zeros(group.max(initial=-1) + 1, dtype=np.uint64)
            np.add.at(names, group, before)
            small = np.bincount(group, minlength=len(names)) * codes <= VALUES
            new = small & ~np.isin(names, seen)
            if not new.any():
                break
            again = known.hold(which, group)
            known.put(places, which, group, new & again)
            self._spread(places, which[(new & ~again)[group]], group[(new & ~again)[group]])
            known.keep(places, which, group, new & ~again)
            after = _named(which, places.codes[which, -1])
            moved = after != before
            new[group[moved]] = False
            seen = np.concatenate([seen, names[new]])
            np.add.at(state, below[moved], after[moved] - before[moved])
            other = _marked(below, np.flatnonzero(moved), len(size))
            other[other] = ~np.isin(state[other], past)
            past = np.concatenate([past, state[other]])
            live, prefix, at = (v[other[prefix]] for v in (live, prefix, at))
            place, distinct = _sids(prefix, places.codes[live, -1], codes, len(size))
            better = distinct > most
            most[better] = distinct[better]
            best[at[better[prefix]]] = places.codes[live[better[prefix]], -1]
            unfit = (distinct < size)[prefix]
            live, prefix, at, place = (v[unfit] for v in (live, prefix, at, place))
        places.codes[whole, -1] = best

    def _spread(self, places: Places, which: Index, group: Index) -> None:
        """New last codes for whole groups, those of equal size together."""
        size = np.bincount(group)[group]
        order = np.lexsort((group, size))
        which, size = which[order], size[order]
        k = places.sizes[-1]
        for begin, end in _runs(size):
            members = int(size[begin])
            step = members * max(1, places.step(k) // members)
            for at in range(begin, end, step):
                some = which[at : min(at + step, end)]
                costs = places.costs(some, places.codes[some, :-1])
                places.codes[some, -1] = self._codes(costs.reshape(-1, members, k)).ravel()

    def _codes(self, costs: NDArray[np.float32]) -> Index:
        """(groups, members) the code of which each has the largest share; of equal shares, the nearest.

        With fewer members than codes most codes are one member's alone: shares of 1 up to rounding.
        """
        low, high = costs.min(axis=(1, 2), keepdims=True), costs.max(axis=(1, 2), keepdims=True)
        found = np.empty(costs.shape[:2], dtype=np.int64)
        step, share = max(1, TILE // costs[0].size), costs.shape[1] / costs.shape[2]

        def part(start: int, stop: int) -> None:
            half = (high - low)[start:stop].astype(np.float64) / 2 + 1e-5
            # Distances centred to -1 to 1; a row's own constant changes nothing, and none overflows without.
            plan = costs[start:stop].astype(np.float64) / half
            plan = np.exp((plan.min(axis=2, keepdims=True) - plan) / self.epsilon)
            code = np.ones((len(plan), plan.shape[2], 1))
            for _ in range(self.iters):
                row = 1 / (plan @ code)
                code = share / (plan.transpose(0, 2, 1) @ row)
            plan *= code.transpose(0, 2, 1)
            most = plan >= (1 - SAME) * plan.max(axis=2, keepdims=True)
            found[start:stop] = np.where(most, costs[start:stop], np.inf).argmin(axis=2)

        with workers() as run:
            run(part, len(costs), step)
        return found


class _Spreads:
    """Where the items of a group went: the same ones would go there again, whatever code they share."""

    def __init__(self) -> None:
        self.groups = np.zeros(0, dtype=np.uint64)
        self.items, self.codes = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int32)

    def hold(self, which: Index, group: Index) -> NDArray[np.bool_]:
        """Of each group, whether these very items were one before."""
        own = groups.scrambled(which.astype(np.uint64))
        names = np.zeros(group.max(initial=-1) + 1, dtype=np.uint64)
        np.add.at(names, group, own)
        self._names, self._own = names, groups.scrambled(names[group] ^ own)
        return np.isin(names, self.groups)

    def put(self, places: Places, which: Index, group: Index, some: NDArray[np.bool_]) -> None:
        """Put the items of some groups where they went before."""
        items = np.flatnonzero(some[group])
        places.codes[which[items], -1] = self.codes[np.searchsorted(self.items, self._own[items])]

    def keep(self, places: Places, which: Index, group: Index, some: NDArray[np.bool_]) -> None:
        """Note where the items of some groups went now."""
        items = np.flatnonzero(some[group])
        self.groups = np.concatenate([self.groups, self._names[some]])
        keys = np.concatenate([self.items, self._own[items]])
        codes = np.concatenate([self.codes, places.codes[which[items], -1]])
        order = np.argsort(keys)
        self.items, self.codes = keys[order], codes[order]


def _named(which: Index, codes: NDArray[np.int32]) -> NDArray[np.uint64]:
    """A number for every item at its code; sums of them name who is where."""
    return groups.scrambled(groups.scrambled(which.astype(np.uint64)) ^ codes.astype(np.uint64))


def _sids(prefix: Index, codes: NDArray[np.int32], size: int, prefixes: int) -> tuple[Index, Index]:
    """The number of each item's SID, and how many SIDs there are below each prefix."""
    cells, place = np.unique(prefix * size + codes, return_inverse=True)
    return place, np.bincount(cells // size, minlength=prefixes)


def _marked(group: Index, members: Index, groups: int) -> NDArray[np.bool_]:
    """Of so many groups, whether one of these is in it."""
    marked = np.zeros(groups, dtype=bool)
    marked[group[members]] = True
    return marked


def _runs(values: Index) -> list[tuple[int, int]]:
    """Where each run of equal values begins and ends."""
    ends = np.flatnonzero(np.diff(values, append=-1)) + 1
    return [(int(a), int(b)) for a, b in zip(np.append(0, ends), ends, strict=False)]
