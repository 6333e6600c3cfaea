"""An exact transport problem: rows to codes at the least cost, with a number of rows for every code.

Successive shortest paths (Busacker and Gowen, 1960; potentials after Edmonds and Karp, 1972), not among rows
but in the graph of the codes: the way from one code to another is as long as the cheapest row to move. Rows
that start at their cheapest code, prices included, are in the right place for the sizes that this happens to
give; every path moves one row, or several that cost the same, towards the sizes asked for and keeps that so.
What it ends with is therefore optimal, and the prices prove it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sidbench.kit.nearest import Index
from sidbench.kit.workers import Run

Wide = NDArray[np.float64]


class Transport:
    """Rows at codes, the prices that keep them there, and the sizes still to be reached.

    `costs` (rows, codes) may hold any constant a row. `labels` must be cheapest at `prices` (added to them).
    `low` and `high` bound the size of every code. One node more than there are codes stands for what sizes
    may differ by: a size that may still grow has a free edge to it, one that may still shrink one from it.
    Costs that differ by no more than `same` count as equal.
    """

    def __init__(
        self,
        costs: Wide,
        labels: Index,
        prices: Wide,
        low: Index,
        high: Index,
        *,
        same: float,
        run: Run | None = None,
    ) -> None:
        m, self.k = costs.shape
        self.costs, self.low, self.high = costs, low, high
        self.labels = labels.copy()
        self.own = costs[np.arange(m), labels]
        self.sizes = np.bincount(labels, minlength=self.k)
        self.prices = np.append(prices, 0.0)
        # A price above nothing promises a full code, one below it a code at its least.
        level = np.clip(self.sizes, low, high)
        self.targets = np.where(prices > 0, high, np.where(prices < 0, low, level))
        self.same = same
        # lengths[to, from]: what it costs to move the cheapest row.
        self.lengths = np.full((self.k + 1, self.k + 1), np.inf)
        self.members = np.split(np.argsort(labels, kind="stable"), np.cumsum(self.sizes)[:-1])

        def work(start: int, stop: int) -> None:
            for code in range(start, stop):
                if len(self.members[code]):
                    self.lengths[:-1, code] = self._least(self.members[code])

        if run:
            run(work, self.k, 16)
        else:
            work(0, self.k)
        codes = np.arange(self.k)
        self.lengths[codes, codes] = np.inf
        self._free(codes)

    def excess(self) -> Index:
        """By how many rows every code, and the node of what sizes may differ by, has too many."""
        over = self.sizes - self.targets
        return np.append(over, -over.sum())

    def settle(self, rounds: int | None = None) -> bool:
        """Move rows until all sizes are right; False if rounds or ways run out before."""
        while True:
            excess = self.excess()
            if not excess.any():
                return True
            if rounds == 0:
                return False
            rounds = None if rounds is None else rounds - 1
            far, before = _paths(self._reduced(), excess > 0)
            reached = np.isfinite(far)
            self.prices -= np.where(reached, far, far[reached].max())
            ends = np.flatnonzero((excess < 0) & reached)
            if not len(ends):
                return False
            for end in ends[np.argsort(far[ends], kind="stable")]:
                path = [int(end)]
                while before[path[-1]] >= 0:
                    path.append(int(before[path[-1]]))
                start, steps = path[-1], [(path[i], path[i - 1]) for i in range(len(path) - 1, 0, -1)]
                # Paths before this one in the round may have taken its rows.
                amount = min(excess[start], -excess[end])
                if amount > 0 and all(self._tight(a, b) for a, b in steps):
                    moved = self._move(steps, int(amount))
                    excess[start] -= moved
                    excess[end] += moved

    def final_prices(self) -> Wide:
        """The price of every code, where nothing is what a size between its bounds costs."""
        return np.asarray(self.prices[:-1] - self.prices[-1])

    def center_prices(self) -> None:
        """Put prices that prove the optimum in the middle of all that do.

        Those that paths end with leave as many rows as there are codes with a free choice, and so in the
        wrong place when costs change ever so little.
        """
        reduced = self._reduced()
        root = np.zeros(self.k + 1, dtype=bool)
        root[self.k if np.isfinite(reduced[:, self.k]).any() else 0] = True
        for sign, lengths in ((-0.5, reduced), (0.5, reduced.T)):
            far, _ = _paths(lengths, root)
            self.prices += sign * np.where(np.isfinite(far), far, far[np.isfinite(far)].max())

    def _reduced(self) -> Wide:
        return np.asarray(np.maximum(self.lengths + self.prices[:, None] - self.prices, 0.0))

    def _tight(self, a: int, b: int) -> bool:
        return bool(self.lengths[b, a] + self.prices[b] - self.prices[a] <= self.same)

    def _move(self, steps: list[tuple[int, int]], amount: int) -> int:
        """Move rows along every step of a path: as many as all of its steps can."""
        z, chosen = self.k, {}
        for a, b in steps:
            if b == z:
                amount = min(amount, int(self.high[a] - self.targets[a]))
            elif a == z:
                amount = min(amount, int(self.targets[b] - self.low[b]))
            else:
                rows = self.members[a]
                gap = self.costs[rows, b] - self.own[rows]
                chosen[a, b] = rows[gap <= self.lengths[b, a] + self.same]
                amount = min(amount, len(chosen[a, b]))
        for a, b in steps:
            if b == z:
                self.targets[a] += amount
                self._free(np.array([a]))
            elif a == z:
                self.targets[b] -= amount
                self._free(np.array([b]))
        moves = [(a, b, rows[:amount]) for (a, b), rows in chosen.items()]
        for a, _, rows in moves:
            self._leave(a, rows)
        for _, b, rows in moves:
            self._join(b, rows)
        return amount

    def _leave(self, a: int, rows: Index) -> None:
        mine = self.members[a]
        gone = mine == rows if len(rows) == 1 else np.isin(mine, rows)
        mine = self.members[a] = mine[~gone]
        self.sizes[a] -= len(rows)
        # Only the codes that one of these rows was the cheapest to move to.
        codes = np.flatnonzero(self._least(rows) <= self.lengths[:-1, a])
        self.lengths[codes, a] = self._least(mine, codes) if len(mine) else np.inf
        self.lengths[a, a] = np.inf

    def _join(self, b: int, rows: Index) -> None:
        self.labels[rows] = b
        self.own[rows] = self.costs[rows, b]
        self.members[b] = np.concatenate([self.members[b], rows])
        self.sizes[b] += len(rows)
        self.lengths[:-1, b] = np.minimum(self.lengths[:-1, b], self._least(rows))
        self.lengths[b, b] = np.inf

    def _least(self, rows: Index, codes: Index | None = None) -> Wide:
        """What the cheapest of these rows costs to move, to every code or to some."""
        to = self.costs[rows] if codes is None else self.costs[rows[:, None], codes]
        gaps: Wide = to - self.own[rows][:, None]
        least: Wide = gaps.min(axis=0)
        return least

    def _free(self, codes: Index) -> None:
        self.lengths[self.k, codes] = np.where(self.targets[codes] < self.high[codes], 0.0, np.inf)
        self.lengths[codes, self.k] = np.where(self.targets[codes] > self.low[codes], 0.0, np.inf)


def _paths(lengths: Wide, starts: NDArray[np.bool_]) -> tuple[Wide, Index]:
    """How far every node is from the nearest start by lengths[to, from], and the node before it."""
    far = np.where(starts, 0.0, np.inf)
    before = np.full(len(far), -1)
    front, nodes = np.flatnonzero(starts), np.arange(len(far))
    while len(front):
        through = lengths[:, front] + far[front]
        best = through.argmin(axis=1)
        length = through[nodes, best]
        nearer = np.flatnonzero(length < far)
        far[nearer], before[nearer] = length[nearer], front[best[nearer]]
        front = nearer
    return far, before
