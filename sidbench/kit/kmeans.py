"""k-means: Lloyd's iterations over all rows from k-means++ centres, on a processor or a CUDA device.

float32 rows, sums in float64. An empty cluster takes over the row farthest from its centre (several empty
ones: the next farthest), out of a cluster that keeps at least one row; where all rows lie on their centres
it stays empty and keeps its centre. One seed on one machine gives one result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sidbench.kit.device import full_precision, tensor
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.seeding import plus_plus
from sidbench.kit.sketch import sketch
from sidbench.kit.streamed import Residuals, pieces_of, sent
from sidbench.kit.workers import Run, workers

Wide = NDArray[np.float64]
# Clusters touched, and what their sums and counts gain.
Delta = tuple[Index, Wide, Index]

WIDE = 320  # rows this wide are first clustered by a sketch of half the columns or fewer
ENOUGH = 1e-3  # the relative gain of an iteration at which that is done
FINE = 3  # iterations over all columns after that
# What a look at the own centre costs, in centres: a copy of both, and steps that weigh on narrow rows.
ASIDE, STEPS = 50, 2400


@dataclass(frozen=True, eq=False)
class KMeans:
    """What k-means learned: centres, the cluster of every row, and the sum of squared distances."""

    centers: Floats
    labels: Index
    #: The inertia after every iteration; it never rises, but for rounding.
    history: list[float]

    @property
    def inertia(self) -> float:
        return self.history[-1]


def kmeans(
    x: Floats | Residuals,
    k: int,
    *,
    iters: int = 25,
    starts: int = 1,
    tol: float = 0.0,
    seed: int = 0,
    device: str = "cpu",
) -> KMeans:
    """The best of `starts` runs of up to `iters` iterations each.

    A run ends early when no row changes cluster, or when an iteration lowers the inertia by no more than
    `tol` times its value. Rows far from the origin should be centred first.

    Wide rows are seeded, and clustered in all but the last three iterations, by a sketch of 160 columns: at
    768 a fifth of the arithmetic. These iterations end when one gains less than a thousandth; the last three
    see every column and settle what the sketch left open.
    """
    coarse_iters = iters - FINE if x.shape[1] >= WIDE else 0
    found: list[KMeans] = []
    with ExitStack() as stack:

        def place(x: Floats | Residuals) -> Rows:
            return CoreRows(x, run) if run else DeviceRows(x, torch.device(device))

        run = stack.enter_context(workers()) if torch.device(device).type == "cpu" else None
        stack.enter_context(full_precision())
        small = sketch(x, run) if x.shape[1] >= WIDE else x
        rows = place(x)
        coarse = place(small) if coarse_iters > 0 else rows
        for stream in np.random.SeedSequence(seed).spawn(starts):
            first = plus_plus(small, k, np.random.default_rng(stream), run)
            if coarse_iters > 0:
                labels = lloyd(coarse, small[first], coarse_iters, max(tol, ENOUGH)).labels
                found.append(lloyd(rows, x[first], min(iters, FINE), tol, labels))
            else:
                found.append(lloyd(rows, x[first], iters, tol))
    return min(found, key=lambda run: run.inertia)


def lloyd(rows: Rows, centers: Floats, iters: int, tol: float = 0.0, labels: Index | None = None) -> KMeans:
    """Lloyd's iterations from these centres, or from the means of these clusters where they have rows."""
    rows.begin(len(centers), centers.shape[1])
    if labels is not None:
        rows.adopt(labels)
        centers = rows.means(centers)
    history: list[float] = []
    for _ in range(iters):
        if not rows.assign(centers) and history:
            break
        rows.fill_empty(centers)
        moved = rows.means(centers)
        rows.follow(np.sqrt(np.square(moved.astype(np.float64) - centers).sum(axis=1)))
        centers = moved
        history.append(
            max(rows.squares - float((rows.sums**2 / np.maximum(rows.counts, 1)[:, None]).sum()), 0.0)
        )
        if len(history) > 1 and history[-2] - history[-1] <= tol * history[-2] and tol > 0:
            break
    return KMeans(centers, rows.cluster_of_each(), history)


