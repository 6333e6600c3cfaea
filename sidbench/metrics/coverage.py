"""Coverage: how much of the catalogue is ever recommended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidbench.metrics.metric import Metric
from sidbench.ranking import Ranking


def coverage_metrics(ranking: Ranking, cutoffs: Sequence[int]) -> dict[str, float]:
    """Expected share of items that stand among the first K of anybody's list."""
    sizes = ranking.sizes()
    before = np.cumsum(sizes, axis=1) - sizes
    group_of = ranking.group_of
    if ranking.hidden is None:
        hidden = np.zeros((2, 0), dtype=np.int64)
    else:
        owner = np.repeat(np.arange(len(ranking)), ranking.hidden.lengths)
        hidden = np.unique(np.stack([owner, ranking.hidden.items]), axis=1)
    user, item = hidden
    # Where a hidden item's group stands in its user's list: it is not recommended there.
    places = np.argwhere(ranking.groups[user] == group_of[item][:, None])
    user, item, place = user[places[:, 0]], item[places[:, 0]], places[:, 1]
    out = {}
    for k in cutoffs:
        inside = np.clip(k - before, 0, sizes)
        chance = np.divide(inside, sizes, out=np.zeros(sizes.shape), where=sizes > 0)
        # An item is missed by all who may miss it, and by nobody who cannot: logarithms apart from certainty.
        sure = chance >= 1
        missed = np.log1p(-np.where(sure, 0, chance))
        listed = ranking.groups >= 0
        groups, count = ranking.groups[listed], len(ranking.offsets) - 1
        by_group = (
            np.bincount(groups, weights=sure[listed], minlength=count),
            np.bincount(groups, weights=missed[listed], minlength=count),
        )
        certain, never = (of[group_of] for of in by_group)
        certain -= np.bincount(item, weights=sure[user, place], minlength=len(group_of))
        never -= np.bincount(item, weights=missed[user, place], minlength=len(group_of))
        found = np.where(certain > 0.5, 1.0, -np.expm1(np.minimum(never, 0)))
        out[f"coverage@{k}"] = float(found.mean())
    return out


METRICS: tuple[Metric, ...] = (
    Metric(
        name="coverage@K", label="Coverage", source="ranking", direction="none", format=".1%", family=True,
        secondary=True,
        legend="Share of items that stand among the first K of any test user's list; where a group of items "
        "reaches past K, in expectation over the order inside it, drawn anew for each user. No achievement: "
        "items that share a SID are listed with it and cover the catalogue for nothing, random lists cover "
        "all of it, and it grows with the number of users.",
    ),
)  # fmt: skip
