"""SIDs as files: parquet, npz or JSON, each written under another name and renamed when it is whole."""

from __future__ import annotations

import glob
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sidbench.catalogue.files import refused
from sidbench.errors import DataError
from sidbench.vectors_parquet import joined

#: Tables of `item_id` and `sid`, again from the first whenever it is called.
Tables = Callable[[], Iterator[pa.Table]]
SUFFIXES = (".parquet", ".npz", ".json")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def narrow(codes: NDArray[Any], sizes: tuple[int, ...]) -> NDArray[Any]:
    """Codes as the smallest integers for these sizes; signed where some SIDs end early."""
    if len(codes) and codes.min() < 0:
        return codes.astype(np.int16 if max(sizes) <= 2**15 else np.int32)
    return codes.astype(np.min_scalar_type(max(sizes) - 1))


def table_of(codes: NDArray[Any], ids: list[Any], start: int) -> pa.Table:
    """Rows of codes with their ids; rows without any are called by their number, from `start` on."""
    if ids[0] is None:
        named = pa.array(np.arange(start, start + len(codes), dtype=np.int64))
    else:
        named = joined(pa.chunked_array(ids))
    flat = pa.array(np.ascontiguousarray(codes).reshape(-1))
    return pa.table({"item_id": named, "sid": pa.FixedSizeListArray.from_arrays(flat, codes.shape[1])})


def codes_of(table: pa.Table) -> NDArray[Any]:
    """The codes of a table of SIDs, (rows, levels)."""
    sid = joined(table.column("sid"))
    found: NDArray[Any] = sid.flatten().to_numpy(zero_copy_only=False).reshape(len(sid), -1)
    return found


def write_whole(path: Path, suffix: str, tables: Tables, rows: int, sizes: tuple[int, ...]) -> None:
    """These tables as one file, in order; under its name only when it is whole."""
    part = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
        with os.fdopen(handle, "wb") as f:
            _WRITERS[suffix](f, tables, rows, sizes)
            f.flush()
            os.fsync(f.fileno())
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except OSError as e:
        raise refused(path, e) from None
    finally:
        if part:
            Path(part).unlink(missing_ok=True)


def read_tables(path: Path, suffix: str) -> Iterator[pa.Table]:
    """What `write_whole` wrote, some rows at a time; JSON of ours alone, a line an item."""
    try:
        if suffix == ".parquet":
            file = pq.ParquetFile(path)
            for group in range(file.metadata.num_row_groups):
                yield file.read_row_group(group)
        elif suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                yield table_of(held["codes"], [pa.array(held["item_id"])], 0)
        else:
            yield from _read_json(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, pa.ArrowException) as e:
        raise DataError(f"{path} cannot be read ({e}); encode it again with --redo") from None


def remove_parts(folder: Path, name: str | None = None) -> None:
    """Take away what a killed process left half written: of all files here, or of the one that is named."""
    for part in folder.glob(".*.part" if name is None else f".{glob.escape(name)}-*.part"):
        part.unlink(missing_ok=True)


def _parquet(f: IO[bytes], tables: Tables, rows: int, sizes: tuple[int, ...]) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for table in tables():
            if writer is None:
                whole = pa.types.is_integer(table.schema.field("item_id").type)
                writer = pq.ParquetWriter(
                    f,
                    table.schema,
                    compression="zstd",
                    # A code is then a byte and not four; ids in order are differences of one.
                    use_dictionary=["sid.list.element"],
                    column_encoding={"item_id": "DELTA_BINARY_PACKED"} if whole else None,
                )
            writer.write_table(table, row_group_size=max(1, len(table)))
    finally:
        if writer is not None:
            writer.close()


