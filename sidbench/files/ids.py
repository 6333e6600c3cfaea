"""Ids of any kind: whole numbers or text, and the row of the catalogue that each one means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sidbench.errors import DataError
from sidbench.files.tables import is_text

#: A number as only one text spells it, so that nothing is lost when it is read as one: not 007, not +1.
CANONICAL = r"^(0|-?[1-9][0-9]{0,17})$"


def identifiers(array: pa.Array, where: Path | str) -> pa.Array:
    """Ids as int64 or text, whatever width or encoding the file has; blank text is a gap too."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_integer(kind):
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid:  # unsigned numbers beyond, such as hashes
            return array.cast(pa.string())
    if is_text(kind):
        text = array.cast(pa.string())
        blank = pc.equal(pc.utf8_trim_whitespace(text), "")
        return pc.if_else(blank, pa.scalar(None, pa.string()), text) if not _none(blank) else text
    if pa.types.is_floating(kind):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, kind), array)  # how some tools write a gap
        if _all(pc.and_(pc.equal(array, pc.trunc(array)), pc.is_finite(array))):
            return array.cast(pa.int64())
    if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_large_binary(kind):
        return pa.array([None if v is None else v.hex() for v in array.to_pylist()], pa.string())
    if pa.types.is_null(kind):
        return array.cast(pa.string())
    raise DataError(f"{where}: ids are {kind}; expected integers or text")


def from_text(ids: pa.Array) -> pa.Array:
    """Ids of a text file: numbers where every one is spelled as a number is, else the text as it stands."""
    if is_text(ids.type) and ids.null_count < len(ids) and _all(pc.match_substring_regex(ids, CANONICAL)):
        return ids.cast(pa.int64())
    return ids


def alike(a: pa.Array, b: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Both as they are where they are of one type, else both as text."""
    return (a, b) if a.type == b.type else (a.cast(pa.string()), b.cast(pa.string()))


def repeats(ids: pa.Array) -> NDArray[np.bool_]:
    """Which ids repeat an earlier one; gaps do not."""
    if not len(ids):
        return np.zeros(0, np.bool_)
    codes = np.asarray(ids.dictionary_encode().indices.fill_null(-1), dtype=np.int64)
    first = np.full(codes.max(initial=-1) + 2, len(codes), dtype=np.int64)
    np.minimum.at(first, codes, np.arange(len(codes)))
    again: NDArray[np.bool_] = (first[codes] < np.arange(len(codes))) & (codes >= 0)
    return again


def rows_of(wanted: pa.Array, ids: pa.Array) -> NDArray[np.int64]:
    """The row of each wanted id among `ids`, -1 where it is not there."""
    wanted, ids = alike(wanted, ids)
    found = pc.index_in(wanted, value_set=ids, skip_nulls=True)
    return np.asarray(found.fill_null(-1), dtype=np.int64)


def as_numpy(ids: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Ids or titles as a NumPy array: int64, or fixed-width text."""
    return (
        np.asarray(ids.to_numpy())
        if pa.types.is_integer(ids.type)
        else np.array(ids.to_pylist(), dtype=np.str_)
    )


def empty(array: pa.Array) -> NDArray[np.bool_]:
    """Which cells have no value."""
    return np.asarray(pc.is_null(array, nan_is_null=True))


def _none(mask: pa.Array) -> bool:
    return pc.any(mask).as_py() is not True


def _all(mask: pa.Array) -> bool:
    return pc.all(mask).as_py() is not False
