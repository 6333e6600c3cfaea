"""Vectors on disk: .npy, .parquet or .safetensors, written a piece at a time under another name first."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sidbench.errors import StorageError, UsageError, nearest

Floats = NDArray[np.float32]
Pieces = Iterator[NDArray[Any]]


def check_kind(path: Path) -> None:
    """An ending that is known."""
    if path.suffix.lower() not in WRITERS:
        raise UsageError(
            f"--out {path}: files that end in {path.suffix or 'nothing'!r} are not written"
            f"{nearest(path.suffix, WRITERS)} Known: {', '.join(WRITERS)}."
        )


def write(path: Path, pieces: Pieces, rows: int, dim: int, dtype: str, ids: pa.Array | None) -> None:
    """Write all pieces; the file gets its name when it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as f:
            WRITERS[path.suffix.lower()](f, pieces, rows, dim, dtype, ids)
        part.replace(path)
    except OSError as e:
        raise refused(path, e) from None
    finally:
        part.unlink(missing_ok=True)


def refused(path: Path, error: OSError) -> StorageError:
    """The disk takes no more, or none from us."""
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}). Name another place with --out, or make room; "
        "what is finished stands, and the same command goes on"
    )


def sha256(path: Path) -> str:
    """The hash of a file."""
    h = hashlib.sha256()
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            h.update(chunk)
    return h.hexdigest()


def _npy(f: IO[bytes], pieces: Pieces, rows: int, dim: int, dtype: str, ids: pa.Array | None) -> None:
    header = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(f, header)
    for piece in pieces:
        f.write(np.ascontiguousarray(piece).data)


def _safetensors(f: IO[bytes], pieces: Pieces, rows: int, dim: int, dtype: str, ids: pa.Array | None) -> None:
    size = rows * dim * np.dtype(dtype).itemsize
    kind = {"float32": "F32", "float16": "F16"}[dtype]
    header = json.dumps(
        {"embeddings": {"dtype": kind, "shape": [rows, dim], "data_offsets": [0, size]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    f.write(len(header).to_bytes(8, "little") + header)
    for piece in pieces:
        f.write(np.ascontiguousarray(piece).data)


def _parquet(f: IO[bytes], pieces: Pieces, rows: int, dim: int, dtype: str, ids: pa.Array | None) -> None:
    ids = pa.array(np.arange(rows)) if ids is None else ids
    value = pa.float32() if dtype == "float32" else pa.float16()
    # Lists of any length, in which every reader of parquet can read float16 too.
    schema = pa.schema([("item", ids.type), ("embedding", pa.list_(value))])
    done = 0
    with pq.ParquetWriter(f, schema, compression="zstd", use_dictionary=["item"]) as writer:
        for piece in pieces:
            ends = pa.array(np.arange(0, piece.size + 1, dim, dtype=np.int32))
            lists = pa.ListArray.from_arrays(ends, pa.array(piece.reshape(-1), value))
            some = ids.slice(done, len(piece))
            writer.write_table(pa.Table.from_arrays([some, lists], schema=schema))
            done += len(piece)


WRITERS: dict[str, Callable[..., None]] = {
    ".npy": _npy,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}
