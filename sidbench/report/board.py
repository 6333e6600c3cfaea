"""Board: records to tables. What may share a table, what is one row, what is best."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from sidbench.errors import DataError
from sidbench.metrics import METRICS, Metric, metric, size_metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sidbench.record import RunRecord
    from sidbench.report.differences import Difference

#: Reads what lies beside a record: the place of every user's target.
Vectors = Callable[["RunRecord"], Mapping[str, "NDArray[Any]"]]

#: The cut-off of the headline, where it was evaluated; otherwise the largest one.
HEADLINE = 10

#: Stands for every column.
ALL = "all"
#: Every number by where it comes from.
_PARTS = {
    "Quality": ("ranking",),
    "SIDs": ("sids", "tokenizer", "data"),
    "Cost": ("decoder", "clock"),
}

#: Stands beside the SID-level headline of rows that it would have put in another order.
FLIPPED = "⇅"

#: Recall and NDCG are one number at cut-off 1.
QUALITY = (
    "recall@K",
    "ndcg@M",
    "recall_warm@H",
    "recall_cold@H",
    "ndcg_warm@H",
    "ndcg_cold@H",
    "sid_recall@H",
    "inflation@H",
)
#: Of one cut-off, item level and SID level beside each other.
CUTOFF = (
    "recall",
    "ndcg",
    "mrr",
    "recall_warm",
    "recall_cold",
    "ndcg_warm",
    "ndcg_cold",
    "sid_recall",
    "sid_ndcg",
    "inflation",
)
CODES = (
    "sid_bits_added",
    "collision_items",
    "collision_items_resolved",
    "collision_distinct",
    "collision_traffic",
    "collision_largest",
    "collision_cold",
    "utilization",
    "perplexity",
    "reconstruction_error",
    "encode_agreement",
)
COST = (
    "fit_seconds",
    "encode_items_per_second",
    "peak_memory_mb",
    "resolve_moved",
    "resolve_added_cost",
    "resolve_seconds",
    "decoder_parameters",
    "decoder_tokens_per_item",
    "decoder_tokens_per_target",
    "decoder_sequences_seen",
    "decoder_targets_seen",
    "decoder_budget",
    "decoder_seconds",
    "decoder_sequences_per_second",
    "search_users_per_second",
)


@dataclass(frozen=True)
class Value:
    """A mean over seeds; the sample standard deviation needs two of them."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Failure:
    """One run that did not finish."""

    seed: int
    reason: str


@dataclass(frozen=True, eq=False)
class Row:
    """One method with one set of parameters, over its seeds."""

    name: str
    #: A floor ignores the data and a reference has no SIDs: both are there to compare with, not to win.
    kind: Literal["method", "floor", "reference"]
    params: dict[str, Any]
    seeds: tuple[int, ...]
    failures: tuple[Failure, ...]
    #: What the runs found about themselves and agree on: the backend, the device.
    facts: dict[str, Any]
    values: dict[str, Value]
    levels: dict[str, list[float]]
    #: One a seed, those that failed too.
    runs: tuple[RunRecord, ...] = ()


@dataclass(frozen=True)
class Flip:
    """Two rows that scoring SIDs instead of items would have put in the other order."""

    above: str
    below: str


def _cutoffs(names: Iterable[str]) -> list[int]:
    return sorted(int(name.partition("@")[2]) for name in names if name.startswith("recall@"))


def _headline(cutoffs: Sequence[int]) -> int:
    return HEADLINE if HEADLINE in cutoffs else cutoffs[-1]


def headline_cutoff(names: Iterable[str]) -> int | None:
    """The cut-off of the headline among some numbers; none where nothing was recommended."""
    cutoffs = _cutoffs(names)
    return _headline(cutoffs) if cutoffs else None


