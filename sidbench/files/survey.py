"""What vectors look like, in one pass over them: rows that are not finite, zero, constant, alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings
from sidbench.progress import report
from sidbench.vectors import Vectors

Mask = NDArray[np.bool_]
#: Numbers that are looked at together.
PIECE = 4_000_000
MIX = np.uint64(0x9E37_79B9_7F4A_7C15)


@dataclass
class Survey:
    """Counts over the rows of vectors that stand for an item."""

    rows: int
    dim: int
    dtype: str
    #: Rows with a NaN or an infinity, and the first of them.
    not_finite: int = 0
    first_not_finite: int = -1
    #: Rows of nothing but zeros; of one number over and over, other than zero.
    zero: int = 0
    constant: int = 0
    #: Rows whose vector is exactly that of an earlier row.
    repeated: int = 0
    #: The least and the greatest length of a vector that is neither zero nor broken.
    shortest: float = 0.0
    longest: float = 0.0

    def facts(self) -> dict[str, Any]:
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}

    @property
    def unit(self) -> bool:
        """Whether all vectors have length one, as far as their numbers can say."""
        return 0.99 < self.shortest <= self.longest < 1.01


def survey(
    vectors: Vectors,
    used: Mask | None = None,
    gaps: bool = False,
    sink: Callable[[int, Embeddings], None] | None = None,
) -> tuple[Survey, Mask]:
    """Look at every row once; which rows have no vector at all (where `gaps` says that NaN means that).

    `used` tells which rows stand for an item: others are not counted. `sink` is given every piece.
    """
    found = Survey(int(vectors.rows if used is None else used.sum()), vectors.dim, vectors.dtype)
    without = np.zeros(vectors.rows, np.bool_)
    hashes: list[NDArray[np.uint64]] = []
    weights = np.random.default_rng(0).integers(1, 2**63, vectors.dim, np.uint64) * np.uint64(2) + np.uint64(
        1
    )
    low, high = np.inf, 0.0
    for at, rows in pieces(vectors):
        here = np.ones(len(rows), np.bool_) if used is None else used[at : at + len(rows)]
        with np.errstate(all="ignore"):  # what is not finite is what is being looked for
            squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        broken = ~np.isfinite(squares)
        if broken.any():  # rows of huge numbers may overflow and be finite all the same
            broken[broken] = ~np.isfinite(rows[broken]).all(axis=1)
            if gaps:
                absent = broken.copy()
                absent[absent] = np.isnan(rows[absent]).all(axis=1)
                without[at : at + len(rows)] = absent
                broken, here = broken & ~absent, here & ~absent
        bad = np.flatnonzero(broken & here)
        found.not_finite += len(bad)
        if len(bad) and found.first_not_finite < 0:
            found.first_not_finite = at + int(bad[0])
        zero = squares == 0
        flat = (rows == rows[:, :1]).all(axis=1) & ~zero & ~broken & here if vectors.dim > 1 else zero & False
        found.zero += int((zero & here).sum())
        found.constant += int(flat.sum())
        whole = squares[here & ~zero & ~broken]
        if len(whole):
            low, high = min(low, float(whole.min())), max(high, float(whole.max()))
        # A sum modulo 2^64: equal rows give equal numbers, others all but never. Mixed before, since the low
        # bits of round numbers are zeros, which would leave the sum few bits to differ in.
        bits = (rows + np.float32(0)).view(np.uint32 if vectors.dim % 2 else np.uint64)
        mixed = bits.astype(np.uint64, copy=False) * MIX
        mixed ^= mixed >> np.uint64(32)
        hashes.append(np.einsum("ij,j->i", mixed, weights[: bits.shape[1]])[here & ~broken])
        if sink is not None:
            sink(at, rows)
    everything = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
    found.repeated = len(everything) - len(np.unique(everything))
    found.rows -= int((without if used is None else without & used).sum())
    found.shortest, found.longest = (float(np.sqrt(low)), float(np.sqrt(high))) if high else (0.0, 0.0)
    return found, without


class Held(Vectors):
    """An array as rows to be looked at."""

    kind = "array"

    def __init__(self, x: Embeddings) -> None:
        self.path, self.x, (self.rows, self.dim) = Path("array"), x, x.shape

    def read(self, start: int, stop: int) -> Embeddings:
        return self.x[start:stop]


def pieces(vectors: Vectors) -> Any:
    """The rows in order, as many at a time as a core likes, with word of how far it is."""
    step = max(1, PIECE // vectors.dim)
    for at, rows in vectors.pieces(step):
        yield at, rows
        report("read vectors", at + len(rows), vectors.rows)
