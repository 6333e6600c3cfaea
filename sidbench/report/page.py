"""Page: the boards as one HTML file that opens anywhere, asks nobody for anything, and holds every number."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from sidbench.metrics import METRICS, Metric, metric
from sidbench.report import words
from sidbench.report.drawing import COLOURS, Figure, colours
from sidbench.report.page_board import section
from sidbench.report.page_overview import Section
from sidbench.report.page_overview import sections as overview
from sidbench.report.page_parts import marked, section_id, short
from sidbench.report.table import Table

if TYPE_CHECKING:
    pass

#: A table and its charts.
Board = tuple[Table, Sequence[Figure]]

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
    changed = [f.title for f, svg, own in zip(figures, drawn, said, strict=True) if short(svg) != own]
    return [f"the chart {title!r} of the page was changed after it was drawn" for title in changed]


def _body(boards: Sequence[Board], *, pictures: bool) -> str:
    groups = [table for table, _ in boards]
    titles = words.titles(groups)
    shown: dict[str, Metric] = {}
    together = overview(groups, shown)
    sections = [
        section(table, title, figures, shown, pictures=pictures)
        for (table, figures), title in zip(boards, titles, strict=True)
    ]
    records = sorted({r.id for t in groups for r in t.records})
    data = sorted({t.agreed["dataset"]["name"] for t in groups})
    said = (
        f"{words.count(len(records), 'run')} on {', '.join(data)}"
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
            legend(shown),
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
        lines.append(
            f'<li><a href="#{section_id(table)}">{escape(title)}</a><span>{escape(best)}</span></li>'
        )
    return f'<nav aria-label="Boards"><ol>{"".join(lines)}</ol></nav>\n'


def legend(shown: dict[str, Metric]) -> str:
    """One entry a metric or family that some table shows, in the order of declaration."""
    names = {name.partition("@")[0] for name in shown}
    entries = "".join(
        f"<dt>{escape(m.label)}{'@K' if m.family else ''}{f' ({escape(m.unit)})' if m.unit else ''}</dt>"
        f"<dd>{marked(m.legend)}</dd>"
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
