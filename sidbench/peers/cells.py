"""Tables of text: CSV and RecBole's atomic files, with list cells read by patterns and never evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sidbench import delimited
from sidbench.dataset import Sequences
from sidbench.errors import DataError, UsageError, nearest

LITERAL = r"""(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
#: A Python list of numbers, or of text, and nothing else.
NUMBERS = r"^\s*\[\s*(?:[0-9]+\s*(?:,\s*[0-9]+\s*)*,?)?\s*\]\s*$"
TEXTS = rf"^\s*\[\s*(?:{LITERAL}\s*(?:,\s*{LITERAL}\s*)*,?)?\s*\]\s*$"
SHOWN = 60
TYPES = ("token", "token_seq", "float", "float_seq")


def named(path: Path) -> str:
    """A file as errors call it: with its folder, since those of train, valid and test have one name."""
    return f"{path.parent.name}/{path.name}"


def read_table(path: Path, between: str = ",") -> pa.Table:
    """Every column of a table of text, as text; a first line must name them."""
    try:
        with path.open("rb") as stream:
            layout = delimited.head(stream, between)
            if len(set(layout.names)) < len(layout.names):
                raise DataError(f"{named(path)} names a column twice: {', '.join(layout.names)}")
            if not layout.named:
                raise DataError(
                    f"{named(path)} begins with numbers; expected a header that names the columns"
                )
            found = list(delimited.rows(stream, layout, layout.names, gaps=False))
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except UnicodeDecodeError as e:
        raise DataError(f"{named(path)} is not text in UTF-8 ({e.reason} at byte {e.start})") from None
    except (OSError, pa.ArrowException) as e:
        raise DataError(
            f"{named(path)} cannot be read as a table ({delimited.why(e)}); is it cut off? Get the file again"
        ) from None
    if not sum(map(len, found)):
        raise DataError(f"{named(path)} has a header and no rows")
    return pa.Table.from_batches(found).combine_chunks()


def column(table: pa.Table, name: str, path: Path) -> pa.Array:
    """One column as text."""
    if name not in table.column_names:
        raise DataError(
            f"{named(path)} has no column {name!r}{nearest(name, table.column_names)} "
            f"Columns: {', '.join(table.column_names)}."
        )
    chunks = table.column(name).combine_chunks()
    return chunks.combine_chunks() if isinstance(chunks, pa.ChunkedArray) else chunks


def integers(cells: pa.Array, name: str, path: Path) -> NDArray[np.int64]:
    """Whole numbers from 0, one a cell."""
    require(cells, pc.match_substring_regex(cells, r"^\s*[0-9]{1,18}\s*$"), name, path, "a number from 0")
    return np.asarray(pc.utf8_trim_whitespace(cells).cast(pa.int64()))


def integer_lists(cells: pa.Array, name: str, path: Path) -> Sequences:
    """Cells such as `[3, 1, 4]`, as rows of numbers."""
    require(cells, pc.match_substring_regex(cells, NUMBERS), name, path, "a list of numbers")
    plain = pc.replace_substring_regex(cells, r"[\[\]\s]|,\s*\]", "")
    return split_numbers(plain, ",", name, path)


def filled(cells: pa.Array, name: str, path: Path) -> pa.Array:
    """The cells, if there is something in each."""
    require(cells, pc.not_equal(pc.utf8_trim_whitespace(cells), ""), name, path, "a value in every row")
    return cells


def split_numbers(cells: pa.Array, separator: str, name: str, path: Path) -> Sequences:
    """Cells of whole numbers with this between them, as rows; an empty cell is an empty row."""
    parts = pc.split_pattern_regex(pc.utf8_trim_whitespace(cells), r"\s+" if separator == " " else separator)
    flat = parts.flatten()
    row = np.repeat(np.arange(len(cells)), np.asarray(pc.list_value_length(parts)))
    empty = np.asarray(pc.equal(flat, ""))
    flat, row = flat.filter(pa.array(~empty)), row[~empty]
    good = np.asarray(pc.match_substring_regex(flat, r"^[0-9]{1,9}$"))
    if not good.all():
        at = int(np.flatnonzero(~good)[0])
        raise DataError(
            f"{named(path)}, row {row[at]}: {name} holds {flat[at].as_py()[:SHOWN]!r}, no item number; "
            "expected whole numbers from 0"
        )
    offsets = np.zeros(len(cells) + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=len(cells)), out=offsets[1:])
    return Sequences(np.asarray(flat.cast(pa.int32())), offsets)


def require(cells: pa.Array, good: pa.Array, name: str, path: Path, expected: str) -> None:
    """Every cell is what it must be, or the first that is not is named with its row."""
    bad = np.flatnonzero(~np.asarray(pc.fill_null(good, False)))
    if len(bad):
        text = cells[int(bad[0])].as_py() or ""
        shown = text if len(text) <= SHOWN else text[:SHOWN] + "…"
        raise DataError(
            f"{named(path)}, row {bad[0]} (from 0, below the header): {name} is {shown!r}; expected "
            f"{expected}. {len(bad):,} of {len(cells):,} rows are not. Cells are matched, never evaluated: "
            "write them again"
        )


def read_atomic(path: Path) -> dict[str, tuple[str, pa.Array]]:
    """A RecBole atomic file: columns by name, each with its type (`user_id:token`) and its cells as text."""
    table = read_table(path, "\t")
    out: dict[str, tuple[str, Any]] = {}
    for head in table.column_names:
        name, _, kind = head.partition(":")
        if kind not in TYPES:
            raise DataError(
                f"{named(path)}: its header says {head!r}; expected NAME:TYPE, a type of {', '.join(TYPES)}; "
                "tabs between columns"
            )
        out[name] = (kind, column(table, head, path))
    return out


def field(atomic: dict[str, tuple[str, pa.Array]], name: str, kind: str, path: Path) -> pa.Array:
    """A column of an atomic file that must be there, and be of this type."""
    if name not in atomic:
        raise DataError(
            f"{named(path)} has no column {name!r}{nearest(name, atomic)} Columns: {', '.join(atomic)}. "
            "Name the right one with --set dataset.NAME_field=COLUMN where the dataset has such a parameter"
        )
    found, cells = atomic[name]
    if found != kind:
        raise DataError(f"{named(path)}: column {name} is {found}; expected {kind}")
    return cells


def floats(cells: pa.Array, name: str, path: Path) -> NDArray[np.float64]:
    """Numbers, one a cell."""
    number = r"^\s*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\s*$"
    require(cells, pc.match_substring_regex(cells, number), name, path, "a number")
    return np.asarray(pc.utf8_trim_whitespace(cells).cast(pa.float64()))
