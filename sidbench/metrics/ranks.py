"""Ranking metrics: item-level, expected over the order inside a shared SID, and SID-level beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidbench.metrics.metric import Metric
from sidbench.ranking import Ranking

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Places(NamedTuple):
    """Where each user's target stands; all -1 where it is not in the list (or is hidden)."""

    #: P: items that stand strictly before the target's group.
    before: Ints
    #: G: items in the target's group, the target included.
    size: Ints
    #: r: groups before the target's, 0-based; groups whose items are all hidden do not count.
    sid_rank: Ints


def places(ranking: Ranking, targets: NDArray[Any]) -> Places:
    """The place of `targets[u]` (item numbers) in row u of the ranking."""
    wanted = ranking.group_of[targets]
    sizes = ranking.sizes()
    hit = (ranking.groups == wanted[:, None]) & (sizes > 0)
    found = hit.any(axis=1) & ~ranking.hides(targets)
    at = hit.argmax(axis=1)[:, None]
    size = np.take_along_axis(sizes, at, axis=1)[:, 0]
    before = np.take_along_axis(np.cumsum(sizes, axis=1), at, axis=1)[:, 0] - size
    rank = np.take_along_axis(np.cumsum(sizes > 0, axis=1), at, axis=1)[:, 0] - 1
    before, size, rank = (np.where(found, v, -1).astype(np.int64) for v in (before, size, rank))
    return Places(before, size, rank)


def item_recall(before: Ints, size: Ints, k: int) -> Floats:
    """Chance that the target is among the first k items: e/G, e = min(G, max(0, k − P))."""
    return np.where(before >= 0, _inside(before, size, k) / np.maximum(size, 1), 0.0)


def item_ndcg(before: Ints, size: Ints, k: int) -> Floats:
    """Expected gain of the one relevant item: (1/G) Σ_{i=1..e} 1/log2(P + i + 1)."""
    return _expected(before, size, k, 1 / np.log2(np.arange(2, k + 2)))


def item_mrr(before: Ints, size: Ints, k: int) -> Floats:
    """Expected reciprocal rank, 0 beyond k: (1/G) Σ_{i=1..e} 1/(P + i)."""
    return _expected(before, size, k, 1 / np.arange(1, k + 1))


def sid_recall(rank: Ints, k: int) -> Floats:
    """1 where the target's SID is among the first k SIDs."""
    return ((rank >= 0) & (rank < k)).astype(np.float64)


def sid_ndcg(rank: Ints, k: int) -> Floats:
    """1/log2(r + 2) where the target's SID is among the first k SIDs."""
    return np.where(sid_recall(rank, k) > 0, 1 / np.log2(np.maximum(rank, 0) + 2), 0.0)


def sid_mrr(rank: Ints, k: int) -> Floats:
    """1/(r + 1) where the target's SID is among the first k SIDs."""
    return np.asarray(sid_recall(rank, k) / (np.maximum(rank, 0) + 1))


def ranking_metrics(places: Places, cutoffs: Sequence[int], *, sid_level: bool = True) -> dict[str, float]:
    """Every ranking number, mean over users; without SIDs (references) there is no SID level to report."""
    before, size, rank = places
    out: dict[str, float] = {}
    for k in cutoffs:
        out[f"recall@{k}"] = float(item_recall(before, size, k).mean())
        out[f"ndcg@{k}"] = float(item_ndcg(before, size, k).mean())
        out[f"mrr@{k}"] = float(item_mrr(before, size, k).mean())
        if sid_level:
            out[f"sid_recall@{k}"] = float(sid_recall(rank, k).mean())
            out[f"sid_ndcg@{k}"] = float(sid_ndcg(rank, k).mean())
            out[f"sid_mrr@{k}"] = float(sid_mrr(rank, k).mean())
            if out[f"recall@{k}"] > 0:  # nothing found: no ratio, and none is reported
                out[f"inflation@{k}"] = out[f"sid_recall@{k}"] / out[f"recall@{k}"] - 1
    return out


def _inside(before: Ints, size: Ints, k: int) -> Ints:
    """e: how many places of the target's group lie within the first k items."""
    return np.minimum(size, np.maximum(0, k - before))


def _expected(before: Ints, size: Ints, k: int, gains: Floats) -> Floats:
    """(1/G) Σ_{i=1..e} gains[P + i - 1], from a running sum."""
    upto = np.concatenate([[0.0], np.cumsum(gains)])
    start = np.clip(before, 0, k)
    total = upto[start + np.maximum(_inside(start, size, k), 0)] - upto[start]
    return np.where(before >= 0, total / np.maximum(size, 1), 0.0)


_EXPECTED = (
    "Where several items share a SID the order among them is arbitrary, so the expectation over it is taken"
)

METRICS: tuple[Metric, ...] = (
    Metric(
        name="recall@K", label="Recall", source="ranking", direction="higher", family=True,
        legend="Item-level, the headline. Chance that a user's one test item is among the first K items, "
        f"mean over users, all items being candidates. {_EXPECTED}: e/G with e = min(G, max(0, K − P)), P "
        "items before the group and G in it. A list holds only what the beam found, so narrow beams cap it.",
    ),
    Metric(
        name="ndcg@K", label="NDCG", source="ranking", direction="higher", family=True,
        legend=f"Item-level. {_EXPECTED}: (1/G) Σ_{{i=1..e}} 1/log2(P + i + 1), mean over users. Rewards "
        "early places; with one relevant item a user the ideal is 1.",
    ),
    Metric(
        name="mrr@K", label="MRR", source="ranking", direction="higher", family=True,
        legend=f"Item-level. {_EXPECTED}: (1/G) Σ_{{i=1..e}} 1/(P + i), mean over users; 0 beyond K.",
    ),
    Metric(
        name="sid_recall@K", label="SID-level recall", source="ranking", direction="higher", family=True,
        secondary=True,
        legend="Share of users whose test item's SID is among the first K SIDs, as many papers score. Counts "
        "a hit however many items share the SID: one SID for all items would score 1.",
    ),
    Metric(
        name="sid_ndcg@K", label="SID-level NDCG", source="ranking", direction="higher", family=True,
        secondary=True,
        legend="1/log2(r + 2) for the target's SID at place r (from 0) among the first K SIDs, mean over "
        "users. Ignores how many items share a SID.",
    ),
    Metric(
        name="sid_mrr@K", label="SID-level MRR", source="ranking", direction="higher", family=True,
        secondary=True,
        legend="1/(r + 1) for the target's SID at place r (from 0) among the first K SIDs, mean over users. "
        "Ignores how many items share a SID.",
    ),
    Metric(
        name="inflation@K", label="Inflation", source="ranking", direction="lower", format="+.1%",
        family=True, secondary=True,
        legend="SID-level recall / item-level recall − 1: by how much scoring SIDs would flatter the row. 0 "
        "where every SID has one item; absent where item-level recall is 0.",
    ),
)  # fmt: skip
