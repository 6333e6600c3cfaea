"""Collisions: items that share a SID, in every definition in use, and the floor that the data sets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.metrics.duplicates import identical
from sidbench.metrics.metric import Metric
from sidbench.sids import Codes, distinct_rows


def collision_metrics(codes: Codes, targets: NDArray[Any], *, resolved: bool = False) -> dict[str, float]:
    """Every collision number of one set of SIDs; `targets` are the item numbers that the test asks for."""
    group = distinct_rows(codes)[1]
    sizes = np.bincount(group)
    values = {
        "collision_items": _in_groups(sizes),
        "collision_distinct": _surplus(sizes),
        "collision_largest": float(sizes.max()),
    }
    if len(targets):
        values["collision_traffic"] = float((sizes[group[targets]] > 1).mean())
    return {f"{name}_resolved": v for name, v in values.items()} if resolved else values


def floor_metrics(x: NDArray[np.float32]) -> dict[str, float]:
    """The collisions that identical embeddings force on any tokenizer that sees nothing else."""
    sizes = np.unique(identical(x), return_counts=True)[1]
    return {"floor_items": _in_groups(sizes), "floor_distinct": _surplus(sizes)}


def _in_groups(sizes: NDArray[np.int64]) -> float:
    return float(sizes[sizes > 1].sum() / sizes.sum())


def _surplus(sizes: NDArray[np.int64]) -> float:
    return float((sizes.sum() - len(sizes)) / sizes.sum())


def _both(name: str, label: str, legend: str, format: str = ".2%") -> tuple[Metric, ...]:
    """One number before the resolver and the same number after it."""
    before = Metric(
        name=name, label=label, source="sids", direction="lower", format=format,
        legend=f"{legend} Taken on the tokenizer's codes, before the resolver.",
    )  # fmt: skip
    after = Metric(
        name=f"{name}_resolved", label=f"{label}, resolved", source="sids", direction="lower", format=format,
        secondary=True,
        legend=f"{label} after the resolver: trivial by construction where it makes SIDs unique, so this "
        "describes the resolver, not the tokenizer.",
    )  # fmt: skip
    return before, after


METRICS: tuple[Metric, ...] = (
    *_both(
        "collision_items",
        "Colliding items",
        "Share of items that share their SID with another item: Σ group sizes above 1 / N. Does not show how "
        "large the groups are, nor whether anybody asks for these items.",
    ),
    *_both(
        "collision_distinct",
        "Surplus items",
        "(N − distinct SIDs) / N, the 'collision rate' of RQ-VAE code bases. At most, and usually about half "
        "of, the share of colliding items; never compare one with the other.",
    ),
    *_both("collision_largest", "Largest group", "The most items on one SID.", ",.0f"),
    *_both(
        "collision_traffic",
        "Colliding targets",
        "Share of test targets whose SID is shared: collisions weighted by what users do. Depends on the "
        "split, so it compares tokenizers on one dataset, not datasets.",
    ),
    Metric(
        name="floor_items", label="Duplicate floor", source="data", direction="none", format=".2%",
        secondary=True,
        legend="Share of items whose embedding is identical to another item's: every coordinate within 0.001 "
        "of the root mean square of all values, linked transitively. A property of the data: what collides "
        "beyond it is the tokenizer's doing, since identical embeddings get one SID. Does not show near "
        "duplicates.",
    ),
    Metric(
        name="floor_distinct", label="Duplicate floor, surplus", source="data", direction="none",
        format=".2%", secondary=True,
        legend="(N − distinct embeddings) / N, identical ones counted once: the floor of surplus items.",
    ),
)  # fmt: skip
