"""The residual loop: learn a codebook a level, each on what the levels before left over, and use them.

Codes are decided by `nearest` and `beam` alone, in `fit` as in `encode` and whatever learned the codebooks,
so a fitted row's code is what `encode` gives it ever after.

With `normalize`, every level sees its rows at unit length (what GRID calls RK-Means, arXiv 2507.22224). The
lengths are in no code, so codewords no longer add up to the row: `meanings` says what codes stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidbench.errors import DataError, UsageError
from sidbench.kit import beam as beams
from sidbench.kit import fused
from sidbench.kit.device import tensor
from sidbench.kit.nearest import Codewords, Floats, Index, Searcher, first_of_each
from sidbench.kit.rows import mean_row, to_one
from sidbench.kit.streamed import Residuals, pieces_of
from sidbench.kit.workers import workers
from sidbench.progress import report
from sidbench.sids import Codes

# (what is left over, number of codes, level) -> that many codewords; rows are an array, or `Residuals` where
# the caller asked for a stream
FitLevel = Callable[[Any, int, int], Floats]
# the same, and the code of every row
SolveLevel = Callable[[Any, int, int], tuple[Floats, Index]]
# (what is left over, codewords, level) -> the code of every row
PlaceLevel = Callable[[Residuals, Floats, int], Index]
NEAR = 1 << 16  # numbers that stay in a core's cache
SPAN, TASKS = 1 << 14, 16  # rows in one task of a worker; tasks in a call, if it has rows enough


def fit(
    x: Floats,
    sizes: Sequence[int],
    fit_level: FitLevel,
    *,
    normalize: bool = False,
    device: str = "cpu",
    stream: bool = False,
) -> list[Floats]:
    """One codebook a level.

    `fit_level` sees centred rows at the first level (k-means does not mind, and digits are saved); it may
    keep nothing of the array, which the next level overwrites. With no more distinct rows than codes, every
    distinct row is a codeword of its own and the remaining codes, which repeat the first, are never used.

    With `stream`, for rows of a mapped file, no array of their size is held: the result is the same.
    """
    left: Any  # an array, or `Residuals`
    left, mean = _streamed(x, normalize) if stream else _held(x, normalize)
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
        books.append(_book(centers, size, level, mean))
        if level + 1 < len(sizes) and isinstance(left, Residuals):
            left.subtract(books[-1], _nearest(left, books[-1], device))
        elif level + 1 < len(sizes):
            if level == 0:
                source = _units(x, left) if normalize else x
            subtract_nearest(source, books[-1], left, device=device)
            source = _units(left, left) if normalize else left
    report("fit", len(sizes), len(sizes))
    return books


def _held(x: Floats, normalize: bool) -> tuple[Floats, Floats]:
    """The rows centred, in memory, and their mean."""
    left = np.empty(x.shape, dtype=np.float32)
    source = _units(x, left) if normalize else x
    mean = mean_row(source)
    return np.subtract(source, mean, out=left), mean


def _streamed(x: Floats, normalize: bool = False) -> tuple[Residuals, Floats]:
    """The same where the rows stay on disk."""
    left = Residuals(x, np.zeros(x.shape[1], dtype=np.float32), unit if normalize else None)
    left.mean = mean_row(left)
    return left, left.mean


def _nearest(left: Residuals, book: Floats, device: str) -> NDArray[np.uint16]:
    """The nearest of a new codebook to every row."""
    codes = np.empty(len(left), dtype=np.uint16)
    for part in left.pieces():
        codes[part] = encode(left.uncentred(part), [book], device=device)[:, 0]
    return codes


def fit_jointly(
    x: Floats, sizes: Sequence[int], solve_level: SolveLevel, *, stream: bool = False
) -> tuple[list[Floats], Codes]:
    """One codebook a level and the codes of all rows, where a level places its rows as a whole.

    What is left over is by these codes, which need not be the nearest. `solve_level` sees centred rows at the
    first level, and every level's with the largest number near 1, by a power of two; it may keep nothing of
    the array. Beside x, one array of its size is held; with `stream`, none.
    """
    left: Any  # an array, or `Residuals`
    left, mean = _streamed(x) if stream else _held(x, normalize=False)
    codes = np.empty((len(x), len(sizes)), dtype=np.int32)
    books: list[Floats] = []
    for level, size in enumerate(sizes):
        report("fit", level, len(sizes))
        scale = to_one(_largest(left))
        left *= scale
        centers, labels = solve_level(left, size, level)
        codes[:, level] = labels
        books.append(_book(centers / scale, size, level, mean))
        left /= scale
        if level + 1 < len(sizes) and isinstance(left, Residuals):
            left.subtract(books[-1], codes[:, level])
        elif level + 1 < len(sizes):
            subtract(left if level else x, books[-1], codes[:, level], left)
    report("fit", len(sizes), len(sizes))
    return books, codes


def place_jointly(x: Floats, books: Sequence[Floats], place_level: PlaceLevel) -> Codes:
    """The codes of all rows where a level places its rows as a whole, around codewords that are known.

    What is left over is computed where it is read, so that nothing of the size of x is held.
    """
    left: Any
    left, mean = _streamed(x)
    codes = np.empty((len(x), len(books)), dtype=np.int32)
    for level, book in enumerate(books):
        report("fit", level, len(books))
        scale = to_one(_largest(left))
        left *= scale
        codes[:, level] = place_level(left, (book - mean if level == 0 else book) * scale, level)
        left /= scale
        left.subtract(book, codes[:, level])
    report("fit", len(books), len(books))
    return codes


def subtract(source: Floats, book: Floats, codes: NDArray[Any], out: Floats) -> Floats:
    """`out = source - the codewords of these codes`, in pieces that stay in cache; `out` may be `source`."""
    step = max(1, NEAR // book.shape[1])
    for at in range(0, len(source), step):
        part = slice(at, at + step)
        np.subtract(source[part], book.take(codes[part], axis=0, mode="clip"), out=out[part])
    return out


def subtract_nearest(rows: Floats, book: Floats, out: Floats, *, device: str = "cpu") -> None:
    """`out = rows - nearest codeword`; `out` may be `rows`."""
    on_device = torch.device(device).type != "cpu"
    known = encode(rows, [book], device=device)[:, 0] if on_device else None
    words = Codewords(book)

    def work(start: int, stop: int) -> None:
        searcher = Searcher([words])
        for at in range(start, stop, searcher.tile):
            tile = slice(at, min(at + searcher.tile, stop))
            codes = searcher.nearest(0, rows[tile]) if known is None else known[tile]
            subtract(rows[tile], words.centers, codes, out[tile])

    with workers() as run:
        run(work, len(rows), _span(len(rows), words.tile()))


def encode(
    x: Floats, books: Sequence[Floats], *, normalize: bool = False, beam: int = 1, device: str = "cpu"
) -> Codes:
    """The codes of any rows: a row's depend on that row alone, to the bit, whatever the device.

    Greedy at `beam = 1`; beyond it `sidbench.kit.beam` says what is searched.
    """
    check_columns(x, books[0].shape[1])
    if normalize and beam > 1:
        raise UsageError(
            "encode: normalize and beam > 1 exclude each other: rows at unit length at every level "
            "have no common squared error by which prefixes compare; set beam = 1"
        )
    words = [Codewords(book) for book in books]
    where = torch.device(device)
    greedy = _on_cores if where.type == "cpu" else _on_device(where)
    codes = greedy(x, words, normalize)
    return codes if beam == 1 else beams.improve(x, codes, words, beam, where)


class _Greedy:
    """One worker's buffers for the loop over the levels."""

    def __init__(self, words: list[Codewords], normalize: bool) -> None:
        self.words, self.normalize = words, normalize
        self.searcher = Searcher(words)
        shape = (self.searcher.tile, words[0].centers.shape[1])
        self.left = np.empty(shape, dtype=np.float32)

    def codes(self, r: Floats, out: Codes) -> None:
        """Put the codes of a tile of rows into `out`."""
        m = len(r)
        if self.normalize:
            r = unit(r, self.left[:m])
        for level, book in enumerate(self.words):
            found = self.searcher.nearest(level, r)
            out[:, level] = found
            if level + 1 < len(self.words):
                with np.errstate(over="ignore"):  # infinitely far from every codeword: the first one's
                    r = subtract(r, book.centers, found, self.left[:m])
                if self.normalize:
                    unit(r, r)


