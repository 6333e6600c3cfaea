"""Rows at the cheapest of k codes, each with a price: scans in tiles, and a Newton step on the prices.

n x k numbers are never held whole; on a CUDA device a scan reads nothing back before its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sidbench.kit.device import tensor
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.streamed import Residuals, sent
from sidbench.kit.transport import Wide
from sidbench.kit.workers import Run

TILE, STEP = 512, 1 << 25  # rows of a worker's tile; costs of one step on a device
SPANS = 64  # parts that are summed apart, so that the workers' timing changes nothing
Bound = float | Wide
BAND = 0.03  # the least part of the rows whose choice a Newton step takes for open
NEWTON = 1 << 21  # costs that a step looks at
SAMPLE, ENOUGH, TINY = 1 << 14, 1e-2, 1e-300  # Sinkhorn: rows of its sample, error of a share, least share
REACH = 4.0  # how far a price may go in one step, in bands


class Score(Protocol):
    """What rows pay at codes: from nothing to `most`."""

    most: float
    #: What all rows together pay beside.
    constant: float

    def __call__(self, z: Tensor, prices: Tensor) -> Tensor:
        """(rows, codes) costs plus prices, up to a constant a row, of the float type of z and prices."""


class Squares:
    """Squared distances to centres, less every row's own square."""

    def __init__(self, centers: Floats, rows: Rows) -> None:
        wide = tensor(centers.astype(np.float64)).to(rows.device)
        self.products = {kind: wide.to(kind).T for kind in (torch.float32, torch.float64)}
        squares = wide.square().sum(dim=1)
        self.bias = {kind: squares.to(kind) for kind in self.products}
        self.constant = rows.squares
        self.most = (rows.longest**0.5 + float(squares.max()) ** 0.5) ** 2

    def __call__(self, z: Tensor, prices: Tensor) -> Tensor:
        return torch.addmm(self.bias[z.dtype] + prices, z, self.products[z.dtype], alpha=-2)


class Plan:
    """The entropic plan between rows and codes with uniform marginals: a row pays the share it has elsewhere.

    Sinkhorn's iterations need only the potentials of the codes; rows follow from them. They begin on a sample
    and end when every code has its share but for a hundredth.
    """

    def __init__(self, score: Score, rows: Rows, k: int, epsilon: float, iters: int) -> None:
        self.score, self.most, self.constant = score, 1.0, float(len(rows))
        self.potentials = np.zeros(k)
        sample = rows.some(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(np.int64))
        costs = sample.costs(score, k)
        farther = float((costs.mean(dim=1) - costs.amin(dim=1)).mean())
        self.epsilon = epsilon * farther if farther > 0 else 1.0
        for some in (sample, rows) if len(sample) < len(rows) else (rows,):
            for _ in range(iters):
                shares = some.shares(self, k) * k / len(some)
                self.potentials += self.epsilon * np.log(np.maximum(shares, TINY))
                if np.abs(shares - 1).max() < ENOUGH:
                    break

    def __call__(self, z: Tensor, prices: Tensor) -> Tensor:
        return prices - self.plan(z)

    def plan(self, z: Tensor) -> Tensor:
        """Every row's shares."""
        potentials = tensor(self.potentials).to(z)
        return torch.softmax(self.score(z, potentials).div_(-self.epsilon), dim=1)


@dataclass(frozen=True, eq=False)
class Scan:
    """Rows at their cheapest codes."""

    labels: Index
    sizes: Index
    #: Sums of the rows at every code, if asked for.
    sums: Wide
    #: What every row pays, price included, and by how much the next code is dearer; of exact scans only.
    least: Wide
    margins: Wide


