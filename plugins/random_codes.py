"""random: codes that ignore what the item is. A metric that rewards them rewards noise."""

from __future__ import annotations

import numpy as np
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import DataError
from sidbench.sids import Codes
from sidbench.tokenizer import Tokenizer

ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio


class Random(Tokenizer):
    """Uniform codes from a hash of the row's values and the seed: the floor of every board."""

    name = "random"
    floor = True

    @property
    def fewest(self) -> int:
        return 1  # its codes need no items

    def fit(self, x: Embeddings) -> Self:
        self.dimensions_ = x.shape[1]
        return self

    def encode(self, x: Embeddings) -> Codes:
        if x.shape[1] != self.dimensions_:
            raise DataError(f"encode: rows have {x.shape[1]} dimensions; fitted on {self.dimensions_}")
        row = _mix(np.full(len(x), self.seed, dtype=np.uint64))
        for column in x.T:
            # + 0 makes -0.0 the 0.0 that it equals.
            row = _mix(row ^ (column + np.float32(0)).view(np.uint32).astype(np.uint64))
        codes = np.empty((len(x), self.levels), dtype=np.int32)
        for level, size in enumerate(self.sizes):
            row = _mix(row)
            codes[:, level] = ((row >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32)
        return codes


def _mix(x: np.typing.NDArray[np.uint64]) -> np.typing.NDArray[np.uint64]:
    """A bijection on 64 bits in which every input bit reaches every output bit."""
    x = x + ODD
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return x ^ (x >> np.uint64(32))
