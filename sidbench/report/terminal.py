"""Terminal: the same tables for the end of a run, as many columns as fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from sidbench.metrics import Metric
from sidbench.report import words
from sidbench.report.board import Row, Table, Vectors
from sidbench.report.board import tables as comparable

if TYPE_CHECKING:
    from sidbench.record import RunRecord

#: In order of importance: the first that fit are shown, in the order below.
_WANTED = (
    "recall@H",
    "ndcg@H",
    "recall_cold@H",
    "recall_warm@H",
    "collision_items",
    "fit_seconds",
    "search_users_per_second",
    "sid_recall@H",
    "decoder_seconds",
    "inflation@H",
    "encode_items_per_second",
    "utilization",
    "reconstruction_error",
    "peak_memory_mb",
)
_ORDER = (
    "recall@H",
    "ndcg@H",
    "recall_warm@H",
    "recall_cold@H",
    "sid_recall@H",
    "inflation@H",
    "collision_items",
    "utilization",
    "reconstruction_error",
    "fit_seconds",
    "encode_items_per_second",
    "peak_memory_mb",
    "decoder_seconds",
    "search_users_per_second",
)
#: Characters between two columns.
_GAP = 2
_STYLES = {"method": "", "floor": "dim", "reference": "dim"}


def tables(
    records: Iterable[RunRecord], *, width: int = 100, vectors: Vectors | None = None
) -> list[RenderableType]:
    """One table a comparable group, no wider than `width`, with its notes and failures below."""
    groups = comparable(records, vectors)
    return [_rendered(table, title, width) for table, title in zip(groups, _titles(groups), strict=True)]


def _titles(groups: list[Table]) -> list[str]:
    """Titles with a blank line between a table and the next."""
    return [f"\n{title}" if i else title for i, title in enumerate(words.titles(groups))]


def _rendered(table: Table, title: str, width: int) -> RenderableType:
    rows = table.rows
    names = [_name(row) for row in rows]
    repeated = any(len(r.seeds) + len(r.failures) > 1 for r in rows)
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    letters = table.letters
    used = max(cell_len(n) for n in ["Method", *names]) + _GAP + 1 + (5 + _GAP if repeated else 0)
    used += max(5, *map(len, letters.values())) + _GAP if letters else 0
    columns = _fitting(table, width - used)
    grid.add_column("Method", vertical="bottom", no_wrap=True, overflow="ellipsis")
    if letters:
        grid.add_column("Alike", no_wrap=True)
    if repeated:
        grid.add_column("Seeds", justify="right", no_wrap=True)
    for column in columns:
        grid.add_column(_header(column), justify="right", no_wrap=True)
    best = [table.best(c) for c in columns]
    for row, name in zip(rows, names, strict=True):
        style = _STYLES[row.kind] if row.seeds else "red"
        cells = [Text(name), *([Text(letters[row.name])] if letters else [])]
        cells += [Text(str(len(row.seeds)))] if repeated else []
        for column, names_of_best in zip(columns, best, strict=True):
            text = _cell(table, row, column) if row.seeds or column is not columns[0] else "failed"
            cells.append(Text(text, style="bold green" if row.name in names_of_best else ""))
        grid.add_row(*cells, style=style)
    below = [Text(note, style="yellow") for note in table.notes]
    below += [Text(note, style="dim") for note in words.alike(table)]
    below += [Text(f"{r.name}, seed {f.seed}, {f.reason}", style="red") for r in rows for f in r.failures]
    return Group(Text(title, style="bold"), grid, *below)


def _fitting(table: Table, space: int) -> list[Metric]:
    """The most important columns that fit into a number of characters."""
    chosen: set[str] = set()
    for column in table.columns(_WANTED):
        cells = [*_header(column).split("\n"), *(_cell(table, row, column) for row in table.rows)]
        need = max(map(cell_len, cells)) + _GAP
        if need <= space:
            chosen.add(column.name)
            space -= need
    return [c for c in table.columns(_ORDER) if c.name in chosen]


def _cell(table: Table, row: Row, column: Metric) -> str:
    """The spread stands where rows are judged; elsewhere its room goes to another column."""
    found = row.values.get(column.name)
    if column.source == "ranking" and not column.secondary:
        return table.cell(row, column)
    return column.show(found.mean if found else None)


def _header(column: Metric) -> str:
    return "\n".join([*column.label.split(" "), *([column.unit] if column.unit else [])])


def _name(row: Row) -> str:
    return row.name if row.kind == "method" else f"{row.name} ({row.kind})"
