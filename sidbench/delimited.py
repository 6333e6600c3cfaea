"""Rows of text, with commas or tabs between cells or as lines of JSON: one set of rules for all readers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

#: Bytes of text that are parsed at a time; no row may be longer.
BLOCK = 16 << 20
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+|nan|inf)\s*", re.IGNORECASE)
_ROW, _JSON_ROW = re.compile(r"Row #(\d+)"), re.compile(r"\bin row (\d+)")


@dataclass(frozen=True)
class Layout:
    """The columns of a text file, what stands between them, and whether its first line names them."""

    names: tuple[str, ...]
    between: str = ","
    named: bool = True
    #: Whether quotes enclose cells, which may then hold line ends.
    quoted: bool = True


def head(stream: IO[bytes], between: str = "") -> Layout:
    """What the first line says, which is read; without `between` what stands in it most often parts cells.

    Between tabs quotes are letters (`12" pipe`, or a title that begins with one and would swallow rows),
    unless the first line is quoted too. A line of numbers alone names nothing: columns are then f0, f1, …
    """
    line = stream.readline(BLOCK).decode("utf-8-sig").rstrip("\r\n")
    if not line.strip():
        raise pa.ArrowInvalid("the first line is empty; expected the names of the columns")
    between = between or max(",;\t|", key=line.count)
    quoted = between != "\t" or line.startswith('"')
    try:
        cells = next(csv.reader([line], delimiter=between)) if quoted else line.split(between)
    except csv.Error as e:
        raise pa.ArrowInvalid(f"the first line names no columns: {e}") from None
    bare = all(NUMBER.fullmatch(c) for c in cells)
    names = (f"f{i}" for i in range(len(cells))) if bare else (c.strip() for c in cells)
    return Layout(tuple(names), between, not bare, quoted)


def rows(
    stream: IO[bytes],
    layout: Layout,
    wanted: Sequence[str],
    types: Mapping[str, pa.DataType] | None = None,
    *,
    gaps: bool = True,
) -> Iterator[pa.RecordBatch]:
    """Some columns of all rows from here on, a piece at a time: text, or of these types.

    With `gaps` an empty cell is null, else it is text of nothing. A row of another width is an error.
    """
    types = types or {}
    try:
        yield from pyarrow.csv.open_csv(
            stream,
            # One thread: errors then name their row.
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=BLOCK, column_names=list(layout.names)
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=layout.between,
                quote_char='"' if layout.quoted else False,
                newlines_in_values=layout.quoted,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                # As text: 007 is an id, and so is NA; only an empty cell is empty.
                column_types={name: types.get(name, pa.string()) for name in wanted},
                include_columns=list(wanted),
                strings_can_be_null=gaps,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
    except pa.ArrowInvalid as e:
        if "Empty CSV file" not in str(e):  # nothing below the header is no fault of the reader's
            raise


def json_rows(stream: IO[bytes], schema: pa.Schema | None = None) -> Iterator[pa.RecordBatch]:
    """Lines of JSON from here on, a piece at a time: these fields, or what each piece has."""
    parse = None
    if schema is not None:
        parse = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    at = 0
    while lines := stream.readlines(BLOCK):
        options = pyarrow.json.ReadOptions(use_threads=False, block_size=max(map(len, lines)) + BLOCK)
        text = b"".join(lines)
        try:
            found = pyarrow.json.read_json(io.BytesIO(text), options, parse) if text.strip() else None
        except pa.ArrowInvalid as e:
            raise pa.ArrowInvalid(_from(at, str(e))) from None
        if found is not None:
            yield from found.to_batches()
        at += len(lines)


def _from(first: int, said: str) -> str:
    """A fault's row counted through all pieces, not from where its own begins."""
    return _JSON_ROW.sub(lambda m: f"in row {first + int(m[1]):,} (from 0)", said)


def why(error: Exception) -> str:
    """What a reader says of a fault, on one line; rows are counted from 0, below the header."""
    said = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return _ROW.sub(lambda m: f"row {int(m[1]) - 1:,} (from 0, below the header)", said)
