"""Proxies: which number that needs no decoder goes with the headline, over the rows of each table."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sidbench.metrics import METRICS
from sidbench.report import words
from sidbench.report.board import tables
from sidbench.report.differences import holm
from sidbench.report.table import Row, Table

if TYPE_CHECKING:
    from sidbench.record import RunRecord

Floats = NDArray[np.float64]

#: Rows below which nothing is computed, and below which what is computed is said to be little.
FEWEST, FEW = 5, 12
#: Draws of the bootstrap and of the permutation test (all orders, where there are no more).
DRAWS, ORDERS = 2000, 9999
ALPHA = 0.05
#: What is of the resolver, what orders rows exactly as another number does, and what knows the test targets.
_NO_PROXY = r"_resolved$|^resolve_|_excess$|^sid_|^collision_(traffic|cold)$|^trie_fanout$"
#: Comparisons of two rows held at one time.
_CELLS = 4_000_000


@dataclass(frozen=True, eq=False)
class Proxy:
    """How one number and the headline are ordered alike over rows."""

    name: str
    rows: tuple[str, ...]
    x: Floats
    y: Floats
    rho: float
    tau: float
    #: The middle 95% of the bootstrap.
    low: float
    high: float
    #: Two-sided, by permutation; then Holm's correction over all numbers of the table.
    p: float
    corrected: float
    #: With the rows that encode nothing among the others.
    floored: float | None
    draws: Floats = field(repr=False)
    orders: Floats = field(repr=False)

    @property
    def real(self) -> bool:
        return self.corrected < ALPHA


@dataclass(frozen=True, eq=False)
class Group:
    """One table of the board: its tokenizers and what goes with their headline."""

    table: Table
    title: str
    rows: int
    methods: int
    #: The strongest first.
    proxies: tuple[Proxy, ...]
    #: Numbers that say nothing here, with the reason.
    skipped: dict[str, str]

    @property
    def headline(self) -> str:
        return self.table.headline or ""


@dataclass(frozen=True)
class Overall:
    """One number over several tables, each with the same weight."""

    name: str
    groups: int
    rho: float
    low: float
    high: float
    p: float
    corrected: float
    #: Tables in which it goes the way of the mean.
    same_sign: int


def candidates() -> list[str]:
    """What could predict: numbers of SIDs and tokenizers, none of which needs a decoder or a clock."""
    return [
        m.name
        for m in METRICS.values()
        if m.source in ("sids", "tokenizer") and not m.family and not re.search(_NO_PROXY, m.name)
    ]


def analyze(records: Iterable[RunRecord]) -> list[Group]:
    """Every comparable table that holds tokenizers, in the order of the board."""
    found = [t for t in tables(records) if any(r.kind != "reference" and r.seeds for r in t.rows)]
    return [_group(t, title) for t, title in zip(found, words.titles(found), strict=True)]


def overall(groups: list[Group]) -> list[Overall]:
    """The mean correlation over tables; nothing where fewer than two could be computed."""
    whole = [g for g in groups if g.proxies]
    rng = np.random.default_rng(0)
    out = []
    for name in candidates():
        each = [p for g in whole for p in g.proxies if p.name == name]
        if len(whole) < 2 or len(each) < 2:
            continue
        # Tables of equally many rows were drawn alike: each is put in an order of its own before they meet.
        draws = np.mean([rng.permutation(p.draws) for p in each], axis=0)
        orders = np.mean([rng.choice(p.orders, ORDERS) for p in each], axis=0)
        rho = float(np.mean([p.rho for p in each]))
        low, high = _middle(draws)
        same = sum(math.copysign(1, p.rho) == math.copysign(1, rho) for p in each)
        out.append(Overall(name, len(each), rho, low, high, _beyond(orders, rho), 1.0, same))
    corrected = holm([o.p for o in out])
    out = [
        Overall(o.name, o.groups, o.rho, o.low, o.high, o.p, c, o.same_sign)
        for o, c in zip(out, corrected, strict=True)
    ]
    return sorted(out, key=lambda o: (-abs(o.rho), o.name))


def needed(n: int) -> float:
    """The least |rho| that a single number would need to be beyond chance at 5%, over n rows without ties."""
    orders = _orders(n, np.random.default_rng(0))
    rank = np.arange(n, dtype=np.float64)
    found = np.abs(_pearson(orders.astype(np.float64), rank[None]))
    values = np.unique(found.round(9))
    return float(min(v for v in values if v == values[-1] or _beyond(found, v - 1e-9) < ALPHA))


def _group(table: Table, title: str) -> Group:
    headline = table.headline or ""
    rows = [r for r in table.rows if r.kind == "method" and headline in r.values]
    floors = [r for r in table.rows if r.kind == "floor" and headline in r.values]
    methods = len({_method(r) for r in rows})
    found: list[Proxy] = []
    skipped: dict[str, str] = {}
    for name in candidates() if headline and len(rows) >= FEWEST else []:
        having = [r for r in rows if name in r.values]
        if not having:
            skipped[name] = "in no record"
        elif len(having) < FEWEST:
            skipped[name] = f"only {len(having)} tokenizers have it"
        elif len({r.values[name].mean for r in having}) < 2:
            skipped[name] = "the same for all"
        elif len({r.values[headline].mean for r in having}) < 2:
            skipped[name] = f"{headline} is the same for all that have it"
        else:
            found.append(_proxy(name, headline, having, [r for r in floors if name in r.values]))
    corrected = holm([p.p for p in found])
    kept = [_corrected(p, c) for p, c in zip(found, corrected, strict=True)]
    kept.sort(key=lambda p: (-abs(p.rho), p.name))
    return Group(table, title, len(rows), methods, tuple(kept), skipped)


def _corrected(proxy: Proxy, corrected: float) -> Proxy:
    return Proxy(**{**vars(proxy), "corrected": corrected})


def _proxy(name: str, headline: str, rows: list[Row], floors: list[Row]) -> Proxy:
    rng = np.random.default_rng(0)
    x, y = (np.array([r.values[n].mean for r in rows]) for n in (name, headline))
    one = np.ones((1, len(rows)))
    rho = float(spearman(x[None], y[None], one)[0])
    draws = _bootstrap(name, headline, rows, rng)
    orders = _orders(len(rows), rng)
    by_chance = _pearson(_ranks(x[None], one), _ranks(y[None], one)[0][orders])
    floored = None
    if floors:
        more = [*rows, *floors]
        a, b = (np.array([r.values[n].mean for r in more])[None] for n in (name, headline))
        floored = float(spearman(a, b, np.ones((1, len(more))))[0])
    low, high = _middle(draws)
    p = _beyond(by_chance, rho)
    return Proxy(
        name,
        tuple(r.name for r in rows),
        x,
        y,
        rho,
        kendall(x, y),
        low,
        high,
        p,
        p,
        floored,
        draws,
        by_chance,
    )


def _bootstrap(name: str, headline: str, rows: list[Row], rng: np.random.Generator) -> Floats:
    """Correlations of draws: methods anew, each with all of its variants, and the seeds of each row anew."""
    clusters = sorted({_method(r) for r in rows})
    member = np.array([clusters.index(_method(r)) for r in rows])
    drawn = rng.integers(0, len(clusters), (DRAWS, len(clusters)))
    times = np.stack([(drawn == c).sum(axis=1) for c in range(len(clusters))], axis=1)[:, member]
    values = np.empty((2, DRAWS, len(rows)))
    for i, row in enumerate(rows):
        runs = [
            r.metrics for r in row.runs if r.status == "ok" and name in r.metrics and headline in r.metrics
        ]
        seeds = rng.integers(0, len(runs), (DRAWS, len(runs)))
        for side, what in enumerate((name, headline)):
            values[side, :, i] = np.array([m[what] for m in runs])[seeds].mean(axis=1)
    step = max(1, _CELLS // len(rows) ** 2)
    found = [
        spearman(values[0, s : s + step], values[1, s : s + step], times[s : s + step].astype(np.float64))
        for s in range(0, DRAWS, step)
    ]
    return np.concatenate(found)


def _method(row: Row) -> str:
    return str(row.runs[0].key["method"])


def spearman(x: Floats, y: Floats, times: Floats) -> Floats:
    """Rank correlations, a row a sample; `times` is how often each value is in it. NaN where all is equal."""
    return _pearson(_ranks(x, times), _ranks(y, times), times)


def kendall(x: Floats, y: Floats) -> float:
    """Kendall's tau-b: pairs ordered alike less pairs ordered otherwise, ties taken out of the whole."""
    a, b = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    whole = math.sqrt(np.abs(a).sum() * np.abs(b).sum())
    return float((a * b).sum() / whole) if whole else math.nan


