"""Files of SIDs that any system wrote: index.json, lists, a parquet table or .npy, read as codes from 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError, UsageError
from sidbench.sids import Codes

FORMS = (
    '.json ({"0": ["<a_12>", "<b_3>"]} or {"0": [12, 3]}, or a list of such lists), '
    ".parquet (item_id and sid), .npy (items, levels)"
)
TOKEN = r"^(?P<level>[^0-9].*_)(?P<code>[0-9]+)>?$"
SHOWN = 5  # ids named in an error


def read(path: Path, where: str) -> tuple[list[str] | None, NDArray[np.int64]]:
    """Ids as text, if the file has any, and codes as the file counts them, -1 beyond the end of a SID."""
    import pyarrow as pa

    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{where} = {path.name!r} is of no known form; expected {FORMS}")
    try:
        ids, codes = reader(path)
    except FileNotFoundError:
        raise UsageError(f"{where}: there is no file {path}") from None
    except (OSError, EOFError, ValueError, TypeError, pa.ArrowException) as e:
        raise DataError(f"{path.name} cannot be read as SIDs ({e}); expected {FORMS}") from None
    if not codes.size:
        raise DataError(f"{path.name} holds no SIDs; expected {FORMS}")
    if ids is not None and len(set(ids)) < len(ids):
        twice = [i for i, count in zip(*np.unique(ids, return_counts=True), strict=True) if count > 1]
        raise DataError(f"{path.name} holds several SIDs for the same item: {', '.join(twice[:SHOWN])}")
    return ids, codes


def counted_from_zero(raw: NDArray[np.int64], base: Literal["auto", 0, 1], name: str) -> tuple[Codes, int]:
    """Codes that begin at 0, and the base they had."""
    end = raw == -1
    bad = np.argwhere((raw < -1) | (end[:, :1] & (np.arange(raw.shape[1]) == 0)))
    if len(bad):
        row, level = bad[0]
        raise DataError(
            f"{name}: row {row} has the code {raw[row, level]} at level {level}; codes are 0 or more, and "
            "only -1 may follow the last code of a shorter SID"
        )
    holes = np.flatnonzero((end[:, :-1] & ~end[:, 1:]).any(axis=1))
    if len(holes):
        raise DataError(
            f"{name}: row {holes[0]} is {raw[holes[0]].tolist()}: a code follows -1, the end of a SID"
        )
    lowest = int(raw[~end].min())
    found = min(lowest, 1) if base == "auto" else base
    if lowest < found:
        raise DataError(f"{name} holds the code 0, so its codes do not count from 1: leave out base = 1")
    return np.where(end, -1, raw - found).astype(np.int32), found


def rows_of(ids: list[str] | None, count: int, item_ids: NDArray[Any], name: str) -> NDArray[np.int64]:
    """The row of a file's SIDs for each of these items, joined by their ids as text; all must be there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(np.asarray(item_ids)).cast(pa.string())
    known = pa.array(np.arange(count)).cast(pa.string()) if ids is None else pa.array(ids, pa.string())
    row = pc.index_in(wanted, value_set=known)
    if row.null_count:
        missing = wanted.filter(pc.is_null(row)).slice(0, SHOWN).to_pylist()
        there = "rows are the items" if ids is None else "ids are such as"
        raise DataError(
            f"{name}: {row.null_count} of {len(wanted)} items of the dataset have no SID "
            f"there, such as {', '.join(missing)}; its {there} {', '.join(known[:SHOWN].to_pylist())}. "
            "Give a file for this dataset, with the dataset's own item ids"
        )
    found: NDArray[np.int64] = row.to_numpy().astype(np.int64)
    return found


def _read_json(path: Path) -> tuple[list[str] | None, NDArray[np.int64]]:
    held = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_pairs)
    if isinstance(held, Pairs):
        return [key for key, _ in held], _matrix([sid for _, sid in held])
    if not isinstance(held, list):
        raise ValueError(f"it holds {type(held).__name__}")
    return None, _matrix(held)


class Pairs(list[tuple[str, Any]]):
    """A JSON object with every pair that it has: a repeated key is an error to be told, not to be lost."""


def _pairs(pairs: list[tuple[str, Any]]) -> Pairs:
    return Pairs(pairs)


def _read_parquet(path: Path) -> tuple[list[str] | None, NDArray[np.int64]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    key = next((n for n in ("item_id", "item", "id") if n in names), None)
    if key is None or "sid" not in names:
        raise ValueError(f"its columns are {', '.join(names)}; expected item_id and sid")
    table = pq.read_table(path, columns=[key, "sid"])
    ids = table[key].cast(pa.string())
    if ids.null_count:
        raise ValueError(f"{ids.null_count} of its rows have no {key}")
    return ids.to_pylist(), _matrix(table["sid"])


def _read_npy(path: Path) -> tuple[list[str] | None, NDArray[np.int64]]:
    codes = np.load(path, allow_pickle=False)
    if not isinstance(codes, np.ndarray) or codes.ndim != 2:
        raise ValueError(f"it holds an array of shape {getattr(codes, 'shape', None)}")
    if codes.dtype.kind not in "iu":
        raise ValueError(f"its codes are {codes.dtype}, not integers")
    return None, codes.astype(np.int64)


def _matrix(sids: Any) -> NDArray[np.int64]:
    """Lists of integers or tokens as rows of one width, -1 beyond the end of a shorter one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sids = sids.combine_chunks() if isinstance(sids, pa.ChunkedArray) else pa.array(sids)
    if pa.types.is_fixed_size_list(sids.type):
        sids = sids.cast(pa.list_(sids.type.value_type))
    if not (pa.types.is_list(sids.type) or pa.types.is_large_list(sids.type)):
        raise ValueError(f"a SID is {sids.type}, not a list of codes")
    lengths = pc.fill_null(pc.list_value_length(sids), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if not lengths.all():
        raise ValueError(f"row {int(np.flatnonzero(lengths == 0)[0])} has no codes")
    level = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    values = sids.flatten()
    if values.null_count:
        raise ValueError("some codes are null")
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = _of_tokens(values, level)
    if not pa.types.is_integer(values.type):
        raise ValueError(f"its codes are {values.type}, not integers or tokens such as <a_12>")
    codes = np.full((len(sids), int(lengths.max(initial=0))), -1, dtype=np.int64)
    codes[np.repeat(np.arange(len(sids)), lengths), level] = values.to_numpy(zero_copy_only=False)
    return codes


def _of_tokens(tokens: Any, level: NDArray[np.int64]) -> Any:
    """The numbers of tokens such as <a_12>; the letter must be the same for a whole level."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = pc.extract_regex(tokens, TOKEN)
    if parts.null_count:
        odd = tokens.filter(pc.is_null(parts))[0].as_py()
        raise ValueError(f"{odd!r} is no token such as <a_12>")
    letters = pc.struct_field(parts, "level").dictionary_encode()
    pairs = np.unique(np.stack([level, letters.indices.to_numpy()]), axis=1)
    if pairs.shape[1] > len(np.unique(level)):
        both = pairs[1, pairs[0] == pairs[0, np.flatnonzero(np.diff(pairs[0]) == 0)[0]]]
        seen = " and ".join(letters.dictionary.take(pa.array(both[:2])).to_pylist())
        raise ValueError(f"tokens of different levels stand in one place: {seen}")
    return pc.struct_field(parts, "code").cast(pa.int64())


READERS = {".json": _read_json, ".parquet": _read_parquet, ".npy": _read_npy}
