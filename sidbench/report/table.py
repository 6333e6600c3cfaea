"""Table: rows that may be compared, their columns, what is best of each, and what a reader must be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from sidbench.metrics import METRICS, Metric, metric
from sidbench.report.columns import ALL, CODES, COST, CUTOFF, LEVELS, PARTS, QUALITY, cutoffs_of, headline_of

if TYPE_CHECKING:
    from sidbench.record import RunRecord
    from sidbench.report.differences import Difference

Kind = Literal["method", "floor", "reference"]

#: Stands beside the SID-level headline of rows that it would have put in another order, noise or not.
FLIPPED = "⇅"
WITHIN = f"({FLIPPED})"


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
    kind: Kind
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
    #: Whether both orders are more than noise; none where the places of users are not at hand.
    beyond: bool | None = None


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
    #: By the means.
    flips: tuple[Flip, ...] = ()

    @cached_property
    def cutoffs(self) -> list[int]:
        return sorted({k for row in self.rows for k in cutoffs_of(row.values)})

    @property
    def headline(self) -> str | None:
        """The name of the metric that orders the rows; none where nothing was recommended."""
        return f"recall@{self.headline_cutoff}" if self.cutoffs else None

    @property
    def headline_cutoff(self) -> int:
        return headline_of(self.cutoffs)

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for row in self.rows for seed in row.seeds})

    def columns(self, names: Sequence[str]) -> list[Metric]:
        """The metrics of some names that a row has; @H is the headline cut-off, @K all, @M all above 1."""
        wanted: list[str] = []
        for name in names:
            family, _, cutoff = name.partition("@")
            if cutoff == "H":
                wanted += [f"{family}@{self.headline_cutoff}"] if self.cutoffs else []
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
        levels = tuple(n for n in LEVELS if any(n in r.levels for r in made))
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
            parts = [self._of_sources(name, sources) for name, sources in PARTS.items()]
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
        name = f"recall_decile@{self.headline_cutoff}" if self.cutoffs else ""
        return name if any(name in row.levels for row in self.rows) else None

    def cell(self, row: Row, column: Metric) -> str:
        value = row.values.get(column.name)
        mark = f" {said}" if (said := self._flipped(row, column)) else ""
        if value is None:
            return column.show(None)
        # What was set and not found out is the same for every seed, and needs no spread to say so.
        spread = None if column.direction == "none" and not value.sd else value.sd
        return f"{column.show(value.mean, spread)}{mark}"

    def _flipped(self, row: Row, column: Metric) -> str:
        """The mark of a row whose SID-level headline says another order than the headline."""
        found = [f for f in self.flips if row.name in (f.above, f.below)]
        if column.name != f"sid_{self.headline}" or not found:
            return ""
        return FLIPPED if any(f.beyond is not False for f in found) else WITHIN

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
        kinds = {
            kind: [r.name for r in self.rows if r.kind == kind and r.name in mean] for kind in get_args(Kind)
        }
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
        notes = []
        for beyond, noise in ((None, ""), (True, ", beyond noise,"), (False, ", within noise,")):
            said: dict[str, list[str]] = {}
            for f in self.flips:
                if f.beyond is beyond:
                    said.setdefault(f.below, []).append(f.above)
            pairs = "; ".join(f"{below} above {_listed(above)}" for below, above in said.items())
            mark = WITHIN if beyond is False else FLIPPED
            notes += [f"{mark} Scoring SIDs instead of items would have put{noise} {pairs}."] if pairs else []
        return notes

    @property
    def letters(self) -> dict[str, str]:
        """Rows that share a letter cannot be told apart by the headline; empty where nothing was compared."""
        from sidbench.report.differences import letters

        return letters(list(self.differences), [r.name for r in self.rows]) if self.differences else {}


def _listed(names: Sequence[str], most: int = 5) -> str:
    rest = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *rest])


def _competes(row: Row, name: str) -> bool:
    return row.kind == "method" and name in row.values
