"""A row of the page: all that is known of it, for whoever opens it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from sidbench.metrics import ABSENT, METRICS, Metric, metric
from sidbench.report import words
from sidbench.report.charts.scale import key, known
from sidbench.report.page_parts import number, place, plain_table, titled
from sidbench.report.rows import value
from sidbench.report.table import Row, Table

if TYPE_CHECKING:
    from sidbench.record import RunRecord

_SOURCES = {
    "sids": "SIDs",
    "tokenizer": "Tokenizer",
    "data": "Data",
    "decoder": "Decoder",
    "clock": "Time and memory",
}


def detail(table: Table, row: Row) -> str:
    """All that is known of a row."""
    own = key(table, row)
    alone = Table(table.agreed, row.runs, (row,))
    named = {n: metric(n) for n in row.values if known(n)}
    numbers = _ranking(table, row, [c for c in named.values() if c.source == "ranking"])
    for source, title in _SOURCES.items():
        found = sorted((c for c in named.values() if c.source == source), key=place)
        pairs = "".join(
            f'<div><dt title="{escape(c.legend)}">{escape(titled(c))}</dt>'
            f"<dd>{number(table.cell(row, c))}</dd></div>"
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
    return f"<h4>{escape(column.label)} beside the other rows</h4>{plain_table(grid)}"


def _ranking(table: Table, row: Row, columns: Sequence[Metric]) -> str:
    """Every ranking number: a line a family, a column a cut-off."""
    if not columns:
        return ""
    families = list(dict.fromkeys(c.name.partition("@")[0] for c in sorted(columns, key=place)))
    grid = [["At cut-off", *map(str, table.cutoffs)]]
    for family in families:
        cells = [metric(f"{family}@{k}") for k in table.cutoffs]
        grid.append([METRICS[f"{family}@K"].label, *(table.cell(row, c) for c in cells)])
    return f"<h4>Recommendations</h4>{plain_table(grid)}"


def _lists(row: Row) -> str:
    """Numbers that a row has a level each, or a tenth of the items each: a table a length."""
    out = ""
    for n in sorted({len(v) for v in row.levels.values()}):
        found = {name: v for name, v in row.levels.items() if len(v) == n and known(name)}
        parts = any(metric(name).source == "ranking" for name in found)
        grid = [["By part" if parts else "By level", *map(str, range(1, n + 1))]]
        grid += [[titled(metric(name)), *map(metric(name).show, v)] for name, v in found.items()]
        out += f"<h4>{'Parts' if parts else 'Levels'}</h4>{plain_table(grid)}" if found else ""
    return out


def _runs(table: Table, row: Row) -> str:
    columns = [c for c in (table.headline, "fit_seconds", "decoder_seconds") if c and c in row.values]
    grid = [["Seed", "Record", "Status", *(titled(metric(c)) for c in columns), "Finished"]]
    for run in row.runs:
        numbers = [metric(c).show(value(run, c)) for c in columns]
        status = run.status if run.status == "ok" else f"failed in {_stage(run)}"
        finished = str(run.measured.get("finished", ABSENT))[:19].replace("T", " ")
        grid.append([str(run.key["seed"]), run.id, status, *numbers, finished])
    return plain_table(grid)


def _stage(run: RunRecord) -> str:
    return (run.error or {}).get("stage") or "its run"


def _pairs(values: dict[str, Any]) -> str:
    """Parameters, nested ones with a dot."""
    flat: dict[str, Any] = {}
    for name, v in values.items():
        flat.update({f"{name}.{k}": w for k, w in v.items()} if isinstance(v, dict) else {name: v})
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(words.plain(v))}</dd></div>" for name, v in flat.items()
    )
    return f'<dl class="pairs">{cells}</dl>' if cells else "<p>none</p>"
