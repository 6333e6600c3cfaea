"""Terminal: the same tables for the end of a run, as many columns as fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from sidbench.metrics import ABSENT, METRICS, Metric, metric
from sidbench.report import words
from sidbench.report.board import Vectors
from sidbench.report.board import tables as comparable
from sidbench.report.columns import ALL
from sidbench.report.overview import Family, Ranks, families, ranks
from sidbench.report.table import FLIPPED, Row, Table

if TYPE_CHECKING:
    from sidbench.record import RunRecord

#: In order of importance: the first that fit are shown, in the order below.
_WANTED = (
    "recall@H",
    "ndcg@H",
    "recall_cold@H",
    "recall_warm@H",
    "mrr@H",
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
    "mrr@H",
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
#: Of rows with several resolvers.
FAMILY = (
    "recall@H",
    "ndcg@H",
    "collision_items_resolved",
    "sid_bits_added",
    "resolve_moved",
    "resolve_added_cost",
    "resolve_seconds",
    "resolve_unplaced",
    "collision_items",
)
#: Characters between two columns.
_GAP = 2
_STYLES = {"method": "", "floor": "dim", "reference": "dim"}


def tables(
    records: Iterable[RunRecord],
    *,
    groups: Sequence[Table] | None = None,
    width: int = 100,
    vectors: Vectors | None = None,
    columns: Sequence[str] = (),
    sort: str | None = None,
    matrix: bool = False,
) -> list[RenderableType]:
    """One table a comparable group, no wider than `width`, with its notes and failures below.

    Tables that differ in the resolver alone are shown as one, each method with its best; with `matrix` with
    all of them. `groups` are the tables where they are at hand; `columns` are shown as far as they fit;
    `sort` orders rows by another number.
    """
    groups = comparable(records, vectors) if groups is None else groups
    titles = dict(zip(map(id, groups), words.titles(groups), strict=True))
    kin = {id(f.tables[0]): f for f in families(groups) if len(f.resolvers) > 1}
    together = {id(t) for f in kin.values() for t in f.tables}
    of_families = dict(zip(kin, words.titles([f.best for f in kin.values()]), strict=True))
    out: list[RenderableType] = []
    for table in groups:
        if id(table) in kin:
            view = _View(width, tuple(columns), sort)
            out.append(_family(kin[id(table)], of_families[id(table)], view, matrix=matrix))
        elif id(table) not in together:
            out.append(_rendered(table, titles[id(table)], _View(width, tuple(columns), sort)))
    across = ranks(groups)
    out += [_ranks(r, t) for r, t in zip(across, words.titles([r.table for r in across]), strict=True)]
    # A blank line between a table and the next.
    return [Group("", shown) if i else shown for i, shown in enumerate(out)]


@dataclass(frozen=True)
class _View:
    """What a person asked of the tables."""

    width: int
    columns: tuple[str, ...] = ()
    sort: str | None = None

    def sorted(self, table: Table) -> list[Row]:
        """Rows, the best by the number asked for first; those that lack it last."""
        if self.sort is None:
            return list(table.rows)
        name, falling = self.sort, metric(self.sort).direction != "lower"

        def place(row: Row) -> tuple[bool, float]:
            found = row.values.get(name)
            return (found is None, 0.0 if found is None else -found.mean if falling else found.mean)

        return sorted(table.rows, key=place)

    def of(
        self, table: Table, space: int, wanted: Sequence[str], order: Sequence[str]
    ) -> tuple[list[Metric], list[Text]]:
        """The columns asked for, else the most important ones, as far as they fit; and what does not.

        What rows are sorted by is the first to be there.
        """
        first = [self.sort] if self.sort else []
        asked = (
            [m.name.replace("@K", "@H") for m in METRICS.values()] if ALL in self.columns else self.columns
        )
        given = {c.name: c for c in table.columns([*first, *(asked or wanted)])}
        shown = _fitting(table, space, list(given.values()))
        places = [c.name for c in table.columns(asked or order)]
        columns = [given[n] for n in dict.fromkeys([*places, *given]) if n in shown]
        lost = [n for n in given if n not in shown] if asked else []
        said = f"No room for {', '.join(lost)}: they stand on the board (or widen the window)."
        return columns, [Text(said, style="yellow")] if lost else []


def _family(family: Family, title: str, view: _View, *, matrix: bool) -> RenderableType:
    """Each method with its best resolver, or with every one."""
    table = family.whole if matrix else family.best
    grid = _grid()
    named = {r.name: family.named[r.name] for r in table.rows}
    names = {r.name: _name(replace(r, name=named[r.name].unique)) for r in table.rows}
    used = _widest("Method", names.values()) + _widest("Resolver", (n.resolver for n in named.values()))
    columns, lost = view.of(table, view.width - used - 1, FAMILY, FAMILY)
    grid.add_column("Method", vertical="bottom", no_wrap=True, overflow="ellipsis")
    grid.add_column("Resolver", no_wrap=True, overflow="ellipsis")
    for column in columns:
        grid.add_column(_header(column), justify="right", no_wrap=True)
    best = {c.name: table.best(c) if c.source == "ranking" else set() for c in columns}
    for row in view.sorted(table):
        cells = [Text(names[row.name]), Text(named[row.name].resolver or ABSENT)]
        for column in columns:
            text = _cell(table, row, column) if row.seeds or column is not columns[0] else "failed"
            cells.append(Text(text, style="bold green" if row.name in best[column.name] else ""))
        grid.add_row(*cells, style=_STYLES[row.kind] if row.seeds else "red")
    what = "every resolver" if matrix else f"each method with the best of {len(family.resolvers)} resolvers"
    below = [*lost, Text(family.note, style="dim")]
    if not matrix:
        below.append(Text("Every resolver: sidbench leaderboard --matrix", style="dim"))
    for own in family.tables:
        resolver = words.resolver(own).replace("`", "")
        below += [Text(f"{resolver}: {note}", style="yellow") for note in own.notes if FLIPPED in note]
        below += [
            Text(f"{r.name}, {resolver}, seed {f.seed}, {f.reason}", style="red")
            for r in own.rows
            for f in r.failures
            if r.kind != "reference"
        ]
    return Group(Text(f"{title}: {what}", style="bold"), grid, *below)


def _ranks(found: Ranks, title: str) -> RenderableType:
    """The mean rank of each row over datasets."""
    grid = _grid()
    grid.add_column("Method", vertical="bottom", no_wrap=True, overflow="ellipsis")
    for name in ("Mean rank", *found.datasets):
        grid.add_column(name.replace(" ", "\n"), justify="right")
    for r in found.rows:
        mean = Text(f"{r.mean:.2f}", style="bold green" if r.row.name in found.best else "")
        places = [Text(f"{rank:.3g}") for rank in r.ranks]
        grid.add_row(Text(_name(r.row)), mean, *places, style=_STYLES[r.row.kind])
    return Group(Text(f"Over {title}", style="bold"), grid, Text(found.note, style="dim"))


def _grid() -> RichTable:
    return RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)


def _widest(header: str, cells: Iterable[str]) -> int:
    return max(map(cell_len, [header, *cells])) + _GAP


def _rendered(table: Table, title: str, view: _View) -> RenderableType:
    rows = view.sorted(table)
    names = [_name(row) for row in rows]
    repeated = any(len(r.seeds) + len(r.failures) > 1 for r in rows)
    grid = _grid()
    letters = table.letters
    used = _widest("Method", names) + 1 + (5 + _GAP if repeated else 0)
    used += max(5, *map(len, letters.values())) + _GAP if letters else 0
    columns, lost = view.of(table, view.width - used, _WANTED, _ORDER)
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
    below = lost + [Text(note, style="yellow") for note in table.notes]
    below += [Text(note, style="dim") for note in words.alike(table)]
    below += [Text(f"{r.name}, seed {f.seed}, {f.reason}", style="red") for r in rows for f in r.failures]
    # Where nothing ran there are no columns, and the failures below say it all.
    return Group(Text(title, style="bold"), *([grid] if columns else []), *below)


def _fitting(table: Table, space: int, columns: Sequence[Metric]) -> set[str]:
    """The first columns that fit into a number of characters."""
    chosen: set[str] = set()
    for column in columns:
        cells = [*_header(column).split("\n"), *(_cell(table, row, column) for row in table.rows)]
        need = max(map(cell_len, cells)) + _GAP
        if need <= space:
            chosen.add(column.name)
            space -= need
    return chosen


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
