"""Prepare: the steps papers take before they split a log; each says how many events it dropped and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sidbench.dataset import Sequences
from sidbench.errors import DataError, UsageError
from sidbench.progress import report

Mask = NDArray[np.bool_]
Kept = Literal["keep", "first", "last"]


@dataclass(frozen=True, eq=False)
class Log:
    """Who did what and when: row e is item `items[e]` by user `users[e]`; both number the ids beside them."""

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    #: Whole seconds.
    times: NDArray[np.int64]
    user_ids: pa.Array
    item_ids: pa.Array
    ratings: NDArray[np.float32] | None = None
    #: What was dropped on the way, for people.
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, users: Any, items: Any, times: Any, ratings: Any = None) -> Log:
        """From columns of ids (integers or text), seconds and perhaps ratings, in the order of a file."""
        user, user_ids = numbered(users)
        item, item_ids = numbered(items)
        log = cls(
            user,
            item,
            numpy_of(times).astype(np.int64, copy=False),
            user_ids,
            item_ids,
            None if ratings is None else numpy_of(ratings).astype(np.float32, copy=False),
        )
        lengths = {len(log.users), len(log.items), len(log.times)}
        if len(lengths) > 1 or (log.ratings is not None and len(log.ratings) not in lengths):
            raise DataError(f"columns of a log are unequally long: {sorted(lengths)}")
        return log

    def __len__(self) -> int:
        return len(self.users)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Users and items that occur, and events."""
        return (
            int((np.bincount(self.users, minlength=1) > 0).sum()),
            int((np.bincount(self.items, minlength=1) > 0).sum()),
            len(self),
        )

    def noted(self, note: str) -> Log:
        """The same with another note."""
        return replace(self, notes=(*self.notes, note))

    def keep(self, kept: Mask, why: str) -> Log:
        """Only these events; why the others went is noted, with their number."""
        dropped = len(kept) - int(kept.sum())
        if not dropped:
            return self
        return replace(
            self,
            users=self.users[kept],
            items=self.items[kept],
            times=self.times[kept],
            ratings=None if self.ratings is None else self.ratings[kept],
            notes=(*self.notes, f"{dropped:,} of {len(kept):,} events dropped: {why}"),
        )

    def within(self, start: str, end: str) -> Log:
        """Events from one moment to another, both included (ISO dates in UTC; empty: no bound)."""
        kept = np.ones(len(self), dtype=bool)
        if start:
            kept &= self.times >= seconds_of(start)
        if end:
            kept &= self.times <= seconds_of(end)
        return self.keep(kept, f"not from {start or 'the beginning'} to {end or 'the end'}")

    def rated(self, least: float) -> Log:
        """Events with at least this rating; 0 keeps all."""
        if not least:
            return self
        if self.ratings is None:
            raise UsageError(f"rating = {least} needs ratings, and this log has none; leave rating = 0")
        return self.keep(self.ratings >= least, f"rated below {least:g}")

    def about(self, known: Mask, why: str) -> Log:
        """Events whose item is one of these (one of `item_ids` each)."""
        return self.keep(known[self.items], why)

    def ordered(self) -> Log:
        """Users together, each by time; equal times stay in the order of the file."""
        same = self.users[1:] == self.users[:-1]
        if (self.users[1:] >= self.users[:-1]).all() and not (
            same & (self.times[1:] < self.times[:-1])
        ).any():
            return self
        report("sort by user and time", 0, 1)
        order = by_user_and_time(self.users, self.times)
        return replace(
            self,
            users=self.users[order],
            items=self.items[order],
            times=self.times[order],
            ratings=None if self.ratings is None else self.ratings[order],
        )

    def once(self, which: Kept) -> Log:
        """Of a user's events with one item the first or the last in time; of an ordered log."""
        if which == "keep":
            return self
        pair = self.users.astype(np.int64) * max(len(self.item_ids), 1) + self.items
        order = np.argsort(pair, kind="stable")
        sorted_pair = pair[order]
        differs = sorted_pair[1:] != sorted_pair[:-1]
        edge = np.append(True, differs) if which == "first" else np.append(differs, True)
        kept = np.zeros(len(self), dtype=bool)
        kept[order[edge] if len(self) else order] = True
        return self.keep(kept, f"repeats of a user's item (the {which} stays)")

    def core(self, users: int, items: int) -> Log:
        """The largest part in which every user has `users` events and every item `items`; 1 asks for none.

        One pass can take others below the number, so it is repeated until nothing goes. What remains does
        not depend on the order of the passes.
        """
        log, passes = self, 0
        while len(log):
            kept = np.ones(len(log), dtype=bool)
            if users > 1:
                kept &= (np.bincount(log.users) >= users)[log.users]
            if items > 1:
                kept &= (np.bincount(log.items) >= items)[log.items]
            if kept.all():
                break
            passes += 1
            log = log.keep(kept, "")
            report("k-core", len(self) - len(log), len(self), passes=passes)
        if not passes:
            return self
        asked = [f"{n} events {who}" for n, who in ((users, "a user"), (items, "an item")) if n > 1]
        before, after = self.counts, log.counts
        said = f"{passes} pass" if passes == 1 else f"{passes} passes"
        note = (
            f"{len(self) - len(log):,} of {len(self):,} events dropped: fewer than {' or '.join(asked)} "
            f"({said}; {before[0] - after[0]:,} users and {before[1] - after[1]:,} items went)"
        )
        return replace(log, notes=(*self.notes, note))

    def sequences(self) -> Prepared:
        """What a corpus holds of it: users and items that still occur."""
        log = self.ordered()
        user = np.bincount(log.users, minlength=1) > 0
        item = np.bincount(log.items, minlength=1) > 0
        if not len(log):
            raise DataError("no event is left: " + ("; ".join(self.notes) or "the log is empty"))
        number = np.cumsum(item, dtype=np.int64) - 1
        lengths = np.bincount(log.users)[np.flatnonzero(user)]
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return Prepared(
            sequences=Sequences(number[log.items].astype(np.int32), offsets),
            times=log.times,
            user_ids=log.user_ids.take(pa.array(np.flatnonzero(user))),
            item_ids=log.item_ids.take(pa.array(np.flatnonzero(item))),
            notes=self.notes + tied(log),
        )