@dataclass(frozen=True, eq=False)
class Part:
    """Some columns of a table, over the rows that they say something about."""

    name: str
    columns: list[Metric]
    rows: list[Row]
    #: Numbers that rows have a level each.
    levels: tuple[str, ...] = ()

    @property
    def filled(self) -> bool:
        return bool(self.columns or self.levels)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows that may be compared, since all that must agree agrees."""

    #: What agrees: dataset, protocol with cut-offs, hardware; and shape, resolver, decoder, beam unless all
    #: rows are references.
    agreed: dict[str, Any]
    records: tuple[RunRecord, ...]
    rows: tuple[Row, ...]
    #: Every pair of rows by the headline, where the places of all users are at hand.
    differences: tuple[Difference, ...] = ()
    #: Beyond noise where the places of all users are at hand, else by the means.
    flips: tuple[Flip, ...] = ()

    @cached_property
    def cutoffs(self) -> list[int]:
        return sorted({k for row in self.rows for k in _cutoffs(row.values)})

    @property
    def headline(self) -> str | None:
        """The name of the metric that orders the rows; none where nothing was recommended."""
        return f"recall@{self._headline_cutoff}" if self.cutoffs else None

    @property
    def _headline_cutoff(self) -> int:
        return _headline(self.cutoffs)

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for row in self.rows for seed in row.seeds})

    def columns(self, names: Sequence[str]) -> list[Metric]:
        """The metrics of some names that a row has; @H is the headline cut-off, @K all, @M all above 1."""
        wanted: list[str] = []
        for name in names:
            family, _, cutoff = name.partition("@")
            if cutoff == "H":
                wanted += [f"{family}@{self._headline_cutoff}"] if self.cutoffs else []
            elif cutoff == "K":
                wanted += [f"{family}@{k}" for k in self.cutoffs]
            elif cutoff == "M":
                wanted += [f"{family}@{k}" for k in self.cutoffs if k > 1]
            else:
                wanted.append(name)
        return [metric(name) for name in wanted if any(name in row.values for row in self.rows)]

    @property
    def parts(self) -> list[Part]:
        """What every board shows of a table, in this order; parts that hold nothing are left out."""
        ran = [r for r in self.rows if r.seeds]
        made = [r for r in ran if r.kind != "reference"]
        levels = tuple(n for n in ("utilization", "perplexity") if any(n in r.levels for r in made))
        parts = [
            Part(name, [c for c in self.columns(names) if any(c.name in r.values for r in rows)], rows, by)
            for name, names, rows, by in (
                ("Quality", QUALITY, list(self.rows), ()),
                ("SIDs", CODES, made, levels),
                ("Cost", COST, ran, ()),
            )
        ]
        # Failures need their rows even where nothing was recommended.
        failed = any(r.failures for r in self.rows)
        return [p for p in parts if p.columns or (p.name == "Quality" and failed)]

    def chosen(self, names: Sequence[str]) -> list[Part]:
        """What a board shows in place of its parts where columns were chosen; ALL makes every part longer.

        Of a number that rows have a level each and not as a whole, the levels stand.
        """
        ran = [r for r in self.rows if r.seeds]
        if ALL in names:
            parts = [self._of_sources(name, sources) for name, sources in _PARTS.items()]
            return [p for p in parts if p.filled]
        levels = tuple(n for n in names if not self.columns([n]) and any(n in r.levels for r in ran))
        return [Part("Chosen columns", self.columns(names), list(self.rows), levels)]

    def _of_sources(self, name: str, sources: tuple[str, ...]) -> Part:
        """Every number of some sources; of ranking numbers those of the headline's cut-off."""
        rows = [r for r in self.rows if r.seeds and (r.kind != "reference" or name != "SIDs")]
        wanted = [m.name.replace("@K", "@H") for m in METRICS.values() if m.source in sources]
        found = [c for c in self.columns(wanted) if any(c.name in r.values for r in rows)]
        alone = [n for n in wanted if "@" not in n and n not in {c.name for c in found}]
        return Part(name, found, rows, tuple(n for n in alone if any(n in r.levels for r in rows)))

    @property
    def by_cutoff(self) -> list[Part]:
        """Every ranking number, a part a cut-off."""
        ran = [r for r in self.rows if r.seeds]
        named = {k: [f"{family}@{k}" for family in CUTOFF] for k in self.cutoffs}
        return [Part(f"Cut-off {k}", self.columns(names), ran) for k, names in named.items() if ran]

    @property
    def by_popularity(self) -> str | None:
        """The name among rows' `levels` of recall by how popular the target is; none in older records."""
        name = f"recall_decile@{self._headline_cutoff}" if self.cutoffs else ""
        return name if any(name in row.levels for row in self.rows) else None

    def cell(self, row: Row, column: Metric) -> str:
        value = row.values.get(column.name)
        mark = f" {FLIPPED}" if self._flipped(row, column) else ""
        if value is None:
            return column.show(None)
        # What was set and not found out is the same for every seed, and needs no spread to say so.
        spread = None if column.direction == "none" and not value.sd else value.sd
        return f"{column.show(value.mean, spread)}{mark}"

    def _flipped(self, row: Row, column: Metric) -> bool:
        """Whether the SID-level headline of this row says another order than the headline."""
        at_sids = column.name == f"sid_{self.headline}"
        return at_sids and any(row.name in (f.above, f.below) for f in self.flips)

    def best(self, column: Metric) -> set[str]:
        """Names of the best methods, equal as printed; nobody where all are equal or nobody competes."""
        if column.secondary or column.direction == "none":
            return set()
        means = {r.name: r.values[column.name].mean for r in self.rows if _competes(r, column.name)}
        if not means:
            return set()
        top = (max if column.direction == "higher" else min)(means.values())
        equal = {name for name, mean in means.items() if column.show(mean) == column.show(top)}
        return equal if len(equal) < len(means) else set()

    @property
    def notes(self) -> list[str]:
        """What a reader must not miss: methods that do not beat what they must beat."""
        if self.headline is None:
            return []
        name = self.headline
        mean = {r.name: r.values[name].mean for r in self.rows if name in r.values}
        kinds = {kind: [r.name for r in self.rows if r.kind == kind and r.name in mean] for kind in _KINDS}
        notes = []
        if kinds["floor"]:
            floor = max(kinds["floor"], key=mean.__getitem__)
            under = [m for m in kinds["method"] if mean[m] <= mean[floor]]
            if under:
                notes.append(f"Not above the floor {floor}: {', '.join(under)}.")
        if kinds["method"]:
            top = max(mean[m] for m in kinds["method"])
            above = [r for r in kinds["reference"] if mean[r] >= top]
            if above:
                need = "which need no SIDs" if len(above) > 1 else "which needs no SIDs"
                notes.append(f"No tokenizer here is above {_listed(above)}, {need}.")
        return notes + self._flip_notes

    @property
    def _flip_notes(self) -> list[str]:
        """Every flip by its row, as many as are read."""
        said: dict[str, list[str]] = {}
        for f in self.flips:
            said.setdefault(f.below, []).append(f.above)
        pairs = [f"{below} above {_listed(above)}" for below, above in said.items()]
        if not pairs:
            return []
        noise = ", beyond noise" if self.differences else ""
        return [f"{FLIPPED} Scoring SIDs instead of items would have put{noise} {'; '.join(pairs)}."]

    @property
    def letters(self) -> dict[str, str]:
        """Rows that share a letter cannot be told apart by the headline; empty where nothing was compared."""
        from sidbench.report.differences import letters

        return letters(list(self.differences), [r.name for r in self.rows]) if self.differences else {}


