"""Board: records to tables. What may share a table, what is one row, what differs by more than chance."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sidbench.errors import DataError
from sidbench.report.rows import row_names, row_of, settings
from sidbench.report.table import Flip, Row, Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sidbench.record import RunRecord
    from sidbench.report.differences import Difference

#: Reads what lies beside a record: the place of every user's target.
Vectors = Callable[["RunRecord"], Mapping[str, "NDArray[Any]"]]


def tables(records: Iterable[RunRecord], vectors: Vectors | None = None) -> list[Table]:
    """Every comparable group of records as a table, in a fixed order; with `vectors`, rows are compared."""
    records = sorted(records, key=lambda r: r.id)
    for a, b in itertools.pairwise(records):
        if a.id == b.id:
            raise DataError(f"record {a.id} was given twice; a board takes each run once")
    agreements = {r.id: agreement(r) for r in records}
    # The most specific come first: what says less (a reference: no resolver) joins every table it fits.
    distinct = sorted(
        {json.dumps(a, sort_keys=True): a for a in agreements.values()}.items(),
        key=lambda i: (-len(i[1]), i[0]),
    )
    groups: list[dict[str, str]] = []
    for _, agreed in distinct:
        if not any(agreed.items() <= group.items() for group in groups):
            groups.append(agreed)
    groups.sort(key=lambda g: json.dumps(g, sort_keys=True))
    return [_table(g, [r for r in records if agreements[r.id].items() <= g.items()], vectors) for g in groups]


def siblings(table: Table, tables: Sequence[Table]) -> list[Table]:
    """The tables that agree with one in all but the shape of the SIDs, that one among them."""
    own = {part: v for part, v in table.agreed.items() if part != "shape"}
    shaped = [t for t in tables if "shape" in t.agreed]
    return [t for t in shaped if {p: v for p, v in t.agreed.items() if p != "shape"} == own]


def agreement(record: RunRecord) -> dict[str, str]:
    """What a record demands of its table, each part as canonical JSON."""
    key = record.key
    parts: dict[str, Any] = {
        "dataset": {k: key["dataset"][k] for k in ("name", "fingerprint")},
        # How many are evaluated follows from the data and the protocol; older records do not say it.
        "protocol": {k: v for k, v in key["protocol"].items() if k != "evaluated"},
        "hardware": key["hardware"],
    }
    if key["kind"] != "reference":
        parts |= {"resolver": settings(key["resolver"]), "decoder": settings(key["decoder"])}
        if "sizes" in record.facts:  # a run that failed early may not know its shape
            parts["shape"] = list(record.facts["sizes"])
        if "beam" in record.facts:  # nor is it searched
            parts["beam"] = record.facts["beam"]
    return {part: json.dumps(v, sort_keys=True) for part, v in parts.items()}


def _table(group: dict[str, str], records: list[RunRecord], vectors: Vectors | None) -> Table:
    found: dict[str, dict[int, RunRecord]] = {}
    # A seed is one sample: of several runs of it, one that succeeded and says its beam stands.
    for r in sorted(records, key=lambda r: (r.status == "ok", "beam" in r.facts, r.id)):
        identity = [r.key[k] for k in ("kind", "method", "label")] + [settings(r.key["params"])]
        found.setdefault(json.dumps(identity, sort_keys=True), {})[r.key["seed"]] = r
    by_row = {identity: list(runs.values()) for identity, runs in found.items()}
    names = row_names([runs[0] for runs in by_row.values()])
    table = Table(
        {part: json.loads(text) for part, text in group.items()},
        tuple(records),
        tuple(row_of(name, runs) for name, runs in zip(names, by_row.values(), strict=True)),
    )
    headline = table.headline or ""

    def place(row: Row) -> tuple[bool, float, str]:
        mean = row.values[headline].mean if headline in row.values else -math.inf
        return (not row.seeds, -mean, row.name)

    rows = sorted(table.rows, key=place)
    runs_of = dict(zip(names, by_row.values(), strict=True))
    flips = _flips(rows, headline)
    compared: list[Difference] = []
    if vectors:
        compared, flips = _compared(table, [(r.name, runs_of[r.name]) for r in rows], vectors, flips)
    return Table(table.agreed, table.records, tuple(rows), tuple(compared), tuple(flips))


def _flips(rows: Sequence[Row], headline: str) -> list[Flip]:
    """Pairs whose means stand in one order by items and in the other by SIDs; rounding makes no order."""
    both = [r for r in rows if headline in r.values and f"sid_{headline}" in r.values]
    found = []
    for above, below in itertools.combinations(both, 2):
        items = above.values[headline].mean - below.values[headline].mean
        sids = above.values[f"sid_{headline}"].mean - below.values[f"sid_{headline}"].mean
        if items > 1e-9 and sids < -1e-9:
            found.append(Flip(above.name, below.name))
    return found


def _compared(
    table: Table, rows: list[tuple[str, list[RunRecord]]], vectors: Vectors, flips: list[Flip]
) -> tuple[list[Difference], list[Flip]]:
    """Every pair of rows, the better one first, by the chance of a hit at each target; and what flips.

    Of each flip of means, whether it is beyond noise at both levels.
    """
    from sidbench.metrics.ranks import item_recall, sid_recall
    from sidbench.report.differences import differences, pairs

    samples: dict[str, dict[int, Any]] = {}
    by_sids: dict[str, dict[int, Any]] = {}
    users: dict[bytes, Any] = {}
    for name, runs in rows:
        for run in runs:
            if run.status == "ok" and table.headline in run.metrics:
                try:
                    at = vectors(run)
                except DataError:  # gone or torn: the run is redone next time, until then nothing is compared
                    return [], flips
                users[at["user"].tobytes()] = at["user"]
                hit = item_recall(at["target_before"], at["target_size"], table.headline_cutoff)
                samples.setdefault(name, {})[run.key["seed"]] = hit
                if any(name in (f.above, f.below) for f in flips):
                    own = sid_recall(at["target_sid_rank"], table.headline_cutoff)
                    by_sids.setdefault(name, {})[run.key["seed"]] = own
    # Other users make other pairs: nothing could be said of them.
    if len(users) != 1 or len(samples) < 2:
        return [], flips
    (whose,) = users.values()
    found = differences(samples, users=whose)
    real = {(d.a, d.b) for d in found if d.real}
    clear = [(f.above, f.below) for f in flips if (f.above, f.below) in real]
    turned = {(d.a, d.b) for d in pairs(by_sids, clear, users=whose) if d.real}
    return found, [replace(f, beyond=(f.above, f.below) in turned) for f in flips]
