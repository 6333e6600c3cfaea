"""min-cost-last: the fewest moves that make SIDs unique, and of these the least distance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.places import VALUES, Places, Shelves
from sidbench.resolver import Mover

CELLS = 1 << 25  # of one prefix's problem at most


class MinCostLast(Mover):
    """Changes the fewest last codes that make SIDs unique, and of all such ways takes the least distance.

    An assignment problem below every prefix that holds a collision: one item of each shared SID stays, the
    others take free last codes. Below a prefix with too few free codes all of them are taken: the nearest
    item of each SID stays, the rest compete for what is free, and facts count who goes on sharing.
    """

    name = "min-cost-last"
    paper = "https://arxiv.org/abs/2605.25330"

    def place(self, places: Places, item_ids: NDArray[Any]) -> None:
        crowd, _, _ = places.crowd()
        shelves = Shelves(places, crowd, places.own_costs(crowd))
        for which, shelf in shelves.pieces(whole=True):
            taken = shelves.counts(which)
            size = np.bincount(shelf)
            begin = np.cumsum(size) - size
            # Most prefixes have two items on one code and no more to decide: all of these at once.
            own = places.codes[which, -1]
            pair = size == 2
            a = begin[pair]
            alone = (own[a] == own[a + 1]) & (taken[pair, own[a]] == 2)
            pair[pair] = alone & (taken[pair] == 0).any(axis=1)
            _part(places, which[begin[pair, None] + [0, 1]], taken[pair])
            rest = np.flatnonzero(~pair)
            _assign(
                places, [which[b : b + n] for b, n in zip(begin[rest], size[rest], strict=True)], taken[rest]
            )


def _part(places: Places, pairs: Index, taken: Index) -> None:
    """Of two items on one code, the one that loses less by it moves to the free code where it loses least."""
    if not len(pairs):
        return
    which = pairs.ravel()
    prefix, own = places.codes[which, :-1], places.codes[which, -1]
    loss = places.costs(which, prefix).astype(np.float64)
    loss -= loss[np.arange(len(which)), own][:, None]
    loss = np.where(taken[:, None] == 0, loss.reshape(len(pairs), 2, -1), np.inf).reshape(len(pairs), -1)
    item, code = np.divmod(loss.argmin(axis=1), taken.shape[1])
    places.codes[pairs[np.arange(len(pairs)), item], -1] = code


def _assign(places: Places, items: list[Index], taken: Index) -> None:
    """The items of each prefix by an assignment problem of their own."""
    problems = [_Problem(places.codes[which, -1], counts) for which, counts in zip(items, taken, strict=True)]
    if not problems:
        return
    asked = np.concatenate([which[p.rows] for which, p in zip(items, problems, strict=True)])
    costs = np.empty((len(asked), taken.shape[1]), dtype=np.float32)
    for piece in places.pieces(len(asked), taken.shape[1]):
        costs[piece] = places.costs(asked[piece], places.codes[asked[piece], :-1])
    at = 0
    for which, p in zip(items, problems, strict=True):
        moves, codes = p.solve(costs[at : at + len(p.rows)])
        places.codes[which[p.rows[moves]], -1] = codes
        at += len(p.rows)


class _Problem:
    """One prefix: items in order of what their place costs them, their codes, and who has which code."""

    def __init__(self, own: NDArray[np.int32], taken: Index) -> None:
        size = len(taken)
        self.free = np.flatnonzero(taken == 0)
        # A code with more items than are here has one that is frozen: nobody of these may stay.
        here = np.bincount(own, minlength=size)
        open_ = (here > 0) & (taken == here)
        first = np.zeros(len(own), dtype=bool)
        first[np.unique(own, return_index=True)[1]] = True
        first &= open_[own]
        self.fits = len(own) - first.sum() <= len(self.free)
        self.rows = np.arange(len(own))
        if not self.fits:
            # Those to whom their place costs most lose least by leaving it.
            self.rows = np.flatnonzero(~first)[-max(len(self.free), VALUES // size) :]
            self.rows = self.rows if len(self.free) else self.rows[:0]
        self.own = own[self.rows]
        self.stays = np.flatnonzero(open_) if self.fits else np.zeros(0, dtype=np.int64)
        if len(self.rows) * (len(self.stays) + len(self.free)) > CELLS:
            raise DataError(
                f"{MinCostLast.name}: {len(self.rows):,} items that share SIDs below one prefix with "
                f"{len(self.free):,} free codes are too many to be assigned exactly; use nearest-free"
            )

    def solve(self, costs: Floats) -> tuple[Index, Index]:
        """Which of `rows` move, and the code of each."""
        from scipy.optimize import linear_sum_assignment

        rows = np.arange(len(self.rows))
        loss = costs[:, self.free].astype(np.float64) - costs[rows, self.own].astype(np.float64)[:, None]
        if not self.fits:
            code, moves = linear_sum_assignment(loss.T)
            return moves, self.free[code]
        # From 0 to 1; a move more costs more than all distances together.
        loss -= loss.min(initial=0)
        loss = len(rows) + 1 + loss / (loss.max(initial=0) or 1.0)
        stay = np.where(self.own[:, None] == self.stays, 0.0, np.inf)
        _, choice = linear_sum_assignment(np.hstack([stay, loss]))
        moves = np.flatnonzero(choice >= len(self.stays))
        return moves, self.free[choice[moves] - len(self.stays)]
