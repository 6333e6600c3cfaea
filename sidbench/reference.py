"""Reference: a recommender that needs no SIDs; its rows say what a decoder must beat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from sidbench.dataset import Embeddings, Sequences
from sidbench.plugin import Plugin
from sidbench.protocol import Split
from sidbench.ranking import Ranking

F = TypeVar("F", bound=np.floating[Any])


class Reference(Plugin, ABC):
    """Learns from `split.train` alone, and ranks items. The built-in ones live in sidbench/references/."""

    kind: ClassVar[str] = "reference"
    #: Whether what is learned hangs on `seed`: then there is a row a seed, as of a tokenizer.
    random: ClassVar[bool] = False

    @abstractmethod
    def fit(self, split: Split, x: Embeddings) -> Self:
        """Take what is needed from the training sequences and the item embeddings; return self."""

    @abstractmethod
    def recommend(self, histories: Sequences, k: int) -> Ranking:
        """The best k items after each history, best first; all of them where the catalogue is smaller."""

    def facts(self) -> dict[str, Any]:
        """What a record should keep beside the parameters, once fitted (device, steps), if anything."""
        return {}

    def curves(self) -> dict[str, list[float]]:
        """What training went through by step, if there was any; kept in the record."""
        return {}


def best(scores: NDArray[F], k: int) -> tuple[NDArray[np.int64], NDArray[F]]:
    """The k highest scores of each row, best first; equal scores in the order of the columns."""
    n = scores.shape[1]
    k = min(k, n)
    kth = np.partition(scores, n - k, axis=1)[:, n - k, None]
    keep = scores >= kth
    # Which of equal scores enter must not hang on how a partition happens to place them: the first columns.
    for row in np.flatnonzero(keep.sum(axis=1) > k):
        level = np.flatnonzero(scores[row] == kth[row])
        keep[row, level[k - int(keep[row].sum()) :]] = False
    items = np.nonzero(keep)[1].reshape(-1, k)
    kept = np.take_along_axis(scores, items, axis=1)
    order = np.argsort(-kept, axis=1, kind="stable")
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(kept, order, axis=1)
