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
from numpy.typing import NDArray
from torch import Tensor

from sidbench.errors import UsageError
from sidbench.kit.device import full_precision
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.pricing import Plan, Rows, Scan, Score, Squares, cheapest, reprice, wrong
from sidbench.kit.seeding import plus_plus
from sidbench.kit.streamed import Residuals
from sidbench.kit.transport import Transport, Wide
from sidbench.kit.workers import workers

LARGEST = 4096  # codes: what moving a row from any code to any other costs is held whole
HELD = 1 << 23  # costs held at once: the rows of a problem that is solved whole, or of a repair
SAME = 1e-12  # costs that differ by no more than this part of the largest are the same
MANY = 0.02  # the part of the rows at the wrong code that paths take over from Newton steps
ROUGH, ROUNDS = 1e-2, 24  # while iterations gain more than this part, so many rounds of paths must do
CLOSE, SCANS = 1e-3, 6  # like MANY, where a step takes a scan over more rows than are held; scans at most
AT_LEAST = 6  # iterations over more rows than are held
SETTLED = 1e-3  # the gain of an iteration at which a sample, or prices that follow, have no more to give


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
            f"balanced assignment to {k} codes: expected at most {LARGEST} (what moving a row from any code "
            "to any other costs is held whole); use fewer codes a level"
        )
    if not 0 <= lo <= hi or lo * k > n or hi * k < n:
        raise UsageError(
            f"{n} rows cannot be put into {k} clusters of {lo} to {hi} rows; "
            f"set the lower bound to at most {n // k} and the upper one to at least {-(-n // k)}"
        )


