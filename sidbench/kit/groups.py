"""Groups of items that share a SID: what resolvers ask of them, by sorting, with nothing per item."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


def ranks(group: Index) -> Index:
    """Each row's number inside its group, 0, 1, 2…, in the order of rows."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - starts[group[order]]
    return rank
