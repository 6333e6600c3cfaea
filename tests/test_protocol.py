"""Laws of leave-one-out: what trains, selects and tests never overlaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidbench.dataset import Corpus, Sequences
from sidbench.errors import DataError, UsageError
from sidbench.protocol import leave_one_out, split


def corpus(lists: list[list[int]]) -> Corpus:
    return Corpus(
        name="small",
        embeddings=np.ones((10, 2), np.float32),
        item_ids=np.arange(10),
        sequences=Sequences.of(lists),
        user_ids=np.arange(len(lists)),
    )


@given(st.lists(st.lists(st.integers(0, 9), max_size=7), max_size=7))
def test_leave_one_out_is_what_its_name_says(lists: list[list[int]]) -> None:
    long = [u for u, r in enumerate(lists) if len(r) >= 3]
    if not long:
        with pytest.raises(DataError, match="at least 3"):
            leave_one_out(corpus(lists))
        return
    s = leave_one_out(corpus(lists))
    assert s.n_items == 10
    assert [r.tolist() for r in s.train] == [r[:-2] if len(r) >= 3 else r for r in lists]
    assert s.valid.users.tolist() == s.test.users.tolist() == long
    assert [r.tolist() for r in s.valid.histories] == [lists[u][:-2] for u in long]
    assert s.valid.items.tolist() == [lists[u][-2] for u in long]
    assert [r.tolist() for r in s.test.histories] == [lists[u][:-1] for u in long]
    assert s.test.items.tolist() == [lists[u][-1] for u in long]
    # Every position is in exactly one of the three.
    used = len(s.train.items) + len(s.valid) + len(s.test)
    assert used == sum(map(len, lists))
    assert bool(s.notes) == (len(long) < len(lists))


def test_what_trains_does_not_change_with_what_tests() -> None:
    one = leave_one_out(corpus([[1, 2, 3, 4], [5, 6, 7]]))
    two = leave_one_out(corpus([[1, 2, 9, 9], [5, 8, 8]]))
    assert (one.train.items == two.train.items).all()


def test_targets_can_be_sampled() -> None:
    test = leave_one_out(corpus([[1, 2, 3], [4, 5, 6, 7], [8, 9, 8]])).test
    some = test.take(np.array([2, 1]))
    assert some.users.tolist() == [2, 1]
    assert [h.tolist() for h in some.histories] == [[8, 9], [4, 5, 6]]
    assert some.items.tolist() == [8, 7]


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="did you mean 'leave-one-out'"):
        split(corpus([[1, 2, 3]]), "leave_one_out")
