"""Tables of any kind on disk, read in pieces as arrow: parquet, CSV, JSON lines, feather, npz, npy."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet as pq

from sidbench import delimited
from sidbench.errors import DataError, UsageError, nearest
from sidbench.formats.safe import read_json, read_npy, read_npz

KINDS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".feather", ".arrow", ".npz", ".npy")
#: What a table may be packed with, after its own ending.
PACKED = ".gz"


def kind_of(path: Path) -> str:
    """The ending that says how a file is read."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes[-1:] == [PACKED]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_table(path: Path) -> bool:
    """Whether a file is read here; a folder of parquet parts is one table."""
    return bool(parts(path)) if path.is_dir() else kind_of(path) in KINDS


def parts(path: Path) -> list[Path]:
    """The parquet files of a folder, as other systems leave them."""
    return sorted(p for p in path.glob("*.parquet") if p.is_file() and p.name[0] not in "._")


def has_columns(path: Path) -> bool:
    """Whether a table's columns have names of their own: arrays of vectors have none."""
    return path.is_dir() or kind_of(path) not in (".npz", ".npy")


def names(path: Path) -> list[str]:
    """The columns of a table."""
    return list(types(path).names)


def types(path: Path) -> pa.Schema:
    """The columns of a table with their types."""
    schema = _guarded(path, lambda: _schema(path))
    twice = [n for n in dict.fromkeys(schema.names) if n and schema.names.count(n) > 1]
    if twice:
        raise DataError(
            f"{path} has several columns called {', '.join(map(repr, twice))}: which one is meant? Rename or "
            "leave out the others"
        )
    return schema


def read(path: Path, columns: list[str]) -> pa.Table:
    """Some columns of a table, whole. Text files give text: what is a number is known by its use."""
    found = list(batches(path, columns))
    if not found:
        return types(path).empty_table().select(columns)
    return _guarded(
        path,
        lambda: pa.concat_tables([pa.Table.from_batches([b]) for b in found], promote_options="permissive"),
    )


def batches(path: Path, columns: list[str], rows: int = 65_536) -> Iterator[pa.RecordBatch]:
    """Some columns of a table, a piece at a time."""
    stream = _guarded(path, lambda: iter(_batches(path, columns, rows)))
    while True:
        batch = _guarded(path, lambda: next(stream, None))
        if batch is None:
            return
        yield batch.select(columns)


def _guarded(path: Path, do: Callable[[], Any]) -> Any:
    try:
        return do()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; check the path") from None
    except (OSError, EOFError, OverflowError, UnicodeDecodeError, pa.ArrowException) as e:
        kind = kind_of(path).lstrip(".") or "table"
        how = " as UTF-8" if isinstance(e, UnicodeDecodeError) or "UTF8" in str(e) else ""
        raise DataError(
            f"{path} cannot be read as {kind} ({delimited.why(e)}); write it again{how}"
        ) from None


def _schema(path: Path) -> pa.Schema:
    kind = kind_of(path)
    if path.is_dir():
        return pq.read_schema(parts(path)[0])
    if kind == ".parquet":
        return pq.read_schema(path)
    if kind in (".csv", ".tsv"):
        with _opened(path) as stream:
            return pa.schema([(name, pa.string()) for name in _layout(path, stream).names])
    # Lines of JSON may name a column late: all pieces are seen.
    seen = [b.schema for b in _batches(path, None, 1 << 30)]
    if not seen:
        raise pa.ArrowInvalid("it holds no rows")
    return pa.unify_schemas(seen, promote_options="permissive")


