"""What the page is put together of: heads that sort, rows, panels, values, small tables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from html import escape

from sidbench.metrics import METRICS, Metric
from sidbench.report import words
from sidbench.report.charts.scale import key
from sidbench.report.table import Row, Table


def head(label: str, *, unit: str = "", title: str = "", first: str = "ascending", text: bool = False) -> str:
    """A heading that sorts its column, the end named `first` first."""
    attributes = f' data-first="{first}"{" data-text" if text else ""}'
    attributes += f' title="{escape(title)}"' if title else ""
    shown = f"{escape(label)}{f' <small>{escape(unit)}</small>' if unit else ''}"
    return f'<th scope="col" aria-sort="none"{attributes}><button type="button">{shown}</button></th>'


def heads(columns: Sequence[Metric]) -> list[str]:
    """Those of some numbers, the better end first."""
    return [
        head(
            c.label,
            unit=c.unit,
            title=c.legend,
            first="ascending" if c.direction == "lower" else "descending",
        )
        for c in columns
    ]


def line(own: str, row: Row, name: str, cells: Sequence[str]) -> str:
    """A row of a table by its name; `own` names what it opens, where there is something."""
    badges = f'<span class="badge">{row.kind}</span>' if row.kind != "method" else ""
    badges += "" if row.seeds else '<span class="badge failed">failed</span>'
    find = escape(f"{row.name} {row.kind} {words.parameters(row.params)}".lower())
    aside = ' class="aside"' if row.kind != "method" else ""
    shown = f'<a class="open" href="#{own}">{escape(name)}</a>' if own else escape(name)
    return (
        f'<tr{aside} data-row="{own}" data-kind="{row.kind}" data-find="{find}">'
        f'<th scope="row" data-v="{escape(name)}">{shown}{badges}</th>{"".join(cells)}</tr>\n'
    )


def panel(own: str, name: str, title: str, heads: Sequence[str], lines: Sequence[str]) -> str:
    """A table under a tab of its own."""
    return (
        f'<div class="panel" id="{own}"><h3>{escape(name)}</h3>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(f"{name}: {title}")}">'
        f'<table class="boardtable"><thead><tr>{"".join(heads)}</tr></thead>\n'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        '<p class="none" hidden>No row is left: the filter above hides them all.</p></div>\n'
    )


def number(text: str, gap: str = "") -> str:
    """A value, its spread smaller; where it has none or a shorter one, as much room as others' take."""
    mean, sign, spread = text.partition(" ± ")
    shown = f"{escape(mean)}<small>{sign}{escape(spread)}</small>" if sign else escape(mean)
    left = gap[len(spread) :] if sign else f" ± {gap}" if gap else ""
    return f'{shown}<small data-gap="{escape(left)}"></small>' if left else shown


def titled(column: Metric) -> str:
    """The name of a number, with its unit."""
    return f"{column.label} ({column.unit})" if column.unit else column.label


def plain_table(grid: Sequence[Sequence[str]]) -> str:
    """A table that only stands there: headings, then rows, each after its name."""
    named, *rows = grid
    first = "".join(f'<th scope="col">{escape(c)}</th>' for c in named)
    body = "".join(
        f'<tr><th scope="row">{escape(r[0])}</th>{"".join(f"<td>{escape(c)}</td>" for c in r[1:])}</tr>'
        for r in rows
    )
    return f'<div class="scroll"><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


def marked(text: str) -> str:
    """Plain text in which `` `x` `` is code, as words.py and legends write it."""
    parts = escape(text).split("`")
    if len(parts) % 2 == 0:  # a backtick that belongs to nobody
        return escape(text)
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))


def place(column: Metric) -> tuple[int, int]:
    """Where a number stands among others: by cut-off, then in the order of declaration."""
    family, _, cutoff = column.name.partition("@")
    names = [name.partition("@")[0] for name in METRICS]
    return int(cutoff or 0), names.index(family)


def section_id(table: Table) -> str:
    """Where a table lies on the page."""
    return f"board-{key(table, table.rows[0])[4:]}"


def short(svg: str) -> str:
    """What a picture hashes to."""
    return hashlib.sha256(svg.encode()).hexdigest()[:12]
