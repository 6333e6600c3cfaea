"""Page: the boards as one HTML file that opens anywhere, asks nobody for anything, and holds every number."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from sidbench.metrics import ABSENT, METRICS, Metric, metric
from sidbench.report import words
from sidbench.report.board import Part, Row, Table, value
from sidbench.report.charts.scale import key, known
from sidbench.report.drawing import COLOURS, Figure, colours
from sidbench.report.page_overview import Section
from sidbench.report.page_overview import sections as overview

if TYPE_CHECKING:
    from sidbench.record import RunRecord

#: A table and its charts.
Board = tuple[Table, Sequence[Figure]]

_SOURCES = {
    "sids": "SIDs",
    "tokenizer": "Tokenizer",
    "data": "Data",
    "decoder": "Decoder",
    "clock": "Time and memory",
}
#: Rows that a sentence names before it counts the rest.
NAMED = 6
#: The picture of a chart, in a page.
_PICTURE = re.compile(r"<svg .*?</svg>", re.DOTALL)


def page(boards: Sequence[Board], *, pictures: bool = True) -> str:
    """The whole page. Without pictures it is quick to make: all but the drawings, to compare with."""
    body = _body(boards, pictures=pictures)
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The browser itself refuses every request, and every script but the one that belongs here.
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="generator" content="sidbench">\n<link rel="icon" href="data:,">\n'
        f"<title>Semantic-ID leaderboard</title>\n<style>{_style()}</style>\n</head>\n<body>\n{body}"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def check_page(text: str, boards: Sequence[Board]) -> list[str]:
    """What differs between a page and its records; a picture must be the one that was drawn of them."""
    drawn = _PICTURE.findall(text)
    # Every picture is followed by what it hashes to: one that was changed since tells on itself.
    said = re.findall(r"</svg><!-- ([0-9a-f]{12}) -->", text)
    bare = re.sub(r"<svg .*?</svg><!-- [0-9a-f]{12} -->", "", text, flags=re.DOTALL)
    expected = page(boards, pictures=False)
    if bare != expected:
        pairs = zip(bare.splitlines(), expected.splitlines(), strict=False)
        at = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), None)
        return [f"the page differs from its records{f', first in line {at}' if at else ' at its end'}"]
    figures = [f for _, figures in boards for f in figures]
    if len(drawn) != len(figures) or len(said) != len(figures):
        return [f"the page shows {len(drawn)} charts, its records feed {len(figures)}"]
    changed = [f.title for f, svg, own in zip(figures, drawn, said, strict=True) if _short(svg) != own]
    return [f"the chart {title!r} of the page was changed after it was drawn" for title in changed]


def _body(boards: Sequence[Board], *, pictures: bool) -> str:
    groups = [table for table, _ in boards]
    titles = words.titles(groups)
    shown: dict[str, Metric] = {}
    together = overview(groups, _head, shown)
    sections = [
        _section(table, title, figures, shown, pictures=pictures)
        for (table, figures), title in zip(boards, titles, strict=True)
    ]
    records = sorted({r.id for t in groups for r in t.records})
    data = sorted({t.agreed["dataset"]["name"] for t in groups})
    said = (
        f"{_count(len(records), 'run')} on {', '.join(data)}"
        f"{f', in {len(groups)} tables of runs that may be compared' if len(groups) > 1 else ''}. "
        "A hit is a hit on the item: rows stand in order of item-level recall, over the whole catalogue."
        if records
        else "No records yet: sidbench run makes some."
    )
    return "".join(
        [
            '<a class="skip" href="#boards">Skip to the boards</a>\n<header><div class="wide">',
            f"<div><h1>Semantic-ID leaderboard</h1><p>{escape(said)}</p></div>",
            '<button id="theme" class="plain" type="button" hidden>Theme</button></div></header>\n',
            _tools(groups),
            '<main id="boards" class="wide">\n',
            _contents(together, groups, titles) if len(groups) > 1 else "",
            *(s.html for s in together),
            *sections,
            _legend(shown),
            "</main>\n<footer><div class='wide'>",
            "<p>Made by sidbench, of records alone. This page holds all that it shows and loads nothing.</p>",
            "<details><summary>The records it was made of</summary>",
            f"<code>{' '.join(records)}</code></details>",
            "</div></footer>\n",
            '<dialog id="row" aria-labelledby="row-title"><div class="bar-top"><h2 id="row-title"></h2>'
            '<button class="plain" type="button">Close</button></div><div class="room"></div></dialog>\n',
        ]
    )


def _tools(groups: Sequence[Table]) -> str:
    met = {r.kind for t in groups for r in t.rows}
    kinds = {"method": "Tokenizers", "floor": "Floors", "reference": "References"}
    boxes = "".join(
        f'<label><input type="checkbox" value="{kind}" checked>{name}</label>'
        for kind, name in kinds.items()
        if kind in met
    )
    return (
        '<div class="tools" role="search"><div class="wide">'
        '<label><span class="hidden">Filter rows</span><input type="search" id="filter" '
        'placeholder="Filter: name, levels 3, lr …" autocomplete="off" spellcheck="false"></label>'
        f'<fieldset><legend class="hidden">Kinds of rows</legend>{boxes}</fieldset>'
        '<output id="count" for="filter"></output></div></div>\n'
    )


def _contents(together: Sequence[Section], groups: Sequence[Table], titles: Sequence[str]) -> str:
    """A line a section, with who stands first."""
    lines = [
        f'<li><a href="#{s.id}">{escape(s.title)}</a><span>{escape(s.first)}</span></li>' for s in together
    ]
    for table, title in zip(groups, titles, strict=True):
        first, head = table.rows[0], table.headline
        best = (
            f"{first.name} {table.cell(first, metric(head))}"
            if head and head in first.values
            else "no results"
        )
        lines.append(f'<li><a href="#{_id(table)}">{escape(title)}</a><span>{escape(best)}</span></li>')
    return f'<nav aria-label="Boards"><ol>{"".join(lines)}</ol></nav>\n'


def _section(
    table: Table, title: str, figures: Sequence[Figure], shown: dict[str, Metric], *, pictures: bool
) -> str:
    own = _id(table)
    panels = []
    for i, part in enumerate([*table.parts, *table.by_cutoff]):
        label = escape(f"{part.name}: {title}")
        shown.update({c.name: c for c in part.columns})
        shown.update({name: METRICS[name] for name in part.levels})
        panels.append(
            f'<div class="panel" id="{own}-{i}"><h3>{escape(part.name)}</h3>'
            f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
            f"{_grid(table, part)}</div>"
            '<p class="none" hidden>No row is left: the filter above hides them all.</p></div>\n'
        )
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
        f"{f'{f.svg}<!-- {_short(f.svg)} -->' if pictures else ''}"
        f"<figcaption>{escape(f.caption)}</figcaption></figure>\n"
        for f in figures
    ]
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{_marked(said)}</dd>" for name, said in words.facts(table))
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
            *[_detail(table, row) for row in table.rows],
            "</details>\n</section>\n",
        ]
    )


def _lead(table: Table) -> str:
    """Who stands first, and from whom it cannot be told apart."""
    first, head = table.rows[0], table.headline
    if head is None or head not in first.values:
        return "No row has results."
    column = metric(head)
    seeds = f", {_count(len(first.seeds), 'seed')}" if len(first.seeds) > 1 else ", one seed"
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


def _grid(table: Table, part: Part) -> str:
    rows, columns = part.rows, part.columns
    repeated = any(len(r.seeds) + len(r.failures) > 1 for r in rows)
    headline = table.headline if table.headline in [c.name for c in columns] else None
    letters = table.letters if headline else {}
    top = (
        max((r.values[headline].mean for r in rows if headline in r.values), default=0.0) if headline else 0.0
    )
    head = [_head("Method", text=True)]
    head += (
        [_head("Alike", text=True, title="Rows that share a letter cannot be told apart.")] if letters else []
    )
    head += [_head("Seeds", first="descending")] if repeated else []
    head += [
        _head(
            c.label,
            unit=c.unit,
            title=c.legend,
            first="ascending" if c.direction == "lower" else "descending",
        )
        for c in columns
    ]
    head += [
        f'<th scope="col" title="{escape(METRICS[n].legend)}">{escape(METRICS[n].label)} by level</th>'
        for n in part.levels
    ]
    best = {c.name: table.best(c) for c in columns}
    # The room that a spread takes is kept where there is none, so that means stand below each other.
    gaps = [max((table.cell(r, c).partition(" ± ")[2] for r in rows), key=len, default="") for c in columns]
    body = []
    for row in rows:
        own = key(table, row)
        find = f"{row.name} {row.kind} {words.parameters(row.params)}".lower()
        cells = [
            f'<th scope="row" data-v="{escape(row.name)}">'
            f'<a class="open" href="#{own}">{escape(row.name)}</a>{_badges(row)}</th>'
        ]
        cells += (
            [f'<td class="left" data-v="{letters[row.name]}">{letters[row.name]}</td>'] if letters else []
        )
        cells += [f'<td data-v="{len(row.seeds)}">{len(row.seeds)}</td>'] if repeated else []
        for c, gap in zip(columns, gaps, strict=True):
            found = row.values.get(c.name)
            names = ["best"] if row.name in best[c.name] else []
            style = ""
            if c.name == headline and found and top > 0:
                names.append("bar")
                style = f' style="--v:{100 * max(found.mean, 0.0) / top:.1f}%"'
            sort = f' data-v="{found.mean!r}"' if found else ""
            marked = f' class="{" ".join(names)}"' if names else ""
            cells.append(f"<td{marked}{sort}{style}>{_number(table.cell(row, c), gap)}</td>")
        cells += [
            f"<td>{escape(' · '.join(map(METRICS[n].show, row.levels.get(n, []))) or ABSENT)}</td>"
            for n in part.levels
        ]
        aside = ' class="aside"' if row.kind != "method" else ""
        known = f'data-row="{own}" data-kind="{row.kind}" data-find="{escape(find)}"'
        body.append(f"<tr{aside} {known}>{''.join(cells)}</tr>\n")
    named = f"<thead><tr>{''.join(head)}</tr></thead>\n"
    return f'<table class="boardtable">{named}<tbody>{"".join(body)}</tbody></table>'


def _head(
    label: str, *, unit: str = "", title: str = "", first: str = "ascending", text: bool = False
) -> str:
    attributes = f' data-first="{first}"{" data-text" if text else ""}'
    attributes += f' title="{escape(title)}"' if title else ""
    shown = f"{escape(label)}{f' <small>{escape(unit)}</small>' if unit else ''}"
    return f'<th scope="col" aria-sort="none"{attributes}><button type="button">{shown}</button></th>'


def _badges(row: Row) -> str:
    kind = f'<span class="badge">{row.kind}</span>' if row.kind != "method" else ""
    return kind + ("" if row.seeds else '<span class="badge failed">failed</span>')


def _number(text: str, gap: str = "") -> str:
    """A value, its spread smaller; where it has none, as much room as others' take."""
    mean, sign, spread = text.partition(" ± ")
    if sign:
        return f"{escape(mean)}<small>{sign}{escape(spread)}</small>"
    return f'{escape(mean)}<small data-gap=" ± {escape(gap)}"></small>' if gap else escape(mean)


