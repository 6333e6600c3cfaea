"""opq: optimized product quantization, parallel codes in place of residual ones."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import UsageError
from sidbench.kit import device, product, residual, rows
from sidbench.sids import Codes
from sidbench.tokenizer import Tokenizer


class OPQ(Tokenizer):
    """Optimized product quantization: parallel codes, each of its own subspace of the rotated embedding.

    No code depends on one before it, so it shows what a decoder gains from codes that go from coarse to fine.
    The rotation is learned with the codebooks. Levels are subspaces: of d dimensions and L levels, the first
    d mod L levels have a dimension more than the others.
    """

    name = "opq"
    paper = "https://ieeexplore.ieee.org/document/6678503"
    quick = {"iters": 3}

    #: Rounds of codewords and rotation in turn; 0 keeps the first rotation, to principal directions.
    iters: Annotated[int, Field(ge=0)] = 20
    #: Rows that rotation and codebooks are learned on at most (or 32 a code); the last means see all rows.
    sample: Annotated[int, Field(ge=1)] = 32_768
    #: Whether there is a rotation; without, it is plain product quantization of the columns as they come.
    rotate: bool = True

    def fit(self, x: Embeddings) -> Self:
        if x.shape[1] < self.levels:
            raise UsageError(
                f"{self.name}.levels = {self.levels}: embeddings of {x.shape[1]} dimensions have no more "
                f"than {x.shape[1]} subspaces; set levels to at most that"
            )
        where, mean = device.resolve(self.device), rows.mean_row(x)
        self.codebooks_ = product.fit(
            x,
            self.sizes,
            mean=mean,
            scale=rows.power_of_two(x, mean),
            rounds=self.iters,
            sample=self.sample,
            seed=self.seed,
            device=where,
            rotate=self.rotate,
        )
        self.device_ = device.describe(where)
        return self

    def encode(self, x: Embeddings) -> Codes:
        return residual.encode(x, self.codebooks_, device=str(device.resolve(self.device)))

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        """The squared error that is left after the prefix and each next code."""
        return residual.costs(x, prefix, self.codebooks_)

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        return residual.reconstruct(codes, self.codebooks_)

    def facts(self) -> dict[str, Any]:
        dimensions = self.codebooks_[0].shape[1]
        return {"device": self.device_, "subspaces": product.widths(dimensions, self.levels)}
