"""A board of the page: one table with its tabs, its charts, what its rows share, and its rows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sidbench.metrics import ABSENT, METRICS, Metric, metric
from sidbench.report import words
from sidbench.report.charts.scale import key
from sidbench.report.drawing import Figure
from sidbench.report.page_parts import head, heads, line, marked, number, panel, section_id, short
from sidbench.report.page_row import detail
from sidbench.report.table import Part, Table

#: Rows that a sentence names before it counts the rest.
NAMED = 6


def section(
    table: Table, title: str, figures: Sequence[Figure], shown: dict[str, Metric], *, pictures: bool
) -> str:
    """All of it; `shown` takes the numbers that it shows, for the legend."""
    own = section_id(table)
    panels = []
    for i, part in enumerate([*table.parts, *table.by_cutoff]):
        shown.update({c.name: c for c in part.columns})
        shown.update({name: METRICS[name] for name in part.levels})
        panels.append(panel(f"{own}-{i}", part.name, title, *_grid(table, part)))
    if table.by_popularity:
        shown[table.by_popularity] = metric(table.by_popularity)
    notes = [f"<li>{escape(note)}</li>" for note in table.notes]
    notes += [
        f'<li class="failed">{escape(f"{r.name}, seed {f.seed}, {f.reason}")}</li>'
        for r in table.rows
        for f in r.failures
    ]
    drawn = [
        f'<figure data-of="{f.stamp}"><h3>{escape(f.title)}</h3>'
        f"{f'{f.svg}<!-- {short(f.svg)} -->' if pictures else ''}"
        f"<figcaption>{escape(f.caption)}</figcaption></figure>\n"
        for f in figures
    ]
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{marked(said)}</dd>" for name, said in words.facts(table))
    alike = "".join(f"<p><small>{escape(a)} {words.COMPARISON}.</small></p>" for a in words.alike(table))
    return "".join(
        [
            f'<section class="board" id="{own}" aria-labelledby="{own}-title">\n',
            f'<h2 id="{own}-title">{escape(title)}</h2>\n<p class="lead">{_lead(table)}</p>\n',
            f'<ul class="notes">{"".join(notes)}</ul>\n' if notes else "",
            *panels,
            alike,
            f'<div class="figures">\n{"".join(drawn)}</div>\n' if drawn else "",
            "<details><summary>What these rows share: data, protocol, decoder, machine, versions</summary>",
            f'<dl class="facts">{facts}</dl></details>\n',
            "<details><summary>Every row: numbers, parameters, runs, beside each other row</summary>\n",
            *[detail(table, row) for row in table.rows],
            "</details>\n</section>\n",
        ]
    )


def _lead(table: Table) -> str:
    """Who stands first, and from whom it cannot be told apart."""
    first, headline = table.rows[0], table.headline
    if headline is None or headline not in first.values:
        return "No row has results."
    column = metric(headline)
    seeds = f", {words.count(len(first.seeds), 'seed')}" if len(first.seeds) > 1 else ", one seed"
    said = (
        f"<b>{escape(first.name)}</b> stands first: {escape(column.label)} "
        f"<b>{escape(table.cell(first, column))}</b>{seeds}."
    )
    pairs = [d for d in table.differences if d.a == first.name]
    near = [d.b for d in pairs if not d.real]
    if near:
        rest = ", ".join(near[:NAMED]) + (f" and {len(near) - NAMED} more" if len(near) > NAMED else "")
        return f"{said} Not told apart from it, at 5%: {escape(rest)}."
    return f"{said} Every other row is behind by more than chance." if pairs else said


def _grid(table: Table, part: Part) -> tuple[list[str], list[str]]:
    """The headings of a part, and its rows."""
    rows, columns = part.rows, part.columns
    repeated = any(len(r.seeds) + len(r.failures) > 1 for r in rows)
    headline = table.headline if table.headline in [c.name for c in columns] else None
    letters = table.letters if headline else {}
    top = (
        max((r.values[headline].mean for r in rows if headline in r.values), default=0.0) if headline else 0.0
    )
    named = [head("Method", text=True)]
    if letters:
        named.append(head("Alike", text=True, title="Rows that share a letter cannot be told apart."))
    named += [head("Seeds", first="descending")] if repeated else []
    named += heads(columns)
    named += [
        f'<th scope="col" title="{escape(METRICS[n].legend)}">{escape(METRICS[n].label)} by level</th>'
        for n in part.levels
    ]
    best = {c.name: table.best(c) for c in columns}
    # The room that a spread takes is kept where there is none, so that means stand below each other.
    gaps = [max((table.cell(r, c).partition(" ± ")[2] for r in rows), key=len, default="") for c in columns]
    body = []
    for row in rows:
        same = letters.get(row.name)
        cells = [f'<td class="left" data-v="{same}">{same}</td>'] if letters else []
        cells += [f'<td data-v="{len(row.seeds)}">{len(row.seeds)}</td>'] if repeated else []
        for c, gap in zip(columns, gaps, strict=True):
            found = row.values.get(c.name)
            classes = ["best"] if row.name in best[c.name] else []
            style = ""
            if c.name == headline and found and top > 0:
                classes.append("bar")
                style = f' style="--v:{100 * max(found.mean, 0.0) / top:.1f}%"'
            sort = f' data-v="{found.mean!r}"' if found else ""
            looks = f' class="{" ".join(classes)}"' if classes else ""
            cells.append(f"<td{looks}{sort}{style}>{number(table.cell(row, c), gap)}</td>")
        by_level = [" · ".join(map(METRICS[n].show, row.levels.get(n, []))) or ABSENT for n in part.levels]
        cells += [f'<td class="levels">{escape(said)}</td>' for said in by_level]
        body.append(line(key(table, row), row, row.name, cells))
    return named, body
