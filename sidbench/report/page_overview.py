"""The page's first sections: what its boards say together, over datasets and over resolvers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sidbench.metrics import ABSENT, Metric, metric
from sidbench.report import words
from sidbench.report.charts.scale import key
from sidbench.report.overview import COLUMNS, Family, Ranks, families, ranks
from sidbench.report.page_parts import head, heads, line, panel
from sidbench.report.table import Row, Table


@dataclass(frozen=True)
class Section:
    """One of them: where it lies, its title, who stands first, and all of it."""

    id: str
    title: str
    first: str
    html: str


def sections(tables: Sequence[Table], shown: dict[str, Metric]) -> list[Section]:
    """Nothing where a table stands alone. A row opens what its board says of it."""
    rows = {run.id: key(table, row) for table in tables for row in table.rows for run in row.runs}
    across, kin = ranks(tables), families(tables)
    out = [
        _ranks(found, f"Over {title}", f"over-{i}", rows, shown)
        for i, (found, title) in enumerate(zip(across, words.titles([r.table for r in across]), strict=True))
    ]
    for i, (family, title) in enumerate(zip(kin, words.titles([f.best for f in kin]), strict=True)):
        what = "the best resolver of each method" if len(family.resolvers) > 1 else "SIDs of every length"
        out.append(_family(family, f"{title}: {what}", f"best-{i}", rows, shown))
    return out


def _ranks(found: Ranks, title: str, own: str, rows: dict[str, str], shown: dict[str, Metric]) -> Section:
    column = metric(found.headline)
    shown[column.name] = column
    named = [head("Method", text=True), head("Mean rank", title=found.note)]
    named += [head(name, unit=f"rank by {column.label}") for name in found.datasets]
    lines = []
    for r in found.rows:
        best = ' class="best"' if r.row.name in found.best else ""
        cells = [f'<td{best} data-v="{r.mean!r}">{r.mean:.2f}</td>']
        cells += [f'<td data-v="{rank!r}">{rank:.3g}</td>' for rank in r.ranks]
        lines.append(line(_opens(r.row, rows), r.row, r.row.name, cells))
    names = [r.row.name for r in found.rows if r.row.name in found.best]
    lead = (
        f"<b>{escape(' and '.join(names))}</b> {'has' if len(names) == 1 else 'have'} the best mean rank of "
        f"the tokenizers over {len(found.datasets)} datasets."
        if names
        else f"Mean ranks over {len(found.datasets)} datasets."
    )
    first = next((r for r in found.rows if r.row.kind == "method"), found.rows[0])
    html = _section(own, title, lead, found.note, [panel(f"{own}-0", "Mean ranks", title, named, lines)])
    return Section(own, title, f"{first.row.name}: mean rank {first.mean:.2f}", html)


def _family(family: Family, title: str, own: str, rows: dict[str, str], shown: dict[str, Metric]) -> Section:
    (column,) = family.whole.columns(["recall@H"])
    panels = [panel(f"{own}-0", "Best", title, *_rows_of(family, family.best, rows, shown))]
    if len(family.resolvers) > 1:
        panels.append(panel(f"{own}-1", f"{column.label} by resolver", title, *_grid(family, rows)))
        every = _rows_of(family, family.whole, rows, shown)
        panels.append(panel(f"{own}-2", "Every pair", title, *every))
    first = next(row for row in family.best.rows if family.named[row.name].resolver)
    by = family.named[first.name]
    value = family.best.cell(first, column)
    what = f"with {by.resolver}" if len(family.resolvers) > 1 else f"with {by.shape}"
    lead = (
        f"<b>{escape(by.method)}</b> {escape(what)} stands first of the tokenizers: {escape(column.label)} "
        f"<b>{escape(value)}</b>."
    )
    html = _section(own, title, lead, family.note, panels)
    return Section(own, title, f"{by.method} {what} {value}", html)


def _rows_of(
    family: Family, table: Table, rows: dict[str, str], shown: dict[str, Metric]
) -> tuple[list[str], list[str]]:
    """Rows of several resolvers and shapes, which their first columns name."""
    columns = table.columns(COLUMNS)
    shown.update({c.name: c for c in columns})
    several = len(family.resolvers) > 1
    named = [head("Method", text=True), head("SIDs", text=True)]
    named += [head("Resolver", text=True)] if several else []
    named += heads(columns)
    best = {c.name: table.best(c) for c in columns if c.source == "ranking"}
    lines = []
    for row in table.rows:
        n = family.named[row.name]
        texts = [n.shape or ABSENT, *([n.resolver or ABSENT] if several else [])]
        cells = [f'<td class="left" data-v="{escape(t)}">{escape(t)}</td>' for t in texts]
        for c in columns:
            value = row.values.get(c.name)
            marked = ' class="best"' if row.name in best.get(c.name, ()) else ""
            sort = f' data-v="{value.mean!r}"' if value else ""
            text = table.cell(row, c) if c.source == "ranking" else c.show(value.mean if value else None)
            cells.append(f"<td{marked}{sort}>{escape(text)}</td>")
        lines.append(line(_opens(row, rows), row, n.method, cells))
    return named, lines


def _grid(family: Family, rows: dict[str, str]) -> tuple[list[str], list[str]]:
    """A line a method, a column a resolver."""
    (name, *resolvers), *grid = family.grid
    (column,) = family.whole.columns(["recall@H"])
    first = {family.named[row.name].unique: row for row in family.best.rows}
    means = {
        (n.unique, n.resolver): row.values[column.name].mean
        for row in family.whole.rows
        for n in [family.named[row.name]]
        if column.name in row.values
    }
    named = [head(name, text=True), *(head(r, first="descending") for r in resolvers)]
    lines = []
    for method, *texts in grid:
        cells = []
        for resolver, text in zip(resolvers, texts, strict=True):
            mean = means.get((method, resolver))
            sort = "" if mean is None else f' data-v="{mean!r}"'
            cells.append(f"<td{sort}>{escape(text)}</td>")
        lines.append(line(_opens(first[method], rows), first[method], method, cells))
    return named, lines


def _opens(row: Row, rows: dict[str, str]) -> str:
    """What its own board calls the row."""
    return next((rows[run.id] for run in row.runs if run.id in rows), "")


def _section(own: str, title: str, lead: str, note: str, panels: Sequence[str]) -> str:
    return (
        f'<section class="board" id="{own}" aria-labelledby="{own}-title">\n'
        f'<h2 id="{own}-title">{escape(title)}</h2>\n<p class="lead">{lead}</p>\n'
        f"{''.join(panels)}<p><small>{escape(note)}</small></p></section>\n"
    )
