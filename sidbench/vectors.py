"""Vectors: rows of numbers of any size on disk, read a piece at a time as float32."""

from __future__ import annotations

import importlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError, UsageError, nearest

Floats = NDArray[np.float32]

#: Which function opens which kind of file: `(path, asked) -> Vectors`, imported when it is first needed.
OPENERS = {
    ".npy": "sidbench.vectors:open_npy",
    ".parquet": "sidbench.vectors_parquet:open_parquet",
    ".safetensors": "sidbench.vectors:open_safetensors",
    ".npz": "sidbench.vectors_more:open_npz",
    ".fbin": "sidbench.vectors_more:open_fbin",
    ".csv": "sidbench.files.text:open_text",
    ".tsv": "sidbench.files.text:open_text",
    ".jsonl": "sidbench.files.text:open_text",
    ".ndjson": "sidbench.files.text:open_text",
    ".bin": "sidbench.vectors:open_raw",
    ".raw": "sidbench.vectors:open_raw",
    ".dat": "sidbench.vectors:open_raw",
    ".memmap": "sidbench.vectors:open_raw",
}
#: The numbers that a plain dump may hold.
RAW = ("float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64")
#: Column names that say what they hold, in order of preference.
ID_COLUMNS = ("item_id", "item", "id", "iid", "asin", "creative_id", "product_id")


@dataclass(frozen=True)
class Asked:
    """What a person says of a file that the file itself may not: every field may stay open."""

    column: str | None = None
    id_column: str | None = None
    dim: int | None = None
    dtype: str | None = None


class Vectors(ABC):
    """Rows of numbers on disk. One reader is for one thread, and is fastest when read in order."""

    path: Path
    rows: int
    dim: int
    #: What kind of file, and the numbers in it as they lie there (`float16`).
    kind: str = ""
    dtype: str = "float32"
    #: Whether ids stand beside the rows.
    named: bool = False

    def parts(self) -> list[range]:
        """The natural pieces (files, row groups), in order."""
        return [range(self.rows)]

    @abstractmethod
    def read(self, start: int, stop: int) -> Floats:
        """These rows: float32 in C order, not checked for NaN."""

    def ids(self, start: int, stop: int) -> Any | None:
        """The ids of these rows as an Arrow array; None where rows have none but their number."""
        return None

    def array(self) -> Floats | None:
        """All rows as a read-only memmap, where they lie on disk as float32 in C order."""
        return None

    def files(self) -> list[Path]:
        """The files that the rows and ids lie in."""
        return [self.path]

    def layout(self) -> dict[str, Any]:
        """How the files are read: with their bytes it decides the rows."""
        return {"kind": self.kind, "rows": self.rows, "dim": self.dim, "dtype": self.dtype}

    def pieces(self, step: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Floats]]:
        """The rows in order, `step` at a time, each piece with the number of its first row."""
        end = self.rows if stop is None else stop
        for at in range(start, end, step):
            yield at, self.read(at, min(at + step, end))

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """The bounds of a piece, checked."""
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"rows {start}:{stop} of {self.rows}")
        return start, stop


class RawVectors(Vectors):
    """Rows in C order from some byte of a file on: what .npy, safetensors and plain dumps come down to."""

    def __init__(
        self, path: Path, rows: int, dim: int, dtype: str, offset: int = 0, kind: str = "raw"
    ) -> None:
        self.path, self.rows, self.dim, self.dtype, self.offset, self.kind = (
            path,
            rows,
            dim,
            dtype,
            offset,
            kind,
        )
        self._stored = np.dtype("<u2") if dtype == "bfloat16" else np.dtype(dtype)
        _check_shape(path, rows, dim)
        end, size = offset + rows * dim * self._stored.itemsize, path.stat().st_size
        if size < end:
            raise DataError(
                f"{path}: {size:,} bytes, but {rows:,} rows of {dim} {dtype} need {end:,}: the file is cut "
                "short; copy or write it again"
            )

    def read(self, start: int, stop: int) -> Floats:
        start, stop = self.span(start, stop)
        # Read, not mapped: pages of a map are taken by whoever computes on them, and count as memory.
        count, row = (stop - start) * self.dim, self.dim * self._stored.itemsize
        try:
            flat = np.fromfile(self.path, self._stored, count, offset=self.offset + start * row)
        except OSError as e:
            raise DataError(f"{self.path} cannot be read any more ({e}); is it still there?") from None
        if len(flat) < count:
            raise DataError(
                f"{self.path} ends before row {stop - 1:,}: it was cut short while it was read; "
                "write it again, then run the same command"
            )
        return as_float32(_widened(flat) if self.dtype == "bfloat16" else flat, self.dim)

    def array(self) -> Floats | None:
        if self._stored != np.dtype("<f4"):
            return None
        return np.memmap(self.path, np.float32, "r", offset=self.offset, shape=(self.rows, self.dim))

    def layout(self) -> dict[str, Any]:
        return {**super().layout(), "offset": self.offset}