def _detail(table: Table, row: Row) -> str:
    """All that is known of a row."""
    own = key(table, row)
    alone = Table(table.agreed, row.runs, (row,))
    named = {n: metric(n) for n in row.values if known(n)}
    numbers = _ranking(table, row, [c for c in named.values() if c.source == "ranking"])
    for source, title in _SOURCES.items():
        found = sorted((c for c in named.values() if c.source == source), key=_place)
        pairs = "".join(
            f'<div><dt title="{escape(c.legend)}">{escape(_titled(c))}</dt>'
            f"<dd>{_number(table.cell(row, c))}</dd></div>"
            for c in found
        )
        numbers += f'<h4>{title}</h4><dl class="pairs">{pairs}</dl>' if pairs else ""
    numbers += _lists(row)
    name = escape(row.name)
    typed = "".join(f'<p class="all"><code>{escape(command)}</code></p>' for command in words.commands(alone))
    return (
        f'<details class="one"><summary>{name}</summary>'
        f'<div class="detail" id="{own}" data-name="{name}">{_lineage(row)}'
        f"<h4>Parameters</h4>{_pairs(row.params)}"
        f"{f'<h4>Ran with</h4>{_pairs(row.facts)}' if row.facts else ''}"
        f"{_comparisons(table, row)}<h4>Runs</h4>{_runs(table, row)}"
        f"<h4>Machine</h4><p>{escape(words.hardware(alone))}</p>"
        f"<h4>Versions</h4><p>{escape(words.versions(alone))}</p>"
        f"<h4>Command</h4>{typed or ABSENT}{numbers}"
        "</div></details>\n"
    )


