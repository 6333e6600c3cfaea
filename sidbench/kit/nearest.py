"""The nearest codeword, exactly: the same answer for any batch, order, thread count or device.

A matrix product rounds differently with its shape, so its argmin alone is not a function of the row. Here
the product only proposes: its rounding error has a bound, and where the two best codewords are nearer to each
other than that bound, the float64 distances of the codewords in question, summed in one fixed order,
decide. Everywhere else every rounding gives the same answer. Ties go to the lowest code.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from sidbench.kit.device import tensor

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
Index = NDArray[np.int64]

UNIT = 2.0**-24  # float32's relative rounding error
TINY = 2.0**-126  # products below this may be flushed to zero
PAIRS = 1 << 20  # float64 numbers held at once while distances decide
BLOCK = 1024  # codes in one product: a large codebook's scores are never held whole


class Codewords:
    """A codebook made ready for search: centred, transposed, in blocks, with its error bound."""

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
        self.spans = [slice(at, min(at + BLOCK, len(wide))) for at in range(0, len(wide), BLOCK)]
        with np.errstate(over="ignore"):
            bias = np.where(self.alive, half, np.inf).astype(np.float32)
            products = [np.ascontiguousarray(wide[span].T, dtype=np.float32) for span in self.spans]
        # (half squared lengths, (dimensions, codes)) of every block: products of rows with them give scores.
        self.blocks = [(tensor(bias[s]), tensor(p)) for s, p in zip(self.spans, products, strict=True)]
        # |score - exact| <= slope * |row| + offset; twice that, for the difference of two scores.
        d, self.radius = wide.shape[1], float(np.sqrt(2 * half.max()))
        self.slope = 2.0 * UNIT * (d + 8) * self.radius
        self.offset = 4.0 * UNIT * self.radius**2 + d * TINY

    def __len__(self) -> int:
        return len(self.centers)

    def tile(self) -> int:
        """Rows whose scores stay in a core's cache; narrow rows come in larger tiles."""
        scores = int(np.clip((1 << 24) // self.centers.shape[1], 1 << 18, 1 << 19))
        return int(np.clip(scores // len(self), 256, 4096))

    def centred(self, r: Floats, out: Floats) -> Floats:
        """The rows as the products see them; in `out`, unless they are that already."""
        if self.shift is None:
            return r
        out = out[: len(r)]
        with np.errstate(over="ignore"):  # infinity here is doubt later
            np.subtract(r, self.shift, out=out)
        return out


class Searcher:
    """One worker's buffers for tiles of up to `tile` rows."""

    def __init__(self, books: list[Codewords]) -> None:
        self.books = books
        self.tile = min(book.tile() for book in books)
        self.shifted = np.empty((self.tile, books[0].centers.shape[1]), dtype=np.float32)
        widths = {len(bias) for book in books for bias, _ in book.blocks}
        self.scores = {width: torch.empty(self.tile, width) for width in widths}
        self.starts = {width: np.arange(self.tile) * width for width in widths}

    def nearest(self, level: int, r: Floats) -> Index:
        """The code of every row of one tile at one level."""
        book, n = self.books[level], len(r)
        z = _tensor(book.centred(r, self.shifted))
        codes, best, second = self._two_best(0, book, z, n)
        with np.errstate(all="ignore"):  # overflow gives inf or NaN here, and so doubt
            for block in range(1, len(book.blocks)):
                code, first, other = self._two_best(block, book, z, n)
                second = np.minimum(np.minimum(second, other), np.maximum(best, first))
                codes = np.where(first < best, code, codes)
                best = np.minimum(best, first)
            limit = torch.linalg.vector_norm(z, dim=1).numpy()
            limit *= book.slope
            limit += book.offset
            limit += best
            doubt = np.flatnonzero(~(second > limit))  # written so that a comparison with NaN is doubt too
        if len(doubt) and len(book) > 1:
            if len(book.blocks) == 1:
                scores = self.scores[len(book)].numpy()[doubt]  # all but the best, which is infinite by now
                scores[np.arange(len(doubt)), codes[doubt]] = best[doubt]
                found = [scores]
            else:
                found = [torch.addmm(b, z[doubt], p, alpha=-1).numpy() for b, p in book.blocks]
            codes[doubt] = settle(book, r[doubt], found, limit[doubt])
        return codes

    def _two_best(self, block: int, book: Codewords, z: torch.Tensor, n: int) -> tuple[Index, Floats, Floats]:
        """The best code of one block for every row, its score and the next best score."""
        bias, products = book.blocks[block]
        width = products.shape[1]
        scores = self.scores[width][:n]
        torch.addmm(bias, z, products, alpha=-1, out=scores)
        s = scores.numpy()
        codes: Index = s.argmin(axis=1)
        flat, at = s.reshape(-1), self.starts[width][:n] + codes
        best = flat[at]
        flat[at] = np.inf
        codes += book.spans[block].start
        return codes, best, scores.amin(dim=1).numpy()


def _tensor(rows: Floats) -> torch.Tensor:
    return torch.from_numpy(rows) if rows.flags.writeable else tensor(rows)


def settle(book: Codewords, r: Floats, scores: Iterable[Floats], limit: Floats) -> Index:
    """The codes of rows in doubt: of all codewords that score up to the limit, the nearest by float64."""
    best = np.full(len(r), np.inf)
    codes = np.zeros(len(r), dtype=np.int64)
    for span, some in zip(book.spans, scores, strict=True):
        asked = ~(some > limit[:, None]) & book.alive[span]
        row, code = np.nonzero(asked)
        distance = distances(r, row, book.centers[span], code)
        rows, distance, code = closest(row, distance, code)
        better = distance < best[rows]  # an equal one of a later block has a higher code
        best[rows[better]], codes[rows[better]] = distance[better], code[better] + span.start
    return codes


def decide(r: Floats, centers: Floats, asked: NDArray[np.bool_]) -> Index:
    """Of the codewords asked about, the nearest to each row by float64 distance; a tie goes to the lowest."""
    row, code = np.nonzero(asked)
    return closest(row, distances(r, row, centers, code), code)[2]


def closest(row: Index, distance: Wide, code: Index) -> tuple[Index, Wide, Index]:
    """Of pairs in order of their rows: each row that has one, its least distance and the lowest such code."""
    order = np.lexsort((code, distance, row))
    begin = np.flatnonzero(np.diff(row, prepend=-1))  # rows come in order, so their runs stay in place
    return row[begin], distance[order[begin]], code[order[begin]]


def distances(r: Floats, row: Index, centers: Floats, code: Index) -> Wide:
    """Squared distances in float64 of rows and codewords paired by index."""
    step = max(1, PAIRS // r.shape[1])
    out = np.empty(len(row))
    for start in range(0, len(row), step):
        pairs = slice(start, start + step)
        gap = r[row[pairs]].astype(np.float64) - centers[code[pairs]]
        # The sum along a contiguous axis has one order, whatever the number of rows.
        out[pairs] = np.square(gap, out=gap).sum(axis=1)
    return out


def first_of_each(rows: Floats) -> Index:
    """The first row of every distinct one, by their bytes (0.0 and -0.0 are one value)."""
    plain = np.ascontiguousarray(rows) + np.float32(0)
    keys = plain.view(np.dtype((np.void, plain.shape[1] * 4)))[:, 0]
    return np.unique(keys, return_index=True)[1]
