"""Truth: whether SIDs find the categories that are known, where any are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import scramble
from sidbench.metrics.metric import Metric
from sidbench.metrics.prefixes import Prefixes


def category_metrics(
    prefixes: Prefixes, categories: NDArray[np.int32]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Prefixes of d codes beside the categories of depth d, as deep as both go."""
    order = np.argsort(scramble(np.arange(len(prefixes), dtype=np.uint64), 1), kind="stable")
    found = []
    for group, column in zip(prefixes.group, categories.T, strict=False):
        known = np.unique(column, return_inverse=True)[1].reshape(-1)
        real, chance = shared_information(group, known), shared_information(group, known[order])
        found.append((real - chance) / (1 - chance) if chance < 1 - 1e-12 else 0.0)
    return {"category_recovery": float(np.mean(found))}, {"category_recovery": found}


def shared_information(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Normalized mutual information of two numberings from 0: 2 I / (H + H'), 0 where both say nothing."""
    width = int(b.max()) + 1
    both = np.unique(a * width + b, return_counts=True)[1]
    own = _entropy(np.bincount(a)), _entropy(np.bincount(b))
    if sum(own) < 1e-12:
        return 0.0
    return max(0.0, 2 * (sum(own) - _entropy(both)) / sum(own))


def _entropy(counts: NDArray[np.int64]) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


METRICS: tuple[Metric, ...] = (
    Metric(
        name="category_recovery", label="Category recovery", source="sids", direction="higher",
        format=".1%", secondary=True,
        legend="Normalized mutual information of the prefixes of d codes with the known categories of depth "
        "d, less what it is for the same categories dealt out at random, over what is left; mean over "
        "depths. 0 is chance, 1 the very tree. Categories are one order among many: SIDs may serve users "
        "better with another.",
    ),
)  # fmt: skip
