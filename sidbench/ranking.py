"""Ranking: what a recommender returns. Groups of items in order; nothing after it knows what a SID is."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        sizes = np.where(self.groups >= 0, np.diff(self.offsets)[self.groups], 0)
        if self.hidden is not None:
            group_of = self.group_of
            for user, items in enumerate(self.hidden):
                gone = group_of[np.unique(items)]
                sizes[user] -= (self.groups[user][:, None] == gone).sum(axis=1)
        return sizes

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