class Rows:
    """The rows where they live: in memory, with a worker a core, or on a device."""

    def __init__(self, x: Floats | Residuals, device: torch.device, run: Run | None) -> None:
        self.x, self.run, self.device = x, run, device
        # Residuals are read where they are asked for; a device has them all.
        self.held = None if isinstance(x, Residuals) and device.type == "cpu" else sent(x, device)
        total, longest = torch.zeros(2, dtype=torch.float64, device=device)
        for at in range(0, len(x), 1 << 16):
            squares = self.part(slice(at, min(at + (1 << 16), len(x)))).double().square().sum(dim=1)
            total, longest = total + squares.sum(), torch.maximum(longest, squares.max())
        self.squares, self.longest = float(total), float(longest)

    def __len__(self) -> int:
        return len(self.x)

    def part(self, rows: slice) -> Tensor:
        """Some of the rows, on the device."""
        return tensor(self.x[rows]) if self.held is None else self.held[rows]

    def some_of(self, index: Index) -> Tensor:
        """The same, of rows from anywhere."""
        if self.held is None:
            return tensor(self.x[index])
        return self.held[tensor(index).to(self.device)]

    def some(self, index: Index) -> Rows:
        return Rows(np.ascontiguousarray(self.x[index]), self.device, self.run)

    def scan(self, score: Score, prices: Wide, *, exact: bool = False, sums: bool = False) -> Scan:
        """Every row at its cheapest code, in float64 if `exact`; a tie goes to the lowest."""
        n, k, d = len(self), len(prices), self.x.shape[1]
        kind = torch.float64 if exact else torch.float32
        price = tensor(prices).to(self.device, kind)
        labels = torch.empty(n, dtype=torch.int64, device=self.device)
        least, margins = (torch.empty(n if exact else 0, dtype=kind, device=self.device) for _ in range(2))
        added: dict[int, Tensor] = {}

        def work(start: int, stop: int) -> None:
            total = torch.zeros(k, d, dtype=torch.float64, device=self.device)
            step = TILE if self.run else max(1, STEP // k)
            for at in range(start, stop, step):
                part = slice(at, min(at + step, stop))
                z = self.part(part)
                paid = score(z.to(kind), price)
                label = labels[part] = _argmin(paid)
                if exact:
                    least[part] = paid.gather(1, label[:, None])[:, 0]
                    paid.scatter_(1, label[:, None], torch.inf)
                    margins[part] = paid.amin(dim=1) - least[part] if k > 1 else torch.inf
                if sums:
                    _add(total, z, label)
            added[start] = total

        self.each(work, n)
        total = sum((added[start] for start in sorted(added)), torch.zeros(()))
        sizes = torch.bincount(labels, minlength=k)
        return Scan(*(t.cpu().numpy() for t in (labels, sizes, total, least, margins)))

    def costs(self, score: Score, k: int, index: Index | None = None) -> Tensor:
        """(rows, k) costs in float64, of all rows or of some, on the device."""
        n = len(self) if index is None else len(index)
        none = torch.zeros(k, dtype=torch.float64, device=self.device)
        out = torch.empty(n, k, dtype=torch.float64, device=self.device)

        def work(start: int, stop: int) -> None:
            step = TILE if self.run else max(1, STEP // k)
            for at in range(start, stop, step):
                part = slice(at, min(at + step, stop))
                z = self.part(part) if index is None else self.some_of(index[part])
                out[part] = score(z.double(), none)

        self.each(work, n)
        return out

    def shares(self, plan: Plan, k: int) -> Wide:
        """What every code has of all rows' shares."""
        added: dict[int, Tensor] = {}

        def work(start: int, stop: int) -> None:
            step = TILE if self.run else max(1, STEP // k)
            tiles = [slice(at, min(at + step, stop)) for at in range(start, stop, step)]
            shares = [plan.plan(self.part(tile)).sum(dim=0, dtype=torch.float64) for tile in tiles]
            added[start] = torch.stack(shares).sum(dim=0)

        self.each(work, len(self))
        return torch.stack([added[start] for start in sorted(added)]).sum(dim=0).cpu().numpy()

    def sums(self, labels: Index, k: int) -> Wide:
        """The sums of the rows at every code."""
        at = tensor(labels).to(self.device)
        total = torch.zeros(k, self.x.shape[1], dtype=torch.float64, device=self.device)
        for start in range(0, len(self), 1 << 16):
            part = slice(start, min(start + (1 << 16), len(self)))
            _add(total, self.part(part), at[part])
        return total.cpu().numpy()

    def each(self, work: Callable[[int, int], None], n: int) -> None:
        if self.run:
            self.run(work, n, max(TILE, -(-n // SPANS)))
        else:
            work(0, n)


def _argmin(paid: Tensor) -> Tensor:
    # NumPy's argmin of a row is several times as fast as torch's.
    return torch.from_numpy(paid.numpy().argmin(axis=1)) if paid.device.type == "cpu" else paid.argmin(dim=1)


def _add(total: Tensor, z: Tensor, label: Tensor) -> None:
    if total.device.type == "cpu":
        total.index_add_(0, label, z.double())
    else:  # a product repeats to the bit, atomic additions do not
        for rows, at in zip(torch.split(z, 1 << 16), torch.split(label, 1 << 16), strict=True):
            one = torch.zeros(len(rows), len(total), dtype=torch.float64, device=total.device)
            total += one.scatter_(1, at[:, None], 1.0).T @ rows.double()


def cheapest(rows: Rows, costs: Wide, prices: Wide, same: float) -> Index:
    """The cheapest code of every row; rows with several, no more than `same` apart, are dealt out in turn."""
    labels, tied = np.empty(len(costs), dtype=np.int64), np.zeros(len(costs), dtype=bool)

    def work(start: int, stop: int) -> None:
        for low in range(start, stop, TILE):
            part = slice(low, min(low + TILE, stop))
            paid = costs[part] + prices
            at = np.arange(len(paid))
            label = labels[part] = paid.argmin(axis=1)
            least = paid[at, label]
            paid[at, label] = np.inf
            tied[part] = paid.min(axis=1) - least <= same

    rows.each(work, len(costs))
    some = np.flatnonzero(tied)
    for low in range(0, len(some), TILE):
        part = some[low : low + TILE]
        paid = costs[part] + prices
        equal = paid <= paid.min(axis=1, keepdims=True) + same
        turn = np.arange(low, low + len(part)) % equal.sum(axis=1)
        labels[part] = (equal.cumsum(axis=1) > turn[:, None]).argmax(axis=1)
    return labels


def wrong(sizes: Wide, lo: Bound, hi: Bound) -> float:
    """What part of the rows these sizes (parts of all rows) have outside their bounds."""
    return float(np.maximum(sizes - hi, lo - sizes).clip(0).sum())


def reprice(known: Tensor, prices: Wide, lo: Bound, hi: Bound, close: float, steps: int) -> Wide:
    """Prices that bring sizes to `lo` to `hi` but for a part of `close`, or so many Newton steps to that."""
    for _ in range(steps):
        sizes = _sizes(known, prices)
        if wrong(sizes, lo, hi) <= close:
            break
        prices = newton(known, prices, sizes, lo, hi)
    return prices


def _sizes(known: Tensor, prices: Wide) -> Wide:
    label = _argmin(known + tensor(prices).to(known))
    return np.asarray(torch.bincount(label, minlength=len(prices)).cpu().numpy() / len(known))


def newton(known: Tensor, prices: Wide, sizes: Wide, lo: Bound, hi: Bound) -> Wide:
    """Prices nearer to those that bring these sizes to `lo` to `hi` (all three are parts of all rows).

    A sample's costs say how sizes follow prices: choices in a band, as wide as the rows to be moved need,
    count as open. A size may vary between its bounds where its price is nothing.
    """
    costs = known[:: max(1, known.numel() // NEWTON)]
    s, k = costs.shape
    price, low, high = (tensor(np.broadcast_to(v, k).copy()).to(costs) for v in (prices, lo, hi))
    paid = costs + price
    label = _argmin(paid)[:, None]
    least = paid.gather(1, label)
    margins = paid.clone().scatter_(1, label, torch.inf).amin(dim=1) - least[:, 0]
    open_rows = max(1, int(s * np.clip(2 * wrong(sizes, lo, hi), BAND, 0.5)))
    band = margins.kthvalue(open_rows).values.clamp_min(1e-30)
    plan = torch.softmax((least - paid).div_(band).float(), dim=1)
    full = torch.sigmoid(price / band)
    over = tensor(sizes).to(costs) - (low + (high - low) * full)
    slope = torch.diag(plan.sum(dim=0).double() / s + (high - low) * full * (1 - full))
    slope -= (plan.T @ plan).double() / s
    slope += torch.eye(k, dtype=slope.dtype, device=slope.device) * (1e-3 * slope.diagonal().mean() + 1e-12)
    step = torch.linalg.solve(slope, over) * band
    step *= (REACH * band / step.abs().max().clamp_min(1e-30)).clamp_max(1.0)
    return np.asarray(prices + step.cpu().numpy())