def _npz(f: IO[bytes], tables: Tables, rows: int, sizes: tuple[int, ...]) -> None:
    """`codes`, `item_id` and `sizes`, as np.savez writes them, without ever holding a whole array."""
    codes_type, ids_type = np.dtype(np.uint8), np.dtype("<U1")
    for table in tables():
        codes_type = np.promote_types(codes_type, codes_of(table.slice(0, 1)).dtype)
        ids_type = _wider(ids_type, table.column("item_id"))
    with zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as zipped:
        with _member(zipped, "codes", (rows, len(sizes)), codes_type) as out:
            for table in tables():
                out.write(np.ascontiguousarray(codes_of(table).astype(codes_type)).tobytes())
        with _member(zipped, "item_id", (rows,), ids_type) as out:
            for table in tables():
                ids = table.column("item_id")
                plain = ids.to_numpy() if ids_type.kind in "iu" else np.array(ids.to_pylist(), dtype=ids_type)
                out.write(plain.astype(ids_type).tobytes())
        with _member(zipped, "sizes", (len(sizes),), np.dtype(np.int64)) as out:
            out.write(np.array(sizes, dtype=np.int64).tobytes())


def _wider(known: np.dtype[Any], ids: pa.ChunkedArray) -> np.dtype[Any]:
    wider: np.dtype[Any]
    if pa.types.is_integer(ids.type):
        wider = np.dtype(ids.type.to_pandas_dtype())
    else:
        longest = pc.max(pc.utf8_length(ids)).as_py() or 1
        wider = np.promote_types(known, np.dtype(f"<U{longest}"))
    return wider


def _member(zipped: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> IO[bytes]:
    # A fixed date, as ZipInfo has it: the same rows make the same bytes.
    out = zipped.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out


def _json(f: IO[bytes], tables: Tables, rows: int, sizes: tuple[int, ...]) -> None:
    """An object of token lists by id, as MiniOneRec's and LC-Rec's index.json, a line an item."""
    levels = len(sizes)
    if levels > len(LETTERS):
        raise DataError(f"JSON names levels by letters, {len(LETTERS)} at most, not {levels}; write .parquet")
    tokens = [pa.array([f'"<{LETTERS[i]}_{code}>"' for code in range(n)]) for i, n in enumerate(sizes)]
    f.write(b"{\n")
    first = True
    for table in tables():
        ids, codes = joined(table.column("item_id")), codes_of(table)
        if pa.types.is_integer(ids.type):
            keys = ids.cast(pa.string())
        else:
            keys = pa.array([json.dumps(i, ensure_ascii=False)[1:-1] for i in ids.to_pylist()], pa.string())
        parts = [
            tokens[i].take(pa.array(codes[:, i], mask=codes[:, i] < 0 if codes.dtype.kind == "i" else None))
            for i in range(levels)
        ]
        sids = pc.binary_join_element_wise(*parts, ", ", null_handling="skip")
        lines = pc.binary_join_element_wise('"', keys, '": [', sids, "]", "")
        text = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines), ",\n")
        f.write(b"" if first else b",\n")
        f.write(text[0].as_buffer())
        first = False
    f.write(b"\n}\n")


def _read_json(path: Path, step: int = 65_536) -> Iterator[pa.Table]:
    with path.open(encoding="utf-8") as f:
        lines: list[str] = []
        for line in f:
            if line not in ("{\n", "}\n"):
                lines.append(line.rstrip(",\n"))
            if len(lines) == step:
                yield _of_lines(lines)
                lines = []
        if lines:
            yield _of_lines(lines)


def _of_lines(lines: list[str]) -> pa.Table:
    held = json.loads("{" + ",".join(lines) + "}")
    numbers = [[int(token.rpartition("_")[2][:-1]) for token in sid] for sid in held.values()]
    levels = max(map(len, numbers))
    codes = np.array([sid + [-1] * (levels - len(sid)) for sid in numbers], dtype=np.int64)
    return table_of(codes, [pa.array(list(held))], 0)


_WRITERS: dict[str, Callable[[IO[bytes], Tables, int, tuple[int, ...]], None]] = {
    ".parquet": _parquet,
    ".npz": _npz,
    ".json": _json,
}