def _lineage(row: Row) -> str:
    kinds = {
        "method": "",
        "floor": "A floor: it ignores what it encodes, and stands here to be beaten.",
        "reference": "A reference: it needs no SIDs, and stands here to be beaten.",
    }
    said = [kinds[row.kind], *(f"Seed {f.seed} failed {f.reason}" for f in row.failures)]
    return "".join(f"<p><small>{escape(s)}</small></p>" for s in said if s)


def _comparisons(table: Table, row: Row) -> str:
    """This row beside each other one, by the headline."""
    found = [(d, d.b, 1.0) for d in table.differences if d.a == row.name]
    found += [(d, d.a, -1.0) for d in table.differences if d.b == row.name]
    if not found or not table.headline:
        return ""
    column = metric(table.headline)
    grid = [["Beside", "More by", "95% interval", "p, corrected", "More than chance"]]
    for d, other, sign in found:
        low, high = sorted((sign * d.low, sign * d.high))
        span = f"{column.show(low)} to {column.show(high)}"
        grid.append([other, column.show(sign * d.mean), span, f"{d.p:.4f}", "yes" if d.real else "no"])
    return f"<h4>{escape(column.label)} beside the other rows</h4>{_plain_table(grid)}"


def _ranking(table: Table, row: Row, columns: Sequence[Metric]) -> str:
    """Every ranking number: a line a family, a column a cut-off."""
    if not columns:
        return ""
    families = list(dict.fromkeys(c.name.partition("@")[0] for c in sorted(columns, key=_place)))
    grid = [["At cut-off", *map(str, table.cutoffs)]]
    for family in families:
        cells = [metric(f"{family}@{k}") for k in table.cutoffs]
        grid.append([METRICS[f"{family}@K"].label, *(table.cell(row, c) for c in cells)])
    return f"<h4>Recommendations</h4>{_plain_table(grid)}"