def _on_cores(x: Floats, words: list[Codewords], normalize: bool) -> Codes:
    """Greedy codes by a worker a core."""
    codes = np.empty((len(x), len(words)), dtype=np.int32)
    rows = tensor(x).numpy()
    tile = min(book.tile() for book in words)
    idle: list[_Greedy] = []

    def work(start: int, stop: int) -> None:
        try:
            mine = idle.pop()
        except IndexError:  # as often as there are workers
            mine = _Greedy(words, normalize)
        for at in range(start, stop, tile):
            end = min(at + tile, stop)
            mine.codes(rows[at:end], codes[at:end])
        idle.append(mine)

    with workers() as run:
        run(work, len(x), _span(len(x), tile))
    return codes


def _on_device(device: torch.device) -> Callable[[Floats, list[Codewords], bool], Codes]:
    """Greedy codes by a device; the few rows that rounding leaves in doubt there are decided here."""

    def greedy(x: Floats, words: list[Codewords], normalize: bool) -> Codes:
        codes, doubt = fused.propose(x, words, device, normalize)
        doubtful = np.flatnonzero(doubt)
        if len(doubtful):
            codes[doubtful] = _on_cores(x[doubtful], words, normalize)
        return codes

    return greedy


def costs(x: Floats, prefix: Codes, books: Sequence[Floats], *, normalize: bool = False) -> Floats:
    """(n, K) squared distances from what the prefix leaves over to every codeword of the next level.

    With `normalize`, from what is left over at unit length, as the level sees it.
    """
    check_columns(x, books[0].shape[1])
    if prefix.ndim != 2 or len(prefix) != len(x) or prefix.shape[1] >= len(books):
        raise DataError(
            f"costs: the prefix has shape {prefix.shape}; expected ({len(x)}, 0 to {len(books) - 1} codes)"
        )
    r = x.astype(np.float32)
    if normalize:
        unit(r, r)
    for level in range(prefix.shape[1]):
        r -= books[level][prefix[:, level]]
        if normalize:
            unit(r, r)
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


