"""The gradient of one batch, gathered piece by piece: one operation at a time, or by captured graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from sidbench.decoder.captured import Captured
from sidbench.decoder.inputs import Reader, Windows
from sidbench.decoder.noise import Noise
from sidbench.decoder.shape import Inputs
from sidbench.decoder.training import Weights, negative_log_likelihood
from sidbench.decoder.trie import Trie

#: Tokens of one piece of a training batch: on a processor what stays in its cache is far cheaper.
PIECE_TOKENS = {"cpu": 5_120, "cuda": 1 << 18}
#: Tokens of padding that cost as much as one piece more. Of a processor, width 64, as measured on two data
#: sets of reviews (400 cost histories of 10 items 5%); of a GPU an estimate.
SPARE_TOKENS = {"cpu": 800, "cuda": 4_096}


class Learner:
    """Adds to the weights' gradient what a batch, or this process's share of it, has to say."""

    def __init__(
        self,
        weights: Weights,
        trie: Trie,
        reader: Reader,
        windows: Windows,
        *,
        dropout: float,
        smoothing: float,
        seed: int,
        capture: bool,
    ) -> None:
        self.model, self.trie, self.reader, self.windows = weights.worker, trie, reader, windows
        self.dropout, self.smoothing, self.seed = dropout, smoothing, seed
        self._read = reader.stream if self.model.every else reader.read
        kind, per_item = reader.device.type, self.model.shape.per_item
        self._limit, self._spare = PIECE_TOKENS[kind] // per_item, SPARE_TOKENS[kind] // per_item
        self._captured = Captured(self, weights) if capture and kind == "cuda" else None
        self._noise: Noise | None = None

    def begin(self, step: int, part: int = 0) -> None:
        """Dropout is drawn anew from this step on; a training that goes on from here draws the same.

        Every process, `part`, has its own.
        """
        if self.dropout:
            place = self.reader
            self._noise = Noise(self.dropout, self.seed, place.device, place.dtype, step, part)

    def gradient(self, batch: Tensor, step: int, part: int = 0, parts: int = 1) -> Tensor:
        """Gather the gradient of the rows `part`, `part + parts`, ... of a batch; their share of its loss.

        The loss is the mean over all codes of the batch: the shares, and their gradients, add up to those of
        the whole. Rows stand longest first, so the shares are alike in length.
        """
        everything = self.windows.targets(batch)
        codes = int(self.trie.predicted[everything].sum())
        mine, found = batch[part::parts], []
        goals = everything if parts == 1 else self.windows.targets(mine)
        for i, (piece, items) in enumerate(self.windows.pieces(mine, goals, self._limit, self._spare)):
            if self._captured is not None:
                found.append(self._captured.gradient(piece, items, codes, (step, part, i)))
                continue
            begin, end = self.windows.begin[piece], self.windows.end[piece]
            inputs = self._read(self.windows.items, begin, end, self.windows.users[piece])
            goal = self.trie.item_codes[self.reader.send(items)]
            loss = self.losses(inputs, goal, self._noise).sum() / codes
            loss.backward()  # type: ignore[no-untyped-call]
            found.append(loss.detach())
        return torch.stack(found).sum() if found else torch.zeros((), device=self.reader.device)

    def losses(self, inputs: Inputs, codes: Tensor, noise: Noise | None) -> Tensor:
        """What each code of each target costs, as training sees it."""
        return negative_log_likelihood(
            self.model, inputs, codes, variable=self.trie.variable, noise=noise, smoothing=self.smoothing
        )
