"""The residual loop: learn a codebook a level, each on what the levels before left over, and use them.

Codes are decided by `nearest` alone, in `fit` as in `encode` and whatever learned the codebooks, so a fitted
row's code is what `encode` gives it ever after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError
from sidbench.kit.nearest import Codewords, Floats, Searcher, first_of_each
from sidbench.kit.workers import workers
from sidbench.progress import report
from sidbench.sids import Codes

# (what is left over, number of codes, level) -> that many codewords
FitLevel = Callable[[Floats, int, int], Floats]
SPAN = 16  # tiles in one task of a worker


def fit(x: Floats, sizes: Sequence[int], fit_level: FitLevel) -> list[Floats]:
    """One codebook a level.

    `fit_level` sees centred rows at the first level (k-means does not mind, and digits are saved); it may
    keep nothing of the array, which the next level overwrites. With no more distinct rows than codes, every
    distinct row is a codeword of its own and the remaining codes, which repeat the first, are never used.
    """
    mean = _mean(x)
    left = np.empty(x.shape, dtype=np.float32)
    np.subtract(x, mean, out=left)
    books: list[Floats] = []
    for level, size in enumerate(sizes):
        report("fit", level, len(sizes))
        distinct = _few_distinct(left, size)
        if distinct is None:
            scale = _scale(left)
            if scale != 1:
                left *= scale
            centers = fit_level(left, size, level)
            if scale != 1:
                left /= scale
                centers = centers / scale
        else:
            centers = _padded(distinct, size)
        if centers.shape != (size, x.shape[1]) or not np.isfinite(centers).all():
            raise DataError(
                f"k-means of level {level} failed: codewords of shape {centers.shape} or not finite"
            )
        book = (centers + mean if level == 0 else centers).astype(np.float32)
        if level + 1 < len(sizes):
            subtract_nearest(x if level == 0 else left, book, left)
        books.append(book)
    report("fit", len(sizes), len(sizes))
    return books


def subtract_nearest(rows: Floats, book: Floats, out: Floats) -> None:
    """`out = rows - nearest codeword`; `out` may be `rows`."""
    words = Codewords(book)

    def work(start: int, stop: int) -> None:
        searcher = Searcher([words])
        for at in range(start, stop, searcher.tile):
            tile = slice(at, min(at + searcher.tile, stop))
            codes = searcher.nearest(0, rows[tile])
            np.subtract(rows[tile], words.centers[codes], out=out[tile])

    with workers() as run:
        run(work, len(rows), SPAN * words.tile())


def encode(x: Floats, books: Sequence[Floats]) -> Codes:
    """The greedy codes of any rows: a row's depend on that row alone, to the bit."""
    check_columns(x, books[0].shape[1])
    words = [Codewords(book) for book in books]
    codes = np.empty((len(x), len(words)), dtype=np.int32)

    def work(start: int, stop: int) -> None:
        searcher = Searcher(words)
        left = np.empty((searcher.tile, x.shape[1]), dtype=np.float32)
        for at in range(start, stop, searcher.tile):
            r: Floats = x[at : min(at + searcher.tile, stop)]
            for level, book in enumerate(words):
                found = searcher.nearest(level, r)
                codes[at : at + len(r), level] = found
                if level + 1 < len(words):
                    r = np.subtract(r, book.centers[found], out=left[: len(r)])

    with workers() as run:
        run(work, len(x), SPAN * min(w.tile() for w in words))
    return codes


def costs(x: Floats, prefix: Codes, books: Sequence[Floats]) -> Floats:
    """(n, K) squared distances from what the prefix leaves over to every codeword of the next level."""
    check_columns(x, books[0].shape[1])
    if prefix.ndim != 2 or len(prefix) != len(x) or prefix.shape[1] >= len(books):
        raise DataError(
            f"costs: the prefix has shape {prefix.shape}; expected ({len(x)}, 0 to {len(books) - 1} codes)"
        )
    r = x.astype(np.float32)
    for level in range(prefix.shape[1]):
        r -= books[level][prefix[:, level]]
    wide, book = r.astype(np.float64), books[prefix.shape[1]].astype(np.float64)
    squares = (wide**2).sum(axis=1)[:, None] + (book**2).sum(axis=1) - 2.0 * (wide @ book.T)
    return np.asarray(np.maximum(squares, 0.0), dtype=np.float32)


def reconstruct(codes: Codes, books: Sequence[Floats]) -> Floats:
    """The sum of the codewords; fewer columns than levels decode a prefix."""
    if codes.ndim != 2 or not 1 <= codes.shape[1] <= len(books):
        raise DataError(f"reconstruct: codes have shape {codes.shape}; expected (n, 1 to {len(books)} codes)")
    out: Floats = books[0][codes[:, 0]]
    for level in range(1, codes.shape[1]):
        out += books[level][codes[:, level]]
    return out


def check_columns(x: NDArray[np.float32], expected: int) -> None:
    """Rows of another width than those of `fit` are an error that says so."""
    if x.shape[1] != expected:
        raise DataError(f"encode: rows have {x.shape[1]} dimensions; the tokenizer was fitted on {expected}")


def _mean(x: Floats) -> Floats:
    """The mean row in float64, a piece at a time (x may be a memmap), as float32."""
    step = max(1, (1 << 22) // x.shape[1])
    total = sum(x[at : at + step].sum(axis=0, dtype=np.float64) for at in range(0, len(x), step))
    return np.asarray(total / len(x), dtype=np.float32)


def _scale(rows: Floats) -> np.float32:
    """1, or the power of two (so that no digit changes) that brings extreme values near 1."""
    largest = max(float(rows.max()), -float(rows.min()))
    return np.float32(1 if 1e-12 < largest < 1e12 else 2.0 ** -np.clip(np.frexp(largest)[1], -126, 126))


def _few_distinct(rows: Floats, size: int) -> Floats | None:
    """The distinct rows, if there are at most `size`; None at the first sight of more."""
    if len(first_of_each(rows[: 2 * size + 2])) > size:
        return None
    first = first_of_each(rows)
    return rows[first] if len(first) <= size else None


def _padded(distinct: Floats, size: int) -> Floats:
    """As many codewords as asked for: those beyond the distinct rows repeat the first, so none is nearest."""
    return np.concatenate([distinct, np.repeat(distinct[:1], size - len(distinct), axis=0)])
