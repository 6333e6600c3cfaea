"""Greedy codes proposed by a CUDA device: one fused Triton kernel, or torch where that cannot be.

Either only proposes. A score is a rounded product, and its error has a bound; a row whose two best codewords
lie nearer to each other than that at any level is in doubt, and `residual.encode` decides it on the processor
by float64 distances. So both give the same codes, to the bit, and which of them ran is a recorded fact that
no result depends on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sidbench.kit import beam as beams
from sidbench.kit import device as devices
from sidbench.kit.nearest import UNIT, Codewords, Floats
from sidbench.provenance import without_folders
from sidbench.sids import Codes

Backend = Literal["triton", "torch"]
Precision = Literal["tf32x3", "ieee"]
# Rows on a device -> their codes, and which of them are in doubt.
Proposer = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

log = logging.getLogger(__name__)

WIDEST = 128  # columns of which a tile's rows stay in registers
ON_DEVICE = 1 << 25  # scores that torch holds at once


def choose(device: torch.device, columns: int, normalize: bool) -> Backend:
    """The kernel, where Triton is there and what is left of a row fits into registers."""
    fits = device.type == "cuda" and columns <= WIDEST and not normalize
    return "triton" if fits and find_spec("triton") is not None else "torch"


def precision_of(device: torch.device) -> Precision:
    """Three TF32 products where the device has TF32 (NVIDIA, from Ampere on), else float32 itself."""
    nvidia = device.type == "cuda" and torch.version.hip is None
    return "tf32x3" if nvidia and torch.cuda.get_device_capability(device) >= (8, 0) else "ieee"


def propose(
    x: Floats, words: Sequence[Codewords], device: torch.device, normalize: bool = False
) -> tuple[Codes, NDArray[np.bool_]]:
    """Codes, and which rows are in doubt. The device computes while rows and codes travel."""
    work, ran = _proposer(words, device, normalize)
    devices.note("encode", ran)
    codes, doubt = np.empty((len(x), len(words)), dtype=np.int32), np.empty(len(x), dtype=bool)
    with devices.full_precision():
        for at, (some, unsure) in devices.through(x, device, work):
            codes[at : at + len(some)] = some.numpy()
            doubt[at : at + len(some)] = unsure.numpy()
    return codes, doubt


def _proposer(words: Sequence[Codewords], device: torch.device, normalize: bool) -> tuple[Proposer, str]:
    """What proposes, and what a record says of it."""
    columns = words[0].centers.shape[1]
    ran = "torch"
    if choose(device, columns, normalize) == "triton":
        precision = precision_of(device)
        try:
            work = Fused(words, device, precision)
            work(torch.zeros(1, columns, device=device))
            return work, f"triton {precision}"
        except (
            Exception
        ) as e:  # it compiles on the spot: no C compiler, a Triton of another time, a small card
            said = without_folders((str(e).strip().splitlines() or [""])[0])
            ran = f"torch, since Triton failed ({type(e).__name__}: {said})"
            _warn(ran)
    return Plain(words, device, normalize), ran


@cache
def _warn(said: str) -> None:
    """Once a process."""
    log.warning("encode goes by %s: the same codes, but slower", said)


class Plain:
    """By torch: products of some rows with a level's codewords, held whole, then their two least."""

    def __init__(self, words: Sequence[Codewords], device: torch.device, normalize: bool = False) -> None:
        self.books = [beams.Book.on(device, book) for book in words]
        self.normalize = normalize
        self.step = max(1, ON_DEVICE // max(words[0].centers.shape[1], *(len(book) for book in words)))

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [beams.search(part, self.books, 1, self.normalize) for part in torch.split(rows, self.step)]
        return torch.cat([codes for codes, _ in parts]), torch.cat([doubt for _, doubt in parts])


@dataclass(frozen=True)
class Tiling:
    """How the kernel cuts its work."""

    rows: int
    words: int
    warps: int
    stages: int

    @classmethod
    def of(cls, columns: int) -> Tiling:
        """Compiled for an H100, none of these spills a register or takes over 99 KB of shared memory."""
        if columns <= 32:
            return cls(128, 64, 8, 2)
        return cls(128, 32, 8, 2) if columns <= 64 else cls(64, 32, 8, 1)


class Fused:
    """By the kernel: the codebooks of all levels, laid out as it reads them."""

    def __init__(
        self,
        words: Sequence[Codewords],
        device: torch.device,
        precision: Precision,
        tiling: Tiling | None = None,
    ) -> None:
        self.levels, self.precision = len(words), precision
        self.columns = words[0].centers.shape[1]
        self.wide = max(16, 1 << (self.columns - 1).bit_length())
        self.tiling = tiling or Tiling.of(self.wide)
        tile = self.tiling.words
        starts = np.cumsum([0, *(-(-len(book) // tile) * tile for book in words)])
        products, centers = (np.zeros((starts[-1], self.wide), dtype=np.float32) for _ in range(2))
        bias = np.full(starts[-1], np.inf, dtype=np.float32)
        shift = np.zeros((self.levels, self.wide), dtype=np.float32)
        for level, book in enumerate(words):
            at = slice(starts[level], starts[level] + len(book))
            products[at, : self.columns] = np.concatenate([p.numpy().T for _, p in book.blocks])
            bias[at] = np.concatenate([b.numpy() for b, _ in book.blocks])
            centers[at, : self.columns] = book.centers
            if book.shift is not None:
                shift[level, : self.columns] = book.shift
        with np.errstate(over="ignore"):  # an infinite bound is doubt
            bounds = np.array([bounds_of(book, precision) for book in words]).astype(np.float32)
        self.given = [
            torch.from_numpy(array).to(device)
            for array in (products, bias, centers, shift, starts.astype(np.int32), bounds)
        ]

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from sidbench.kit.fused_kernel import kernel

        n, cut = len(rows), self.tiling
        codes = torch.empty(n, self.levels, dtype=torch.int32, device=rows.device)
        doubt = torch.empty(n, dtype=torch.int8, device=rows.device)
        # Bounds allow for fused products; said here, since the default is about to change.
        kernel[(-(-n // cut.rows),)](
            rows,
            n,
            self.columns,
            *self.given,
            codes,
            doubt,
            LEVELS=self.levels,
            D=self.wide,
            ROWS=cut.rows,
            WORDS=cut.words,
            PRECISION=self.precision,
            num_warps=cut.warps,
            num_stages=cut.stages,
            enable_fp_fusion=True,
        )
        return codes, doubt.view(torch.bool)


def bounds_of(book: Codewords, precision: Precision) -> tuple[float, float, float]:
    """How far the difference of two scores may be off, `slope * length + offset`, and up to which length.

    Three TF32 products give a term to 3 * 2**-20 of itself: each factor is a part of eleven bits, another of
    eleven bits of the rest, and the product of the two rests is left out; all of it counted as if digits were
    cut off. Tensor cores add with digits cut off, so a sum is twice as far off as one that rounds.
    """
    slope, d = book.slope, book.centers.shape[1]
    if precision == "tf32x3":
        slope = 2.0 * UNIT * (3 * d + 80) * book.radius
    return slope, book.offset, min(1e18, 1e37 / max(book.radius, 1e-30))
