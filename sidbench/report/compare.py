"""Compare: what moved beyond noise between two sets of runs: two methods, machines or commits."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError, UsageError
from sidbench.metrics import METRICS, Metric
from sidbench.metrics.ranks import item_mrr, item_ndcg, item_recall
from sidbench.record import RunRecord
from sidbench.report.board import Vectors, agreement
from sidbench.report.columns import headline_cutoff
from sidbench.report.differences import ALPHA, holm, pairs
from sidbench.report.rows import row_of, settings
from sidbench.report.table import Row, Value

#: Numbers that have a sample for every test target.
_BY_TARGET = {"recall": item_recall, "ndcg": item_ndcg, "mrr": item_mrr}

Verdict = Literal["better", "worse", "same", "unknown"]


@dataclass(frozen=True)
class Side:
    """Some runs, and where their vectors are."""

    name: str
    records: tuple[RunRecord, ...]
    vectors: Vectors
    #: Whether they were named one by one: then any may be beside any.
    named: bool


@dataclass(frozen=True)
class Change:
    """One number of a pair of rows."""

    row: str
    metric: Metric
    a: Value
    b: Value
    #: Corrected for all numbers that were compared; none where the noise is unknown, as with one seed.
    p: float | None
    #: The middle 95% of the difference, where every target was at hand; with one seed of users alone.
    low: float | None = None
    high: float | None = None

    @property
    def delta(self) -> float:
        return self.b.mean - self.a.mean

    @property
    def verdict(self) -> Verdict:
        if self.p is None:
            alike = self.metric.show(self.a.mean) == self.metric.show(self.b.mean)
            return "same" if alike else "unknown"
        if self.p >= ALPHA:
            return "same"
        return "better" if self.metric.better(self.b.mean, self.a.mean) else "worse"

    @property
    def decides(self) -> bool:
        """Whether getting worse is a failure. Times hang on the hour: they are shown, and decide nothing."""
        return self.metric.source != "clock"


@dataclass(frozen=True)
class Comparison:
    changes: tuple[Change, ...]
    #: Rows that ran on the first side and failed on the second.
    broken: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    #: By row, what differs in what they were given.
    given: dict[str, list[str]] = field(default_factory=dict)
    #: Trained rows of one seed on a side: what another seed does is unknown, so nothing is decided.
    single: tuple[str, ...] = ()

    @property
    def worse(self) -> list[Change]:
        return [c for c in self.changes if c.decides and c.verdict == "worse"]

    @property
    def failed(self) -> bool:
        return bool(self.worse or self.broken)


def compare(a: Side, b: Side) -> Comparison:
    """Every row that both sides have, number by number; b is judged by a."""
    one, two = _rows(a), _rows(b)
    found = _paired(one, two, named=a.named and b.named)
    if not found:
        raise UsageError(
            f"{a.name} and {b.name} have no row in common: of {len(one)} and {len(two)} rows none agree in "
            "dataset, protocol, resolver and label. Name two runs to compare any two"
        )
    names = _names(found)
    rows = [(row_of(name, x), row_of(name, y)) for name, (x, y) in zip(names, found, strict=True)]
    # They are corrected for one another, so each must know how many there are.
    together = sum(len(_both(left, right)) for left, right in rows)
    changes: list[Change] = []
    broken, given, single = [], {}, []
    for name, (x, y), (left, right) in zip(names, found, rows, strict=True):
        given[name] = _differing(x[0], y[0]) or _other_seeds(x, y)
        if left.seeds and not right.seeds:
            broken.append(f"{name}: {right.failures[0].reason}")
        if not (left.seeds and right.seeds):
            continue
        known = all(len(row.seeds) > 1 or not _drawn(runs[0]) for row, runs in ((left, x), (right, y)))
        if not known:
            single.append(name)
        changes += _changes(name, left, right, a.vectors, b.vectors, known=known, together=together)
    return Comparison(
        tuple(_corrected(changes)),
        tuple(broken),
        tuple(_alone(one, [x for x, _ in found])),
        tuple(_alone(two, [y for _, y in found])),
        {n: said for n, said in given.items() if said},
        tuple(single),
    )


Runs = list[RunRecord]


def _rows(side: Side) -> list[Runs]:
    """Runs that differ in the seed alone, one of each seed: the newest that ran."""
    found: dict[str, dict[int, RunRecord]] = {}
    for r in sorted(
        side.records, key=lambda r: (r.status == "ok", str(r.measured.get("finished", "")), r.id)
    ):
        found.setdefault(_whole(r), {})[r.key["seed"]] = r
    return [list(runs.values()) for _, runs in sorted(found.items())]


def _whole(record: RunRecord) -> str:
    """All that was given but the seed."""
    identity = [record.key[k] for k in ("kind", "method", "label")]
    return json.dumps([identity, settings(record.key["params"]), _agreed(record)], sort_keys=True)


def _agreed(record: RunRecord) -> dict[str, str]:
    """What a record demands of what stands beside it; its own shape is its own."""
    return {part: v for part, v in agreement(record).items() if part not in ("shape", "beam")}


def _rough(record: RunRecord) -> tuple[Any, ...]:
    """What a person would call the same row, though its parameters, data or machine changed."""
    key = record.key
    resolver = (key["resolver"] or {}).get("name")
    return key["kind"], key["label"], key["dataset"]["name"], key["protocol"]["name"], resolver


def _paired(one: list[Runs], two: list[Runs], *, named: bool) -> list[tuple[Runs, Runs]]:
    """Rows that were given the same, then those alone with their name; named ones whatever they are."""
    if named and len(one) == len(two) == 1:
        return [(one[0], two[0])]
    if named:

        def near(x: Runs, y: Runs) -> bool:
            p, q = _agreed(x[0]).items(), _agreed(y[0]).items()
            return p <= q or q <= p

        return [(x, y) for x in one for y in two if near(x, y)]
    same = {_whole(y[0]): y for y in two}
    found = [(x, same[_whole(x[0])]) for x in one if _whole(x[0]) in same]
    met = {id(runs) for pair in found for runs in pair}
    left, right = ([runs for runs in rows if id(runs) not in met] for rows in (one, two))
    for x in left:
        alike = [y for y in right if _rough(y[0]) == _rough(x[0])]
        if len(alike) == 1 and sum(_rough(o[0]) == _rough(x[0]) for o in left) == 1:
            found.append((x, alike[0]))
    return found


def _alone(rows: list[Runs], met: list[Runs]) -> list[str]:
    known = {id(runs) for runs in met}
    return sorted({_long(runs[0]) for runs in rows if id(runs) not in known})


def _long(record: RunRecord) -> str:
    resolver = record.key["resolver"]
    name = f"{record.label} + {resolver['name']}" if resolver else record.label
    return f"{name} on {record.key['dataset']['name']}"


def _names(found: list[tuple[Runs, Runs]]) -> list[str]:
    """A label, with as much of the rest as tells the rows apart."""
    parts = []
    for x, y in found:
        p, q = x[0], y[0]
        label = p.label if p.label == q.label else f"{p.label} → {q.label}"
        resolvers = [(r.key["resolver"] or {}).get("name", "") for r in (p, q)]
        resolver = (
            resolvers[0] if resolvers[0] == resolvers[1] else " → ".join(r or "none" for r in resolvers)
        )
        parts.append([label, resolver, p.key["dataset"]["name"], p.key["protocol"]["name"]])
    shown = [0, *(i for i in (1, 2, 3) if len({part[i] for part in parts} - {""}) > 1)]
    names = [", ".join(part[i] for i in shown if part[i]) for part in parts]
    return [n if names.count(n) == 1 else f"{n} ({at})" for at, n in enumerate(names, 1)]


def _differing(a: RunRecord, b: RunRecord) -> list[str]:
    """What differs in what two rows were given: `decoder.width 64 → 96`."""
    out = (
        []
        if a.code == b.code or a.key["method"] != b.key["method"]
        else [f"code {a.code[:7]} → {b.code[:7]}"]
    )
    own = ("params",) if a.key["method"] == b.key["method"] else ()
    for part in ("dataset", "protocol", *own, "resolver", "decoder", "hardware"):
        if None in (a.key[part], b.key[part]):
            there = ["none" if r.key[part] is None else r.key[part]["name"] for r in (a, b)]
            out += [f"{part} {' → '.join(there)}"] if there[0] != there[1] else []
            continue
        p, q = _flat(part, settings(a.key[part])), _flat(part, settings(b.key[part]))
        out += [f"{k} {p.get(k, 'none')} → {q.get(k, 'none')}" for k in sorted(p | q) if p.get(k) != q.get(k)]
    return out


def _other_seeds(x: Runs, y: Runs) -> list[str]:
    """Rows that were given the same, but other seeds."""
    one, two = (", ".join(str(s) for s in sorted(r.key["seed"] for r in runs)) for runs in (x, y))
    return [f"the seed alone, {one} → {two}"] if one != two and _whole(x[0]) == _whole(y[0]) else []


def _drawn(record: RunRecord) -> bool:
    """Whether another seed would give another row: any but a reference without one."""
    return record.key["kind"] != "reference" or "seed" in record.key["params"]


def _flat(name: str, values: Any) -> dict[str, Any]:
    if isinstance(values, dict):
        return {k: v for n, inner in values.items() for k, v in _flat(f"{name}.{n}", inner).items()}
    return {name.replace(".params.", "."): values}


def _both(a: Row, b: Row) -> list[tuple[Metric, int | None]]:
    """The numbers of two rows that have a better end; with the cut-off, where they have one."""
    cutoffs = [headline_cutoff(row.values) for row in (a, b)]
    k = cutoffs[0] if cutoffs[0] == cutoffs[1] else None
    judged = [m for m in METRICS.values() if not m.secondary and m.direction != "none"]
    found = [(m.at(k), k) if m.family and k else (m, None) for m in judged]
    return [(m, at) for m, at in found if m.name in a.values and m.name in b.values]


def _changes(
    name: str, a: Row, b: Row, of_a: Vectors, of_b: Vectors, *, known: bool, together: int
) -> list[Change]:
    """p-values not yet corrected; none where what seeds do is not known."""
    out = []
    for found, k in _both(a, b):
        change = Change(name, found, a.values[found.name], b.values[found.name], None)
        of_target = _BY_TARGET.get(found.name.partition("@")[0])
        sampled = _bootstrapped(a, b, of_a, of_b, of_target, k, together) if of_target and k else None
        if sampled:
            out.append(replace(change, p=sampled[0] if known else None, low=sampled[1], high=sampled[2]))
        else:
            out.append(replace(change, p=_welch(change.a, len(a.seeds), change.b, len(b.seeds))))
    return out


def _bootstrapped(
    a: Row, b: Row, of_a: Vectors, of_b: Vectors, of_target: Any, k: int, together: int
) -> tuple[float, float, float] | None:
    """The chance of so large a difference, and its interval; nothing where the targets are not the same."""
    samples: dict[str, dict[int, NDArray[np.float64]]] = {}
    users: dict[bytes, NDArray[Any]] = {}
    for name, row, vectors in (("b", b, of_b), ("a", a, of_a)):
        for run in row.runs:
            if run.status == "ok":
                try:
                    at = vectors(run)
                    users[at["user"].tobytes()] = at["user"]
                    own = of_target(at["target_before"], at["target_size"], k)
                except (DataError, KeyError):
                    return None
                samples.setdefault(name, {})[run.key["seed"]] = own
    data = {r.key["dataset"]["fingerprint"] for row in (a, b) for r in row.runs}
    if len(users) != 1 or len(data) != 1:
        return None
    (d,) = pairs(samples, [("b", "a")], users=next(iter(users.values())), together=together)
    return d.p, d.low, d.high


def _welch(a: Value, n: int, b: Value, m: int) -> float | None:
    """Welch's t-test of two means over seeds; with one seed nothing is known of the noise."""
    if a.sd is None or b.sd is None:
        return 1.0 if a.mean == b.mean else None
    va, vb = a.sd**2 / n, b.sd**2 / m
    if math.isclose(a.mean, b.mean, rel_tol=1e-6, abs_tol=1e-12):
        return 1.0  # rounding, of another machine say, where no seed scatters
    if va + vb == 0:
        return 0.0
    from scipy.special import stdtr  # scipy.stats takes seconds to import

    freedom = (va + vb) ** 2 / (va**2 / (n - 1) + vb**2 / (m - 1))
    return float(2 * stdtr(freedom, -abs(a.mean - b.mean) / math.sqrt(va + vb)))


def _corrected(changes: list[Change]) -> list[Change]:
    """Holm's correction over all that decides, and over the times by themselves."""
    out = dict(enumerate(changes))
    for decides in (True, False):
        known = [(i, c.p) for i, c in enumerate(changes) if c.decides == decides and c.p is not None]
        for (i, _), p in zip(known, holm([p for _, p in known]), strict=True):
            out[i] = replace(changes[i], p=p)
    return list(out.values())


def numbers(found: Comparison) -> dict[str, Any]:
    """All of it, for a script."""
    return {
        "failed": found.failed,
        "changes": [
            {
                "row": c.row,
                "metric": c.metric.name,
                "a": c.a.mean,
                "b": c.b.mean,
                "delta": c.delta,
                "low": c.low,
                "high": c.high,
                "p": c.p,
                "verdict": c.verdict,
                "decides": c.decides,
            }
            for c in found.changes
        ],
        "broken": list(found.broken),
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
        "given": found.given,
        "single_seed": list(found.single),
    }


def shown(found: Comparison) -> Sequence[Change]:
    """What a person reads: the headline of every row, and whatever moved or may have."""
    return [c for c in found.changes if c.verdict != "same" or c.metric.name.startswith("recall@")]
