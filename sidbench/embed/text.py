"""The text of every item, from columns or a template."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sidbench.errors import UsageError, nearest
from sidbench.files.columns import recognise

#: Columns that name an item, in the order in which a person would say them. No descriptions: they are long,
#: and on Amazon Scientific 2018 neighbours by words were worse with them.
WORDS = ("title", "name", "brand", "store", "manufacturer", "artist", "author", "genres", "genre",
         "categories", "category", "main_category", "attributes", "tags")  # fmt: skip
BETWEEN = ". "
CELL = 4_000  # letters of an item's text that are read, at most


def default_columns(names: Sequence[str], where: str) -> list[str]:
    """Those of the known columns that are there."""
    found = list(dict.fromkeys(n for w in WORDS if (n := recognise(names, w)) is not None))
    if not found:
        raise UsageError(
            f"{where} has none of the columns {', '.join(WORDS)}; name those that describe an item with "
            f"--columns. It has: {', '.join(names)}."
        )
    return found


def fields(template: str) -> list[str]:
    """The columns that a template names, each once."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as e:
        raise UsageError(f"--template {template!r}: {e}; expected text with columns in braces") from None
    names = [name for _, name, _, _ in parts if name is not None]
    for _, name, spec, conversion in parts:
        if name is not None and (not name or spec or conversion or any(c in name for c in ".[]")):
            raise UsageError(
                f"--template {template!r}: in braces stands the name of a column and nothing else, such as "
                "{title}"
            )
    if not names:
        raise UsageError(f"--template {template!r} names no column; write it in braces, such as {{title}}")
    return list(dict.fromkeys(names))


def check_columns(asked: Sequence[str], names: Sequence[str], where: str) -> None:
    """Every column must be there."""
    for name in asked:
        if name not in names:
            raise UsageError(
                f"{where} has no column {name!r}{nearest(name, names)} It has: {', '.join(names)}."
            )


def joined(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """The cells of these columns behind each other, those that are empty left out."""
    text, *rest = [as_text(table.column(c)) for c in columns]
    for cells in rest:
        both = pc.and_(pc.not_equal(text, ""), pc.not_equal(cells, ""))
        between = pc.if_else(both, pa.scalar(BETWEEN, pa.large_string()), pa.scalar("", pa.large_string()))
        text = pc.binary_join_element_wise(text, between, cells, pa.scalar("", pa.large_string()))
    return cut(text)


def filled(table: pa.Table, template: str) -> pa.Array:
    """The template with every item's cells in place of the braces; an item without any has no text."""
    parts: list[Any] = []
    for literal, name, _, _ in string.Formatter().parse(template):
        if literal:
            parts.append(pa.scalar(literal, pa.large_string()))
        if name is not None:
            parts.append(as_text(table.column(name)))
    text = pc.binary_join_element_wise(*parts, pa.scalar("", pa.large_string()))
    cells = [pc.equal(as_text(table.column(n)), "") for n in fields(template)]
    nothing = cells[0]
    for empty in cells[1:]:
        nothing = pc.and_(nothing, empty)
    return cut(pc.if_else(nothing, pa.scalar("", pa.large_string()), text))


def as_text(column: Any) -> pa.Array:
    """Cells as trimmed text, nothing for an empty one; lists of words (and lists of lists) with commas."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_text(column.dictionary_decode())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = as_text(column.flatten())
        lengths = pc.fill_null(pc.list_value_length(column), 0).cast(pa.int64())
        offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
        lists = pa.LargeListArray.from_arrays(offsets, inner)
        return pc.binary_join(lists, pa.scalar(", ", pa.large_string()))
    try:
        text = column.cast(pa.large_string())
    except pa.ArrowException:
        raise UsageError(f"a column of {kind} is no text; name others with --columns") from None
    return pc.utf8_trim_whitespace(pc.fill_null(text, ""))


def cut(text: pa.Array) -> pa.Array:
    """No model reads further."""
    return pc.utf8_slice_codeunits(text, 0, CELL)
