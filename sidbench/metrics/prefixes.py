"""Prefixes: who shares the first codes of a SID with whom, and how alike the vectors of those are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings, Ints, scramble
from sidbench.metrics.metric import Metric
from sidbench.sids import Codes

#: Numbers of a piece of vectors that is looked at at once; they may lie on disk.
PIECE = 1 << 22


class Prefixes:
    """The tree of some SIDs: `group[d, i]` is the number of item i's prefix of d + 1 codes.

    Prefixes of one depth are numbered in the order of their codes, so each stands together in `order`.
    """

    def __init__(self, codes: Codes) -> None:
        n, levels = codes.shape
        self.order = np.lexsort(codes.T[::-1])
        ordered = codes[self.order]
        new = np.ones((levels, n), dtype=bool)
        new[:, 1:] = np.logical_or.accumulate(ordered[1:] != ordered[:-1], axis=1).T
        #: Depth by depth: where each prefix begins in `order`, and how many items have it.
        self.starts = [np.flatnonzero(row) for row in new]
        self.sizes = [np.diff(np.append(start, n)) for start in self.starts]
        self.group = np.empty((levels, n), dtype=np.int64)
        self.group[:, self.order] = np.cumsum(new, axis=1) - 1

    def __len__(self) -> int:
        """How many items there are."""
        return self.group.shape[1]

    @property
    def levels(self) -> int:
        return len(self.sizes)

    def shared(self) -> NDArray[np.int64]:
        """For each item, how many items have its whole SID, itself among them."""
        found: NDArray[np.int64] = self.sizes[-1][self.group[-1]]
        return found


def sample(count: int, most: int) -> Ints:
    """Up to `most` of so many rows, in order, chosen by a fixed hash: the same everywhere."""
    if count <= most:
        return np.arange(count)
    chosen = np.argsort(scramble(np.arange(count, dtype=np.uint64), most), kind="stable")[:most]
    return np.sort(chosen)


def centre(x: Embeddings) -> NDArray[np.float64]:
    """The mean row, read a piece at a time."""
    step = max(1, PIECE // x.shape[1])
    total = np.zeros(x.shape[1])
    for start in range(0, len(x), step):
        total += x[start : start + step].sum(axis=0, dtype=np.float64)
    return total / len(x)


def prefix_metrics(x: Embeddings, prefixes: Prefixes) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The cosine of items that share a prefix, as far down as any two do."""
    cosines = _cosines(x, prefixes)
    if not cosines:
        return {}, {}
    return {"prefix_cosine": float(np.mean(cosines))}, {"prefix_cosine": cosines}


def _cosines(x: Embeddings, prefixes: Prefixes) -> list[float]:
    """Depth by depth, exactly: the cosines inside a group add up to |sum of its unit vectors|² − its size."""
    mean, n = centre(x).astype(np.float32), len(x)
    negligible = 1e-6 * float(np.sqrt(np.square(mean).sum()))
    depths = range(prefixes.levels)
    total = np.zeros(prefixes.levels)
    open_sum = np.zeros((prefixes.levels, x.shape[1]))
    open_square = np.zeros(prefixes.levels)

    def close(depth: int, sums: NDArray[np.float64], squares: NDArray[np.float64], first: int) -> None:
        sizes = prefixes.sizes[depth][first : first + len(sums)]
        several = sizes > 1
        pairs = np.square(sums[several]).sum(axis=1) - squares[several]
        total[depth] += (pairs / (sizes[several] - 1)).sum()

    step = max(1, PIECE // x.shape[1])
    for start in range(0, n, step):
        rows = x[prefixes.order[start : start + step]] - mean
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        # What is at the mean but for rounding points nowhere.
        points = lengths > negligible
        rows *= np.where(points, 1 / np.where(points, lengths, 1), 0)[:, None]
        own = points.astype(np.float64)
        for depth in depths:
            begins = prefixes.starts[depth]
            low, high = np.searchsorted(begins, [start, start + len(rows)])
            inside = begins[low:high] - start
            if start and (not len(inside) or inside[0] > 0):
                # The group that the piece before left open goes on in this one.
                inside, low = np.concatenate([[0], inside]), low - 1
                sums, squares = _sums(rows, own, inside)
                sums[0] += open_sum[depth]
                squares[0] += open_square[depth]
            else:
                if start:
                    close(depth, open_sum[None, depth], open_square[None, depth], low - 1)
                sums, squares = _sums(rows, own, inside)
            close(depth, sums[:-1], squares[:-1], low)
            open_sum[depth], open_square[depth] = sums[-1], squares[-1]
    for depth in depths:
        close(depth, open_sum[None, depth], open_square[None, depth], len(prefixes.sizes[depth]) - 1)
    sharing = [int(sizes[sizes > 1].sum()) for sizes in prefixes.sizes]
    return [float(t / s) for t, s in zip(total, sharing, strict=True) if s]


def _sums(
    rows: NDArray[np.float32], own: NDArray[np.float64], begins: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rows of each group added up; a piece is short enough for float32."""
    return np.add.reduceat(rows, begins, axis=0).astype(np.float64), np.add.reduceat(own, begins)


METRICS: tuple[Metric, ...] = (
    Metric(
        name="prefix_cosine", label="Prefix cosine", source="sids", direction="higher", secondary=True,
        legend="How alike items of one prefix are: the mean cosine, about the catalogue's mean, of an item "
        "with the others that share its first codes, mean over items that share them and over the depths "
        "that any two items share; 0 is what chance gives. Small groups win it: it does not show whether "
        "items that are alike were put apart, nor whether anybody looks at them together.",
    ),
)  # fmt: skip
