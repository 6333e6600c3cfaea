"""Places: who has which SID while a resolver moves items, and what other codes would cost them.

What moves depends on the items and not on the order of their rows: where two items want one place, the one
that loses less by it wins, and among equals a hash of their embeddings decides. The exception: items of the
very same embedding but of different codes, which only a tokenizer that does not go by embeddings gives, take
places in the order of rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings
from sidbench.errors import DataError, UnsupportedError
from sidbench.kit import groups, rows
from sidbench.kit.nearest import Floats, Index
from sidbench.sids import Codes, distinct_rows
from sidbench.tokenizer import Tokenizer

VALUES = 1 << 22  # numbers held at one time: costs, or embeddings where these are wider


class Places:
    """The SIDs of all items, frozen ones first: `codes` of the others may change."""

    def __init__(
        self,
        codes: Codes,
        sizes: tuple[int, ...],
        frozen: int = 0,
        tokenizer: Tokenizer | None = None,
        x: Embeddings | None = None,
    ) -> None:
        self.codes, self.sizes, self.frozen = codes.copy(), sizes, frozen
        self.tokenizer, self.x = tokenizer, x
        # Of items that may move: what decides among equals, and whether it was asked for yet.
        self._tie = np.zeros(len(codes) - frozen, dtype=np.uint64)
        self._known = np.full(len(self._tie), x is None)

    def need_costs(self, name: str) -> None:
        """Refuse a tokenizer that gives no distances, naming what works without."""
        instead = "use keep, suffix or random-free, which need none"
        if self.tokenizer is None or self.x is None:
            raise DataError(
                f"{name} needs distances: give the fitted tokenizer and the embeddings, or {instead}"
            )
        if not self.tokenizer.supports("costs"):
            raise UnsupportedError(
                f"{name} needs distances, and {self.tokenizer.name} has none to give (no costs); {instead}"
            )
        if self.sizes != self.tokenizer.sizes:
            raise DataError(
                f"{name}: the SIDs have levels of {self.sizes} codes, those of {self.tokenizer.name} have "
                f"{self.tokenizer.sizes}; give the SIDs as the tokenizer made them"
            )

    def costs(self, which: Index, prefix: Codes) -> Floats:
        """(items, codes) costs of each next code after a prefix; how many at a time is up to the caller."""
        assert self.tokenizer is not None
        assert self.x is not None
        return self.tokenizer.costs(self.x[which - self.frozen], prefix)

    def ties(self, which: Index) -> NDArray[np.uint64]:
        """What decides among equals: a hash of each item's embedding."""
        own = which - self.frozen
        new = own[~self._known[own]]
        if len(new) and self.x is not None:
            for piece in self.pieces(len(new), 1):
                self._tie[new[piece]] = rows.keys(self.x[new[piece]])
            self._known[new] = True
        return self._tie[own]

    def step(self, values: int) -> int:
        """Items that may be looked at together, with so many values each."""
        return max(1, VALUES // max(values, 1 if self.x is None else self.x.shape[1]))

    def pieces(self, count: int, values: int) -> Iterator[slice]:
        """So many items at a time that at most VALUES numbers are held, `values` an item."""
        step = self.step(values)
        return (slice(at, min(at + step, count)) for at in range(0, count, step))

    def own_costs(self, which: Index) -> Floats:
        """What each item's last code costs it after those before."""
        out = np.empty(len(which), dtype=np.float32)
        for piece in self.pieces(len(which), self.sizes[-1]):
            codes = self.codes[which[piece]]
            found = self.costs(which[piece], codes[:, :-1])
            out[piece] = found[np.arange(len(codes)), codes[:, -1]]
        return out

    def crowd(self, cap: int = 1) -> tuple[Index, Index, Index]:
        """Items that may move and whose SID has more than `cap`, the group of each, and its frozen items."""
        group = distinct_rows(self.codes)[1]
        full = np.bincount(group) > cap
        which = self.frozen + np.flatnonzero(full[group[self.frozen :]])
        frozen = np.bincount(group[: self.frozen], minlength=len(full))[group[which]]
        return which, _renumbered(group[which], len(full)), frozen

    def movers(
        self, cap: int = 1, by: NDArray[np.generic] | None = None
    ) -> tuple[Index, NDArray[np.generic]]:
        """Items beyond the `cap` that their SID may have, and what decided: the cost of their place, or `by`.

        Frozen items stay; then those to whom the place costs least, or whose `by` is least.
        """
        which, group, frozen = self.crowd(cap)
        least = self.own_costs(which) if by is None else by[which - self.frozen]
        goes = groups.ranks(group, least, self.ties(which)) + frozen >= cap
        return which[goes], least[goes]

    def winners(
        self, place: NDArray[np.generic], loss: NDArray[np.generic], which: Index, room: int | Index = 1
    ) -> Index:
        """Of items that ask for places, those that get them: the least loss first, as many as have room."""
        _, group = np.unique(place, return_inverse=True)
        rank = groups.ranks(group, loss, self.ties(which))
        return np.flatnonzero(rank < room)


def _renumbered(group: Index, count: int) -> Index:
    """Numbers below `count` as 0, 1, 2… in their order, without those that nobody has."""
    present = np.zeros(count, dtype=bool)
    present[group] = True
    return (np.cumsum(present) - 1)[group]


class Claims:
    """Whole SIDs, free or taken: items ask for one each, and of those that ask for the same one gets it."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.taken = groups.Taken(groups.keys(places.codes, places.sizes))

    def ask(self, which: Index, codes: Codes, loss: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Give items the SIDs that they ask for, where free; who got theirs. Infinite loss asks for none."""
        keys = groups.keys(codes, self.places.sizes)
        free = np.flatnonzero(np.isfinite(loss) & ~self.taken.has(keys))
        won = free[self.places.winners(keys[free], loss[free], which[free])]
        self.places.codes[which[won]] = codes[won]
        self.taken.add(keys[won])
        placed = np.zeros(len(which), dtype=bool)
        placed[won] = True
        return placed


def best(costs: Floats, count: int) -> tuple[Codes, Floats]:
    """(items, count) cheapest codes in order of cost and then of code; infinite where a level has fewer."""
    n, size = costs.shape
    kept = min(count, size)
    if kept < size:
        some = np.sort(np.argpartition(costs, kept - 1, axis=1)[:, :kept], axis=1)
    else:
        some = np.tile(np.arange(size), (n, 1))
    order = np.argsort(np.take_along_axis(costs, some, axis=1), axis=1, kind="stable")
    some = np.take_along_axis(some, order, axis=1)
    codes = np.zeros((n, count), dtype=np.int32)
    loss = np.full((n, count), np.inf, dtype=np.float32)
    codes[:, :kept], loss[:, :kept] = some, np.take_along_axis(costs, some, axis=1)
    return codes, loss


class Shelves:
    """The last level, prefix by prefix: who stands where, and what room is left."""

    def __init__(self, places: Places, movers: Index, own: NDArray[np.generic]) -> None:
        self.places = places
        self.prefix = distinct_rows(places.codes[:, :-1])[1]
        self.order = np.argsort(self.prefix, kind="stable")
        self.ends = np.append(0, np.cumsum(np.bincount(self.prefix)))
        self.movers = movers[np.lexsort((places.ties(movers), own, self.prefix[movers]))]

    def pieces(self, *, whole: bool = False) -> Iterator[tuple[Index, Index]]:
        """Movers of whole prefixes, and for each the number of its prefix in the piece (from 0, rising).

        Unless `whole` is asked for, a prefix with more movers than one piece holds comes in several pieces,
        those to whom their place costs least first.
        """
        prefix = self.prefix[self.movers]
        step = self.places.step(self.places.sizes[-1])
        at = 0
        while at < len(prefix):
            end = min(at + step, len(prefix))
            if end < len(prefix) and prefix[end] == prefix[end - 1]:
                begin, after = (
                    np.searchsorted(prefix, prefix[end], side="left"),
                    np.searchsorted(prefix, prefix[end], side="right"),
                )
                end = int(begin) if begin > at else int(after) if whole else end
            yield self.movers[at:end], np.unique(prefix[at:end], return_inverse=True)[1]
            at = end

    def counts(self, movers: Index) -> Index:
        """(prefixes, codes) items of every place below the movers' prefixes, in the order of `pieces`."""
        which = np.unique(self.prefix[movers])
        start, size = self.ends[which], np.diff(self.ends)[which]
        inside = np.repeat(start - np.cumsum(size) + size, size) + np.arange(size.sum())
        shelf = np.repeat(np.arange(len(which)), size)
        k = self.places.sizes[-1]
        cell = shelf * k + self.places.codes[self.order[inside], -1]
        return np.bincount(cell, minlength=len(which) * k).reshape(len(which), k)


def to_nearest(places: Places, cap: int) -> None:
    """Move items beyond `cap` on a SID to the nearest last code below their prefix that has room.

    Where several want one place, the nearest gets it and the others look on; without room they stay.
    """
    movers, own = places.movers(cap)
    shelves = Shelves(places, movers, own)
    for which, shelf in shelves.pieces():
        room = cap - shelves.counts(which)
        waits = np.flatnonzero(np.max(room, axis=1)[shelf] > 0)  # nobody else need be measured
        which, shelf = which[waits], shelf[waits]
        costs = places.costs(which, places.codes[which, :-1])
        while len(which):
            costs = np.where(room[shelf] > 0, costs, np.inf).astype(np.float32)
            code = costs.argmin(axis=1)
            loss = costs[np.arange(len(which)), code]
            found = np.isfinite(loss)
            which, shelf, costs, code, loss = (v[found] for v in (which, shelf, costs, code, loss))
            won = places.winners(shelf * room.shape[1] + code, loss, which, room[shelf, code])
            places.codes[which[won], -1] = code[won]
            np.subtract.at(room, (shelf[won], code[won]), 1)
            lost = np.ones(len(which), dtype=bool)
            lost[won] = False
            which, shelf, costs = which[lost], shelf[lost], costs[lost]
