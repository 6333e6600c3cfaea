"""lsh: signs of random projections, the tokenizer that learns nothing but where the middle is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import UsageError
from sidbench.kit import residual, rows
from sidbench.kit.device import tensor
from sidbench.kit.nearest import TINY, UNIT
from sidbench.kit.workers import workers
from sidbench.sids import Codes
from sidbench.tokenizer import Tokenizer

TILE = 1024  # rows of one product
PAIRS = 1 << 20  # float64 numbers held at once while signs are decided


class LSH(Tokenizer):
    """Random hyperplanes, a bit each: what codes are worth when nothing but the mean is learned.

    A level of K codes takes log2 K planes through the mean of the catalogue; a code's bits say on which side
    of them the item lies. Two items differ in a bit with probability angle / pi, as seen from the mean.
    """

    name = "lsh"
    paper = "https://dl.acm.org/doi/10.1145/509907.509965"

    #: Whether planes go through the mean of the catalogue (all that is learned) or through the origin.
    center: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.sizes:
            if size & (size - 1):
                below = 1 << (size.bit_length() - 1)
                raise UsageError(
                    f"{self.name}.codebook_size = {size}: a level of random hyperplanes has a power of two "
                    f"of codes; the nearest choices are {below} and {2 * below}"
                )

    @property
    def fewest(self) -> int:
        """Planes are drawn, not learned: one item is enough."""
        return 1

    @property
    def bits(self) -> tuple[int, ...]:
        """The number of planes of each level."""
        return tuple(size.bit_length() - 1 for size in self.sizes)

    def fit(self, x: Embeddings) -> Self:
        rng = np.random.default_rng(self.seed)
        planes = rng.standard_normal((sum(self.bits), x.shape[1]))
        self.planes_ = (planes / np.linalg.norm(planes, axis=1, keepdims=True)).astype(np.float32)
        self.mean_ = rows.mean_row(x) if self.center else np.zeros(x.shape[1], dtype=np.float32)
        return self

    def encode(self, x: Embeddings) -> Codes:
        residual.check_columns(x, self.planes_.shape[1])
        codes = np.empty((len(x), self.levels), dtype=np.int32)
        products = tensor(np.ascontiguousarray(self.planes_.T))

        def work(start: int, stop: int) -> None:
            with np.errstate(over="ignore", invalid="ignore"):  # beyond float32: no side, so a bit of 0
                for at in range(start, stop, TILE):
                    part = slice(at, min(at + TILE, stop))
                    codes[part] = self._packed(self._sides(x[part] - self.mean_, products))

        with workers() as run:
            run(work, len(x), 4 * TILE)
        return codes

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        """The squared distances to the planes that an item would have to cross to get each code, summed.

        Those of the prefix count too, so that the costs of last codes are those of whole SIDs.
        """
        residual.check_columns(x, self.planes_.shape[1])
        level = rows.next_level(x, prefix, self.levels)
        before, count = sum(self.bits[:level]), self.bits[level]
        z = (x - self.mean_).astype(np.float64)
        far = z @ self.planes_[: before + count].T.astype(np.float64)
        on, off = np.where(far >= 0, far**2, 0.0), np.where(far < 0, far**2, 0.0)
        given = [prefix[:, [at]] >> np.arange(bits)[::-1] & 1 for at, bits in enumerate(self.bits[:level])]
        bit = np.hstack([np.zeros((len(x), 0), dtype=np.int32), *given])
        so_far = np.where(bit == 1, off[:, :before], on[:, :before]).sum(axis=1)
        wanted = (np.arange(1 << count)[None, :] >> np.arange(count)[::-1, None]) & 1
        crossed = on[:, before:] @ (1 - wanted) + off[:, before:] @ wanted
        return np.asarray(crossed + so_far[:, None], dtype=np.float32)

    def facts(self) -> dict[str, Any]:
        return {"planes": len(self.planes_), "device": "cpu"}

    def _sides(self, z: NDArray[np.float32], products: torch.Tensor) -> NDArray[np.bool_]:
        """Which side of every plane, exactly: a product rounds as its shape has it, so it only proposes.

        Where it is nearer to zero than its error may be, float64 sums in one fixed order decide.
        """
        scores = torch.mm(tensor(z), products).numpy()
        with np.errstate(all="ignore"):  # overflow gives inf or NaN here, and so doubt
            # |product - exact| <= (d + 8) units of the lengths' product; a plane's length is 1.
            margin = 2 * UNIT * (z.shape[1] + 8) * np.sqrt(np.einsum("ij,ij->i", z, z)) + z.shape[1] * TINY
            row, plane = np.nonzero(~((np.abs(scores) > margin[:, None]) & np.isfinite(scores)))
        sides: NDArray[np.bool_] = scores >= 0
        step = max(1, PAIRS // z.shape[1])
        for at in range(0, len(row), step):
            i, j = row[at : at + step], plane[at : at + step]
            terms = z[i].astype(np.float64) * self.planes_[j]
            sides[i, j] = terms.sum(axis=1) >= 0
        return sides

    def _packed(self, sides: NDArray[np.bool_]) -> Codes:
        """The bits of every level as one number, its first plane the highest bit."""
        codes = np.empty((len(sides), self.levels), dtype=np.int32)
        at = 0
        for level, count in enumerate(self.bits):
            codes[:, level] = sides[:, at : at + count] @ (1 << np.arange(count)[::-1])
            at += count
        return codes
