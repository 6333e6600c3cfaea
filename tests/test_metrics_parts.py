"""Recall on parts of the targets: tenths by popularity hold what they claim, cold and warm make the whole."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sidbench.metrics import cold_collisions, cold_metrics, decile_recall, metric
from sidbench.metrics.ranks import Places, ranking_metrics


def found(hits: list[int]) -> Places:
    """First places for hits, nowhere for misses."""
    before = np.where(np.array(hits) > 0, 0, -1)
    return Places(before, np.where(before < 0, -1, 1), before)


def deciles(hits: list[int], popularity: list[int]) -> NDArray[Any]:
    return np.array(decile_recall(found(hits), np.array(popularity), [10])["recall_decile@10"])


def test_the_head_comes_first() -> None:
    hits = [1] * 10 + [0] * 10
    assert deciles(hits, list(range(20, 0, -1))).tolist() == [1] * 5 + [0] * 5
    assert deciles(hits, list(range(20))).tolist() == [0] * 5 + [1] * 5


def test_targets_of_equal_popularity_are_in_no_order() -> None:
    hits = [1] * 10 + [0] * 10
    assert deciles(hits, [3] * 20) == pytest.approx(np.full(10, 0.5))
    # Half of a tenth is the tail of one block, the other half the head of the next.
    assert deciles([1, 1, 1, 0], [9, 9, 9, 1]) == pytest.approx([1] * 7 + [0.5, 0, 0])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=60))
def test_their_mean_is_the_recall(rows: list[tuple[int, int]]) -> None:
    hits, popularity = [h for h, _ in rows], [p for _, p in rows]
    parts = deciles(hits, popularity)
    assert len(parts) == 10
    assert parts.mean() == pytest.approx(np.mean(hits))
    assert ((parts >= 0) & (parts <= 1)).all()


def test_the_expectation_is_the_mean_over_every_order_of_ties() -> None:
    hits, popularity = [1, 0, 1, 1, 0], [2, 1, 1, 1, 0]
    orders = [(0, *middle, 4) for middle in itertools.permutations((1, 2, 3))]
    plain = np.mean([np.repeat(np.array(hits)[list(order)], 2) for order in orders], axis=0)
    assert deciles(hits, popularity) == pytest.approx(plain)


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=1, max_size=40))
def test_cold_and_warm_make_the_whole(rows: list[tuple[int, bool]]) -> None:
    place, cold = found([h for h, _ in rows]), np.array([c for _, c in rows])
    parts, whole = cold_metrics(place, cold, [1, 10]), ranking_metrics(place, [1, 10])
    for name in ("recall", "ndcg"):
        for k in (1, 10):
            total = sum(
                parts.get(f"{name}_{part}@{k}", 0.0) * mask.sum()
                for part, mask in (("cold", cold), ("warm", ~cold))
            )
            assert total / len(rows) == pytest.approx(whole[f"{name}@{k}"])
    assert any("cold" in name for name in parts) == bool(cold.any())
    assert all(metric(name).legend for name in parts)


def test_cold_items_collide_with_warm_and_with_each_other() -> None:
    codes = np.array([[0], [0], [1], [2], [3], [3]], dtype=np.int32)
    # Item 0 shares with a warm one, 4 and 5 with each other, 3 with none.
    assert cold_collisions(codes, np.array([0, 3, 4, 5])) == {"collision_cold": 0.75}
