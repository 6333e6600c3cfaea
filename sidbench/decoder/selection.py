"""Which weights are kept: those that rank best, at item level, for a fixed sample of validation users."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidbench.protocol import Targets


class Validation(NamedTuple):
    """What a model does on the users that select: at item level, and the mean loss a code."""

    ndcg: float
    recall: float
    loss: float
    #: Of the search alone.
    seconds: float


def expected_gain(
    groups: NDArray[np.int64], goal: NDArray[np.int64], sizes: NDArray[np.int64], k: int, *, discount: bool
) -> NDArray[np.float64]:
    """Item-level NDCG@k (without the discount: Recall@k) of one target a row.

    Expected over the order of the items that share a SID: with P of them before the target's group and G in
    it, each place P+1..P+G is as likely as the others.
    """
    members = np.where(groups >= 0, sizes[groups], 0)
    before = members.cumsum(1) - members
    hit = groups == goal[:, None]
    first = np.where(hit.any(1), before[np.arange(len(goal)), hit.argmax(1)], k)
    places = np.arange(2, k + 2)
    gains = np.concatenate(([0.0], np.cumsum(1 / np.log2(places) if discount else np.ones(k))))
    own = sizes[goal]
    start, stop = np.minimum(first, k), np.minimum(first + own, k)
    out: NDArray[np.float64] = (gains[stop] - gains[start]) / own
    return out


def some(valid: Targets, count: int) -> Targets:
    """The users that select: drawn with a seed of their own, so that every method and seed has the same."""
    if len(valid) <= count:
        return valid
    return valid.take(np.sort(np.random.default_rng(0).choice(len(valid), count, replace=False)))
