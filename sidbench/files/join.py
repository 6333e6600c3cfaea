"""Vectors of items from a file whose rows have ids: which row is whose, and these rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sidbench.dataset import Embeddings
from sidbench.errors import DataError
from sidbench.files.ids import alike, from_text, identifiers, repeats, rows_of
from sidbench.files.tables import is_text, whole
from sidbench.vectors import Vectors

#: Numbers that are read together.
PIECE = 16_000_000


def rows_by_id(
    wanted: pa.Array, vectors: Vectors, where: str, how: str = "--columns embeddings.item=COLUMN"
) -> NDArray[np.int64]:
    """The row of the vectors for each wanted id, -1 where they have none; they must have ids.

    Numbers and text meet as `rows_of` says. Ids that stand twice, and files that share no id, are refused;
    `how` is where a person names the column of ids.
    """
    theirs = identifiers(whole(vectors.ids(0, vectors.rows)), where)
    theirs = from_text(theirs) if is_text(wanted.type) != is_text(theirs.type) else theirs
    if (again := repeats(theirs)).any():
        first = int(again.argmax())
        raise DataError(
            f"{where}: {int(again.sum()):,} ids stand twice, first {theirs[first].as_py()!r} in row "
            f"{first:,}; every item has one vector"
        )
    row = rows_of(wanted, theirs)
    if (row < 0).all():
        a, b = alike(wanted.drop_null()[:1], theirs.drop_null()[:1])
        shown = f"there they are such as {b[0].as_py()!r}, " if len(b) else ""
        raise DataError(
            f"{where}: none of its {len(theirs):,} ids is an item's; {shown}the items' are such as "
            f"{a[0].as_py() if len(a) else None!r}; name the right column with {how}"
        )
    return row


def gathered(vectors: Vectors, row: NDArray[np.int64]) -> Embeddings:
    """These rows in this order, zeros for -1; read a piece at a time."""
    out = np.zeros((len(row), vectors.dim), np.float32)
    order = np.argsort(row, kind="stable")
    ordered = row[order]
    for start, piece in vectors.pieces(max(1, PIECE // vectors.dim)):
        begin, end = np.searchsorted(ordered, [start, start + len(piece)])
        out[order[begin:end]] = piece[ordered[begin:end] - start]
    return out
