"""The trie of a catalogue's SIDs as tables: dense where most codes continue a prefix, CSR elsewhere."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidbench.sids import SIDs

#: A dense table may hold this many entries a level (4 bytes each).
DENSE_LIMIT = 1 << 24


class Trie:
    """Nodes are numbered level by level in lexicographic order: a leaf is the number of its group of items.

    Where SIDs differ in length, every code moves up by one and code 0 ends a SID: it is predicted once, what
    stands after it is certain. The end sorts first, as -1 does, so groups keep their order.
    """

    def __init__(self, sids: SIDs, dense_limit: int = DENSE_LIMIT) -> None:
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

        #: Level by level: each node's code, where each parent's children begin, the most children of one.
        self.codes: list[Tensor] = []
        self.begins: list[Tensor] = []
        self.degrees: list[int] = []
        #: (parents, codes) number of the child or -1, where that is worth its memory.
        self.dense: list[Tensor | None] = []
        new = np.zeros(len(groups), dtype=bool)
        new[:1] = True
        parent = np.zeros(len(groups), dtype=np.int64)
        for level, size in enumerate(self.sizes):
            parents = int(parent[-1]) + 1
            new = new.copy()
            new[1:] |= paths[1:, level] != paths[:-1, level]
            codes, above = paths[new, level], parent[new]
            counts = np.bincount(above, minlength=parents)
            self.codes.append(torch.from_numpy(codes))
            self.begins.append(torch.from_numpy(np.concatenate(([0], np.cumsum(counts)))))
            self.degrees.append(int(counts.max()))
            table = None
            # A dense row costs a look at every code; CSR a few indirections for each of the most children.
            if parents * size <= dense_limit and self.degrees[-1] * 4 >= size:
                table = torch.full((parents, size), -1, dtype=torch.int32)
                table[torch.from_numpy(above), self.codes[-1]] = torch.arange(len(codes), dtype=torch.int32)
            self.dense.append(table)
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
        self.dense = [None if t is None else t.to(device) for t in self.dense]
        return self

    def count_codes(self, codes: Tensor) -> int:
        """How many codes of these paths (rows, levels) are predicted: up to the end, the end included."""
        if not self.variable:
            return codes.numel()
        return codes.numel() - int((codes[:, :-1] == 0).sum())

    def nodes(self, level: int) -> int:
        """How many nodes a level has."""
        return len(self.codes[level])

    def fan(self, level: int) -> int:
        """How many candidates `children` lists for one node of the level before."""
        return self.degrees[level] if self.dense[level] is None else self.sizes[level]

    def children(self, level: int, nodes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """For nodes of the level before and scores (..., codes): candidates (..., fan) and their scores.

        Candidates stand in the order of their codes. A place without a node has score -inf.
        """
        table = self.dense[level]
        if table is not None:
            found = table[nodes]
            return found, scores.masked_fill(found < 0, -torch.inf)
        begin = self.begins[level][nodes].unsqueeze(-1)
        end = self.begins[level][nodes + 1].unsqueeze(-1)
        found = begin + torch.arange(self.degrees[level], device=nodes.device)
        beyond = found >= end
        found = found.masked_fill_(beyond, 0)
        return found, scores.gather(-1, self.codes[level][found]).masked_fill_(beyond, -torch.inf)