def _lists(row: Row) -> str:
    """Numbers that a row has a level each, or a tenth of the items each: a table a length."""
    out = ""
    for n in sorted({len(v) for v in row.levels.values()}):
        found = {name: v for name, v in row.levels.items() if len(v) == n and known(name)}
        parts = any(metric(name).source == "ranking" for name in found)
        grid = [["By part" if parts else "By level", *map(str, range(1, n + 1))]]
        grid += [[_titled(metric(name)), *map(metric(name).show, v)] for name, v in found.items()]
        out += f"<h4>{'Parts' if parts else 'Levels'}</h4>{_plain_table(grid)}" if found else ""
    return out


def _runs(table: Table, row: Row) -> str:
    columns = [c for c in (table.headline, "fit_seconds", "decoder_seconds") if c and c in row.values]
    grid = [["Seed", "Record", "Status", *(_titled(metric(c)) for c in columns), "Finished"]]
    for run in row.runs:
        numbers = [metric(c).show(value(run, c)) for c in columns]
        status = run.status if run.status == "ok" else f"failed in {_stage(run)}"
        finished = str(run.measured.get("finished", ABSENT))[:19].replace("T", " ")
        grid.append([str(run.key["seed"]), run.id, status, *numbers, finished])
    return _plain_table(grid)


def _stage(run: RunRecord) -> str:
    return (run.error or {}).get("stage") or "its run"


def _titled(column: Metric) -> str:
    return f"{column.label} ({column.unit})" if column.unit else column.label


def _plain_table(grid: Sequence[Sequence[str]]) -> str:
    head, *rows = grid
    first = "".join(f'<th scope="col">{escape(c)}</th>' for c in head)
    body = "".join(
        f'<tr><th scope="row">{escape(r[0])}</th>{"".join(f"<td>{escape(c)}</td>" for c in r[1:])}</tr>'
        for r in rows
    )
    return f'<div class="scroll"><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


def _pairs(values: dict[str, Any]) -> str:
    """Parameters, nested ones with a dot."""
    flat: dict[str, Any] = {}
    for name, v in values.items():
        flat.update({f"{name}.{k}": w for k, w in v.items()} if isinstance(v, dict) else {name: v})
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(words.plain(v))}</dd></div>" for name, v in flat.items()
    )
    return f'<dl class="pairs">{cells}</dl>' if cells else "<p>none</p>"


def _legend(shown: dict[str, Metric]) -> str:
    """One entry a metric or family that some table shows, in the order of declaration."""
    names = {name.partition("@")[0] for name in shown}
    entries = "".join(
        f"<dt>{escape(m.label)}{'@K' if m.family else ''}{f' ({escape(m.unit)})' if m.unit else ''}</dt>"
        f"<dd>{_marked(m.legend)}</dd>"
        for name, m in METRICS.items()
        if name.partition("@")[0] in names
    )
    if not entries:
        return ""
    return (
        '<section class="board" aria-labelledby="legend">'
        '<h2 id="legend">What the columns say, and do not</h2>'
        f'<dl class="legend">{entries}</dl></section>\n'
    )


def _place(column: Metric) -> tuple[int, int]:
    family, _, cutoff = column.name.partition("@")
    names = [name.partition("@")[0] for name in METRICS]
    return int(cutoff or 0), names.index(family)


def _marked(text: str) -> str:
    """Plain text in which `` `x` `` is code, as words.py and legends write it."""
    parts = escape(text).split("`")
    if len(parts) % 2 == 0:  # a backtick that belongs to nobody
        return escape(text)
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))


def _id(table: Table) -> str:
    return f"board-{key(table, table.rows[0])[4:]}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _short(svg: str) -> str:
    return hashlib.sha256(svg.encode()).hexdigest()[:12]


@cache
def _asset(name: str) -> str:
    return resources.files("sidbench.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _style() -> str:
    light = "".join(f"--{c[1:]}:{c};" for c in COLOURS)
    dark = "".join(f"--{c[1:]}:{d};" for c, d in COLOURS.items())
    charts = colours("figure ", lambda c: f"var(--{c[1:]})")
    return (
        f":root{{{light}}}@media(prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
        f":root[data-theme=dark]{{{dark}}}@media print{{:root:root:root{{{light}}}}}\n"
        f"{charts}\n{_asset('page.css')}"
    )