def balanced_assign(
    x: Floats | Residuals,
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
    with open_rows(x, device) as rows:
        return assign(rows, Squares(centers, rows), len(centers), lo, hi, prices)


def sinkhorn_assign(
    x: Floats | Residuals,
    centers: Floats,
    lo: int,
    hi: int,
    *,
    epsilon: float,
    iters: int,
    device: str = "cpu",
) -> Assignment:
    """The entropic plan with uniform marginals, rounded: as much of it as whole rows within bounds keep.

    `epsilon` is a part of how much farther a code is than the nearest one, on average. The cost is what of
    the plan is lost, the prices are those of the rounding.
    """
    check_bounds(len(x), len(centers), lo, hi)
    with open_rows(x, device) as rows:
        score = Squares(centers, rows)
        plan = Plan(score, rows, len(centers), epsilon, iters)
        return assign(rows, plan, len(centers), lo, hi)


def balanced_kmeans(
    x: Floats | Residuals,
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
    with open_rows(x, device) as rows:
        for stream in np.random.SeedSequence(seed).spawn(starts):
            rng = np.random.default_rng(stream)
            first = x[plus_plus(x, k, rng, rows.run)]
            found.append(_fit(rows, first, lo, hi, iters, rng))
    return min(found, key=lambda one: one.assignment.cost)


@contextmanager
def open_rows(x: Floats | Residuals, device: str) -> Iterator[Rows]:
    """The rows on their device, with workers where that is the processor."""
    with ExitStack() as stack:
        run = stack.enter_context(workers()) if torch.device(device).type == "cpu" else None
        stack.enter_context(full_precision())
        yield Rows(x, torch.device(device), run)


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
    if n <= held(k):
        prices = np.zeros(k) if prices is None else prices
        problem = _problem(rows, rows.costs(score, k), score, prices, np.full(k, lo), np.full(k, hi))
        problem.settle()
        prices = problem.final_prices()
        bound = (problem.costs + prices).min(axis=1).sum() - float(np.where(prices > 0, hi, lo) @ prices)
        return _proved(score, problem.labels, prices, problem.own.sum(), bound)
    if sample is None:
        sample = _sample(rows, k, np.random.default_rng(0))
    known = sample.costs(score, k)
    if prices is None:
        prices = _follow(sample, known, score, np.zeros(k), np.zeros(k), lo / n, hi / n)
    error = sample.scan(score, prices).sizes / len(sample) - rows.scan(score, prices).sizes / n
    prices = _follow(sample, known, score, prices, error, lo / n, hi / n)
    return _repair(rows, score, *_near(rows, score, prices, lo, hi), lo, hi)


def _near(rows: Rows, score: Score, prices: Wide, lo: int, hi: int) -> tuple[Wide, Scan]:
    """Prices at which nearly all rows are where they should be, by Newton steps on rows in doubt."""
    n, k = len(rows), len(prices)
    best = prices, rows.scan(score, prices, exact=True)
    for _ in range(SCANS):
        prices, scan = best
        if wrong(scan.sizes / n, lo / n, hi / n) <= CLOSE:
            break
        some = np.flatnonzero(_open(scan, hi, held(k)))
        m, rest = len(some), scan.sizes - np.bincount(scan.labels[some], minlength=k)
        known = rows.costs(score, k, some)
        prices = reprice(known, prices, (lo - rest) / m, (hi - rest) / m, 0.2 * CLOSE * n / m, 6)
        scan = rows.scan(score, prices, exact=True)
        if wrong(scan.sizes / n, lo / n, hi / n) > 0.9 * wrong(best[1].sizes / n, lo / n, hi / n):
            break
        best = prices, scan
    return best


def _repair(rows: Rows, score: Score, prices: Wide, scan: Scan, lo: int, hi: int) -> Assignment:
    """The optimum from prices near it: rows that have almost a choice take part, the rest is checked.

    Rows left out that are better off elsewhere, at the prices found, take part in the next round.
    """
    n, k = len(rows), len(prices)
    part, same = held(k), SAME * score.most
    chosen, done = _open(scan, hi, part), False
    while True:
        some = np.flatnonzero(chosen)
        known = rows.costs(score, k, some)
        labels, own = scan.labels, scan.least - prices[scan.labels]
        rest = np.bincount(labels[~chosen], minlength=k)
        problem = _problem(rows, known, score, prices, lo - rest, hi - rest)
        done = problem.settle()
        problem.center_prices()
        labels[some], own[some] = problem.labels, problem.own
        prices = problem.final_prices()
        scan = rows.scan(score, prices, exact=True)
        better = own + prices[labels] > scan.least + same
        if done and not better.any():
            bound = scan.least.sum() - float(np.where(prices > 0, hi, lo) @ prices)
            return _proved(score, labels, prices, own.sum(), bound)
        chosen |= better
        if not done:
            part = min(2 * part, n)
            chosen |= _open(scan, hi, part)


def _open(scan: Scan, hi: int, part: int) -> NDArray[np.bool_]:
    """The rows with the smallest margins: of all rows so many, and of a code what it has too many of."""
    chosen = np.zeros(len(scan.labels), dtype=bool)
    chosen[np.argpartition(scan.margins, min(part, len(chosen)) - 1)[:part]] = True
    for code in np.flatnonzero(scan.sizes > hi):
        at = np.flatnonzero(scan.labels == code)
        many = min(2 * int(scan.sizes[code] - hi), len(at))
        chosen[at[np.argpartition(scan.margins[at], many - 1)[:many]]] = True
    return chosen


def _proved(score: Score, labels: Index, prices: Wide, cost: float, bound: float) -> Assignment:
    cost, bound = float(cost) + score.constant, float(bound) + score.constant
    # Where all rows lie on their centres there is only rounding to compare.
    gap = (cost - bound) / cost if cost > SAME * score.constant else 0.0
    return Assignment(labels, prices, max(cost, 0.0), max(gap, 0.0))


def _fit(rows: Rows, centers: Floats, lo: int, hi: int, iters: int, rng: np.random.Generator) -> Balanced:
    n, k, prices, sample = len(rows), len(centers), np.zeros(len(centers)), None
    if n <= held(k):
        centers, prices, history = _lloyd(rows, centers, prices, lo, hi, iters)
    else:
        sample = _sample(rows, k, rng)
        centers, prices, _ = _lloyd(sample, centers, prices, *_share(lo, hi, n, len(sample)), iters, SETTLED)
        centers, prices, history = _many(rows, sample, centers, prices, lo, hi, iters)
    return Balanced(centers, assign(rows, Squares(centers, rows), k, lo, hi, prices, sample), history)


def _lloyd(
    rows: Rows, centers: Floats, prices: Wide, lo: int, hi: int, iters: int, enough: float = 0.0
) -> tuple[Floats, Wide, list[float]]:
    """Iterations with an assignment by paths in each, exact but for the first ones."""
    k, gain = len(centers), 1.0
    history: list[float] = []
    labels: Index | None = None
    for _ in range(iters):
        score = Squares(centers, rows)
        problem = _problem(rows, rows.costs(score, k), score, prices, np.full(k, lo), np.full(k, hi))
        exact = problem.settle(ROUNDS if gain > ROUGH else None)
        problem.center_prices()
        prices = problem.final_prices()
        if exact and (abs(gain) <= enough or (labels is not None and np.array_equal(labels, problem.labels))):
            break
        labels = problem.labels
        centers, inertia = _means(rows, rows.sums(labels, k), problem.sizes, centers)
        history.append(inertia)
        # Where nothing is left over, what an iteration still finds is rounding.
        before = history[-2] if len(history) > 1 else 0.0
        gain = 1 - inertia / before if before > 0 and inertia > 0 else 1.0
    return centers, prices, history


def _many(
    rows: Rows, sample: Rows, centers: Floats, prices: Wide, lo: int, hi: int, iters: int
) -> tuple[Floats, Wide, list[float]]:
    """Iterations over more rows than are held: a scan in each, and prices that follow the sizes it finds."""
    n, k = len(rows), len(centers)
    history: list[float] = []
    for _ in range(iters):
        score = Squares(centers, rows)
        scan = rows.scan(score, prices, sums=True)
        error = sample.scan(score, prices).sizes / len(sample) - scan.sizes / n
        centers, inertia = _means(rows, scan.sums, scan.sizes, centers)
        score = Squares(centers, rows)
        prices = _follow(sample, sample.costs(score, k), score, prices, error, lo / n, hi / n)
        history.append(inertia)
        # The inertia of sizes that are not yet right may stand still by chance.
        if len(history) > AT_LEAST and abs(history[-2] - inertia) <= SETTLED * inertia:
            break
    return centers, prices, history


def _follow(
    sample: Rows, known: Tensor, score: Score, prices: Wide, error: Wide, lo: float, hi: float
) -> Wide:
    """Prices at which a sample, whose sizes are off by `error`, says that all sizes are `lo` to `hi`.

    Sizes, bounds and errors are parts of all rows.
    """
    s = len(sample)
    low = np.floor(s * (lo + error)).clip(0).astype(np.int64)
    high = np.ceil(s * (hi + error)).clip(0).astype(np.int64)
    problem = _problem(sample, known, score, prices, low, high)
    problem.settle()
    problem.center_prices()
    return problem.final_prices()


def _problem(rows: Rows, known: Tensor, score: Score, prices: Wide, low: Index, high: Index) -> Transport:
    """A whole problem, ready for paths, with prices that Newton steps have brought near."""
    n = len(rows)
    prices = reprice(known, prices, low / n, high / n, MANY, 2)
    costs, same = known.cpu().numpy(), SAME * score.most
    labels = cheapest(rows, costs, prices, same)
    return Transport(costs, labels, prices, low, high, same=same, run=rows.run)


def held(k: int) -> int:
    """The rows of a problem that is solved whole."""
    return max(HELD // k, 4 * k)


def _sample(rows: Rows, k: int, rng: np.random.Generator) -> Rows:
    return rows.some(np.sort(rng.choice(len(rows), held(k) // 2, replace=False)))


def _share(lo: int, hi: int, n: int, m: int) -> tuple[int, int]:
    """What bounds for n rows are for m of them."""
    return lo * m // n, -(-hi * m // n)


def _means(rows: Rows, sums: Wide, sizes: Index, otherwise: Floats) -> tuple[Floats, float]:
    """The mean row of every code (one without rows keeps its centre), and the squares to the means."""
    count = np.maximum(sizes, 1)[:, None]
    means = np.where(sizes[:, None] > 0, sums / count, otherwise).astype(np.float32)
    return means, max(rows.squares - float((sums**2 / count).sum()), 0.0)