@dataclass(frozen=True, eq=False)
class Prepared:
    """Sequences with their times; rows and items are the ids beside them."""

    sequences: Sequences
    times: NDArray[np.int64]
    user_ids: pa.Array
    item_ids: pa.Array
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Steps:
    """What is done with a log before it is split, in this order."""

    start: str = ""
    end: str = ""
    rating: float = 0.0
    repeats: Kept = "keep"
    user_core: int = 1
    item_core: int = 1
    #: Users with fewer events go, when all else is done.
    shortest: int = 1

    def __call__(self, log: Log, known: Callable[[Log], tuple[Mask, str] | None] | None = None) -> Log:
        """The log after all steps; `known` says which items may stay (those with a title), and why not."""
        log = log.within(self.start, self.end).rated(self.rating)
        if known is not None and (found := known(log)) is not None:
            log = log.about(*found)
        return log.ordered().once(self.repeats).core(self.user_core, self.item_core).core(self.shortest, 1)


def by_user_and_time(users: NDArray[np.int32], times: NDArray[np.int64]) -> NDArray[np.int64]:
    """The stable order of the two; as one number, where they fit into one, ten times as fast."""
    first, last = int(times.min()), int(times.max())
    span = last - first + 1
    if (int(users.max()) + 1) * span >= 2**63:
        return np.lexsort((times, users))
    return np.argsort(users.astype(np.int64) * span + (times - first), kind="stable")


def tied(log: Log) -> tuple[str, ...]:
    """Where times leave the order open, and so that of the file decides."""
    same = (log.users[1:] == log.users[:-1]) & (log.times[1:] == log.times[:-1])
    if not same.any():
        return ()
    is_last = np.append(log.users[1:] != log.users[:-1], True)[1:]
    return (
        f"{same.sum():,} of {len(same):,} neighbouring events share user and timestamp, and "
        f"{(same & is_last).sum():,} users' last two do; inside a tie the order is that of the file",
    )


def numbered(ids: Any) -> tuple[NDArray[np.int32], pa.Array]:
    """Ids as numbers in order of first appearance, and the distinct ids."""
    array = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids)
    if array.null_count:
        raise DataError(f"{array.null_count:,} of {len(array):,} ids of users or items are empty")
    if not len(array):
        return np.zeros(0, np.int32), pa.array([], array.type)
    chunks = pa.chunked_array([array]) if isinstance(array, pa.Array) else array
    encoded = chunks.dictionary_encode().unify_dictionaries()
    if _has_blank(encoded.chunk(0).dictionary):
        raise DataError("some ids of users or items are empty text; repair or leave out such events")
    parts = [np.asarray(c.indices) for c in encoded.chunks if len(c)]
    return np.concatenate(parts).astype(np.int32, copy=False), encoded.chunk(0).dictionary


def _has_blank(ids: pa.Array) -> bool:
    return not pa.types.is_integer(ids.type) and pc.index(ids, "").as_py() >= 0


def numpy_of(column: Any) -> NDArray[Any]:
    """A column of numbers, without gaps."""
    if isinstance(column, pa.Array | pa.ChunkedArray):
        if column.null_count:
            raise DataError(f"{column.null_count:,} of {len(column):,} times or ratings are empty")
        column = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(False)
    return np.asarray(column)


def seconds_of(moment: str) -> int:
    """Seconds of Unix time of an ISO date or moment, which is taken for UTC where it names no zone."""
    try:
        when = datetime.fromisoformat(moment)
    except ValueError:
        raise UsageError(f"{moment!r} is no date; expected one such as 2016-10-01") from None
    return int((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp())


def rows_in(ids: pa.Array, known: pa.Array) -> Mask:
    """Which of these ids are known."""
    return np.asarray(pc.is_in(ids, value_set=known.cast(ids.type)))
