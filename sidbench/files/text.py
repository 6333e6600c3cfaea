"""Vectors in a table that no reader of its own knows: CSV, JSON lines, or one column a dimension."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidbench import delimited
from sidbench.errors import DataError, UsageError
from sidbench.files import tables
from sidbench.files.columns import recognise
from sidbench.files.ids import from_text, identifiers
from sidbench.vectors import Asked, Floats, Vectors
from sidbench.vectors_more import Streamed


class TableVectors(Streamed):
    """A column of lists (or of text that spells them), or many columns of one number each.

    A cell without a value gives a row of NaN, for whoever reads to count.
    """

    def __init__(self, path: Path, columns: list[str], id_column: str | None) -> None:
        self.path, self.columns, self.id_column = path, columns, id_column
        self.named = id_column is not None
        self.kind = tables.kind_of(path).lstrip(".") or "folder"
        self.dtype, self.wide = "float32", len(columns) > 1
        self.rows, self.dim = self._shape()
        if not self.rows or not self.dim:
            raise DataError(f"{path}: no vectors in {', '.join(columns[:3])}; expected at least one row")

    def layout(self) -> dict[str, Any]:
        return {**super().layout(), "columns": self.columns, "id_column": self.id_column}

    def ids(self, start: int, stop: int) -> Any | None:
        if self.id_column is None:
            return None
        start, stop = self.span(start, stop)
        found = identifiers(tables.whole(tables.read(self.path, [self.id_column]).column(0)), self.path)
        return (from_text(found) if tables.kind_of(self.path) in (".csv", ".tsv") else found)[start:stop]

    def blocks(self) -> Iterator[Floats]:
        at = 0
        step = max(1024, 8_000_000 // self.dim)
        for batch in tables.batches(self.path, self.columns, step):
            yield self._wide(batch, at) if self.wide else self._lists(batch.column(0), at)
            at += len(batch)

    def _shape(self) -> tuple[int, int]:
        rows, dim = 0, len(self.columns) if self.wide else 0
        for batch in tables.batches(self.path, self.columns[:1]):
            if not dim:
                lists = self._as_lists(batch.column(0))
                dim = int(pc.max(pc.list_value_length(lists)).as_py() or 0)
            rows += len(batch)
        return rows, dim

    def _wide(self, batch: pa.RecordBatch, at: int) -> Floats:
        row = np.arange(len(batch))
        columns = [self._numbers(c, at + row).fill_null(np.nan) for c in batch.columns]
        return np.column_stack([c.to_numpy(zero_copy_only=False) for c in columns])

    def _lists(self, cells: pa.Array, at: int) -> Floats:
        lists = self._as_lists(cells)
        lengths = np.asarray(pc.list_value_length(lists).fill_null(0), dtype=np.int64)
        odd = np.flatnonzero((lengths != self.dim) & (lengths > 0))
        if len(odd):
            raise DataError(
                f"{self.path}: row {at + odd[0]:,} has {lengths[odd[0]]} numbers in {self.columns[0]}, "
                f"others {self.dim}; all rows need the same"
            )
        out = np.full((len(lists), self.dim), np.nan, np.float32)
        row = np.repeat(at + np.arange(len(lists)), lengths)
        flat = self._numbers(lists.filter(pa.array(lengths > 0)).flatten(), row).fill_null(np.nan)
        out[lengths > 0] = flat.to_numpy(zero_copy_only=False).reshape(-1, self.dim)
        return out

    def _as_lists(self, cells: pa.Array) -> pa.Array:
        lists = tables.as_lists(cells)
        if lists is None:
            raise DataError(
                f"{self.path}: column {self.columns[0]} holds {cells.type}; expected a list of numbers in "
                "each row, or text such as [0.1, 0.2]"
            )
        return lists

    def _numbers(self, values: pa.Array, row: Any) -> pa.Array:
        """Numbers; `row` is where each value stands."""
        try:
            return values.cast(pa.float32())
        except pa.ArrowException:
            odd = next((i for i, v in enumerate(values.to_pylist()) if not _is_number(v)), 0)
            raise DataError(
                f"{self.path}: {self.columns[0]} holds what is no number, {values[odd].as_py()!r:.60} in row "
                f"{row[odd]:,}; repair such rows or leave them out"
            ) from None


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float) or bool(delimited.NUMBER.fullmatch(str(value)))


def open_text(path: Path, asked: Asked) -> Vectors:
    """The vectors of a table: the column that is named or known as one, else numbered columns."""
    names = tables.names(path)
    if asked.column is not None and asked.column not in names:
        raise UsageError(f"{path}: no column {asked.column!r}; it has: {', '.join(names)}.")
    own = asked.column or recognise(names, "embedding")
    columns = [own] if own is not None else numbered(names)
    if not columns:
        raise DataError(
            f"{path}: no column holds vectors; expected one such as embedding, or one a dimension (emb_0, "
            f"emb_1, …). Columns: {', '.join(names)}."
        )
    known = asked.id_column or recognise([n for n in names if n not in columns], "item")
    return TableVectors(path, columns, known)


def numbered(names: list[str]) -> list[str]:
    """Columns that are numbered through (emb_0, emb_1, …), in order; none where no such family stands out."""
    found = [(m[1], int(m[2]), n) for n in names if (m := re.fullmatch(r"(.*?)(\d+)", n.strip()))]
    families = []
    for _, group in groupby(sorted(found), key=lambda f: f[0]):
        members = list(group)
        first = members[0][1]
        if first in (0, 1) and [m[1] for m in members] == list(range(first, first + len(members))):
            families.append([m[2] for m in members])
    best = max(families, key=len, default=[])
    return best if len(best) > 1 else []
