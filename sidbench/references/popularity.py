"""Popularity: everyone is offered what the training sequences hold most often."""

from __future__ import annotations

import numpy as np
from typing_extensions import Self

from sidbench.dataset import Embeddings, Sequences
from sidbench.protocol import Split
from sidbench.ranking import Ranking
from sidbench.reference import Reference, best


class Popularity(Reference):
    """The items met most often in training, for everyone alike; ties by row."""

    name = "popularity"

    def fit(self, split: Split, x: Embeddings) -> Self:
        self.counts_ = np.bincount(split.train.items, minlength=split.n_items).astype(np.float32)
        return self

    def recommend(self, histories: Sequences, k: int) -> Ranking:
        items, scores = best(self.counts_[None], k)
        rows = len(histories)
        return Ranking.of_items(
            np.repeat(items, rows, axis=0), np.repeat(scores, rows, axis=0), len(self.counts_)
        )
