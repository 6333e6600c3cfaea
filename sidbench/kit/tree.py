"""Trees of centres: every node's rows split by k-means of their own, thousands of nodes at a time.

A level holds the children of all its nodes in one array, those of node p at `first[p]` to `first[p + 1]`.
Nodes of few rows go through k-means together, padded to one shape; a node of many rows has one to itself.
Which child is nearest is decided as in `nearest`: a product proposes, and where it might round wrongly,
float64 distances decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidbench.kit import residual
from sidbench.kit.device import full_precision, tensor
from sidbench.kit.kmeans import kmeans
from sidbench.kit.nearest import PAIRS, TINY, UNIT, Floats, Index
from sidbench.kit.workers import workers
from sidbench.progress import report

FEW = 1024  # a node of at most this many rows shares its k-means with others
HELD = 1 << 22  # numbers of a padded batch held at once, by one worker
CAREFUL = 32  # centres that are the best of several candidates
FARTHEST = float(np.finfo(np.float32).max) / 4  # what no squared distance is larger than
ROWS = 256  # rows of one node searched at a time


@dataclass(frozen=True, eq=False)
class Level:
    """One level of a tree: the children of its nodes. A child is a node of the next level."""

    parents: Floats  # (nodes, dimensions): the centre of every node
    centers: Floats  # (children, dimensions)
    first: Index  # (nodes + 1,): where a node's children begin

    @property
    def counts(self) -> Index:
        """The number of children of every node."""
        return np.diff(self.first)

    def child(self, x: Floats, node: Index, device: str = "cpu") -> Index:
        """The nearest child of each row's node, exactly; of equally near ones the first.

        The root's children are searched by the device; those of many nodes, few rows each, by the processor.
        """
        if len(self.parents) == 1:
            return residual.encode(x, [self.centers], device=device)[:, 0].astype(np.int64)
        found = self.first[node].copy()
        order, jobs = _jobs(node, np.where(self.counts > 1, ROWS, 0))
        batches = list(_batches(jobs, self.counts[jobs[:, 0]], x.shape[1], HELD))

        def work(start: int, stop: int) -> None:
            for batch in batches[start:stop]:
                self._search(self._gather(x, jobs[batch], order), x, found)

        with workers() as run:
            run(work, len(batches), 1)
        return found

    def distances(self, x: Floats, node: Index, size: int) -> Floats:
        """(n, size) squared distances to the children of each row's node; infinite where there is none."""
        out = np.full((len(x), size), np.inf, dtype=np.float32)
        order, jobs = _jobs(node, np.full(len(self.parents), ROWS))
        for batch in _batches(jobs, self.counts[jobs[:, 0]], x.shape[1], HELD):
            g = self._gather(x, jobs[batch], order)
            z, c = g.z.astype(np.float64), g.c.astype(np.float64)
            squares = np.square(z).sum(axis=2)[..., None] + np.square(c).sum(axis=2)[:, None]
            squares -= 2.0 * (z @ c.transpose(0, 2, 1))
            squares = np.where(g.alive[:, None], np.clip(squares, 0.0, FARTHEST), np.inf)
            out[g.rows[g.real], : squares.shape[2]] = squares[g.real]
        return out

    def _gather(self, x: Floats, jobs: Index, order: Index) -> Gathered:
        node = jobs[:, 0]
        at, real = _padded(jobs[:, 1], jobs[:, 2])
        kids, alive = _padded(self.first[node], self.counts[node])
        rows, middle = order[at], self.parents[node][:, None]
        return Gathered(rows, real, kids, alive, x[rows] - middle, self.centers[kids] - middle)

    def _search(self, g: Gathered, x: Floats, found: Index) -> None:
        """Write the nearest child of every gathered row to `found`."""
        d = x.shape[1]
        with np.errstate(all="ignore"):  # overflow gives inf or NaN here, and so doubt
            half = 0.5 * np.einsum("bkd,bkd->bk", g.c, g.c)
            bias = np.where(g.alive, half, np.float32(np.inf))
            s = torch.baddbmm(tensor(bias)[:, None], tensor(g.z), tensor(g.c).mT, alpha=-1).numpy()
            code = s.argmin(axis=2)
            best = np.take_along_axis(s, code[..., None], axis=2)[..., 0]
            # Twice the error of a score: that of the product, of the rows' and centres' own rounding, and of
            # the centre's squares, which are summed in float32.
            radius = np.sqrt(2 * np.where(g.alive, half, 0).max(axis=1))[:, None]
            length = np.sqrt(np.einsum("bnd,bnd->bn", g.z, g.z))
            margin = UNIT * (d + 8) * radius * (2 * length + radius) + d * TINY
            asked = ~(s > (best + margin)[..., None]) & g.alive[:, None]
            doubt = (asked.sum(axis=2) > 1) & g.real
        found[g.rows[g.real]] = np.take_along_axis(g.kids, code, axis=1)[g.real]
        job, place, kid = np.nonzero(asked & doubt[..., None])
        if len(job):
            row, nearest = decide(x, self.centers, g.rows[job, place], g.kids[job, kid])
            found[row] = nearest


