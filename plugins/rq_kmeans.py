"""rq-kmeans: residual k-means, the tokenizer that needs no training loop."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.kit import device, engines, residual
from sidbench.sids import Codes
from sidbench.tokenizer import Tokenizer


class RQKMeans(Tokenizer):
    """Residual k-means: one k-means a level, each on what the levels before left over."""

    name = "rq-kmeans"
    paper = "https://arxiv.org/abs/2502.18965"
    quick = {"iters": 5}

    #: Lloyd's iterations a level.
    iters: Annotated[int, Field(ge=1)] = 25
    #: Runs from different first centres a level; the best is kept.
    starts: Annotated[int, Field(ge=1)] = 1
    #: What runs k-means; auto is torch. Codes come from one search whatever learned the codebooks.
    backend: engines.Backend = "auto"

    def fit(self, x: Embeddings) -> Self:
        engine = engines.choose(self.backend)
        where = device.resolve(self.device if engine == "torch" else "cpu")

        def level(left: Embeddings, size: int, number: int) -> NDArray[np.float32]:
            options = {"iters": self.iters, "starts": self.starts, "seed": self.seed + number}
            return engines.centers(left, size, engine, device=str(where), **options)

        self.codebooks_ = residual.fit(x, self.sizes, level)
        self.backend_, self.device_ = engine, device.describe(where)
        self.version_ = engines.version_of(engine)
        return self

    def encode(self, x: Embeddings) -> Codes:
        return residual.encode(x, self.codebooks_)

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        return residual.costs(x, prefix, self.codebooks_)

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        return residual.reconstruct(codes, self.codebooks_)

    def facts(self) -> dict[str, Any]:
        return {"backend": self.backend_, "device": self.device_, "backend_version": self.version_}
