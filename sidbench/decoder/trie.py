"""The trie of a catalogue's SIDs as flat tables: nodes level by level, the children of one stand together."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidbench.sids import SIDs


class Trie:
    """Nodes are numbered level by level in lexicographic order: a leaf is the number of its group of items.

    Where SIDs differ in length, every code moves up by one and code 0 ends a SID: it is predicted once, what
    stands after it is certain. The end sorts first, as -1 does, so groups keep their order.
    """

    def __init__(self, sids: SIDs) -> None:
        groups, group_of = sids.groups()
        self.variable = bool((groups < 0).any())
        shift = int(self.variable)
        self.sizes = tuple(size + shift for size in sids.sizes)
        paths = groups.astype(np.int64) + shift
        self.item_codes = torch.from_numpy(paths[group_of])
        #: Items in order of their group, and where each group begins: what a Ranking needs.
        self.members: NDArray[np.int32] = np.argsort(group_of, kind="stable").astype(np.int32)
        self.offsets = np.concatenate(([0], np.cumsum(np.bincount(group_of, minlength=len(groups)))))
        self.group_of = group_of
        #: How many codes of each item's SID are predicted: up to the end, the end included.
        goes_on = (paths[:, :-1] != 0) | (not self.variable)
        self.predicted = torch.from_numpy((goes_on.sum(1) + 1)[group_of])

        #: Level by level: each node's code, and where each parent's children begin.
        self.codes: list[Tensor] = []
        self.begins: list[Tensor] = []
        #: Level by level: how many children the 1, 2, 3... most fruitful parents have together.
        self._most: list[NDArray[np.int64]] = []
        new = np.zeros(len(groups), dtype=bool)
        new[:1] = True
        parent = np.zeros(len(groups), dtype=np.int64)
        for level in range(len(self.sizes)):
            parents = int(parent[-1]) + 1
            new = new.copy()
            new[1:] |= paths[1:, level] != paths[:-1, level]
            counts = np.bincount(parent[new], minlength=parents)
            self.codes.append(torch.from_numpy(paths[new, level]))
            self.begins.append(torch.from_numpy(np.concatenate(([0], np.cumsum(counts)))))
            self._most.append(np.cumsum(np.sort(counts)[::-1]))
            parent = np.cumsum(new) - 1

    @property
    def levels(self) -> int:
        return len(self.sizes)

    def __len__(self) -> int:
        """How many distinct SIDs there are."""
        return len(self.offsets) - 1

    def to(self, device: torch.device) -> Trie:
        """The tables on another device."""
        self.item_codes = self.item_codes.to(device)
        self.codes = [t.to(device) for t in self.codes]
        self.begins = [t.to(device) for t in self.begins]
        return self

    def nodes(self, level: int) -> int:
        """How many nodes a level has."""
        return len(self.codes[level])

    def most(self, level: int, parents: int) -> int:
        """The most children at this level that so many nodes of the level before can have together."""
        most = self._most[level]
        return int(most[min(parents, len(most)) - 1])

    def children(self, level: int, nodes: Tensor, alive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All children of the living among `nodes` (rows, beams) of the level before, a row side by side.

        Their numbers (rows, width), in the order of the beams and of their codes, the beam that each comes
        from, and whether there is a child at all: rows with fewer of them are filled up.
        """
        first = self.begins[level][nodes]
        counts = (self.begins[level][nodes + 1] - first).masked_fill_(~alive, 0)
        ends = counts.cumsum(1)
        # A GPU need not be asked how many there are: as many as there could be will do.
        cpu = nodes.device.type == "cpu"
        width = int(ends[:, -1].max()) if cpu else self.most(level, nodes.shape[1])
        at = torch.arange(width, device=nodes.device).repeat(len(nodes), 1)
        beam = torch.searchsorted(ends, at, right=True).clamp_(max=nodes.shape[1] - 1)
        real = at < ends[:, -1:]
        found = (at + (first + counts - ends).gather(1, beam)).masked_fill_(~real, 0)
        return found, beam, real

    def allowed(self, items: NDArray[np.bool_]) -> list[Tensor]:
        """Level by level, the nodes below which at least one of these items (a mask of all) lies."""
        device = self.codes[-1].device
        inside = torch.from_numpy(np.bincount(self.group_of, weights=items, minlength=len(self)) > 0)
        masks = [inside.to(device)]
        for begins in reversed(self.begins[1:]):
            upto = torch.nn.functional.pad(masks[0].cumsum(0), (1, 0))
            masks.insert(0, upto[begins[1:]] > upto[begins[:-1]])
        return masks
