"""The nearest codeword, exactly: the same answer for any batch, order, thread count or device.

A matrix product rounds differently with its shape, so its argmin alone is not a function of the row. Here
the product only proposes: its rounding error has a bound, and where the two best codewords are nearer to each
other than that bound, the float64 distances of the codewords in question, summed in one fixed order,
decide. Everywhere else every rounding gives the same answer. Ties go to the lowest code.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sidbench.kit.device import tensor

Floats = NDArray[np.float32]
Index = NDArray[np.int64]

UNIT = 2.0**-24  # float32's relative rounding error
TINY = 2.0**-126  # products below this may be flushed to zero
PAIRS = 1 << 20  # float64 numbers held at once while distances decide


class Codewords:
    """A codebook made ready for search: centred, transposed, with its error bound."""

    def __init__(self, centers: Floats) -> None:
        self.centers = np.ascontiguousarray(centers, dtype=np.float32)
        wide = self.centers.astype(np.float64)
        # Far from the origin a product wastes its digits on what all rows share, so search is centred,
        # unless the codewords lie around the origin anyway (residuals do).
        mean = wide.mean(axis=0)
        spread = float(np.sqrt(((wide - mean) ** 2).sum(axis=1).max()))
        self.shift = mean.astype(np.float32) if np.linalg.norm(mean) > 0.25 * spread else None
        if self.shift is not None:
            wide -= self.shift.astype(np.float64)
        half = 0.5 * (wide**2).sum(axis=1)
        # A later copy of a codeword can never win, so it takes no part.
        self.alive = np.zeros(len(wide), dtype=bool)
        self.alive[first_of_each(self.centers)] = True
        with np.errstate(over="ignore"):
            self.bias = np.where(self.alive, half, np.inf).astype(np.float32)
            self.products = np.ascontiguousarray(wide.T, dtype=np.float32)  # (dimensions, codes)
        # |score - exact| <= slope * |row| + offset; twice that, for the difference of two scores.
        d, radius = wide.shape[1], float(np.sqrt(2 * half.max()))
        self.slope = 2.0 * UNIT * (d + 8) * radius
        self.offset = 4.0 * UNIT * radius**2 + d * TINY

    def __len__(self) -> int:
        return len(self.centers)

    def tile(self) -> int:
        """Rows whose scores stay in a core's cache (a megabyte)."""
        return int(np.clip((1 << 18) // len(self), 64, 1024))


class Searcher:
    """One worker's buffers for tiles of up to `tile` rows."""

    def __init__(self, books: list[Codewords]) -> None:
        self.books = books
        self.tile = min(book.tile() for book in books)
        self.shifted = np.empty((self.tile, books[0].centers.shape[1]), dtype=np.float32)
        self.scores = {len(b): torch.empty(self.tile, len(b)) for b in books}
        self.rows = np.arange(self.tile)

    def nearest(self, level: int, r: Floats) -> Index:
        """The code of every row of one tile at one level."""
        book, n = self.books[level], len(r)
        z = r if book.shift is None else np.subtract(r, book.shift, out=self.shifted[:n])
        scores = self.scores[len(book)][:n]
        torch.addmm(tensor(book.bias), tensor(z), tensor(book.products), alpha=-1, out=scores)
        s, rows = scores.numpy(), self.rows[:n]
        codes: Index = s.argmin(axis=1)
        if len(book) == 1:
            return codes
        best = s[rows, codes]
        s[rows, codes] = np.inf
        with np.errstate(all="ignore"):  # overflow gives inf or NaN here, and so doubt
            margin = book.slope * np.sqrt(np.einsum("ij,ij->i", z, z)) + book.offset
            doubt = np.flatnonzero(~(scores.amin(dim=1).numpy() - best > margin))
            if len(doubt):
                s[doubt, codes[doubt]] = best[doubt]
                asked = ~(s[doubt] > (best + margin)[doubt, None]) & book.alive
                codes[doubt] = decide(r[doubt], book.centers, asked)
        return codes


def decide(r: Floats, centers: Floats, asked: NDArray[np.bool_]) -> Index:
    """Of the codewords asked about, the nearest to each row by float64 distance; a tie goes to the lowest."""
    row, code = np.nonzero(asked)
    step = max(1, PAIRS // r.shape[1])
    distance = np.empty(len(row))
    for start in range(0, len(row), step):
        pairs = slice(start, start + step)
        gap = r[row[pairs]].astype(np.float64) - centers[code[pairs]]
        # The sum along a contiguous axis has one order, whatever the number of rows.
        distance[pairs] = np.square(gap, out=gap).sum(axis=1)
    order = np.lexsort((code, distance, row))
    _, first = np.unique(row[order], return_index=True)
    return code[order[first]].astype(np.int64)


def first_of_each(rows: Floats) -> Index:
    """The first row of every distinct one, by their bytes (0.0 and -0.0 are one value)."""
    plain = np.ascontiguousarray(rows) + np.float32(0)
    keys = plain.view(np.dtype((np.void, plain.shape[1] * 4)))[:, 0]
    return np.unique(keys, return_index=True)[1]
