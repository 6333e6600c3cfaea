"""Batches of a catalogue in an order that a seed fixes, read where its rows lie: memory, disk, device."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sidbench.kit.device import tensor
from sidbench.kit.nearest import Floats, Index

WINDOW = 1 << 28  # bytes that are shuffled together
PIECES = 64  # from so many places of the catalogue
RESIDENT = 0.5  # of the device's free memory: rows that take no more live there


def cut(n: int, batch_size: int) -> tuple[int, int]:
    """How many batches an epoch has, and of how many rows.

    As few as `batch_size` allows, all of one size: what is missing in the last is filled up from the
    beginning of the same epoch's order, fewer rows than there are batches. A catalogue smaller than
    `batch_size` is one batch.
    """
    batches = math.ceil(n / batch_size)
    return batches, math.ceil(n / batches)


def shuffled(n: int, row_bytes: int, rng: np.random.Generator) -> Index:
    """An order of all rows.

    Where they are more than a window of memory holds, windows are put together from contiguous pieces of
    random places and shuffled one after the other, so that a catalogue on disk is read in long stretches.
    """
    held = max(PIECES, WINDOW // row_bytes)
    if n <= held:
        return rng.permutation(n)
    step = held // PIECES
    pieces = rng.permutation(math.ceil(n / step))
    windows = []
    for at in range(0, len(pieces), PIECES):
        rows = (pieces[at : at + PIECES, None] * step + np.arange(step)).reshape(-1)
        windows.append(rng.permutation(rows[rows < n]))
    return np.concatenate(windows)


class Feed:
    """Fills one buffer on the device with one batch after the other.

    On a processor rows are gathered from the array itself. A CUDA device holds all rows where they take no
    more than half of its free memory; otherwise they cross in two page-locked buffers by turns.
    """

    def __init__(self, x: Floats, batch: int, device: torch.device) -> None:
        self.x = tensor(x)
        self.batch = torch.empty(batch, x.shape[1], device=device)
        self.resident = device.type == "cpu"
        if device.type == "cuda":
            self.resident = x.nbytes <= RESIDENT * torch.cuda.mem_get_info(device)[0]
            if self.resident:
                self.x = self.x.to(device)
            else:
                self._locked = [torch.empty(batch, x.shape[1], pin_memory=True) for _ in range(2)]
                self._crossed = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]

    def begin(self, order: Index) -> None:
        """The order of an epoch: as many rows as its batches have."""
        self.order = torch.from_numpy(order)
        if self.resident:
            self.order = self.order.to(self.batch.device)

    def load(self, number: int) -> None:
        """Put the epoch's batch of this number into the buffer."""
        size = len(self.batch)
        rows = self.order[number * size : (number + 1) * size]
        if self.resident:
            torch.index_select(self.x, 0, rows, out=self.batch)
            return
        locked, crossed = self._locked[number % 2], self._crossed[number % 2]
        crossed.synchronize()  # of two batches ago
        torch.index_select(self.x, 0, rows, out=locked)
        self.batch.copy_(locked, non_blocking=True)
        crossed.record()

    def take(self, rows: Tensor) -> Tensor:
        """Any rows, on the device."""
        return self.x[rows.to(self.x.device)].to(self.batch.device)
