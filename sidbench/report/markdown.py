"""Markdown: the leaderboard as a page that reads well where code is hosted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sidbench.metrics import ABSENT, METRICS, Metric
from sidbench.report import words
from sidbench.report.board import CODES, COST, CUTOFF, QUALITY, Row, Table, Vectors, tables

if TYPE_CHECKING:
    from sidbench.record import RunRecord

#: Before the ids of the records that a board was made of, at its end.
STAMP = "<!-- made of the records"

_HOW = """Each section holds runs that may be compared: same data, protocol, cut-offs, SID shape,
resolver, decoder settings, beam and machine. Rows stand in order of item-level recall, ranked over
all items of the catalogue. **Bold** is the best tokenizer of a column. *Slanted* rows are there to
compare with: a floor ignores what it encodes, a reference needs no SIDs. ± is the sample standard
deviation over seeds. The [legend](#legend) says what each column means."""

_ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}


def leaderboard(records: Iterable[RunRecord], vectors: Vectors | None = None) -> str:
    """The whole board: a section a comparable group, the legend, and the ids of the records."""
    records = list(records)
    if not records:
        return "# Leaderboard\n\nNo records yet: `sidbench run` makes some.\n"
    groups = tables(records, vectors)
    lines = ["# Leaderboard", "", _HOW, ""]
    shown: dict[str, Metric] = {}
    for table, heading in zip(groups, words.titles(groups), strict=True):
        lines += [f"## {escape(heading)}", "", *_section(table, shown)]
    lines += ["## Legend", "", *_legend(shown), "", STAMP, *sorted(r.id for r in records), "-->"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Plain text inside a page and a table cell: nothing in it is markup."""
    for c in "\\`*_|[]":
        text = text.replace(c, f"\\{c}")
    return text.replace("<", "&lt;").replace(">", "&gt;")


def _section(table: Table, shown: dict[str, Metric]) -> list[str]:
    lines = [*_facts(table), ""]
    for name, names, rows in (
        ("Quality", QUALITY, table.rows),
        ("SIDs", CODES, [r for r in table.rows if r.kind != "reference" and r.seeds]),
        ("Cost", COST, [r for r in table.rows if r.seeds]),
    ):
        columns = [c for c in table.columns(names) if any(c.name in r.values for r in rows)]
        # Failures need their rows even where nothing was recommended.
        if columns or (name == "Quality" and any(r.failures for r in rows)):
            shown.update({c.name: c for c in columns})
            lines += [f"### {name}", "", *_grid(table, rows, columns, by_level=name == "SIDs"), ""]
        if name == "Quality":
            lines += [f"> {escape(note)}\n" for note in [*table.notes, *words.alike(table)]]
            lines += _failures(table) + _differences(table) + _cutoffs(table, shown)
    return [*lines, *_parameters(table)]


def _facts(table: Table) -> list[str]:
    facts = [("Data", words.dataset(table)), ("Protocol", words.protocol(table))]
    if notes := words.notes(table):
        facts.append(("Notes", escape("; ".join(notes))))
    if "shape" in table.agreed:
        facts.append(("SIDs", f"{words.shape(table)} codes, {words.bits(table):.4g} bits an item"))
    if "resolver" in table.agreed:
        facts += [("Resolver", words.resolver(table)), ("Decoder", words.decoder(table))]
    floor = next((r.values for r in table.rows if "floor_items" in r.values), None)
    if floor:
        items, surplus = (METRICS[n].show(floor[n].mean) for n in ("floor_items", "floor_distinct"))
        said = f"{items} of the items share their embedding with another, {surplus} are surplus"
        facts.append(("Duplicate floor", f"{said}; what collides beyond that is the tokenizer's doing"))
    facts += [("Seeds", ", ".join(map(str, table.seeds)) or "none ran"), ("Hardware", words.hardware(table))]
    facts += [("Versions", words.versions(table))]
    facts += [("Made by", words.code(command)) for command in words.commands(table)]
    return [f"- **{name}**: {said}" for name, said in facts]


def _grid(table: Table, rows: Iterable[Row], columns: list[Metric], *, by_level: bool) -> list[str]:
    rows = list(rows)
    repeated = any(len(r.seeds) + len(r.failures) > 1 for r in rows)
    levels = [n for n in ("utilization", "perplexity") if by_level and any(n in r.levels for r in rows)]
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
        for c in columns:
            text = table.cell(row, c)
            cells.append(f"**{text}**" if row.name in table.best(c) else text)
        cells += [" · ".join(map(METRICS[n].show, row.levels.get(n, []))) or ABSENT for n in levels]
        grid.append(cells)
    return [f"| {' | '.join(cells)} |" for cells in grid]


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


def _cutoffs(table: Table, shown: dict[str, Metric]) -> list[str]:
    """Every ranking number, a table a cut-off."""
    rows = [r for r in table.rows if r.seeds]
    lines = []
    for k in table.cutoffs:
        columns = table.columns([f"{family}@{k}" for family in CUTOFF])
        shown.update({c.name: c for c in columns})
        lines += [f"### Cut-off {k}", "", *_grid(table, rows, columns, by_level=False), ""]
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
