"""Which rows a fit sees where there are many, and what it cost not to have seen the others."""

from __future__ import annotations

import mmap
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.kit.nearest import Floats, Index
from sidbench.tokenizer import Tokenizer

AUTO, EACH = 1 << 18, 256  # rows that `auto` takes, or so many a code where that is more
LOOKED_AT, HELD = 1 << 17, 1 << 20  # rows on which errors are compared; numbers held at one time
COPIED = 1 << 28  # bytes of a mapped file that may just as well be read into memory


class Sampled(Tokenizer):
    """Base of methods whose iterations see a sample where rows are many: how large it is, and its effect."""

    group = "The sample's"
    added: ClassVar[tuple[str, ...]] = ("sample",)

    #: Rows that iterations see, drawn by the seed; 0: all; auto: 262,144, or 256 a code; all where fewer.
    sample: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"

    def drawn(self, x: Embeddings) -> Index | None:
        """The rows that iterations see, in order; None where that is all of them."""
        enough = max(AUTO, EACH * max(self.sizes))
        return sample_of(self, x, enough if self.sample == "auto" else self.sample)

    def compare(self, x: Embeddings, drawn: Index | None) -> None:
        """Once fitted: keep what the sample did."""
        self.sampled_ = effect(self, x, drawn)

    def facts(self) -> dict[str, Any]:
        return {"sampled": self.sampled_} if self.sampled_ else {}

    def restore(self, state: dict[str, Any]) -> Self:
        return super().restore({"sampled_": {}, **state})  # saved before there were samples


def sample_of(method: Tokenizer, x: Embeddings, count: int) -> Index | None:
    """So many rows (at least one a code), drawn by the method's seed; None for 0, or where they are all."""
    count = max(count, method.fewest) if count else len(x)
    return draw(len(x), count, method.seed) if count < len(x) else None


def effect(fitted: Tokenizer, x: Embeddings, drawn: Index | None) -> dict[str, Any]:
    """What a fit on a sample did: the share of the squared deviation that codes leave, of it and of all rows.

    Both are taken on up to 131,072 rows, drawn anew from each.
    """
    if drawn is None:
        return {}
    seen = drawn[draw(len(drawn), LOOKED_AT, fitted.seed + 1)]
    every = draw(len(x), LOOKED_AT, fitted.seed + 2)
    errors = {"error_seen": _error(fitted, x, seen), "error_all": _error(fitted, x, every)}
    return {"rows": len(x), "seen": len(drawn), **errors}


def _error(fitted: Tokenizer, x: Embeddings, rows: Index) -> float:
    left, total, squares = 0.0, np.zeros(x.shape[1]), 0.0
    origin: Floats = x[rows[0]]  # near enough to all of them that squares keep their digits
    step = max(1, HELD // x.shape[1])
    for at in range(0, len(rows), step):
        some = x[rows[at : at + step]]
        left += float(np.square(some - fitted.reconstruct(fitted.encode(some)).astype(np.float64)).sum())
        gap = some - origin.astype(np.float64)
        total, squares = total + gap.sum(axis=0), squares + float(np.square(gap).sum())
    return left / (squares - float(total @ total) / len(rows) or 1.0)


def draw(n: int, count: int, seed: int) -> Index:
    """So many different rows, in order, so that a file is read from its beginning to its end."""
    return np.sort(np.random.default_rng([seed, 1]).choice(n, min(n, count), replace=False, shuffle=False))


def on_disk(x: Floats) -> bool:
    """Whether the rows are those of a mapped file that is too large to be read into memory without need."""
    base: Any = x
    while isinstance(base, np.ndarray):
        base = base.base
    return x.nbytes > COPIED and isinstance(base, mmap.mmap)
