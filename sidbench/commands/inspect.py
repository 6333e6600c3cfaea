"""sidbench inspect: what SIDs look like without any decoder; a run's, an artifact's or another system's."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sidbench.commands.measure import SECTIONS, measure
from sidbench.commands.subject import Loader, Subject, find_subject, numbers, with_attribute
from sidbench.errors import unknown
from sidbench.format import How
from sidbench.metrics import ABSENT, METRICS, Found, Metric
from sidbench.protocol import PROTOCOLS

ARROWS = {"higher": "↑", "lower": "↓", "none": " "}


def inspect(
    what: str,
    root: Path,
    *,
    dataset: str | None,
    protocol: str,
    sizes: str | None,
    attribute: str | None,
    churn: bool,
    legends: bool,
    device: str,
    as_json: bool,
    how: How | None = None,
) -> int:
    """Every number of one set of SIDs that needs no decoder, with what it does not show."""
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    loader = Loader(dataset, protocol, device)
    subject = find_subject(what, root, loader, numbers(sizes), how or How())
    if attribute is not None:
        subject = with_attribute(subject, attribute)
    found = measure(subject, churn=(lambda said: _tell(f"churn: {said}")) if churn else None)
    if as_json:
        _print_json(subject, found)
    else:
        width = max(60, min(shutil.get_terminal_size((80, 24)).columns, 120))
        _print(Console(highlight=False, width=width), subject, found, legends)
    return 0


def _print_json(subject: Subject, found: Found) -> None:
    text = {
        "what": subject.title,
        "dataset": None if subject.corpus is None else subject.corpus.name,
        "items": len(subject.sids),
        "sizes": list(subject.sizes),
        "sid_sizes": list(subject.sids.sizes),
        "resolver": subject.sids.resolver,
        "notes": list(subject.notes),
        "metrics": found.values,
        "levels": found.levels,
        "missing": found.missing,
    }
    sys.stdout.write(json.dumps(text, indent=2) + "\n")


def _print(console: Console, subject: Subject, found: Found, legends: bool) -> None:
    shape = " × ".join(map(str, subject.sizes))
    added = " × ".join(map(str, subject.sids.sizes[subject.own :]))
    data = "" if subject.corpus is None else f" of {subject.corpus.name}"
    console.print(f"[bold]{escape(subject.title)}[/bold]")
    resolver = f"; resolver {subject.sids.resolver}{f' adds {added}' if added else ''}"
    console.print(
        f"{len(subject.sids):,} items{escape(data)}, levels {shape}"
        f"{escape(resolver) if subject.sids.resolver else ''}"
    )
    for note in subject.notes:
        console.print(escape(note), style="yellow")
    shown: list[Metric] = []
    for title, names in SECTIONS.items():
        there = [METRICS[n] for n in names if n in found.values or n in found.levels]
        shown += there
        if there:
            console.print()
            console.print(_section(title, there, found, console.width))
    _print_missing(console, found)
    if legends:
        console.print("\n[bold]What these numbers say, and what they do not[/bold]")
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, style="dim")
        for m in shown:
            table.add_row(m.label, escape(subject.legend(m)))
        console.print(table)
    else:
        console.print("\n--legends explains each number: what it says, and what it does not.", style="dim")


def _section(title: str, there: list[Metric], found: Found, width: int) -> Table:
    """A row a metric: all of it, then level by level; in columns where they fit, else in one line."""
    cells = {m.name: [m.show(v) for v in found.levels.get(m.name, [])] for m in there}
    levels = max(map(len, cells.values()))
    label = max(len(m.label) for m in METRICS.values() if any(m.name in s for s in SECTIONS.values()))
    widest = max((len(c) for row in cells.values() for c in row), default=0)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column(title, min_width=label + 2, no_wrap=True, header_style="bold")
    table.add_column("all", justify="right", min_width=8, no_wrap=True)
    columns = label + 14 + levels * (max(widest, 6) + 2) <= width
    if columns:
        for level in range(1, levels + 1):
            table.add_column(f"{level}", justify="right", min_width=max(widest, 6), style="cyan")
    elif levels:
        table.add_column("by level", style="cyan")
    for m in there:
        row = cells[m.name]
        if columns:
            row = row + [""] * (levels - len(row))
        elif levels:
            row = ["  ".join(row)]
        value = m.show(found.values[m.name]) if m.name in found.values else ABSENT
        table.add_row(f"{m.label} {ARROWS[m.direction]}", value, *row)
    return table


def _print_missing(console: Console, found: Found) -> None:
    """What could not be said, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in found.missing.items():
        reasons.setdefault(why, []).append(METRICS[name].label)
    if not reasons:
        return
    console.print("\n[bold]Not computed[/bold]")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="yellow", ratio=2)
    table.add_column(ratio=3)
    for why, labels in reasons.items():
        table.add_row(escape(why), escape(" · ".join(labels)))
    console.print(table)


def _tell(said: str) -> None:
    sys.stderr.write(said + "\n")
