"""Parts: recall on some of the targets: cold and warm ones, and by how popular the target is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.metrics.metric import Metric
from sidbench.metrics.ranks import Places, item_ndcg, item_recall
from sidbench.sids import Codes, distinct_rows

#: Parts into which targets are sorted by popularity.
PARTS = 10


def cold_metrics(found: Places, cold: NDArray[np.bool_], cutoffs: Sequence[int]) -> dict[str, float]:
    """Recall and NDCG over the targets that are cold and over those that are not."""
    out: dict[str, float] = {}
    for part, rows in (("cold", cold), ("warm", ~cold)):
        if rows.any():  # a mean over nobody is no number
            for k in cutoffs:
                out[f"recall_{part}@{k}"] = float(item_recall(found.before, found.size, k)[rows].mean())
                out[f"ndcg_{part}@{k}"] = float(item_ndcg(found.before, found.size, k)[rows].mean())
    return out


def cold_collisions(codes: Codes, cold: NDArray[np.integer[Any]]) -> dict[str, float]:
    """How many of the cold items got a SID that another item has."""
    group = distinct_rows(codes)[1]
    return {"collision_cold": float((np.bincount(group)[group[cold]] > 1).mean())}


def decile_recall(
    found: Places, popularity: NDArray[np.integer[Any]], cutoffs: Sequence[int]
) -> dict[str, list[float]]:
    """Recall in ten equal parts of the targets, the most popular items' first.

    `popularity` is how often training met each target's item. Targets of equal popularity are in no order:
    the expectation over all of them is taken, so a part's edge inside such a block cuts it in proportion.
    """
    block = np.unique(-popularity, return_inverse=True)[1].reshape(-1)
    ends = np.concatenate([[0], np.cumsum(np.bincount(block))])
    edges = np.linspace(0, len(popularity), PARTS + 1)
    out = {}
    for k in cutoffs:
        hits = np.bincount(block, weights=item_recall(found.before, found.size, k))
        upto = np.interp(edges, ends, np.concatenate([[0.0], np.cumsum(hits)]))
        # Never above 1 or below 0 by the rounding of a running sum.
        out[f"recall_decile@{k}"] = np.clip(np.diff(upto) / np.diff(edges), 0, 1).tolist()
    return out


def _cold(name: str, label: str, of: str) -> tuple[Metric, ...]:
    """One number over the cold targets and the same over the warm ones."""
    return tuple(
        Metric(
            name=f"{name}_{part}@K", label=f"{label} {part}", source="ranking", direction="higher",
            family=True,
            legend=f"{of} over the test targets {which}, all items being candidates. {limit}",
        )
        for part, which, limit in (
            ("cold", "that are cold: items that nothing was learned from, which got their SIDs afterwards",
             "Does not show how many there are (the notes say it); a few of them make a noisy mean."),
            ("warm", "that are not cold", "Cold items compete for these places too."),
        )
    )  # fmt: skip


METRICS: tuple[Metric, ...] = (
    *_cold("recall", "Recall", "Item-level recall"),
    *_cold("ndcg", "NDCG", "Item-level NDCG"),
    Metric(
        name="recall_decile@K", label="Recall by popularity", source="ranking", direction="higher",
        family=True, secondary=True,
        legend="Item-level recall in ten parts with equally many test targets, those whose item training met "
        "most often first: each part is as certain as the others, and their mean is the recall. The first "
        "parts hold few items, the last ones most of the catalogue. Targets of equal popularity are in no "
        "order, so the expectation over it is taken.",
    ),
    Metric(
        name="collision_cold", label="Colliding cold items", source="sids", direction="lower", format=".2%",
        legend="Share of the cold items whose codes another item has, warm or cold. Taken on the tokenizer's "
        "codes, before the resolver; beside colliding items it says whether new items crowd where old ones "
        "are.",
    ),
)  # fmt: skip
