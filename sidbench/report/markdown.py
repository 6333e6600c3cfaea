"""Markdown: the leaderboard as a page that reads well where code is hosted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape as html
from typing import TYPE_CHECKING

from sidbench.metrics import ABSENT, METRICS, Metric, metric
from sidbench.report import words
from sidbench.report.board import Vectors, tables
from sidbench.report.charts import figures, file_name
from sidbench.report.overview import COLUMNS, Family, Ranks, families, ranks
from sidbench.report.table import Part, Row, Table

if TYPE_CHECKING:
    from sidbench.record import RunRecord
    from sidbench.report.drawing import Figure

#: Before the columns that were chosen, where some were.
CHOSEN = "<!-- columns chosen: "
#: Before the ids of the records that a board was made of, at its end.
STAMP = "<!-- made of the records"

_HOW = """Each section holds runs that may be compared: same data, protocol, cut-offs, SID shape,
resolver, decoder settings, beam and machine. Rows stand in order of item-level recall, ranked over
all items of the catalogue. **Bold** is the best tokenizer of a column. *Slanted* rows are there to
compare with: a floor ignores what it encodes, a reference needs no SIDs. ± is the sample standard
deviation over seeds. The [legend](#legend) says what each column means."""

_ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}


def leaderboard(
    records: Iterable[RunRecord],
    vectors: Vectors | None = None,
    drawn: Sequence[tuple[Table, Sequence[Figure]]] | None = None,
    columns: Sequence[str] = (),
) -> str:
    """The whole board: a section a comparable group, the legend, and the ids of the records.

    What lies beside the records gives charts, too; `drawn` are the tables and charts where they are at hand.
    With `columns` each section shows these alone, which the board says of itself.
    """
    records = list(records)
    if not records:
        return "# Leaderboard\n\nNo records yet: `sidbench run` makes some.\n"
    if drawn is None:
        found = tables(records, vectors)
        drawn = [(t, figures(t, vectors, found) if vectors else []) for t in found]
    groups = [table for table, _ in drawn]
    lines = ["# Leaderboard", "", _HOW, ""]
    shown: dict[str, Metric] = {}
    lines += _overview(groups, shown)
    for (table, charts), heading in zip(drawn, words.titles(groups), strict=True):
        lines += [f"## {escape(heading)}", "", *_section(table, charts, shown, columns)]
    lines += ["## Legend", "", *_legend(shown), ""]
    lines += [f"{CHOSEN}{','.join(columns)} -->"] if columns else []
    lines += [STAMP, *sorted(r.id for r in records), "-->"]
    return "\n".join(lines) + "\n"


def chosen(board: str) -> tuple[str, ...]:
    """The columns that a board was written with; none where none were chosen."""
    _, found, rest = board.partition(f"\n{CHOSEN}")
    return tuple(rest.partition(" -->")[0].split(",")) if found else ()


def escape(text: str) -> str:
    """Plain text inside a page and a table cell: nothing in it is markup."""
    text = " ".join(text.splitlines())  # a line's end would end the cell
    for c in "\\`*_|[]":
        text = text.replace(c, f"\\{c}")
    return text.replace("<", "&lt;").replace(">", "&gt;")


def _overview(groups: Sequence[Table], shown: dict[str, Metric]) -> list[str]:
    """What the sections say together; nothing where there is one alone."""
    lines = []
    across = ranks(groups)
    for found, heading in zip(across, words.titles([r.table for r in across]), strict=True):
        lines += [f"## Over {escape(heading)}", "", *_ranks(found), "", f"> {escape(found.note)}", ""]
    kin = families(groups)
    for family, heading in zip(kin, words.titles([f.best for f in kin]), strict=True):
        several = len(family.resolvers) > 1
        what = "the best resolver of each method" if several else "SIDs of every length"
        lines += [f"## {escape(heading)}: {what}", "", *_best(family, family.best, shown), ""]
        lines += [f"> {escape(family.note)}", ""]
        if several:
            (column,) = family.whole.columns(["recall@H"])
            lines += [f"<details><summary>Every method with every resolver: {column.label}</summary>", ""]
            lines += [*_matrix(family), "", *_best(family, family.whole, shown), "", "</details>", ""]
    return lines


