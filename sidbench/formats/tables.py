"""Our own plain forms: parquet, npz and npy, base 0, -1 beyond the end of a SID."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError
from sidbench.format import Export, Format, Found, How
from sidbench.formats import safe
from sidbench.formats.codes import from_lists, from_matrix

KEYS = ("item_id", "item", "id", "pid")


class Parquet(Format):
    """A table of item_id and sid, a list of codes; tokens such as <a_12>, and pid and codes, are read too."""

    name = "parquet"
    system = "any"
    file = "sids.parquet"
    endings = (".parquet",)
    bases = (0, 1)
    loses = "sizes"

    def read(self, path: Path, how: How) -> Found:
        return read_table(path, KEYS, ("sid", "codes"))

    def write(self, export: Export, path: Path) -> None:
        write_table(export, path, "item_id", "sid")


def read_table(path: Path, keys: tuple[str, ...], columns: tuple[str, ...]) -> Found:
    """Ids and lists of codes of a parquet table, by the first columns of these names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    remedy = f"expected a parquet table with {keys[0]} and {columns[0]}"
    try:
        schema = pq.read_schema(path)
        key = next((n for n in keys if n in schema.names), None)
        column = next((n for n in columns if n in schema.names), None)
        if key is None or column is None:
            raise DataError(f"{path.name}: its columns are {', '.join(schema.names)}; {remedy}")
        check_growth(path, [key, column])
        table = pq.read_table(path, columns=[key, column])
        ids = table[key].cast(pa.string())
    except (OSError, pa.ArrowException, ValueError) as e:
        raise DataError(f"{path.name} cannot be read ({str(e).partition(chr(10))[0]}); {remedy}") from None
    if ids.null_count:
        row = next(n for n, i in enumerate(ids.to_pylist()) if i is None)
        raise DataError(
            f"{path.name}: {ids.null_count} of its rows have no {key}, the first is row {row}; give each "
            "item an id"
        )
    sids = table[column]
    check_text(ids, path, key)
    check_text(sids, path, column)
    names: list[str] = ids.to_pylist()
    if pa.types.is_string(sids.type) or pa.types.is_large_string(sids.type):
        from sidbench.formats.openonerec import split_tokens

        sids = split_tokens(sids.combine_chunks(), path.name, names)
    return from_lists(sids, path.name, names)


def check_text(values: Any, path: Path, column: str) -> None:
    """Text in a table is UTF-8, and lists are where their offsets say, or the row is named."""
    import pyarrow as pa

    try:
        values.validate(full=True)
    except pa.ArrowInvalid as e:
        row = next((n for n in range(len(values)) if not _readable(values[n])), 0)
        why = str(e).partition("\n")[0]
        raise DataError(
            f"{path.name}: row {row} of {column} cannot be read ({why}); write the file again"
        ) from None


def _readable(value: Any) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


def check_growth(path: Path, columns: list[str]) -> None:
    """Refuse a table of which a few bytes stand for columns without end, before they are read."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
        safe.check_growth(path, "it", sum(g.total_byte_size for g in groups), path.stat().st_size)
        # A look at every page in little memory, since a torn column's metadata would end the process below.
        file.scan_contents(columns, 1 << 16)
        for group in groups:
            for chunk in (group.column(at) for at in range(group.num_columns)):
                name = chunk.path_in_schema
                if name.partition(".")[0] in columns:
                    # A repeated value takes no room, however often it stands.
                    size = max(chunk.total_uncompressed_size, chunk.num_values)
                    safe.check_growth(path, name, size, chunk.total_compressed_size)


def write_table(export: Export, path: Path, key: str, column: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    codes = export.sids.codes
    lengths = (codes >= 0).sum(axis=1)
    flat = pa.array(codes[codes >= 0], pa.int32())
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    columns = {key: pa.array(export.sids.item_ids), column: pa.ListArray.from_arrays(offsets, flat)}
    pq.write_table(pa.table(columns), path, compression="zstd")


class NPZ(Format):
    """An archive of arrays: codes (items, levels), item_id, sizes; -1 beyond the end of a SID."""

    name = "npz"
    system = "any"
    file = "sids.npz"
    endings = (".npz",)
    bases = (0, 1)

    def read(self, path: Path, how: How) -> Found:
        held = safe.read_npz(path)
        if "codes" not in held:
            raise DataError(
                f"{path.name} has the arrays {', '.join(held) or 'none'}; expected codes (items, levels), "
                "item_id"
            )
        ids: list[str] | None = None
        if "item_id" in held:
            if held["item_id"].ndim != 1 or held["item_id"].dtype.kind not in "iuU":
                raise DataError(f"{path.name}: item_id is no row of numbers or text; write one id an item")
            ids = held["item_id"].astype(str).tolist()
        found = from_matrix(held["codes"], path.name)
        if ids is not None and len(ids) != len(found.codes):
            raise DataError(
                f"{path.name} has {len(ids):,} ids for {len(found.codes):,} rows of codes; write both for "
                "each item"
            )
        sizes = _sizes(held["sizes"], found.codes.shape[1], path) if "sizes" in held else None
        return Found(found.codes, ids, rows_are_items=ids is not None, sizes=sizes)

    def write(self, export: Export, path: Path) -> None:
        sids = export.sids
        ids = sids.item_ids if sids.item_ids.dtype.kind in "iu" else np.array(export.names, dtype=np.str_)
        with path.open("wb") as file:
            np.savez_compressed(file, codes=sids.codes, item_id=ids, sizes=np.array(sids.sizes))


def _sizes(held: NDArray[Any], levels: int, path: Path) -> tuple[int, ...]:
    """The sizes of levels in an archive, one for each column of its codes."""
    if held.dtype.kind not in "iu" or held.shape != (levels,) or not (held > 0).all():
        raise DataError(
            f"{path.name}: sizes is {held.dtype} of shape {held.shape}; expected the number of codes of each "
            f"of {levels} levels. Write them so, or leave sizes out"
        )
    return tuple(int(n) for n in held)


class NPY(Format):
    """A matrix (items, levels) of integers, row i the item i; -1 beyond the end of a SID."""

    name = "npy"
    system = "any"
    file = "sids.npy"
    endings = (".npy",)
    bases = (0, 1)
    by_row = True
    loses = "ids (row i is item i), sizes"

    def read(self, path: Path, how: How) -> Found:
        return from_matrix(safe.read_npy(path), path.name)

    def write(self, export: Export, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, np.ascontiguousarray(export.in_order()), allow_pickle=False)


def ids_of(path: Path) -> list[str]:
    """The ids of a file that has none, from the table that was written beside it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        check_growth(path, ["item_id"])
        ids: list[Any] = pq.read_table(path, columns=["item_id"])["item_id"].cast(pa.string()).to_pylist()
    except FileNotFoundError:
        raise DataError(
            f"there is no {path.name}, the ids of the items; it was written beside the codes"
        ) from None
    except (OSError, pa.ArrowException, KeyError, ValueError) as e:
        why = str(e).partition("\n")[0]
        raise DataError(f"{path.name} cannot be read as a table of ids ({why}); export it again") from None
    if None in ids:
        raise DataError(
            f"{path.name}: row {ids.index(None)} has no id; export the codes again, with their ids"
        )
    return ids
