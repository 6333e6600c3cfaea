"""Several blocks of vectors as one: weights, principal axes, whitening; for new items too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidbench.embed.tfidf import unit
from sidbench.errors import UsageError
from sidbench.progress import report

Floats = NDArray[np.float32]

#: Rows gone through at a time.
BLOCK = 65_536


def joined(blocks: Sequence[Floats], weights: Sequence[float], start: int, stop: int) -> Floats:
    """Rows of all blocks beside each other, each of length one before it is weighted.

    By the square root: where an item has all of them, its cosine is the mean of theirs, so weighted.
    """
    return np.concatenate(
        [np.float32(w**0.5) * unit(np.asarray(b[start:stop])) for b, w in zip(blocks, weights, strict=True)],
        axis=1,
    )


@dataclass(frozen=True, eq=False)
class Axes:
    """A mean to take off and a matrix to multiply by."""

    mean: NDArray[np.float64]
    basis: NDArray[np.float64]
    facts: dict[str, Any]

    @classmethod
    def fit(
        cls,
        blocks: Sequence[Floats],
        weights: Sequence[float],
        kind: Literal["pca", "whiten", "zca"],
        dim: int | None,
        eps: float,
    ) -> Axes:
        """Learn from all rows that are not zero: `dim` principal axes (all of them for zca)."""
        n, width = len(blocks[0]), sum(b.shape[1] for b in blocks)
        total, squares, count = np.zeros(width), np.zeros((width, width)), 0
        for start in range(0, n, BLOCK):
            x = joined(blocks, weights, start, min(start + BLOCK, n)).astype(np.float64)
            x = x[x.any(axis=1)]
            total, squares, count = total + x.sum(axis=0), squares + x.T @ x, count + len(x)
            report("learning axes", min(start + BLOCK, n), n)
        if count < 2:
            raise UsageError(f"{count} items have a vector that is not zero; axes need at least 2")
        mean = total / count
        variance, axes = np.linalg.eigh(squares / count - np.outer(mean, mean))
        variance, axes = np.maximum(variance[::-1], 0), axes[:, ::-1]
        # Axes without variance are rounding: divided by next to nothing they would drown the others.
        rank = int((variance > 1e-10 * variance[0]).sum())
        k = min(width if kind == "zca" or dim is None else dim, rank)
        axes = axes[:, :k] * np.where(axes[np.abs(axes[:, :k]).argmax(axis=0), np.arange(k)] < 0, -1, 1)
        ridge = eps * variance[:rank].mean()
        scale = np.ones(k) if kind == "pca" else 1 / np.sqrt(variance[:k] + ridge)
        basis = axes * scale
        if kind == "zca":
            basis = basis @ axes.T
        facts = {
            "kind": kind,
            "dim": basis.shape[1],
            "asked_dim": dim,
            "rank": rank,
            "learned_from": count,
            "variance_kept": float(variance[:k].sum() / variance.sum()),
        }
        if kind != "pca":
            facts |= {"eps": eps, "added_to_variances": float(ridge)}
        return cls(mean, basis, facts)

    def apply(self, x: Floats) -> Floats:
        """Rows in the new axes; rows of zeros stay zeros, for nothing is known of such an item."""
        y = np.asarray((x.astype(np.float64) - self.mean) @ self.basis, dtype=np.float32)
        y[~x.any(axis=1)] = 0
        return y
