"""The ids of a catalogue: none may stand for two rows, which is seen by sorting hashes, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sidbench.errors import DataError
from sidbench.kit.groups import ODD, Keys, scrambled
from sidbench.vectors import Vectors

#: Rows whose hashes are held at one time, eight bytes each; with more rows the ids are read so often.
HELD = 1 << 26
#: Texts that are hashed at one time.
TEXTS = 1 << 13
#: Repeated hashes that are looked at by their ids at one time.
LOOKED = 1000


def check_ids(vectors: Vectors) -> None:
    """Two rows of one id would be two SIDs of one item."""
    if vectors.ids(0, 1) is None:
        return
    turns = -(-vectors.rows // HELD)
    for turn in range(turns):
        found = [keys[keys % np.uint64(turns) == turn] for _, _, keys in _pieces(vectors)]
        keys = np.concatenate(found)
        del found
        keys.sort()
        again = keys[1:][keys[1:] == keys[:-1]]
        distinct = np.unique(again)
        for at in range(0, len(distinct), LOOKED):
            _refuse(vectors, distinct[at : at + LOOKED], len(again), turns)


def _refuse(vectors: Vectors, some: Keys, count: int, turns: int) -> None:
    """An error that names one of the ids that have these hashes and stand in two rows, if one does."""
    rows: list[int] = []
    named: list[Any] = []
    for start, ids, keys in _pieces(vectors):
        here = np.flatnonzero(np.isin(keys, some))
        rows += (start + here).tolist()
        named += ids.take(pa.array(here)).to_pylist()
    first: dict[Any, int] = {}
    for row, name in zip(rows, named, strict=True):
        if (before := first.setdefault(name, row)) != row:
            raise DataError(
                f"{vectors.path}: {'at least ' * (turns > 1)}{count:,} ids stand for more than one row, such "
                f"as {name!r} in rows {before:,} and {row:,}; give every item one row"
            )


def _pieces(vectors: Vectors) -> Iterator[tuple[int, Any, Keys]]:
    """The ids as the file has them in pieces: the first row of each, its ids, their hashes."""
    for part in vectors.parts():
        ids = vectors.ids(part.start, part.stop)
        assert ids is not None
        yield part.start, ids, hashes(ids)


def hashes(ids: Any) -> Keys:
    """A number for every id: whole numbers have one each, texts nearly always."""
    if pa.types.is_integer(ids.type):
        return scrambled(ids.to_numpy().astype(np.uint64))
    text = ids.cast(pa.large_binary())
    longest = pc.max(pc.binary_length(text)).as_py() or 0
    weights = np.random.default_rng(0).integers(2**63, size=longest, dtype=np.uint64) * np.uint64(2) + ODD
    out = np.empty(len(text), np.uint64)
    for at in range(0, len(text), TEXTS):
        out[at : at + TEXTS] = _of_texts(text.slice(at, TEXTS), weights)
    return out


def _of_texts(text: Any, weights: NDArray[np.uint64]) -> Keys:
    """Sums of bytes by weights of their places, and the lengths."""
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    lengths, begin = np.diff(offsets), offsets - offsets[0]
    held = text.buffers()[2]
    letters = np.frombuffer(held if held is not None else b"", np.uint8)[int(offsets[0]) : int(offsets[-1])]
    place = np.arange(len(letters)) - np.repeat(begin[:-1], lengths)
    sums = np.append(np.uint64(0), np.cumsum(letters * weights[place], dtype=np.uint64))
    return scrambled((sums[begin[1:]] - sums[begin[:-1]]) ^ scrambled(lengths.astype(np.uint64)))