def _listed(names: Sequence[str], most: int = 5) -> str:
    rest = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *rest])


_KINDS: tuple[Literal["method", "floor", "reference"], ...] = ("method", "floor", "reference")


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


def numbers(record: RunRecord) -> dict[str, float]:
    """Every finite number of a record: computed, measured, or told by its facts."""
    trained = record.key["decoder"] or record.key
    found = size_metrics(record.facts, trained["params"]) | record.measured | record.metrics
    return {n: float(v) for n, v in found.items() if isinstance(v, (int, float)) and math.isfinite(v)}


def value(record: RunRecord, name: str) -> float | None:
    """A finite number of a record."""
    return numbers(record).get(name)


def known_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Names as a person gives them for columns: those of metrics, `recall@K` for every cut-off, or all."""
    for name in names:
        if name != ALL and name not in METRICS:
            metric(name)  # says what there is instead
    return tuple(dict.fromkeys(names))


def settings(values: Any) -> Any:
    """Parameters without the seed, which makes samples of a row, never another row. Sorted, as in a file."""
    if isinstance(values, dict):
        return {k: settings(values[k]) for k in sorted(values) if k != "seed"}
    return list(values) if isinstance(values, tuple) else values


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
    names = _names([runs[0] for runs in by_row.values()])
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

    Of the flips of means, those that are beyond noise at both levels.
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
                hit = item_recall(at["target_before"], at["target_size"], table._headline_cutoff)
                samples.setdefault(name, {})[run.key["seed"]] = hit
                if any(name in (f.above, f.below) for f in flips):
                    own = sid_recall(at["target_sid_rank"], table._headline_cutoff)
                    by_sids.setdefault(name, {})[run.key["seed"]] = own
    # Other users make other pairs: nothing could be said of them.
    if len(users) != 1 or len(samples) < 2:
        return [], flips
    (whose,) = users.values()
    found = differences(samples, users=whose)
    real = {(d.a, d.b) for d in found if d.real}
    clear = [(f.above, f.below) for f in flips if (f.above, f.below) in real]
    turned = pairs(by_sids, clear, users=whose)
    return found, [Flip(d.a, d.b) for d in turned if d.real]


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


def _names(runs: list[RunRecord]) -> list[str]:
    """A row's label; rows of one label are told apart by the parameters in which they differ."""
    names = []
    for r in runs:
        alike = [settings(o.key["params"]) for o in runs if o.key["label"] == r.key["label"]]
        mine = settings(r.key["params"])
        differ = [k for k in mine if any(other.get(k) != mine[k] for other in alike)]
        told = ", ".join(f"{k}={json.dumps(mine[k])}" for k in differ)
        names.append(f"{r.key['label']} ({told})" if told else r.key["label"])
    return names


def _competes(row: Row, name: str) -> bool:
    return row.kind == "method" and name in row.values
