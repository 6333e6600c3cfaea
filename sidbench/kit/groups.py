"""Groups of items that share a SID: what resolvers ask of them, by sorting, with nothing per item."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sidbench.sids import Codes

Index = NDArray[np.int64]
Keys = NDArray[np.uint64]
ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio


def ranks(group: Index, *by: NDArray[np.generic]) -> Index:
    """Each row's number inside its group, 0, 1, 2…, in the order of `by` (the first decides) and rows."""
    rank = np.zeros(len(group), dtype=np.int64)
    several = np.flatnonzero(np.bincount(group)[group] > 1)  # who is alone is the first: nothing to sort
    order = several[np.lexsort([key[several] for key in (*by[::-1], group)])]
    at, same = np.arange(len(order)), group[order]
    begins = np.append(True, same[1:] != same[:-1])[: len(order)]
    rank[order] = at - np.maximum.accumulate(np.where(begins, at, 0))
    return rank


def keys(codes: Codes, sizes: tuple[int, ...]) -> Keys:
    """A number for every SID: its own where 64 bits hold them all, else a hash."""
    out = np.zeros(len(codes), dtype=np.uint64)
    small = math.prod(sizes) < 2**64
    for column, size in zip(codes.T, sizes, strict=True):
        if small:
            out = out * np.uint64(size) + column.astype(np.uint64)
        else:
            out = scrambled(out ^ column.astype(np.uint64))
    return out


def scrambled(x: Keys) -> Keys:
    """A bijection on 64 bits in which every input bit reaches every output bit (splitmix64's)."""
    x = x + ODD
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


class Taken:
    """The SIDs that have an item, as sorted keys, and those added to them."""

    def __init__(self, keys: Keys) -> None:
        self.old, self.new = np.unique(keys), np.zeros(0, dtype=np.uint64)

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        return _holds(self.old, keys) | _holds(self.new, keys)

    def add(self, keys: Keys) -> None:
        self.new = np.union1d(self.new, keys)


def _holds(known: Keys, keys: Keys) -> NDArray[np.bool_]:
    if not len(known):
        return np.zeros(keys.shape, dtype=bool)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.asarray(known[at] == keys)