def _ranks(x: Floats, times: Floats) -> Floats:
    """Places in order; equal ones share the middle of theirs."""
    weight = times[:, None, :]
    below = (weight * (x[:, None, :] < x[:, :, None])).sum(axis=2)
    equal = (weight * (x[:, None, :] == x[:, :, None])).sum(axis=2)
    ranks: Floats = below + equal / 2
    return ranks


def _pearson(a: Floats, b: Floats, times: Floats | float = 1.0) -> Floats:
    times = np.broadcast_to(np.asarray(times, dtype=np.float64), np.broadcast_shapes(a.shape, b.shape))
    whole = times.sum(axis=1, keepdims=True)
    a = a - (times * a).sum(axis=1, keepdims=True) / whole
    b = b - (times * b).sum(axis=1, keepdims=True) / whole
    spread = np.sqrt((times * a**2).sum(axis=1) * (times * b**2).sum(axis=1))
    covered = (times * a * b).sum(axis=1)
    found: Floats = np.divide(covered, spread, out=np.full(len(spread), np.nan), where=spread > 1e-12)
    return found


def _orders(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """All orders of n rows where there are few, else so many drawn ones."""
    if math.factorial(n) <= ORDERS:
        return np.array(list(itertools.permutations(range(n))))
    return np.argsort(rng.random((ORDERS, n)), axis=1)


def _beyond(by_chance: Floats, rho: float) -> float:
    """The share of orders at least as extreme, the one at hand counted among them."""
    hits = int((np.abs(by_chance) >= abs(rho) - 1e-12).sum())
    return min(1.0, (hits + 1) / (len(by_chance) + 1))


def _middle(draws: Floats) -> tuple[float, float]:
    whole = draws[np.isfinite(draws)]
    if not len(whole):
        return math.nan, math.nan
    low, high = np.quantile(whole, [0.025, 0.975])
    return float(low), float(high)


def verdict(group: Group) -> list[str]:
    """What may be said of a table, and what may not, in plain words."""
    n = group.rows
    counted = f"{n} tokenizers" if n == group.methods else f"{n} rows of {group.methods} tokenizers"
    if n < FEWEST:
        return [f"{counted}: too few to say anything. At least {FEWEST} are needed; nothing was computed."]
    out = []
    real = [p for p in group.proxies if p.real]
    tried = len(group.proxies)
    if not tried:
        return [f"{counted}, and no number that differs between them: nothing was computed."]
    if real:
        names = ", ".join(f"{METRICS[p.name].label} (ρ = {p.rho:+.2f})" for p in real)
        out.append(f"Beyond chance at 5%, corrected for the {tried} numbers tried: {names}.")
    else:
        out.append(f"None of the {tried} numbers tried goes with {group.headline} beyond chance at 5%.")
    if n < FEW:
        out.append(
            f"{counted} are few: a single number would need |ρ| of {needed(n):.2f}, and {tried} were tried. "
            "Read this as a hint at most."
        )
    if group.methods < n:
        out.append(
            "Variants of one tokenizer resemble each other: the intervals draw them together, the p-values "
            "take them for rows of their own and are too small."
        )
    return out


def numbers(group: Group) -> dict[str, Any]:
    """A table of results as JSON has it."""
    return {
        "table": group.title,
        "headline": group.headline,
        "rows": group.rows,
        "methods": group.methods,
        "verdict": verdict(group),
        "proxies": [
            {
                "metric": p.name,
                "rows": len(p.rows),
                "spearman": p.rho,
                "interval": [_finite(p.low), _finite(p.high)],
                "kendall": p.tau,
                "p": p.p,
                "p_corrected": p.corrected,
                "spearman_with_floors": p.floored,
            }
            for p in group.proxies
        ],
        "skipped": group.skipped,
    }


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
