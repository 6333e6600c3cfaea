"""rq-kmeans-balanced: residual k-means whose codes are all used about equally often, by three solvers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import DataError, UsageError
from sidbench.kit import device, residual
from sidbench.kit.balanced import LARGEST, balanced_assign, balanced_kmeans, bounds, sinkhorn_assign
from sidbench.kit.kmeans import kmeans
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.sampling import Sampled, on_disk
from sidbench.sids import Codes


class RQKMeansBalanced(Sampled):
    """Balanced residual k-means: every code of a level gets as many items as any other, within bounds.

    The catalogue is placed as a whole (`fit_encode`); `encode` gives any item the nearest codeword, level by
    level, and so need not agree: how often it does is on the board. Codewords of a sample place all items by
    one assignment a level.
    """

    name = "rq-kmeans-balanced"
    paper = "https://arxiv.org/abs/2502.18965"
    quick = {"iters": 3}

    #: fast: least squared distances; sinkhorn: a plan (both to 4096 codes a level); flow: unsquared, any.
    solver: Literal["fast", "flow", "sinkhorn"] = "fast"
    #: The least items of a code, as a part of items / codes, rounded down.
    smallest: Annotated[float, Field(ge=0, le=1)] = 1.0
    #: The most items of a code, as a multiple of items / codes, rounded up.
    largest: Annotated[float, Field(ge=1)] = 1.0
    #: Lloyd's iterations a level.
    iters: Annotated[int, Field(ge=1)] = 50
    #: Runs from different first centres a level; the best is kept.
    starts: Annotated[int, Field(ge=1)] = 1
    #: Sinkhorn's temperature, as a part of how much farther codewords are than the nearest one (sinkhorn).
    epsilon: Annotated[float, Field(gt=0)] = 0.05
    #: Sinkhorn's iterations a level (sinkhorn).
    sinkhorn_iters: Annotated[int, Field(ge=1)] = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(self.sizes) > LARGEST and self.solver != "flow":
            raise UsageError(
                f"{self.name}.solver = {self.solver} places rows at up to {LARGEST} codes a level, not "
                f"{max(self.sizes)}; set codebook_size to at most {LARGEST}, or solver = flow"
            )
        if self.solver == "flow" and self.sample not in (0, "auto"):
            raise UsageError(
                f"{self.name}.solver = flow places the rows that it learns from and no others: no "
                f"sample = {self.sample} can be had; set sample = 0, or solver = fast"
            )

    def drawn(self, x: Embeddings) -> Index | None:
        return None if self.solver == "flow" else super().drawn(x)

    def fit(self, x: Embeddings) -> Self:
        drawn = self.drawn(x)
        self._learn(x if drawn is None else x[drawn])
        self.compare(x, drawn)
        return self

    def fit_encode(self, x: Embeddings) -> Codes:
        drawn = self.drawn(x)
        codes = self._learn(x if drawn is None else x[drawn])
        self.compare(x, drawn)
        return codes if drawn is None else self._place(x)

    def _learn(self, x: Embeddings) -> Codes:
        where = device.resolve(self.device if self.solver != "flow" else "cpu")
        self._begin()

        def solve(left: Any, size: int, level: int) -> tuple[Floats, Index]:
            lo, hi = bounds(len(left), size, self.smallest, self.largest)
            centers, labels, gap = self._level(left, size, lo, hi, self.seed + level, str(where))
            self._note(labels, size, lo, hi, gap)
            return centers, labels

        stream = self.solver != "flow" and on_disk(x)
        self.codebooks_, codes = residual.fit_jointly(x, self.sizes, solve, stream=stream)
        self.device_ = device.describe(where)
        return codes

    def _place(self, x: Embeddings) -> Codes:
        """All rows at the codewords of a sample, by the same solver and within bounds for all."""
        where = str(device.resolve(self.device))
        self._begin()

        def place(left: Any, book: Floats, level: int) -> Index:
            lo, hi = bounds(len(left), len(book), self.smallest, self.largest)
            if self.solver == "fast":
                found = balanced_assign(left, book, lo, hi, device=where)
            else:
                found = sinkhorn_assign(
                    left, book, lo, hi, epsilon=self.epsilon, iters=self.sinkhorn_iters, device=where
                )
            self._note(found.labels, len(book), lo, hi, found.gap if self.solver == "fast" else None)
            return found.labels

        return residual.place_jointly(x, self.codebooks_, place)

    def _begin(self) -> None:
        self.bounds_: list[list[int]] = []
        self.balance_: list[list[int]] = []
        self.gaps_: list[float | None] = []

    def _note(self, labels: Index, size: int, lo: int, hi: int, gap: float | None) -> None:
        """Keep how a level came out, once it is within its bounds."""
        counts = np.bincount(labels, minlength=size)
        if counts.min() < lo or counts.max() > hi:
            raise DataError(
                f"{self.name}: solver = {self.solver} gave codes of {counts.min()} to {counts.max()} "
                f"items at level {len(self.gaps_)}, where {lo} to {hi} were asked for; use solver = fast"
            )
        self.bounds_.append([lo, hi])
        self.balance_.append([int(counts.min()), int(counts.max())])
        self.gaps_.append(gap)

    def _level(
        self, left: Any, size: int, lo: int, hi: int, seed: int, where: str
    ) -> tuple[Floats, Index, float | None]:
        """Centres, the code of every row, and how far from the optimum of squared distances, where known."""
        if self.solver == "flow":
            return (*_flow(left, size, lo, hi, self.iters, self.starts, seed), None)
        if self.solver == "fast":
            found = balanced_kmeans(
                left, size, lo, hi, iters=self.iters, starts=self.starts, seed=seed, device=where
            )
            return found.centers, found.labels, found.assignment.gap
        centers = kmeans(left, size, iters=self.iters, starts=self.starts, seed=seed, device=where).centers
        rounded = sinkhorn_assign(
            left, centers, lo, hi, epsilon=self.epsilon, iters=self.sinkhorn_iters, device=where
        )
        return centers, rounded.labels, None

    def encode(self, x: Embeddings) -> Codes:
        return residual.encode(x, self.codebooks_, device=str(device.resolve(self.device)))

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        return residual.costs(x, prefix, self.codebooks_)

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        return residual.reconstruct(codes, self.codebooks_)

    def facts(self) -> dict[str, Any]:
        return {
            "solver": self.solver,
            "device": self.device_,
            "bounds": self.bounds_,
            "least_and_most": self.balance_,
            "duality_gap": self.gaps_,
            **super().facts(),
        }


def _flow(
    left: Floats, size: int, lo: int, hi: int, iters: int, starts: int, seed: int
) -> tuple[Floats, Index]:
    """k-means-constrained: a min-cost flow on distances, not their squares, in every iteration.

    It rounds distances to 1/1000 as 32-bit integers, so rows come with the longest about 10,000 long.
    """
    from k_means_constrained import KMeansConstrained

    longest = float(np.sqrt(np.einsum("ij,ij->i", left, left).max()))
    scale = np.float32(2.0 ** (13 - np.frexp(longest)[1]))
    solver = KMeansConstrained(
        n_clusters=size, size_min=lo, size_max=hi, max_iter=iters, n_init=starts, random_state=seed
    ).fit(left * scale)
    return (solver.cluster_centers_ / scale).astype(np.float32), solver.labels_.astype(np.int64)
