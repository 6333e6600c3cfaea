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
from sidbench.kit.workers import Run, workers

Wide = NDArray[np.float64]
# Clusters touched, what their sums and counts gain, and how many rows moved.
Delta = tuple[Index, Wide, Index, int]

WIDE = 320  # rows this wide are first clustered by a sketch of half the columns or fewer
ENOUGH = 1e-3  # the relative gain of an iteration at which that is done
FINE = 5  # iterations over all columns after that


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
    x: Floats,
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

    Wide rows are seeded, and clustered in all but the last five iterations, by a sketch of 160 columns: at
    768 a fifth of the arithmetic. These iterations end when one gains less than a thousandth; the last five
    see every column and settle what the sketch left open.
    """
    coarse_iters = iters - FINE if x.shape[1] >= WIDE else 0
    found: list[KMeans] = []
    with ExitStack() as stack:

        def place(x: Floats) -> Rows:
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
    (Hamerly, SDM 2010). As centres settle, most rows are known to stay without a look at them.
    """

    TILE, SPANS = 1024, 8

    def __init__(self, x: Floats, run: Run) -> None:
        self.x, self.run = x, run
        self.lengths = np.einsum("ij,ij->i", x, x)
        self.squares = float(self.lengths.sum(dtype=np.float64))

    def begin(self, k: int, dimensions: int) -> None:
        super().begin(k, dimensions)
        self.labels = np.full(len(self.x), -1, dtype=np.int64)
        self.upper = np.full(len(self.x), np.inf, dtype=np.float32)
        self.lower = np.zeros(len(self.x), dtype=np.float32)

    def adopt(self, labels: Index) -> None:
        before, self.labels = self.labels, labels.copy()
        self._add([self._delta(0, before, self.labels)])

    def assign(self, centers: Floats) -> int:
        k = len(centers)
        products = tensor(np.ascontiguousarray(centers.T))
        bias = tensor((0.5 * np.einsum("ij,ij->i", centers, centers)).astype(np.float32))
        tile = int(np.clip((1 << 18) // k, 64, self.TILE))
        # A span's size follows from the rows alone, so that their sums do too.
        step = int(np.clip(-(-len(self.x) // self.SPANS), tile, 4 * tile))
        deltas: dict[int, Delta] = {}

        def work(start: int, stop: int) -> None:
            scores, at = torch.empty(tile, k), np.arange(tile)
            before = self.labels[start:stop].copy()
            rows = np.flatnonzero(self.upper[start:stop] >= self.lower[start:stop]) + start
            most = len(rows) > 0.8 * (stop - start)
            for low in range(start, stop, tile) if most else range(0, len(rows), tile):
                where: slice | Index = slice(low, min(low + tile, stop)) if most else rows[low : low + tile]
                z = self.x[where]
                n = len(z)
                torch.addmm(bias, tensor(z), products, alpha=-1, out=scores[:n])
                s = scores[:n].numpy()
                label = s.argmin(axis=1)
                best = s[at[:n], label]
                s[at[:n], label] = np.inf
                second = scores[:n].amin(dim=1).numpy()
                self.labels[where] = label
                self.upper[where] = np.sqrt(np.maximum(2 * best + self.lengths[where], 0))
                self.lower[where] = np.sqrt(np.maximum(2 * second + self.lengths[where], 0))
            deltas[start] = self._delta(start, before, self.labels[start:stop])

        self.run(work, len(self.x), step)
        # In the order of the rows, so that the workers' timing changes nothing.
        return self._add([deltas[start] for start in sorted(deltas)])

    def _add(self, deltas: list[Delta]) -> int:
        for clusters, sums, counts, _ in deltas:
            self.sums[clusters] += sums
            self.counts[clusters] += counts
        return sum(moved for *_, moved in deltas)

    def _delta(self, start: int, before: Index, after: Index) -> Delta:
        """What the rows that changed cluster add to the sums."""
        from scipy.sparse import csr_matrix

        moved = np.flatnonzero(before != after)
        left = moved[before[moved] >= 0]
        clusters, place = np.unique(np.concatenate([after[moved], before[left]]), return_inverse=True)
        sign = np.concatenate([np.ones(len(moved)), -np.ones(len(left))])
        rows = np.concatenate([moved, left])
        counts = np.bincount(place, sign, len(clusters)).astype(np.int64)
        sums = np.zeros((len(clusters), self.x.shape[1]))
        for at in range(0, len(rows), self.TILE):
            part = slice(at, at + self.TILE)
            wide = self.x[rows[part] + start].astype(np.float64)
            one = csr_matrix((sign[part], (place[part], np.arange(len(wide)))), (len(clusters), len(wide)))
            sums += one @ wide
        return clusters, sums, counts, len(moved)

    def follow(self, moves: Wide) -> None:
        order = np.argsort(moves)
        self.upper += moves.astype(np.float32)[self.labels]
        # The farthest move of any *other* centre.
        other = np.full(len(moves), moves[order[-1]], dtype=np.float32)
        other[order[-1]] = moves[order[-2]] if len(moves) > 1 else 0
        self.lower -= other[self.labels]

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


class DeviceRows(Rows):
    """Rows on a torch device, in few large steps; sums by one-hot products, which repeat to the bit."""

    STEP = 1 << 25  # scores held at once

    def __init__(self, x: Floats, device: torch.device) -> None:
        self.x = tensor(x).to(device)
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