def meanings(x: Floats, codes: Codes, sizes: Sequence[int]) -> list[Floats]:
    """What each code stands for, whatever chose it: the mean of what the codes before it leave of its rows.

    Sums of these are the best reconstruction that level after level can give on the rows at hand, so another
    level never makes it worse there. A code without rows stands for the mean row at the first level, and
    for nothing more at the others.
    """
    from scipy.sparse import csr_matrix

    books: list[Floats] = []
    for level, size in enumerate(sizes):
        sums = np.zeros((size, x.shape[1]))
        step = max(1, (1 << 20) // x.shape[1])
        for at in range(0, len(x), step):
            part = codes[at : at + step]
            rest = x[at : at + step].astype(np.float64)
            if level:
                rest -= reconstruct(part[:, :level], books)
            ends = np.arange(len(rest) + 1)
            members = csr_matrix((np.ones(len(rest)), part[:, level], ends), (len(rest), size))
            sums += np.asarray(members.T @ rest)
        count = np.bincount(codes[:, level], minlength=size)[:, None]
        empty = sums.sum(axis=0) / len(x) if level == 0 else np.zeros(x.shape[1])
        books.append(np.where(count > 0, sums / np.maximum(count, 1), empty).astype(np.float32))
    return books


def unit(rows: Floats, out: Floats) -> Floats:
    """The rows at length one, in `out`, which may be `rows`; a row of zeros stays as it is."""
    wide = rows.astype(np.float64)
    # The sum along a contiguous axis has one order, whatever the number of rows.
    length = np.sqrt(np.square(wide).sum(axis=1))
    np.divide(wide, np.where(length > 0, length, 1.0)[:, None], out=wide)
    out[...] = wide
    return out


def _units(rows: Floats, out: Floats) -> Floats:
    """`unit` of many rows, by all workers."""

    def work(start: int, stop: int) -> None:
        for at in range(start, stop, 1024):
            tile = slice(at, min(at + 1024, stop))
            unit(rows[tile], out[tile])

    with workers() as run:
        run(work, len(rows), _span(len(rows), 1024))
    return out


def _span(n: int, tile: int) -> int:
    """Rows in one task of a worker: whole tiles, so many that no worker ends long before another."""
    return tile * max(1, min(SPAN, n // TASKS) // tile)


def check_columns(x: NDArray[np.float32], expected: int) -> None:
    """Rows of another width than those of `fit` are an error that says so."""
    if x.shape[1] != expected:
        raise DataError(f"encode: rows have {x.shape[1]} dimensions; the tokenizer was fitted on {expected}")


def _book(centers: Floats, size: int, level: int, mean: Floats) -> Floats:
    """A level's centres as codewords: the first level's are of rows that were centred."""
    if centers.shape != (size, len(mean)) or not np.isfinite(centers).all():
        raise DataError(f"k-means of level {level} failed: codewords of shape {centers.shape} or not finite")
    return (centers + mean if level == 0 else centers).astype(np.float32)


def _largest(rows: Floats | Residuals) -> float:
    return max(max(float(some.max()), -float(some.min())) for some in pieces_of(rows))


def _scale(left: Floats | Residuals) -> np.float32:
    """1, or the power of two that brings extreme values near 1."""
    largest = _largest(left)
    return np.float32(1) if 1e-12 < largest < 1e12 else to_one(largest)


def _few_distinct(rows: Floats | Residuals, size: int) -> Floats | None:
    """The distinct rows, if there are at most `size`; None at the first sight of more."""
    known = rows[: 2 * size + 2]
    known = known[first_of_each(known)]
    for some in pieces_of(rows):
        if len(known) > size:
            return None
        known = np.concatenate([known, some])
        known = known[first_of_each(known)]
    return known if len(known) <= size else None


def _padded(distinct: Floats, size: int) -> Floats:
    """As many codewords as asked for: those beyond the distinct rows repeat the first, so none is nearest."""
    return np.concatenate([distinct, np.repeat(distinct[:1], size - len(distinct), axis=0)])