class Rows(ABC):
    """The rows where they live, with what an iteration must know: clusters, their sums and sizes."""

    squares: float  # sum of the squared lengths of all rows
    sums: Wide  # (k, dimensions)
    counts: Index  # (k,)

    def begin(self, k: int, dimensions: int) -> None:
        self.sums = np.zeros((k, dimensions))
        self.counts = np.zeros(k, dtype=np.int64)

    @abstractmethod
    def adopt(self, labels: Index) -> None:
        """Begin with these clusters."""

    def means(self, otherwise: Floats) -> Floats:
        """The mean row of every cluster; an empty one keeps its centre."""
        count = self.counts[:, None]
        return np.where(count > 0, self.sums / np.maximum(count, 1), otherwise).astype(np.float32)

    @abstractmethod
    def assign(self, centers: Floats) -> int:
        """Move every row to its nearest centre; sums and counts follow. Returns how many rows moved."""

    @abstractmethod
    def farthest(self, centers: Floats) -> tuple[Index, Wide]:
        """Rows by falling distance from their centre (as many as there are clusters), and these distances."""

    @abstractmethod
    def move(self, row: int, to: int) -> None:
        """Put one row into another cluster; sums and counts follow."""

    @abstractmethod
    def cluster_of_each(self) -> Index:
        """The cluster of every row."""

    def follow(self, moves: Wide) -> None:  # noqa: B027 - only rows with bounds care
        """Centres have moved this far."""

    def fill_empty(self, centers: Floats) -> None:
        """Give every empty cluster the farthest row that its own can spare."""
        empty = np.flatnonzero(self.counts == 0)
        if not len(empty):
            return
        labels = self.cluster_of_each()
        donors = (int(row) for row, far in zip(*self.farthest(centers), strict=True) if far > 0)
        for cluster in empty:
            spare = next((row for row in donors if self.counts[labels[row]] > 1), None)
            if spare is None:
                return
            self.move(spare, int(cluster))


