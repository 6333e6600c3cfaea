"""rq-kmeans: residual k-means, the tokenizer that needs no training loop."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import UsageError
from sidbench.kit import device, engines, residual
from sidbench.kit.minibatch import minibatch
from sidbench.kit.nearest import Index
from sidbench.kit.sampling import Sampled, on_disk
from sidbench.sids import Codes


class RQKMeans(Sampled):
    """Residual k-means: one k-means a level, each on what the levels before left over."""

    name = "rq-kmeans"
    paper = "https://arxiv.org/abs/2411.11739"
    quick = {"iters": 5}

    #: Lloyd's iterations a level; with minibatch, passes over all rows.
    iters: Annotated[int, Field(ge=1)] = 25
    #: Runs from different first centres a level; the best is kept.
    starts: Annotated[int, Field(ge=1)] = 1
    #: What runs k-means; auto is torch. Codes come from one search whatever learned the codebooks.
    backend: engines.Backend = "auto"
    #: Rows a step of minibatch k-means, which sees all rows if sample is auto; 0: Lloyd's iterations.
    minibatch: Annotated[int, Field(ge=0)] = 0
    #: Every level sees its rows at unit length (GRID's RK-Means, arXiv 2507.22224); lengths are in no code.
    normalize_residuals: bool = False
    #: Prefixes kept a row while codes are searched; 1 is greedy, more never leaves a row a larger error.
    beam: Annotated[int, Field(ge=1, le=256)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minibatch and self.backend not in ("auto", "torch"):
            raise UsageError(
                f"{self.name}.minibatch = {self.minibatch} runs on torch alone, not with "
                f"backend = {self.backend!r}; set backend = auto, or minibatch = 0"
            )
        if self.minibatch and self.starts > 1:
            raise UsageError(
                f"{self.name}.minibatch = {self.minibatch} knows one start, not {self.starts}; "
                "set starts = 1, or minibatch = 0"
            )
        if self.normalize_residuals and self.beam > 1:
            raise UsageError(
                f"{self.name}.beam = {self.beam} compares prefixes by squared error, which rows at unit "
                "length at every level do not share; set beam = 1, or normalize_residuals = false"
            )

    def drawn(self, x: Embeddings) -> Index | None:
        return None if self.minibatch and self.sample == "auto" else super().drawn(x)

    def fit(self, x: Embeddings) -> Self:
        engine = engines.choose(self.backend)
        where = str(device.resolve(self.device if engine == "torch" else "cpu"))

        drawn = self.drawn(x)
        seen = x if drawn is None else x[drawn]

        def level(left: Any, size: int, number: int) -> NDArray[np.float32]:
            seed = self.seed + number
            if self.minibatch:
                batch = max(self.minibatch, size)
                return minibatch(left, size, batch=batch, epochs=self.iters, seed=seed, device=where)
            return engines.centers(
                left, size, engine, iters=self.iters, starts=self.starts, seed=seed, device=where
            )

        normalize = self.normalize_residuals
        stream = engine == "torch" and on_disk(seen)
        self.codebooks_ = residual.fit(
            seen, self.sizes, level, normalize=normalize, device=where, stream=stream
        )
        # What codes stand for: codewords themselves, unless these live at unit length.
        self.meanings_ = residual.meanings(seen, self.encode(seen), self.sizes) if normalize else []
        self.backend_, self.device_ = engine, device.describe(device.resolve(where))
        self.version_ = engines.version_of(engine)
        self.compare(x, drawn)
        return self

    def encode(self, x: Embeddings) -> Codes:
        where = str(device.resolve(self.device))
        return residual.encode(
            x, self.codebooks_, normalize=self.normalize_residuals, beam=self.beam, device=where
        )

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        """Squared distances as the greedy search sees them, whatever the beam."""
        return residual.costs(x, prefix, self.codebooks_, normalize=self.normalize_residuals)

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        return residual.reconstruct(codes, self.meanings_ or self.codebooks_)

    def facts(self) -> dict[str, Any]:
        about = {"backend": self.backend_, "device": self.device_, "backend_version": self.version_}
        return {**about, **super().facts()}