def _ranks(found: Ranks) -> list[str]:
    column = metric(found.headline)
    rows = []
    for r in found.rows:
        name = f"**{r.mean:.2f}**" if r.row.name in found.best else f"{r.mean:.2f}"
        rows.append([_method(r.row), name, *(f"{rank:.3g}" for rank in r.ranks)])
    head = ["Method", "Mean rank ↓", *(f"{escape(d)}: rank by {column.label}" for d in found.datasets)]
    return _lines([head, [":--", *["--:"] * (len(head) - 1)], *rows])


def _best(family: Family, table: Table, shown: dict[str, Metric]) -> list[str]:
    """Rows of several resolvers and shapes, which their first columns name."""
    columns = table.columns(COLUMNS)
    shown.update({c.name: c for c in columns})
    head = ["Method", "SIDs", *(["Resolver"] if len(family.resolvers) > 1 else []), *map(_header, columns)]
    rows = []
    for row in table.rows:
        n = family.named[row.name]
        cells = [_method(replace(row, name=n.method)), n.shape or ABSENT]
        cells += [escape(n.resolver) or ABSENT] if len(family.resolvers) > 1 else []
        rows.append(cells + [_brief(table, row, c) for c in columns])
    text = 3 if len(family.resolvers) > 1 else 2
    return _lines([head, [":--"] * text + ["--:"] * (len(head) - text), *rows])


def _brief(table: Table, row: Row, column: Metric) -> str:
    """The spread, and the mark of the best, where rows are judged; elsewhere the mean."""
    if column.source == "ranking":
        return _cell(table, row, column)
    found = row.values.get(column.name)
    return column.show(found.mean if found else None)


def _matrix(family: Family) -> list[str]:
    head, *rows = family.grid
    dashes = [":--", *["--:"] * (len(head) - 1)]
    return _lines([list(map(escape, head)), dashes, *(list(map(escape, row)) for row in rows)])


def _section(
    table: Table, charts: Sequence[Figure], shown: dict[str, Metric], columns: Sequence[str]
) -> list[str]:
    facts = words.facts(table)
    lines = [*(f"- **{name}**: {escape(said) if name == 'Notes' else said}" for name, said in facts), ""]
    for i, part in enumerate(table.chosen(columns) if columns else table.parts):
        shown.update({c.name: c for c in part.columns} | {n: METRICS[n] for n in part.levels})
        lines += [f"### {part.name}", "", *_grid(table, part), ""]
        if not i:
            lines += [f"> {escape(note)}\n" for note in [*table.notes, *words.alike(table)]]
            lines += _failures(table) + _pictures(table, charts) + _differences(table)
            lines += _popularity(table, shown) + _cutoffs(table, shown)
    return [*lines, *_parameters(table)]


def _grid(table: Table, part: Part) -> list[str]:
    rows, columns, levels = part.rows, part.columns, part.levels
    repeated = any(len(r.seeds) + len(r.failures) > 1 for r in rows)
    letters = table.letters if table.headline in [c.name for c in columns] else {}
    head = [
        "Method",
        *(["Alike"] if letters else []),
        *(["Seeds"] if repeated else []),
        *map(_header, columns),
    ]
    head += [f"{METRICS[n].label} by level" for n in levels]
    grid = [head, [":--", *["--:"] * (len(head) - 1)]]
    for row in rows:
        cells = [_method(row), *([letters[row.name]] if letters else [])]
        cells += [str(len(row.seeds))] if repeated else []
        cells += [_cell(table, row, c) for c in columns]
        cells += [" · ".join(map(METRICS[n].show, row.levels.get(n, []))) or ABSENT for n in levels]
        grid.append(cells)
    return _lines(grid)


def _lines(grid: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in grid]


def _cell(table: Table, row: Row, column: Metric) -> str:
    text = table.cell(row, column)
    return f"**{text}**" if row.name in table.best(column) else text


def _header(column: Metric) -> str:
    return f"{column.label}{f' ({column.unit})' if column.unit else ''}{_ARROWS[column.direction]}"


