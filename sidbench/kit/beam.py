"""Beam search over residual codebooks, on a processor or a CUDA device, exact all the same.

Of all ways to go on from the `beam` best prefixes of a row, the `beam` of least squared error stay; ties go
to the lexicographically lowest. The greedy codes of a row stand against what the search found, so no row is
ever worse off. As in `nearest`, products propose, and float64 distances decide where rounding might.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sidbench.kit.device import full_precision, tensor
from sidbench.kit.nearest import UNIT, Codewords, Floats, Wide, distances
from sidbench.kit.workers import workers
from sidbench.sids import Codes

ON_CORE, ON_DEVICE = 1 << 18, 1 << 25  # numbers held at once
SPAN = 1 << 12  # rows in one task of a worker


@dataclass(frozen=True, eq=False)
class Book:
    """A codebook on a device."""

    words: Codewords
    centers: torch.Tensor
    products: torch.Tensor
    bias: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def on(cls, device: torch.device, words: Codewords) -> Book:
        shift = np.zeros(words.centers.shape[1], np.float32) if words.shift is None else words.shift
        return cls(
            words,
            tensor(words.centers).to(device),
            torch.cat([products for _, products in words.blocks], dim=1).to(device),
            torch.cat([bias for bias, _ in words.blocks]).to(device),
            tensor(shift).to(device),
        )

    def scores(self, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Half the squared distances from `r` (rows, prefixes, dimensions): (rows, prefixes x codes).

        Less half the row's square where it has one prefix. Beside them a bound, by row, on the rounding error
        of the difference of two scores.
        """
        flat = (r - self.shift).flatten(0, 1)
        found = torch.addmm(self.bias, flat, self.products, alpha=-1)
        length = torch.linalg.vector_norm(flat, dim=1)
        margin = self.words.slope * length + self.words.offset
        if r.shape[1] > 1:
            square = length.square()
            found += 0.5 * square[:, None]
            margin += UNIT * (2 * flat.shape[1] + 16) * square + self.words.offset
        return found.view(len(r), -1), margin.view(len(r), -1).amax(dim=1)

    def kept(self, prefixes: int, beam: int) -> int:
        """How many prefixes go on: no more than there are ways to go on."""
        return min(beam, prefixes * int(self.words.alive.sum()))


