"""Rows at the cheapest of k codes, each with a price: scans in tiles, and a Newton step on the prices.

n x k numbers are never held whole; on a CUDA device a scan reads nothing back before its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidbench.kit.device import tensor
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.transport import SAME, Wide
from sidbench.kit.workers import Run

TILE, STEP = 512, 1 << 25  # rows of a worker's tile; costs of one step on a device
SPANS = 64  # parts that are summed apart, so that the workers' timing changes nothing
BAND = 0.03  # the least part of the rows whose choice a Newton step takes for open
REACH = 4.0  # how far a price may go in one step, in bands


class Score(Protocol):
    """What rows pay at codes."""

    def __call__(self, z: Tensor, prices: Tensor) -> Tensor:
        """(rows, codes) costs plus prices, up to a constant a row, of the float type of z and prices."""


class Squares:
    """Squared distances to centres, less every row's own square."""

    def __init__(self, centers: Floats, device: torch.device) -> None:
        wide = tensor(centers.astype(np.float64)).to(device)
        self.products = {kind: wide.to(kind).T for kind in (torch.float32, torch.float64)}
        self.bias = {kind: wide.square().sum(dim=1).to(kind) for kind in self.products}

    def __call__(self, z: Tensor, prices: Tensor) -> Tensor:
        return torch.addmm(self.bias[z.dtype] + prices, z, self.products[z.dtype], alpha=-2)


class Likeness:
    """The entropic plan's share of a row that does not go to a code: what rounding the plan costs there."""

    def __init__(self, score: Score, potentials: Wide, epsilon: float) -> None:
        self.score, self.potentials, self.epsilon = score, potentials, epsilon

    def __call__(self, z: Tensor, prices: Tensor) -> Tensor:
        potentials = tensor(self.potentials).to(z)
        return prices - torch.softmax(self.score(z, potentials).div_(-self.epsilon), dim=1)


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

    def __init__(self, x: Floats, device: torch.device, run: Run | None) -> None:
        self.x, self.run, self.device = x, run, device
        self.held = tensor(x).to(device)
        self.squares, self.longest = 0.0, 0.0
        for part in torch.split(self.held, 1 << 16):
            squares = part.double().square().sum(dim=1)
            self.squares += float(squares.sum())
            self.longest = max(self.longest, float(squares.max()))

    def __len__(self) -> int:
        return len(self.x)

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
                z = self.held[part]
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
        rows = self.held if index is None else self.held[tensor(index).to(self.device)]
        none = torch.zeros(k, dtype=torch.float64, device=self.device)
        out = torch.empty(len(rows), k, dtype=torch.float64, device=self.device)

        def work(start: int, stop: int) -> None:
            step = TILE if self.run else max(1, STEP // k)
            for at in range(start, stop, step):
                part = slice(at, min(at + step, stop))
                out[part] = score(rows[part].double(), none)

        self.each(work, len(rows))
        return out

    def sums(self, labels: Index, k: int) -> Wide:
        """The sums of the rows at every code."""
        at = tensor(labels).to(self.device)
        total = torch.zeros(k, self.x.shape[1], dtype=torch.float64, device=self.device)
        step = 1 << 16
        for z, label in zip(torch.split(self.held, step), torch.split(at, step), strict=True):
            _add(total, z, label)
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


def cheapest(costs: Wide, prices: Wide, before: Index | None = None) -> tuple[Index, NDArray[np.bool_]]:
    """The cheapest code of every row, and which rows have several.

    Of codes that cost the same a row keeps the one it has; rows without one are dealt out in turn.
    """
    paid = costs + prices
    labels: Index = paid.argmin(axis=1)
    at = np.arange(len(paid))
    least = paid[at, labels]
    paid[at, labels] = np.inf
    tied = paid.min(axis=1) - least <= SAME * np.ptp(costs) if len(prices) > 1 else np.zeros(len(paid), bool)
    some = np.flatnonzero(tied)
    if len(some):
        paid[some, labels[some]] = least[some]
        same = paid[some] <= (least[some] + SAME * np.ptp(costs))[:, None]
        turn = np.arange(len(some)) % same.sum(axis=1)
        dealt = (same.cumsum(axis=1) > turn[:, None]).argmax(axis=1)
        labels[some] = (
            dealt if before is None else np.where(same[at[: len(some)], before[some]], before[some], dealt)
        )
    return labels, tied


def newton(costs: Tensor, prices: Wide, sizes: Wide, lo: float, hi: float) -> Wide:
    """Prices nearer to those that bring these sizes to `lo` to `hi` (all three are parts of all rows).

    A sample's costs say how sizes follow prices: choices in a band, as wide as the rows to be moved need,
    count as open. A size may vary between its bounds where its price is nothing.
    """
    s, k = costs.shape
    price = tensor(prices).to(costs)
    paid = costs + price
    label = _argmin(paid)[:, None]
    least = paid.gather(1, label)
    margins = paid.clone().scatter_(1, label, torch.inf).amin(dim=1) - least[:, 0]
    wrong = float(np.maximum(sizes - hi, lo - sizes).clip(0).sum())
    open_rows = max(1, int(s * np.clip(2 * wrong, BAND, 0.5)))
    band = margins.kthvalue(open_rows).values.clamp_min(1e-30)
    plan = torch.softmax((least - paid).div_(band).float(), dim=1)
    full = torch.sigmoid(price / band)
    over = tensor(sizes).to(costs) - (lo + (hi - lo) * full)
    slope = torch.diag(plan.sum(dim=0).double() / s + (hi - lo) * full * (1 - full))
    slope -= (plan.T @ plan).double() / s
    slope += torch.eye(k, dtype=slope.dtype, device=slope.device) * (1e-3 * slope.diagonal().mean() + 1e-12)
    step = torch.linalg.solve(slope, over) * band
    step *= (REACH * band / step.abs().max().clamp_min(1e-30)).clamp_max(1.0)
    return np.asarray(prices + step.cpu().numpy())
