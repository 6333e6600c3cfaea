"""my-method: say in one line what it does."""

# Start here. This file works as it is: each level's codebook is a sample of what the levels before left
# over. Put your own idea in `fit` and `encode`, then:
#     sidbench check my-method                     every law that a tokenizer must keep
#     sidbench run --methods my-method,rq-kmeans   beside another method, on one decoder
#     sidbench run --set my-method.keep=0.5        with a parameter changed

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.kit import residual
from sidbench.sids import Codes
from sidbench.tokenizer import Tokenizer


class MyMethod(Tokenizer):
    """One line that `sidbench list methods` prints."""

    name = "my-method"
    paper = ""  # where the method was described
    quick = {}  # parameters that make it run in seconds: `sidbench check` uses them

    # Annotated attributes are parameters: typed, with a default, with bounds. Tokenizer already has
    # levels, codebook_size, seed and device; self.sizes is the number of codes at each level.
    # The line above each, with "#:", is what `sidbench list --params my-method` says of it.
    #: Share of the catalogue that codebooks are drawn from.
    keep: Annotated[float, Field(gt=0, le=1)] = 1.0

    def fit(self, x: Embeddings) -> Self:
        # x: read-only float32, (items, dimensions), finite. Draw from your own generator, seeded by
        # self.seed, so that one seed gives one result.
        rng = np.random.default_rng(self.seed)
        # There are at least as many rows as codes: a smaller catalogue is refused before it comes here.
        enough = max(*self.sizes, round(self.keep * len(x)))
        sample = x[rng.permutation(len(x))[:enough]]

        def codebook(left: Embeddings, size: int, level: int) -> NDArray[np.float32]:
            return left[rng.choice(len(left), size, replace=False)]

        # What is learned ends in "_": NumPy arrays, lists of them or plain values. save() keeps it.
        self.codebooks_ = residual.fit(sample, self.sizes, codebook)
        return self

    def encode(self, x: Embeddings) -> Codes:
        # (items, levels) integers from 0. A row's codes must depend on that row alone, not on its batch:
        # residual.encode sees to that (a plain matrix product does not, bit for bit).
        return residual.encode(x, self.codebooks_)

    # Optional. With it the board has a reconstruction error.
    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        return residual.reconstruct(codes, self.codebooks_)
