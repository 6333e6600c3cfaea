"""Ranking: what a recommender returns. Groups of items in order; nothing after it knows what a SID is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Sequences


@dataclass(frozen=True, eq=False)
class Ranking:
    """For each user, groups of items in descending score. Items of one group share a SID and so a place.

    `groups[u, j]` is the number of the group at place j of user u, -1 past the end of the list; group g holds
    the items `members[offsets[g]:offsets[g + 1]]`. A recommender without SIDs has one item a group.
    """

    groups: NDArray[np.int64]
    scores: NDArray[np.float32]
    members: NDArray[np.int32]
    offsets: NDArray[np.int64]
    #: Items left out of each user's list (seen ones), where the protocol asks for it.
    hidden: Sequences | None = None

    def __len__(self) -> int:
        return len(self.groups)

    @classmethod
    def of_items(cls, items: NDArray[np.int64], scores: NDArray[np.float32], n_items: int) -> Ranking:
        """A ranking of single items: every item is a group of its own."""
        return cls(items, scores, np.arange(n_items, dtype=np.int32), np.arange(n_items + 1))

    @property
    def group_of(self) -> NDArray[np.int64]:
        """The group of every item."""
        out = np.empty(len(self.members), dtype=np.int64)
        out[self.members] = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return out

    def without(self, hidden: Sequences) -> Ranking:
        """The same lists with each user's `hidden` items left out."""
        return replace(self, hidden=hidden)

    def sizes(self) -> NDArray[np.int64]:
        """(users, places): how many items stand at each place; 0 past the end or where all are hidden."""
        sizes = np.where(self.groups >= 0, np.diff(self.offsets)[self.groups], 0).astype(np.int64)
        if self.hidden is not None:
            user, item = _pairs(self.hidden, len(self.members))
            # One sorted list of (user, group) numbers finds the place of every hidden item at once.
            n_groups = len(self.offsets)
            rows = np.arange(len(self))[:, None]
            keys = np.where(self.groups >= 0, rows * n_groups + self.groups, -1).reshape(-1)
            order = np.argsort(keys, kind="stable")
            wanted = user * n_groups + self.group_of[item]
            at = np.searchsorted(keys, wanted, sorter=order)
            at = order[np.minimum(at, len(order) - 1)] if len(order) else at[:0]
            listed = at[keys[at] == wanted] if len(order) else at
            sizes -= np.bincount(listed, minlength=sizes.size).reshape(sizes.shape)
        return sizes

    def hides(self, items: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether `items[u]` is hidden from user u."""
        if self.hidden is None:
            return np.zeros(len(self), dtype=bool)
        user = np.repeat(np.arange(len(self)), self.hidden.lengths)
        return np.bincount(user[self.hidden.items == items[user]], minlength=len(self)) > 0

    def items(self, user: int, k: int) -> NDArray[np.int32]:
        """The first k items of one user's list; inside a group in no meaningful order."""
        out: list[NDArray[np.int32]] = []
        found = 0
        gone = None if self.hidden is None else self.hidden[user]
        for g in self.groups[user]:
            if g < 0 or found >= k:
                break
            inside = self.members[self.offsets[g] : self.offsets[g + 1]]
            if gone is not None:
                inside = inside[~np.isin(inside, gone)]
            out.append(inside)
            found += len(inside)
        return np.concatenate(out)[:k] if out else np.zeros(0, dtype=np.int32)


def _pairs(sequences: Sequences, n_items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every (row, item) once, however often the row names the item."""
    row = np.repeat(np.arange(len(sequences)), sequences.lengths)
    both = np.unique(row * n_items + sequences.items)
    return both // n_items, both % n_items