def _method(row: Row) -> str:
    name = escape(row.name)
    marked = name if row.kind == "method" else f"*{name} ({row.kind})*"
    return marked if row.seeds else f"{marked} (failed)"


def _failures(table: Table) -> list[str]:
    failed = [(row, f) for row in table.rows for f in row.failures]
    if not failed:
        return []
    lines = [f"- {escape(row.name)}, seed {f.seed}, {escape(f.reason)}" for row, f in failed]
    return ["**Failed runs**", "", *lines, ""]


def _pictures(table: Table, charts: Sequence[Figure]) -> list[str]:
    """The charts in a row; what is read once and not at a glance behind a fold."""
    glance = [c for c in charts if c.name in ("quality", "speed", "collisions", "bits", "lengths")]
    rest = [c for c in charts if c not in glance]

    def shown(some: Sequence[Figure]) -> list[str]:
        return [
            f'<img src="{file_name(table, c)}" width="385" alt="{html(f"{c.title}. {c.caption}")}">'
            for c in some
        ]

    lines = [*shown(glance), ""] if glance else []
    summary = "<details><summary>More charts: differences, learning curves, use of codes</summary>"
    return lines + ([summary, "", *shown(rest), "", "</details>", ""] if rest else [])


def _differences(table: Table) -> list[str]:
    """Every row beside the first: how much less, and whether that is more than chance."""
    first = table.rows[0].name
    rows = [d for d in table.differences if d.a == first]
    if not rows:
        return []
    show = table.columns([table.headline or ""])[0].show
    lines = [
        f"| {escape(d.b)} | {show(d.mean)} | {show(d.low)} to {show(d.high)} | {d.p:.4f} |" for d in rows
    ]
    head = f"| {escape(first)} less | {table.headline} | 95% interval | p, corrected |"
    return [
        "<details><summary>Differences to the first row</summary>",
        "",
        *[head, "| :-- | --: | --: | --: |", *lines],
        "",
        f"{words.COMPARISON}. The intervals are of each pair alone.",
        "",
        "</details>",
        "",
    ]


def _popularity(table: Table, shown: dict[str, Metric]) -> list[str]:
    """Recall by how popular the target is, a column a tenth of the targets."""
    name = table.by_popularity
    if name is None:
        return []
    column = metric(name)
    shown[name] = column
    rows = [r for r in table.rows if name in r.levels]
    tenths = [f"{i}0%" for i in range(1, len(rows[0].levels[name]) + 1)]
    lines = [f"| {_method(r)} | {' | '.join(map(column.show, r.levels[name]))} |" for r in rows]
    return [
        f"<details><summary>{column.label}: head to tail</summary>",
        "",
        f"| Method | {' | '.join(tenths)} |",
        f"| :-- |{' --: |' * len(tenths)}",
        *lines,
        "",
        "</details>",
        "",
    ]


def _cutoffs(table: Table, shown: dict[str, Metric]) -> list[str]:
    """Every ranking number, a table a cut-off."""
    lines = []
    for part in table.by_cutoff:
        shown.update({c.name: c for c in part.columns})
        lines += [f"### {part.name}", "", *_grid(table, part), ""]
    summary = "<details><summary>All cut-offs, item and SID level</summary>"
    return [summary, "", *lines, "</details>", ""] if lines else []


def _parameters(table: Table) -> list[str]:
    lines = []
    for row in table.rows:
        given = words.code(words.parameters(row.params)) if row.params else "none"
        became = f"; ran with {words.code(words.parameters(row.facts))}" if row.facts else ""
        lines.append(f"- {escape(row.name)}: {given}{became}")
    return ["<details><summary>Parameters of each row</summary>", "", *lines, "", "</details>", ""]


def _legend(shown: dict[str, Metric]) -> list[str]:
    """One entry a metric or family that some table shows, in the order of declaration."""
    names = {name.partition("@")[0] for name in shown}
    declared = [m for name, m in METRICS.items() if name.partition("@")[0] in names]
    return [f"- **{m.label}{'@K' if m.family else ''}**{_unit(m)}: {m.legend}" for m in declared]


def _unit(m: Metric) -> str:
    return f" ({m.unit})" if m.unit else ""
