"""Laws of protocols: what trains, selects and tests never overlaps; nothing learns from what comes later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidbench.dataset import Corpus, Published, Sequences
from sidbench.errors import DataError, UsageError
from sidbench.plugin import parameter_docs
from sidbench.protocol import PROTOCOLS, ColdStart, Targets, TimeSplit, leave_one_out, make_protocol, split


def corpus(lists: list[list[int]], times: list[list[int]] | None = None, **changes: Any) -> Corpus:
    given: dict[str, Any] = {
        "name": "small",
        "embeddings": np.ones((10, 2), np.float32),
        "item_ids": np.arange(10),
        "sequences": Sequences.of(lists),
        "user_ids": np.arange(len(lists)),
        "times": None if times is None else np.array([t for row in times for t in row], dtype=np.int64),
    }
    return Corpus(**{**given, **changes})


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


timed = st.lists(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=7).map(
        lambda row: sorted(row, key=lambda event: event[0])
    ),
    max_size=7,
)


@given(timed, st.sampled_from([(0.1, 0.1), (0.3, 0.2), (0.2, 0.6)]))
def test_time_split_is_what_its_name_says(
    rows: list[list[tuple[int, int]]], shares: tuple[float, float]
) -> None:
    data = corpus([[i for _, i in row] for row in rows], [[t for t, _ in row] for row in rows])
    protocol = TimeSplit(valid=shares[0], test=shares[1])
    # Every interaction but a user's first, with what the user did before it: by a loop.
    asked = [
        (time, user, [i for _, i in row[:at]], item)
        for user, row in enumerate(rows)
        for at, (time, item) in enumerate(row)
        if at
    ]
    moments = sorted({time for time, *_ in asked})
    if len(moments) < 3:
        with pytest.raises(DataError, match="three moments"):
            protocol.split(data)
        return
    s = protocol.split(data)
    before = [sum(time < m for time, *_ in asked) for m in moments]
    first = min(
        moments[1:-1], key=lambda m: abs(before[moments.index(m)] - len(asked) * (1 - shares[0] - shares[1]))
    )
    second = min(
        (m for m in moments if m > first),
        key=lambda m: abs(before[moments.index(m)] - len(asked) * (1 - shares[1])),
    )

    def told(targets: Targets) -> list[tuple[int, list[int], int]]:
        histories = [h.tolist() for h in targets.histories]
        return list(zip(targets.users.tolist(), histories, targets.items.tolist(), strict=True))

    assert told(s.valid) == [(u, h, i) for t, u, h, i in asked if first <= t < second]
    assert told(s.test) == [(u, h, i) for t, u, h, i in asked if t >= second]
    # Nothing as late as the first cut trains, a user's first interaction included.
    assert [r.tolist() for r in s.train] == [[i for t, i in row if t < first] for row in rows]


def test_time_split_cuts_eight_to_one_to_one_and_says_where() -> None:
    lists = [[u % 10, (u + 1) % 10] for u in range(100)]
    times = [[0, 86_400 * (1 + u)] for u in range(100)]
    s = split(corpus(lists, times), "time-split")
    assert (len(s.train.items), len(s.valid), len(s.test)) == (100 + 80, 10, 10)
    assert "100 targets 80 (80.0%) train, 10 (10.0%) select, 10 (10.0%) test" in s.notes[0]
    assert "1970-03-23 00:00:00 and 1970-04-02 00:00:00" in s.notes[0]
    assert "0.0% of the test targets name an item that no training sequence holds" in s.notes[1]


def test_targets_of_one_moment_stay_together() -> None:
    days = [1] * 70 + [2] * 14 + [3] * 10 + [4] * 6
    s = split(corpus([[0, 1]] * 100, [[0, d] for d in days]), "time-split")
    # 84 is nearer to 80 than 70 is; then 94 to 90.
    assert (len(s.valid), len(s.test)) == (10, 6)


def test_time_split_without_times_says_what_is_needed_and_where() -> None:
    with pytest.raises(DataError, match=r"'small' .*time-split cuts by time.*`timestamps` .*Corpus\(times="):
        split(corpus([[1, 2, 3]]), "time-split")
    with pytest.raises(UsageError, match="leave nothing to train on"):
        make_protocol("time-split", {"valid": 0.5, "test": 0.5})


def test_times_are_in_the_key_of_a_time_split_alone() -> None:
    lists, times = [[1, 2, 3, 4]] * 3, [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]
    with_times, without = corpus(lists, times), corpus(lists)
    later = corpus(lists, [[t + 1 for t in row] for row in times])
    assert with_times.fingerprint == without.fingerprint == later.fingerprint
    assert leave_one_out(with_times).params == {}
    keys = [split(c, "time-split").params for c in (with_times, later)]
    assert keys[0] != keys[1]
    assert {**keys[0], "times": ""} == {**keys[1], "times": ""} == {"valid": 0.1, "test": 0.1, "times": ""}


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (np.array([1, 2, 3]), "expected int64 of shape \\(4,\\)"),
        (np.array([1.0, 2, 3, 4]), "times are float64"),
        (np.array([1, 2, 4, 3]), "fall inside 1 sequences, first in row 1"),
    ],
)
def test_times_are_checked_at_the_boundary(times: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        replace(corpus([[1, 2], [3, 4]]), times=times)
    # Falling from one user to the next is no fault.
    corpus([[1, 2], [3, 4]], [[5, 6], [1, 2]])


@given(st.lists(st.lists(st.integers(0, 9), max_size=7), min_size=5, max_size=12), st.integers(0, 3))
def test_nothing_that_learns_meets_a_cold_item(lists: list[list[int]], seed: int) -> None:
    protocol = ColdStart(share=0.3, seed=seed)
    try:
        s = protocol.split(corpus(lists))
    except DataError:
        assume(False)
    whole = leave_one_out(corpus(lists))
    cold = set(s.cold.tolist())
    assert len(cold) == 3
    assert sorted(cold | set(s.warm.tolist())) == list(range(10))
    warm_only = [[i for i in r.tolist() if i not in cold] for r in whole.train]
    assert [r.tolist() for r in s.train] == warm_only
    assert not cold & {*s.valid.items.tolist(), *s.valid.histories.items.tolist()}
    keep = [
        u
        for u, i in zip(whole.valid.users.tolist(), whole.valid.items.tolist(), strict=True)
        if i not in cold
    ]
    assert s.valid.users.tolist() == keep
    # The test is the whole one: cold items are asked for, and known by then.
    assert s.test.items.tolist() == whole.test.items.tolist()
    assert s.test.histories.items.tolist() == whole.test.histories.items.tolist()
    assert s.params == {"share": 0.3, "seed": seed}


def test_a_test_that_asks_for_no_cold_item_is_refused() -> None:
    data = corpus([[0, 1, 2]] * 3)
    seed = next(s for s in range(99) if 2 not in ColdStart(seed=s)._draw(data.item_ids))
    with pytest.raises(DataError, match=r"of 1 cold items 0 are test targets.*cold-start.share \(now 0.05\)"):
        ColdStart(seed=seed).split(data)


def test_which_items_are_cold_follows_from_ids_and_seed_alone() -> None:
    lists = [[u % 10, (u + 3) % 10, (u + 5) % 10, (u + 7) % 10] for u in range(40)]
    one = corpus(lists, item_ids=np.array([f"i{i}" for i in range(10)]))
    names = one.item_ids[ColdStart(share=0.3).split(one).cold]
    order = np.random.default_rng(0).permutation(10)
    back = np.argsort(order)
    moved = corpus(
        [[int(back[i]) for i in row] for row in lists],
        item_ids=one.item_ids[order],
        embeddings=np.arange(20, dtype=np.float32).reshape(10, 2),
    )
    assert set(moved.item_ids[ColdStart(share=0.3).split(moved).cold]) == set(names)
    drawn = {tuple(ColdStart(share=0.3, seed=s).split(one).cold.tolist()) for s in range(8)}
    assert len(drawn) > 4


def test_every_protocol_explains_itself() -> None:
    for name, cls in PROTOCOLS.items():
        assert cls.name == name
        assert cls.summary().endswith(".")
        assert all(said for _, said in parameter_docs(cls).values())


def test_a_parameter_that_there_is_not_is_named() -> None:
    with pytest.raises(UsageError, match="cold-start has no parameter 'shares'; did you mean 'share'"):
        make_protocol("cold-start", {"shares": 0.1})


def published(train: list[list[int]], valid: list[Any], test: list[Any]) -> Published:
    """Rows as somebody published them: (user, history, target)."""

    def targets(rows: list[Any]) -> Targets:
        users, histories, items = zip(*rows, strict=True) if rows else ((), (), ())
        return Targets(np.array(users, np.int64), Sequences.of(histories), np.array(items, np.int32))

    return Published(Sequences.of(train), targets(valid), targets(test))


SPLIT = published([[1, 2], [5]], [(0, [2], 3)], [(0, [2, 3], 4), (1, [5], 6), (0, [4], 1)])


def test_a_published_split_is_kept_as_it_is() -> None:
    made = split(corpus([[1, 2, 3, 4, 1], [5, 6]], published=SPLIT), "published")
    assert [r.tolist() for r in made.train] == [[1, 2], [5]]
    assert made.test.users.tolist() == [0, 1, 0]
    assert [r.tolist() for r in made.test.histories] == [[2, 3], [5], [4]]
    assert made.test.items.tolist() == [4, 6, 1]
    assert made.valid.items.tolist() == [3]
    assert made.notes == (
        "1 published rows select, 3 test; 66.7% of the test targets name an item that no training sequence "
        "holds",
    )


def test_a_published_split_follows_the_items_when_they_are_permuted() -> None:
    before = corpus([[1, 2, 3, 4, 1], [5, 6]], published=SPLIT, embeddings=np.eye(10, dtype=np.float32))
    after = before.permuted()
    one, two = split(before, "published"), split(after, "published")
    assert two.test.items.tolist() != one.test.items.tolist()
    for a, b in ((one.test, two.test), (one.valid, two.valid)):
        assert before.item_ids[a.items].tolist() == after.item_ids[b.items].tolist()
        assert (before.item_ids[a.histories.items] == after.item_ids[b.histories.items]).all()
    other = split(corpus([[1, 2]], published=published([[1]], [(0, [1], 2)], [(0, [1], 3)])), "published")
    assert one.params["rows"] != other.params["rows"]


def test_a_published_split_must_be_there_and_whole() -> None:
    with pytest.raises(DataError, match="brings no split of its own"):
        split(corpus([[1, 2, 3]]), "published")
    nothing = published([[1], [2]], [], [(0, [1], 2)])
    with pytest.raises(DataError, match="without rows that select"):
        split(corpus([[1], [2]], published=nothing), "published")
    with pytest.raises(DataError, match=r"names items outside 0\.\.9"):
        corpus([[1], [2]], published=published([[1], [2]], [(0, [1], 2)], [(0, [1], 12)]))
    with pytest.raises(DataError, match=r"names users outside 0\.\.1"):
        corpus([[1], [2]], published=published([[1], [2]], [(0, [1], 2)], [(2, [1], 1)]))
    with pytest.raises(DataError, match="trains on 1 rows for 2 users"):
        corpus([[1], [2]], published=published([[1]], [(0, [1], 2)], [(0, [1], 1)]))
