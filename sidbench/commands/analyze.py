"""sidbench analyze proxies: which number that needs no decoder goes with recall, over all records."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sidbench.commands.measure import measure
from sidbench.commands.results import open_store, read_board, readable, write_files
from sidbench.commands.subject import Loader
from sidbench.errors import SidbenchError, unknown
from sidbench.metrics import METRICS
from sidbench.record import RunRecord, Store
from sidbench.report.drawing import check_file
from sidbench.report.proxies import Group, analyze, numbers, verdict
from sidbench.report.proxies_page import FOLDER, PAGE, file_name, interval, markdown, page, pictures, signed

#: What can be analyzed.
WHAT = ("proxies",)
#: A record that has this number has all that a run of today records.
NEWEST = "neighbour_agreement"


def proxies(
    what: str,
    roots: Sequence[Path],
    *,
    dataset: str | None,
    fill: bool,
    write: bool,
    check: bool,
    as_json: bool,
) -> int:
    """Correlate, print and write the page into the first folder; or compare the page that is there."""
    if what not in WHAT:
        raise unknown("analysis", what, WHAT)
    stores = [open_store(root) for root in roots]
    records: dict[str, tuple[RunRecord, Store]] = {}
    for store in stores:
        records |= {r.id: (r, store) for r in readable(store) if r.id not in records}
    reasons: dict[str, int] = {}
    whole = _filled(records, Loader(dataset), reasons) if fill else [r for r, _ in records.values()]
    groups = analyze(whole)
    if check:
        return _check(stores[0], groups, as_json)
    path = stores[0].root / PAGE if write else None
    if write:
        write_files(stores[0], page(groups), FOLDER, "or add --no-write")
    if as_json:
        text = {
            "page": None if path is None else str(path),
            "tables": [numbers(g) for g in groups],
            "not_filled": reasons,
        }
        sys.stdout.write(json.dumps(text, indent=2, allow_nan=False) + "\n")
        return 0
    width = max(60, min(shutil.get_terminal_size((80, 24)).columns, 120))
    console = Console(highlight=False, width=width)
    for group in groups:
        _print(console, group)
    if not groups:
        console.print("No records of tokenizers here: `sidbench run` makes some.")
    for why, count in reasons.items():
        console.print(f"{count} older records could not be completed: {why}", style="yellow", markup=False)
    if path is not None:
        console.print(Text(str(path), style="dim"), soft_wrap=True)
    return 0


def _filled(
    records: dict[str, tuple[RunRecord, Store]], loader: Loader, reasons: dict[str, int]
) -> list[RunRecord]:
    """Records with what older ones lack, taken from their artifacts; nothing is written to them."""
    out = []
    for record, store in records.values():
        if record.status != "ok" or record.key["kind"] != "tokenizer" or NEWEST in record.metrics:
            out.append(record)
            continue
        sys.stderr.write(f"{record.label} {record.id}: what its record lacks, from its artifact\n")
        try:
            subject = loader.of_run(record, store)
            near = None if subject.corpus is None else loader.neighbours(subject.corpus)
            found = measure(subject, near=near)
            said = next(iter(subject.notes), "") or _other(found.values, record)
        except SidbenchError as e:
            said = str(e)
        if said:
            reasons[said] = reasons.get(said, 0) + 1
            out.append(record)
        else:
            out.append(replace(record, metrics={**found.values, **record.metrics}))
    return out


def _other(values: dict[str, float], record: RunRecord) -> str:
    """Why an artifact does not speak for its run: its codes are not those that the tokenizer gave."""
    same = all(
        math.isclose(values[name], record.metrics[name], abs_tol=1e-9)
        for name in ("utilization", "perplexity", "collision_items")
        if name in record.metrics
    )
    return "" if same else "the artifact holds other codes than the tokenizer gave (its resolver moved some)"


def _check(store: Store, groups: Sequence[Group], as_json: bool) -> int:
    """What differs between the page and the records."""
    wrong = []
    text = read_board(store, PAGE)
    if text is None:
        wrong.append(f"{PAGE} is missing")
    elif text != markdown(groups):
        wrong.append(f"{PAGE} says otherwise than the records")
    for group in groups:
        for figure in pictures(group):
            name = file_name(group, figure)
            drawn = read_board(store, name)
            if said := "is missing" if drawn is None else check_file(drawn, figure):
                wrong.append(f"{name} {said}")
    if as_json:
        sys.stdout.write(json.dumps({"current": not wrong, "differences": wrong}, indent=2) + "\n")
    else:
        agrees = f"{store.root / PAGE} agrees with its records"
        sys.stdout.write("\n".join(wrong or [agrees]) + "\n")
    return 1 if wrong else 0


def _print(console: Console, group: Group) -> None:
    console.print(f"[bold]{escape(group.title)}[/bold]")
    for said in verdict(group):
        console.print(escape(said), style="yellow")
    if group.proxies:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("Number", no_wrap=True)
        for heading in ("rows", "ρ", "95% interval", "τ", "p", "Holm p"):
            table.add_column(heading, justify="right", no_wrap=True)
        for p in group.proxies:
            cells = [str(len(p.rows)), signed(p.rho), interval(p.low, p.high), signed(p.tau)]
            cells += [f"{p.p:.4f}", f"{p.corrected:.4f}"]
            table.add_row(METRICS[p.name].label, *cells, style="bold green" if p.real else "")
        console.print(table)
    console.print()
