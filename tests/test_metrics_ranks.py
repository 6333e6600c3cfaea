"""Ranking metrics: worked cases, the exact expectation over every order of ties, and the laws they obey."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.dataset import Sequences
from sidbench.metrics import places, ranking_metrics
from sidbench.metrics.ranks import Places, item_mrr, item_ndcg, item_recall, sid_ndcg, sid_recall
from sidbench.ranking import Ranking


def ranking(groups: list[list[int]], members: list[list[int]]) -> Ranking:
    """Lists of groups, and the items of each group."""
    width = max(map(len, groups))
    padded = np.array([row + [-1] * (width - len(row)) for row in groups], dtype=np.int64)
    inside = Sequences.of(members)
    return Ranking(padded, np.zeros(padded.shape, np.float32), inside.items, inside.offsets)


@pytest.mark.parametrize(
    ("before", "size", "k", "recall", "ndcg"),
    [(0, 1, 5, 1, 1), (0, 4, 5, 1, 0.6404), (4, 3, 5, 0.3333, 0.1290), (9, 1, 5, 0, 0), (-1, -1, 5, 0, 0)],
)
def test_worked_cases(before: int, size: int, k: int, recall: float, ndcg: float) -> None:
    p, g = np.array([before]), np.array([size])
    assert item_recall(p, g, k)[0] == pytest.approx(recall, abs=5e-5)
    assert item_ndcg(p, g, k)[0] == pytest.approx(ndcg, abs=5e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 12), st.data())
def test_the_closed_form_is_the_mean_over_every_order_of_ties(
    sizes: list[int], k: int, data: st.DataObject
) -> None:
    target_group = data.draw(st.integers(0, len(sizes) - 1))
    before, size = sum(sizes[:target_group]), sizes[target_group]
    recalls, gains, inverse = [], [], []
    # Orders inside other groups move nobody in the target's: enumerating this one is exact.
    for order in itertools.permutations(range(size)):
        rank = before + order.index(0)
        recalls.append(rank < k)
        gains.append(1 / math.log2(rank + 2) if rank < k else 0)
        inverse.append(1 / (rank + 1) if rank < k else 0)
    p, g = np.array([before]), np.array([size])
    assert item_recall(p, g, k)[0] == pytest.approx(np.mean(recalls))
    assert item_ndcg(p, g, k)[0] == pytest.approx(np.mean(gains))
    assert item_mrr(p, g, k)[0] == pytest.approx(np.mean(inverse))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_places_equal_a_walk_down_the_list(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_items, n_groups, users = 10, int(rng.integers(1, 7)), 6
    label = rng.integers(0, n_groups, n_items)
    members = [np.flatnonzero(label == g).tolist() for g in range(n_groups)]
    lists = [rng.permutation(n_groups)[: rng.integers(1, n_groups + 1)].tolist() for _ in range(users)]
    hidden = [rng.integers(0, n_items, rng.integers(0, 6)).tolist() for _ in range(users)]
    targets = rng.integers(0, n_items, users)
    got = places(ranking(lists, members).without(Sequences.of(hidden)), targets)
    for u in range(users):
        expected, before, rank = (-1, -1, -1), 0, 0
        for g in lists[u]:
            left = [i for i in members[g] if i not in hidden[u]]
            if targets[u] in left:
                expected = (before, len(left), rank)
            before += len(left)
            rank += bool(left)
        assert (got.before[u], got.size[u], got.sid_rank[u]) == expected


@pytest.mark.parametrize("k", [1, 5, 10])
def test_one_sid_for_all_items_scores_at_chance(k: int) -> None:
    n = 40
    everything = ranking([[0]] * 8, [list(range(n))])
    got = ranking_metrics(places(everything, np.arange(8)), [k])
    assert got[f"recall@{k}"] == pytest.approx(k / n)
    assert got[f"sid_recall@{k}"] == 1
    assert got[f"inflation@{k}"] == pytest.approx(n / k - 1)


def test_without_shared_sids_both_levels_agree() -> None:
    rng = np.random.default_rng(0)
    r = Ranking.of_items(
        np.stack([rng.permutation(30)[:12] for _ in range(300)]), np.zeros((300, 12), np.float32), 30
    )
    got = ranking_metrics(places(r, rng.integers(0, 30, 300)), [1, 5, 10])
    for k in (1, 5, 10):
        assert got[f"recall@{k}"] == got[f"sid_recall@{k}"]
        assert got[f"ndcg@{k}"] == pytest.approx(got[f"sid_ndcg@{k}"])
        assert got[f"inflation@{k}"] == 0


def test_shared_sids_never_score_less_at_sid_level() -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(0, 20, 200)
    rank = np.minimum(before, rng.integers(0, 20, 200))  # groups hold at least one item
    size = rng.integers(1, 9, 200)
    for k in (1, 3, 10):
        assert (sid_recall(rank, k) >= item_recall(before, size, k)).all()
        assert (sid_ndcg(rank, k) >= item_ndcg(before, size, k) - 1e-12).all()


def test_values_grow_with_the_cutoff_and_stay_below_one() -> None:
    before, size = np.meshgrid(np.arange(-1, 15), np.arange(1, 6))
    last = [np.zeros(before.shape)] * 3
    for k in range(1, 22):
        now = [f(before, size, k) for f in (item_recall, item_ndcg, item_mrr)]
        for a, b in zip(last, now, strict=True):
            assert (b >= a - 1e-12).all()
            assert (b <= 1 + 1e-12).all()
        last = now


def test_inflation_is_left_out_where_no_item_was_found() -> None:
    nothing = Places(*(np.full(3, -1) for _ in range(3)))
    got = ranking_metrics(nothing, [10])
    assert got["recall@10"] == 0
    assert "inflation@10" not in got


def test_references_report_no_sid_level() -> None:
    one = Places(np.array([0]), np.array([1]), np.array([0]))
    assert set(ranking_metrics(one, [10], sid_level=False)) == {"recall@10", "ndcg@10", "mrr@10"}