def _batches(path: Path, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    kind = kind_of(path)
    if path.is_dir() or kind == ".parquet":
        for part in parts(path) if path.is_dir() else [path]:
            # Not ahead of time, and through a buffer: whole column chunks would otherwise lie in memory.
            file = pq.ParquetFile(part, pre_buffer=False, buffer_size=1 << 20)
            if lacking := set(columns or ()) - set(file.schema_arrow.names):
                raise pa.ArrowInvalid(f"{part.name} has no column {', '.join(sorted(lacking))}")
            yield from file.iter_batches(rows, columns=columns, use_threads=False)
    elif kind in (".csv", ".tsv"):
        yield from _text(path, columns)
    elif kind in (".jsonl", ".ndjson"):
        yield from _json_lines(path, columns)
    elif kind == ".json":
        yield from _json(path, columns)
    elif kind in (".feather", ".arrow"):
        yield from pyarrow.feather.read_table(path, columns=columns, memory_map=True).to_batches(rows)
    elif kind in (".npz", ".npy"):
        yield from _arrays(path)
    else:
        raise UsageError(
            f"{path}: tables that end in {kind or 'nothing'!r} are not known{nearest(kind, KINDS)} "
            f"Known: {', '.join(KINDS)} (text may be packed: {PACKED}), or a folder of parquet files."
        )


def _text(path: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    with _opened(path) as stream:
        layout = _layout(path, stream)
        yield from delimited.rows(stream, layout, layout.names if columns is None else columns)


def _layout(path: Path, stream: IO[bytes]) -> delimited.Layout:
    """The columns of a text file; the stream is left where its rows begin."""
    layout = delimited.head(stream, "\t" if kind_of(path) == ".tsv" else "")
    if not layout.named:
        stream.seek(0)
    return layout


def _json_lines(path: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    schema = None
    if columns is not None:  # in every piece the same ones, of the same types
        known = types(path)
        schema = pa.schema([known.field(c) for c in columns])
    with _opened(path) as file:
        _skip_bom(file)
        yield from delimited.json_rows(file, schema)


def _json(path: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """A list of objects, or one object with a list for every user."""
    if _is_lines(path):
        yield from _json_lines(path, columns)
        return
    held = read_json(path)
    if isinstance(held, dict) and all(isinstance(v, list) for v in held.values()):
        yield pa.record_batch({"user": list(held), "items": list(held.values())})
    elif isinstance(held, list) and all(isinstance(v, dict) for v in held):
        every = dict.fromkeys(key for row in held for key in row)
        yield pa.record_batch({key: _column(key, [row.get(key) for row in held]) for key in every})
    else:
        raise pa.ArrowInvalid("expected a list of objects, or an object with a list of items for every user")


def _column(name: str, values: list[Any]) -> pa.Array:
    """Values of one kind; where they are of several, the first of another is named."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        kinds = [None if v is None else float if type(v) in (int, float) else type(v) for v in values]
        first = next((i for i, kind in enumerate(kinds) if kind is not None), 0)
        odd = next((i for i, kind in enumerate(kinds) if kind not in (None, kinds[first])), None)
        if odd is None:
            raise
        raise pa.ArrowInvalid(
            f"{name} is {values[first]!r:.40} in row {first:,} and {values[odd]!r:.40} in row {odd:,}: "
            "expected values of one kind"
        ) from None


def _is_lines(path: Path) -> bool:
    """Whether lines of JSON stand under a shorter name: the first is a whole object, and others follow."""
    with _opened(path) as file:
        _skip_bom(file)
        first = file.readline(delimited.BLOCK).strip()
        if not (first.startswith(b"{") and first.endswith(b"}") and file.readline(delimited.BLOCK).strip()):
            return False
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _skip_bom(file: IO[bytes]) -> None:
    """Go past the mark with which some tools begin a text."""
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)


def _arrays(path: Path) -> Iterator[pa.RecordBatch]:
    """Arrays of an npz file as columns; of a npy file its columns, called f0, f1 and so on."""
    if kind_of(path) == ".npz":
        arrays = {k: v for k, v in read_npz(path).items() if v.ndim == 1}
    else:
        array = read_npy(path)
        if array.dtype.names:
            arrays = {name: array[name] for name in array.dtype.names}
        else:
            arrays = {f"f{i}": array[:, i] for i in range(array.shape[1])} if array.ndim == 2 else {}
    if not arrays or len({len(a) for a in arrays.values()}) > 1:
        raise pa.ArrowInvalid("expected arrays of one axis and one length, one a column")
    yield pa.record_batch({k: pa.array(np.ascontiguousarray(v)) for k, v in arrays.items()})


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == PACKED else path.open("rb")  # type: ignore[return-value]


# -- cells -------------------------------------------------------------------------------------------------


def whole(array: Any) -> pa.Array:
    """A column in one piece."""
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def is_list(kind: pa.DataType) -> bool:
    """Lists of any width."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def split_text(cells: pa.Array) -> pa.Array:
    """`[1, 2]`, `1 2`, `1|2` or `"a";"b"` as lists of text; an empty cell is an empty list."""
    bare = pc.replace_substring_regex(cells.cast(pa.string()), r"[\[\]\(\)\{\}'\"]", "")
    bare = pc.utf8_trim(bare, characters=" ,;|\t\n\r")
    lists = pc.split_pattern_regex(bare, r"\s*[,;|]\s*|\s+")
    empty = pc.fill_null(pc.equal(bare, ""), False)
    return pc.if_else(empty, pa.scalar([], lists.type), lists)


def as_lists(array: pa.Array) -> pa.Array | None:
    """A column of lists, or of text that spells lists; None where it is neither."""
    if is_list(array.type):
        return array
    return split_text(array) if is_text(array.type) else None