class _FortranVectors(Vectors):
    """A .npy file in column order: every piece gathers from all columns, through a map."""

    kind = "npy"

    def __init__(self, path: Path, mapped: NDArray[Any]) -> None:
        self.path, (self.rows, self.dim), self.dtype = path, mapped.shape, mapped.dtype.name
        self._mapped = mapped

    def read(self, start: int, stop: int) -> Floats:
        start, stop = self.span(start, stop)
        return as_float32(np.ascontiguousarray(self._mapped[start:stop]), self.dim)

    def layout(self) -> dict[str, Any]:
        return {**super().layout(), "order": "fortran"}


class WithIds(Vectors):
    """Any rows, with ids that lie in a file of their own."""

    def __init__(self, rows: Vectors, ids: Any, file: Path) -> None:
        if len(ids) != rows.rows:
            raise DataError(f"{file}: {len(ids):,} ids for {rows.rows:,} rows of {rows.path}")
        self._inner, self._ids, self._file = rows, ids, file
        self.path, self.rows, self.dim = rows.path, rows.rows, rows.dim
        self.kind, self.dtype, self.named = rows.kind, rows.dtype, True

    def parts(self) -> list[range]:
        return self._inner.parts()

    def read(self, start: int, stop: int) -> Floats:
        return self._inner.read(start, stop)

    def ids(self, start: int, stop: int) -> Any:
        start, stop = self.span(start, stop)
        return self._ids.slice(start, stop - start)

    def array(self) -> Floats | None:
        return self._inner.array()

    def files(self) -> list[Path]:
        return [*self._inner.files(), self._file]

    def layout(self) -> dict[str, Any]:
        return {**self._inner.layout(), "ids": "file"}


def open_vectors(
    path: Path | str,
    *,
    column: str | None = None,
    id_column: str | None = None,
    dim: int | None = None,
    dtype: str | None = None,
    ids: Path | str | None = None,
) -> Vectors:
    """Rows of numbers from a file or a folder of shards; nothing but headers is read yet.

    `column` and `id_column` name columns where the file has several that could be meant; `dim` and `dtype`
    are needed where the file says neither (a plain dump); `ids` is a file with an id for every row.
    """
    path, asked = Path(path), Asked(column, id_column, dim, dtype)
    if path.is_dir():
        from sidbench.vectors_shards import open_folder

        found = open_folder(path, asked)
    else:
        found = open_file(path, asked)
    if dim is not None and found.dim != dim:
        raise DataError(f"{path}: rows have {found.dim} dimensions, not the {dim} that were asked for")
    return found if ids is None else WithIds(found, read_ids(Path(ids), id_column), Path(ids))


def open_file(path: Path, asked: Asked) -> Vectors:
    """One file, its kind known by its name."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}; check the path")
    suffix = path.suffix.lower()
    if suffix not in OPENERS:
        if asked.dim is not None and asked.dtype is not None:
            return open_raw(path, asked)
        raise UsageError(
            f"{path}: files that end in {suffix or 'nothing'!r} are not known{nearest(suffix, OPENERS)} "
            f"Known: {', '.join(sorted(OPENERS))}, or a folder of such files; "
            "a plain dump of numbers needs dim and dtype."
        )
    module, _, name = OPENERS[suffix].partition(":")
    opener: Callable[[Path, Asked], Vectors] = getattr(importlib.import_module(module), name)
    try:
        return opener(path, asked)
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e})") from None


def open_npy(path: Path, asked: Asked) -> Vectors:
    """A .npy file of shape (rows, dimensions)."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with path.open("rb") as f:
            shape, fortran, dtype = readers[np.lib.format.read_magic(f)](f)
            offset = f.tell()
    except (ValueError, EOFError, KeyError) as e:
        raise DataError(f"{path} is no readable .npy file ({e}); write it again with np.save") from None
    if len(shape) != 2:
        raise DataError(f"{path}: an array of shape {shape}; expected (rows, dimensions)")
    if dtype.kind not in "fiu":
        raise DataError(f"{path}: holds {dtype}; expected numbers (float32, float16, float64, integers)")
    rows, dim = shape
    found = RawVectors(path, rows, dim, dtype.name if dtype.isnative else dtype.str, offset, "npy")
    if not fortran:
        return found
    mapped = np.memmap(path, dtype, "r", offset=offset, shape=(rows, dim), order="F")
    return _FortranVectors(path, mapped)


def open_raw(path: Path, asked: Asked) -> Vectors:
    """A plain dump: how many numbers make a row, and of what type, must be said."""
    if asked.dim is None or asked.dtype is None:
        raise UsageError(
            f"{path}: a plain dump says nothing of its shape; give dim (numbers in a row) and dtype "
            "(float32, float16, bfloat16, float64)"
        )
    if asked.dtype not in RAW:
        raise UsageError(f"{path}: dtype {asked.dtype!r} is not known; expected one of {', '.join(RAW)}")
    each = 2 if asked.dtype == "bfloat16" else np.dtype(asked.dtype).itemsize
    if asked.dim < 1:
        raise UsageError(f"dim = {asked.dim}: a row has at least one number")
    rows, over = divmod(path.stat().st_size, asked.dim * each)
    if over:
        raise DataError(
            f"{path}: {path.stat().st_size:,} bytes are not whole rows of {asked.dim} {asked.dtype} "
            f"({over} bytes over); check dim and dtype"
        )
    return RawVectors(path, rows, asked.dim, asked.dtype, 0, "raw")


_SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8", "I32": "<i4"}
_HEADER_LIMIT = 100_000_000  # what the format itself allows


def open_safetensors(path: Path, asked: Asked) -> Vectors:
    """One matrix of a .safetensors file: the only one, or the one that `column` names."""
    try:
        with path.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if length > min(_HEADER_LIMIT, path.stat().st_size):
                raise ValueError(f"a header of {length:,} bytes")
            header = {k: v for k, v in json.loads(f.read(length)).items() if k != "__metadata__"}
        matrices = [k for k, v in header.items() if len(v["shape"]) == 2]
        name = pick(path, "tensor", asked.column, matrices, list(header))
        about = header[name]
        rows, dim = (int(n) for n in about["shape"])
        begin = int(about["data_offsets"][0])
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise DataError(f"{path} is no readable .safetensors file ({e}); write it again") from None
    if about["dtype"] not in _SAFETENSORS:
        raise DataError(
            f"{path}: tensor {name!r} holds {about['dtype']}; expected one of {list(_SAFETENSORS)}"
        )
    return RawVectors(path, rows, dim, _SAFETENSORS[about["dtype"]], 8 + length + begin, "safetensors")


def pick(path: Path, what: str, named: str | None, fitting: list[str], known: list[str]) -> str:
    """The one that was named, or the only one that fits; anything else is an error that lists them."""
    if named is not None:
        if named not in known:
            raise UsageError(
                f"{path}: no {what} {named!r}{nearest(named, known)} It has: {', '.join(known)}."
            )
        return named
    if len(fitting) != 1:
        found = f"{len(fitting)} fit ({', '.join(fitting)})" if fitting else f"none fits ({', '.join(known)})"
        raise UsageError(
            f"{path}: which {what} holds the vectors? {found}; name one: --column NAME, of sidbench run "
            "--columns embeddings.embedding=NAME"
        )
    return fitting[0]


def read_ids(path: Path, column: str | None = None) -> Any:
    """The ids in a file of their own: .npy, .parquet, .json (a list) or .txt (one a line)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UsageError(f"there is no file of ids {path}; check the path")
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            found = pa.array(array if array.ndim == 1 else array[:, 0])
        elif path.suffix == ".parquet":
            names = pq.read_schema(path).names
            known = [n for n in ID_COLUMNS if n in names] or names[:1]
            name = column if column is not None and column in names else known[0]
            found = pq.read_table(path, columns=[name]).column(0).combine_chunks()
        elif path.suffix == ".json":
            found = pa.array(json.loads(path.read_text()))
        elif path.suffix == ".txt":
            found = pa.array(path.read_text().splitlines(), pa.string())
        else:
            raise UsageError(f"{path}: ids come as .npy, .parquet, .json (a list) or .txt (one a line)")
    except (OSError, ValueError, IndexError, pa.ArrowException) as e:
        raise DataError(f"the ids in {path} cannot be read ({e})") from None
    return checked_ids(found, path)


def checked_ids(found: Any, path: Path) -> Any:
    """Ids are numbers or text, none missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    of = found.type.value_type if pa.types.is_dictionary(found.type) else found.type
    if not (pa.types.is_integer(of) or pa.types.is_string(of) or pa.types.is_large_string(of)):
        raise DataError(f"{path}: ids are {found.type}; expected whole numbers or text")
    ids = found if of is found.type else found.dictionary_decode()
    gone = ids.is_null().to_numpy(zero_copy_only=False)
    if not pa.types.is_integer(of):  # text of nothing is no id
        gone = gone | pc.fill_null(pc.equal(pc.utf8_trim_whitespace(ids), ""), False).to_numpy(False)
    if gone.any():
        raise DataError(f"{path}: {gone.sum():,} ids are missing, first in row {int(gone.argmax()):,}")
    return ids


def as_float32(values: NDArray[Any], dim: int) -> Floats:
    """Rows of `dim` as float32; what float32 cannot hold becomes infinity, which checks then find."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.reshape(-1, dim), dtype=np.float32)


def natural(name: str) -> list[tuple[int, str]]:
    """What sorts part-2 before part-10."""
    return [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"(\d+)", name)]


def _widened(halves: NDArray[Any]) -> Floats:
    """bfloat16 is the upper half of a float32."""
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _check_shape(path: Path, rows: int, dim: int) -> None:
    if rows < 1 or dim < 1:
        raise DataError(f"{path}: {rows} rows of {dim} dimensions; expected at least one of each")
