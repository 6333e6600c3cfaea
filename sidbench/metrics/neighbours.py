"""Neighbours: whether items that lie near each other share a prefix, and the other way round."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings, Ints
from sidbench.metrics.metric import Metric
from sidbench.metrics.prefixes import Prefixes, centre, sample

#: Items whose neighbours are looked up (all, where there are fewer), and how many of these.
QUERIES = 1000
NEAREST = 10
#: Items of the catalogue that are compared with all queries at once.
BLOCK = 1 << 14


class Neighbours(NamedTuple):
    """`items[q]` are the nearest of item `queries[q]` by Euclidean distance, itself left out."""

    queries: Ints
    items: NDArray[np.int64]


def nearest_items(x: Embeddings, *, queries: int = QUERIES, nearest: int = NEAREST) -> Neighbours:
    """The nearest items of a fixed sample, among all items; a block of the catalogue at a time."""
    n, k = len(x), min(nearest, len(x) - 1)
    rows = sample(n, queries)
    mean = centre(x).astype(np.float32)
    # One product for both terms of a distance: the row's own square orders nothing.
    asked = np.hstack([x[rows] - mean, np.ones((len(rows), 1), dtype=np.float32)])
    query = np.repeat(np.arange(len(rows)), k)
    item = np.full(len(query), -1, dtype=np.int64)
    distance = np.full(len(query), np.inf, dtype=np.float32)
    for start in range(0, n if k else 0, BLOCK):
        block = x[start : start + BLOCK] - mean
        far = asked @ np.vstack([-2 * block.T, np.square(block).sum(axis=1)])
        here = np.flatnonzero((rows >= start) & (rows < start + len(block)))
        far[here, rows[here] - start] = np.inf
        # Only what is nearer than the farthest one kept so far; of the first block, its own nearest.
        limit = distance.reshape(-1, k)[:, -1:]
        few = min(k, len(block)) - 1
        with np.errstate(invalid="ignore"):
            if start == 0:
                limit = np.partition(far, few, axis=1)[:, few : few + 1]
            q, column = np.nonzero(far <= limit)
        query = np.concatenate([query, q])
        item = np.concatenate([item, column + start])
        distance = np.concatenate([distance, far[q, column]])
        order = np.lexsort((item, distance, query))
        first = np.searchsorted(query[order], np.arange(len(rows)))
        kept = order[(first[:, None] + np.arange(k)).reshape(-1)]
        query, item, distance = query[kept], item[kept], distance[kept]
    return Neighbours(rows, item.reshape(len(rows), k))


def neighbour_metrics(
    found: Neighbours, prefixes: Prefixes
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """How the neighbours in space and the neighbours in the tree agree, depth by depth."""
    k = found.items.shape[1]
    if not k:
        return {}, {}
    hits = (prefixes.group[:, found.items] == prefixes.group[:, found.queries, None]).sum(axis=2)
    others = np.stack(
        [size[group[found.queries]] - 1 for size, group in zip(prefixes.sizes, prefixes.group, strict=True)]
    )
    alone = others == 0
    precision = np.where(alone, 0.0, hits / np.maximum(others, 1))
    levels = {
        "neighbour_recall": (hits / k).mean(axis=1).tolist(),
        "neighbour_precision": precision.mean(axis=1).tolist(),
        "neighbour_agreement": (2 * hits / (k + others)).mean(axis=1).tolist(),
    }
    return {name: float(np.mean(values)) for name, values in levels.items()}, levels


_WHERE = (
    f"The {NEAREST} nearest items by Euclidean distance of {QUERIES:,} sampled items (all, where there are "
    "fewer), mean over depths"
)

METRICS: tuple[Metric, ...] = (
    Metric(
        name="neighbour_recall", label="Neighbour recall", source="sids", direction="higher", format=".1%",
        secondary=True,
        legend=f"{_WHERE}: the share of them that has the item's own prefix. Coarse codes win it: one SID "
        "for all items would score 1.",
    ),
    Metric(
        name="neighbour_precision", label="Neighbour precision", source="sids", direction="higher",
        format=".1%", secondary=True,
        legend=f"{_WHERE}: of the items with the item's own prefix, the share that is among them; 0 where "
        "nobody else has the prefix. Groups larger than the neighbourhood cannot reach 1, and an item that "
        "is alone scores 0 however good its prefix is.",
    ),
    Metric(
        name="neighbour_agreement", label="Neighbour agreement", source="sids", direction="higher",
        format=".1%", secondary=True,
        legend=f"{_WHERE}: twice the items that are both near and of the same prefix, over the sum of the "
        "two counts. Neither one SID for all nor a SID for each can win it. It does not show whether near "
        "in this space is what users mean by alike.",
    ),
)  # fmt: skip
