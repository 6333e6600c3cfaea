"""Minibatch k-means for catalogues too large for Lloyd's iterations: every batch moves the centres at once.

A centre is the mean of the rows that it was given (Sculley, WWW 2010: a step of one over its count). Counts
begin again with every epoch, but for the weight of one batch, so that what early, poor centres were given is
forgotten; the centres at the end are means over one whole epoch. A centre that got no row in an epoch
starts anew from a row far from all others.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from sidbench.kit.device import full_precision, tensor
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.seeding import plus_plus
from sidbench.kit.streamed import Residuals
from sidbench.kit.workers import workers

RUN = 1 << 15  # bytes read in one piece, so that a file is read in blocks
MIXED = 16  # pieces from all over the catalogue in a batch, at least


def minibatch(x: Floats | Residuals, k: int, *, batch: int, epochs: int, seed: int, device: str) -> Floats:
    """k centres after some passes over all rows, in batches of about this many; `x` may be a memmap.

    Held in memory: a batch, its scores, and the sample that the first centres are drawn from. Rows far from
    the origin should be centred first.
    """
    rng = np.random.default_rng(seed)
    runs = _Runs(x, min(batch, len(x)), rng)
    where = torch.device(device)
    with full_precision():
        first = runs.sample(max(1 << 14, 64 * k))
        with workers() as run:
            seeds = plus_plus(first, k, rng, run)
        centers = tensor(first[seeds]).to(where, torch.float64)
        counts = torch.zeros(k, dtype=torch.float64, device=where)
        del first
        for _ in range(epochs):
            counts.clamp_(max=batch / k)
            got = torch.zeros_like(counts)
            for rows in runs.epoch():
                z = _sent(rows, where)
                label, _ = _assign(z, centers)
                one = torch.zeros(len(z), k, device=where).scatter_(1, label[:, None], 1.0)
                more = one.sum(dim=0, dtype=torch.float64)
                counts += more
                got += more
                step = (one.T @ z).double() - more[:, None] * centers
                centers += step / counts.clamp(min=1)[:, None]
            _reseed(centers, counts, got, runs, rng)
    return np.asarray(centers.float().cpu().numpy())


def _sent(rows: Floats, where: torch.device) -> torch.Tensor:
    """Rows on the device; from pinned memory, so that the host reads the next batch meanwhile."""
    held = tensor(rows)
    return held.pin_memory().to(where, non_blocking=True) if where.type == "cuda" else held


def _assign(z: torch.Tensor, centers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest centre of every row, and half the squared distance less half the row's square."""
    c = centers.float()
    best = torch.addmm(0.5 * c.square().sum(dim=1), z, c.T, alpha=-1).min(dim=1)
    return best.indices, best.values


def _reseed(
    centers: torch.Tensor, counts: torch.Tensor, got: torch.Tensor, runs: _Runs, rng: np.random.Generator
) -> None:
    """Centres without a row in the whole epoch go where rows are far from their centres, drawn by that."""
    empty = torch.nonzero(got == 0)[:, 0]
    if not len(empty):
        return
    rows = runs.sample(1 << 14)
    z = tensor(rows).to(centers.device)
    _, half = _assign(z, centers)
    far = (2 * half + z.square().sum(dim=1)).clamp(min=0).double().cpu().numpy()
    held = np.flatnonzero(far > 0)
    drawn = min(len(held), len(empty))
    if drawn:
        picked = rng.choice(held, drawn, replace=False, p=far[held] / far[held].sum())
        centers[empty[:drawn]] = z[tensor(picked).to(z.device)].double()
        counts[empty[:drawn]] = 0


class _Runs:
    """Rows of a catalogue in batches: pieces of neighbours, drawn from all over it."""

    def __init__(self, x: Floats | Residuals, batch: int, rng: np.random.Generator) -> None:
        self.x, self.rng = x, rng
        self.length = max(1, min(RUN // (4 * x.shape[1]), batch // MIXED))
        self.starts: Index = np.arange(0, len(x), self.length)
        self.together = max(1, batch // self.length)

    def epoch(self) -> Iterator[Floats]:
        """All rows once, in a new order of the pieces."""
        order = self.rng.permutation(self.starts)
        for at in range(0, len(order), self.together):
            yield self._read(order[at : at + self.together])

    def sample(self, count: int) -> Floats:
        """About this many rows (all, if there are no more)."""
        if count >= len(self.x):
            return self._read(self.starts)
        return self._read(self.rng.permutation(self.starts)[: -(-count // self.length)])

    def _read(self, starts: Index) -> Floats:
        """The pieces that begin at these rows, one after the other in memory."""
        rows = (np.sort(starts)[:, None] + np.arange(self.length)).ravel()
        return np.asarray(self.x[rows[rows < len(self.x)]])
