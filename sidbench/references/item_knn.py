"""Item-kNN: the items whose embeddings lie nearest to the last ones of the history."""

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
from sidbench.reference import Reference, best

# Scores held at one time: rows of users x all items, in float32.
CELLS = 16_000_000


class ItemKNN(Reference):
    """Cosine to the embeddings of the last items of the history; needs no training.

    Items already in the history stay in the list, as they do for every other row of the board.
    """

    name = "item-knn"

    #: How many of the last items speak.
    last: Annotated[int, Field(ge=1)] = 1
    #: How much less each one further back says.
    decay: Annotated[float, Field(gt=0, le=1)] = 0.5

    def fit(self, split: Split, x: Embeddings) -> Self:
        norm = np.sqrt(np.einsum("ij,ij->i", x, x))
        # A row of zeros points nowhere: its cosine with everything is 0.
        self.scale_ = (1 / np.where(norm > 0, norm, np.inf)).astype(np.float32)
        self.items_ = x
        return self

    def recommend(self, histories: Sequences, k: int) -> Ranking:
        n, users = len(self.items_), len(histories)
        items = np.zeros((users, min(k, n)), dtype=np.int64)
        scores = np.zeros(items.shape, dtype=np.float32)
        step = max(1, CELLS // n)
        for start in range(0, users, step):
            rows = np.arange(start, min(start + step, users))
            query = self._query(histories.take(rows))
            items[rows], scores[rows] = best(query @ self.items_.T * self.scale_, k)
            report("search", rows[-1] + 1, users)
        return Ranking.of_items(items, scores, n)

    def _query(self, histories: Sequences) -> NDArray[np.float32]:
        query = np.zeros((len(histories), self.items_.shape[1]), dtype=np.float32)
        for back in range(1, self.last + 1):
            long = np.flatnonzero(histories.lengths >= back)
            item = histories.take(long).last(back)
            query[long] += self.decay ** (back - 1) * self.items_[item] * self.scale_[item, None]
        return query
