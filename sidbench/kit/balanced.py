"""Balanced assignment and balanced k-means: sizes within bounds, at the least squared cost.

With a price on every centre, each row at its cheapest is the optimum *for the sizes that this gives*: a
transport problem over n rows has an answer of k numbers. Prices are found on a sample and corrected by Newton
steps on the sizes of all rows; the rows that then still have to move are few, lie where two centres cost
nearly the same, and are moved by shortest augmenting paths (`transport`), exactly. The prices at the end
bound the cost of any assignment from below, so every answer says how far from the optimum it can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from sidbench.errors import UsageError
from sidbench.kit.device import full_precision
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.pricing import Rows, Score, Squares, cheapest, newton
from sidbench.kit.seeding import plus_plus
from sidbench.kit.transport import Transport, Wide
from sidbench.kit.workers import workers

LARGEST = 4096  # codes: what moving a row from any code to any other costs is held whole
HELD = 1 << 23  # costs held at once: the rows of a problem that is solved whole, of a sample, of a repair
ROUGH = 1e-2  # while Lloyd's iterations gain more than this part, sizes need not be right
ROUNDS = 24  # rounds of paths in such an iteration
STEPS = 4  # Newton steps over all rows before the repair
CLOSE = 1e-3  # the part of all rows at the wrong code that the repair takes over from the Newton steps
SETTLED = 1e-3  # the gain of an iteration over many rows at which prices and centres have settled


@dataclass(frozen=True, eq=False)
class Assignment:
    """Rows at codes, sizes within their bounds, with the proof of how good that is."""

    labels: Index
    #: What a row pays at each code beside its distance; zero where the size lies between its bounds.
    prices: Wide
    #: The sum of squared distances.
    cost: float
    #: How far the cost is above what the prices prove that none can be below, as a part of it.
    gap: float


@dataclass(frozen=True, eq=False)
class Balanced:
    """What balanced k-means learned: centres, and the optimal balanced assignment to them."""

    centers: Floats
    assignment: Assignment
    #: The sum of squared distances after every iteration.
    history: list[float]

    @property
    def labels(self) -> Index:
        return self.assignment.labels


def bounds(n: int, k: int, smallest: float = 1.0, largest: float = 1.0) -> tuple[int, int]:
    """The sizes that parts of the mean size n/k stand for, rounded so that there is always an answer."""
    return int(np.floor(smallest * n / k + 1e-9)), int(np.ceil(largest * n / k - 1e-9))


def check_bounds(n: int, k: int, lo: int, hi: int) -> None:
    """Bounds that no assignment can keep are an error that says so."""
    if k > LARGEST:
        raise UsageError(
            f"balanced assignment to {k} codes: expected at most {LARGEST}; use fewer codes a level"
        )
    if not 0 <= lo <= hi or lo * k > n or hi * k < n:
        raise UsageError(
            f"{n} rows cannot be put into {k} clusters of {lo} to {hi} rows; "
            f"set the lower bound to at most {n // k} and the upper one to at least {-(-n // k)}"
        )


def balanced_assign(
    x: Floats,
    centers: Floats,
    lo: int,
    hi: int,
    *,
    device: str = "cpu",
    prices: Wide | None = None,
) -> Assignment:
    """Every row at a centre, `lo` to `hi` rows at each, at the least sum of squared distances.

    Exact at any size, in float64. `prices` of a like problem save time, nothing else.
    """
    check_bounds(len(x), len(centers), lo, hi)
    with _rows(x, device) as rows:
        return assign(rows, Squares(centers, rows.device), len(centers), lo, hi, prices)


def balanced_kmeans(
    x: Floats,
    k: int,
    lo: int,
    hi: int,
    *,
    iters: int = 50,
    starts: int = 1,
    seed: int = 0,
    device: str = "cpu",
) -> Balanced:
    """Lloyd's iterations with a balanced assignment in each, from k-means++ centres; the best of `starts`.

    A run ends early when no row moves. Where there are more rows than a problem can hold, iterations begin on
    a sample, and go on over all rows with prices that give nearly the sizes asked for; the assignment that is
    returned is the optimum for its centres at any size. Rows far from the origin should be centred first.
    """
    check_bounds(len(x), k, lo, hi)
    found: list[Balanced] = []
    with _rows(x, device) as rows:
        for stream in np.random.SeedSequence(seed).spawn(starts):
            rng = np.random.default_rng(stream)
            first = x[plus_plus(x, k, rng, rows.run)]
            found.append(_fit(rows, first, lo, hi, iters, rng))
    return min(found, key=lambda one: one.assignment.cost)


@contextmanager
def _rows(x: Floats, device: str) -> Iterator[Rows]:
    with ExitStack() as stack:
        run = stack.enter_context(workers()) if torch.device(device).type == "cpu" else None
        stack.enter_context(full_precision())
        yield Rows(x, torch.device(device), run)


def _fit(rows: Rows, centers: Floats, lo: int, hi: int, iters: int, rng: np.random.Generator) -> Balanced:
    n, k, prices, sample = len(rows), len(centers), np.zeros(len(centers)), None
    if n * k <= HELD:
        centers, prices, history = _lloyd(rows, centers, prices, lo, hi, iters)
    else:
        sample = _sample(rows, k, rng)
        centers, prices, _ = _lloyd(sample, centers, prices, *_share(lo, hi, n, len(sample)), iters)
        centers, prices, history = _many(rows, sample, centers, prices, lo, hi, iters)
    return Balanced(centers, assign(rows, Squares(centers, rows.device), k, lo, hi, prices, sample), history)


def _lloyd(
    rows: Rows, centers: Floats, prices: Wide, lo: int, hi: int, iters: int
) -> tuple[Floats, Wide, list[float]]:
    """Iterations with an assignment by paths in each, exact but for the first ones."""
    k, gain = len(centers), 1.0
    history: list[float] = []
    labels: Index | None = None
    for _ in range(iters):
        problem = _problem(rows, Squares(centers, rows.device), prices, lo, hi, labels)
        exact = problem.settle(ROUNDS if gain > ROUGH else None)
        prices = problem.final_prices()
        if exact and labels is not None and np.array_equal(labels, problem.labels):
            break
        labels = problem.labels
        centers, inertia = _means(rows, rows.sums(labels, k), problem.sizes, centers)
        history.append(inertia)
        gain = 1 - inertia / history[-2] if len(history) > 1 and inertia > 0 else 1.0
    return centers, prices, history


def _many(
    rows: Rows, sample: Rows, centers: Floats, prices: Wide, lo: int, hi: int, iters: int
) -> tuple[Floats, Wide, list[float]]:
    """Iterations over more rows than a problem can hold: a scan in each, and prices that follow the sizes."""
    n, k = len(rows), len(centers)
    history: list[float] = []
    for _ in range(iters):
        score = Squares(centers, rows.device)
        scan = rows.scan(score, prices, sums=True)
        before = _sizes(sample, score, prices)
        centers, inertia = _means(rows, scan.sums, scan.sizes, centers)
        history.append(inertia)
        # What the sample says of how the new centres change the sizes.
        score = Squares(centers, rows.device)
        sizes = scan.sizes / n + _sizes(sample, score, prices) - before
        prices = newton(sample.costs(score, k), prices, sizes, lo / n, hi / n)
        if len(history) > 1 and history[-2] - inertia <= SETTLED * history[-2]:
            break
    return centers, prices, history


def assign(
    rows: Rows,
    score: Score,
    k: int,
    lo: int,
    hi: int,
    prices: Wide | None = None,
    sample: Rows | None = None,
) -> Assignment:
    """The optimal assignment at any costs, within bounds that are known to be possible."""
    n = len(rows)
    if n * k <= HELD:
        problem = _problem(rows, score, np.zeros(k) if prices is None else prices, lo, hi)
        problem.settle()
        least = problem.costs + problem.final_prices()
        return _proved(rows, problem, problem.labels, problem.own.sum(), least.min(axis=1).sum(), lo, hi)
    if sample is None:
        sample = _sample(rows, k, np.random.default_rng(0))
    if prices is None:
        problem = _problem(sample, score, np.zeros(k), *_share(lo, hi, n, len(sample)))
        problem.settle()
        prices = problem.final_prices()
    known = sample.costs(score, k)
    for _ in range(STEPS):
        sizes = rows.scan(score, prices).sizes
        if np.maximum(sizes - hi, lo - sizes).clip(0).sum() <= CLOSE * n:
            break
        prices = newton(known, prices, sizes / n, lo / n, hi / n)
    return _repair(rows, score, prices, lo, hi)


def _repair(rows: Rows, score: Score, prices: Wide, lo: int, hi: int) -> Assignment:
    """The optimum from prices near it: rows that have almost a choice take part, the rest is checked.

    A row whose next code is dearer by more than all that prices change against each other stays. If that does
    not hold for every row left out, or these rows do not suffice, more take part.
    """
    n, k = len(rows), len(prices)
    part = HELD // k
    labels: Index | None = None
    while True:
        part = min(part, n)
        scan = rows.scan(score, prices, exact=True)
        order = np.argpartition(scan.margins, part - 1) if part < n else np.arange(n)
        chosen = np.sort(order[:part])
        costs = rows.costs(score, k, chosen).cpu().numpy()
        now, tied = cheapest(costs, prices, None if labels is None else labels[chosen])
        labels = scan.labels
        labels[chosen] = now
        rest = np.bincount(labels, minlength=k) - np.bincount(now, minlength=k)
        problem = Transport(costs, now, prices, lo - rest, hi - rest)
        done = problem.settle()
        labels[chosen] = problem.labels
        change = problem.final_prices() - prices
        certain = part == n or np.ptp(change) <= scan.margins[order[part:]].min()
        if done and certain:
            break
        # Where it was only the prices that were far off, they are near now.
        part = part if done and not tied.all() else 2 * part
        prices = problem.final_prices()
    others = np.ones(n, dtype=bool)
    others[chosen] = False
    at = labels[others]
    cost = scan.least[others].sum() - prices[at].sum() + problem.own.sum()
    least = scan.least[others].sum() + change[at].sum() + (costs + problem.final_prices()).min(axis=1).sum()
    return _proved(rows, problem, labels, cost, least, lo, hi)


def _proved(
    rows: Rows, problem: Transport, labels: Index, cost: float, least: float, lo: int, hi: int
) -> Assignment:
    prices = problem.final_prices()
    bound = least - float(np.where(prices > 0, hi, lo) @ prices)
    cost, bound = cost + rows.squares, bound + rows.squares
    # Where all rows lie on their centres there is only rounding to compare.
    gap = (cost - bound) / cost if cost > 1e-12 * rows.squares else 0.0
    return Assignment(labels, prices, max(float(cost), 0.0), max(float(gap), 0.0))


def _sample(rows: Rows, k: int, rng: np.random.Generator) -> Rows:
    most = min(max(HELD // (2 * k), 4 * k), len(rows))
    return rows.some(np.sort(rng.choice(len(rows), most, replace=False)))


def _problem(
    rows: Rows, score: Score, prices: Wide, lo: int, hi: int, before: Index | None = None
) -> Transport:
    k = len(prices)
    costs = rows.costs(score, k).cpu().numpy()
    labels, _ = cheapest(costs, prices, before)
    return Transport(costs, labels, prices, np.full(k, lo), np.full(k, hi))


def _share(lo: int, hi: int, n: int, m: int) -> tuple[int, int]:
    """What bounds for n rows are for m of them."""
    return lo * m // n, -(-hi * m // n)


def _sizes(rows: Rows, score: Score, prices: Wide) -> Wide:
    return rows.scan(score, prices).sizes / len(rows)


def _means(rows: Rows, sums: Wide, sizes: Index, otherwise: Floats) -> tuple[Floats, float]:
    """The mean row of every code (one without rows keeps its centre), and the sum of squares to the means."""
    count = np.maximum(sizes, 1)[:, None]
    means = np.where(sizes[:, None] > 0, sums / count, otherwise).astype(np.float32)
    return means, max(rows.squares - float((sums**2 / count).sum()), 0.0)
