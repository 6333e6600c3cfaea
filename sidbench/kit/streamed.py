"""Residuals of rows in a mapped file: what levels left over is computed where it is read, and never held.

Beside the file only codes are in memory, two bytes a row and level. What is read is, to the bit, what an
array of residuals would hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidbench.kit.device import tensor
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.rows import PIECE
from sidbench.sids import Codes

# (rows in memory, what they become): both may be the same array
Unit = Callable[[Floats, Floats], Floats]


class Residuals:
    """Rows less the codewords of the levels before; read like an array, by one index, never written to."""

    def __init__(self, x: Floats, mean: Floats, unit: Unit | None = None) -> None:
        self.x, self.mean, self.unit = x, mean, unit
        self.books: list[Floats] = []
        self.codes: list[NDArray[np.uint16]] = []
        self.shape, self.nbytes = x.shape, x.nbytes
        #: A power of two by which numbers are multiplied as they are read.
        self.scale = np.float32(1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | Index | int) -> Floats:
        r: Floats = np.array(self.x[rows], dtype=np.float32, ndmin=2)
        if self.unit is not None:
            self.unit(r, r)
        if not self.books:
            r -= self.mean
        for book, codes in zip(self.books, self.codes, strict=True):
            r -= book.take(codes[rows], axis=0)
            if self.unit is not None:
                self.unit(r, r)
        if self.scale != 1:
            r *= self.scale
        return r[0] if isinstance(rows, (int, np.integer)) else r

    def __imul__(self, by: np.float32) -> Residuals:
        self.scale = np.float32(self.scale * by)
        return self

    def __itruediv__(self, by: np.float32) -> Residuals:
        self.scale = np.float32(self.scale / by)
        return self

    def pieces(self) -> Iterator[slice]:
        """All rows, so many at a time as are easily held."""
        step = max(1, PIECE // self.shape[1])
        return (slice(at, min(at + step, len(self))) for at in range(0, len(self), step))

    def uncentred(self, rows: slice) -> Floats:
        """What codewords of the level at hand are compared with: at the first level the rows themselves."""
        if self.books:
            return self[rows]
        r: Floats = np.array(self.x[rows], dtype=np.float32)
        return r if self.unit is None else self.unit(r, r)

    def subtract(self, book: Floats, codes: Index | Codes | NDArray[np.uint16]) -> None:
        """From now on less these codewords too."""
        self.books.append(book)
        self.codes.append(codes.astype(np.uint16, copy=False))


def pieces_of(x: Floats | Residuals) -> Iterator[Any]:
    """The rows of either kind, a piece at a time."""
    if isinstance(x, Residuals):
        return (x[part] for part in x.pieces())
    step = max(1, PIECE // x.shape[1])
    return (x[at : at + step] for at in range(0, len(x), step))


def sent(x: Floats | Residuals, device: torch.device) -> torch.Tensor:
    """All rows on a device; on the processor an array's own memory."""
    if not isinstance(x, Residuals):
        return tensor(x).to(device)
    out = torch.empty(x.shape, device=device)
    for part in x.pieces():
        out[part] = tensor(x[part]).to(device)
    return out
