"""Transitions: what followed the last item in training; a table of counts that a decoder must beat."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from sidbench.dataset import Embeddings, Sequences
from sidbench.progress import report
from sidbench.protocol import Split
from sidbench.ranking import Ranking
from sidbench.reference import Reference

# Candidates looked at at one time.
CELLS = 4_000_000


class Transitions(Reference):
    """Item-to-item counts: what followed the last item most often in training, then what is popular."""

    name = "transitions"

    #: Steps ahead that count as following; 1 is the next item alone.
    window: Annotated[int, Field(ge=1)] = 1

    def fit(self, split: Split, x: Embeddings) -> Self:
        n, train = split.n_items, split.train
        self.popularity_ = np.bincount(train.items, minlength=n)
        self.popular_ = np.argsort(-self.popularity_, kind="stable")
        user = np.repeat(np.arange(len(train)), train.lengths)
        items = train.items.astype(np.int64)
        pairs = [
            (items[:-ahead] * n + items[ahead:])[user[:-ahead] == user[ahead:]]
            for ahead in range(1, min(self.window, len(items) - 1) + 1)
        ]
        keys, counts = np.unique(np.concatenate([*pairs, np.zeros(0, np.int64)]), return_counts=True)
        before, after = keys // n, keys % n
        # Of one item's successors: the most frequent first, then the most popular, then by row.
        order = np.lexsort((after, -self.popularity_[after], -counts, before))
        self.after_, self.counts_ = after[order], counts[order]
        self.begin_ = np.searchsorted(before, np.arange(n + 1))
        return self

    def recommend(self, histories: Sequences, k: int) -> Ranking:
        n, users = len(self.popularity_), len(histories)
        k = min(k, n)
        items = np.zeros((users, k), dtype=np.int64)
        scores = np.zeros((users, k), dtype=np.float32)
        last = np.full(users, -1)
        some = np.flatnonzero(histories.lengths > 0)
        last[some] = histories.take(some).last(1)
        step = max(1, CELLS // (3 * k))
        for start in range(0, users, step):
            rows = slice(start, min(start + step, users))
            items[rows], scores[rows] = self._after(last[rows], k)
            report("search", rows.stop, users)
        return Ranking.of_items(items, scores, n)

    def _after(self, last: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The first k items after each of these; -1 stands for an empty history."""
        n, rows = len(self.popularity_), np.arange(len(last))[:, None]
        begin = np.where(last >= 0, self.begin_[last], 0)
        found = np.where(last >= 0, self.begin_[last + 1] - begin, 0)
        at = begin[:, None] + np.arange(k)
        known = np.arange(k) < found[:, None]
        at = np.where(known, at, 0)
        # With no pair at all there is nothing to point at.
        after = np.where(known, self.after_[at], -1) if len(self.after_) else np.full(at.shape, -1)
        count = np.where(known, self.counts_[at], 0) if len(self.after_) else np.zeros(at.shape, np.int64)
        # Twice k popular ones hold k that are not among the successors.
        filler = np.broadcast_to(self.popular_[: 2 * k], (len(last), min(2 * k, n)))
        fresh = ~np.isin(rows * n + filler, (rows * n + after)[known])
        both = np.concatenate([after, filler], axis=1)
        place = np.argsort(~np.concatenate([known, fresh], axis=1), axis=1, kind="stable")[:, :k]
        chosen = np.take_along_axis(both, place, axis=1)
        times = np.take_along_axis(np.pad(count, ((0, 0), (0, filler.shape[1]))), place, axis=1)
        # Popularity is worth less than one count.
        return chosen, (times + self.popularity_[chosen] / (self.popularity_.max() + 1)).astype(np.float32)
