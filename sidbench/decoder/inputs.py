"""From rows of items to what the model reads: tokens, what of them is padding, hashed users, windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidbench.dataset import Sequences
from sidbench.decoder.shape import Inputs, Shape
from sidbench.decoder.trie import Trie


class Reader:
    """Turns spans of a flat list of items into inputs, no wider than they need."""

    def __init__(self, trie: Trie, shape: Shape, dtype: torch.dtype, *, leftmost: bool) -> None:
        device = trie.item_codes.device
        starts = torch.tensor([sum(shape.sizes[:i]) for i in range(len(shape.sizes))], device=device)
        nothing = torch.full((1, len(shape.sizes)), sum(shape.sizes), device=device)
        #: The tokens of every item; the last row stands for no item.
        self.table = torch.cat((trie.item_codes + starts, nothing))
        self.shape = shape
        self.device = device
        self.dtype = dtype
        #: Rows begin leftmost, as a stream does, or end rightmost.
        self.leftmost = leftmost

    def send(self, x: Tensor) -> Tensor:
        """A tensor of the processor on the model's device. No copy waits for what the device does already."""
        return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x

    def read(
        self, items: Tensor, begin: Tensor, end: Tensor, users: Tensor, width: int | None = None
    ) -> Inputs:
        """Rows `items[begin[i]:end[i]]`, all on the processor; the inputs are on the model's device.

        `width` pads them to so many items, and says what is padding even where nothing is.
        """
        lengths = (end - begin).clamp_(max=self.shape.history)
        # An empty row keeps one place, "nothing", so that attention has something to look at.
        longest = width or max(1, int(lengths.max()))
        if self.leftmost:
            tokens = self._tokens(items, end - lengths, lengths, longest)
            return Inputs(tokens, self._hashed(users), None, self.send(lengths.clamp(min=1)))
        tokens = self._tokens(items, end - longest, lengths, longest, rightmost=True)
        hashed = self._hashed(users)
        if width is None and int(lengths.min()) == longest:
            return Inputs(tokens, hashed, None)
        there = torch.arange(longest, 0, -1) <= lengths.unsqueeze(1)
        there[:, -1] = True
        visible = there.repeat_interleave(self.shape.per_item, 1)
        if hashed is not None:
            visible = torch.cat((visible.new_ones(len(visible), 1), visible), 1)
        bias = torch.zeros(visible.shape, dtype=self.dtype).masked_fill_(~visible, -torch.inf)
        return Inputs(tokens, hashed, self.send(bias[:, None, None]))

    def stream(
        self, items: Tensor, begin: Tensor, end: Tensor, users: Tensor, width: int | None = None
    ) -> Inputs:
        """Rows `items[begin[i]:end[i] + 1]`, in which every item but the first is a target."""
        lengths = end + 1 - begin
        longest = int(lengths.max()) if width is None else width + 1
        place = torch.arange(longest)
        wanted = (place > 0) & (place < lengths.unsqueeze(1))
        at = wanted.flatten().nonzero()[:, 0]
        tokens = self._tokens(items, begin, lengths, longest)
        return Inputs(tokens, self._hashed(users), None, self.send(lengths), self.send(at))

    def _tokens(
        self, items: Tensor, first: Tensor, lengths: Tensor, longest: int, *, rightmost: bool = False
    ) -> Tensor:
        """Tokens (rows, longest, levels) of the items from `first` on; "nothing" where a row is shorter."""
        place = torch.arange(longest)
        there = place >= longest - lengths.unsqueeze(1) if rightmost else place < lengths.unsqueeze(1)
        rows = torch.full(there.shape, len(self.table) - 1)
        rows[there] = items[(first.unsqueeze(1) + place)[there]]
        return self.table[self.send(rows)]

    def _hashed(self, users: Tensor) -> Tensor | None:
        if not self.shape.user_tokens:
            return None
        # Multiplicative hashing: neighbours in number fall into unrelated buckets.
        return self.send(((users * 0x9E3779B1) & 0xFFFFFFFF) * self.shape.user_tokens >> 32)


class Windows:
    """The rows that train: each position but the first of every sequence is a target once an epoch.

    A row reads at most `history` items. Its target is the item after them or, where `every` item of a row is
    one, those of up to `history` positions: rows then follow each other, counted from a sequence's end.
    """

    def __init__(self, rows: Sequences, history: int, seed: int, *, every: bool = False) -> None:
        self.items = torch.from_numpy(rows.items.astype("int64"))
        offsets = torch.from_numpy(rows.offsets)
        user = torch.arange(len(rows)).repeat_interleave(offsets.diff())
        first, last = offsets[user], offsets[user + 1] - 1
        at = torch.arange(len(self.items))
        chosen = at > first
        if every:
            chosen &= (last - at) % history == 0
        self.end = at[chosen]
        self.users = user[self.end]
        self.begin = torch.maximum(first[self.end], self.end - history)
        #: How many targets each row has.
        self.counts = self.end - self.begin if every else torch.ones_like(self.end)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.end)

    def next(self, count: int) -> Tensor:
        """The next `count` rows of an endless run of shuffled epochs, longest first."""
        while len(self._order) < count:
            self._order = torch.cat((self._order, torch.randperm(len(self), generator=self._generator)))
        batch, self._order = self._order[:count], self._order[count:]
        lengths = self.end[batch] - self.begin[batch]
        return batch[lengths.argsort(descending=True, stable=True)]

    def state(self) -> dict[str, Tensor]:
        """What is left of the epoch and where the generator stands, for a checkpoint."""
        return {"order": self._order, "generator": self._generator.get_state()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._order = state["order"]
        self._generator.set_state(state["generator"])

    def targets(self, batch: Tensor) -> Tensor:
        """The items that are targets of these rows, row after row."""
        counts = self.counts[batch]
        upto = counts.cumsum(0)
        first = (self.end[batch] + 1 - upto).repeat_interleave(counts)
        return self.items[first + torch.arange(len(first))]

    def pieces(self, batch: Tensor, goals: Tensor, limit: int, spare: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A batch, longest first, and its goals, in pieces that read, padded, about `limit` items at most.

        What a layer makes then stays in the processor's cache. A cut is made, too, where it saves more
        padding than `spare` items, which is what one piece more costs: the cuts are those of least cost.
        """
        lengths = (self.end[batch] - self.begin[batch]).numpy()
        upto = [0, *self.counts[batch].cumsum(0).tolist()]
        for start, stop in _cuts(lengths, limit, spare):
            yield batch[start:stop], goals[upto[start] : upto[stop]]


def _cuts(lengths: NDArray[np.int64], limit: int, spare: int) -> Iterator[tuple[int, int]]:
    """Where to cut rows that stand longest first, each piece padded to its first row."""
    # Only between rows of different length: from the back, the best way to go on from each such place.
    edges = np.flatnonzero(np.diff(lengths, prepend=-1, append=-1))
    cost, follows = np.zeros(len(edges)), np.zeros(len(edges), dtype=np.int64)
    for i in range(len(edges) - 2, -1, -1):
        ways = (edges[i + 1 :] - edges[i]) * lengths[edges[i]] + spare + cost[i + 1 :]
        best = int(ways.argmin())
        cost[i], follows[i] = ways[best], i + 1 + best
    start = at = 0
    while at < len(edges) - 1:
        at = int(follows[at])
        while start < edges[at]:
            stop = min(int(edges[at]), start + max(1, limit // int(lengths[start])))
            yield start, stop
            start = stop