@dataclass(frozen=True, eq=False)
class Gathered:
    """The rows and children of some jobs, padded to one shape and taken from their node's centre."""

    rows: Index  # (jobs, rows)
    real: NDArray[np.bool_]
    kids: Index  # (jobs, children)
    alive: NDArray[np.bool_]
    z: Floats  # (jobs, rows, dimensions)
    c: Floats  # (jobs, children, dimensions)


def decide(x: Floats, centers: Floats, row: Index, center: Index) -> tuple[Index, Index]:
    """Every row asked about and the nearest of its centres by float64 distance; a tie goes to the first."""
    distance = np.empty(len(row))
    step = max(1, PAIRS // x.shape[1])
    for start in range(0, len(row), step):
        pairs = slice(start, start + step)
        gap = x[row[pairs]].astype(np.float64) - centers[center[pairs]]
        # The sum along a contiguous axis has one order, whatever the number of rows.
        distance[pairs] = np.square(gap, out=gap).sum(axis=1)
    order = np.lexsort((center, distance, row))
    rows, at = np.unique(row[order], return_index=True)
    return rows, center[order[at]]


def split(
    x: Floats,
    node: Index,
    parents: Floats,
    size: int,
    keys: NDArray[np.uint64],
    *,
    scale: np.float32,
    iters: int,
    seed: int,
    device: torch.device,
) -> Level:
    """Split every node's rows into at most `size` children.

    A node with at most that many distinct rows (equal `keys`) makes each of them a child. Children without
    rows are dropped, and those of a node stand by falling number of rows.
    """
    order = np.lexsort((keys, node))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(keys[order]) != 0) | (np.diff(node[order]) != 0)
    distinct = np.bincount(node[order[new]], minlength=len(parents))
    whole = distinct <= size
    own = order[new & whole[node[order]]]  # the first row of every distinct one
    centers, owner = [x[own]], [node[own]]
    sizes = np.bincount(node, minlength=len(parents))
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    large = np.flatnonzero(~whole & (sizes > FEW))
    for done, p in enumerate(large):
        report("split", done, len(large))
        rows = np.sort(order[starts[p] : starts[p] + sizes[p]])
        z = (x[rows] - parents[p]) * scale
        found = kmeans(z, size, iters=iters, seed=int(rng.integers(2**32)), device=str(device))
        centers.append(found.centers / scale + parents[p])
        owner.append(np.full(size, p))
    small = np.flatnonzero(~whole & (sizes <= FEW))
    jobs = np.stack([small, starts[small], sizes[small]], axis=1)
    batches = list(_batches(jobs, np.maximum(sizes[small], size), x.shape[1], HELD))
    streams = np.random.SeedSequence(int(rng.integers(2**32))).spawn(len(batches))
    split_up: dict[int, Floats] = {}

    def work(start: int, stop: int) -> None:
        for i in range(start, stop):
            p, at = jobs[batches[i], 0], order[_padded(*jobs[batches[i], 1:].T)[0]]
            z = tensor((x[at] - parents[p][:, None]) * scale).to(device)
            draws = np.random.default_rng(streams[i])
            found = kmeans_of_many(z, jobs[batches[i], 2], size, iters, draws).cpu().numpy()
            split_up[i] = (found / scale + parents[p][:, None]).reshape(-1, x.shape[1])

    if device.type == "cpu":
        with workers() as run:
            run(work, len(batches), 1)
    else:
        with full_precision():
            work(0, len(batches))
    centers += [split_up[i] for i in range(len(batches))]
    owner += [np.repeat(jobs[batch, 0], size) for batch in batches]
    return _in_use(x, node, parents, np.concatenate(centers), np.concatenate(owner))


def _in_use(x: Floats, node: Index, parents: Floats, centers: Floats, owner: Index) -> Level:
    """The level of the centres that some row is nearest to."""

    def level(order: Index) -> Level:
        first = np.searchsorted(owner[order], np.arange(len(parents) + 1))
        return Level(parents, centers[order].astype(np.float32), first.astype(np.int64))

    def rows(order: Index) -> Index:
        return np.bincount(level(order).child(x, node), minlength=len(order))

    order = np.argsort(owner, kind="stable")
    order = order[np.lexsort((-rows(order), owner[order]))]
    # Counted anew: of equally near centres the first wins, and another may be first now.
    return level(order[rows(order) > 0])


