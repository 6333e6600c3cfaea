"""Duplicates: which embeddings are identical up to what encoding one text twice changes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

#: Two embeddings count as identical when no coordinate differs by more than this share of the root mean
#: square of all values: above what batching does to the embeddings of one text (about 1e-4), far below what
#: tells two texts apart. Links carry on: a = b and b = c make one group of three.
TOLERANCE = 1e-3

# A pair within the tolerance differs by at most `reach` along each of these directions. Cells this many times
# wider then hold both in one cell, where a row near the upper side of its cell is listed in the next one too.
_DIRECTIONS = 6
_CELL = 8
#: Cells with at most so many rows are compared all at once, larger ones row by row.
_SMALL = 48
#: Values held at one time.
_VALUES = 4_000_000

Rows = NDArray[np.int64]


def identical(x: NDArray[np.float32]) -> Rows:
    """The group of every row, named by its first row. Exact; reads a piece at a time, fit for a memmap."""
    n, d = x.shape
    pieces = list(_slices(n, _step(d)))
    square = sum(float(np.square(x[p], dtype=np.float64).sum()) for p in pieces)
    tolerance = (np.sqrt(square / x.size) or 1.0) * TOLERANCE
    # ±1 / √d: the spread along it is that of the data, and one coordinate adds at most tolerance / √d.
    directions = np.random.default_rng(0).choice([-1.0, 1.0], size=(d, _DIRECTIONS)) / np.sqrt(d)
    reach = 1.001 * tolerance * np.sqrt(d)  # more than the rounding of the projections
    along = np.concatenate([x[p].astype(np.float64) @ directions for p in pieces])
    search = _Search(x, along, tolerance, reach)
    row, start, size = _cells(along, reach)
    search.small(row, start[size <= _SMALL], size[size <= _SMALL])
    for s, g in zip(start[size > _SMALL], size[size > _SMALL], strict=True):
        search.large(row[s : s + g])
    return _components(n, search.links)


def _cells(along: NDArray[np.float64], reach: float) -> tuple[Rows, Rows, Rows]:
    """Rows cell by cell, in order along the first direction; start and size of each cell with company."""
    weights = np.random.default_rng(1).integers(0, 2**63, _DIRECTIONS, dtype=np.uint64) | np.uint64(1)
    width = _CELL * reach
    # Cells that share a number are searched as one, which costs time and changes nothing.
    own = np.floor(along / width).astype(np.int64).astype(np.uint64) * weights
    crosses = np.floor((along + reach) / width) > np.floor(along / width)
    base = own.sum(axis=1, dtype=np.uint64)
    rows, keys = [], []
    for next_one in product((False, True), repeat=_DIRECTIONS):
        here = np.flatnonzero(crosses[:, next_one].all(axis=1))
        rows.append(here)
        keys.append(base[here] + weights[list(next_one)].sum(dtype=np.uint64))
    row, key = np.concatenate(rows), np.concatenate(keys)
    order = np.lexsort((along[row, 0], key))
    row, key = row[order], key[order]
    start = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    size = np.diff(np.append(start, len(key)))
    return row, start[size > 1], size[size > 1]


class _Search:
    """Finds the pairs within the tolerance among rows of one cell, or enough of them to link the groups."""

    def __init__(
        self, x: NDArray[np.float32], along: NDArray[np.float64], tolerance: float, reach: float
    ) -> None:
        self.x, self.along, self.tolerance, self.reach = x, along, tolerance, reach
        self.links: list[tuple[Rows, Rows]] = []

    def small(self, row: Rows, start: Rows, size: Rows) -> None:
        """Every pair of every small cell, one distance in the order of rows at a time."""
        place = np.repeat(start - np.cumsum(size) + size, size) + np.arange(size.sum())
        left = np.repeat(start + size, size) - place - 1
        for shift in range(1, _SMALL):
            # In order along the first direction: whoever is out of reach now stays so.
            near = left >= shift
            near[near] = self._apart(row, place[near], shift) <= self.reach
            place, left = place[near], left[near]
            if not len(place):
                return
            a, b = row[place], row[place + shift]
            close = self._near(a, b, 1)
            a, b = a[close], b[close]
            same = self._distances(a, b) <= self.tolerance
            self.links.append((a[same], b[same]))

    def _apart(self, row: Rows, place: Rows, shift: int) -> NDArray[np.float64]:
        apart: NDArray[np.float64] = self.along[row[place + shift], 0] - self.along[row[place], 0]
        return apart

    def large(self, row: Rows) -> None:
        """Row by row: whatever is within half the tolerance of one row is one clique and is done with it."""
        line = self.along[row, 0]
        until = np.searchsorted(line, line + 1.5 * self.reach, side="right")
        waits = np.ones(len(row), dtype=bool)
        for i in range(len(row)):
            if not waits[i]:
                continue
            after = i + 1 + np.flatnonzero(waits[i + 1 : until[i]])
            after = after[self._near(row[i : i + 1], row[after], 1.5)]
            if not len(after):
                continue
            far = self._distances(np.full(len(after), row[i]), row[after])
            linked = row[after[far <= self.tolerance]]
            self.links.append((np.full(len(linked), row[i]), linked))
            clique = after[far <= self.tolerance / 2]
            waits[clique] = False
            # Out of this row's tolerance, yet perhaps within that of a member that is now done.
            for z in after[(far > self.tolerance) & (far <= 1.5 * self.tolerance)]:
                same = self._distances(row[clique], np.full(len(clique), row[z])) <= self.tolerance
                self.links.append((row[clique[same]][:1], row[z : z + 1][: same.sum()]))

    def _near(self, a: Rows, b: Rows, times: float) -> NDArray[np.bool_]:
        """Pairs that the projections do not rule out."""
        return np.asarray((np.abs(self.along[a] - self.along[b]) <= times * self.reach).all(axis=1))

    def _distances(self, a: Rows, b: Rows) -> NDArray[np.float32]:
        """The largest difference in any coordinate, pair by pair."""
        out = np.empty(len(a), dtype=np.float32)
        for p in _slices(len(a), _step(self.x.shape[1])):
            out[p] = np.abs(self.x[a[p]] - self.x[b[p]]).max(axis=1)
        return out


def _components(n: int, links: list[tuple[Rows, Rows]]) -> Rows:
    """The first row of every row's group."""
    first = np.arange(n)
    if not links:
        return first
    a, b = (np.concatenate([link[side] for link in links]) for side in (0, 1))
    while (first[a] != first[b]).any():
        low, high = np.minimum(first[a], first[b]), np.maximum(first[a], first[b])
        np.minimum.at(first, high, low)
        while (first[first] != first).any():
            first = first[first]
    return first


def _step(d: int) -> int:
    return max(1, _VALUES // d)


def _slices(n: int, step: int) -> Iterator[slice]:
    return (slice(s, s + step) for s in range(0, n, step))