class CoreRows(Rows):
    """Rows in memory, searched by a worker a core.

    Every row keeps an upper bound on the distance to its own centre and a lower bound on that to any other
    (Hamerly, SDM 2010). One centre on the move would lower all of them, so rows in doubt are first compared
    with their own centre and those that moved most: the others lower the bound by the largest move of the
    rest alone, and few rows are left for a look at all centres.
    """

    HELD, SPAN, PARTS = 1 << 19, 8192, 16  # numbers in hand, rows of a task, partial sums
    SHARES = (16, 8, 4, 3, 2)  # the centres that moved most are one in so many, as pays best

    def __init__(self, x: Floats | Residuals, run: Run) -> None:
        self.x, self.run = x, run
        self.lengths = np.concatenate([np.einsum("ij,ij->i", some, some) for some in pieces_of(x)])
        self.squares = float(self.lengths.sum(dtype=np.float64))

    def begin(self, k: int, dimensions: int) -> None:
        super().begin(k, dimensions)
        self.labels = np.full(len(self.x), -1, dtype=np.int64)
        self.upper = np.full(len(self.x), np.inf, dtype=np.float32)
        self.lower = np.zeros(len(self.x), dtype=np.float32)
        self.moves, self.movers = np.zeros(k, dtype=np.float32), np.zeros(0, dtype=np.int64)

    def adopt(self, labels: Index) -> None:
        before, self.labels = self.labels, labels.copy()
        self._add(np.arange(len(labels)), before)

    def assign(self, centers: Floats) -> int:
        search = Search(centers, self.moves, self.movers)
        tile = self._tile(len(centers))
        # A task's size follows from the rows alone, so that the sums do too.
        step = int(np.clip(-(-len(self.x) // self.PARTS), tile, self.SPAN))
        spans: dict[int, tuple[Index, Index]] = {}

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            lengths, labels = self.lengths[part], self.labels[part]
            upper, lower = self.upper[part], self.lower[part]
            before = labels.copy()
            rows = _or_all(search.in_doubt(labels, upper, lower), len(labels))
            if len(self.movers):
                left = [rows[:0]]
                for at in range(0, len(rows), tile):
                    some = _together(rows[at : at + tile])
                    up, low = search.among_movers(self._read(start, some), lengths[some], labels[some])
                    upper[some], lower[some] = up, np.minimum(low, lower[some])
                    left.append(rows[at : at + tile][up >= lower[some]])
                rows = _or_all(np.concatenate(left), len(labels))
            held = torch.empty(tile, len(centers))
            for at in range(0, len(rows), tile):
                some = _together(rows[at : at + tile])
                labels[some], upper[some], lower[some] = search.among_all(
                    self._read(start, some), lengths[some], labels[some], held
                )
            moved = np.flatnonzero(before != labels)
            spans[start] = moved + start, before[moved]

        self.run(work, len(self.x), step)
        # In the order of the rows, so that the workers' timing changes nothing.
        moved, before = (np.concatenate([spans[at][i] for at in sorted(spans)]) for i in (0, 1))
        self._add(moved, before)
        return len(moved)

    def _add(self, rows: Index, before: Index) -> None:
        """Rows that changed cluster change the sums and counts of both."""
        deltas: dict[int, Delta] = {}

        def work(start: int, stop: int) -> None:
            deltas[start] = self._delta(rows[start:stop], before[start:stop])

        self.run(work, len(rows), max(2048, -(-len(rows) // self.PARTS)))
        for start in sorted(deltas):
            clusters, sums, counts = deltas[start]
            self.sums[clusters] += sums
            self.counts[clusters] += counts

    def _delta(self, rows: Index, before: Index) -> Delta:
        from scipy.sparse import csc_matrix

        after = self.labels[rows]
        ends, sign = after[:, None], [1.0]
        if before[0] >= 0:  # either all rows come from a cluster or none does
            ends, sign = np.stack([after, before], axis=1), [1.0, -1.0]
        place = np.zeros(len(self.counts), dtype=np.int64)
        place[ends] = 1
        clusters = np.flatnonzero(place)
        place[clusters] = np.arange(len(clusters))
        ends = place[ends]
        signs = np.tile(sign, len(rows))
        counts = np.bincount(ends.ravel(), signs, len(clusters)).astype(np.int64)
        sums = np.zeros((len(clusters), self.x.shape[1]))
        step = self._tile(0)
        for at in range(0, len(rows), step):
            wide = self.x[_together(rows[at : at + step])].astype(np.float64)
            to = ends[at : at + step]
            starts = np.arange(0, to.size + 1, len(sign))
            shape = len(clusters), len(wide)
            sums += csc_matrix((signs[: to.size], to.ravel(), starts), shape) @ wide
        return clusters, sums, counts

    def _read(self, start: int, some: slice | Index) -> Floats:
        """Rows of a task, which begins at `start`."""
        if isinstance(some, slice):
            return self.x[start + some.start : start + some.stop]
        return self.x[start + some]

    def _tile(self, k: int) -> int:
        """Rows whose values and scores stay in a core's cache."""
        return int(np.clip(self.HELD // max(k, self.x.shape[1]), 64, 2048))

    def follow(self, moves: Wide) -> None:
        """Bounds follow when they are next looked at; here only how many centres to compare first."""
        self.moves = moves.astype(np.float32)
        order = np.argsort(-moves, kind="stable")
        some = slice(None, None, -(-len(self.x) // 8192))
        upper, lower = self.upper[some] + self.moves[self.labels[some]], self.lower[some]
        k, asked = len(moves), float((upper >= lower - _other(self.moves)[self.labels[some]]).mean())
        costs = {0: asked}
        for count in {k // share for share in self.SHARES} - {0}:
            left = float((upper >= lower - self.moves[order[count]]).mean())
            costs[count] = asked * (count + ASIDE + STEPS / self.x.shape[1]) / k + min(left, asked)
        self.movers = order[: min(costs, key=lambda count: costs[count])]

    def farthest(self, centers: Floats) -> tuple[Index, Wide]:
        far = np.empty(len(self.x))
        for at in range(0, len(far), 4096):
            part = slice(at, at + 4096)
            far[part] = np.square(self.x[part].astype(np.float64) - centers[self.labels[part]]).sum(axis=1)
        rows = np.argsort(-far, kind="stable")[: len(centers)]
        return rows, far[rows]

    def move(self, row: int, to: int) -> None:
        self.sums[self.labels[row]] -= self.x[row]
        self.counts[self.labels[row]] -= 1
        self.sums[to] += self.x[row]
        self.counts[to] += 1
        self.labels[row] = to
        self.upper[row], self.lower[row] = np.inf, 0  # looked at again next time

    def cluster_of_each(self) -> Index:
        return self.labels


class Search:
    """The centres of one iteration, made ready for rows with bounds."""

    def __init__(self, centers: Floats, moves: Floats, movers: Index) -> None:
        half = (0.5 * np.einsum("ij,ij->i", centers, centers)).astype(np.float32)
        self.centers, self.half, self.moves = centers, half, moves
        self.bias, self.products = tensor(half), tensor(np.ascontiguousarray(centers.T))
        self.other, self.rest = _other(moves), np.float32(0)
        if len(movers):
            self.rest = np.delete(moves, movers).max()
            self.column = np.full(len(centers), -1)
            self.column[movers] = np.arange(len(movers))
            self.bias_movers = tensor(half[movers])
            self.products_movers = tensor(np.ascontiguousarray(centers[movers].T))
        self.some = len(movers) > 0

    def in_doubt(self, labels: Index, upper: Floats, lower: Floats) -> Index:
        """Moves both bounds as the centres moved; the rows that may have a new nearest centre."""
        upper += self.moves[labels]
        fall = self.other[labels]
        doubt = upper >= lower - fall
        lower -= np.where(doubt, self.rest, fall) if self.some else fall
        return np.flatnonzero(doubt)

    def among_movers(self, z: Floats, lengths: Floats, labels: Index) -> tuple[Floats, Floats]:
        """The distance to the own centre, and the least to one that moved much."""
        s = torch.addmm(self.bias_movers, tensor(z), self.products_movers, alpha=-1)
        column = self.column[labels]
        own = np.flatnonzero(column >= 0)
        s.numpy()[own, column[own]] = np.inf
        mine = self.half[labels] - np.einsum("ij,ij->i", z, self.centers[labels])
        return _distance(mine, lengths), _distance(s.amin(dim=1).numpy(), lengths)

    def among_all(
        self, z: Floats, lengths: Floats, labels: Index, held: torch.Tensor
    ) -> tuple[Index, Floats, Floats]:
        """The nearest centre, the distance to it, and that to the next.

        Most rows stay where they are, and of these only the least of the others is looked for.
        """
        scores = torch.addmm(self.bias, tensor(z), self.products, alpha=-1, out=held[: len(z)])
        s, label = scores.numpy(), np.maximum(labels, 0)
        flat, own = s.reshape(-1), np.arange(0, s.size, s.shape[1]) + label
        best = flat[own]
        flat[own] = np.inf
        second = scores.amin(dim=1).numpy()
        leave = np.flatnonzero(second < best)
        if len(leave):
            some = s[leave]
            label[leave] = some.argmin(axis=1)
            some[np.arange(len(leave)), label[leave]] = best[leave]
            best[leave], second[leave] = second[leave], torch.from_numpy(some).amin(dim=1).numpy()
        return label, _distance(best, lengths), _distance(second, lengths)


def _distance(score: Floats, lengths: Floats) -> Floats:
    """From |c|^2 / 2 - xc and |x|^2."""
    squares: Floats = 2 * score
    squares += lengths
    np.maximum(squares, 0, out=squares)
    return np.sqrt(squares, out=squares)


def _other(moves: Floats) -> Floats:
    """For every centre the largest move of any other."""
    order = np.argsort(-moves)
    other = np.full_like(moves, moves[order[0]])
    other[order[0]] = moves[order[1]] if len(moves) > 1 else 0
    return other


def _or_all(rows: Index, n: int) -> Index:
    """All n rows where these are most of them: to gather them would cost more than to look at the others."""
    return np.arange(n) if len(rows) > 0.8 * n else rows


def _together(rows: Index) -> slice | Index:
    """Neighbours as a slice, which needs no copy."""
    return slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows


class DeviceRows(Rows):
    """Rows on a torch device, in few large steps; sums by one-hot products, which repeat to the bit."""

    STEP = 1 << 25  # scores held at once

    def __init__(self, x: Floats | Residuals, device: torch.device) -> None:
        self.x = sent(x, device)
        self.squares = float(sum(part.double().square().sum() for part in torch.split(self.x, 1 << 16)))

    def begin(self, k: int, dimensions: int) -> None:
        super().begin(k, dimensions)
        self.labels = torch.full((len(self.x),), -1, device=self.x.device)

    def adopt(self, labels: Index) -> None:
        self.labels = tensor(labels).to(self.x.device)
        self._sum(len(self.counts))

    def assign(self, centers: Floats) -> int:
        k = len(centers)
        c = tensor(centers).to(self.x.device)
        bias = 0.5 * c.square().sum(dim=1)
        moved = torch.zeros((), dtype=torch.int64, device=c.device)
        step = max(256, self.STEP // k)
        for at in range(0, len(self.x), step):
            z = self.x[at : at + step]
            label = torch.addmm(bias, z, c.T, alpha=-1).argmin(dim=1)
            moved += (label != self.labels[at : at + step]).sum()
            self.labels[at : at + step] = label
        self._sum(k)
        return int(moved)

    def _sum(self, k: int) -> None:
        sums = torch.zeros(self.sums.shape, dtype=torch.float64, device=self.x.device)
        step = max(256, self.STEP // k)
        for z, label in zip(torch.split(self.x, step), torch.split(self.labels, step), strict=True):
            one = torch.zeros(len(z), k, dtype=torch.float64, device=self.x.device)
            sums += one.scatter_(1, label[:, None], 1.0).T @ z.double()
        self.sums = sums.cpu().numpy()
        self.counts = torch.bincount(self.labels, minlength=k).cpu().numpy()

    def farthest(self, centers: Floats) -> tuple[Index, Wide]:
        c = tensor(centers).to(self.x.device)
        parts = zip(torch.split(self.x, 1 << 16), torch.split(self.labels, 1 << 16), strict=True)
        far = torch.cat([(part.double() - c[label]).square().sum(dim=1) for part, label in parts])
        found = far.sort(descending=True, stable=True)
        rows = found.indices[: len(centers)]
        return rows.cpu().numpy(), far[rows].cpu().numpy()

    def move(self, row: int, to: int) -> None:
        values = self.x[row].double().cpu().numpy()
        label = int(self.labels[row])
        self.sums[label] -= values
        self.counts[label] -= 1
        self.sums[to] += values
        self.counts[to] += 1
        self.labels[row] = to

    def cluster_of_each(self) -> Index:
        return self.labels.cpu().numpy()
