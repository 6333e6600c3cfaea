"""Overview: what tables say together: the best resolver of each method, the matrix, ranks over datasets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sidbench.report import words
from sidbench.report.table import Row, Table

#: Of each method's best resolver, and of all of them.
COLUMNS = (
    "recall@H",
    "ndcg@H",
    "collision_items",
    "collision_items_resolved",
    "sid_bits",
    "sid_bits_added",
    "resolve_moved",
    "resolve_added_cost",
    "resolve_seconds",
    "resolve_unplaced",
)


@dataclass(frozen=True)
class Named:
    """What a row of an overview is: its method, its codes, its resolver."""

    method: str
    #: The method with its shape, where it has rows of several.
    unique: str
    shape: str
    resolver: str


@dataclass(frozen=True, eq=False)
class Family:
    """Tables that agree in all but the resolver and the shape of SIDs: recall may be compared across them."""

    tables: tuple[Table, ...]
    #: Each method with the resolver under which its headline is best, and the references.
    best: Table
    #: Each method with each resolver, the resolvers of a method together.
    whole: Table
    #: By the name of a row of either.
    named: dict[str, Named]

    @property
    def resolvers(self) -> list[str]:
        return sorted({n.resolver for n in self.named.values() if n.resolver})

    @property
    def methods(self) -> list[str]:
        """In order of their best."""
        return [n.unique for r in self.best.rows if (n := self.named[r.name]).resolver]

    @property
    def grid(self) -> list[list[str]]:
        """The headline of every method (down) with every resolver (across)."""
        (column,) = self.whole.columns(["recall@H"])
        named = [(self.named[row.name], row) for row in self.whole.rows]
        cells = {(n.unique, n.resolver): row for n, row in named}
        out = [["Method", *self.resolvers]]
        for method in self.methods:
            line = [method]
            for resolver in self.resolvers:
                found = cells.get((method, resolver))
                failed = found is not None and not found.seeds
                line.append("failed" if failed else self.whole.cell(found, column) if found else "–")
            out.append(line)
        return out

    @property
    def note(self) -> str:
        """What choosing the best of several does."""
        if len(self.resolvers) < 2:
            return "These rows differ in the shape of their SIDs: compare those of equal bits."
        return (
            "The best of several resolvers is chosen by the very number it is shown with, which flatters it "
            "a little: a difference that resolvers alone make may be noise."
        )


def families(tables: Sequence[Table]) -> list[Family]:
    """Every two or more tables that differ in resolver or shape alone, and have results."""
    apart = ("resolver", "shape")
    groups: dict[str, list[Table]] = {}
    for table in tables:
        if "resolver" in table.agreed and table.headline:
            agreed = {part: v for part, v in table.agreed.items() if part not in apart}
            groups.setdefault(json.dumps(agreed, sort_keys=True), []).append(table)
    return [_family(json.loads(text), group) for text, group in groups.items() if len(group) > 1]


def _family(agreed: dict[str, Any], tables: list[Table]) -> Family:
    headline = tables[0].headline or ""
    resolver = _resolvers(tables)
    found: dict[str, list[tuple[Row, Named]]] = {}
    references: dict[str, Row] = {}
    for table in tables:
        for row in table.rows:
            if row.kind == "reference":
                references[_identity(row)] = row
            else:
                own = Named(row.name, row.name, words.shape(table), resolver[id(table)])
                found.setdefault(f"{_identity(row)} {own.shape}", []).append((row, own))
    # Names that stand alone need no shape.
    shapes: dict[str, set[str]] = {}
    for rows in found.values():
        for _, n in rows:
            shapes.setdefault(n.method, set()).add(n.shape)
    named: dict[str, Named] = {r.name: Named(r.name, r.name, "", "") for r in references.values()}
    best: list[Row] = list(references.values())
    whole: list[Row] = []

    def place(row: Row) -> tuple[float, float]:
        added = row.values.get("sid_bits_added")
        return -_mean(row, headline), added.mean if added else 0.0

    groups = []
    for rows in found.values():
        rows.sort(key=lambda r: place(r[0]))
        groups.append(rows)
    groups.sort(key=lambda rows: place(rows[0][0]))
    for rows in groups:
        for at, (row, n) in enumerate(rows):
            unique = f"{n.method}, {n.shape}" if len(shapes[n.method]) > 1 else n.method
            one = replace(row, name=f"{unique} + {n.resolver}")
            whole.append(one)
            named[one.name] = named_once = replace(n, unique=unique)
            if not at:
                best.append(replace(row, name=unique))
                named[unique] = named_once
    best.sort(key=lambda r: (not r.seeds, *place(r), r.name))
    records = tuple({r.id: r for t in tables for r in t.records}.values())
    return Family(
        tuple(tables), Table(agreed, records, tuple(best)), Table(agreed, records, tuple(whole)), named
    )


def _resolvers(tables: Sequence[Table]) -> dict[int, str]:
    """The name of each table's resolver; with its parameters where one name stands for several."""
    found = {id(t): t.agreed["resolver"] for t in tables}
    given: dict[str, set[str]] = {}
    for r in found.values():
        given.setdefault(r["name"], set()).add(json.dumps(r["params"], sort_keys=True))
    return {
        at: f"{r['name']} ({words.parameters(r['params'])})" if len(given[r["name"]]) > 1 else r["name"]
        for at, r in found.items()
    }


