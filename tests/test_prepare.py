"""Laws of the steps before a split: k-core, windows, ratings, repeats, newest events; nothing goes untold."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.errors import DataError, UsageError
from sidbench.prepare import Log, Steps, by_user_and_time, seconds_of

Event = tuple[int, int, int, int]


def log_of(events: list[Event]) -> Log:
    users, items, times, ratings = (list(c) for c in zip(*events, strict=True)) if events else ([],) * 4
    return Log.of(
        pa.array([f"u{u}" for u in users], pa.string()),
        pa.array(items, pa.int64()),
        np.array(times, np.int64),
        np.array(ratings, np.float32),
    )


def events_of(log: Log) -> list[Event]:
    users, items = log.user_ids.take(pa.array(log.users)), log.item_ids.take(pa.array(log.items))
    assert log.ratings is not None
    rows = zip(users.to_pylist(), items.to_pylist(), log.times.tolist(), log.ratings.tolist(), strict=True)
    return [(int(u[1:]), i, t, int(r)) for u, i, t, r in rows]


logs = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(-20, 20), st.integers(1, 5)), max_size=80
)


def slow_core(events: list[Event], users: int, items: int) -> list[Event]:
    """One event at a time, in another order than the one under test."""
    while True:
        for e in reversed(events):
            of_user = sum(u == e[0] for u, *_ in events)
            of_item = sum(i == e[1] for _, i, *_ in events)
            if of_user < users or of_item < items:
                events = [x for x in events if x is not e]
                break
        else:
            return events


@settings(max_examples=40, deadline=None)
@given(logs, st.integers(1, 4), st.integers(1, 4))
def test_the_core_is_the_largest_that_holds(events: list[Event], users: int, items: int) -> None:
    log = log_of(events)
    found = log.core(users, items)
    assert events_of(found) == slow_core(events_of(log), users, items)
    assert events_of(found.core(users, items)) == events_of(found)
    assert len(found.core(users, items).notes) == len(found.notes)
    # Smaller numbers first change nothing.
    assert events_of(log.core(max(1, users - 1), items).core(users, items)) == events_of(found)


@settings(max_examples=60, deadline=None)
@given(logs)
def test_order_is_by_user_and_time_and_ties_stay(events: list[Event]) -> None:
    log = log_of(events)
    numbers = {u: n for n, u in enumerate(dict.fromkeys(u for u, *_ in events))}
    assert events_of(log.ordered()) == sorted(events, key=lambda e: (numbers[e[0]], e[2]))
    ordered = log.ordered()
    assert ordered.ordered() is ordered


@settings(max_examples=60, deadline=None)
@given(logs)
def test_of_repeats_one_stays(events: list[Event]) -> None:
    log = log_of(events).ordered()
    whole = events_of(log)
    first = [e for n, e in enumerate(whole) if e[:2] not in [x[:2] for x in whole[:n]]]
    last = [e for n, e in enumerate(whole) if e[:2] not in [x[:2] for x in whole[n + 1 :]]]
    assert events_of(log.once("first")) == first
    assert events_of(log.once("last")) == last
    assert log.once("keep") is log


def test_windows_include_both_ends_and_ratings_their_number() -> None:
    day = seconds_of("2016-10-01")
    log = log_of([(0, n, day + n - 1, n) for n in range(5)])
    assert [e[1] for e in events_of(log.within("2016-10-01", ""))] == [1, 2, 3, 4]
    assert [e[1] for e in events_of(log.within("", "2016-10-01T00:00:01"))] == [0, 1, 2]
    assert [e[1] for e in events_of(log.rated(3))] == [3, 4]
    assert log.rated(0) is log
    with pytest.raises(UsageError, match="needs ratings"):
        Log.of(["a"], [1], np.zeros(1)).rated(3)
    with pytest.raises(UsageError, match="'soon' is no date"):
        log.within("soon", "")


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [("1970-01-02", 86_400), ("2018-11-01T00:00:00+00:00", 1_541_030_400), ("1970-01-01T01:00:00+01:00", 0)],
)
def test_dates_without_a_zone_are_utc(moment: str, seconds: int) -> None:
    assert seconds_of(moment) == seconds


def test_everything_dropped_is_noted_and_nothing_else() -> None:
    log = log_of([(u, i, t, 5) for t, (u, i) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 7)])])
    assert Steps()(log).notes == ()
    steps = Steps(start="1970-01-01T00:00:01", user_core=2, item_core=2, rating=1)
    found = steps(log)
    assert found.notes == (
        "1 of 5 events dropped: not from 1970-01-01T00:00:01 to the end",
        "4 of 4 events dropped: fewer than 2 events a user or 2 events an item "
        "(2 passes; 3 users and 3 items went)",
    )
    with pytest.raises(DataError, match=r"no event is left: .*not from"):
        found.sequences()


def test_what_the_catalogue_says_decides_before_the_core() -> None:
    log = log_of([(0, 0, 0, 1), (0, 1, 1, 1), (1, 0, 0, 1), (1, 1, 1, 1)])
    found = Steps(user_core=2)(log, lambda log: (np.asarray(log.item_ids) != 1, "no title"))
    assert len(found) == 0
    assert "2 of 4 events dropped: no title" in found.notes[0]


def test_sequences_number_what_is_left() -> None:
    log = log_of([(3, 9, 5, 1), (3, 7, 2, 1), (1, 9, 1, 1), (5, 8, 3, 1)]).ordered()
    prepared = log.sequences()
    assert prepared.user_ids.to_pylist() == ["u3", "u1", "u5"]
    assert prepared.item_ids.to_pylist() == [9, 7, 8]
    assert [list(r) for r in prepared.sequences] == [[1, 0], [0], [2]]
    assert prepared.times.tolist() == [2, 5, 1, 3]
    late = log.within("1970-01-01T00:00:03", "").sequences()
    assert late.item_ids.to_pylist() == [9, 8]
    assert [list(r) for r in late.sequences] == [[0], [1]]


def test_equal_times_are_told() -> None:
    prepared = log_of([(0, 1, 5, 1), (0, 2, 5, 1), (1, 1, 5, 1), (1, 2, 6, 1)]).sequences()
    assert (
        "1 of 3 neighbouring events share user and timestamp, and 1 users' last two do" in prepared.notes[0]
    )


def test_times_too_far_apart_for_one_number_are_ordered_alike() -> None:
    users = np.array([1, 0, 1, 0], np.int32)
    times = np.array([2**61, 5, -(2**61), 4], np.int64)
    assert by_user_and_time(users, times).tolist() == [3, 1, 2, 0]


def test_ids_in_pieces_are_numbered_as_one() -> None:
    users = pa.chunked_array([["a", "b"], [], ["b", "c"], ["a"]])
    log = Log.of(users, pa.chunked_array([[1, 2, 3, 4, 5]]), np.arange(5))
    assert log.users.tolist() == [0, 1, 1, 2, 0]
    assert log.user_ids.to_pylist() == ["a", "b", "c"]
    assert Log.of([], [], []).counts == (0, 0, 0)


@pytest.mark.parametrize("broken", ["users", "times", "length"])
def test_gaps_and_lengths_are_refused(broken: str) -> None:
    users = pa.array(["a", None if broken == "users" else "b"])
    times = pa.array([1, None if broken == "times" else 2])
    with pytest.raises(DataError):
        Log.of(users, pa.array([1, 2, 3] if broken == "length" else [1, 2]), times)


def test_beauty_is_its_own_core() -> None:
    """The published 5-core of real reviews: nothing more goes."""
    folder = Path(os.environ.get("SIDBENCH_DATA", "")) / "amazon-beauty-2014"
    if not os.environ.get("SIDBENCH_DATA") or not folder.is_dir():
        pytest.skip("SIDBENCH_DATA names no folder with amazon-beauty-2014")
    table = pq.read_table(folder / "sequences.parquet")
    lists = table.column("items").combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    users = np.repeat(table.column("user").to_numpy(), lengths)
    items = lists.flatten()
    at = np.arange(len(items))  # the order of the file stands for time
    log = Log.of(users, items, at)
    assert log.counts == (22_363, 12_101, 198_502)
    done = Steps(user_core=5, item_core=5, repeats="first", shortest=3)(log)
    assert done.notes == ()
    assert done.counts == log.counts
    prepared = done.sequences()
    assert np.array_equal(prepared.sequences.lengths, lengths)
    # Of a part of it something goes, and what is left holds again.
    part = log.keep(at % 3 > 0, "every third").core(5, 5)
    assert 0 < len(part) < len(log)
    assert np.bincount(part.users)[np.unique(part.users)].min() >= 5
    assert np.bincount(part.items)[np.unique(part.items)].min() >= 5
