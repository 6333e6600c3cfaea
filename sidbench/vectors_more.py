"""More files of vectors: .npz and .fbin; what can only be read as a stream goes on where it stands."""

from __future__ import annotations

import zipfile
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidbench.errors import DataError
from sidbench.formats.safe import check_zip, read_npz
from sidbench.vectors import ID_COLUMNS, Asked, Floats, RawVectors, Vectors, as_float32, checked_ids, pick
from sidbench.vectors_parquet import ParquetVectors

#: The most that the arrays of an .npz file may unpack to: they are read in pieces.
MOST = 1 << 40
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Streamed(Vectors):
    """Rows that come one block after the other; reading backwards starts anew."""

    _stream: Iterator[Floats] = iter(())
    _rest: Floats | None = None
    _at: int = -1  # the first row of `_rest`

    @abstractmethod
    def blocks(self) -> Iterator[Floats]:
        """All rows in order, as many at a time as is convenient."""

    def read(self, start: int, stop: int) -> Floats:
        start, stop = self.span(start, stop)
        if self._at < 0 or start < self._at:
            self._stream, self._rest, self._at = self.blocks(), None, 0
        out = np.empty((stop - start, self.dim), np.float32)
        done = 0
        while done < len(out):
            block = self._rest if self._rest is not None else next(self._stream, None)
            if block is None:
                raise DataError(f"{self.path} ends before row {stop - 1:,}; it changed while it was read")
            skip = min(len(block), max(0, start + done - self._at))
            take = min(len(block) - skip, len(out) - done)
            out[done : done + take] = block[skip : skip + take]
            done += take
            used = skip + take
            self._at += used
            self._rest = block[used:] if used < len(block) else None
        return out


class NpzVectors(Streamed):
    """One matrix of an .npz file, unpacked a piece at a time; ids lie beside it as an array."""

    kind = "npz"

    def __init__(self, path: Path, member: str, id_member: str | None) -> None:
        self.path, self.member, self.id_member = path, member, id_member
        self.named = id_member is not None
        with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as file:
            (self.rows, self.dim), fortran, kind = _header(file)
        if fortran or kind.kind not in "fiu" or not self.rows or not self.dim:
            raise DataError(
                f"{path}: array {member!r} is {kind} of {self.rows} x {self.dim}"
                f"{' in column order' if fortran else ''}; expected rows of numbers (np.ascontiguousarray)"
            )
        self.dtype = kind.name

    def layout(self) -> dict[str, Any]:
        return {**super().layout(), "member": self.member, "id_member": self.id_member}

    def ids(self, start: int, stop: int) -> Any | None:
        if self.id_member is None:
            return None
        start, stop = self.span(start, stop)
        found = read_npz(self.path, (self.id_member,))[self.id_member]
        return checked_ids(pa.array(found), self.path).slice(start, stop - start)

    def blocks(self) -> Iterator[Floats]:
        step = max(1, 4_000_000 // self.dim)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.member}.npy") as file:
                _, _, kind = _header(file)
                for at in range(0, self.rows, step):
                    count = min(step, self.rows - at) * self.dim
                    held = file.read(count * kind.itemsize)
                    if len(held) < count * kind.itemsize:
                        raise EOFError(f"it ends in row {at + len(held) // kind.itemsize // self.dim:,}")
                    yield as_float32(np.frombuffer(held, kind), self.dim)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as e:
            raise DataError(f"{self.path} cannot be read ({e}); write it again with np.savez") from None


class GappyParquet(ParquetVectors):
    """A parquet column in which rows may lack a vector: they are NaN, for whoever reads to count."""

    def _values(self, chunk: Any, at: int) -> Any:
        if not chunk.null_count:
            return super()._values(chunk, at)
        out = np.full((len(chunk), self.dim), np.nan, np.float32)
        out[np.asarray(pc.is_valid(chunk))] = super()._values(chunk.drop_null(), at)
        return out


def open_npz(path: Path, asked: Asked) -> Vectors:
    """The matrix that is named, or the only one; ids are the array of a known name and as many values."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, path, MOST)
            shapes: dict[str, tuple[int, ...]] = {}
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    with archive.open(info) as file:
                        shape, _, kind = _header(file, info.file_size)
                    shapes[info.filename.removesuffix(".npy")] = shape if kind.kind != "O" else ()
    except (OSError, EOFError, ValueError, SyntaxError, zipfile.BadZipFile) as e:
        raise DataError(f"{path} is no readable .npz file ({e}); write it again with np.savez") from None
    member = pick(path, "array", asked.column, [n for n, s in shapes.items() if len(s) == 2], list(shapes))
    if len(shapes[member]) != 2:
        raise DataError(f"{path}: array {member!r} has shape {shapes[member]}; expected (rows, dimensions)")
    known = (asked.id_column,) if asked.id_column is not None else ("item_ids", "ids", *ID_COLUMNS)
    fitting = (n for n in known if shapes.get(n) == shapes[member][:1])
    return NpzVectors(path, member, next(fitting, None))


def open_fbin(path: Path, asked: Asked) -> Vectors:
    """Two 32-bit numbers, rows and dimensions, then float32: what nearest-neighbour benchmarks exchange."""
    with path.open("rb") as file:
        begin = file.read(8)
    if len(begin) < 8:
        raise DataError(f"{path}: {len(begin)} bytes; expected rows and dimensions at its beginning")
    head = np.frombuffer(begin, "<u4")
    rows, dim = int(head[0]), int(head[1])
    over = path.stat().st_size - 8 - rows * dim * 4
    if over > 0:
        raise DataError(f"{path}: {over:,} bytes follow the {rows:,} rows of {dim} that its beginning names")
    return RawVectors(path, rows, dim, "<f4", 8, "fbin")


def _header(file: Any, size: int | None = None) -> tuple[Any, bool, np.dtype[Any]]:
    """Shape, order and type of an array, and that as many bytes follow as it claims."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its version is {version}")
    shape, fortran, kind = _HEADERS[version](file)
    wanted = kind.itemsize
    for n in shape:
        wanted *= int(n)
    if size is not None and not kind.hasobject and wanted != size - file.tell():
        raise ValueError(f"an array claims {wanted:,} bytes, and {size - file.tell():,} follow")
    return shape, fortran, kind
