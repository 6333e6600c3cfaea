"""Co-occurrence: what the same users have, in whatever order; a symmetric table of counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from typing_extensions import Self

from sidbench.dataset import Embeddings, Sequences
from sidbench.progress import report
from sidbench.protocol import Split
from sidbench.ranking import Ranking
from sidbench.reference import Reference, best

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Scores held at one time: rows of users x all items, in float64.
CELLS = 4_000_000


class CoOccurrence(Reference):
    """Item-to-item counts: how many users have both in training, wherever; then what is popular.

    An item says nothing of itself. Order is not asked for: what it is worth, `transitions` shows beside it.
    """

    name = "co-occurrence"

    #: How many of the last items speak, their counts added up; 0 = the whole history.
    last: Annotated[int, Field(ge=0)] = 1

    def fit(self, split: Split, x: Embeddings) -> Self:
        self.has_ = _has(split.train, split.n_items)
        self.users_ = np.bincount(self.has_.indices, minlength=split.n_items)
        return self

    def recommend(self, histories: Sequences, k: int) -> Ranking:
        n, users = len(self.users_), len(histories)
        items = np.zeros((users, min(k, n)), dtype=np.int64)
        scores = np.zeros(items.shape, dtype=np.float32)
        # Popularity is worth less than one count.
        popular = self.users_ / (self.users_.max() + 1)
        step = max(1, CELLS // n)
        for start in range(0, users, step):
            rows = np.arange(start, min(start + step, users))
            asked = _has(_newest(histories.take(rows), self.last), n)
            # By way of the users that have them: the table of all pairs of items is never made.
            counts = ((asked @ self.has_.T) @ self.has_).toarray().astype(np.float64)
            row = np.repeat(np.arange(len(rows)), np.diff(asked.indptr))
            counts[row, asked.indices] -= self.users_[asked.indices]
            items[rows], scores[rows] = best(counts + popular, k)
            report("search", rows[-1] + 1, users)
        return Ranking.of_items(items, scores, n)


def _has(rows: Sequences, n_items: int) -> csr_array:
    """(rows, items): 1 where the row has the item, however often."""
    from scipy.sparse import csr_array

    shape = (len(rows), n_items)
    ones = np.ones(len(rows.items), np.int32)
    # A copy: items that come twice are put together in place.
    found = csr_array((ones, rows.items, rows.offsets), shape=shape, copy=True)
    found.sum_duplicates()
    found.data[:] = 1
    return found


def _newest(rows: Sequences, count: int) -> Sequences:
    """Each row's last `count` items; 0 = all of them."""
    if not count:
        return rows
    lengths = np.minimum(rows.lengths, count)
    position = np.arange(len(rows.items)) - np.repeat(rows.offsets[1:] - lengths, rows.lengths)
    return Sequences(rows.items[position >= 0], np.concatenate(([0], np.cumsum(lengths))))
