"""tree-kmeans: hierarchical k-means, in which a code means something only below its parent."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import DataError
from sidbench.kit import device, residual, rows, tree
from sidbench.progress import report
from sidbench.sids import Codes
from sidbench.tokenizer import Tokenizer


class TreeKMeans(Tokenizer):
    """Hierarchical k-means: a k-means inside every cluster, so a SID is a path and codes are local to it.

    What residual k-means shares between clusters (codewords) this one does not: it separates items better
    and tells the decoder less. A node with at most as many distinct items as codes gives each of them a code
    of its own, so that in a deep tree only equal embeddings collide; children take codes 0, 1, 2... by
    falling number of items, and codes beyond the children are not used. A new item goes to the nearest
    child, level by level.
    """

    name = "tree-kmeans"
    paper = "https://arxiv.org/abs/2202.06991"
    quick = {"iters": 5}

    #: Lloyd's iterations in every node.
    iters: Annotated[int, Field(ge=1)] = 25

    def fit(self, x: Embeddings) -> Self:
        where = device.resolve(self.device)
        self.mean_ = rows.mean_row(x)
        scale, keys = rows.power_of_two(x, self.mean_), rows.keys(x)
        node, parents = np.zeros(len(x), dtype=np.int64), self.mean_[None]
        centers, first = [], []
        for level, size in enumerate(self.sizes):
            report("fit", level, self.levels)
            seed = self.seed + level
            made = tree.split(
                x, node, parents, size, keys, scale=scale, iters=self.iters, seed=seed, device=where
            )
            node, parents = made.child(x, node, str(where)), made.centers
            centers.append(made.centers)
            first.append(made.first)
        report("fit", self.levels, self.levels)
        self.centers_, self.first_ = centers, first
        self.spread_, self.device_ = rows.spread(x, self.mean_), device.describe(where)
        return self

    def encode(self, x: Embeddings) -> Codes:
        residual.check_columns(x, len(self.mean_))
        codes = np.empty((len(x), self.levels), dtype=np.int32)
        node, where = np.zeros(len(x), dtype=np.int64), str(device.resolve(self.device))
        for level in range(self.levels):
            child = self._level(level).child(x, node, where)
            codes[:, level] = child - self.first_[level][node]
            node = child
        return codes

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        """Squared distances to the children of the prefix's node.

        A code beyond the children costs twice the farthest of them and the spread of the catalogue: more
        than any child, and no more than it must, since that place in the tree is free. After a prefix that
        the tree does not have, all codes are such.
        """
        residual.check_columns(x, len(self.mean_))
        level = rows.next_level(x, prefix, self.levels)
        node = self._path(prefix)
        known = node >= 0
        far = np.full((len(x), self.sizes[level]), np.inf, dtype=np.float32)
        far[known] = self._level(level).distances(x[known], node[known], self.sizes[level])
        most = np.where(np.isfinite(far), far, 0).max(axis=1, initial=0)
        dear = np.minimum(2.0 * most.astype(np.float64) + self.spread_, 3 * tree.FARTHEST)
        return np.where(np.isfinite(far), far, dear[:, None]).astype(np.float32)

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        """The centre of the node that the codes lead to."""
        if codes.ndim != 2 or not 1 <= codes.shape[1] <= self.levels:
            raise DataError(
                f"reconstruct: codes have shape {codes.shape}; expected (n, 1 to {self.levels} codes)"
            )
        centers: NDArray[np.float32] = self.centers_[codes.shape[1] - 1][self._node(codes)]
        return centers

    def facts(self) -> dict[str, Any]:
        return {"nodes": [len(centers) for centers in self.centers_], "device": self.device_}

    def _level(self, level: int) -> tree.Level:
        parents = self.centers_[level - 1] if level else self.mean_[None]
        return tree.Level(parents, self.centers_[level], self.first_[level])

    def _path(self, codes: Codes) -> NDArray[np.int64]:
        """The node that some codes lead to; -1 where the tree does not have it."""
        node = np.zeros(len(codes), dtype=np.int64)
        for level in range(codes.shape[1]):
            first = self.first_[level]
            child = first[node] + codes[:, level]
            there = (node >= 0) & (child < first[node + 1]) & (codes[:, level] >= 0)
            node = np.where(there, child, -1)
        return node

    def _node(self, codes: Codes) -> NDArray[np.int64]:
        """The node that some codes lead to; a path that the tree does not have is an error."""
        node = self._path(codes)
        lost = np.flatnonzero(node < 0)
        if len(lost):
            path = codes[lost[:1]]
            level = next(v for v in range(codes.shape[1]) if self._path(path[:, : v + 1])[0] < 0)
            parent = self._path(path[:, :level])[0]
            kids = int(np.diff(self.first_[level])[parent])
            raise DataError(
                f"{self.name}: the tree has no node {path[0, : level + 1].tolist()} (row {lost[0]}); codes "
                f"of the first {level} levels lead to {kids} children"
            )
        return node
