"""Vectors in a parquet file: a list column of numbers, read as a stream whatever its row groups' size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sidbench.errors import DataError, UsageError, nearest
from sidbench.vectors import ID_COLUMNS, Asked, Floats, Vectors, as_float32, checked_ids, pick

#: Names of a column of vectors, taken before others that could be one.
COLUMNS = ("embedding", "embeddings", "vector", "vectors", "emb", "item_embedding", "features")


class ParquetVectors(Vectors):
    """A list column of a parquet file, with the ids that stand beside it.

    Rows are read as a stream that goes on where the piece before ended: a file of one huge row group takes no
    more memory than one of many small ones.
    """

    kind = "parquet"

    def __init__(self, path: Path, column: str, id_column: str | None, dim: int, dtype: str) -> None:
        self.path, self.column, self.id_column, self.dim, self.dtype = path, column, id_column, dim, dtype
        self.named = id_column is not None
        # Not ahead of time, and through a buffer: whole column chunks would otherwise lie in memory.
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        about = self._file.metadata
        sizes = [about.row_group(g).num_rows for g in range(about.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.rows = int(self._starts[-1])
        self._stream: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.Table | None = None
        self._at = -1  # the row at which the stream stands
        self._last: tuple[int, int, Any] = (0, 0, None)

    def parts(self) -> list[range]:
        ends = zip(self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=True)
        return [range(a, b) for a, b in ends if b > a]

    def read(self, start: int, stop: int) -> Floats:
        start, stop = self.span(start, stop)
        try:
            table = self._rows(start, stop)
        except (OSError, pa.ArrowException) as e:
            self._at = -1
            raise DataError(f"{self.path}: rows {start:,} to {stop - 1:,} cannot be read ({e})") from None
        out = np.empty((stop - start, self.dim), np.float32)
        done = 0
        for chunk in table.column(self.column).chunks:
            out[done : done + len(chunk)] = self._values(chunk, start + done)
            done += len(chunk)
        if self.id_column is not None:
            self._last = (start, stop, table.column(self.id_column))
        return out

    def ids(self, start: int, stop: int) -> Any | None:
        if self.id_column is None:
            return None
        start, stop = self.span(start, stop)
        if self._last[:2] == (start, stop):
            found = self._last[2]
        else:
            first, last = self._groups(start, stop)
            groups = list(range(first, last))
            table = self._file.read_row_groups(groups, [self.id_column], use_threads=False)
            found = table.column(0).slice(start - int(self._starts[first]), stop - start)
        return checked_ids(joined(found), self.path)

    def layout(self) -> dict[str, Any]:
        return {**super().layout(), "column": self.column, "id_column": self.id_column}

    def _groups(self, start: int, stop: int) -> tuple[int, int]:
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        return first, max(first + 1, int(np.searchsorted(self._starts, stop, side="left")))

    def _rows(self, start: int, stop: int) -> pa.Table:
        """These rows of both columns: the stream goes on, or starts anew at their row group."""
        columns = [self.column, *([] if self.id_column is None else [self.id_column])]
        if self._at > start or self._at < 0 or self._groups(start, stop)[0] > self._groups(self._at, stop)[0]:
            first = min(self._groups(start, stop)[0], len(self._starts) - 2)
            groups = range(first, len(self._starts) - 1)
            step = max(1024, min(65_536, 8_000_000 // self.dim))
            self._stream = self._file.iter_batches(step, list(groups), columns, use_threads=False)
            self._at, self._rest = int(self._starts[first]), None
        held = [] if self._rest is None else [self._rest]
        have = sum(len(t) for t in held)
        while have < stop - self._at:
            batch = pa.Table.from_batches([next(self._stream)])
            if self._at + have + len(batch) <= start:  # before what was asked for
                self._at, held, have = self._at + have + len(batch), [], 0
                continue
            held.append(batch)
            have += len(batch)
        table = pa.concat_tables(held) if held else self._file.schema_arrow.empty_table().select(columns)
        out, self._rest = table.slice(start - self._at, stop - start), table.slice(stop - self._at)
        self._at = stop
        return out

    def _values(self, chunk: Any, at: int) -> NDArray[Any]:
        if chunk.null_count:
            raise DataError(
                f"{self.path}: row {at + _first(pc.is_null(chunk)):,} has no vector ({self.column} is null)"
            )
        if not pa.types.is_fixed_size_list(chunk.type):
            wrong = pc.not_equal(pc.list_value_length(chunk), self.dim)
            if pc.any(wrong).as_py():
                row = _first(wrong)
                raise DataError(
                    f"{self.path}: row {at + row:,} has {len(chunk[row])} numbers in {self.column}, "
                    f"the first row has {self.dim}; all rows need the same"
                )
        flat = chunk.flatten()
        if flat.null_count:
            row = _first(pc.is_null(flat)) // self.dim
            raise DataError(f"{self.path}: row {at + row:,} has a null among the numbers of {self.column}")
        return as_float32(flat.to_numpy(zero_copy_only=False), self.dim)


def open_parquet(path: Path, asked: Asked) -> Vectors:
    """The list column of a parquet file that holds vectors, and the column of ids if there is one."""
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
        schema = file.schema_arrow
    except (OSError, pa.ArrowException) as e:
        raise DataError(f"{path} is no readable parquet file ({e})") from None
    lists = [f.name for f in schema if _is_list(f.type) and pa.types.is_floating(f.type.value_type)]
    best = [name for name in COLUMNS if name in lists][:1]
    column = pick(path, "column", asked.column, best or lists, schema.names)
    kind = schema.field(column).type
    if not _is_list(kind) or not (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    ):
        raise DataError(f"{path}: column {column!r} is {kind}; expected a list of numbers (list<float>)")
    if file.metadata.num_rows == 0:
        raise DataError(f"{path}: no rows; expected at least one")
    if asked.id_column is not None and asked.id_column not in schema.names:
        known = nearest(asked.id_column, schema.names)
        raise UsageError(f"{path}: no column {asked.id_column!r}{known} It has: {', '.join(schema.names)}.")
    id_column = asked.id_column or next((n for n in ID_COLUMNS if n in schema.names and n != column), None)
    return ParquetVectors(
        path, column, id_column, _width(file, column, kind), str(np.dtype(kind.value_type.to_pandas_dtype()))
    )


def _width(file: pq.ParquetFile, column: str, kind: Any) -> int:
    """Numbers in a row: by the type, else by the first row."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    first = next(file.iter_batches(1, columns=[column], use_threads=False)).column(0)[0]
    if not first.is_valid or len(first) == 0:
        raise DataError(f"row 0 has no vector ({column} is {'empty' if first.is_valid else 'null'})")
    return len(first)


def joined(chunked: Any) -> Any:
    """A column in one piece."""
    whole = chunked.combine_chunks() if isinstance(chunked, pa.ChunkedArray) else chunked
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _first(mask: Any) -> int:
    return int(np.flatnonzero(mask.to_numpy(zero_copy_only=False))[0])
