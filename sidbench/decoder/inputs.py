"""From rows of items to what the model reads: tokens, what of them is padding, hashed users, windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sidbench.dataset import Sequences
from sidbench.decoder.model import Shape
from sidbench.decoder.trie import Trie


class Inputs(NamedTuple):
    """Tokens (rows, items, levels), user tokens, and what to add to attention scores to leave padding out."""

    tokens: Tensor
    users: Tensor | None
    bias: Tensor | None


class Reader:
    """Turns spans of a flat list of items into inputs, the newest item rightmost, no wider than they need."""

    def __init__(self, trie: Trie, shape: Shape, dtype: torch.dtype) -> None:
        device = trie.item_codes.device
        starts = torch.tensor([sum(shape.sizes[:i]) for i in range(len(shape.sizes))], device=device)
        nothing = torch.full((1, len(shape.sizes)), sum(shape.sizes), device=device)
        #: The tokens of every item; the last row stands for no item.
        self.table = torch.cat((trie.item_codes + starts, nothing))
        self.shape = shape
        self.device = device
        self.dtype = dtype

    def read(self, items: Tensor, begin: Tensor, end: Tensor, users: Tensor) -> Inputs:
        """Rows `items[begin[i]:end[i]]`, all on the processor; the inputs are on the model's device."""
        lengths = (end - begin).clamp_(max=self.shape.history)
        # An empty row keeps one place, "nothing", so that attention has something to look at.
        longest = max(1, int(lengths.max()))
        back = torch.arange(longest, 0, -1)
        there = back <= lengths.unsqueeze(1)
        at = (end.unsqueeze(1) - back).clamp_(min=0)
        rows = torch.where(there, items[at], len(self.table) - 1) if len(items) else there.long() - 1
        tokens = self.table[rows.to(self.device)]
        hashed = None
        if self.shape.user_tokens:
            # Multiplicative hashing: neighbours in number fall into unrelated buckets.
            hashed = (((users * 0x9E3779B1) & 0xFFFFFFFF) * self.shape.user_tokens >> 32).to(self.device)
        if int(lengths.min()) == longest:
            return Inputs(tokens, hashed, None)
        there[:, -1] = True
        visible = there.repeat_interleave(self.shape.per_item, 1)
        if hashed is not None:
            visible = torch.cat((visible.new_ones(len(visible), 1), visible), 1)
        bias = torch.zeros(visible.shape, dtype=self.dtype).masked_fill_(~visible, -torch.inf)
        return Inputs(tokens, hashed, bias[:, None, None].to(self.device))


class Windows:
    """Every position but the first of every row is a target once an epoch, after at most `history` items."""

    def __init__(self, rows: Sequences, history: int, seed: int) -> None:
        self.items = torch.from_numpy(rows.items.astype("int64"))
        offsets = torch.from_numpy(rows.offsets)
        user = torch.arange(len(rows)).repeat_interleave(offsets.diff())
        first = offsets[user]
        at = torch.arange(len(self.items))
        self.end = at[at > first]
        self.users = user[self.end]
        self.begin = torch.maximum(first[self.end], self.end - history)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.end)

    def next(self, count: int) -> Tensor:
        """The next `count` windows of an endless run of shuffled epochs, longest first."""
        while len(self._order) < count:
            self._order = torch.cat((self._order, torch.randperm(len(self), generator=self._generator)))
        batch, self._order = self._order[:count], self._order[count:]
        lengths = self.end[batch] - self.begin[batch]
        return batch[lengths.argsort(descending=True, stable=True)]

    def pieces(self, batch: Tensor, goals: Tensor, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A batch, longest first, and its goals, cut so that each piece, padded, reads about `limit` items.

        Short histories then cost what they are long, and what a layer makes stays in the processor's cache.
        """
        lengths = (self.end[batch] - self.begin[batch]).tolist()
        start = 0
        while start < len(batch):
            stop = start + max(1, limit // lengths[start])
            yield batch[start:stop], goals[start:stop]
            start = stop
