"""Rows: the runs of one method that differ in the seed, as one row of a board."""

from __future__ import annotations

import json
import math
import statistics
from typing import TYPE_CHECKING, Any

from sidbench.metrics import placing_metrics, size_metrics
from sidbench.report.table import Failure, Row, Value

if TYPE_CHECKING:
    from sidbench.record import RunRecord


def numbers(record: RunRecord) -> dict[str, float]:
    """Every finite number of a record: computed, measured, or told by its facts."""
    trained = record.key["decoder"] or record.key
    told = size_metrics(record.facts, trained["params"]) | placing_metrics(record.facts)
    found = told | record.measured | record.metrics
    return {n: float(v) for n, v in found.items() if isinstance(v, (int, float)) and math.isfinite(v)}


def value(record: RunRecord, name: str) -> float | None:
    """A finite number of a record."""
    return numbers(record).get(name)


def settings(values: Any) -> Any:
    """Parameters without the seed, which makes samples of a row, never another row. Sorted, as in a file."""
    if isinstance(values, dict):
        return {k: settings(values[k]) for k in sorted(values) if k != "seed"}
    return list(values) if isinstance(values, tuple) else values


def row_of(name: str, runs: list[RunRecord]) -> Row:
    """Runs of one method that differ in the seed as one row."""
    runs = sorted(runs, key=lambda r: r.key["seed"])
    ran = [r for r in runs if r.status == "ok"]
    seeds = tuple(r.key["seed"] for r in ran)
    found = [numbers(r) for r in ran]
    names = sorted({n for of_run in found for n in of_run})
    floor = any(r.facts.get("floor") for r in runs)
    return Row(
        name=name,
        kind="reference" if runs[0].key["kind"] == "reference" else "floor" if floor else "method",
        params=settings(runs[0].key["params"]),
        seeds=seeds,
        failures=tuple(Failure(r.key["seed"], _reason(r)) for r in runs if r.status != "ok"),
        facts=_facts(ran),
        values={n: v for n in names if (v := _mean([of_run.get(n) for of_run in found]))},
        levels={
            n: _levels([r.levels[n] for r in ran if n in r.levels])
            for n in sorted({n for r in ran for n in r.levels})
        },
        runs=tuple(runs),
    )


def _facts(runs: list[RunRecord]) -> dict[str, Any]:
    """Plain facts that all seeds share; what the board says elsewhere is left out."""
    shared = sorted(set.intersection(*(set(r.facts) for r in runs)) - {"floor", "beam"}) if runs else []
    first = {name: runs[0].facts[name] for name in shared}
    return {
        name: fact
        for name, fact in first.items()
        if isinstance(fact, (str, int, float)) and all(r.facts[name] == fact for r in runs)
    }


def _mean(values: list[float | None]) -> Value | None:
    known = [v for v in values if v is not None]
    if not known:
        return None
    return Value(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def _levels(vectors: list[list[float]]) -> list[float]:
    """Level by level, as far as every seed has a number: the depth that items share may differ."""
    return [statistics.fmean(level) for level in zip(*vectors, strict=False)]


def _reason(record: RunRecord) -> str:
    error = record.error or {}
    stage = f"in {error['stage']}: " if error.get("stage") else ""
    kind, message = error.get("type", "error"), " ".join(error.get("message", "").split())
    return stage + (message if message.startswith(kind) else f"{kind}: {message}")


def row_names(runs: list[RunRecord]) -> list[str]:
    """A row's label; rows of one label are told apart by the parameters in which they differ."""
    names = []
    for r in runs:
        alike = [settings(o.key["params"]) for o in runs if o.key["label"] == r.key["label"]]
        mine = settings(r.key["params"])
        differ = [k for k in mine if any(other.get(k) != mine[k] for other in alike)]
        told = ", ".join(f"{k}={json.dumps(mine[k])}" for k in differ)
        names.append(f"{r.key['label']} ({told})" if told else r.key["label"])
    return names