def kmeans_of_many(z: Tensor, counts: Index, size: int, iters: int, rng: np.random.Generator) -> Tensor:
    """k-means++ and Lloyd's iterations for many small sets of rows at once: (sets, size, dimensions) centres.

    `z` holds `counts` rows of each set and padding. A cluster left empty takes over the row farthest from
    its centre. It ends when no row of any set changes cluster.
    """
    real = torch.arange(z.shape[1], device=z.device) < tensor(counts).to(z.device)[:, None]
    z = z * real[..., None]
    squares = z.square().sum(dim=2)
    each = torch.arange(len(z), device=z.device)[:, None]
    centers = z[each, _plus_plus(z, squares, real, counts, size, rng)]
    before = torch.empty(0)
    for _ in range(iters):
        scores = torch.baddbmm(0.5 * centers.square().sum(dim=2)[:, None], z, centers.mT, alpha=-1)
        best, label = scores.min(dim=2)
        if label.shape == before.shape and bool((label == before).all()):
            break
        before = label
        one = scores.zero_().scatter_(2, label[..., None], real[..., None].to(z.dtype))
        count = one.sum(dim=1)[..., None]
        centers = torch.where(count > 0, torch.bmm(one.mT, z) / count.clamp(min=1), centers)
        empty = count[..., 0] == 0
        if bool(empty.any()):
            far = torch.where(real, squares + 2 * best, -torch.inf).sort(dim=1, descending=True, stable=True)
            turn = (empty.cumsum(dim=1) - 1).clamp(0, z.shape[1] - 1)
            centers = torch.where(empty[..., None], z[each, far.indices.gather(1, turn)], centers)
    return centers


def _plus_plus(
    z: Tensor, squares: Tensor, real: Tensor, counts: Index, size: int, rng: np.random.Generator
) -> Tensor:
    """The rows of the first centres of every set, drawn by squared distance.

    The first few, which shape the rest, are the best of several candidates.
    """
    tries = 2 + int(np.log(size))
    apart = torch.baddbmm(squares[:, None], z, z.mT, alpha=-2).add_(squares[..., None]).clamp_(min=0)
    apart *= real[:, None]  # padding is at no distance, so that it is never drawn
    each = torch.arange(len(z), device=z.device)
    drawn = tensor(rng.random((size, len(z), tries))).to(z.device)
    picked = (drawn[0, :, 0] * tensor(counts).to(z.device)).long()[:, None]
    near = apart[each, picked[:, 0]]
    for turn in range(1, size):
        # In whole numbers, whose sums have no order: the same draws on every device.
        weight = (near / near.amax(dim=1, keepdim=True).clamp(min=TINY) * 2**30).long().cumsum(dim=1)
        aim = (drawn[turn, :, : tries if turn < CAREFUL else 1] * weight[:, -1:]).long()
        rows = torch.searchsorted(weight, aim, right=True).clamp_(max=z.shape[1] - 1)
        then = torch.minimum(apart[each[:, None], rows], near[:, None])
        best = then.sum(dim=2).argmin(dim=1) if then.shape[1] > 1 else torch.zeros_like(each)
        near = then[each, best]
        picked = torch.cat((picked, rows[each, best][:, None]), dim=1)
    return picked


def _jobs(node: Index, most: Index) -> tuple[Index, Index]:
    """Rows in the order of their nodes, and that order cut into jobs of (node, start, rows).

    A job has at most `most[node]` rows; nodes where that is 0 get none.
    """
    order = np.argsort(node, kind="stable")
    nodes, start, rows = np.unique(node[order], return_index=True, return_counts=True)
    there = most[nodes] > 0
    nodes, start, rows = nodes[there], start[there], rows[there]
    parts = -(-rows // most[nodes])
    number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    at = number * np.repeat(most[nodes], parts)
    take = np.minimum(np.repeat(rows, parts) - at, np.repeat(most[nodes], parts))
    return order, np.stack([np.repeat(nodes, parts), np.repeat(start, parts) + at, take], axis=1)


def _batches(jobs: Index, width: Index, dimensions: int, held: int) -> Iterator[Index]:
    """Jobs of about the same shape together, so that padding is little; as many as `held` numbers allow."""
    shape = np.stack([_rounded(jobs[:, 2]), _rounded(width)], axis=1)
    order = np.lexsort(shape.T)
    cuts = np.flatnonzero((np.diff(shape[order], axis=0) != 0).any(axis=1)) + 1
    for group in np.split(order, cuts):
        if len(group):
            rows, columns = (int(s) for s in shape[group[0]])
            step = max(1, held // (rows * columns + (rows + columns) * dimensions))
            yield from (group[at : at + step] for at in range(0, len(group), step))


def _rounded(counts: Index) -> Index:
    """Counts rounded up to one of four steps within every power of two."""
    unit = 2 ** np.maximum(np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64) - 2, 0)
    rounded: Index = -(-counts // unit) * unit
    return rounded


def _padded(start: Index, count: Index) -> tuple[Index, NDArray[np.bool_]]:
    """Places start..start + count as rows of one width, filled up with the first; and which are real."""
    step = np.arange(count.max())
    real = step < count[:, None]
    return np.where(real, start[:, None] + step, start[:, None]), real