def improve(x: Floats, greedy: Codes, words: Sequence[Codewords], beam: int, device: torch.device) -> Codes:
    """The codes that a beam search finds, where they are better than the greedy ones."""
    books = [Book.on(torch.device("cpu"), book) for book in words]
    known = None if device.type == "cpu" else propose(x, words, beam, device)
    codes = greedy.copy()
    step = int(np.clip(ON_CORE // (beam * max(len(book) for book in words)), 8, 1024))

    def work(start: int, stop: int) -> None:
        for at in range(start, stop, step):
            part = slice(at, min(at + step, stop))
            rows = x[part]
            if known is None:
                found, doubt = (out.numpy() for out in search(tensor(rows), books, beam))
            else:
                found, doubt = known[0][part], known[1][part]
            again = np.flatnonzero(doubt)
            if len(again):
                found[again] = settle(rows[again], books, beam)
            better = _better(rows, found, codes[part], words)
            codes[part][better] = found[better]

    with workers() as run:
        run(work, len(x), SPAN)
    return codes


def propose(
    x: Floats, words: Sequence[Codewords], beam: int, device: torch.device, normalize: bool = False
) -> tuple[Codes, NDArray[np.bool_]]:
    """Codes found by a device, and which rows are in doubt there. The host waits once a load, not a batch."""
    codes, doubt = np.empty((len(x), len(words)), dtype=np.int32), np.empty(len(x), dtype=bool)
    step = max(1, ON_DEVICE // (beam * max(x.shape[1], *(len(book) for book in words))))
    with full_precision():
        books = [Book.on(device, book) for book in words]
        load = _rows_that_fit(device, x.shape[1])
        for at in range(0, len(x), load):
            rows = tensor(x[at : at + load]).to(device)
            parts = [search(part, books, beam, normalize) for part in torch.split(rows, step)]
            codes[at : at + load] = torch.cat([found for found, _ in parts]).cpu().numpy()
            doubt[at : at + load] = torch.cat([unsure for _, unsure in parts]).cpu().numpy()
    return codes, doubt


def _rows_that_fit(device: torch.device, dimensions: int) -> int:
    """Rows that a third of the device's free memory holds."""
    if device.type != "cuda":
        return 1 << 16
    free, _ = torch.cuda.mem_get_info(device)
    return int(max(1, free // (12 * dimensions)))


def search(
    x: torch.Tensor, books: Sequence[Book], beam: int, normalize: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of rows on a device, and which of them are in doubt. Nothing here waits for the device."""
    r = x[:, None]  # (rows, prefixes, dimensions); prefixes in lexicographic order
    codes = torch.empty(len(x), 1, 0, dtype=torch.int32, device=x.device)
    doubt = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    drift = torch.zeros(len(x), device=x.device)
    for level, book in enumerate(books):
        if normalize:
            # Lengths may differ from the processor's in a last digit: how far that carries is bounded.
            length = torch.linalg.vector_norm(r.double(), dim=2, keepdim=True)
            r = (r / length.where(length > 0, torch.ones_like(length))).float()
            if level:
                drift = (2 * (drift + UNIT) / length[:, 0, 0]).float()
            drift = drift + 2 * UNIT
        scores, margin = book.scores(r)
        margin = margin + 4 * book.words.radius * drift
        keep = book.kept(r.shape[1], beam if level + 1 < len(books) else 1)
        best, last, next_best = _best(scores, keep)
        doubt |= ~(next_best - last > margin)  # NaN, from overflow, is doubt too
        prefix, code = best // len(book.centers), best % len(book.centers)
        parents = codes.gather(1, prefix[:, :, None].expand(-1, -1, codes.shape[2]))
        codes = torch.cat([parents, code[:, :, None].int()], dim=2)
        if level + 1 < len(books):
            r = r.gather(1, prefix[:, :, None].expand(-1, -1, r.shape[2])) - book.centers[code]
    return codes[:, 0], doubt


def _best(scores: torch.Tensor, keep: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the `keep` lowest scores of every row are, in order of place; the last of them and the next."""
    if keep == 1:
        first = scores.min(dim=1)
        rest = scores.scatter_(1, first.indices[:, None], torch.inf).amin(dim=1)
        return first.indices[:, None], first.values, rest
    found = scores.topk(min(keep + 1, scores.shape[1]), dim=1, largest=False)
    last = found.values[:, keep - 1]
    rest = found.values[:, keep] if scores.shape[1] > keep else torch.full_like(last, torch.inf)
    return found.indices[:, :keep].sort(dim=1).values, last, rest


def settle(x: Floats, books: Sequence[Book], beam: int) -> Codes:
    """The search decided by float64 distances of all that might be among the best; books on the processor."""
    r = x[:, None]
    codes = np.empty((len(x), 1, 0), dtype=np.int32)
    each = np.arange(len(x))[:, None]
    for level, book in enumerate(books):
        prefixes, size = r.shape[1], len(book.words)
        keep = book.kept(prefixes, beam if level + 1 < len(books) else 1)
        scores, margin = book.scores(tensor(np.ascontiguousarray(r)))
        limit = scores.kthvalue(keep, dim=1).values + margin
        asked = ~(scores > limit[:, None]).numpy() & np.tile(book.words.alive, prefixes)
        row, place = np.nonzero(asked)
        flat = r.reshape(-1, r.shape[2])
        far = distances(flat, row * prefixes + place // size, book.words.centers, place % size)
        order = np.lexsort((place, far, row))
        begin = np.searchsorted(row, np.arange(len(x)))  # rows stay in order, so their runs stay in place
        best = np.sort(place[order][begin[:, None] + np.arange(keep)], axis=1)
        prefix, code = best // size, best % size
        codes = np.concatenate([codes[each, prefix], code[:, :, None].astype(np.int32)], axis=2)
        r = r[each, prefix] - book.words.centers[code]
    return codes[:, 0]


def _better(x: Floats, a: Codes, b: Codes, words: Sequence[Codewords]) -> NDArray[np.bool_]:
    """Where codes `a` leave less of a row than codes `b`, or as much and come first in order."""
    better = np.zeros(len(x), dtype=bool)
    rows = np.flatnonzero((a != b).any(axis=1))
    x, a, b = x[rows], a[rows], b[rows]
    first = (a != b).argmax(axis=1)[:, None]
    before = np.take_along_axis(a, first, 1)[:, 0] < np.take_along_axis(b, first, 1)[:, 0]
    of_a, of_b = _errors(x, a, words), _errors(x, b, words)
    better[rows] = (of_a < of_b) | ((of_a == of_b) & before)
    return better


def _errors(x: Floats, codes: Codes, words: Sequence[Codewords]) -> Wide:
    """The squared length of what the codes leave of every row."""
    r = x
    for level, book in enumerate(words[:-1]):
        r = r - book.centers[codes[:, level]]
    return distances(r, np.arange(len(x)), words[-1].centers, codes[:, -1].astype(np.int64))
