"""The search of many users: in chunks of like lengths that bound what is held at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidbench import progress
from sidbench.dataset import Sequences
from sidbench.decoder.course import now
from sidbench.decoder.inputs import Reader
from sidbench.decoder.model import Model
from sidbench.decoder.search import beam_search
from sidbench.decoder.selection import Validation, expected_gain
from sidbench.decoder.shape import Inputs
from sidbench.decoder.training import negative_log_likelihood
from sidbench.decoder.trie import Trie
from sidbench.protocol import Targets

#: Numbers that one level of search may hold at once.
SEARCH_FLOATS = {"cpu": 1 << 22, "cuda": 1 << 26}
#: The place up to which validation looks.
PLACES = 10
#: Users on whom the cost of a wider search is tried.
FEW = 128

Users = NDArray[np.integer[Any]]


class Retriever:
    """Ranks the groups of a trie after histories, by one model."""

    def __init__(self, model: Model, trie: Trie, reader: Reader) -> None:
        self.model, self.trie, self.reader = model, trie, reader
        self.limit = SEARCH_FLOATS[reader.device.type]

    def search(
        self,
        histories: Sequences,
        users: Users | None,
        beam: int,
        allowed: list[Tensor] | None = None,
        *,
        report: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Groups (rows, beam) in descending log-probability, and these; -1 and -inf past the end."""
        beam = min(beam, len(self.trie))
        groups = np.full((len(histories), beam), -1, dtype=np.int64)
        scores = np.full((len(histories), beam), -np.inf, dtype=np.float32)
        done = 0
        for rows, inputs in self._chunks(histories, users, self._rows(beam)):
            with torch.inference_mode():
                read = self.model.read(inputs)
                found, logp = beam_search(self.model, self.trie, read, len(rows), beam, allowed, self.limit)
            width = found.shape[1]
            groups[rows, :width], scores[rows, :width] = found.cpu().numpy(), logp.cpu().numpy()
            done += len(rows)
            if report:
                progress.report("search", done, len(histories))
        return groups, scores

    def validate(self, valid: Targets, beam: int, candidates: NDArray[np.bool_] | None = None) -> Validation:
        """NDCG@10 and Recall@10 at item level among the candidates (a mask of items), and the mean loss."""
        start = now()
        nodes = None if candidates is None else self.trie.allowed(candidates)
        groups, _ = self.search(valid.histories, valid.users, max(beam, PLACES), nodes)
        searched = now() - start
        goal = self.trie.group_of[valid.items]
        # No item that is no candidate may stand before one.
        ranked = self.trie.group_of if candidates is None else self.trie.group_of[candidates]
        sizes = np.bincount(ranked, minlength=len(self.trie))
        ndcg, recall = (expected_gain(groups, goal, sizes, PLACES, discount=d).mean() for d in (True, False))
        loss = 0.0
        for rows, inputs in self._chunks(valid.histories, valid.users, self._rows(1)):
            items = torch.from_numpy(valid.items[rows]).long()
            codes = self.trie.item_codes[self.reader.send(items)]
            with torch.inference_mode():
                losses = negative_log_likelihood(self.model, inputs, codes, variable=self.trie.variable)
            loss += float(losses.sum())
        count = int(self.trie.predicted[torch.from_numpy(valid.items).long()].sum())
        return Validation(float(ndcg), float(recall), loss / count, searched)

    def wider(self, valid: Targets, beam: int, places: int) -> float:
        """How many times as long a search for so many places takes as a validation's, on a few users."""
        narrow, wide = (min(max(beam, p), len(self.trie)) for p in (PLACES, places))
        if wide <= narrow:
            return 1.0
        few, seconds = valid.take(np.arange(min(FEW, len(valid)))), []
        for width in (narrow, wide):
            start = now()
            self.search(few.histories, few.users, width)
            seconds.append(now() - start)
        return max(1.0, seconds[1] / max(1e-9, seconds[0]))

    def _rows(self, beam: int) -> int:
        """How many users at once: as many as keep what one level makes of them within the limit."""
        trie, shape = self.trie, self.model.shape
        before = [min(beam, trie.nodes(level - 1) if level else 1) for level in range(trie.levels)]
        candidates = max(trie.most(level, beams) for level, beams in enumerate(before))
        places = shape.history * shape.per_item
        layer = max(
            shape.feed_forward, shape.heads * places, 2 * shape.heads * shape.head_width * trie.levels
        )
        # Of every candidate some ten numbers are kept, or as much in integers.
        floats = max(10 * candidates, max(before) * layer, places * shape.feed_forward)
        return max(1, self.limit // floats)

    def _chunks(
        self, histories: Sequences, users: Users | None, count: int
    ) -> Iterator[tuple[NDArray[np.int64], Inputs]]:
        """Row numbers and inputs, longest histories first: like lengths share a chunk, little is padding."""
        order = np.argsort(-np.minimum(histories.lengths, self.model.shape.history), kind="stable")
        items = torch.from_numpy(histories.items.astype(np.int64))
        number = (
            np.zeros(len(histories), dtype=np.int64) if users is None else np.asarray(users, dtype=np.int64)
        )
        for start in range(0, len(order), count):
            rows = order[start : start + count]
            begin, end = (torch.from_numpy(histories.offsets[rows + i]) for i in (0, 1))
            yield rows, self.reader.read(items, begin, end, torch.from_numpy(number[rows]))
