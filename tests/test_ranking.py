"""Ranking: group sizes, hidden items and item lists agree with the plain way of counting."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.dataset import Sequences
from sidbench.ranking import Ranking


def make(rng: np.random.Generator, users: int, items: int, groups: int) -> Ranking:
    """A random ranking over random groups, lists of random length."""
    label = np.sort(np.concatenate([np.arange(groups), rng.integers(0, groups, items - groups)]))
    members = rng.permutation(items).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(label, minlength=groups))])
    order = np.stack([rng.permutation(groups) for _ in range(users)])
    order[np.arange(groups) >= rng.integers(0, groups + 1, users)[:, None]] = -1
    scores = np.tile(-np.arange(groups, dtype=np.float32), (users, 1))
    return Ranking(order, scores, members, offsets)


def inside(r: Ranking, g: int) -> set[int]:
    return set(r.members[r.offsets[g] : r.offsets[g + 1]].tolist()) if g >= 0 else set()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sizes_count_what_is_not_hidden(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = 5, 12
    r = make(rng, users, items, int(rng.integers(1, items + 1)))
    hidden = [rng.integers(0, items, rng.integers(0, 8)).tolist() for _ in range(users)]  # repeats included
    masked = r.without(Sequences.of(hidden))
    for u in range(users):
        left = [len(inside(r, g) - set(hidden[u])) for g in r.groups[u]]
        assert masked.sizes()[u].tolist() == left
        assert [len(inside(r, g)) for g in r.groups[u]] == r.sizes()[u].tolist()
        everything = masked.items(u, items)
        assert len(everything) == sum(left)
        assert not set(everything.tolist()) & set(hidden[u])
    wanted = rng.integers(0, items, users)
    assert masked.hides(wanted).tolist() == [int(w) in h for w, h in zip(wanted, hidden, strict=True)]
    assert not r.hides(wanted).any()


def test_single_items_are_their_own_groups() -> None:
    r = Ranking.of_items(np.array([[2, 0, -1]]), np.zeros((1, 3), np.float32), 4)
    assert r.sizes().tolist() == [[1, 1, 0]]
    assert r.items(0, 5).tolist() == [2, 0]
    assert r.group_of.tolist() == [0, 1, 2, 3]


def test_empty_lists_have_no_places() -> None:
    r = Ranking.of_items(np.zeros((2, 0), np.int64), np.zeros((2, 0), np.float32), 3)
    assert r.without(Sequences.of([[0], [1, 2]])).sizes().shape == (2, 0)