@dataclass(frozen=True)
class Ranked:
    """A row that several datasets have, its rank on each, 1 the best, and their mean."""

    row: Row
    ranks: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.ranks) / len(self.ranks)


@dataclass(frozen=True, eq=False)
class Ranks:
    """The same rows on several datasets, all else agreeing."""

    #: What agrees, in the place of the dataset how many there are; without rows.
    table: Table
    datasets: tuple[str, ...]
    headline: str
    rows: tuple[Ranked, ...]
    #: Rows that some dataset lacks.
    missing: tuple[str, ...]

    @property
    def best(self) -> set[str]:
        """Of the tokenizers."""
        means = {r.row.name: r.mean for r in self.rows if r.row.kind == "method"}
        return {n for n, mean in means.items() if len(means) > 1 and mean == min(means.values())}

    @property
    def note(self) -> str:
        lacking = f" Not on all of them, and left out: {', '.join(self.missing)}." if self.missing else ""
        return (
            f"Ranks by {self.headline} among the {len(self.rows)} rows that all {len(self.datasets)} "
            "datasets have, and their mean, every dataset counting once; ties share their mean rank. A rank "
            f"does not show how far apart rows are, nor whether by more than noise.{lacking}"
        )


def ranks(tables: Sequence[Table]) -> list[Ranks]:
    """The mean rank of each row over datasets, where tables agree in all but the dataset."""
    groups: dict[str, list[Table]] = {}
    for table in tables:
        agreed = {part: v for part, v in table.agreed.items() if part not in ("dataset", "beam")}
        if table.headline:
            groups.setdefault(json.dumps(agreed, sort_keys=True), []).append(table)
    found = [_ranks(json.loads(text), group) for text, group in groups.items() if len(group) > 1]
    return [r for r in found if len(r.rows) > 1 and len(r.datasets) > 1]


def _ranks(agreed: dict[str, Any], tables: list[Table]) -> Ranks:
    tables = sorted(tables, key=lambda t: t.agreed["dataset"]["name"])
    headline = tables[0].headline or ""
    names = [t.agreed["dataset"]["name"] for t in tables]
    datasets = tuple(
        f"{name} {t.agreed['dataset']['fingerprint'][:6]}" if names.count(name) > 1 else name
        for name, t in zip(names, tables, strict=True)
    )
    by_table = [{_identity(r): r for r in t.rows if headline in r.values} for t in tables]
    shared = [i for i in by_table[0] if all(i in rows for rows in by_table)]
    places = [_places({i: _mean(rows[i], headline) for i in shared}) for rows in by_table]
    rows = [Ranked(by_table[0][i], tuple(at[i] for at in places)) for i in shared]
    rows.sort(key=lambda r: (r.mean, r.row.name))
    missing = {r.name for rows_of in by_table for i, r in rows_of.items() if i not in shared}
    table = Table({**agreed, "dataset": {"name": f"{len(tables)} datasets"}}, (), ())
    return Ranks(table, datasets, headline, tuple(rows), tuple(sorted(missing)))


def _places(means: dict[str, float]) -> dict[str, float]:
    """The place of each among all, 1 the highest; equal ones share the mean of their places."""
    all_of = list(means.values())
    return {
        i: 1 + sum(m > mine for m in all_of) + (sum(m == mine for m in all_of) - 1) / 2
        for i, mine in means.items()
    }


def _identity(row: Row) -> str:
    """One method with one set of parameters, whatever else stands beside it in its table."""
    label = row.runs[0].label if row.runs else row.name
    return json.dumps([row.kind, label, row.params], sort_keys=True)


def _mean(row: Row, name: str) -> float:
    return row.values[name].mean if name in row.values else float("-inf")
