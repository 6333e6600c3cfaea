"""sinkhorn-group: all items of a shared SID are placed anew by a transport plan of their own."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sidbench.kit import groups
from sidbench.kit.nearest import Index
from sidbench.kit.places import VALUES, Places, to_nearest
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
        live = np.flatnonzero(_marked(prefix, places.crowd()[0])[prefix])
        whole, prefix, rest = live, prefix[live], 0
        place = distinct_rows(places.codes[live])[1]
        # Where there is no room groups may go in circles: of all rounds the last with the most SIDs counts.
        best, most = places.codes[whole, -1], int(place.max(initial=-1)) + 1
        seen = np.zeros(0, dtype=np.uint64)
        for _ in range(self.rounds):
            shared = np.bincount(place)[place] > 1
            which, group = live[shared], np.unique(place[shared], return_inverse=True)[1]
            # The very same items on the very same code would stay there again.
            names = np.zeros(group.max(initial=-1) + 1, dtype=np.uint64)
            before = places.codes[which, -1].astype(np.uint64)
            np.add.at(names, group, groups.scrambled(groups.scrambled(which.astype(np.uint64)) ^ before))
            small = np.bincount(group, minlength=len(names)) * places.sizes[-1] <= VALUES
            new = small & ~np.isin(names, seen)
            if not new.any():
                break
            self._spread(places, which[new[group]], group[new[group]])
            moved = places.codes[which, -1] != before
            new[group[moved]] = False
            seen = np.concatenate([seen, names[new]])
            place = distinct_rows(places.codes[live])[1]
            distinct = rest + int(place.max()) + 1
            if distinct >= most:
                best, most = places.codes[whole, -1], distinct
            # Below a prefix where nothing moved nothing will: what is there has come to rest.
            stays = _marked(prefix, np.flatnonzero(shared)[moved])[prefix]
            live, prefix, place = live[stays], prefix[stays], np.unique(place[stays], return_inverse=True)[1]
            rest = distinct - (int(place.max(initial=-1)) + 1)
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
        for at in range(0, len(costs), step):
            part = slice(at, at + step)
            # Distances centred to -1 to 1; a row's own constant changes nothing, and none overflows without.
            plan = costs[part].astype(np.float64) / ((high - low)[part].astype(np.float64) / 2 + 1e-5)
            plan = np.exp((plan.min(axis=2, keepdims=True) - plan) / self.epsilon)
            code = np.ones((len(plan), plan.shape[2], 1))
            for _ in range(self.iters):
                row = 1 / (plan @ code)
                code = share / (plan.transpose(0, 2, 1) @ row)
            plan *= code.transpose(0, 2, 1)
            most = plan >= (1 - SAME) * plan.max(axis=2, keepdims=True)
            found[part] = np.where(most, costs[part], np.inf).argmin(axis=2)
        return found


def _marked(group: Index, members: Index) -> NDArray[np.bool_]:
    """Of each group, whether one of these is in it."""
    marked = np.zeros(group.max(initial=-1) + 1, dtype=bool)
    marked[group[members]] = True
    return marked


def _runs(values: Index) -> list[tuple[int, int]]:
    """Where each run of equal values begins and ends."""
    ends = np.flatnonzero(np.diff(values, append=-1)) + 1
    return [(int(a), int(b)) for a, b in zip(np.append(0, ends), ends, strict=False)]
